//! `attention.direct`: attention of few queries, with operands straight in registers and keys split among a block's warps.
//! Halves, from sm_80 on, 64 or 128 dimensions of a head.

use super::attention::{bytes, fits_mma, launch, size, text, wide};
use super::strips::{LAUNCH, wrong};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::Problem;
use bakelite_host::problem::Attention;

/// The family.
#[derive(Debug)]
pub struct AttentionDirect;

/// What a tactic says.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Queries of a block.
    queries: u32,
    /// Keys that a warp takes at a time.
    keys: u32,
    /// Warps.
    groups: u32,
    /// 1: the next kernel's blocks may start as soon as this one's operands are asked for.
    early: u32,
}

impl Share {
    fn of(tactic: &Tactic) -> Result<Share, String> {
        let get = |name| tactic.get(name);
        Ok(Share { queries: get("q")?, keys: get("k")?, groups: get("groups")?, early: get("early")? })
    }

    fn tactic(self) -> Tactic {
        let params = [("q", self.queries), ("k", self.keys), ("groups", self.groups), ("early", self.early)];
        Tactic::new(AttentionDirect.name(), AttentionDirect.version(), &params)
    }

    fn shared(self, p: &Attention<Dim>) -> u32 {
        self.groups * self.queries * (p.dim_v as u32 + 16 + 2) * 4
    }

    /// Registers of a thread: queries, keys and values as they are read, scores, sums; a mask; and what else there is.
    fn registers(self, p: &Attention<Dim>) -> u32 {
        let (dim, dim_v) = (p.dim as u32, p.dim_v as u32);
        let tiles = self.queries / 16;
        let mask = match &p.mask {
            Some((_, access)) if access.strides[2].is(0) => self.keys / 4,
            Some(_) => tiles * self.keys / 2,
            None => 0,
        };
        tiles * (dim / 4 + self.keys / 2 + dim_v / 2) + self.keys * (dim + dim_v) / 64 + mask + 40
    }

    /// Blocks that fit on a multiprocessor.
    fn resident(self, p: &Attention<Dim>, target: &Target) -> u32 {
        let registers = 65536 / (self.registers(p).next_multiple_of(8) * 32 * self.groups);
        registers.min(target.shared_per_multiprocessor / (self.shared(p) + 1024)).clamp(1, 32 / self.groups)
    }

    fn check(self, p: &Attention<Dim>, target: &Target) -> Result<(), String> {
        let fail = |what: &str| Err(format!("`{}`: {what}", self.tactic()));
        if !matches!(self.queries, 16 | 32) || !matches!(self.keys, 16 | 32 | 64) || self.early > 1 {
            return fail("16 or 32 queries, 16, 32 or 64 keys, early or not");
        }
        if !(1..=16).contains(&self.groups) {
            return fail("1 to 16 warps");
        }
        let registers = self.registers(p);
        if registers.next_multiple_of(8) > (65536 / (32 * self.groups)).min(240) {
            return fail(&format!("{registers} registers"));
        }
        let shared = self.shared(p);
        if shared > target.shared_per_block {
            return fail(&format!("{shared} bytes of shared memory of {}", target.shared_per_block));
        }
        Ok(())
    }

    /// Estimated µs.
    fn estimate(self, p: &Attention<Dim>, symbols: &Symbols, target: &Target) -> f64 {
        let (q, k) = (size(&p.seq_q, symbols), size(&p.seq_k, symbols));
        let heads = p.heads as f64 * size(&p.batch, symbols);
        let sms = f64::from(target.multiprocessors);
        let (dims, queries) = ((p.dim + p.dim_v) as f64, f64::from(self.queries));
        let (keys, groups) = (f64::from(self.keys), f64::from(self.groups));
        let blocks = (q / queries).ceil() * heads;
        let per_sm = (blocks / sms).ceil();
        let beside = f64::from(self.resident(p, target)).min(per_sm);
        let rounds = (k / (keys * groups)).ceil();
        let tiles = queries / 16.0;
        let chain = 700.0 + tiles * (keys / 8.0 * dims / 16.0 * 10.0 + keys * 4.0) + 200.0;
        let loads = (groups * keys * dims + queries * p.dim as f64) * 2.0 / 37.0;
        let issue = groups * tiles * (keys / 8.0 * dims / 16.0 * 14.0 + keys * 24.0) / 4.0;
        let merge = 150.0 + groups * 15.0 + tiles * p.dim_v as f64;
        let wave = rounds * chain.max(beside * loads + 500.0).max(beside * issue) + merge;
        let early = f64::from(self.early) * 0.02;
        let near = (per_sm / beside).ceil() * wave / 1700.0;
        LAUNCH - 0.75 + early + near.max(bytes(p, symbols) / (target.bandwidth * 800.0))
    }
}

fn fits<'a>(problem: &'a Problem<Dim>, target: &Target) -> Option<&'a Attention<Dim>> {
    let whole = |dim: usize| matches!(dim, 64 | 128);
    fits_mma(problem, target).filter(|p| target.arch.sm >= 80 && whole(p.dim) && whole(p.dim_v))
}

impl Family for AttentionDirect {
    fn name(&self) -> &'static str {
        "attention.direct"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Some(p) = fits(problem, target) else { return vec![] };
        let length = u32::try_from(p.seq_k.opt(symbols).max(1)).unwrap_or(u32::MAX);
        let mut ranked = Vec::new();
        for queries in [16, 32] {
            for keys in [16, 32, 64] {
                // All keys at once, or in as few rounds as there are warps for.
                let groups = length.div_ceil(keys);
                let groups = groups.div_ceil(groups.div_ceil(16));
                for early in [0, 1] {
                    let share = Share { queries, keys, groups, early };
                    if share.check(p, target).is_ok() {
                        ranked.push((share.estimate(p, symbols, target), share));
                    }
                }
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().map(|(_, share)| share.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (fits(problem, target), Share::of(tactic)) {
            (Some(p), Ok(share)) => share.estimate(p, symbols, target),
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
        let share = Share::of(tactic)?;
        share.check(p, target)?;
        let once = p.seq_k.upper(symbols) <= i64::from(share.keys * share.groups);
        let constants = codegen::constants(&[
            ("TILES", share.queries / 16),
            ("KEYS", share.keys),
            ("GROUPS", share.groups),
            ("BLOCKS", share.resident(p, target)),
            ("EARLY", share.early),
            ("ONCE", u32::from(once)),
        ]);
        let title = format!("{} attention, {tactic}", p.dtype);
        let mainloop = include_str!("../../cuda/attention_direct.cuh");
        let source = codegen::source(&title, wide(p, symbols), &[&text(p, problem), &constants, mainloop]);
        Ok(launch(p, problem, source, share.queries, (32 * share.groups, share.shared(p))))
    }
}
