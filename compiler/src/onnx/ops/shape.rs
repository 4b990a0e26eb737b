//! The same elements under other shapes: reshape and its kin, transpose, concatenation, repetition.

use crate::ir::types::{broadcast, normalize_axis, text};
use crate::onnx::call::{Call, Operand, Results, one};
use crate::onnx::sizes::Sizes;
use crate::ops::Concat;
use bakelite_host::DType;
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

/// Operand 0 under another shape.
fn view(c: &mut Call<'_>, shape: Vec<Dim>) -> Results {
    if let Operand::Sizes(sizes) = c.operand(0)?
        && let Some(done) = sizes.reshaped(&shape)
    {
        return one(done);
    }
    let x = c.value(0)?;
    one(c.reshape(x, shape)?)
}

pub(super) fn reshape(c: &mut Call<'_>) -> Results {
    let from = c.operand_type(0)?.shape;
    let mut to = c.need_sizes(1, "the shape")?;
    let allow_zero = c.attributes().flag("allowzero", false)?;
    let mut rest = None;
    for (d, size) in to.iter_mut().enumerate() {
        match size.as_const() {
            Some(0) if !allow_zero => {
                let own = from.get(d);
                *size = own
                    .ok_or_else(|| {
                        format!("dimension {d} of the shape is 0, but {} has no such dimension", text(&from))
                    })?
                    .clone();
            }
            Some(-1) if rest.is_none() => rest = Some(d),
            Some(v) if v < 0 => return Err(format!("dimension {d} of the shape is {v}")),
            _ => {}
        }
    }
    if let Some(rest) = rest {
        // What both shapes have cancels first: a quotient of sums is only found factor by factor.
        let mut left = from.clone();
        let mut below = Vec::new();
        for (d, size) in to.iter().enumerate().filter(|(d, _)| *d != rest) {
            match left.iter().position(|l| l == size) {
                Some(at) => drop(left.remove(at)),
                None => below.push(to[d].clone()),
            }
        }
        let quotient = product(&left).exact_div(&product(&below));
        to[rest] = quotient.ok_or_else(|| {
            let shown: Vec<String> = to.iter().map(Dim::to_string).collect();
            format!("the elements of {} do not divide evenly into [{}]", text(&from), shown.join(","))
        })?;
    }
    view(c, to)
}

pub(super) fn flatten(c: &mut Call<'_>) -> Results {
    let shape = c.operand_type(0)?.shape;
    let axis = c.attributes().int("axis", 1)?;
    // One past the last dimension is allowed.
    let axis = if axis == shape.len() as i64 { shape.len() } else { normalize_axis(axis, shape.len())? };
    view(c, vec![product(&shape[..axis]), product(&shape[axis..])])
}

pub(super) fn squeeze(c: &mut Call<'_>) -> Results {
    let shape = c.operand_type(0)?.shape;
    let gone: Vec<usize> = match c.ints_or("axes", 1)? {
        Some(axes) => axes.into_iter().map(|a| normalize_axis(a, shape.len())).collect::<Result<_, _>>()?,
        None => (0..shape.len()).filter(|d| shape[*d].is(1)).collect(),
    };
    if let Some(d) = gone.iter().find(|d| !shape[**d].is(1)) {
        return Err(format!("dimension {d} of {} has size {}, not 1", text(&shape), shape[*d]));
    }
    view(c, shape.iter().enumerate().filter(|(d, _)| !gone.contains(d)).map(|(_, s)| s.clone()).collect())
}

pub(super) fn unsqueeze(c: &mut Call<'_>) -> Results {
    let mut shape = c.operand_type(0)?.shape;
    let axes = c.ints_or("axes", 1)?.ok_or("the axes are missing")?;
    let rank = shape.len() + axes.len();
    let mut new: Vec<usize> = axes.iter().map(|a| normalize_axis(*a, rank)).collect::<Result<_, _>>()?;
    new.sort_unstable();
    if new.windows(2).any(|w| w[0] == w[1]) {
        return Err(format!("the axes {axes:?} repeat one"));
    }
    new.into_iter().for_each(|d| shape.insert(d, Dim::from(1)));
    view(c, shape)
}

pub(super) fn concat(c: &mut Call<'_>) -> Results {
    if let Some(parts) = c.all_sizes()
        && parts.iter().all(|p| p.shape.len() == 1 && p.dtype == parts[0].dtype)
    {
        let dims: Vec<Dim> = parts.iter().flat_map(|p| p.dims.clone()).collect();
        return one(Sizes { dtype: parts[0].dtype, ..Sizes::list(dims) });
    }
    let values = c.values()?;
    let axis = normalize_axis(c.attributes().need_int("axis")?, c.rank(values[0]))?;
    match values.as_slice() {
        [x] => one(*x),
        all => one(c.add(Concat { axis }, all)?),
    }
}

