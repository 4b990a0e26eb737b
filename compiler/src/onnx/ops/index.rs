//! Elements picked by index, and masks made of positions.

use super::shape::index;
use super::source::as_sizes;
use crate::ir::Value;
use crate::ir::types::{normalize_axis, text};
use crate::onnx::call::{Call, Results, one};
use crate::onnx::sizes::{Sizes, integers};
use crate::ops::{Broadcast, Concat, Gather, GatherElements, Op, Reduce};
use bakelite_host::problem::ReduceKind;
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

pub(super) fn gather(c: &mut Call<'_>) -> Results {
    let ty = c.operand_type(0)?;
    let axis = normalize_axis(c.attributes().int("axis", 0)?, ty.rank())?;
    let known = c.sizes(1).and_then(|s| Some((s.constants()?, s.shape)));
    if let (Some(data), Some((indices, shape))) = (as_sizes(c)?, &known)
        && data.shape.len() == 1
    {
        let pick = |i: &i64| Ok(data.dims[normalize_axis(*i, data.dims.len())?].clone());
        let dims = indices.iter().map(pick).collect::<Result<Vec<_>, String>>()?;
        return one(Sizes { dtype: data.dtype, shape: shape.clone(), dims });
    }
    let x = c.value(0)?;
    // One known element is a window, which costs nothing.
    if let Some((indices, shape)) = &known
        && let ([i], true, Some(size)) = (indices.as_slice(), shape.is_empty(), ty.shape[axis].as_const())
    {
        let at = if *i < 0 { i.saturating_add(size) } else { *i };
        if !(0..size).contains(&at) {
            return Err(format!("the index {i} is outside dimension {axis} of {ty}"));
        }
        let picked = c.window(x, axis, Dim::from(at), Dim::from(1))?;
        let mut shape = ty.shape;
        shape.remove(axis);
        return one(c.reshape(picked, shape)?);
    }
    let indices = index(c, 1)?;
    one(c.add(Gather { axis }, &[x, indices])?)
}

pub(super) fn gather_elements(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let axis = c.axis("axis", 0, x)?;
    let indices = index(c, 1)?;
    one(c.add(GatherElements { axis }, &[x, indices])?)
}

/// Index tuples become positions in the flattened leading dimensions, then one Gather does it.
pub(super) fn gather_nd(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    if c.attributes().int("batch_dims", 0)? != 0 {
        return Err("batch_dims other than 0 are not supported".into());
    }
    let indices = c.value(1)?;
    let indices = c.cast(indices, DType::I64)?;
    let (shape, tuples) = (c.shape(x), c.shape(indices));
    let last = tuples.last().and_then(Dim::as_const).and_then(|n| usize::try_from(n).ok());
    let n = last.filter(|n| (1..=shape.len()).contains(n));
    let n = n.ok_or_else(|| format!("indices {} do not index {}", text(&tuples), text(&shape)))?;
    let positions = match columns(c, indices, n) {
        Some(columns) => sum_of_columns(c, &columns, &shape[..n])?,
        None => {
            let lead = c.sizes_value(Sizes::list(shape[..n].to_vec()))?;
            let strides = (0..n).map(|d| product(&shape[d + 1..n])).collect();
            let strides = c.sizes_value(Sizes::list(strides))?;
            let front = from_front(c, indices, lead)?;
            let scaled = c.pw(Pw::Mul, &[front, strides])?;
            let axes = vec![tuples.len() - 1];
            c.add(Reduce { kind: ReduceKind::Sum, axes, keepdims: false }, &[scaled])?
        }
    };
    let mut flat = vec![product(&shape[..n])];
    flat.extend_from_slice(&shape[n..]);
    let flat = c.reshape(x, flat)?;
    one(c.add(Gather { axis: 0 }, &[flat, positions])?)
}

// Indices counted from the front, where those below zero count from the back of dimensions of these sizes.
fn from_front(c: &mut Call<'_>, indices: Value, sizes: Value) -> Result<Value, String> {
    let negative = c.pw_number(Pw::Lt, indices, 0.0)?;
    let wrapped = c.pw(Pw::Add, &[indices, sizes])?;
    c.pw(Pw::Select, &[negative, wrapped, indices])
}

// The `n` columns of tuples that were joined from them.
fn columns(c: &Call<'_>, tuples: Value, n: usize) -> Option<Vec<Value>> {
    let (graph, last) = (c.graph(), c.rank(tuples).checked_sub(1)?);
    let joined = matches!(graph.op(tuples), Some(Op::Concat(Concat { axis })) if *axis == last);
    let columns = joined.then(|| graph.node(tuples.node).inputs.clone())?;
    (columns.len() == n && columns.iter().all(|v| graph.ty(*v).shape[last].is(1))).then_some(columns)
}

