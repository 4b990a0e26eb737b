//! Matrix products on tensor cores (`mma.sync`): f16 and bf16, and f32 rounded to tf32.

use super::gemm_mma_operands::{Sizes, Tiling, left, right, splits};
use super::strips::{LAUNCH, wrong};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Gemm, Math};
use bakelite_host::{DType, Problem};

/// `gemm.mma`: tiles through a pipeline of shared memory, warps in a grid and in groups along k.
#[derive(Debug)]
pub struct Mma;

/// A tactic's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Config {
    m: u32,
    n: u32,
    k: u32,
    /// Warps along m and n.
    warps: [u32; 2],
    /// Sets of warps that share each tile's steps of k.
    groups: u32,
    stages: u32,
    splits: u32,
}

/// Tiles of a block and warps within, all of which give a warp a tile of 16 to 64 by 16 to 64.
const TILES: [(u32, u32, u32, u32); 19] = [
    (256, 128, 4, 2),
    (128, 256, 2, 4),
    (128, 128, 2, 2),
    (128, 128, 2, 4),
    (128, 64, 2, 2),
    (64, 128, 2, 2),
    (128, 32, 4, 1),
    (64, 64, 2, 2),
    (64, 64, 2, 1),
    (64, 32, 2, 1),
    (64, 16, 2, 1),
    (32, 128, 1, 4),
    (32, 64, 1, 2),
    (32, 64, 2, 2),
    (32, 32, 1, 1),
    (32, 32, 2, 1),
    (16, 128, 1, 4),
    (16, 64, 1, 2),
    (16, 32, 1, 1),
];

/// Tactics proposed for one problem.
const MOST: usize = 20;

impl Config {
    fn of(tactic: &Tactic) -> Result<Config, String> {
        let get = |name| tactic.get(name);
        Ok(Config {
            m: get("m")?,
            n: get("n")?,
            k: get("k")?,
            warps: [get("wm")?, get("wn")?],
            groups: get("groups")?,
            stages: get("stages")?,
            splits: get("splitk")?,
        })
    }

    fn tactic(self) -> Tactic {
        Tactic::new(
            Mma.name(),
            Mma.version(),
            &[
                ("m", self.m),
                ("n", self.n),
                ("k", self.k),
                ("wm", self.warps[0]),
                ("wn", self.warps[1]),
                ("groups", self.groups),
                ("stages", self.stages),
                ("splitk", self.splits),
            ],
        )
    }

    fn tiling(self) -> Tiling {
        Tiling { m: self.m, n: self.n, k: self.k, splits: self.splits }
    }

    fn threads(self) -> u32 {
        32 * self.warps[0] * self.warps[1] * self.groups
    }

    /// What makes no kernel, if anything.
    fn check(self, element: u32) -> Result<(), String> {
        let small = |v: u32, most: u32| (1..=most).contains(&v);
        let [wm, wn] = self.warps;
        let powers = [self.m, self.n, self.k, wm, wn, self.groups].iter().all(|v| v.is_power_of_two());
        if !powers || !small(self.m, 256) || !small(self.n, 256) || !small(self.k, 256) {
            return Err(format!("tiles and warps are powers of two up to 256: {self:?}"));
        }
        if !small(wm, 8) || !small(wn, 8) || !small(self.groups, 8) || self.threads() > 1024 {
            return Err(format!("too many warps: {self:?}"));
        }
        if self.m / wm < 16 || self.n / wn < 16 || (self.m / wm) * (self.n / wn) > 64 * 64 {
            return Err(format!("a warp takes 16 x 16 to 64 x 64: {self:?}"));
        }
        if self.k * element < 32 * self.groups
            || self.stages < 2
            || self.stages > 8
            || !small(self.splits, 64)
        {
            return Err(format!("k of a tile, groups, stages or splits do not fit: {self:?}"));
        }
        // A row of 16-byte chunks is copied by part of the block.
        if self.k.max(self.m).max(self.n) * element / 16 > self.threads() {
            return Err(format!("a row of a tile is wider than the block: {self:?}"));
        }
        Ok(())
    }

    fn pipeline(self, element: u32) -> u32 {
        self.stages * (self.m + self.n) * self.k * element
    }

    /// Bytes that the sums of `pass` mma tiles of each warp take on their way out.
    fn slab(self, pass: u32) -> u32 {
        self.groups * self.warps[0] * pass * 16 * (self.n + 8) * 4
    }

    /// As many mma tiles of rows at once as the pipeline's memory holds, and at least one.
    fn pass(self, element: u32) -> u32 {
        let most = self.m / self.warps[0] / 16;
        (0..)
            .map(|i| most >> i)
            .find(|pass| *pass <= 1 || self.slab(*pass) <= self.pipeline(element))
            .unwrap_or(1)
            .max(1)
    }

