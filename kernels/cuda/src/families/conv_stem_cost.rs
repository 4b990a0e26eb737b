//! What `conv.stem` takes, in µs, as its tactics say; fitted to layers measured on an H200.

use super::conv_stem::{Shape, Tile};
use super::strips::LAUNCH;
use crate::dim::{Symbols, product};
use crate::target::Target;

impl Tile {
    /// Estimated µs.
    pub(super) fn cost(&self, shape: &Shape, symbols: &Symbols, target: &Target) -> f64 {
        const CYCLES_PER_US: f64 = 1700.0;
        let geometry = &shape.geometry;
        let sms = f64::from(target.multiprocessors);
        let columns = geometry.filters.div_ceil(self.n as usize) as f64;
        let patches = self.patches(shape, symbols) * columns;
        let strips = self.strips(shape).opt(symbols).max(1) as f64 * columns;
        let resident = f64::from(self.resident(shape, target));
        let per_sm = (strips / sms).ceil().min(resident);
        // Blocks of a multiprocessor even out where there are many.
        let rounds = strips / (sms * per_sm);
        let rounds = if rounds > 3.0 { rounds } else { rounds.ceil() } * patches / strips;
        let (m, n, steps) = (f64::from(self.tall * self.wide), f64::from(self.n), shape.steps as f64);
        let (warps, rows) = (f64::from(self.warps), f64::from(self.blocks_of_rows()));
        let flops_per_cycle = target.tensor_tflops * 1e6 / CYCLES_PER_US / sms;
        // Warpgroups reach the rate that mma.sync does not, and share what they read of weights.
        let tensor = 2.0 * m * n * 16.0 * steps / flops_per_cycle * if self.wgmma { 0.7 } else { 1.0 };
        let reads = if geometry.strides[2] % 2 == 1 { 8.0 } else { 4.0 };
        let fragments = warps * steps * (rows * reads + if self.wgmma { rows * 4.0 } else { n / 4.0 });
        let tall = (self.tall as usize - 1) * geometry.strides[1] + geometry.kernel[1];
        let items = (tall * geometry.channels) as f64 * f64::from(self.pitch(shape) * 2 / shape.vec);
        // Instructions of all warps over four schedulers.
        let loading =
            items / 32.0 * if shape.is_async() { 14.0 } else { 16.0 + 4.0 * f64::from(shape.vec) } / 4.0;
        let width = f64::from(self.width(shape));
        let storing = m * n / width / 32.0 * (16.0 + 6.0 * width) / 4.0;
        let multiplying = warps * steps * (rows * (reads + 4.0) + n / 16.0 + rows * n / 8.0) / 4.0;
        // Results go through shared memory, of which windows read each several times.
        let (mut through, mut taking) = (0.0, 0.0);
        if let Some(windows) = &shape.windows {
            let taps = f64::from(windows.kernel[0] * windows.kernel[1]);
            let maxima = f64::from(self.rows(windows).1.max(1) * windows.across(self.wide).0) * n / 8.0;
            through = (m * n + maxima * 8.0 * taps) * 2.0 / 128.0;
            taking = maxima / 32.0 * (taps * 7.0 + 24.0) / 4.0;
        }
        // Overlapped in part: as measured on an H200.
        let issued = loading + storing + multiplying + taking;
        let busy = 0.9 * tensor + 0.8 * (fragments + through) + 0.3 * issued + 150.0;
        // Less so by fewer than 12 warps: 7 x 7 x 3 -> 64 at batch 32 takes 27 µs with 12 or 16 of them, 34 with 8.
        let beside = if shape.windows.is_some() { per_sm } else { resident };
        let busy = busy / (beside * warps / 12.0).min(1.0).sqrt();
        // What one block takes with nothing beside it.
        let alone = 700.0 + steps * (40.0 + rows * n / 8.0 * 8.0) + (storing + taking) * 4.0 / warps + 500.0;
        let main = rounds * (per_sm * busy).max(alone);
        let size = geometry.dtype.size() as f64;
        let weights = steps * n * 32.0 / 64.0 + 600.0;
        let out = shape.conv.epilogue.out().size();
        let written = shape.windows.as_ref().map_or(geometry.pixels(), |w| &geometry.n * &product(&w.output));
        let bytes = geometry.bytes(0, symbols)
            + written.opt(symbols) as f64 * (geometry.filters * out) as f64
            + geometry.x_len().opt(symbols) as f64 * (shape.pixels.dtype.size() as f64 - size);
        // Blocks that store parts of pixels leave the memory half busy.
        let parts = if columns > 1.0 { 1.5 } else { 1.1 };
        let (busy, memory) = ((main + weights) / CYCLES_PER_US, parts * bytes / target.bandwidth / 1e3);
        // They overlap, not wholly.
        LAUNCH + (busy.powi(3) + memory.powi(3)).cbrt()
    }
}