// Positions in the flattened dimensions of these sizes. An index into a dimension of size 1 says nothing.
fn sum_of_columns(c: &mut Call<'_>, columns: &[Value], sizes: &[Dim]) -> Result<Value, String> {
    let mut shape = c.shape(columns[0]);
    shape.pop();
    let mut sum = None;
    for (d, column) in columns.iter().enumerate().filter(|(d, _)| !sizes[*d].is(1)) {
        let column = c.reshape(*column, shape.clone())?;
        let size = c.sizes_value(Sizes::scalar(sizes[d].clone()))?;
        let stride = c.sizes_value(Sizes::scalar(product(&sizes[d + 1..])))?;
        let front = from_front(c, column, size)?;
        let scaled = c.pw(Pw::Mul, &[front, stride])?;
        sum = Some(match sum {
            Some(sum) => c.pw(Pw::Add, &[sum, scaled])?,
            None => scaled,
        });
    }
    match sum {
        Some(sum) => Ok(sum),
        None => {
            let zero = c.sizes_value(Sizes::scalar(Dim::from(0)))?;
            c.broadcast(zero, shape)
        }
    }
}

/// `select(position = index, on, off)`; an index outside counts from the back once, and then matches nothing.
pub(super) fn one_hot(c: &mut Call<'_>) -> Results {
    let depth = c.need_sizes(1, "the depth")?;
    let [depth] = depth.as_slice() else {
        return Err(format!("the depth has {} elements, expected 1", depth.len()));
    };
    let indices = c.value(0)?;
    let indices = c.cast(indices, DType::I64)?;
    let values = c.value(2)?;
    let rank = c.rank(indices) + 1;
    let axis = normalize_axis(c.attributes().int("axis", -1)?, rank)?;
    let size = c.sizes_value(Sizes::scalar(depth.clone()))?;
    let front = from_front(c, indices, size)?;
    let mut shape = c.shape(front);
    shape.insert(axis, Dim::from(1));
    let front = c.reshape(front, shape)?;
    let positions = along(c, depth, axis, rank)?;
    let hit = c.pw(Pw::Eq, &[front, positions])?;
    let off = c.window(values, 0, Dim::from(0), Dim::from(1))?;
    let on = c.window(values, 0, Dim::from(1), Dim::from(1))?;
    let (off, on) = (c.reshape(off, vec![])?, c.reshape(on, vec![])?);
    one(c.pw(Pw::Select, &[hit, on, off])?)
}

/// `[0, 1, ...]` along one of `rank` dimensions.
fn along(c: &mut Call<'_>, size: &Dim, axis: usize, rank: usize) -> Result<Value, String> {
    let positions = c.counting(DType::I64, size)?;
    let mut shape = vec![Dim::from(1); rank];
    shape[axis] = size.clone();
    c.reshape(positions, shape)
}

/// Keeps the upper or lower triangle.
pub(super) fn trilu(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let shape = c.shape(x);
    let [.., rows, columns] = shape.as_slice() else {
        return Err(format!("expected 2 dimensions, got {}", text(&shape)));
    };
    let k = if c.has(1) { c.need_int(1, "the diagonal")? } else { 0 };
    let row = along(c, rows, 0, 2)?;
    let diagonal = c.sizes_value(Sizes::scalar(Dim::from(k)))?;
    let row = c.pw(Pw::Add, &[row, diagonal])?;
    let column = along(c, columns, 1, 2)?;
    let test = if c.attributes().flag("upper", true)? { Pw::Ge } else { Pw::Le };
    let keep = c.pw(test, &[column, row])?;
    if c.dtype(x) == DType::Bool {
        return one(c.pw(Pw::And, &[x, keep])?);
    }
    let zero = c.number(x, 0.0);
    one(c.pw(Pw::Select, &[keep, x, zero])?)
}

/// Only where the result's size is known at compile time: for a constant, and for a vector that is nowhere zero.
pub(super) fn non_zero(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    if let Some(tensor) = c.data(x) {
        if tensor.count() > 1 << 20 {
            return Err(format!("a constant of {} elements is too large for this", tensor.count()));
        }
        let shape = if tensor.shape.is_empty() { vec![1] } else { tensor.shape.clone() };
        let hits: Vec<usize> =
            tensor.to_f64().iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, _)| i).collect();
        let mut coordinates = Vec::with_capacity(hits.len() * shape.len());
        for d in 0..shape.len() {
            let stride: usize = shape[d + 1..].iter().product();
            coordinates.extend(hits.iter().map(|i| (i / stride.max(1) % shape[d].max(1)) as i64));
        }
        let tensor = integers(DType::I64, vec![shape.len(), hits.len()], &coordinates)?;
        return one(c.constant(tensor));
    }
    if let (Some(Op::Broadcast(Broadcast { shape })), [from]) =
        (c.graph().op(x), c.graph().node(x.node).inputs.as_slice())
        && let ([size], Some(value)) = (shape.clone().as_slice(), c.data(*from).and_then(|t| t.uniform()))
        && value != 0.0
    {
        let positions = c.counting(DType::I64, size)?;
        return one(c.reshape(positions, vec![Dim::from(1), size.clone()])?);
    }
    Err("the number of results depends on data, which is not supported".into())
}
