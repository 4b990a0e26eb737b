//! Attention in one kernel: on tensor cores for f16 and bf16, and in full precision for everything else.

use super::strips::{LAUNCH, wrong};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Launch};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Access, Attention};
use bakelite_host::{Class, DType, Problem};

/// `attention.mma`: scores and values on tensor cores, the softmax in registers.
#[derive(Debug)]
pub struct Mma;

/// `attention.simt`: every type, in its accumulator's precision.
#[derive(Debug)]
pub struct Simt;

/// The result's shape, `[batch, heads, seq_q, seq_k]`: what the mask is read over.
fn scores(p: &Attention<Dim>) -> [Dim; 4] {
    [p.batch.clone(), Dim::from(p.heads as i64), p.seq_q.clone(), p.seq_k.clone()]
}

pub(super) fn size(dim: &Dim, symbols: &Symbols) -> f64 {
    dim.opt(symbols).max(1) as f64
}

/// Whether there is a mask that is the same for all queries.
pub(super) fn by_key(p: &Attention<Dim>) -> bool {
    p.mask.as_ref().is_some_and(|(_, access)| access.strides[2].is(0))
}

/// Constants, sizes and the mask.
pub(super) fn text(p: &Attention<Dim>, problem: &Problem<Dim>) -> String {
    let acc = codegen::class_type(p.dtype.class());
    let mut text = format!("typedef {} element_t;\ntypedef {acc} acc_t;\n", codegen::ctype(p.dtype));
    text += &codegen::constants(&[
        ("DIM", p.dim as u32),
        ("DIM_V", p.dim_v as u32),
        ("HEADS", p.heads as u32),
        ("KV_HEADS", p.kv_heads as u32),
    ]);
    text += &format!(
        "constexpr bool CAUSAL = {};\nconstexpr bool OUT_HEADS_INNER = {};\n",
        p.causal, p.out_heads_inner
    );
    let scale = f64::from(p.scale) * std::f64::consts::LOG2_E;
    let scale = if acc == "double" { format!("{scale:?}") } else { format!("{:?}f", scale as f32) };
    text += &format!("constexpr {acc} SCALE = {scale};\n");
    text += &codegen::size("SIZE_BATCH", &p.batch);
    text += &codegen::size("SIZE_Q", &p.seq_q);
    text += &codegen::size("SIZE_K", &p.seq_k);
    for (name, access) in [("Q", &p.q), ("K", &p.k), ("V", &p.v)] {
        text += &codegen::size(&format!("{name}_OFFSET"), &access.offset);
        for (part, stride) in ["BATCH", "HEAD", "ROW"].iter().zip(&access.strides) {
            text += &codegen::size(&format!("{name}_{part}"), stride);
        }
    }
    let params = codegen::symbol_params(problem);
    text += &params;
    text += &params.replacen("SYMBOL_PARAMS", "SYMBOL_NAMES", 1).replace(", int ", ", ");
    text += &format!("constexpr bool MASK_BY_KEY = {};\n", by_key(p));
    let Some((dtype, access)) = &p.mask else { return text + "#define MASK_PARAMS\n#define MASK_NAMES\n" };
    let ty = codegen::ctype(*dtype);
    text += &codegen::size("MASK_OFFSET", &access.offset);
    for (part, stride) in ["BATCH", "HEAD", "ROW", "COLUMN"].iter().zip(&access.strides) {
        text += &codegen::size(&format!("MASK_{part}"), stride);
    }
    text += &format!("#define MASK\n#define MASK_PARAMS , const {ty}* mask\n#define MASK_NAMES , mask\n");
    if *dtype == DType::Bool {
        text += "DEVICE acc_t mask_value(bool keep) { return keep ? acc_t(0) : acc_t(-INFINITY); }\n";
    } else {
        let lowest = if acc == "double" { "-1.0e308" } else { "-3.0e38f" };
        let (infinity, log2e) = ("acc_t(-INFINITY)", "acc_t(1.4426950408889634)");
        text += &format!(
            "// The lowest finite value stays finite: a row of nothing else is an even one.\n\
             DEVICE acc_t mask_value({ty} x) {{\n  const acc_t y = (acc_t)widen(x);\n  \
               return y * {log2e} < {lowest} && y != {infinity} ? {lowest} : y * {log2e};\n}}\n"
        );
    }
    text
}

