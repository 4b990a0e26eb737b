//! Masks of attention: those that hide nothing, or no more than what `causal` says, and those that are multiplied in.

use super::triangle::{Form, form};
use crate::ir::{Graph, NodeId, Tensor, Value};
use crate::ops::{Attention, Cast, Op};
use crate::passes::Rule;
use crate::passes::pattern::*;
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;

pub(super) const RULES: &[(&str, Rule)] =
    &[("idle_mask", idle_mask), ("causal_mask", causal_mask), ("mask_product", mask_product)];

/// Added to a score, a finite number of at most this hides a key as −∞ does, beside keys that are not hidden.
const HIDDEN: f64 = -1e4;

/// `attention(q, k, v, 0) → attention(q, k, v)`
fn idle_mask(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((attention, inputs)) = masked(graph, id) else { return Ok(false) };
    let idle = if graph.ty(inputs[3]).dtype == DType::Bool { 1.0 } else { 0.0 };
    let Some(Form::Uniform(number)) = form(graph, inputs[3]) else { return Ok(false) };
    if number.uniform() != Some(idle) {
        return Ok(false);
    }
    become_op(graph, id, attention, &inputs[..3])
}

/// `attention(q, k, v, later) → causal attention(q, k, v)`, where `later` hides the keys after the query and no others;
/// `attention(q, k, v, m ∧ later) → causal attention(q, k, v, m)`, also as what m ∧ later or its negation select of 0 and −∞,
/// and as the sum of m and the 0 and −∞ of `later`.
/// A finite number hides nothing from a query all of whose keys it stands for, so it may only stand alone, and only where
/// every query has a key.
fn causal_mask(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((mut attention, inputs)) = masked(graph, id) else { return Ok(false) };
    let rows = |v: Value, inner: bool| graph.ty(v).shape.get(if inner { 1 } else { 2 }).cloned();
    let (Some(q), Some(k)) = (rows(inputs[0], attention.inner[0]), rows(inputs[1], attention.inner[1]))
    else {
        return Ok(false);
    };
    let room = (&k - &q).bounds(&graph.symbols).0;
    let was = std::mem::replace(&mut attention.causal, true);
    let seen = |hidden: Hidden| hidden == Hidden::Whole || was || room >= 0;
    if later(graph, inputs[3], &q, &k, false).is_some_and(seen) {
        return become_op(graph, id, attention, &inputs[..3]);
    }
    let Some(rest) = beside_later(graph, inputs[3], &q, &k, id)? else { return Ok(false) };
    become_op(graph, id, attention, &[inputs[0], inputs[1], inputs[2], rest])
}

/// `x·m + n → select(m, x·c, n)`, where m is c up to a diagonal and 0 beyond it, and n is 0 and a number that hides; and
/// `x·m − n` so. For finite x: another would not be hidden, but make NaN.
fn mask_product(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let ty = graph.node(id).types[0].clone();
    let sides = |v: Value| match form(graph, v)? {
        Form::Triangle { diagonal, sides } => Some((diagonal, <[f64; 2]>::try_from(sides.to_f64()).ok()?)),
        _ => None,
    };
    let product = |v: Value| applied::<2>(graph, v, Pw::Mul);
    let found = || {
        let ([n, x], sign) = match applied::<2>(graph, id.into(), Pw::Add) {
            Some(pair) => (ordered(pair, |v| product(v).is_some() && sides(v).is_none())?, 1.0),
            None => applied::<2>(graph, id.into(), Pw::Sub).map(|[x, n]| ([n, x], -1.0))?,
        };
        let [x, m] = ordered(product(x)?, |v| sides(v).is_some())?;
        let (diagonal, [seen, hidden]) = sides(n)?;
        let (same, [factor, zero]) = sides(m)?;
        let hides =
            zero == 0.0 && factor != 0.0 && factor.is_finite() && seen == 0.0 && sign * hidden <= HIDDEN;
        (hides && diagonal == same && *graph.ty(x) == ty).then_some((x, m, factor, sign * hidden))
    };
    let Some((mut x, m, factor, hidden)) = found() else { return Ok(false) };
    let keep = emit(graph, Cast { to: DType::Bool }, &[m], id)?;
    if factor != 1.0 {
        let factor = graph.constant(Tensor::scalar(ty.dtype, factor), "");
        x = pointwise(graph, Pw::Mul, &[x, factor], id)?;
    }
    let hidden = graph.constant(Tensor::scalar(ty.dtype, hidden), "");
    let selected = pointwise(graph, Pw::Select, &[keep, x, hidden], id)?;
    swap(graph, id, selected)
}