    fn shared(self, element: u32) -> u32 {
        self.pipeline(element).max(self.slab(self.pass(element)))
    }

    /// Estimated µs. A block's time is what its slowest resource takes: latency of its chain of steps, tensor cores, reads of
    /// shared memory, arrival of tiles; a launch's is that of its waves, or of the bytes it moves.
    fn estimate(self, g: &Gemm<Dim>, s: &Sizes, target: &Target) -> f64 {
        let element = g.dtype.size() as u32;
        let (m, n, k) = (f64::from(self.m), f64::from(self.n), f64::from(self.k));
        let [warp_m, warp_n] = [m / f64::from(self.warps[0]), n / f64::from(self.warps[1])];
        let (groups, parts) = (f64::from(self.groups), f64::from(self.splits));
        let warps = f64::from(self.threads() / 32);
        let multiprocessors = f64::from(target.multiprocessors);
        let tiles = (s.m / m).ceil() * (s.n / n).ceil();
        let blocks = tiles * s.batch * parts;
        let cycles_per_us = 1700.0;

        let registers = warp_m * warp_n / 32.0 + (warp_m + warp_n) + 50.0;
        let threads_per_multiprocessor =
            if matches!(target.arch.sm, 75 | 86 | 89 | 120) { 1024.0 } else { 2048.0 };
        let resident = (f64::from(target.shared_per_multiprocessor) / f64::from(self.shared(element) + 1024))
            .min(65536.0 / (registers.min(255.0) * warps * 32.0))
            .min(threads_per_multiprocessor / (warps * 32.0))
            .floor()
            .max(1.0);
        let beside = resident.min((blocks / multiprocessors).ceil()).max(1.0);
        let waves = (blocks / (multiprocessors * beside)).ceil();

        let rounds = ((s.k / k).ceil() / parts).ceil();
        // Steps of 32 bytes of k in a tile.
        let steps = k * f64::from(element) / 32.0;
        let per_cycle = target.tensor_tflops * 1e6 / (multiprocessors * cycles_per_us);
        let math = 2.0 * m * n * k / per_cycle * if element == 4 { 2.0 } else { 1.0 } / 0.9;
        let words = if element == 4 && !(left(g).along_k && right(g).along_k) { 2.0 } else { 1.0 };
        let reads = steps * warps / groups * (warp_m + warp_n) * 32.0 / 128.0 * words;
        let latency = steps / groups * (70.0 + warp_m * warp_n / 64.0);
        let arrival = 900.0 / f64::from(self.stages - 1);
        let align = left(g).align.min(right(g).align) * element;
        let copies = match align {
            16.. => 1.0,
            8..16 => 2.0,
            4..8 => 4.0,
            _ => 16.0,
        } * (m + n)
            * k
            * f64::from(element)
            / 16.0
            / 32.0;
        let round = latency.max(arrival).max(beside * math.max(reads).max(copies)) + 30.0;
        let leave = 300.0 + beside * m * n * groups * 8.0 / 128.0;
        // The first tile comes at some 40 bytes a cycle, with nothing to hide it.
        let fill = 800.0 + beside * (m + n) * k * f64::from(element) / 40.0;
        let chain = waves * (fill + rounds * round + leave) / cycles_per_us;

        let moved = blocks * (m + n) * (s.k / parts) * f64::from(element);
        let far = s.bytes(g, f64::from(element)) / (target.bandwidth * 1e3 * 0.85);
        let near = moved / (target.bandwidth * 1e3 * 1.7);
        let again = if self.splits > 1 {
            1.3 + 2.0 * parts * s.batch * s.m * s.n * 4.0 / (target.bandwidth * 1e3 * 1.5)
        } else {
            0.0
        };
        LAUNCH + chain.max(near).max(far) + again
    }
}

/// Whether tensor cores compute it: types, and operands that are contiguous along some dimension.
fn fits<'a>(problem: &'a Problem<Dim>, target: &Target) -> Option<&'a Gemm<Dim>> {
    let Problem::Gemm(g) = problem else { return None };
    let ampere = target.arch.sm >= 80;
    let typed = match (g.dtype, g.math) {
        (DType::F16, _) => true,
        (DType::BF16, _) | (DType::F32, Math::Tf32 | Math::Tf32x3) => ampere,
        _ => false,
    };
    (typed && left(g).dense && right(g).dense).then_some(g)
}

