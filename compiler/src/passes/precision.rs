//! The precision policy: what f32 operators compute in. Casts become explicit; inputs and outputs keep their types.
//!
//! - `Fp32`: nothing changes; a model of f16 operators keeps them.
//! - `Tf32`: matrix products and convolutions of f32 round their operands to tf32 on the way in.
//! - `Tf32x3`: they take each operand as the sum of two tf32, which is nearly as exact as `Fp32`.
//! - `Fp16`, `Bf16`: every f32 operator takes and gives that type, and constants are converted, but for operators whose
//!   values leave the type's range or need its digits. Those stay f32, see [`stays`].

use super::pattern::*;
use super::{Options, Precision};
use crate::ir::verify::describe;
use crate::ir::{Graph, Kind, NodeId, Tensor, Value};
use crate::ops::{Apply, Cast, Op, eval};
use bakelite_host::problem::{Math, ReduceKind};
use bakelite_host::{DType, Pw};
use std::collections::{HashMap, HashSet};

/// Applies the policy.
pub fn run(graph: &mut Graph, options: &Options) -> Result<(), String> {
    match options.precision {
        Precision::Fp32 => Ok(()),
        Precision::Tf32 | Precision::Tf32x3 => tensor_cores(graph, options.precision.math()),
        Precision::Fp16 => narrow(graph, DType::F16),
        Precision::Bf16 => narrow(graph, DType::BF16),
    }
}

/// `matmul(a: f32, b), conv(x: f32, w)` with `math`
fn tensor_cores(graph: &mut Graph, math: Math) -> Result<(), String> {
    for id in graph.order() {
        let node = graph.node(id);
        if node.types[0].dtype != DType::F32 {
            continue;
        }
        let op: Op = match node.op() {
            Some(Op::MatMul(op)) if op.math == Math::Exact => {
                crate::ops::MatMul { math, ..op.clone() }.into()
            }
            Some(Op::Conv(op)) if op.math == Math::Exact => crate::ops::Conv { math, ..op.clone() }.into(),
            _ => continue,
        };
        let inputs = node.inputs.clone();
        become_op(graph, id, op, &inputs)?;
        graph.prune(id);
    }
    Ok(())
}

/// The two forms of every f32 value: as it was, and narrow.
struct Narrowing<'a> {
    graph: &'a mut Graph,
    to: DType,
    narrow: HashMap<Value, Value>,
    wide: HashMap<Value, Value>,
}

fn narrow(graph: &mut Graph, to: DType) -> Result<(), String> {
    let order = graph.order();
    let stay = stays(graph, &order);
    let mut forms = Narrowing { graph, to, narrow: HashMap::new(), wide: HashMap::new() };
    for id in order {
        if let Kind::Op(op) = forms.graph.node(id).kind.clone() {
            forms.rebuild(id, op, stay.contains(&id))?;
        }
    }
    for at in 0..forms.graph.outputs.len() {
        let value = forms.graph.outputs[at].1;
        forms.graph.outputs[at].1 = forms.wide(value)?;
    }
    forms.graph.remove_dead();
    Ok(())
}

impl Narrowing<'_> {
    fn is_f32(&self, value: Value) -> bool {
        self.graph.ty(value).dtype == DType::F32
    }

    // The operator over the forms of its operands that the policy says.
    fn rebuild(&mut self, id: NodeId, op: Op, stay: bool) -> Result<(), String> {
        let node = self.graph.node(id).clone();
        let floats: Vec<Value> = node.inputs.iter().copied().filter(|v| self.is_f32(*v)).collect();
        let computes = node.types.iter().any(|t| t.dtype == DType::F32) && !matches!(op, Op::TopK(_));
        // Comparisons, searches and conversions take what is there: rounding for them would gain nothing and lose digits.
        let narrow = !stay && (computes || floats.iter().all(|v| self.narrow.contains_key(v)));
        let mut inputs = Vec::new();
        for value in &node.inputs {
            let form = if narrow && self.is_f32(*value) { self.narrow(*value) } else { self.wide(*value) };
            inputs.push(form?);
        }
        let op = match op {
            Op::Cast(Cast { to: DType::F32 }) if !stay => Op::Cast(Cast { to: self.to }),
            op => op,
        };
        if let (Op::Cast(cast), [x]) = (&op, inputs.as_slice())
            && self.graph.ty(*x).dtype == cast.to
        {
            self.file(id.into(), *x);
            return Ok(());
        }
        let new = self.graph.add(op, &inputs, node.name)?;
        for result in 0..node.types.len() as u32 {
            self.file(Value { node: id, result }, Value { node: new, result });
        }
        Ok(())
    }

    // Notes what now stands for `old`.
    fn file(&mut self, old: Value, new: Value) {
        if self.is_f32(old) && !self.is_f32(new) {
            self.narrow.insert(old, new);
        } else {
            self.wide.insert(old, new);
        }
    }

    fn wide(&mut self, value: Value) -> Result<Value, String> {
        if let Some(known) = self.wide.get(&value) {
            return Ok(*known);
        }
        let form = match self.narrow.get(&value) {
            Some(narrow) => emit(self.graph, Cast { to: DType::F32 }, &[*narrow], value.node)?,
            None => value,
        };
        self.wide.insert(value, form);
        Ok(form)
    }

    fn narrow(&mut self, value: Value) -> Result<Value, String> {
        if let Some(known) = self.narrow.get(&value) {
            return Ok(*known);
        }
        let form = match self.graph.data(value) {
            Some(tensor) => {
                let converted = convert(tensor, self.to)
                    .map_err(|e| format!("{}: {e}", describe(self.graph, value.node)))?;
                let name = self.graph.node(value.node).name.clone();
                self.graph.constant(converted, name)
            }
            None => {
                let wide = self.wide(value)?;
                emit(self.graph, Cast { to: self.to }, &[wide], value.node)?
            }
        };
        self.narrow.insert(value, form);
        Ok(form)
    }
}

