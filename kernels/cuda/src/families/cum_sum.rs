//! Running sums: blocks scan contiguous rows, threads walk columns.

use super::rows::{self, Kernel, Stream};
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::CumSum as Shape;
use bakelite_host::{Class, DType, Problem};

/// Running sums along any axis.
pub struct CumSum;

impl Family for CumSum {
    fn name(&self) -> &'static str {
        "cum_sum"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, _: &Target) -> Vec<Tactic> {
        let Problem::CumSum(p) = problem else { return vec![] };
        if p.dtype.class() == Class::Bool {
            return vec![];
        }
        let mut out = Vec::new();
        if p.inner.is(1) {
            let len = p.len.opt(symbols);
            for (threads, items) in [(32, 1), (32, 4), (128, 4), (256, 4), (512, 4), (1024, 4)] {
                if threads == 32 || i64::from(threads * items) < len * 2 {
                    out.push(Tactic::new(
                        self.name(),
                        self.version(),
                        &[("threads", threads), ("items", items)],
                    ));
                }
            }
        }
        // A thread for each column is also right for rows, and good for short ones.
        out.extend(
            [64, 256].map(|threads| Tactic::new(self.name(), self.version(), &[("walkers", threads)])),
        );
        out
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::CumSum(p) = problem else { return f64::INFINITY };
        let columns = &p.outer * &p.inner;
        let mut bytes = 2.0 * rows::bytes(&(&columns * &p.len), p.dtype, symbols);
        let (columns, len) = (columns.opt(symbols) as f64, p.len.opt(symbols) as f64);
        let stream = match (tactic.get("walkers"), tactic.get("threads"), tactic.get("items")) {
            (Ok(threads), ..) => {
                let threads = f64::from(threads);
                if p.inner.opt(symbols) < 8 {
                    // Each access takes a sector of its own.
                    bytes *= 32.0 / p.dtype.size() as f64 / (p.inner.opt(symbols).max(1) as f64);
                }
                Stream { bytes, blocks: (columns / threads).ceil(), threads, steps: len, barriers: 0.0 }
            }
            (_, Ok(threads), Ok(items)) => {
                let turns = (len / f64::from(threads * items)).ceil();
                // Each turn waits for its own loads.
                let (steps, threads) = (4.0 * turns, f64::from(threads));
                Stream { bytes, blocks: columns, threads, steps, barriers: turns }
            }
            _ => return f64::INFINITY,
        };
        stream.cost(target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::CumSum(p) = problem else {
            return Err(format!("`{tactic}` is no {}", problem.name()));
        };
        let all = product([&p.outer, &p.len, &p.inner]);
        let columns = &p.outer * &p.inner;
        let kernel = Kernel::new(problem, tactic, p.dtype, &[all], symbols)
            .accumulator(p.dtype.class())
            .flag("EXCLUSIVE", u32::from(p.exclusive))
            .flag("REVERSE", u32::from(p.reverse))
            .size("OUTER", &p.outer)
            .size("LEN", &p.len)
            .size("INNER", &p.inner);
        let (kernel, threads, blocks) = if let Ok(threads) = tactic.get("walkers") {
            rows::check_threads(tactic, threads)?;
            (kernel.flag("STRIDED", 1), threads, columns.ceil_div(&Dim::from(i64::from(threads))))
        } else {
            let (threads, items) = (tactic.get("threads")?, tactic.get("items")?);
            rows::check_threads(tactic, threads)?;
            if !p.inner.is(1) || items == 0 || items > 32 {
                return Err(format!("`{tactic}` scans contiguous rows, up to 32 items for each thread"));
            }
            (kernel.flag("STRIDED", 0).constant("ITEMS", items), threads, columns)
        };
        let mut args = vec![Arg::Input(0), Arg::Output(0)];
        args.extend(codegen::symbol_args(problem));
        Ok(Build {
            kernels: vec![kernel.constant("THREADS", threads).finish(include_str!("../../cuda/cum_sum.cuh"))],
            launches: vec![rows::launch(0, blocks, threads, args)],
            workspace: Dim::from(0),
            packs: vec![None],
        })
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    let sample = |exclusive, reverse, dtype, shape: &str| {
        let s = rows::dims(shape);
        let [outer, len, inner] = [s[0].clone(), s[1].clone(), s[2].clone()];
        Problem::from(Shape { outer, len, inner, exclusive, reverse, dtype })
    };
    vec![
        sample(false, false, DType::F32, "batch 1000 1"),
        sample(true, false, DType::F32, "3 5000 1"),
        sample(false, true, DType::I64, "batch seq 1"),
        sample(true, true, DType::I32, "100 17 1"),
        sample(false, false, DType::F16, "7 300 1"),
        sample(true, true, DType::F64, "2 4097 1"),
        sample(false, false, DType::I32, "5 40 33"),
        sample(true, true, DType::BF16, "batch 19 64"),
    ]
}
