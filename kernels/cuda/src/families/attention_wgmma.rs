//! `attention.wgmma`: attention over any number of keys on Hopper's tensor cores, with warpgroups that take turns between
//! products and powers. Halves, up to 128 dimensions of a head.

use super::attention::{by_key, bytes, fits_mma, launch, pairs, size, text, wide};
use super::attention_maps;
use super::strips::{LAUNCH, wrong};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use crate::tensor_map::TensorMap;
use crate::wgmma;
use bakelite_host::Problem;
use bakelite_host::problem::Attention;

const MAINLOOP: &str =
    concat!(include_str!("../../cuda/attention_tile.cuh"), include_str!("../../cuda/attention_wgmma.cuh"));

/// The family.
#[derive(Debug)]
pub struct AttentionWgmma;

/// What a tactic says.
#[derive(Clone, Copy, Debug)]
struct Tile {
    /// Warpgroups that multiply, of 64 queries each.
    groups: u32,
    /// Keys at a time.
    keys: u32,
    stages: u32,
    /// Blocks that are to fit on a multiprocessor.
    blocks: u32,
    /// 1: the copy engine fetches rows, by tensor maps.
    map: u32,
    /// Blocks of a cluster that share keys and values.
    share: u32,
}

impl Tile {
    fn of(tactic: &Tactic) -> Result<Tile, String> {
        let get = |name| tactic.get(name);
        Ok(Tile {
            groups: get("groups")?,
            keys: get("k")?,
            stages: get("stages")?,
            blocks: get("blocks")?,
            map: get("map")?,
            share: get("share")?,
        })
    }

    fn tactic(self) -> Tactic {
        let params = [
            ("groups", self.groups),
            ("k", self.keys),
            ("stages", self.stages),
            ("blocks", self.blocks),
            ("map", self.map),
            ("share", self.share),
        ];
        Tactic::new(AttentionWgmma.name(), AttentionWgmma.version(), &params)
    }

    const fn queries(self) -> u32 {
        64 * self.groups
    }

    const fn threads(self) -> u32 {
        128 * (self.groups + 1)
    }

    fn shared(self, p: &Attention<Dim>) -> u32 {
        let panel = |dim: usize| dim.div_ceil(64) as u32 * 128;
        let mask = if by_key(p) { self.keys * 4 } else { 0 };
        let ring = self.keys * (panel(p.dim) + panel(p.dim_v)) + mask;
        self.queries() * panel(p.dim) + self.stages * ring + 32 * self.stages + 16 * self.groups
    }

    fn check(self, p: &Attention<Dim>, symbols: &Symbols, target: &Target) -> Result<(), String> {
        let fail = |what: &str| Err(format!("`{}`: {what}", self.tactic()));
        if !matches!(self.groups, 1..=3) || !matches!(self.stages, 2..=4) || !matches!(self.blocks, 1..=2) {
            return fail("1 to 3 warpgroups, 2 to 4 stages, 1 or 2 blocks");
        }
        if self.keys == 0 || self.keys > 256 || !self.keys.is_multiple_of(16) {
            return fail("tiles of at most 256 keys, in 16s");
        }
        if self.map > 1 || (self.map == 1 && self.maps(p, symbols).is_none()) {
            return fail("rows that tensor maps do not walk");
        }
        let alone = p.causal || by_key(p) || self.map == 0;
        if !matches!(self.share, 1..=2) || (self.share > 1 && alone) {
            return fail("1 or 2 blocks share keys, which the copy engine fetches and which all see alike");
        }
        // Sums, scores and powers; ptxas wants the operands of one instruction within what the kernel starts with.
        let held = p.dim_v as u32 / 2 + self.keys / 2 + self.keys / 4;
        let (start, split) = self.registers(p);
        let multiplying = split.map_or(start, |(_, multiplying)| multiplying);
        let more = (p.dim + p.dim_v) as u32 / 32 + 28;
        if held + more > multiplying || self.keys.max(p.dim_v as u32) / 2 + 28 > start {
            return fail(&format!("{held} registers beside {multiplying}"));
        }
        let shared = self.shared(p);
        if shared > target.shared_per_block
            || (shared + 1024) * self.blocks > target.shared_per_multiprocessor
        {
            return fail(&format!("{shared} bytes of shared memory of {}", target.shared_per_block));
        }
        Ok(())
    }

    fn maps(self, p: &Attention<Dim>, symbols: &Symbols) -> Option<[TensorMap; 3]> {
        let part = self.keys / self.share;
        attention_maps::maps(p, [64, part, part], symbols)
    }

    fn registers(self, p: &Attention<Dim>) -> (u32, Option<(u32, u32)>) {
        registers(self.groups, self.blocks, (self.map == 1).then_some(24), p)
    }