pub(super) fn wide(p: &Attention<Dim>, symbols: &Symbols) -> bool {
    let shape = |heads: usize, seq: &Dim| [p.batch.clone(), Dim::from(heads as i64), seq.clone()];
    let last = |access: &Access<Dim>, shape: &[Dim], dim: usize| {
        codegen::extent(access, shape) + Dim::from(dim as i64)
    };
    let mut extents = vec![
        last(&p.q, &shape(p.heads, &p.seq_q), p.dim),
        last(&p.k, &shape(p.kv_heads, &p.seq_k), p.dim),
        last(&p.v, &shape(p.kv_heads, &p.seq_k), p.dim_v),
        &p.batch * &p.seq_q * Dim::from((p.heads * p.dim_v) as i64),
    ];
    extents.extend(p.mask.iter().map(|(_, access)| codegen::extent(access, &scores(p))));
    codegen::is_wide(&extents, symbols)
}

/// What is wrong with the problem's own numbers, for either family.
fn malformed(p: &Attention<Dim>) -> Option<String> {
    let three = [&p.q, &p.k, &p.v].iter().all(|a| a.strides.len() == 3);
    if !three || p.mask.as_ref().is_some_and(|(_, a)| a.strides.len() != 4) {
        return Some("accesses have three strides, the mask's four".to_owned());
    }
    if p.heads == 0 || p.kv_heads == 0 || p.dim == 0 || p.dim_v == 0 {
        return Some("no heads or no dimensions".to_owned());
    }
    if !p.dtype.is_float() || !p.scale.is_finite() {
        return Some(format!("{} elements scaled by {}", p.dtype, p.scale));
    }
    None
}

/// One kernel, of a block for every `queries` queries of a head.
pub(super) fn launch(
    p: &Attention<Dim>,
    problem: &Problem<Dim>,
    kernel: String,
    queries: u32,
    (threads, shared): (u32, u32),
) -> Build {
    let operands = if p.mask.is_some() { 4 } else { 3 };
    let tiles = p.seq_q.ceil_div(&Dim::from(i64::from(queries)));
    let blocks = &tiles * &p.batch * Dim::from(p.heads as i64);
    let args = (0..operands).map(Arg::Input).chain([Arg::Output(0)]).chain(codegen::symbol_args(problem));
    let launch = Launch {
        kernel: 0,
        grid: [blocks, 1.into(), 1.into()],
        block: [threads, 1, 1],
        shared,
        cluster: None,
        programmatic: true,
        args: args.collect(),
    };
    Build { kernels: vec![kernel], launches: vec![launch], workspace: 0.into(), packs: vec![None; operands] }
}

/// Pairs of query and key that are looked at, of one head.
pub(super) fn pairs(p: &Attention<Dim>, symbols: &Symbols) -> f64 {
    let (q, k) = (size(&p.seq_q, symbols), size(&p.seq_k, symbols));
    if p.causal { q * (k - q.min(k) / 2.0) } else { q * k }
}

pub(super) fn bytes(p: &Attention<Dim>, symbols: &Symbols) -> f64 {
    let (q, k, batch) = (size(&p.seq_q, symbols), size(&p.seq_k, symbols), size(&p.batch, symbols));
    let both = (p.dim + p.dim_v) as f64;
    batch * both * (q * p.heads as f64 + k * p.kv_heads as f64) * p.dtype.size() as f64
}

/// Numbers of an `attention.mma` tactic.
#[derive(Clone, Copy, Debug)]
struct Tiles {
    queries: u32,
    keys: u32,
    groups: u32,
    stages: u32,
}

impl Tiles {
    fn of(tactic: &Tactic) -> Result<Tiles, String> {
        let get = |name| tactic.get(name);
        Ok(Tiles { queries: get("q")?, keys: get("k")?, groups: get("groups")?, stages: get("stages")? })
    }

