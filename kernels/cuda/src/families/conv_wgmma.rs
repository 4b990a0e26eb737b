//! `conv.wgmma`: convolution over channels-last tensors of halves as an implicit matrix product on Hopper's tensor cores,
//! and matrix products with a constant right operand in the same way. One- and two-dimensional, any stride, dilation and
//! padding, one group, channels in eights, constant weights.

use super::conv_geometry::{Geometry, Implicit};
use super::conv_maps::{self, Matrix};
use super::strips::LAUNCH;
use super::tile_sums::{TILE_SUMS, finish_registers, finish_width, operands, row_registers, sum_bytes};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Fold, Launch, Limit, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use crate::tensor_map::{Tensor, TensorMap};
use crate::wgmma;
use bakelite_host::problem::Epilogue;
use bakelite_host::{DType, Problem};

const RING: &str = include_str!("../../cuda/conv_wgmma_ring.cuh");
const COPIES: &str =
    concat!(include_str!("../../cuda/conv_window.cuh"), include_str!("../../cuda/conv_wgmma_copy.cuh"));
const MAPS: &str = include_str!("../../cuda/conv_wgmma_map.cuh");
const SUMS: &str = include_str!("../../cuda/conv_wgmma_finish.cuh");
const DIRECT: &str =
    concat!("#define RUNS 0\nstruct Run {};\n", include_str!("../../cuda/conv_wgmma_direct.cuh"));
const RUNS: &str = concat!(
    "#define RUNS 1\n",
    include_str!("../../cuda/conv_wgmma_runs.cuh"),
    include_str!("../../cuda/conv_wgmma_direct.cuh")
);
const CARRY: &str = include_str!("../../cuda/conv_wgmma_carry.cuh");
const MAINLOOP: &str = include_str!("../../cuda/conv_wgmma.cuh");

/// Elements of k in a tile: rows of 128 bytes.
const DEPTH: usize = 64;

/// The family.
pub struct ConvWgmma;

/// What a tactic says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tile {
    /// Pixels and filters of a block.
    m: u32,
    n: u32,
    /// Warpgroups that multiply.
    groups: u32,
    stages: u32,
    /// Tiles of k in a stage, which come and go together.
    deep: u32,
    /// Blocks that are to fit on a multiprocessor.
    blocks: u32,
    /// Blocks of a cluster that share a tile's k.
    cluster: u32,
    /// Blocks of a cluster that share their weights.
    share: u32,
    /// Blocks of a cluster that share their pixels.
    spread: u32,
    /// 1: the copy engine brings the pixels, by a tensor map.
    maps: u32,
    /// 1: the warpgroups take a tile each, in turns.
    pong: u32,
    /// Tiles of results that a team has in shared memory on their way; 0: it stores them from registers. Where results are
    /// placed so that no map finds them, this is 0 whatever a tactic says.
    through: u32,
    /// 1: the next kernel's blocks may start once this one's last copies are asked for, and not once its last tile is multiplied. Too
    /// early, and what they copy themselves comes between.
    early: u32,
}

/// The problem as the kernel sees it.
struct Shape<'a> {
    geometry: Geometry,
    epilogue: &'a Epilogue<Dim>,
    /// Where the result lies, dense or placed, and which operand of the epilogue comes like it, if maps find them.
    result: Option<Matrix>,
    carried: Option<(usize, Matrix)>,
    /// How far the weights' elements lie apart: filters, channels and taps.
    weights: [usize; 3],
    /// What is added: a second convolution, whose k follows the first one's.
    added: Option<Geometry>,
    /// Tiles of k of both.
    tiles: u32,
}

