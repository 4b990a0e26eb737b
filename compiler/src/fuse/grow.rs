//! Anchor regions: an anchor and the pointwise operators after it, as far as exactly one value leaves.

use super::access::{Transform, regroup, through};
use super::inline::Builder;
use super::{MOST_OPERANDS, Region, name_of, root};
use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Op, Role};
use bakelite_host::problem::{Access, Attention, Epilogue};
use bakelite_kernels::{Dim, Problem};
use std::collections::HashSet;

/// Most operators that an epilogue search adds while more than one value leaves the region (`x · sigmoid(x)` has two).
const MOST_OPEN: usize = 12;

/// The region around an anchor.
pub(super) fn from_anchor(graph: &Graph, anchor: NodeId, taken: &HashSet<NodeId>) -> Result<Region, String> {
    let node = graph.node(anchor);
    let types: Vec<_> = node.inputs.iter().map(|v| graph.ty(*v)).collect();
    let op = node.op().ok_or("not an operator")?;
    let mut plain = op.lower(&types, &node.types)?;
    let mut own: Vec<Value> = node.inputs.iter().map(|v| root(graph, *v)).collect();
    if let (Problem::Attention(problem), Op::Attention(op)) = (&mut plain, op) {
        read_heads_through(graph, &node.inputs, &op.inner, problem, &mut own);
    }
    let results: Vec<Value> =
        (0..node.types.len() as u32).map(|result| Value { node: anchor, result }).collect();
    let bare = Region {
        name: node.name.clone(),
        nodes: vec![anchor],
        problem: plain.clone(),
        place: None,
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
        while members.last().is_some_and(|m| !closed(graph, anchor, &members) || is_view(graph, *m)) {
            members.pop();
        }
    }
    Ok(bare)
}

// Attention reads q, k and v through the slices, transposes and reshapes before them, as far as each head's elements stay
// dense: so heads are split off a joint projection without a copy.
fn read_heads_through(
    graph: &Graph,
    inputs: &[Value],
    inner: &[bool],
    problem: &mut Attention<Dim>,
    own: &mut [Value],
) {
    let accesses = [&mut problem.q, &mut problem.k, &mut problem.v];
    for (i, access) in accesses.into_iter().enumerate() {
        let (mut value, mut path) = (inputs[i], Vec::new());
        while let Some(op) = graph.op(value) {
            let from = graph.node(value.node).inputs.first().copied();
            let Some((from, step)) = from.and_then(|f| Some((f, Transform::of(op, graph.ty(f))?))) else {
                break;
            };
            path.push(step);
            value = from;
            let Some(read) = through(graph.ty(value), &path) else { continue };
            let [batch, x, y, element] = read.strides.as_slice() else { continue };
            if element.is(1) {
                let strides = if inner[i] { [batch, y, x] } else { [batch, x, y] };
                *access = Access { offset: read.offset.clone(), strides: strides.map(Clone::clone).to_vec() };
                own[i] = root(graph, value);
            }
        }
    }
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
        // A region ends in a value that something computes: a view at its end stays outside.
        if open.len() == 1 && open[0].node == next && !is_view(graph, next) {
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

fn is_view(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).op().is_some_and(|op| op.role() == Role::View)
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
    *epilogue = Epilogue::new(builder.program, accesses?);
    let inputs = own.iter().copied().chain(builder.operands.iter().map(|(v, _)| *v)).collect();
    let mut nodes = vec![anchor];
    nodes.extend(members);
    let (name, outputs) = (name_of(graph, &nodes, anchor), vec![sink.into()]);
    Some(Region { name, nodes, problem, place: None, inputs, outputs })
}
