//! Pooling: windows of any shape, and its own layouts of threads where the window is the whole image.

use super::rows::{self, Columns, Kernel, Rows, Stream};
use crate::dim::{Dim, Symbols, product};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Epilogue, Layout, Pool as Shape, PoolKind};
use bakelite_host::{Class, DType, Problem};

/// Max, average and Lp pooling.
pub struct Pool;

fn well_formed(p: &Shape<Dim>) -> bool {
    let rank = p.input.len();
    let lists = [p.strides.len(), p.dilations.len(), p.pads.len(), p.pads_end.len()];
    let sizes = [p.output.len(), p.kernel.len()];
    let known = match p.kind {
        PoolKind::Lp(power) => p.dtype.is_float() && (1..=64).contains(&power),
        _ => p.dtype.class() != Class::Bool,
    };
    known
        && rank > 0
        && lists.iter().chain(&sizes).all(|len| *len == rank)
        && p.strides.iter().chain(&p.dilations).all(|s| *s > 0)
        && [&p.strides, &p.dilations, &p.pads, &p.pads_end]
            .iter()
            .all(|list| list.iter().all(|v| *v < 1 << 24))
}

/// Whether each window is the whole image.
fn is_global(p: &Shape<Dim>) -> bool {
    p.kernel == p.input
        && p.output.iter().all(|d| d.is(1))
        && p.dilations.iter().all(|d| *d == 1)
        && p.pads.iter().chain(&p.pads_end).all(|d| *d == 0)
}

fn shape(p: &Shape<Dim>) -> Vec<Dim> {
    let (n, c) = (std::iter::once(&p.n), std::iter::once(&p.channels));
    match p.layout {
        Layout::ChannelsFirst => n.chain(c).chain(&p.output).cloned().collect(),
        Layout::ChannelsLast => n.chain(&p.output).chain(c).cloned().collect(),
    }
}

fn last(p: &Shape<Dim>) -> bool {
    p.layout == Layout::ChannelsLast
}

/// How far a window loop is unrolled: wholly, where the window is small and known.
fn unroll(p: &Shape<Dim>) -> i64 {
    let sizes: Option<Vec<i64>> = p.kernel.iter().map(Dim::as_const).collect();
    match sizes {
        Some(sizes) if sizes.iter().product::<i64>() <= 32 => sizes.into_iter().max().unwrap_or(1).max(1),
        _ => 1,
    }
}

impl Family for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, _: &Target) -> Vec<Tactic> {
        let Problem::Pool(p) = problem else { return vec![] };
        if !well_formed(p) {
            return vec![];
        }
        let tactic = |params: &[(&str, u32)]| Tactic::new(self.name(), self.version(), params);
        let len = product(&p.input);
        if is_global(p) && last(p) {
            let columns = Columns::propose(p.dtype, &len, &p.channels, true, symbols);
            return columns.into_iter().map(|c| tactic(&c.params())).collect();
        }
        if is_global(p) {
            let rows = Rows::propose(p.dtype, &len, false, symbols);
            return rows.into_iter().map(|r| tactic(&r.params())).collect();
        }
        let most = if last(p) { rows::vector(p.dtype, &p.channels) } else { 1 };
        let widths = [8, 4, 2, 1].into_iter().filter(|v| *v <= most && *v * 4 >= most);
        widths.flat_map(|v| [64, 128, 256].map(|threads| tactic(&[("threads", threads), ("v", v)]))).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::Pool(p) = problem else { return f64::INFINITY };
        let channels = &p.n * &p.channels;
        let (len, results) = (product(&p.input), &channels * &product(&p.output));
        let bytes = rows::bytes(&(&channels * &len), p.dtype, symbols)
            + rows::bytes(&results, p.epilogue.out(), symbols);
        let (blocks, threads, steps) = if let Ok(c) = Columns::of(tactic, p.dtype, &p.channels) {
            (c.blocks(&channels).opt(symbols), c.columns * c.depth, c.steps(&len, symbols))
        } else if let Ok(r) = Rows::of(tactic, p.dtype, &len, symbols) {
            (r.blocks(&channels).opt(symbols), r.threads(), r.steps(&len, symbols))
        } else if let (Ok(threads @ 1..), Ok(v @ 1..)) = (tactic.get("threads"), tactic.get("v")) {
            let window = product(&p.kernel).opt(symbols) as f64;
            let each = i64::from(threads) * i64::from(v);
            let overlap = if unroll(p) > 1 { 1.0 } else { 4.0 };
            ((results.opt(symbols) + each - 1) / each, threads, window * overlap)
        } else {
            return f64::INFINITY;
        };
        let threads = f64::from(threads);
        Stream { bytes, blocks: blocks as f64, threads, steps, barriers: 0.0 }.cost(target)
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::Pool(p) = problem else { return Err(format!("`{tactic}` is no {}", problem.name())) };
        if !well_formed(p) {
            return Err(format!("{:?} pooling of {} over {} dimensions", p.kind, p.dtype, p.input.len()));
        }
        let channels = &p.n * &p.channels;
        let len = product(&p.input);
        let results = &channels * &product(&p.output);
        let (kind, power, count_pads) = match p.kind {
            PoolKind::Max => ("MAX", 1, false),
            PoolKind::Average { count_pads } => ("AVERAGE", 1, count_pads),
            PoolKind::Lp(power) => ("LP", power, false),
        };
        let kernel = Kernel::new(problem, tactic, p.dtype, &[&channels * &len, results.clone()], symbols)
            .flag("KIND", kind)
            .constant("POWER", power)
            .flag("COUNT_PADS", u32::from(count_pads))
            .flag("FLOATING", u32::from(p.dtype.is_float()))
            .flag("CHANNELS_LAST", u32::from(last(p)))
            .size("N", &p.n)
            .size("CHANNELS", &p.channels);
        let args = rows::args(problem, 1, &p.epilogue);
        let (kernel, launch) = if tactic.get("columns").is_ok() && is_global(p) && last(p) {
            let c = Columns::of(tactic, p.dtype, &p.channels)?;
            (c.define(kernel.flag("GLOBAL", 1)).size("LEN", &len), c.launch(0, c.blocks(&channels), args))
        } else if tactic.get("group").is_ok() && is_global(p) && !last(p) {
            let r = Rows::of(tactic, p.dtype, &len, symbols)?;
            let launch = rows::launch(0, r.blocks(&channels), r.threads(), args);
            (r.define(kernel.flag("GLOBAL", 1)).size("LEN", &len), launch)
        } else {
            let (threads, v) = (tactic.get("threads")?, tactic.get("v")?);
            rows::check_threads(tactic, threads)?;
            let width = if last(p) { p.channels.clone() } else { Dim::from(1) };
            rows::check_vector(tactic, v, p.dtype, &width)?;
            let blocks = results.ceil_div(&Dim::from(i64::from(threads * v)));
            (
                window(kernel, p).constant("THREADS", threads).constant("V", v),
                rows::launch(0, blocks, threads, args),
            )
        };
        let kernel = kernel.epilogue(&p.epilogue, &shape(p));
        Ok(Build {
            kernels: vec![kernel.finish(include_str!("../../cuda/pool.cuh"))],
            launches: vec![launch],
            workspace: Dim::from(0),
            packs: vec![None; 1 + p.epilogue.operands.len()],
        })
    }
}