impl Shape<'_> {
    fn of<'a>(problem: &'a Problem<Dim>, target: &Target) -> Result<Shape<'a>, String> {
        let Implicit { geometry, epilogue, weights, scaled, added, .. } = Implicit::of(problem)?;
        if scaled {
            return Err("conv.wgmma multiplies pixels as they are in memory, and these are scaled".to_owned());
        }
        if target.arch.sm != 90 || !target.arch.specific {
            return Err(format!("no wgmma on {}", target.arch));
        }
        if !matches!(geometry.dtype, DType::F16 | DType::BF16) {
            return Err(format!("no wgmma for {}", geometry.dtype));
        }
        if !geometry.last || geometry.rank > 2 || geometry.groups != 1 || geometry.channels % 8 != 0 {
            return Err(format!(
                "{} groups of {} channels; conv.wgmma takes one group of a multiple of 8, channels-last, one or two dimensions",
                geometry.groups,
                geometry.cg()
            ));
        }
        if let Some(added) = added.as_ref().filter(|a| a.channels % 8 != 0) {
            return Err(format!("{} channels are added; conv.wgmma takes a multiple of 8", added.channels));
        }
        let taps = geometry.taps();
        if taps > 32 && geometry.kernel.iter().any(|k| *k > 16) {
            return Err(format!("a kernel of {:?} has no tap mask", geometry.kernel));
        }
        let tiles =
            [Some(&geometry), added.as_ref()].into_iter().flatten().map(tiles_of).sum::<usize>() as u32;
        let result = Matrix::result(epilogue, &geometry);
        let carried = Matrix::carried(epilogue, own_inputs(added.as_ref()), &geometry);
        Ok(Shape { geometry, epilogue, result, carried, weights, added, tiles })
    }

    fn column_tiles(&self, tile: &Tile) -> usize {
        self.geometry.filters.div_ceil(tile.n as usize)
    }

    /// Whether rows begin where no 8 bytes do, and leave as conv_wgmma_runs.cuh says. No cluster has such sums.
    fn in_runs(&self) -> bool {
        let size = self.epilogue.out().size();
        finish_width(self.geometry.filters) <= 2 && matches!(size, 2 | 4) && self.epilogue.place.is_none()
    }

    /// Whether output pixel p needs pixel p, of both, and no other.
    fn is_pointwise(&self) -> bool {
        self.geometry.is_pointwise() && self.added.as_ref().is_none_or(Geometry::is_pointwise)
    }

    /// Whether tensor maps bring the pixels, `count` at a time.
    fn mapped(&self, count: u32) -> bool {
        let mapped = |g: &Geometry| conv_maps::pixels(g, count).is_some();
        mapped(&self.geometry) && self.added.as_ref().is_none_or(mapped)
    }

    /// How the weights are packed: see conv_wgmma.cuh.
    fn pack(&self, tile: &Tile) -> Pack {
        self.pack_of(&self.geometry, self.weights, tile)
    }

    fn pack_of(&self, geometry: &Geometry, weights: [usize; 3], tile: &Tile) -> Pack {
        let (n, channels) = (tile.n as usize, geometry.channels);
        let [filter, channel, tap] = weights;
        // In each 32 rows, those that meet in one thread's accumulators are eight neighbours.
        let depth = vec![(1, DEPTH), (6, 1)];
        let rows = vec![(0, n), (2, 32), (3, 2), (4, 8), (5, 1)];
        let limit = Limit { terms: depth.clone(), below: channels * geometry.taps() };
        Pack {
            shape: vec![self.column_tiles(tile), tiles_of(geometry), n / 32, 4, 4, 2, DEPTH],
            strides: vec![n * filter, 0, 32 * filter, 2 * filter, 8 * filter, filter, 0],
            limits: vec![Limit { terms: rows, below: self.geometry.filters }, limit],
            folds: vec![Fold { terms: depth, by: channels, outer: tap, inner: channel }],
            tables: vec![],
            swizzled: true,
        }
    }
}

/// Tiles of a convolution's k.
fn tiles_of(geometry: &Geometry) -> usize {
    (geometry.taps() * geometry.channels).div_ceil(DEPTH)
}

/// Operands before the epilogue's.
fn own_inputs(added: Option<&Geometry>) -> usize {
    if added.is_some() { 4 } else { 2 }
}

