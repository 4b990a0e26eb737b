//! Matrix products of few rows, bound by reading the right operand once: the last layer of a classifier at small batch, or
//! one step of a decoder.

use super::gemm_mma_operands::{Sizes, Tiling, left, right, splits};
use super::gemm_simt::{fits, rate};
use super::strips::{LAUNCH, wrong};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::Problem;
use bakelite_host::problem::Gemm;

/// `gemm.gemv`: a warp or a lane for each few columns.
#[derive(Debug)]
pub struct Gemv;

/// Rows it can hold in registers.
const MOST_ROWS: i64 = 16;

/// A tactic's numbers.
#[derive(Clone, Copy, Debug)]
struct Config {
    /// Columns of a warp where k is contiguous, else of a lane.
    columns: u32,
    warps: u32,
    /// Warps that share columns and split k.
    groups: u32,
    splits: u32,
}

impl Config {
    fn of(tactic: &Tactic) -> Result<Config, String> {
        let get = |name| tactic.get(name);
        Ok(Config {
            columns: get("columns")?,
            warps: get("warps")?,
            groups: get("groups")?,
            splits: get("splitk")?,
        })
    }

    fn tactic(self) -> Tactic {
        let params = [
            ("columns", self.columns),
            ("warps", self.warps),
            ("groups", self.groups),
            ("splitk", self.splits),
        ];
        Tactic::new(Gemv.name(), Gemv.version(), &params)
    }

    /// Columns of a block.
    fn spread(self, along_k: bool) -> u32 {
        if along_k { self.warps / self.groups * self.columns } else { 32 * self.columns }
    }

    fn check(self, g: &Gemm<Dim>, rows: u32) -> Result<(), String> {
        let b = right(g);
        let accumulator = g.dtype.class().dtype().size() as u32;
        let powers = [self.columns, self.warps, self.groups].iter().all(|v| v.is_power_of_two());
        if !powers || self.columns > 8 || self.warps > 16 || !(1..=64).contains(&self.splits) {
            return Err(format!("{self:?} makes no kernel"));
        }
        if self.groups > self.warps || (!b.along_k && self.groups != self.warps) {
            return Err(format!("{} groups of {} warps", self.groups, self.warps));
        }
        if !b.along_k && self.columns > b.align.min(16 / g.dtype.size() as u32) {
            return Err(format!("{} columns of a lane are not aligned", self.columns));
        }
        if rows * self.columns * accumulator > 64 * 4 {
            return Err(format!("{rows} rows of {} columns are too many for the registers", self.columns));
        }
        let shared = self.groups * rows * self.spread(b.along_k) * accumulator;
        if shared > 48 * 1024 {
            return Err(format!("{shared} bytes of shared memory"));
        }
        Ok(())
    }

    fn estimate(self, g: &Gemm<Dim>, s: &Sizes, target: &Target) -> f64 {
        let along_k = right(g).along_k;
        let element = g.dtype.size() as f64;
        let multiprocessors = f64::from(target.multiprocessors);
        let parts = f64::from(self.splits);
        let blocks = (s.n / f64::from(self.spread(along_k))).ceil() * s.batch * parts;
        let warps = blocks * f64::from(self.warps);
        // Bytes that one warp asks for at once, of b.
        let vector = if along_k { f64::from(width(g)) } else { f64::from(self.columns) };
        let ask = 32.0 * vector * element * if along_k { f64::from(self.columns) } else { 1.0 };
        let rounds = s.k * s.n * s.batch * element / (warps * ask);
        // Four requests overlap, and each takes about 700 cycles; 64 warps fit a multiprocessor.
        let waves = (warps / (multiprocessors * 48.0)).ceil();
        let latency = waves * (700.0 + (rounds / waves / 4.0).ceil() * 700.0) / 1700.0;
        let sums = if along_k { 5.0 * s.m * f64::from(self.columns) * 8.0 / 1700.0 } else { 0.2 };
        let math = 2.0 * s.batch * s.m * s.n * s.k / (target.simt_tflops * 1e6 * rate(g.dtype, target) * 0.4);
        // Lanes that read every row of a anew.
        let near = warps * rounds * 32.0 * vector * s.m * element / (target.bandwidth * 1e3 * 8.0);
        let far = s.bytes(g, element) / (target.bandwidth * 1e3 * 0.85);
        let again = if self.splits > 1 { 1.3 } else { 0.0 };
        LAUNCH + latency.max(far).max(math).max(near) + sums + again
    }
}

/// Elements of b, and of a, that a lane takes at once along k.
fn width(g: &Gemm<Dim>) -> u32 {
    right(g).align.min(16 / g.dtype.size() as u32)
}

fn rows(g: &Gemm<Dim>, symbols: &Symbols) -> Option<u32> {
    let rows = g.m.upper(symbols);
    (1..=MOST_ROWS).contains(&rows).then_some(rows as u32)
}

impl Family for Gemv {
    fn name(&self) -> &'static str {
        "gemm.gemv"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some(g) = fits(problem) else { return vec![] };
        let Some(rows) = rows(g, symbols) else { return vec![] };
        let (sizes, along_k) = (Sizes::of(g, symbols), right(g).along_k);
        let mut ranked = Vec::new();
        for columns in [1, 2, 4] {
            for (warps, groups) in [(8, 1), (8, 2), (8, 4), (8, 8), (4, 1), (4, 4), (16, 16)] {
                let spread = Config { columns, warps, groups, splits: 1 }.spread(along_k);
                let tiles = (sizes.n / f64::from(spread)).ceil() * sizes.batch;
                for splits in splits(tiles, sizes.k, f64::from(target.multiprocessors) * 2.0, 256.0) {
                    let c = Config { columns, warps, groups, splits };
                    if c.check(g, rows).is_ok() {
                        ranked.push((c.estimate(g, &sizes, target), c));
                    }
                }
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().take(8).map(|(_, c)| c.tactic()).collect()
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
        let rows = rows(g, symbols).ok_or_else(|| format!("m may exceed {MOST_ROWS} rows ({tactic})"))?;
        c.check(g, rows).map_err(|e| format!("{e} ({tactic})"))?;
        let (a, b) = (left(g), right(g));
        let spread = c.spread(b.along_k);
        let tiling = Tiling { m: rows, n: spread, k: 1, splits: c.splits };
        let align_b = if b.along_k { width(g) } else { c.columns };
        let unroll = if rows * c.columns > 16 { 2 } else { 4 };
        let text = codegen::source(
            &format!("{} product of few rows, {tactic}", g.dtype),
            tiling.wide(g, symbols),
            &[
                &tiling.text(g, problem, symbols),
                &codegen::constants(&[
                    ("ALIGN_A", a.align),
                    ("ALIGN_B", align_b),
                    ("ROWS", rows),
                    ("COLUMNS", c.columns),
                    ("WARPS", c.warps),
                    ("GROUPS", c.groups),
                    ("UNROLL", unroll),
                ]),
                include_str!("../../cuda/gemm_simt_gemv.cuh"),
            ],
        );
        let tiles = g.n.ceil_div(&Dim::from(i64::from(spread)));
        Ok(tiling.build(g, problem, symbols, text, &tiles, (32 * c.warps, 0)))
    }
}
