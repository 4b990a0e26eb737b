//! Channels-last for convolutions on tensor cores. Each convolution is given its layout between two transposes; then every
//! transpose sinks through what follows until it meets its opposite, and is gone. At the graph's borders one stays.
//!
//! Only for CUDA, and only for f16, bf16 and tf32: exact f32 convolutions stay channels-first.

use super::pattern::*;
use super::{Options, Rule, TargetKind, rewrite};
use crate::ir::{Graph, NodeId, Type, Value};
use crate::ops::{
    Broadcast, Concat, Conv, ConvTranspose, GroupNorm, Op, Pad, Pool, Reduce, Reshape, Resize, Slice,
    Softmax, Transpose,
};
use bakelite_host::DType;
use bakelite_host::problem::{Layout, Math};
use bakelite_kernels::Dim;

const RULES: &[(&str, Rule)] = &[
    ("merge", merge),
    ("sink_window", sink_window),
    ("sink_pointwise", sink_pointwise),
    ("sink_move", sink_move),
    ("sink_reduce", sink_reduce),
    ("sink_reshape", sink_reshape),
    ("split_shuffle", split_shuffle),
    ("flatten_weights", flatten_weights),
];

/// How the one transpose of q, k and v together parts into three, which attention takes up.
pub(super) const HEADS: &[(&str, Rule)] = &[("part_heads", part_heads)];

/// Chooses layouts and moves the transposes.
pub fn run(graph: &mut Graph, options: &Options) -> Result<(), String> {
    if options.target != TargetKind::Cuda {
        return Ok(());
    }
    let mut changed = false;
    for id in graph.order() {
        changed |= lay_last(graph, id, options.precision.math() != Math::Exact)?;
    }
    if changed {
        rewrite(graph, RULES)?;
    }
    Ok(())
}

fn to_last(rank: usize) -> Vec<usize> {
    std::iter::once(0).chain(2..rank).chain([1]).collect()
}

fn to_first(rank: usize) -> Vec<usize> {
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}

/// `conv(x, w) → transpose(conv(transpose(x), w) {layout=last})`, and so for conv_transpose.
fn lay_last(graph: &mut Graph, id: NodeId, tf32: bool) -> Result<bool, String> {
    let node = graph.node(id);
    let (rank, dtype) = (node.types[0].rank(), node.types[0].dtype);
    let half = dtype.is_half();
    let op: Op = match node.op() {
        Some(Op::Conv(conv))
            if conv.layout == Layout::ChannelsFirst && (half || conv.math != Math::Exact) =>
        {
            Conv { layout: Layout::ChannelsLast, ..conv.clone() }.into()
        }
        Some(Op::ConvTranspose(conv))
            if conv.layout == Layout::ChannelsFirst && (half || tf32 && dtype == DType::F32) =>
        {
            ConvTranspose { layout: Layout::ChannelsLast, ..conv.clone() }.into()
        }
        _ => return Ok(false),
    };
    if !matches!(rank, 3 | 4) {
        return Ok(false);
    }
    let inputs = node.inputs.clone();
    let x = transposed(graph, inputs[0], &to_last(rank), id)?;
    let y = emit(graph, op, &[x, inputs[1]], id)?;
    let y = emit(graph, Transpose { perm: to_first(rank) }, &[y], id)?;
    swap(graph, id, y)?;
    graph.prune(id);
    Ok(true)
}

fn transpose(op: &Op) -> Option<Transpose> {
    if let Op::Transpose(t) = op { Some(t.clone()) } else { None }
}

// The transposes that sink: those behind convolutions, and what reshapes make of them. A model's own transposes of rows
// or heads stay where they are.
fn sinking(op: &Op) -> Option<Transpose> {
    transpose(op).filter(|t| t.perm.len() > 4 || t.perm.len() >= 3 && t.perm == to_first(t.perm.len()))
}

/// Two transposes are one, or none.
fn merge(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((outer, inner)) = unary(graph, id.into(), transpose) else { return Ok(false) };
    if outer.is_identity() {
        return swap(graph, id, inner);
    }
    let Some((first, x)) = unary(graph, inner, transpose) else { return Ok(false) };
    let both = outer.after(&first);
    if both.is_identity() { swap(graph, id, x) } else { become_op(graph, id, both, &[x]) }
}

