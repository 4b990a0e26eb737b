//! Evaluation of one operator on constant operands, by the host kernel of its problem; and of whole graphs, as the oracle
//! of tests.

use super::{Broadcast, Op, Reshape, Resize, Slice, TopK};
use crate::ir::graph::{Graph, Kind, Value};
use crate::ir::tensor::Tensor;
use crate::ir::types::Type;
use crate::ir::verify::describe;
use bakelite_host::DType;
use bakelite_kernels::Dim;
use std::collections::{BTreeMap, HashMap};

/// The outputs of a graph for the given inputs, in order: every node by its host kernel. Symbols take the sizes that the
/// inputs have; a graph whose symbols do not stand alone in some input's shape cannot be evaluated.
pub fn evaluate(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    if inputs.len() != graph.inputs.len() {
        return Err(format!("{} inputs for a graph that has {}", inputs.len(), graph.inputs.len()));
    }
    let symbols = bind(graph, inputs)?;
    let mut values: HashMap<Value, Tensor> = HashMap::new();
    for ((_, id), tensor) in graph.inputs.iter().zip(inputs) {
        values.insert((*id).into(), tensor.clone());
    }
    for id in graph.order() {
        let node = graph.node(id);
        match &node.kind {
            Kind::Input => {}
            Kind::Constant(tensor) => {
                values.insert(id.into(), tensor.clone());
            }
            Kind::Op(op) => {
                let operands =
                    node.inputs.iter().map(|v| values.get(v).ok_or_else(|| format!("{v} has no value")));
                let operands = operands.collect::<Result<Vec<_>, _>>()?;
                let results = eval(&bound(op, &symbols), &operands);
                let results = results.map_err(|e| format!("{}: {e}", describe(graph, id)))?;
                for (result, tensor) in results.into_iter().enumerate() {
                    values.insert(Value { node: id, result: result as u32 }, tensor);
                }
            }
        }
    }
    let output = |(name, v): &(String, Value)| {
        values.get(v).cloned().ok_or_else(|| format!("the output \"{name}\" has no value"))
    };
    graph.outputs.iter().map(output).collect()
}

// The value of every symbol, from the inputs' shapes.
fn bind(graph: &Graph, inputs: &[Tensor]) -> Result<BTreeMap<String, i64>, String> {
    let mut symbols = BTreeMap::new();
    let sizes = || {
        graph.inputs.iter().zip(inputs).flat_map(|((name, id), tensor)| {
            let ty = graph.ty((*id).into());
            ty.shape.iter().zip(&tensor.shape).map(move |(dim, size)| (name, ty, dim, *size as i64))
        })
    };
    for ((name, id), tensor) in graph.inputs.iter().zip(inputs) {
        let ty = graph.ty((*id).into());
        if ty.dtype != tensor.dtype || ty.rank() != tensor.shape.len() {
            return Err(format!("the input \"{name}\" is {ty}, but {tensor:?} is given"));
        }
    }
    for (_, _, dim, size) in sizes() {
        let mut names = Vec::new();
        dim.visit_symbols(&mut |s| names.push(s.to_owned()));
        if let [name] = names.as_slice()
            && *dim == Dim::symbol(name)
        {
            symbols.entry(name.clone()).or_insert(size);
        }
    }
    for (name, ty, dim, size) in sizes() {
        let mut unknown = None;
        dim.visit_symbols(&mut |s| {
            if !symbols.contains_key(s) {
                unknown = Some(s.to_owned());
            }
        });
        if let Some(symbol) = unknown {
            return Err(format!("no input's shape says what `{symbol}` is"));
        }
        let expected = dim.eval(&|s| symbols.get(s).copied().unwrap_or(0));
        if expected != size {
            return Err(format!(
                "the input \"{name}\" is {ty}: a size is {size} where {expected} is expected"
            ));
        }
    }
    Ok(symbols)
}

// The operator with every symbol replaced by its value.
fn bound(op: &Op, symbols: &BTreeMap<String, i64>) -> Op {
    let dim = |d: &Dim| d.substitute(&|s| symbols.get(s).map_or_else(|| Dim::symbol(s), |v| Dim::from(*v)));
    let dims = |shape: &[Dim]| shape.iter().map(dim).collect::<Vec<_>>();
    match op {
        Op::Broadcast(o) => Broadcast { shape: dims(&o.shape) }.into(),
        Op::Reshape(o) => Reshape { shape: dims(&o.shape) }.into(),
        Op::Resize(o) => Resize { shape: dims(&o.shape), ..o.clone() }.into(),
        Op::Slice(o) => Slice { starts: dims(&o.starts), shape: dims(&o.shape), ..o.clone() }.into(),
        Op::TopK(o) => TopK { k: dim(&o.k), ..o.clone() }.into(),
        other => other.clone(),
    }
}

