//! [`Gemm`]: batched strided matrix products.

use crate::dtype::DType;
use crate::element::{Element, Number};
use crate::matrix::{Matrix, Threads, Tiles};
use crate::parallel;
use crate::problem::{Gemm, Math};
use std::borrow::Cow;

/// A product of fewer multiplications than this runs on one thread when there are others to run beside it.
const SMALL: usize = 1 << 22;

/// `y[z, i, j] = Σ_k a[z, i, k] · b[z, k, j]` in the class, before the epilogue.
pub fn gemm<T: Element<Acc: Number>>(p: &Gemm<usize>, a: &[T], b: &[T], y: &mut [T::Acc]) {
    in_class(p, &operand(a, p.math), &operand(b, p.math), y);
}

fn in_class<A: Number>(p: &Gemm<usize>, a: &[A], b: &[A], y: &mut [A]) {
    let Gemm { mut batch, mut m, n, k, .. } = *p;
    if k == 0 || y.is_empty() {
        return y.fill(A::ZERO);
    }
    // One tall product where the batch is only more rows of `a`.
    if p.b[0] == 0 && (batch == 1 || p.a[0] == m * p.a[1]) {
        m *= batch;
        batch = 1;
    }
    let tiles = Tiles::of(y);
    let one = |z: usize, threads: Threads| {
        let a = Matrix { data: &a[(z * p.a[0]).min(a.len())..], strides: [p.a[1], p.a[2]] };
        let b = Matrix { data: &b[(z * p.b[0]).min(b.len())..], strides: [p.b[1], p.b[2]] };
        // SAFETY: each z has its own m·n elements.
        #[allow(unsafe_code)]
        unsafe {
            tiles.multiply([m, n, k], a, b, (z * m * n, [n, 1]), threads);
        }
    };
    let threads = rayon::current_num_threads();
    if batch >= 2 * threads || (batch > 1 && m * n * k < SMALL) {
        parallel::ranges(batch, 1, &|range| range.for_each(|z| one(z, Threads::One)));
    } else {
        (0..batch).for_each(|z| one(z, Threads::All));
    }
}

/// An operand in its class, rounded as `math` asks.
pub(crate) fn operand<T: Element<Acc: Number>>(x: &[T], math: Math) -> Cow<'_, [T::Acc]> {
    let x = T::widened(x);
    if math != Math::Tf32 || T::DTYPE != DType::F32 {
        return x;
    }
    let mut x = x.into_owned();
    parallel::rows_mut(&mut x, 1, 1 << 14, &|_, x| {
        x.iter_mut().for_each(|v| *v = v.through(|v| f64::from(tf32(v as f32))));
    });
    Cow::Owned(x)
}

/// Rounded to tf32's 10 bits of mantissa, ties away from zero, as `cvt.rna` does.
fn tf32(v: f32) -> f32 {
    if v.is_finite() { f32::from_bits((v.to_bits() + 0x1000) & !0x1fff) } else { v }
}