/// Replaces node `id` by `op` on `inputs` and the transpose after it.
fn sunk(
    graph: &mut Graph,
    id: NodeId,
    op: impl Into<Op>,
    inputs: &[Value],
    after: &Transpose,
) -> Result<bool, String> {
    let op = op.into();
    let types: Vec<&Type> = inputs.iter().map(|v| graph.ty(*v)).collect();
    let Ok(inferred) = op.infer(&types) else { return Ok(false) };
    let Some(first) = inferred.first().filter(|t| t.rank() == after.perm.len()) else { return Ok(false) };
    let shape: Vec<Dim> = after.perm.iter().map(|p| first.shape[*p].clone()).collect();
    if shape != graph.node(id).types[0].shape {
        return Ok(false);
    }
    let y = emit(graph, op, inputs, id)?;
    let y = if after.is_identity() { y } else { emit(graph, after.clone(), &[y], id)? };
    swap(graph, id, y)
}

/// Pools and group normalisation take channels-last as they come.
fn sink_window(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let op: Op = match node.op() {
        Some(Op::Pool(pool)) if pool.layout == Layout::ChannelsFirst => {
            Pool { layout: Layout::ChannelsLast, ..pool.clone() }.into()
        }
        Some(Op::GroupNorm(norm)) if norm.layout == Layout::ChannelsFirst => {
            GroupNorm { layout: Layout::ChannelsLast, ..norm.clone() }.into()
        }
        _ => return Ok(false),
    };
    let mut inputs = node.inputs.clone();
    let Some((perm, x)) = unary(graph, inputs[0], sinking) else { return Ok(false) };
    if perm.perm != to_first(perm.perm.len()) {
        return Ok(false);
    }
    inputs[0] = x;
    sunk(graph, id, op, &inputs, &perm)
}

/// `f(transpose(x), y) → transpose(f(x, transpose⁻¹(y)))` for pointwise f, casts and concatenation, unless that would leave
/// more transposes than it takes away.
fn sink_pointwise(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let op = match node.op() {
        Some(op @ (Op::Apply(_) | Op::Cast(_) | Op::Concat(_))) => op.clone(),
        _ => return Ok(false),
    };
    let (inputs, out) = (node.inputs.clone(), node.types[0].clone());
    let permuted =
        |v: &Value| unary(graph, *v, sinking).map(|(t, _)| t).filter(|t| t.perm.len() == out.rank());
    let Some(perm) = inputs.iter().find_map(permuted) else { return Ok(false) };
    let inverse = perm.inverse();
    let (mut gone, mut made) = (0, 0);
    for value in &inputs {
        let ty = graph.ty(*value);
        if permuted(value).as_ref() == Some(&perm) {
            gone += 1;
        } else if graph.data(*value).is_none() && !free(graph, *value, &inverse, out.rank()) {
            // Smaller operands count as much: each is a launch.
            made += 1;
        } else if ty.rank() > out.rank() {
            return Ok(false);
        }
    }
    if made >= gone {
        return Ok(false);
    }
    let op: Op = match op {
        // Dimension d of the result is dimension perm[d] of what lies before the transpose.
        Op::Concat(Concat { axis }) => Concat { axis: perm.perm[axis] }.into(),
        other => other,
    };
    let mut operands = Vec::new();
    for value in inputs {
        operands.push(untransposed(graph, value, &perm, &inverse, id)?);
    }
    sunk(graph, id, op, &operands, &perm)
}

// Whether transposing the (right-aligned) value costs nothing: no element moves, or it is done already, for a convolution.
fn free(graph: &Graph, value: Value, inverse: &Transpose, rank: usize) -> bool {
    let ty = graph.ty(value);
    if ty.rank() > rank {
        return false;
    }
    let mut shape = vec![Dim::from(1); rank - ty.rank()];
    shape.extend(ty.shape.iter().cloned());
    let convolves = |(user, _): &(NodeId, usize)| {
        matches!(graph.op((*user).into()), Some(Op::Conv(_) | Op::ConvTranspose(_)))
    };
    let made = |(user, _): &(NodeId, usize)| {
        graph.op((*user).into()) == Some(&Op::Transpose(inverse.clone()))
            && graph.users((*user).into()).iter().any(convolves)
    };
    moves_nothing(&inverse.perm, &shape) || ty.rank() == rank && graph.users(value).iter().any(made)
}

