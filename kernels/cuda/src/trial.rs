//! Trying a kernel: random operands that any problem takes, what the host kernels make of them, and how near a result must
//! come. The families' tests and the tuner judge kernels by the same measure.

use bakelite_host::problem::Math;
use bakelite_host::{DType, Instr, Problem, Program, Pw, RunError, View, ViewMut};
use rayon::prelude::*;

/// Bytes of elements, aligned for any of them.
#[derive(Clone, Debug)]
pub struct Elements {
    /// Their type.
    pub dtype: DType,
    /// Their number.
    pub len: usize,
    words: Vec<u64>,
}

impl Elements {
    /// Zeros.
    pub fn new(dtype: DType, len: usize) -> Elements {
        Elements { dtype, len, words: vec![0; (len * dtype.size()).div_ceil(8)] }
    }

    /// Random elements: floats of magnitude 0.05 to 2, integers from 1 to 5 (of either sign where there are signs).
    pub fn random(dtype: DType, len: usize, seed: u64) -> Elements {
        let mut elements = Elements::new(dtype, len);
        let size = dtype.size();
        elements.fill(seed, |random, out| {
            out.chunks_exact_mut(size).for_each(|out| random.element(dtype, out));
        });
        elements
    }

    /// Their bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len * self.dtype.size()]
    }

    /// Their bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len * self.dtype.size()]
    }

    // In pieces side by side, each with a generator of its own: the same elements on any number of cores.
    fn fill(&mut self, seed: u64, body: impl Fn(&mut Random, &mut [u8]) + Sync) {
        const PIECE: usize = 1 << 16;
        self.bytes_mut().par_chunks_mut(PIECE * 8).enumerate().for_each(|(n, piece)| {
            body(&mut Random(seed ^ (n as u64).wrapping_mul(0xd1b5_4a32_d192_ed03)), piece);
        });
    }
}

/// A small generator: reproducible, and no zeros.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f64 {
        let bits = self.next();
        let magnitude = (bits >> 40) as f64 / (1u64 << 24) as f64 * 1.95 + 0.05;
        if bits & 1 == 0 { magnitude } else { -magnitude }
    }

    fn element(&mut self, dtype: DType, out: &mut [u8]) {
        match dtype {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => store(self.float(), dtype, out),
            DType::Bool => out[0] = (self.next() & 1) as u8,
            _ => {
                let bits = self.next();
                let small = (bits >> 8) as i64 % 5 + 1;
                let small = if bits & 1 == 0 && is_signed(dtype) { -small } else { small };
                out.copy_from_slice(&small.to_ne_bytes()[..out.len()]);
            }
        }
    }
}

fn store(value: f64, dtype: DType, out: &mut [u8]) {
    match dtype {
        DType::F16 => out.copy_from_slice(&half::f16::from_f64(value).to_ne_bytes()),
        DType::BF16 => out.copy_from_slice(&half::bf16::from_f64(value).to_ne_bytes()),
        DType::F32 => out.copy_from_slice(&(value as f32).to_ne_bytes()),
        _ => out.copy_from_slice(&value.to_ne_bytes()),
    }
}

fn is_signed(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64)
}

/// Random operands for a problem; what a problem reads as indices lies inside what it indexes.
pub fn operands(problem: &Problem<usize>, seed: u64) -> Result<Vec<Elements>, RunError> {
    random_operands(problem, seed, Elements::random)
}

/// As [`operands`], with every float between 0.5 and 1.5: nothing cancels, so that a problem that amplifies rounding (a
/// quotient by a difference, say) does so less.
pub fn tame_operands(problem: &Problem<usize>, seed: u64) -> Result<Vec<Elements>, RunError> {
    random_operands(problem, seed, |dtype, len, seed| {
        let mut elements = Elements::random(dtype, len, seed);
        let size = dtype.size();
        if dtype.is_float() {
            elements.fill(seed, |random, out| {
                let each = out.chunks_exact_mut(size);
                each.for_each(|out| {
                    store(0.5 + (random.next() >> 40) as f64 / (1u64 << 24) as f64, dtype, out)
                });
            });
        }
        elements
    })
}

