//! Normalisation over groups of channels and all positions: ONNX GroupNormalization, InstanceNormalization.

use super::conv::axes;
use super::{Operator, Problem, Role, Type, expect_float, expect_inputs, expect_same_dtype, known};
use bakelite_host::problem::{self, Epilogue, Layout};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

op! {
    /// Operands `x` in `layout`, `scale[channels]`, `bias[channels]`.
    GroupNorm "group_norm" {
        /// Number of groups; the number of channels for instance normalisation.
        groups: usize,
        /// Added to the variance.
        epsilon: f32,
        /// Layout of `x` and the result.
        layout: Layout,
    }
}

impl Operator for GroupNorm {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 3, 3)?;
        let x = inputs[0];
        expect_float(x)?;
        if x.rank() < 2 {
            return Err(format!("expected at least 2 dimensions, got {x}"));
        }
        let channels = known(&x.shape[axes(self.layout, x.rank()).0], "the number of channels")?;
        if self.groups == 0 || channels % self.groups != 0 {
            return Err(format!("{channels} channels do not divide into {} groups", self.groups));
        }
        for (name, ty) in ["scale", "bias"].into_iter().zip(&inputs[1..]) {
            expect_same_dtype(("x", x), (name, ty))?;
            if !ty.count().is(channels as i64) {
                return Err(format!("{name} {ty} does not have one element for each of {channels} channels"));
            }
        }
        Ok(vec![x.clone()])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let x = inputs[0];
        let (c, s) = axes(self.layout, x.rank());
        Ok(problem::GroupNorm {
            n: x.shape[0].clone(),
            channels: known(&x.shape[c], "the number of channels")?,
            groups: self.groups,
            spatial: product(&x.shape[s..s + x.rank() - 2]),
            epsilon: self.epsilon,
            layout: self.layout,
            dtype: x.dtype,
            epilogue: Epilogue::store(x.dtype),
        }
        .into())
    }
}
