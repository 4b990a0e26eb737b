//! [`Reduce`]: sums, extrema and norms over any set of dimensions.

use crate::element::{Element, Number};
use crate::parallel::{self, worth};
use crate::problem::{Reduce, ReduceKind};
use crate::walk;

/// Independent accumulators of a contiguous run, so that it vectorises and long sums lose less.
const LANES: usize = 16;
/// A run is folded in pieces of so many elements.
const PIECE: usize = 4096;
/// Elements of work worth a task.
const TASK: usize = 1 << 14;

/// `y = reduce(x)` in the class, before the epilogue. `Any` and `All` are the extrema of 0 and 1.
pub fn reduce<T: Element<Acc: Number>>(p: &Reduce<usize>, x: &[T], y: &mut [T::Acc]) {
    in_class(p, &T::widened(x), y);
}

fn in_class<A: Number>(p: &Reduce<usize>, x: &[A], y: &mut [A]) {
    let space = Space::of(p);
    let of = A::of_count(space.reduced_count());
    let zero = A::ZERO;
    let plus = |a: A, b: A| a.plus(b);
    match p.kind {
        ReduceKind::Sum => space.fold(x, y, zero, |a, x, _| a.plus(x), plus),
        ReduceKind::Mean => {
            space.fold(x, y, zero, |a, x, _| a.plus(x), plus);
            y.iter_mut().for_each(|y| *y = y.over(of));
        }
        ReduceKind::Max | ReduceKind::Any => {
            space.fold(x, y, A::LOWEST, |a, x, _| a.larger(x), |a, b| a.larger(b));
        }
        ReduceKind::Min | ReduceKind::All => {
            space.fold(x, y, A::HIGHEST, |a, x, _| a.smaller(x), |a, b| a.smaller(b));
        }
        ReduceKind::Prod => space.fold(x, y, A::ONE, |a, x, _| a.times(x), |a, b| a.times(b)),
        ReduceKind::SumSquare => space.fold(x, y, zero, |a, x, _| a.plus(x.times(x)), plus),
        ReduceKind::L1 => space.fold(x, y, zero, |a, x, _| a.plus(x.magnitude()), plus),
        ReduceKind::L2 => {
            space.fold(x, y, zero, |a, x, _| a.plus(x.times(x)), plus);
            y.iter_mut().for_each(|y| *y = y.through(f64::sqrt));
        }
        ReduceKind::LogSum => {
            space.fold(x, y, zero, |a, x, _| a.plus(x), plus);
            y.iter_mut().for_each(|y| *y = y.through(f64::ln));
        }
        ReduceKind::LogSumExp => {
            let mut peak = vec![zero; y.len()];
            space.fold(x, &mut peak, A::LOWEST, |a, x, _| a.larger(x), |a, b| a.larger(b));
            // Infinite peaks are not subtracted: inf − inf would make NaN of what has a limit.
            let bound = |v: A| if v > A::LOWEST && v < A::HIGHEST { v } else { zero };
            peak.iter_mut().for_each(|v| *v = bound(*v));
            let peak = &peak;
            space.fold(x, y, zero, |a, x, o| a.plus(x.minus(peak[o]).exponential()), plus);
            y.iter_mut().zip(peak).for_each(|(y, &m)| *y = m.plus(y.through(f64::ln)));
        }
    }
}

/// The dimensions, neighbours of one kind merged, as the strides of those kept and those reduced.
struct Space {
    kept: Vec<usize>,
    kept_strides: Vec<usize>,
    reduced: Vec<usize>,
    reduced_strides: Vec<usize>,
    /// Size of the last dimension if it is kept; it is then not in `kept`.
    columns: Option<usize>,
}

impl Space {
    fn of(p: &Reduce<usize>) -> Space {
        let mut groups: Vec<(usize, bool)> = vec![];
        for (&size, &reduced) in p.shape.iter().zip(&p.reduced) {
            match groups.last_mut() {
                _ if size == 1 => {}
                Some((last, r)) if *r == reduced => *last *= size,
                _ => groups.push((size, reduced)),
            }
        }
        let columns = match groups.last() {
            Some(&(size, false)) => {
                groups.pop();
                Some(size)
            }
            Some(_) => None,
            None => Some(1),
        };
        let mut space =
            Space { kept: vec![], kept_strides: vec![], reduced: vec![], reduced_strides: vec![], columns };
        let mut stride = columns.unwrap_or(1);
        for &(size, reduced) in groups.iter().rev() {
            let (sizes, strides) = if reduced {
                (&mut space.reduced, &mut space.reduced_strides)
            } else {
                (&mut space.kept, &mut space.kept_strides)
            };
            sizes.insert(0, size);
            strides.insert(0, stride);
            stride *= size;
        }
        space
    }

    fn reduced_count(&self) -> usize {
        self.reduced.iter().product()
    }

    fn base(&self, mut index: usize) -> usize {
        let mut base = 0;
        for (size, stride) in self.kept.iter().zip(&self.kept_strides).rev() {
            base += index % size * stride;
            index /= size;
        }
        base
    }

    /// `y[o] = join of step(acc, x, o)` over the elements that reduce to o.
    fn fold<A: Number>(
        &self,
        x: &[A],
        y: &mut [A],
        start: A,
        step: impl Fn(A, A, usize) -> A + Sync,
        join: impl Fn(A, A) -> A + Sync,
    ) {
        let count = self.reduced_count();
        y.fill(start);
        if count == 0 || y.is_empty() {
            return;
        }
        let Some(columns) = self.columns else {
            return parallel::rows_mut(y, 1, worth(TASK, count), &|first, y| {
                for (o, y) in (first..).zip(y) {
                    let (sizes, strides) = (&self.reduced, &self.reduced_strides);
                    walk::runs(sizes, strides, self.base(o), 0, count, &mut |from, _, _, n| {
                        for piece in x[from..from + n].chunks(PIECE) {
                            *y = join(*y, run(piece, start, |a, x| step(a, x, o), &join));
                        }
                    });
                }
            });
        };
        // Rows of kept columns: each row of elements is folded into the row of accumulators. Rows may be split.
        let least = worth(TASK, count).max(columns.min(64));
        parallel::rows_mut(y, 1, least, &|mut first, mut y| {
            while !y.is_empty() {
                let (o, column) = (first / columns, first % columns);
                let (row, rest) = y.split_at_mut(y.len().min(columns - column));
                let base = self.base(o) + column;
                let (sizes, strides) = (&self.reduced, &self.reduced_strides);
                walk::runs(sizes, strides, base, 0, count, &mut |from, pitch, _, n| {
                    for i in 0..n {
                        let x = &x[from + i * pitch..][..row.len()];
                        for (j, (y, &x)) in row.iter_mut().zip(x).enumerate() {
                            *y = step(*y, x, first + j);
                        }
                    }
                });
                first += row.len();
                y = rest;
            }
        });
    }
}

fn run<A: Number>(x: &[A], start: A, step: impl Fn(A, A) -> A, join: impl Fn(A, A) -> A) -> A {
    let mut lanes = [start; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for (a, &x) in lanes.iter_mut().zip(x) {
            *a = step(*a, x);
        }
    }
    let mut a = lanes.into_iter().reduce(&join).unwrap_or(start);
    for &x in rest {
        a = step(a, x);
    }
    a
}
