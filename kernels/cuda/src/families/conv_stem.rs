//! `conv.stem`: a network's first convolution on tensor cores: one to four channels, one or two dimensions, constant weights.
//! It reads pixels wherever they lie and of any float type, so that a model's own layout needs no copy before it. Where nothing but
//! maxima over windows of its results is wanted, it stores these alone.

use super::conv_geometry::{Geometry, Pixels};
use super::conv_stem_windows::Windows;
use super::tile_sums::{finish_registers, finish_width};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Launch, Limit, Pack, Table};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::Conv;
use bakelite_host::{DType, Problem};

const KERNEL: &str = include_str!("../../cuda/conv_stem.cuh");

/// The most steps of k: their weights stay in shared memory.
const MOST_STEPS: usize = 64;

/// Patches of a strip, for those that have more than one.
const TURNS: [u32; 7] = [1, 2, 3, 4, 5, 8, 16];

/// Columns of a patch.
const WIDTHS: [u32; 4] = [16, 8, 32, 64];

/// The family.
#[derive(Debug)]
pub struct ConvStem;

/// The problem as the kernel sees it.
pub(super) struct Shape<'a> {
    pub(super) conv: &'a Conv<Dim>,
    pub(super) geometry: Geometry,
    pub(super) pixels: Pixels,
    /// Columns that are read at a time: as many as always lie aligned, all inside the image or all outside.
    pub(super) vec: u32,
    /// Columns that are read before the first window's.
    lead: usize,
    /// Pairs of columns in a line of k.
    pairs: usize,
    /// Steps of k.
    pub(super) steps: usize,
    /// Windows of results of which maxima are stored.
    pub(super) windows: Option<Windows>,
}

impl Shape<'_> {
    fn of<'a>(problem: &'a Problem<Dim>, target: &Target) -> Result<Shape<'a>, String> {
        let Problem::Conv(conv) = problem else {
            return Err(format!("conv.stem does not implement {}", problem.name()));
        };
        let geometry = Geometry::of_any_conv(conv)?;
        match (conv.dtype, target.arch.sm) {
            (DType::F16, _) | (DType::BF16, 80..) => {}
            (dtype, _) => return Err(format!("no tensor cores for {dtype} on {}", target.arch)),
        }
        let alone = !conv.scaled && conv.added.is_none() && conv.expand.is_none();
        let plain = geometry.groups == 1 && geometry.dilations == [1; 3] && alone;
        if !plain || geometry.channels > 4 || geometry.rank > 2 || !geometry.last {
            return Err("conv.stem takes 1 to 4 channels, one group, no dilation, one or two dimensions, channels last"
                .to_owned());
        }
        let pixels = geometry.pixels_of(conv)?;
        if !matches!(pixels.dtype, DType::F16 | DType::BF16 | DType::F32) {
            return Err(format!("conv.stem does not read {}", pixels.dtype));
        }
        let [_, row, column] = &pixels.spatial;
        let windows = Windows::of(conv)?;
        let vec = if column.is(1) {
            let apart = [&geometry.input[2], &pixels.offset, &pixels.image, row, &pixels.channel];
            let most = codegen::power_of_two(apart, 16 / pixels.dtype.size() as u32);
            // Patches whose windows overlap begin where they may.
            let apart = windows.iter().flat_map(|w| {
                WIDTHS.map(|wide| Dim::from(i64::from(w.across(wide).1) * geometry.strides[2] as i64))
            });
            codegen::power_of_two(&apart.collect::<Vec<_>>(), most)
        } else {
            1
        };
        // Columns of padding before the first patch, whose first results may be a pool's padding.
        let over = windows.as_ref().map_or(0, |w| w.pads[1] as usize);
        let (before, width) = (over * geometry.strides[2] + geometry.pads[2], geometry.kernel[2]);
        let lead = before.next_multiple_of(vec.max(2) as usize) - before;
        let pairs = match (lead % 2 + width).div_ceil(2) {
            few @ 1..=2 => few,
            many => many.next_multiple_of(4),
        };
        let steps = (geometry.kernel[1] * geometry.channels * pairs).div_ceil(8);
        if steps > MOST_STEPS {
            return Err(format!(
                "a window of {:?} has {steps} steps of k; most are {MOST_STEPS}",
                geometry.kernel
            ));
        }
        Ok(Shape { conv, geometry, pixels, vec, lead, pairs, steps, windows })
    }

    /// Whether pixels are copied as they are.
    pub(super) fn is_async(&self) -> bool {
        self.pixels.dtype == self.conv.dtype && self.vec > 1
    }

    /// How the weights are packed: see conv_stem.cuh.
    fn pack(&self, tile: &Tile) -> Pack {
        let geometry = &self.geometry;
        let (channels, taps, width) = (geometry.channels, geometry.taps(), geometry.kernel[2]);
        let n = tile.n as usize;
        let together = if n.is_multiple_of(32) { 4 } else { 2 };
        let first = self.lead % 2;
        let place = |k: usize| {
            let (line, column) = (k / 2 / self.pairs, k / 2 % self.pairs * 2 + k % 2);
            let column = column.checked_sub(first).filter(|c| *c < width)?;
            let (row, channel) = (line / channels, line % channels);
            (row < geometry.kernel[1]).then_some(channel * taps + row * width + column)
        };
        let places: Vec<Option<usize>> = (0..16 * self.steps).map(place).collect();
        if tile.wgmma {
            // Column tile, k, 32 filters, eight of 32 columns, and the filters of 4 and of 2 neighbours.
            let filter = [(0, n), (2, 32), (3, 2), (4, 8), (5, 1)];
            let apart = channels * taps;
            return Pack {
                shape: vec![geometry.filters.div_ceil(n), 16 * self.steps, n / 32, 4, 4, 2],
                strides: vec![n * apart, 0, 32 * apart, 2 * apart, 8 * apart, apart],
                limits: vec![Limit { terms: filter.to_vec(), below: geometry.filters }],
                tables: vec![Table { terms: vec![(1, 1)], places }],
                swizzled: true,
                ..Pack::default()
            };
        }
        // Column tile, step, 8 * together filters, half of them, filter of 8 and of 2, quad of k, eight of 16 filters, half
        // of the step, k of 2.
        let sets = [n / (8 * together), together / 2, 4, 2];
        let by_set = [8 * together, 4, 2 * together, 1];
        let shape = [geometry.filters.div_ceil(n), self.steps].into_iter().chain(sets).chain([4, 2, 2, 2]);
        let filter = [(0, n), (2, by_set[0]), (3, by_set[1]), (4, by_set[2]), (5, by_set[3]), (7, 2)];
        let shape: Vec<usize> = shape.collect();
        let mut strides = vec![0; shape.len()];
        for (d, by) in filter {
            strides[d] = by * channels * taps;
        }
        Pack {
            shape,
            strides,
            limits: vec![Limit { terms: filter.to_vec(), below: geometry.filters }],
            tables: vec![Table { terms: vec![(1, 16), (6, 2), (8, 8), (9, 1)], places }],
            ..Pack::default()
        }
    }
}