fn random_operands(
    problem: &Problem<usize>,
    seed: u64,
    make: impl Fn(DType, usize, u64) -> Elements,
) -> Result<Vec<Elements>, RunError> {
    let contract = problem.contract()?;
    let indexed = match problem {
        Problem::Gather(p) => p.len,
        Problem::GatherElements(p) => p.input[p.axis],
        _ => 0,
    };
    let one = |(i, operand): (usize, &bakelite_host::Operand)| {
        let seed = Random(seed.wrapping_add(i as u64)).next();
        if operand.name == "moments" {
            let mut elements = make(operand.dtype, operand.len, seed);
            // Sums of any sign; sums of squares have none.
            elements.bytes_mut().chunks_exact_mut(8).for_each(|pair| pair[7] &= 0x7f);
            return elements;
        }
        if operand.name != "indices" {
            return make(operand.dtype, operand.len, seed);
        }
        let (mut elements, size) = (Elements::new(operand.dtype, operand.len), operand.dtype.size());
        // A narrow type cannot say every index.
        let most = if size < 8 { 1usize << (size * 8 - 1) } else { usize::MAX };
        elements.fill(seed, |random, out| {
            for out in out.chunks_exact_mut(size) {
                let mut index = (random.next() % indexed.clamp(1, most) as u64) as i64;
                if is_signed(operand.dtype) && indexed <= most && random.next().is_multiple_of(4) {
                    index -= indexed as i64;
                }
                out.copy_from_slice(&index.to_ne_bytes()[..size]);
            }
        });
        elements
    };
    Ok(contract.inputs.iter().enumerate().map(one).collect())
}

/// What the host kernels make of operands.
pub fn reference(problem: &Problem<usize>, inputs: &[Elements]) -> Result<Vec<Elements>, RunError> {
    let contract = problem.contract()?;
    let outputs = contract.outputs.iter();
    let mut outputs: Vec<Elements> =
        outputs.map(|(dtype, shape)| Elements::new(*dtype, shape.iter().product())).collect();
    let views = inputs.iter().map(|e| View::new(e.dtype, e.bytes())).collect::<Result<Vec<_>, _>>()?;
    let results = outputs.iter_mut().map(|e| ViewMut::new(e.dtype, e.bytes_mut()));
    let mut results = results.collect::<Result<Vec<_>, _>>()?;
    bakelite_host::run(problem, &views, &mut results)?;
    drop(results);
    Ok(outputs)
}

/// How far a result may be from the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The relative Frobenius error of all elements but strays; `None` for integers and bools, which are compared exactly.
    pub error: Option<f64>,
    /// The share of elements that may be anything finite.
    pub strays: f64,
}

/// The tolerance that elements of `dtype` allow.
pub fn tolerance(problem: &Problem<usize>, dtype: DType) -> Tolerance {
    Tolerance { error: error_of(problem, dtype), strays: 0.0 }
}

/// As [`tolerance`], for any problem that a model may have: where its program jumps (comparisons, roundings), two right
/// kernels may land on different sides of a jump, in a few elements.
pub fn lenient_tolerance(problem: &Problem<usize>, dtype: DType) -> Tolerance {
    let program = match problem {
        Problem::Pointwise(p) => Some(&p.program),
        other => other.epilogue().map(|e| &e.program),
    };
    let strays = if program.is_some_and(jumps) { 1e-3 } else { 0.0 };
    Tolerance { strays, ..tolerance(problem, dtype) }
}

// Whether some operator of the program is not continuous in what another has computed in floating point.
fn jumps(program: &Program) -> bool {
    let floats = program.inputs.iter().any(|d| d.is_float());
    let jump = |i: &Instr| match i {
        Instr::Apply(op, _) => matches!(
            op,
            Pw::Sign
                | Pw::Floor
                | Pw::Ceil
                | Pw::Round
                | Pw::Trunc
                | Pw::Rem
                | Pw::Mod
                | Pw::Eq
                | Pw::Ne
                | Pw::Lt
                | Pw::Le
                | Pw::Gt
                | Pw::Ge
        ),
        Instr::Cast(to, _) => !to.is_float(),
        Instr::Const(_) => false,
    };
    floats && (program.code.iter().any(jump) || program.outputs.iter().any(|(_, d)| !d.is_float()))
}