    fn tactic(self) -> Tactic {
        let params =
            [("q", self.queries), ("k", self.keys), ("groups", self.groups), ("stages", self.stages)];
        Tactic::new(Mma.name(), Mma.version(), &params)
    }

    fn threads(self) -> u32 {
        self.queries / 16 * 32 * self.groups
    }

    fn check(self, p: &Attention<Dim>) -> Result<(), String> {
        let powers = [self.queries, self.keys, self.groups].iter().all(|v| v.is_power_of_two());
        let tiles = (16..=128).contains(&self.queries) && (16..=256).contains(&self.keys) && self.groups <= 8;
        if !powers || !tiles || !(1..=2).contains(&self.stages) || self.threads() > 512 {
            return Err(format!("tiles of this size make no kernel: {self:?}"));
        }
        let per_group = self.keys / self.groups;
        if per_group < 16 {
            return Err(format!("a group has no 16 keys: {self:?}"));
        }
        // Registers: the scores, the values' sums, and the queries where they are held.
        let held = if p.dim <= 128 { p.dim / 4 } else { 4 };
        let mine = (65536 / self.threads() as usize).min(220);
        if per_group as usize / 2 + p.dim_v / 2 + held + 40 > mine {
            return Err(format!("too many registers: {self:?}"));
        }
        // Seen to spill on sm_80: what is merged is held beside the addresses of two stages.
        if self.groups >= 4 && self.stages == 2 && p.dim + p.dim_v >= 256 {
            return Err(format!("too many registers for {} dimensions: {self:?}", p.dim_v));
        }
        Ok(())
    }

    fn shared(self, p: &Attention<Dim>) -> u32 {
        let (row, row_v) = (p.dim as u32 * 2 + 16, p.dim_v as u32 * 2 + 16);
        let tiles = self.stages * self.keys * (row + row_v);
        let merge = (self.groups - 1) * (self.queries / 16) * 32 * (p.dim_v as u32 / 2 + 4) * 4;
        self.queries * row.max(row_v) + tiles.max(merge)
    }

    fn estimate(self, p: &Attention<Dim>, symbols: &Symbols, target: &Target) -> f64 {
        let (q, heads) = (size(&p.seq_q, symbols), p.heads as f64 * size(&p.batch, symbols));
        let tile = f64::from(self.queries);
        let multiprocessors = f64::from(target.multiprocessors);
        let blocks = (q / tile).ceil() * heads;
        let warps = f64::from(self.threads() / 32);
        let resident = (f64::from(target.shared_per_multiprocessor) / f64::from(self.shared(p) + 1024))
            .min(16.0 / warps)
            .floor()
            .max(1.0);
        let beside = resident.min((blocks / multiprocessors).ceil()).max(1.0);
        let waves = (blocks / (multiprocessors * beside)).ceil();
        let seen = pairs(p, symbols) / q;
        let rounds = (seen / f64::from(self.keys)).ceil();
        let per_group = f64::from(self.keys / self.groups);
        let dims = (p.dim + p.dim_v) as f64;
        // A warp's own chain for a tile: products of 16 x 8 x 16, then exponentials and the rest of the softmax.
        let products = per_group / 8.0 * dims / 16.0;
        let chain = products * 9.0 + per_group * 7.0 + 350.0;
        let per_cycle = target.tensor_tflops * 1e6 / (multiprocessors * 1700.0);
        let math = 2.0 * tile * f64::from(self.keys) * dims / per_cycle / 0.85;
        let exponentials = tile * f64::from(self.keys) / 16.0 * 1.5;
        let arrival = if self.stages == 1 { 600.0 } else { 250.0 };
        let round = (chain + arrival / beside).max(beside * (math + exponentials));
        let merge = if self.groups > 1 { 400.0 } else { 0.0 };
        let time = waves * (1300.0 + rounds * round + merge + 300.0) / 1700.0;
        let near = blocks * seen * dims * 2.0 / (target.bandwidth * 1e3 * 1.7);
        LAUNCH + time.max(near).max(bytes(p, symbols) / (target.bandwidth * 1e3 * 0.8))
    }
}

