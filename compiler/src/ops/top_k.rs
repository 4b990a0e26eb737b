//! The largest or smallest elements along one dimension, with their indices: ONNX TopK, sorted.

use super::{Operator, Problem, Role, Type, around, expect_inputs};
use bakelite_host::{DType, problem};
use bakelite_kernels::Dim;

op! {
    /// Results: values, and i64 indices.
    TopK "top_k" {
        /// How many.
        k: Dim,
        /// The dimension searched.
        axis: usize,
        /// The largest, not the smallest.
        largest: bool,
    }
}

impl Operator for TopK {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        let x = inputs[0];
        if self.axis >= x.rank() {
            return Err(format!("axis {} is outside {x}", self.axis));
        }
        if self.k.as_const().zip(x.shape[self.axis].as_const()).is_some_and(|(k, len)| k > len || k < 0) {
            return Err(format!("k = {} of {} elements of {x}", self.k, x.shape[self.axis]));
        }
        let mut shape = x.shape.clone();
        shape[self.axis] = self.k.clone();
        Ok(vec![Type { dtype: x.dtype, shape: shape.clone() }, Type { dtype: DType::I64, shape }])
    }

    fn role(&self) -> Role {
        Role::Opaque
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let (outer, len, inner) = around(&inputs[0].shape, self.axis);
        let (k, largest, dtype) = (self.k.clone(), self.largest, inputs[0].dtype);
        Ok(problem::TopK { outer, len, inner, k, largest, dtype }.into())
    }
}
