//! `conv.depthwise`: one filter to each channel, two dimensions at most, both layouts, constant weights. Memory-bound:
//! a thread computes a few neighbouring pixels so that they share what they read.

use super::conv_geometry::Geometry;
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family, Launch, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::Conv;
use bakelite_host::{Class, Problem};

const KERNEL: &str = include_str!("../../cuda/conv_depthwise.cuh");

/// The family.
#[derive(Debug)]
pub struct ConvDepthwise;

/// The convolution in `problem`, if it is depthwise.
fn conv(problem: &Problem<Dim>) -> Result<(&Conv<Dim>, Geometry), String> {
    let Problem::Conv(conv) = problem else {
        return Err(format!("conv.depthwise does not implement {}", problem.name()));
    };
    let geometry = Geometry::of_conv(conv)?;
    let depthwise = geometry.groups == geometry.channels && geometry.filters == geometry.channels;
    if !depthwise || geometry.rank > 2 || !geometry.dtype.is_float() {
        return Err(
            "conv.depthwise takes one filter to a channel, floats, and at most two dimensions".to_owned()
        );
    }
    // The kernel unrolls its window.
    if geometry.kernel[2] > 11 || geometry.taps() > 121 {
        return Err(format!("a window of {:?} is too large to unroll", geometry.kernel));
    }
    Ok((conv, geometry))
}

/// Why `wide` pixels of `v` channels do not fit, if they do not.
fn check(geometry: &Geometry, wide: u32, v: u32) -> Result<(), String> {
    let words = if geometry.dtype.class() == Class::F64 { 2 } else { 1 };
    let registers = (wide + geometry.kernel[2] as u32 + 1) * v * words;
    let fits = matches!(wide, 1 | 2 | 4 | 8) && matches!(v, 1 | 2 | 4 | 8) && registers <= 144;
    let rows = v as usize * geometry.dtype.size() <= 16;
    let divides = if geometry.last { geometry.channels.is_multiple_of(v as usize) } else { v == 1 };
    if fits && rows && divides {
        Ok(())
    } else {
        Err(format!("{wide} pixels of {v} channels do not fit a thread"))
    }
}

/// Strips of `wide` pixels over all rows, times sets of `v` channels.
fn items(geometry: &Geometry, wide: u32, v: u32) -> Dim {
    let strips = geometry.output[2].ceil_div(&Dim::from(i64::from(wide)));
    let rows = &geometry.n * &product(&geometry.output[..2]);
    rows * strips * Dim::from(geometry.channels / v.max(1) as usize)
}

impl Family for ConvDepthwise {
    fn name(&self) -> &'static str {
        "conv.depthwise"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok((_, geometry)) = conv(problem) else { return vec![] };
        let mut out: Vec<Tactic> = [1, 2, 4, 8]
            .into_iter()
            .flat_map(|wide| [8, 4, 2, 1].map(|v| (wide, v)))
            .filter(|(wide, v)| check(&geometry, *wide, *v).is_ok())
            .map(|(wide, v)| Tactic::new(self.name(), self.version(), &[("wide", wide), ("v", v)]))
            .collect();
        out.sort_by(|a, b| {
            let cost = |t| self.cost(problem, t, symbols, target);
            cost(a).total_cmp(&cost(b))
        });
        out.truncate(8);
        out
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let (Ok((conv, geometry)), Ok(wide), Ok(v)) = (conv(problem), tactic.get("wide"), tactic.get("v"))
        else {
            return f64::INFINITY;
        };
        if check(&geometry, wide, v).is_err() {
            return f64::INFINITY;
        }
        let threads = items(&geometry, wide, v).opt(symbols) as f64;
        let columns = ((wide as usize - 1) * geometry.strides[2] + geometry.kernel[2]) as f64;
        let rows = geometry.kernel[1] as f64;
        let (v, wide) = (f64::from(v), f64::from(wide));
        // Instructions of a thread: loads and conversions of columns and taps, multiplications, the epilogue.
        let fma = wide * rows * geometry.kernel[2] as f64 * v;
        let instructions =
            rows * (columns + geometry.kernel[2] as f64) * (4.0 + v) + fma + wide * (10.0 + 2.0 * v);
        let sms = f64::from(target.multiprocessors);
        let busy = threads * instructions / (128.0 * sms) / 1700.0;
        // One thread's own time: it waits for each row of loads.
        let alone = (instructions * 2.0 + rows * 500.0) / 1700.0;
        let memory = geometry.bytes(conv.epilogue.out().size(), symbols) / target.bandwidth / 1e3;
        LAUNCH + busy.max(memory * 1.1) + alone * 0.7
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let (conv, geometry) = conv(problem)?;
        let (wide, v) = (tactic.get("wide")?, tactic.get("v")?);
        check(&geometry, wide, v)?;
        let vec = codegen::power_of_two([&geometry.output[2], &Dim::from(i64::from(wide))], 8);
        let kernel = codegen::source(
            &format!("{} ({tactic})", geometry.title("conv.depthwise")),
            geometry.is_wide(symbols),
            &[
                &codegen::constants(&[("WIDE", wide), ("V", v), ("VEC", vec)]),
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
                grid: [items(&geometry, wide, v).ceil_div(&Dim::from(128)), Dim::from(1), Dim::from(1)],
                block: [128, 1, 1],
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
