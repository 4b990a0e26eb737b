//! `conv.slide`: one filter to each channel, channels last, floats of at most 32 bits, constant weights. A block stages a
//! tile of pixels in shared memory, and its threads slide down columns of it: each element is read and widened once by a
//! thread, for all the outputs it belongs to. For batches; where there is little to do, `conv.depthwise` ends sooner. With the
//! excitation of the result, if one follows.

use super::conv_geometry::Geometry;
use super::squeeze::{self, Blocks};
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Launch, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Conv, Excite};
use bakelite_host::{DType, Problem};
use std::collections::HashMap;

const KERNEL: &str = include_str!("../../cuda/conv_slide.cuh");

/// Parts in which a tile arrives.
const STAGES: u32 = 4;

/// The family.
#[derive(Debug)]
pub struct ConvSlide;

/// A depthwise convolution and the excitation of its result, if there is one.
type Parts<'a> = (&'a Conv<Dim>, Geometry, Option<&'a Excite<Dim>>);

/// The convolution in `problem`, if it is depthwise and channels come last.
fn conv(problem: &Problem<Dim>) -> Result<Parts<'_>, String> {
    let (conv, geometry) = Geometry::of_depthwise(problem)?;
    if !geometry.last || !matches!(geometry.dtype, DType::F16 | DType::BF16 | DType::F32) {
        return Err(format!("conv.slide takes f16, bf16 and f32, channels last, not {}", geometry.dtype));
    }
    // The kernel unrolls its window.
    if geometry.taps() > 49 || chunk(&geometry) * geometry.dtype.size() < 4 {
        return Err(format!("a window of {:?} over {} channels", geometry.kernel, geometry.channels));
    }
    Ok((conv, geometry, squeeze::excite(problem)?))
}

/// Channels that are copied together: 16 bytes, or what of them divides the pixels' rows.
fn chunk(geometry: &Geometry) -> usize {
    codegen::power_of_two([&Dim::from(geometry.channels)], 16 / geometry.dtype.size() as u32) as usize
}

/// How a tile lies in shared memory.
struct Staged {
    /// Elements between pixels: such that a warp's loads collide least.
    pitch: usize,
    /// Wavefronts of such a load.
    wavefronts: usize,
    bytes: usize,
}

/// What a tactic says: a thread's channels, columns and rows of outputs, and how many threads lie side by side along channels
/// and along columns.
#[derive(Clone, Copy, Debug)]
struct Tile {
    v: usize,
    wide: usize,
    tall: usize,
    lanes: usize,
    strips: usize,
}

impl Tile {
    fn of(tactic: &Tactic) -> Result<Tile, String> {
        let get = |name| tactic.get(name).map(|n: u32| n as usize);
        Ok(Tile {
            v: get("v")?,
            wide: get("wide")?,
            tall: get("tall")?,
            lanes: get("lanes")?,
            strips: get("strips")?,
        })
    }

    /// As a tactic, with blocks for the filters of an image where an excitation follows.
    fn tactic(&self, slices: Option<usize>) -> Tactic {
        let params = [
            ("v", self.v),
            ("wide", self.wide),
            ("tall", self.tall),
            ("lanes", self.lanes),
            ("strips", self.strips),
        ];
        squeeze::tactic(&ConvSlide, &params, slices)
    }

    const fn threads(&self) -> usize {
        self.lanes * self.strips
    }

    /// Input under `outputs` neighbours along dimension `d`.
    const fn reach(g: &Geometry, d: usize, outputs: usize) -> usize {
        (outputs - 1) * g.strides[d] + (g.kernel[d] - 1) * g.dilations[d] + 1
    }

    /// Rows of outputs that one row of input belongs to.
    const fn live(g: &Geometry) -> usize {
        (g.kernel[1] - 1) * g.dilations[1] / g.strides[1] + 1
    }

