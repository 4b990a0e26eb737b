//! `conv.mma`: convolution over channels-last tensors as an implicit matrix product on tensor cores.
//! One- and two-dimensional, any stride, dilation, padding and groups, constant weights. A matrix product with a constant
//! right operand is a convolution by one element, and gets packed weights and cluster splits in this way.

use super::conv_geometry::{Geometry, Implicit};
use super::strips::LAUNCH;
use super::tile_sums::{TILE_SUMS, finish_registers, finish_width, sum_bytes};
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family, Launch, Limit, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Epilogue, Math};
use bakelite_host::{DType, Problem};

const MAINLOOP: &str =
    concat!(include_str!("../../cuda/conv_window.cuh"), include_str!("../../cuda/conv_mma.cuh"));
const REDUCE: &str = include_str!("../../cuda/conv_reduce.cuh");

/// The epilogue of blocks that share a tile's k through the workspace.
const PARTIAL: &str = "typedef float acc_t;
struct Epilogue {
  float* partial;
  static constexpr bool TOGETHER = false;
  struct RowParts {};
  struct Row {};
  DEVICE RowParts row_parts(index_t) const { return {}; }
  DEVICE Row row(const RowParts&) const { return {}; }
  template <int V> struct Reads {};
  template <int V> DEVICE Reads<V> read(index_t) const { return {}; }
  template <int V> DEVICE void store(const acc_t (&acc)[V], index_t i, const Reads<V>&, const Row&) const {
    Vec<float, V> sums;
#pragma unroll
    for (int j = 0; j < V; ++j) sums.v[j] = acc[j];
    store_vec<V>(partial + i, sums);
  }
};
#define EPILOGUE_PARAMS , float* partial
#define EPILOGUE Epilogue{partial + (long long)split * M * FILTERS}
";

/// The most tiles in flight, and one.
const MOST_STAGES: u32 = 16;

/// The family.
pub struct ConvMma;

/// What a tactic says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tile {
    /// Pixels and filters of a block.
    m: u32,
    n: u32,
    /// Steps of k in a tile: 2 or 4.
    steps: u32,
    stages: u32,
    /// Warp groups, which share the steps of a tile.
    groups: u32,
    /// Warps in each group.
    warps: u32,
    /// Blocks that share a tile's k, through the workspace or a cluster.
    split: u32,
    cluster: u32,
}

/// The problem as the kernel sees it.
struct Shape<'a> {
    geometry: Geometry,
    math: Math,
    epilogue: &'a Epilogue<Dim>,
    /// How far the weights' elements lie apart: filters, channels and taps.
    weights: [usize; 3],
    /// Whether the third operand scales channels.
    scaled: bool,
    /// Element loads instead of 16-byte copies.
    gather: bool,
    /// Elements of k in a step, steps in all.
    step: usize,
    total: usize,
}

impl Shape<'_> {
    fn of<'a>(problem: &'a Problem<Dim>, target: &Target) -> Result<Shape<'a>, String> {
        let Implicit { geometry, math, epilogue, weights, scaled, added } = Implicit::of(problem)?;
        if added.is_some() {
            return Err("conv.mma adds no other convolution".to_owned());
        }
        let step = match (geometry.dtype, math, target.arch.sm) {
            (DType::F16, _, _) | (DType::BF16, _, 80..) => 16,
            (DType::F32, Math::Tf32 | Math::Tf32x3, 80..) => 8,
            (dtype, ..) => return Err(format!("no tensor cores for {dtype} ({math:?}) on {}", target.arch)),
        };
        if !geometry.last || geometry.rank > 2 {
            return Err("conv.mma takes channels-last tensors of one or two dimensions".to_owned());
        }
        let taps = geometry.taps();
        if taps > 32 && geometry.kernel.iter().any(|k| *k > 16) {
            return Err(format!("a kernel of {:?} has no tap mask", geometry.kernel));
        }
        if geometry.groups > 1 && geometry.ng() == 1 {
            return Err("one filter to a group leaves tiles of 32 nearly empty".to_owned());
        }
        let gather = geometry.cg() % (step / 2) != 0;
        if scaled && gather {
            return Err("conv.mma scales channels that fill whole 16 bytes".to_owned());
        }
        let total =
            if gather { (taps * geometry.cg()).div_ceil(step) } else { taps * geometry.cg().div_ceil(step) };
        Ok(Shape { geometry, math, epilogue, weights, scaled, gather, step, total })
    }

    fn tiles(&self, tile: &Tile) -> u32 {
        (self.total as u32).div_ceil(tile.steps)
    }

    fn column_tiles(&self, tile: &Tile) -> usize {
        self.geometry.ng().div_ceil(tile.n as usize)
    }

    /// How the weights are packed: see conv_mma.cuh.
    fn pack(&self, tile: &Tile) -> Pack {
        let (n, cg, ng) = (tile.n as usize, self.geometry.cg(), self.geometry.ng());
        let taps = self.geometry.taps();
        let [filter, channel, tap] = self.weights;
        let lane = self.step / 8; // elements of one operand register
        // Steps of k, as one dimension or as taps and the steps of each; `along` is how far k moves in the original.
        let (steps, step_strides, along, limit) = if self.gather {
            (vec![self.total], vec![self.step], 1, cg * taps)
        } else {
            (vec![taps, cg.div_ceil(self.step)], vec![tap, self.step * channel], channel, cg)
        };
        let first = 2 + steps.len();
        let step_dim = first - 1;
        let mut shape = vec![self.geometry.groups, self.column_tiles(tile)];
        let mut strides = vec![ng * filter, n * filter];
        shape.extend(steps);
        strides.extend(step_strides);
        // 16 filters, filter of 8, k quad, which 8, which half of the step, element of the register
        shape.extend([n / 16, 8, 4, 2, 2, lane]);
        strides.extend([16 * filter, filter, lane * along, 8 * filter, self.step / 2 * along, along]);
        let filters = vec![(1, n), (first, 16), (first + 1, 1), (first + 3, 8)];
        let depth =
            vec![(step_dim, self.step), (first + 2, lane), (first + 4, self.step / 2), (first + 5, 1)];
        let limits = vec![Limit { terms: filters, below: ng }, Limit { terms: depth, below: limit }];
        Pack { shape, strides, limits, ..Pack::default() }
    }
}

