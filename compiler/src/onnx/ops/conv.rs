//! Convolutions; a bias becomes an Add.

use crate::ir::Value;
use crate::ir::types::text;
use crate::onnx::call::{Call, Results, one};
use crate::ops::{Conv, ConvTranspose};
use bakelite_host::Pw;
use bakelite_host::problem::{Layout, Math};
use bakelite_kernels::Dim;

/// Sizes of the dimensions after batch and channels.
pub(super) fn spatial(c: &Call<'_>, x: Value) -> Result<Vec<Dim>, String> {
    let shape = c.shape(x);
    match shape.get(2..) {
        Some(sizes) if !sizes.is_empty() => Ok(sizes.to_vec()),
        _ => Err(format!("expected at least 3 dimensions, got {}", text(&shape))),
    }
}

/// How a window moves over the spatial dimensions.
pub(super) struct Window {
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) pads: Vec<usize>,
    pub(super) pads_end: Vec<usize>,
}

impl Window {
    /// From the attributes `strides`, `dilations`, `pads` and `auto_pad`.
    pub(super) fn of(c: &Call<'_>, sizes: &[Dim], kernel: &[usize]) -> Result<Window, String> {
        let n = sizes.len();
        let a = c.attributes();
        let (strides, dilations) = (a.sizes("strides", n, 1)?, a.sizes("dilations", n, 1)?);
        let (mut pads, mut pads_end) = (vec![0; n], vec![0; n]);
        match a.text("auto_pad", "NOTSET")? {
            "NOTSET" => {
                let all = a.sizes("pads", 2 * n, 0)?;
                pads.copy_from_slice(&all[..n]);
                pads_end.copy_from_slice(&all[n..]);
            }
            "VALID" => {}
            mode @ ("SAME_UPPER" | "SAME_LOWER") => {
                for d in 0..n {
                    let total = same(&sizes[d], kernel[d], strides[d], dilations[d])?;
                    let (less, more) = (total / 2, total - total / 2);
                    (pads[d], pads_end[d]) = if mode == "SAME_UPPER" { (less, more) } else { (more, less) };
                }
            }
            other => return Err(format!("attribute `auto_pad` is \"{other}\"")),
        }
        Ok(Window { strides, dilations, pads, pads_end })
    }
}

/// The padding with which there are `⌈size / stride⌉` windows.
fn same(size: &Dim, kernel: usize, stride: usize, dilation: usize) -> Result<usize, String> {
    let extent = kernel.saturating_sub(1).saturating_mul(dilation).saturating_add(1);
    if stride == 1 {
        return Ok(extent - 1);
    }
    let known = size.as_const().and_then(|s| usize::try_from(s).ok());
    let size = known.ok_or_else(|| {
        format!("padding to the same size needs a size known at compile time, got `{size}`")
    })?;
    let windows = size.div_ceil(stride.max(1));
    Ok((windows.saturating_sub(1).saturating_mul(stride).saturating_add(extent)).saturating_sub(size))
}

/// Sizes of a weight's kernel, which must be known and agree with `kernel_shape`.
fn kernel(c: &Call<'_>, w: Value, n: usize) -> Result<Vec<usize>, String> {
    let shape = c.shape(w);
    let sizes = shape
        .get(2..)
        .filter(|k| k.len() == n)
        .ok_or_else(|| format!("the weight {} does not fit {n} spatial dimensions", c.ty(w)))?;
    let known: Option<Vec<usize>> =
        sizes.iter().map(|k| usize::try_from(k.as_const()?).ok().filter(|k| *k < 1 << 31)).collect();
    let known = known.ok_or_else(|| {
        format!("the kernel's size must be known at compile time, but the weight is {}", c.ty(w))
    })?;
    if c.attributes().has("kernel_shape") {
        let stated = c.attributes().sizes("kernel_shape", n, 1)?;
        if stated != known {
            return Err(format!(
                "attribute `kernel_shape` is {stated:?}, but the weight's kernel is {known:?}"
            ));
        }
    }
    Ok(known)
}

fn groups(c: &Call<'_>) -> Result<usize, String> {
    let group = c.attributes().int("group", 1)?;
    usize::try_from(group).ok().filter(|g| *g > 0).ok_or_else(|| format!("attribute `group` is {group}"))
}

