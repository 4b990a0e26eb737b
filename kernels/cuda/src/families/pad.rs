//! Padding and cropping: each output element finds the input element it shows, if any.

use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::families::strips::{self, Strips, wrong};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::Problem;
use bakelite_host::problem::{Pad, PadMode};

/// One thread writes a row of `v` neighbouring elements.
#[derive(Debug)]
pub struct Copy;

/// `inside(i, n)`: the coordinate that is read for `i`, which may lie outside `0..n`.
fn inside(mode: PadMode) -> &'static str {
    match mode {
        PadMode::Constant => {
            "// The coordinate itself, or -1 outside.\n\
             DEVICE index_t inside(index_t i, index_t n) { return i < n ? max(i, (index_t)-1) : -1; }\n"
        }
        PadMode::Edge => {
            "// The nearest coordinate inside.\n\
             DEVICE index_t inside(index_t i, index_t n) { return min(max(i, (index_t)0), n - 1); }\n"
        }
        PadMode::Wrap => {
            "// The coordinate inside that is a whole number of sizes away.\n\
             DEVICE index_t inside(index_t i, index_t n) {\n  \
             i %= n;\n  return i < 0 ? i + n : i;\n}\n"
        }
        PadMode::Reflect => {
            "// Mirrored at the first and the last coordinate, as often as it takes.\n\
             DEVICE index_t inside(index_t i, index_t n) {\n  \
             if (n == 1) return 0;\n  const index_t period = 2 * (n - 1);\n  \
             i %= period;\n  if (i < 0) i += period;\n  return min(i, period - i);\n}\n"
        }
    }
}

/// The problem with neighbouring dimensions that are only copied joined into one.
fn joined(p: &Pad<Dim>) -> Pad<Dim> {
    let mut out = Pad { mode: p.mode, input: vec![], output: vec![], begin: vec![], dtype: p.dtype };
    let mut last_copied = false;
    for ((input, output), begin) in p.input.iter().zip(&p.output).zip(&p.begin) {
        let copied = *begin == 0 && input == output;
        match (out.input.last_mut(), out.output.last_mut()) {
            (Some(i), Some(o)) if copied && last_copied => {
                *i = &*i * input;
                *o = &*o * output;
            }
            _ => {
                out.input.push(input.clone());
                out.output.push(output.clone());
                out.begin.push(*begin);
            }
        }
        last_copied = copied;
    }
    out
}

fn copied(p: &Pad<Dim>, d: usize) -> bool {
    p.begin[d] == 0 && p.input[d] == p.output[d]
}

fn fits(p: &Pad<Dim>, v: u32) -> bool {
    joined(p).output.last().map_or(v == 1, |inner| strips::divides(v, inner))
}

fn valid(p: &Pad<Dim>) -> bool {
    p.input.len() == p.output.len() && p.input.len() == p.begin.len()
}

