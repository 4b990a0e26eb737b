//! Local response normalisation across channels (ONNX LRN), channels first.

use super::{Operator, Problem, Role, Type, expect_float, expect_inputs, known};
use bakelite_host::problem::{self, Epilogue};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

op! {
    /// `x / (bias + alpha / size · Σ x²)^beta` over a window of `size` channels.
    Lrn "lrn" {
        /// Channels in the window.
        size: usize,
        /// Scale of the sum of squares.
        alpha: f32,
        /// Exponent.
        beta: f32,
        /// Added before the power.
        bias: f32,
    }
}

impl Operator for Lrn {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        expect_float(inputs[0])?;
        if inputs[0].rank() < 2 || self.size == 0 {
            return Err(format!("expected at least 2 dimensions and a window, got {} and {}", inputs[0], self.size));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let x = inputs[0];
        Ok(problem::Lrn {
            n: x.shape[0].clone(),
            channels: known(&x.shape[1], "the number of channels")?,
            spatial: product(&x.shape[2..]),
            size: self.size,
            alpha: self.alpha,
            beta: self.beta,
            bias: self.bias,
            dtype: x.dtype,
            epilogue: Epilogue::store(x.dtype),
        }
        .into())
    }
}
