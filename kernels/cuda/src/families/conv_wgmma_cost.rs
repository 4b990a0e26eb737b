//! `conv.wgmma`: which tiles there are, and how long they are estimated to take.

use super::*;
use bakelite_host::{Instr, Program, Pw};

impl Tile {
    /// Estimated µs. The constants are fitted to 1,600 measured times of 45 layers of batches of 1 and 32 on an H200; what each
    /// stands for is what was seen there.
    pub(super) fn cost(&self, shape: &Shape<'_>, symbols: &Symbols, target: &Target) -> f64 {
        const CYCLES_PER_US: f64 = 1860.0;
        // Bytes a cycle that come from L2 to all multiprocessors.
        const L2_BYTES: f64 = 5620.0;
        // What blocks share counts for less, but not much: it spares L2, not the way to them. Sharing made no layer more than 6 %
        // faster, and those of few tiles of k slower.
        const SHARED: f64 = 0.64;
        let geometry = &shape.geometry;
        let out_size = shape.epilogue.out().size();
        let pixels = geometry.pixels().opt(symbols).max(1) as f64;
        let sms = f64::from(target.multiprocessors);
        let (m, n, parts) = (f64::from(self.m), f64::from(self.n), f64::from(self.cluster));
        let columns = shape.column_tiles(self) as f64 / f64::from(self.spread);
        let turns = (pixels / m / f64::from(self.share)).ceil() * columns;
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
        let tensor = m * n / 32.0 * 1.23 * steps / 4.0;
        let shared = (m + m / 64.0 * n) * steps / 4.0 + 1.08 * (m + n);
        let [share, spread] = [self.share, self.spread].map(|s| SHARED + (1.0 - SHARED) / f64::from(s));
        let fill = (m * spread + n * share) * 128.0 * active / L2_BYTES;
        let latency = if self.maps == 1 { 290.0 } else { 318.0 };
        let late = 670.0 + if self.peers() > 1 { 285.0 } else { 0.0 };
        let waiting = (late + fill / per_sm) / f64::from(self.stages - 1);
        let step = tensor.max(shared).max(latency).max(waiting);

        let element = geometry.dtype.size() as f64;
        // Elements that come and go for each of the result's.
        let full = f64::from(u8::from(shape.carried.is_some()));
        let others = (operands(shape.epilogue).count() as f64 - full) / 2.0;
        // Few warps wait for themselves.
        let busy = [0.38, 0.63, 1.0][self.team().clamp(1, 3) as usize - 1];
        let of_moments = if shape.epilogue.moments { 5.0 } else { 0.0 };
        let instructions = 5.1 + of_moments + instructions(&shape.epilogue.program);
        let computing = m * n * instructions / 128.0 / parts / busy;
        let moving = if self.cluster > 1 { m * n * 4.0 / 15.0 } else { 0.0 };
        let bytes = (1.0 + full + others) * m * n * element;
        let finishing = if self.through > 0 {
            // In and out of shared memory, and what nobody else's work hides of the way there.
            bytes / 300.0 + if self.pong == 1 || self.through == 2 { 0.0 } else { 310.0 * full }
        } else {
            // Little of what is read is under way at a time.
            let trips = (f64::from(self.batch(shape).0) / f64::from(self.ahead(shape))).ceil();
            bytes / 126.0 / parts + 487.0 * trips * full
        };
        // What is known of rows, as measured in graphs: a tile waits for moments, and its epilogue for operands that had no registers.
        let known = if shape.epilogue.rows.is_some() { 2600.0 } else { 0.0 };
        let epilogue = computing + moving + finishing + known;

        let first = tiles * step.max(fill);
        // The ring is filled for the next tile of the output while this one is finished.
        let ahead = f64::from(self.stages).min(epilogue / fill);
        let next = (tiles * step).max((tiles - ahead) * fill);
        let moved = (1.0 + full) * m * n * element / parts * active / L2_BYTES;
        let bound = (per_sm * tiles * tensor.max(shared)).max(tiles * fill + moved);
        // What nearly binds delays, too.
        let beside = |own: f64| (own.powf(4.5) + bound.powf(4.5)).powf(1.0 / 4.5);
        let cycles = match (self.pong, self.cluster) {
            // Warpgroups that take turns finish one tile behind the next.
            (1, _) => rounds * beside(next.max(epilogue)) + epilogue.min(first),
            (_, 1) => beside(first + epilogue) + (rounds - 1.0) * beside(next + epilogue),
            _ => rounds * beside(first + epilogue),
        };
        // Blocks of a cluster wait for each other when they begin and end; a block for its last stores, where the copy engine
        // makes them.
        let start = if self.maps == 1 { 0.0 } else { 200.0 }
            + if size > 1.0 { 1270.0 } else { 0.0 }
            + if self.through > 0 { 2200.0 } else { 0.0 };
        // Kernels of a graph begin while others end.
        let launch = LAUNCH / 2.0;
        let us = launch + (cycles + start) / CYCLES_PER_US;
        let read = full * geometry.out_len().opt(symbols) as f64 * element;
        let added =
            shape.added.as_ref().map_or(0.0, |a| (pixels + a.filters as f64) * a.channels as f64 * element);
        let memory = launch + (geometry.bytes(out_size, symbols) + read + added) / target.bandwidth / 1e3;
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
    // Rows of a matrix never came sooner without a map; windows of small layers did, by 5 %.
    let least = if shape.geometry.is_pointwise() { maps } else { 0 };
    let forms = (least..=maps).flat_map(|maps| apart.into_iter().map(move |form| (form, maps)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::conv_samples;

    // Measured on an H200 (2026-11-20, fp16, repeated in a graph), best first: µs and tactic. Estimates must keep their order where
    // the times are 12 % apart.
    const MEASURED: &[(&str, &[(f64, &str)])] = &[
        (
            "f16 last | 32 512 512 1 | 7 7 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
            &[
                (17.87, "m128 n128 groups2 stages6 blocks1 cluster2 share2 spread1 maps1 pong0 through0"),
                (23.44, "m192 n128 groups3 stages4 blocks1 cluster2 share4 spread1 maps1 pong0 through0"),
                (28.90, "m128 n128 groups2 stages6 blocks1 cluster2 share4 spread1 maps1 pong0 through0"),
            ],
        ),
        (
            "f16 last | 32 2048 512 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
            &[
                (8.17, "m64 n128 groups1 stages8 blocks1 cluster1 share1 spread1 maps1 pong0 through0"),
                (9.80, "m128 n128 groups2 stages6 blocks1 cluster2 share2 spread1 maps1 pong0 through0"),
                (15.55, "m128 n128 groups2 stages5 blocks1 cluster4 share2 spread1 maps1 pong0 through0"),
            ],
        ),
        (
            "f16 last | 32 1024 256 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
            &[
                (7.64, "m128 n128 groups2 stages7 blocks1 cluster1 share1 spread1 maps1 pong0 through0"),
                (9.57, "m128 n128 groups1 stages6 blocks1 cluster1 share2 spread1 maps1 pong0 through1"),
                (13.00, "m128 n256 groups2 stages3 blocks1 cluster2 share1 spread1 maps1 pong0 through0"),
            ],
        ),
        (
            "f16 last | 32 128 128 1 | 28 28 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
            &[
                (11.74, "m192 n128 groups3 stages5 blocks1 cluster1 share1 spread1 maps1 pong0 through0"),
                (15.09, "m256 n128 groups2 stages4 blocks1 cluster1 share1 spread1 maps1 pong0 through0"),
                (20.10, "m128 n128 groups1 stages7 blocks1 cluster1 share2 spread1 maps0 pong0 through0"),
                (28.50, "m128 n128 groups2 stages6 blocks1 cluster2 share4 spread1 maps1 pong0 through0"),
            ],
        ),
        (
            "f16 last | 32 64 64 1 | 56 56 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
            &[
                (17.48, "m256 n64 groups2 stages5 blocks1 cluster1 share1 spread1 maps1 pong0 through0"),
                (27.83, "m128 n64 groups1 stages8 blocks1 cluster1 share4 spread1 maps1 pong0 through1"),
            ],
        ),
        (
            "f16 last | 32 3072 768 1 | 197 | 1 | 1 | 1 | 0 0 | bias_residual",
            &[
                (46.77, "m192 n96 groups3 stages6 blocks1 cluster1 share1 spread2 maps1 pong0 through0"),
                (53.96, "m192 n128 groups3 stages5 blocks1 cluster1 share1 spread2 maps1 pong0 through0"),
                (60.86, "m128 n128 groups2 stages7 blocks1 cluster1 share2 spread1 maps1 pong0 through0"),
            ],
        ),
        (
            "f16 last | 32 768 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
            &[
                (9.58, "m192 n128 groups3 stages5 blocks1 cluster1 share1 spread1 maps1 pong0 through0"),
                (10.79, "m128 n96 groups1 stages4 blocks2 cluster1 share2 spread1 maps1 pong0 through0"),
            ],
        ),
        (
            "f16 last | 32 960 320 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias",
            &[
                (3.88, "m64 n64 groups2 stages8 blocks1 cluster1 share1 spread1 maps1 pong1 through0"),
                (4.87, "m128 n64 groups2 stages8 blocks1 cluster2 share1 spread1 maps1 pong0 through0"),
                (5.63, "m192 n64 groups3 stages6 blocks1 cluster2 share1 spread1 maps1 pong0 through0"),
            ],
        ),
        (
            "f16 last | 32 16 96 1 | 112 112 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
            &[
                (25.36, "m128 n96 groups2 stages4 blocks1 cluster1 share1 spread1 maps1 pong0 through1"),
                (28.58, "m128 n96 groups2 stages4 blocks1 cluster1 share4 spread1 maps1 pong0 through1"),
                (32.82, "m128 n64 groups2 stages8 blocks1 cluster1 share1 spread1 maps1 pong1 through1"),
            ],
        ),
        (
            "f16 last | 1 768 2304 1 | 128 | 1 | 1 | 1 | 0 0 | bias",
            &[
                (3.20, "m64 n64 groups1 stages5 blocks1 cluster1 share1 spread1 maps1 pong0 through0"),
                (3.62, "m128 n64 groups2 stages6 blocks1 cluster2 share1 spread1 maps1 pong0 through0"),
                (5.67, "m128 n128 groups2 stages3 blocks1 cluster4 share1 spread1 maps1 pong0 through0"),
            ],
        ),
        (
            "f16 last | 1 3072 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
            &[
                (3.96, "m64 n64 groups1 stages6 blocks2 cluster4 share1 spread1 maps1 pong0 through0"),
                (4.65, "m64 n96 groups1 stages8 blocks1 cluster4 share1 spread1 maps1 pong0 through0"),
            ],
        ),
    ];

    #[test]
    fn estimates_rank_as_measured() {
        conv_samples::assert_ranked(&ConvWgmma, MEASURED);
    }
}
