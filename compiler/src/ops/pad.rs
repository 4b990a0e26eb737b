//! Padding (or, with negative amounts, cropping) of every dimension: ONNX Pad.

use super::{Operator, Problem, Role, Type, expect_inputs, expect_same_dtype};
use bakelite_host::problem::{self, PadMode};
use bakelite_kernels::Dim;

op! {
    /// Operands `x` and, for the constant mode, the value (one element).
    Pad "pad" {
        /// What lies outside.
        mode: PadMode,
        /// Elements before each dimension.
        begin: Vec<i64>,
        /// Elements after each dimension.
        end: Vec<i64>,
    }
}

impl Operator for Pad {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let operands = if self.mode == PadMode::Constant { 2 } else { 1 };
        expect_inputs(inputs, operands, operands)?;
        let x = inputs[0];
        if let Some(value) = inputs.get(1) {
            expect_same_dtype(("x", x), ("the value", value))?;
            if !value.count().is(1) {
                return Err(format!("the value must be one element, got {value}"));
            }
        }
        if self.begin.len() != x.rank() || self.end.len() != x.rank() {
            return Err(format!("{} and {} amounts for {x}", self.begin.len(), self.end.len()));
        }
        let mut shape = Vec::new();
        for d in 0..x.rank() {
            let size = &x.shape[d] + Dim::from(self.begin[d].saturating_add(self.end[d]));
            if size.as_const().is_some_and(|s| s < 0) {
                return Err(format!("dimension {d} of {x} would have size {size}"));
            }
            let most = self.begin[d].max(self.end[d]);
            if self.mode == PadMode::Reflect && x.shape[d].as_const().is_some_and(|s| most >= s.max(1)) && most > 0 {
                return Err(format!("cannot reflect {most} elements of dimension {d} of {x}"));
            }
            shape.push(size);
        }
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn role(&self) -> Role {
        Role::Opaque
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let (input, output) = (inputs[0].shape.clone(), outputs[0].shape.clone());
        Ok(problem::Pad { mode: self.mode, input, output, begin: self.begin.clone(), dtype: inputs[0].dtype }.into())
    }
}
