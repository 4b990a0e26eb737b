//! Pointwise programs: `linear` walks the dense output, `transpose` goes through shared memory where an operand is
//! contiguous along another dimension than the output. Their text is generated whole: there is no `.cuh`.

use crate::codegen::{self, Record, Source};
use crate::dim::{Dim, Symbols, product};
use crate::families::strips::{self, LAUNCH, Strips, one_launch, wrong};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Access, Pointwise};
use bakelite_host::{DType, Problem};

/// One thread computes a row of `v` neighbouring elements.
#[derive(Debug)]
pub struct Linear;

/// One block computes a tile of `tile` × `tile` elements, having read the transposed operands through shared memory.
#[derive(Debug)]
pub struct Transpose;

impl Family for Linear {
    fn name(&self) -> &'static str {
        "pointwise.linear"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, _: &Symbols, _: &Target) -> Vec<Tactic> {
        let Problem::Pointwise(p) = problem else { return vec![] };
        Strips::propose(self, smallest(p), |v| fits(p, v))
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Pointwise(p) = problem else { return f64::INFINITY };
        let mut bytes = 0.0;
        let size = product(&p.shape).opt(symbols) as f64;
        for (access, dtype) in p.inputs.iter().zip(&p.program.inputs) {
            let (_, collapsed) = codegen::collapse(&p.shape, &[access]);
            let one = dtype.size() as f64;
            // A strided read moves a sector of 32 bytes for each element.
            let strided = collapsed[0].strides.last().is_some_and(|s| !s.is(1) && !s.is(0));
            bytes += if strided { size * one.max(16.0) } else { reads(access, &p.shape, symbols) * one };
        }
        bytes += p.program.outputs.iter().map(|(_, d)| size * d.size() as f64).sum::<f64>();
        strips::time(bytes, size, smallest(p), tactic, target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Pointwise(p) = problem else { return Err(wrong(self, problem)) };
        let strips = Strips::of(tactic, |v| fits(p, v))?;
        let sources: Vec<Source<'_>> =
            p.inputs.iter().enumerate().map(|(n, a)| Source::Memory(format!("in{n}"), a)).collect();
        let (record, value) = record(p, &sources, "")?;
        let total = product(&p.shape);
        // One dimension may have a tail; where there are more, v divides the innermost.
        let whole = strips::divides(strips.v, &total);
        let body = if whole {
            "  pointwise.compute<WIDTH>(i);\n"
        } else {
            "  if (i + WIDTH <= SIZE) {\n    pointwise.compute<WIDTH>(i);\n  } else {\n    \
             for (index_t tail = i; tail < SIZE; ++tail) pointwise.compute<1>(tail);\n  }\n"
        };
        let kernel = format!(
            "{} {{\n  const Pointwise pointwise = {value};\n{}}}",
            codegen::entry(&format!("{} SYMBOL_PARAMS", params(p))),
            strips.each(body),
        );
        let text = codegen::source(
            &p.program.to_string(),
            wide(p, symbols),
            &[
                &strips.constants(),
                &codegen::size("SIZE", &total),
                &codegen::symbol_params(problem),
                &record,
                &kernel,
            ],
        );
        Ok(strips.build(text, &total, args(p, problem), p.inputs.len()))
    }
}

/// Whether rows of `v` elements work: no row may straddle the innermost dimension, unless there is no other.
fn fits(p: &Pointwise<Dim>, v: u32) -> bool {
    let (sizes, collapsed) = codegen::collapse(&p.shape, &p.inputs.iter().collect::<Vec<_>>());
    // Eight doubles, or their like, are as much as the registers should hold.
    if v != 1 && v as usize * largest(p) > 64 {
        return false;
    }
    match &sizes[..] {
        [] => v == 1,
        // A row that is loaded element by element gains nothing from being long.
        [_] => collapsed
            .iter()
            .all(|a| a.strides[0].is(0) || codegen::power_of_two([&a.offset], v) == v || v == 1),
        [.., inner] => strips::divides(v, inner),
    }
}

/// Bytes of the widest element.
fn largest(p: &Pointwise<Dim>) -> usize {
    let outputs = p.program.outputs.iter().map(|(_, d)| *d);
    p.program.inputs.iter().copied().chain(outputs).map(DType::size).max().unwrap_or(1)
}

/// Bytes of the narrowest element.
fn smallest(p: &Pointwise<Dim>) -> usize {
    let outputs = p.program.outputs.iter().map(|(_, d)| *d);
    p.program.inputs.iter().copied().chain(outputs).map(DType::size).min().unwrap_or(1)
}