fn candidates(g: &Gemm<Dim>, sizes: &Sizes, target: &Target) -> Vec<Config> {
    let element = g.dtype.size() as u32;
    let stages: &[u32] = if target.arch.sm < 80 { &[2] } else { &[3, 4, 5, 2] };
    let mut found = Vec::new();
    for (m, n, wm, wn) in TILES {
        let tiles = (sizes.m / f64::from(m)).ceil() * (sizes.n / f64::from(n)).ceil() * sizes.batch;
        let parts = splits(tiles, sizes.k, f64::from(target.multiprocessors), 128.0);
        for groups in [1, 2, 4, 8] {
            for bytes in [64, 128, 256] {
                for stages in stages.iter().copied() {
                    for splits in parts.iter().copied() {
                        let k = bytes / element;
                        let c = Config { m, n, k, warps: [wm, wn], groups, stages, splits };
                        // More than 16 warps, or large tiles in groups, only add traffic.
                        let sensible = c.threads() <= 512
                            && (groups == 1 || m * n <= 128 * 64)
                            // Long tiles are for groups: without, more stages of shorter ones do better.
                            && (groups > 1 || bytes < 256);
                        if sensible
                            && c.check(element).is_ok()
                            && c.shared(element) <= target.shared_per_block
                        {
                            found.push(c);
                        }
                    }
                }
            }
        }
    }
    found
}

