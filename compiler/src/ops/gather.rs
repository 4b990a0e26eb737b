//! Slices picked by index along one dimension: ONNX Gather, embedding look-up.

use super::{Operator, Problem, Role, Type, around, expect_inputs};
use bakelite_host::DType;
use bakelite_host::problem::{self, Epilogue};
use bakelite_kernels::Dim;

op! {
    /// Operands `x` and integer `indices`; the result is `x` with `axis` replaced by the shape of `indices`.
    Gather "gather" {
        /// The dimension indexed.
        axis: usize,
    }
}

impl Operator for Gather {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 2, 2)?;
        let (x, indices) = (inputs[0], inputs[1]);
        if self.axis >= x.rank() {
            return Err(format!("axis {} is outside {x}", self.axis));
        }
        if !matches!(indices.dtype, DType::I32 | DType::I64) {
            return Err(format!("indices must be i32 or i64, got {indices}"));
        }
        let mut shape = x.shape[..self.axis].to_vec();
        shape.extend_from_slice(&indices.shape);
        shape.extend_from_slice(&x.shape[self.axis + 1..]);
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let (x, indices) = (inputs[0], inputs[1]);
        let (outer, len, inner) = around(&x.shape, self.axis);
        let (count, epilogue) = (indices.count(), Epilogue::store(x.dtype));
        Ok(problem::Gather { outer, len, inner, count, dtype: x.dtype, index: indices.dtype, epilogue }.into())
    }
}