impl Tile {
    fn tactic(&self) -> Tactic {
        let params = [
            ("m", self.m),
            ("n", self.n),
            ("k", self.steps),
            ("stages", self.stages),
            ("groups", self.groups),
            ("warps", self.warps),
            ("split", self.split),
            ("cluster", self.cluster),
        ];
        Tactic::new(ConvMma.name(), ConvMma.version(), &params)
    }

    fn of(tactic: &Tactic) -> Result<Tile, String> {
        Ok(Tile {
            m: tactic.get("m")?,
            n: tactic.get("n")?,
            steps: tactic.get("k")?,
            stages: tactic.get("stages")?,
            groups: tactic.get("groups")?,
            warps: tactic.get("warps")?,
            split: tactic.get("split")?,
            cluster: tactic.get("cluster")?,
        })
    }

    /// Images that a block's pixels belong to at most.
    fn span(&self, shape: &Shape) -> u32 {
        let geometry = &shape.geometry;
        let pixels = product(&geometry.output);
        if geometry.n.is(1) || pixels.exact_div(&Dim::from(i64::from(self.m))).is_some() {
            return 1;
        }
        let least = pixels.as_const().unwrap_or(1).max(1);
        (i64::from(self.m - 1) / least + 2) as u32
    }

    /// Bytes of the factors of a block's images.
    fn factors(&self, shape: &Shape) -> u32 {
        if !shape.scaled {
            return 0;
        }
        let channels = shape.geometry.cg().next_multiple_of(shape.step) * shape.geometry.dtype.size();
        self.span(shape).saturating_mul(channels as u32)
    }

    const fn threads(&self) -> u32 {
        32 * self.warps * self.groups
    }

    /// Dynamic shared memory: the stages, then over them the partial sums, beside them what the cluster's blocks send, and
    /// factors.
    fn shared(&self, shape: &Shape) -> u32 {
        self.factors_at().saturating_add(self.factors(shape))
    }

    /// Where in it the factors of channels lie: behind everything else.
    fn factors_at(&self) -> u32 {
        let tiles = self.stages * (self.m + self.n) * 32 * self.steps;
        let (own, others) = sum_bytes(self.m, self.n, self.cluster, self.groups);
        tiles.max(own) + if self.cluster > 1 { others + 16 } else { 0 }
    }

    /// How much of what a thread finishes has its operands asked for ahead, and the registers that takes: few beside many
    /// sums, for nothing to spill.
    fn ahead(&self, shape: &Shape) -> (u32, u32) {
        let width = finish_width(shape.geometry.ng());
        let count = (self.m.div_ceil(self.cluster) * self.n / width).div_ceil(self.threads());
        let each = finish_registers(shape.epilogue, width);
        let room: u32 = match self.accumulators() {
            ..64 => 32,
            64..128 => 16,
            _ => 10,
        };
        let ahead = (room / each).clamp(1, count);
        (ahead, ahead * each)
    }

