//! Normalisations.

use super::conv::spatial;
use crate::ir::types::normalize_axis;
use crate::ir::{Tensor, Value};
use crate::onnx::call::{Call, Operand, Results, one};
use crate::ops::{GroupNorm, LayerNorm, Lrn, Reduce};
use bakelite_host::Pw;
use bakelite_host::problem::{Layout, ReduceKind};
use bakelite_kernels::Dim;

/// At inference one multiplication and one addition for each channel, whose factors are computed in f64 when constant.
pub(super) fn batch(c: &mut Call<'_>) -> Results {
    if c.attributes().flag("training_mode", false)? {
        return Err("training mode is not supported".into());
    }
    if c.opset() < 9 && !c.attributes().flag("spatial", true)? {
        return Err("attribute `spatial` = 0 is not supported".into());
    }
    let x = c.value(0)?;
    if c.rank(x) < 2 {
        return Err(format!("expected at least 2 dimensions, got {}", c.ty(x)));
    }
    let channels = c.shape(x)[1].clone();
    let mut parts = Vec::with_capacity(4);
    for (i, name) in ["scale", "bias", "mean", "variance"].into_iter().enumerate() {
        let part = c.value(i + 1)?;
        if c.ty(part).shape != [channels.clone()] {
            return Err(format!(
                "the {name} {} does not have one element for each of {channels} channels",
                c.ty(part)
            ));
        }
        parts.push(part);
    }
    let epsilon = f64::from(c.attributes().float("epsilon", 1e-5)?);
    let known: Option<Vec<Vec<f64>>> = parts.iter().map(|p| c.data(*p).map(Tensor::to_f64)).collect();
    let (factor, offset) = if let Some([scale, bias, mean, variance]) = known.as_deref() {
        let factor: Vec<f64> = scale.iter().zip(variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let offset: Vec<f64> = bias.iter().zip(mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        (c.vector(x, &factor)?, c.vector(x, &offset)?)
    } else {
        let [scale, bias, mean, variance] = parts[..] else { return Err("expected 5 operands".into()) };
        let wide = c.dtype(variance);
        let variance = c.pw_number(Pw::Add, variance, epsilon)?;
        let deviation = c.pw(Pw::Rsqrt, &[variance])?;
        let scale = c.cast(scale, wide)?;
        let factor = c.pw(Pw::Mul, &[scale, deviation])?;
        let mean = c.cast(mean, wide)?;
        let shift = c.pw(Pw::Mul, &[mean, factor])?;
        let bias = c.cast(bias, wide)?;
        let offset = c.pw(Pw::Sub, &[bias, shift])?;
        let to = c.dtype(x);
        (c.cast(factor, to)?, c.cast(offset, to)?)
    };
    let rank = c.rank(x);
    let (factor, offset) = (c.per_channel(factor, rank)?, c.per_channel(offset, rank)?);
    let scaled = c.pw(Pw::Mul, &[x, factor])?;
    one(c.pw(Pw::Add, &[scaled, offset])?)
}

/// Scale or bias for the dimensions of `x` from `axis` on, in its element type.
fn parameter(c: &mut Call<'_>, parameter: Value, x: Value, axis: usize) -> Result<Value, String> {
    let shape = c.shape(x)[axis..].to_vec();
    let parameter = c.cast(parameter, c.dtype(x))?;
    if c.ty(parameter).count() == bakelite_kernels::dim::product(&shape) {
        return Ok(parameter);
    }
    c.broadcast(parameter, shape)
}

fn layer_norm(
    c: &mut Call<'_>,
    x: Value,
    scale: Value,
    bias: Option<Value>,
    rms: bool,
    epsilon: f32,
) -> Result<Value, String> {
    let axis = c.axis("axis", -1, x)?;
    let mut operands = vec![x, parameter(c, scale, x, axis)?];
    if let Some(bias) = bias {
        operands.push(parameter(c, bias, x, axis)?);
    }
    c.add(LayerNorm { rms, axis, epsilon }, &operands)
}

pub(super) fn layer(c: &mut Call<'_>) -> Results {
    let (x, scale, bias) = (c.value(0)?, c.value(1)?, c.optional(2)?);
    let epsilon = c.attributes().float("epsilon", 1e-5)?;
    one(layer_norm(c, x, scale, bias, false, epsilon)?)
}

pub(super) fn rms(c: &mut Call<'_>) -> Results {
    let (x, scale) = (c.value(0)?, c.value(1)?);
    let epsilon = c.attributes().float("epsilon", 1e-5)?;
    one(layer_norm(c, x, scale, None, true, epsilon)?)
}

/// com.microsoft's sum of operand, skip and bias with a normalisation after it.
pub(super) fn skip_layer(c: &mut Call<'_>, rms: bool) -> Results {
    if c.node.outputs.iter().skip(1).take(2).any(|o| !o.is_empty()) {
        return Err("its mean and deviation as results are not supported".into());
    }
    let (x, skip, scale) = (c.value(0)?, c.value(1)?, c.value(2)?);
    let (shift, bias) = if rms { (None, c.optional(3)?) } else { (c.optional(3)?, c.optional(4)?) };
    let mut sum = c.pw(Pw::Add, &[x, skip])?;
    if let Some(bias) = bias {
        sum = c.pw(Pw::Add, &[sum, bias])?;
    }
    let epsilon = c.attributes().float("epsilon", 1e-12)?;
    let y: Operand = layer_norm(c, sum, scale, shift, rms, epsilon)?.into();
    // Results 1 and 2 are absent, as checked above.
    Ok(vec![y.clone(), y.clone(), y, sum.into()])
}

fn channels(c: &Call<'_>, x: Value) -> Result<usize, String> {
    let shape = c.shape(x);
    let size = shape.get(1).ok_or_else(|| format!("expected at least 2 dimensions, got {}", c.ty(x)))?;
    let known = size.as_const().and_then(|s| usize::try_from(s).ok());
    known.ok_or_else(|| format!("the number of channels must be known at compile time, but is `{size}`"))
}

pub(super) fn instance(c: &mut Call<'_>) -> Results {
    let (x, scale, bias) = (c.value(0)?, c.value(1)?, c.value(2)?);
    spatial(c, x)?;
    let groups = channels(c, x)?;
    let epsilon = c.attributes().float("epsilon", 1e-5)?;
    let (scale, bias) = (c.cast(scale, c.dtype(x))?, c.cast(bias, c.dtype(x))?);
    one(c.add(GroupNorm { groups, epsilon, layout: Layout::ChannelsFirst }, &[x, scale, bias])?)
}

/// Before opset 21 scale and bias have one element for each group.
pub(super) fn group(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let channels = channels(c, x)?;
    let groups = c.attributes().need_int("num_groups")?;
    let groups = usize::try_from(groups).ok().filter(|g| *g > 0 && channels % *g == 0);
    let groups =
        groups.ok_or_else(|| format!("{channels} channels do not divide into the attribute `num_groups`"))?;
    let epsilon = c.attributes().float("epsilon", 1e-5)?;
    let mut operands = vec![x];
    for i in [1, 2] {
        let mut part = c.value(i)?;
        part = c.cast(part, c.dtype(x))?;
        if c.opset() < 21 && c.ty(part).count().is(groups as i64) {
            let column = c.reshape(part, vec![Dim::from(groups), Dim::from(1)])?;
            let wide = c.broadcast(column, vec![Dim::from(groups), Dim::from(channels / groups)])?;
            part = c.reshape(wide, vec![Dim::from(channels)])?;
        }
        operands.push(part);
    }
    one(c.add(GroupNorm { groups, epsilon, layout: Layout::ChannelsFirst }, &operands)?)
}

pub(super) fn lrn(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let a = c.attributes();
    let size = a.need_int("size")?;
    let size = usize::try_from(size).map_err(|_| format!("attribute `size` is {size}"))?;
    let op = Lrn {
        size,
        alpha: a.float("alpha", 1e-4)?,
        beta: a.float("beta", 0.75)?,
        bias: a.float("bias", 1.0)?,
    };
    one(c.add(op, &[x])?)
}

pub(super) fn lp(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let axis = c.axis("axis", -1, x)?;
    let kind = match c.attributes().int("p", 2)? {
        1 => ReduceKind::L1,
        2 => ReduceKind::L2,
        p => return Err(format!("attribute `p` is {p}, expected 1 or 2")),
    };
    let norm = c.add(Reduce { kind, axes: vec![axis], keepdims: true }, &[x])?;
    // Zeros stay zeros.
    let (zero, unit) = (c.pw_number(Pw::Eq, norm, 0.0)?, c.number(norm, 1.0));
    let divisor = c.pw(Pw::Select, &[zero, unit, norm])?;
    one(c.pw(Pw::Div, &[x, divisor])?)
}

/// `(x − mean) / (√variance + 1e-9)`
pub(super) fn mean_variance(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let given = c.attributes().find_ints("axes")?.unwrap_or(&[0, 2, 3]);
    let mut axes: Vec<usize> =
        given.iter().map(|a| normalize_axis(*a, c.rank(x))).collect::<Result<_, _>>()?;
    axes.sort_unstable();
    axes.dedup();
    let mean = |c: &mut Call<'_>, v| {
        c.add(Reduce { kind: ReduceKind::Mean, axes: axes.clone(), keepdims: true }, &[v])
    };
    let center = mean(c, x)?;
    let off = c.pw(Pw::Sub, &[x, center])?;
    let square = c.pw(Pw::Mul, &[off, off])?;
    let variance = mean(c, square)?;
    let deviation = c.pw(Pw::Sqrt, &[variance])?;
    let divisor = c.pw_number(Pw::Add, deviation, 1e-9)?;
    one(c.pw(Pw::Div, &[off, divisor])?)
}
