//! Scaled dot-product attention, composed from its pieces or from ONNX Attention.

use super::{Operator, Problem, Role, Type, expect_float, expect_inputs, expect_same_dtype, known};
use bakelite_host::DType;
use bakelite_host::problem::{self, Access};
use bakelite_kernels::Dim;

op! {
    /// `softmax(scale · q·kᵀ + mask) · v`. Operands `q`, `k`, `v`, [`mask`]; q, k, v are `[batch, heads, seq, dim]`, or
    /// `[batch, seq, heads, dim]` where `inner` says that the heads are inside; the mask broadcasts to
    /// `[batch, heads, seq_q, seq_k]`, is added, or if bool masks where it is false.
    Attention "attention" {
        /// Factor of `q·kᵀ`.
        scale: f32,
        /// Mask keys after the query.
        causal: bool,
        /// For q, k, v and the result: heads inside the sequence.
        inner: Vec<bool>,
    }
}

impl Attention {
    // (batch, heads, seq, dim)
    fn sizes(ty: &Type, inner: bool) -> Result<[&Dim; 4], String> {
        match ty.shape.as_slice() {
            [b, x, y, d] => Ok(if inner { [b, y, x, d] } else { [b, x, y, d] }),
            _ => Err(format!("q, k and v need 4 dimensions, got {ty}")),
        }
    }

    fn access(ty: &Type, inner: bool) -> Access<Dim> {
        let s = ty.strides();
        let strides = if inner { vec![s[0].clone(), s[2].clone(), s[1].clone()] } else { s[..3].to_vec() };
        Access { offset: Dim::from(0), strides }
    }
}

impl Operator for Attention {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 3, 4)?;
        expect_float(inputs[0])?;
        expect_same_dtype(("q", inputs[0]), ("k", inputs[1]))?;
        expect_same_dtype(("q", inputs[0]), ("v", inputs[2]))?;
        if self.inner.len() != 4 {
            return Err(format!("`inner` has {} entries, not 4", self.inner.len()));
        }
        let [b, h, s, d] = Attention::sizes(inputs[0], self.inner[0])?;
        let [bk, hk, sk, dk] = Attention::sizes(inputs[1], self.inner[1])?;
        let [bv, hv, sv, dv] = Attention::sizes(inputs[2], self.inner[2])?;
        if d != dk {
            return Err(format!("q has dimension {d} and k {dk}"));
        }
        if sk != sv || hk != hv || b != bk || b != bv {
            return Err(format!("q {}, k {} and v {} disagree in batch, heads or length", inputs[0], inputs[1], inputs[2]));
        }
        let (heads, kv_heads) = (known(h, "the number of heads")?, known(hk, "the number of heads")?);
        if kv_heads == 0 || heads % kv_heads != 0 {
            return Err(format!("{heads} query heads do not share {kv_heads} key heads"));
        }
        if let Some(mask) = inputs.get(3) {
            if mask.dtype != DType::Bool {
                expect_same_dtype(("q", inputs[0]), ("mask", mask))?;
            }
            let full = [b.clone(), h.clone(), s.clone(), sk.clone()];
            if crate::ir::types::broadcast(&mask.shape, &full)? != full {
                return Err(format!("the mask {mask} does not broadcast to {}", crate::ir::types::text(&full)));
            }
        }
        let [b, h, s, dv] = [b, h, s, dv].map(Clone::clone);
        let shape = if self.inner[3] { vec![b, s, h, dv] } else { vec![b, h, s, dv] };
        Ok(vec![Type { dtype: inputs[0].dtype, shape }])
    }

    fn role(&self) -> Role {
        Role::Opaque
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let [b, h, s, d] = Attention::sizes(inputs[0], self.inner[0])?;
        let [_, hk, sk, _] = Attention::sizes(inputs[1], self.inner[1])?;
        let [_, _, _, dv] = Attention::sizes(inputs[2], self.inner[2])?;
        let full = [b.clone(), h.clone(), s.clone(), sk.clone()];
        Ok(problem::Attention {
            batch: b.clone(),
            heads: known(h, "the number of heads")?,
            kv_heads: known(hk, "the number of heads")?,
            seq_q: s.clone(),
            seq_k: sk.clone(),
            dim: known(d, "the dimension of a head")?,
            dim_v: known(dv, "the dimension of a head")?,
            scale: self.scale,
            causal: self.causal,
            q: Attention::access(inputs[0], self.inner[0]),
            k: Attention::access(inputs[1], self.inner[1]),
            v: Attention::access(inputs[2], self.inner[2]),
            mask: inputs.get(3).map(|m| (m.dtype, super::apply::broadcast_access(m, &full))),
            out_heads_inner: self.inner[3],
            dtype: inputs[0].dtype,
        }
        .into())
    }
}
