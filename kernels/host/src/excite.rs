//! [`Excite`]: the mean of each image's pixels, and the two matrix products after it.

use crate::element::{Number, Real};
use crate::parallel::{self, worth};
use crate::problem::Excite;

/// `y = mean(x) · w1ᵀ` in the class, before `first`.
pub fn squeeze<T: Real>(p: &Excite<usize>, x: &[T], w1: &[T], y: &mut [T::Acc]) {
    let mut means = vec![T::Acc::default(); p.n * p.channels];
    let pixels = T::Acc::of_count(p.pixels);
    let image = p.pixels * p.channels;
    parallel::rows_mut(&mut means, p.channels.max(1), worth(1 << 12, image), &|first, means| {
        for (n, means) in (first..).zip(means.chunks_mut(p.channels.max(1))) {
            for row in x[n * image..][..image].chunks_exact(p.channels) {
                means.iter_mut().zip(row).for_each(|(m, x)| *m = m.plus(x.widen()));
            }
            means.iter_mut().for_each(|m| *m = m.over(pixels));
        }
    });
    product(&means, &T::widened(w1), p.channels, p.hidden, y);
}

/// `y = h · w2ᵀ` in the class, before the epilogue.
pub fn excite<T: Real>(p: &Excite<usize>, h: &[T], w2: &[T], y: &mut [T::Acc]) {
    product(&T::widened(h), &T::widened(w2), p.hidden, p.filters, y);
}

/// `y[n, j] = Σ_k a[n, k] · w[j, k]`
fn product<A: Number>(a: &[A], w: &[A], depth: usize, columns: usize, y: &mut [A]) {
    parallel::rows_mut(y, 1, worth(1 << 12, depth), &|first, y| {
        for (i, y) in (first..).zip(y) {
            let (a, w) = (&a[i / columns * depth..][..depth], &w[i % columns * depth..][..depth]);
            *y = a.iter().zip(w).fold(A::default(), |sum, (a, w)| sum.plus(a.times(*w)));
        }
    });
}
