//! `conv.depthwise`: one filter to each channel, two dimensions at most, both layouts, constant weights. Memory-bound:
//! a thread computes a tile of neighbouring pixels, which share what it reads. With the excitation of the result, if one follows.

use super::conv_geometry::Geometry;
use super::squeeze::{self, Blocks};
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Launch, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Conv, Excite};
use bakelite_host::{Class, Problem};

const KERNEL: &str = include_str!("../../cuda/conv_depthwise.cuh");

/// Threads of a block, where nothing follows.
const THREADS: u32 = 128;

/// The family.
#[derive(Debug)]
pub struct ConvDepthwise;

/// A depthwise convolution and the excitation of its result, if there is one.
type Parts<'a> = (&'a Conv<Dim>, Geometry, Option<&'a Excite<Dim>>);

/// The convolution in `problem`, if it is depthwise.
fn conv(problem: &Problem<Dim>) -> Result<Parts<'_>, String> {
    let (conv, geometry) = Geometry::of_depthwise(problem)?;
    if !geometry.dtype.is_float() {
        return Err(format!("conv.depthwise takes floats, not {}", geometry.dtype));
    }
    // The kernel unrolls its window.
    if geometry.kernel[2] > 11 || geometry.taps() > 121 {
        return Err(format!("a window of {:?} is too large to unroll", geometry.kernel));
    }
    Ok((conv, geometry, squeeze::excite(problem)?))
}

/// What a tactic says: a thread's tile of pixels, and its channels.
#[derive(Clone, Copy, Debug)]
struct Tile {
    tall: u32,
    wide: u32,
    v: u32,
}

impl Tile {
    fn of(tactic: &Tactic) -> Result<Tile, String> {
        Ok(Tile { tall: tactic.get("tall")?, wide: tactic.get("wide")?, v: tactic.get("v")? })
    }

    fn tactic(&self, sums: Option<Sums>) -> Tactic {
        let own = [("tall", self.tall), ("wide", self.wide), ("v", self.v)];
        let sums = sums.map(|s| [("lanes", s.lanes), ("teams", s.teams), ("slices", s.slices)]);
        let params: Vec<_> = own.into_iter().chain(sums.into_iter().flatten()).collect();
        Tactic::new(ConvDepthwise.name(), ConvDepthwise.version(), &params)
    }

    /// Rows and columns of input that a thread reads; those that a stride or dilation jumps over do not count.
    fn patch(&self, geometry: &Geometry) -> [usize; 2] {
        [(1, self.tall), (2, self.wide)].map(|(d, outputs)| {
            let reach = (geometry.kernel[d] - 1) * geometry.dilations[d] + 1;
            let span = (outputs as usize - 1) * geometry.strides[d] + reach;
            span.min(outputs as usize * geometry.kernel[d])
        })
    }

    /// Registers for what a thread holds if it reads `rows` of the patch and of the taps at a time: as they are in
    /// memory, and sums in their class.
    fn registers(&self, geometry: &Geometry, rows: usize) -> usize {
        let (v, size) = (self.v as usize, geometry.dtype.size());
        let sums = if geometry.dtype.class() == Class::F64 { 2 * v } else { v };
        // Taps of several rows of outputs stay widened.
        let tap = if self.tall > 1 { size.max(4) } else { size };
        let [tall, columns] = self.patch(geometry);
        let patch = rows.min(tall) * columns * (v * size).max(4);
        // Halves alone in their registers stay there beside what they widen to.
        let copies = if v * size < 4 { 2 } else { 1 };
        let taps = rows.min(geometry.kernel[1]) * geometry.kernel[2] * (v * tap).max(4) * copies;
        (patch + taps) / 4 + (self.tall * self.wide) as usize * sums
    }

    /// Whether all of the patch and the taps fit a thread at once.
    fn is_whole(&self, geometry: &Geometry) -> bool {
        self.registers(geometry, usize::MAX) <= 160
    }

