//! Elements picked by an index of the result's own shape: ONNX GatherElements.

use super::{Operator, Problem, Role, Type, expect_inputs};
use bakelite_host::{DType, problem};
use bakelite_kernels::Dim;

op! {
    /// Operands `x` and integer `indices` of one rank.
    GatherElements "gather_elements" {
        /// The dimension indexed.
        axis: usize,
    }
}

impl Operator for GatherElements {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 2, 2)?;
        let (x, indices) = (inputs[0], inputs[1]);
        if self.axis >= x.rank() || x.rank() != indices.rank() {
            return Err(format!("x {x} and indices {indices} do not go together along axis {}", self.axis));
        }
        if !matches!(indices.dtype, DType::I32 | DType::I64) {
            return Err(format!("indices must be i32 or i64, got {indices}"));
        }
        Ok(vec![Type { dtype: x.dtype, shape: indices.shape.clone() }])
    }

    fn role(&self) -> Role {
        Role::Opaque
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let (input, output) = (inputs[0].shape.clone(), outputs[0].shape.clone());
        Ok(problem::GatherElements { axis: self.axis, input, output, dtype: inputs[0].dtype, index: inputs[1].dtype }.into())
    }
}
