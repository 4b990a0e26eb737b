//! `attention.whole`: attention on Hopper's tensor cores where a block holds all keys and values of a head. Halves, up to
//! 512 keys and 128 dimensions of a head.

use super::attention::{by_key, bytes, fits_mma, launch, size, text, wide};
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
    concat!(include_str!("../../cuda/attention_tile.cuh"), include_str!("../../cuda/attention_whole.cuh"));

/// The family.
#[derive(Debug)]
pub struct AttentionWhole;

/// What a tactic says.
#[derive(Clone, Copy, Debug)]
struct Tile {
    /// Queries of a warpgroup at a time: 64, or 32.
    q: u32,
    /// Warpgroups.
    groups: u32,
    /// Times that each takes queries.
    turns: u32,
    /// Times that keys are taken, a part of them each.
    parts: u32,
    /// 1: the next kernel's blocks may start as soon as this one's operands are asked for.
    early: u32,
    /// 1: the copy engine fetches rows, by tensor maps.
    map: u32,
}

impl Tile {
    fn of(tactic: &Tactic) -> Result<Tile, String> {
        Ok(Tile {
            q: tactic.get("q")?,
            groups: tactic.get("groups")?,
            turns: tactic.get("turns")?,
            parts: tactic.get("parts")?,
            early: tactic.get("early")?,
            map: tactic.get("map")?,
        })
    }

    fn tactic(self) -> Tactic {
        let params = [
            ("q", self.q),
            ("groups", self.groups),
            ("turns", self.turns),
            ("parts", self.parts),
            ("early", self.early),
            ("map", self.map),
        ];
        Tactic::new(AttentionWhole.name(), AttentionWhole.version(), &params)
    }

    const fn queries(self) -> u32 {
        self.q * self.groups * self.turns
    }

    /// Rows of products, with queries or without.
    const fn rows(self) -> u32 {
        64 * self.groups * self.turns
    }

    const fn threads(self) -> u32 {
        128 * self.groups
    }

    /// Keys of a part, of so many in all.
    const fn part(self, keys: u32) -> u32 {
        keys.div_ceil(self.parts).next_multiple_of(16)
    }

    fn shared(self, p: &Attention<Dim>, keys: u32) -> u32 {
        let panel = |dim: usize| dim.div_ceil(64) as u32 * 128;
        let held = self.part(keys) * self.parts;
        let barriers = self.map * 16 * self.parts;
        self.rows() * panel(p.dim) + held * (panel(p.dim) + panel(p.dim_v) + 4) + barriers
    }

    fn maps(self, p: &Attention<Dim>, keys: u32, symbols: &Symbols) -> Option<[TensorMap; 3]> {
        // 32 queries lie in eights, 16 rows apart.
        let part = self.part(keys);
        attention_maps::maps(p, [64 * self.groups, part, part], symbols).filter(|_| self.q == 64)
    }

    /// Registers of a thread: its scores, or half as many words of powers beside the sums, both where there are several parts;
    /// what a mask takes; and what else there is.
    fn registers(self, p: &Attention<Dim>, keys: u32) -> u32 {
        let (keys, sums) = (self.part(keys), p.dim_v as u32 / 2);
        let mask = if p.mask.is_some() && !by_key(p) { 24 } else { 0 };
        let held = if self.parts == 1 { (keys / 2).max(keys / 4 + sums) + 48 } else { keys / 2 + sums + 38 };
        (held + mask).min(255)
    }

    /// Blocks that fit on a multiprocessor.
    fn blocks(self, p: &Attention<Dim>, keys: u32, target: &Target) -> u32 {
        let registers = self.registers(p, keys).next_multiple_of(8) * self.threads();
        (65536 / registers).min(target.shared_per_multiprocessor / (self.shared(p, keys) + 1024)).clamp(1, 8)
    }

    fn check(
        self,
        p: &Attention<Dim>,
        keys: u32,
        (symbols, target): (&Symbols, &Target),
    ) -> Result<(), String> {
        let fail = |what: &str| Err(format!("`{}`: {what}", self.tactic()));
        let turns = matches!((self.groups, self.turns), (1..=4, 1..=4));
        if !matches!(self.q, 32 | 64) || !turns || self.early > 1 {
            return fail("1 to 4 warpgroups with 1 to 4 turns of 32 or 64 queries, early or not");
        }
        if !matches!(self.parts, 1..=2) || (self.parts - 1) * self.part(keys) >= keys {
            return fail(&format!("1 or 2 parts, none empty, of {keys} keys"));
        }
        if self.part(keys) > 256 {
            return fail("parts of at most 256 keys");
        }
        if self.map > 1 || (self.map == 1 && self.maps(p, keys, symbols).is_none()) {
            return fail("rows that tensor maps do not walk");
        }
        if self.registers(p, keys).next_multiple_of(8) * self.threads() > 65536 {
            return fail("not enough registers");
        }
        let shared = self.shared(p, keys);
        if shared > target.shared_per_block {
            return fail(&format!("{shared} bytes of shared memory of {}", target.shared_per_block));
        }
        Ok(())
    }

