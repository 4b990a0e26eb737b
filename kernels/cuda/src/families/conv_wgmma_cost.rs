//! `conv.wgmma`: which tiles there are, and how long they are estimated to take.

use super::*;
use bakelite_host::{Instr, Program, Pw};

impl Tile {
    /// Estimated µs.
    pub(super) fn cost(&self, shape: &Shape<'_>, symbols: &Symbols, target: &Target) -> f64 {
        const CYCLES_PER_US: f64 = 1700.0;
        // Bytes a cycle that L2 gives to all multiprocessors, and to one.
        const L2_BYTES: f64 = 4900.0;
        const PORT_BYTES: f64 = 60.0;
        let geometry = &shape.geometry;
        let out_size = shape.epilogue.out().size();
        let pixels = geometry.pixels().opt(symbols).max(1) as f64;
        let sms = f64::from(target.multiprocessors);
        let (m, n, parts) = (f64::from(self.m), f64::from(self.n), f64::from(self.cluster));
        let columns = shape.column_tiles(self) as f64 / f64::from(self.spread);
        let turns = (pixels / m / f64::from(self.share)).ceil() * columns;
        let blocks = turns * parts * f64::from(self.peers());
        let per_sm = (blocks / sms).ceil().min(f64::from(self.blocks));
        let rounds = (turns / f64::from(self.resident(target)) * f64::from(self.blocks) / per_sm).ceil();
        let tiles = f64::from(shape.tiles.div_ceil(self.cluster));
        // 4096 multiplications and additions a cycle, unless shared memory cannot keep up with the operands.
        let tensor = per_sm * f64::max(m * n / 32.0, m + m / 64.0 * n);
        // Sharing brings next to nothing to teams in turns: a 64 x 256 tile takes 1200 cycles for each 64 of k with and without it.
        let [share, spread] =
            [self.share, self.spread].map(|s| if self.pong == 1 { 1.0 } else { f64::from(s) });
        let asked = (m / spread + n / share) * 128.0 * (blocks / per_sm).min(sms);
        let fill = per_sm * f64::max(asked / L2_BYTES, (m + n) * 128.0 / PORT_BYTES);
        let latency = 170.0 + m / 64.0 / f64::from(self.team()) * n / 4.0;
        // The first bytes of a stage are long in coming, and the others of few stages are soon done with. Blocks that share them
        // wait for the slowest: 4096 x 3072 x 768 takes 45 µs with four stages and results through shared memory, 39.8 with five.
        let first = if self.peers() > 1 && tiles > f64::from(self.stages) { 1800.0 } else { 600.0 };
        let alone = if per_sm > 1.0 { 0.0 } else { (first + fill) / f64::from(self.stages - 1) };
        let waiting = f64::max(900.0 / f64::from(self.stages), alone);
        let main = tiles * tensor.max(fill).max(latency).max(waiting);
        let element = geometry.dtype.size() as f64;
        // Elements that come and go for each of the result's.
        let full = f64::from(u8::from(shape.carried.is_some()));
        let others = (operands(shape.epilogue).count() as f64 - full) / 2.0;
        let sums = m * n * 4.0;
        let moving = if self.cluster > 1 { sums / 50.0 + 400.0 } else { 0.0 };
        // Of the four warps that issue at once; few of them wait for themselves.
        let busy = [0.55, 0.9, 1.0][(per_sm as usize * self.groups as usize).clamp(1, 3) - 1];
        let of_moments = if shape.epilogue.moments { 5.0 } else { 0.0 };
        let instructions = 3.0 + of_moments + instructions(&shape.epilogue.program);
        let computing = m * n * instructions / 128.0 / parts / busy;
        let finishing = if self.through > 0 {
            // In and out of shared memory, and what nobody else's work hides of the way there.
            let late = if self.pong == 1 || self.through == 2 { 0.0 } else { 600.0 * full };
            (1.0 + full + others) * m * n * element / 64.0 + late
        } else {
            // Little of what is read is under way at a time; of a block's only tile, some since it began.
            let trips = (f64::from(self.batch(shape).0) / f64::from(self.ahead(shape))).ceil();
            (1.0 + full + others) * m * n * element / 32.0 / parts
                + if rounds > 1.0 { 300.0 } else { 0.0 } * trips * full
        };
        // What is known of rows is asked for before the first tile is there, and there after it.
        let known = if shape.epilogue.rows.is_some() { 300.0 } else { 0.0 };
        let epilogue = per_sm * (moving + computing + finishing) + 300.0 + known;
        let moved = per_sm * (1.0 + full) * m * n * element * (blocks / per_sm).min(sms) / L2_BYTES;
        let through_l2 = tiles * fill + moved;
        // Blocks of a cluster wait for each other when they begin and end.
        let start = if self.maps == 1 { 400.0 } else { 600.0 } + if self.peers() > 1 { 900.0 } else { 0.0 };
        // And a block for its last stores, where the copy engine makes them.
        let start = start + if self.through > 0 { 1800.0 } else { 0.0 };
        // Warpgroups that take turns finish one tile behind the next.
        let cycles = if self.pong == 1 {
            rounds * main.max(epilogue).max(through_l2) + epilogue
        } else {
            rounds * (main + epilogue).max(through_l2)
        };
        let us = LAUNCH + (cycles + start) / CYCLES_PER_US;
        let read = full * geometry.out_len().opt(symbols) as f64 * element;
        let added =
            shape.added.as_ref().map_or(0.0, |a| (pixels + a.filters as f64) * a.channels as f64 * element);
        let memory = LAUNCH + (geometry.bytes(out_size, symbols) + read + added) / target.bandwidth / 1e3;
        // What memory bounds is still told apart.
        us.max(memory) + us.min(memory) / 16.0
    }
}

