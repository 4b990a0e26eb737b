//! Softmax or log-softmax along one dimension.

use super::{Operator, Problem, Role, Type, around, expect_float, expect_inputs};
use bakelite_host::problem::{self, Epilogue};
use bakelite_kernels::Dim;

op! {
    /// `out[i] = e^(x[i] − max) / Σ e^(x[j] − max)`, or its logarithm.
    Softmax "softmax" {
        /// The dimension that sums to one.
        axis: usize,
        /// The logarithm instead.
        log: bool,
    }
}

impl Operator for Softmax {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        expect_float(inputs[0])?;
        if self.axis >= inputs[0].rank() {
            return Err(format!("axis {} is outside {}", self.axis, inputs[0]));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let (outer, len, inner) = around(&inputs[0].shape, self.axis);
        let dtype = inputs[0].dtype;
        Ok(problem::Softmax { log: self.log, outer, len, inner, dtype, epilogue: Epilogue::store(dtype) }.into())
    }
}
