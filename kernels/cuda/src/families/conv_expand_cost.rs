//! What `conv.expand` takes, in µs, as its tactics say; fitted to layers measured on an H200.

use super::conv_expand::{Shape, Tile};
use super::strips::LAUNCH;
use crate::dim::Symbols;
use crate::target::Target;
use bakelite_host::{Instr, Program, Pw};

/// Operations of a program.
fn operations(program: &Program) -> f64 {
    program.code.iter().filter(|i| matches!(i, Instr::Apply(..))).count() as f64
}

/// Operations of a program that are powers, quotients or longer.
fn powers(program: &Program) -> f64 {
    let cheap = |op: &Pw| matches!(op, Pw::Add | Pw::Sub | Pw::Mul | Pw::Min | Pw::Max | Pw::Relu | Pw::Neg);
    program.code.iter().filter(|i| matches!(i, Instr::Apply(op, _) if !cheap(op))).count() as f64
}

impl Tile {
    /// Estimated µs with so many bytes of a block's shared memory, and with blocks for the filters of an image where an excitation
    /// follows.
    pub(super) fn cost(
        &self,
        s: &Shape<'_>,
        (bytes, slices): (usize, Option<usize>),
        symbols: &Symbols,
        target: &Target,
    ) -> f64 {
        // Fitted to measured layers together with the counts below, of which some hide behind others.
        const CYCLES_PER_US: f64 = 2000.0;
        let g = &s.g;
        let sms = f64::from(target.multiprocessors);
        let warps = (self.threads / 32) as f64;
        let (v, wide, run) = (self.v as f64, self.wide as f64, self.run as f64);
        // Of a warp, for a chunk.
        let product = self.product(s) as f64;
        // Of a thread, for a chunk: runs of outputs, and what each takes.
        let runs =
            (self.high / self.run * (self.broad / self.wide)).div_ceil(self.threads / self.lanes()) as f64;
        let rows = (run - 1.0) * g.strides[1] as f64 + ((g.kernel[1] - 1) * g.dilations[1]) as f64 + 1.0;
        let (line, taps) = (self.line(g) as f64, g.taps() as f64);
        let end = v * (1.5 + 5.3 * powers(&s.conv.epilogue.program)) + 6.0;
        let windows = runs * (30.0 + rows * line * (1.0 + v) + run * wide * (taps * v + end)) + taps * v;
        let chunks = self.chunks as f64;
        let inside = self.inside(g);
        let copied = (inside * s.depth() / 8).div_ceil(self.threads) as f64;
        let staged = (self.chunk * s.depth() / 8).div_ceil(self.threads) as f64;
        let instructions = 70.0 + 16.0 * copied + chunks * (product + windows + 12.0 * staged + taps + 60.0);

        let blocks = self.grid(g).opt(symbols).max(1) as f64;
        let registers = (self.registers(s).next_multiple_of(8) * self.threads) as f64;
        let resident = (f64::from(target.shared_per_multiprocessor) / (bytes as f64 + 1024.0))
            .min(65536.0 / registers)
            .min(2048.0 / self.threads as f64)
            .floor()
            .max(1.0);
        let each = (blocks / sms).ceil();
        // Cycles of so many blocks side by side: warps that wait let others issue.
        let wave = |beside: f64| {
            let queue = beside * warps / 4.0;
            queue.max(1.0) * instructions * (1.0 + 1.0 / queue) + 770.0 + 230.0 * chunks
        };
        let beside = each.min(resident);
        let (full, rest) = ((each / beside).floor(), each % beside);
        let cycles = if each > 3.0 * resident {
            each / beside * wave(beside)
        } else {
            full * wave(beside) + if rest > 0.0 { wave(rest) } else { 0.0 }
        };
        let size = g.dtype.size() as f64;
        let pixels = &g.n * &g.input[1] * g.input[2].clone();
        let read = pixels.opt(symbols) as f64 * (s.expand.channels as f64) * size;
        let written = g.out_len().opt(symbols) as f64 * s.conv.epilogue.out().size() as f64;
        // Every block reads its pixels from L2.
        let level2 =
            (blocks * (inside * s.expand.channels) as f64 * size + written) / (target.bandwidth * 1.1e3);
        let memory = ((read + written) / (target.bandwidth * 1e3) * 1.1).max(level2);
        let own = cycles / CYCLES_PER_US;
        let own = LAUNCH + own.max(memory) + 0.25 * own.min(memory);
        let (Some(p), Some(slices)) = (s.excite, slices) else { return own };
        let by = self.blocks(g);
        own + (each / beside).ceil() * by.cycles(p) / CYCLES_PER_US + by.cost(p, slices, symbols, target)
    }

    /// Cycles of a scheduler for a warp's part of a chunk's product: loads of filters and pixels, products, what becomes of them.
    pub(super) fn product(&self, s: &Shape<'_>) -> usize {
        let eights = self.chunk / self.splits / 8;
        let own = self.inside(&s.g).div_ceil(16 * self.tiles).div_ceil(self.threads / 32 / self.splits);
        let steps = s.depth() / 16;
        let filters = 11 * steps * eights.div_ceil(2);
        let again = if steps * eights <= 16 { 0 } else { filters };
        let program = &s.expand.epilogue.program;
        let made = 4.0 * (2.5 + 1.5 * operations(program) + 5.3 * powers(program));
        own * (30 + again + self.tiles * (steps * (11 + 8 * eights / 5) + 16 + eights * made as usize))
            + filters
    }
}

#[cfg(test)]
mod tests {
    use super::super::conv_expand_samples::layers;
    use crate::families::{estimate, sample_symbols};
    use crate::target::Target;
    use bakelite_host::Problem;
    use bakelite_host::problem::Conv;

    /// Of layers by their numbers: µs measured of both convolutions in one kernel, and of both apart.
    const MEASURED: &[(usize, f64, f64)] = &[
        (0, 2.83, 4.29),
        (1, 2.61, 3.58),
        (3, 1.76, 2.59),
        (5, 1.66, 2.32),
        (15, 33.87, 65.5),
        (16, 23.46, 42.1),
        (17, 14.61, 25.9),
        (18, 8.31, 13.2),
        (20, 5.67, 7.93),
        (21, 9.12, 11.7),
        (24, 25.15, 33.6),
        (29, 13.12, 9.5),
    ];

    #[test]
    fn estimates_tell_whether_one_kernel_is_faster() {
        let (symbols, target) = (sample_symbols(), Target::of("sm_90a".parse().unwrap()));
        let layers = layers();
        for (at, together, apart) in MEASURED {
            let Problem::Conv(conv) = &layers[*at] else { panic!("layer {at}: {}", layers[*at]) };
            let both = estimate(&layers[*at], &symbols, &target).unwrap();
            let parts = [conv.expansion().unwrap(), Conv { expand: None, ..conv.clone() }];
            let parts = parts.map(|c| estimate(&c.into(), &symbols, &target).unwrap());
            let sum = parts[0] + parts[1];
            assert_eq!(both < sum, together < apart, "layer {at}: {both:.2} estimated, {sum:.2} apart");
            // Within a launch and a third.
            assert!((both - together).abs() < 1.7 + together / 3.0, "layer {at}: {both:.2} for {together}");
        }
    }
}