/// What a tactic says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tile {
    /// Rows and columns of output pixels of a patch, and filters of a block.
    pub(super) tall: u32,
    pub(super) wide: u32,
    pub(super) n: u32,
    pub(super) warps: u32,
    /// Patches, one below the other, that a block takes before it goes elsewhere: more than one where windows overlap from one to
    /// the next.
    turns: u32,
    /// Whether warpgroups multiply, not warps.
    pub(super) wgmma: bool,
}

impl Tile {
    fn tactic(&self) -> Tactic {
        let wgmma = u32::from(self.wgmma);
        let params = [
            ("tall", self.tall),
            ("wide", self.wide),
            ("n", self.n),
            ("warps", self.warps),
            ("turns", self.turns),
            ("wgmma", wgmma),
        ];
        Tactic::new(ConvStem.name(), ConvStem.version(), &params)
    }

    fn of(tactic: &Tactic) -> Result<Tile, String> {
        Ok(Tile {
            tall: tactic.get("tall")?,
            wide: tactic.get("wide")?,
            n: tactic.get("n")?,
            warps: tactic.get("warps")?,
            turns: tactic.get("turns")?,
            wgmma: tactic.get("wgmma")? == 1,
        })
    }

    const fn threads(&self) -> u32 {
        32 * self.warps
    }

    /// 16 pixels' rows of a warp.
    pub(super) const fn blocks_of_rows(&self) -> u32 {
        self.tall * self.wide / (16 * self.warps)
    }

