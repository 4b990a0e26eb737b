//! [`LayerNorm`]: rows brought to mean 0 and variance 1, or with `rms` to mean square 1.

use crate::element::{Float, Real};
use crate::parallel::{self, worth};
use crate::problem::LayerNorm;

/// `y = norm(x) · scale + bias` in the class, before the epilogue; `bias` is empty where there is none.
pub fn layer_norm<T: Real>(p: &LayerNorm<usize>, x: &[T], scale: &[T], bias: &[T], y: &mut [T::Acc]) {
    in_class(p, [&T::widened(x), &T::widened(scale), &T::widened(bias)], y);
}

fn in_class<A: Float>(p: &LayerNorm<usize>, [x, scale, bias]: [&[A]; 3], y: &mut [A]) {
    if y.is_empty() {
        return;
    }
    let epsilon = A::from_f32(p.epsilon);
    parallel::rows_mut(y, p.len, worth(4096, p.len), &|first, y| {
        for (y, x) in y.chunks_mut(p.len).zip(x[first * p.len..].chunks(p.len)) {
            let mean = if p.rms { A::ZERO } else { total(x, |v| v) / A::of_count(p.len) };
            let spread = total(x, |v| (v - mean) * (v - mean)) / A::of_count(p.len);
            let rate = A::ONE / (spread + epsilon).sqrt();
            for ((y, &x), &s) in y.iter_mut().zip(x).zip(scale) {
                *y = (x - mean) * rate * s;
            }
            y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
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
