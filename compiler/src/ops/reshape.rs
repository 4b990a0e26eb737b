//! The same dense elements under another shape: costs nothing. Also squeeze, unsqueeze and flatten.

use super::{Operator, Problem, Role, Type, expect_inputs};
use crate::ir::types::{dense_strides, text};
use bakelite_host::Program;
use bakelite_host::problem::{Access, Pointwise};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

op! {
    /// The element of flat index i stays the element of flat index i.
    Reshape "reshape" {
        /// The result's shape.
        shape: Vec<Dim>,
    }
}

impl Operator for Reshape {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        let (from, to) = (inputs[0].count(), product(&self.shape));
        if from != to {
            return Err(format!("{} has {from} elements, but {} has {to}", inputs[0], text(&self.shape)));
        }
        Ok(vec![Type { dtype: inputs[0].dtype, shape: self.shape.clone() }])
    }

    fn role(&self) -> Role {
        Role::View
    }

    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let dtype = inputs[0].dtype;
        let access = Access { offset: Dim::from(0), strides: dense_strides(&outputs[0].shape) };
        Ok(Pointwise { shape: outputs[0].shape.clone(), inputs: vec![access], program: Program::identity(dtype, dtype) }.into())
    }
}