/// Instructions that a program takes for an element.
pub(super) fn instructions(program: &Program) -> f64 {
    let one = |instr: &Instr| match instr {
        Instr::Apply(Pw::Erf, _) => 24.0,
        Instr::Apply(Pw::Sigmoid | Pw::Silu, _) => 7.0,
        Instr::Apply(Pw::Gelu | Pw::Exp | Pw::Log | Pw::Tanh | Pw::Div | Pw::Pow, _) => 10.0,
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
    let forms = (0..=maps).flat_map(|maps| apart.into_iter().map(move |form| (form, maps)));
    let pong = [(64, 2, 1), (128, 2, 1)].map(|form| (form, 1));
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
                let tile = |stages| Tile {
                    m,
                    n,
                    groups,
                    stages,
                    blocks,
                    cluster,
                    share: 1,
                    spread: 1,
                    maps,
                    pong,
                    through,
                };
                let mine = shape.tiles.div_ceil(cluster);
                // Blocks with several tiles of the output go on with the next one's k.
                let work = match (pong, through) {
                    (1, _) => 8,
                    (_, 0) => mine.clamp(2, 8),
                    _ => (mine + 2).clamp(4, 8),
                };
                let fits = |s: &u32| tile(*s).check(shape, wide, target).is_ok();
                // As many stages as fit, and as a block has work for; fewer leave room for the next kernel's blocks.
                let most = (2..=work).rev().find(fits);
                out.extend(most.map(tile));
                if blocks == 1 && pong == 0 && through == 0 {
                    out.extend((2..most.unwrap_or(2)).filter(fits).map(tile));
                }
                // Sharing pays where L2 is asked for much.
                let Some(stages) = most.filter(|_| m * n >= 64 * 128 && cluster <= 4 && blocks <= 2) else {
                    continue;
                };
                for (share, spread) in [(2, 1), (4, 1), (1, 2), (2, 2)] {
                    let wide_tile = Tile { share, spread, ..tile(stages) };
                    if (spread == 1 || cluster == 1) && wide_tile.check(shape, wide, target).is_ok() {
                        out.push(wide_tile);
                    }
                }
            }
        }
    }
    out
}
