//! [`Concat`]: slabs of elements laid end to end; nothing is computed.

use crate::problem::Concat;
use rayon::prelude::*;

/// `y = concat(xs)`, on elements or on their bits.
pub fn concat<T: Copy + Send + Sync>(p: &Concat<usize>, xs: &[&[T]], y: &mut [T]) {
    let row = p.lens.iter().sum::<usize>() * p.inner;
    if y.is_empty() {
        return;
    }
    y.par_chunks_mut(row).enumerate().with_min_len((1usize << 14).div_ceil(row)).for_each(|(o, y)| {
        let mut at = 0;
        for (x, len) in xs.iter().zip(&p.lens) {
            let n = len * p.inner;
            y[at..at + n].copy_from_slice(&x[o * n..][..n]);
            at += n;
        }
    });
}