impl Tile {
    fn tactic(&self) -> Tactic {
        let params = [
            ("m", self.m),
            ("n", self.n),
            ("groups", self.groups),
            ("stages", self.stages),
            ("deep", self.deep),
            ("blocks", self.blocks),
            ("cluster", self.cluster),
            ("share", self.share),
            ("spread", self.spread),
            ("maps", self.maps),
            ("pong", self.pong),
            ("through", self.through),
            ("early", self.early),
        ];
        Tactic::new(ConvWgmma.name(), ConvWgmma.version(), &params)
    }

    fn of(tactic: &Tactic) -> Result<Tile, String> {
        Ok(Tile {
            m: tactic.get("m")?,
            n: tactic.get("n")?,
            groups: tactic.get("groups")?,
            stages: tactic.get("stages")?,
            deep: tactic.get("deep")?,
            blocks: tactic.get("blocks")?,
            cluster: tactic.get("cluster")?,
            share: tactic.get("share")?,
            spread: tactic.get("spread")?,
            maps: tactic.get("maps")?,
            pong: tactic.get("pong")?,
            through: tactic.get("through")?,
            early: tactic.get("early")?,
        })
    }

    const fn threads(&self) -> u32 {
        // One thread asks for everything that maps bring; only whole warpgroups can give registers away.
        128 * self.groups + if self.maps == 1 && self.groups == 1 { 32 } else { 128 }
    }

    /// Registers that each thread may have for so many blocks to be resident: each quarter of a multiprocessor has a quarter of
    /// them, for every fourth warp.
    const fn registers_beside(&self, blocks: u32) -> u32 {
        let most = 512 / (self.threads() / 32 * blocks).div_ceil(4) / 8 * 8;
        if most > 255 { 255 } else { most }
    }

    /// Warpgroups that multiply one tile together.
    const fn team(&self) -> u32 {
        if self.pong == 1 { 1 } else { self.groups }
    }

    /// Blocks of a cluster that take tiles of their own.
    const fn peers(&self) -> u32 {
        self.share * self.spread
    }

    /// Bytes of a team's tile of results in boxes of 64 columns.
    const fn boxes(&self) -> u32 {
        self.m * self.n.div_ceil(64) * 128
    }

    /// Dynamic shared memory: the ring, all sums over it where they are shared; results; barriers; windows.
    fn shared(&self, shape: &Shape<'_>, wide: bool) -> u32 {
        let ring = self.stages * self.deep * (self.m + self.n) * 128;
        let windows = match (shape.geometry.is_pointwise() || self.maps == 1, wide) {
            (true, _) => 0,
            (false, false) => 8,
            (false, true) => 16,
        };
        let sums = match (self.cluster, sum_bytes(self.m, self.n, self.cluster, 1)) {
            (1, _) => ring + self.through * (self.boxes() * self.groups / self.team() + 32 * self.groups),
            (_, (own, others)) => ring.max(own) + others,
        };
        sums + 16 * self.stages + 16 + self.m * windows
    }

    /// Accumulator registers of a multiplying thread.
    const fn accumulators(&self) -> u32 {
        self.m * self.n / (128 * self.team())
    }

    /// Blocks that registers must leave room for: the ones of this kernel, and one of the next, to which programmatic launches
    /// give a start while this one ends, wherever that costs no accumulators.
    fn bound(&self, shape: &Shape<'_>) -> u32 {
        // With three, moments would be waited for before the main loop, and one slab's operands asked for at a time.
        let most = if shape.epilogue.rows.is_some() { 2 } else { 3 };
        let room = |b: &u32| self.accumulators() + 80 <= self.registers_beside(*b);
        (self.blocks + 1..=most).rev().find(room).unwrap_or(self.blocks)
    }

