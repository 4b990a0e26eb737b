//! `conv.expand`: a convolution by one element and the depthwise convolution of what it makes, channels last, on tensor cores with
//! 16-bit operands. What is between them stays in shared memory, tile by tile. With the excitation of the result, if one follows.

use super::conv_geometry::Geometry;
use super::squeeze::{self, Blocks};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Launch, Limit, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Conv, Excite, Expand};
use bakelite_host::{Class, Problem};
use std::collections::HashMap;

const KERNEL: &str = include_str!("../../cuda/conv_expand.cuh");

/// The family.
#[derive(Debug)]
pub struct ConvExpand;

/// What the family computes.
pub(super) struct Shape<'a> {
    pub(super) conv: &'a Conv<Dim>,
    pub(super) expand: &'a Expand<Dim>,
    /// Of the depthwise convolution.
    pub(super) g: Geometry,
    pub(super) excite: Option<&'a Excite<Dim>>,
}

impl Shape<'_> {
    fn of<'a>(problem: &'a Problem<Dim>, target: &Target) -> Result<Shape<'a>, String> {
        let conv = match problem {
            Problem::Conv(conv) => conv,
            Problem::Squeeze(p) => &p.conv,
            other => return Err(format!("conv.expand does not implement {}", other.name())),
        };
        let Some(expand) = &conv.expand else {
            return Err("conv.expand makes the pixels that it convolves".to_owned());
        };
        if conv.x.is_some() || conv.scaled || conv.added.is_some() || conv.pooled.is_some() {
            return Err("its pixels lie otherwise, are scaled or pooled, or something is added".to_owned());
        }
        let g = Geometry::of_any_conv(conv)?;
        if target.arch.sm < 80 || !g.dtype.is_half() {
            return Err(format!("conv.expand takes f16 and bf16 from sm_80 on, not {}", g.dtype));
        }
        if !conv.is_depthwise() || !g.last || g.rank > 2 || g.taps() > 49 || !g.channels.is_multiple_of(2) {
            return Err("expected one filter to a channel, an even number of them, channels last".to_owned());
        }
        if !expand.channels.is_multiple_of(8) || !(8..=512).contains(&expand.channels) {
            return Err(format!("pixels of {} channels; expected some eights", expand.channels));
        }
        let e = &expand.epilogue;
        let plain = e.place.is_none() && !e.moments && e.rows.is_none() && e.out() == g.dtype;
        let known = e.program.inputs.first().is_some_and(|d| d.class() == Class::F32);
        if !plain || !known || !squeeze::is_fixed(e) {
            return Err("what is between the convolutions depends on more than the channel".to_owned());
        }
        Ok(Shape { conv, expand, g, excite: squeeze::excite(problem)? })
    }

    /// Channels that are read, in steps of the tensor cores.
    pub(super) const fn depth(&self) -> usize {
        self.expand.channels.next_multiple_of(16)
    }
}

/// What a tactic says. Of a block: rows and columns of outputs, channels at a time and how often, threads, how many warps divide
/// those channels, and tiles of 16 pixels that a warp multiplies at a time. Of a thread: channels, columns and rows of outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub(super) high: usize,
    pub(super) broad: usize,
    pub(super) chunk: usize,
    pub(super) chunks: usize,
    pub(super) threads: usize,
    pub(super) splits: usize,
    pub(super) tiles: usize,
    pub(super) v: usize,
    pub(super) wide: usize,
    pub(super) run: usize,
}

impl Tile {
    fn of(tactic: &Tactic) -> Result<Tile, String> {
        let get = |name| tactic.get(name).map(|n: u32| n as usize);
        Ok(Tile {
            high: get("high")?,
            broad: get("broad")?,
            chunk: get("chunk")?,
            chunks: get("chunks")?,
            threads: get("threads")?,
            splits: get("splits")?,
            tiles: get("tiles")?,
            v: get("v")?,
            wide: get("wide")?,
            run: get("run")?,
        })
    }

    /// As a tactic, with blocks for the filters of an image where an excitation follows.
    fn tactic(&self, slices: Option<usize>) -> Tactic {
        let params = [
            ("high", self.high),
            ("broad", self.broad),
            ("chunk", self.chunk),
            ("chunks", self.chunks),
            ("threads", self.threads),
            ("splits", self.splits),
            ("tiles", self.tiles),
            ("v", self.v),
            ("wide", self.wide),
            ("run", self.run),
        ];
        squeeze::tactic(&ConvExpand, &params, slices)
    }

