//! [`Lrn`]: each element divided by a power of the squares of its neighbours among the channels.

use crate::element::{Float, Number, Real};
use crate::problem::Lrn;
use rayon::prelude::*;

/// `y = x / (bias + alpha / size · Σ x²)^beta` in the class, before the epilogue.
pub fn lrn<T: Real>(p: &Lrn<usize>, x: &[T], y: &mut [T::Acc]) {
    let x = T::widened(x);
    if y.is_empty() {
        return;
    }
    let [alpha, beta, bias] = [p.alpha, p.beta, p.bias].map(T::Acc::from_f32);
    let alpha = alpha / T::Acc::of_count(p.size);
    let (before, after) = ((p.size - 1) / 2, p.size / 2);
    y.par_chunks_mut(p.spatial).enumerate().for_each(|(row, y)| {
        let (image, c) = (row / p.channels, row % p.channels);
        let channel = |c: usize| &x[(image * p.channels + c) * p.spatial..][..p.spatial];
        y.fill(T::Acc::ZERO);
        for other in c.saturating_sub(before)..=c.saturating_add(after).min(p.channels - 1) {
            y.iter_mut().zip(channel(other)).for_each(|(y, &x)| *y += x * x);
        }
        for (y, &x) in y.iter_mut().zip(channel(c)) {
            *y = x / (bias + alpha * *y).powf(beta);
        }
    });
}
