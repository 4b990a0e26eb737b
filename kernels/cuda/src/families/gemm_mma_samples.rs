//! Matrix products that the tests compile and run: every type, transposition and kind of tail and epilogue.

use crate::dim::Dim;
use bakelite_host::problem::{Access, Epilogue, Gemm, Math};
use bakelite_host::{DType, Instr, Problem, Program, Pw};

/// How an operand lies.
#[derive(Clone, Copy)]
enum Lie {
    Rows,
    Columns,
    /// Rows with a gap of this many elements.
    Gap(i64),
    /// No dimension contiguous.
    Scattered,
    /// One matrix for the whole batch.
    Shared,
}

fn strides(lie: Lie, rows: &Dim, columns: &Dim) -> [Dim; 3] {
    let one = || Dim::from(1);
    let whole = rows * columns;
    match lie {
        Lie::Rows => [whole, columns.clone(), one()],
        Lie::Columns => [whole, one(), rows.clone()],
        Lie::Gap(gap) => {
            let pitch = columns + &Dim::from(gap);
            [rows * &pitch, pitch, one()]
        }
        Lie::Scattered => [whole.clone() + whole, columns + columns, Dim::from(2)],
        Lie::Shared => [Dim::from(0), columns.clone(), one()],
    }
}

/// `text`: batch, m, n and k.
fn gemm(dtype: DType, text: &str, a: Lie, b: Lie) -> Gemm<Dim> {
    let sizes: Vec<Dim> = text.split(' ').filter_map(|t| t.parse().ok()).collect();
    let [batch, m, n, k] = [0, 1, 2, 3].map(|i| sizes[i].clone());
    Gemm {
        a: strides(a, &m, &k),
        b: strides(b, &k, &n),
        batch,
        m,
        n,
        k,
        dtype,
        math: Math::Exact,
        epilogue: Epilogue::store(dtype),
    }
}

/// What follows a product.
#[derive(Clone, Copy)]
enum After {
    /// `gelu(x + bias[n])`
    BiasGelu,
    /// `relu(x + bias[n] + residual)`
    BiasResidual,
    /// `x · scale[m] + bias[n]`, stored as another type.
    ScaleBias(DType),
}

fn with(mut g: Gemm<Dim>, after: After) -> Gemm<Dim> {
    let dtype = g.dtype;
    let mut program = Program { inputs: vec![dtype.class().dtype()], ..Program::default() };
    let zero = || Dim::from(0);
    let one = || Dim::from(1);
    let access = |strides: [Dim; 3]| Access { offset: zero(), strides: strides.to_vec() };
    let bias = access([zero(), zero(), one()]);
    let full = access([&g.m * &g.n, g.n.clone(), one()]);
    let column = access([zero(), one(), zero()]);
    let (operands, out) = match after {
        After::BiasGelu => {
            let b = program.add_input(dtype);
            let sum = program.push(Instr::Apply(Pw::Add, vec![0, b]));
            let out = program.push(Instr::Apply(Pw::Gelu, vec![sum]));
            program.outputs = vec![(out, dtype)];
            (vec![bias], dtype)
        }
        After::BiasResidual => {
            let (b, r) = (program.add_input(dtype), program.add_input(dtype));
            let sum = program.push(Instr::Apply(Pw::Add, vec![0, b]));
            let sum = program.push(Instr::Apply(Pw::Add, vec![sum, r]));
            let out = program.push(Instr::Apply(Pw::Relu, vec![sum]));
            program.outputs = vec![(out, dtype)];
            (vec![bias, full], dtype)
        }
        After::ScaleBias(to) => {
            let (s, b) = (program.add_input(dtype), program.add_input(dtype));
            let product = program.push(Instr::Apply(Pw::Mul, vec![0, s]));
            let out = program.push(Instr::Apply(Pw::Add, vec![product, b]));
            program.outputs = vec![(out, to)];
            (vec![column, bias], to)
        }
    };
    debug_assert_eq!(program.outputs[0].1, out);
    g.epilogue = Epilogue::new(program, operands);
    g
}

fn tf32x3(mut g: Gemm<Dim>) -> Gemm<Dim> {
    g.math = Math::Tf32x3;
    g
}

fn tf32(mut g: Gemm<Dim>) -> Gemm<Dim> {
    g.math = Math::Tf32;
    g
}

