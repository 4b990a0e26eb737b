//! Index of the largest or smallest element along one dimension: ONNX ArgMax, ArgMin.

use super::{Operator, Problem, Role, Type, around, expect_inputs};
use bakelite_host::{DType, problem};
use bakelite_kernels::Dim;

op! {
    /// i64 indices.
    ArgReduce "arg_reduce" {
        /// The largest, not the smallest.
        max: bool,
        /// Of equal elements the last, not the first.
        last: bool,
        /// The dimension searched.
        axis: usize,
        /// It stays, with size 1.
        keepdims: bool,
    }
}

impl Operator for ArgReduce {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        if self.axis >= inputs[0].rank() {
            return Err(format!("axis {} is outside {}", self.axis, inputs[0]));
        }
        let mut shape = inputs[0].shape.clone();
        if self.keepdims {
            shape[self.axis] = Dim::from(1);
        } else {
            shape.remove(self.axis);
        }
        Ok(vec![Type { dtype: DType::I64, shape }])
    }

    fn role(&self) -> Role {
        Role::Opaque
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let (outer, len, inner) = around(&inputs[0].shape, self.axis);
        Ok(problem::ArgReduce { max: self.max, last: self.last, outer, len, inner, dtype: inputs[0].dtype }.into())
    }
}