/// Distinct elements that an access reads.
fn reads(access: &Access<Dim>, shape: &[Dim], symbols: &Symbols) -> f64 {
    let read = access.strides.iter().zip(shape).filter(|(s, _)| !s.is(0));
    read.map(|(_, d)| d.opt(symbols) as f64).product()
}

fn wide(p: &Pointwise<Dim>, symbols: &Symbols) -> bool {
    let mut extents: Vec<Dim> = p.inputs.iter().map(|a| codegen::extent(a, &p.shape)).collect();
    extents.push(product(&p.shape));
    codegen::is_wide(&extents, symbols)
}

fn pointers(p: &Pointwise<Dim>) -> Vec<(String, String)> {
    let inputs = p.program.inputs.iter().enumerate();
    let outputs = p.program.outputs.iter().enumerate();
    inputs
        .map(|(n, d)| (format!("const {}*", codegen::ctype(*d)), format!("in{n}")))
        .chain(outputs.map(|(n, (_, d))| (format!("{}*", codegen::ctype(*d)), format!("out{n}"))))
        .collect()
}

fn params(p: &Pointwise<Dim>) -> String {
    pointers(p).iter().map(|(ty, name)| format!("{ty} {name}")).collect::<Vec<_>>().join(", ")
}

fn args(p: &Pointwise<Dim>, problem: &Problem<Dim>) -> Vec<Arg> {
    let inputs = (0..p.inputs.len()).map(Arg::Input);
    let outputs = (0..p.program.outputs.len()).map(Arg::Output);
    inputs.chain(outputs).chain(codegen::symbol_args(problem)).collect()
}

