//! Equations of operators that only move elements: transpose, reshape, broadcast, slice, pad, concat.

use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Concat, Op, Pad, Reduce, Reshape, Slice, Transpose};
use crate::passes::Rule;
use crate::passes::pattern::*;
use bakelite_host::problem::{PadMode, ReduceKind};
use bakelite_kernels::Dim;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("transpose_transpose", transpose_transpose),
    ("transpose_unit", transpose_unit),
    ("reshape_reshape", reshape_reshape),
    ("same_shape", same_shape),
    ("broadcast_broadcast", broadcast_broadcast),
    ("broadcast_operand", broadcast_operand),
    ("concat_one", concat_one),
    ("concat_concat", concat_concat),
    ("concat_slices", concat_slices),
    ("slice_slice", slice_slice),
    ("slice_concat", slice_concat),
    ("pad_pad", pad_pad),
    ("reduce_unit", reduce_unit),
    ("gather_one", gather_one),
];

fn transpose(op: &Op) -> Option<&Transpose> {
    if let Op::Transpose(t) = op { Some(t) } else { None }
}

fn reshape_of(op: &Op) -> Option<&Reshape> {
    if let Op::Reshape(r) = op { Some(r) } else { None }
}

fn slice(op: &Op) -> Option<&Slice> {
    if let Op::Slice(s) = op { Some(s) } else { None }
}

/// `transpose(transpose(x))` is one transpose, or `x`.
fn transpose_transpose(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((outer, inner)) = unary(graph, id.into(), transpose) else { return Ok(false) };
    if outer.is_identity() {
        return swap(graph, id, inner);
    }
    let Some((first, x)) = unary(graph, inner, transpose) else { return Ok(false) };
    let both = outer.after(first);
    if both.is_identity() { swap(graph, id, x) } else { become_op(graph, id, both, &[x]) }
}

/// A transpose that only moves dimensions of size 1 is a reshape.
fn transpose_unit(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((outer, x)) = unary(graph, id.into(), transpose) else { return Ok(false) };
    if !moves_nothing(&outer.perm, &graph.ty(x).shape) {
        return Ok(false);
    }
    let shape = graph.node(id).types[0].shape.clone();
    become_op(graph, id, Reshape { shape }, &[x])
}

/// `reshape(reshape(x)) → reshape(x)`
fn reshape_reshape(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((outer, inner)) = unary(graph, id.into(), |op| reshape_of(op).cloned()) else {
        return Ok(false);
    };
    match unary(graph, inner, reshape_of) {
        Some((_, x)) => become_op(graph, id, outer, &[x]),
        None => Ok(false),
    }
}

/// A reshape, broadcast, slice or pad to the same type changes nothing.
fn same_shape(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let x = match (node.op(), node.inputs.first()) {
        (Some(Op::Reshape(_) | Op::Broadcast(_)), Some(x)) => *x,
        // Steps are 1 and starts are 0 where the size stays; a size of 0 or 1 may stay by another window.
        (Some(Op::Slice(s)), Some(x))
            if s.steps.iter().all(|s| *s == 1) && s.starts.iter().all(|s| s.is(0)) =>
        {
            *x
        }
        (Some(Op::Pad(p)), Some(x)) if p.begin.iter().chain(&p.end).all(|a| *a == 0) => *x,
        _ => return Ok(false),
    };
    if node.types[0] == *graph.ty(x) { swap(graph, id, x) } else { Ok(false) }
}

/// `broadcast(broadcast(x)) → broadcast(x)`
fn broadcast_broadcast(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let broadcast = |op: &Op| if let Op::Broadcast(b) = op { Some(b.clone()) } else { None };
    let Some((outer, inner)) = unary(graph, id.into(), broadcast) else { return Ok(false) };
    match unary(graph, inner, broadcast) {
        Some((_, x)) => become_op(graph, id, outer, &[x]),
        None => Ok(false),
    }
}

