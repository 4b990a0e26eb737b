//! [`CumSum`]: running sums, accumulated in the class.

use crate::element::{Element, Number};
use crate::parallel::{self, worth};
use crate::problem::CumSum;

/// `y[o, j, i] = Σ x[o, ..=j, i]`, from the other end if `reverse`, without the element itself if `exclusive`.
pub fn cum_sum<T: Element<Acc: Number>>(p: &CumSum<usize>, x: &[T], y: &mut [T]) {
    if y.is_empty() {
        return;
    }
    let slab = p.len * p.inner;
    parallel::rows_mut(y, slab, worth(1 << 13, slab), &|first, y| {
        let mut sums = vec![T::Acc::ZERO; p.inner];
        for (y, x) in y.chunks_mut(slab).zip(x[first * slab..].chunks(slab)) {
            sums.fill(T::Acc::ZERO);
            for j in 0..p.len {
                let j = if p.reverse { p.len - 1 - j } else { j };
                let row = j * p.inner..(j + 1) * p.inner;
                for ((y, &x), sum) in y[row.clone()].iter_mut().zip(&x[row]).zip(&mut sums) {
                    let with = sum.plus(x.widen());
                    *y = T::narrow(if p.exclusive { *sum } else { with });
                    *sum = with;
                }
            }
        }
    });
}
