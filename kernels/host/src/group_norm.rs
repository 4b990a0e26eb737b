//! [`GroupNorm`]: groups of channels of an image brought to mean 0 and variance 1.

use crate::element::{Float, Real};
use crate::layer_norm::total;
use crate::parallel::{self, worth};
use crate::problem::{GroupNorm, Layout};

/// `y = norm(x) · scale + bias` in the class, before the epilogue.
pub fn group_norm<T: Real>(p: &GroupNorm<usize>, x: &[T], scale: &[T], bias: &[T], y: &mut [T::Acc]) {
    in_class(p, [&T::widened(x), &T::widened(scale), &T::widened(bias)], y);
}

fn in_class<A: Float>(p: &GroupNorm<usize>, [x, scale, bias]: [&[A]; 3], y: &mut [A]) {
    if y.is_empty() {
        return;
    }
    let own = p.channels / p.groups;
    let epsilon = A::from_f32(p.epsilon);
    let of = A::of_count(own * p.spatial);
    // Mean and 1 / deviation of each group, then (factor, offset) of each channel of each image.
    let mut rates = vec![(A::ZERO, A::ZERO); p.n * p.groups];
    parallel::rows_mut(&mut rates, 1, worth(1 << 12, own * p.spatial), &|first, rates| {
        for (i, to) in (first..).zip(rates) {
            let (image, g) = (i / p.groups, i % p.groups);
            let sum = |f: &dyn Fn(A) -> A| match p.layout {
                Layout::ChannelsFirst => total(&x[i * own * p.spatial..][..own * p.spatial], f),
                Layout::ChannelsLast => x[image * p.spatial * p.channels..][..p.spatial * p.channels]
                    .chunks_exact(p.channels)
                    .fold(A::ZERO, |s, row| s + total(&row[g * own..][..own], f)),
            };
            let mean = sum(&|v| v) / of;
            let spread = sum(&|v| (v - mean) * (v - mean)) / of;
            *to = (mean, A::ONE / (spread + epsilon).sqrt());
        }
    });
    let one = |image: usize, c: usize, x: A| {
        let (mean, rate) = rates[image * p.groups + c / own];
        (x - mean) * rate * scale[c] + bias[c]
    };
    match p.layout {
        Layout::ChannelsFirst => {
            parallel::rows_mut(y, p.spatial, worth(1 << 12, p.spatial), &|first, y| {
                let x = x[first * p.spatial..].chunks(p.spatial);
                for (row, (y, x)) in (first..).zip(y.chunks_mut(p.spatial).zip(x)) {
                    let (image, c) = (row / p.channels, row % p.channels);
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = one(image, c, x));
                }
            });
        }
        Layout::ChannelsLast => {
            parallel::rows_mut(y, p.channels, worth(1 << 12, p.channels), &|first, y| {
                let x = x[first * p.channels..].chunks(p.channels);
                for (row, (y, x)) in (first..).zip(y.chunks_mut(p.channels).zip(x)) {
                    let image = row / p.spatial;
                    y.iter_mut().zip(x).enumerate().for_each(|(c, (y, &x))| *y = one(image, c, x));
                }
            });
        }
    }
}