// The value before the transpose `perm`: its operand, or the inverse transpose of it, right-aligned to the same rank.
fn untransposed(
    graph: &mut Graph,
    value: Value,
    perm: &Transpose,
    inverse: &Transpose,
    like: NodeId,
) -> Result<Value, String> {
    if let Some((own, x)) = unary(graph, value, sinking)
        && own == *perm
    {
        return Ok(x);
    }
    let ty = graph.ty(value).clone();
    let rank = perm.perm.len();
    if ty.shape.iter().all(|d| d.is(1)) {
        return Ok(value);
    }
    let mut shape = vec![Dim::from(1); rank - ty.rank()];
    shape.extend(ty.shape.iter().cloned());
    if moves_nothing(&inverse.perm, &shape) {
        let shape: Vec<Dim> = inverse.perm.iter().map(|p| shape[*p].clone()).collect();
        return shaped(graph, value, shape, like);
    }
    let value = shaped(graph, value, shape, like)?;
    transposed(graph, value, &inverse.perm, like)
}

fn shaped(graph: &mut Graph, value: Value, shape: Vec<Dim>, like: NodeId) -> Result<Value, String> {
    let sizes = Type { dtype: graph.ty(value).dtype, shape: shape.clone() }.dims();
    match sizes.and_then(|sizes| reshaped(graph, value, &sizes)) {
        Some(constant) => Ok(constant),
        None => reshape(graph, value, shape, like),
    }
}

/// Padding, slices, broadcasts, resizing and softmax of a transposed operand are the same with their dimensions permuted.
fn sink_move(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let (Some(op), Some(first)) = (node.op(), node.inputs.first()) else { return Ok(false) };
    let Some((perm, x)) = unary(graph, *first, sinking) else { return Ok(false) };
    // What dimension d of the operand has been, before the transpose.
    let inverse = perm.inverse();
    fn back<T: Clone>(items: &[T], inverse: &Transpose) -> Vec<T> {
        inverse.perm.iter().map(|p| items[*p].clone()).collect()
    }
    if node.types[0].rank() != perm.perm.len() {
        return Ok(false);
    }
    let op: Op = match op {
        Op::Pad(p) => {
            Pad { mode: p.mode, begin: back(&p.begin, &inverse), end: back(&p.end, &inverse) }.into()
        }
        Op::Slice(s) => Slice {
            starts: back(&s.starts, &inverse),
            steps: back(&s.steps, &inverse),
            shape: back(&s.shape, &inverse),
        }
        .into(),
        Op::Broadcast(b) => Broadcast { shape: back(&b.shape, &inverse) }.into(),
        Op::Resize(r) => {
            Resize { shape: back(&r.shape, &inverse), scales: back(&r.scales, &inverse), ..r.clone() }.into()
        }
        Op::Softmax(s) => Softmax { axis: perm.perm[s.axis], log: s.log }.into(),
        _ => return Ok(false),
    };
    let mut inputs = node.inputs.clone();
    inputs[0] = x;
    sunk(graph, id, op, &inputs, &perm)
}

/// A reduction of a transposed operand reduces the dimensions that these were.
fn sink_reduce(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let reduce = |op: &Op| if let Op::Reduce(r) = op { Some(r.clone()) } else { None };
    let Some((reduce, y)) = unary(graph, id.into(), reduce) else { return Ok(false) };
    let Some((perm, x)) = unary(graph, y, sinking) else { return Ok(false) };
    let mut axes: Vec<usize> = reduce.axes.iter().map(|a| perm.perm[*a]).collect();
    axes.sort_unstable();
    let after = if reduce.keepdims {
        perm
    } else {
        // The order of the dimensions that stay.
        let kept: Vec<usize> = perm.perm.iter().copied().filter(|p| !axes.contains(p)).collect();
        let rank_of = |p: &usize| kept.iter().filter(|q| *q < p).count();
        Transpose { perm: kept.iter().map(rank_of).collect() }
    };
    sunk(graph, id, Reduce { axes, ..reduce }, &[x], &after)
}

