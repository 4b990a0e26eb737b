//! Transposed convolutions whose windows do not overlap (kernel = stride, no padding) are matrix products: each element of the
//! input makes a block of the output by itself. The product runs on tensor cores; then the blocks are put side by side.
//!
//! Only channels-last, which is what the layout pass gives tensor cores, and only with channels enough to fill them.

use super::Options;
use super::compose::row_operand;
use super::pattern::*;
use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Concat, ConvTranspose, MatMul, Op, Reshape, Transpose};
use bakelite_host::problem::{Layout, Math};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

/// Fewest channels, and a multiple of 8 of them, for which tensor cores are worth a copy of the result.
const CHANNELS: usize = 16;

/// `f(conv_transpose(x, w)) → blocks(f(matmul(x, w')))`, where f are the pointwise operators with constants of a row that
/// follow, and `blocks` is a reshape, a transpose and a reshape.
pub fn run(graph: &mut Graph, options: &Options) -> Result<(), String> {
    for id in graph.order() {
        if graph.contains(id)
            && let Some(conv) = apart(graph, id)
        {
            multiply(graph, id, &conv, options.precision.math())?;
        }
    }
    Ok(())
}

// The operator, if its windows lie side by side.
fn apart(graph: &Graph, id: NodeId) -> Option<ConvTranspose> {
    let Some(Op::ConvTranspose(conv)) = graph.node(id).op() else { return None };
    let weight = graph.data(*graph.node(id).inputs.get(1)?)?;
    let (channels, kernel) = (weight.shape[0], &weight.shape[2..]);
    let amounts = [&conv.pads, &conv.pads_end, &conv.output_padding].map(Vec::as_slice);
    let fits = conv.layout == Layout::ChannelsLast
        && conv.groups == 1
        && side_by_side(kernel, &conv.strides, &conv.dilations, &amounts)
        && channels >= CHANNELS
        && channels % 8 == 0;
    fits.then(|| conv.clone())
}

fn multiply(graph: &mut Graph, id: NodeId, conv: &ConvTranspose, math: Math) -> Result<(), String> {
    let &[x, w] = graph.node(id).inputs.as_slice() else { return Ok(()) };
    let shape = graph.ty(w).dims().ok_or("a constant without sizes")?;
    let (channels, filters, taps) = (shape[0], shape[1], conv.strides.iter().product::<usize>());
    let spatial = conv.strides.len();
    // [channels, filters, kernel...] as [channels, kernel... · filters]
    let order = std::iter::once(0).chain(2..2 + spatial).chain([1]).collect();
    let w = compute(graph, Transpose { perm: order }, &[w]);
    let Some(w) = w.and_then(|w| reshaped(graph, w, &[channels, taps * filters])) else { return Ok(()) };
    let mut y = emit(graph, MatMul { math, ..MatMul::PLAIN }, &[x, w], id)?;
    let mut end = id;
    while let [(reader, port)] = graph.users(end.into()).as_slice()
        && !graph.is_output(end.into())
        && row_operand(graph, *reader) == Some(*port)
        && let Some(op @ Op::Apply(_)) = graph.node(*reader).op().cloned()
        && graph.node(*reader).types[0].rank() == spatial + 2
    {
        let (reader, port, mut inputs) = (*reader, *port, graph.node(*reader).inputs.clone());
        for (at, input) in inputs.iter_mut().enumerate() {
            *input = match at == port {
                true => y,
                false => repeated(graph, *input, filters, taps).ok_or("a constant that is not of a row")?,
            };
        }
        (y, end) = (emit(graph, op, &inputs, reader)?, reader);
    }
    let out = graph.node(end).types[0].shape.clone();
    let input = graph.ty(x).shape.clone();
    let sizes = conv.strides.iter().map(|k| Dim::from(*k));
    let blocks: Vec<Dim> =
        input[..=spatial].iter().cloned().chain(sizes).chain([Dim::from(filters)]).collect();
    if product(&blocks) != product(&out) {
        return Err(format!("{} elements cannot be {} of them", product(&blocks), product(&out)));
    }
    let y = emit(graph, Reshape { shape: blocks }, &[y], end)?;
    let beside = (1..=spatial).flat_map(|d| [d, d + spatial]);
    let perm = std::iter::once(0).chain(beside).chain([2 * spatial + 1]).collect();
    let y = emit(graph, Transpose { perm }, &[y], end)?;
    let y = emit(graph, Reshape { shape: out }, &[y], end)?;
    swap(graph, end, y)?;
    graph.prune(end);
    Ok(())
}

// A constant of a row of `filters`, `taps` times; one number stays one.
fn repeated(graph: &mut Graph, constant: Value, filters: usize, taps: usize) -> Option<Value> {
    if graph.data(constant)?.count() == 1 {
        return reshaped(graph, constant, &[]);
    }
    let row = reshaped(graph, constant, &[filters])?;
    compute(graph, Concat { axis: 0 }, &vec![row; taps])
}
