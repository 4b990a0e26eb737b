//! `conv.stem`: a network's first convolution on tensor cores: one to four channels, one or two dimensions, constant weights.
//! It reads pixels wherever they lie and of any float type, so that a model's own layout needs no copy before it. Where nothing but
//! maxima over windows of its results is wanted, it stores these alone.

use super::conv_geometry::{Geometry, Pixels};
use super::strips::LAUNCH;
use super::tile_sums::{finish_registers, finish_width};
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family, Launch, Limit, Pack, Table};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Conv, Epilogue};
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
struct Shape<'a> {
    conv: &'a Conv<Dim>,
    geometry: Geometry,
    pixels: Pixels,
    /// Columns that are read at a time: as many as always lie aligned, all inside the image or all outside.
    vec: u32,
    /// Columns that are read before the first window's.
    lead: usize,
    /// Pairs of columns in a line of k.
    pairs: usize,
    /// Steps of k.
    steps: usize,
    /// Windows of results of which maxima are stored.
    windows: Option<Windows>,
}

/// A pool over results, in two dimensions.
#[derive(Clone, Debug)]
struct Windows {
    output: [Dim; 2],
    kernel: [u32; 2],
    strides: [u32; 2],
    pads: [u32; 2],
}

impl Windows {
    fn of(conv: &Conv<Dim>) -> Result<Option<Windows>, String> {
        let Some(pooled) = &conv.pooled else { return Ok(None) };
        let lists = [&pooled.kernel, &pooled.strides, &pooled.pads];
        let rank = pooled.output.len();
        if !(1..=2).contains(&rank) || lists.iter().any(|l| l.len() != rank) {
            return Err(format!("windows of results in {rank} dimensions; expected one or two"));
        }
        let numbers = |of: &[usize], missing: u32| -> Result<[u32; 2], String> {
            let known = of.iter().map(|n| u32::try_from(*n).ok().filter(|n| *n <= 64));
            let known = known.collect::<Option<Vec<u32>>>().ok_or_else(|| format!("windows of {of:?}"))?;
            Ok(std::array::from_fn(|d| (d + known.len()).checked_sub(2).map_or(missing, |d| known[d])))
        };
        let output = |d: usize| (d + rank).checked_sub(2).map_or(Dim::from(1), |d| pooled.output[d].clone());
        let windows = Windows {
            output: [0, 1].map(output),
            kernel: numbers(&pooled.kernel, 1)?,
            strides: numbers(&pooled.strides, 1)?,
            pads: numbers(&pooled.pads, 0)?,
        };
        let each = |d: usize| (windows.kernel[d], windows.strides[d], windows.pads[d]);
        if [0, 1].map(each).iter().any(|(k, s, p)| *s == 0 || k < s || p >= k) {
            return Err(format!("windows {windows:?} that leave results out, or lie in padding"));
        }
        let e = &conv.epilogue;
        let whole = matches!(e.out(), DType::F16 | DType::BF16) && conv.filters.is_multiple_of(8);
        if !whole || e.moments || e.rows.is_some() {
            return Err("it pools halves of whole eights of filters, and knows no moments of them".to_owned());
        }
        Ok(Some(windows))
    }

    /// Maxima in a row of a patch `wide` columns wide, and the columns between two patches.
    fn across(&self, wide: u32) -> (u32, u32) {
        let windows = wide.checked_sub(self.kernel[1]).map_or(0, |rest| rest / self.strides[1] + 1);
        (windows, windows * self.strides[1])
    }
}

impl Windows {
    /// Sizes and strides, the type of results, and whether maxima are placed.
    fn constants(&self, epilogue: &Epilogue<Dim>) -> String {
        let sizes: String = ["H", "W"]
            .iter()
            .zip(&self.output)
            .map(|(d, size)| codegen::size(&format!("POOL_O{d}"), size))
            .collect();
        let numbers: Vec<(String, u32)> = ["H", "W"]
            .iter()
            .enumerate()
            .flat_map(|(d, axis)| {
                let of = [("K", self.kernel[d]), ("S", self.strides[d]), ("P", self.pads[d])];
                of.map(|(name, value)| (format!("POOL_{name}{axis}"), value))
            })
            .chain([("BRAIN".to_owned(), u32::from(epilogue.out() == DType::BF16))])
            .collect();
        let numbers: Vec<(&str, u32)> = numbers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let placed = u32::from(epilogue.place.is_some());
        format!("#define POOLED 1\n#define PLACED {placed}\n{sizes}{}", codegen::constants(&numbers))
    }

    /// What becomes of sums, and where maxima go.
    fn epilogues(&self, epilogue: &Epilogue<Dim>, geometry: &Geometry) -> String {
        let carried = Epilogue { place: None, ..epilogue.clone() };
        let text = codegen::epilogue_carried(&carried, &geometry.out_shape(), None);
        if epilogue.place.is_none() {
            return text;
        }
        let [height, width] = self.output.clone();
        let one = Dim::from(1);
        let shape = Geometry { output: [one, height, width], ..geometry.clone() }.out_shape();
        let stored = Epilogue { place: epilogue.place.clone(), ..Epilogue::store(epilogue.out()) };
        text + &codegen::between(&stored, &shape)
    }
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
    fn is_async(&self) -> bool {
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
struct Tile {
    /// Rows and columns of output pixels of a patch, and filters of a block.
    tall: u32,
    wide: u32,
    n: u32,
    warps: u32,
    /// Patches, one below the other, that a block takes before it goes elsewhere: more than one where windows overlap from one to
    /// the next.
    turns: u32,
    /// Whether warpgroups multiply, not warps.
    wgmma: bool,
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
    const fn blocks_of_rows(&self) -> u32 {
        self.tall * self.wide / (16 * self.warps)
    }

    /// Words of a line of input in shared memory: whole 16 bytes, and the fewest for which the lanes of a load meet least in
    /// banks.
    fn pitch(&self, shape: &Shape) -> u32 {
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
    fn rows(&self, windows: &Windows) -> (u32, u32) {
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
    fn resident(&self, shape: &Shape, target: &Target) -> u32 {
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
    fn width(&self, shape: &Shape) -> u32 {
        let most = if self.n.is_multiple_of(32) { 8 } else { 4 };
        finish_width(shape.geometry.filters).min(most)
    }

    /// Strips of all images.
    fn strips(&self, shape: &Shape) -> Dim {
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
    fn patches(&self, shape: &Shape, symbols: &Symbols) -> f64 {
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

    /// Estimated µs.
    fn cost(&self, shape: &Shape, symbols: &Symbols, target: &Target) -> f64 {
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
