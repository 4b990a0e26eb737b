//! `conv.wgmma`: convolution over channels-last tensors of halves as an implicit matrix product on Hopper's tensor cores,
//! and matrix products with a constant right operand in the same way. One- and two-dimensional, any stride, dilation and
//! padding, one group, channels in eights, constant weights.

use super::conv_geometry::{Geometry, Implicit};
use super::conv_maps::{self, Matrix};
use super::strips::LAUNCH;
use super::tile_sums::{TILE_SUMS, finish_registers, finish_width, operands, row_registers, sum_bytes};
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Fold, LONG, Launch, Limit, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use crate::tensor_map::{Tensor, TensorMap};
use crate::wgmma;
use bakelite_host::Problem;
use bakelite_host::problem::Epilogue;

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
    /// Blocks of a cluster with tiles below each other, which read the same weights.
    share: u32,
    /// Blocks of a cluster with tiles beside each other, which read the same pixels.
    spread: u32,
    /// 1: each of them reads a part of that for all; 0: each reads all, and L2 answers what is asked near each other at the same
    /// time once.
    multicast: u32,
    /// 1: the copy engine brings the pixels, by a tensor map.
    maps: u32,
    /// 1: two teams of the warpgroups take a tile each, in turns.
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
        if !geometry.dtype.is_half() {
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

    /// Whether all that the epilogue reads goes by the column, but for what is known of rows.
    fn by_column(&self) -> bool {
        operands(self.epilogue).all(|read| read.by_column)
    }

    /// Columns that are finished at a time.
    fn width(&self) -> u32 {
        if self.in_runs() && self.by_column() { 8 } else { finish_width(self.geometry.filters) }
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
            ("multicast", self.multicast),
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
            multicast: tactic.get("multicast")?,
            maps: tactic.get("maps")?,
            pong: tactic.get("pong")?,
            through: tactic.get("through")?,
            early: tactic.get("early")?,
        })
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
        12
    }

    fn takes_rows(&self) -> bool {
        true
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        const MOST: usize = 32;
        // Of a long kernel, so that tiles of several sizes can be tried in the whole plan.
        const OF_A_SIZE: usize = 6;
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
        // At most two that differ in stages, residency or how the tiles of as many blocks lie together alone: the model errs alike for
        // those.
        let kind = |t: &Tile| {
            (t.m, t.n, t.groups, t.deep, t.cluster, t.maps, t.pong, t.peers(), t.multicast, t.through > 0)
        };
        let mut chosen: Vec<Tile> = Vec::new();
        for (us, tile) in ranked {
            let like = |same: &dyn Fn(&Tile) -> bool| chosen.iter().filter(|t| same(t)).count();
            let sized = us >= LONG && like(&|t| (t.m, t.n) == (tile.m, tile.n)) >= OF_A_SIZE;
            if chosen.len() < MOST && !sized && like(&|t| kind(t) == kind(&tile)) < 2 {
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
            ("MULTICAST", tile.multicast),
            ("MAPS", tile.maps),
            ("PONG", tile.pong),
            ("THROUGH", tile.through),
            ("CARRIED", u32::from(carried.is_some())),
            ("BAND", tile.band(&shape, target)),
            ("AHEAD", tile.ahead(&shape)),
            ("ROWS_FIRST", u32::from(tile.rows_first(&shape))),
            ("WIDTH", shape.width()),
            ("BY_COLUMN", u32::from(shape.by_column())),
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
            None if shape.in_runs() => (codegen::epilogue_of_ragged_rows(shape.epilogue, &out), None),
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
        let map = conv_maps::pixels(geometry, tile.rows_of_map()).filter(|_| tile.maps == 1);
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
                conv_maps::pixels(added, tile.rows_of_map()).ok_or("no tensor map for what is added")?;
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
#[path = "conv_wgmma_fit.rs"]
mod fit;

#[cfg(test)]
#[path = "conv_wgmma_layout_tests.rs"]
mod layout_tests;