    /// Registers of a thread at the start, then of a filling and of a multiplying one where they differ.
    fn registers(&self, shape: &Shape<'_>) -> (u32, Option<(u32, u32)>) {
        let start = self.registers_beside(self.bound(shape));
        if self.groups == 1 && self.maps == 1 || self.accumulators() + 72 <= start {
            return (start, None);
        }
        // Addresses, and windows of a sixteenth of the rows, two registers each.
        let filling = match (self.maps, shape.is_pointwise()) {
            (1, true) => 40,
            (1, false) => 56,
            (_, true) => 48,
            (_, false) => 40 + self.m / 8,
        };
        let multiplying =
            ((start * (self.groups + 1)).saturating_sub(filling) / self.groups / 8 * 8).min(240);
        (start, Some((filling, multiplying)))
    }

    /// Registers of a multiplying thread beside its accumulators.
    fn room(&self, shape: &Shape<'_>) -> u32 {
        let (start, split) = self.registers(shape);
        split.map_or(start, |(_, multiplying)| multiplying).saturating_sub(self.accumulators())
    }

    /// What the epilogue finishes at a time: slabs of a warp, or items of a thread of the cluster's; and registers of each.
    fn batch(&self, shape: &Shape<'_>) -> (u32, u32) {
        let width = finish_width(shape.geometry.filters);
        // Eight halves for each of two rows.
        let carried = if self.through > 0 && shape.carried.is_some() { 8 } else { 0 };
        match self.cluster {
            1 => {
                // Eight columns of each of two rows, `width` to a read.
                let reads = operands(shape.epilogue);
                let each: u32 = reads.map(|d| (width * d.size() as u32).div_ceil(4)).sum();
                (self.m / 64 / self.team() * (self.n / 32), 2 * (1 + 8 / width * each) - carried)
            }
            parts => {
                let items = (self.m.div_ceil(parts) * self.n / width).div_ceil(128 * self.groups);
                (items, finish_registers(shape.epilogue, width))
            }
        }
    }

    /// Registers for what a thread knows of two rows of every 64; their moments, if these wait in registers.
    fn known(&self, shape: &Shape<'_>, wait: bool) -> u32 {
        let Some(_) = shape.epilogue.rows.filter(|_| self.cluster == 1) else { return 0 };
        2 * self.m / 64 / self.team() * if wait { row_registers(shape.epilogue) } else { 2 }
    }

    /// Whether what is known of rows must be there before a tile is multiplied.
    fn rows_first(&self, shape: &Shape<'_>) -> bool {
        self.room(shape) < 56 + self.known(shape, true) + self.batch(shape).1
    }

    /// How many of them are asked for at a time.
    fn ahead(&self, shape: &Shape<'_>) -> u32 {
        let (count, each) = self.batch(shape);
        // The mainloop and the program need registers, too; a warp has no use for more than four slabs.
        let taken = 48 + (2.0 * cost::instructions(&shape.epilogue.program)).min(40.0) as u32;
        let taken = if shape.in_runs() { taken + 16 } else { taken };
        let taken = taken + self.known(shape, !self.rows_first(shape));
        let (taken, most) = if self.cluster == 1 { (taken, count.min(4)) } else { (taken + 20, count) };
        (self.room(shape).saturating_sub(taken) / each).clamp(1, most)
    }