    /// Estimated µs.
    fn estimate(self, p: &Attention<Dim>, symbols: &Symbols, target: &Target) -> f64 {
        let (q, heads) = (size(&p.seq_q, symbols), p.heads as f64 * size(&p.batch, symbols));
        let (rows, keys) = (f64::from(self.queries()), f64::from(self.keys));
        let sms = f64::from(target.multiprocessors);
        let items = (q / rows).ceil() * heads;
        let per_sm = (items / sms).ceil();
        let beside = f64::from(self.blocks).min(per_sm);
        let rounds = (pairs(p, symbols) / q / keys + if p.causal { 0.5 } else { 0.0 }).ceil();
        // Cycles of a tile: 4096 multiplications and additions, 16 powers and 128 other results a cycle, of which some are
        // hidden behind each other.
        let products = 2.0 * rows * keys * (p.dim + p.dim_v) as f64 / 4096.0;
        let powers = rows * keys * (1.0 / 16.0 + 4.0 / 128.0);
        let alone = match f64::from(self.groups) * beside {
            0.0..2.0 => 1.4,
            2.0..3.0 => 1.1,
            _ => 0.95,
        };
        let tile = (products + 670.0).max(powers * alone + 415.0);
        let fill = keys * (p.dim + p.dim_v) as f64 * 2.0 / 37.0;
        let cycles = per_sm * (rounds * tile.max(fill) + 500.0 + f64::from(self.groups) * 300.0);
        let memory = bytes(p, symbols) / (target.bandwidth * 800.0);
        // Of what was measured: maps save threads' work and what it takes of registers; sharing, reads from L2.
        let (factor, cluster) = match (self.map, self.share) {
            (0, _) => (1.0, 0.0),
            (_, 1) => (0.96, 0.0),
            _ => (0.96 * 0.985, 0.7),
        };
        LAUNCH - 0.6 + 0.25 * f64::from(self.groups) + cluster + (factor * cycles / 1750.0).max(memory)
    }
}

/// Registers of a thread of `groups` multiplying warpgroups and a filling one, `blocks` times on a multiprocessor: at the start,
/// then of a filling and of a multiplying one where they differ. `asking`: of a filling thread where the copy engine fetches rows.
pub(super) fn registers(
    groups: u32,
    blocks: u32,
    asking: Option<u32>,
    p: &Attention<Dim>,
) -> (u32, Option<(u32, u32)>) {
    let start = (65536 / (128 * (groups + 1) * blocks) / 8 * 8).min(240);
    if groups == 1 && blocks == 1 {
        return (start, None);
    }
    // Rows whose chunks are not shared evenly among threads take some to be found.
    let even = [p.dim, p.dim_v].iter().all(|dim| matches!(dim, 64 | 128));
    let filling = match (asking, even, groups) {
        (Some(asking), ..) if !by_key(p) => asking,
        (_, true, 3) => 32,
        (_, true, _) => 40,
        (_, false, _) => 56,
    };
    let multiplying = (start * (groups + 1)).saturating_sub(filling) / groups / 8 * 8;
    (start, Some((filling, multiplying.min(240))))
}

fn fits<'a>(problem: &'a Problem<Dim>, target: &Target) -> Option<&'a Attention<Dim>> {
    let hopper = target.arch.sm == 90 && target.arch.specific;
    // Maxima are taken before scores are scaled.
    fits_mma(problem, target).filter(|p| hopper && p.dim <= 128 && p.dim_v <= 128 && p.scale > 0.0)
}

/// How much the busiest of `blocks` blocks gets to do, in units of `weights`: those of a head's items, of which `together`
/// heads are done at the same time. Items are handed out as attention_wgmma.cuh does it.
fn most_loaded(together: usize, heads: usize, weights: &[f64], blocks: usize) -> f64 {
    let tiles = weights.len();
    let mut loads = vec![0.0; blocks];
    // Few items tell enough.
    for id in 0..(heads * tiles).min(1 << 15) {
        let first = id / (together * tiles) * together;
        let weight = weights[(id - first * tiles) / together.min(heads - first)];
        let (turn, place) = (id / blocks, id % blocks);
        loads[if turn % 2 == 0 { place } else { blocks - 1 - place }] += weight;
    }
    loads.into_iter().fold(0.0, f64::max)
}