    /// Blocks that registers must leave room for. Left alone the compiler spills a few to squeeze in one more.
    fn blocks(&self, shape: &Shape) -> u32 {
        let registers = self.accumulators() + self.ahead(shape).1 + 92;
        (65536 / (self.threads() * registers)).clamp(1, 1024 / self.threads())
    }

    /// Warps along pixels and filters: whole 16x16 blocks, as square as it goes.
    fn warp_grid(&self) -> Option<(u32, u32)> {
        (0..4)
            .map(|p| (1 << p, self.warps >> p))
            .filter(|(wm, wn)| {
                wm * wn == self.warps && self.m.is_multiple_of(16 * wm) && self.n.is_multiple_of(16 * wn)
            })
            .min_by_key(|(wm, wn)| self.m / wm + self.n / wn)
    }

    /// Accumulator registers of a thread.
    const fn accumulators(&self) -> u32 {
        self.m * self.n / (32 * self.warps)
    }

    /// Why the kernel cannot be made so, if it cannot.
    fn check(&self, shape: &Shape, target: &Target) -> Result<(), String> {
        let sizes = |v: u32| matches!(v, 32 | 64 | 128);
        let fail = |what: &str| Err(format!("`{}`: {what}", self.tactic()));
        if !sizes(self.m) || !sizes(self.n) || !matches!(self.steps, 2 | 4) {
            return fail("tiles are 32, 64 or 128 by 32, 64 or 128 by 2 or 4 steps");
        }
        if !matches!(self.warps, 4 | 8) || !matches!(self.groups, 1 | 2 | 4) || self.groups > self.steps {
            return fail("4 or 8 warps in 1, 2 or 4 groups, no more than steps");
        }
        if self.threads() > 512 || self.accumulators() > 128 || self.warp_grid().is_none() {
            return fail("more threads or registers than a block has, or warps that do not tile it");
        }
        if self.shared(shape) > target.shared_per_block {
            return fail(&format!(
                "{} bytes of shared memory of {}",
                self.shared(shape),
                target.shared_per_block
            ));
        }
        let tiles = shape.tiles(self);
        if self.split == 0 || self.cluster == 0 || (self.split > 1 && self.cluster > 1) {
            return fail("k is split over the workspace or a cluster, not both");
        }
        if self.split * self.cluster > tiles {
            return fail(&format!("k is split in more parts than its {tiles} tiles"));
        }
        let epilogue = shape.epilogue;
        if (epilogue.rows.is_some() || epilogue.moments) && (self.split > 1 || shape.gather) {
            return fail("what is known of rows, or their moments, only where blocks finish what they sum");
        }
        if self.cluster > 1 {
            if target.arch.sm < 90 {
                return fail("clusters need sm_90");
            }
            if self.cluster > 8 {
                return fail("clusters of at most 8");
            }
        }
        if shape.gather {
            let parts = self.threads() / self.m;
            if self.split * self.cluster > 1 || parts == 0 || !(2 * self.steps).is_multiple_of(parts) {
                return fail("gathering does not split k, and gives each thread whole chunks of one row");
            }
            if self.stages == 0 || self.stages > 16 {
                return fail("1 to 16 resident tiles");
            }
        } else if !(2..=MOST_STAGES).contains(&self.stages) {
            return fail("2 to 16 stages");
        }
        Ok(())
    }
}

