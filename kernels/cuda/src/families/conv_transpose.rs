//! `conv_transpose.simt`: the transpose of a convolution, as a gather over the taps that meet the stride. Both layouts, one
//! to three dimensions, groups, exact. With constant weights they are packed; one tactic takes them as they are.

use super::conv_geometry::Geometry;
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family, Launch, Limit, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::ConvTranspose;
use bakelite_host::{Class, DType, Problem};

const KERNEL: &str = include_str!("../../cuda/conv_transpose.cuh");

/// The family.
#[derive(Debug)]
pub struct ConvTransposeSimt;

/// Filters and pixels of a thread, and whether the weights are packed.
#[derive(Clone, Copy)]
struct Strip {
    v: u32,
    wide: u32,
    packed: u32,
}

impl Strip {
    fn of(tactic: &Tactic) -> Result<Strip, String> {
        let strip = Strip { v: tactic.get("v")?, wide: tactic.get("wide")?, packed: tactic.get("packed")? };
        let known = matches!(strip.v, 1 | 2 | 4 | 8) && matches!(strip.wide, 1 | 2 | 4 | 8);
        if !known || strip.packed > 1 || (strip.packed == 0 && strip.v > 1) {
            return Err(format!(
                "`{tactic}`: expected 1 to 8 filters and pixels, and one filter if not packed"
            ));
        }
        Ok(strip)
    }

    fn items(self, geometry: &Geometry) -> Dim {
        let stride = Dim::from(geometry.strides[2]);
        let strips = geometry.output[2].ceil_div(&stride).ceil_div(&Dim::from(i64::from(self.wide))) * stride;
        let sets = geometry.ng().div_ceil(self.v as usize) * geometry.groups;
        &geometry.n * &product(&geometry.output[..2]) * strips * Dim::from(sets)
    }
}

fn transpose(problem: &Problem<Dim>) -> Result<(&ConvTranspose<Dim>, Geometry), String> {
    match problem {
        Problem::ConvTranspose(p) if p.dtype != DType::Bool => Ok((p, Geometry::of_transpose(p)?)),
        other => Err(format!("conv_transpose.simt does not implement this {}", other.name())),
    }
}

impl Family for ConvTransposeSimt {
    fn name(&self) -> &'static str {
        "conv_transpose.simt"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok((_, geometry)) = transpose(problem) else { return vec![] };
        let most = if geometry.dtype.class() == Class::F32 { 8 } else { 2 };
        let widest = (geometry.ng() as u32).next_power_of_two().min(most);
        let make = |v, wide, packed| {
            Tactic::new(self.name(), self.version(), &[("v", v), ("wide", wide), ("packed", packed)])
        };
        let mut out: Vec<Tactic> = [8, 4, 2, 1]
            .into_iter()
            .filter(|v| *v <= widest && *v * 4 >= widest)
            .flat_map(|v| [1, 2, 4].map(|wide| make(v, wide, 1)))
            .collect();
        out.sort_by(|a, b| {
            let cost = |t| self.cost(problem, t, symbols, target);
            cost(a).total_cmp(&cost(b))
        });
        out.truncate(6);
        out.push(make(1, 1, 0));
        out
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let (Ok((p, geometry)), Ok(strip)) = (transpose(problem), Strip::of(tactic)) else {
            return f64::INFINITY;
        };
        let threads = strip.items(&geometry).opt(symbols) as f64;
        let (v, wide) = (f64::from(strip.v), f64::from(strip.wide));
        let stride: usize = geometry.strides.iter().product();
        let visits = (geometry.taps() as f64 / stride as f64).max(1.0) * geometry.cg() as f64;
        // A load for each pixel and for each 16 bytes of weights; unpacked weights lie far apart.
        let loads = wide + (v * geometry.dtype.size() as f64 / 16.0).ceil();
        let scattered = if strip.packed == 0 { 16.0 } else { 0.0 };
        let instructions = visits * (4.0 * loads + v * wide + scattered) + 100.0;
        let sms = f64::from(target.multiprocessors);
        let busy = threads * instructions / (128.0 * sms) / 1700.0;
        let alone = (visits * (30.0 + v * wide) + 1000.0) / 1700.0;
        let memory = geometry.bytes(p.epilogue.out().size(), symbols) / target.bandwidth / 1e3;
        LAUNCH + busy.max(memory).max(alone)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let (p, geometry) = transpose(problem)?;
        let strip = Strip::of(tactic)?;
        let kernel = codegen::source(
            &format!("{} ({tactic})", geometry.title("conv_transpose.simt")),
            geometry.is_wide(symbols),
            &[
                &codegen::constants(&[("WIDE", strip.wide), ("V", strip.v), ("PACKED", strip.packed)]),
                &codegen::epilogue(&p.epilogue, &geometry.out_shape()),
                &geometry.constants(problem),
                KERNEL,
            ],
        );
        let (cg, ng, taps) = (geometry.cg(), geometry.ng(), geometry.taps());
        let pack = Pack {
            shape: vec![geometry.groups, taps, cg, ng.next_multiple_of(strip.v as usize)],
            strides: vec![cg * ng * taps, 1, ng * taps, taps],
            limits: vec![Limit { terms: vec![(3, 1)], below: ng }],
            ..Pack::default()
        };
        let args = [Arg::Input(0), Arg::Input(1)].into_iter();
        let args = args.chain(codegen::epilogue_args(&p.epilogue, 2)).chain(codegen::symbol_args(problem));
        let packs = [None, (strip.packed == 1).then_some(pack)].into_iter();
        Ok(Build {
            kernels: vec![kernel],
            launches: vec![Launch {
                kernel: 0,
                grid: [strip.items(&geometry).ceil_div(&Dim::from(128)), Dim::from(1), Dim::from(1)],
                block: [128, 1, 1],
                shared: 0,
                cluster: None,
                programmatic: true,
                args: args.collect(),
            }],
            workspace: Dim::from(0),
            packs: packs.chain(p.epilogue.operands.iter().map(|_| None)).collect(),
        })
    }
}
