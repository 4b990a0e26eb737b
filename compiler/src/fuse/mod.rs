//! Fusion: every operator goes into exactly one region, and each region is one kernel problem. A region is an anchor with
//! the pointwise operators that follow it as its epilogue, or pointwise operators alone with the moves they read through.
//! Fusion never invents an operator, and never computes anything twice but a scalar's broadcast.
//!
//! Why regions cannot form a cycle: exactly one value of a region is read outside it, and it is the topologically last one.

mod access;
pub mod alternative;
mod grow;
mod inline;
pub mod join;
pub mod place;
mod print;
pub mod rows;
pub(crate) mod shape;

use crate::error::{Error, Result, Stage};
use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Op, Role};
use bakelite_host::problem::Placement;
use bakelite_kernels::dim::product;
use bakelite_kernels::{Dim, Problem};
use std::collections::{HashMap, HashSet};

/// The graph divided into regions, in an order in which every region's operands come before it.
#[derive(Clone, Debug)]
pub struct Regions {
    /// The graph they divide: types, constants, inputs, outputs.
    pub graph: Graph,
    /// In order.
    pub regions: Vec<Region>,
}

/// One kernel problem with what it reads and writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// From the ONNX nodes inside, for people.
    pub name: String,
    /// The operators inside, in the graph's order; views among them.
    pub nodes: Vec<NodeId>,
    /// What it computes, its result a dense tensor: tactics are chosen for this.
    pub problem: Problem<Dim>,
    /// Where the result goes in the value that the region makes (with others, maybe); `None`: it is the value.
    pub place: Option<Placement<Dim>>,
    /// The problem's operands: graph inputs, constants or outputs of earlier regions, with views looked through.
    pub inputs: Vec<Value>,
    /// The problem's results.
    pub outputs: Vec<Value>,
}

impl Region {
    /// What it computes, with where the result goes.
    pub fn placed(&self) -> Problem<Dim> {
        let mut problem = self.problem.clone();
        if let (Some(epilogue), Some(place)) = (problem.epilogue_mut(), &self.place) {
            epilogue.place = Some(place.clone());
        }
        problem
    }
}

/// Most extra operands of an epilogue or pointwise region: every one is a pointer in the kernel's parameters and a load in
/// its inner loop.
const MOST_OPERANDS: usize = 8;

