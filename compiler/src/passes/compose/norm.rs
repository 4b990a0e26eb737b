//! Normalisations and softmax from their pieces.

use crate::ir::{Graph, NodeId, Value};
use crate::ops::{GroupNorm, LayerNorm, Op, Reduce, Softmax};
use crate::passes::Rule;
use crate::passes::pattern::*;
use bakelite_host::Pw;
use bakelite_host::problem::{Layout, ReduceKind};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("layer_norm", layer_norm),
    ("norm_scale", norm_scale),
    ("norm_bias", norm_bias),
    ("group_norm", group_norm),
    ("group_norm_affine", group_norm_affine),
    ("softmax", softmax),
    ("log_softmax", log_softmax),
];

// The operand of a reduction of `kind` that keeps its dimensions, and the axes.
fn reduced(graph: &Graph, value: Value, kind: ReduceKind) -> Option<(Value, Vec<usize>)> {
    let pick = |op: &Op| match op {
        Op::Reduce(Reduce { kind: k, axes, keepdims: true }) if *k == kind => Some(axes.clone()),
        _ => None,
    };
    unary(graph, value, pick).map(|(axes, x)| (x, axes))
}

// `d` and the variance's pieces of `n = d / √(mean(d²) + ε)`, in either of its forms.
fn normalised(graph: &Graph, n: Value) -> Option<(Value, Vec<usize>, f64)> {
    let (d, sum) = if let Some([d, root]) = applied::<2>(graph, n, Pw::Div) {
        let [sum] = applied::<1>(graph, root, Pw::Sqrt)?;
        (graph.used_once(root) && graph.used_once(sum)).then_some((d, sum))?
    } else {
        let pair = applied::<2>(graph, n, Pw::Mul)?;
        let [d, root] = ordered(pair, |v| applied::<1>(graph, v, Pw::Rsqrt).is_some())?;
        let [sum] = applied::<1>(graph, root, Pw::Rsqrt)?;
        (graph.used_once(root) && graph.used_once(sum)).then_some((d, sum))?
    };
    let [mean, epsilon] = applied::<2>(graph, sum, Pw::Add)?;
    let epsilon = uniform(graph, epsilon).filter(|e| *e >= 0.0)?;
    let (square, axes) = reduced(graph, mean, ReduceKind::Mean)?;
    let [a, b] = applied::<2>(graph, square, Pw::Mul)?;
    if a != d || b != d || !graph.used_once(mean) || !graph.used_once(square) {
        return None;
    }
    let rank = graph.ty(d).rank();
    let trailing = axes.last() == Some(&rank.checked_sub(1)?) && axes.windows(2).all(|w| w[0] + 1 == w[1]);
    trailing.then_some((d, axes, epsilon))
}

/// `d / √(mean(d²) + ε)` with `d = x − mean(x)` → layer_norm(x, 1); with any other `d` → layer_norm(d, 1) {rms}.
fn layer_norm(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((d, axes, epsilon)) = normalised(graph, id.into()) else { return Ok(false) };
    if graph.ty(d) != &graph.node(id).types[0] {
        return Ok(false);
    }
    // d is read by its square, twice, and by the quotient.
    let centred = applied::<2>(graph, d, Pw::Sub).filter(|[x, mean]| {
        private(graph, d, 3)
            && graph.used_once(*mean)
            && reduced(graph, *mean, ReduceKind::Mean) == Some((*x, axes.clone()))
    });
    let (x, rms) = centred.map_or((d, true), |[x, _]| (x, false));
    let (axis, ty) = (axes[0], graph.ty(x).clone());
    let Some(sizes) = crate::ir::Type { dtype: ty.dtype, shape: ty.shape[axis..].to_vec() }.dims() else {
        return Ok(false);
    };
    let scale = filled(graph, ty.dtype, &sizes, 1.0, "one");
    become_op(graph, id, LayerNorm { rms, axis, epsilon: epsilon as f32 }, &[x, scale])
}