impl Family for Copy {
    fn name(&self) -> &'static str {
        "pad.copy"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, _: &Symbols, _: &Target) -> Vec<Tactic> {
        match problem {
            Problem::Pad(p) if valid(p) => Strips::propose(self, p.dtype.size(), |v| fits(p, v)),
            _ => vec![],
        }
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Pad(p) = problem else { return f64::INFINITY };
        let (read, written) = (product(&p.input).opt(symbols), product(&p.output).opt(symbols));
        let bytes = (written + read.min(written)) as f64 * p.dtype.size() as f64;
        strips::time(bytes, written as f64, p.dtype.size(), tactic, target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Pad(original) = problem else { return Err(wrong(self, problem)) };
        if !valid(original) {
            return Err("the ranks of input, output and begin differ".into());
        }
        let strips = Strips::of(tactic, |v| fits(original, v))?;
        let p = joined(original);
        let total = product(&p.output);
        let ty = codegen::ctype(p.dtype);
        let constant = p.mode == PadMode::Constant;
        let strides = codegen::dense(&p.input);
        let rank = p.input.len();

        // Everything but the last dimension is the same for the whole row.
        let mut text = strips::coordinates(&p.output, |_| true);
        let mut base = Vec::new();
        let mut outside = Vec::new();
        for (d, stride) in strides.iter().enumerate().take(rank.saturating_sub(1)) {
            if copied(&p, d) {
                base.extend(strips::term(&format!("c{d}"), stride));
                continue;
            }
            text += &format!(
                "  const index_t s{d} = inside(c{d} - ({}), {});\n",
                p.begin[d],
                codegen::size_text(&p.input[d])
            );
            outside.push(format!("s{d} < 0"));
            base.extend(strips::term(&format!("s{d}"), stride));
        }
        let base = if base.is_empty() { "0".to_owned() } else { base.join(" + ") };
        let otherwise = |condition: &[String], value: &str, alone: &str| match (constant, condition) {
            (true, [_, ..]) => format!("{} ? {alone} : {value}", condition.join(" || ")),
            _ => value.to_owned(),
        };
        text += &format!("  const {ty}* from = x + {base};\n  Vec<{ty}, WIDTH> result;\n");
        match rank.checked_sub(1) {
            Some(last) if copied(&p, last) => {
                let align = codegen::power_of_two(&strides[..last], 16);
                let load = format!("result = load_row<WIDTH, {align}>(from + c{last});\n");
                if constant && !outside.is_empty() {
                    text += &format!(
                        "  if ({}) {{\n#pragma unroll\n    for (int j = 0; j < WIDTH; ++j) result.v[j] = value;\n  }} else {{\n    {load}  }}\n",
                        outside.join(" || ")
                    );
                } else {
                    text += &format!("  {load}");
                }
            }
            Some(last) => {
                outside.push("at < 0".to_owned());
                text += &format!(
                    "#pragma unroll\n  for (int j = 0; j < WIDTH; ++j) {{\n    \
                     const index_t at = inside(c{last} + j - ({}), {});\n    result.v[j] = {};\n  }}\n",
                    p.begin[last],
                    codegen::size_text(&p.input[last]),
                    otherwise(&outside, "from[at]", "value"),
                );
            }
            None => text += "  result.v[0] = *from;\n",
        }
        let value = if constant { format!(", const {ty}* outside") } else { String::new() };
        let read = if constant { format!("  const {ty} value = *outside;\n") } else { String::new() };
        let kernel = format!(
            "{} {{\n{}}}",
            codegen::entry(&format!("const {ty}* x{value}, {ty}* out SYMBOL_PARAMS")),
            strips.each(&format!("{read}{text}  store_vec<WIDTH>(out + i, result);\n")),
        );
        let text = codegen::source(
            &format!(
                "{:?} of {} padded from {:?} to {:?}, beginning at {:?}",
                p.mode, p.dtype, original.input, original.output, original.begin
            ),
            codegen::is_wide([&total, &product(&p.input)], symbols),
            &[
                &strips.constants(),
                &codegen::size("SIZE", &total),
                &codegen::symbol_params(problem),
                inside(p.mode),
                &kernel,
            ],
        );
        let operands = 1 + usize::from(constant);
        let mut args: Vec<Arg> = (0..operands).map(Arg::Input).collect();
        args.push(Arg::Output(0));
        args.extend(codegen::symbol_args(problem));
        Ok(strips.build(text, &total, args, operands))
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use bakelite_host::DType;
    let dims = |text: &str| -> Vec<Dim> {
        text.split_whitespace().map(|t| t.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    };
    let mut out = Vec::new();
    for (mode, dtype) in [
        (PadMode::Constant, DType::F32),
        (PadMode::Reflect, DType::F16),
        (PadMode::Edge, DType::BF16),
        (PadMode::Wrap, DType::I32),
    ] {
        let mut add = |input: &str, output: &str, begin: &[i64]| {
            let (input, output) = (dims(input), dims(output));
            out.push(Pad { mode, input, output, begin: begin.to_vec(), dtype }.into());
        };
        // Images both ways round, a crop on one side, more padding than there is, a line, no dimension at all.
        add("batch 3 14 12", "batch 3 16 16", &[0, 0, 1, 2]);
        add("batch 14 12 24", "batch 17 16 24", &[0, 1, 2, 0]);
        add("4 9 10", "4 6 13", &[0, -2, 1]);
        add("3 4", "12 21", &[5, 9]);
        add("seq", "seq+3", &[2]);
        add("", "", &[]);
        add("1 6", "3 8", &[1, -1]);
    }
    out
}
