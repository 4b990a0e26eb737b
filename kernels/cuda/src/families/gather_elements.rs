//! Gathering single elements by index. An index that is out of range reads as zero.

use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::families::gather::POSITION;
use crate::families::strips::{self, Strips, wrong};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Access, GatherElements};
use bakelite_host::{DType, Problem};

/// One thread gathers a row of `v` neighbouring elements.
#[derive(Debug)]
pub struct Copy;

/// Where element 0 along the axis lies, over the output's shape with dimensions joined.
fn base(p: &GatherElements<Dim>) -> (Vec<Dim>, Access<Dim>) {
    let mut strides = codegen::dense(&p.input);
    strides[p.axis] = 0.into();
    let (shape, accesses) = codegen::collapse(&p.output, &[&Access { offset: 0.into(), strides }]);
    let access = accesses.into_iter().next().unwrap_or(Access { offset: 0.into(), strides: vec![] });
    (shape, access)
}

fn fits(p: &GatherElements<Dim>, v: u32) -> bool {
    base(p).0.last().map_or(v == 1, |inner| strips::divides(v, inner))
}

fn valid(p: &GatherElements<Dim>) -> bool {
    p.input.len() == p.output.len() && p.axis < p.input.len() && p.index.is_int()
}

impl Family for Copy {
    fn name(&self) -> &'static str {
        "gather_elements.copy"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, _: &Symbols, _: &Target) -> Vec<Tactic> {
        match problem {
            Problem::GatherElements(p) if valid(p) => {
                Strips::propose(self, p.dtype.size().max(p.index.size()), |v| fits(p, v))
            }
            _ => vec![],
        }
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::GatherElements(p) = problem else { return f64::INFINITY };
        let elements = product(&p.output).opt(symbols) as f64;
        let read = product(&p.input).opt(symbols) as f64;
        // Elements come in sectors, unless so many are read that they share them.
        let source = (elements * 32.0).min(read * p.dtype.size() as f64);
        let bytes = elements * (p.index.size() + p.dtype.size()) as f64 + source;
        0.5 + strips::time(bytes, elements, p.dtype.size(), tactic, target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::GatherElements(p) = problem else { return Err(wrong(self, problem)) };
        if !valid(p) {
            return Err(format!("axis {} of {:?}, indices {} of {:?}", p.axis, p.input, p.index, p.output));
        }
        let strips = Strips::of(tactic, |v| fits(p, v))?;
        let total = product(&p.output);
        let (shape, access) = base(p);
        let (ty, index) = (codegen::ctype(p.dtype), codegen::ctype(p.index));
        let terms: Vec<String> = access
            .strides
            .iter()
            .enumerate()
            .filter_map(|(d, s)| strips::term(&format!("c{d}"), s))
            .collect();
        let from = if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") };
        let along = &codegen::dense(&p.input)[p.axis];
        // Along the axis itself the row's elements differ by their index alone.
        let step = access.strides.last().and_then(|s| strips::term("j", s));
        let at: Vec<String> = step.into_iter().chain(strips::term("(index_t)at", along)).collect();
        let body = format!(
            "{}  const {ty}* from = x + {from};\n  \
             const auto index = load_vec<WIDTH>(indices + i);\n  \
             Vec<{ty}, WIDTH> result = {{}};\n\
#pragma unroll\n  \
             for (int j = 0; j < WIDTH; ++j) {{\n    \
             const long long at = position(index.v[j], LEN);\n    \
             if (at >= 0) result.v[j] = from[{}];\n  }}\n  \
             store_vec<WIDTH>(out + i, result);\n",
            strips::coordinates(&shape, |d| !access.strides[d].is(0)),
            at.join(" + "),
        );
        let kernel = format!(
            "{} {{\n{}}}",
            codegen::entry(&format!("const {ty}* x, const {index}* indices, {ty}* out SYMBOL_PARAMS")),
            strips.each(&body),
        );
        let text = codegen::source(
            &format!(
                "elements of {:?} of {} picked along dimension {} by indices {:?} of {}",
                p.input, p.dtype, p.axis, p.output, p.index
            ),
            codegen::is_wide([&total, &product(&p.input)], symbols),
            &[
                &strips.constants(),
                &codegen::size("SIZE", &total),
                &codegen::size("LEN", &p.input[p.axis]),
                &codegen::symbol_params(problem),
                POSITION,
                &kernel,
            ],
        );
        let mut args = vec![Arg::Input(0), Arg::Input(1), Arg::Output(0)];
        args.extend(codegen::symbol_args(problem));
        Ok(strips.build(text, &total, args, 2))
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    let dims = |text: &str| -> Vec<Dim> {
        text.split_whitespace().map(|t| t.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    };
    let gather = |axis, input: &str, output: &str, dtype, index| {
        Problem::from(GatherElements { axis, input: dims(input), output: dims(output), dtype, index })
    };
    vec![
        gather(0, "9 12 8", "5 12 8", DType::F32, DType::I64),
        gather(1, "4 20 8", "4 33 8", DType::F16, DType::I32),
        gather(2, "batch 6 40", "batch 6 12", DType::BF16, DType::I64),
        gather(1, "5 9 7", "3 4 6", DType::F64, DType::I32),
        gather(0, "seq", "2*seq", DType::I64, DType::I64),
        gather(1, "batch seq", "batch 5", DType::U8, DType::U16),
    ]
}
