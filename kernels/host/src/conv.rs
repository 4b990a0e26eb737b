//! [`Conv`]: a product with the gathered windows; directly where the window is one element; [`crate::depthwise`] where
//! each channel has its own filters.

use crate::depthwise::depthwise;
use crate::element::{Element, Number};
use crate::gemm::operand;
use crate::im2col::Window;
use crate::matrix::{Matrix, Threads, Tiles};
use crate::parallel::{self, worth};
use crate::problem::{Conv, Layout};

/// Elements of gathered windows to have at a time: they and the filters should stay in the L2 cache.
const PANEL: usize = 1 << 18;
/// A tile has at least so many positions, for each product packs the filters anew.
const NARROW: usize = 64;

/// `y = conv(x, w)` in the class, before the epilogue.
pub fn conv<T: Element<Acc: Number>>(p: &Conv<usize>, x: &[T], w: &[T], y: &mut [T::Acc]) {
    in_class(p, &operand(x, p.math), &operand(w, p.math), y);
}

/// `y += conv(x, w)` in the class.
pub fn add<T: Element<Acc: Number>>(p: &Conv<usize>, x: &[T], w: &[T], y: &mut [T::Acc]) {
    let mut more = vec![<T::Acc as Number>::ZERO; y.len()];
    conv(p, x, w, &mut more);
    y.iter_mut().zip(more).for_each(|(y, more)| *y = y.plus(more));
}

/// `x` with every channel of every image times its factor.
pub fn scaled<T: Element<Acc: Number>>(p: &Conv<usize>, x: &[T], s: &[T]) -> Vec<T> {
    let pixels: usize = p.input.iter().product();
    let of = |i: usize| match p.layout {
        Layout::ChannelsFirst => i / pixels,
        Layout::ChannelsLast => i / (pixels * p.channels) * p.channels + i % p.channels,
    };
    let mut y = vec![T::default(); x.len()];
    parallel::rows_mut(&mut y, 1, 1 << 14, &|first, y| {
        for (i, y) in (first..).zip(y) {
            *y = T::narrow(x[i].widen().times(s[of(i)].widen()));
        }
    });
    y
}

fn in_class<A: Number>(p: &Conv<usize>, x: &[A], w: &[A], y: &mut [A]) {
    let window = Window::from(p);
    if y.is_empty() {
        return;
    }
    let (own, filters) = (p.channels / p.groups, p.filters / p.groups);
    if own == 1 && p.groups > 1 && (p.layout == Layout::ChannelsFirst || filters == 1) {
        return depthwise(p, &window, x, w, y);
    }
    match p.layout {
        Layout::ChannelsFirst => channels_first(p, &window, x, w, y),
        Layout::ChannelsLast => channels_last(p, &window, x, w, y),
    }
}

/// Tiles of about equal size, so that none is a remnant.
fn tile(depth: usize, positions: usize) -> usize {
    let most = (PANEL / depth.max(1)).max(NARROW);
    positions.div_ceil(positions.div_ceil(most)).next_multiple_of(16).min(positions)
}

/// Runs every task with scratch of its own: side by side where there are enough of them, else each on all threads.
fn spread<A: Number>(tasks: usize, task: impl Fn(usize, &mut Vec<A>, Threads) + Sync) {
    if tasks >= 2 * rayon::current_num_threads() {
        parallel::ranges(tasks, 1, &|range| {
            let mut scratch = vec![];
            range.for_each(|t| task(t, &mut scratch, Threads::One));
        });
    } else {
        let mut scratch = vec![];
        (0..tasks).for_each(|t| task(t, &mut scratch, Threads::All));
    }
}

