//! Transposed convolution (ONNX ConvTranspose), without bias.

use super::conv::{arrange, axes, expect_spatial};
use super::{Operator, Problem, Role, Type, expect_float, expect_inputs, expect_same_dtype, known};
use bakelite_host::problem::{self, Epilogue, Layout};
use bakelite_kernels::Dim;

op! {
    /// `x` in `layout`, `w` `[channels, filters / groups, kernel...]`. Output size
    /// `stride·(in − 1) + dilation·(kernel − 1) + 1 + output_padding − pads − pads_end`.
    ConvTranspose "conv_transpose" {
        /// Step of the window.
        strides: Vec<usize>,
        /// Distance between taps.
        dilations: Vec<usize>,
        /// Elements cut before each spatial dimension of the result.
        pads: Vec<usize>,
        /// Elements cut after each spatial dimension of the result.
        pads_end: Vec<usize>,
        /// Elements added after each spatial dimension of the result.
        output_padding: Vec<usize>,
        /// Independent groups of channels.
        groups: usize,
        /// Layout of `x` and the result.
        layout: Layout,
    }
}

impl Operator for ConvTranspose {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 2, 2)?;
        let [x, w] = inputs else { return Err("expected x and w".into()) };
        expect_float(x)?;
        expect_same_dtype(("x", x), ("w", w))?;
        if x.rank() != w.rank() {
            return Err(format!("x {x} and w {w} differ in rank"));
        }
        let lists = [
            ("strides", self.strides.len()),
            ("dilations", self.dilations.len()),
            ("pads", self.pads.len()),
            ("pads_end", self.pads_end.len()),
            ("output_padding", self.output_padding.len()),
        ];
        let spatial = expect_spatial(x.rank(), &lists)?;
        let (c, s) = axes(self.layout, x.rank());
        let channels = known(&x.shape[c], "the number of channels")?;
        let rows = known(&w.shape[0], "the weight's channels")?;
        if self.groups == 0 || channels != rows || channels % self.groups != 0 {
            return Err(format!("x has {channels} channels, but w {w} in {} groups takes {rows}", self.groups));
        }
        let filters = known(&w.shape[1], "the number of filters")?.saturating_mul(self.groups);
        let mut out = Vec::new();
        for d in 0..spatial {
            let kernel = known(&w.shape[2 + d], "the kernel")?;
            if self.strides[d] == 0 || self.dilations[d] == 0 || kernel == 0 {
                return Err(format!("stride, dilation and kernel of dimension {d} must be at least 1"));
            }
            let grown = Dim::from(self.strides[d]) * (&x.shape[s + d] - Dim::from(1))
                + Dim::from(self.dilations[d].saturating_mul(kernel - 1).saturating_add(1 + self.output_padding[d]));
            let size = grown - Dim::from(self.pads[d] + self.pads_end[d]);
            if size.as_const().is_some_and(|v| v < 0) {
                return Err(format!("dimension {d} of the result would have size {size}"));
            }
            out.push(size);
        }
        Ok(vec![Type { dtype: x.dtype, shape: arrange(self.layout, &x.shape[0], Dim::from(filters), out) }])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let (x, w) = (inputs[0], inputs[1]);
        let (c, s) = axes(self.layout, x.rank());
        let spatial = x.rank() - 2;
        Ok(problem::ConvTranspose {
            n: x.shape[0].clone(),
            channels: known(&x.shape[c], "the number of channels")?,
            filters: known(&w.shape[1], "the number of filters")? * self.groups,
            groups: self.groups,
            input: x.shape[s..s + spatial].to_vec(),
            output: outputs[0].shape[s..s + spatial].to_vec(),
            kernel: w.shape[2..].iter().map(|k| known(k, "the kernel")).collect::<Result<_, _>>()?,
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            layout: self.layout,
            dtype: x.dtype,
            epilogue: Epilogue::store(x.dtype),
        }
        .into())
    }
}
