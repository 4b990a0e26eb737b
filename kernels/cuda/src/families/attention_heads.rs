//! `attention.heads`: attention of many heads on Hopper's tensor cores, where a block holds all of a head while the next one
//! arrives. Halves, up to 256 keys and 128 dimensions of a head.

use super::attention::{by_key, bytes, fits_mma, launch, size, text, wide};
use super::attention_maps;
use super::attention_wgmma::registers;
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
    concat!(include_str!("../../cuda/attention_tile.cuh"), include_str!("../../cuda/attention_heads.cuh"));

/// The family.
#[derive(Debug)]
pub struct AttentionHeads;

/// A problem of a length that this is for.
#[derive(Clone, Copy, Debug)]
struct Head<'a> {
    p: &'a Attention<Dim>,
    /// At most, in whole 16s.
    queries: u32,
    keys: u32,
    symbols: &'a Symbols,
}

impl Head<'_> {
    fn maps(self) -> Option<[TensorMap; 3]> {
        let rows = [self.queries, self.keys, self.keys];
        attention_maps::maps(self.p, rows, self.symbols).filter(|_| self.queries <= 256)
    }

    /// Queries behind the last whole tile that the filling warpgroup can take care of: at most eight, which see all keys.
    fn tail(self) -> u32 {
        let queries = self.p.seq_q.as_const().and_then(|q| u32::try_from(q).ok()).unwrap_or(0);
        let few = queries > 64 && matches!(queries % 64, 1..=8);
        let fits = few && self.p.dim_v.is_multiple_of(64);
        if fits && !self.p.causal && self.p.mask.is_none() { queries % 64 } else { 0 }
    }
}

/// What a tactic says.
#[derive(Clone, Copy, Debug)]
struct Tile {
    /// Warpgroups that multiply.
    groups: u32,
    /// Heads in shared memory.
    stages: u32,
    /// Blocks that are to fit on a multiprocessor.
    blocks: u32,
    /// 1: warpgroups take turns at asking for scores.
    turns: u32,
    /// 1: the copy engine fetches rows, by tensor maps.
    map: u32,
}

impl Tile {
    fn of(tactic: &Tactic) -> Result<Tile, String> {
        let get = |name| tactic.get(name);
        Ok(Tile {
            groups: get("groups")?,
            stages: get("stages")?,
            blocks: get("blocks")?,
            turns: get("turns")?,
            map: get("map")?,
        })
    }

    fn tactic(self) -> Tactic {
        let params = [
            ("groups", self.groups),
            ("stages", self.stages),
            ("blocks", self.blocks),
            ("turns", self.turns),
            ("map", self.map),
        ];
        Tactic::new(AttentionHeads.name(), AttentionHeads.version(), &params)
    }

    const fn threads(self) -> u32 {
        128 * (self.groups + 1)
    }

    /// Queries that are no tile's.
    fn tail(self, head: Head<'_>) -> u32 {
        if self.map == 1 { head.tail() } else { 0 }
    }

    /// Of 64 queries, of a head.
    fn tiles(self, head: Head<'_>) -> u32 {
        if self.tail(head) > 0 { head.queries / 64 } else { head.queries.div_ceil(64) }
    }

    /// Registers of a thread at the start, then of a filling and of a multiplying one where they differ.
    fn registers(self, head: Head<'_>) -> (u32, Option<(u32, u32)>) {
        let asking = match (self.map, self.tail(head)) {
            (0, _) => None,
            (_, 0) => Some(24),
            _ => Some(56),
        };
        registers(self.groups, self.blocks, asking, head.p)
    }

    /// Products that a tile's scores take: ptxas wants the operands of one within the registers that the kernel starts with.
    fn parts(self, head: Head<'_>) -> u32 {
        let (start, _) = self.registers(head);
        (head.keys / 2).div_ceil(start.saturating_sub(28).max(1))
    }

    fn shared(self, head: Head<'_>) -> u32 {
        let panel = |dim: usize| dim.div_ceil(64) as u32 * 128;
        let (dim, dim_v) = (panel(head.p.dim), panel(head.p.dim_v));
        let mask = if by_key(head.p) { head.keys * 4 } else { 0 };
        // Its powers, maxima and sums.
        let (rows, tail) =
            if self.tail(head) > 0 { (16, head.keys.div_ceil(64) * 1024 + 256) } else { (0, 0) };
        let queries = 64 * self.tiles(head) + rows;
        tail + self.stages * (queries * dim + head.keys * (dim + dim_v) + mask + 32)
    }

    fn check(self, head: Head<'_>, target: &Target) -> Result<(), String> {
        let fail = |what: &str| Err(format!("`{}`: {what}", self.tactic()));
        if !matches!(self.groups, 1..=3) || !matches!(self.stages, 1..=4) || !matches!(self.blocks, 1..=2) {
            return fail("1 to 3 warpgroups, 1 to 4 stages, 1 or 2 blocks");
        }
        if self.turns > u32::from(self.groups > 1) {
            return fail("one warpgroup takes no turns");
        }
        if self.map > 1 || (self.map == 1 && head.maps().is_none()) {
            return fail("rows that tensor maps do not walk");
        }
        // Scores, or as powers half as many beside the sums; a full mask; and what else there is.
        let (scores, sums) = (head.keys / 2, head.p.dim_v as u32 / 2);
        let mask = if head.p.mask.is_some() && !by_key(head.p) { 24 } else { 0 };
        let held = scores.max(scores / 2 + sums) + mask + 36;
        let (start, split) = self.registers(head);
        let multiplying = split.map_or(start, |(_, multiplying)| multiplying);
        if held > multiplying || self.parts(head) > 2 || sums + 28 > start {
            return fail(&format!("{held} registers beside {multiplying}"));
        }
        let shared = self.shared(head);
        if shared > target.shared_per_block
            || (shared + 1024) * self.blocks > target.shared_per_multiprocessor
        {
            return fail(&format!("{shared} bytes of shared memory of {}", target.shared_per_block));
        }
        Ok(())
    }

