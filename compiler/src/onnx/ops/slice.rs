//! Parts of tensors, and what lies around them: slice, split, crop, pad.

use crate::ir::Value;
use crate::ir::types::{normalize_axis, text};
use crate::onnx::call::{Call, Operand, Results, one};
use crate::onnx::sizes::{self, Sizes};
use crate::ops::{Gather, Pad, Slice};
use bakelite_host::problem::PadMode;
use bakelite_host::{DType, Pw};
use bakelite_kernels::{Dim, Symbols};

/// First element and number of elements of `start:end:step` in a dimension of `size`, by ONNX's clamping.
fn window(start: &Dim, end: &Dim, step: i64, size: &Dim, symbols: &Symbols) -> Result<(Dim, Dim), String> {
    let zero = Dim::from(0);
    let from_front = |v: &Dim| match v.bounds(symbols) {
        (0.., _) => Ok(v.clone()),
        (_, hi) if hi < 0 => Ok(v + size),
        _ => Err(format!("the bound {v} may count from the front or from the back")),
    };
    let (start, end) = (from_front(start)?, from_front(end)?);
    let clamp = |v: &Dim, lo: &Dim, hi: &Dim| sizes::min(&sizes::max(v, lo, symbols), hi, symbols);
    if step > 0 {
        let (start, end) = (clamp(&start, &zero, size), clamp(&end, &zero, size));
        let count = (&end - &start).ceil_div(&Dim::from(step));
        return Ok((start, sizes::max(&count, &zero, symbols)));
    }
    let last = size - Dim::from(1);
    let (start, end) = (clamp(&start, &zero, &last), clamp(&end, &Dim::from(-1), &last));
    let count = (&start - &end).ceil_div(&Dim::from(step.saturating_neg()));
    Ok((start, sizes::max(&count, &zero, symbols)))
}

pub(super) fn slice(c: &mut Call<'_>) -> Results {
    let shape = c.operand_type(0)?.shape;
    let numbers = |ints: Vec<i64>| ints.into_iter().map(Dim::from).collect::<Vec<_>>();
    let (starts, ends, axes) = if c.opset() < 10 && !c.has(1) {
        let a = c.attributes();
        let axes = a.find_ints("axes")?.map(<[i64]>::to_vec);
        (numbers(a.need_ints("starts")?.to_vec()), numbers(a.need_ints("ends")?.to_vec()), axes)
    } else {
        let axes = if c.has(3) { Some(c.need_ints(3, "the axes")?) } else { None };
        (c.need_sizes(1, "the start")?, c.need_sizes(2, "the end")?, axes)
    };
    let steps = if c.has(4) { c.need_ints(4, "the steps")? } else { vec![1; starts.len()] };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    if starts.len() != ends.len() || starts.len() != axes.len() || starts.len() != steps.len() {
        return Err(format!(
            "{} starts, {} ends, {} axes and {} steps do not go together",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        ));
    }
    let mut parts: Vec<Option<(Dim, Dim, i64)>> = vec![None; shape.len()];
    for (i, axis) in axes.iter().enumerate() {
        let d = normalize_axis(*axis, shape.len())?;
        if steps[i] == 0 || parts[d].is_some() {
            return Err(format!("axis {axis} has the step {} or is given twice", steps[i]));
        }
        let (start, count) = window(&starts[i], &ends[i], steps[i], &shape[d], c.symbols())
            .map_err(|e| format!("axis {axis} of {}: {e}", text(&shape)))?;
        parts[d] = Some((start, count, steps[i]));
    }
    if let (Operand::Sizes(s), [Some((start, count, step))]) = (c.operand(0)?, parts.as_slice())
        && let (Some(start), Some(count)) = (start.as_const(), count.as_const())
    {
        let dims = (0..count).map(|i| s.dims.get((start + i * step) as usize).cloned());
        let dims = dims.collect::<Option<Vec<_>>>().ok_or("the slice lies outside")?;
        return one(Sizes { dtype: s.dtype, ..Sizes::list(dims) });
    }
    let mut x = c.value(0)?;
    let mut forward =
        Slice { starts: vec![Dim::from(0); shape.len()], steps: vec![1; shape.len()], shape: shape.clone() };
    for (d, part) in parts.iter().enumerate() {
        if let Some((start, count, step)) = part
            && *step > 0
        {
            // A step beyond the size takes one element, as does the size itself.
            let most = shape[d].upper(c.symbols()).max(1);
            forward.starts[d] = start.clone();
            forward.steps[d] = usize::try_from((*step).min(most)).unwrap_or(1);
            forward.shape[d] = count.clone();
        }
    }
    if forward.shape != shape || forward.steps.iter().any(|s| *s != 1) {
        x = c.add(forward, &[x])?;
    }
    for (d, part) in parts.iter().enumerate() {
        if let Some((start, count, step)) = part
            && *step < 0
        {
            x = backward(c, x, d, start, count, *step)?;
        }
    }
    one(x)
}

