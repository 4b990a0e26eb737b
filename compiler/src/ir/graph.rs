//! The graph. petgraph stays behind this file: its order is not canonical and its indices are reused, and no pass may
//! see that. A [`NodeId`] is never reused; operands are in order; every order given out is deterministic.

use super::tensor::Tensor;
use super::types::Type;
use crate::ops::Op;
use bakelite_kernels::Symbols;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// A node, by a number that is never given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A value: one result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// The node that makes it.
    pub node: NodeId,
    /// Which of its results.
    pub result: u32,
}

impl From<NodeId> for Value {
    fn from(node: NodeId) -> Value {
        Value { node, result: 0 }
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One of the graph's inputs.
    Input,
    /// Data known at compile time.
    Constant(Tensor),
    /// An operator.
    Op(Op),
}

/// A node with its operands and the types of its results.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Operands in order.
    pub inputs: Vec<Value>,
    /// Type of each result.
    pub types: Vec<Type>,
    /// Where it came from, for people: ONNX name and operator, such as `conv1 (Conv)`. Never compared.
    pub name: String,
}

impl Node {
    /// The operator, if it is one.
    pub fn op(&self) -> Option<&Op> {
        match &self.kind {
            Kind::Op(op) => Some(op),
            _ => None,
        }
    }

    /// The data, if it is a constant.
    pub fn constant(&self) -> Option<&Tensor> {
        match &self.kind {
            Kind::Constant(t) => Some(t),
            _ => None,
        }
    }
}

