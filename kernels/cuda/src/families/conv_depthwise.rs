//! `conv.depthwise`: one filter to each channel, two dimensions at most, both layouts, constant weights. Memory-bound:
//! a thread computes a tile of neighbouring pixels, which share what it reads.

use super::conv_geometry::Geometry;
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Launch, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::Conv;
use bakelite_host::{Class, Problem};

const KERNEL: &str = include_str!("../../cuda/conv_depthwise.cuh");

/// Threads of a block.
const THREADS: u32 = 128;

/// The family.
#[derive(Debug)]
pub struct ConvDepthwise;

/// The convolution in `problem`, if it is depthwise.
fn conv(problem: &Problem<Dim>) -> Result<(&Conv<Dim>, Geometry), String> {
    let (conv, geometry) = Geometry::of_depthwise(problem)?;
    if !geometry.dtype.is_float() {
        return Err(format!("conv.depthwise takes floats, not {}", geometry.dtype));
    }
    // The kernel unrolls its window.
    if geometry.kernel[2] > 11 || geometry.taps() > 121 {
        return Err(format!("a window of {:?} is too large to unroll", geometry.kernel));
    }
    Ok((conv, geometry))
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

    fn tactic(&self) -> Tactic {
        let params = [("tall", self.tall), ("wide", self.wide), ("v", self.v)];
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

    /// Tiles over all rows, times sets of `v` channels.
    fn items(&self, geometry: &Geometry) -> Dim {
        let strips = geometry.output[2].ceil_div(&Dim::from(i64::from(self.wide)));
        let bands = geometry.output[1].ceil_div(&Dim::from(i64::from(self.tall)));
        &geometry.n
            * &geometry.output[0]
            * bands
            * strips
            * Dim::from(geometry.channels / self.v.max(1) as usize)
    }
}

impl Family for ConvDepthwise {
    fn name(&self) -> &'static str {
        "conv.depthwise"
    }

    fn version(&self) -> u32 {
        2
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok((_, geometry)) = conv(problem) else { return vec![] };
        let mut out: Vec<Tactic> = [1, 2, 4]
            .into_iter()
            .flat_map(|tall| [1, 2, 4, 8].map(|wide| (tall, wide)))
            .flat_map(|(tall, wide)| [8, 4, 2, 1].map(|v| Tile { tall, wide, v }))
            .filter(|tile| tile.check(&geometry).is_ok())
            .map(|tile| tile.tactic())
            .collect();
        out.sort_by(|a, b| {
            let cost = |t| self.cost(problem, t, symbols, target);
            cost(a).total_cmp(&cost(b))
        });
        out.truncate(16);
        out
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let (Ok((conv, geometry)), Ok(tile)) = (conv(problem), Tile::of(tactic)) else {
            return f64::INFINITY;
        };
        if tile.check(&geometry).is_err() {
            return f64::INFINITY;
        }
        const CYCLES_PER_US: f64 = 1700.0;
        let sms = f64::from(target.multiprocessors);
        let [rows, columns] = tile.patch(&geometry);
        let (patch, taps) = ((rows * columns) as f64, geometry.taps() as f64);
        let (v, outputs) = (f64::from(tile.v), f64::from(tile.tall * tile.wide));
        // Instructions of a thread: loads and conversions of pixels and taps, multiplications, the epilogue.
        let instructions =
            60.0 + patch * (3.0 + 1.5 * v) + taps * (1.0 + v) + outputs * (taps * v + 10.0 + 6.0 * v);
        let blocks = (tile.items(&geometry).opt(symbols) as f64 / f64::from(THREADS)).ceil();
        // A block has a warp for each of a multiprocessor's schedulers.
        let rounds = (blocks / sms).ceil();
        let size = geometry.dtype.size() as f64;
        let fill = rounds * f64::from(THREADS) * (patch + taps) * (v * size).max(4.0) / 64.0;
        // How often a thread waits for loads, and what it holds.
        let (turns, held) = match tile.is_whole(&geometry) {
            true => (1, tile.registers(&geometry, rows)),
            false => (rows, tile.registers(&geometry, 1)),
        };
        let registers = (held as f64 + 40.0).min(255.0);
        let resident = (65536.0 / (registers * f64::from(THREADS))).floor().max(1.0);
        // Fewer than four warps to a scheduler do not keep it busy.
        let issue = rounds * instructions / (resident / 4.0).min(1.0);
        // One block's own time: loads on their way, then all its instructions with nothing beside them.
        let waits = (rounds / resident).ceil() * (200.0 + 700.0 * turns as f64) + instructions;
        let memory = geometry.bytes(conv.epilogue.out().size(), symbols) / target.bandwidth / 1e3;
        // Short rows of patches here and there keep memory two thirds busy.
        LAUNCH + (issue.max(fill).max(waits) / CYCLES_PER_US).max(memory * 1.5)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let (conv, geometry) = conv(problem)?;
        let tile = Tile::of(tactic)?;
        tile.check(&geometry)?;
        let whole = u32::from(tile.is_whole(&geometry));
        let vec = codegen::power_of_two([&geometry.output[2], &Dim::from(i64::from(tile.wide))], 8);
        let kernel = codegen::source(
            &format!("{} ({tactic})", geometry.title("conv.depthwise")),
            geometry.is_wide(symbols),
            &[
                &codegen::constants(&[
                    ("TALL", tile.tall),
                    ("WIDE", tile.wide),
                    ("V", tile.v),
                    ("VEC", vec),
                    ("WHOLE", whole),
                ]),
                &codegen::epilogue(&conv.epilogue, &geometry.out_shape()),
                &geometry.constants(problem),
                KERNEL,
            ],
        );
        let args = [Arg::Input(0), Arg::Input(1)].into_iter();
        let args = args.chain(codegen::epilogue_args(&conv.epilogue, 2)).chain(codegen::symbol_args(problem));
        let taps = geometry.taps();
        let pack = Pack { shape: vec![taps, geometry.channels], strides: vec![1, taps], ..Pack::default() };
        let packs = [None, Some(pack)].into_iter();
        Ok(Build {
            kernels: vec![kernel],
            launches: vec![Launch {
                kernel: 0,
                grid: [
                    tile.items(&geometry).ceil_div(&Dim::from(i64::from(THREADS))),
                    Dim::from(1),
                    Dim::from(1),
                ],
                block: [THREADS, 1, 1],
                shared: 0,
                cluster: None,
                programmatic: true,
                args: args.collect(),
            }],
            workspace: Dim::from(0),
            packs: packs.chain(conv.epilogue.operands.iter().map(|_| None)).collect(),
        })
    }
}
