//! Work shared among the thread pool. Bodies are trait objects, so that the pool's machinery is compiled once and not
//! for every kernel and element type; each call of a body therefore gets a piece of work that is worth the call.

use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Pieces per thread, so that a slow thread leaves some of its share to the others.
const PIECES: usize = 8;

/// Indices per piece where `count` are shared, at least `least` of them (but for the last piece).
fn share(count: usize, least: usize) -> usize {
    let least = least.max(1);
    // Asked first: little work does not even start the pool.
    if count / least <= 1 {
        return count;
    }
    count.div_ceil(PIECES * rayon::current_num_threads()).max(least)
}

/// Calls `body` with ranges that cover `0..count`, side by side; each has at least `least` indices but for the last.
pub fn ranges(count: usize, least: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
    if count == 0 {
        return;
    }
    let each = share(count, least);
    if each >= count {
        return body(0..count);
    }
    (0..count.div_ceil(each)).into_par_iter().for_each(|i| body(i * each..count.min((i + 1) * each)));
}

/// Calls `body` with every part and its number, side by side.
pub fn each<P: Send>(parts: Vec<P>, body: &(dyn Fn(usize, P) + Sync)) {
    if parts.len() <= 1 {
        return parts.into_iter().for_each(|p| body(0, p));
    }
    // Whoever runs a task takes its part.
    let slots: Vec<Mutex<Option<P>>> = parts.into_iter().map(|p| Mutex::new(Some(p))).collect();
    ranges(slots.len(), 1, &|range| {
        for i in range {
            let part = slots[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(part) = part {
                body(i, part);
            }
        }
    });
}

/// Calls `body` with pieces of `y` of whole rows of `row` elements, side by side: the number of the piece's first row,
/// and the piece. Each has at least `least` rows but for the last, whose last row may be short.
pub fn rows_mut<T: Send>(y: &mut [T], row: usize, least: usize, body: &(dyn Fn(usize, &mut [T]) + Sync)) {
    let row = row.max(1);
    let count = y.len().div_ceil(row);
    if count == 0 {
        return;
    }
    let many = share(count, least);
    if many >= count {
        return body(0, y);
    }
    each(y.chunks_mut(many.saturating_mul(row)).collect(), &|i, y| body(i * many, y));
}

/// How many rows of `row` elements, at least one, make `elements` of work.
pub fn worth(elements: usize, row: usize) -> usize {
    elements.div_ceil(row.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_index_has_its_turn_once() {
        for (count, least) in [(0, 1), (1, 0), (7, 3), (7, 100), (1000, 1), (1001, 64)] {
            let turns: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            ranges(count, least, &|range| {
                assert!(range.len() >= least.min(count) || range.end == count, "{range:?} of {count}");
                for turn in &turns[range] {
                    turn.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(turns.iter().all(|t| t.load(Ordering::Relaxed) == 1), "{count} by {least}");
        }
    }

    #[test]
    fn pieces_are_whole_rows_and_know_their_first() {
        for (len, row, least) in [(0, 3, 1), (9, 3, 1), (10, 3, 2), (5000, 7, 4), (4096, 1, 100), (3, 0, 1)] {
            let mut y = vec![usize::MAX; len];
            rows_mut(&mut y, row, least, &|first, y| {
                y.iter_mut().enumerate().for_each(|(i, y)| *y = first * row.max(1) + i);
            });
            assert!(y.iter().enumerate().all(|(i, y)| i == *y), "{len} by {row}");
        }
    }

    #[test]
    fn parts_are_moved_to_the_body() {
        let parts: Vec<Box<usize>> = (0..300).map(Box::new).collect();
        let sum = AtomicUsize::new(0);
        each(parts, &|i, part| {
            assert_eq!(i, *part);
            sum.fetch_add(*part, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 299 * 300 / 2);
    }
}