    /// Words of a line of input in shared memory: whole 16 bytes, and the fewest for which the lanes of a load meet least in
    /// banks.
    pub(super) fn pitch(&self, shape: &Shape) -> u32 {
        let geometry = &shape.geometry;
        let stride = geometry.strides[2] as u32;
        // Loaded ones, and those that are read and cleared.
        let window = (shape.lead + geometry.kernel[2]).max(shape.lead / 2 * 2 + 2 * shape.pairs);
        let columns = (self.wide - 1).saturating_mul(stride).saturating_add(window as u32);
        // An odd stride's last word is read for its half alone.
        let words = columns.next_multiple_of(shape.vec).div_ceil(2) + stride % 2;
        let least = words.next_multiple_of(4);
        let meeting = |pitch: u32| {
            let mut words = std::collections::BTreeSet::new();
            for (pixel, quad) in (0..8).flat_map(|p| (0..4).map(move |q| (p, q))) {
                let line = match shape.pairs as u32 {
                    pairs @ 1..=2 => quad / pairs * pitch + quad % pairs,
                    _ => quad,
                };
                words.insert(pixel * stride / 2 + line);
            }
            let mut banks = [0; 32];
            words.iter().for_each(|w| banks[*w as usize % 32] += 1);
            banks.into_iter().max().unwrap_or(0)
        };
        (least..least + 32).step_by(4).min_by_key(|pitch| (meeting(*pitch), *pitch)).unwrap_or(least)
    }

    /// Rows of maxima that a strip's first patch completes, and that every further one does.
    pub(super) fn rows(&self, windows: &Windows) -> (u32, u32) {
        let ([kernel, _], [stride, _]) = (windows.kernel, windows.strides);
        (self.tall.checked_sub(kernel).map_or(0, |rest| rest / stride + 1), self.tall / stride)
    }

    /// Shared memory for results on their way to maxima: of a patch, and of the rows that the next one needs.
    fn results(&self, shape: &Shape) -> u32 {
        let Some(windows) = &shape.windows else { return 0 };
        let kept = self.tall.saturating_sub(self.rows(windows).0 * windows.strides[0]);
        (self.tall + if self.turns > 1 { kept } else { 0 }) * self.wide * self.n * 2
    }

    /// Dynamic shared memory: the weights of all of k, the input under two patches, and results of which maxima are taken.
    fn shared(&self, shape: &Shape) -> u32 {
        let geometry = &shape.geometry;
        let rows = (self.tall - 1).saturating_mul(geometry.strides[1] as u32) + geometry.kernel[1] as u32;
        let patch = rows.saturating_mul(geometry.channels as u32 * 4).saturating_mul(self.pitch(shape));
        (shape.steps as u32 * self.n * 32)
            .saturating_add(patch.saturating_mul(2))
            .saturating_add(self.results(shape))
    }

    /// Accumulator registers of a thread.
    const fn accumulators(&self) -> u32 {
        self.blocks_of_rows() * self.n / 2
    }

    /// Steps whose pixels warpgroups have in registers.
    fn ahead(&self, shape: &Shape) -> u32 {
        match self.blocks_of_rows() {
            _ if !self.wgmma => 1,
            1 => 12.min(shape.steps as u32),
            2 => 4.min(shape.steps as u32),
            _ => 2.min(shape.steps as u32),
        }
    }

    /// Registers of a thread, estimated to be enough.
    fn registers(&self, shape: &Shape) -> u32 {
        let width = self.width(shape);
        let reads = 2 * (self.n / 4 / width) * finish_registers(&shape.conv.epilogue, width);
        let operands = if self.wgmma {
            // Where little else is in registers.
            (4 * self.ahead(shape) * self.blocks_of_rows()).saturating_sub(24)
        } else {
            4 * self.blocks_of_rows() + 12
        };
        // Where a strip is, and what is stored of it. Warps unroll their steps over that, and ask for all at once.
        let (more, least) = match shape.windows {
            Some(_) if self.wgmma => (0, 128),
            Some(_) => (72, 128),
            None => (0, 104),
        };
        (self.accumulators() + operands.max(reads) + 64 + more).max(least)
    }

    /// Blocks that a multiprocessor is to hold.
    pub(super) fn resident(&self, shape: &Shape, target: &Target) -> u32 {
        let threads = match target.arch.sm {
            // What others copy asynchronously goes through registers there: leave some.
            75 => 512,
            86..=89 | 120.. => 1536,
            _ => 2048,
        };
        (65536 / (self.threads() * self.registers(shape).next_multiple_of(8)))
            .min(target.shared_per_multiprocessor / (self.shared(shape) + 1024))
            .min(threads / self.threads())
            .clamp(1, 8)
    }

