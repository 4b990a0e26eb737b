//! [`TopK`]: the first few of a sorted dimension. A NaN counts as larger than any number.

use crate::element::{Element, Number};
use crate::problem::TopK;
use rayon::prelude::*;
use std::cmp::Ordering;

/// The `k` extremes of `x[o, .., i]`, sorted, and where they were.
pub fn top_k<T: Element<Acc: Number>>(p: &TopK<usize>, x: &[T], values: &mut [T], indices: &mut [i64]) {
    if values.is_empty() {
        return;
    }
    let out = p.k * p.inner;
    values.par_chunks_mut(out).zip(indices.par_chunks_mut(out)).zip(x.par_chunks(p.len * p.inner)).for_each(
        |((values, indices), x)| {
            let mut order: Vec<usize> = Vec::with_capacity(p.len);
            for i in 0..p.inner {
                let at = |j: usize| x[j * p.inner + i];
                // Equal elements by position, so that no two compare equal and any sort gives the stable result.
                let before = |a: &usize, b: &usize| {
                    let by_value = total(at(*a), at(*b));
                    (if p.largest { by_value.reverse() } else { by_value }).then(a.cmp(b))
                };
                order.clear();
                order.extend(0..p.len);
                if p.k < p.len {
                    order.select_nth_unstable_by(p.k, before);
                }
                order[..p.k].sort_unstable_by(before);
                for (k, &j) in order[..p.k].iter().enumerate() {
                    values[k * p.inner + i] = at(j);
                    indices[k * p.inner + i] = j as i64;
                }
            }
        },
    );
}

#[allow(clippy::eq_op)]
fn total<T: PartialOrd + Copy>(a: T, b: T) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| (a != a).cmp(&(b != b)))
}
