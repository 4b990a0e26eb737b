//! Conversion of every element: ONNX Cast. Float to integer truncates and saturates, integer narrowing wraps, to bool is `≠ 0`.

use super::{Operator, Problem, Role, Type, expect_inputs};
use super::apply::broadcast_access;
use bakelite_host::problem::Pointwise;
use bakelite_host::{DType, Instr, Program};
use bakelite_kernels::Dim;

op! {
    /// `out[i] = x[i]` in the element type `to`.
    Cast "cast" {
        /// Element type of the result.
        to: DType,
    }
}

impl Operator for Cast {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        Ok(vec![inputs[0].with_dtype(self.to)])
    }

    fn role(&self) -> Role {
        Role::Pointwise
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let mut program = Program { inputs: vec![inputs[0].dtype], ..Program::default() };
        let cast = program.push(Instr::Cast(self.to, 0));
        program.outputs.push((cast, self.to));
        let access = broadcast_access(inputs[0], &outputs[0].shape);
        Ok(Pointwise { shape: outputs[0].shape.clone(), inputs: vec![access], program }.into())
    }
}
