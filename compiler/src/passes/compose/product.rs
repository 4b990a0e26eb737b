//! Matrix products take up transposes of their operands' last two dimensions, and let those of their rows through.

use crate::ir::{Graph, NodeId, Value};
use crate::ops::{MatMul, Op, Transpose};
use crate::passes::Rule;
use crate::passes::pattern::*;
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

pub(super) const RULES: &[(&str, Rule)] =
    &[("transposed_operand", transposed_operand), ("sink_rows", sink_rows)];

/// Readers that a look at where rows are ordered again may visit: attention's three operands need some twenty.
const MOST_READERS: usize = 64;

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

/// Rows in another order than before: `transpose(x)`, of which the last dimensions, `width` elements, stay where they are.
struct Rows {
    x: Value,
    /// Of the rows' dimensions.
    perm: Vec<usize>,
}

impl Rows {
    // Behind a reshape of the rows, or none.
    fn of(graph: &Graph, value: Value, width: &Dim) -> Option<Rows> {
        let view = unary(graph, value, |op| matches!(op, Op::Reshape(_)).then_some(()));
        let value = view.map_or(value, |(_, x)| x);
        let (perm, x) =
            unary(graph, value, |op| if let Op::Transpose(t) = op { Some(&t.perm) } else { None })?;
        let shape = &graph.ty(x).shape;
        let rows = (0..shape.len()).rev().find(|d| product(&shape[*d..]) == *width)?;
        let stay = (rows..shape.len()).all(|d| perm[d] == d);
        (stay && rows > 0).then(|| Rows { x, perm: perm[..rows].to_vec() })
    }

    fn transpose(&self) -> Transpose {
        Transpose { perm: self.perm.iter().copied().chain([self.perm.len()]).collect() }
    }
}

/// `f(transpose(x)) → transpose(f(x))` for what computes each row by itself and a transpose of rows: a matrix product with a
/// constant, and pointwise operators with constants of a row. The transpose may be behind a reshape of the rows. Only where
/// the order of the rows is undone further on, or does not matter because attention reads through it.
fn sink_rows(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let node = graph.node(id);
    let Some(port) = row_operand(graph, id) else { return Ok(false) };
    let (op, mut inputs, out) = (node.op().cloned(), node.inputs.clone(), node.types[0].shape.clone());
    let (Some(op), Some(width)) = (op, graph.ty(inputs[port]).shape.last()) else { return Ok(false) };
    let Some(rows) = Rows::of(graph, inputs[port], width) else { return Ok(false) };
    if !meets(graph, id.into(), &rows.transpose(), &mut MOST_READERS.clone()) {
        return Ok(false);
    }
    let mut shape = graph.ty(rows.x).shape[..rows.perm.len()].to_vec();
    shape.push(width.clone());
    inputs[port] = reshape(graph, rows.x, shape, id)?;
    let y = emit(graph, op, &inputs, id)?;
    let y = transposed(graph, y, &rows.transpose().perm, id)?;
    let y = reshape(graph, y, out, id)?;
    swap(graph, id, y)
}

/// Which operand has the rows that the node computes, each by itself with constants: of a product, or of a pointwise operator.
pub(in crate::passes) fn row_operand(graph: &Graph, id: NodeId) -> Option<usize> {
    let node = graph.node(id);
    let out = &node.types[0];
    match node.op()? {
        Op::MatMul(product) => {
            let weight = *node.inputs.get(1)?;
            let plain = !product.trans_a && graph.data(weight).is_some() && graph.ty(weight).rank() == 2;
            plain.then_some(0)
        }
        Op::Apply(_) => {
            let mut moving = (0..node.inputs.len()).filter(|i| graph.data(node.inputs[*i]).is_none());
            let (Some(port), None) = (moving.next(), moving.next()) else { return None };
            let of_a_row = |v: &Value| match graph.data(*v) {
                None => graph.ty(*v).shape == out.shape,
                Some(t) => varies_along(t, out.rank()).is_some_and(|d| d.is_none_or(|d| d + 1 == out.rank())),
            };
            node.inputs.iter().all(of_a_row).then_some(port)
        }
        _ => None,
    }
}

// Whether everything that reads the value meets the opposite transpose or attention, which reads through moves.
fn meets(graph: &Graph, value: Value, perm: &Transpose, left: &mut usize) -> bool {
    every_reader(graph, value, left, &mut |reader, port, left| match graph.op(reader.into()) {
        Some(Op::Transpose(t)) if t.perm.len() == perm.perm.len() && t.after(perm).is_identity() => true,
        Some(Op::Attention(_)) => port < 3,
        Some(Op::Transpose(_) | Op::Reshape(_) | Op::Slice(_)) => meets(graph, reader.into(), perm, left),
        _ => row_operand(graph, reader) == Some(port) && meets(graph, reader.into(), perm, left),
    })
}