    /// Estimated µs.
    fn estimate(self, p: &Attention<Dim>, keys: u32, symbols: &Symbols, target: &Target) -> f64 {
        let (q, heads) = (size(&p.seq_q, symbols), p.heads as f64 * size(&p.batch, symbols));
        let sms = f64::from(target.multiprocessors);
        let dims = (p.dim + p.dim_v) as f64;
        let blocks = (q / f64::from(self.queries())).ceil() * heads;
        let per_sm = (blocks / sms).ceil();
        let resident = f64::from(self.blocks(p, keys, target)).min(per_sm);
        let rows = f64::from(self.queries());
        let part = f64::from(self.part(keys) * self.parts);
        // Bytes that L2 gives to all multiprocessors, and to one.
        let rate = (4900.0 / blocks.min(sms)).min(60.0);
        let loads = per_sm * (rows * p.dim as f64 + part * dims) * 2.0 / rate;
        // Warps without a query take no powers, which helps those beside them; blocks one after the other hide nothing.
        let apart = resident < 2.0 && per_sm > 1.0;
        let queries = if apart { rows } else { ((q / 16.0).ceil() * 16.0 / (q / rows).ceil()).min(rows) };
        let products = 2.0 * f64::from(self.rows()) * part * dims / 4096.0;
        let powers = queries * part * (1.0 / 16.0 + 5.5 / 128.0);
        // A multiprocessor's warps hide some of each other's waiting.
        let warps = resident * f64::from(self.groups);
        let work = per_sm * (powers + products * 0.3) * (warps + 2.0) / (warps + 1.0);
        // Blocks of a first wave wait for their operands at the same time.
        let waves = (per_sm / resident).max(1.0);
        let parts = f64::from(self.parts - 1) * 0.15;
        let time = (loads.max(work) + loads.min(work) / if apart { 1.0 } else { waves }) / 1750.0;
        let memory = bytes(p, symbols) / (target.bandwidth * 800.0);
        LAUNCH - 0.6 + parts + time.max(memory)
    }
}

/// The problem, and how many keys a block holds.
fn fits<'a>(
    problem: &'a Problem<Dim>,
    symbols: &Symbols,
    target: &Target,
) -> Option<(&'a Attention<Dim>, u32)> {
    let hopper = target.arch.sm == 90 && target.arch.specific;
    let p = fits_mma(problem, target)?;
    let keys = u32::try_from(p.seq_k.upper(symbols).max(1)).ok()?.checked_next_multiple_of(16)?;
    // Maxima are taken before scores are scaled.
    (hopper && p.dim <= 128 && p.dim_v <= 128 && p.scale > 0.0 && keys <= 512).then_some((p, keys))
}

impl Family for AttentionWhole {
    fn name(&self) -> &'static str {
        "attention.whole"
    }

    fn version(&self) -> u32 {
        5
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some((p, keys)) = fits(problem, symbols, target) else { return vec![] };
        let queries = p.seq_q.upper(symbols).max(1) as u64;
        let mut ranked = Vec::new();
        let forms = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (4, 1), (3, 1)].map(|form| (64, form));
        for (q, (groups, turns)) in forms.into_iter().chain([(32, (1, 1)), (32, (2, 1))]) {
            for (parts, early) in [(1, 1), (2, 1), (1, 0), (2, 0)] {
                let tile = Tile { q, groups, turns, parts, early, map: 1 };
                let tile = Tile { map: u32::from(tile.maps(p, keys, symbols).is_some()), ..tile };
                // Not more than one block for everything.
                let useful = u64::from(tile.queries()) < queries + 64;
                if useful && tile.check(p, keys, (symbols, target)).is_ok() {
                    ranked.push((tile.estimate(p, keys, symbols, target), tile));
                }
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().take(24).map(|(_, tile)| tile.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (fits(problem, symbols, target), Tile::of(tactic)) {
            (Some((p, keys)), Ok(tile)) => tile.estimate(p, keys, symbols, target),
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
        let (p, keys) = fits(problem, symbols, target).ok_or_else(|| wrong(self, problem))?;
        let tile = Tile::of(tactic)?;
        tile.check(p, keys, (symbols, target))?;
        let constants = codegen::constants(&[
            ("QUERIES", tile.q),
            ("HALVES", tile.q / 32),
            ("GROUPS", tile.groups),
            ("TURNS", tile.turns),
            ("PARTS", tile.parts),
            ("KEYS", tile.part(keys)),
            ("BLOCKS", tile.blocks(p, keys, target)),
            ("EARLY", tile.early),
        ]);
        let steps = wgmma::step(tile.part(keys), p.dtype) + &wgmma::values(p.dim_v as u32, p.dtype);
        let title = format!("{} attention, {tactic}", p.dtype);
        let by = format!("#define MAPS {}\n", tile.map);
        let source = codegen::source(
            &title,
            wide(p, symbols),
            &[&text(p, problem), &by, &constants, &steps, MAINLOOP],
        );
        let shape = (tile.threads(), tile.shared(p, keys));
        let mut build = launch(p, problem, source, tile.queries(), shape);
        if tile.map == 1 {
            attention_maps::take(
                &mut build,
                tile.maps(p, keys, symbols).ok_or_else(|| wrong(self, problem))?,
            );
        }
        Ok(build)
    }
}
