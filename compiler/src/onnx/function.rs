//! The model's own functions, inlined: every call becomes the body's nodes under new names, until only operators of
//! known domains are left. Recursion is refused and the expansion bounded, since a few lines of nested functions can
//! describe more nodes than memory holds.

use super::model::{Placed, error, opset_of, place};
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use crate::error::Result;
use prost::Message;
use std::collections::{HashMap, HashSet};

/// At most so many nodes may come out of functions.
const NODES: usize = 1 << 18;
/// Functions and subgraphs nest at most so deep.
const DEPTH: usize = 64;
/// And at most so many bytes of names and attributes (weights as raw data are shared and do not count).
const BYTES: usize = 1 << 28;

/// Takes the nodes out of `graph`, calls expanded; also those of its subgraphs.
pub(super) fn inline(
    graph: &mut GraphProto,
    functions: Vec<FunctionProto>,
    opset: i64,
) -> Result<Vec<Placed>> {
    let mut table = HashMap::new();
    for f in functions {
        let key = (f.domain().to_owned(), f.name().to_owned(), f.overload().to_owned());
        if let Some(old) = table.insert(key, f) {
            return Err(error(format!("function {}", old.name()), "two functions have this name"));
        }
    }
    let mut used = HashSet::new();
    if !table.is_empty() {
        collect_names(graph, &mut used);
    }
    let mut inliner =
        Inliner { functions: &table, used, counters: HashMap::new(), depth: 0, nodes: 0, bytes: 0 };
    let nodes = std::mem::take(&mut graph.node);
    inliner.expand(nodes, opset, &mut Vec::new(), &Call::default())
}

fn collect_names(graph: &GraphProto, used: &mut HashSet<String>) {
    used.extend(graph.input.iter().map(|i| i.name().to_owned()));
    used.extend(graph.initializer.iter().map(|i| i.name().to_owned()));
    for node in &graph.node {
        used.extend(node.output.iter().cloned());
        node.attribute.iter().filter_map(|a| a.g.as_ref()).for_each(|g| collect_names(g, used));
    }
}

type Key = (String, String, String);

struct Inliner<'a> {
    functions: &'a HashMap<Key, FunctionProto>,
    used: HashSet<String>,
    /// The last number that [`Inliner::fresh`] tried for each name.
    counters: HashMap<String, usize>,
    depth: usize,
    nodes: usize,
    bytes: usize,
}

/// What a call gives to the body it stands for.
#[derive(Default)]
struct Call {
    /// Prefix of the names inside; empty outside functions.
    prefix: String,
    /// New name of each value of the body.
    values: HashMap<String, String>,
    /// The attributes the body may refer to.
    attributes: HashMap<String, AttributeProto>,
    /// Whether this is a function's body at all.
    inside: bool,
}

