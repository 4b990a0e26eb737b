//! Factors, sums and padding that a weighted operator can take up: how batch normalisation disappears into convolutions.

use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Apply, Conv, Op, Pool};
use crate::passes::Rule;
use crate::passes::pattern::*;
use bakelite_host::Pw;
use bakelite_host::problem::{Layout, PadMode, PoolKind};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("scale_weights", scale_weights),
    ("scale_sum", scale_sum),
    ("pad_conv", pad_conv),
    ("pad_pool", pad_pool),
];

// Where a weighted operator's result has its filters, and its weight: (dimension of the result, of the weight).
fn filters(graph: &Graph, value: Value) -> Option<(usize, usize)> {
    let node = graph.node(value.node);
    let rank = node.types[0].rank();
    let channel = |layout: Layout| if layout == Layout::ChannelsFirst { 1 } else { rank - 1 };
    let weight = *node.inputs.get(1)?;
    graph.data(weight)?;
    match node.op()? {
        Op::Conv(conv) => Some((channel(conv.layout), 0)),
        Op::ConvTranspose(conv) if conv.groups == 1 => Some((channel(conv.layout), 1)),
        Op::MatMul(product) => {
            let wr = graph.ty(weight).rank();
            Some((rank - 1, if product.trans_b { wr - 2 } else { wr - 1 }))
        }
        _ => None,
    }
}

// A constant that is one number, or varies along the filters of `value` only, as a factor of its weight; `None` otherwise.
fn factor(graph: &mut Graph, value: Value, constant: Value) -> Option<Value> {
    let (out, at) = filters(graph, value)?;
    let (rank, weight) = (graph.ty(value).rank(), *graph.node(value.node).inputs.get(1)?);
    let tensor = graph.data(constant)?;
    if tensor.dtype != graph.ty(weight).dtype {
        return None;
    }
    let mut shape = vec![1; graph.ty(weight).rank()];
    match varies_along(tensor, rank)? {
        None => {}
        Some(d) if d == out => shape[at] = tensor.count(),
        Some(_) => return None,
    }
    reshaped(graph, constant, &shape)
}

/// `conv(x, w) · c → conv(x, w · c)` for c constant or varying by filter only, and so for conv_transpose and matmul with a
/// constant weight.
fn scale_weights(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some([y, c]) = applied::<2>(graph, id.into(), Pw::Mul) else { return Ok(false) };
    if !graph.used_once(y) || graph.data(c).is_none() {
        return Ok(false);
    }
    let Some(factor) = factor(graph, y, c) else { return Ok(false) };
    let node = graph.node(y.node).clone();
    let Some(op) = node.op() else { return Ok(false) };
    let Some(weight) = compute(graph, Apply { op: Pw::Mul }, &[node.inputs[1], factor]) else {
        return Ok(false);
    };
    if graph.ty(weight) != graph.ty(node.inputs[1]) || overflows(graph, weight, node.inputs[1]) {
        return Ok(false);
    }
    let new = graph.add(op.clone(), &[node.inputs[0], weight], node.name)?;
    if graph.ty(new.into()) != &graph.node(id).types[0] {
        return Ok(false);
    }
    swap(graph, id, new.into())
}

// Whether a product has infinities that its factor has not.
fn overflows(graph: &Graph, new: Value, old: Value) -> bool {
    let finite = |v: Value| graph.data(v).is_none_or(|t| t.to_f64().iter().all(|x| x.is_finite()));
    !finite(new) && finite(old)
}

