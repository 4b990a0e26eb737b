//! Convolutions whose windows lie side by side (kernel = stride, no padding) are matrix products of patches, as vision
//! transformers begin with. The copy that makes the patches is the one that brings the image's channels together anyway,
//! and the product runs on tensor cores, where a few channels would have to be gathered element by element.
//!
//! Only channels-last, which is what the layout pass gives tensor cores, and only where channels fill no 16 bytes: kernels
//! for convolutions read the patches of others in place.

use super::Options;
use super::pattern::*;
use crate::ir::{Graph, NodeId};
use crate::ops::{MatMul, Op, Reshape, Transpose};
use bakelite_host::problem::Layout;
use bakelite_kernels::Dim;

/// Channels, and elements of a patch, in multiples of which tensor cores read without a copy.
const TOGETHER: usize = 8;

/// `conv(x[n,h·k,w·k,c], w) → matmul(reshape(transpose(reshape(x, [n,h,k,w,k,c])), [n,h,w,c·k·k]), w')`
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), String> {
    for id in graph.order() {
        if graph.contains(id) && multiply(graph, id)? {
            graph.prune(id);
        }
    }
    Ok(())
}

fn multiply(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let (Some(Op::Conv(conv)), &[x, w]) = (graph.node(id).op(), graph.node(id).inputs.as_slice()) else {
        return Ok(false);
    };
    let Some(weight) = graph.data(w) else { return Ok(false) };
    let [filters, channels, kernel @ ..] = weight.shape.as_slice() else { return Ok(false) };
    let (filters, patch) = (*filters, channels * kernel.iter().product::<usize>());
    let apart = conv.layout == Layout::ChannelsLast
        && conv.groups == 1
        && side_by_side(kernel, &conv.strides, &conv.dilations, &[&conv.pads, &conv.pads_end]);
    if !apart || kernel.iter().all(|k| *k == 1) || channels % TOGETHER == 0 || patch % TOGETHER != 0 {
        return Ok(false);
    }
    let (math, spatial, kernel) = (conv.math, kernel.len(), kernel.to_vec());
    let shape = graph.ty(x).shape.clone();
    let mut split = vec![shape[0].clone()];
    for (size, k) in shape[1..=spatial].iter().zip(&kernel) {
        let Some(count) = size.exact_div(&Dim::from(*k)) else { return Ok(false) };
        split.extend([count, Dim::from(*k)]);
    }
    split.push(shape[spatial + 1].clone());
    // [filters, channels, kernel...] as [channels · kernel..., filters]: an image comes channel by channel, so that the copy
    // reads and writes rows of windows.
    let order = (1..2 + spatial).chain([0]).collect();
    let w = compute(graph, Transpose { perm: order }, &[w]);
    let Some(w) = w.and_then(|w| reshaped(graph, w, &[patch, filters])) else { return Ok(false) };
    let counts = (0..spatial).map(|d| 1 + 2 * d);
    let patches: Vec<Dim> = std::iter::once(0).chain(counts.clone()).map(|d| split[d].clone()).collect();
    let perm = std::iter::once(0).chain(counts.clone()).chain([2 * spatial + 1]);
    let perm = perm.chain(counts.map(|d| d + 1)).collect();
    let x = reshape(graph, x, split, id)?;
    let x = emit(graph, Transpose { perm }, &[x], id)?;
    let x = emit(graph, Reshape { shape: [patches, vec![Dim::from(patch)]].concat() }, &[x], id)?;
    become_op(graph, id, MatMul { math, ..MatMul::PLAIN }, &[x, w])
}