impl Inliner<'_> {
    /// `stack` holds the functions being expanded, outermost first.
    fn expand(
        &mut self,
        nodes: Vec<NodeProto>,
        opset: i64,
        stack: &mut Vec<Key>,
        call: &Call,
    ) -> Result<Vec<Placed>> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(error(
                "the model's functions",
                format!("functions and subgraphs nest deeper than {DEPTH}"),
            ));
        }
        let mut out = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            if call.inside {
                self.count(&node)?;
                rename(&mut node, call)?;
            }
            let key = (node.domain().to_owned(), node.op_type().to_owned(), node.overload().to_owned());
            match self.functions.get(&key) {
                Some(function) => self.call(node, key, function, opset, stack, &mut out)?,
                None => {
                    let mut bodies = Vec::new();
                    for a in &mut node.attribute {
                        if is_graph(a)
                            && let Some(g) = a.g.as_mut()
                        {
                            let inner = std::mem::take(&mut g.node);
                            // The body was renamed with its node; only calls inside it are left to expand.
                            bodies.push(self.expand(inner, opset, stack, &Call::default())?);
                        }
                    }
                    out.push(Placed { node, opset, bodies });
                }
            }
        }
        self.depth -= 1;
        Ok(out)
    }

    fn call(
        &mut self,
        node: NodeProto,
        key: Key,
        function: &FunctionProto,
        opset: i64,
        stack: &mut Vec<Key>,
        out: &mut Vec<Placed>,
    ) -> Result<()> {
        let at = place(node.name(), node.op_type(), &node.output);
        if stack.contains(&key) {
            let path: Vec<&str> = stack.iter().chain([&key]).map(|k| k.1.as_str()).collect();
            return Err(error(at, format!("the function calls itself: {}", path.join(" → "))));
        }
        if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
            return Err(error(
                at,
                format!(
                    "it has {} operands and {} results, but the function takes {} and gives {}",
                    node.input.len(),
                    node.output.len(),
                    function.input.len(),
                    function.output.len()
                ),
            ));
        }
        let inner_opset = opset_of(&function.opset_import, Some(opset))
            .map_err(|e| error(format!("function {}", function.name()), e))?;
        let base = if node.name().is_empty() { node.op_type() } else { node.name() };
        let prefix = self.fresh(base);
        let mut values = HashMap::new();
        for (i, name) in function.input.iter().enumerate() {
            values.insert(name.clone(), node.input.get(i).cloned().unwrap_or_default());
        }
        for (i, name) in function.output.iter().enumerate() {
            let outer = node.output.get(i).filter(|o| !o.is_empty());
            match (values.get(name).cloned(), outer) {
                // A parameter handed straight back.
                (Some(input), Some(outer)) => out.push(Placed {
                    node: NodeProto {
                        input: vec![input],
                        output: vec![outer.clone()],
                        name: Some(format!("{prefix}/{name}")),
                        op_type: Some("Identity".into()),
                        ..NodeProto::default()
                    },
                    opset: inner_opset,
                    bodies: vec![],
                }),
                (Some(_), None) => {}
                (None, outer) => {
                    let new = outer.cloned().unwrap_or_else(|| self.fresh(&format!("{prefix}/{name}")));
                    values.insert(name.clone(), new);
                }
            }
        }
        for name in function.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
            if !values.contains_key(name) {
                let new = self.fresh(&format!("{prefix}/{name}"));
                values.insert(name.clone(), new);
            }
        }
        let mut attributes: HashMap<String, AttributeProto> =
            function.attribute_proto.iter().map(|a| (a.name().to_owned(), a.clone())).collect();
        attributes.extend(node.attribute.into_iter().map(|a| (a.name().to_owned(), a)));
        stack.push(key);
        let call = Call { prefix, values, attributes, inside: true };
        let body = self.expand(function.node.clone(), inner_opset, stack, &call)?;
        stack.pop();
        out.extend(body);
        Ok(())
    }

    fn count(&mut self, node: &NodeProto) -> Result<()> {
        let raw: usize = node
            .attribute
            .iter()
            .filter_map(|a| a.t.as_ref())
            .map(|t| t.raw_data.as_ref().map_or(0, |r| r.len()))
            .sum();
        self.nodes += 1;
        self.bytes += node.encoded_len().saturating_sub(raw);
        if self.nodes > NODES || self.bytes > BYTES {
            return Err(error(
                "the model's functions",
                format!("they expand to more than {NODES} nodes or {BYTES} bytes"),
            ));
        }
        Ok(())
    }

    /// `base`, with a number if it is taken.
    fn fresh(&mut self, base: &str) -> String {
        if self.used.insert(base.to_owned()) {
            return base.to_owned();
        }
        let counter = self.counters.entry(base.to_owned()).or_insert(1);
        loop {
            *counter += 1;
            let name = format!("{base}#{counter}");
            if self.used.insert(name.clone()) {
                return name;
            }
        }
    }
}

fn is_graph(a: &AttributeProto) -> bool {
    a.r#type() == super::proto::attribute_proto::AttributeType::Graph
}

/// Gives a node of a body its names and attributes outside.
fn rename(node: &mut NodeProto, call: &Call) -> Result<()> {
    for name in node.input.iter_mut().chain(&mut node.output) {
        if let Some(new) = call.values.get(name) {
            name.clone_from(new);
        }
    }
    let own = node.name.take().filter(|n| !n.is_empty()).or_else(|| node.op_type.clone()).unwrap_or_default();
    let name = format!("{}/{own}", call.prefix);
    let mut attributes = Vec::with_capacity(node.attribute.len());
    for mut a in std::mem::take(&mut node.attribute) {
        if !a.ref_attr_name().is_empty() {
            // A reference to an attribute that the call lacks is an absent attribute.
            let Some(given) = call.attributes.get(a.ref_attr_name()) else { continue };
            if is_graph(given) {
                // It would bring names of one scope into another, and can nest without end.
                let at = place(&name, node.op_type(), &node.output);
                return Err(error(
                    at,
                    "it takes a graph from an attribute of its function, which is not supported",
                ));
            }
            a = AttributeProto { name: a.name.take(), ref_attr_name: None, ..given.clone() };
        }
        if is_graph(&a)
            && let Some(g) = a.g.as_mut()
        {
            rename_scope(g, call)?;
        }
        attributes.push(a);
    }
    node.attribute = attributes;
    node.name = Some(name);
    Ok(())
}

/// Renames what a subgraph takes from the function around it, but not what it defines itself.
fn rename_scope(graph: &mut GraphProto, call: &Call) -> Result<()> {
    let own: HashSet<&str> = (graph.input.iter().map(|i| i.name()))
        .chain(graph.initializer.iter().map(|i| i.name()))
        .chain(graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)))
        .collect();
    let values = call.values.iter().filter(|(k, _)| !own.contains(k.as_str()));
    let inner = Call {
        prefix: call.prefix.clone(),
        values: values.map(|(k, v)| (k.clone(), v.clone())).collect(),
        attributes: call.attributes.clone(),
        inside: true,
    };
    for output in &mut graph.output {
        if let Some(new) = output.name.as_deref().and_then(|n| inner.values.get(n)) {
            output.name = Some(new.clone());
        }
    }
    graph.node.iter_mut().try_for_each(|n| rename(n, &inner))
}