fn masked(graph: &Graph, id: NodeId) -> Option<(Attention, Vec<Value>)> {
    let node = graph.node(id);
    match node.op() {
        Some(Op::Attention(attention)) if node.inputs.len() == 4 => {
            Some((attention.clone(), node.inputs.clone()))
        }
        _ => None,
    }
}

/// How a mask hides.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hidden {
    /// By false or −∞.
    Whole,
    /// By numbers, of which some are finite.
    Finite,
}

/// How a mask hides key j from query i exactly where `j > i + k − q`; `None` if it hides others, or not these. With `negated`, a
/// bool mask hides where it is true.
fn later(graph: &Graph, mask: Value, q: &Dim, k: &Dim, negated: bool) -> Option<Hidden> {
    // The numbers of a constant may differ among those that hide.
    if let Some(tensor) = graph.data(mask) {
        return later_in(tensor, q.as_const()?, k.as_const()?, negated);
    }
    let ty = graph.ty(mask);
    let [.., rows, columns] = ty.shape.as_slice() else { return None };
    let Some(Form::Triangle { diagonal, sides }) = form(graph, mask) else { return None };
    if (rows, columns) != (q, k) || diagonal != k - q {
        return None;
    }
    let [upto, beyond] = *sides.to_f64().as_slice() else { return None };
    match ty.dtype {
        DType::Bool => (((upto != 0.0) != negated) && ((beyond != 0.0) == negated)).then_some(Hidden::Whole),
        _ if upto != 0.0 || beyond.is_nan() || beyond > HIDDEN => None,
        _ if beyond == f64::NEG_INFINITY => Some(Hidden::Whole),
        _ => Some(Hidden::Finite),
    }
}

fn later_in(mask: &Tensor, q: i64, k: i64, negated: bool) -> Option<Hidden> {
    let [.., rows, columns] = *mask.shape.as_slice() else { return None };
    if (rows as i64, columns as i64) != (q, k) || columns == 0 {
        return None;
    }
    let bool = mask.dtype == DType::Bool;
    let mut hidden = Hidden::Whole;
    let bytes = columns * mask.dtype.size();
    for n in 0..mask.bytes.len() / bytes {
        let row = mask.bytes.slice(n * bytes..(n + 1) * bytes);
        let row = Tensor { dtype: mask.dtype, shape: vec![columns], bytes: row }.to_f64();
        let seen = ((n % rows) as i64 + 1 + k - q).clamp(0, k) as usize;
        let (before, after) = row.split_at(seen);
        let open = |x: &f64| if bool { (*x != 0.0) != negated } else { *x == 0.0 };
        let shut = |x: &f64| if bool { !open(x) } else { *x <= HIDDEN };
        if !before.iter().all(open) || !after.iter().all(shut) {
            return None;
        }
        if !bool && after.iter().any(|x| *x != f64::NEG_INFINITY) {
            hidden = Hidden::Finite;
        }
    }
    Some(hidden)
}

/// `m` of a mask `m ∧ later` that hides whole; also of what that or its negation selects of 0 and −∞, and of `m + later`.
fn beside_later(
    graph: &mut Graph,
    mask: Value,
    q: &Dim,
    k: &Dim,
    like: NodeId,
) -> Result<Option<Value>, String> {
    if let Some([condition, a, b]) = applied::<3>(graph, mask, Pw::Select) {
        let negated = match (uniform(graph, a), uniform(graph, b)) {
            (Some(0.0), Some(f64::NEG_INFINITY)) => false,
            (Some(f64::NEG_INFINITY), Some(0.0)) => true,
            _ => return Ok(None),
        };
        let Some(rest) = conjunct(graph, condition, q, k, negated) else { return Ok(None) };
        return pointwise(graph, Pw::Select, &[rest, a, b], like).map(Some);
    }
    if let Some(pair) = applied::<2>(graph, mask, Pw::Add) {
        let later = |v: Value| later(graph, v, q, k, false) == Some(Hidden::Whole);
        return Ok(ordered(pair, later).map(|[rest, _]| rest));
    }
    Ok(conjunct(graph, mask, q, k, false))
}

// The other operand of a conjunction with `later`; of a disjunction with its negation if `negated`.
fn conjunct(graph: &Graph, mask: Value, q: &Dim, k: &Dim, negated: bool) -> Option<Value> {
    let joined = if negated { Pw::Or } else { Pw::And };
    let pair = applied::<2>(graph, mask, joined)?;
    let [rest, _] = ordered(pair, |v| later(graph, v, q, k, negated) == Some(Hidden::Whole))?;
    Some(rest)
}