/// A model as a graph of typed values.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    /// Symbols of the shapes, with their ranges.
    pub symbols: Symbols,
    /// The graph's inputs in order, with their public names.
    pub inputs: Vec<(String, NodeId)>,
    /// The graph's outputs in order, with their public names.
    pub outputs: Vec<(String, Value)>,
    graph: StableDiGraph<(NodeId, Node), ()>,
    index: HashMap<NodeId, NodeIndex>,
    next: u32,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, ty: Type) -> Value {
        let name = name.into();
        let id = self.insert(Node { kind: Kind::Input, inputs: vec![], types: vec![ty], name: name.clone() });
        self.inputs.push((name, id));
        id.into()
    }

    /// Adds a constant.
    pub fn constant(&mut self, tensor: Tensor, name: impl Into<String>) -> Value {
        let ty = Type::new(tensor.dtype, &tensor.shape);
        self.insert(Node { kind: Kind::Constant(tensor), inputs: vec![], types: vec![ty], name: name.into() })
            .into()
    }

    /// Adds an operator, inferring the types of its results; the error is the operator's own sentence.
    pub fn add(
        &mut self,
        op: impl Into<Op>,
        inputs: &[Value],
        name: impl Into<String>,
    ) -> Result<NodeId, String> {
        let op = op.into();
        let types = op.infer(&inputs.iter().map(|v| self.ty(*v)).collect::<Vec<_>>())?;
        Ok(self.insert(Node { kind: Kind::Op(op), inputs: inputs.to_vec(), types, name: name.into() }))
    }

    /// Adds a node as it is, for the parser: types are taken on trust and are the verifier's affair.
    pub fn insert(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        let inputs = node.inputs.clone();
        let at = self.graph.add_node((id, node));
        self.index.insert(id, at);
        for value in inputs {
            self.graph.add_edge(self.index[&value.node], at, ());
        }
        id
    }

    /// A node. Panics for one that was removed: that is a bug in a pass.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.graph[self.index[&id]].1
    }

    /// Whether the node is (still) there.
    pub fn contains(&self, id: NodeId) -> bool {
        self.index.contains_key(&id)
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        &self.node(value.node).types[value.result as usize]
    }

    /// The operator that makes a value, if one does.
    pub fn op(&self, value: Value) -> Option<&Op> {
        self.node(value.node).op()
    }

    /// The data of a value, if it is a constant.
    pub fn data(&self, value: Value) -> Option<&Tensor> {
        self.node(value.node).constant()
    }

    /// Changes a node's name.
    pub fn rename(&mut self, id: NodeId, name: impl Into<String>) {
        self.graph[self.index[&id]].1.name = name.into();
    }

    /// Every (node, operand position) that reads `value`, in the order of node ids, and not the graph's outputs.
    pub fn users(&self, value: Value) -> Vec<(NodeId, usize)> {
        let mut users: Vec<NodeId> =
            self.graph.edges(self.index[&value.node]).map(|e| self.graph[e.target()].0).collect();
        users.sort();
        users.dedup();
        let reads = |id: NodeId| {
            let inputs = self.node(id).inputs.iter().enumerate();
            inputs.filter(|(_, v)| **v == value).map(move |(port, _)| (id, port)).collect::<Vec<_>>()
        };
        users.into_iter().flat_map(reads).collect()
    }

    /// Whether the graph gives `value` out.
    pub fn is_output(&self, value: Value) -> bool {
        self.outputs.iter().any(|(_, v)| *v == value)
    }

    /// Whether exactly one operand reads `value`, and the graph does not give it out.
    pub fn used_once(&self, value: Value) -> bool {
        !self.is_output(value) && self.users(value).len() == 1
    }

    /// Makes every reader of `old`, the graph's outputs among them, read `new`. The types must be equal.
    pub fn replace(&mut self, old: Value, new: Value) -> Result<(), String> {
        if self.ty(old) != self.ty(new) {
            return Err(format!(
                "cannot replace %{} of type {} by %{} of type {}",
                old.node.0,
                self.ty(old),
                new.node.0,
                self.ty(new)
            ));
        }
        for (user, port) in self.users(old) {
            if user != new.node {
                self.set_input(user, port, new);
            }
        }
        for (_, value) in &mut self.outputs {
            if *value == old {
                *value = new;
            }
        }
        Ok(())
    }

    /// Makes operand `port` of `node` read `value`.
    pub fn set_input(&mut self, node: NodeId, port: usize, value: Value) {
        let at = self.index[&node];
        let old = std::mem::replace(&mut self.graph[at].1.inputs[port], value);
        if let Some(edge) = self.graph.find_edge(self.index[&old.node], at) {
            self.graph.remove_edge(edge);
        }
        self.graph.add_edge(self.index[&value.node], at, ());
    }

    /// Removes a node that nothing reads, then those of its operands that nothing reads any more; inputs stay. The graph
    /// keeps every node that has a reader: `used_once` means what it says right after a rewrite.
    pub fn prune(&mut self, id: NodeId) {
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            let Some(at) = self.index.get(&id).copied() else { continue };
            let read =
                self.graph.edges(at).next().is_some() || self.outputs.iter().any(|(_, v)| v.node == id);
            if read || self.graph[at].1.kind == Kind::Input {
                continue;
            }
            stack.extend(self.graph[at].1.inputs.iter().map(|v| v.node));
            self.index.remove(&id);
            self.graph.remove_node(at);
        }
    }

    /// Removes every node that no output needs; inputs stay. Returns how many went.
    pub fn remove_dead(&mut self) -> usize {
        let live: std::collections::HashSet<NodeId> = self.order().into_iter().collect();
        let dead: Vec<NodeId> = self.index.keys().copied().filter(|id| !live.contains(id)).collect();
        for id in &dead {
            if let Some(at) = self.index.remove(id) {
                self.graph.remove_node(at);
            }
        }
        dead.len()
    }

    /// Inputs first, then every node that an output needs, operands before their readers: depth first from the outputs in
    /// order, so a chain stays together. On a cyclic graph (which the verifier refuses) the order is still finite.
    pub fn order(&self) -> Vec<NodeId> {
        let mut seen: std::collections::HashSet<NodeId> = self.inputs.iter().map(|(_, id)| *id).collect();
        let mut order: Vec<NodeId> = self.inputs.iter().map(|(_, id)| *id).collect();
        for (_, output) in &self.outputs {
            let mut stack = vec![(output.node, 0usize)];
            if !seen.insert(output.node) {
                continue;
            }
            while let Some((id, port)) = stack.pop() {
                match self.node(id).inputs.get(port) {
                    None => order.push(id),
                    Some(value) => {
                        stack.push((id, port + 1));
                        if seen.insert(value.node) {
                            stack.push((value.node, 0));
                        }
                    }
                }
            }
        }
        order
    }

    /// Whether some node feeds itself.
    pub fn is_cyclic(&self) -> bool {
        petgraph::algo::is_cyclic_directed(&self.graph)
    }

    /// Number of nodes, dead ones included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Operators that outputs need, with their number, most frequent first.
    pub fn histogram(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for id in self.order() {
            if let Some(op) = self.node(id).op() {
                *counts.entry(op.name().to_owned()).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        counts
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.node.0)?;
        if self.result > 0 { write!(f, ".{}", self.result) } else { Ok(()) }
    }
}