/// The results of `op` on `inputs`, whose types it must accept. Shapes must be free of symbols.
pub fn eval(op: &Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let types: Vec<Type> = inputs.iter().map(|t| Type::new(t.dtype, &t.shape)).collect();
    let types: Vec<&Type> = types.iter().collect();
    let outputs = op.infer(&types)?;
    if let (Op::Reshape(_), [x], Some(shape)) = (op, inputs, outputs[0].dims()) {
        return Ok(vec![Tensor { dtype: x.dtype, shape, bytes: x.bytes.clone() }]);
    }
    if let (Op::MatMul(_), Err(_)) = (op, op.lower(&types, &outputs)) {
        return eval_expanded(op, inputs, &outputs[0]);
    }
    let shapes = outputs.iter().map(|t| t.dims().ok_or_else(|| format!("the result {t} is symbolic")));
    let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
    let problem = op
        .lower(&types, &outputs)?
        .map(&mut |d| d.as_const().and_then(|c| usize::try_from(c).ok()).unwrap_or(0));
    let buffer = |(shape, ty): (&Vec<usize>, &Type)| {
        let element = if shape.contains(&0) { 0 } else { ty.dtype.size() };
        let bytes = shape.iter().filter(|_| element > 0).try_fold(element, |bytes, d| bytes.checked_mul(*d));
        Ok(Aligned::zeroed(bytes.ok_or_else(|| format!("the result {ty} is larger than any memory"))?))
    };
    let mut buffers = shapes.iter().zip(&outputs).map(buffer).collect::<Result<Vec<_>, String>>()?;
    run(&problem, inputs, &outputs.iter().map(|t| t.dtype).collect::<Vec<_>>(), &mut buffers)?;
    let tensor = |((shape, ty), buffer): ((Vec<usize>, &Type), Aligned)| {
        Tensor::new(ty.dtype, shape, buffer.into_bytes())
    };
    shapes.into_iter().zip(&outputs).zip(buffers).map(tensor).collect()
}

// A product whose operands broadcast against each other in part, which has no problem of its own: over operands written out,
// as passes::legalize does.
fn eval_expanded(op: &Op, inputs: &[&Tensor], output: &Type) -> Result<Vec<Tensor>, String> {
    let batch = &output.shape[..output.rank() - 2];
    let mut operands = Vec::new();
    for tensor in inputs {
        let matrix = tensor.shape[tensor.shape.len() - 2..].iter().map(|d| Dim::from(*d));
        let shape = batch.iter().cloned().chain(matrix).collect();
        operands.extend(eval(&Broadcast { shape }.into(), &[tensor])?);
    }
    let operands: Vec<&Tensor> = operands.iter().collect();
    let types: Vec<Type> = operands.iter().map(|t| Type::new(t.dtype, &t.shape)).collect();
    op.lower(&types.iter().collect::<Vec<_>>(), std::slice::from_ref(output))?;
    eval(op, &operands)
}

fn run(
    problem: &bakelite_host::Problem<usize>,
    inputs: &[&Tensor],
    dtypes: &[DType],
    outputs: &mut [Aligned],
) -> Result<(), String> {
    use bakelite_host::view::{View, ViewMut};
    let aligned: Vec<Aligned> = inputs.iter().map(|t| Aligned::copied(&t.bytes)).collect();
    let views: Vec<View<'_>> =
        inputs.iter().zip(&aligned).map(|(t, a)| View { dtype: t.dtype, bytes: a.bytes() }).collect();
    let mut outs: Vec<ViewMut<'_>> =
        outputs.iter_mut().zip(dtypes).map(|(o, d)| ViewMut { dtype: *d, bytes: o.bytes_mut() }).collect();
    bakelite_host::run(problem, &views, &mut outs).map_err(|e| e.to_string())
}

/// Bytes aligned for any element type.
pub(crate) struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    pub(crate) fn zeroed(len: usize) -> Aligned {
        Aligned { words: vec![0; len.div_ceil(8)], len }
    }
    pub(crate) fn copied(bytes: &[u8]) -> Aligned {
        let mut aligned = Aligned::zeroed(bytes.len());
        aligned.bytes_mut().copy_from_slice(bytes);
        aligned
    }
    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
    pub(crate) fn into_bytes(self) -> bytes::Bytes {
        struct Owner(Aligned);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                self.0.bytes()
            }
        }
        bytes::Bytes::from_owner(Owner(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakelite_host::DType;

    #[test]
    fn sizes_that_no_memory_has_are_errors_and_empty_results_are_not() {
        let one = Tensor::scalar(DType::F32, 1.0);
        let broadcast = |sizes: &[i64]| {
            let shape = sizes.iter().map(|s| Dim::from(*s)).collect();
            eval(&Broadcast { shape }.into(), &[&one])
        };
        let huge = [2_147_483_647, i64::MAX, 2_147_483_647];
        assert!(broadcast(&huge).unwrap_err().contains("larger than any memory"));
        // An element count of 0 whose other factors overflow: empty, or refused by a kernel's own check; never a panic.
        let _ = broadcast(&[huge.as_slice(), &[0]].concat());
        assert_eq!(broadcast(&[2, 0, 3]).unwrap()[0].shape, [2, 0, 3]);
    }
}
