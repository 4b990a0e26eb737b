//! Index of the largest or smallest element along any axis.

use super::rows::{self, Columns, Kernel, Rows, Stream};
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::ArgReduce as Shape;
use bakelite_host::{DType, Problem};

/// ArgMax and ArgMin.
pub struct ArgReduce;

impl Family for ArgReduce {
    fn name(&self) -> &'static str {
        "arg_reduce"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, _: &Target) -> Vec<Tactic> {
        let Problem::ArgReduce(p) = problem else { return vec![] };
        if p.inner.is(1) {
            let rows = Rows::propose(p.dtype, &p.len, false, symbols);
            return rows.into_iter().map(|r| Tactic::new(self.name(), self.version(), &r.params())).collect();
        }
        let columns = Columns::propose(p.dtype, &p.len, &p.inner, false, symbols);
        columns.into_iter().map(|c| Tactic::new(self.name(), self.version(), &c.params())).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::ArgReduce(p) = problem else { return f64::INFINITY };
        let results = &p.outer * &p.inner;
        let (blocks, threads, steps) = if let Ok(r) = Rows::of(tactic, p.dtype, &p.len, symbols) {
            (r.blocks(&p.outer), r.threads(), r.steps(&p.len, symbols))
        } else if let Ok(c) = Columns::of(tactic, p.dtype, &p.inner) {
            (c.blocks(&results), c.columns * c.depth, c.steps(&p.len, symbols))
        } else {
            return f64::INFINITY;
        };
        let bytes = rows::bytes(&(&results * &p.len), p.dtype, symbols);
        let blocks = blocks.opt(symbols) as f64;
        Stream { bytes, blocks, threads: f64::from(threads), steps, barriers: 1.0 }.cost(target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::ArgReduce(p) = problem else {
            return Err(format!("`{tactic}` is no {}", problem.name()));
        };
        let all = product([&p.outer, &p.len, &p.inner]);
        let kernel = Kernel::new(problem, tactic, p.dtype, &[all], symbols)
            .accumulator(p.dtype.class())
            .flag("MAXIMUM", u32::from(p.max))
            .flag("LAST", u32::from(p.last))
            .size("OUTER", &p.outer)
            .size("LEN", &p.len)
            .size("INNER", &p.inner);
        let mut args = vec![Arg::Input(0), Arg::Output(0)];
        args.extend(codegen::symbol_args(problem));
        let (kernel, launch) = if p.inner.is(1) {
            let r = Rows::of(tactic, p.dtype, &p.len, symbols)?;
            (r.define(kernel).flag("STRIDED", 0), rows::launch(0, r.blocks(&p.outer), r.threads(), args))
        } else {
            let c = Columns::of(tactic, p.dtype, &p.inner)?;
            if c.v != 1 {
                return Err(format!("`{tactic}`: a thread has one column, not {}", c.v));
            }
            let blocks = c.blocks(&(&p.outer * &p.inner));
            (c.define(kernel).flag("STRIDED", 1), c.launch(0, blocks, args))
        };
        Ok(Build {
            kernels: vec![kernel.finish(include_str!("../../cuda/arg_reduce.cuh"))],
            launches: vec![launch],
            workspace: Dim::from(0),
            packs: vec![None],
        })
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    let sample = |max, last, dtype, shape: &str| {
        let s = rows::dims(shape);
        let [outer, len, inner] = [s[0].clone(), s[1].clone(), s[2].clone()];
        Problem::from(Shape { max, last, outer, len, inner, dtype })
    };
    vec![
        sample(true, false, DType::F32, "batch 1000 1"),
        sample(true, true, DType::F16, "3 50257 1"),
        sample(false, false, DType::BF16, "65 33 1"),
        sample(false, true, DType::I32, "17 250 1"),
        sample(true, false, DType::I64, "4 seq 1"),
        sample(true, true, DType::U8, "300 5 1"),
        sample(false, false, DType::F64, "5 77 1"),
        sample(true, false, DType::F16, "batch 21 100"),
        sample(false, true, DType::I8, "3 150 35"),
        sample(true, true, DType::F64, "2 2000 9"),
    ]
}