// A value that has exactly the elements of `like`'s dimensions from `axis` on, right-aligned; a lone constant is spread.
fn along(graph: &mut Graph, value: Value, like: Value, axis: usize) -> Option<Value> {
    let (ty, own) = (graph.ty(like).clone(), graph.ty(value).clone());
    let len = ty.rank() - axis;
    let tail = own.rank().checked_sub(len);
    let exact =
        tail.is_some_and(|t| own.shape[t..] == ty.shape[axis..] && own.shape[..t].iter().all(|d| d.is(1)));
    if exact && own.rank() <= ty.rank() && own.dtype == ty.dtype {
        return Some(value);
    }
    let number = uniform(graph, value)?;
    let sizes = crate::ir::Type { dtype: ty.dtype, shape: ty.shape[axis..].to_vec() }.dims()?;
    (own.count().is(1) && own.rank() <= ty.rank() && own.dtype == ty.dtype)
        .then(|| filled(graph, ty.dtype, &sizes, number, "scale"))
}

fn layer_norm_of(graph: &Graph, value: Value) -> Option<(LayerNorm, Vec<Value>)> {
    match graph.op(value) {
        Some(Op::LayerNorm(norm)) if graph.used_once(value) => {
            Some((norm.clone(), graph.node(value.node).inputs.clone()))
        }
        _ => None,
    }
}

/// `layer_norm(x, 1) · s → layer_norm(x, s)`
fn norm_scale(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(pair) = applied::<2>(graph, id.into(), Pw::Mul) else { return Ok(false) };
    let Some([s, y]) = ordered(pair, |v| layer_norm_of(graph, v).is_some()) else { return Ok(false) };
    let Some((norm, inputs)) = layer_norm_of(graph, y) else { return Ok(false) };
    if inputs.len() != 2 || uniform(graph, inputs[1]) != Some(1.0) || s == y {
        return Ok(false);
    }
    match along(graph, s, y, norm.axis) {
        Some(scale) => become_op(graph, id, norm, &[inputs[0], scale]),
        None => Ok(false),
    }
}

/// `layer_norm(x, s) + b → layer_norm(x, s, b)`
fn norm_bias(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some(pair) = applied::<2>(graph, id.into(), Pw::Add) else { return Ok(false) };
    // A residual sum of two norms has no bias; only a constant is one.
    let Some([y, b]) = ordered(pair, |v| graph.data(v).is_some()) else { return Ok(false) };
    let Some((norm, inputs)) = layer_norm_of(graph, y) else { return Ok(false) };
    if inputs.len() != 2 {
        return Ok(false);
    }
    match along(graph, b, y, norm.axis) {
        Some(bias) => become_op(graph, id, norm, &[inputs[0], inputs[1], bias]),
        None => Ok(false),
    }
}

/// `reshape(instance_norm(reshape(x: [n, c, ...], [n, g, ...])), shape of x) → group_norm(x, 1, 0) {groups=g}`
fn group_norm(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let reshape = |op: &Op| matches!(op, Op::Reshape(_)).then_some(());
    let Some((_, y)) = unary(graph, id.into(), reshape) else { return Ok(false) };
    let (Some(Op::GroupNorm(norm)), &[flat, scale, bias]) =
        (graph.op(y), graph.node(y.node).inputs.as_slice())
    else {
        return Ok(false);
    };
    let Some((_, x)) = unary(graph, flat, reshape) else { return Ok(false) };
    let (ty, inner) = (graph.ty(x).clone(), graph.ty(flat).clone());
    let groups = norm.groups;
    let whole = inner.rank() >= 3 && inner.shape[1].is(groups as i64) && inner.shape[0] == ty.shape[0];
    let plain = about(graph, scale, 1.0) && uniform(graph, bias) == Some(0.0);
    if !whole
        || !plain
        || norm.layout != Layout::ChannelsFirst
        || !graph.used_once(y)
        || !graph.used_once(flat)
    {
        return Ok(false);
    }
    let Some(channels) = ty.shape.get(1).and_then(|c| c.as_const()).filter(|c| *c > 0 && ty.rank() >= 3)
    else {
        return Ok(false);
    };
    let (epsilon, channels) = (norm.epsilon, channels as usize);
    if channels % groups != 0 || channels == groups {
        return Ok(false);
    }
    let one = filled(graph, ty.dtype, &[channels], 1.0, "one");
    let zero = filled(graph, ty.dtype, &[channels], 0.0, "zero");
    become_op(graph, id, GroupNorm { groups, epsilon, layout: Layout::ChannelsFirst }, &[x, one, zero])
}