    /// Estimated µs.
    fn estimate(self, head: Head<'_>, symbols: &Symbols, target: &Target) -> f64 {
        let p = head.p;
        let heads = p.heads as f64 * size(&p.batch, symbols);
        let sms = f64::from(target.multiprocessors);
        let (groups, blocks) = (f64::from(self.groups), f64::from(self.blocks));
        let (keys, tiles, dims) =
            (f64::from(head.keys), f64::from(self.tiles(head)), (p.dim + p.dim_v) as f64);
        let per_sm = (heads / sms).ceil();
        let beside = blocks.min(per_sm);
        // Cycles of a tile of a warpgroup: 4096 multiplications and additions and 16 powers each. Three of them hide nearly all of
        // the rest behind each other, as was measured; one alone takes twice as long.
        let (products, powers) = (2.0 * 64.0 * keys * dims / 4096.0, 64.0 * keys / 16.0);
        let hidden = match groups * beside {
            0.0..2.0 => 2.0,
            2.0..3.0 => 1.35,
            _ if self.turns == 1 => 1.06,
            _ => 1.14,
        };
        let work = tiles * (products + powers) * hidden;
        let chain = products + powers * 1.45 + 450.0;
        // Bytes that L2 gives to a multiprocessor, all at once or all in turn.
        let rate = (4900.0 / heads.min(sms)).min(60.0);
        let loads = (size(&p.seq_q, symbols) * p.dim as f64 + keys * dims) * 2.0 / rate;
        let ahead = if self.stages * self.blocks > 1 { work.max(loads) } else { work + loads * 0.55 };
        let time = (loads * 0.7 * beside + per_sm * ahead + chain * 0.6 + 700.0) / 1750.0;
        let memory = bytes(p, symbols) / (target.bandwidth * 760.0);
        LAUNCH - 0.6 + time.max(memory)
    }
}

fn fits<'a>(problem: &'a Problem<Dim>, symbols: &'a Symbols, target: &Target) -> Option<Head<'a>> {
    let hopper = target.arch.sm == 90 && target.arch.specific;
    let p = fits_mma(problem, target)?;
    let most = |dim: &Dim| u32::try_from(dim.upper(symbols).max(1)).ok()?.checked_next_multiple_of(16);
    let (queries, keys) = (most(&p.seq_q)?, most(&p.seq_k)?);
    // Maxima are taken before scores are scaled.
    let fits = hopper && p.dim <= 128 && p.dim_v <= 128 && p.scale > 0.0 && queries <= 512 && keys <= 256;
    fits.then_some(Head { p, queries, keys, symbols })
}

impl Family for AttentionHeads {
    fn name(&self) -> &'static str {
        "attention.heads"
    }

    fn version(&self) -> u32 {
        3
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some(head) = fits(problem, symbols, target) else { return vec![] };
        let mut ranked = Vec::new();
        let map = u32::from(head.maps().is_some());
        for (groups, blocks) in [(3, 1), (2, 1), (1, 2), (1, 1)] {
            for stages in [2, 1, 3] {
                // In turns where the estimates say the same: all that were measured took less so.
                for turns in [1, 0] {
                    let tile = Tile { groups, stages, blocks, turns, map };
                    if tile.check(head, target).is_ok() {
                        ranked.push((tile.estimate(head, symbols, target), tile));
                    }
                }
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().take(12).map(|(_, tile)| tile.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (fits(problem, symbols, target), Tile::of(tactic)) {
            (Some(head), Ok(tile)) => tile.estimate(head, symbols, target),
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
        let head = fits(problem, symbols, target).ok_or_else(|| wrong(self, problem))?;
        let (p, tile) = (head.p, Tile::of(tactic)?);
        tile.check(head, target)?;
        let (filling, multiplying) = tile.registers(head).1.unwrap_or((0, 0));
        let constants = codegen::constants(&[
            ("CONSUMERS", tile.groups),
            ("HALVES", 2),
            ("STAGES", tile.stages),
            ("BLOCKS", tile.blocks),
            ("TURNS", tile.turns),
            ("QUERIES", head.queries),
            ("TILES", tile.tiles(head)),
            ("KEYS", head.keys),
            ("PARTS", tile.parts(head)),
            ("PRODUCER_REGISTERS", filling),
            ("CONSUMER_REGISTERS", multiplying),
        ]);
        let mut steps =
            wgmma::step(head.keys / tile.parts(head), p.dtype) + &wgmma::values(p.dim_v as u32, p.dtype);
        if tile.tail(head) > 0 {
            steps += &(wgmma::step(8, p.dtype) + &wgmma::across(8, p.dtype));
        }
        let title = format!("{} attention, {tactic}", p.dtype);
        let by = format!("#define MAPS {}\n#define TAIL {}\n", tile.map, tile.tail(head));
        let source = codegen::source(
            &title,
            wide(p, symbols),
            &[&text(p, problem), &by, &constants, &steps, MAINLOOP],
        );
        let mut build = launch(p, problem, source, head.queries, (tile.threads(), tile.shared(head)));
        // As many blocks as are resident at once, each for several heads.
        let resident = Dim::from(i64::from(target.multiprocessors * tile.blocks));
        for launch in &mut build.launches {
            launch.grid[0] = Dim::min(&launch.grid[0], &resident);
        }
        if tile.map == 1 {
            attention_maps::take(&mut build, head.maps().ok_or_else(|| wrong(self, problem))?);
        }
        Ok(build)
    }
}
