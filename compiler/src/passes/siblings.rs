//! Sibling products: matrix products of one value with several constants are one product with the constants' columns side by
//! side, of which each reader takes a slice. Three launches of a projection to q, k and v are one, and the tensor cores are
//! busier.
//!
//! Only where every reader is attention, which reads a slice without a copy. Products read by pointwise operators stay apart:
//! those are their epilogues, in which a gate costs nothing. So do convolutions: what follows them (another convolution, a
//! concatenation) wants its operand dense, and a copy of each slice would cost the launches that are saved.

use super::Options;
use super::compose::row_operand;
use super::pattern::*;
use crate::ir::{Graph, NodeId, Tensor, Value};
use crate::ops::{Concat, MatMul, Op, Slice};
use bakelite_host::problem::Math;
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;

/// Columns of each product are a multiple of this: a slice then begins where 16 bytes do.
const COLUMNS: usize = 8;

/// `matmul(x, a), matmul(x, b) → slice(matmul(x, [a b])), slice(matmul(x, [a b]))`, and so for the pointwise operators with
/// constants that follow both.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), String> {
    for id in graph.order() {
        // What a join made superfluous is gone.
        if !graph.contains(id) {
            continue;
        }
        for result in 0..graph.node(id).types.len() as u32 {
            let mut left: Vec<Sibling> =
                readers(graph, Value { node: id, result }).filter_map(|r| Sibling::of(graph, r)).collect();
            while let Some(first) = left.first() {
                let likeness = first.likeness(graph);
                let (alike, others) = left.into_iter().partition(|s| s.likeness(graph) == likeness);
                left = others;
                join(graph, &alike)?;
            }
        }
    }
    Ok(())
}

// In a fixed order, each once.
fn readers(graph: &Graph, value: Value) -> impl Iterator<Item = NodeId> + use<> {
    let mut readers: Vec<NodeId> = graph.users(value).into_iter().map(|(reader, _)| reader).collect();
    readers.sort_unstable();
    readers.dedup();
    readers.into_iter()
}

/// A product with a constant, and the pointwise operators with constants of a row that follow it.
struct Sibling {
    product: NodeId,
    columns: usize,
    /// Each with the operand that is the value so far.
    tail: Vec<(NodeId, usize)>,
}

/// What siblings that become one have in common: the product's attributes, and of the tail each operator, the operand that
/// is the value so far, and the types of all.
type Likeness = (bool, Math, Vec<(Pw, usize, Vec<DType>)>);

impl Sibling {
    fn of(graph: &Graph, product: NodeId) -> Option<Sibling> {
        let op = matrix_product(graph, product)?;
        let weight = graph.node(product).inputs.get(1)?;
        // A weight with another reader would be kept twice.
        let columns = graph.data(*weight)?.shape[usize::from(!op.trans_b)];
        let own = row_operand(graph, product)? == 0 && private(graph, *weight, 1);
        let mut sibling = Sibling { product, columns, tail: vec![] };
        while let [(reader, port)] = graph.users(sibling.end()).as_slice()
            && let Some(Op::Apply(_)) = graph.op((*reader).into())
            && row_operand(graph, *reader) == Some(*port)
        {
            sibling.tail.push((*reader, *port));
        }
        let fits = own && columns % COLUMNS == 0 && read_by_attention(graph, sibling.end(), &mut 16);
        fits.then_some(sibling)
    }

    fn end(&self) -> Value {
        self.tail.last().map_or(self.product, |(id, _)| *id).into()
    }

    fn likeness(&self, graph: &Graph) -> Likeness {
        let step = |(id, port): &(NodeId, usize)| {
            let node = graph.node(*id);
            let Some(Op::Apply(apply)) = node.op() else { return None };
            Some((apply.op, *port, node.inputs.iter().map(|v| graph.ty(*v).dtype).collect()))
        };
        let op = matrix_product(graph, self.product).unwrap_or(&MatMul::PLAIN);
        (op.trans_b, op.math, self.tail.iter().filter_map(step).collect())
    }
}

fn matrix_product(graph: &Graph, id: NodeId) -> Option<&MatMul> {
    if let Some(Op::MatMul(product)) = graph.node(id).op() { Some(product) } else { None }
}

// Whether moves lead from the value to attention's q, k or v, and to nothing else.
fn read_by_attention(graph: &Graph, value: Value, left: &mut usize) -> bool {
    every_reader(graph, value, left, &mut |reader, port, left| match graph.op(reader.into()) {
        Some(Op::Attention(_)) => port < 3,
        Some(Op::Transpose(_) | Op::Reshape(_) | Op::Slice(_)) => {
            read_by_attention(graph, reader.into(), left)
        }
        _ => false,
    })
}

fn join(graph: &mut Graph, siblings: &[Sibling]) -> Result<(), String> {
    let [first, _, ..] = siblings else { return Ok(()) };
    let columns: Vec<usize> = siblings.iter().map(|s| s.columns).collect();
    let Some(Op::MatMul(op)) = graph.node(first.product).op().cloned() else { return Ok(()) };
    let weights: Vec<Value> = siblings.iter().map(|s| graph.node(s.product).inputs[1]).collect();
    let Some(weight) = compute(graph, Concat { axis: usize::from(!op.trans_b) }, &weights) else {
        return Ok(());
    };
    let x = graph.node(first.product).inputs[0];
    let mut joint = emit(graph, op, &[x, weight], first.product)?;
    for (at, (like, port)) in first.tail.iter().enumerate() {
        let node = graph.node(*like);
        let (Some(op), mut inputs) = (node.op().cloned(), node.inputs.clone()) else { return Ok(()) };
        for (i, input) in inputs.iter_mut().enumerate() {
            if i == *port {
                *input = joint;
                continue;
            }
            let parts: Vec<Value> = siblings.iter().map(|s| graph.node(s.tail[at].0).inputs[i]).collect();
            let Some(row) = side_by_side(graph, &parts, &columns) else { return Ok(()) };
            *input = row;
        }
        joint = emit(graph, op, &inputs, *like)?;
    }
    let mut start = 0;
    for sibling in siblings {
        let shape = graph.ty(sibling.end()).shape.clone();
        let mut starts = vec![Dim::from(0); shape.len()];
        starts[shape.len() - 1] = Dim::from(start);
        start += sibling.columns;
        let id = sibling.end().node;
        let part = emit(graph, Slice { starts, steps: vec![1; shape.len()], shape }, &[joint], id)?;
        swap(graph, id, part)?;
        graph.prune(id);
    }
    Ok(())
}

// Constants of rows as one of all columns; one number where all are that.
fn side_by_side(graph: &mut Graph, parts: &[Value], columns: &[usize]) -> Option<Value> {
    let numbers: Vec<Option<f64>> = parts.iter().map(|v| uniform(graph, *v)).collect();
    let dtype = graph.ty(parts[0]).dtype;
    if let Some(number) = numbers[0]
        && numbers.iter().all(|n| *n == Some(number))
    {
        return Some(graph.constant(Tensor::scalar(dtype, number), ""));
    }
    let mut rows = Vec::new();
    for ((part, number), columns) in parts.iter().zip(numbers).zip(columns) {
        rows.push(match number {
            Some(number) => filled(graph, dtype, &[*columns], number, ""),
            None => reshaped(graph, *part, &[*columns])?,
        });
    }
    compute(graph, Concat { axis: 0 }, &rows)
}