/// `f(broadcast(x), y) → f(x, y)` for pointwise f, where y has the result's shape by itself.
fn broadcast_operand(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(Op::Apply(apply)) = graph.node(id).op().cloned() else { return Ok(false) };
    let mut inputs = graph.node(id).inputs.clone();
    for port in 0..inputs.len() {
        let broadcast = unary(graph, inputs[port], |op| matches!(op, Op::Broadcast(_)).then_some(()));
        let Some((_, x)) = broadcast else { continue };
        let old = std::mem::replace(&mut inputs[port], x);
        if become_op(graph, id, apply.clone(), &inputs)? {
            return Ok(true);
        }
        inputs[port] = old;
    }
    Ok(false)
}

/// `concat(x) → x`
fn concat_one(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    match unary(graph, id.into(), |op| matches!(op, Op::Concat(_)).then_some(())) {
        Some((_, x)) => swap(graph, id, x),
        None => Ok(false),
    }
}

/// `concat(concat(a, b), c) → concat(a, b, c)` along one axis, where the inner one has no other reader.
fn concat_concat(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(Op::Concat(outer)) = graph.node(id).op().cloned() else { return Ok(false) };
    let mut inputs = Vec::new();
    let mut flattened = false;
    for value in graph.node(id).inputs.clone() {
        match graph.op(value) {
            Some(Op::Concat(inner)) if inner.axis == outer.axis && graph.used_once(value) => {
                inputs.extend_from_slice(&graph.node(value.node).inputs);
                flattened = true;
            }
            _ => inputs.push(value),
        }
    }
    if flattened { become_op(graph, id, outer, &inputs) } else { Ok(false) }
}

/// `concat(slice(x), slice(x), y) → concat(slice(x), y)` where one slice ends along the axis where the next begins, or
/// `concat(x, y)` where they are all of x.
fn concat_slices(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(Op::Concat(concat)) = graph.node(id).op().cloned() else { return Ok(false) };
    let (axis, mut inputs) = (concat.axis, graph.node(id).inputs.clone());
    for at in 1..inputs.len() {
        let (first, second) = (unary(graph, inputs[at - 1], slice), unary(graph, inputs[at], slice));
        let (Some((a, x)), Some((b, y))) = (first, second) else { continue };
        let alike = |d: usize| d == axis || a.starts[d] == b.starts[d] && a.shape[d] == b.shape[d];
        let meet = &a.starts[axis] + &a.shape[axis] == b.starts[axis] && a.steps[axis] == 1;
        if x != y || a.steps != b.steps || !meet || !(0..a.shape.len()).all(alike) {
            continue;
        }
        let mut both = a.clone();
        both.shape[axis] = &a.shape[axis] + &b.shape[axis];
        inputs[at - 1] = match both.shape == graph.ty(x).shape && both.steps.iter().all(|s| *s == 1) {
            true => x,
            false => emit(graph, both, &[x], id)?,
        };
        inputs.remove(at);
        return become_op(graph, id, concat, &inputs);
    }
    Ok(false)
}

/// `slice(slice(x)) → slice(x)`
fn slice_slice(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((outer, inner)) = unary(graph, id.into(), |op| slice(op).cloned()) else { return Ok(false) };
    let Some((first, x)) = unary(graph, inner, |op| slice(op).cloned()) else { return Ok(false) };
    let start = |d: usize| &first.starts[d] + &outer.starts[d] * Dim::from(first.steps[d]);
    let step = |d: usize| first.steps[d].checked_mul(outer.steps[d]);
    let rank = outer.shape.len();
    let Some(steps) = (0..rank).map(step).collect() else { return Ok(false) };
    become_op(graph, id, Slice { starts: (0..rank).map(start).collect(), steps, shape: outer.shape }, &[x])
}

