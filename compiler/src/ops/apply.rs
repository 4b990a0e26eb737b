//! A pointwise operator with numpy broadcasting: `out[i] = op(a[i], b[i], c[i])`.

use super::{Operator, Problem, Role, Type, expect_inputs};
use crate::ir::types::{broadcast, dense_strides};
use bakelite_host::problem::{Access, Pointwise};
use bakelite_host::pointwise::Signature;
use bakelite_host::{Class, DType, Program, Pw};
use bakelite_kernels::Dim;

/// One row of the pointwise table applied elementwise; its text form is the row's name.
#[derive(Clone, Debug, PartialEq)]
pub struct Apply {
    /// The row.
    pub op: Pw,
}

impl Apply {
    pub(super) const NAME: &'static str = "apply";
    pub(super) fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("op", self.op.name().to_owned())]
    }
    pub(super) fn take(from: &mut super::Attributes) -> Result<Apply, String> {
        let name = from.0.remove("op").ok_or("the attribute `op` is missing")?;
        Ok(Apply { op: name.parse()? })
    }
}

impl Operator for Apply {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, self.op.arity(), self.op.arity())?;
        let values = if self.op.signature() == Signature::Select { &inputs[1..] } else { inputs };
        if self.op.signature() == Signature::Select && inputs[0].dtype != DType::Bool {
            return Err(format!("the condition must be bool, got {}", inputs[0]));
        }
        for v in values {
            super::expect_same_dtype(("the first operand", values[0]), ("another", v))?;
        }
        if !self.op.has(values[0].dtype.class()) {
            return Err(format!("{} is not defined for {}", self.op, values[0].dtype));
        }
        let shape = inputs.iter().try_fold(vec![], |shape, ty| broadcast(&shape, &ty.shape))?;
        let dtype = if self.op.signature() == Signature::Test { DType::Bool } else { values[0].dtype };
        Ok(vec![Type { dtype, shape }])
    }

    fn role(&self) -> Role {
        Role::Pointwise
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let dtypes: Vec<DType> = inputs.iter().map(|t| t.dtype).collect();
        let program = Program::single(self.op, &dtypes, outputs[0].dtype);
        debug_assert!(program.classes().is_ok() || outputs[0].dtype.class() == Class::Bool);
        let inputs = inputs.iter().map(|t| broadcast_access(t, &outputs[0].shape)).collect();
        Ok(Pointwise { shape: outputs[0].shape.clone(), inputs, program }.into())
    }
}

/// How a dense tensor is read over a shape that it broadcasts to.
pub(crate) fn broadcast_access(ty: &Type, shape: &[Dim]) -> Access<Dim> {
    let strides = dense_strides(&ty.shape);
    let skip = shape.len() - ty.rank();
    let stride = |d: usize| match d.checked_sub(skip) {
        Some(i) if !ty.shape[i].is(1) || shape[d].is(1) => strides[i].clone(),
        _ => Dim::from(0),
    };
    Access { offset: Dim::from(0), strides: (0..shape.len()).map(stride).collect() }
}
