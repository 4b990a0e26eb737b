//! A window slid over each channel: ONNX MaxPool, AveragePool, LpPool.

use super::conv::{arrange, axes, expect_spatial, window_count};
use super::{Operator, Problem, Role, Type, expect_inputs};
use bakelite_host::problem::{self, Epilogue, Layout, PoolKind};
use bakelite_kernels::Dim;

op! {
    /// The mathematics is [`problem::Pool`]'s. With `ceil` a last window may reach past the end padding, but starts inside
    /// the operand or its leading padding.
    Pool "pool" {
        /// What each window computes.
        kind: PoolKind,
        /// Size of the window.
        kernel: Vec<usize>,
        /// Step of the window.
        strides: Vec<usize>,
        /// Distance between taps.
        dilations: Vec<usize>,
        /// Padding before each spatial dimension.
        pads: Vec<usize>,
        /// Padding after each spatial dimension.
        pads_end: Vec<usize>,
        /// Round the number of windows up.
        ceil: bool,
        /// Layout of `x` and the result.
        layout: Layout,
    }
}

impl Operator for Pool {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        let x = inputs[0];
        let lists = [
            ("kernel sizes", self.kernel.len()),
            ("strides", self.strides.len()),
            ("dilations", self.dilations.len()),
            ("pads", self.pads.len()),
            ("pads_end", self.pads_end.len()),
        ];
        let spatial = expect_spatial(x.rank(), &lists)?;
        let (c, s) = axes(self.layout, x.rank());
        let mut out = Vec::new();
        for d in 0..spatial {
            if self.strides[d] == 0 || self.dilations[d] == 0 || self.kernel[d] == 0 {
                return Err(format!("stride, dilation and kernel of dimension {d} must be at least 1"));
            }
            let pads = self.pads[d] + self.pads_end[d];
            let mut count = window_count(&x.shape[s + d], self.kernel[d], self.strides[d], self.dilations[d], pads, self.ceil)?;
            if let (true, Some(n), Some(size)) = (self.ceil, count.as_const(), x.shape[s + d].as_const()) {
                let starts_inside = (n - 1) * (self.strides[d] as i64) < size + self.pads[d] as i64;
                count = Dim::from(if starts_inside { n } else { n - 1 });
            }
            out.push(count);
        }
        Ok(vec![Type { dtype: x.dtype, shape: arrange(self.layout, &x.shape[0], x.shape[c].clone(), out) }])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let x = inputs[0];
        let (c, s) = axes(self.layout, x.rank());
        let spatial = x.rank() - 2;
        Ok(problem::Pool {
            kind: self.kind,
            n: x.shape[0].clone(),
            channels: x.shape[c].clone(),
            input: x.shape[s..s + spatial].to_vec(),
            output: outputs[0].shape[s..s + spatial].to_vec(),
            kernel: self.kernel.iter().map(|k| Dim::from(*k)).collect(),
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            pads_end: self.pads_end.clone(),
            layout: self.layout,
            dtype: x.dtype,
            epilogue: Epilogue::store(x.dtype),
        }
        .into())
    }
}
