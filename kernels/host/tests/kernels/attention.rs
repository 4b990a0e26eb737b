//! Attention.

#![allow(clippy::unwrap_used)]

use crate::tensor::{Random, Tensor, at, eval, near};
use bakelite_host::DType;
use bakelite_host::problem::{Access, Attention};

#[test]
fn attention_weighs_values_by_scores() {
    let mut r = Random(51);
    for case in 0..80 {
        let dtype = r.pick(&[DType::F32, DType::F32, DType::F64, DType::F16]);
        let (batch, kv_heads) = (r.within(1, 2), r.within(1, 3));
        let heads = kv_heads * r.within(1, 3);
        // Beyond one block of queries now and then.
        let (seq_q, seq_k) = if case % 8 == 0 { (130, 70) } else { (r.within(1, 9), r.within(1, 9)) };
        let (dim, dim_v) = (r.within(1, 9), r.within(1, 9));
        let mut operand = |heads: usize, seq: usize, dim: usize| {
            // Heads inside positions or outside.
            let strides = if r.flip() {
                vec![seq * heads * dim, dim, heads * dim]
            } else {
                vec![heads * seq * dim, seq * dim, dim]
            };
            let offset = r.pick(&[0, 5]);
            (Access { offset, strides }, r.reals(dtype, offset + batch * heads * seq * dim))
        };
        let (q, qt) = operand(heads, seq_q, dim);
        let (k, kt) = operand(kv_heads, seq_k, dim);
        let (v, vt) = operand(kv_heads, seq_k, dim_v);
        let (causal, out_heads_inner) = (r.flip(), r.flip());
        let space = [batch, heads, seq_q, seq_k];
        let mask = match r.below(3) {
            0 => None,
            kind => {
                let (access, len) = r.access(&space);
                let dtype = if kind == 1 { DType::Bool } else { DType::F32 };
                Some((dtype, access, r.integers(dtype, len)))
            }
        };
        let (qv, kv, vv) = (qt.f64(), kt.f64(), vt.f64());
        let mut want = vec![0.0; batch * heads * seq_q * dim_v];
        for b in 0..batch {
            for h in 0..heads {
                let g = h * kv_heads / heads;
                for i in 0..seq_q {
                    let scores: Vec<f64> = (0..seq_k)
                        .map(|j| {
                            if causal && j as isize > i as isize + seq_k as isize - seq_q as isize {
                                return f64::NEG_INFINITY;
                            }
                            let dot: f64 = (0..dim)
                                .map(|d| qv[at(&q, &[b, h, i]) + d] * kv[at(&k, &[b, g, j]) + d])
                                .sum();
                            dot * f64::from(0.3f32)
                                + match &mask {
                                    None => 0.0,
                                    Some((DType::Bool, a, m)) if m.f64()[at(a, &[b, h, i, j])] == 0.0 => {
                                        f64::NEG_INFINITY
                                    }
                                    Some((DType::Bool, ..)) => 0.0,
                                    Some((_, a, m)) => m.f64()[at(a, &[b, h, i, j])],
                                }
                        })
                        .collect();
                    let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                    for d in 0..dim_v {
                        let o = if out_heads_inner {
                            (b * seq_q + i) * heads + h
                        } else {
                            (b * heads + h) * seq_q + i
                        };
                        let weighed: f64 =
                            (0..seq_k).map(|j| scores[j].exp() * vv[at(&v, &[b, g, j]) + d]).sum();
                        // A row with every key masked gives zeros.
                        want[o * dim_v + d] = if sum == 0.0 { 0.0 } else { weighed / sum };
                    }
                }
            }
        }
        let p = Attention {
            batch,
            heads,
            kv_heads,
            seq_q,
            seq_k,
            dim,
            dim_v,
            scale: 0.3,
            causal,
            q,
            k,
            v,
            mask: mask.as_ref().map(|(d, a, _)| (*d, a.clone())),
            out_heads_inner,
            dtype,
        };
        let operands: Vec<&Tensor> = [&qt, &kt, &vt].into_iter().chain(mask.as_ref().map(|m| &m.2)).collect();
        let tolerance = if dtype == DType::F16 { 2e-3 } else { 1e-5 };
        near(&eval(p.clone(), &operands), &want, tolerance, &p);
    }
}
