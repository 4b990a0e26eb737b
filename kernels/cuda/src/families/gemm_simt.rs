//! Matrix products on the ordinary cores: every element type, every stride, exact arithmetic.

use super::gemm_mma_operands::{Operand, Sizes, Tiling, left, right, splits};
use super::strips::{LAUNCH, wrong};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::Gemm;
use bakelite_host::{Class, DType, Problem};

/// `gemm.simt`: tiles in registers.
#[derive(Debug)]
pub struct Simt;

/// A tactic's numbers: a block's tile and a thread's.
#[derive(Clone, Copy, Debug)]
struct Config {
    tile: Tiling,
    thread: [u32; 2],
}

/// m, n, k of a block, m, n of a thread.
const TILES: [(u32, u32, u32, u32, u32); 10] = [
    (128, 128, 8, 8, 8),
    (128, 128, 16, 8, 8),
    (128, 64, 8, 8, 8),
    (64, 128, 8, 8, 8),
    (64, 64, 8, 8, 4),
    (64, 64, 16, 4, 4),
    (32, 64, 16, 4, 4),
    (64, 32, 16, 4, 4),
    (32, 32, 16, 4, 4),
    (16, 64, 16, 4, 4),
];

/// Tactics proposed for one problem.
const MOST: usize = 12;

impl Config {
    fn of(tactic: &Tactic) -> Result<Config, String> {
        let get = |name| tactic.get(name);
        let tile = Tiling { m: get("m")?, n: get("n")?, k: get("k")?, splits: get("splitk")? };
        Ok(Config { tile, thread: [get("tm")?, get("tn")?] })
    }

    fn tactic(self) -> Tactic {
        let (tile, [tm, tn]) = (self.tile, self.thread);
        let params =
            [("m", tile.m), ("n", tile.n), ("k", tile.k), ("tm", tm), ("tn", tn), ("splitk", tile.splits)];
        Tactic::new(Simt.name(), Simt.version(), &params)
    }

    fn threads(self) -> u32 {
        self.tile.m / self.thread[0] * (self.tile.n / self.thread[1])
    }

    fn shared(self, accumulator: u32) -> u32 {
        2 * self.tile.k * (self.tile.m + self.tile.n + 2 * (16 / accumulator)) * accumulator
    }

    fn check(self, accumulator: u32) -> Result<(), String> {
        let (tile, [tm, tn]) = (self.tile, self.thread);
        let powers = [tile.m, tile.n, tile.k, tm, tn].iter().all(|v| v.is_power_of_two());
        let small =
            tile.m <= 256 && tile.n <= 256 && (4..=64).contains(&tile.k) && (1..=64).contains(&tile.splits);
        let thread = (4..=8).contains(&tm) && (4..=8).contains(&tn) && tile.m >= tm && tile.n >= tn;
        if !powers || !small || !thread || !(32..=1024).contains(&self.threads()) {
            return Err(format!("tiles of this size make no kernel: {self:?}"));
        }
        // Registers: wide accumulators are pairs.
        if tm * tn * accumulator > 64 * 4 || self.shared(accumulator) > 48 * 1024 {
            return Err(format!("accumulators of {accumulator} bytes need smaller tiles than {self:?}"));
        }
        Ok(())
    }

