//! What the families that walk rows and columns share: how threads are laid over them, the text around their kernels,
//! and what streaming memory costs. Knows no arithmetic.

use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Launch};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Access, Epilogue};
use bakelite_host::{Class, DType, Instr, Problem, Program, Pw};
use std::fmt::{Display, Write};

/// A row-wise layout of threads: `group` threads for each row, `rows` rows in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// Threads of one row; above 32, the whole block.
    pub(super) group: u32,
    /// Rows of one block.
    pub(super) rows: u32,
    /// Vectors of a row that each thread keeps in registers; 0 where the row does not stay there.
    pub(super) chunks: u32,
    /// Elements of a vector.
    pub(super) v: u32,
}

/// The most elements of a row that a thread keeps in registers.
const RESIDENT: i64 = 32;

impl Rows {
    /// Layouts worth timing for rows of `len` elements of `dtype`; `resident` ones too if the family can.
    pub(super) fn propose(dtype: DType, len: &Dim, resident: bool, symbols: &Symbols) -> Vec<Rows> {
        let v = vector(dtype, len);
        let most = (len.upper(symbols).max(1) + i64::from(v) - 1) / i64::from(v);
        let usual = (len.opt(symbols).max(1) + i64::from(v) - 1) / i64::from(v);
        let registers = if dtype.size() == 8 { RESIDENT / 2 } else { RESIDENT };
        let mut out = Vec::new();
        // Several rows share a warp where a row has fewer vectors than a warp has threads.
        let lanes = usual.clamp(1, 32).unsigned_abs().next_power_of_two() as u32;
        let beside = [128, 32, 256, 512].map(|threads| (lanes, threads));
        let alone = [128, 256, 512, 1024].map(|threads| (threads, threads));
        for (group, threads) in beside.into_iter().chain(alone) {
            let chunks = (most + i64::from(group) - 1) / i64::from(group);
            // Half of the threads at least have work.
            let busy = group <= 32 || usual * 2 > i64::from(group);
            // 1024 threads have 64 registers each.
            let fits = resident && chunks * i64::from(v) <= registers.min(16 * 1024 / i64::from(threads));
            if busy && (fits || !resident || usual >= 4 * i64::from(group) || group <= 256) {
                let chunks = if fits { chunks as u32 } else { 0 };
                let rows = Rows { group, rows: threads / group, chunks, v };
                // A warp that walks a long row alone is never the best.
                if (group > 32 || usual <= 32 * 64) && !out.contains(&rows) {
                    out.push(rows);
                }
            }
        }
        out
    }

    /// The tactic's parameters.
    pub(super) fn params(self) -> [(&'static str, u32); 4] {
        [("group", self.group), ("rows", self.rows), ("chunks", self.chunks), ("v", self.v)]
    }

    /// What a tactic asks for, if it is right for rows of `len` elements of `dtype`.
    pub(super) fn of(tactic: &Tactic, dtype: DType, len: &Dim, symbols: &Symbols) -> Result<Rows, String> {
        let get = |name| tactic.get(name);
        let rows = Rows { group: get("group")?, rows: get("rows")?, chunks: get("chunks")?, v: get("v")? };
        check_vector(tactic, rows.v, dtype, len)?;
        let threads = u64::from(rows.group) * u64::from(rows.rows);
        if !rows.group.is_power_of_two()
            || !threads.is_multiple_of(32)
            || threads == 0
            || threads > 1024
            || (rows.group > 32 && rows.rows != 1)
        {
            return Err(format!("`{tactic}`: {} rows of {} threads are no block", rows.rows, rows.group));
        }
        let held = i64::from(rows.group) * i64::from(rows.chunks) * i64::from(rows.v);
        if rows.chunks > 0 && (held < len.upper(symbols) || rows.chunks * rows.v > 64) {
            return Err(format!("`{tactic}` holds {held} elements of a row of {}", len.upper(symbols)));
        }
        Ok(rows)
    }

    /// Threads of a block.
    pub(super) fn threads(self) -> u32 {
        self.group * self.rows
    }

    /// Blocks that `count` rows take.
    pub(super) fn blocks(self, count: &Dim) -> Dim {
        count.ceil_div(&Dim::from(i64::from(self.rows)))
    }

    /// The layout as constants of a kernel.
    pub(super) fn define(self, kernel: Kernel) -> Kernel {
        kernel
            .constant("GROUP", self.group)
            .constant("ROWS", self.rows)
            .constant("CHUNKS", self.chunks.max(1))
            .flag("RESIDENT", u32::from(self.chunks > 0))
            .constant("V", self.v)
    }

    /// Steps that a thread makes along a row, one after the other.
    pub(super) fn steps(self, len: &Dim, symbols: &Symbols) -> f64 {
        (len.opt(symbols) as f64 / f64::from(self.group * self.v)).ceil()
    }
}

/// A column-wise layout: `columns` threads side by side, each with `v` columns; `depth` threads share a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// Threads along the columns.
    pub(super) columns: u32,
    /// Threads along a column.
    pub(super) depth: u32,
    /// Columns of one thread.
    pub(super) v: u32,
}