    pub(super) const fn lanes(&self) -> usize {
        self.chunk / self.v
    }

    /// Rows and columns of pixels under a tile.
    fn region(&self, g: &Geometry) -> [usize; 2] {
        [(1, self.high), (2, self.broad)]
            .map(|(d, n)| (n - 1) * g.strides[d] + (g.kernel[d] - 1) * g.dilations[d] + 1)
    }

    /// The most pixels under a tile that are inside an image.
    pub(super) fn inside(&self, g: &Geometry) -> usize {
        let [rows, columns] = self.region(g);
        let most = |n: usize, d: usize| {
            let size = g.input[d].as_const().and_then(|n| usize::try_from(n).ok());
            size.map_or(n, |size| n.min(size))
        };
        most(rows, 1) * most(columns, 2)
    }

    /// Rows in shared memory for those.
    fn room(&self, g: &Geometry) -> usize {
        self.inside(g).next_multiple_of(16 * self.tiles)
    }

    /// Bytes of shared memory but for what an excitation takes.
    fn shared(&self, s: &Shape<'_>) -> usize {
        let [rows, columns] = self.region(&s.g);
        let (room, pitch) = (self.room(&s.g), s.depth() + 8);
        let elements = rows * columns * (self.chunk + 8) + (room + self.chunk) * pitch + room;
        (2 * elements).next_multiple_of(16)
    }

    /// Registers of a thread: in the product, then in the windows.
    pub(super) fn registers(&self, s: &Shape<'_>) -> usize {
        let eights = self.chunk / self.splits / 8;
        let taps = s.g.taps() * self.v;
        let held = s.depth() / 16 * eights;
        let filters = 2 * if held <= 16 { held } else { eights };
        let product = self.tiles * eights * 4 + filters + eights * 2 + taps / 2 + 44;
        let live = ((s.g.kernel[1] - 1) * s.g.dilations[1] / s.g.strides[1] + 1).min(self.run);
        let line = self.line(&s.g) * self.v;
        product.max(taps + live * self.wide * self.v + line + line / 2 + 44)
    }

    /// Pixels of a row under a thread's outputs.
    pub(super) const fn line(&self, g: &Geometry) -> usize {
        (self.wide - 1) * g.strides[2] + (g.kernel[2] - 1) * g.dilations[2] + 1
    }

    /// How blocks divide their work where an excitation follows.
    pub(super) fn blocks(&self, g: &Geometry) -> Blocks {
        let parts =
            g.output[1].ceil_div(&Dim::from(self.high)) * g.output[2].ceil_div(&Dim::from(self.broad));
        let lanes = self.lanes();
        Blocks { v: self.v, lanes, teams: self.threads / lanes, threads: self.threads, parts }
    }

    /// Bytes of shared memory, or why it does not fit.
    fn check(&self, s: &Shape<'_>, target: &Target) -> Result<usize, String> {
        let Tile { high, broad, chunk, chunks, threads, splits, tiles, v, wide, run } = *self;
        let some = (1..=64).contains(&high)
            && (1..=64).contains(&broad)
            && (8..=256).contains(&chunk)
            && (1..=64).contains(&chunks)
            && (1..=16).contains(&splits)
            && matches!(tiles, 1 | 2)
            && matches!(v, 2 | 4)
            && (1..=4).contains(&wide)
            && (1..=8).contains(&run);
        let refused = |what: &str| Err(format!("`{}`: {what}", self.tactic(None)));
        if !some || threads == 0 || threads > 512 || !threads.is_multiple_of(32) {
            return refused("a size that it does not know");
        }
        let shares = (threads / 32).is_multiple_of(splits)
            && chunk.is_multiple_of(8 * splits)
            && threads.is_multiple_of(self.lanes())
            && high.is_multiple_of(run)
            && broad.is_multiple_of(wide);
        if !shares || !s.g.channels.is_multiple_of(v) || (s.excite.is_some() && chunks > 1) {
            return refused("parts that are not whole");
        }
        let registers = self.registers(s);
        if registers > 232 || registers.next_multiple_of(8) * threads.next_multiple_of(128) > 65536 {
            return refused(&format!("{registers} registers a thread"));
        }
        let bytes = self.shared(s) + s.excite.map_or(0, |p| self.blocks(&s.g).bytes(p));
        let [rows, columns] = self.region(&s.g);
        if bytes > target.shared_per_block as usize || rows * columns * columns >= 1 << 20 {
            return refused(&format!("{bytes} bytes of shared memory"));
        }
        Ok(bytes)
    }

