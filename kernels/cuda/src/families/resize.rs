//! Resampling: each output element is a weighted sum over the few input elements around the point it maps back to.

use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::families::strips::{self, Strips, wrong};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Coordinates, Interpolation, Resize};
use bakelite_host::{Problem, Scalar};
use std::fmt::Write;

const TAPS: &str = include_str!("../../cuda/resize.cuh");

/// One thread computes a row of `v` neighbouring elements.
#[derive(Debug)]
pub struct Gather;

/// The dimensions, those that are only copied joined with such neighbours.
struct Joined {
    input: Vec<Dim>,
    output: Vec<Dim>,
    /// `None` where the dimension is copied.
    scales: Vec<Option<f32>>,
}

fn joined(p: &Resize<Dim>) -> Joined {
    let mut out = Joined { input: vec![], output: vec![], scales: vec![] };
    for ((input, output), scale) in p.input.iter().zip(&p.output).zip(&p.scales) {
        let scale = (input != output || *scale != 1.0).then_some(*scale);
        match (out.input.last_mut(), out.output.last_mut()) {
            (Some(i), Some(o)) if scale.is_none() && out.scales.last() == Some(&None) => {
                *i = &*i * input;
                *o = &*o * output;
            }
            _ => {
                out.input.push(input.clone());
                out.output.push(output.clone());
                out.scales.push(scale);
            }
        }
    }
    out
}

const fn taps(interpolation: Interpolation) -> u32 {
    match interpolation {
        Interpolation::Linear => 2,
        Interpolation::Cubic { .. } => 4,
        _ => 1,
    }
}

fn fits(p: &Resize<Dim>, v: u32) -> bool {
    joined(p).output.last().map_or(v == 1, |inner| strips::divides(v, inner))
        && strips::epilogue_fits(&p.epilogue, &p.output, v)
}

fn valid(p: &Resize<Dim>) -> bool {
    p.dtype.is_float()
        && p.input.len() == p.output.len()
        && p.input.len() == p.scales.len()
        && p.scales.iter().all(|s| *s > 0.0 && s.is_finite())
}

/// `origin(o, scale, input, output)`: the input coordinate of output `o`.
fn origin(coordinates: Coordinates) -> &'static str {
    match coordinates {
        Coordinates::HalfPixel => "(o + 0.5f) / scale - 0.5f",
        Coordinates::PytorchHalfPixel => "output > 1 ? (o + 0.5f) / scale - 0.5f : 0.0f",
        Coordinates::AlignCorners => "output > 1 ? o * (input - 1.0f) / (output - 1.0f) : 0.0f",
        Coordinates::Asymmetric => "o / scale",
    }
}

/// The body of `taps(at, n)`, which chooses elements around `at` and their weights.
fn choose(interpolation: Interpolation) -> String {
    match interpolation {
        Interpolation::NearestPreferFloor => "  return {{clamped(ceilf(at - 0.5f), n)}, {1.0f}};\n".into(),
        Interpolation::NearestPreferCeil => "  return {{clamped(floorf(at + 0.5f), n)}, {1.0f}};\n".into(),
        Interpolation::NearestFloor => "  return {{clamped(floorf(at), n)}, {1.0f}};\n".into(),
        Interpolation::NearestCeil => "  return {{clamped(ceilf(at), n)}, {1.0f}};\n".into(),
        Interpolation::Linear => "  const float below = floorf(at);\n  const float t = at - below;\n  \
             const index_t low = clamped(below, n), high = clamped(below + 1, n);\n  \
             const bool one = low == high || t == 0;\n  \
             return {{low, high}, {one ? 1.0f : 1 - t, one ? 0.0f : t}};\n"
            .into(),
        Interpolation::Cubic { a } => format!(
            "  // Keys' kernel: one piece up to distance 1, the other up to 2.\n  \
             const float a = {};\n  const float below = floorf(at);\n  const float t = at - below, u = 1 - t;\n  \
             const float t1 = 1 + t, u1 = 1 + u;\n  \
             return {{{{clamped(below - 1, n), clamped(below, n), clamped(below + 1, n), clamped(below + 2, n)}},\n          \
             {{((a * t1 - 5 * a) * t1 + 8 * a) * t1 - 4 * a, ((a + 2) * t - (a + 3)) * t * t + 1,\n           \
             ((a + 2) * u - (a + 3)) * u * u + 1, ((a * u1 - 5 * a) * u1 + 8 * a) * u1 - 4 * a}}}};\n",
            codegen::literal(Scalar::F32(a))
        ),
    }
}

