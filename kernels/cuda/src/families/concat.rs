//! Concatenation in one launch: each thread finds the operand its row of the output comes from.

use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::families::strips::{self, Strips, mover, wrong};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::Problem;
use bakelite_host::problem::Concat;

/// One thread copies a row of `v` neighbouring elements.
#[derive(Debug)]
pub struct Copy;

/// Kernel parameters are limited to 4 KB.
const MOST_OPERANDS: usize = 400;

fn shape(p: &Concat<Dim>) -> Vec<Dim> {
    let total = p.lens.iter().fold(Dim::from(0), |sum, l| sum + l);
    vec![p.outer.clone(), total, p.inner.clone()]
}

// Every seam between operands lies between two rows.
fn fits(p: &Concat<Dim>, v: u32) -> bool {
    p.lens.iter().all(|l| strips::divides(v, &(l * &p.inner)))
        && strips::epilogue_fits(&p.epilogue, &shape(p), v)
}

/// Statements that choose the operand for column `at` of a line, halving the candidates each time.
fn choose(p: &Concat<Dim>, ends: &[Dim], from: usize, to: usize, indent: usize) -> String {
    let pad = " ".repeat(indent);
    if to - from == 1 {
        let len = codegen::size_text(&(&p.lens[from] * &p.inner));
        let start = if from == 0 { Dim::from(0) } else { ends[from - 1].clone() };
        let at = if start.is(0) { "at".to_owned() } else { format!("at - {}", codegen::size_text(&start)) };
        return format!("{pad}x = load_vec<WIDTH>(x{from} + line * {len} + {at});\n");
    }
    let middle = from.midpoint(to);
    format!(
        "{pad}if (at < {}) {{\n{}{pad}}} else {{\n{}{pad}}}\n",
        codegen::size_text(&ends[middle - 1]),
        choose(p, ends, from, middle, indent + 2),
        choose(p, ends, middle, to, indent + 2),
    )
}

impl Family for Copy {
    fn name(&self) -> &'static str {
        "concat.copy"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, _: &Symbols, _: &Target) -> Vec<Tactic> {
        match problem {
            Problem::Concat(p) if p.lens.is_empty() || p.lens.len() > MOST_OPERANDS => vec![],
            Problem::Concat(p) => Strips::propose(self, p.dtype.size(), |v| fits(p, v)),
            _ => vec![],
        }
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Concat(p) = problem else { return f64::INFINITY };
        let elements = product(&shape(p)).opt(symbols) as f64;
        let bytes = elements * (p.dtype.size() + p.epilogue.out().size()) as f64;
        strips::time(bytes, elements, p.dtype.size(), tactic, target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Concat(p) = problem else { return Err(wrong(self, problem)) };
        let operands = p.lens.len();
        if operands == 0 || operands > MOST_OPERANDS {
            return Err(format!("{operands} operands; 1 to {MOST_OPERANDS} are possible"));
        }
        let strips = Strips::of(tactic, |v| fits(p, v))?;
        let shape = shape(p);
        let total = product(&shape);
        let ends: Vec<Dim> = p
            .lens
            .iter()
            .scan(Dim::from(0), |end, l| {
                *end = &*end + &(l * &p.inner);
                Some(end.clone())
            })
            .collect();
        let ty = codegen::ctype(p.dtype);
        let params: Vec<String> = (0..operands).map(|n| format!("const {ty}* x{n}")).collect();
        let kernel = format!(
            "{} {{\n{}}}",
            codegen::entry(&format!("{} EPILOGUE_PARAMS SYMBOL_PARAMS", params.join(", "))),
            strips.each(&format!(
                "  const index_t line = i / LINE;\n  const index_t at = i % LINE;\n  Vec<{ty}, WIDTH> x;\n{}  \
                 finish<WIDTH>(EPILOGUE, x, i);\n",
                choose(p, &ends, 0, operands, 2),
            )),
        );
        let lens: Vec<String> = p.lens.iter().map(Dim::to_string).collect();
        let text = codegen::source(
            &format!(
                "[{}, {}, {}] of {} joined along the middle",
                p.outer,
                lens.join(" + "),
                p.inner,
                p.dtype
            ),
            codegen::is_wide([&total], symbols),
            &[
                &strips.constants(),
                &codegen::size("SIZE", &total),
                &codegen::size("LINE", &(&shape[1] * &p.inner)),
                &codegen::symbol_params(problem),
                &mover(&p.epilogue, &shape, p.dtype),
                &kernel,
            ],
        );
        let mut args: Vec<Arg> = (0..operands).map(Arg::Input).collect();
        args.extend(codegen::epilogue_args(&p.epilogue, operands));
        args.extend(codegen::symbol_args(problem));
        Ok(strips.build(text, &total, args, operands + p.epilogue.operands.len()))
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use bakelite_host::problem::{Access, Epilogue};
    use bakelite_host::{DType, Instr, Program, Pw};
    let dim = |text: &str| -> Dim { text.parse().unwrap_or_else(|e| panic!("{e}")) };
    let concat = |outer: &str, lens: &[&str], inner: &str, dtype| Concat {
        outer: dim(outer),
        lens: lens.iter().map(|l| dim(l)).collect(),
        inner: dim(inner),
        dtype,
        epilogue: Epilogue::store(dtype),
    };
    let mut relu = concat("batch", &["64", "96", "32"], "49", DType::F16);
    let mut program = Program { inputs: vec![DType::F32, DType::F16], ..Program::default() };
    let sum = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
    let out = program.push(Instr::Apply(Pw::Relu, vec![sum]));
    program.outputs = vec![(out, DType::F16)];
    let operands = vec![Access { offset: 0.into(), strides: vec![0.into(), 1.into(), 0.into()] }];
    relu.epilogue = Epilogue::new(program, operands);
    let many: Vec<String> = (0..70).map(|n| (n % 5 + 1).to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    vec![
        concat("1", &["24", "40"], "16", DType::F32).into(),
        concat("batch", &["24", "40", "8"], "64", DType::F16).into(),
        concat("5", &["3", "4", "7"], "3", DType::BF16).into(),
        concat("6", &["7"], "2", DType::I64).into(),
        concat("3", &["1", "1"], "1", DType::Bool).into(),
        concat("2", &many, "4", DType::U8).into(),
        concat("batch", &["seq", "16"], "12", DType::F64).into(),
        concat("1", &["seq", "seq+1"], "8", DType::F16).into(),
        relu.into(),
    ]
}
