//! [`Softmax`] and its logarithm along one dimension.

use crate::element::{Float, Real};
use crate::parallel::{self, worth};
use crate::problem::Softmax;

/// Columns normalised side by side where the dimension is not the last.
const COLUMNS: usize = 64;

/// `y = softmax(x)` or `log softmax(x)` in the class, before the epilogue.
pub fn softmax<T: Real>(p: &Softmax<usize>, x: &[T], y: &mut [T::Acc]) {
    in_class(p, &T::widened(x), y);
}

fn in_class<A: Float>(p: &Softmax<usize>, x: &[A], y: &mut [A]) {
    if y.is_empty() {
        return;
    }
    if p.inner == 1 {
        parallel::rows_mut(y, p.len, worth(4096, p.len), &|first, y| {
            for (y, x) in y.chunks_mut(p.len).zip(x[first * p.len..].chunks(p.len)) {
                y.copy_from_slice(x);
                if p.log { log_row(y) } else { row(y) }
            }
        });
        return;
    }
    let slab = p.len * p.inner;
    parallel::rows_mut(y, slab, worth(4096, slab), &|first, y| {
        for (y, x) in y.chunks_mut(slab).zip(x[first * slab..].chunks(slab)) {
            for first in (0..p.inner).step_by(COLUMNS) {
                columns(p, first, COLUMNS.min(p.inner - first), x, y);
            }
        }
    });
}

/// Softmax of a row in place. A row of nothing but −inf gives NaN.
pub(crate) fn row<A: Float>(y: &mut [A]) {
    let peak = y.iter().fold(A::LOWEST, |m, &v| m.larger(v));
    y.iter_mut().for_each(|v| *v = (*v - peak).exp());
    let sum = y.iter().fold(A::ZERO, |s, &v| s + v);
    let scale = A::ONE / sum;
    y.iter_mut().for_each(|v| *v *= scale);
}

fn log_row<A: Float>(y: &mut [A]) {
    let peak = y.iter().fold(A::LOWEST, |m, &v| m.larger(v));
    let sum = y.iter().fold(A::ZERO, |s, &v| s + (v - peak).exp());
    let log = sum.ln();
    y.iter_mut().for_each(|v| *v = *v - peak - log);
}

fn columns<A: Float>(p: &Softmax<usize>, first: usize, n: usize, x: &[A], y: &mut [A]) {
    let (mut peak, mut sum) = ([A::LOWEST; COLUMNS], [A::ZERO; COLUMNS]);
    let row = |i: usize| i * p.inner + first..i * p.inner + first + n;
    for i in 0..p.len {
        peak.iter_mut().zip(&x[row(i)]).for_each(|(m, &v)| *m = m.larger(v));
    }
    for i in 0..p.len {
        let (y, x) = (&mut y[row(i)], &x[row(i)]);
        for (((y, &x), &m), s) in y.iter_mut().zip(x).zip(&peak).zip(&mut sum) {
            let e = (x - m).exp();
            *s += e;
            *y = if p.log { x - m } else { e };
        }
    }
    let end = sum.map(|s| if p.log { s.ln() } else { A::ONE / s });
    for i in 0..p.len {
        for (y, &e) in y[row(i)].iter_mut().zip(&end) {
            *y = if p.log { *y - e } else { *y * e };
        }
    }
}
