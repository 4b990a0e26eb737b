//! A convolution over images of one pixel is a matrix product of vectors: what squeeze-and-excite and classifiers after a
//! global pool do. As a product it has kernels for few rows, and no layout.

use super::Options;
use super::pattern::*;
use crate::ir::{Graph, NodeId};
use crate::ops::{MatMul, Op, Reshape};
use bakelite_host::problem::Layout;

/// `conv(x[n,c,1,1], w[f,c,1,1]) → reshape(matmul(reshape(x, [n,c]), wᵀ))`
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
    let (math, result) = (conv.math, graph.node(id).types[0].shape.clone());
    let (shape, Some(weight)) = (graph.ty(x).shape.clone(), graph.data(w)) else { return Ok(false) };
    let [filters, channels, kernel @ ..] = weight.shape.as_slice() else { return Ok(false) };
    let one_pixel = conv.layout == Layout::ChannelsFirst && shape[2..].iter().all(|d| d.is(1));
    let one_tap = kernel.iter().all(|k| *k == 1) && conv.groups == 1;
    if !one_pixel || !one_tap || conv.pads.iter().chain(&conv.pads_end).any(|p| *p != 0) {
        return Ok(false);
    }
    let (rows, columns) = ([*filters, *channels], shape[..2].to_vec());
    let Some(w) = reshaped(graph, w, &rows) else { return Ok(false) };
    let x = reshape(graph, x, columns, id)?;
    let y = emit(graph, MatMul { trans_b: true, math, ..MatMul::PLAIN }, &[x, w], id)?;
    become_op(graph, id, Reshape { shape: result }, &[y])
}
