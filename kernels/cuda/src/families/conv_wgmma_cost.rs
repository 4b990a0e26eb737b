//! `conv.wgmma`: which tiles there are, and how long they are estimated to take.

use super::*;
use bakelite_host::{Instr, Program, Pw};

impl Tile {
    /// Estimated µs. The constants are fitted to 840 measured times of 27 layers of batches of 1 and 32 on an H200, and to 464 of large
    /// products; what each stands for is what was seen there.
    pub(super) fn cost(&self, shape: &Shape<'_>, symbols: &Symbols, target: &Target) -> f64 {
        const CYCLES_PER_US: f64 = 1860.0;
        // Bytes a cycle that come from L2 to all multiprocessors: in one round of tiles; in several, for which power lowers the
        // multiprocessors' clocks and not L2's.
        const L2_BYTES: [f64; 2] = [6070.0, 7000.0];
        // What blocks share still has to come to each of them, from L2 and by multicast. Products of several rounds gain nothing by it.
        const SHARED: [f64; 2] = [0.3, 0.39];
        let geometry = &shape.geometry;
        let out_size = shape.epilogue.out().size();
        let pixels = geometry.pixels().opt(symbols).max(1) as f64;
        let sms = f64::from(target.multiprocessors);
        let (m, n, parts) = (f64::from(self.m), f64::from(self.n), f64::from(self.cluster));
        let turns = self.turns(shape).opt(symbols).max(1) as f64;
        let size = parts * f64::from(self.peers());
        let per_sm = (turns * size / sms).ceil().min(f64::from(self.blocks));
        let resident = f64::from(self.resident(target)) / f64::from(self.blocks) * per_sm;
        let rounds = (turns / resident).ceil();
        let active = size * turns.min(resident);
        let tiles = f64::from(shape.tiles.div_ceil(self.cluster));

        // Cycles of a tile of k: of all blocks of a multiprocessor on tensor cores, as fast as power lets them, and in shared
        // memory; of one block, which waits for each product and, with few stages, for the bytes; and of its way there.
        let steps =
            if shape.tiles > 1 { 4.0 } else { ((geometry.taps() * geometry.channels) as f64 / 16.0).ceil() };
        let tensor = m * n / 32.0 * 1.106 * steps / 4.0;
        let shared = (m + m / 64.0 * n) * steps / 4.0 + 0.46 * (m + n);
        // A long k in one round: as in several, power lowers clocks meanwhile, and neighbours share nothing.
        let long = tiles > 24.0;
        let several = rounds >= 2.0 || long;
        let l2 = L2_BYTES[usize::from(several)];
        let still = if several { 1.0 } else { SHARED[self.multicast as usize] };
        let [share, spread] = [self.share, self.spread].map(|s| still + (1.0 - still) / f64::from(s));
        let fill = (m * spread + n * share) * 128.0 * active / l2;
        let deep = f64::from(self.deep);
        let latency = 85.0 + if self.maps == 1 { 140.0 } else { 152.0 } / deep;
        // By multicast, and for a long k, few stages bridge less.
        let late = 540.0 + if self.multicast == 1 { 710.0 } else { 0.0 } + if long { 700.0 } else { 0.0 };
        // Where a tile's whole k has its place, nothing waits for one.
        let held = f64::from(self.stages) * deep;
        let waiting = if held >= tiles && !several { 0.0 } else { (late + fill / per_sm) / (held - deep) };
        let step = tensor.max(shared).max(latency).max(waiting);

        let element = geometry.dtype.size() as f64;
        // Elements that come and go for each of the result's.
        let full = f64::from(u8::from(shape.carried.is_some()));
        let others = (operands(shape.epilogue).count() as f64 - full) / 2.0;
        // Few warps wait for themselves.
        let busy = [0.45, 0.75, 0.95][self.team().clamp(1, 3) as usize - 1];
        let of_moments = if shape.epilogue.moments { 8.0 } else { 0.0 };
        let of_runs = if shape.in_runs() { 22.0 } else { 0.0 };
        let instructions = 6.5 + of_moments + of_runs + instructions(&shape.epilogue.program);
        let computing = m * n * instructions / 128.0 / parts / busy;
        let moving = m * n * 4.0 * (parts - 1.0) / parts / 18.0;
        let bytes = (1.0 + full + others) * m * n * element;
        let finishing = if self.through > 0 {
            // In and out of shared memory, and what nobody else's work hides of the way there.
            bytes / 200.0 + if self.pong == 1 || self.through == 2 { 0.0 } else { 1530.0 * full }
        } else {
            // Little of what is read is under way at a time.
            let trips = (f64::from(self.batch(shape).0) / f64::from(self.ahead(shape))).ceil();
            bytes / 177.0 / parts + 48.0 * trips * full
        };
        // What is known of rows: four operations and two operands more for each element, as measured in plans of both batches.
        let known = if shape.epilogue.rows.is_some() { 0.11 * m * n / parts } else { 0.0 };
        let epilogue = computing + moving + finishing + known;

        // Nothing is multiplied before the first stage is whole.
        let first = tiles * both(step, fill) + 0.3 * (deep - 1.0) * fill;
        // The ring is filled for the next tile of the output while this one is finished.
        let ahead = held.min(epilogue / fill);
        let next = (tiles * step).max((tiles - ahead) * fill);
        // Stores from registers are of half a line, and cost L2 what whole ones do.
        let lines = if self.through == 0 && several { 2.0 } else { 1.0 };
        let moved = (lines + full) * m * n * element / parts * active / l2;
        let bound = (per_sm * tiles * tensor.max(shared)).max(tiles * fill + moved);
        let cycles = match (self.pong, self.cluster) {
            // Warpgroups that take turns finish one tile behind the next.
            (1, _) => rounds * both(next.max(epilogue), bound) + epilogue.min(first),
            (_, 1) => both(first + epilogue, bound) + (rounds - 1.0) * both(next + epilogue, bound),
            _ => rounds * both(first + epilogue, bound),
        };
        // Blocks of a cluster wait for each other when they begin and end; a block for its last stores, where the copy engine
        // makes them.
        let start = if self.cluster > 1 || self.multicast == 1 { 1690.0 } else { 0.0 }
            + if self.through > 0 { 100.0 } else { 0.0 };
        // Kernels of a graph begin while others end.
        let late = if self.early == 0 && !several { 0.08 } else { 0.0 };
        let launch = LAUNCH / 2.0 + late;
        let us = launch + (cycles + start) / CYCLES_PER_US;
        let read = full * geometry.out_len().opt(symbols) as f64 * element;
        let added =
            shape.added.as_ref().map_or(0.0, |a| (pixels + a.filters as f64) * a.channels as f64 * element);
        let memory = launch + (geometry.bytes(out_size, symbols) + read + added) / target.bandwidth / 1e3;
        // What memory bounds is still told apart.
        us.max(memory) + us.min(memory) / 16.0
    }
}