    /// Why it does not fit a thread, if it does not.
    fn check(&self, geometry: &Geometry) -> Result<(), String> {
        let (tall, wide, v) = (self.tall, self.wide, self.v as usize);
        let known = matches!(tall, 1 | 2 | 4) && matches!(wide, 1 | 2 | 4 | 8) && matches!(v, 1 | 2 | 4 | 8);
        let bytes = v * geometry.dtype.size() <= 16;
        let divides = if geometry.last { geometry.channels.is_multiple_of(v) } else { v == 1 };
        let fits = known
            && (self.is_whole(geometry) || (tall == 1 && wide <= 4 && self.registers(geometry, 1) <= 96));
        if fits && bytes && divides {
            Ok(())
        } else {
            Err(format!("{tall} by {wide} pixels of {v} channels do not fit a thread"))
        }
    }

    /// Tiles of an image.
    fn tiles(&self, geometry: &Geometry) -> Dim {
        let strips = geometry.output[2].ceil_div(&Dim::from(i64::from(self.wide)));
        let bands = geometry.output[1].ceil_div(&Dim::from(i64::from(self.tall)));
        bands * strips
    }

    /// Tiles over all images, times sets of `v` channels.
    fn items(&self, geometry: &Geometry) -> Dim {
        &geometry.n * &self.tiles(geometry) * Dim::from(geometry.channels / self.v.max(1) as usize)
    }

    /// Estimated µs of the convolution by blocks of so many threads, that take so many cycles after their last results.
    fn cost(
        &self,
        (conv, geometry): (&Conv<Dim>, &Geometry),
        (blocks, threads, end): (f64, f64, f64),
        symbols: &Symbols,
        target: &Target,
    ) -> f64 {
        const CYCLES_PER_US: f64 = 1700.0;
        let sms = f64::from(target.multiprocessors);
        let [rows, columns] = self.patch(geometry);
        let (patch, taps) = ((rows * columns) as f64, geometry.taps() as f64);
        let (v, outputs) = (f64::from(self.v), f64::from(self.tall * self.wide));
        // Instructions of a thread: loads and conversions of pixels and taps, multiplications, the epilogue.
        let instructions =
            60.0 + patch * (3.0 + 1.5 * v) + taps * (1.0 + v) + outputs * (taps * v + 10.0 + 6.0 * v);
        // Rounds of a warp for each of a multiprocessor's schedulers.
        let warps = f64::from(THREADS);
        let rounds = ((blocks / sms).ceil() * threads / warps).max(1.0);
        let size = geometry.dtype.size() as f64;
        let fill = rounds * warps * (patch + taps) * (v * size).max(4.0) / 64.0;
        // How often a thread waits for loads, and what it holds.
        let (turns, held) = match self.is_whole(geometry) {
            true => (1, self.registers(geometry, rows)),
            false => (rows, self.registers(geometry, 1)),
        };
        let registers = (held as f64 + 40.0).min(255.0);
        let resident = (65536.0 / (registers * warps)).floor().max(1.0);
        // Fewer than four warps to a scheduler do not keep it busy.
        let issue = rounds * instructions / (resident / 4.0).min(1.0);
        // One block's own time: loads on their way, then all its instructions with nothing beside them.
        let instructions = instructions * (threads / warps).max(1.0);
        let waits = (rounds / resident).ceil() * (200.0 + 700.0 * turns as f64 + end) + instructions;
        let memory = geometry.bytes(conv.epilogue.out().size(), symbols) / target.bandwidth / 1e3;
        // Behind the last bytes comes what sums take.
        let tail = if end > 0.0 { 0.3 * waits / CYCLES_PER_US } else { 0.0 };
        // Short rows of patches here and there keep memory two thirds busy.
        LAUNCH + (issue.max(fill).max(waits) / CYCLES_PER_US).max(memory * 1.5 + tail)
    }

    /// Every tile that fits.
    fn all(geometry: &Geometry) -> Vec<Tile> {
        [1, 2, 4]
            .into_iter()
            .flat_map(|tall| [1, 2, 4, 8].map(|wide| (tall, wide)))
            .flat_map(|(tall, wide)| [8, 4, 2, 1].map(|v| Tile { tall, wide, v }))
            .filter(|tile| tile.check(geometry).is_ok())
            .collect()
    }
}