fn error_of(problem: &Problem<usize>, dtype: DType) -> Option<f64> {
    let math = match problem {
        Problem::Gemm(p) => p.math,
        Problem::Conv(p) => p.math,
        _ => Math::Exact,
    };
    // Interpolation weights are f32 whatever the elements are.
    let weights = matches!(problem, Problem::Resize(_));
    // Summed one by one, the rounding of f32 grows with the root of the number of terms.
    let depth = match problem {
        Problem::Gemm(p) => p.k,
        Problem::Conv(p) => {
            let taps = p.kernel.iter().product::<usize>();
            let own = taps.saturating_mul(p.channels / p.groups.max(1));
            own.saturating_add(p.added.as_ref().map_or(0, |a| a.channels))
        }
        _ => 1,
    };
    // Moments are as good as what they are of.
    let dtype = match problem.epilogue() {
        Some(e) if e.moments && e.out() != dtype => e.out(),
        _ => dtype,
    };
    match dtype {
        DType::F64 if weights => Some(1e-6),
        DType::F64 => Some(1e-10),
        DType::F32 if math == Math::Tf32 => Some(2e-3),
        // Tensor cores cut sums off where others round them.
        DType::F32 if math == Math::Tf32x3 => Some(f64::max(1e-5, (depth as f64).sqrt() * 2f64.powi(-22))),
        DType::F32 => Some(f64::max(1e-5, (depth as f64).sqrt() * 2f64.powi(-24))),
        DType::F16 => Some(2e-3),
        DType::BF16 => Some(1e-2),
        _ => None,
    }
}

/// The relative Frobenius error of a result, or why it is wrong: an error above the tolerance, an integer or bool that
/// differs, NaN or infinity where the reference has none.
pub fn compare(want: &Elements, got: &[u8], tolerance: Tolerance) -> Result<f64, String> {
    let size = want.dtype.size();
    if got.len() != want.bytes().len() {
        return Err(format!("{} bytes where the reference has {}", got.len(), want.bytes().len()));
    }
    // One more than the share: a single element is not worth less in a small result.
    let most = if tolerance.strays > 0.0 { (tolerance.strays * want.len as f64) as usize + 1 } else { 0 };
    let Some(limit) = tolerance.error else {
        let pairs = || want.bytes().chunks_exact(size).zip(got.chunks_exact(size));
        let count = pairs().filter(|(a, b)| a != b).count();
        if count <= most {
            return Ok(0.0);
        }
        let at = pairs().position(|(a, b)| a != b).unwrap_or(0);
        let show = |b: &[u8]| format!("{:?}", &b[at * size..(at + 1) * size]);
        return Err(format!(
            "{count} of {} elements differ, the first at {at}: {} where the reference has {} (bytes)",
            want.len,
            show(got),
            show(want.bytes())
        ));
    };
    const PIECE: usize = 1 << 15;
    let pieces = want.bytes().par_chunks(PIECE * size).zip(got.par_chunks(PIECE * size)).enumerate();
    let pieces =
        pieces.map(|(n, (want_piece, got))| distance(want.dtype, want_piece, got, n * PIECE, most > 0));
    let all: Vec<Distance> = pieces.collect::<Result<_, String>>()?;
    // In order, so that the sum does not depend on the number of cores.
    let (mut error, mut norm, mut worst, mut strays) = (0.0, 0.0, (0.0, 0, 0.0, 0.0), 0);
    for d in all {
        (error, norm, strays) = (error + d.error, norm + d.norm, strays + d.strays);
        if d.worst.0 > worst.0 {
            worst = d.worst;
        }
    }
    let relative = (error / f64::max(norm, 1e-30)).sqrt();
    let (_, at, got, reference) = worst;
    if strays > most {
        return Err(format!(
            "{strays} of {} elements are far off, such as {at}: {got} where the reference has {reference}",
            want.len
        ));
    }
    if relative <= limit {
        return Ok(relative);
    }
    Err(format!(
        "error {relative:.2e} over {limit:.0e}; worst at {at} of {}: {got} where the reference has {reference}",
        want.len
    ))
}

struct Distance {
    error: f64,
    norm: f64,
    /// Elements that are far off, where these are counted apart.
    strays: usize,
    /// The largest error, where it is, and both values.
    worst: (f64, usize, f64, f64),
}

