//! Repetition along dimensions of size 1 (and new leading ones): ONNX Expand, numpy `broadcast_to`.

use super::{Operator, Problem, Role, Type, expect_inputs};
use super::apply::broadcast_access;
use crate::ir::types::{broadcast, text};
use bakelite_host::Program;
use bakelite_host::problem::{Access, Pointwise};
use bakelite_kernels::Dim;

op! {
    /// `out[i] = x[i with every broadcast coordinate 0]`.
    Broadcast "broadcast" {
        /// The result's shape.
        shape: Vec<Dim>,
    }
}

impl Broadcast {
    /// How the operand is read over the result's shape.
    pub fn access(&self, input: &Type) -> Access<Dim> {
        broadcast_access(input, &self.shape)
    }
}

impl Operator for Broadcast {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        if broadcast(&inputs[0].shape, &self.shape)? != self.shape {
            return Err(format!("{} does not broadcast to {}", inputs[0], text(&self.shape)));
        }
        Ok(vec![Type { dtype: inputs[0].dtype, shape: self.shape.clone() }])
    }

    fn role(&self) -> Role {
        Role::Move
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let dtype = inputs[0].dtype;
        let (shape, program) = (outputs[0].shape.clone(), Program::identity(dtype, dtype));
        Ok(Pointwise { shape, inputs: vec![self.access(inputs[0])], program }.into())
    }
}