/// What a tactic says besides where an excitation follows: threads side by side along channels, how many of these, and blocks for
/// the filters of an image.
#[derive(Clone, Copy, Debug)]
struct Sums {
    lanes: u32,
    teams: u32,
    slices: u32,
}

impl Sums {
    fn of(tactic: &Tactic) -> Result<Sums, String> {
        Ok(Sums { lanes: tactic.get("lanes")?, teams: tactic.get("teams")?, slices: tactic.get("slices")? })
    }

    /// How blocks divide their work, or why they do not fit.
    fn blocks(&self, tile: &Tile, geometry: &Geometry, p: &Excite<Dim>) -> Result<Blocks, String> {
        let (lanes, teams, v) = (self.lanes as usize, self.teams as usize, tile.v as usize);
        let threads = lanes.saturating_mul(teams).next_multiple_of(32);
        let rows = tile.patch(geometry)[0];
        let held = if tile.is_whole(geometry) { rows } else { 1 };
        let registers = (tile.registers(geometry, held) + 56 + v).next_multiple_of(8);
        if lanes == 0 || teams == 0 || threads > 512 || registers * threads > 65536 {
            return Err(format!("{lanes} times {teams} threads of {registers} registers"));
        }
        let parts = tile.tiles(geometry).ceil_div(&Dim::from(teams));
        let blocks = Blocks { v, lanes, teams, threads, parts };
        if blocks.bytes(p) > 48 << 10 {
            return Err(format!("{} bytes of sums and weights", blocks.bytes(p)));
        }
        Ok(blocks)
    }

    /// Every one worth a thought for `tile`.
    fn all(tile: &Tile, geometry: &Geometry, symbols: &Symbols, slices: u32) -> Vec<Sums> {
        let across = geometry.channels / tile.v as usize;
        // Fewer channels than a sector holds waste the rest of it.
        let sector = (32 / (tile.v as usize * geometry.dtype.size())).clamp(1, across);
        let lanes = (sector..=64.min(across.next_power_of_two())).filter(|l| {
            across.is_multiple_of(*l)
                || (l.is_power_of_two() && across.next_multiple_of(*l) * 3 <= across * 4)
        });
        let tiles = tile.tiles(geometry).opt(symbols).max(1) as usize;
        let mut out = Vec::new();
        for lanes in lanes {
            let mut all = [64, 128, 256, 512].map(|threads| {
                let most = (threads / lanes).clamp(1, tiles);
                tiles.div_ceil(tiles.div_ceil(most)) as u32
            });
            all.sort_unstable();
            let mut teams = all.to_vec();
            teams.dedup();
            out.extend(teams.into_iter().map(|teams| Sums { lanes: lanes as u32, teams, slices }));
        }
        out
    }

    fn cost(
        &self,
        tile: &Tile,
        (conv, geometry, p): (&Conv<Dim>, &Geometry, &Excite<Dim>),
        symbols: &Symbols,
        target: &Target,
    ) -> Result<f64, String> {
        let by = self.blocks(tile, geometry, p)?;
        let sets = geometry.channels.div_ceil(by.lanes * by.v) as i64;
        let blocks = (geometry.n.opt(symbols) * by.parts.opt(symbols) * sets).max(1) as f64;
        let conv = tile.cost((conv, geometry), (blocks, by.threads as f64, by.cycles(p)), symbols, target);
        Ok(conv + by.cost(p, self.slices as usize, symbols, target))
    }
}

