//! Convolution (cross-correlation, as in ONNX Conv) over any number of spatial dimensions, without bias: a bias is an Add.

use super::{Operator, Problem, Role, Type, expect_inputs, expect_same_dtype, known};
use bakelite_host::problem::{self, Epilogue, Layout, Math};
use bakelite_host::DType;
use bakelite_kernels::Dim;

op! {
    /// `x` in `layout`, `w` `[filters, channels / groups, kernel...]`; padding reads zero. The mathematics is
    /// [`problem::Conv`]'s.
    Conv "conv" {
        /// Step of the window.
        strides: Vec<usize>,
        /// Distance between taps.
        dilations: Vec<usize>,
        /// Padding before each spatial dimension.
        pads: Vec<usize>,
        /// Padding after each spatial dimension.
        pads_end: Vec<usize>,
        /// Independent groups of channels.
        groups: usize,
        /// Layout of `x` and the result.
        layout: Layout,
        /// Arithmetic for f32 operands.
        math: Math,
    }
}

/// Position of the channels and of the first spatial dimension in a layout.
pub(super) fn axes(layout: Layout, rank: usize) -> (usize, usize) {
    match layout {
        Layout::ChannelsFirst => (1, 2),
        Layout::ChannelsLast => (rank - 1, 1),
    }
}

/// The shape in `layout` of batch, channels and spatial sizes.
pub(super) fn arrange(layout: Layout, n: &Dim, channels: Dim, spatial: Vec<Dim>) -> Vec<Dim> {
    let mut shape = vec![n.clone()];
    match layout {
        Layout::ChannelsFirst => {
            shape.push(channels);
            shape.extend(spatial);
        }
        Layout::ChannelsLast => {
            shape.extend(spatial);
            shape.push(channels);
        }
    }
    shape
}

/// `Err` unless every list of spatial attributes has one entry for each spatial dimension.
pub(super) fn expect_spatial(rank: usize, lists: &[(&str, usize)]) -> Result<usize, String> {
    let spatial = rank.checked_sub(2).filter(|s| *s > 0).ok_or(format!("expected at least 3 dimensions, got {rank}"))?;
    match lists.iter().find(|(_, len)| *len != spatial) {
        Some((name, len)) => Err(format!("{len} {name} for {spatial} spatial dimensions")),
        None => Ok(spatial),
    }
}

impl Operator for Conv {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 2, 2)?;
        let [x, w] = inputs else { return Err("expected x and w".into()) };
        if !x.dtype.is_float() && !matches!(x.dtype, DType::I32 | DType::I64) {
            return Err(format!("expected floating-point numbers or wide integers, got {x}"));
        }
        expect_same_dtype(("x", x), ("w", w))?;
        if x.rank() != w.rank() {
            return Err(format!("x {x} and w {w} differ in rank"));
        }
        let lists = [
            ("strides", self.strides.len()),
            ("dilations", self.dilations.len()),
            ("pads", self.pads.len()),
            ("pads_end", self.pads_end.len()),
        ];
        let spatial = expect_spatial(x.rank(), &lists)?;
        let (c, s) = axes(self.layout, x.rank());
        let (channels, filters) = (known(&x.shape[c], "the number of channels")?, known(&w.shape[0], "the number of filters")?);
        let per_group = known(&w.shape[1], "the weight's channels")?;
        if self.groups == 0 || filters % self.groups != 0 || per_group.checked_mul(self.groups) != Some(channels) {
            return Err(format!(
                "x has {channels} channels, but w {w} in {} groups takes {}",
                self.groups,
                per_group.saturating_mul(self.groups)
            ));
        }
        let mut out = Vec::new();
        for d in 0..spatial {
            let kernel = known(&w.shape[2 + d], "the kernel")?;
            if self.strides[d] == 0 || self.dilations[d] == 0 || kernel == 0 {
                return Err(format!("stride, dilation and kernel of dimension {d} must be at least 1"));
            }
            out.push(window_count(&x.shape[s + d], kernel, self.strides[d], self.dilations[d], self.pads[d] + self.pads_end[d], false)?);
        }
        Ok(vec![Type { dtype: x.dtype, shape: arrange(self.layout, &x.shape[0], Dim::from(filters), out) }])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let (x, w) = (inputs[0], inputs[1]);
        let (c, s) = axes(self.layout, x.rank());
        let spatial = x.rank() - 2;
        Ok(problem::Conv {
            n: x.shape[0].clone(),
            channels: known(&x.shape[c], "the number of channels")?,
            filters: known(&w.shape[0], "the number of filters")?,
            groups: self.groups,
            input: x.shape[s..s + spatial].to_vec(),
            output: outputs[0].shape[s..s + spatial].to_vec(),
            kernel: w.shape[2..].iter().map(|k| known(k, "the kernel")).collect::<Result<_, _>>()?,
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            layout: self.layout,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype: x.dtype,
            math: self.math,
            epilogue: Epilogue::store(x.dtype),
        }
        .into())
    }
}

/// How many window positions fit: `⌊(size + pads − dilation·(kernel − 1) − 1) / stride⌋ + 1`, or with `ceil` rounded up.
pub(super) fn window_count(size: &Dim, kernel: usize, stride: usize, dilation: usize, pads: usize, ceil: bool) -> Result<Dim, String> {
    let extent = dilation.checked_mul(kernel - 1).and_then(|e| e.checked_add(1)).ok_or("the kernel's extent overflows")?;
    let room = size + Dim::from(pads) - Dim::from(extent);
    if room.as_const().is_some_and(|r| r < 0) {
        return Err(format!("a window of {extent} does not fit into {size} with {pads} of padding"));
    }
    let stride = Dim::from(stride);
    let steps = if ceil { room.ceil_div(&stride) } else { room.floor_div(&stride) };
    Ok(steps + Dim::from(1))
}
