//! Normalisation over the trailing dimensions: ONNX LayerNormalization, RMSNormalization, SimplifiedLayerNormalization.

use super::{Operator, Problem, Role, Type, expect_float, expect_inputs, expect_same_dtype};
use bakelite_host::problem::{self, Epilogue};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

op! {
    /// Operands `x`, `scale`, [`bias`], the latter two with exactly the elements of `x`'s dimensions from `axis` on.
    LayerNorm "layer_norm" {
        /// Divide by the root mean square; do not subtract the mean.
        rms: bool,
        /// First normalised dimension.
        axis: usize,
        /// Added to the variance.
        epsilon: f32,
    }
}

impl Operator for LayerNorm {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 2, 3)?;
        expect_float(inputs[0])?;
        if self.axis >= inputs[0].rank() {
            return Err(format!("axis {} is outside {}", self.axis, inputs[0]));
        }
        let len = product(&inputs[0].shape[self.axis..]);
        for (name, ty) in ["scale", "bias"].into_iter().zip(&inputs[1..]) {
            expect_same_dtype(("x", inputs[0]), (name, ty))?;
            if ty.count() != len {
                return Err(format!("{name} {ty} has {} elements, but {len} are normalised", ty.count()));
            }
        }
        Ok(vec![inputs[0].clone()])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let x = inputs[0];
        Ok(problem::LayerNorm {
            rms: self.rms,
            rows: product(&x.shape[..self.axis]),
            len: product(&x.shape[self.axis..]),
            epsilon: self.epsilon,
            bias: inputs.len() == 3,
            dtype: x.dtype,
            epilogue: Epilogue::store(x.dtype),
        }
        .into())
    }
}