    /// Wavefronts of a warp's load from rows of pixels `pitch` elements apart.
    fn wavefronts(&self, g: &Geometry, pitch: usize) -> usize {
        let size = g.dtype.size();
        let bytes = self.v * size;
        let element = |t: usize| t / self.lanes * self.wide * g.strides[2] * pitch + t % self.lanes * self.v;
        let words = |t: usize| element(t) * size / 4..element(t) * size / 4 + bytes / 4;
        let (threads, together) = (self.threads().min(32), 128 / bytes);
        // The 32 words that go at once; the same word of several threads is read once.
        let mut once = Vec::with_capacity(32);
        let starts = (0..threads).step_by(together);
        starts
            .map(|start| {
                once.clear();
                once.extend((start..threads.min(start + together)).flat_map(words));
                once.sort_unstable();
                once.dedup();
                let mut banks = [0; 32];
                once.iter().for_each(|word| banks[word % 32] += 1);
                banks.into_iter().max().unwrap_or(1)
            })
            .sum()
    }

    fn staged(&self, g: &Geometry) -> Staged {
        let (dense, step) = (self.lanes * self.v, chunk(g));
        let pitches = (0..5).map(|pads| dense + pads * step);
        let best = pitches.map(|pitch| (self.wavefronts(g, pitch), pitch)).min();
        let (wavefronts, pitch) = best.unwrap_or((1, dense));
        let pixels = Tile::reach(g, 1, self.tall).saturating_mul(Tile::reach(g, 2, self.wide * self.strips));
        Staged { pitch, wavefronts, bytes: pixels.saturating_mul(pitch * g.dtype.size()) }
    }

    /// Registers for taps, sums and a row of input.
    fn registers(&self, g: &Geometry) -> usize {
        let line = Tile::reach(g, 2, self.wide) * (self.v * g.dtype.size()).div_ceil(4);
        g.taps() * self.v + Tile::live(g) * self.wide * self.v + line + 40
    }

    /// How it lies in shared memory, or why it does not fit.
    fn check(&self, g: &Geometry, excite: Option<&Excite<Dim>>, target: &Target) -> Result<Staged, String> {
        let Tile { v, wide, tall, lanes, strips } = *self;
        let some = (1..=16).contains(&wide)
            && (1..=256).contains(&tall)
            && (1..=512).contains(&lanes)
            && (1..=64).contains(&strips);
        // A thread's element is one load.
        let vector = matches!(v, 1 | 2 | 4) && matches!(v * g.dtype.size(), 4 | 8) && v <= chunk(g);
        if !some || !vector || !(lanes * v).is_multiple_of(chunk(g)) || self.threads() > 512 {
            return Err(format!("`{}` does not fit {} channels", self.tactic(None), g.channels));
        }
        let registers = self.registers(g);
        if registers > 208 || registers.next_multiple_of(8) * self.threads().next_multiple_of(128) > 65536 {
            return Err(format!("`{}`: {registers} registers a thread", self.tactic(None)));
        }
        let mut staged = self.staged(g);
        if let Some(p) = excite {
            staged.bytes = staged.bytes.next_multiple_of(16).saturating_add(self.squeezed(g).bytes(p));
        }
        if staged.bytes > target.shared_per_block as usize {
            return Err(format!("`{}`: {} bytes of shared memory", self.tactic(None), staged.bytes));
        }
        Ok(staged)
    }

    /// How blocks divide their work where an excitation follows.
    fn squeezed(&self, g: &Geometry) -> Blocks {
        let across = |d: usize, by: usize| g.output[d].ceil_div(&Dim::from(by));
        let parts = across(1, self.tall) * across(2, self.wide * self.strips);
        let (v, lanes, teams, threads) = (self.v, self.lanes, self.strips, self.threads());
        Blocks { v, lanes, teams, threads, parts }
    }

    fn blocks(&self, g: &Geometry) -> Dim {
        let across = |d: usize, by: usize| g.output[d].ceil_div(&Dim::from(by));
        let groups = g.channels.div_ceil(self.lanes * self.v);
        &g.n * &g.output[0] * across(1, self.tall) * across(2, self.wide * self.strips) * Dim::from(groups)
    }