/// A run of dimensions that a reshape turns into another, and nothing smaller.
struct Segment {
    input: std::ops::Range<usize>,
    output: std::ops::Range<usize>,
}

// The finest split of a reshape into runs of equal products; `None` where symbols leave it open.
fn segments(from: &[Dim], to: &[Dim]) -> Option<Vec<Segment>> {
    let (mut segments, mut i, mut o) = (Vec::<Segment>::new(), 0, 0);
    while i < from.len() && o < to.len() {
        let (start_i, start_o) = (i, o);
        let (mut a, mut b) = (from[i].clone(), to[o].clone());
        (i, o) = (i + 1, o + 1);
        while a != b {
            let smaller = match (a.as_const(), b.as_const()) {
                (Some(a), Some(b)) => a < b,
                _ if b.exact_div(&a).is_some() => true,
                _ if a.exact_div(&b).is_some() => false,
                _ => return None,
            };
            if smaller {
                a = &a * from.get(i)?;
                i += 1;
            } else {
                b = &b * to.get(o)?;
                o += 1;
            }
        }
        segments.push(Segment { input: start_i..i, output: start_o..o });
    }
    // What is left are dimensions of size 1: they join the last run.
    if from[i..].iter().chain(&to[o..]).any(|d| !d.is(1)) {
        return None;
    }
    let last = segments.last_mut()?;
    (last.input.end, last.output.end) = (from.len(), to.len());
    Some(segments)
}

// Where a run of a transpose's dimensions begins before it, if they lie together there in the same order; dimensions of size
// 1 lie anywhere.
fn together(segment: &Segment, perm: &Transpose, before: &[Dim]) -> Option<usize> {
    let dims = &perm.perm[segment.input.clone()];
    let large: Vec<usize> = dims.iter().copied().filter(|d| !before[*d].is(1)).collect();
    let adjacent = |w: &[usize]| w[0] < w[1] && before[w[0] + 1..w[1]].iter().all(|d| d.is(1));
    large.windows(2).all(adjacent).then(|| *large.first().or(dims.first()).unwrap_or(&0))
}

/// `reshape(transpose(x)) → transpose(reshape(x))` where every run of dimensions that the reshape joins lies together, in
/// the same order, before the transpose too.
fn sink_reshape(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let shape = |op: &Op| if let Op::Reshape(r) = op { Some(r.shape.clone()) } else { None };
    let Some((to, y)) = unary(graph, id.into(), shape) else { return Ok(false) };
    let Some((perm, x)) = unary(graph, y, sinking) else { return Ok(false) };
    let Some(segments) = segments(&graph.ty(y).shape, &to) else { return Ok(false) };
    let shape = &graph.ty(x).shape;
    let placed = segments.iter().map(|s| Some((together(s, &perm, shape)?, s)));
    let Some(mut before) = placed.collect::<Option<Vec<(usize, &Segment)>>>() else {
        return Ok(false);
    };
    // The runs in the order they have before the transpose.
    before.sort_by_key(|(first, _)| *first);
    let mut shape = Vec::new();
    let mut place = vec![0; to.len()];
    for (_, segment) in before {
        for d in segment.output.clone() {
            place[d] = shape.len();
            shape.push(to[d].clone());
        }
    }
    sunk(graph, id, Reshape { shape }, &[x], &Transpose { perm: place })
}