    /// Why the kernel cannot be made so, if it cannot.
    fn check(&self, shape: &Shape<'_>, wide: bool, target: &Target) -> Result<(), String> {
        let fail = |what: &str| Err(format!("`{}`: {what}", self.tactic()));
        if self.maps > 1
            || self.early > 1
            || self.pong > 1
            || self.pong == 1 && (self.groups != 2 || self.cluster > 1)
        {
            return fail("maps or not, early or not; two warpgroups that take turns, at all of k");
        }
        if !matches!(self.groups, 1..=3) || self.m == 0 || !self.m.is_multiple_of(64 * self.team()) {
            return fail("1 to 3 warpgroups of whole 64 rows");
        }
        if self.n == 0 || !self.n.is_multiple_of(32) || self.n > 256 || self.m > 256 {
            return fail("tiles of at most 256 pixels and 256 filters, these in 32s");
        }
        if !(1..=4).contains(&self.deep)
            || self.deep > 1 && !shape.tiles.is_multiple_of(self.deep * self.cluster)
        {
            return fail(&format!(
                "stages of 1 to 4 tiles of k, whole ones of the {} there are",
                shape.tiles
            ));
        }
        if !(2..=8).contains(&self.stages) || !(1..=4).contains(&self.blocks) {
            return fail("2 to 8 stages, 1 to 4 blocks");
        }
        if self.cluster == 0 || self.cluster > shape.tiles.min(8) {
            return fail(&format!("clusters of at most 8 blocks share {} tiles", shape.tiles));
        }
        if !matches!((self.share, self.spread), (1 | 2 | 4, 1) | (1 | 2, 2))
            || self.peers() * self.cluster > 8
        {
            return fail("1, 2 or 4 blocks share weights, 1 or 2 pixels, in clusters of at most 8");
        }
        if self.maps == 1 && !shape.mapped(self.m / self.spread) {
            return fail("no tensor map for these pixels");
        }
        if self.maps == 0 && shape.added.is_some() {
            return fail("only maps bring the pixels of what is added");
        }
        if self.spread > 1
            && (self.maps == 0 || !shape.column_tiles(self).is_multiple_of(self.spread as usize))
        {
            return fail("only maps bring pixels to several blocks, which take whole rows of tiles");
        }
        if self.cluster > 1 && !shape.geometry.filters.is_multiple_of(4) {
            return fail("clusters take filters in fours");
        }
        if self.cluster > 1 && self.m > 192 {
            return fail("clusters take tiles of at most 192 pixels");
        }
        if self.through > 0 {
            let whole = self.n.is_multiple_of(64) || shape.column_tiles(self) == 1;
            if self.through > 2 || self.cluster > 1 || self.through > 1 && self.pong == 1 {
                return fail("one tile of results of each team that takes turns, one or two of others");
            }
            if !whole
                || !shape.geometry.filters.is_multiple_of(8)
                || !matches!(shape.epilogue.out(), DType::F16 | DType::BF16)
            {
                return fail("results come through shared memory as halves, in boxes of 64 columns");
            }
            // What is placed out of a map's reach goes from registers after all.
            Tile { through: 0, ..*self }.check(shape, wide, target)?;
        }
        let (start, _) = self.registers(shape);
        // ptxas wants the operands of one instruction, and some, within what the kernel starts with.
        if self.team() == 1 && self.accumulators() > 128 {
            return fail("more accumulators than one warpgroup has registers for");
        }
        if self.n / 2 + 28 > start || self.room(shape) < 48 + self.known(shape, false) + self.batch(shape).1 {
            return fail(&format!("{} accumulators beside {}", self.accumulators(), self.room(shape)));
        }
        let shared = self.shared(shape, wide);
        if shared > target.shared_per_block
            || (shared + 1024) * self.blocks > target.shared_per_multiprocessor
        {
            return fail(&format!("{shared} bytes of shared memory of {}", target.shared_per_block));
        }
        Ok(())
    }

    /// Clusters that run at once. They do not cross the chip's groups of 16 or 18 multiprocessors, and one of these may be short of
    /// many (an H200: 66 clusters of 2, 39 of 3, 30 of 4, 17 of 6, 15 of 8): blocks that take turns must not wait for a second round.
    fn resident(&self, target: &Target) -> u32 {
        let size = self.cluster * self.peers();
        let clusters = match size {
            1 | 2 => target.multiprocessors / size,
            _ => (target.multiprocessors / 16).saturating_sub(1) * (16 / size),
        };
        clusters.max(1) * self.blocks
    }

    /// Whether all blocks run at once, each for one tile of the output.
    fn in_one_round(&self, shape: &Shape<'_>, symbols: &Symbols, target: &Target) -> bool {
        self.turns(shape).opt(symbols) <= i64::from(self.resident(target))
    }