pub(super) fn transpose(c: &mut Call<'_>) -> Results {
    if let Operand::Sizes(sizes) = c.operand(0)?
        && sizes.shape.len() < 2
    {
        return one(sizes);
    }
    let x = c.value(0)?;
    let rank = c.rank(x);
    let perm = match c.attributes().find_ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) => perm.iter().map(|p| normalize_axis(*p, rank)).collect::<Result<Vec<_>, _>>()?,
    };
    one(c.transpose(x, perm)?)
}

pub(super) fn expand(c: &mut Call<'_>) -> Results {
    let to = c.need_sizes(1, "the shape")?;
    if let Operand::Sizes(sizes) = c.operand(0)? {
        let filled =
            Sizes::list(vec![Dim::from(0); product(&to).as_const().map_or(0, |n| n.clamp(0, 1024)) as usize]);
        let filled = filled.reshaped(&to);
        if let Some(done) = filled.and_then(|f| sizes.zip(&f, sizes.dtype, |s, _| Some(s.clone()))) {
            return one(done);
        }
    }
    let x = c.value(0)?;
    let shape = broadcast(&c.ty(x).shape, &to)?;
    one(c.broadcast(x, shape)?)
}

/// Each dimension is split into (1, size), the 1 is repeated, and both are joined again.
pub(super) fn tile(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let repeats = c.need_sizes(1, "the repeats")?;
    let shape = c.shape(x);
    if repeats.len() != shape.len() {
        return Err(format!("{} repeats for {}", repeats.len(), text(&shape)));
    }
    let (mut apart, mut wide, mut joined) = (vec![], vec![], vec![]);
    for (size, n) in shape.iter().zip(&repeats) {
        if !n.is(1) {
            apart.push(Dim::from(1));
            wide.push(n.clone());
        }
        apart.push(size.clone());
        wide.push(size.clone());
        joined.push(size * n);
    }
    let apart = c.reshape(x, apart)?;
    let wide = c.broadcast(apart, wide)?;
    one(c.reshape(wide, joined)?)
}

fn image(c: &mut Call<'_>) -> Result<(crate::ir::Value, [Dim; 4], Dim), String> {
    let x = c.value(0)?;
    let block = c.attributes().need_int("blocksize")?;
    if !(1..=1 << 16).contains(&block) {
        return Err(format!("attribute `blocksize` is {block}"));
    }
    let shape: [Dim; 4] =
        c.shape(x).try_into().map_err(|s: Vec<Dim>| format!("expected 4 dimensions, got {}", text(&s)))?;
    Ok((x, shape, Dim::from(block)))
}

pub(super) fn depth_to_space(c: &mut Call<'_>) -> Results {
    let (x, [n, ch, h, w], b) = image(c)?;
    let deep = ch
        .exact_div(&(&b * &b))
        .ok_or_else(|| format!("{ch} channels do not divide into blocks of {b}×{b}"))?;
    let b = || b.clone();
    let (apart, perm) = match c.attributes().text("mode", "DCR")? {
        "DCR" => (vec![n.clone(), b(), b(), deep.clone(), h.clone(), w.clone()], vec![0, 3, 4, 1, 5, 2]),
        "CRD" => (vec![n.clone(), deep.clone(), b(), b(), h.clone(), w.clone()], vec![0, 1, 4, 2, 5, 3]),
        other => return Err(format!("attribute `mode` is \"{other}\", expected DCR or CRD")),
    };
    let apart = c.reshape(x, apart)?;
    let moved = c.transpose(apart, perm)?;
    one(c.reshape(moved, vec![n, deep, h * b(), w * b()])?)
}

pub(super) fn space_to_depth(c: &mut Call<'_>) -> Results {
    let (x, [n, ch, h, w], b) = image(c)?;
    let part = |size: &Dim| {
        size.exact_div(&b).ok_or_else(|| format!("the size {size} does not divide into blocks of {b}"))
    };
    let (rows, columns) = (part(&h)?, part(&w)?);
    let apart = vec![n.clone(), ch.clone(), rows.clone(), b.clone(), columns.clone(), b.clone()];
    let apart = c.reshape(x, apart)?;
    let perm = match c.attributes().text("mode", "DCR")? {
        "DCR" => vec![0, 3, 5, 1, 2, 4],
        "CRD" => vec![0, 1, 3, 5, 2, 4],
        other => return Err(format!("attribute `mode` is \"{other}\", expected DCR or CRD")),
    };
    let moved = c.transpose(apart, perm)?;
    one(c.reshape(moved, vec![n, ch * &b * &b, rows, columns])?)
}

/// The element type that an index is brought to, if it is neither i32 nor i64.
pub(super) fn index(c: &mut Call<'_>, i: usize) -> Result<crate::ir::Value, String> {
    let index = c.value(i)?;
    match c.dtype(index) {
        DType::I32 | DType::I64 => Ok(index),
        _ => c.cast(index, DType::I64),
    }
}
