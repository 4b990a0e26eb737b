//! [`TopK`]: the first few of a sorted dimension. A NaN counts as larger than any number.

use crate::element::{Element, Number};
use crate::parallel;
use crate::problem::TopK;

/// The `k` extremes of `x[o, .., i]`, sorted, and where they were.
pub fn top_k<T: Element<Acc: Number>>(p: &TopK<usize>, x: &[T], values: &mut [T], indices: &mut [i64]) {
    if values.is_empty() {
        return;
    }
    let out = p.k * p.inner;
    let slab = p.len * p.inner;
    parallel::rows_mut(indices, out, 1, &|first, indices| {
        let mut order = Vec::with_capacity(p.len);
        for (indices, x) in indices.chunks_mut(out).zip(x[first * slab..].chunks(slab)) {
            for i in 0..p.inner {
                order.clear();
                // Ranks turned round put the largest first.
                let turn = if p.largest { u64::MAX } else { 0 };
                order.extend(x[i..].iter().step_by(p.inner).map(|x| x.rank() ^ turn).zip(0..p.len));
                for (k, &(_, j)) in sorted(&mut order, p.k).iter().enumerate() {
                    indices[k * p.inner + i] = j as i64;
                }
            }
        }
    });
    for (at, (value, &j)) in values.iter_mut().zip(&*indices).enumerate() {
        *value = x[at / out * slab + j as usize * p.inner + at % p.inner];
    }
}

/// The first `k`, sorted. Equal ranks go by position: no two compare equal, so any sort gives the stable result.
fn sorted(order: &mut [(u64, usize)], k: usize) -> &[(u64, usize)] {
    if k < order.len() {
        order.select_nth_unstable(k);
    }
    order[..k].sort_unstable();
    &order[..k]
}
