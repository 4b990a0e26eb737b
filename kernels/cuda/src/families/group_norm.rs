//! Group and instance normalisation: a block for each group, or several where groups are few and large.

use super::rows::{self, Kernel, Stream};
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Epilogue, GroupNorm as Shape, Layout};
use bakelite_host::{DType, Problem};

/// Normalisation of channel groups over positions.
pub struct GroupNorm;

fn well_formed(p: &Shape<Dim>) -> bool {
    p.dtype.is_float() && p.groups > 0 && p.channels > 0 && p.channels.is_multiple_of(p.groups)
}

/// The dimension along which elements of a group are neighbours and share what a vector must.
fn run(p: &Shape<Dim>) -> Dim {
    match p.layout {
        Layout::ChannelsFirst => p.spatial.clone(),
        Layout::ChannelsLast => Dim::from(p.channels / p.groups),
    }
}

fn group_len(p: &Shape<Dim>) -> Dim {
    &p.spatial * &Dim::from(p.channels / p.groups)
}

fn shape(p: &Shape<Dim>) -> [Dim; 3] {
    let channels = Dim::from(p.channels);
    match p.layout {
        Layout::ChannelsFirst => [p.n.clone(), channels, p.spatial.clone()],
        Layout::ChannelsLast => [p.n.clone(), p.spatial.clone(), channels],
    }
}

