//! [`Attention`]: scores of a block of queries at a time, so that memory stays bounded by the number of keys.

use crate::dtype::DType;
use crate::element::{Element, Float, Lane, Real};
use crate::matrix::{Matrix, Threads, multiply};
use crate::parallel;
use crate::problem::Attention;
use crate::softmax;
use crate::view::{RunError, View};
use half::{bf16, f16};

/// Queries whose scores are computed at a time.
const BLOCK: usize = 64;

/// `y = softmax(scale · q·kᵀ + mask) · v`, narrowed to the element type.
pub fn attention<T: Real>(
    p: &Attention<usize>,
    q: &[T],
    k: &[T],
    v: &[T],
    mask: Option<View<'_>>,
    y: &mut [T],
) -> Result<(), RunError> {
    let (q, k, v) = (T::widened(q), T::widened(k), T::widened(v));
    if y.is_empty() {
        return Ok(());
    }
    let blocks = p.seq_q.div_ceil(BLOCK);
    let mask = mask.map(|m| addends::<T::Acc>(m)).transpose()?;
    // Whole blocks of [BLOCK, dim_v] in the order of the jobs, placed when all are done.
    let parts = parts(p, [&q, &k, &v], mask.as_deref());
    let row = |b: usize, h: usize, i: usize| {
        &parts[(b * p.heads + h) * blocks + i / BLOCK][i % BLOCK * p.dim_v..][..p.dim_v]
    };
    parallel::rows_mut(y, p.dim_v, 64, &|first, y| {
        for (at, y) in (first..).zip(y.chunks_mut(p.dim_v)) {
            let (b, h, i) = if p.out_heads_inner {
                (at / p.heads / p.seq_q, at % p.heads, at / p.heads % p.seq_q)
            } else {
                (at / p.seq_q / p.heads, at / p.seq_q % p.heads, at % p.seq_q)
            };
            T::narrow_into(row(b, h, i), y);
        }
    });
    Ok(())
}

fn parts<A: Float>(p: &Attention<usize>, qkv: [&[A]; 3], mask: Option<&[A]>) -> Vec<Vec<A>> {
    let blocks = p.seq_q.div_ceil(BLOCK);
    let mut parts = vec![vec![]; p.batch * p.heads * blocks];
    parallel::rows_mut(&mut parts, 1, 1, &|first, parts| {
        let mut scores = vec![];
        for (job, part) in (first..).zip(parts) {
            let (b, h, first) = (job / blocks / p.heads, job / blocks % p.heads, job % blocks * BLOCK);
            *part = block(p, [b, h, first], qkv, mask, &mut scores);
        }
    });
    parts
}

/// What the mask adds to a score: its values, or of a bool −inf where it is false.
fn addends<A: Float>(mask: View<'_>) -> Result<Vec<A>, RunError> {
    fn read<T: Element<Acc: Float>, A: Float>(mask: View<'_>) -> Result<Vec<A>, RunError> {
        Ok(mask.as_slice::<T>()?.iter().map(|v| A::from_f64(v.widen().to_f64())).collect())
    }
    match mask.dtype {
        DType::Bool => Ok(mask.bytes.iter().map(|b| if *b != 0 { A::ZERO } else { A::LOWEST }).collect()),
        DType::F32 => read::<f32, A>(mask),
        DType::F64 => read::<f64, A>(mask),
        DType::F16 => read::<f16, A>(mask),
        DType::BF16 => read::<bf16, A>(mask),
        other => Err(RunError(format!("a mask is bool or float, not {other}"))),
    }
}

fn block<A: Float + Lane>(
    p: &Attention<usize>,
    [b, h, first]: [usize; 3],
    [q, k, v]: [&[A]; 3],
    mask: Option<&[A]>,
    scores: &mut Vec<A>,
) -> Vec<A> {
    let rows = BLOCK.min(p.seq_q - first);
    let kv = h * p.kv_heads / p.heads;
    let mut out = vec![A::ZERO; rows * p.dim_v];
    if p.seq_k == 0 {
        return out;
    }
    scores.resize(BLOCK * p.seq_k, A::ZERO);
    let scores = &mut scores[..rows * p.seq_k];
    let start = |offset: usize, s: &[usize], h: usize, i: usize| offset + b * s[0] + h * s[1] + i * s[2];
    let q = Matrix {
        data: q.get(start(p.q.offset, &p.q.strides, h, first)..).unwrap_or(&[]),
        strides: [p.q.strides[2], 1],
    };
    let at = start(p.k.offset, &p.k.strides, kv, 0);
    let k = Matrix { data: k.get(at..).unwrap_or(&[]), strides: [1, p.k.strides[2]] };
    multiply([rows, p.seq_k, p.dim], q, k, (scores, [p.seq_k, 1]), Threads::One);
    let scale = A::from_f32(p.scale);
    for (i, row) in scores.chunks_exact_mut(p.seq_k).enumerate() {
        let i = first + i;
        row.iter_mut().for_each(|s| *s *= scale);
        if let (Some(mask), Some((_, access))) = (mask, &p.mask) {
            let s = &access.strides;
            let at = start(access.offset, s, h, i);
            row.iter_mut().enumerate().for_each(|(j, score)| *score += mask[at + j * s[3]]);
        }
        if p.causal {
            // Key j is seen when j ≤ i + seq_k − seq_q.
            let seen = (i + 1 + p.seq_k).saturating_sub(p.seq_q).min(p.seq_k);
            row[seen..].fill(A::LOWEST);
        }
        if row.iter().all(|s| *s == A::LOWEST) {
            row.fill(A::ZERO);
        } else {
            softmax::row(row);
        }
    }
    let at = start(p.v.offset, &p.v.strides, kv, 0);
    let v = Matrix { data: v.get(at..).unwrap_or(&[]), strides: [p.v.strides[2], 1] };
    let weights = Matrix { data: scores, strides: [p.seq_k, 1] };
    multiply([rows, p.dim_v, p.seq_k], weights, v, (&mut out, [p.dim_v, 1]), Threads::One);
    out
}
