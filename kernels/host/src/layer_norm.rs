//! [`LayerNorm`]: rows brought to mean 0 and variance 1, or with `rms` to mean square 1.

use crate::element::{Float, Number, Real};
use crate::problem::LayerNorm;
use rayon::prelude::*;

/// `y = norm(x) · scale + bias` in the class, before the epilogue; `bias` is empty where there is none.
pub fn layer_norm<T: Real>(p: &LayerNorm<usize>, x: &[T], scale: &[T], bias: &[T], y: &mut [T::Acc]) {
    let (x, scale, bias) = (T::widened(x), T::widened(scale), T::widened(bias));
    if y.is_empty() {
        return;
    }
    let epsilon = T::Acc::from_f32(p.epsilon);
    let many = (4096 / p.len).max(1) * p.len;
    y.par_chunks_mut(many).zip(x.par_chunks(many)).for_each(|(y, x)| {
        for (y, x) in y.chunks_mut(p.len).zip(x.chunks(p.len)) {
            let mean = if p.rms { T::Acc::ZERO } else { total(x, |v| v) / T::Acc::of_count(p.len) };
            let spread = total(x, |v| (v - mean) * (v - mean)) / T::Acc::of_count(p.len);
            let rate = T::Acc::ONE / (spread + epsilon).sqrt();
            for ((y, &x), &s) in y.iter_mut().zip(x).zip(&*scale) {
                *y = (x - mean) * rate * s;
            }
            y.iter_mut().zip(&*bias).for_each(|(y, &b)| *y += b);
        }
    });
}

/// `Σ f(x)` with independent partial sums.
pub(crate) fn total<A: Float>(x: &[A], f: impl Fn(A) -> A) -> A {
    let mut lanes = [A::ZERO; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        lanes.iter_mut().zip(x).for_each(|(a, &x)| *a += f(x));
    }
    rest.iter().zip(&mut lanes).for_each(|(&x, a)| *a += f(x));
    lanes.into_iter().fold(A::ZERO, |a, b| a + b)
}
