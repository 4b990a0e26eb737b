//! `conv.direct`: one thread for each output element, weights as the model has them, so they need not be constant.
//! The general kernel that every convolution has.

use super::conv_geometry::{Geometry, MADE, POOLED};
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build, Family, Launch};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::Conv;
use bakelite_host::{DType, Problem};

const KERNEL: &str = include_str!("../../cuda/conv_simt_direct.cuh");

/// The family.
#[derive(Debug)]
pub struct ConvDirect;

/// Of the convolution, and of what is added to it.
fn geometries(conv: &Conv<Dim>) -> Result<(Geometry, Option<Geometry>), String> {
    if conv.expand.is_some() {
        return Err(MADE.to_owned());
    }
    if conv.pooled.is_some() {
        return Err(POOLED.to_owned());
    }
    Ok((Geometry::of_any_conv(conv)?, Geometry::of_added(conv)?))
}

impl Family for ConvDirect {
    fn name(&self) -> &'static str {
        "conv.direct"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, _: &Symbols, _: &Target) -> Vec<Tactic> {
        match problem {
            Problem::Conv(conv) if geometries(conv).is_ok() && conv.dtype != DType::Bool => {
                vec![Tactic::new(self.name(), self.version(), &[])]
            }
            _ => vec![],
        }
    }

    fn cost(&self, problem: &Problem<Dim>, _: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Conv(conv) = problem else { return f64::INFINITY };
        let Ok((geometry, added)) = geometries(conv) else { return f64::INFINITY };
        // Two loads for each multiplication; few threads wait for every one of them.
        let flops = geometry.flops(false, symbols) + added.as_ref().map_or(0.0, |a| a.flops(false, symbols));
        let busy = flops / (target.simt_tflops * 1e6) * 12.0;
        let terms = geometry.taps() * geometry.cg() + added.as_ref().map_or(0, |a| a.channels);
        let chain = terms as f64 * 0.02;
        LAUNCH
            + busy.max(chain)
            + (geometry.bytes(conv.epilogue.out().size(), symbols)
                + added.map_or(0.0, |a| a.bytes(0, symbols)))
                / target.bandwidth
                / 1e3
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Conv(conv) = problem else {
            return Err(format!("conv.direct does not implement {}", problem.name()));
        };
        let (geometry, added) = geometries(conv)?;
        let own = problem.own_inputs();
        let pixels = geometry.pixels_of(conv)?;
        let kernel = codegen::source(
            &format!("{} ({tactic})", geometry.title("conv.direct")),
            geometry.is_wide(symbols)
                || added.as_ref().is_some_and(|a| a.is_wide(symbols))
                || codegen::is_wide([&pixels.extent], symbols),
            &[
                &format!("#define SCALED {}\n", u32::from(conv.scaled)),
                &geometry.constants(problem),
                &Geometry::added_constants(added.as_ref()),
                &pixels.constants(),
                &codegen::epilogue(&conv.epilogue, &geometry.out_shape()),
                KERNEL,
            ],
        );
        let args = (0..own).map(Arg::Input);
        let args =
            args.chain(codegen::epilogue_args(&conv.epilogue, own)).chain(codegen::symbol_args(problem));
        Ok(Build {
            kernels: vec![kernel],
            launches: vec![Launch {
                kernel: 0,
                grid: [geometry.out_len().ceil_div(&Dim::from(128)), Dim::from(1), Dim::from(1)],
                block: [128, 1, 1],
                shared: 0,
                cluster: None,
                programmatic: true,
                args: args.collect(),
            }],
            workspace: Dim::from(0),
            packs: vec![None; own + conv.epilogue.operands.len()],
        })
    }
}
