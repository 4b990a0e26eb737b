//! ONNX Attention (opset 23).

use crate::ir::Value;
use crate::onnx::call::{Call, Results};
use crate::onnx::sizes::Sizes;
use crate::ops::{Attention, Concat};
use bakelite_host::{DType, Pw};
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
    let (queries, keys) = (length(c, q, inner_q), length(c, k, inner_k));
    let past = if c.has(4) {
        c.operand_type(4)?.shape.get(2).cloned().unwrap_or(Dim::from(0))
    } else {
        Dim::from(0)
    };
    let mut causal = a.flag("is_causal", false)?;
    let mut mask = c.optional(3)?;
    // Keys are aligned to queries at the end by the operator, after the past in ONNX.
    let aligned = &past + &queries == keys;
    let windows = [a.int("left_window_size", -1)?, a.int("right_window_size", -1)?];
    if causal && !aligned || windows != [-1, -1] {
        let right = if causal { 0 } else { windows[1] };
        mask = Some(band(c, mask, [&queries, &keys, &past], [windows[0], right], q)?);
        causal = false;
    }
    let dim = c.shape(q)[3].as_const().unwrap_or(1).max(1) as f64;
    let scale = a.float("scale", (1.0 / dim.sqrt()) as f32)?;
    let mut operands = vec![q, k, v];
    operands.extend(mask);
    let op = Attention { scale, causal, inner: vec![inner_q, inner_k, inner_v, inner_q] };
    let mut y = c.add(op, &operands)?;
    if inner_q {
        let [b, s, h, d]: [Dim; 4] = c.shape(y).try_into().map_err(|_| "attention lost a dimension")?;
        y = c.reshape(y, vec![b, s, h * d])?;
    }
    Ok(if present { vec![y.into(), k.into(), v.into()] } else { vec![y.into()] })
}

/// The mask where only keys in a window around each query count; a negative bound does not bound.
fn band(
    c: &mut Call<'_>,
    mask: Option<Value>,
    [queries, keys, past]: [&Dim; 3],
    [left, right]: [i64; 2],
    q: Value,
) -> Result<Value, String> {
    let row = c.counting(DType::I64, queries)?;
    let offset = c.sizes_value(Sizes::scalar(past.clone()))?;
    let row = c.pw(Pw::Add, &[row, offset])?;
    let row = c.reshape(row, vec![queries.clone(), Dim::from(1)])?;
    let column = c.counting(DType::I64, keys)?;
    let distance = c.pw(Pw::Sub, &[column, row])?;
    let mut inside = c.scalar(DType::Bool, 1.0);
    for (bound, test, sign) in [(left, Pw::Ge, -1), (right, Pw::Le, 1)] {
        if bound >= 0 {
            let bound = c.sizes_value(Sizes::scalar(Dim::from(bound.saturating_mul(sign))))?;
            let within = c.pw(test, &[distance, bound])?;
            inside = c.pw(Pw::And, &[inside, within])?;
        }
    }
    match mask {
        Some(mask) if c.dtype(mask) != DType::Bool => {
            let never = c.number(q, f64::NEG_INFINITY);
            c.pw(Pw::Select, &[inside, mask, never])
        }
        Some(mask) => c.pw(Pw::And, &[inside, mask]),
        None => Ok(inside),
    }
}
