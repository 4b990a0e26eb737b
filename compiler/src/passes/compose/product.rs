//! Matrix products take up transposes of their operands' last two dimensions.

use crate::ir::{Graph, NodeId};
use crate::ops::{MatMul, Op};
use crate::passes::Rule;
use crate::passes::pattern::*;

pub(super) const RULES: &[(&str, Rule)] = &[("transposed_operand", transposed_operand)];

/// `matmul(a, transpose(b)) → matmul(a, b) {trans_b}`, and so for a.
fn transposed_operand(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let (Some(Op::MatMul(product)), &[a, b]) = (node.op(), node.inputs.as_slice()) else { return Ok(false) };
    let mut product: MatMul = product.clone();
    let swapped = |op: &Op| match op {
        Op::Transpose(t) => {
            let rank = t.perm.len();
            let last = rank >= 2 && t.perm[rank - 1] == rank - 2 && t.perm[rank - 2] == rank - 1;
            (last && t.perm[..rank - 2].iter().enumerate().all(|(d, p)| d == *p)).then_some(())
        }
        _ => None,
    };
    match (unary(graph, a, swapped), unary(graph, b, swapped)) {
        (_, Some((_, base))) => {
            product.trans_b = !product.trans_b;
            become_op(graph, id, product, &[a, base])
        }
        (Some((_, base)), _) => {
            product.trans_a = !product.trans_a;
            become_op(graph, id, product, &[base, b])
        }
        _ => Ok(false),
    }
}
