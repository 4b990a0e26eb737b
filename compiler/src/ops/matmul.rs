//! Batched matrix product with numpy broadcasting of the batch: `out[.., i, j] = Σ_k a[.., i, k] · b[.., k, j]`.

use super::{Operator, Problem, Role, Type, expect_inputs, expect_same_dtype};
use crate::ir::types::broadcast;
use bakelite_host::problem::{Epilogue, Gemm, Math};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

op! {
    /// Operands of at least two dimensions; a transposed operand is stored with its last two dimensions swapped.
    MatMul "matmul" {
        /// `a` is stored `[.., k, m]`.
        trans_a: bool,
        /// `b` is stored `[.., n, k]`.
        trans_b: bool,
        /// Arithmetic for f32 operands.
        math: Math,
    }
}

impl MatMul {
    /// The plain product.
    pub const PLAIN: MatMul = MatMul { trans_a: false, trans_b: false, math: Math::Exact };

    // (batch dimensions, rows, columns) of the logical operand
    fn split(ty: &Type, transposed: bool) -> Result<(&[Dim], &Dim, &Dim), String> {
        match ty.shape.as_slice() {
            [batch @ .., r, c] => Ok(if transposed { (batch, c, r) } else { (batch, r, c) }),
            _ => Err(format!("operands need at least two dimensions, got {ty}")),
        }
    }
}

impl Operator for MatMul {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 2, 2)?;
        expect_same_dtype(("a", inputs[0]), ("b", inputs[1]))?;
        let (batch_a, m, k) = MatMul::split(inputs[0], self.trans_a)?;
        let (batch_b, kb, n) = MatMul::split(inputs[1], self.trans_b)?;
        if k != kb {
            return Err(format!("inner dimensions differ: {k} of {} and {kb} of {}", inputs[0], inputs[1]));
        }
        let mut shape = broadcast(batch_a, batch_b)?;
        shape.extend([m.clone(), n.clone()]);
        Ok(vec![Type { dtype: inputs[0].dtype, shape }])
    }

    fn role(&self) -> Role {
        Role::Anchor
    }

    // A batch that only `a` has, its rows dense, is more rows. The operands of a partly broadcast batch must be expanded
    // before: passes::legalize does.
    fn lower(&self, inputs: &[&Type], outputs: &[Type]) -> Result<Problem<Dim>, String> {
        let (batch_a, m, k) = MatMul::split(inputs[0], self.trans_a)?;
        let (batch_b, _, n) = MatMul::split(inputs[1], self.trans_b)?;
        let batch_out = &outputs[0].shape[..outputs[0].rank() - 2];
        let (za, zb, z) = (product(batch_a), product(batch_b), product(batch_out));
        let dtype = inputs[0].dtype;
        let zero = Dim::from(0);
        let one = Dim::from(1);
        let (mut a, b) = (
            if self.trans_a { [m * k, one.clone(), m.clone()] } else { [m * k, k.clone(), one.clone()] },
            if self.trans_b { [n * k, one.clone(), k.clone()] } else { [n * k, n.clone(), one.clone()] },
        );
        let mut b = b;
        let (mut batch, mut rows) = (z.clone(), m.clone());
        if zb.is(1) && !self.trans_a {
            (batch, rows) = (one.clone(), &z * m);
            a[0] = zero.clone();
            b[0] = zero;
        } else {
            for (strides, own, name) in [(&mut a, &za, "a"), (&mut b, &zb, "b")] {
                if own.is(1) {
                    strides[0] = Dim::from(0);
                } else if own != &z {
                    return Err(format!("the batch of {name}, {own}, is neither 1 nor the result's {z}"));
                }
            }
        }
        let epilogue = Epilogue::store(dtype);
        Ok(Gemm { batch, m: rows, n: n.clone(), k: k.clone(), dtype, math: self.math, a, b, epilogue }.into())
    }
}
