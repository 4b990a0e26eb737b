//! `conv.mma`: which tiles there are, and how long they are estimated to take.

use super::*;
use bakelite_host::problem::Access;

impl Tile {
    /// Estimated µs. The constants of latency, bytes and sums are fitted to 370 measured times of 13 layers on an H200.
    pub(super) fn cost(&self, shape: &Shape, out_size: usize, symbols: &Symbols, target: &Target) -> f64 {
        const CYCLES_PER_US: f64 = 1860.0;
        let geometry = &shape.geometry;
        let pixels = geometry.pixels().opt(symbols).max(1) as f64;
        let sms = f64::from(target.multiprocessors);
        let parts = f64::from(self.split * self.cluster);
        let blocks = (pixels / f64::from(self.m)).ceil()
            * shape.column_tiles(self) as f64
            * geometry.groups as f64
            * parts;
        let threads_per_sm = match target.arch.sm {
            75 => 1024,
            86..=89 | 120.. => 1536,
            _ => 2048,
        };
        let registers = (self.accumulators() + 72).min(255);
        let resident = (target.shared_per_multiprocessor / (self.shared(shape) + 1024))
            .min(threads_per_sm / self.threads())
            .min(65536 / (self.threads() * registers))
            .max(1);
        let per_sm = (blocks / sms).ceil().min(f64::from(resident));
        let rounds = (blocks / (sms * per_sm)).ceil();
        // Fewer rounds than whole ones where blocks of several rounds overlap.
        let rounds = if rounds > 3.0 { (blocks / (sms * per_sm)).max(3.0) } else { rounds };
        let steps = f64::from(shape.tiles(self).div_ceil(self.split * self.cluster) * self.steps);
        let depth = steps * shape.step as f64;
        let (m, n) = (f64::from(self.m), f64::from(self.n));
        let (wm, wn) = self.warp_grid().unwrap_or((1, 1));
        let tiles = steps / f64::from(self.steps);
        // Each step of one warp waits for ldmatrix and then its mmas; each tile, for all warps.
        let mmas = m / f64::from(wm) / 16.0 * (n / f64::from(wn) / 8.0);
        let together = 140.0 + 90.0 * (m * n / 1024.0 - 1.0).min(4.0);
        let latency = steps / f64::from(self.groups) * (87.0 + 5.2 * mmas) + tiles * together;
        let element = geometry.dtype.size() as f64;
        let rate = match (geometry.dtype, shape.math) {
            (DType::F32, Math::Tf32x3) => 0.5 / 3.0,
            (DType::F32, _) => 0.5,
            _ => 1.0,
        };
        let flops_per_cycle = rate * target.tensor_tflops * 1e6 / CYCLES_PER_US / sms;
        // Half of what mma.sync can.
        let tensor = 2.1 * per_sm * 2.0 * m * n * depth / flops_per_cycle;
        let warp_rows = m / f64::from(wm) + n / f64::from(wn);
        let fragments = per_sm * steps * f64::from(self.warps) * warp_rows * 32.0 / 128.0;
        let fill = per_sm * (m + n) * depth * element / 53.0;
        let gather = if shape.gather { per_sm * m * depth * 6.0 / 128.0 + 600.0 } else { 0.0 };
        // What is in flight is limited by the stages.
        let late = f64::max(390.0, tiles * 900.0 / f64::from(self.stages - 1));
        let waiting = if shape.gather { 0.0 } else { late / per_sm };
        let main = latency.max(tensor).max(fragments).max(fill).max(waiting) + gather;
        // Sums go through shared memory, another block's at a sixteenth of the rate, and those of several groups wait for them.
        let writing = if self.cluster > 1 { 12.0 } else { 195.0 };
        let sums = m * n * 4.0 * f64::from(self.groups);
        let groups = 370.0 * f64::from(self.groups - 1);
        // Elements that come and go for each of the result's.
        let is_full = |access: &&Access<Dim>| access.strides.iter().filter(|s| !s.is(0)).count() > 1;
        let known = if shape.epilogue.rows.is_some() { 2 } else { 0 };
        let full = shape.epilogue.operands.iter().skip(known).filter(is_full).count() as f64;
        let moved = (1.0 + full) * m * n * element / 12.7 / parts;
        // What is known of rows waits for its moments, as measured in graphs; giving them takes instructions.
        let of_rows = if known > 0 { 600.0 } else { 0.0 };
        let of_moments = if shape.epilogue.moments { 5.0 * m * n / 128.0 / parts } else { 0.0 };
        let epilogue = per_sm * (sums / writing + sums / 195.0 + moved + of_moments) + groups + of_rows;
        // Kernels of a graph begin while others end.
        let launch = LAUNCH / 2.0;
        let mut us = launch + rounds * (main + epilogue) / CYCLES_PER_US;
        let floor = geometry.bytes(out_size, symbols) / target.bandwidth / 1e3;
        us = us.max(launch + floor);
        if self.split > 1 {
            let partial = pixels * geometry.filters as f64 * 4.0 * f64::from(self.split);
            us += LAUNCH + 2.0 * partial / 4e6;
        }
        us
    }
}

