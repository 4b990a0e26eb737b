//! Attentions that the tests compile and run.

use crate::dim::Dim;
use bakelite_host::problem::{Access, Attention};
use bakelite_host::{DType, Problem};

fn dims(text: &str) -> Vec<Dim> {
    text.split(' ').filter_map(|t| t.parse().ok()).collect()
}

fn access(offset: i64, strides: &[Dim]) -> Access<Dim> {
    Access { offset: offset.into(), strides: strides.to_vec() }
}

/// `text`: batch, query heads, key heads, queries, keys, dim, dim_v. Operands are `[batch, heads, seq, dim]`.
fn attention(dtype: DType, text: &str) -> Attention<Dim> {
    let sizes = dims(text);
    let count = |i: usize| sizes[i].as_const().unwrap_or(1) as usize;
    let (heads, kv_heads, dim, dim_v) = (count(1), count(2), count(5), count(6));
    let dense = |heads: usize, seq: &Dim, dim: usize| {
        let (heads, dim) = (Dim::from(heads as i64), Dim::from(dim as i64));
        let head = seq * &dim;
        access(0, &[&heads * &head, head, dim])
    };
    Attention {
        batch: sizes[0].clone(),
        heads,
        kv_heads,
        q: dense(heads, &sizes[3], dim),
        k: dense(kv_heads, &sizes[4], dim),
        v: dense(kv_heads, &sizes[4], dim_v),
        seq_q: sizes[3].clone(),
        seq_k: sizes[4].clone(),
        dim,
        dim_v,
        scale: 1.0 / (dim as f32).sqrt(),
        causal: false,
        mask: None,
        out_heads_inner: false,
        dtype,
    }
}

/// Operands as one projection writes them: `[batch, seq, 3, heads, dim]`, all in one buffer's layout.
fn packed(mut p: Attention<Dim>) -> Attention<Dim> {
    let (heads, dim) = (Dim::from(p.heads as i64), Dim::from(p.dim as i64));
    let row = Dim::from(3) * &heads * &dim;
    let strides = [&p.seq_q * &row, dim, row];
    let part = (p.heads * p.dim) as i64;
    (p.q, p.k, p.v) = (access(0, &strides), access(part, &strides), access(2 * part, &strides));
    p.out_heads_inner = true;
    p
}

fn causal(mut p: Attention<Dim>) -> Attention<Dim> {
    p.causal = true;
    p
}

/// Queries that are no one's own of the batch, as learned ones are.
fn same_queries(mut p: Attention<Dim>) -> Attention<Dim> {
    p.q.strides[0] = Dim::from(0);
    p
}

/// With a mask of one row for each of the batch, or a full one.
fn masked(mut p: Attention<Dim>, dtype: DType, full: bool) -> Attention<Dim> {
    let zero = || Dim::from(0);
    let heads = Dim::from(p.heads as i64);
    let head = &p.seq_q * &p.seq_k;
    let strides = if full {
        [&heads * &head, head, p.seq_k.clone(), Dim::from(1)]
    } else {
        [p.seq_k.clone(), zero(), zero(), Dim::from(1)]
    };
    p.mask = Some((dtype, access(0, &strides)));
    p
}

