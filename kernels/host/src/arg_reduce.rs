//! [`ArgReduce`]: where the largest or smallest element is. A NaN counts as more extreme than anything.

use crate::element::{Element, Number};
use crate::problem::ArgReduce;
use rayon::prelude::*;

/// `y[o, i]` is the position of the extreme of `x[o, .., i]`.
pub fn arg_reduce<T: Element<Acc: Number>>(p: &ArgReduce<usize>, x: &[T], y: &mut [i64]) {
    match (p.max, p.last) {
        (true, false) => search(p, x, y, |v, best| v > best),
        (true, true) => search(p, x, y, |v, best| v >= best),
        (false, false) => search(p, x, y, |v, best| v < best),
        (false, true) => search(p, x, y, |v, best| v <= best),
    }
}

#[allow(clippy::eq_op)]
fn search<T: Element>(p: &ArgReduce<usize>, x: &[T], y: &mut [i64], beats: impl Fn(T, T) -> bool + Sync) {
    if y.is_empty() {
        return;
    }
    let slab = p.len * p.inner;
    let task = (1usize << 13).div_ceil(slab);
    y.par_chunks_mut(p.inner).zip(x.par_chunks(slab)).with_min_len(task).for_each(|(y, x)| {
        y.fill(0);
        let mut best = x[..p.inner].to_vec();
        for (k, row) in x.chunks_exact(p.inner).enumerate().skip(1) {
            for ((y, best), &v) in y.iter_mut().zip(&mut best).zip(row) {
                let (nan, best_nan) = (v != v, *best != *best);
                if beats(v, *best) || (nan && (!best_nan || p.last)) {
                    (*y, *best) = (k as i64, v);
                }
            }
        }
    });
}