    fn estimate(self, g: &Gemm<Dim>, s: &Sizes, target: &Target) -> f64 {
        let (m, n, parts) = (f64::from(self.tile.m), f64::from(self.tile.n), f64::from(self.tile.splits));
        let multiprocessors = f64::from(target.multiprocessors);
        let threads = f64::from(self.threads());
        let blocks = (s.m / m).ceil() * (s.n / n).ceil() * s.batch * parts;
        let cycles_per_us = 1700.0;
        let [tm, tn] = self.thread.map(f64::from);
        let registers = (tm * tn * 1.3 + (tm + tn) * 2.0 + 40.0).min(255.0);
        let resident = (65536.0 / (registers * threads)).min(2048.0 / threads).floor().max(1.0);
        let beside = resident.min((blocks / multiprocessors).ceil()).max(1.0);
        let waves = (blocks / (multiprocessors * beside)).ceil();
        let rounds = ((s.k / f64::from(self.tile.k)).ceil() / parts).ceil();
        // Per step of k of one block: fused multiply-adds, reads of shared memory, and the latency of few warps.
        let per_cycle =
            target.simt_tflops * 1e6 / (multiprocessors * cycles_per_us) / 2.0 * rate(g.dtype, target);
        let math = m * n / per_cycle / 0.85;
        let reads = threads * (tm + tn) * 4.0 / 128.0 / 1.6;
        let latency = tm * tn / 2.0 + 30.0;
        let copies = {
            let vector = |o: Operand| f64::from(o.align.min(4));
            (m / vector(left(g)) + n / vector(right(g))) / 16.0
        };
        let step = latency.max(beside * (math.max(reads) + copies));
        let round = (f64::from(self.tile.k) * step + 60.0).max(700.0 / beside.sqrt());
        let chain = waves * (900.0 + rounds * round + 300.0) / cycles_per_us;
        let element = g.dtype.size() as f64;
        let far = s.bytes(g, element) / (target.bandwidth * 1e3 * 0.85);
        let near = blocks * (m + n) * (s.k / parts) * element / (target.bandwidth * 1e3 * 1.5);
        let again = if self.tile.splits > 1 {
            1.3 + 2.0 * parts * s.batch * s.m * s.n * 4.0 / (target.bandwidth * 1e3 * 1.5)
        } else {
            0.0
        };
        LAUNCH + chain.max(near).max(far) + again
    }
}

/// How fast products of `dtype` are, beside f32.
pub(super) fn rate(dtype: DType, target: &Target) -> f64 {
    match dtype.class() {
        Class::F64 if matches!(target.arch.sm, 80 | 90 | 100) => 0.5,
        Class::F64 => 1.0 / 64.0,
        Class::I64 => 0.1,
        _ => 1.0,
    }
}

/// Elements moved at once to or from registers: at most four, and 16 bytes.
pub(super) fn vector(operand: Operand, dtype: DType) -> u32 {
    operand.align.min(4).min(16 / dtype.size() as u32)
}

/// The problem if its products are exact ones of numbers. f32 that may round to tf32 need not.
pub(super) fn fits(problem: &Problem<Dim>) -> Option<&Gemm<Dim>> {
    match problem {
        Problem::Gemm(g) if g.dtype != DType::Bool => Some(g),
        _ => None,
    }
}

impl Family for Simt {
    fn name(&self) -> &'static str {
        "gemm.simt"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some(g) = fits(problem) else { return vec![] };
        let sizes = Sizes::of(g, symbols);
        let accumulator = g.dtype.class().dtype().size() as u32;
        let mut ranked = Vec::new();
        for (m, n, k, tm, tn) in TILES {
            let tiles = (sizes.m / f64::from(m)).ceil() * (sizes.n / f64::from(n)).ceil() * sizes.batch;
            for splits in splits(tiles, sizes.k, f64::from(target.multiprocessors), 64.0) {
                let c = Config { tile: Tiling { m, n, k, splits }, thread: [tm, tn] };
                if c.check(accumulator).is_ok() {
                    ranked.push((c.estimate(g, &sizes, target), c));
                }
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().take(MOST).map(|(_, c)| c.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (fits(problem), Config::of(tactic)) {
            (Some(g), Ok(c)) => c.estimate(g, &Sizes::of(g, symbols), target),
            _ => f64::INFINITY,
        }
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let g = fits(problem).ok_or_else(|| wrong(self, problem))?;
        let c = Config::of(tactic)?;
        c.check(g.dtype.class().dtype().size() as u32).map_err(|e| format!("{e} ({tactic})"))?;
        let text = codegen::source(
            &format!("{} matrix product, {tactic}", g.dtype),
            c.tile.wide(g, symbols),
            &[
                &c.tile.text(g, problem, symbols),
                &codegen::constants(&[
                    ("ALIGN_A", vector(left(g), g.dtype)),
                    ("ALIGN_B", vector(right(g), g.dtype)),
                    ("BLOCK_M", c.tile.m),
                    ("BLOCK_N", c.tile.n),
                    ("BLOCK_K", c.tile.k),
                    ("THREAD_M", c.thread[0]),
                    ("THREAD_N", c.thread[1]),
                    ("VECTOR", Tiling::vector(g, 4)),
                ]),
                include_str!("../../cuda/gemm_simt.cuh"),
            ],
        );
        Ok(c.tile.build(g, problem, symbols, text, &c.tile.tiles(g), (c.threads(), 0)))
    }
}
