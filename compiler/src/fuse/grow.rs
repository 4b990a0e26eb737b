//! Anchor regions: an anchor and the pointwise operators after it, as far as exactly one value leaves.

use super::access::regroup;
use super::inline::Builder;
use super::{MOST_OPERANDS, Region, name_of, root};
use crate::ir::{Graph, NodeId, Value};
use crate::ops::Role;
use bakelite_host::problem::Epilogue;
use bakelite_kernels::{Dim, Problem};
use std::collections::HashSet;

/// Most operators that an epilogue search adds while more than one value leaves the region (`x · sigmoid(x)` has two).
const MOST_OPEN: usize = 12;

/// The region around an anchor.
pub(super) fn from_anchor(graph: &Graph, anchor: NodeId, taken: &HashSet<NodeId>) -> Result<Region, String> {
    let node = graph.node(anchor);
    let types: Vec<_> = node.inputs.iter().map(|v| graph.ty(*v)).collect();
    let op = node.op().ok_or("not an operator")?;
    let plain = op.lower(&types, &node.types)?;
    let own: Vec<Value> = node.inputs.iter().map(|v| root(graph, *v)).collect();
    let results: Vec<Value> =
        (0..node.types.len() as u32).map(|result| Value { node: anchor, result }).collect();
    let bare = Region {
        name: node.name.clone(),
        nodes: vec![anchor],
        problem: plain.clone(),
        inputs: own.clone(),
        outputs: results,
    };
    if op.role() != Role::Anchor {
        return Ok(bare);
    }
    // Shrink from the largest candidate until the program can be said over the problem's output shape.
    let mut members = reach(graph, anchor, taken);
    while let Some(sink) = members.last().copied() {
        if let Some(region) = with_epilogue(graph, anchor, &members, sink, &plain, &own) {
            return Ok(region);
        }
        members.pop();
        while !members.is_empty() && !closed(graph, anchor, &members) {
            members.pop();
        }
    }
    Ok(bare)
}

// The operators after the anchor that could join, in order, such that only the last one's value leaves.
fn reach(graph: &Graph, anchor: NodeId, taken: &HashSet<NodeId>) -> Vec<NodeId> {
    let shape = graph.ty(anchor.into()).count();
    let (mut members, mut best) = (Vec::<NodeId>::new(), 0);
    let mut open: Vec<Value> = vec![anchor.into()];
    while members.len() - best <= MOST_OPEN {
        let mut users: Vec<NodeId> = open.iter().flat_map(|v| graph.users(*v)).map(|(u, _)| u).collect();
        users.sort();
        users.dedup();
        users.retain(|u| !members.contains(u));
        let joins = |u: &NodeId| {
            let node = graph.node(*u);
            !taken.contains(u)
                && node.op().is_some_and(|op| matches!(op.role(), Role::Pointwise | Role::View))
                && node.types[0].count() == shape
        };
        // Of several readers take the ones whose operands inside are all there; every one must be able to join.
        if users.is_empty() || !users.iter().all(joins) || open.iter().any(|v| graph.is_output(*v)) {
            break;
        }
        let position = |id: &NodeId| depth_inside(graph, *id, &users);
        let Some(next) = users.iter().min_by_key(|u| (position(u), **u)).copied() else { break };
        members.push(next);
        open.push(next.into());
        open.retain(|v| graph.is_output(*v) || graph.users(*v).iter().any(|(u, _)| !members.contains(u)));
        if open.len() == 1 && open[0].node == next {
            best = members.len();
        }
    }
    members.truncate(best);
    members
}

// How many of `others` come before `id`: 0 for one that reads none of them.
fn depth_inside(graph: &Graph, id: NodeId, others: &[NodeId]) -> usize {
    let mut stack: Vec<(NodeId, usize)> = graph.node(id).inputs.iter().map(|v| (v.node, 0)).collect();
    let mut found = 0;
    while let Some((n, depth)) = stack.pop() {
        if others.contains(&n) {
            found += 1;
        } else if depth < 4 {
            stack.extend(graph.node(n).inputs.iter().map(|v| (v.node, depth + 1)));
        }
    }
    found
}

// Whether only the last member's value leaves.
fn closed(graph: &Graph, anchor: NodeId, members: &[NodeId]) -> bool {
    let inside = |u: &NodeId| members.contains(u);
    let mut all = vec![anchor];
    all.extend(&members[..members.len() - 1]);
    all.iter().all(|id| {
        let value = Value::from(*id);
        !graph.is_output(value) && graph.users(value).iter().all(|(u, _)| inside(u))
    })
}

fn with_epilogue(
    graph: &Graph,
    anchor: NodeId,
    members: &[NodeId],
    sink: NodeId,
    plain: &Problem<Dim>,
    own: &[Value],
) -> Option<Region> {
    let mut problem = plain.clone();
    let shape = super::shape::of_output(&problem)?;
    let epilogue = problem.epilogue_mut()?;
    let mut builder = Builder::new(graph, members.iter().copied().collect());
    builder.give(anchor.into(), epilogue.program.inputs[0]);
    let result = builder.register(sink.into(), &[]).ok()?;
    let ty = graph.ty(sink.into());
    builder.program.outputs.push((result, ty.dtype));
    builder.program.classes().ok()?;
    if builder.operands.len() > MOST_OPERANDS {
        return None;
    }
    // Over the sink's own shape each operand was read; over the problem's it must be sayable too.
    let accesses: Option<Vec<_>> =
        builder.operands.iter().map(|(_, a)| regroup(a, &ty.shape, &shape)).collect();
    *epilogue = Epilogue { program: builder.program, operands: accesses? };
    let inputs = own.iter().copied().chain(builder.operands.iter().map(|(v, _)| *v)).collect();
    let mut nodes = vec![anchor];
    nodes.extend(members);
    Some(Region { name: name_of(graph, &nodes, anchor), nodes, problem, inputs, outputs: vec![sink.into()] })
}