/// `struct Pointwise` with `compute<V>(i ...)`, and the expression that makes one. `more` are further parameters.
fn record(p: &Pointwise<Dim>, sources: &[Source<'_>], more: &str) -> Result<(String, String), String> {
    let outputs: Vec<String> = (0..p.program.outputs.len()).map(|n| format!("out{n}")).collect();
    let body = codegen::row(&p.shape, &p.program, sources, &outputs)?;
    let pointers = pointers(p);
    let strides = p.inputs.iter().flat_map(|a| a.strides.iter().chain([&a.offset]));
    let record = Record { pointers: &pointers, sizes: p.shape.iter().chain(strides).collect() };
    let (fields, value) = record.fields_and_value("");
    let text = format!(
        "struct Pointwise {{\n{fields}\n  // Elements i to i + V - 1 of every output.\n  \
         template <int V> DEVICE void compute(index_t i{more}) const {{\n{}  }}\n}};\n",
        codegen::indent(&body, 4)
    );
    Ok((text, value))
}

/// How a transposed problem lies: its collapsed shape, and the dimension along which the transposed operands are dense.
struct Transposed {
    /// The problem over the collapsed shape.
    problem: Pointwise<Dim>,
    /// Which dimension the operands walk with stride 1.
    along: usize,
    /// Which operands go through shared memory.
    tiles: Vec<usize>,
}

fn transposed(p: &Pointwise<Dim>) -> Option<Transposed> {
    let (shape, inputs) = codegen::collapse(&p.shape, &p.inputs.iter().collect::<Vec<_>>());
    let last = shape.len().checked_sub(1)?;
    let walks = |a: &Access<Dim>| {
        let inner = &a.strides[last];
        if inner.is(0) || inner.is(1) { None } else { a.strides[..last].iter().position(|s| s.is(1)) }
    };
    let along = inputs.iter().find_map(walks)?;
    let tiles = (0..inputs.len()).filter(|n| walks(&inputs[*n]) == Some(along)).collect();
    Some(Transposed { problem: Pointwise { shape, inputs, program: p.program.clone() }, along, tiles })
}

impl Family for Transpose {
    fn name(&self) -> &'static str {
        "pointwise.transpose"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Problem::Pointwise(p) = problem else { return vec![] };
        let Some(t) = transposed(p) else { return vec![] };
        let last = t.problem.shape.len() - 1;
        // Where either side is short most of a tile would be empty.
        if t.problem.shape[last].opt(symbols) < 8 || t.problem.shape[t.along].opt(symbols) < 8 {
            return vec![];
        }
        let widths = [4, 2, 1].into_iter().filter(|v| width_fits(&t, *v));
        widths
            .flat_map(|v| [32, 64].map(|tile| (v, tile)))
            .filter(|(_, tile)| shared_bytes(&t, *tile) <= target.shared_per_block.min(48 * 1024) as usize)
            .map(|(v, tile)| Tactic::new(self.name(), self.version(), &[("tile", tile), ("v", v)]))
            .collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let (Problem::Pointwise(p), Ok(v), Ok(tile)) = (problem, tactic.get("v"), tactic.get("tile")) else {
            return f64::INFINITY;
        };
        let Some(t) = transposed(p) else { return f64::INFINITY };
        let size = product(&p.shape).opt(symbols) as f64;
        let read: f64 = p
            .inputs
            .iter()
            .zip(&p.program.inputs)
            .map(|(a, d)| reads(a, &p.shape, symbols) * d.size() as f64)
            .sum();
        let written: f64 = p.program.outputs.iter().map(|(_, d)| size * d.size() as f64).sum();
        // A tile's row should be 128 bytes, moved 4 bytes a thread; ragged tiles waste lanes.
        let element = p.program.inputs[t.tiles[0]].size() as f64;
        let row = (f64::from(tile) * element / 128.0).clamp(0.5, 1.0);
        let lane = (f64::from(v) * element / 4.0).clamp(0.4, 1.0);
        let filled = |d: &Dim| {
            let n = d.opt(symbols).max(1) as f64;
            n / ((n / f64::from(tile)).ceil() * f64::from(tile))
        };
        let full = filled(&t.problem.shape[t.along]) * filled(&t.problem.shape[t.problem.shape.len() - 1]);
        let efficiency = 0.8 * row.sqrt() * lane.sqrt() * full.sqrt();
        LAUNCH + 0.3 + (read + written) / (target.bandwidth * 1e3 * efficiency)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Pointwise(original) = problem else { return Err(wrong(self, problem)) };
        let t = transposed(original).ok_or("no operand of this problem is transposed")?;
        let (tile, v) = (tactic.get("tile")?, tactic.get("v")?);
        if !matches!(tile, 32 | 64) || !matches!(v, 1 | 2 | 4) || !width_fits(&t, v) {
            return Err(format!(
                "a tile of {tile} moved {v} elements at a time does not fit this problem ({tactic})"
            ));
        }
        if shared_bytes(&t, tile) > 48 * 1024 {
            return Err(format!("{} bytes of shared memory are too many ({tactic})", shared_bytes(&t, tile)));
        }
        let p = &t.problem;
        let last = p.shape.len() - 1;
        let mut more = String::new();
        let mut sources = Vec::new();
        let (mut declare, mut fill, mut read, mut pass) =
            (String::new(), String::new(), String::new(), String::new());
        for (n, access) in p.inputs.iter().enumerate() {
            if !t.tiles.contains(&n) {
                sources.push(Source::Memory(format!("in{n}"), access));
                continue;
            }
            let ty = codegen::ctype(p.program.inputs[n]);
            more += &format!(", const {ty} (&tile{n})[V]");
            sources.push(Source::Value(format!("widen(tile{n}[j])")));
            declare += &format!("  __shared__ {ty} shared{n}[TILE][TILE + {}];\n", pad(p.program.inputs[n]));
            let at: Vec<String> = (0..=last)
                .filter(|d| !access.strides[*d].is(0))
                .map(|d| format!("c{d} * {}", codegen::size_text(&access.strides[d])))
                .chain((!access.offset.is(0)).then(|| codegen::size_text(&access.offset)))
                .collect();
            let at = at
                .join(" + ")
                .replace(" * 1 ", " ")
                .replace(&format!("c{} * 1", t.along), &format!("c{}", t.along));
            let align = codegen::power_of_two(
                access
                    .strides
                    .iter()
                    .enumerate()
                    .filter(|(d, _)| *d != t.along)
                    .map(|(_, s)| s)
                    .chain([&access.offset]),
                8,
            );
            fill += &format!(
                "      const auto v{n} = load_row<WIDTH, {align}>(in{n} + {at});\n#pragma unroll\n      \
                 for (int j = 0; j < WIDTH; ++j) shared{n}[column + j][row] = v{n}.v[j];\n"
            );
            read += &format!(
                "      {ty} tile{n}[WIDTH];\n#pragma unroll\n      \
                 for (int j = 0; j < WIDTH; ++j) tile{n}[j] = shared{n}[row][column + j];\n"
            );
            pass += &format!(", tile{n}");
        }
        let (record, value) = record(p, &sources, &more)?;

        // The dimensions that are neither side of the tile, one block each.
        let others: Vec<usize> = (0..last).filter(|d| *d != t.along).collect();
        let mut outer = String::new();
        let mut inner = Dim::from(1);
        for (nth, d) in others.iter().enumerate().rev() {
            let by = if inner.is(1) { String::new() } else { format!(" / {}", codegen::size_text(&inner)) };
            let modulo =
                if nth == 0 { String::new() } else { format!(" % {}", codegen::size_text(&p.shape[*d])) };
            outer += &format!("  const index_t c{d} = rest{by}{modulo};\n");
            inner = inner * &p.shape[*d];
        }
        let across = [&p.shape[t.along], &p.shape[last]].map(|d| d.ceil_div(&Dim::from(i64::from(tile))));
        let flat = codegen::dense(&p.shape);
        let i: Vec<String> = (0..=last)
            .map(|d| {
                if flat[d].is(1) {
                    format!("c{d}")
                } else {
                    format!("c{d} * {}", codegen::size_text(&flat[d]))
                }
            })
            .collect();
        let (along, i) = (t.along, i.join(" + "));
        let rest = if others.is_empty() {
            ""
        } else {
            "  const index_t rest = blockIdx.x / (TILES_ALONG * TILES_LAST);\n"
        };
        let kernel = format!(
            "{entry} {{\n{declare}  const Pointwise pointwise = {value};\n{rest}{outer}  \
  const index_t begin_last = blockIdx.x % TILES_LAST * TILE;\n  \
  const index_t begin_along = blockIdx.x / TILES_LAST % TILES_ALONG * TILE;\n  \
  const int column = threadIdx.x % (TILE / WIDTH) * WIDTH;\n  \
  dependency_wait();\n  \
  launch_dependents();\n\
#pragma unroll\n  \
  for (int row = threadIdx.x / (TILE / WIDTH); row < TILE; row += THREADS / (TILE / WIDTH)) {{\n    \
    const index_t c{last} = begin_last + row;\n    \
    const index_t c{along} = begin_along + column;\n    \
    if (c{last} < SIZE_LAST && c{along} < SIZE_ALONG) {{\n{fill}    }}\n  }}\n  \
  __syncthreads();\n\
#pragma unroll\n  \
  for (int row = threadIdx.x / (TILE / WIDTH); row < TILE; row += THREADS / (TILE / WIDTH)) {{\n    \
    const index_t c{along} = begin_along + row;\n    \
    const index_t c{last} = begin_last + column;\n    \
    if (c{along} < SIZE_ALONG && c{last} < SIZE_LAST) {{\n{read}      \
      pointwise.compute<WIDTH>({i}{pass});\n    }}\n  }}\n}}",
            entry = codegen::entry(&format!("{} SYMBOL_PARAMS", params(p))),
        );
        let text = codegen::source(
            &format!("transposed: {}", p.program),
            wide(p, symbols),
            &[
                &codegen::constants(&[("TILE", tile), ("WIDTH", v), ("THREADS", 256)]),
                &codegen::size("SIZE_ALONG", &p.shape[t.along]),
                &codegen::size("SIZE_LAST", &p.shape[last]),
                &codegen::size("TILES_ALONG", &across[0]),
                &codegen::size("TILES_LAST", &across[1]),
                &codegen::symbol_params(problem),
                &record,
                &kernel,
            ],
        );
        let grid = [&(&across[0] * &across[1]) * &inner, 1.into(), 1.into()];
        Ok(one_launch(text, grid, 256, args(p, problem), p.inputs.len()))
    }
}

