//! Permutation of dimensions: `out.shape[d] = x.shape[perm[d]]`.

use super::{Operator, Problem, Role, Type, expect_inputs};
use bakelite_host::Program;
use bakelite_host::problem::{Access, Pointwise};
use bakelite_kernels::Dim;

op! {
    /// `out[i_0, i_1, ...] = x[j]` with `j[perm[d]] = i_d`.
    Transpose "transpose" {
        /// Which dimension of the operand each dimension of the result is.
        perm: Vec<usize>,
    }
}

impl Transpose {
    /// How the operand is read over the result's shape.
    pub fn access(&self, input: &Type) -> Access<Dim> {
        let strides = input.strides();
        Access { offset: Dim::from(0), strides: self.perm.iter().map(|p| strides[*p].clone()).collect() }
    }

    /// The permutation that undoes this one.
    pub fn inverse(&self) -> Transpose {
        let mut perm = vec![0; self.perm.len()];
        self.perm.iter().enumerate().for_each(|(to, from)| perm[*from] = to);
        Transpose { perm }
    }

    /// This permutation after `first`.
    pub fn after(&self, first: &Transpose) -> Transpose {
        Transpose { perm: self.perm.iter().map(|p| first.perm[*p]).collect() }
    }

    /// Whether nothing moves.
    pub fn is_identity(&self) -> bool {
        self.perm.iter().enumerate().all(|(d, p)| d == *p)
    }
}

impl Operator for Transpose {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if sorted != (0..inputs[0].rank()).collect::<Vec<_>>() {
            return Err(format!("{:?} is no permutation of the dimensions of {}", self.perm, inputs[0]));
        }
        let shape = self.perm.iter().map(|p| inputs[0].shape[*p].clone()).collect();
        Ok(vec![Type { dtype: inputs[0].dtype, shape }])
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
