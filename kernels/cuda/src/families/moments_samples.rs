//! Matrix products that the tests compile and run which normalise rows by their moments, or give moments.

use crate::dim::Dim;
use bakelite_host::problem::{Access, Epilogue, Gemm, Math, Rows};
use bakelite_host::{DType, Instr, Problem, Program, Pw};

/// What is known of rows.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    /// Of the left operand's: `(x - mean * c[n]) * rate + bias[n]`.
    Product {
        rms: bool,
    },
    /// Of a residual's: `x + bias[n] + (r - mean) * rate * scale[n]`.
    Residual,
}

fn gemm(dtype: DType, [m, n, k]: [&str; 3], known: Known, moments: bool) -> Problem<Dim> {
    let [m, n, k] = [m, n, k].map(|t| t.parse::<Dim>().unwrap_or_else(|_| Dim::from(0)));
    let number = |d: &Dim| d.as_const().map_or(0, |d| d as usize);
    let mut program = Program { inputs: vec![DType::F32], ..Program::default() };
    let access = |offset: i64, strides: [Dim; 3]| Access { offset: offset.into(), strides: strides.to_vec() };
    let [zero, one, two] = [0, 1, 2].map(Dim::from);
    let column = || access(0, [zero.clone(), zero.clone(), one.clone()]);
    let mut operands: Vec<Access<Dim>> = Vec::new();
    let mut input = |program: &mut Program, dtype, access| {
        operands.push(access);
        program.add_input(dtype)
    };
    let row = |offset| access(offset, [&m * &two, two.clone(), zero.clone()]);
    let apply = |program: &mut Program, op, of: [u16; 2]| program.push(Instr::Apply(op, of.to_vec()));
    let (mut rows, mut x) = (None, 0);
    match known {
        Known::Nothing => {
            let bias = input(&mut program, dtype, column());
            x = apply(&mut program, Pw::Add, [x, bias]);
        }
        Known::Product { rms } => {
            rows = Some(Rows { len: number(&k), rms, epsilon: 1e-5 });
            let [mean, rate] = [0, 1].map(|n| input(&mut program, DType::F32, row(n)));
            let [sums, bias] = [dtype; 2].map(|d| input(&mut program, d, column()));
            let off = apply(&mut program, Pw::Mul, [mean, sums]);
            x = apply(&mut program, Pw::Sub, [x, off]);
            x = apply(&mut program, Pw::Mul, [x, rate]);
            x = apply(&mut program, Pw::Add, [x, bias]);
        }
        Known::Residual => {
            rows = Some(Rows { len: number(&n), rms: false, epsilon: 1e-5 });
            let [mean, rate] = [0, 1].map(|n| input(&mut program, DType::F32, row(n)));
            let bias = input(&mut program, dtype, column());
            let full = access(0, [&m * &n, n.clone(), one.clone()]);
            let residual = input(&mut program, dtype, full);
            let scale = input(&mut program, dtype, column());
            x = apply(&mut program, Pw::Add, [x, bias]);
            let off = apply(&mut program, Pw::Sub, [residual, mean]);
            let unit = apply(&mut program, Pw::Mul, [off, rate]);
            let scaled = apply(&mut program, Pw::Mul, [unit, scale]);
            x = apply(&mut program, Pw::Add, [x, scaled]);
        }
    }
    program.outputs = vec![(x, dtype)];
    Gemm {
        batch: one.clone(),
        a: [&m * &k, k.clone(), one.clone()],
        b: [&k * &n, n.clone(), one.clone()],
        m: m.clone(),
        n,
        k,
        dtype,
        math: if dtype == DType::F32 { Math::Tf32 } else { Math::Exact },
        epilogue: Epilogue { rows, moments, ..Epilogue::new(program, operands) },
    }
    .into()
}

/// Every kind, with tails of rows, columns in odd numbers, and a number of rows known only when it runs.
pub(super) fn samples() -> Vec<Problem<Dim>> {
    let (half, brain) = (DType::F16, DType::BF16);
    let product = Known::Product { rms: false };
    vec![
        gemm(half, ["128", "768", "768"], Known::Nothing, true),
        gemm(half, ["197", "768", "3072"], Known::Residual, true),
        gemm(half, ["197", "2304", "768"], product, false),
        gemm(brain, ["batch*13", "96", "224"], Known::Residual, true),
        gemm(brain, ["seq", "320", "96"], Known::Product { rms: true }, true),
        gemm(half, ["130", "1003", "768"], product, false),
        gemm(DType::F32, ["200", "256", "128"], Known::Residual, true),
        gemm(half, ["2500", "512", "512"], Known::Residual, true),
        gemm(half, ["2500", "384", "512"], product, false),
        // As large as networks have them: other tiles, with fewer registers to spare.
        gemm(half, ["128", "50257", "768"], product, false),
        gemm(half, ["6304", "2304", "768"], product, false),
        gemm(half, ["4096", "768", "3072"], Known::Residual, true),
        gemm(half, ["6304", "768", "3072"], Known::Nothing, true),
    ]
}
