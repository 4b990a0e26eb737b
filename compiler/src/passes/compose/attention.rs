//! Attention from its pieces: two matrix products around a softmax, with what exporters put between and before them.
//! A bool mask of `where(mask, scores, −∞)` stays bool; a finite "minus infinity" is added, as the model does.

use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Apply, Attention, Cast, MatMul, Op, Softmax, Transpose};
use crate::passes::Rule;
use crate::passes::pattern::*;
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("attention", attention),
    ("operand_transpose", operand_transpose),
    ("result_transpose", result_transpose),
    ("shared_heads", shared_heads),
];

/// `matmul(softmax(mask(scale · matmul(q, kᵀ))), v) → attention(q, k, v, mask)`, where the scale may stand on q, on k, on both
/// or on the scores, as a product or a quotient; masks may be added or selected. Operands of 3 dimensions have one head.
/// Where q and k are narrower than the result, the scores are not rounded to their type.
fn attention(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let (Some(Op::MatMul(outer)), &[p, v]) = (node.op(), node.inputs.as_slice()) else { return Ok(false) };
    let (outer, out) = (outer.clone(), node.types[0].clone());
    if outer.trans_a || !matches!(out.rank(), 3 | 4) || !graph.used_once(p) {
        return Ok(false);
    }
    let Some(scores) = probabilities(graph, p) else { return Ok(false) };
    let mut found = Scores { scale: 1.0, masks: vec![], left: 8 };
    let Some(product) = found.peel(graph, scores) else { return Ok(false) };
    let (Some(Op::MatMul(inner)), &[q, k]) = (graph.op(product), graph.node(product.node).inputs.as_slice())
    else {
        return Ok(false);
    };
    let inner: MatMul = inner.clone();
    if graph.ty(q).rank() != out.rank()
        || graph.ty(k).rank() != out.rank()
        || graph.ty(v).rank() != out.rank()
    {
        return Ok(false);
    }
    let (q, q_scale) = unscaled(graph, q)?;
    let (k, k_scale) = unscaled(graph, k)?;
    let scale = found.scale * q_scale * k_scale;
    if !scale.is_finite() {
        return Ok(false);
    }
    let q = if inner.trans_a { swap_last(graph, q, id)? } else { q };
    let k = if inner.trans_b { k } else { swap_last(graph, k, id)? };
    let v = if outer.trans_b { swap_last(graph, v, id)? } else { v };
    let mut operands = Vec::with_capacity(4);
    for operand in [q, k, v] {
        let operand = widened(graph, operand, out.dtype, id)?;
        operands.push(with_heads(graph, operand, id)?);
    }
    operands.extend(found.mask(graph, out.dtype, out.rank(), id)?);
    let op = Attention { scale: scale as f32, causal: false, inner: vec![false; 4] };
    let types: Vec<_> = operands.iter().map(|v| graph.ty(*v)).collect();
    let mut expected = out.clone();
    if out.rank() == 3 {
        expected.shape.insert(1, Dim::from(1));
    }
    if crate::ops::Op::from(op.clone()).infer(&types) != Ok(vec![expected]) {
        return Ok(false);
    }
    let result = emit(graph, op, &operands, id)?;
    let result = reshape(graph, result, out.shape, id)?;
    swap(graph, id, result)
}

/// The scores whose softmax over the last dimension `p` is; through casts to and from a wider type, and through a guard
/// that makes the NaN of a fully masked row zero, which attention does by itself.
fn probabilities(graph: &Graph, p: Value) -> Option<Value> {
    let narrow = graph.ty(p).dtype;
    let mut value = p;
    loop {
        let node = graph.node(value.node);
        match node.op()? {
            Op::Softmax(Softmax { axis, log: false }) if axis + 1 == node.types[0].rank() => {
                let x = node.inputs[0];
                return graph.used_once(x).then(|| through_cast(graph, x, narrow));
            }
            Op::Cast(_) => value = node.inputs[0],
            Op::Apply(Apply { op: Pw::Select }) => {
                let &[test, zero, inner] = node.inputs.as_slice() else { return None };
                let [tested] = applied::<1>(graph, test, Pw::IsNan)?;
                let guard = tested == inner && uniform(graph, zero) == Some(0.0) && private(graph, inner, 2);
                let Op::Softmax(Softmax { axis, log: false }) = graph.op(inner).filter(|_| guard)? else {
                    return None;
                };
                let x = graph.node(inner.node).inputs[0];
                let last = axis + 1 == graph.ty(x).rank();
                return (last && graph.used_once(x)).then(|| through_cast(graph, x, narrow));
            }
            _ => return None,
        }
        if !graph.used_once(value) {
            return None;
        }
    }
}