impl Family for Mma {
    fn name(&self) -> &'static str {
        "gemm.mma"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some(g) = fits(problem, target) else { return vec![] };
        let sizes = Sizes::of(g, symbols);
        let mut ranked: Vec<(f64, Config)> =
            candidates(g, &sizes, target).into_iter().map(|c| (c.estimate(g, &sizes, target), c)).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        // The estimate is rough: a few variants of many tiles beat many variants of a few.
        let mut kept: Vec<Config> = Vec::new();
        for (_, c) in ranked {
            let alike = |o: &&Config| (o.m, o.n, o.warps) == (c.m, c.n, c.warps);
            let nearly = |o: &Config| alike(&o) && o.groups == c.groups && o.splits == c.splits;
            if kept.iter().filter(alike).count() < 3 && !kept.iter().any(nearly) {
                kept.push(c);
            }
            if kept.len() == MOST {
                break;
            }
        }
        kept.into_iter().map(Config::tactic).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (fits(problem, target), Config::of(tactic)) {
            (Some(g), Ok(c)) => c.estimate(g, &Sizes::of(g, symbols), target),
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
        let g = fits(problem, target).ok_or_else(|| wrong(self, problem))?;
        let c = Config::of(tactic)?;
        let element = g.dtype.size() as u32;
        c.check(element).map_err(|e| format!("{e} ({tactic})"))?;
        let shared = c.shared(element);
        if shared > target.shared_per_block {
            let most = target.shared_per_block;
            return Err(format!("{shared} bytes of shared memory, of which a block has {most} ({tactic})"));
        }
        let tiling = c.tiling();
        let most = if c.splits > 1 { 4 } else { (16 / g.epilogue.out().size() as u32).clamp(2, 8) };
        let text = codegen::source(
            &format!("{} matrix product, {tactic}", g.dtype),
            tiling.wide(g, symbols),
            &[
                &tiling.text(g, problem, symbols),
                &codegen::constants(&[
                    ("ALIGN_A", left(g).align),
                    ("ALIGN_B", right(g).align),
                    ("BLOCK_M", c.m),
                    ("BLOCK_N", c.n),
                    ("BLOCK_K", c.k),
                    ("WARPS_M", c.warps[0]),
                    ("WARPS_N", c.warps[1]),
                    ("GROUPS", c.groups),
                    ("STAGES", c.stages),
                    ("PASS", c.pass(element)),
                    ("VECTOR", Tiling::vector(g, most)),
                ]),
                match (g.dtype, g.math) {
                    (DType::F32, Math::Tf32x3) => "#define TF32\n#define TF32X3",
                    (DType::F32, _) => "#define TF32",
                    _ => "",
                },
                include_str!("../../cuda/gemm_mma.cuh"),
            ],
        );
        Ok(tiling.build(g, problem, symbols, text, &tiling.tiles(g), (c.threads(), shared)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// `Tile::offset` of gemm_mma.cuh.
    fn offset(chunks: usize, words: bool, row: usize, chunk: usize) -> usize {
        let (period, mask) = (if chunks >= 8 { 1 } else { 8 / chunks }, chunks.min(8) - 1);
        let turn = (row / period * if words { 2 } else { 1 }) & mask;
        (row * chunks + (chunk ^ turn)) * 16
    }

    #[test]
    fn the_swizzle_permutes_and_avoids_bank_conflicts() {
        for words in [false, true] {
            for chunks in [2, 4, 8, 16, 32, 64].into_iter().filter(|c| !words || *c >= 4) {
                let all = (0..32).flat_map(|r| (0..chunks).map(move |c| (r, c)));
                let places: BTreeSet<usize> = all.map(|(r, c)| offset(chunks, words, r, c)).collect();
                assert_eq!(places, (0..32 * chunks).map(|i| i * 16).collect(), "{chunks} chunks");
                for chunk in 0..chunks {
                    for first in [0, 8, 16] {
                        if words {
                            // Four rows (of k) of eight words: every bank once.
                            let first = first / 2;
                            let banks: BTreeSet<usize> = (0..32)
                                .filter(|_| chunk % 2 == 0)
                                .map(|l| (first + l % 4, chunk * 4 + l / 4))
                                .map(|(row, word)| (offset(chunks, true, row, word / 4) / 4 + word % 4) % 32)
                                .collect();
                            assert!(banks.len() == 32 || chunk % 2 == 1, "{chunks} chunks, row {first}");
                        } else {
                            // Eight rows of one chunk, as ldmatrix reads them: every 16-byte bank once.
                            let banks: BTreeSet<usize> = (first..first + 8)
                                .map(|r| offset(chunks, false, r, chunk) / 16 % 8)
                                .collect();
                            assert_eq!(banks.len(), 8, "{chunks} chunks, row {first}");
                        }
                    }
                }
            }
        }
    }

    /// What lane `lane` holds after ldmatrix.x4, in register `register`, half `half`: which row and column of the 16-bit
    /// elements that `address` (row and 16-byte chunk, by lane) points at.
    fn ldmatrix(
        address: &dyn Fn(usize) -> (usize, usize),
        transposed: bool,
        lane: usize,
        register: usize,
        half: usize,
    ) -> (usize, usize) {
        let (row, column) = (lane / 4, lane % 4 * 2 + half);
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        let (at, chunk) = address(register * 8 + row);
        (at, chunk * 8 + column)
    }

    #[test]
    fn fragments_are_what_the_instruction_multiplies() {
        for lane in 0..32 {
            for half in 0..2 {
                for register in 0..4 {
                    // m16n8k16: a[register] holds row lane / 4 (+ 8), k lane % 4 * 2 (+ 8).
                    let m = lane / 4 + register % 2 * 8;
                    let k = lane % 4 * 2 + half + register / 2 * 8;
                    let rows = ldmatrix(&|l| (l % 16, l / 16), false, lane, register, half);
                    assert_eq!(rows, (m, k));
                    let columns = ldmatrix(&|l| (l % 8 + l / 16 * 8, l / 8 % 2), true, lane, register, half);
                    assert_eq!(columns, (k, m));
                    // b[register % 2] of the mma tile register / 2: column lane / 4, k as above.
                    let n = lane / 4 + register / 2 * 8;
                    let k = lane % 4 * 2 + half + register % 2 * 8;
                    let columns = ldmatrix(&|l| (l % 8 + l / 16 * 8, l / 8 % 2), false, lane, register, half);
                    assert_eq!(columns, (n, k));
                    let rows = ldmatrix(&|l| (l % 16, l / 16), true, lane, register, half);
                    assert_eq!(rows, (k, n));
                }
            }
        }
    }

    #[test]
    fn every_listed_tile_makes_kernels_and_the_default_fits_the_problem() {
        for (m, n, wm, wn) in TILES {
            let whole = Config { m, n, k: 32, warps: [wm, wn], groups: 1, stages: 3, splits: 1 };
            assert_eq!(whole.check(2), Ok(()), "{m} x {n}");
            assert_eq!(whole.tactic().to_string().parse().and_then(|t| Config::of(&t)), Ok(whole));
            assert!((m / wm / 16) % whole.pass(2) == 0 && whole.slab(whole.pass(2)) <= whole.shared(2));
        }
        let target = Target::of("sm_90a".parse().unwrap());
        let best = |m: i64, n: i64, k: i64| {
            let size = Dim::from;
            let g = Gemm {
                batch: 1.into(),
                m: m.into(),
                n: n.into(),
                k: k.into(),
                dtype: DType::F16,
                math: Math::Exact,
                a: [size(m * k), size(k), size(1)],
                b: [size(k * n), size(n), size(1)],
                epilogue: bakelite_host::problem::Epilogue::store(DType::F16),
            };
            let tactics = Mma.tactics(&g.into(), &Symbols::new(), &target);
            assert!((8..=30).contains(&tactics.len()), "{}", tactics.len());
            Config::of(&tactics[0]).unwrap()
        };
        // A large product wants large tiles and no splits; a deep narrow one splits k somehow.
        let large = best(4096, 4096, 4096);
        assert!(large.m * large.n >= 128 * 128 && large.splits == 1, "{large:?}");
        let deep = best(49, 512, 2048);
        assert!(deep.groups * deep.splits > 1, "{deep:?}");
    }
}