impl Family for ConvMma {
    fn name(&self) -> &'static str {
        "conv.mma"
    }

    fn version(&self) -> u32 {
        4
    }

    fn takes_rows(&self) -> bool {
        true
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        const MOST: usize = 48;
        let Ok(shape) = Shape::of(problem, target) else { return vec![] };
        // A tile mostly of padding is not worth timing beside a smaller one.
        let widest = (shape.geometry.ng() as u32).next_multiple_of(32);
        let out = shape.epilogue.out().size();
        let mut ranked: Vec<(f64, Tile)> = cost::candidates(&shape, target)
            .into_iter()
            .filter(|t| t.n <= widest)
            .map(|t| (t.cost(&shape, out, symbols, target), t))
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        // At most four that differ in stages alone, split or depth: the model errs alike for those.
        let mut chosen: Vec<Tile> = Vec::new();
        for (_, tile) in ranked {
            let alike =
                |t: &&Tile| (t.m, t.n, t.groups, t.warps) == (tile.m, tile.n, tile.groups, tile.warps);
            if chosen.len() < MOST && chosen.iter().filter(alike).count() < 4 {
                chosen.push(tile);
            }
        }
        chosen.iter().map(Tile::tactic).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let estimate = || {
            let shape = Shape::of(problem, target)?;
            Tile::of(tactic).map(|t| t.cost(&shape, shape.epilogue.out().size(), symbols, target))
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
        let geometry = &shape.geometry;
        let (warps_m, warps_n) = tile.warp_grid().ok_or("the warps do not tile the block")?;
        let split = tile.split * tile.cluster;
        let tiles = shape.tiles(&tile).div_ceil(split);
        let constants = codegen::constants(&[
            ("BM", tile.m),
            ("BN", tile.n),
            ("TILE_STEPS", tile.steps),
            ("STAGES", tile.stages),
            ("WARP_GROUPS", tile.groups),
            ("WARPS_M", warps_m),
            ("WARPS_N", warps_n),
            // Dependents signalled early pile up behind short kernels, and overlap with long ones.
            ("EARLY", u32::from(tiles > 12)),
            ("POINTWISE", u32::from(geometry.is_pointwise())),
            ("AHEAD", tile.ahead(&shape).0),
            ("WIDTH", finish_width(geometry.ng())),
            ("BLOCKS", tile.blocks(&shape)),
            ("SPAN", tile.span(&shape)),
            ("FACTORS_AT", tile.factors_at()),
        ]);
        let switches = format!(
            "#define GATHER {}\n#define SCALED {}\n#define TF32 {}\n#define TF32X3 {}\n#define SPLIT {split}\n#define CLUSTER {}\n",
            u32::from(shape.gather),
            u32::from(shape.scaled),
            u32::from(geometry.dtype == DType::F32),
            u32::from(shape.math == Math::Tf32x3),
            u32::from(tile.cluster > 1),
        );
        let sizes = geometry.constants(problem);
        let wide = geometry.is_wide(symbols);
        let title = format!("{} ({tactic})", geometry.title("conv.mma"));
        let rows = geometry.pixels().ceil_div(&Dim::from(i64::from(tile.m)));
        let grid = [
            rows * Dim::from(shape.column_tiles(&tile)),
            Dim::from(i64::from(split)),
            Dim::from(geometry.groups),
        ];
        let own = problem.own_inputs();
        let mut args: Vec<Arg> = (0..own).map(Arg::Input).collect();
        let mut packs = vec![None; own + shape.epilogue.operands.len()];
        packs[1] = Some(shape.pack(&tile));
        let mut launch = Launch {
            kernel: 0,
            grid,
            block: [tile.threads(), 1, 1],
            shared: tile.shared(&shape),
            cluster: (tile.cluster > 1).then_some([1, tile.cluster, 1]),
            programmatic: true,
            args: vec![],
        };
        if tile.split == 1 {
            args.extend(codegen::epilogue_args(shape.epilogue, own));
            args.extend(codegen::symbol_args(problem));
            launch.args = args;
            let epilogue = codegen::epilogue_in_two_steps(shape.epilogue, &geometry.out_shape());
            let parts = [&constants, &switches, &epilogue, &sizes, TILE_SUMS, MAINLOOP];
            let kernel = codegen::source(&title, wide, &parts);
            return Ok(Build {
                kernels: vec![kernel],
                launches: vec![launch],
                workspace: Dim::from(0),
                packs,
            });
        }
        args.push(Arg::Workspace(Dim::from(0)));
        args.extend(codegen::symbol_args(problem));
        launch.args = args;
        let mainloop =
            codegen::source(&title, wide, &[&constants, &switches, PARTIAL, &sizes, TILE_SUMS, MAINLOOP]);
        let width = finish_width(geometry.ng());
        let epilogue = codegen::epilogue(shape.epilogue, &geometry.out_shape());
        let reduce = codegen::source(
            &format!("{title}, second kernel"),
            wide,
            &[&codegen::constants(&[("SPLIT", split), ("WIDTH", width)]), &epilogue, &sizes, REDUCE],
        );
        let mut args = vec![Arg::Workspace(Dim::from(0))];
        args.extend(codegen::epilogue_args(shape.epilogue, own));
        args.extend(codegen::symbol_args(problem));
        let second = Launch {
            kernel: 1,
            grid: [
                geometry.out_len().ceil_div(&Dim::from(i64::from(128 * width))),
                Dim::from(1),
                Dim::from(1),
            ],
            block: [128, 1, 1],
            shared: 0,
            cluster: None,
            programmatic: true,
            args,
        };
        Ok(Build {
            kernels: vec![mainloop, reduce],
            launches: vec![launch, second],
            workspace: geometry.out_len() * Dim::from(4 * i64::from(split)),
            packs,
        })
    }
}

#[path = "conv_mma_cost.rs"]
mod cost;

#[cfg(test)]
#[path = "conv_mma_layout_tests.rs"]
mod layout_tests;