impl Columns {
    /// Layouts worth timing for columns `inner` wide and `len` long; without `vectors`, one column for each thread.
    pub(super) fn propose(
        dtype: DType,
        len: &Dim,
        inner: &Dim,
        vectors: bool,
        symbols: &Symbols,
    ) -> Vec<Columns> {
        let most = if vectors { vector(dtype, inner) } else { 1 };
        let mut out = Vec::new();
        for v in [8, 4, 2, 1].into_iter().filter(|v| *v == most || (*v < most && *v * 4 >= most)) {
            for (columns, depth) in [(32, 8), (32, 1), (64, 4), (32, 32), (128, 1)] {
                let len = len.opt(symbols);
                let useful = i64::from(depth) <= len.max(1) && (depth > 1 || len <= 64);
                // What the threads of a column share stays within the shared memory that needs no asking for.
                if (useful || (columns, depth) == (32, 1) && len <= 1)
                    && columns * depth * v * 16 <= 48 * 1024
                {
                    out.push(Columns { columns, depth, v });
                }
            }
        }
        out
    }

    /// The tactic's parameters.
    pub(super) fn params(self) -> [(&'static str, u32); 3] {
        [("columns", self.columns), ("depth", self.depth), ("v", self.v)]
    }

    /// What a tactic asks for, if it is right for columns `inner` wide.
    pub(super) fn of(tactic: &Tactic, dtype: DType, inner: &Dim) -> Result<Columns, String> {
        let get = |name| tactic.get(name);
        let columns = Columns { columns: get("columns")?, depth: get("depth")?, v: get("v")? };
        check_vector(tactic, columns.v, dtype, inner)?;
        let threads = u64::from(columns.columns) * u64::from(columns.depth);
        if threads == 0
            || threads > 1024
            || !columns.columns.is_multiple_of(32)
            || threads * u64::from(columns.v) * 16 > 48 * 1024
        {
            return Err(format!("`{tactic}`: {} by {} threads are no block", columns.columns, columns.depth));
        }
        Ok(columns)
    }

    /// Blocks that `count` columns take.
    pub(super) fn blocks(self, count: &Dim) -> Dim {
        count.ceil_div(&Dim::from(i64::from(self.columns * self.v)))
    }

    /// The layout as constants of a kernel.
    pub(super) fn define(self, kernel: Kernel) -> Kernel {
        kernel.constant("COLUMNS", self.columns).constant("DEPTH", self.depth).constant("V", self.v)
    }

    /// One launch over `blocks`.
    pub(super) fn launch(self, kernel: usize, blocks: Dim, args: Vec<Arg>) -> Launch {
        Launch { block: [self.columns, self.depth, 1], ..launch(kernel, blocks, 1, args) }
    }

    /// Steps that a thread makes along a column, one after the other.
    pub(super) fn steps(self, len: &Dim, symbols: &Symbols) -> f64 {
        (len.opt(symbols) as f64 / f64::from(self.depth)).ceil() + f64::from(self.depth) * 0.05
    }
}

/// Elements of `dtype` that one 16-byte access may move along rows of `len`.
pub(super) fn vector(dtype: DType, len: &Dim) -> u32 {
    codegen::power_of_two([len], (16 / dtype.size() as u32).min(8))
}

/// Refuses a vector width that would reach past a row's end or below its alignment.
pub(super) fn check_vector(tactic: &Tactic, v: u32, dtype: DType, len: &Dim) -> Result<(), String> {
    if v == 0 || !v.is_power_of_two() || v > vector(dtype, len) {
        return Err(format!("`{tactic}`: vectors of {v} do not divide rows of {len} elements of {dtype}"));
    }
    Ok(())
}

/// The shape without its dimensions of size 1, and the innermost size that remains.
pub(super) fn innermost(shape: &[Dim]) -> Dim {
    shape.iter().rev().find(|d| !d.is(1)).cloned().unwrap_or(Dim::from(1))
}

/// A kernel's source in the making.
pub(super) struct Kernel {
    title: String,
    wide: bool,
    text: String,
}

impl Kernel {
    /// Starts the source of `tactic`; `totals` are the element counts that flat indices must reach.
    pub(super) fn new(
        problem: &Problem<Dim>,
        tactic: &Tactic,
        dtype: DType,
        totals: &[Dim],
        symbols: &Symbols,
    ) -> Kernel {
        let text = format!("typedef {} elem_t;\n{}", codegen::ctype(dtype), codegen::symbol_params(problem));
        let title = format!("{} of {dtype}: {tactic}", problem.name());
        Kernel { title, wide: codegen::is_wide(totals, symbols), text }
    }

    /// `#define NAME value`, which `#if` can test.
    pub(super) fn flag(mut self, name: &str, value: impl Display) -> Self {
        let _ = writeln!(self.text, "#define {name} {value}");
        self
    }

    /// `constexpr int NAME = value;`, which a template parameter may hide.
    pub(super) fn constant(mut self, name: &str, value: impl Display) -> Self {
        let _ = writeln!(self.text, "constexpr int {name} = {value};");
        self
    }