    fn sets(&self, g: &Geometry) -> usize {
        g.channels.div_ceil(self.chunk * self.chunks)
    }

    pub(super) fn grid(&self, g: &Geometry) -> Dim {
        &g.n * &self.blocks(g).parts * Dim::from(self.sets(g))
    }

    /// Every tile worth a thought.
    fn all(s: &Shape<'_>, symbols: &Symbols, target: &Target) -> Vec<Tile> {
        let g = &s.g;
        let [height, width] = [1, 2].map(|d| g.output[d].opt(symbols).clamp(1, 4096) as usize);
        let shares = |size: usize, most: usize| {
            let mut all: Vec<usize> =
                (1..=size.min(16)).map(|n| size.div_ceil(n)).filter(|n| *n <= most).collect();
            all.dedup();
            all
        };
        // Where none divides the channels well, the smallest.
        let chunks = [16, 32, 48, 64, 80, 96, 112, 144]
            .into_iter()
            .filter(|c| *c == 16 || g.channels.next_multiple_of(*c) * 3 <= g.channels * 4);
        let mut out = Vec::new();
        for (chunk, v) in chunks.flat_map(|c| [4, 2].map(|v| (c, v))) {
            let mut together = chunk / v;
            while !together.is_multiple_of(32) {
                together += chunk / v;
            }
            for threads in [1, 2, 3, 4].map(|n| n * together).into_iter().filter(|t| (96..=384).contains(t)) {
                for (high, broad) in shares(height, 16)
                    .into_iter()
                    .flat_map(|h| shares(width, 28).into_iter().map(move |b| (h, b)))
                {
                    if high * broad > 256 || high * broad < 8 {
                        continue;
                    }
                    let runs = [1, 2, 3, 4, 5, 7, 8].into_iter().filter(|r| high.is_multiple_of(*r));
                    for (run, wide) in runs.flat_map(|r| [1, 2].map(|w| (r, w))) {
                        let tile = Tile {
                            high,
                            broad,
                            chunk,
                            chunks: 1,
                            threads,
                            splits: 1,
                            tiles: 1,
                            v,
                            wide,
                            run,
                        };
                        let teams = threads / tile.lanes();
                        // Threads with nothing to slide over.
                        if !broad.is_multiple_of(wide) || high / run * (broad / wide) * 2 < teams {
                            continue;
                        }
                        let Some(tile) = tile.divided(s) else { continue };
                        let sets = g.channels.div_ceil(chunk);
                        let mut more = vec![1];
                        if s.excite.is_none() {
                            more.extend(
                                [2, 3, sets].into_iter().filter(|n| *n > 1 && sets.is_multiple_of(*n)),
                            );
                        }
                        more.dedup();
                        out.extend(more.into_iter().map(|chunks| Tile { chunks, ..tile }));
                    }
                }
            }
        }
        out.retain(|tile| tile.check(s, target).is_ok());
        out
    }

    /// The same with the division of the product among its warps that leaves the slowest the least to do.
    fn divided(self, s: &Shape<'_>) -> Option<Tile> {
        let warps = self.threads / 32;
        let ways = (1..=warps).filter(|n| warps.is_multiple_of(*n) && self.chunk.is_multiple_of(8 * n));
        let ways = ways.flat_map(|splits| [1, 2].map(|tiles| Tile { splits, tiles, ..self }));
        ways.filter(|t| t.tiles * t.chunk / t.splits <= 96 || t.splits == warps).min_by_key(|t| t.product(s))
    }
}

