//! Reduction over a set of dimensions: ONNX ReduceSum, ReduceMean, ReduceL2, GlobalAveragePool and their kin.

use super::{Operator, Problem, Role, Type, expect_inputs};
use bakelite_host::problem::{self, Epilogue, ReduceKind};
use bakelite_host::DType;
use bakelite_kernels::Dim;

op! {
    /// Reduces `axes` (sorted); with `keepdims` they stay as size 1.
    Reduce "reduce" {
        /// What is computed.
        kind: ReduceKind,
        /// Dimensions reduced, ascending.
        axes: Vec<usize>,
        /// Reduced dimensions stay, with size 1.
        keepdims: bool,
    }
}

impl Operator for Reduce {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        let x = inputs[0];
        if self.axes.iter().any(|a| *a >= x.rank()) || self.axes.windows(2).any(|w| w[0] >= w[1]) {
            return Err(format!("axes {:?} are not ascending axes of {x}", self.axes));
        }
        let logical = matches!(self.kind, ReduceKind::Any | ReduceKind::All);
        if logical != (x.dtype == DType::Bool) {
            return Err(format!("reduce of kind {:?} is not defined for {}", self.kind, x.dtype));
        }
        let keep = |(d, size): (usize, &Dim)| match self.axes.contains(&d) {
            true => self.keepdims.then(|| Dim::from(1)),
            false => Some(size.clone()),
        };
        Ok(vec![Type { dtype: x.dtype, shape: x.shape.iter().enumerate().filter_map(keep).collect() }])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let x = inputs[0];
        Ok(problem::Reduce {
            kind: self.kind,
            shape: x.shape.clone(),
            reduced: (0..x.rank()).map(|d| self.axes.contains(&d)).collect(),
            dtype: x.dtype,
            epilogue: Epilogue::store(x.dtype),
        }
        .into())
    }
}