/// `y[n, g·f + i, p] = Σ w[g·f + i, (c, r)] · windows[(c, r), p]`
fn channels_first<A: Number>(p: &Conv<usize>, window: &Window, x: &[A], w: &[A], y: &mut [A]) {
    let (own, filters) = (p.channels / p.groups, p.filters / p.groups);
    let (elements, positions) = (window.elements(), window.positions());
    let depth = own * window.taps();
    let direct = window.is_pointwise();
    let width = if direct { positions } else { tile(depth, positions) };
    let tiles = positions.div_ceil(width);
    let out = Tiles::of(y);
    spread(p.n * p.groups * tiles, |t, scratch, threads| {
        let (image, g, first) = (t / tiles / p.groups, t / tiles % p.groups, t % tiles * width);
        let width = width.min(positions - first);
        let x = &x[(image * p.groups + g) * own * elements..][..own * elements];
        let w = Matrix { data: &w[g * filters * depth..][..filters * depth], strides: [depth, 1] };
        let col = if direct {
            Matrix { data: x, strides: [positions, 1] }
        } else {
            if scratch.len() < depth * width {
                scratch.resize(depth * width, A::ZERO);
            }
            let col = &mut scratch[..depth * width];
            window.gather_first(x, first..first + width, col, threads == Threads::All);
            Matrix { data: col, strides: [width, 1] }
        };
        let at = (image * p.groups + g) * filters * positions + first;
        // SAFETY: every task has its own filters or positions.
        #[allow(unsafe_code)]
        unsafe {
            out.multiply([filters, width, depth], w, col, (at, [positions, 1]), threads);
        }
    });
}

/// `y[n, p, g·f + i] = Σ windows[p, (r, c)] · w[g·f + i, (c, r)]`
fn channels_last<A: Number>(p: &Conv<usize>, window: &Window, x: &[A], w: &[A], y: &mut [A]) {
    let (own, filters) = (p.channels / p.groups, p.filters / p.groups);
    let (elements, positions, taps) = (window.elements(), window.positions(), window.taps());
    let depth = own * taps;
    // To [filters, taps, own], the order of the gathered windows.
    let mut turned = vec![];
    let w = if taps == 1 || own == 1 {
        w
    } else {
        turned.resize(w.len(), A::ZERO);
        parallel::rows_mut(&mut turned, depth, worth(1 << 12, depth), &|first, turned| {
            for (turned, w) in turned.chunks_mut(depth).zip(w[first * depth..].chunks(depth)) {
                for (c, w) in w.chunks_exact(taps).enumerate() {
                    turned[c..].iter_mut().step_by(own).zip(w).for_each(|(t, w)| *t = *w);
                }
            }
        });
        &turned
    };
    let direct = window.is_pointwise();
    // Images are only more positions when nothing is gathered.
    let (images, positions, elements) =
        if direct { (1, p.n * positions, p.n * elements) } else { (p.n, positions, elements) };
    let width = if direct { positions } else { tile(depth, positions) };
    let tiles = positions.div_ceil(width);
    let out = Tiles::of(y);
    spread(images * p.groups * tiles, |t, scratch, threads| {
        let (image, g, first) = (t / tiles / p.groups, t / tiles % p.groups, t % tiles * width);
        let width = width.min(positions - first);
        let x = &x[image * elements * p.channels..][..elements * p.channels];
        let w = Matrix { data: &w[g * filters * depth..][..filters * depth], strides: [1, depth] };
        let col = if direct {
            Matrix { data: &x[g * own..], strides: [p.channels, 1] }
        } else {
            if scratch.len() < depth * width {
                scratch.resize(depth * width, A::ZERO);
            }
            let col = &mut scratch[..depth * width];
            window.gather_last(x, (p.channels, g * own, own), first..first + width, col);
            Matrix { data: col, strides: [depth, 1] }
        };
        let at = (image * positions + first) * p.filters + g * filters;
        // SAFETY: every task has its own filters or positions.
        #[allow(unsafe_code)]
        unsafe {
            out.multiply([width, filters, depth], col, w, (at, [p.filters, 1]), threads);
        }
    });
}
