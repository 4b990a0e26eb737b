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

#[cfg(test)]
mod tests {
    use crate::dtype::DType;
    use crate::problem::*;
    use crate::program::{Instr, Program};
    use crate::{Pw, View, ViewMut, run};

    const ROWS: usize = 3;
    const LEN: usize = 64;

    fn column(strides: [usize; 3], offset: usize) -> Access {
        Access { offset, strides: strides.to_vec() }
    }

    fn product(n: usize, k: usize, epilogue: Epilogue) -> Problem {
        let (a, b) = ([0, k, 1], [0, n, 1]);
        Gemm { batch: 1, m: ROWS, n, k, dtype: DType::F32, math: Math::Exact, a, b, epilogue }.into()
    }

    #[test]
    fn rows_known_by_their_moments_are_normalised() {
        let made = |n: usize, by: f32| (0..n).map(|i| ((i * 37 % 101) as f32 / 50.0 - 0.7) * by).collect();
        let (x, w, v): (Vec<f32>, Vec<f32>, Vec<f32>) =
            (made(ROWS * 16, 1.0), made(16 * LEN, 3.0), made(LEN * 5, 1.0));
        // Rows and their moments.
        let epilogue = Epilogue { moments: true, ..Epilogue::store(DType::F32) };
        let (mut rows, mut moments) = (vec![0f32; ROWS * LEN], vec![0f32; ROWS * LEN / SPAN * 2]);
        let outputs = &mut [ViewMut::of(&mut rows), ViewMut::of(&mut moments)];
        run(&product(LEN, 16, epilogue), &[View::of(&x), View::of(&w)], outputs).unwrap();
        for rms in [false, true] {
            let (scale, mut norm) = (vec![1f32; LEN], vec![0f32; ROWS * LEN]);
            let (epsilon, epilogue) = (1e-5, Epilogue::store(DType::F32));
            let plain =
                LayerNorm { rms, rows: ROWS, len: LEN, epsilon, bias: false, dtype: DType::F32, epilogue };
            run(&plain.into(), &[View::of(&rows), View::of(&scale)], &mut [ViewMut::of(&mut norm)]).unwrap();
            let mut wanted = vec![0f32; ROWS * 5];
            let store = product(5, LEN, Epilogue::store(DType::F32));
            run(&store, &[View::of(&norm), View::of(&v)], &mut [ViewMut::of(&mut wanted)]).unwrap();
            // (acc - mean * sums) * rate
            let mut program = Program { inputs: vec![DType::F32; 4], ..Program::default() };
            let off = program.push(Instr::Apply(Pw::Mul, vec![1, 3]));
            let about = program.push(Instr::Apply(Pw::Sub, vec![0, off]));
            let unit = program.push(Instr::Apply(Pw::Mul, vec![about, 2]));
            program.outputs = vec![(unit, DType::F32)];
            let row = [2 * ROWS, 2, 0];
            let operands = vec![column(row, 0), column(row, 1), column([0, 0, 1], 0)];
            let known = Some(Rows { len: LEN, rms, epsilon });
            let epilogue = Epilogue { rows: known, ..Epilogue::new(program, operands) };
            let sums: Vec<f32> = (0..5).map(|j| (0..LEN).map(|k| v[k * 5 + j]).sum()).collect();
            let (problem, mut got) = (product(5, LEN, epilogue), vec![0f32; ROWS * 5]);
            let moments = View::of(&moments);
            let inputs = [View::of(&rows), View::of(&v), moments, moments, View::of(&sums)];
            run(&problem, &inputs, &mut [ViewMut::of(&mut got)]).unwrap();
            for (got, wanted) in got.iter().zip(&wanted) {
                assert!((got - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{got} {wanted}");
            }
            let short = [inputs[0], inputs[1], inputs[4], inputs[4], inputs[4]];
            let error = run(&problem, &short, &mut [ViewMut::of(&mut got)]).unwrap_err();
            assert!(error.0.contains("moments"), "{error}");
        }
    }
}