/// Elements after each row of a tile, so that a column's elements lie in different banks.
fn pad(dtype: DType) -> usize {
    (4 / dtype.size()).max(1)
}

fn shared_bytes(t: &Transposed, tile: u32) -> usize {
    let tile = tile as usize;
    t.tiles.iter().map(|n| t.problem.program.inputs[*n]).map(|d| tile * (tile + pad(d)) * d.size()).sum()
}

/// Strips of `v` must be whole on both sides, and 4 bytes are as much as the padding allows.
fn width_fits(t: &Transposed, v: u32) -> bool {
    let last = t.problem.shape.len() - 1;
    let element = t.tiles.iter().map(|n| t.problem.program.inputs[*n].size()).max().unwrap_or(1);
    v == 1
        || v as usize * element <= 4
            && strips::divides(v, &t.problem.shape[last])
            && strips::divides(v, &t.problem.shape[t.along])
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use bakelite_host::{Instr, Program, Pw, Scalar};
    let dims = |text: &str| -> Vec<Dim> {
        text.split_whitespace().map(|t| t.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    };
    let access = |offset: i64, strides: &str| Access { offset: offset.into(), strides: dims(strides) };
    let mut out = Vec::new();
    let mut add = |shape: &str, inputs: Vec<Access<Dim>>, program: Program| {
        out.push(Problem::from(Pointwise { shape: dims(shape), inputs, program }));
    };
    // Every operator for every class it has, eight to a program.
    for dtype in [DType::F32, DType::F64, DType::I64, DType::I32, DType::Bool] {
        let ops: Vec<Pw> = Pw::ALL.iter().copied().filter(|o| o.has(dtype.class())).collect();
        for ops in ops.chunks(8) {
            let mut program = Program { inputs: vec![dtype, dtype, DType::Bool], ..Program::default() };
            for op in ops {
                let args = match op.arity() {
                    1 => vec![0],
                    2 => vec![0, 1],
                    _ => vec![2, 0, 1],
                };
                let class = program.push(Instr::Apply(*op, args));
                let test = op.signature() == bakelite_host::pointwise::Signature::Test;
                program.outputs.push((class, if test { DType::Bool } else { dtype }));
            }
            add("9 11", vec![access(0, "11 1"), access(0, "0 1"), access(0, "11 1")], program);
        }
    }
    // Every cast.
    for from in DType::ALL {
        let mut program = Program { inputs: vec![from], ..Program::default() };
        for to in DType::ALL {
            let cast = program.push(Instr::Cast(to, 0));
            program.outputs.push((cast, to));
        }
        add("33", vec![access(0, "1")], program);
    }
    // Bias, residual and activation, static and dynamic, odd and even sizes, in half precisions.
    for (op, dtype, shape, full, bias) in [
        (Pw::Gelu, DType::F16, "batch 64 14 14", "12544 196 14 1", "0 1 0 0"),
        (Pw::GeluTanh, DType::F16, "batch 7 7 64", "3136 448 64 1", "0 0 0 1"),
        (Pw::Gelu, DType::BF16, "batch seq 96", "96*seq 96 1", "0 0 1"),
        (Pw::GeluTanh, DType::BF16, "batch seq 96", "96*seq 96 1", "0 0 1"),
        (Pw::Gelu, DType::F32, "3 5 7", "35 7 1", "0 1 0"),
        (Pw::GeluTanh, DType::F32, "3 5 7", "35 7 1", "0 1 0"),
    ] {
        let mut program = Program { inputs: vec![dtype; 3], ..Program::default() };
        let sum = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
        let sum = program.push(Instr::Apply(Pw::Add, vec![sum, 2]));
        let half = program.push(Instr::Const(Scalar::F32(-0.5)));
        let scaled = program.push(Instr::Apply(Pw::Mul, vec![sum, half]));
        let result = program.push(Instr::Apply(op, vec![scaled]));
        program.outputs = vec![(result, dtype)];
        add(shape, vec![access(0, full), access(0, bias), access(0, full)], program);
    }
    // Copies: everything at once with a tail, a slice, a broadcast of one element, a scalar.
    let copy = |dtype| Program::identity(dtype, dtype);
    add("1013", vec![access(0, "1")], copy(DType::U8));
    add("batch 40", vec![access(8, "64 1")], copy(DType::F16));
    add("1000", vec![access(3, "0")], copy(DType::F64));
    add("", vec![access(0, "")], copy(DType::F32));
    add("9 20", vec![access(1, "40 2")], copy(DType::F32));
    // Transposes: matrices, channels to the end and back, heads, with other operands along.
    add("70 100", vec![access(0, "1 70")], copy(DType::F32));
    add("128 64", vec![access(0, "1 128")], copy(DType::F16));
    add("64 136", vec![access(4, "1 68")], copy(DType::U8));
    add("33 65", vec![access(0, "1 33")], copy(DType::F64));
    add("batch 56 24", vec![access(0, "1344 1 56")], copy(DType::F32));
    add("batch 12 64 seq", vec![access(0, "768*seq 64 1 768")], copy(DType::F16));
    let sum = Program::single(Pw::Add, &[DType::F32, DType::F32, DType::F32][..2], DType::F32);
    add("4 40 48", vec![access(0, "1920 1 40"), access(0, "0 0 1")], sum.clone());
    add("40 48", vec![access(0, "1 40"), access(0, "1 40")], sum);
    out
}