/// Problems for the tests of `attention.mma` and `attention.simt`.
pub fn samples() -> Vec<Problem<Dim>> {
    use DType::{BF16, Bool, F16, F32, F64};
    let all = [
        packed(attention(F16, "2 4 4 128 128 64 64")),
        packed(masked(attention(BF16, "batch 4 4 seq seq 64 64"), F32, false)),
        causal(packed(attention(F16, "batch 3 3 seq seq 64 64"))),
        masked(attention(F16, "1 2 2 197 197 64 64"), Bool, true),
        causal(attention(BF16, "2 8 2 77 150 128 128")),
        masked(attention(F16, "1 4 1 33 65 80 48"), F16, true),
        causal(masked(attention(F16, "1 2 2 70 40 32 96"), Bool, false)),
        attention(F16, "1 2 2 100 100 256 256"),
        attention(F16, "3 2 1 1 300 64 64"),
        // Several tiles of keys, ragged at their end, and on the diagonal.
        packed(attention(F16, "batch 2 2 197 197 64 64")),
        attention(BF16, "1 4 2 300 523 128 128"),
        causal(packed(attention(BF16, "2 2 2 601 601 128 128"))),
        causal(packed(attention(F16, "1 3 3 1000 1000 64 64"))),
        causal(attention(F16, "1 2 1 700 300 96 80")),
        packed(masked(attention(F16, "2 2 2 384 384 64 64"), F16, false)),
        causal(masked(attention(BF16, "1 2 2 200 400 128 64"), BF16, true)),
        causal(packed(masked(attention(F16, "2 2 2 300 300 64 64"), F16, false))),
        causal(packed(attention(F16, "2 3 3 384 384 64 64"))),
        // The first queries see no key.
        causal(attention(F16, "1 2 2 260 200 64 64")),
        // More heads than multiprocessors: blocks that walk over several, of one to four tiles of queries.
        packed(attention(F16, "23 12 12 197 197 64 64")),
        attention(F16, "50 8 4 50 70 64 64"),
        causal(packed(attention(BF16, "30 10 10 130 130 64 64"))),
        packed(masked(attention(F16, "26 12 12 100 100 64 64"), F32, false)),
        // The same queries for all of a batch, which maps do not walk.
        same_queries(attention(F16, "3 4 2 150 200 64 64")),
        // A few queries behind the last whole tile, which other warps take.
        attention(F16, "45 8 4 69 70 64 64"),
        packed(attention(BF16, "20 10 10 136 136 80 80")),
        attention(F16, "1 3 3 193 250 128 48"),
        // Full precision.
        packed(attention(F32, "2 3 3 65 65 64 64")),
        causal(masked(attention(F32, "batch 4 2 seq seq 32 32"), F32, true)),
        masked(attention(F32, "1 2 2 50 37 40 72"), Bool, true),
        attention(F64, "1 2 1 20 45 33 17"),
        causal(attention(F16, "1 2 2 40 20 20 12")),
        attention(F32, "1 1 1 30 70 256 256"),
    ];
    all.into_iter().map(Problem::from).collect()
}

/// Attentions of well-known models and of single layers: what is timed.
pub fn layers() -> Vec<Problem<Dim>> {
    use DType::{BF16, F16, F32};
    let all = [
        // bert-base, vit-b-16 and gpt2, of 1 and of 32.
        packed(masked(attention(F16, "1 12 12 128 128 64 64"), F32, false)),
        packed(attention(F16, "1 12 12 128 128 64 64")),
        packed(attention(F16, "1 12 12 197 197 64 64")),
        causal(packed(attention(F16, "1 12 12 128 128 64 64"))),
        packed(masked(attention(F16, "32 12 12 128 128 64 64"), F32, false)),
        packed(attention(F16, "32 12 12 128 128 64 64")),
        packed(attention(F16, "32 12 12 197 197 64 64")),
        causal(packed(attention(F16, "32 12 12 128 128 64 64"))),
        // Middling lengths.
        packed(attention(F16, "1 12 12 512 512 64 64")),
        packed(attention(F16, "16 12 12 512 512 64 64")),
        packed(attention(F16, "8 16 16 1024 1024 64 64")),
        // Long ones.
        attention(BF16, "8 16 16 4096 4096 128 128"),
        causal(attention(BF16, "8 16 16 4096 4096 128 128")),
        attention(BF16, "4 16 16 4096 4096 64 64"),
        causal(packed(attention(F16, "8 16 16 1024 1024 64 64"))),
        // Next to nothing: what any kernel takes.
        attention(F16, "1 1 1 16 16 64 64"),
    ];
    all.into_iter().map(Problem::from).collect()
}