    fn cost(
        &self,
        (conv, g): (&Conv<Dim>, &Geometry),
        staged: &Staged,
        follows: Option<(&Excite<Dim>, usize)>,
        symbols: &Symbols,
        target: &Target,
    ) -> f64 {
        let out = conv.epilogue.out().size();
        const CYCLES_PER_US: f64 = 1750.0;
        let sms = f64::from(target.multiprocessors);
        let (v, wide, tall) = (self.v as f64, self.wide as f64, self.tall as f64);
        let size = g.dtype.size() as f64;
        let input = |d: usize| g.input[d].opt(symbols).max(1);
        let output = |d: usize| g.output[d].opt(symbols).max(1);
        // Of the rows under a tile, those inside the image: others are passed over, but by folded warps.
        let rows = Tile::reach(g, 1, self.tall) as i64;
        let bands = (output(1) + self.tall as i64 - 1) / self.tall as i64;
        let inside = |band: i64| {
            let first = band * (self.tall * g.strides[1]) as i64 - g.pads[1] as i64;
            (first + rows).min(input(1)) - first.max(0)
        };
        let inside = (0..bands.min(64)).map(|b| inside(b).max(0)).sum::<i64>() as f64 / bands.min(64) as f64;
        let columns = Tile::reach(g, 2, self.wide * self.strips) as f64;
        let blocks = self.blocks(g).opt(symbols).max(1) as f64;
        let (taps, threads) = (g.taps() as f64, self.threads() as f64);
        let (live, stride) = (Tile::live(g) as f64, g.strides[1] as f64);
        let warps = (threads / 32.0).ceil();
        let pixels = rows as f64 * columns;
        let turns = (pixels / (threads * chunk(g) as f64 / (self.lanes as f64 * v))).ceil();
        let wavefronts = staged.wavefronts as f64;
        // Instructions of a thread for a row of input and for one of outputs, and cycles of a row's loads.
        let own = Tile::reach(g, 2, self.wide) as f64;
        let row = taps / stride * wide * v + own * (1.0 + v) + live * wide * v * 0.5 + 8.0;
        let (emitted, loads) = (wide * (7.0 * v + 4.0), own * wavefronts);
        let steps = tall + live;
        let instructions = 150.0 + taps * 3.0 + turns * 14.0 + inside * row + steps * 10.0 + tall * emitted;
        let shared = staged.bytes as f64 + 1024.0;
        let registers = (self.registers(g) as f64 + 8.0) * warps * 32.0;
        let resident = (f64::from(target.shared_per_multiprocessor) / shared)
            .min(65536.0 / registers)
            .min(2048.0 / threads)
            .floor()
            .max(1.0);
        let rounds = (blocks / sms).ceil();
        // Warps side by side, and how well they hide each other's waits.
        let beside = rounds.min(resident) * warps;
        let rate = 4.0 * (0.25 * beside / 4.0).clamp(0.1, 0.85);
        let all = rounds * warps;
        let busy = (all * instructions / rate).max(all * inside * loads) / CYCLES_PER_US;
        // What passes through L2, at some 5 TB/s, in sectors of 32 bytes; and memory.
        let breadth = (self.lanes as f64 * v * size).max(32.0);
        let level2 = (blocks * inside * columns * breadth + g.out_len().opt(symbols) as f64 * out as f64)
            / (target.bandwidth * 1.1e3);
        let memory = (g.bytes(out, symbols) / (target.bandwidth * 1e3) * 1.05).max(level2);
        // Blocks that begin together have nothing to do until their tiles arrive.
        let waves = (blocks / (sms * resident)).max(1.0);
        let own = LAUNCH + 0.3 + busy.max(memory) + 0.35 * busy.min(memory) / waves;
        let Some((p, slices)) = follows else { return own };
        let by = self.squeezed(g);
        // Blocks beside each other hide most of each other's ends.
        let ends = waves.ceil() * by.cycles(p) * if resident > 1.0 { 0.5 } else { 1.0 };
        own + ends / CYCLES_PER_US + by.cost(p, slices, symbols, target)
    }

