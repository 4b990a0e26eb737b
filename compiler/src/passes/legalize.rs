//! What remains that kernels cannot take is rewritten so that they can, or reported: after this pass every operator lowers.

use super::Options;
use super::pattern::emit;
use crate::ir::verify::describe;
use crate::ir::{Graph, NodeId, Type, Value};
use crate::ops::{Broadcast, Op};
use bakelite_kernels::Dim;

/// `matmul(a, b)` with partly broadcast batches: the operands are broadcast first. Errors name every operator that still
/// does not lower.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), String> {
    let mut refused = Vec::new();
    for id in graph.order() {
        if lowers(graph, id).is_ok() {
            continue;
        }
        if let Some(Op::MatMul(_)) = graph.node(id).op() {
            expand_batch(graph, id)?;
        }
        if let Err(e) = lowers(graph, id) {
            refused.push(format!("{}: {e}", describe(graph, id)));
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(refused.join("\n")) }
}

fn lowers(graph: &Graph, id: NodeId) -> Result<(), String> {
    let node = graph.node(id);
    let types: Vec<&Type> = node.inputs.iter().map(|v| graph.ty(*v)).collect();
    node.op().map_or(Ok(()), |op| op.lower(&types, &node.types).map(drop))
}

fn expand_batch(graph: &mut Graph, id: NodeId) -> Result<(), String> {
    let out = graph.node(id).types[0].shape.clone();
    let batch = &out[..out.len() - 2];
    for (port, value) in graph.node(id).inputs.clone().into_iter().enumerate() {
        let own = &graph.ty(value).shape;
        let (own_batch, matrix) = own.split_at(own.len() - 2);
        if own_batch == batch || own_batch.iter().all(|d| d.is(1)) {
            continue;
        }
        let shape: Vec<Dim> = batch.iter().chain(matrix).cloned().collect();
        let expanded: Value = emit(graph, Broadcast { shape }, &[value], id)?;
        graph.set_input(id, port, expanded);
    }
    Ok(())
}