/// `(y + b) · c → y · c + b · c` for constants b, c, where y is a weighted operator that takes up c.
fn scale_sum(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some([sum, c]) = applied::<2>(graph, id.into(), Pw::Mul) else { return Ok(false) };
    let Some([y, b]) = applied::<2>(graph, sum, Pw::Add) else { return Ok(false) };
    let (Some(tb), Some(tc)) = (graph.data(b), graph.data(c)) else { return Ok(false) };
    let most = tb.count().max(tc.count());
    if !graph.used_once(sum)
        || !graph.used_once(y)
        || graph.ty(y) != graph.ty(sum)
        || factor(graph, y, c).is_none()
    {
        return Ok(false);
    }
    let Some(bias) = compute(graph, Apply { op: Pw::Mul }, &[b, c]) else { return Ok(false) };
    if graph.data(bias).is_none_or(|t| t.count() > most) || overflows(graph, bias, b) {
        return Ok(false);
    }
    let scaled = pointwise(graph, Pw::Mul, &[y, c], y.node)?;
    become_op(graph, id, Apply { op: Pw::Add }, &[scaled, bias])
}

// The spatial padding of a constant pad of `value` (before, after, the value), if it leaves batch and channels alone.
fn padding(graph: &Graph, value: Value, layout: Layout) -> Option<(Value, Vec<usize>, Vec<usize>, f64)> {
    let (Op::Pad(pad), &[x, c]) = (graph.op(value)?, graph.node(value.node).inputs.as_slice()) else {
        return None;
    };
    if pad.mode != PadMode::Constant {
        return None;
    }
    let rank = pad.begin.len();
    let spatial = if layout == Layout::ChannelsFirst { 2..rank } else { 1..rank.checked_sub(1)? };
    let outside = (0..rank).filter(|d| !spatial.contains(d));
    if rank < 3 || outside.clone().any(|d| pad.begin[d] != 0 || pad.end[d] != 0) {
        return None;
    }
    let amounts =
        |all: &[i64]| all[spatial.clone()].iter().map(|a| usize::try_from(*a).ok()).collect::<Option<_>>();
    Some((x, amounts(&pad.begin)?, amounts(&pad.end)?, uniform(graph, c)?))
}

fn sum(a: &[usize], b: &[usize]) -> Vec<usize> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// `conv(pad(x, 0), w) → conv(x, w) {pads + padding}`
fn pad_conv(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let (Some(Op::Conv(conv)), &[x, w]) = (node.op(), node.inputs.as_slice()) else { return Ok(false) };
    let conv = conv.clone();
    let Some((x, before, after, value)) = padding(graph, x, conv.layout) else { return Ok(false) };
    if value != 0.0 {
        return Ok(false);
    }
    let (pads, pads_end) = (sum(&conv.pads, &before), sum(&conv.pads_end, &after));
    become_op(graph, id, Conv { pads, pads_end, ..conv }, &[x, w])
}

/// `pool(pad(x)) → pool(x) {pads + padding}` for an average that counts padding of 0, and a maximum over padding of −∞.
fn pad_pool(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let (Some(Op::Pool(pool)), &[x]) = (node.op(), node.inputs.as_slice()) else { return Ok(false) };
    let pool = pool.clone();
    let Some((x, before, after, value)) = padding(graph, x, pool.layout) else { return Ok(false) };
    let unpadded = pool.pads.iter().chain(&pool.pads_end).all(|p| *p == 0);
    let kind = match pool.kind {
        // Every window of a pool without its own padding lies in the padded operand: all of it counts.
        PoolKind::Average { count_pads } if value == 0.0 && (count_pads || unpadded) && !pool.ceil => {
            PoolKind::Average { count_pads: true }
        }
        PoolKind::Max if value == f64::NEG_INFINITY => PoolKind::Max,
        _ => return Ok(false),
    };
    // A window wholly in the padding would have nothing to take the maximum of.
    let inside =
        |d: usize| pool.pads[d] + before[d] < pool.kernel[d] && pool.pads_end[d] + after[d] < pool.kernel[d];
    if kind == PoolKind::Max && !(0..pool.kernel.len()).all(inside) {
        return Ok(false);
    }
    let (pads, pads_end) = (sum(&pool.pads, &before), sum(&pool.pads_end, &after));
    become_op(graph, id, Pool { kind, pads, pads_end, ..pool }, &[x])
}