impl Family for Gather {
    fn name(&self) -> &'static str {
        "resize.gather"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, _: &Symbols, _: &Target) -> Vec<Tactic> {
        match problem {
            Problem::Resize(p) if valid(p) => Strips::propose(self, p.dtype.size(), |v| fits(p, v)),
            _ => vec![],
        }
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Resize(p) = problem else { return f64::INFINITY };
        let (read, written) = (product(&p.input).opt(symbols) as f64, product(&p.output).opt(symbols) as f64);
        let bytes = read * p.dtype.size() as f64 + written * p.epilogue.out().size() as f64;
        let resized = joined(p).scales.iter().filter(|s| s.is_some()).count() as i32;
        // Some ten instructions for every tap: address, load, conversion, product.
        let arithmetic = written * 10.0 * f64::from(taps(p.interpolation)).powi(resized)
            / (target.simt_tflops * 1e6 / 2.0);
        arithmetic + strips::time(bytes, written, p.dtype.size(), tactic, target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Resize(p) = problem else { return Err(wrong(self, problem)) };
        if !valid(p) {
            return Err(format!("{} from {:?} to {:?} by {:?}", p.dtype, p.input, p.output, p.scales));
        }
        let strips = Strips::of(tactic, |v| fits(p, v))?;
        let j = joined(p);
        let total = product(&p.output);
        let ty = codegen::ctype(p.dtype);
        let text = codegen::source(
            &format!(
                "{} from {:?} to {:?}: {:?}, coordinates {:?}",
                p.dtype, p.input, p.output, p.interpolation, p.coordinates
            ),
            codegen::is_wide([&total, &product(&p.input)], symbols),
            &[
                &strips.constants(),
                &codegen::constants(&[("TAPS", taps(p.interpolation))]),
                &codegen::size("SIZE", &total),
                &codegen::symbol_params(problem),
                &codegen::epilogue(&p.epilogue, &p.output),
                &TAPS
                    .replace("ORIGIN", origin(p.coordinates))
                    .replace("  CHOOSE\n", &choose(p.interpolation)),
                &format!(
                    "{} {{\n{}}}",
                    codegen::entry(&format!("const {ty}* x EPILOGUE_PARAMS SYMBOL_PARAMS")),
                    strips.each(&format!(
                        "{}  EPILOGUE.store<WIDTH>(acc, i);\n",
                        body(&j, taps(p.interpolation))
                    )),
                ),
            ],
        );
        let mut args = vec![Arg::Input(0)];
        args.extend(codegen::epilogue_args(&p.epilogue, 1));
        args.extend(codegen::symbol_args(problem));
        Ok(strips.build(text, &total, args, 1 + p.epilogue.operands.len()))
    }
}

/// Statements that fill `acc[WIDTH]`: one loop over the taps of each resized dimension, the last one inside the row.
fn body(j: &Joined, taps: u32) -> String {
    let strides = codegen::dense(&j.input);
    let last = j.input.len().checked_sub(1);
    let last_resized = last.is_some_and(|d| j.scales[d].is_some());
    let mut text = strips::coordinates(&j.output, |_| true);
    let mut base = Vec::new();
    let mut loops = Vec::new();
    for (d, scale) in j.scales.iter().enumerate() {
        match scale {
            None => base.extend(strips::term(&format!("c{d}"), &strides[d])),
            Some(_) if Some(d) == last => {}
            Some(scale) => {
                text +=
                    &format!("  const Taps taps{d} = taps_of({});\n", sizes(j, d, &format!("c{d}"), *scale));
                loops.push(d);
            }
        }
    }
    if let (true, Some(d)) = (last_resized, last) {
        let scale = j.scales[d].unwrap_or(1.0);
        let of = sizes(j, d, &format!("c{d} + j"), scale);
        let _ = write!(
            text,
            "  Taps columns[WIDTH];\n#pragma unroll\n  for (int j = 0; j < WIDTH; ++j) columns[j] = taps_of({of});\n"
        );
    }
    text += "  acc_t acc[WIDTH] = {};\n";
    let mut at = if base.is_empty() { "x".to_owned() } else { format!("x + {}", base.join(" + ")) };
    let mut weight = String::new();
    let mut pad = "  ".to_owned();
    // Everything unrolled, unless that would be hundreds of loads.
    let depth = loops.len() + usize::from(last_resized);
    let unroll = if taps.pow(depth as u32) <= 64 { "#pragma unroll\n" } else { "#pragma unroll 1\n" };
    for d in &loops {
        let _ = writeln!(text, "{unroll}{pad}for (int t{d} = 0; t{d} < TAPS; ++t{d}) {{");
        pad += "  ";
        let step = strips::term(&format!("taps{d}.at[t{d}]"), &strides[*d]).unwrap_or_else(|| "0".into());
        let _ = writeln!(text, "{pad}const auto* from{d} = {at} + {step};");
        let product = if weight.is_empty() { String::new() } else { format!("{weight} * ") };
        let _ = writeln!(text, "{pad}const acc_t weight{d} = {product}taps{d}.weight[t{d}];");
        (at, weight) = (format!("from{d}"), format!("weight{d}"));
    }
    if last_resized {
        let product = if weight.is_empty() { String::new() } else { format!("{weight} * ") };
        let _ = write!(
            text,
            "{pad}const auto* from = {at};\n\
#pragma unroll\n{pad}for (int j = 0; j < WIDTH; ++j)\n\
{unroll}{pad}  for (int t = 0; t < TAPS; ++t)\n{pad}    \
             add(acc[j], {product}columns[j].weight[t], widen(from[columns[j].at[t]]));\n"
        );
    } else {
        let align = codegen::power_of_two(strides.iter().take(last.unwrap_or(0)), 16);
        let weight = if weight.is_empty() { "1".to_owned() } else { weight };
        let _ = write!(
            text,
            "{pad}const auto row = load_row<WIDTH, {align}>({at});\n\
#pragma unroll\n{pad}for (int j = 0; j < WIDTH; ++j) add(acc[j], {weight}, widen(row.v[j]));\n"
        );
    }
    for depth in (0..loops.len()).rev() {
        let _ = writeln!(text, "{}}}", "  ".repeat(depth + 1));
    }
    text
}