/// `slice(concat(a, b)) → slice(a)` where the window lies inside one operand.
fn slice_concat(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((outer, joined)) = unary(graph, id.into(), |op| slice(op).cloned()) else { return Ok(false) };
    let Some(Op::Concat(Concat { axis })) = graph.op(joined) else { return Ok(false) };
    let axis = *axis;
    let (Some(start), Some(len)) = (outer.starts[axis].as_const(), outer.shape[axis].as_const()) else {
        return Ok(false);
    };
    let last = start + (len - 1).max(0) * outer.steps[axis] as i64;
    let mut offset = 0;
    for operand in graph.node(joined.node).inputs.clone() {
        let Some(size) = graph.ty(operand).shape[axis].as_const() else { return Ok(false) };
        if start >= offset && last < offset + size {
            let mut starts = outer.starts.clone();
            starts[axis] = Dim::from(start - offset);
            return become_op(graph, id, Slice { starts, ..outer }, &[operand]);
        }
        offset += size;
    }
    Ok(false)
}

/// `pad(pad(x, c), c) → pad(x, c)` for equal constants, where neither crops.
fn pad_pad(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let pad = |graph: &Graph, value: Value| match (graph.op(value), graph.node(value.node).inputs.as_slice())
    {
        (Some(Op::Pad(p)), [x, c])
            if p.mode == PadMode::Constant && p.begin.iter().chain(&p.end).all(|a| *a >= 0) =>
        {
            Some((p.clone(), *x, *c))
        }
        _ => None,
    };
    let Some((outer, inner, value)) = pad(graph, id.into()) else { return Ok(false) };
    let Some((first, x, inner_value)) = pad(graph, inner) else { return Ok(false) };
    if uniform(graph, value).is_none() || uniform(graph, value) != uniform(graph, inner_value) {
        return Ok(false);
    }
    let sum = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a.saturating_add(*b)).collect();
    let both = Pad {
        mode: PadMode::Constant,
        begin: sum(&outer.begin, &first.begin),
        end: sum(&outer.end, &first.end),
    };
    become_op(graph, id, both, &[x, value])
}

/// A sum, mean, product, maximum or minimum over dimensions of size 1 is a reshape.
fn reduce_unit(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let reduce = |op: &Op| if let Op::Reduce(r) = op { Some(r.clone()) } else { None };
    let Some((Reduce { kind, axes, .. }, x)) = unary(graph, id.into(), reduce) else { return Ok(false) };
    let plain = matches!(
        kind,
        ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Prod | ReduceKind::Max | ReduceKind::Min
    );
    if !plain || !axes.iter().all(|a| graph.ty(x).shape[*a].is(1)) {
        return Ok(false);
    }
    let shape = graph.node(id).types[0].shape.clone();
    become_op(graph, id, Reshape { shape }, &[x])
}

/// `gather(x, i)` of one constant index is a slice, reshaped.
fn gather_one(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let (Some(Op::Gather(gather)), &[x, index]) = (node.op(), node.inputs.as_slice()) else {
        return Ok(false);
    };
    let axis = gather.axis;
    let Some(tensor) = graph.data(index).filter(|t| t.count() == 1) else { return Ok(false) };
    let ty = graph.ty(x).clone();
    let (Some(len), &[at]) = (ty.shape[axis].as_const(), tensor.to_i64().as_slice()) else {
        return Ok(false);
    };
    let at = if at < 0 { at + len } else { at };
    if !(0..len).contains(&at) || graph.data(x).is_some() {
        return Ok(false);
    }
    let mut starts = vec![Dim::from(0); ty.rank()];
    let mut shape = ty.shape;
    (starts[axis], shape[axis]) = (Dim::from(at), Dim::from(1));
    let result = graph.node(id).types[0].shape.clone();
    let window = emit(graph, Slice { starts, steps: vec![1; shape.len()], shape }, &[x], id)?;
    let result = reshape(graph, window, result, id)?;
    swap(graph, id, result)
}