/// A reshape that joins dimensions which a transpose has just brought together (a channel shuffle): the transpose becomes
/// one that only brings them together, where they are, and one that sinks.
fn split_shuffle(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let shape = |op: &Op| if let Op::Reshape(r) = op { Some(r.shape.clone()) } else { None };
    let Some((to, y)) = unary(graph, id.into(), shape) else { return Ok(false) };
    let Some((perm, x)) = unary(graph, y, sinking) else { return Ok(false) };
    if !graph.used_once(y) || perm.perm.len() != 5 {
        return Ok(false);
    }
    let Some(segments) = segments(&graph.ty(y).shape, &to) else { return Ok(false) };
    // The runs ordered by where their elements lie, the dimensions inside a run in the reshape's order.
    let mut before: Vec<&Segment> = segments.iter().collect();
    before.sort_by_key(|s| s.input.clone().map(|d| perm.perm[d]).min());
    let local: Vec<usize> = before.iter().flat_map(|s| perm.perm[s.input.clone()].to_vec()).collect();
    let local = Transpose { perm: local };
    if local.is_identity() || local == perm || segments.iter().all(|s| s.input.len() == 1) {
        return Ok(false);
    }
    let mut joined = Vec::new();
    let mut place = vec![0; to.len()];
    for segment in before {
        for d in segment.output.clone() {
            place[d] = joined.len();
            joined.push(to[d].clone());
        }
    }
    let after = Transpose { perm: place };
    // Nothing is gained where no transpose remains to sink.
    if after.is_identity() {
        return Ok(false);
    }
    let near = emit(graph, local, &[x], id)?;
    sunk(graph, id, Reshape { shape: joined }, &[near], &after)
}

/// `matmul(reshape(transpose(x), [n, k]), w) → matmul(reshape(x, [n, k]), w')` for a constant weight, whose rows are put in
/// the order that the elements have before the transpose: the classifier behind a flattened image.
fn flatten_weights(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let (Some(Op::MatMul(product)), &[a, w]) = (node.op(), node.inputs.as_slice()) else { return Ok(false) };
    let product = product.clone();
    let shape = |op: &Op| if let Op::Reshape(r) = op { Some(r.shape.clone()) } else { None };
    let Some((to, y)) = unary(graph, a, shape) else { return Ok(false) };
    let Some((perm, x)) = unary(graph, y, sinking) else { return Ok(false) };
    let (ty, weight) = (graph.ty(y).clone(), graph.ty(w).clone());
    let flattens = to.len() == 2 && to[0] == ty.shape[0] && perm.perm[0] == 0 && !product.trans_a;
    let (Some(weight), Some(image)) =
        (weight.dims(), Type { dtype: ty.dtype, shape: ty.shape[1..].to_vec() }.dims())
    else {
        return Ok(false);
    };
    if !flattens || graph.data(w).is_none() || weight.len() != 2 || !graph.used_once(a) {
        return Ok(false);
    }
    // The weight's rows (columns, if it is transposed) as the image's dimensions, permuted as the image was not.
    let inverse = perm.inverse();
    let rows = inverse.perm[1..].iter().map(|p| p - 1);
    let (split, order): (Vec<usize>, Vec<usize>) = if product.trans_b {
        ([&weight[..1], &image].concat(), std::iter::once(0).chain(rows.map(|r| r + 1)).collect())
    } else {
        ([&image, &weight[1..]].concat(), rows.chain([image.len()]).collect())
    };
    let Some(split) = reshaped(graph, w, &split) else { return Ok(false) };
    let Some(moved) = compute(graph, Transpose { perm: order }, &[split]) else { return Ok(false) };
    let Some(w) = reshaped(graph, moved, &weight) else { return Ok(false) };
    let flat = emit(graph, Reshape { shape: to }, &[x], a.node)?;
    become_op(graph, id, product, &[flat, w])
}

/// `slice(transpose(x)) → transpose(slice(x))` and `reshape(transpose(slice(x))) → transpose(reshape(slice(x)))` for a
/// transpose of five dimensions: `[batch, seq, 3, heads, dim]`, of which the slices take one of the three.
fn part_heads(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((perm, x)) = unary(graph, id.into(), Some).and_then(|(_, y)| unary(graph, y, transpose)) else {
        return Ok(false);
    };
    if perm.perm.len() != 5 {
        return Ok(false);
    }
    match graph.node(id).op() {
        Some(Op::Slice(_)) => sink_move(graph, id),
        Some(Op::Reshape(r)) if r.shape.len() == 4 && matches!(graph.op(x), Some(Op::Slice(_))) => {
            sink_reshape(graph, id)
        }
        _ => Ok(false),
    }
}