/// The problem if it is one of halves in tiles of 16, whose rows can be copied 16 bytes at a time.
pub(super) fn fits_mma<'a>(problem: &'a Problem<Dim>, target: &Target) -> Option<&'a Attention<Dim>> {
    let Problem::Attention(p) = problem else { return None };
    let typed = p.dtype == DType::F16 || (p.dtype == DType::BF16 && target.arch.sm >= 80);
    let tiled = p.dim % 16 == 0 && p.dim_v % 16 == 0 && p.dim <= 256 && p.dim_v <= 256;
    if !typed || !tiled || malformed(p).is_some() {
        return None;
    }
    let one = Dim::from(1);
    let aligned = [(&p.q, p.heads, &p.seq_q), (&p.k, p.kv_heads, &p.seq_k), (&p.v, p.kv_heads, &p.seq_k)]
        .into_iter()
        .all(|(access, heads, seq)| {
            let heads = Dim::from(heads as i64);
            let sizes = [&p.batch, &heads, seq];
            let strides = access.strides.iter().zip(sizes).filter(|(_, size)| **size != one).map(|(s, _)| s);
            codegen::power_of_two(strides.chain([&access.offset]), 8) == 8
        });
    aligned.then_some(p)
}

impl Family for Mma {
    fn name(&self) -> &'static str {
        "attention.mma"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some(p) = fits_mma(problem, target) else { return vec![] };
        let mut ranked = Vec::new();
        for queries in [128, 64, 32, 16] {
            for (keys, groups) in
                [(64, 1), (32, 1), (128, 1), (64, 2), (128, 2), (128, 4), (64, 4), (256, 4), (256, 8)]
            {
                for stages in [1, 2] {
                    let c = Tiles { queries, keys, groups, stages };
                    let idle = stages == 2 && target.arch.sm < 80;
                    if !idle && c.check(p).is_ok() && c.shared(p) <= target.shared_per_block {
                        ranked.push((c.estimate(p, symbols, target), c));
                    }
                }
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().take(16).map(|(_, c)| c.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (fits_mma(problem, target), Tiles::of(tactic)) {
            (Some(p), Ok(c)) => c.estimate(p, symbols, target),
            _ => f64::INFINITY,
        }
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        target: &Target,
    ) -> Result<Build, String> {
        let p = fits_mma(problem, target).ok_or_else(|| wrong(self, problem))?;
        let c = Tiles::of(tactic)?;
        c.check(p).map_err(|e| format!("{e} ({tactic})"))?;
        let shared = c.shared(p);
        if shared > target.shared_per_block {
            let most = target.shared_per_block;
            return Err(format!("{shared} bytes of shared memory, of which a block has {most} ({tactic})"));
        }
        let source = codegen::source(
            &format!("{} attention, {tactic}", p.dtype),
            wide(p, symbols),
            &[
                &text(p, problem),
                &codegen::constants(&[
                    ("BLOCK_Q", c.queries),
                    ("BLOCK_K", c.keys),
                    ("GROUPS", c.groups),
                    ("STAGES", c.stages),
                ]),
                include_str!("../../cuda/attention_mma.cuh"),
            ],
        );
        Ok(launch(p, problem, source, c.queries, (c.threads(), shared)))
    }
}

/// Numbers of an `attention.simt` tactic: warps of a block and queries of a warp.
#[derive(Clone, Copy, Debug)]
struct Rows {
    warps: u32,
    rows: u32,
}

impl Rows {
    fn of(tactic: &Tactic) -> Result<Rows, String> {
        Ok(Rows { warps: tactic.get("warps")?, rows: tactic.get("rows")? })
    }

    fn check(self, p: &Attention<Dim>) -> Result<(), String> {
        let wide = if p.dtype.class() == Class::F64 { 2 } else { 1 };
        let columns = p.dim_v.div_ceil(32) as u32;
        let powers = self.warps.is_power_of_two() && self.rows.is_power_of_two();
        if !powers || self.warps > 16 || self.rows > 8 || self.rows * columns * wide > 64 {
            return Err(format!("rows of this size make no kernel: {self:?}"));
        }
        Ok(())
    }

    fn shared(self, p: &Attention<Dim>) -> u32 {
        let acc = p.dtype.class().dtype().size() as u32;
        let together = 16 / acc;
        let padded = (p.dim as u32).next_multiple_of(together);
        let pitch = if padded / together % 2 == 1 { padded } else { padded + together };
        let queries = self.warps * self.rows;
        (queries * padded + 32 * pitch.max(p.dim_v as u32) + 32 * queries) * acc
    }

    fn estimate(self, p: &Attention<Dim>, symbols: &Symbols, target: &Target) -> f64 {
        let (q, heads) = (size(&p.seq_q, symbols), p.heads as f64 * size(&p.batch, symbols));
        let queries = f64::from(self.warps * self.rows);
        let rows = f64::from(self.rows);
        let multiprocessors = f64::from(target.multiprocessors);
        let blocks = (q / queries).ceil() * heads;
        let shared = f64::from(self.shared(p) + 1024);
        let resident = (f64::from(target.shared_per_multiprocessor) / shared)
            .min(32.0 / f64::from(self.warps))
            .floor()
            .max(1.0);
        let beside = resident.min((blocks / multiprocessors).ceil()).max(1.0);
        let waves = (blocks / (multiprocessors * beside)).ceil();
        let rounds = (pairs(p, symbols) / q / 32.0).ceil();
        let dims = (p.dim + p.dim_v) as f64;
        let slow = if p.dtype.class() == Class::F64 { 3.0 } else { 1.0 };
        // Cycles of one warp for 32 keys, and of a multiprocessor's shared memory.
        let chain = (dims * (rows * 2.0 + 4.0) + rows * 120.0 + 1500.0) * slow;
        let reads = f64::from(self.warps) * dims * (1.2 + rows * 0.4) * slow * 1.3;
        let round = chain.max(beside * reads);
        let time = waves * (1500.0 + rounds * round) / 1700.0;
        LAUNCH + time.max(bytes(p, symbols) / (target.bandwidth * 1e3 * 0.8))
    }
}

fn fits_simt(problem: &Problem<Dim>) -> Option<&Attention<Dim>> {
    match problem {
        Problem::Attention(p) if malformed(p).is_none() && p.dim <= 512 && p.dim_v <= 512 => Some(p),
        _ => None,
    }
}

impl Family for Simt {
    fn name(&self) -> &'static str {
        "attention.simt"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some(p) = fits_simt(problem) else { return vec![] };
        let mut ranked = Vec::new();
        for (warps, rows) in [(4, 4), (8, 4), (4, 2), (8, 2), (4, 1), (2, 1), (1, 1), (4, 8)] {
            let c = Rows { warps, rows };
            if c.check(p).is_ok() && c.shared(p) <= target.shared_per_block {
                ranked.push((c.estimate(p, symbols, target), c));
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let tactic =
            |c: Rows| Tactic::new(self.name(), self.version(), &[("warps", c.warps), ("rows", c.rows)]);
        ranked.into_iter().map(|(_, c)| tactic(c)).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (fits_simt(problem), Rows::of(tactic)) {
            (Some(p), Ok(c)) => c.estimate(p, symbols, target),
            _ => f64::INFINITY,
        }
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        target: &Target,
    ) -> Result<Build, String> {
        let p = fits_simt(problem).ok_or_else(|| wrong(self, problem))?;
        let c = Rows::of(tactic)?;
        c.check(p).map_err(|e| format!("{e} ({tactic})"))?;
        let shared = c.shared(p);
        if shared > target.shared_per_block {
            let most = target.shared_per_block;
            return Err(format!("{shared} bytes of shared memory, of which a block has {most} ({tactic})"));
        }
        let source = codegen::source(
            &format!("{} attention, {tactic}", p.dtype),
            wide(p, symbols),
            &[
                &text(p, problem),
                &codegen::constants(&[("WARPS", c.warps), ("ROWS", c.rows)]),
                include_str!("../../cuda/attention_simt.cuh"),
            ],
        );
        Ok(launch(p, problem, source, c.warps * c.rows, (32 * c.warps, shared)))
    }
}
