//! [`Pool`]: maxima, averages and norms of a sliding window.

use crate::element::{Element, Number};
use crate::im2col::Window;
use crate::parallel::{self, worth};
use crate::problem::{Layout, Pool, PoolKind};

/// `y = pool(x)` in the class, before the epilogue.
pub fn pool<T: Element<Acc: Number>>(p: &Pool<usize>, x: &[T], y: &mut [T::Acc]) {
    in_class(p, &T::widened(x), y);
}

fn in_class<A: Number>(p: &Pool<usize>, x: &[A], y: &mut [A]) {
    match p.kind {
        PoolKind::Max => slide(p, x, y, A::LOWEST, |a, x| a.larger(x), |_, _| {}),
        PoolKind::Average { count_pads } => {
            let divisors = divisors(p, count_pads);
            slide(
                p,
                x,
                y,
                A::ZERO,
                |a, x| a.plus(x),
                |y, position| *y = y.over(A::of_count(divisors[position])),
            );
        }
        PoolKind::Lp(1) => slide(p, x, y, A::ZERO, |a, x| a.plus(x.magnitude()), |_, _| {}),
        PoolKind::Lp(2) => {
            let root = |y: &mut A, _| *y = y.through(f64::sqrt);
            slide(p, x, y, A::ZERO, |a, x| a.plus(x.times(x)), root);
        }
        PoolKind::Lp(e) => {
            let e = f64::from(e);
            let power = |a: A, x: A| a.plus(x.through(|x| x.abs().powf(e)));
            slide(p, x, y, A::ZERO, power, |y, _| *y = y.through(|y| y.powf(1.0 / e)));
        }
    }
}

/// The divisor of each position.
fn divisors(p: &Pool<usize>, count_pads: bool) -> Vec<usize> {
    let window = Window::from(p);
    let mut divisors = vec![1usize];
    for d in 0..window.output.len() {
        let (stride, pad, dilation) = (window.strides[d], window.pads[d], window.dilations[d]);
        let (before, after) =
            if count_pads { (pad, p.pads_end.get(d).copied().unwrap_or(0)) } else { (0, 0) };
        // Taps r of position o whose element o·stride + r·dilation − pad lies in −before .. input + after.
        let along = (0..window.output[d]).map(|o| {
            let end = (window.input[d] + after + pad).saturating_sub(o * stride).div_ceil(dilation);
            let begin = (pad - before).saturating_sub(o * stride).div_ceil(dilation);
            end.min(window.kernel[d]).saturating_sub(begin)
        });
        let along: Vec<usize> = along.collect();
        divisors = divisors.iter().flat_map(|n| along.iter().map(move |m| n * m)).collect();
    }
    divisors
}

/// Folds the window of every position, then calls `end` with each result and its position.
fn slide<A: Number>(
    p: &Pool<usize>,
    x: &[A],
    y: &mut [A],
    start: A,
    fold: impl Fn(A, A) -> A + Sync,
    end: impl Fn(&mut A, usize) + Sync,
) {
    let window = Window::from(p);
    let (elements, positions, step) = (window.elements(), window.positions(), window.step());
    if y.is_empty() {
        return;
    }
    let useful = taps(&window);
    let work = 1 << 12;
    match p.layout {
        Layout::ChannelsFirst => {
            parallel::rows_mut(y, positions, worth(work, positions * useful.len()), &|first, y| {
                for (c, y) in (first..).zip(y.chunks_mut(positions)) {
                    let x = &x[c * elements..][..elements];
                    y.fill(start);
                    for &t in &useful {
                        window.runs(t, 0..positions, &mut |r| {
                            let y = &mut y[r.at + r.inside.start..r.at + r.inside.end];
                            if step == 1 {
                                y.iter_mut().zip(&x[r.from..]).for_each(|(y, &x)| *y = fold(*y, x));
                            } else {
                                y.iter_mut()
                                    .zip(x[r.from..].iter().step_by(step))
                                    .for_each(|(y, &x)| *y = fold(*y, x));
                            }
                        });
                    }
                    y.iter_mut().enumerate().for_each(|(i, y)| end(y, i));
                }
            })
        }
        Layout::ChannelsLast => {
            let channels = p.channels;
            let width = window.output[window.output.len() - 1];
            let row = width * channels;
            parallel::rows_mut(y, row, worth(work, row * useful.len()), &|first, y| {
                for (row, y) in (first..).zip(y.chunks_mut(row)) {
                    let (image, first) = (row * width / positions, row * width % positions);
                    let x = &x[image * elements * channels..][..elements * channels];
                    y.fill(start);
                    for &t in &useful {
                        window.runs(t, first..first + width, &mut |r| {
                            for i in r.inside.clone() {
                                let from = (r.from + (i - r.inside.start) * step) * channels;
                                let y = &mut y[(r.at + i) * channels..][..channels];
                                y.iter_mut().zip(&x[from..]).for_each(|(y, &x)| *y = fold(*y, x));
                            }
                        });
                    }
                    for (i, y) in y.chunks_exact_mut(channels).enumerate() {
                        y.iter_mut().for_each(|y| end(y, first + i));
                    }
                }
            });
        }
    }
}

/// The taps that touch the input at all.
fn taps(window: &Window) -> Vec<usize> {
    let mut taps = vec![0usize];
    for d in 0..window.kernel.len() {
        let useful = window.useful(d);
        taps = taps.iter().flat_map(|t| useful.clone().map(move |r| t * window.kernel[d] + r)).collect();
    }
    taps
}