/// Elements `start, start + step, ...` for a negative step, by index.
fn backward(
    c: &mut Call<'_>,
    x: Value,
    axis: usize,
    start: &Dim,
    count: &Dim,
    step: i64,
) -> Result<Value, String> {
    let positions = c.counting(DType::I64, count)?;
    let step = c.sizes_value(Sizes::scalar(Dim::from(step)))?;
    let start = c.sizes_value(Sizes::scalar(start.clone()))?;
    let offsets = c.pw(Pw::Mul, &[positions, step])?;
    let indices = c.pw(Pw::Add, &[offsets, start])?;
    c.add(Gather { axis }, &[x, indices])
}

pub(super) fn split(c: &mut Call<'_>) -> Results {
    let shape = c.operand_type(0)?.shape;
    let axis = normalize_axis(c.attributes().int("axis", 0)?, shape.len())?;
    let outputs = c.node.outputs.len();
    let size = &shape[axis];
    let parts: Vec<Dim> = if c.has(1) {
        c.need_sizes(1, "the sizes")?
    } else if let Some(parts) = c.attributes().find_ints("split")? {
        parts.iter().map(|p| Dim::from(*p)).collect()
    } else {
        let n = usize::try_from(c.attributes().int("num_outputs", outputs as i64)?).unwrap_or(0);
        if n != outputs || n == 0 {
            return Err(format!("attribute `num_outputs` is {n}, but there are {outputs} results"));
        }
        match (size.exact_div(&Dim::from(n)), size.as_const()) {
            (Some(part), _) => vec![part; n],
            // Equal parts, the last one smaller.
            (None, Some(size)) => {
                let part = (size + n as i64 - 1) / n as i64;
                (0..n as i64).map(|i| Dim::from((size - i * part).clamp(0, part))).collect()
            }
            (None, None) => return Err(format!("{size} does not divide into {n} equal parts")),
        }
    };
    let sum = parts.iter().fold(Dim::from(0), |sum, p| &sum + p);
    if parts.len() < outputs || sum != *size {
        return Err(format!("parts {} of {size} elements for {outputs} results", text(&parts)));
    }
    let mut results = Vec::with_capacity(outputs);
    let mut start = Dim::from(0);
    for part in &parts {
        let end = &start + part;
        if let (Operand::Sizes(s), Some(from), Some(to)) = (c.operand(0)?, start.as_const(), end.as_const())
            && let Some(dims) = s.dims.get(from as usize..to as usize)
            && s.shape.len() == 1
        {
            results.push(Sizes { dtype: s.dtype, ..Sizes::list(dims.to_vec()) }.into());
        } else {
            let x = c.value(0)?;
            results.push(c.window(x, axis, start, part.clone())?.into());
        }
        start = end;
    }
    Ok(results)
}

/// Cuts the last two dimensions, an experimental operator that old exporters wrote.
pub(super) fn crop(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let border = c.attributes().sizes("border", 4, 0)?;
    let shape = c.shape(x);
    let rank = shape.len();
    if rank < 2 {
        return Err(format!("expected at least 2 dimensions, got {}", text(&shape)));
    }
    let scale = c.attributes().find_ints("scale")?;
    let mut out = x;
    for (d, first, last, place) in [(rank - 2, border[1], border[3], 0), (rank - 1, border[0], border[2], 1)]
    {
        let size = match scale.and_then(|s| s.get(place)) {
            Some(size) => Dim::from(*size),
            None => &shape[d] - Dim::from(first + last),
        };
        if size.bounds(c.symbols()).0 < 0 {
            return Err(format!("a border of {first} and {last} does not fit into {}", shape[d]));
        }
        out = c.window(out, d, Dim::from(first), size)?;
    }
    one(out)
}

pub(super) fn pad(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let rank = c.rank(x);
    let mode = match c.attributes().text("mode", "constant")? {
        "constant" => PadMode::Constant,
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => {
            return Err(format!("attribute `mode` is \"{other}\", expected constant, reflect, edge or wrap"));
        }
    };
    let pads = c.ints_or("pads", 1)?.ok_or("the pads are missing")?;
    let axes: Vec<usize> = if c.has(3) {
        c.need_ints(3, "the axes")?.into_iter().map(|a| normalize_axis(a, rank)).collect::<Result<_, _>>()?
    } else {
        (0..rank).collect()
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let (mut begin, mut end) = (vec![0; rank], vec![0; rank]);
    for (i, axis) in axes.iter().enumerate() {
        begin[*axis] = pads[i];
        end[*axis] = pads[axes.len() + i];
    }
    if pads.iter().all(|p| *p == 0) {
        return one(x);
    }
    let mut operands = vec![x];
    if mode == PadMode::Constant {
        let value = match c.optional(2)? {
            Some(value) => c.reshape(value, vec![])?,
            None => c.number(x, c.attributes().float("value", 0.0)?.into()),
        };
        operands.push(value);
    }
    one(c.add(Pad { mode, begin, end }, &operands)?)
}
