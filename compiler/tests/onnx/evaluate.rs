//! Runs an imported graph on the host, node by node.

use bakelite::ir::{Graph, Kind, Tensor, Value};
use bakelite::ops::eval::eval;
use std::collections::HashMap;

/// The outputs for these inputs, by name. The graph must be free of symbols.
pub(crate) fn run(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, String> {
    let mut known: HashMap<Value, Tensor> = HashMap::new();
    for (name, id) in &graph.inputs {
        let given = inputs.iter().find(|(n, _)| n == name).ok_or_else(|| format!("no input {name}"))?;
        known.insert((*id).into(), given.1.clone());
    }
    for id in graph.order() {
        let node = graph.node(id);
        match &node.kind {
            Kind::Input => {}
            Kind::Constant(t) => {
                known.insert(id.into(), t.clone());
            }
            Kind::Op(op) => {
                let operands: Vec<&Tensor> = node.inputs.iter().map(|v| &known[v]).collect();
                let results = eval(op, &operands).map_err(|e| format!("{}: {op:?}: {e}", node.name))?;
                for (i, t) in results.into_iter().enumerate() {
                    known.insert(Value { node: id, result: i as u32 }, t);
                }
            }
        }
    }
    Ok(graph.outputs.iter().map(|(n, v)| (n.clone(), known[v].clone())).collect())
}
