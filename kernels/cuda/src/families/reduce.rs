//! Reductions over any set of dimensions: along rows, along columns, either split over blocks, or in general.

use super::rows::{self, Columns, Kernel, Rows, Stream};
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Epilogue, Reduce as Shape, ReduceKind};
use bakelite_host::{Class, DType, Problem};

/// Sums, means, extrema and norms.
pub struct Reduce;

/// Threads of the kernel that merges parts.
const FINISH_THREADS: u32 = 128;

/// The dimensions after those of size 1 are dropped and neighbours alike are joined.
enum Form {
    /// `[outer, len]`, the second reduced.
    Rows(Dim, Dim),
    /// `[outer, len, inner]`, the middle reduced.
    Columns(Dim, Dim, Dim),
    /// Sizes and whether reduced, alternating.
    Mixed(Vec<(Dim, bool)>),
}

fn form(p: &Shape<Dim>) -> Form {
    let mut joined: Vec<(Dim, bool)> = Vec::new();
    for (size, reduced) in p.shape.iter().zip(&p.reduced).filter(|(size, _)| !size.is(1)) {
        match joined.last_mut() {
            Some((last, flag)) if flag == reduced => *last = &*last * size,
            _ => joined.push((size.clone(), *reduced)),
        }
    }
    let one = || Dim::from(1);
    match &joined[..] {
        [] => Form::Rows(one(), one()),
        [(kept, false)] => Form::Rows(kept.clone(), one()),
        [(len, true)] => Form::Rows(one(), len.clone()),
        [(outer, false), (len, true)] => Form::Rows(outer.clone(), len.clone()),
        [(len, true), (inner, false)] => Form::Columns(one(), len.clone(), inner.clone()),
        [(outer, false), (len, true), (inner, false)] => {
            Form::Columns(outer.clone(), len.clone(), inner.clone())
        }
        _ => Form::Mixed(joined),
    }
}

fn kept(p: &Shape<Dim>) -> Vec<Dim> {
    p.shape.iter().zip(&p.reduced).filter(|(_, r)| !**r).map(|(s, _)| s.clone()).collect()
}

fn count(p: &Shape<Dim>) -> Dim {
    product(p.shape.iter().zip(&p.reduced).filter(|(_, r)| **r).map(|(s, _)| s))
}

fn well_formed(p: &Shape<Dim>) -> bool {
    use ReduceKind::{All, Any, Max, Min, Prod};
    p.shape.len() == p.reduced.len()
        && (p.dtype.class() != Class::Bool || matches!(p.kind, Any | All | Max | Min | Prod))
}

fn kind_name(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "SUM",
        ReduceKind::Mean => "MEAN",
        ReduceKind::Max => "MAX",
        ReduceKind::Min => "MIN",
        ReduceKind::Prod => "PROD",
        ReduceKind::SumSquare => "SUM_SQUARE",
        ReduceKind::L1 => "L1",
        ReduceKind::L2 => "L2",
        ReduceKind::LogSum => "LOG_SUM",
        ReduceKind::LogSumExp => "LOG_SUM_EXP",
        ReduceKind::Any => "ANY",
        ReduceKind::All => "ALL",
    }
}

/// Bytes of one part of a result, `State` in the kernels.
fn state_size(p: &Shape<Dim>) -> usize {
    match (p.kind, p.dtype.class()) {
        (ReduceKind::LogSumExp, Class::F32) => 8,
        (ReduceKind::LogSumExp, _) => 16,
        (_, class) => class.dtype().size(),
    }
}

/// How many parts are worth trying where `blocks` leave the GPU idle and each has `steps` steps.
fn splits(blocks: i64, steps: f64, target: &Target) -> Vec<u32> {
    let idle = |splits: u32| blocks.saturating_mul(splits.into()) <= 4 * i64::from(target.multiprocessors);
    let splits = [4u32, 16, 64, 256].into_iter();
    splits.filter(|s| idle(*s) && steps >= 2.0 * f64::from(*s)).collect()
}