    /// Filters that a thread stores at a time.
    pub(super) fn width(&self, shape: &Shape) -> u32 {
        let most = if self.n.is_multiple_of(32) { 8 } else { 4 };
        finish_width(shape.geometry.filters).min(most)
    }

    /// Strips of all images.
    pub(super) fn strips(&self, shape: &Shape) -> Dim {
        let tiles = |size: &Dim, by: u32| size.ceil_div(&Dim::from(i64::from(by)));
        let Shape { geometry, windows, .. } = shape;
        let [_, height, width] = &geometry.output;
        let Some(windows) = windows else {
            return &geometry.n * tiles(height, self.tall) * tiles(width, self.wide);
        };
        let (first, more) = self.rows(windows);
        let [height, width] = &windows.output;
        let rows = first + (self.turns - 1) * more;
        &geometry.n * tiles(height, rows) * tiles(width, windows.across(self.wide).0)
    }

    /// Patches of all strips, with symbols at their optimum.
    pub(super) fn patches(&self, shape: &Shape, symbols: &Symbols) -> f64 {
        let strips = self.strips(shape).opt(symbols).max(1) as f64;
        let Some(windows) = &shape.windows else { return strips };
        // Those below an image's last row of maxima are left out.
        let (first, more) = self.rows(windows);
        let (rows, strip) =
            (windows.output[0].opt(symbols).max(1), i64::from(first + (self.turns - 1) * more));
        let more = i64::from(more);
        let patches = |rows: i64| 1 + ((rows - i64::from(first)).max(0) + more - 1) / more;
        let (whole, rest) = (rows / strip, rows % strip);
        let of_image = whole * i64::from(self.turns) + if rest > 0 { patches(rest) } else { 0 };
        strips / (whole + i64::from(rest > 0)) as f64 * of_image as f64
    }

    /// Why the kernel cannot be made so, if it cannot.
    fn check(&self, shape: &Shape, target: &Target) -> Result<(), String> {
        let fail = |what: String| Err(format!("`{}`: {what}", self.tactic()));
        if !matches!(self.wide, 8 | 16 | 32 | 64)
            || !matches!(self.warps, 2 | 4 | 8)
            || !(1..=32).contains(&self.tall)
        {
            return fail(
                "patches are 8, 16, 32 or 64 pixels wide, 1 to 32 tall, of 2, 4 or 8 warps".to_owned(),
            );
        }
        if self.n == 0 || self.n > 128 || !self.n.is_multiple_of(16) {
            return fail("blocks have 16 to 128 filters, whole sixteens".to_owned());
        }
        let pixels = self.tall * self.wide;
        if !pixels.is_multiple_of(16 * self.warps) || !matches!(self.blocks_of_rows(), 1 | 2 | 4) {
            return fail("a warp takes 1, 2 or 4 blocks of 16 pixels".to_owned());
        }
        if self.turns == 0 || self.turns > 64 || shape.windows.is_none() && self.turns > 1 {
            return fail("strips have 1 to 64 patches, one where results do not meet".to_owned());
        }
        if let Some(windows) = &shape.windows {
            let apart = self.turns > 1 && !self.tall.is_multiple_of(windows.strides[0]);
            if self.rows(windows).0 == 0 || windows.across(self.wide).0 == 0 || apart {
                return fail("windows of results lie in patches that begin alike".to_owned());
            }
            if !self.n.is_multiple_of(32) {
                return fail("maxima are of whole 32 filters".to_owned());
            }
        }
        let hopper = target.arch.sm == 90 && target.arch.specific;
        if self.wgmma && (!hopper || self.n != 64 || !self.warps.is_multiple_of(4) || shape.steps > 16) {
            return fail(
                "warpgroups are of sm_90a, and multiply 64 filters by 16 steps of k at most".to_owned(),
            );
        }
        if self.accumulators() > 128 || self.threads() * self.registers(shape).min(255) > 65536 {
            return fail("more registers than a thread or a block has".to_owned());
        }
        if self.shared(shape) > target.shared_per_block {
            return fail(format!(
                "{} bytes of shared memory of {}",
                self.shared(shape),
                target.shared_per_block
            ));
        }
        Ok(())
    }
}

