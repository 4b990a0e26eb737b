//! Running sum along one dimension: ONNX CumSum.

use super::{Operator, Problem, Role, Type, around, expect_inputs};
use bakelite_host::problem;
use bakelite_kernels::Dim;

op! {
    /// `out[i] = Σ_{j ≤ i} x[j]`, without `x[i]` if exclusive, from the end if reverse.
    CumSum "cum_sum" {
        /// The dimension summed along.
        axis: usize,
        /// Leave out the element itself.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    }
}

impl Operator for CumSum {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        if self.axis >= inputs[0].rank() {
            return Err(format!("axis {} is outside {}", self.axis, inputs[0]));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn role(&self) -> Role {
        Role::Opaque
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let (outer, len, inner) = around(&inputs[0].shape, self.axis);
        let dtype = inputs[0].dtype;
        Ok(problem::CumSum { outer, len, inner, exclusive: self.exclusive, reverse: self.reverse, dtype }.into())
    }
}
