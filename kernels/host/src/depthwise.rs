//! Convolutions in which every filter reads one channel: nothing to share, so plain loops along the last dimension.

use crate::element::Number;
use crate::im2col::Window;
use crate::parallel::{self, worth};
use crate::problem::{Conv, Layout};

/// `y = conv(x, w)` with one channel per group: any number of filters per channel, but one in `ChannelsLast`.
pub fn depthwise<A: Number>(p: &Conv<usize>, window: &Window, x: &[A], w: &[A], y: &mut [A]) {
    match p.layout {
        Layout::ChannelsFirst => channels_first(p, window, x, w, y),
        Layout::ChannelsLast => channels_last(p, window, x, w, y),
    }
}

fn channels_first<A: Number>(p: &Conv<usize>, window: &Window, x: &[A], w: &[A], y: &mut [A]) {
    let (elements, positions, taps, step) =
        (window.elements(), window.positions(), window.taps(), window.step());
    let each = p.filters / p.groups;
    parallel::rows_mut(y, positions, worth(1 << 12, positions * taps), &|first, y| {
        for (i, y) in (first..).zip(y.chunks_mut(positions)) {
            let (image, filter) = (i / p.filters, i % p.filters);
            let x = &x[(image * p.channels + filter / each) * elements..][..elements];
            let w = &w[filter * taps..][..taps];
            y.fill(A::ZERO);
            for (t, &w) in w.iter().enumerate() {
                window.runs(t, 0..positions, &mut |r| {
                    let y = &mut y[r.at + r.inside.start..r.at + r.inside.end];
                    if step == 1 {
                        y.iter_mut().zip(&x[r.from..]).for_each(|(y, &x)| *y = y.plus(w.times(x)));
                    } else {
                        y.iter_mut()
                            .zip(x[r.from..].iter().step_by(step))
                            .for_each(|(y, &x)| *y = y.plus(w.times(x)));
                    }
                });
            }
        }
    });
}

fn channels_last<A: Number>(p: &Conv<usize>, window: &Window, x: &[A], w: &[A], y: &mut [A]) {
    let (elements, positions, taps, step) =
        (window.elements(), window.positions(), window.taps(), window.step());
    let channels = p.channels;
    // To [taps, channels].
    let mut turned = vec![A::ZERO; w.len()];
    for (c, w) in w.chunks_exact(taps).enumerate() {
        turned[c..].iter_mut().step_by(channels).zip(w).for_each(|(t, w)| *t = *w);
    }
    let width = window.output[window.output.len() - 1];
    let row = width * channels;
    parallel::rows_mut(y, row, worth(1 << 12, row * taps), &|first, y| {
        for (i, y) in (first..).zip(y.chunks_mut(row)) {
            let (image, first) = (i * width / positions, i * width % positions);
            let x = &x[image * elements * channels..][..elements * channels];
            y.fill(A::ZERO);
            for (t, w) in turned.chunks_exact(channels).enumerate() {
                window.runs(t, first..first + width, &mut |r| {
                    for i in r.inside.clone() {
                        let from = (r.from + (i - r.inside.start) * step) * channels;
                        let y = &mut y[(r.at + i) * channels..][..channels];
                        for ((y, &w), &x) in y.iter_mut().zip(w).zip(&x[from..]) {
                            *y = y.plus(w.times(x));
                        }
                    }
                });
            }
        }
    });
}
