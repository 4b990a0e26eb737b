//! Moments of rows, and what normalises rows of which nothing else is known: see [`Rows`].

use crate::element::{Element, Real};
use crate::layer_norm::total;
use crate::problem::{Rows, SPAN};

/// The sum, and the sum of squares about the mean, of every [`SPAN`] elements of `x`.
pub fn moments<T: Real<Acc: Into<f64>>>(x: &[T], out: &mut [f32]) {
    for (out, x) in out.chunks_exact_mut(2).zip(x.chunks_exact(SPAN)) {
        let x: [f64; SPAN] = std::array::from_fn(|i| Element::widen(x[i]).into());
        let sum = total(&x, |v| v);
        out[0] = sum as f32;
        out[1] = total(&x, |v| (v - sum / SPAN as f64).powi(2)) as f32;
    }
}

/// Mean (0 with `rms`) and reciprocal deviation of each row, `[rows, 2]`.
pub fn statistics(rows: &Rows, moments: &[f32]) -> Vec<f32> {
    let (len, span) = (rows.len as f64, SPAN as f64);
    let of_row = |spans: &[f32]| {
        let spans = || spans.chunks_exact(2).map(|s| (f64::from(s[0]), f64::from(s[1])));
        let mean = if rows.rms { 0.0 } else { spans().map(|(sum, _)| sum).sum::<f64>() / len };
        let about = |(sum, squares): (f64, f64)| squares + span * (sum / span - mean).powi(2);
        let variance = spans().map(about).sum::<f64>() / len;
        [mean as f32, (variance + f64::from(rows.epsilon)).sqrt().recip() as f32]
    };
    moments.chunks_exact(rows.len / SPAN * 2).flat_map(of_row).collect()
}