impl Family for ConvExpand {
    fn name(&self) -> &'static str {
        "conv.expand"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok(s) = Shape::of(problem, target) else { return vec![] };
        let slices = s.excite.map(|p| squeeze::slices(p, symbols, target));
        let mut ranked: Vec<(f64, Tile)> = Tile::all(&s, symbols, target)
            .into_iter()
            .filter_map(|tile| {
                let bytes = tile.check(&s, target).ok()?;
                Some((tile.cost(&s, (bytes, slices), symbols, target), tile))
            })
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        // A few of each kind leave room for others.
        let mut alike = HashMap::new();
        ranked.retain(|(_, tile)| {
            let count = alike.entry((tile.chunk, tile.chunks, tile.v, tile.threads)).or_insert(0);
            *count += 1;
            *count <= 3
        });
        ranked.iter().take(20).map(|(_, tile)| tile.tactic(slices)).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let estimate = || {
            let (s, tile) = (Shape::of(problem, target)?, Tile::of(tactic)?);
            let bytes = tile.check(&s, target)?;
            let slices = s.excite.map(|_| tactic.get("slices").map(|n: u32| n as usize)).transpose()?;
            Ok::<f64, String>(tile.cost(&s, (bytes, slices), symbols, target))
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
        let (s, tile) = (Shape::of(problem, target)?, Tile::of(tactic)?);
        let bytes = tile.check(&s, target)?;
        let Shape { conv, expand, g, excite } = &s;
        let number = |n: usize| u32::try_from(n).map_err(|_| format!("a size of {n}"));
        let by = tile.blocks(g);
        let constants = codegen::constants(&[
            ("DEPTH", number(expand.channels)?),
            ("TILE_H", number(tile.high)?),
            ("TILE_W", number(tile.broad)?),
            ("CHUNK", number(tile.chunk)?),
            ("CHUNKS", number(tile.chunks)?),
            ("THREADS", number(tile.threads)?),
            ("SPLITS", number(tile.splits)?),
            ("TILES", number(tile.tiles)?),
            ("V", number(tile.v)?),
            ("LANES", number(by.lanes)?),
            ("TEAMS", number(by.teams)?),
            ("WIDE", number(tile.wide)?),
            ("RUN", number(tile.run)?),
            ("ROOM", number(tile.room(g))?),
            ("FIXED", u32::from(squeeze::is_fixed(&conv.epilogue))),
        ]);
        let shape = g.out_shape();
        let results = match excite {
            None => squeeze::stored(&conv.epilogue, &shape),
            Some(p) => by.text(p, &conv.epilogue, &shape, number(tile.shared(&s))?),
        };
        let title =
            format!("{}, of pixels made of {} channels ({tactic})", g.title("conv.expand"), expand.channels);
        let kernel = codegen::source(
            &title,
            g.is_wide(symbols),
            &[
                &constants,
                &g.constants(problem),
                &codegen::between(&expand.epilogue, &g.x_shape()),
                &results,
                KERNEL,
            ],
        );
        let own = conv.own_inputs();
        let args = (0..own).map(Arg::Input);
        let args =
            args.chain(codegen::epilogue_args(&conv.epilogue, own)).chain(codegen::symbol_args(problem));
        let taps = g.taps();
        let pack = Pack { shape: vec![taps, g.channels], strides: vec![1, taps], ..Pack::default() };
        let first = Pack {
            shape: vec![tile.sets(g) * tile.chunks * tile.chunk, s.depth()],
            strides: vec![expand.channels, 1],
            limits: vec![
                Limit { terms: vec![(0, 1)], below: g.channels },
                Limit { terms: vec![(1, 1)], below: expand.channels },
            ],
            ..Pack::default()
        };
        let rest = own - 3 + conv.epilogue.operands.len();
        let packs = [None, Some(pack), Some(first)].into_iter().chain(std::iter::repeat_n(None, rest));
        let mut build = Build {
            kernels: vec![kernel],
            launches: vec![Launch {
                kernel: 0,
                grid: [tile.grid(g), Dim::from(1), Dim::from(1)],
                block: [number(tile.threads)?, 1, 1],
                shared: number(bytes)?,
                cluster: None,
                programmatic: true,
                args: args.collect(),
            }],
            workspace: Dim::from(0),
            packs: packs.collect(),
        };
        if let Some(p) = excite {
            let slices = tactic.get("slices")? as usize;
            by.complete(&mut build, (problem, p), slices, tactic, (symbols, target))?;
        }
        Ok(build)
    }
}
