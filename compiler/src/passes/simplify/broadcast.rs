//! Broadcasts move towards the result: what is the same along a dimension is computed once.

use crate::ir::{Graph, NodeId, Tensor, Value, types};
use crate::ops::{Broadcast, Op};
use crate::passes::Rule;
use crate::passes::pattern::*;

pub(super) const RULES: &[(&str, Rule)] =
    &[("broadcast_below", broadcast_below), ("broadcast_mask", broadcast_mask)];

// The operand of a broadcast.
fn source(graph: &Graph, value: Value) -> Option<Value> {
    unary(graph, value, |op| matches!(op, Op::Broadcast(_)).then_some(())).map(|(_, x)| x)
}

// What `value` repeats: a broadcast's operand, or one element of a constant that is all the same.
fn repeated(graph: &mut Graph, value: Value) -> Option<Value> {
    if let Some(x) = source(graph, value) {
        return Some(x);
    }
    let data = graph.data(value).filter(|data| data.count() > 1 && data.uniform().is_some())?;
    let one = Tensor { dtype: data.dtype, shape: vec![], bytes: data.bytes.slice(..data.dtype.size()) };
    let name = graph.node(value.node).name.clone();
    Some(graph.constant(one, name))
}

/// `f(broadcast(x), c) → broadcast(f(x, c))` for pointwise f, where the operands without their repetition are smaller
/// together than the result.
fn broadcast_below(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(Op::Apply(apply)) = graph.node(id).op().cloned() else { return Ok(false) };
    let result = graph.node(id).types[0].shape.clone();
    let mut inputs = graph.node(id).inputs.clone();
    // Nothing is made before it is known to pay.
    let shape_of = |v: &Value| match source(graph, *v) {
        Some(x) => graph.ty(x).shape.clone(),
        None if uniform(graph, *v).is_some() => vec![],
        None => graph.ty(*v).shape.clone(),
    };
    let mut shape = Vec::new();
    for input in &inputs {
        shape = types::broadcast(&shape, &shape_of(input))?;
    }
    let padded = result.len() - shape.len();
    let smaller = result.iter().enumerate().any(|(d, size)| {
        let own_is_one = d.checked_sub(padded).is_none_or(|d| shape[d].is(1));
        own_is_one && !size.is(1)
    });
    if !smaller || inputs.iter().all(|v| graph.data(*v).is_some()) {
        return Ok(false);
    }
    for input in &mut inputs {
        if let Some(x) = repeated(graph, *input) {
            *input = x;
        }
    }
    let small = emit(graph, apply, &inputs, id)?;
    become_op(graph, id, Broadcast { shape: result }, &[small])
}

/// Attention reads its mask over the scores by itself.
fn broadcast_mask(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(Op::Attention(attention)) = graph.node(id).op().cloned() else { return Ok(false) };
    let mut inputs = graph.node(id).inputs.clone();
    let Some(mask) = inputs.get_mut(3) else { return Ok(false) };
    match source(graph, *mask) {
        Some(x) => *mask = x,
        None => return Ok(false),
    }
    become_op(graph, id, attention, &inputs)
}
