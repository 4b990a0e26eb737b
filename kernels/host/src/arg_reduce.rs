//! [`ArgReduce`]: where the largest or smallest element is. A NaN counts as more extreme than anything.

use crate::element::{Element, Number};
use crate::parallel::{self, worth};
use crate::problem::ArgReduce;

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
    parallel::rows_mut(y, p.inner, worth(1 << 13, slab), &|first, y| {
        let mut best = vec![T::default(); p.inner];
        for (y, x) in y.chunks_mut(p.inner).zip(x[first * slab..].chunks(slab)) {
            y.fill(0);
            best.copy_from_slice(&x[..p.inner]);
            for (k, row) in x.chunks_exact(p.inner).enumerate().skip(1) {
                for ((y, best), &v) in y.iter_mut().zip(&mut best).zip(row) {
                    let (nan, best_nan) = (v != v, *best != *best);
                    if beats(v, *best) || (nan && (!best_nan || p.last)) {
                        (*y, *best) = (k as i64, v);
                    }
                }
            }
        }
    });
}
