//! Constant folding: an operator of constants is the constant that its host kernel computes. Never makes a constant above
//! the budget unless its operands are no smaller, and never writes out a Broadcast.

use super::Options;
use super::pattern::is_constant;
use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Op, eval};

/// A Broadcast of no more bytes is folded all the same: shape arithmetic is made of them.
const SMALL: usize = 1024;

/// `op(constants) → constant`
pub fn run(graph: &mut Graph, options: &Options) -> Result<(), String> {
    for id in graph.order() {
        if graph.contains(id) && foldable(graph, id, options.fold_budget_bytes) {
            fold(graph, id)?;
        }
    }
    graph.remove_dead();
    Ok(())
}

fn foldable(graph: &Graph, id: NodeId, budget: usize) -> bool {
    let node = graph.node(id);
    let Some(op) = node.op() else { return false };
    if !node.inputs.iter().all(|v| is_constant(graph.node(v.node))) {
        return false;
    }
    let size = |dims: Option<Vec<usize>>, each: usize| dims?.iter().try_fold(each, |n, d| n.checked_mul(*d));
    let output =
        node.types.iter().try_fold(0usize, |sum, t| sum.checked_add(size(t.dims(), t.dtype.size())?));
    let Some(output) = output else { return false };
    let inputs: usize = node.inputs.iter().filter_map(|v| graph.data(*v)).map(|t| t.bytes.len()).sum();
    match op {
        Op::Broadcast(_) => output <= inputs.max(SMALL.min(budget)),
        _ => output <= inputs.max(budget),
    }
}

// A host kernel that refuses its operands (an index outside the data, say) leaves the node for the target to report.
fn fold(graph: &mut Graph, id: NodeId) -> Result<(), String> {
    let node = graph.node(id);
    let operands: Vec<_> = node.inputs.iter().filter_map(|v| graph.data(*v)).collect();
    let Some(Ok(results)) = node.op().map(|op| eval::eval(op, &operands)) else { return Ok(()) };
    let operand = node.inputs.first().map_or("", |v| graph.node(v.node).name.as_str());
    let name = if node.name.is_empty() { operand } else { &node.name }.to_owned();
    for (result, tensor) in results.into_iter().enumerate() {
        let constant = graph.constant(tensor, name.clone());
        graph.replace(Value { node: id, result: result as u32 }, constant)?;
    }
    graph.prune(id);
    Ok(())
}
