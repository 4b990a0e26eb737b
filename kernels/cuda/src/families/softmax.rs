//! Softmax and its logarithm: rows in registers, rows read twice, and columns.

use super::rows::{self, Columns, Kernel, Rows, Stream};
use crate::dim::{Dim, Symbols, product};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Epilogue, Softmax as Shape};
use bakelite_host::{DType, Problem};

/// Softmax along any axis.
pub struct Softmax;

impl Family for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn version(&self) -> u32 {
        2
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, _: &Target) -> Vec<Tactic> {
        let Problem::Softmax(p) = problem else { return vec![] };
        if !p.dtype.is_float() {
            return vec![];
        }
        if p.inner.is(1) {
            let rows = Rows::propose(p.dtype, &p.len, true, symbols);
            return rows.into_iter().map(|r| Tactic::new(self.name(), self.version(), &r.params())).collect();
        }
        let columns = Columns::propose(p.dtype, &p.len, &p.inner, true, symbols);
        columns.into_iter().map(|c| Tactic::new(self.name(), self.version(), &c.params())).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Softmax(p) = problem else { return f64::INFINITY };
        let all = product([&p.outer, &p.len, &p.inner]);
        let (blocks, threads, steps) = if let Ok(r) = Rows::of(tactic, p.dtype, &p.len, symbols) {
            let again = if r.chunks > 0 { 1.0 } else { 2.5 };
            (r.blocks(&p.outer), r.threads(), again * r.steps(&p.len, symbols))
        } else if let Ok(c) = Columns::of(tactic, p.dtype, &p.inner) {
            (c.blocks(&(&p.outer * &p.inner)), c.columns * c.depth, 2.5 * c.steps(&p.len, symbols))
        } else {
            return f64::INFINITY;
        };
        let bytes = rows::bytes(&all, p.dtype, symbols) + rows::bytes(&all, p.epilogue.out(), symbols);
        let blocks = blocks.opt(symbols) as f64;
        Stream { bytes, blocks, threads: f64::from(threads), steps, barriers: 2.0 }.cost(target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Softmax(p) = problem else { return Err(format!("`{tactic}` is no {}", problem.name())) };
        let shape = [p.outer.clone(), p.len.clone(), p.inner.clone()];
        let kernel = Kernel::new(problem, tactic, p.dtype, &[product(&shape)], symbols)
            .flag("LOG", u32::from(p.log))
            .size("OUTER", &p.outer)
            .size("LEN", &p.len)
            .size("INNER", &p.inner);
        let args = rows::args(problem, 1, &p.epilogue);
        let (kernel, launch) = if p.inner.is(1) {
            let r = Rows::of(tactic, p.dtype, &p.len, symbols)?;
            (r.define(kernel).flag("STRIDED", 0), rows::launch(0, r.blocks(&p.outer), r.threads(), args))
        } else {
            let c = Columns::of(tactic, p.dtype, &p.inner)?;
            let blocks = c.blocks(&(&p.outer * &p.inner));
            (c.define(kernel).flag("STRIDED", 1), c.launch(0, blocks, args))
        };
        let text = kernel.epilogue(&p.epilogue, &shape).finish(include_str!("../../cuda/softmax.cuh"));
        Ok(Build {
            kernels: vec![text],
            launches: vec![launch],
            workspace: Dim::from(0),
            packs: vec![None; 1 + p.epilogue.operands.len()],
        })
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    let sample = |log, dtype, shape: &str, fused| {
        let shape = rows::dims(shape);
        let epilogue = if fused { rows::sample_epilogue(dtype, &shape) } else { Epilogue::store(dtype) };
        let [outer, len, inner] = [shape[0].clone(), shape[1].clone(), shape[2].clone()];
        Problem::from(Shape { log, outer, len, inner, dtype, epilogue })
    };
    vec![
        sample(false, DType::F32, "128 1000 1", false),
        sample(true, DType::F16, "batch 1000 1", false),
        sample(false, DType::F16, "12*batch*seq seq 1", false),
        sample(false, DType::BF16, "77 49 1", true),
        sample(false, DType::F64, "9 130 1", false),
        sample(false, DType::F16, "3 50257 1", false),
        sample(true, DType::F32, "2 40000 1", true),
        sample(false, DType::F32, "64 7 1", false),
        sample(false, DType::F16, "batch 21 64", true),
        sample(true, DType::F32, "3 150 35", false),
        sample(false, DType::F64, "2 40 6", false),
    ]
}
