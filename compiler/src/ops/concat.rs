//! Operands joined along one dimension.

use super::{Operator, Problem, Role, Type, around};
use bakelite_host::problem::{self, Epilogue};
use bakelite_kernels::Dim;

op! {
    /// One or more operands of one element type and, but for `axis`, one shape.
    Concat "concat" {
        /// The dimension joined.
        axis: usize,
    }
}

impl Operator for Concat {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let first = inputs.first().ok_or("expected at least one operand")?;
        if self.axis >= first.rank() {
            return Err(format!("axis {} is outside {first}", self.axis));
        }
        let mut shape = first.shape.clone();
        for ty in &inputs[1..] {
            super::expect_same_dtype(("the first operand", first), ("another", ty))?;
            let alike = ty.rank() == first.rank() && (0..ty.rank()).all(|d| d == self.axis || ty.shape[d] == first.shape[d]);
            if !alike {
                return Err(format!("{first} and {ty} differ outside axis {}", self.axis));
            }
            shape[self.axis] = &shape[self.axis] + &ty.shape[self.axis];
        }
        Ok(vec![Type { dtype: first.dtype, shape }])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let (outer, _, inner) = around(&outputs[0].shape, self.axis);
        let lens = inputs.iter().map(|t| t.shape[self.axis].clone()).collect();
        let dtype = inputs[0].dtype;
        Ok(problem::Concat { outer, lens, inner, dtype, epilogue: Epilogue::store(dtype) }.into())
    }
}