fn sizes(j: &Joined, d: usize, at: &str, scale: f32) -> String {
    let scale = codegen::literal(Scalar::F32(scale));
    format!("{at}, {scale}, {}, {}", codegen::size_text(&j.input[d]), codegen::size_text(&j.output[d]))
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use bakelite_host::problem::{Access, Epilogue};
    use bakelite_host::{DType, Program, Pw};
    let dims = |text: &str| -> Vec<Dim> {
        text.split_whitespace().map(|t| t.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    };
    let mut out: Vec<Problem<Dim>> = Vec::new();
    let mut add = |input: &str, output: &str, scales: &[f32], coordinates, interpolation, dtype| {
        let (input, output) = (dims(input), dims(output));
        let epilogue = Epilogue::store(dtype);
        out.push(
            Resize { input, output, scales: scales.to_vec(), coordinates, interpolation, dtype, epilogue }
                .into(),
        );
    };
    let all = [
        Interpolation::NearestPreferFloor,
        Interpolation::NearestPreferCeil,
        Interpolation::NearestFloor,
        Interpolation::NearestCeil,
        Interpolation::Linear,
        Interpolation::Cubic { a: -0.75 },
    ];
    let coordinates = [
        Coordinates::HalfPixel,
        Coordinates::PytorchHalfPixel,
        Coordinates::AlignCorners,
        Coordinates::Asymmetric,
    ];
    for (n, interpolation) in all.into_iter().enumerate() {
        for (m, c) in coordinates.into_iter().enumerate() {
            let dtype = [DType::F32, DType::F16, DType::BF16, DType::F64][(n + m) % 4];
            // Up by different factors, channels first; down and up, channels last.
            if (n + m) % 2 == 0 {
                add("2 3 7 6", "2 3 14 20", &[1.0, 1.0, 2.0, 20.0 / 6.0], c, interpolation, dtype);
            } else {
                add("2 9 5 16", "2 6 12 16", &[1.0, 6.0 / 9.0, 2.4, 1.0], c, interpolation, dtype);
            }
        }
    }
    let (half, linear) = (Coordinates::HalfPixel, Interpolation::Linear);
    add("batch 4 8 8", "batch 4 16 16", &[1.0, 1.0, 2.0, 2.0], half, linear, DType::F16);
    add("batch seq 8", "batch 2*seq 8", &[1.0, 2.0, 1.0], half, linear, DType::F32);
    add("1 2 4 5 6", "1 2 6 7 9", &[1.0, 1.0, 1.5, 1.4, 1.5], half, linear, DType::F32);
    add("9", "1", &[0.12], Coordinates::PytorchHalfPixel, linear, DType::F32);
    add("3 4 5 4", "5 6 5 9", &[1.7, 1.5, 1.0, 2.25], half, Interpolation::Cubic { a: -0.5 }, DType::F32);
    let program = Program::single(Pw::Add, &[DType::F32, DType::F16], DType::F16);
    let full = Access { offset: 0.into(), strides: dims("2048 256 16 1") };
    out.push(
        Resize {
            input: dims("batch 8 8 8"),
            output: dims("batch 8 16 16"),
            scales: vec![1.0, 1.0, 2.0, 2.0],
            coordinates: Coordinates::Asymmetric,
            interpolation: Interpolation::NearestFloor,
            dtype: DType::F16,
            epilogue: Epilogue::new(program, vec![full]),
        }
        .into(),
    );
    out
}
