//! A window with steps: `out[i] = x[start + i · step]`. Backward steps become a Gather at import.

use super::{Operator, Problem, Role, Type, expect_inputs};
use bakelite_host::Program;
use bakelite_host::problem::{Access, Pointwise};
use bakelite_kernels::Dim;

op! {
    /// `out[i] = x[starts + i · steps]` over `shape`.
    Slice "slice" {
        /// First element in each dimension.
        starts: Vec<Dim>,
        /// Distance between elements in each dimension, at least 1.
        steps: Vec<usize>,
        /// The result's shape.
        shape: Vec<Dim>,
    }
}

impl Slice {
    /// How the operand is read over the result's shape.
    pub fn access(&self, input: &Type) -> Access<Dim> {
        let strides = input.strides();
        let offset = self.starts.iter().zip(&strides).fold(Dim::from(0), |sum, (start, stride)| sum + start * stride);
        let strides = strides.iter().zip(&self.steps).map(|(stride, step)| stride * Dim::from(*step)).collect();
        Access { offset, strides }
    }
}

impl Operator for Slice {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        let rank = inputs[0].rank();
        for (what, len) in [("starts", self.starts.len()), ("steps", self.steps.len()), ("sizes", self.shape.len())] {
            if len != rank {
                return Err(format!("{len} {what} for an operand of {rank} dimensions"));
            }
        }
        for d in 0..rank {
            if self.steps[d] == 0 {
                return Err(format!("the step of dimension {d} is 0"));
            }
            // One past the last element read; symbolic ends are the importer's promise.
            let last = &self.starts[d] + (&self.shape[d] - Dim::from(1)) * Dim::from(self.steps[d]);
            let (last, size) = (last.as_const(), inputs[0].shape[d].as_const());
            if self.starts[d].as_const().is_some_and(|s| s < 0) || last.zip(size).is_some_and(|(l, s)| l >= s && !self.shape[d].is(0)) {
                return Err(format!(
                    "elements {} to {} of dimension {d} lie outside {}",
                    self.starts[d],
                    last.map_or("?".into(), |l| l.to_string()),
                    inputs[0]
                ));
            }
        }
        Ok(vec![Type { dtype: inputs[0].dtype, shape: self.shape.clone() }])
    }

    fn role(&self) -> Role {
        Role::Move
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let dtype = inputs[0].dtype;
        let (shape, program) = (outputs[0].shape.clone(), Program::identity(dtype, dtype));
        Ok(Pointwise { shape, inputs: vec![self.access(inputs[0])], program }.into())
    }
}