// A constant in the narrow type. What stands for "minus infinity" in masks (a lone huge negative number, or a tensor of
// nothing but those and zeros) becomes the type's lowest; another number outside the range is an error.
fn convert(tensor: &Tensor, to: DType) -> Result<Tensor, String> {
    let cast = |t: &Tensor| eval::eval(&Cast { to }.into(), &[t]).map(|mut r| r.swap_remove(0));
    let converted = cast(tensor)?;
    let values = tensor.elements::<f32>();
    let results = converted.to_f64();
    let outside =
        || values.iter().zip(&results).filter(|(v, r)| v.is_finite() && !r.is_finite()).map(|(v, _)| *v);
    let Some(first) = outside().next() else { return Ok(converted) };
    let lowest = if to == DType::F16 { -65504.0f32 } else { half::bf16::MIN.to_f32() };
    let mask = values.iter().all(|v| *v == 0.0 || *v < lowest) || values.len() == 1 && first < lowest;
    if !mask {
        return Err(format!("{first:e} is outside the range of {to}; compile with bf16 or tf32 instead"));
    }
    let clamped: Vec<f32> = values.iter().map(|v| if v.is_finite() { v.max(lowest) } else { *v }).collect();
    cast(&Tensor::of(DType::F32, tensor.shape.clone(), &clamped)?)
}

/// The operators that stay f32:
/// - running sums, trigonometry, exponentials, logarithms and powers on their own; squares `x · x`; sums, products and norms
///   over dimensions: their values leave a narrow type's range or digits;
/// - conversions of integers of 16 bits and more, which are positions or counts;
/// - pointwise operators, moves and reductions all of whose varying operands are such values: between two of them nothing
///   is rounded;
/// - what makes the argument of trigonometry, up to the next matrix product or convolution.
fn stays(graph: &Graph, order: &[NodeId]) -> HashSet<NodeId> {
    let mut stay: HashSet<NodeId> = HashSet::new();
    for id in order {
        let node = graph.node(*id);
        let Some(op) = node.op() else { continue };
        if sensitive(graph, *id, op) {
            stay.insert(*id);
            continue;
        }
        let mut varying = node
            .inputs
            .iter()
            .filter(|v| graph.data(**v).is_none() && graph.ty(**v).dtype == DType::F32)
            .peekable();
        if local(op) && varying.peek().is_some() && varying.all(|v| stay.contains(&v.node)) {
            stay.insert(*id);
        }
    }
    // Backwards from angles to where they come from.
    let mut stack: Vec<NodeId> = order.iter().copied().filter(|id| angle(graph.node(*id).op())).collect();
    let mut seen: HashSet<NodeId> = stack.iter().copied().collect();
    while let Some(id) = stack.pop() {
        for value in &graph.node(id).inputs {
            let node = graph.node(value.node);
            let outer = matches!(node.op(), Some(Op::MatMul(_))) && outer_product(graph, value.node);
            if node.op().is_some_and(|op| local(op) || outer) && seen.insert(value.node) {
                stay.insert(value.node);
                stack.push(value.node);
            }
        }
    }
    stay
}

fn sensitive(graph: &Graph, id: NodeId, op: &Op) -> bool {
    let inputs = &graph.node(id).inputs;
    match op {
        Op::CumSum(_) => true,
        Op::Cast(Cast { to: DType::F32 }) => {
            let from = graph.ty(inputs[0]).dtype;
            from.is_int() && from.size() > 1
        }
        Op::Reduce(reduce) => !matches!(reduce.kind, ReduceKind::Mean | ReduceKind::Max | ReduceKind::Min),
        Op::Apply(Apply { op: Pw::Mul }) => inputs[0] == inputs[1],
        Op::Apply(Apply { op }) => {
            let steep = [Pw::Exp, Pw::Log, Pw::Pow, Pw::Sinh, Pw::Cosh, Pw::Tan];
            steep.contains(op) || angle(Some(&Apply { op: *op }.into()))
        }
        _ => false,
    }
}

fn angle(op: Option<&Op>) -> bool {
    matches!(op, Some(Op::Apply(Apply { op: Pw::Sin | Pw::Cos })))
}

// Operators that round no more than their operands' type does, and cost little in f32.
fn local(op: &Op) -> bool {
    matches!(
        op,
        Op::Apply(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Slice(_)
            | Op::Broadcast(_)
            | Op::Concat(_)
            | Op::Reduce(_)
    )
}

fn outer_product(graph: &Graph, id: NodeId) -> bool {
    let (Some(Op::MatMul(op)), [a, _]) = (graph.node(id).op(), graph.node(id).inputs.as_slice()) else {
        return false;
    };
    let shape = &graph.ty(*a).shape;
    let inner = if op.trans_a { shape.len().checked_sub(2) } else { shape.len().checked_sub(1) };
    inner.is_some_and(|d| shape[d].is(1))
}
