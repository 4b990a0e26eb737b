//! Common subexpressions: of two equal operators on equal operands, and of two equal constants, one goes.

use crate::ir::{Graph, Kind, NodeId, Value};
use bakelite_host::DType;
use std::collections::HashMap;

/// `f(x), f(x) → f(x)` once; constants are compared by their bytes. Returns how many nodes went.
pub(super) fn run(graph: &mut Graph) -> Result<usize, String> {
    let mut operators: HashMap<(String, Vec<Value>), NodeId> = HashMap::new();
    let mut constants: HashMap<(DType, Vec<usize>, Vec<u8>), Vec<NodeId>> = HashMap::new();
    let mut merged = 0;
    for id in graph.order() {
        let node = graph.node(id);
        let twin = match &node.kind {
            Kind::Input => None,
            Kind::Constant(tensor) => {
                let start = tensor.bytes[..tensor.bytes.len().min(64)].to_vec();
                let alike = constants.entry((tensor.dtype, tensor.shape.clone(), start)).or_default();
                let same =
                    |other: &&NodeId| graph.node(**other).constant().is_some_and(|t| t.bytes == tensor.bytes);
                let twin = alike.iter().find(same).copied();
                if twin.is_none() {
                    alike.push(id);
                }
                twin
            }
            Kind::Op(op) => {
                let mut text = op.name().to_owned();
                for (name, value) in op.attributes() {
                    text += &format!(" {name}={value}");
                }
                let first = *operators.entry((text, node.inputs.clone())).or_insert(id);
                (first != id).then_some(first)
            }
        };
        if let Some(twin) = twin {
            for result in 0..graph.node(id).types.len() as u32 {
                graph.replace(Value { node: id, result }, Value { node: twin, result })?;
            }
            graph.prune(id);
            merged += 1;
        }
    }
    Ok(merged)
}