// `x` of `cast(x: narrow)`, or the value itself.
fn through_cast(graph: &Graph, value: Value, narrow: DType) -> Value {
    match unary(graph, value, |op| matches!(op, Op::Cast(_)).then_some(())) {
        Some((_, x)) if graph.ty(x).dtype == narrow && graph.ty(value).dtype.is_float() => x,
        _ => value,
    }
}

enum Mask {
    /// Added to the scores.
    Add(Value),
    /// Scores stay where it is true, or with `negated` where it is false; elsewhere they are this number.
    Select { condition: Value, negated: bool, otherwise: f64 },
}

/// What lies between the product of q and k and the softmax.
struct Scores {
    scale: f64,
    masks: Vec<Mask>,
    /// Operators that may still be looked through: real models have at most five.
    left: usize,
}

impl Scores {
    // Follows the scores down to the product of q and k, which nothing else reads.
    fn peel(&mut self, graph: &Graph, from: Value) -> Option<Value> {
        let mut value = from;
        loop {
            self.left = self.left.checked_sub(1)?;
            if !graph.used_once(value) {
                return None;
            }
            let node = graph.node(value.node);
            let shape = &node.types[0].shape;
            value = match (node.op()?, node.inputs.as_slice()) {
                (Op::MatMul(_), _) => return Some(value),
                (Op::Cast(_), &[x]) if graph.ty(x).dtype.is_float() => x,
                (Op::Apply(Apply { op: Pw::Mul }), &[x, c]) => {
                    self.scale *= self.number(graph, c)?;
                    x
                }
                (Op::Apply(Apply { op: Pw::Div }), &[x, c]) => {
                    self.scale /= self.number(graph, c)?;
                    x
                }
                (Op::Apply(Apply { op: Pw::Add }), &[a, b]) => {
                    // A scale outside the mask would scale the mask.
                    if self.scale != 1.0 {
                        return None;
                    }
                    let [mask, x] = ordered([a, b], |v| leads_to_product(graph, v, self.left))?;
                    self.masks.push(Mask::Add(mask));
                    x
                }
                (Op::Apply(Apply { op: Pw::Select }), &[condition, a, b]) => {
                    let (x, negated, other) = match (uniform(graph, a), uniform(graph, b)) {
                        (None, Some(other)) => (a, false, other),
                        (Some(other), None) => (b, true, other),
                        _ => return None,
                    };
                    if other > -1e4 || self.scale != 1.0 {
                        return None;
                    }
                    self.masks.push(Mask::Select { condition, negated, otherwise: other });
                    x
                }
                _ => return None,
            };
            if graph.ty(value).shape != *shape {
                return None;
            }
        }
    }

    fn number(&self, graph: &Graph, constant: Value) -> Option<f64> {
        uniform(graph, constant).filter(|c| *c != 0.0 && c.is_finite())
    }

    // The one mask operand that says what all the masks say.
    fn mask(
        &self,
        graph: &mut Graph,
        dtype: DType,
        rank: usize,
        like: NodeId,
    ) -> Result<Option<Value>, String> {
        if let [Mask::Select { condition, negated, otherwise }] = self.masks.as_slice()
            && *otherwise == f64::NEG_INFINITY
        {
            let keep = if *negated { pointwise(graph, Pw::Not, &[*condition], like)? } else { *condition };
            return mask_with_heads(graph, keep, rank, like).map(Some);
        }
        let mut sum: Option<Value> = None;
        for mask in self.masks.iter().rev() {
            let added = match mask {
                Mask::Add(value) => *value,
                Mask::Select { condition, negated, otherwise } => {
                    let zero = graph.constant(crate::ir::Tensor::scalar(dtype, 0.0), "");
                    let other = graph.constant(crate::ir::Tensor::scalar(dtype, *otherwise), "");
                    let (a, b) = if *negated { (other, zero) } else { (zero, other) };
                    pointwise(graph, Pw::Select, &[*condition, a, b], like)?
                }
            };
            let added = if graph.ty(added).dtype == dtype {
                added
            } else {
                emit(graph, Cast { to: dtype }, &[added], like)?
            };
            sum = Some(match sum {
                Some(other) => pointwise(graph, Pw::Add, &[other, added], like)?,
                None => added,
            });
        }
        sum.map(|mask| mask_with_heads(graph, mask, rank, like)).transpose()
    }
}

