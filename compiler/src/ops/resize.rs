//! Resampling of every dimension: ONNX Resize and Upsample.

use super::{Operator, Problem, Role, Type, expect_inputs};
use bakelite_host::problem::{self, Coordinates, Epilogue, Interpolation};
use bakelite_kernels::Dim;

op! {
    /// The mathematics is [`problem::Resize`]'s.
    Resize "resize" {
        /// The result's shape.
        shape: Vec<Dim>,
        /// output / input of each dimension, as the model states it.
        scales: Vec<f32>,
        /// How an output coordinate maps back.
        coordinates: Coordinates,
        /// How values between elements are made.
        interpolation: Interpolation,
    }
}

impl Operator for Resize {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        let x = inputs[0];
        if self.shape.len() != x.rank() || self.scales.len() != x.rank() {
            return Err(format!("{} sizes and {} scales for {x}", self.shape.len(), self.scales.len()));
        }
        if let Some(scale) = self.scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(format!("the scale {scale} is not a positive number"));
        }
        Ok(vec![Type { dtype: x.dtype, shape: self.shape.clone() }])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        Ok(problem::Resize {
            input: inputs[0].shape.clone(),
            output: self.shape.clone(),
            scales: self.scales.clone(),
            coordinates: self.coordinates,
            interpolation: self.interpolation,
            dtype: inputs[0].dtype,
            epilogue: Epilogue::store(inputs[0].dtype),
        }
        .into())
    }
}
