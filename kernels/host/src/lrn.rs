//! [`Lrn`]: each element divided by a power of the squares of its neighbours among the channels.

use crate::element::{Float, Real};
use crate::parallel::{self, worth};
use crate::problem::Lrn;

/// `y = x / (bias + alpha / size · Σ x²)^beta` in the class, before the epilogue.
pub fn lrn<T: Real>(p: &Lrn<usize>, x: &[T], y: &mut [T::Acc]) {
    in_class(p, &T::widened(x), y);
}

fn in_class<A: Float>(p: &Lrn<usize>, x: &[A], y: &mut [A]) {
    if y.is_empty() {
        return;
    }
    let [alpha, beta, bias] = [p.alpha, p.beta, p.bias].map(A::from_f32);
    let alpha = alpha / A::of_count(p.size);
    let (before, after) = ((p.size - 1) / 2, p.size / 2);
    parallel::rows_mut(y, p.spatial, worth(1 << 12, p.spatial), &|first, y| {
        for (row, y) in (first..).zip(y.chunks_mut(p.spatial)) {
            let (image, c) = (row / p.channels, row % p.channels);
            let channel = |c: usize| &x[(image * p.channels + c) * p.spatial..][..p.spatial];
            y.fill(A::ZERO);
            for other in c.saturating_sub(before)..=c.saturating_add(after).min(p.channels - 1) {
                y.iter_mut().zip(channel(other)).for_each(|(y, &x)| *y += x * x);
            }
            for (y, &x) in y.iter_mut().zip(channel(c)) {
                *y = x / (bias + alpha * *y).powf(beta);
            }
        }
    });
}