/// Every tile that fits, sensible or not.
pub(super) fn candidates(shape: &Shape, target: &Target) -> Vec<Tile> {
    let mut out = Vec::new();
    let sizes = [32, 64, 128];
    for (m, n) in sizes.iter().flat_map(|m| sizes.iter().map(move |n| (*m, *n))) {
        for (steps, groups) in [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)] {
            for warps in [4, 8] {
                let tile = Tile { m, n, steps, stages: 2, groups, warps, split: 1, cluster: 1 };
                if (warps == 8 && (m * n < 64 * 128 || groups > 1)) || (groups > 1 && m * n > 64 * 128) {
                    continue;
                }
                let tiles = shape.tiles(&tile);
                if shape.gather {
                    // All of k resident if it fits, else slabs of it.
                    let fits = (target.shared_per_block.min(112 * 1024) / ((m + n) * 32 * steps)).min(16);
                    let slabs = tiles.div_ceil(fits.max(1));
                    out.push(Tile { stages: tiles.div_ceil(slabs), ..tile });
                    continue;
                }
                for (split, cluster) in
                    [(1, 1), (2, 1), (3, 1), (4, 1), (6, 1), (8, 1), (1, 2), (1, 3), (1, 4), (1, 6), (1, 8)]
                {
                    let mine = tiles.div_ceil(split * cluster);
                    for stages in 2..=5u32 {
                        if stages == 2 || stages - 1 <= mine {
                            out.push(Tile { stages, split, cluster, ..tile });
                        }
                    }
                    // All of k at once, its weights before the wait, where the next kernel's block fits beside it.
                    let whole = Tile { stages: mine + 1, split, cluster, ..tile };
                    if (6..=MOST_STAGES).contains(&whole.stages)
                        && whole.shared(shape) <= target.shared_per_multiprocessor / 2 - 1024
                    {
                        out.push(whole);
                    }
                }
            }
        }
    }
    out.retain(|t| t.check(shape, target).is_ok());
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
            "f16 last | 32 672 112 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | scaled_bias_residual",
            &[
                (9.04, "m64 n128 k4 stages4 groups2 warps4 split1 cluster1"),
                (11.65, "m64 n128 k2 stages5 groups1 warps8 split1 cluster1"),
                (18.95, "m64 n128 k2 stages5 groups1 warps4 split1 cluster1"),
            ],
        ),
        (
            "f16 last | 32 1152 192 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | scaled_bias_residual",
            &[
                (7.07, "m128 n64 k4 stages3 groups1 warps8 split1 cluster3"),
                (9.84, "m128 n64 k2 stages4 groups1 warps4 split1 cluster3"),
                (14.67, "m64 n128 k2 stages5 groups1 warps4 split1 cluster2"),
            ],
        ),
        (
            "f16 last | 32 1152 320 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | scaled_bias",
            &[
                (8.37, "m128 n64 k4 stages4 groups1 warps8 split1 cluster2"),
                (10.97, "m128 n64 k2 stages5 groups1 warps8 split1 cluster2"),
                (17.19, "m128 n32 k2 stages4 groups2 warps4 split1 cluster1"),
            ],
        ),
        (
            "f16 last | 32 112 672 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_silu",
            &[
                (9.15, "m128 n32 k2 stages2 groups1 warps4 split1 cluster1"),
                (13.65, "m128 n128 k2 stages5 groups1 warps8 split1 cluster1"),
            ],
        ),
        (
            "f16 last | 1 1152 192 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | scaled_bias_residual",
            &[
                (2.58, "m32 n32 k4 stages4 groups2 warps4 split1 cluster6"),
                (3.98, "m32 n32 k4 stages4 groups4 warps4 split1 cluster8"),
            ],
        ),
    ];

    #[test]
    fn estimates_rank_as_measured() {
        conv_samples::assert_ranked(&ConvMma, MEASURED, "");
    }
}
