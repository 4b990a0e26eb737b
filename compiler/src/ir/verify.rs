//! The graph's verifier. After it has passed, no stage panics on the graph. It runs after every pass, in release too.
//!
//! The invariants:
//! 1. Every output, every listed input and every operand names a node that is there, and a result that it has.
//! 2. Every listed input is an input node, listed once; every input node that an output needs is listed. Inputs have
//!    different names, and so have outputs.
//! 3. No node feeds itself, through however many others.
//! 4. The types of an operator's results are exactly those that it infers from its operands.
//! 5. Inputs and constants have no operands and one result. A constant's bytes fit its shape, and its type says both.
//! 6. Every symbol in a type is declared, with `0 ≤ min ≤ opt ≤ max`.
//! 7. Every operand has its edge: the readers of a value are those nodes that name it.

use super::graph::{Graph, Kind, NodeId, Value};
use super::types::Type;
use std::collections::HashSet;

/// `Err` with the first violated invariant: a sentence that names the node and both values.
pub fn verify(graph: &Graph) -> Result<(), String> {
    for (name, range) in &graph.symbols {
        if !(0 <= range.min && range.min <= range.opt && range.opt <= range.max) {
            let (min, max, opt) = (range.min, range.max, range.opt);
            return Err(format!("the range {min}..{max} opt {opt} of the symbol `{name}` is not ordered"));
        }
    }
    unique("inputs", graph.inputs.iter().map(|(name, _)| name.as_str()))?;
    unique("outputs", graph.outputs.iter().map(|(name, _)| name.as_str()))?;
    let mut listed = HashSet::new();
    for (name, id) in &graph.inputs {
        if !graph.contains(*id) || graph.node(*id).kind != Kind::Input {
            return Err(format!("the input \"{name}\" names %{}, which is no input node", id.0));
        }
        if !listed.insert(*id) {
            return Err(format!("the input \"{name}\" names %{} a second time", id.0));
        }
    }
    for (name, value) in &graph.outputs {
        present(graph, *value).map_err(|e| format!("the output \"{name}\" is {e}"))?;
    }
    reachable(graph)?;
    if graph.is_cyclic() {
        return Err("the graph has a cycle".into());
    }
    let order = graph.order();
    let live: HashSet<NodeId> = order.iter().copied().collect();
    let (mut operands, mut readers) = (0, 0);
    for id in order {
        node(graph, id).map_err(|e| format!("{}: {e}", describe(graph, id)))?;
        let node = graph.node(id);
        if node.kind == Kind::Input && !listed.contains(&id) {
            return Err(format!("{} is not listed among the graph's inputs", describe(graph, id)));
        }
        operands += node.inputs.len();
        for result in 0..node.types.len() as u32 {
            readers +=
                graph.users(Value { node: id, result }).iter().filter(|(u, _)| live.contains(u)).count();
        }
    }
    if operands != readers {
        return Err(format!("{operands} operands, but {readers} edges lead to their readers"));
    }
    Ok(())
}

/// `%12 = conv "conv1 (Conv)"`, for messages.
pub fn describe(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let what = match &node.kind {
        Kind::Input => "input",
        Kind::Constant(_) => "const",
        Kind::Op(op) => op.name(),
    };
    format!("%{} = {what} \"{}\"", id.0, node.name)
}

fn node(graph: &Graph, id: NodeId) -> Result<(), String> {
    let node = graph.node(id);
    for ty in &node.types {
        declared(graph, ty)?;
    }
    match &node.kind {
        Kind::Op(op) => {
            let types: Vec<&Type> = node.inputs.iter().map(|v| graph.ty(*v)).collect();
            let inferred = op.infer(&types)?;
            if inferred != node.types {
                return Err(format!(
                    "its types are {:?}, but {inferred:?} follow from its operands",
                    node.types
                ));
            }
        }
        leaf => {
            if !node.inputs.is_empty() || node.types.len() != 1 {
                return Err(format!(
                    "a leaf with {} operands and {} results",
                    node.inputs.len(),
                    node.types.len()
                ));
            }
            if let Kind::Constant(tensor) = leaf {
                let ty = Type::new(tensor.dtype, &tensor.shape);
                if ty != node.types[0] {
                    return Err(format!("its type is {}, but its data {ty}", node.types[0]));
                }
                let bytes = tensor.shape.iter().try_fold(tensor.dtype.size(), |n, d| n.checked_mul(*d));
                if bytes != Some(tensor.bytes.len()) {
                    return Err(format!("{} bytes of data do not fit {ty}", tensor.bytes.len()));
                }
            }
        }
    }
    Ok(())
}