// What takes so long beside something that takes so long: what nearly binds delays, too.
fn both(one: f64, other: f64) -> f64 {
    (one.powf(6.3) + other.powf(6.3)).powf(1.0 / 6.3)
}

/// Instructions that a program takes for an element.
pub(super) fn instructions(program: &Program) -> f64 {
    let one = |instr: &Instr| match instr {
        Instr::Apply(Pw::Erf, _) => 24.0,
        Instr::Apply(Pw::Sigmoid | Pw::Silu, _) => 7.0,
        Instr::Apply(Pw::Gelu, _) => 8.0,
        Instr::Apply(Pw::GeluTanh, _) => 9.0,
        Instr::Apply(Pw::Exp | Pw::Log | Pw::Tanh | Pw::Div | Pw::Pow, _) => 10.0,
        Instr::Apply(..) | Instr::Cast(..) => 1.0,
        Instr::Const(_) => 0.0,
    };
    program.code.iter().map(one).sum()
}

/// Every tile that fits, sensible or not.
pub(super) fn candidates(shape: &Shape<'_>, wide: bool, target: &Target) -> Vec<Tile> {
    let mut out = Vec::new();
    // A tile mostly of padding is not worth timing beside a smaller one.
    let widest = (shape.geometry.filters as u32).next_multiple_of(32);
    let maps = u32::from(shape.mapped(64));
    let apart = [(64, 1), (128, 1), (128, 2), (192, 3), (256, 2)].map(|(m, groups)| (m, groups, 0));
    // Rows of a matrix never came sooner without a map; windows of small layers did, by 5 %.
    let least = if shape.geometry.is_pointwise() { maps } else { 0 };
    let forms = (least..=maps).flat_map(|maps| apart.into_iter().map(move |form| (form, maps)));
    let pong = [(64, 2, 1), (128, 2, 1), (192, 2, 1), (128, 4, 1)].map(|form| (form, 1));
    let forms = forms.chain(pong.into_iter().filter(|_| maps == 1));
    // Results take the copy engine's way where pixels do, and wait in two places where something is brought there.
    let most = if shape.carried.is_some() { 2 } else { 1 };
    let forms = forms
        .flat_map(|form| (0..=if form.1 == maps { most } else { 0 }).map(move |through| (form, through)));
    for (((m, groups, pong), maps), through) in forms {
        let widths = [32, 64, 96, 128, 160, 192, 256].into_iter();
        for n in widths.filter(|n| *n <= widest && (*n != 160 || widest == 160)) {
            for (blocks, cluster) in (1..=4).flat_map(|b| [1, 2, 3, 4, 6, 8].into_iter().map(move |c| (b, c)))
            {
                let tile = |deep, stages| Tile {
                    m,
                    n,
                    groups,
                    stages,
                    deep,
                    blocks,
                    cluster,
                    share: 1,
                    spread: 1,
                    multicast: 0,
                    maps,
                    pong,
                    through,
                    early: 0,
                };
                let mine = shape.tiles.div_ceil(cluster);
                // Blocks with several tiles of the output go on with the next one's k.
                let work = match (pong, through) {
                    (1, _) => 8,
                    (_, 0) => mine.clamp(2, 8),
                    _ => (mine + 2).clamp(4, 8),
                };
                let fits = |tile: &Tile| tile.check(shape, wide, target).is_ok();
                // As many stages as fit, and as a block has work for; fewer leave room for the next kernel's blocks.
                let most = (2..=work).rev().map(|stages| tile(1, stages)).find(fits);
                let mut alone: Vec<Tile> = most.into_iter().collect();
                if blocks == 1 && pong == 0 && through == 0 {
                    let fewer = 2..most.map_or(2, |most| most.stages);
                    alone.extend(fewer.map(|stages| tile(1, stages)).filter(fits));
                }
                // Fewer barriers, where a tile of k is multiplied in less than a barrier's time.
                if blocks <= 2 && through == 0 && m * n <= 64 * 128 {
                    for deep in 2..=4 {
                        let stages = 2..=mine.div_ceil(deep).clamp(2, 6);
                        alone.extend(stages.map(|stages| tile(deep, stages)).filter(fits));
                    }
                }
                // Neighbours ask L2 for the same lines at the same time; multicast pays where it is asked for much.
                if cluster <= 4 && blocks <= 2 {
                    let placed = [(2, 1), (4, 1), (1, 2), (2, 2)];
                    let placed = placed.into_iter().filter(|(_, spread)| *spread == 1 || cluster == 1);
                    for (share, spread) in placed {
                        let near = alone.iter().map(|t| Tile { share, spread, ..*t });
                        let sent = most.filter(|_| m * n >= 64 * 128);
                        let sent = sent.map(|t| Tile { share, spread, multicast: 1, ..t });
                        out.extend(near.chain(sent).filter(fits));
                    }
                }
                out.extend(alone);
            }
        }
    }
    out
}

#[cfg(test)]
#[path = "conv_wgmma_cost_tests.rs"]
mod tests;