/// Divides the graph. Dead nodes must be gone.
pub fn regions(mut graph: Graph) -> Result<Regions> {
    separate_outputs(&mut graph).map_err(|what| Error::new(Stage::Fuse, "outputs", what))?;
    let order = graph.order();
    let position: HashMap<NodeId, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut taken: HashSet<NodeId> = HashSet::new();
    let mut found: Vec<(usize, Region)> = Vec::new();

    // Anchors take their epilogues first, in order; then what pointwise operators and moves somebody still reads, from
    // the end, so that each takes the producers that only it reads.
    let mut needed: HashSet<Value> = graph.outputs.iter().map(|(_, v)| root(&graph, *v)).collect();
    for &id in &order {
        if matches!(graph.node(id).op().map(Op::role), Some(Role::Anchor | Role::Opaque))
            && !taken.contains(&id)
        {
            let region = grow::from_anchor(&graph, id, &taken).map_err(|what| at_node(&graph, id, what))?;
            taken.extend(&region.nodes);
            needed.extend(&region.inputs);
            found.push((last_position(&position, &region.nodes), region));
        }
    }
    for &id in order.iter().rev() {
        let role = graph.node(id).op().map(Op::role);
        let read = needed.contains(&id.into());
        if matches!(role, Some(Role::Pointwise | Role::Move)) && read && !taken.contains(&id) {
            let region =
                inline::from_sink(&graph, id, &taken, &needed).map_err(|what| at_node(&graph, id, what))?;
            // Several regions may read through a move or a view, and one may do it for others.
            taken.extend(region.nodes.iter().filter(|n| **n == id || !is_shared(&graph, **n)));
            needed.extend(&region.inputs);
            found.push((last_position(&position, &region.nodes), region));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    let regions = Regions { graph, regions: found.into_iter().map(|(_, r)| r).collect() };
    verify(&regions)?;
    Ok(regions)
}

// Every output gets a value, and so later a buffer, of its own: a copy where it is an input or a constant, or is given
// out under two names. The copy is a cast that changes nothing.
fn separate_outputs(graph: &mut Graph) -> Result<(), String> {
    let mut seen: HashSet<Value> = HashSet::new();
    for at in 0..graph.outputs.len() {
        let (name, value) = graph.outputs[at].clone();
        let source = root(graph, value);
        if graph.op(source).is_none() || !seen.insert(source) {
            let to = graph.ty(value).dtype;
            graph.outputs[at].1 =
                graph.add(crate::ops::Cast { to }, &[value], format!("copy to {name}"))?.into();
        }
    }
    Ok(())
}

fn at_node(graph: &Graph, id: NodeId, what: String) -> Error {
    Error::new(Stage::Fuse, format!("node {}", graph.node(id).name), what)
}

fn is_shared(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).op().is_some_and(|op| matches!(op.role(), Role::Move | Role::View))
}

fn last_position(position: &HashMap<NodeId, usize>, nodes: &[NodeId]) -> usize {
    nodes.iter().filter_map(|n| position.get(n)).copied().max().unwrap_or(0)
}

/// The value whose memory `value` shares: reshapes looked through.
pub fn root(graph: &Graph, mut value: Value) -> Value {
    while let Some(op) = graph.op(value)
        && op.role() == Role::View
    {
        value = graph.node(value.node).inputs[0];
    }
    value
}

/// A size that is known now.
fn number(dim: &Dim) -> Option<usize> {
    dim.as_const().and_then(|d| usize::try_from(d).ok())
}

/// A region's name: the anchor's, or the last node's, and how many more are inside.
fn name_of(graph: &Graph, nodes: &[NodeId], main: NodeId) -> String {
    let more =
        nodes.iter().filter(|n| graph.node(**n).op().is_some_and(|op| op.role() != Role::View)).count();
    let name = &graph.node(main).name;
    if more > 1 { format!("{name} +{}", more - 1) } else { name.clone() }
}

/// Checks what later stages rely on: every operator that computes is in exactly one region (a move that all read through is in none), operands come before
/// their readers, each problem has as many operands and results as it says, and each value is made by one region, or
/// wholly by several that place their results in it.
pub fn verify(regions: &Regions) -> Result<()> {
    let graph = &regions.graph;
    let fail = |name: &str, what: String| Err(Error::new(Stage::Fuse, format!("region {name}"), what));
    let mut owner: HashMap<NodeId, &str> = HashMap::new();
    let mut made: HashSet<Value> = HashSet::new();
    let mut placed: HashMap<Value, Dim> = HashMap::new();
    for region in &regions.regions {
        for id in &region.nodes {
            let shared = graph.node(*id).op().is_some_and(|op| match op {
                // Everyone who knows the moments of its rows does it for itself.
                Op::LayerNorm(_) => region.problem.epilogue().is_some_and(|e| e.rows.is_some()),
                op => matches!(op.role(), Role::View | Role::Move),
            });
            if let Some(other) = owner.insert(*id, &region.name).filter(|_| !shared) {
                return fail(&region.name, format!("node {} is in region {other} too", graph.node(*id).name));
            }
        }
        for value in &region.inputs {
            let outside = graph.node(value.node).op().is_none();
            if !outside && !made.contains(value) {
                return fail(&region.name, format!("operand {value} is not made before it"));
            }
        }
        let (inputs, outputs) = region.problem.arity();
        if region.inputs.len() != inputs || region.outputs.len() != outputs {
            let has = format!("{} operands and {} results", region.inputs.len(), region.outputs.len());
            return fail(
                &region.name,
                format!("has {has}, but its problem takes {inputs} and gives {outputs}"),
            );
        }
        for value in &region.outputs {
            let Some(place) = &region.place else {
                if !made.insert(*value) {
                    return fail(&region.name, format!("makes {value}, which is made before it"));
                }
                continue;
            };
            if region.problem.epilogue().is_none() || place.elements != graph.ty(*value).count() {
                return fail(
                    &region.name,
                    format!("places its result in {} elements of {value}", place.elements),
                );
            }
            let count = placed.entry(*value).or_insert_with(|| Dim::from(0));
            *count = &*count + product(&place.shape);
            made.insert(*value);
        }
    }
    for (value, count) in placed {
        let all = graph.ty(value).count();
        if count != all {
            return fail(&value.to_string(), format!("{count} of its {all} elements are made"));
        }
    }
    for id in graph.order() {
        let node = graph.node(id);
        if node.op().is_some_and(|op| !matches!(op.role(), Role::View | Role::Move))
            && !owner.contains_key(&id)
        {
            return fail(&node.name, "an operator is in no region".into());
        }
    }
    for (name, value) in &regions.graph.outputs {
        let value = root(graph, *value);
        if graph.node(value.node).op().is_some() && !made.contains(&value) {
            return fail(name, format!("the output {value} is made by no region"));
        }
    }
    Ok(())
}