/// Constants of the general kernel.
fn window(kernel: Kernel, p: &Shape<Dim>) -> Kernel {
    let numbers = |list: &[usize]| -> Vec<Dim> { list.iter().map(|v| Dim::from(*v)).collect() };
    kernel
        .flag("GLOBAL", 0)
        .constant("RANK", p.input.len())
        .constant("UNROLL", unroll(p))
        .list("INPUT_SIZES", &p.input)
        .list("OUTPUT_SIZES", &p.output)
        .list("WINDOW_SIZES", &p.kernel)
        .list("STRIDES", &numbers(&p.strides))
        .list("DILATIONS", &numbers(&p.dilations))
        .list("PADS", &numbers(&p.pads))
        .list("PADS_END", &numbers(&p.pads_end))
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use Layout::{ChannelsFirst, ChannelsLast};
    struct Window<'a>(&'a str, &'a str, &'a str, &'a [usize], &'a [usize], &'a [usize]);
    // `sizes`: images and channels; the window: input, output, kernel, strides, dilations, pads on both sides.
    let sample = |kind, dtype, layout, sizes: &str, w: Window<'_>, fused| {
        let sizes = rows::dims(sizes);
        let mut p = Shape {
            kind,
            n: sizes[0].clone(),
            channels: sizes[1].clone(),
            input: rows::dims(w.0),
            output: rows::dims(w.1),
            kernel: rows::dims(w.2),
            strides: w.3.to_vec(),
            dilations: w.4.to_vec(),
            pads: w.5.to_vec(),
            pads_end: w.5.to_vec(),
            layout,
            dtype,
            epilogue: Epilogue::store(dtype),
        };
        if fused {
            p.epilogue = rows::sample_epilogue(dtype, &shape(&p));
        }
        Problem::from(p)
    };
    let average = |count_pads| PoolKind::Average { count_pads };
    let three = || Window("56 56", "28 28", "3 3", &[2, 2], &[1, 1], &[1, 1]);
    let uneven = || Window("13 10", "6 5", "4 3", &[2, 2], &[1, 2], &[1, 2]);
    let global = || Window("7 7", "1 1", "7 7", &[1, 1], &[1, 1], &[0, 0]);
    let dynamic = || Window("seq seq+3", "1 1", "seq seq+3", &[1, 1], &[1, 1], &[0, 0]);
    vec![
        sample(PoolKind::Max, DType::F16, ChannelsLast, "batch 64", three(), false),
        sample(PoolKind::Max, DType::F32, ChannelsFirst, "2 24", three(), true),
        sample(average(false), DType::F32, ChannelsFirst, "batch 5", uneven(), false),
        sample(average(true), DType::F16, ChannelsLast, "3 20", uneven(), true),
        sample(PoolKind::Lp(3), DType::BF16, ChannelsLast, "2 7", uneven(), false),
        sample(PoolKind::Max, DType::I8, ChannelsFirst, "2 6", uneven(), false),
        sample(
            average(true),
            DType::F64,
            ChannelsFirst,
            "2 3",
            // The last window reaches past the padding, as with ceil_mode.
            Window("9 8 7", "4 4 4", "3 3 2", &[3, 2, 2], &[1, 1, 1], &[1, 0, 0]),
            false,
        ),
        sample(
            PoolKind::Max,
            DType::F32,
            ChannelsLast,
            "1 16",
            Window("40", "21", "20", &[1], &[1], &[0]),
            false,
        ),
        sample(average(false), DType::F16, ChannelsLast, "batch 1280", global(), false),
        sample(average(false), DType::F32, ChannelsFirst, "batch 512", global(), true),
        sample(PoolKind::Max, DType::F16, ChannelsFirst, "2 40", dynamic(), false),
        sample(average(false), DType::F16, ChannelsLast, "2 40", dynamic(), true),
        sample(PoolKind::Lp(2), DType::F64, ChannelsLast, "2 6", global(), false),
    ]
}
