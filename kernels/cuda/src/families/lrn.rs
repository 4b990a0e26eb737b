//! Local response normalisation: one thread for a few neighbouring positions of a channel.

use super::rows::{self, Kernel, Stream};
use crate::dim::{Dim, Symbols, product};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Epilogue, Lrn as Shape};
use bakelite_host::{DType, Problem};

/// Normalisation across neighbouring channels.
pub struct Lrn;

impl Family for Lrn {
    fn name(&self) -> &'static str {
        "lrn"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, _: &Symbols, _: &Target) -> Vec<Tactic> {
        let Problem::Lrn(p) = problem else { return vec![] };
        if !p.dtype.is_float() || p.size == 0 {
            return vec![];
        }
        let most = rows::vector(p.dtype, &p.spatial);
        let widths = [8, 4, 2, 1].into_iter().filter(|v| *v == most || *v == 1);
        widths.map(|v| Tactic::new(self.name(), self.version(), &[("threads", 128), ("v", v)])).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let (Problem::Lrn(p), Ok(threads), Ok(v)) = (problem, tactic.get("threads"), tactic.get("v")) else {
            return f64::INFINITY;
        };
        let all = &p.n * &p.spatial * Dim::from(p.channels);
        let bytes = rows::bytes(&all, p.dtype, symbols) + rows::bytes(&all, p.epilogue.out(), symbols);
        let (threads, v) = (f64::from(threads), f64::from(v));
        let blocks = (all.opt(symbols) as f64 / (threads * v)).ceil();
        // A power for each element, beside the window.
        Stream { bytes, blocks, threads, steps: p.size as f64 + 1.0 + v, barriers: 0.0 }.cost(target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Lrn(p) = problem else { return Err(format!("`{tactic}` is no {}", problem.name())) };
        let (threads, v) = (tactic.get("threads")?, tactic.get("v")?);
        rows::check_vector(tactic, v, p.dtype, &p.spatial)?;
        rows::check_threads(tactic, threads)?;
        let shape = [p.n.clone(), Dim::from(p.channels), p.spatial.clone()];
        let all = product(&shape);
        let kernel = Kernel::new(problem, tactic, p.dtype, std::slice::from_ref(&all), symbols)
            .constant("THREADS", threads)
            .constant("V", v)
            .constant("CHANNELS", p.channels)
            .constant("SIZE", p.size)
            .number("ALPHA", p.alpha)
            .number("BETA", p.beta)
            .number("LRN_BIAS", p.bias)
            .size("N", &p.n)
            .size("SPATIAL", &p.spatial)
            .epilogue(&p.epilogue, &shape);
        let blocks = all.ceil_div(&Dim::from(i64::from(threads * v)));
        Ok(Build {
            kernels: vec![kernel.finish(include_str!("../../cuda/lrn.cuh"))],
            launches: vec![rows::launch(0, blocks, threads, rows::args(problem, 1, &p.epilogue))],
            workspace: Dim::from(0),
            packs: vec![None; 1 + p.epilogue.operands.len()],
        })
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    let sample = |dtype, shape: &str, channels: usize, size, fused| {
        let s = rows::dims(shape);
        let (n, spatial) = (s[0].clone(), s[1].clone());
        let shape = [n.clone(), Dim::from(channels), spatial.clone()];
        let epilogue = if fused { rows::sample_epilogue(dtype, &shape) } else { Epilogue::store(dtype) };
        Problem::from(Shape {
            n,
            channels,
            spatial,
            size,
            alpha: 1e-2,
            beta: 0.75,
            bias: 1.0,
            dtype,
            epilogue,
        })
    };
    vec![
        sample(DType::F32, "batch 729", 96, 5, false),
        sample(DType::F16, "2 196", 64, 4, true),
        sample(DType::BF16, "3 64", 5, 7, false),
        sample(DType::F64, "2 15", 7, 3, false),
    ]
}
