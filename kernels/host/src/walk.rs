//! Iteration spaces: merging dimensions and walking strided accesses run by run.

use crate::problem::Access;

/// The number of elements of a shape, if it fits.
pub fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|n| isize::try_from(*n).is_ok())
}

/// Row-major strides of a dense tensor.
pub fn dense(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d].saturating_mul(shape[d]);
    }
    strides
}

/// How many elements an access needs to lie in a tensor: one more than its largest index; 0 over an empty shape.
pub fn reach(shape: &[usize], access: &Access<usize>) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let mut last = access.offset;
    for (&d, &s) in shape.iter().zip(&access.strides) {
        last = last.checked_add((d - 1).checked_mul(s)?)?;
    }
    last.checked_add(1)
}

/// Merges dimensions that every access walks as one, and drops those of size 1; at least one dimension remains.
/// `strides[i]` are the strides of access i. The space must not be empty.
pub fn merge(shape: &[usize], strides: &mut [Vec<usize>]) -> Vec<usize> {
    let mut merged: Vec<usize> = Vec::with_capacity(shape.len());
    let mut kept: Vec<Vec<usize>> = vec![Vec::with_capacity(shape.len()); strides.len()];
    for (d, &size) in shape.iter().enumerate() {
        if size == 1 {
            continue;
        }
        let joins = !merged.is_empty()
            && strides.iter().zip(&kept).all(|(s, k)| k.last().copied() == s[d].checked_mul(size));
        if let (true, Some(last)) = (joins, merged.last_mut()) {
            *last *= size;
            for (k, s) in kept.iter_mut().zip(strides.iter()) {
                if let Some(k) = k.last_mut() {
                    *k = s[d];
                }
            }
        } else {
            merged.push(size);
            kept.iter_mut().zip(strides.iter()).for_each(|(k, s)| k.push(s[d]));
        }
    }
    if merged.is_empty() {
        merged.push(1);
        kept.iter_mut().for_each(|k| k.push(0));
    }
    strides.iter_mut().zip(kept).for_each(|(s, k)| *s = k);
    merged
}

/// Calls `run(element, stride, at, count)` for every innermost run of the elements `start..start + len` (in row-major
/// order) of `shape`: elements `element, element + stride, ...` belong at `at..at + count` of the walk.
pub fn runs(
    shape: &[usize],
    strides: &[usize],
    offset: usize,
    start: usize,
    len: usize,
    run: &mut dyn FnMut(usize, usize, usize, usize),
) {
    let Some((&inner, outer)) = shape.split_last() else {
        return run(offset, 0, 0, len);
    };
    let step = strides[outer.len()];
    let mut index = [0usize; 16];
    let mut spilled; // only spaces of more than 16 dimensions allocate
    let index = if outer.len() <= 16 {
        &mut index[..outer.len()]
    } else {
        spilled = vec![0; outer.len()];
        &mut spilled[..]
    };
    let mut rest = start / inner;
    let mut base = offset;
    for d in (0..outer.len()).rev() {
        index[d] = rest % outer[d];
        rest /= outer[d];
        base += index[d] * strides[d];
    }
    let mut i = start % inner;
    let mut at = 0;
    while at < len {
        let n = (inner - i).min(len - at);
        run(base + i * step, step, at, n);
        at += n;
        i = 0;
        for d in (0..outer.len()).rev() {
            index[d] += 1;
            base += strides[d];
            if index[d] < outer[d] {
                break;
            }
            base -= strides[d] * outer[d];
            index[d] = 0;
        }
    }
}