    /// A size, constant or symbolic.
    pub(super) fn size(mut self, name: &str, dim: &Dim) -> Self {
        self.text.push_str(&codegen::size(name, dim));
        self
    }

    /// Sizes as the initialiser of an array.
    pub(super) fn list<'d>(self, name: &str, dims: impl IntoIterator<Item = &'d Dim>) -> Self {
        let items: Vec<String> = dims.into_iter().map(codegen::size_text).collect();
        self.flag(name, format!("{{{}}}", items.join(", ")))
    }

    /// A float that means the same in every accumulator.
    pub(super) fn number(self, name: &str, value: f32) -> Self {
        let text = codegen::literal(bakelite_host::Scalar::F64(f64::from(value)));
        self.flag(name, text)
    }

    /// The epilogue over `shape`.
    pub(super) fn epilogue(mut self, epilogue: &Epilogue<Dim>, shape: &[Dim]) -> Self {
        self.text.push_str(&codegen::epilogue(epilogue, shape));
        self
    }

    /// The accumulator's type where there is no epilogue.
    pub(super) fn accumulator(mut self, class: Class) -> Self {
        let _ = writeln!(self.text, "typedef {} acc_t;", codegen::class_type(class));
        self
    }

    /// The whole source around the family's own text.
    pub(super) fn finish(self, body: &str) -> String {
        codegen::source(&self.title, self.wide, &[&self.text, include_str!("../../cuda/group.cuh"), body])
    }
}

/// One launch of `threads` over `blocks`.
pub(super) fn launch(kernel: usize, blocks: Dim, threads: u32, args: Vec<Arg>) -> Launch {
    Launch {
        kernel,
        grid: [blocks, Dim::from(1), Dim::from(1)],
        block: [threads, 1, 1],
        shared: 0,
        cluster: None,
        programmatic: true,
        args,
    }
}

/// The problem's own operands, then the epilogue's and the result, then the symbols.
pub(super) fn args(problem: &Problem<Dim>, own: usize, epilogue: &Epilogue<Dim>) -> Vec<Arg> {
    let mut args: Vec<Arg> = (0..own).map(Arg::Input).collect();
    args.extend(codegen::epilogue_args(epilogue, own));
    args.extend(codegen::symbol_args(problem));
    args
}

/// What a kernel does with memory.
pub(super) struct Stream {
    /// Bytes moved, caches counted as nothing.
    pub(super) bytes: f64,
    /// Blocks and threads of a block.
    pub(super) blocks: f64,
    /// Threads of a block.
    pub(super) threads: f64,
    /// Memory accesses that a thread makes one after the other, overlapping ones counted as one.
    pub(super) steps: f64,
    /// Times it synchronises.
    pub(super) barriers: f64,
}

impl Stream {
    /// Estimated µs of one launch.
    pub(super) fn cost(&self, target: &Target) -> f64 {
        let multiprocessors = f64::from(target.multiprocessors);
        // Blocks of fewer than 64 threads fill a multiprocessor by its 32 slots, not by its 2048 threads.
        let resident = multiprocessors * (2048.0 / self.threads).floor().clamp(1.0, 32.0);
        let waves = (self.blocks / resident).ceil().max(1.0);
        // Some four loads overlap in a loop; each round trip to memory is 0.6 µs.
        let latency = waves * (0.6 * (self.steps / 4.0).max(1.0) + 0.1 * self.barriers);
        2.0 + latency.max(self.bytes / (target.bandwidth * 1e3))
    }
}

/// Bytes of `count` elements at the optimum.
pub(super) fn bytes(count: &Dim, dtype: DType, symbols: &Symbols) -> f64 {
    count.opt(symbols) as f64 * dtype.size() as f64
}

/// An epilogue for samples: plus a row over the innermost dimension, plus a full operand, then relu, stored as `dtype`.
pub(super) fn sample_epilogue(dtype: DType, shape: &[Dim]) -> Epilogue<Dim> {
    let class = dtype.class().dtype();
    let mut program = Program { inputs: vec![class, dtype, dtype], ..Program::default() };
    let sum = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
    let sum = program.push(Instr::Apply(Pw::Add, vec![sum, 2]));
    let out = program.push(Instr::Apply(Pw::Relu, vec![sum]));
    program.outputs = vec![(out, dtype)];
    let mut row = vec![Dim::from(0); shape.len()];
    if let Some(last) = row.last_mut() {
        *last = Dim::from(1);
    }
    let operands = [row, codegen::dense(shape)];
    let operands = operands.map(|strides| Access { offset: Dim::from(0), strides }).into();
    Epilogue::new(program, operands)
}

/// Sizes from text, for samples: `dims("batch 12 seq")`. What does not parse is left out.
pub(super) fn dims(text: &str) -> Vec<Dim> {
    text.split_whitespace().filter_map(|t| t.parse().ok()).collect()
}

/// Refuses a block that no GPU runs, or that leaves a warp incomplete.
pub(super) fn check_threads(tactic: &Tactic, threads: u32) -> Result<(), String> {
    if threads == 0 || threads > 1024 || !threads.is_multiple_of(32) {
        return Err(format!("`{tactic}`: {threads} threads are no block"));
    }
    Ok(())
}
