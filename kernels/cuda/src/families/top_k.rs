//! The k largest or smallest: short rows sorted whole, longer ones by radix selection, anything one by one.

use super::rows::{self, Kernel, Stream};
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::TopK as Shape;
use bakelite_host::{DType, Problem};

/// TopK along any axis.
pub struct TopK;

/// Bytes of an item in shared memory: the key and the index.
fn item_size(dtype: DType) -> i64 {
    if dtype.size() == 8 { 16 } else { 8 }
}

/// Items to sort for `count` of them, if they fit in 40 KB of shared memory.
fn sort_size(dtype: DType, count: i64) -> Option<u32> {
    let size = u64::try_from(count.max(2)).ok()?.checked_next_power_of_two()?;
    let size = u32::try_from(size).ok()?;
    (i64::from(size) * item_size(dtype) <= 40 * 1024).then_some(size)
}

fn sorting_steps(size: f64, threads: f64) -> f64 {
    let stages = size.log2() * (size.log2() + 1.0) / 2.0;
    stages * (size / 2.0 / threads).ceil()
}

impl Family for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, _: &Target) -> Vec<Tactic> {
        let Problem::TopK(p) = problem else { return vec![] };
        let tactic = |how: &str, threads: u32| {
            Tactic::new(self.name(), self.version(), &[(how, 1), ("threads", threads)])
        };
        let mut out = Vec::new();
        if let Some(size) = sort_size(p.dtype, p.len.upper(symbols)) {
            let most = (size / 2).clamp(32, 1024);
            out.extend([most / 4, most].into_iter().filter(|t| *t >= 32).map(|t| tactic("sort", t)));
        }
        if sort_size(p.dtype, p.k.upper(symbols)).is_some() && p.len.opt(symbols) > 64 {
            let threads =
                [256, 512, 1024].into_iter().filter(|t| *t == 256 || i64::from(*t) <= p.len.opt(symbols));
            out.extend(threads.map(|t| tactic("radix", t)));
        }
        let threads = if p.len.opt(symbols) > 8192 { 1024 } else { 128 };
        out.push(tactic("select", threads));
        out
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let (Problem::TopK(p), Ok(threads)) = (problem, tactic.get("threads")) else { return f64::INFINITY };
        let rows = &p.outer * &p.inner;
        let (len, k, threads) = (p.len.opt(symbols) as f64, p.k.opt(symbols) as f64, f64::from(threads));
        let sweep = (len / threads).ceil();
        // In units of four overlapping loads; a stage of the sort is a barrier and a round trip to shared memory.
        let (steps, barriers) = if tactic.get("sort").is_ok() {
            let size = sort_size(p.dtype, p.len.upper(symbols)).map_or(f64::INFINITY, f64::from);
            (sweep, 0.6 * sorting_steps(size, threads))
        } else if tactic.get("radix").is_ok() {
            let size = sort_size(p.dtype, p.k.upper(symbols)).map_or(f64::INFINITY, f64::from);
            let digits = if p.dtype.size() == 8 { 8.0 } else { 4.0 };
            ((digits + 1.0) * sweep, 5.0 * digits + 0.6 * sorting_steps(size, threads))
        } else {
            (k * sweep.max(4.0), 2.0 * k)
        };
        let bytes = rows::bytes(&(&rows * &p.len), p.dtype, symbols);
        Stream { bytes, blocks: rows.opt(symbols) as f64, threads, steps, barriers }.cost(target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::TopK(p) = problem else { return Err(format!("`{tactic}` is no {}", problem.name())) };
        let threads = tactic.get("threads")?;
        rows::check_threads(tactic, threads)?;
        let has = |how: &str| tactic.get(how).is_ok();
        let counted = if has("sort") { Some(&p.len) } else { has("radix").then_some(&p.k) };
        let size = match counted {
            None if has("select") && threads.is_power_of_two() => 1,
            None => {
                return Err(format!("`{tactic}` neither sorts, nor selects with a power of two of threads"));
            }
            Some(count) => {
                let most = count.upper(symbols);
                sort_size(p.dtype, most)
                    .ok_or(format!("`{tactic}` cannot sort {most} items of {}", p.dtype))?
            }
        };
        let all = product([&p.outer, &p.len, &p.inner]);
        let kernel = Kernel::new(problem, tactic, p.dtype, &[all], symbols)
            .accumulator(p.dtype.class())
            .constant("THREADS", threads)
            .flag("SORT", u32::from(has("sort")))
            .flag("RADIX", u32::from(!has("sort") && has("radix")))
            .constant("SIZE", size)
            .flag("LARGEST", u32::from(p.largest))
            .flag("WIDE_KEY", u32::from(p.dtype.size() == 8))
            .size("OUTER", &p.outer)
            .size("LEN", &p.len)
            .size("INNER", &p.inner)
            .size("K", &p.k);
        let mut args = vec![Arg::Input(0), Arg::Output(0), Arg::Output(1)];
        args.extend(codegen::symbol_args(problem));
        Ok(Build {
            kernels: vec![kernel.finish(include_str!("../../cuda/top_k.cuh"))],
            launches: vec![rows::launch(0, &p.outer * &p.inner, threads, args)],
            workspace: Dim::from(0),
            packs: vec![None],
        })
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    let sample = |largest, dtype, shape: &str| {
        let s = rows::dims(shape);
        let [outer, len, inner, k] = [s[0].clone(), s[1].clone(), s[2].clone(), s[3].clone()];
        Problem::from(Shape { outer, len, inner, k, largest, dtype })
    };
    vec![
        sample(true, DType::F32, "batch 1000 1 5"),
        sample(false, DType::F16, "3 777 1 777"),
        sample(true, DType::BF16, "100 8 1 2"),
        sample(true, DType::I32, "4 300 1 17"),
        sample(false, DType::I64, "2 3000 1 100"),
        sample(true, DType::F32, "2 50257 1 50"),
        sample(false, DType::U8, "3 20000 1 1000"),
        sample(true, DType::F64, "3 5000 1 40"),
        sample(true, DType::I8, "3 60 7 9"),
        sample(true, DType::F16, "batch seq 1 3"),
        sample(false, DType::F32, "1 9000 1 6000"),
    ]
}
