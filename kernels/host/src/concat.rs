//! [`Concat`]: slabs of elements laid end to end; nothing is computed.

use crate::parallel::{self, worth};
use crate::problem::Concat;

/// `y = concat(xs)`, on elements or on their bits.
pub fn concat<T: Copy + Send + Sync>(p: &Concat<usize>, xs: &[&[T]], y: &mut [T]) {
    let row = p.lens.iter().sum::<usize>() * p.inner;
    if y.is_empty() {
        return;
    }
    parallel::rows_mut(y, row, worth(1 << 14, row), &|first, y| {
        for (o, y) in (first..).zip(y.chunks_mut(row)) {
            let mut at = 0;
            for (x, len) in xs.iter().zip(&p.lens) {
                let n = len * p.inner;
                y[at..at + n].copy_from_slice(&x[o * n..][..n]);
                at += n;
            }
        }
    });
}
