//! ONNX Attention (opset 23).

use crate::ir::Value;
use crate::onnx::call::{Call, Results};
use crate::ops::{Attention, Concat};
use bakelite_kernels::Dim;

/// An operand as four dimensions, and whether its heads are inside the sequence.
fn split_heads(c: &mut Call<'_>, x: Value, heads: &str) -> Result<(Value, bool), String> {
    match c.shape(x).as_slice() {
        [_, _, _, _] => Ok((x, false)),
        [batch, seq, width] => {
            let heads = Dim::from(c.attributes().need_int(heads)?);
            let dim = width
                .exact_div(&heads)
                .ok_or_else(|| format!("{width} does not divide into {heads} heads"))?;
            Ok((c.reshape(x, vec![batch.clone(), seq.clone(), heads, dim])?, true))
        }
        _ => Err(format!("expected 3 or 4 dimensions, got {}", c.ty(x))),
    }
}

pub(super) fn attention(c: &mut Call<'_>) -> Results {
    let a = c.attributes();
    if a.float("softcap", 0.0)? != 0.0 || c.has(6) {
        return Err("softcap and nonpad_kv_seqlen are not supported".into());
    }
    let (q, k, v) = (c.value(0)?, c.value(1)?, c.value(2)?);
    let (q, inner_q) = split_heads(c, q, "q_num_heads")?;
    let (mut k, mut inner_k) = split_heads(c, k, "kv_num_heads")?;
    let (mut v, mut inner_v) = split_heads(c, v, "kv_num_heads")?;
    let present = c.node.outputs.iter().skip(1).any(|o| !o.is_empty());
    if present || c.has(4) {
        if c.node.outputs.len() > 3 {
            return Err("its result 3, the product of query and key, is not supported".into());
        }
        for (x, inner, i) in [(&mut k, &mut inner_k, 4), (&mut v, &mut inner_v, 5)] {
            if std::mem::take(inner) {
                *x = c.transpose(*x, vec![0, 2, 1, 3])?;
            }
            if let Some(past) = c.optional(i)? {
                *x = c.add(Concat { axis: 2 }, &[past, *x])?;
            }
        }
    }
    let length = |c: &Call<'_>, x: Value, inner: bool| c.shape(x)[if inner { 1 } else { 2 }].clone();
    let causal = a.flag("is_causal", false)?;
    // Keys are aligned to queries at the end here and after the past in ONNX: the same if both are equally long.
    if causal && !c.has(4) && length(c, q, inner_q) != length(c, k, inner_k) {
        return Err("causal attention needs as many keys as queries".into());
    }
    let dim = c.shape(q)[3].as_const().unwrap_or(1).max(1) as f64;
    let scale = a.float("scale", (1.0 / dim.sqrt()) as f32)?;
    let mut operands = vec![q, k, v];
    operands.extend(c.optional(3)?);
    let op = Attention { scale, causal, inner: vec![inner_q, inner_k, inner_v, inner_q] };
    let mut y = c.add(op, &operands)?;
    if inner_q {
        let [b, s, h, d]: [Dim; 4] = c.shape(y).try_into().map_err(|_| "attention lost a dimension")?;
        y = c.reshape(y, vec![b, s, h * d])?;
    }
    Ok(if present { vec![y.into(), k.into(), v.into()] } else { vec![y.into()] })
}