    /// Every tile worth a thought.
    fn all(g: &Geometry, symbols: &Symbols) -> Vec<Tile> {
        let [height, width] = [1, 2].map(|d| g.output[d].opt(symbols).clamp(1, 4096) as usize);
        let mut talls: Vec<usize> =
            (1..=16).map(|n| height.div_ceil(n)).filter(|t| (4..=64).contains(t) || *t == height).collect();
        talls.dedup();
        let mut out = Vec::new();
        for v in [4, 2, 1].into_iter().filter(|v| g.channels.is_multiple_of(*v)) {
            let across = g.channels / v;
            let lanes: Vec<usize> = (4..=128)
                .filter(|l| (across.is_multiple_of(*l) || matches!(l, 16 | 32 | 64)) && *l < across + 32)
                .collect();
            for wide in [1, 2, 3, 4, 7] {
                let mut strips: Vec<usize> = (1..=8).map(|n| width.div_ceil(wide).div_ceil(n)).collect();
                strips.dedup();
                for strips in strips {
                    for &lanes in &lanes {
                        let tile = Tile { v, wide, tall: 1, lanes, strips };
                        if (64..=512).contains(&tile.threads()) {
                            out.extend(talls.iter().map(|&tall| Tile { tall, ..tile }));
                        }
                    }
                }
            }
        }
        out
    }
}

impl Family for ConvSlide {
    fn name(&self) -> &'static str {
        "conv.slide"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok((conv, geometry, excite)) = conv(problem) else { return vec![] };
        let slices = excite.map(|p| squeeze::slices(p, symbols, target));
        let mut ranked: Vec<(f64, Tile)> = Tile::all(&geometry, symbols)
            .into_iter()
            .filter_map(|tile| {
                let staged = tile.check(&geometry, excite, target).ok()?;
                let follows = excite.zip(slices);
                Some((tile.cost((conv, &geometry), &staged, follows, symbols, target), tile))
            })
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Tiles that differ in lanes and strips alone take about as long: a few of each kind are enough.
        let mut alike = HashMap::new();
        ranked.retain(|(_, tile)| {
            let count = alike.entry((tile.v, tile.wide, tile.tall)).or_insert(0);
            *count += 1;
            *count <= 2
        });
        ranked.iter().take(16).map(|(_, tile)| tile.tactic(slices)).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let estimate = || {
            let ((conv, geometry, excite), tile) = (conv(problem)?, Tile::of(tactic)?);
            let staged = tile.check(&geometry, excite, target)?;
            let follows = match excite {
                Some(p) => Some((p, tactic.get("slices")? as usize)),
                None => None,
            };
            Ok::<f64, String>(tile.cost((conv, &geometry), &staged, follows, symbols, target))
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
        let staged = tile.check(&geometry, excite, target)?;
        let number = |n: usize| u32::try_from(n).map_err(|_| format!("a size of {n}"));
        let constants = codegen::constants(&[
            ("V", number(tile.v)?),
            ("WIDE", number(tile.wide)?),
            ("TALL", number(tile.tall)?),
            ("LANES", number(tile.lanes)?),
            ("STRIPS", number(tile.strips)?),
            ("TEAMS", number(tile.strips)?),
            ("THREADS", number(tile.threads())?),
            ("STAGES", STAGES),
            ("CHUNK", number(chunk(&geometry))?),
            ("PITCH_OF_PIXELS", number(staged.pitch)?),
            ("FIXED", u32::from(squeeze::is_fixed(&conv.epilogue))),
        ]);
        let (shape, by) = (geometry.out_shape(), tile.squeezed(&geometry));
        let results = match excite {
            None => squeeze::stored(&conv.epilogue, &shape),
            // Behind the tile.
            Some(p) => by.text(p, &conv.epilogue, &shape, number(staged.bytes - by.bytes(p))?),
        };
        let kernel = codegen::source(
            &format!("{} ({tactic})", geometry.title("conv.slide")),
            geometry.is_wide(symbols),
            &[&constants, &geometry.constants(problem), &results, KERNEL],
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
                grid: [tile.blocks(&geometry), Dim::from(1), Dim::from(1)],
                block: [number(tile.threads())?, 1, 1],
                shared: number(staged.bytes)?,
                cluster: None,
                programmatic: true,
                args: args.collect(),
            }],
            workspace: Dim::from(0),
            packs: packs.chain(conv.epilogue.operands.iter().map(|_| None)).collect(),
        };
        if let Some(p) = excite {
            let slices = tactic.get("slices")? as usize;
            by.complete(&mut build, (problem, p), slices, tactic, (symbols, target))?;
        }
        Ok(build)
    }
}