fn with_splits(params: &[(&'static str, u32)], splits: u32) -> Vec<(&'static str, u32)> {
    [params, &[("splits", splits)]].concat()
}

impl Family for Reduce {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Problem::Reduce(p) = problem else { return vec![] };
        if !well_formed(p) {
            return vec![];
        }
        let tactic = |params: &[(&str, u32)]| Tactic::new(self.name(), self.version(), params);
        let mut out = Vec::new();
        match form(p) {
            Form::Rows(outer, len) => {
                for r in Rows::propose(p.dtype, &len, false, symbols) {
                    out.push(tactic(&with_splits(&r.params(), 1)));
                    let steps = r.steps(&len, symbols);
                    for s in splits(r.blocks(&outer).opt(symbols), steps, target) {
                        if r.group >= 256 {
                            out.push(tactic(&with_splits(&r.params(), s)));
                        }
                    }
                }
            }
            Form::Columns(outer, len, inner) => {
                let columns = &outer * &inner;
                let width = rows::innermost(&kept(p));
                for c in Columns::propose(p.dtype, &len, &width, true, symbols) {
                    out.push(tactic(&with_splits(&c.params(), 1)));
                    let steps = c.steps(&len, symbols);
                    for s in splits(c.blocks(&columns).opt(symbols), steps, target) {
                        if c.depth > 1 {
                            out.push(tactic(&with_splits(&c.params(), s)));
                        }
                    }
                }
            }
            Form::Mixed(dims) => {
                let len = count(p).opt(symbols);
                let across = dims.last().is_some_and(|(_, reduced)| !reduced);
                for group in [1u32, 32, 256, 1024] {
                    // One thread for each result where neighbours are neighbours in memory.
                    if i64::from(group) < len.max(2) * 2 && (group > 1 || across || len < 32) {
                        out.push(tactic(&[("each", group)]));
                    }
                }
            }
        }
        out
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Reduce(p) = problem else { return f64::INFINITY };
        let results = product(&kept(p));
        let read = rows::bytes(&product(&p.shape), p.dtype, symbols);
        let written = rows::bytes(&results, p.epilogue.out(), symbols);
        let splits = tactic.get("splits").map_or(1.0, f64::from).max(1.0);
        let parts = results.opt(symbols) as f64 * splits * state_size(p) as f64;
        let (blocks, threads, steps) = match form(p) {
            Form::Rows(outer, len) => match Rows::of(tactic, p.dtype, &len, symbols) {
                Ok(r) => (r.blocks(&outer), r.threads(), r.steps(&len, symbols)),
                Err(_) => return f64::INFINITY,
            },
            Form::Columns(outer, len, inner) => {
                match Columns::of(tactic, p.dtype, &rows::innermost(&kept(p))) {
                    Ok(c) => (c.blocks(&(&outer * &inner)), c.columns * c.depth, c.steps(&len, symbols)),
                    Err(_) => return f64::INFINITY,
                }
            }
            Form::Mixed(_) => match tactic.get("each") {
                Ok(group) if group > 0 => {
                    let rows = Dim::from(i64::from((128 / group).max(1)));
                    let steps = (count(p).opt(symbols) as f64 / f64::from(group)).ceil();
                    // Divisions for each element.
                    (results.ceil_div(&rows), group.max(128), 1.5 * steps)
                }
                _ => return f64::INFINITY,
            },
        };
        let blocks = blocks.opt(symbols) as f64 * splits;
        let (threads, steps) = (f64::from(threads), steps / splits);
        if splits > 1.0 {
            let first = Stream { bytes: read, blocks, threads, steps, barriers: 1.0 };
            let threads = f64::from(FINISH_THREADS);
            let blocks = (results.opt(symbols) as f64 / threads).ceil();
            let last = Stream { bytes: parts + written, blocks, threads, steps: splits / 2.0, barriers: 0.0 };
            return first.cost(target) + last.cost(target);
        }
        Stream { bytes: read + written, blocks, threads, steps, barriers: 1.0 }.cost(target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Reduce(p) = problem else {
            return Err(format!("`{tactic}` is no {}", problem.name()));
        };
        if !well_formed(p) {
            return Err(format!("{:?} of {} over {} dimensions", p.kind, p.dtype, p.shape.len()));
        }
        let kept = kept(p);
        let results = product(&kept);
        let splits = tactic.get("splits").unwrap_or(1);
        if splits == 0 || splits > 4096 {
            return Err(format!("`{tactic}`: {splits} parts"));
        }
        let kernel = |finish: bool| {
            Kernel::new(problem, tactic, p.dtype, &[product(&p.shape), results.clone()], symbols)
                .flag("KIND", kind_name(p.kind))
                .flag("RUNNING_MAXIMUM", u32::from(p.kind == ReduceKind::LogSumExp))
                .flag("FINISH", u32::from(finish))
                .flag("SPLITS", splits)
                .size("RESULTS", &results)
                .size("COUNT", &count(p))
        };
        let mut args = rows::args(problem, 1, &p.epilogue);
        if splits > 1 {
            args = vec![Arg::Input(0), Arg::Workspace(Dim::from(0))];
            args.extend(codegen::symbol_args(problem));
        }
        let parts = Dim::from(i64::from(splits));
        let (kernel_text, first) = match form(p) {
            Form::Rows(outer, len) => {
                let r = Rows::of(tactic, p.dtype, &len, symbols)?;
                let text = r.define(kernel(false)).flag("ROWWISE", 1);
                let launch = rows::launch(0, r.blocks(&outer) * &parts, r.threads(), args);
                (text.size("OUTER", &outer).size("LEN", &len), launch)
            }
            Form::Columns(outer, len, inner) => {
                let c = Columns::of(tactic, p.dtype, &rows::innermost(&kept))?;
                let text = c.define(kernel(false)).flag("COLUMNWISE", 1);
                let launch = c.launch(0, c.blocks(&(&outer * &inner)) * &parts, args);
                (text.size("OUTER", &outer).size("LEN", &len).size("INNER", &inner), launch)
            }
            Form::Mixed(dims) => {
                let group = tactic.get("each")?;
                if !group.is_power_of_two() || group > 1024 || splits > 1 {
                    return Err(format!("`{tactic}`: {group} threads for each of the unsplit results"));
                }
                let (text, threads) = mixed(kernel(false), &dims, group);
                let per_block = Dim::from(i64::from(threads / group));
                (text.size("LEN", &count(p)), rows::launch(0, results.ceil_div(&per_block), threads, args))
            }
        };
        let body = include_str!("../../cuda/reduce.cuh");
        let finish = |text: Kernel| text.epilogue(&p.epilogue, &kept).finish(body);
        let mut build = Build {
            kernels: vec![finish(kernel_text)],
            launches: vec![first],
            workspace: Dim::from(0),
            packs: vec![None; 1 + p.epilogue.operands.len()],
        };
        if splits > 1 {
            build.kernels.push(finish(kernel(true).constant("THREADS", FINISH_THREADS)));
            let blocks = results.ceil_div(&Dim::from(i64::from(FINISH_THREADS)));
            let mut args = rows::args(problem, 1, &p.epilogue);
            args[0] = Arg::Workspace(Dim::from(0));
            build.launches.push(rows::launch(1, blocks, FINISH_THREADS, args));
            build.workspace = results * parts * Dim::from(state_size(p));
        }
        Ok(build)
    }
}

/// Constants of the general kernel, and its threads.
fn mixed(kernel: Kernel, dims: &[(Dim, bool)], group: u32) -> (Kernel, u32) {
    let sizes: Vec<Dim> = dims.iter().map(|(s, _)| s.clone()).collect();
    let strides = codegen::dense(&sizes);
    let of = |list: &[Dim], want: bool| -> Vec<Dim> {
        dims.iter().zip(list).filter(|((_, r), _)| *r == want).map(|(_, d)| d.clone()).collect()
    };
    let threads = group.max(128);
    let (kept, reduced) = (of(&sizes, false), of(&sizes, true));
    let kernel = kernel
        .constant("GROUP", group)
        .constant("ROWS", threads / group)
        .constant("KEPT", kept.len())
        .constant("REDUCED", reduced.len())
        .list("KEPT_SIZES", &kept)
        .list("KEPT_STRIDES", &of(&strides, false))
        .list("REDUCED_SIZES", &reduced)
        .list("REDUCED_STRIDES", &of(&strides, true));
    (kernel, threads)
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use ReduceKind::{All, Any, L1, L2, LogSum, LogSumExp, Max, Mean, Min, Prod, Sum, SumSquare};
    // `flags`: `r` for a reduced dimension.
    let sample = |kind, dtype, shape: &str, flags: &str, fused| {
        let reduced: Vec<bool> = flags.chars().map(|c| c == 'r').collect();
        let epilogue = Epilogue::store(dtype);
        let mut p = Shape { kind, shape: rows::dims(shape), reduced, dtype, epilogue };
        if fused {
            p.epilogue = rows::sample_epilogue(dtype, &kept(&p));
        }
        Problem::from(p)
    };
    vec![
        sample(Mean, DType::F16, "batch 197 768", "kkr", false),
        sample(Sum, DType::F32, "16 1000", "kr", true),
        sample(Sum, DType::F32, "3000 513", "rr", false),
        sample(Mean, DType::F16, "batch 49 1280", "krk", true),
        sample(Max, DType::BF16, "2 1 35 7 33", "krrkk", false),
        sample(Sum, DType::F16, "20000 64", "rk", false),
        sample(LogSumExp, DType::F32, "9 20000", "kr", false),
        sample(LogSumExp, DType::F64, "5 30 4", "krk", false),
        sample(L2, DType::F32, "4 5 6 7 8", "krkrk", true),
        sample(Mean, DType::F32, "8 16 100", "rkr", false),
        sample(SumSquare, DType::F64, "3 4 5", "rkr", false),
        sample(L1, DType::I32, "7 100", "kr", false),
        sample(Prod, DType::I64, "3 12 4", "krk", false),
        sample(Min, DType::I8, "batch 90", "kr", false),
        sample(LogSum, DType::F32, "batch seq", "kr", false),
        sample(Any, DType::Bool, "40 33", "kr", false),
        sample(All, DType::Bool, "40 3 8", "krk", false),
        sample(Sum, DType::F32, "6 1 5", "kkk", true),
    ]
}
