//! Gathering lines by index, embedding look-ups among them. An index that is out of range reads as zero.

use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::families::strips::{self, Strips, mover, wrong};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::Gather;
use bakelite_host::{DType, Problem};

/// One thread copies a row of `v` neighbouring elements.
#[derive(Debug)]
pub struct Copy;

/// `position(index, n)`, which `gather` and `gather_elements` share.
pub(crate) const POSITION: &str = "\
// An index as a position in 0 to n - 1, or -1 if it is out of range; a negative one counts from the end.
template <class T> DEVICE long long position(T index, long long n) {
  const bool is_signed = T(-1) < T(0);
  const long long from_start = is_signed && index < T(0) ? (long long)index + n : (long long)index;
  return from_start >= 0 && from_start < n ? from_start : -1;
}
";

fn shape(p: &Gather<Dim>) -> Vec<Dim> {
    vec![p.outer.clone(), p.count.clone(), p.inner.clone()]
}

// A row lies within one gathered line, or, where lines are single elements, covers several of them.
fn fits(p: &Gather<Dim>, v: u32) -> bool {
    let line = if p.inner.is(1) { &p.count } else { &p.inner };
    strips::divides(v, line) && strips::epilogue_fits(&p.epilogue, &shape(p), v)
}

impl Family for Copy {
    fn name(&self) -> &'static str {
        "gather.copy"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, _: &Symbols, _: &Target) -> Vec<Tactic> {
        match problem {
            Problem::Gather(p) if p.index.is_int() => Strips::propose(self, p.dtype.size(), |v| fits(p, v)),
            _ => vec![],
        }
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Gather(p) = problem else { return f64::INFINITY };
        let elements = product(&shape(p)).opt(symbols) as f64;
        // A single element costs a sector.
        let read = if p.inner.is(1) { 32.0 } else { p.dtype.size() as f64 };
        let indices = p.count.opt(symbols) as f64 * p.index.size() as f64;
        let bytes = elements * (read + p.epilogue.out().size() as f64) + indices;
        // Two dependent reads: the index, then what it points to.
        0.5 + strips::time(bytes, elements, p.dtype.size(), tactic, target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Gather(p) = problem else { return Err(wrong(self, problem)) };
        if !p.index.is_int() {
            return Err(format!("indices are integers, not {}", p.index));
        }
        let strips = Strips::of(tactic, |v| fits(p, v))?;
        let shape = shape(p);
        let total = product(&shape);
        let source = &(&p.outer * &p.len) * &p.inner;
        let ty = codegen::ctype(p.dtype);
        let body = if p.inner.is(1) {
            format!(
                "  const {ty}* from = x + i / COUNT * LEN;\n  \
                 const auto index = load_vec<WIDTH>(indices + i % COUNT);\n  \
                 Vec<{ty}, WIDTH> row = {{}};\n\
#pragma unroll\n  \
                 for (int j = 0; j < WIDTH; ++j) {{\n    \
                 const long long at = position(index.v[j], LEN);\n    \
                 if (at >= 0) row.v[j] = from[at];\n  }}\n"
            )
        } else {
            format!(
                "  const index_t line = i / INNER;\n  \
                 const long long at = position(indices[line % COUNT], LEN);\n  \
                 Vec<{ty}, WIDTH> row = {{}};\n  \
                 if (at >= 0) row = load_vec<WIDTH>(x + (line / COUNT * LEN + (index_t)at) * INNER + i % INNER);\n"
            )
        };
        let kernel = format!(
            "{} {{\n{}}}",
            codegen::entry(&format!(
                "const {ty}* x, const {}* indices EPILOGUE_PARAMS SYMBOL_PARAMS",
                codegen::ctype(p.index)
            )),
            strips.each(&format!("{body}  finish<WIDTH>(EPILOGUE, row, i);\n")),
        );
        let text = codegen::source(
            &format!(
                "lines of [{}, {}, {}] of {} picked by {} indices of {}",
                p.outer, p.len, p.inner, p.dtype, p.count, p.index
            ),
            codegen::is_wide([&total, &source], symbols),
            &[
                &strips.constants(),
                &codegen::size("SIZE", &total),
                &codegen::size("LEN", &p.len),
                &codegen::size("COUNT", &p.count),
                &codegen::size("INNER", &p.inner),
                &codegen::symbol_params(problem),
                POSITION,
                &mover(&p.epilogue, &shape, p.dtype),
                &kernel,
            ],
        );
        let mut args = vec![Arg::Input(0), Arg::Input(1)];
        args.extend(codegen::epilogue_args(&p.epilogue, 2));
        args.extend(codegen::symbol_args(problem));
        Ok(strips.build(text, &total, args, 2 + p.epilogue.operands.len()))
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use bakelite_host::problem::{Access, Epilogue};
    use bakelite_host::{Program, Pw};
    let dim = |text: &str| -> Dim { text.parse().unwrap_or_else(|e| panic!("{e}")) };
    let gather = |sizes: [&str; 4], dtype, index| Gather {
        outer: dim(sizes[0]),
        len: dim(sizes[1]),
        inner: dim(sizes[2]),
        count: dim(sizes[3]),
        dtype,
        index,
        epilogue: Epilogue::store(dtype),
    };
    let mut embedding = gather(["1", "1000", "96", "batch*seq"], DType::F16, DType::I64);
    let program = Program::single(Pw::Add, &[DType::F32, DType::F16], DType::F32);
    let operands = vec![Access { offset: 0.into(), strides: vec![0.into(), 0.into(), 1.into()] }];
    embedding.epilogue = Epilogue::new(program, operands);
    vec![
        embedding.into(),
        gather(["1", "500", "64", "batch*seq"], DType::F32, DType::I64).into(),
        gather(["1", "500", "48", "seq"], DType::BF16, DType::I32).into(),
        gather(["3", "17", "5", "11"], DType::F64, DType::I32).into(),
        gather(["4", "30", "1", "24"], DType::F32, DType::I64).into(),
        gather(["4", "30", "1", "7"], DType::U8, DType::U8).into(),
        gather(["batch", "50", "1", "1"], DType::I64, DType::I64).into(),
        gather(["2", "3*seq", "8", "seq"], DType::Bool, DType::U64).into(),
    ]
}
