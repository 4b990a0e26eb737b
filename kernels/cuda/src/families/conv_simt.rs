//! `conv.simt`: convolution as an implicit matrix product on ordinary cores, exact in the class of its elements.
//! Both layouts, one to three dimensions, any stride, dilation, padding and groups, constant weights.

use super::conv_geometry::Geometry;
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Launch, Limit, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::Conv;
use bakelite_host::{Class, DType, Problem};

const MAINLOOP: &str = include_str!("../../cuda/conv_simt.cuh");
const REDUCE: &str = include_str!("../../cuda/conv_reduce.cuh");

/// The family.
#[derive(Debug)]
pub struct ConvSimt;

/// Pixels and filters of a block, depth of a tile of k, sums of a thread, blocks that share k.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tile {
    m: u32,
    n: u32,
    k: u32,
    tm: u32,
    tn: u32,
    split: u32,
}

/// Tiles worth timing.
const TILES: [(u32, u32, u32, u32, u32); 7] = [
    (128, 128, 8, 8, 8),
    (128, 64, 8, 8, 4),
    (64, 64, 16, 8, 8),
    (64, 64, 16, 4, 4),
    (64, 32, 16, 4, 4),
    (32, 64, 16, 4, 4),
    (32, 32, 16, 4, 4),
];

impl Tile {
    fn tactic(&self) -> Tactic {
        let params = [
            ("m", self.m),
            ("n", self.n),
            ("k", self.k),
            ("tm", self.tm),
            ("tn", self.tn),
            ("split", self.split),
        ];
        Tactic::new(ConvSimt.name(), ConvSimt.version(), &params)
    }

    fn of(tactic: &Tactic) -> Result<Tile, String> {
        let get = |name| tactic.get(name);
        Ok(Tile {
            m: get("m")?,
            n: get("n")?,
            k: get("k")?,
            tm: get("tm")?,
            tn: get("tn")?,
            split: get("split")?,
        })
    }

    const fn threads(&self) -> u32 {
        (self.m / self.tm) * (self.n / self.tn)
    }

    fn check(&self, geometry: &Geometry) -> Result<(), String> {
        let known = TILES.contains(&(self.m, self.n, self.k, self.tm, self.tn));
        // Eight-byte sums take twice the registers and shared memory.
        let small = geometry.dtype.class() == Class::F32 || (self.tm == 4 && self.tn == 4);
        if !known || !small || geometry.dtype == DType::Bool {
            return Err(format!("`{}` does not tile {} elements", self.tactic(), geometry.dtype));
        }
        if self.split == 0 || self.split > self.depth(geometry).div_ceil(self.k).min(64) {
            return Err(format!("`{}`: k is split in more parts than tiles or 64", self.tactic()));
        }
        Ok(())
    }

    /// Channels as the weights are padded for it.
    fn padded_channels(&self, geometry: &Geometry) -> usize {
        let (cg, k) = (geometry.cg(), self.k as usize);
        if cg < k { cg } else { cg.next_multiple_of(k) }
    }

    fn depth(&self, geometry: &Geometry) -> u32 {
        (geometry.taps() * self.padded_channels(geometry)) as u32
    }

    /// Weights `[filters, cg, taps]` as `[group][tap][channel][filter]`.
    fn pack(&self, geometry: &Geometry) -> Pack {
        let (cg, ng, taps) = (geometry.cg(), geometry.ng(), geometry.taps());
        let filters = ng.next_multiple_of(self.n as usize);
        Pack {
            shape: vec![geometry.groups, taps, self.padded_channels(geometry), filters],
            strides: vec![ng * cg * taps, 1, taps, cg * taps],
            limits: vec![Limit { terms: vec![(2, 1)], below: cg }, Limit { terms: vec![(3, 1)], below: ng }],
            ..Pack::default()
        }
    }

    fn cost(&self, geometry: &Geometry, out_size: usize, symbols: &Symbols, target: &Target) -> f64 {
        const CYCLES_PER_US: f64 = 1700.0;
        let pixels = geometry.pixels().opt(symbols).max(1) as f64;
        let sms = f64::from(target.multiprocessors);
        let columns = geometry.ng().div_ceil(self.n as usize) * geometry.groups;
        let blocks = (pixels / f64::from(self.m)).ceil() * columns as f64 * f64::from(self.split);
        let depth = f64::from(self.depth(geometry).div_ceil(self.split).next_multiple_of(self.k));
        let resident = f64::from(
            (2048 / self.threads()).min(65536 / (self.threads() * (self.tm * self.tn + 56))).max(1),
        );
        let per_sm = (blocks / sms).ceil().min(resident);
        let rounds = (blocks / (sms * per_sm)).ceil();
        let per_cycle = target.simt_tflops * 1e6 / CYCLES_PER_US / sms;
        let rate = match geometry.dtype.class() {
            Class::F64 => 0.4,
            Class::I64 => 0.1,
            _ => 1.0,
        };
        // Shared memory feeds a thread's sums: 4x4 take as long to load as to multiply.
        let efficiency = if self.tm * self.tn == 64 {
            0.75
        } else if self.tm == 8 {
            0.65
        } else {
            0.5
        };
        let busy = per_sm * 2.0 * f64::from(self.m * self.n) * depth / (per_cycle * rate * efficiency);
        let tile = f64::from(self.k) * (f64::from(self.tm * self.tn) / 2.0 + 20.0) + 350.0;
        let latency = depth / f64::from(self.k) * tile;
        let mut us = LAUNCH + rounds * (busy.max(latency) + 1000.0) / CYCLES_PER_US;
        us = us.max(LAUNCH + geometry.bytes(out_size, symbols) / target.bandwidth / 1e3);
        if self.split > 1 {
            us += LAUNCH + 2.0 * 4.0 * pixels * geometry.filters as f64 * f64::from(self.split) / 4e6;
        }
        us
    }
}

