//! One node under import: its operands and attributes on one side, the graph on the other, and the small steps that
//! most mappings are made of. A step that changes nothing adds nothing; one on small constants is done at once.

use super::attributes::Attributes;
use super::import::{Importer, RANK};
use super::model::Node;
use super::sizes::{Sizes, floats};
use crate::ir::types::normalize_axis;
use crate::ir::{Graph, NodeId, Tensor, Type, Value};
use crate::ops::{Apply, Broadcast, Cast, Op, Reshape, Slice, Transpose, eval};
use bakelite_host::{DType, Pw};
use bakelite_kernels::{Dim, Symbols};

/// What a name of the model stands for.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    /// A value of the graph.
    Value(Value),
    /// Shape arithmetic, which has no node.
    Sizes(Sizes),
}

impl From<Value> for Operand {
    fn from(value: Value) -> Operand {
        Operand::Value(value)
    }
}

/// What a mapping gives: the node's results in order, as many as it has a mapping for.
pub(super) type Results = Result<Vec<Operand>, String>;

/// The only result.
pub(super) fn one(result: impl Into<Operand>) -> Results {
    Ok(vec![result.into()])
}

/// Constants of at most this many bytes are calculated at import.
const FOLD: i64 = 1 << 16;

/// One node under import.
pub(super) struct Call<'a> {
    importer: &'a mut Importer,
    pub(super) node: &'a Node,
    operands: Vec<Option<Operand>>,
    name: String,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        importer: &'a mut Importer,
        node: &'a Node,
        operands: Vec<Option<Operand>>,
    ) -> Call<'a> {
        let own = if node.name.is_empty() { node.outputs.first() } else { Some(&node.name) };
        let name = format!("{} ({})", own.map_or("", String::as_str), node.op);
        Call { importer, node, operands, name }
    }

    pub(super) fn attributes(&self) -> &'a Attributes {
        &self.node.attributes
    }

    pub(super) fn opset(&self) -> i64 {
        self.node.opset
    }

    pub(super) fn graph(&self) -> &Graph {
        &self.importer.graph
    }

    pub(super) fn symbols(&self) -> &Symbols {
        &self.importer.graph.symbols
    }

    pub(super) fn importer(&mut self) -> &mut Importer {
        self.importer
    }

    // Operands.

    /// How many operands are listed, absent ones included.
    pub(super) fn count(&self) -> usize {
        self.operands.len()
    }

    pub(super) fn has(&self, i: usize) -> bool {
        self.operands.get(i).is_some_and(Option::is_some)
    }

    /// Operand `i` as it is.
    pub(super) fn operand(&self, i: usize) -> Result<Operand, String> {
        self.operands.get(i).cloned().flatten().ok_or_else(|| {
            format!(
                "operand {i} is missing: there are {}",
                self.operands.iter().filter(|o| o.is_some()).count()
            )
        })
    }

    /// Operand `i` as a value.
    pub(super) fn value(&mut self, i: usize) -> Result<Value, String> {
        let operand = self.operand(i)?;
        let name = self.node.inputs[i].clone();
        self.importer.value(&operand, &name)
    }

    /// Operand `i`, if it is there.
    pub(super) fn optional(&mut self, i: usize) -> Result<Option<Value>, String> {
        if self.has(i) { self.value(i).map(Some) } else { Ok(None) }
    }

    /// Every operand.
    pub(super) fn values(&mut self) -> Result<Vec<Value>, String> {
        if self.operands.is_empty() {
            return Err("it has no operands".into());
        }
        (0..self.operands.len()).map(|i| self.value(i)).collect()
    }

    /// The type of operand `i`.
    pub(super) fn operand_type(&self, i: usize) -> Result<Type, String> {
        Ok(match self.operand(i)? {
            Operand::Value(v) => self.ty(v).clone(),
            Operand::Sizes(s) => Type::new(s.dtype, &s.shape),
        })
    }

    /// Contents of operand `i`, if they are known and few.
    pub(super) fn sizes(&self, i: usize) -> Option<Sizes> {
        match self.operands.get(i)?.as_ref()? {
            Operand::Sizes(s) => Some(s.clone()),
            Operand::Value(v) => Sizes::of(self.graph().data(*v)?),
        }
    }

    /// Contents of operand `i`, which must be known; `what` it is called in the error.
    pub(super) fn need_sizes(&self, i: usize, what: &str) -> Result<Vec<Dim>, String> {
        self.operand(i)?;
        let sizes = self.sizes(i);
        sizes.map(|s| s.dims).ok_or_else(|| {
            format!("{what} \"{}\" depends on data, which is not supported", self.node.inputs[i])
        })
    }

    /// Contents of operand `i`, which must be numbers.
    pub(super) fn need_ints(&self, i: usize, what: &str) -> Result<Vec<i64>, String> {
        let dims = self.need_sizes(i, what)?;
        let number = |d: &Dim| {
            d.as_const().ok_or_else(|| format!("{what} must be known at compile time, but is `{d}`"))
        };
        dims.iter().map(number).collect()
    }

    /// The one number that operand `i` is.
    pub(super) fn need_int(&self, i: usize, what: &str) -> Result<i64, String> {
        match self.need_ints(i, what)?.as_slice() {
            [one] => Ok(*one),
            many => Err(format!("{what} must be one number, but has {}", many.len())),
        }
    }

    /// The contents of operand `i`, which must be constant, as numbers.
    pub(super) fn need_floats(&mut self, i: usize, what: &str) -> Result<Vec<f64>, String> {
        let value = self.value(i)?;
        let data = self.data(value).map(Tensor::to_f64);
        data.ok_or_else(|| {
            format!("{what} \"{}\" depends on data, which is not supported", self.node.inputs[i])
        })
    }

    /// Contents of every operand, if all are known and at least one exists only as sizes: then the node is shape
    /// arithmetic and is done on expressions.
    pub(super) fn all_sizes(&self) -> Option<Vec<Sizes>> {
        let symbolic = self.operands.iter().any(|o| matches!(o, Some(Operand::Sizes(_))));
        if !symbolic {
            return None;
        }
        (0..self.operands.len()).map(|i| self.sizes(i)).collect()
    }

    /// Integers given by the attribute in old opsets and by operand `i` in newer ones.
    pub(super) fn ints_or(&self, attribute: &str, i: usize) -> Result<Option<Vec<i64>>, String> {
        if self.has(i) {
            return self.need_ints(i, attribute).map(Some);
        }
        Ok(self.attributes().find_ints(attribute)?.map(<[i64]>::to_vec))
    }

    // Values.

    pub(super) fn ty(&self, value: Value) -> &Type {
        self.importer.graph.ty(value)
    }

    pub(super) fn shape(&self, value: Value) -> Vec<Dim> {
        self.ty(value).shape.clone()
    }

    pub(super) fn rank(&self, value: Value) -> usize {
        self.ty(value).rank()
    }

    pub(super) fn dtype(&self, value: Value) -> DType {
        self.ty(value).dtype
    }

    pub(super) fn data(&self, value: Value) -> Option<&Tensor> {
        self.graph().data(value)
    }

    /// The attribute `name` as an axis of `value`.
    pub(super) fn axis(&self, name: &str, default: i64, value: Value) -> Result<usize, String> {
        normalize_axis(self.attributes().int(name, default)?, self.rank(value))
    }

    pub(super) fn constant(&mut self, tensor: Tensor) -> Value {
        self.importer.graph.constant(tensor, self.name.clone())
    }

    /// A number of rank 0.
    pub(super) fn scalar(&mut self, dtype: DType, value: f64) -> Value {
        self.constant(Tensor::scalar(dtype, value))
    }

    /// A number of rank 0 and the element type of `like`.
    pub(super) fn number(&mut self, like: Value, value: f64) -> Value {
        let dtype = self.dtype(like);
        self.scalar(dtype, value)
    }

    // Steps.

    /// Adds an operator with one result.
    pub(super) fn add(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Result<Value, String> {
        let op = op.into();
        if let Some(folded) = self.fold(&op, inputs) {
            return Ok(self.constant(folded));
        }
        Ok(self.add_node(op, inputs)?.into())
    }

    /// Adds an operator.
    pub(super) fn add_node(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Result<NodeId, String> {
        let id = self.importer.graph.add(op, inputs, self.name.clone())?;
        for ty in &self.importer.graph.node(id).types {
            self.importer.check(ty)?;
        }
        Ok(id)
    }

    fn fold(&self, op: &Op, inputs: &[Value]) -> Option<Tensor> {
        let inputs: Vec<&Tensor> = inputs.iter().map(|v| self.graph().data(*v)).collect::<Option<_>>()?;
        let types: Vec<Type> = inputs.iter().map(|t| Type::new(t.dtype, &t.shape)).collect();
        let outputs = op.infer(&types.iter().collect::<Vec<_>>()).ok()?;
        let [output] = outputs.as_slice() else { return None };
        let view = matches!(op, Op::Reshape(_));
        let small =
            |ty: &Type| ty.rank() <= RANK && ty.bytes().as_const().is_some_and(|b| (0..=FOLD).contains(&b));
        let light = types.iter().all(|t| t.bytes().as_const().is_some_and(|b| b <= 16 * FOLD));
        if !(view || small(output) && light) {
            return None;
        }
        eval::eval(op, &inputs).ok()?.into_iter().next()
    }

    /// A row of the pointwise table over values.
    pub(super) fn pw(&mut self, op: Pw, inputs: &[Value]) -> Result<Value, String> {
        self.add(Apply { op }, inputs)
    }

    /// A row of the pointwise table over a value and a number.
    pub(super) fn pw_number(&mut self, op: Pw, x: Value, number: f64) -> Result<Value, String> {
        let number = self.number(x, number);
        self.pw(op, &[x, number])
    }

    /// The node is a row of the pointwise table over its operands.
    pub(super) fn apply(&mut self, op: Pw) -> Results {
        let inputs = self.values()?;
        one(self.pw(op, &inputs)?)
    }

    pub(super) fn cast(&mut self, x: Value, to: DType) -> Result<Value, String> {
        if self.dtype(x) == to { Ok(x) } else { self.add(Cast { to }, &[x]) }
    }

    pub(super) fn reshape(&mut self, x: Value, shape: Vec<Dim>) -> Result<Value, String> {
        if self.ty(x).shape == shape { Ok(x) } else { self.add(Reshape { shape }, &[x]) }
    }

    pub(super) fn transpose(&mut self, x: Value, perm: Vec<usize>) -> Result<Value, String> {
        let op = Transpose { perm };
        if op.perm.len() == self.rank(x) && op.is_identity() { Ok(x) } else { self.add(op, &[x]) }
    }

    pub(super) fn broadcast(&mut self, x: Value, shape: Vec<Dim>) -> Result<Value, String> {
        if self.ty(x).shape == shape { Ok(x) } else { self.add(Broadcast { shape }, &[x]) }
    }

    /// Elements `start..start + size` along one dimension, the others whole.
    pub(super) fn window(&mut self, x: Value, axis: usize, start: Dim, size: Dim) -> Result<Value, String> {
        let mut shape = self.shape(x);
        if start.is(0) && shape[axis] == size {
            return Ok(x);
        }
        let mut starts = vec![Dim::from(0); shape.len()];
        starts[axis] = start;
        shape[axis] = size;
        self.add(Slice { starts, steps: vec![1; shape.len()], shape }, &[x])
    }

    /// `[0, 1, ..., n - 1]` for a number that may be symbolic.
    pub(super) fn counting(&mut self, dtype: DType, n: &Dim) -> Result<Value, String> {
        let most = n.upper(self.symbols()).max(1);
        let all = self.importer.counting(dtype, 0, most - 1)?;
        self.window(all, 0, Dim::from(0), n.clone())
    }

    /// Sizes as a value.
    pub(super) fn sizes_value(&mut self, sizes: Sizes) -> Result<Value, String> {
        let name = self.name.clone();
        self.importer.value(&Operand::Sizes(sizes), &name)
    }

    /// A vector of numbers in the element type of `like`.
    pub(super) fn vector(&mut self, like: Value, values: &[f64]) -> Result<Value, String> {
        let tensor = floats(self.dtype(like), vec![values.len()], values)?;
        Ok(self.constant(tensor))
    }

    /// A vector `[c]` shaped to broadcast along dimension 1 of a tensor of `rank` dimensions: `[c, 1, 1...]`.
    pub(super) fn per_channel(&mut self, v: Value, rank: usize) -> Result<Value, String> {
        let count = self.ty(v).count();
        let mut shape = vec![count];
        shape.resize(rank.max(2) - 1, Dim::from(1));
        self.reshape(v, shape)
    }
}