/// Problems for the tests of `gemm.mma`, `gemm.simt` and `gemm.gemv`.
pub fn samples() -> Vec<Problem<Dim>> {
    use DType::{BF16, F16, F32, F64, I8, I32, I64, U8};
    use Lie::{Columns, Gap, Rows, Scattered, Shared};
    let all = [
        // The four transpositions, with tails in every dimension.
        with(gemm(F16, "1 200 136 264", Rows, Rows), After::BiasGelu),
        gemm(F16, "2 136 72 200", Rows, Columns),
        gemm(BF16, "2 136 200 72", Columns, Rows),
        gemm(F16, "1 72 264 136", Columns, Columns),
        tf32(with(gemm(F32, "1 200 136 132", Rows, Rows), After::BiasResidual)),
        tf32(gemm(F32, "2 68 136 100", Rows, Columns)),
        tf32(gemm(F32, "2 132 68 100", Columns, Rows)),
        tf32(gemm(F32, "1 68 72 132", Columns, Columns)),
        tf32x3(with(gemm(F32, "1 200 136 1032", Rows, Rows), After::BiasResidual)),
        tf32x3(gemm(F32, "2 132 68 100", Columns, Rows)),
        // Large, small, deep; and dynamic.
        with(gemm(F16, "1 512 768 768", Rows, Rows), After::BiasResidual),
        with(gemm(F16, "1 49 512 2048", Rows, Columns), After::BiasResidual),
        with(gemm(BF16, "1 196*batch 256 1024", Rows, Rows), After::BiasGelu),
        with(gemm(F16, "12*batch seq 64 seq", Rows, Rows), After::ScaleBias(F32)),
        gemm(F16, "batch 64 seq 64", Rows, Columns),
        // So large that large tiles are proposed.
        with(gemm(F16, "1 2000 1544 136", Rows, Rows), After::BiasGelu),
        gemm(BF16, "1 1544 2000 72", Columns, Columns),
        tf32(gemm(F32, "1 2000 1540 68", Rows, Columns)),
        tf32(gemm(F32, "1 1540 2000 68", Columns, Rows)),
        // Odd sizes: 4- and 2-byte copies; gaps; broadcast operands; a mixed result.
        gemm(F16, "1 65 33 67", Rows, Columns),
        with(gemm(BF16, "3 50 30 94", Columns, Rows), After::ScaleBias(F16)),
        gemm(F16, "3 40 48 64", Gap(8), Shared),
        tf32(gemm(F32, "1 33 31 35", Columns, Rows)),
        gemm(F16, "2 33 17 40", Scattered, Rows),
        // Rows of a result that begin at any element, or at any even one.
        with(gemm(F16, "1 130 1001 136", Rows, Columns), After::BiasResidual),
        with(gemm(F16, "1 batch*7 481 72", Rows, Rows), After::ScaleBias(F32)),
        with(gemm(BF16, "1 200 226 64", Rows, Rows), After::BiasGelu),
        // Ordinary cores.
        with(gemm(F32, "1 300 260 130", Rows, Rows), After::BiasGelu),
        gemm(F32, "2 65 64 512", Columns, Columns),
        with(gemm(F32, "batch 49 128 1152", Rows, Columns), After::BiasResidual),
        gemm(F32, "1 61 47 53", Scattered, Columns),
        with(gemm(F64, "2 70 50 300", Rows, Rows), After::BiasResidual),
        gemm(I32, "2 33 47 65", Rows, Columns),
        gemm(I64, "1 20 64 33", Columns, Rows),
        gemm(I8, "1 64 32 128", Rows, Rows),
        gemm(U8, "1 31 32 61", Rows, Rows),
        // Few rows.
        with(gemm(F16, "1 1 1000 2048", Rows, Columns), After::BiasGelu),
        with(gemm(F32, "1 batch 1000 512", Rows, Rows), After::BiasResidual),
        gemm(BF16, "4 13 130 200", Rows, Rows),
        gemm(F32, "2 3 77 91", Scattered, Scattered),
        gemm(F64, "1 5 33 64", Columns, Columns),
        gemm(F16, "70000 2 3 8", Rows, Rows),
        gemm(F32, "1 1 1 1", Rows, Rows),
    ];
    all.into_iter().map(Problem::from).collect()
}