/// How many heads are done at the same time. With a causal mask, the number among those whose keys L2 can deliver that gives
/// every block the most equal share.
fn together(tile: Tile, p: &Attention<Dim>, symbols: &Symbols, target: &Target) -> u32 {
    const MOST: usize = 40;
    if !p.causal {
        return 1;
    }
    let heads = p.heads * p.batch.opt(symbols).max(1) as usize;
    let (q, k) = (size(&p.seq_q, symbols), size(&p.seq_k, symbols));
    let rows = f64::from(tile.queries());
    let blocks = (target.multiprocessors * tile.blocks) as usize;
    // Tiles of keys for each tile of queries, the last first, and about one more for beginning and end.
    let keys = |t: usize| (((t + 1) as f64 * rows).min(q) + k - q).clamp(0.0, k);
    let tiles = (q / rows).ceil() as usize;
    let weights: Vec<f64> = (0..tiles).rev().map(|t| keys(t) / f64::from(tile.keys) + 1.0).collect();
    let load = |together: &usize| most_loaded(*together, heads, &weights, blocks);
    let best = (1..=heads.min(MOST)).min_by(|a, b| load(a).total_cmp(&load(b)));
    best.unwrap_or(1) as u32
}

impl Family for AttentionWgmma {
    fn name(&self) -> &'static str {
        "attention.wgmma"
    }

    fn version(&self) -> u32 {
        4
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some(p) = fits(problem, target) else { return vec![] };
        let most = (p.seq_k.upper(symbols).clamp(1, 256) as u32).next_multiple_of(16);
        let mut ranked = Vec::new();
        // Threads never brought rows sooner where maps walk them, and took 4 to 9 % longer for many keys.
        let walked = attention_maps::maps(p, [64; 3], symbols).is_some();
        for (groups, blocks) in [(3, 1), (2, 1), (1, 1), (1, 2)] {
            for keys in [64, 80, 96, 112, 128, 144, 160, 176] {
                for (stages, share) in [(2, 1), (3, 1), (2, 2), (3, 2)] {
                    let tile = Tile { groups, keys, stages, blocks, map: u32::from(walked), share };
                    let useful = keys == 64 || keys <= most;
                    if useful && tile.check(p, symbols, target).is_ok() {
                        ranked.push((tile.estimate(p, symbols, target), tile));
                    }
                }
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().take(16).map(|(_, tile)| tile.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (fits(problem, target), Tile::of(tactic)) {
            (Some(p), Ok(tile)) => tile.estimate(p, symbols, target),
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
        let p = fits(problem, target).ok_or_else(|| wrong(self, problem))?;
        let tile = Tile::of(tactic)?;
        tile.check(p, symbols, target)?;
        let (filling, multiplying) = tile.registers(p).1.unwrap_or((0, 0));
        let constants = codegen::constants(&[
            ("CONSUMERS", tile.groups),
            ("HALVES", 2),
            ("KEYS", tile.keys),
            ("STAGES", tile.stages),
            ("BLOCKS", tile.blocks),
            ("SHARE", tile.share),
            ("TOGETHER", together(tile, p, symbols, target)),
            ("PRODUCER_REGISTERS", filling),
            ("CONSUMER_REGISTERS", multiplying),
        ]);
        let steps = wgmma::step(tile.keys, p.dtype) + &wgmma::values(p.dim_v as u32, p.dtype);
        let title = format!("{} attention, {tactic}", p.dtype);
        let by = format!("#define MAPS {}\n", tile.map);
        let source = codegen::source(
            &title,
            wide(p, symbols),
            &[&text(p, problem), &by, &constants, &steps, MAINLOOP],
        );
        let shape = (tile.threads(), tile.shared(p));
        let mut build = launch(p, problem, source, tile.queries() * tile.share, shape);
        // As many blocks as are resident at once, each for several of the items.
        let share = Dim::from(i64::from(tile.share));
        let resident = Dim::from(i64::from(target.multiprocessors * tile.blocks / tile.share));
        for launch in &mut build.launches {
            launch.grid[0] = Dim::min(&launch.grid[0], &resident) * &share;
            launch.cluster = (tile.share > 1).then_some([tile.share, 1, 1]);
        }
        if tile.map == 1 {
            attention_maps::take(&mut build, tile.maps(p, symbols).ok_or_else(|| wrong(self, problem))?);
        }
        Ok(build)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Symbols;
    use crate::families::attention_samples::layers;

    #[test]
    fn causal_shares_are_even() {
        let tile = Tile { groups: 2, keys: 128, stages: 2, blocks: 1, map: 1, share: 1 };
        let target = Target::of("sm_90a".parse().unwrap());
        let layers = layers();
        let long = layers.iter().filter_map(|p| fits(p, &target));
        let long: Vec<_> = long.filter(|p| p.causal && p.seq_q.is(4096)).collect();
        assert_eq!(long.len(), 1);
        let together = together(tile, long[0], &Symbols::new(), &target) as usize;
        // 128 heads, 32 tiles of queries that see 1 to 32 tiles of keys.
        let weights: Vec<f64> = (0..32).map(|t| 33.0 - f64::from(t)).collect();
        let mean = weights.iter().sum::<f64>() * 128.0 / 132.0;
        assert!(most_loaded(together, 128, &weights, 132) < 1.02 * mean, "{together}");
        assert!(most_loaded(9, 128, &weights, 132) > 1.05 * mean);
    }
}