// Whether the value comes from a matrix product through what `peel` understands; the other side is the mask.
fn leads_to_product(graph: &Graph, value: Value, left: usize) -> bool {
    let mut scores = Scores { scale: 1.0, masks: vec![], left };
    graph.ty(value).rank() >= 3 && scores.peel(graph, value).is_some()
}

/// The value without the number it is multiplied or divided by, under transposes and reshapes; and the number.
fn unscaled(graph: &mut Graph, value: Value) -> Result<(Value, f64), String> {
    if !graph.used_once(value) {
        return Ok((value, 1.0));
    }
    let node = graph.node(value.node).clone();
    let number = |graph: &Graph, c: &Value| uniform(graph, *c).filter(|c| *c != 0.0 && c.is_finite());
    match (node.op(), node.inputs.as_slice()) {
        (Some(Op::Apply(Apply { op: op @ (Pw::Mul | Pw::Div) })), [x, c])
            if graph.ty(*x) == &node.types[0] =>
        {
            let Some(number) = number(graph, c) else { return Ok((value, 1.0)) };
            let (x, scale) = unscaled(graph, *x)?;
            Ok((x, if *op == Pw::Mul { scale * number } else { scale / number }))
        }
        (Some(op @ (Op::Transpose(_) | Op::Reshape(_))), [x]) => {
            let (inner, scale) = unscaled(graph, *x)?;
            if scale == 1.0 {
                return Ok((value, 1.0));
            }
            Ok((emit(graph, op.clone(), &[inner], value.node)?, scale))
        }
        _ => Ok((value, 1.0)),
    }
}

// The value in a wider type, from below what only moves it: there the moves meet attention, and casts that narrow it again
// meet this one. A value that is not narrower stays as it is.
fn widened(graph: &mut Graph, value: Value, to: DType, like: NodeId) -> Result<Value, String> {
    let node = graph.node(value.node).clone();
    let from = node.types[value.result as usize].dtype;
    match (node.op(), node.inputs.as_slice()) {
        (Some(Op::Cast(cast)), [x]) if cast.to == to && widens(graph.ty(*x).dtype, to) => {
            widened(graph, *x, to, value.node)
        }
        (Some(op @ (Op::Transpose(_) | Op::Reshape(_))), [x]) => {
            let inner = widened(graph, *x, to, value.node)?;
            if inner == *x { Ok(value) } else { emit(graph, op.clone(), &[inner], value.node) }
        }
        _ if widens(from, to) => emit(graph, Cast { to }, &[value], like),
        _ => Ok(value),
    }
}

fn widens(from: DType, to: DType) -> bool {
    from.is_half() && to == DType::F32
}

fn swap_last(graph: &mut Graph, value: Value, like: NodeId) -> Result<Value, String> {
    let rank = graph.ty(value).rank();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    transposed(graph, value, &perm, like)
}

// `[batch, seq, dim]` as `[batch, 1, seq, dim]`
fn with_heads(graph: &mut Graph, value: Value, like: NodeId) -> Result<Value, String> {
    let mut shape = graph.ty(value).shape.clone();
    if shape.len() == 3 {
        shape.insert(1, Dim::from(1));
    }
    reshape(graph, value, shape, like)
}

// A mask over `[batch, seq, seq]` as one over `[batch, 1, seq, seq]`.
fn mask_with_heads(graph: &mut Graph, mask: Value, rank: usize, like: NodeId) -> Result<Value, String> {
    if rank == 3 { with_heads(graph, mask, like) } else { Ok(mask) }
}