fn biased(c: &mut Call<'_>, y: Value) -> Results {
    let Some(bias) = c.optional(2)? else { return one(y) };
    let channels = c.shape(y)[1].clone();
    if c.ty(bias).shape != [channels.clone()] {
        return Err(format!(
            "the bias {} does not have one element for each of {channels} channels",
            c.ty(bias)
        ));
    }
    let bias = c.per_channel(bias, c.rank(y))?;
    one(c.pw(Pw::Add, &[y, bias])?)
}

pub(super) fn conv(c: &mut Call<'_>) -> Results {
    let (x, w) = (c.value(0)?, c.value(1)?);
    if !c.dtype(x).is_float() {
        return Err(format!("expected a floating-point operand, got {}", c.ty(x)));
    }
    let y = convolve(c, x, w)?;
    biased(c, y)
}

/// The convolution of `x` by `w` that the node's attributes say, without a bias.
pub(super) fn convolve(c: &mut Call<'_>, x: Value, w: Value) -> Result<Value, String> {
    let sizes = spatial(c, x)?;
    let kernel = kernel(c, w, sizes.len())?;
    let Window { strides, dilations, pads, pads_end } = Window::of(c, &sizes, &kernel)?;
    let groups = groups(c)?;
    let op =
        Conv { strides, dilations, pads, pads_end, groups, layout: Layout::ChannelsFirst, math: Math::Exact };
    c.add(op, &[x, w])
}

pub(super) fn conv_transpose(c: &mut Call<'_>) -> Results {
    let (x, w) = (c.value(0)?, c.value(1)?);
    let sizes = spatial(c, x)?;
    let n = sizes.len();
    let kernel = kernel(c, w, n)?;
    let groups = groups(c)?;
    let a = c.attributes();
    let (strides, dilations) = (a.sizes("strides", n, 1)?, a.sizes("dilations", n, 1)?);
    let mut output_padding = a.sizes("output_padding", n, 0)?;
    let (mut pads, mut pads_end) = (vec![0; n], vec![0; n]);
    let mode = a.text("auto_pad", "NOTSET")?;
    let wanted: Option<Vec<Dim>> = if a.has("output_shape") {
        // Some files list batch and channels too.
        let all = a.need_ints("output_shape")?;
        let own = all.len().checked_sub(n).and_then(|skip| all.get(skip..));
        let own =
            own.ok_or_else(|| format!("attribute `output_shape` is {all:?} for {n} spatial dimensions"))?;
        Some(own.iter().map(|s| Dim::from(*s)).collect())
    } else if mode.starts_with("SAME") {
        Some((0..n).map(|d| &sizes[d] * &Dim::from(strides[d])).collect())
    } else {
        None
    };
    match (wanted, mode) {
        (Some(wanted), _) => {
            for d in 0..n {
                let extent = kernel[d].saturating_sub(1).saturating_mul(dilations[d]).saturating_add(1);
                let full = Dim::from(strides[d]) * (&sizes[d] - Dim::from(1))
                    + Dim::from(extent + output_padding[d]);
                let total = (&full - &wanted[d]).as_const();
                let total = total.ok_or_else(|| {
                    format!("the padding from {full} to {} elements is not known at compile time", wanted[d])
                })?;
                // Where the windows do not reach the wanted size, the rest is empty.
                if let Ok(missing) = usize::try_from(total.saturating_neg()) {
                    output_padding[d] += missing;
                }
                let total = usize::try_from(total).unwrap_or(0);
                let (less, more) = (total / 2, total - total / 2);
                (pads[d], pads_end[d]) = if mode == "SAME_UPPER" { (less, more) } else { (more, less) };
            }
        }
        (None, "NOTSET") => {
            let all = a.sizes("pads", 2 * n, 0)?;
            pads.copy_from_slice(&all[..n]);
            pads_end.copy_from_slice(&all[n..]);
        }
        (None, "VALID") => {}
        (None, other) => return Err(format!("attribute `auto_pad` is \"{other}\"")),
    }
    let layout = Layout::ChannelsFirst;
    let y =
        c.add(ConvTranspose { strides, dilations, pads, pads_end, output_padding, groups, layout }, &[x, w])?;
    biased(c, y)
}