impl Family for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn version(&self) -> u32 {
        2
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Problem::GroupNorm(p) = problem else { return vec![] };
        if !well_formed(p) {
            return vec![];
        }
        let v = rows::vector(p.dtype, &run(p));
        let len = group_len(p);
        let vectors = |d: i64| (d.max(1) + i64::from(v) - 1) / i64::from(v);
        let (most, usual) = (vectors(len.upper(symbols)), vectors(len.opt(symbols)));
        let registers = if p.dtype.size() == 8 { 16 } else { 32 } / i64::from(v);
        let tactic = |threads, chunks: i64, splits| {
            let params = [("threads", threads), ("chunks", chunks as u32), ("splits", splits), ("v", v)];
            Tactic::new(self.name(), self.version(), &params)
        };
        let mut out = Vec::new();
        for threads in [64, 128, 256, 512, 1024] {
            let chunks = (most + i64::from(threads) - 1) / i64::from(threads);
            if threads == 64 || usual > i64::from(threads) / 2 {
                if chunks <= registers {
                    out.push(tactic(threads, chunks, 1));
                } else if threads >= 256 {
                    out.push(tactic(threads, 0, 1));
                }
            }
        }
        if out.is_empty() {
            out.push(tactic(256, 0, 1));
        }
        let groups = (p.n.opt(symbols) * p.groups as i64).max(1);
        for splits in [4, 8, 16, 32] {
            let blocks = groups * i64::from(splits);
            if usual >= i64::from(splits) * 256 && blocks <= 8 * i64::from(target.multiprocessors) {
                out.push(tactic(256, 0, splits));
            }
        }
        out
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::GroupNorm(p) = problem else { return f64::INFINITY };
        let [threads, chunks, splits, v] =
            ["threads", "chunks", "splits", "v"].map(|n| tactic.get(n).map_or(f64::INFINITY, f64::from));
        if !splits.is_finite() || p.groups == 0 {
            return f64::INFINITY;
        }
        let all = product(&shape(p));
        let (read, written) =
            (rows::bytes(&all, p.dtype, symbols), rows::bytes(&all, p.epilogue.out(), symbols));
        // Channels last, a position's part of a group may fill only part of a 32-byte sector.
        let scatter = match p.layout {
            Layout::ChannelsLast => {
                (32.0 / ((p.channels / p.groups * p.dtype.size()) as f64)).clamp(1.0, 8.0)
            }
            Layout::ChannelsFirst => 1.0,
        };
        let blocks = p.n.opt(symbols) as f64 * p.groups as f64 * splits;
        let steps = (group_len(p).opt(symbols) as f64 / (threads * v * splits)).ceil();
        let sweep = |bytes, times, barriers| {
            Stream { bytes, blocks, threads, steps: steps * times * scatter, barriers }.cost(target)
        };
        if splits > 1.0 {
            sweep(read, 2.0, 4.0) + sweep(read + written, 1.0, 1.0)
        } else {
            sweep(read + written, if chunks > 0.0 { 1.5 } else { 3.0 }, 4.0)
        }
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::GroupNorm(p) = problem else {
            return Err(format!("`{tactic}` is no {}", problem.name()));
        };
        if !well_formed(p) {
            return Err(format!("{} channels of {} in {} groups", p.channels, p.dtype, p.groups));
        }
        let (threads, chunks) = (tactic.get("threads")?, tactic.get("chunks")?);
        let (splits, v) = (tactic.get("splits")?, tactic.get("v")?);
        rows::check_threads(tactic, threads)?;
        rows::check_vector(tactic, v, p.dtype, &run(p))?;
        let held = i64::from(threads) * i64::from(chunks) * i64::from(v);
        let most = group_len(p).upper(symbols);
        if !threads.is_power_of_two()
            || !(1..=32).contains(&splits)
            || (chunks > 0 && (splits > 1 || held < most || chunks * v > 64))
        {
            return Err(format!("`{tactic}` does not fit groups of {most} elements"));
        }
        let shape = shape(p);
        let groups = &p.n * &Dim::from(p.groups);
        let blocks = &groups * &Dim::from(i64::from(splits));
        let kernel = |statistics: bool| {
            let kernel = Kernel::new(problem, tactic, p.dtype, &[product(&shape)], symbols)
                .flag("STATISTICS", u32::from(statistics))
                .constant("THREADS", threads)
                .flag("SPLITS", splits)
                .constant("CHUNKS", chunks.max(1))
                .flag("RESIDENT", u32::from(chunks > 0))
                .constant("V", v)
                .constant("CHANNELS", p.channels)
                .constant("GROUPS", p.groups)
                .flag("CHANNELS_LAST", u32::from(p.layout == Layout::ChannelsLast))
                .number("EPSILON", p.epsilon)
                .size("SPATIAL", &p.spatial);
            let kernel = if statistics {
                kernel.accumulator(p.dtype.class())
            } else {
                kernel.epilogue(&p.epilogue, &shape)
            };
            kernel.finish(include_str!("../../cuda/group_norm.cuh"))
        };
        let packs = vec![None; 3 + p.epilogue.operands.len()];
        if splits == 1 {
            let launches = vec![rows::launch(0, blocks, threads, rows::args(problem, 3, &p.epilogue))];
            return Ok(Build { kernels: vec![kernel(false)], launches, workspace: Dim::from(0), packs });
        }
        let parts = Arg::Workspace(Dim::from(0));
        let mut measure = vec![Arg::Input(0), parts.clone()];
        measure.extend(codegen::symbol_args(problem));
        let mut apply = rows::args(problem, 3, &p.epilogue);
        apply.insert(3, parts);
        Ok(Build {
            kernels: vec![kernel(true), kernel(false)],
            launches: vec![
                rows::launch(0, blocks.clone(), threads, measure),
                rows::launch(1, blocks.clone(), threads, apply),
            ],
            workspace: blocks * Dim::from(3 * p.dtype.class().dtype().size()),
            packs,
        })
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    use Layout::{ChannelsFirst, ChannelsLast};
    let sample = |dtype, sizes: &str, channels: usize, groups, layout, fused| {
        let sizes = rows::dims(sizes);
        let (n, spatial) = (sizes[0].clone(), sizes[1].clone());
        let epilogue = Epilogue::store(dtype);
        let mut p = Shape { n, channels, groups, spatial, epsilon: 1e-5, layout, dtype, epilogue };
        if fused {
            p.epilogue = rows::sample_epilogue(dtype, &shape(&p));
        }
        Problem::from(p)
    };
    vec![
        sample(DType::F32, "batch 64", 64, 32, ChannelsFirst, false),
        sample(DType::F16, "1 4096", 320, 32, ChannelsFirst, true),
        sample(DType::F16, "2 4096", 320, 32, ChannelsLast, false),
        sample(DType::F16, "batch 256", 64, 4, ChannelsLast, true),
        sample(DType::BF16, "3 49", 24, 24, ChannelsFirst, false),
        sample(DType::F32, "2 1000", 6, 6, ChannelsLast, false),
        sample(DType::F64, "2 35", 12, 3, ChannelsFirst, false),
        sample(DType::F32, "1 16384", 8, 1, ChannelsFirst, false),
        sample(DType::F32, "1 5*seq", 16, 2, ChannelsFirst, true),
    ]
}