fn heads_swapped(op: &Op) -> Option<()> {
    matches!(op, Op::Transpose(Transpose { perm }) if *perm == [0, 2, 1, 3]).then_some(())
}

/// `attention(transpose(q) [0,2,1,3], ...) → attention(q, ...)` with `inner` turned, and so for k and v.
fn operand_transpose(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(Op::Attention(attention)) = graph.node(id).op() else { return Ok(false) };
    let (mut attention, mut inputs) = (attention.clone(), graph.node(id).inputs.clone());
    let mut turned = false;
    for (operand, inner) in inputs.iter_mut().zip(&mut attention.inner).take(3) {
        if let Some((_, x)) = unary(graph, *operand, heads_swapped) {
            *operand = x;
            *inner = !*inner;
            turned = true;
        }
    }
    if turned { become_op(graph, id, attention, &inputs) } else { Ok(false) }
}

/// `transpose(attention(...)) → transpose'(attention(...))` with `inner` turned, where the transpose puts the heads behind
/// the positions: what is left of it swaps them no more, and `[0,2,1,3]` is gone.
fn result_transpose(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let perm = |op: &Op| if let Op::Transpose(t) = op { Some(t.clone()) } else { None };
    let Some((Transpose { perm }, y)) = unary(graph, id.into(), perm) else { return Ok(false) };
    let Some(Op::Attention(attention)) = graph.op(y).filter(|_| graph.used_once(y)) else { return Ok(false) };
    let place = |d: usize| perm.iter().position(|p| *p == d);
    if place(2) > place(1) || perm.last() != Some(&3) {
        return Ok(false);
    }
    let mut attention = attention.clone();
    attention.inner[3] = !attention.inner[3];
    let inputs = graph.node(y.node).inputs.clone();
    let turned = emit(graph, attention, &inputs, y.node)?;
    let rest: Vec<usize> = perm.iter().map(|p| [0, 2, 1, 3][*p]).collect();
    let result = transposed(graph, turned, &rest, id)?;
    swap(graph, id, result)
}

/// `attention(q, repeat(k), repeat(v)) → attention(q, k, v)`, where `repeat` gives each of the key heads to several
/// neighbouring query heads: `[b, h, s, d] → [b, h, 1, s, d] → [b, h, g, s, d] → [b, h·g, s, d]`.
fn shared_heads(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(Op::Attention(attention)) = graph.node(id).op() else { return Ok(false) };
    let (attention, mut inputs) = (attention.clone(), graph.node(id).inputs.clone());
    if attention.inner[1] || attention.inner[2] {
        return Ok(false);
    }
    let (Some(k), Some(v)) = (repeated(graph, inputs[1]), repeated(graph, inputs[2])) else {
        return Ok(false);
    };
    inputs[1] = emit(graph, crate::ops::Reshape { shape: k.1 }, &[k.0], id)?;
    inputs[2] = emit(graph, crate::ops::Reshape { shape: v.1 }, &[v.0], id)?;
    become_op(graph, id, attention, &inputs)
}

// The source of a repetition of heads, and its shape `[b, h, s, d]`.
fn repeated(graph: &Graph, value: Value) -> Option<(Value, Vec<Dim>)> {
    let (_, wide) = unary(graph, value, |op| matches!(op, Op::Reshape(_)).then_some(()))?;
    let (_, x) = unary(graph, wide, |op| matches!(op, Op::Broadcast(_)).then_some(()))?;
    let (narrow, wide, out) = (&graph.ty(x).shape, &graph.ty(wide).shape, &graph.ty(value).shape);
    let [b, h, one, s, d] = narrow.as_slice() else { return None };
    let [_, wide_h, groups, ..] = wide.as_slice() else { return None };
    let whole = one.is(1) && wide_h == h && wide.len() == 5 && wide[0] == *b && wide[3..] == narrow[3..];
    let joined = out.len() == 4 && out[0] == *b && out[1] == h * groups && out[2..] == narrow[3..];
    (whole && joined).then(|| (x, vec![b.clone(), h.clone(), s.clone(), d.clone()]))
}
