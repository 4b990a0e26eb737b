//! Gemm.

#![allow(clippy::unwrap_used)]

use crate::tensor::{Random, Tensor, eval, indices, same};
use bakelite_host::DType;
use bakelite_host::problem::{Epilogue, Gemm, Math};

pub(crate) const TYPES: [DType; 8] =
    [DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I8, DType::U32];

/// Keeps what an element type rounds or wraps out of the comparison: sums stay small.
fn depth(dtype: DType) -> usize {
    match dtype {
        DType::I8 | DType::BF16 => 12,
        _ => 70,
    }
}

#[test]
fn gemm_is_the_triple_loop() {
    let mut r = Random(1);
    for case in 0..120 {
        let dtype = r.pick(&TYPES);
        let [batch, m, n] = [r.within(1, 4), r.within(1, 40), r.within(1, 40)];
        let (m, n) = if case % 10 == 0 { (m * 8, n * 8) } else { (m, n) };
        let k = r.within(0, depth(dtype));
        let mut operand = |rows: usize, cols: usize| {
            let inner = if r.flip() { [cols, 1] } else { [1, rows] };
            let stride = if r.below(3) == 0 { 0 } else { rows * cols };
            ([stride, inner[0], inner[1]], r.integers(dtype, batch * rows * cols))
        };
        let (a, av) = operand(m, k);
        let (b, bv) = operand(k, n);
        let shape = [batch, m, n];
        let finish = r.epilogue(dtype, &shape);
        let (x, y) = (av.f64(), bv.f64());
        let acc: Vec<f64> = indices(&shape)
            .iter()
            .map(|i| {
                (0..k)
                    .map(|l| {
                        x[i[0] * a[0] + i[1] * a[1] + l * a[2]] * y[i[0] * b[0] + l * b[1] + i[2] * b[2]]
                    })
                    .sum()
            })
            .collect();
        let epilogue = finish.epilogue.clone();
        let p = Gemm { batch, m, n, k, dtype, math: Math::Exact, a, b, epilogue };
        let want: Vec<f64> = finish.apply(&acc);
        same(&eval(p.clone(), &finish.inputs(&[&av, &bv])), &want, &p);
    }
}

#[test]
fn tf32_rounds_operands_to_ten_bits() {
    let one = |math| {
        let strides = [1, 1, 1];
        let epilogue = Epilogue::store(DType::F32);
        Gemm { batch: 1, m: 1, n: 1, k: 1, dtype: DType::F32, math, a: strides, b: strides, epilogue }
    };
    let unit = Tensor::of(DType::F32, &[1.0]);
    for (bits, to) in [(11, 1.0 + 2f64.powi(-10)), (12, 1.0)] {
        let v = 1.0 + 2f64.powi(-bits);
        let x = Tensor::of(DType::F32, &[v]);
        assert_eq!(eval(one(Math::Exact), &[&x, &unit]), [v]);
        assert_eq!(eval(one(Math::Tf32), &[&x, &unit]), [to]);
        assert_eq!(eval(one(Math::Tf32), &[&unit, &x]), [to]);
        assert_eq!(eval(one(Math::Tf32x3), &[&x, &unit]), [v]);
    }
    let infinite = Tensor::of(DType::F32, &[f64::INFINITY]);
    assert_eq!(eval(one(Math::Tf32), &[&infinite, &unit]), [f64::INFINITY]);
}