impl Family for ConvDepthwise {
    fn name(&self) -> &'static str {
        "conv.depthwise"
    }

    fn version(&self) -> u32 {
        3
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok((conv, geometry, excite)) = conv(problem) else { return vec![] };
        let mut out: Vec<(f64, Tactic)> = Vec::new();
        for tile in Tile::all(&geometry) {
            let Some(p) = excite else {
                let tactic = tile.tactic(None);
                out.push((self.cost(problem, &tactic, symbols, target), tactic));
                continue;
            };
            let slices = squeeze::slices(p, symbols, target) as u32;
            let all = Sums::all(&tile, &geometry, symbols, slices).into_iter();
            let costs = all.filter_map(|sums| {
                let cost = sums.cost(&tile, (conv, &geometry, p), symbols, target).ok()?;
                Some((cost, tile.tactic(Some(sums))))
            });
            let mut costs: Vec<_> = costs.collect();
            // Blocks of one tile differ less than tiles do: one for each leaves room for others.
            costs.sort_by(|a, b| a.0.total_cmp(&b.0));
            out.extend(costs.into_iter().take(1));
        }
        out.sort_by(|a, b| a.0.total_cmp(&b.0));
        out.truncate(16);
        out.into_iter().map(|(_, tactic)| tactic).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let estimate = || {
            let ((conv, geometry, excite), tile) = (conv(problem)?, Tile::of(tactic)?);
            tile.check(&geometry)?;
            if let Some(p) = excite {
                return Sums::of(tactic)?.cost(&tile, (conv, &geometry, p), symbols, target);
            }
            let threads = f64::from(THREADS);
            let blocks = (tile.items(&geometry).opt(symbols) as f64 / threads).ceil();
            Ok::<f64, String>(tile.cost((conv, &geometry), (blocks, threads, 0.0), symbols, target))
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
        let (conv, geometry, excite) = conv(problem)?;
        let tile = Tile::of(tactic)?;
        tile.check(&geometry)?;
        let sums = match excite {
            Some(p) => {
                let sums = Sums::of(tactic)?;
                Some((p, sums, sums.blocks(&tile, &geometry, p)?))
            }
            None => None,
        };
        let whole = u32::from(tile.is_whole(&geometry));
        // Channels first alone store several pixels at a time.
        let strip = if geometry.last { Dim::from(1) } else { Dim::from(i64::from(tile.wide)) };
        let vec = codegen::power_of_two([&geometry.output[2], &strip], 8);
        let shape = geometry.out_shape();
        let items = tile.items(&geometry).ceil_div(&Dim::from(i64::from(THREADS)));
        let (threads, lanes, teams, grid, shared, results) = match &sums {
            None => (THREADS, 1, 0, items, 0, squeeze::stored(&conv.epilogue, &shape)),
            Some((p, sums, by)) => {
                let grid = &geometry.n * &by.all(p);
                let shared = by.bytes(p) as u32;
                let text = by.text(p, &conv.epilogue, &shape, 0);
                (by.threads as u32, sums.lanes, sums.teams, grid, shared, text)
            }
        };
        let kernel = codegen::source(
            &format!("{} ({tactic})", geometry.title("conv.depthwise")),
            geometry.is_wide(symbols),
            &[
                &codegen::constants(&[
                    ("THREADS", threads),
                    ("TALL", tile.tall),
                    ("WIDE", tile.wide),
                    ("V", tile.v),
                    ("VEC", vec),
                    ("WHOLE", whole),
                    ("FIXED", u32::from(geometry.last && squeeze::is_fixed(&conv.epilogue))),
                    ("LANES", lanes),
                    ("TEAMS", teams),
                ]),
                &geometry.constants(problem),
                &results,
                KERNEL,
            ],
        );
        let args = [Arg::Input(0), Arg::Input(1)].into_iter();
        let args = args.chain(codegen::epilogue_args(&conv.epilogue, 2)).chain(codegen::symbol_args(problem));
        let taps = geometry.taps();
        let pack = Pack { shape: vec![taps, geometry.channels], strides: vec![1, taps], ..Pack::default() };
        let packs = [None, Some(pack)].into_iter();
        let mut build = Build {
            kernels: vec![kernel],
            launches: vec![Launch {
                kernel: 0,
                grid: [grid, Dim::from(1), Dim::from(1)],
                block: [threads, 1, 1],
                shared,
                cluster: None,
                programmatic: true,
                args: args.collect(),
            }],
            workspace: Dim::from(0),
            packs: packs.chain(conv.epilogue.operands.iter().map(|_| None)).collect(),
        };
        if let Some((p, sums, by)) = &sums {
            let slices = sums.slices as usize;
            by.complete(&mut build, (problem, p), slices, tactic, (symbols, target))?;
        }
        Ok(build)
    }
}