/// The convolution in `problem`.
fn conv(problem: &Problem<Dim>) -> Result<(&Conv<Dim>, Geometry), String> {
    match problem {
        Problem::Conv(conv) => Ok((conv, Geometry::of_conv(conv)?)),
        other => Err(format!("conv.simt does not implement {}", other.name())),
    }
}

impl Family for ConvSimt {
    fn name(&self) -> &'static str {
        "conv.simt"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok((conv, geometry)) = conv(problem) else { return vec![] };
        let out = conv.epilogue.out().size();
        let widest = (geometry.ng() as u32).next_multiple_of(32);
        let mut ranked: Vec<(f64, Tile)> = TILES
            .iter()
            .flat_map(|&(m, n, k, tm, tn)| [1, 2, 4, 8, 16].map(|split| Tile { m, n, k, tm, tn, split }))
            .filter(|t| t.n <= widest && t.check(&geometry).is_ok())
            .map(|t| (t.cost(&geometry, out, symbols, target), t))
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.iter().take(8).map(|(_, t)| t.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (conv(problem), Tile::of(tactic)) {
            (Ok((conv, geometry)), Ok(tile)) => {
                tile.cost(&geometry, conv.epilogue.out().size(), symbols, target)
            }
            _ => f64::INFINITY,
        }
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
        let vec = if geometry.last {
            codegen::power_of_two([&Dim::from(geometry.ng())], 4)
        } else {
            codegen::power_of_two([&geometry.output[2]], 4)
        };
        let constants = codegen::constants(&[
            ("BM", tile.m),
            ("BN", tile.n),
            ("BK", tile.k),
            ("TM", tile.tm),
            ("TN", tile.tn),
            ("VEC", vec),
        ]);
        // Left to itself, ptxas spills some bytes of 8-byte sums to fit one more block.
        let bounds = if geometry.dtype.class().dtype().size() == 8 { "THREADS, 1" } else { "THREADS" };
        let split = format!("#define SPLIT {}\n#define BOUNDS {bounds}\n", tile.split);
        let epilogue = codegen::epilogue(&conv.epilogue, &geometry.out_shape());
        let sizes = geometry.constants(problem);
        let title = format!("{} ({tactic})", geometry.title("conv.simt"));
        let wide = geometry.is_wide(symbols);
        let columns = geometry.ng().div_ceil(tile.n as usize);
        let rows = geometry.pixels().ceil_div(&Dim::from(i64::from(tile.m)));
        let mut launch = Launch {
            kernel: 0,
            grid: [rows * Dim::from(columns), Dim::from(i64::from(tile.split)), Dim::from(geometry.groups)],
            block: [tile.threads(), 1, 1],
            shared: 0,
            cluster: None,
            programmatic: true,
            args: vec![Arg::Input(0), Arg::Input(1)],
        };
        let packs = [None, Some(tile.pack(&geometry))].into_iter();
        let packs = packs.chain(conv.epilogue.operands.iter().map(|_| None)).collect();
        let finish =
            codegen::epilogue_args(&conv.epilogue, 2).into_iter().chain(codegen::symbol_args(problem));
        if tile.split == 1 {
            launch.args.extend(finish);
            let kernel = codegen::source(&title, wide, &[&constants, &split, &epilogue, &sizes, MAINLOOP]);
            return Ok(Build {
                kernels: vec![kernel],
                launches: vec![launch],
                workspace: Dim::from(0),
                packs,
            });
        }
        launch.args.push(Arg::Workspace(Dim::from(0)));
        launch.args.extend(codegen::symbol_args(problem));
        let class = geometry.dtype.class();
        let acc = format!("typedef {} acc_t;\n", codegen::class_type(class));
        let mainloop = codegen::source(&title, wide, &[&constants, &split, &acc, &sizes, MAINLOOP]);
        let widths = codegen::constants(&[("SPLIT", tile.split), ("WIDTH", vec)]);
        let reduce =
            codegen::source(&format!("{title}, second kernel"), wide, &[&widths, &epilogue, &sizes, REDUCE]);
        let second = Launch {
            kernel: 1,
            grid: [geometry.out_len().ceil_div(&Dim::from(i64::from(128 * vec))), Dim::from(1), Dim::from(1)],
            block: [128, 1, 1],
            args: [Arg::Workspace(Dim::from(0))].into_iter().chain(finish).collect(),
            ..launch.clone()
        };
        Ok(Build {
            kernels: vec![mainloop, reduce],
            launches: vec![launch, second],
            workspace: geometry.out_len() * Dim::from(class.dtype().size() * tile.split as usize),
            packs,
        })
    }
}
