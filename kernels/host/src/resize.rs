//! [`Resize`]: one dimension after another, each output a weighted sum of a few inputs.

use crate::element::{Float, Real};
use crate::parallel::{self, worth};
use crate::problem::{Coordinates, Interpolation, Resize};
use std::borrow::Cow;

/// `y = resize(x)` in the class, before the epilogue.
pub fn resize<T: Real>(p: &Resize<usize>, x: &[T], y: &mut [T::Acc]) {
    in_class(p, T::widened(x), y);
}

fn in_class<A: Float>(p: &Resize<usize>, mut x: Cow<'_, [A]>, y: &mut [A]) {
    if y.is_empty() {
        return;
    }
    let mut shape = p.input.clone();
    // Those that shrink first, for less is left to do.
    let mut dims: Vec<usize> =
        (0..shape.len()).filter(|&d| p.input[d] != p.output[d] || p.scales[d] != 1.0).collect();
    dims.sort_by_key(|&d| p.output[d] > p.input[d]);
    for d in dims {
        let taps: Vec<Vec<(usize, A)>> = (0..p.output[d])
            .map(|o| taps(p, d, o).into_iter().map(|(i, w)| (i, A::from_f32(w))).collect())
            .collect();
        let inner: usize = shape[d + 1..].iter().product();
        let len = shape[d];
        shape[d] = p.output[d];
        let mut out = vec![A::ZERO; shape.iter().product()];
        parallel::rows_mut(&mut out, inner, worth(1 << 12, inner), &|first, out| {
            for (row, out) in (first..).zip(out.chunks_mut(inner)) {
                let (o, j) = (row / taps.len(), row % taps.len());
                let source = |i: usize| &x[(o * len + i) * inner..][..inner];
                match taps[j].as_slice() {
                    // A lone tap copies, so that an infinity elsewhere cannot become NaN.
                    &[(i, _)] => out.copy_from_slice(source(i)),
                    many => {
                        for &(i, w) in many {
                            out.iter_mut().zip(source(i)).for_each(|(out, &x)| *out += w * x);
                        }
                    }
                }
            }
        });
        x = Cow::Owned(out);
    }
    y.copy_from_slice(&x);
}

/// The inputs of output `o` along dimension d, with their weights.
fn taps(p: &Resize<usize>, d: usize, o: usize) -> Vec<(usize, f32)> {
    let (input, output, scale) = (p.input[d], p.output[d], p.scales[d]);
    let at = match p.coordinates {
        Coordinates::HalfPixel => (o as f32 + 0.5) / scale - 0.5,
        Coordinates::PytorchHalfPixel if output > 1 => (o as f32 + 0.5) / scale - 0.5,
        Coordinates::AlignCorners if output > 1 => o as f32 * (input as f32 - 1.0) / (output as f32 - 1.0),
        Coordinates::PytorchHalfPixel | Coordinates::AlignCorners => 0.0,
        Coordinates::Asymmetric => o as f32 / scale,
    };
    let clamp = |i: f32| (i.max(0.0) as usize).min(input - 1);
    let below = at.floor();
    let t = at - below;
    match p.interpolation {
        Interpolation::NearestPreferFloor => vec![(clamp((at - 0.5).ceil()), 1.0)],
        Interpolation::NearestPreferCeil => vec![(clamp((at + 0.5).floor()), 1.0)],
        Interpolation::NearestFloor => vec![(clamp(below), 1.0)],
        Interpolation::NearestCeil => vec![(clamp(at.ceil()), 1.0)],
        Interpolation::Linear => {
            let (low, high) = (clamp(below), clamp(below + 1.0));
            if low == high || t == 0.0 { vec![(low, 1.0)] } else { vec![(low, 1.0 - t), (high, t)] }
        }
        Interpolation::Cubic { a } => {
            // Keys' kernel: one piece within distance 1, the other up to 2.
            let near = |s: f32| ((a + 2.0) * s - (a + 3.0)) * s * s + 1.0;
            let far = |s: f32| ((a * s - 5.0 * a) * s + 8.0 * a) * s - 4.0 * a;
            vec![
                (clamp(below - 1.0), far(1.0 + t)),
                (clamp(below), near(t)),
                (clamp(below + 1.0), near(1.0 - t)),
                (clamp(below + 2.0), far(2.0 - t)),
            ]
        }
    }
}
