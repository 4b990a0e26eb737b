//! [`Pad`]: elements moved, and what lies outside made up from the edge, the mirror or a constant.

use crate::parallel::{self, worth};
use crate::problem::{Pad, PadMode};
use crate::walk;

/// `y = pad(x)`, on elements or on their bits; `value` stands outside in [`PadMode::Constant`].
pub fn pad<T: Copy + Send + Sync>(p: &Pad<usize>, x: &[T], value: Option<T>, y: &mut [T]) {
    if y.is_empty() {
        return;
    }
    // Along each dimension, the input coordinate of every output coordinate.
    let maps: Vec<Vec<Option<usize>>> = (0..p.input.len())
        .map(|d| {
            (0..p.output[d]).map(|o| source(p.mode, o as i128 - i128::from(p.begin[d]), p.input[d])).collect()
        })
        .collect();
    let strides = walk::dense(&p.input);
    let Some((columns, outer)) = maps.split_last() else {
        y.copy_from_slice(x);
        return;
    };
    // The part of the last dimension that lies inside is copied as one.
    let last = outer.len();
    let first = usize::try_from(p.begin[last]).unwrap_or(0).min(columns.len());
    let end = (i128::from(p.begin[last]) + p.input[last] as i128).clamp(first as i128, columns.len() as i128);
    let inside = first..usize::try_from(end).unwrap_or(first);
    let width = columns.len();
    parallel::rows_mut(y, width, worth(1 << 13, width), &|first, y| {
        for (mut row, y) in (first..).zip(y.chunks_mut(width)) {
            let mut base = Some(0);
            for (d, map) in outer.iter().enumerate().rev() {
                base = base.zip(map[row % map.len()]).map(|(b, i)| b + i * strides[d]);
                row /= map.len();
            }
            let one = |o: usize| base.zip(columns[o]).map(|(b, i)| x[b + i]).or(value);
            match base {
                None => {
                    if let Some(v) = value {
                        y.fill(v);
                    }
                }
                Some(base) => {
                    for o in (0..inside.start).chain(inside.end..width) {
                        if let Some(v) = one(o) {
                            y[o] = v;
                        }
                    }
                    if let (false, Some(first)) =
                        (inside.is_empty(), columns[inside.clone()].first().copied().flatten())
                    {
                        let n = inside.len();
                        y[inside.clone()].copy_from_slice(&x[base + first..][..n]);
                    }
                }
            }
        }
    });
}

/// The coordinate read for `i`, which may lie outside `0..n`.
fn source(mode: PadMode, i: i128, n: usize) -> Option<usize> {
    let size = n as i128;
    let at = match mode {
        _ if (0..size).contains(&i) => i,
        _ if n == 0 => return None,
        PadMode::Constant => return None,
        PadMode::Edge => i.clamp(0, size - 1),
        PadMode::Wrap => i.rem_euclid(size),
        PadMode::Reflect if n == 1 => 0,
        PadMode::Reflect => {
            let i = i.rem_euclid(2 * (size - 1));
            i.min(2 * (size - 1) - i)
        }
    };
    usize::try_from(at).ok()
}