/// `group_norm(x, s, b) · c → group_norm(x, s·c, b·c)`, `group_norm(x, s, b) + c → group_norm(x, s, b + c)` for constants by
/// channel.
fn group_norm_affine(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let (op, [y, c]) =
        match (applied::<2>(graph, id.into(), Pw::Mul), applied::<2>(graph, id.into(), Pw::Add)) {
            (Some(pair), _) => (Pw::Mul, pair),
            (_, Some(pair)) => (Pw::Add, pair),
            _ => return Ok(false),
        };
    let (Some(Op::GroupNorm(norm)), &[x, scale, bias]) = (graph.op(y), graph.node(y.node).inputs.as_slice())
    else {
        return Ok(false);
    };
    let norm = norm.clone();
    let rank = graph.ty(y).rank();
    let channel = if norm.layout == Layout::ChannelsFirst { 1 } else { rank - 1 };
    let Some(tensor) = graph.data(c) else { return Ok(false) };
    let count = tensor.count();
    let fits = varies_along(tensor, rank).is_some_and(|d| d.is_none_or(|d| d == channel));
    if !fits || !graph.used_once(y) || graph.data(scale).is_none() || graph.data(bias).is_none() {
        return Ok(false);
    }
    let Some(c) = reshaped(graph, c, &[count]) else { return Ok(false) };
    let (s, b) = match op {
        Pw::Mul => {
            (pointwise_constant(graph, Pw::Mul, scale, c), pointwise_constant(graph, Pw::Mul, bias, c))
        }
        _ => (Some(scale), pointwise_constant(graph, Pw::Add, bias, c)),
    };
    match (s, b) {
        (Some(s), Some(b)) => become_op(graph, id, norm, &[x, s, b]),
        _ => Ok(false),
    }
}

fn pointwise_constant(graph: &mut Graph, op: Pw, a: Value, b: Value) -> Option<Value> {
    compute(graph, crate::ops::Apply { op }, &[a, b])
}

/// `e / sum(e)` with `e = exp(x − max(x))`, or `exp(x)`, along one dimension → softmax(x)
fn softmax(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some([e, sum]) = applied::<2>(graph, id.into(), Pw::Div) else { return Ok(false) };
    let Some((summed, axes)) = reduced(graph, sum, ReduceKind::Sum) else { return Ok(false) };
    let (Some([shifted]), &[axis]) = (applied::<1>(graph, e, Pw::Exp), axes.as_slice()) else {
        return Ok(false);
    };
    if summed != e || !graph.used_once(sum) || !private(graph, e, 2) {
        return Ok(false);
    }
    let centred = applied::<2>(graph, shifted, Pw::Sub)
        .filter(|[x, max]| reduced(graph, *max, ReduceKind::Max) == Some((*x, axes.clone())));
    let x = centred.map_or(shifted, |[x, _]| x);
    become_op(graph, id, Softmax { axis, log: false }, &[x])
}

/// `log(softmax(x)) → softmax(x) {log}`
fn log_softmax(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some([y]) = applied::<1>(graph, id.into(), Pw::Log) else { return Ok(false) };
    let pick = |op: &Op| if let Op::Softmax(Softmax { axis, log: false }) = op { Some(*axis) } else { None };
    match unary(graph, y, pick) {
        Some((axis, x)) if graph.used_once(y) => become_op(graph, id, Softmax { axis, log: true }, &[x]),
        _ => Ok(false),
    }
}