fn declared(graph: &Graph, ty: &Type) -> Result<(), String> {
    let mut unknown = None;
    for dim in ty.shape.iter().filter(|d| d.as_const().is_none()) {
        dim.visit_symbols(&mut |s| {
            if !graph.symbols.contains_key(s) {
                unknown = Some(s.to_owned());
            }
        });
    }
    if let Some(negative) = ty.shape.iter().find(|d| d.as_const().is_some_and(|c| c < 0)) {
        return Err(format!("the size {negative} of {ty} is negative"));
    }
    unknown.map_or(Ok(()), |s| Err(format!("the symbol `{s}` of {ty} is not declared")))
}

fn present(graph: &Graph, value: Value) -> Result<(), String> {
    if !graph.contains(value.node) {
        return Err(format!("{value}, which is not in the graph"));
    }
    match graph.node(value.node).types.len() {
        results if (value.result as usize) < results => Ok(()),
        results => Err(format!("{value}, but that node has {results} results")),
    }
}

// Every operand that outputs need is there: only then may the graph's own order be asked for.
fn reachable(graph: &Graph) -> Result<(), String> {
    let mut seen: HashSet<NodeId> = graph.outputs.iter().map(|(_, v)| v.node).collect();
    let mut stack: Vec<NodeId> = seen.iter().copied().collect();
    while let Some(id) = stack.pop() {
        for (port, value) in graph.node(id).inputs.iter().enumerate() {
            present(graph, *value).map_err(|e| format!("{}: operand {port} is {e}", describe(graph, id)))?;
            if seen.insert(value.node) {
                stack.push(value.node);
            }
        }
    }
    Ok(())
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("two {what} are called \"{name}\""));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Node, Tensor};
    use bakelite_host::DType;

    fn graph() -> Graph {
        let text = "graph \"g\" {\n symbol n = 1..4 opt 2\n %0 = input \"x\": f32[n,2]\n %1 = relu(%0)\n %2 = add(%1, %1)\n output \"y\" = %2\n}";
        text.parse().unwrap()
    }

    #[track_caller]
    fn refuse(change: impl FnOnce(&mut Graph), what: &str) {
        let mut graph = graph();
        change(&mut graph);
        let error = verify(&graph).unwrap_err();
        assert!(error.contains(what), "{error}");
    }

    #[test]
    fn a_sound_graph_passes() {
        verify(&graph()).unwrap();
    }

    #[test]
    fn every_invariant_is_checked() {
        let y = |g: &Graph| g.outputs[0].1;
        refuse(|g| g.outputs[0].1.result = 3, "the output \"y\" is %2.3, but that node has 1 results");
        refuse(|g| g.outputs[0].1.node = NodeId(77), "%77, which is not in the graph");
        refuse(|g| g.outputs.push(g.outputs[0].clone()), "two outputs are called \"y\"");
        refuse(|g| g.inputs.push(("x".into(), g.inputs[0].1)), "two inputs are called \"x\"");
        refuse(|g| g.inputs.push(("z".into(), g.inputs[0].1)), "a second time");
        refuse(|g| g.inputs.push(("z".into(), g.outputs[0].1.node)), "which is no input node");
        refuse(|g| g.inputs.clear(), "not listed among the graph's inputs");
        refuse(|g| g.symbols.clear(), "the symbol `n` of f32[n,2] is not declared");
        refuse(|g| g.symbols.get_mut("n").unwrap().opt = 9, "is not ordered");
        refuse(|g| g.set_input(NodeId(1), 0, y(g)), "cycle");
        refuse(
            |g| {
                let mut node = g.node(NodeId(2)).clone();
                node.types[0].dtype = DType::F16;
                g.outputs[0].1 = g.insert(node).into();
            },
            "follow from its operands",
        );
        refuse(
            |g| {
                let tensor = Tensor { dtype: DType::F32, shape: vec![3], bytes: vec![0; 8].into() };
                let types = vec![Type::new(DType::F32, &[3])];
                let node = Node { kind: Kind::Constant(tensor), inputs: vec![], types, name: "c".into() };
                g.outputs[0].1 = g.insert(node).into();
            },
            "8 bytes of data do not fit f32[3]",
        );
        refuse(
            |g| {
                let c = g.constant(Tensor::scalar(DType::F32, 1.0), "c");
                let mut node = g.node(c.node).clone();
                node.types[0].dtype = DType::F16;
                g.outputs[0].1 = g.insert(node).into();
            },
            "its type is f16[], but its data f32[]",
        );
    }
}
