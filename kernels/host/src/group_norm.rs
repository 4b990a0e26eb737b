//! [`GroupNorm`]: groups of channels of an image brought to mean 0 and variance 1.

use crate::element::{Float, Number, Real};
use crate::layer_norm::total;
use crate::problem::{GroupNorm, Layout};
use rayon::prelude::*;

/// `y = norm(x) · scale + bias` in the class, before the epilogue.
pub fn group_norm<T: Real>(p: &GroupNorm<usize>, x: &[T], scale: &[T], bias: &[T], y: &mut [T::Acc]) {
    let (x, scale, bias) = (T::widened(x), T::widened(scale), T::widened(bias));
    if y.is_empty() {
        return;
    }
    let own = p.channels / p.groups;
    let epsilon = T::Acc::from_f32(p.epsilon);
    let of = T::Acc::of_count(own * p.spatial);
    // Mean and 1 / deviation of each group, then (factor, offset) of each channel of each image.
    let rates: Vec<(T::Acc, T::Acc)> = (0..p.n * p.groups)
        .into_par_iter()
        .map(|i| {
            let (image, g) = (i / p.groups, i % p.groups);
            let sum = |f: &dyn Fn(T::Acc) -> T::Acc| match p.layout {
                Layout::ChannelsFirst => total(&x[i * own * p.spatial..][..own * p.spatial], f),
                Layout::ChannelsLast => x[image * p.spatial * p.channels..][..p.spatial * p.channels]
                    .chunks_exact(p.channels)
                    .fold(T::Acc::ZERO, |s, row| s + total(&row[g * own..][..own], f)),
            };
            let mean = sum(&|v| v) / of;
            let spread = sum(&|v| (v - mean) * (v - mean)) / of;
            (mean, T::Acc::ONE / (spread + epsilon).sqrt())
        })
        .collect();
    let one = |image: usize, c: usize, x: T::Acc| {
        let (mean, rate) = rates[image * p.groups + c / own];
        (x - mean) * rate * scale[c] + bias[c]
    };
    match p.layout {
        Layout::ChannelsFirst => {
            y.par_chunks_mut(p.spatial).zip(x.par_chunks(p.spatial)).enumerate().for_each(|(row, (y, x))| {
                let (image, c) = (row / p.channels, row % p.channels);
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = one(image, c, x));
            });
        }
        Layout::ChannelsLast => {
            y.par_chunks_mut(p.channels).zip(x.par_chunks(p.channels)).enumerate().for_each(
                |(row, (y, x))| {
                    let image = row / p.spatial;
                    y.iter_mut().zip(x).enumerate().for_each(|(c, (y, &x))| *y = one(image, c, x));
                },
            );
        }
    }
}