/// Every tile that fits.
fn candidates(shape: &Shape, target: &Target) -> Vec<Tile> {
    let widest = (shape.geometry.filters as u32).next_multiple_of(16);
    let filters: std::collections::BTreeSet<u32> =
        [16, 32, 48, 64, 96, 128].into_iter().filter(|n| *n <= widest).chain([widest.min(128)]).collect();
    let mut out = Vec::new();
    for n in filters.into_iter().filter(|n| 4 * n >= widest.min(128)) {
        for (warps, rows) in [4, 2, 8].into_iter().flat_map(|w| [1, 2, 4].map(|r| (w, r))) {
            // Alike in the model; 16 is what was fastest.
            for (wide, turns) in WIDTHS.iter().flat_map(|w| TURNS.map(|t| (*w, t))) {
                let tile = Tile { tall: 16 * warps * rows / wide, wide, n, warps, turns, wgmma: false };
                let both = [tile, Tile { wgmma: true, ..tile }];
                out.extend(both.into_iter().filter(|t| t.check(shape, target).is_ok()));
            }
        }
    }
    out
}

impl Family for ConvStem {
    fn name(&self) -> &'static str {
        "conv.stem"
    }

    fn version(&self) -> u32 {
        2
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok(shape) = Shape::of(problem, target) else { return vec![] };
        let mut ranked: Vec<(f64, Tile)> =
            candidates(&shape, target).into_iter().map(|t| (t.cost(&shape, symbols, target), t)).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.iter().take(20).map(|(_, t)| t.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let estimate = || {
            let (shape, tile) = (Shape::of(problem, target)?, Tile::of(tactic)?);
            tile.check(&shape, target)?;
            Ok::<f64, String>(tile.cost(&shape, symbols, target))
        };
        estimate().unwrap_or(f64::INFINITY)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        target: &Target,
    ) -> Result<Build, String> {
        let shape = Shape::of(problem, target)?;
        let tile = Tile::of(tactic)?;
        tile.check(&shape, target)?;
        let Shape { conv, geometry, pixels, windows, .. } = &shape;
        let resident = tile.resident(&shape, target);
        let constants = codegen::constants(&[
            ("TH", tile.tall),
            ("TW", tile.wide),
            ("BN", tile.n),
            ("WARPS", tile.warps),
            ("TURNS", tile.turns),
            ("RESIDENT", resident),
            ("STEPS", shape.steps as u32),
            ("AHEAD", tile.ahead(&shape)),
            ("PAIRS", shape.pairs as u32),
            ("LEAD", shape.lead as u32),
            ("PITCH", tile.pitch(&shape)),
            ("VEC", shape.vec),
            ("ASYNC", u32::from(shape.is_async())),
            // Neighbours in memory are channels, not columns.
            ("INNER", u32::from(pixels.channel.is(1) && !pixels.spatial[2].is(1))),
            ("WIDTH", tile.width(&shape)),
        ]);
        let wide = geometry.is_wide(symbols) || codegen::is_wide([&pixels.extent], symbols);
        let (maxima, epilogue) = match windows {
            None => (
                "#define POOLED 0\n".to_owned(),
                codegen::epilogue_in_two_steps(&conv.epilogue, &geometry.out_shape()),
            ),
            Some(windows) => (windows.constants(&conv.epilogue), windows.epilogues(&conv.epilogue, geometry)),
        };
        let kernel = codegen::source(
            &format!("{} ({tactic})", geometry.title("conv.stem")),
            wide,
            &[
                &format!("{constants}#define WGMMA {}\n{maxima}", u32::from(tile.wgmma)),
                &geometry.constants(problem),
                &pixels.constants(),
                &epilogue,
                &if tile.wgmma { crate::wgmma::values(tile.n, conv.dtype) } else { String::new() },
                KERNEL,
            ],
        );
        let own = problem.own_inputs();
        let args = (0..own).map(Arg::Input);
        let args =
            args.chain(codegen::epilogue_args(&conv.epilogue, own)).chain(codegen::symbol_args(problem));
        let mut packs = vec![None; own + conv.epilogue.operands.len()];
        packs[1] = Some(shape.pack(&tile));
        let most = Dim::from(i64::from(target.multiprocessors * resident));
        Ok(Build {
            kernels: vec![kernel],
            launches: vec![Launch {
                kernel: 0,
                grid: [
                    Dim::min(&tile.strips(&shape), &most),
                    Dim::from(geometry.filters.div_ceil(tile.n as usize)),
                    Dim::from(1),
                ],
                block: [tile.threads(), 1, 1],
                shared: tile.shared(&shape),
                cluster: None,
                programmatic: true,
                args: args.collect(),
            }],
            workspace: Dim::from(0),
            packs,
        })
    }
}

#[cfg(test)]
#[path = "conv_stem_layout_tests.rs"]
mod layout_tests;
