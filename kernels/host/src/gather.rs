//! [`Gather`] and [`GatherElements`]: elements picked by index. An index outside the dimension is an error.

use crate::dtype::DType;
use crate::parallel::{self, worth};
use crate::problem::{Gather, GatherElements};
use crate::view::{RunError, View, bail};
use crate::walk;

/// The indices as positions in `0..len`; negative ones count from the end.
pub fn positions(indices: View<'_>, len: usize) -> Result<Vec<usize>, RunError> {
    let one = |i: i128| {
        let from_start = if i < 0 { i + len as i128 } else { i };
        match usize::try_from(from_start) {
            Ok(p) if p < len => Ok(p),
            _ => bail!("index {i} lies outside a dimension of {len}"),
        }
    };
    macro_rules! read {
        ($($d:ident $t:ident)*) => {
            match indices.dtype {
                $(DType::$d => indices.as_slice::<$t>()?.iter().map(|i| one(i128::from(*i))).collect(),)*
                other => bail!("indices are integers, not {other}"),
            }
        };
    }
    read! { I8 i8 I16 i16 I32 i32 I64 i64 U8 u8 U16 u16 U32 u32 U64 u64 }
}

/// `y[o, j, i] = x[o, at[j], i]`, on elements or on their bits; every `at` is below `p.len`.
pub fn gather<T: Copy + Send + Sync>(p: &Gather<usize>, x: &[T], at: &[usize], y: &mut [T]) {
    if y.is_empty() {
        return;
    }
    parallel::rows_mut(y, p.inner, worth(1 << 14, p.inner), &|first, y| {
        for (row, y) in (first..).zip(y.chunks_mut(p.inner)) {
            let (o, j) = (row / p.count, row % p.count);
            y.copy_from_slice(&x[(o * p.len + at[j]) * p.inner..][..p.inner]);
        }
    });
}

/// `y[i] = x[i with coordinate axis replaced by at[i]]`; every `at` is below `p.input[p.axis]`.
pub fn gather_elements<T: Copy + Send + Sync>(p: &GatherElements<usize>, x: &[T], at: &[usize], y: &mut [T]) {
    let mut strides = walk::dense(&p.input);
    let along = std::mem::replace(&mut strides[p.axis], 0);
    parallel::rows_mut(y, 1, 1 << 14, &|first, y| {
        walk::runs(&p.output, &strides, 0, first, y.len(), &mut |from, step, k, n| {
            for (j, y) in y[k..k + n].iter_mut().enumerate() {
                *y = x[from + j * step + at[first + k + j] * along];
            }
        });
    });
}