    /// What clusters take turns at: tiles of the output, or rows and columns of them that peers share.
    fn turns(&self, shape: &Shape<'_>) -> Dim {
        let rows = shape.geometry.pixels().ceil_div(&Dim::from(i64::from(self.m)));
        let columns = Dim::from(shape.column_tiles(self) / self.spread as usize);
        rows.ceil_div(&Dim::from(i64::from(self.share))) * columns
    }

    /// Columns of peers in a band: what runs at once is to read as few bytes as it can, so that it stays in L2.
    fn band(&self, shape: &Shape<'_>, target: &Target) -> u32 {
        let columns = shape.column_tiles(self) as u32 / self.spread;
        let (m, n) = (f64::from(self.m * self.share), f64::from(self.n * self.spread));
        let ideal = (f64::from(self.resident(target)) * m / n).sqrt();
        columns.div_ceil((f64::from(columns) / ideal).round().max(1.0) as u32)
    }
}

impl Family for ConvWgmma {
    fn name(&self) -> &'static str {
        "conv.wgmma"
    }

    fn version(&self) -> u32 {
        7
    }

    fn takes_rows(&self) -> bool {
        true
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        const MOST: usize = 32;
        let Ok(shape) = Shape::of(problem, target) else { return vec![] };
        let wide = shape.geometry.is_wide(symbols);
        // When the next kernel starts tells most where this one is short: both are tried there.
        let short = |t: &Tile| t.in_one_round(&shape, symbols, target);
        let mut ranked: Vec<(f64, Tile)> = cost::candidates(&shape, wide, target)
            .into_iter()
            .map(|t| Tile { early: u32::from(short(&t)), ..t })
            .map(|t| (t.cost(&shape, symbols, target), t))
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        // At most two that differ in stages, residency or how much is shared alone: the model errs alike for those.
        let kind = |t: &Tile| {
            (t.m, t.n, t.groups, t.deep > 1, t.cluster, t.maps, t.pong, t.peers() > 1, t.through > 0)
        };
        let mut chosen: Vec<Tile> = Vec::new();
        for (_, tile) in ranked {
            if chosen.len() < MOST && chosen.iter().filter(|t| kind(t) == kind(&tile)).count() < 2 {
                chosen.push(tile);
            }
        }
        let others = chosen.iter().filter(|t| short(t)).take(8).map(|t| Tile { early: 1 - t.early, ..*t });
        chosen.iter().copied().chain(others).map(|t| t.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let estimate = || {
            let shape = Shape::of(problem, target)?;
            Tile::of(tactic).map(|t| t.cost(&shape, symbols, target))
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
        let geometry = &shape.geometry;
        let wide = geometry.is_wide(symbols);
        tile.check(&shape, wide, target)?;
        let result = shape.result.as_ref().filter(|_| tile.through > 0);
        let tile = Tile { through: if result.is_some() { tile.through } else { 0 }, ..tile };
        let carried = shape.carried.as_ref().filter(|_| result.is_some());
        let (filling, multiplying) = tile.registers(&shape).1.unwrap_or((0, 0));
        let constants = codegen::constants(&[
            ("BM", tile.m),
            ("BN", tile.n),
            ("CONSUMERS", tile.groups),
            ("STAGES", tile.stages),
            ("DEEP", tile.deep),
            ("BLOCKS", tile.bound(&shape)),
            ("SPLIT", tile.cluster),
            ("SHARE", tile.share),
            ("SPREAD", tile.spread),
            ("MAPS", tile.maps),
            ("PONG", tile.pong),
            ("THROUGH", tile.through),
            ("CARRIED", u32::from(carried.is_some())),
            ("BAND", tile.band(&shape, target)),
            ("AHEAD", tile.ahead(&shape)),
            ("ROWS_FIRST", u32::from(tile.rows_first(&shape))),
            ("WIDTH", finish_width(geometry.filters)),
            ("PRODUCER_REGISTERS", filling),
            ("CONSUMER_REGISTERS", multiplying),
            ("EARLY", tile.early),
            ("POINTWISE", u32::from(geometry.is_pointwise())),
            ("ADDED_POINTWISE", u32::from(shape.added.as_ref().is_some_and(Geometry::is_pointwise))),
        ]);
        let sizes = geometry.constants(problem) + &Geometry::added_constants(shape.added.as_ref());
        let (out, carried_operand) = (geometry.out_shape(), carried.map(|c| c.0));
        let (epilogue, results) = match result {
            Some(result) => {
                let carried = carried.map_or(result, |c| &c.1);
                let text = codegen::epilogue_carried(shape.epilogue, &out, carried_operand);
                (text, Some((carried, result)))
            }
            None if shape.in_runs() => (codegen::epilogue_carried(shape.epilogue, &out, None), None),
            None => (codegen::epilogue_in_two_steps(shape.epilogue, &out), None),
        };
        let places = results.map_or_else(String::new, |(carried, result)| {
            [("CARRIED", carried), ("RESULT", result)].iter().fold(String::new(), |text, (name, matrix)| {
                let Matrix { row, column, .. } = matrix;
                text + &format!("constexpr int {name}_ROW = {row}, {name}_COLUMN = {column};\n")
            })
        });
        let title = format!("{} ({tactic})", geometry.title("conv.wgmma"));
        let step = wgmma::step(tile.n, geometry.dtype);
        let map = conv_maps::pixels(geometry, tile.m / tile.spread).filter(|_| tile.maps == 1);
        let pixels = if map.is_some() { MAPS } else { COPIES };
        let ending = match results {
            Some(_) => CARRY,
            None if shape.in_runs() => RUNS,
            None => DIRECT,
        };
        let parts =
            [&constants, &places, &epilogue, &sizes, &step, TILE_SUMS, RING, pixels, SUMS, ending, MAINLOOP];
        let kernel = codegen::source(&title, wide, &parts);
        // As many blocks as are resident at once, each for several tiles; those that split k have one each.
        let turns = tile.turns(&shape);
        let turns = match tile.cluster {
            1 => Dim::min(&turns, &Dim::from(i64::from(tile.resident(target)))),
            _ => turns,
        };
        let mut args = vec![map.map_or(Arg::Input(0), |map| Arg::Map(Box::new(map))), Arg::Input(1)];
        let own = own_inputs(shape.added.as_ref());
        let mut packs = vec![None, Some(shape.pack(&tile))];
        if let Some(added) = &shape.added {
            let map =
                conv_maps::pixels(added, tile.m / tile.spread).ok_or("no tensor map for what is added")?;
            args.extend([Arg::Map(Box::new(TensorMap { of: Tensor::Input(2), ..map })), Arg::Input(3)]);
            packs.extend([None, Some(shape.pack_of(added, [added.channels, 1, 1], &tile))]);
        }
        args.extend(codegen::epilogue_args(shape.epilogue, own));
        let maps = results.iter().flat_map(|(carried, result)| [&carried.map, &result.map]);
        args.extend(maps.map(|map| Arg::Map(Box::new(map.clone()))));
        args.extend(codegen::symbol_args(problem));
        let launch = Launch {
            kernel: 0,
            grid: [
                turns * Dim::from(i64::from(tile.peers())),
                Dim::from(i64::from(tile.cluster)),
                Dim::from(1),
            ],
            block: [tile.threads(), 1, 1],
            shared: tile.shared(&shape, wide),
            cluster: (tile.cluster * tile.peers() > 1).then_some([tile.peers(), tile.cluster, 1]),
            programmatic: true,
            args,
        };
        packs.resize(own + shape.epilogue.operands.len(), None);
        Ok(Build { kernels: vec![kernel], launches: vec![launch], workspace: Dim::from(0), packs })
    }
}

#[path = "conv_wgmma_cost.rs"]
mod cost;

#[cfg(test)]
#[path = "conv_wgmma_layout_tests.rs"]
mod layout_tests;