fn distance(dtype: DType, want: &[u8], got: &[u8], first: usize, apart: bool) -> Result<Distance, String> {
    let mut d = Distance { error: 0.0, norm: 0.0, strays: 0, worst: (0.0, first, 0.0, 0.0) };
    let size = dtype.size();
    for (n, (want, got)) in want.chunks_exact(size).zip(got.chunks_exact(size)).enumerate() {
        // What poison looks like is no result, though the reference be NaN too.
        if got.iter().all(|b| *b == 0xff) {
            return Err(format!("element {} was not written, or is NaN", first + n));
        }
        let (a, b) = (float(dtype, want), float(dtype, got));
        if a.is_nan() && b.is_nan() || a == b {
            d.norm += if a.is_finite() { a * a } else { 0.0 };
            continue;
        }
        if !a.is_finite() || !b.is_finite() {
            return Err(format!("element {} is {b} where the reference has {a}", first + n));
        }
        let error = a - b;
        if error.abs() > d.worst.0 {
            d.worst = (error.abs(), first + n, b, a);
        }
        if apart && error.abs() > 0.05 * a.abs().max(b.abs()) {
            d.strays += 1;
            continue;
        }
        d.error += error * error;
        d.norm += a * a;
    }
    Ok(d)
}

fn float(dtype: DType, bytes: &[u8]) -> f64 {
    match (dtype, bytes) {
        (DType::F16, [a, b]) => half::f16::from_ne_bytes([*a, *b]).to_f64(),
        (DType::BF16, [a, b]) => half::bf16::from_ne_bytes([*a, *b]).to_f64(),
        (DType::F32, [a, b, c, d]) => f32::from_ne_bytes([*a, *b, *c, *d]).into(),
        (_, all) => all.try_into().map_or(f64::NAN, f64::from_ne_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakelite_host::problem::{Access, Epilogue, Gather, Gemm, Pointwise};

    fn halves(values: &[f32]) -> Elements {
        let mut e = Elements::new(DType::F16, values.len());
        for (out, v) in e.bytes_mut().chunks_exact_mut(2).zip(values) {
            out.copy_from_slice(&half::f16::from_f32(*v).to_ne_bytes());
        }
        e
    }

    const EXACT: Tolerance = Tolerance { error: None, strays: 0.0 };

    fn within(error: f64) -> Tolerance {
        Tolerance { error: Some(error), strays: 0.0 }
    }

    #[test]
    fn near_passes_and_far_does_not() {
        let want = halves(&[1.0, 2.0, -3.0]);
        assert_eq!(compare(&want, want.bytes(), within(2e-3)), Ok(0.0));
        assert!(compare(&want, halves(&[1.0, 2.001, -3.0]).bytes(), within(2e-3)).unwrap() < 1e-3);
        let wrong = compare(&want, halves(&[1.0, 2.0, 3.0]).bytes(), within(2e-3)).unwrap_err();
        assert!(wrong.contains("worst at 2 of 3: 3 where the reference has -3"), "{wrong}");
        assert!(compare(&want, &want.bytes()[..4], within(2e-3)).is_err());
    }

    #[test]
    fn nan_infinity_and_poison_do_not_pass() {
        let want = halves(&[1.0, f32::NAN, f32::INFINITY]);
        assert!(compare(&want, want.bytes(), within(1.0)).is_ok(), "the reference's own");
        for bad in [
            [f32::NAN, f32::NAN, f32::INFINITY],
            [1.0, 1.0, f32::INFINITY],
            [1.0, f32::NAN, f32::NEG_INFINITY],
            [1.0, f32::NAN, 65504.0],
        ] {
            assert!(compare(&want, halves(&bad).bytes(), within(1.0)).is_err(), "{bad:?}");
        }
        let mut poisoned = want.bytes().to_vec();
        poisoned[2..4].fill(0xff);
        assert!(compare(&want, &poisoned, within(1.0)).unwrap_err().contains("element 1"));
    }

    #[test]
    fn integers_are_exact() {
        let mut want = Elements::new(DType::I32, 3);
        want.bytes_mut().fill(7);
        let mut got = want.bytes().to_vec();
        assert_eq!(compare(&want, &got, EXACT), Ok(0.0));
        got[8] = 8;
        assert!(compare(&want, &got, EXACT).unwrap_err().contains("1 of 3 elements differ, the first at 2"));
    }

    #[test]
    fn operands_repeat_and_indices_are_inside() {
        let gather = |index| {
            Problem::from(Gather {
                outer: 1,
                len: 300,
                inner: 2,
                count: 5000,
                dtype: DType::F32,
                index,
                epilogue: Epilogue::store(DType::F32),
            })
        };
        for index in [DType::I64, DType::I32, DType::U8] {
            let inputs = operands(&gather(index), 5).unwrap();
            // The host refuses what lies outside.
            assert!(reference(&gather(index), &inputs).is_ok(), "{index}");
            assert_eq!(inputs[0].bytes(), operands(&gather(index), 5).unwrap()[0].bytes());
            assert_ne!(inputs[0].bytes(), operands(&gather(index), 6).unwrap()[0].bytes());
        }
    }

    #[test]
    fn only_what_jumps_may_have_strays() {
        let pointwise = |code: Pw, to| {
            let mut program = Program { inputs: vec![DType::F16], ..Program::default() };
            let out = program.push(Instr::Apply(code, vec![0]));
            program.outputs = vec![(out, to)];
            let inputs = vec![Access { offset: 0, strides: vec![1] }];
            Problem::from(Pointwise { shape: vec![10000], inputs, program })
        };
        let tolerance = lenient_tolerance(&pointwise(Pw::Exp, DType::F16), DType::F16);
        assert_eq!(tolerance, within(2e-3));
        let tolerance = lenient_tolerance(&pointwise(Pw::Floor, DType::F16), DType::F16);
        assert_eq!(tolerance, Tolerance { strays: 1e-3, ..within(2e-3) });
        let want = Elements::random(DType::F16, 10000, 1);
        let mut got = want.clone();
        let negated = |got: &mut Elements, count| {
            got.bytes_mut().chunks_exact_mut(2).take(count).for_each(|e| e[1] ^= 0x80);
        };
        negated(&mut got, 11);
        assert!(compare(&want, got.bytes(), tolerance).is_ok());
        assert!(compare(&want, got.bytes(), within(2e-3)).is_err());
        got = want.clone();
        negated(&mut got, 12);
        assert!(
            compare(&want, got.bytes(), tolerance).unwrap_err().contains("12 of 10000 elements are far off")
        );
    }

    #[test]
    fn tame_operands_do_not_cancel() {
        let (dtype, epilogue) = (DType::BF16, Epilogue::store(DType::BF16));
        let (a, b, math) = ([0, 64, 1], [0, 64, 1], Math::Exact);
        let gemm = Gemm { batch: 1, m: 64, n: 64, k: 64, dtype, math, a, b, epilogue };
        for operand in tame_operands(&gemm.into(), 3).unwrap() {
            let values = operand.bytes().chunks_exact(2).map(|b| float(DType::BF16, b));
            assert!(values.clone().all(|v| (0.5..=1.5).contains(&v)));
            assert!(values.clone().any(|v| v < 0.7) && values.clone().any(|v| v > 1.3));
        }
    }

    #[test]
    fn pieces_differ() {
        let big = Elements::random(DType::F32, 1 << 18, 1);
        let (first, second) = big.bytes().split_at(1 << 19);
        assert_ne!(first, second);
    }

    #[test]
    fn depth_widens_exact_sums_only() {
        let gemm = |k, math| {
            let (dtype, epilogue) = (DType::F32, Epilogue::store(DType::F32));
            Problem::from(Gemm { batch: 1, m: 1, n: 1, k, dtype, math, a: [0, k, 1], b: [0, 1, 1], epilogue })
        };
        assert_eq!(tolerance(&gemm(64, Math::Exact), DType::F32), within(1e-5));
        let deep = tolerance(&gemm(1 << 20, Math::Exact), DType::F32).error.unwrap();
        assert!((6e-5..7e-5).contains(&deep), "{deep}");
        assert_eq!(tolerance(&gemm(1 << 20, Math::Tf32), DType::F32), within(2e-3));
        assert_eq!(tolerance(&gemm(64, Math::Exact), DType::I64), EXACT);
    }
}
