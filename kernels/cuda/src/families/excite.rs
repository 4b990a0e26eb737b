//! `excite`: the mean over an image's pixels and two matrix products of it, by one cluster of blocks for each image.

use super::rows::{self, check_threads};
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family, Launch, Limit, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Access, Epilogue, Excite as Shape};
use bakelite_host::{DType, Instr, Problem, Program, Pw};

const STEPS: &str = include_str!("../../cuda/excite_steps.cuh");
const KERNEL: &str = include_str!("../../cuda/excite.cuh");

/// The family.
#[derive(Debug)]
pub struct Excite;

/// What a tactic says: how many blocks share an image's channels and its pixels, and the threads of each.
#[derive(Clone, Copy, Debug)]
struct Split {
    slices: u32,
    parts: u32,
    threads: u32,
}

impl Split {
    fn of(tactic: &Tactic) -> Result<Split, String> {
        let get = |name| tactic.get(name);
        Ok(Split { slices: get("slices")?, parts: get("parts")?, threads: get("threads")? })
    }

    fn tactic(&self) -> Tactic {
        let params = [("slices", self.slices), ("parts", self.parts), ("threads", self.threads)];
        Tactic::new(Excite.name(), Excite.version(), &params)
    }

    const fn blocks(&self) -> u32 {
        self.slices * self.parts
    }

    /// Channels and filters of a block, padded to eights.
    const fn pitches(&self, p: &Shape<Dim>) -> [usize; 2] {
        let slice = p.channels.div_ceil(self.slices as usize);
        let own = p.filters.div_ceil(self.blocks() as usize);
        [slice.next_multiple_of(8), own.next_multiple_of(8)]
    }

    /// Elements of a load.
    fn vector(&self, p: &Shape<Dim>) -> u32 {
        let slice = Dim::from(p.channels / self.slices as usize);
        codegen::power_of_two([&slice], 16 / p.dtype.size() as u32)
    }

    /// Bytes of a block's sums.
    fn sums(&self, p: &Shape<Dim>) -> usize {
        let [slice, _] = self.pitches(p);
        let summed = (self.threads * (self.vector(p) + 1)) as usize;
        let floats = summed + slice + (self.blocks() as usize).saturating_mul(p.hidden);
        floats.saturating_mul(4).saturating_add(p.hidden * p.dtype.size())
    }

    /// Bytes of a block's weights in its shared memory: none where they do not fit.
    fn staged(&self, p: &Shape<Dim>, target: &Target) -> usize {
        let [slice, own] = self.pitches(p);
        let bytes = p.hidden.saturating_mul((slice + own) * p.dtype.size());
        if bytes.saturating_add(self.sums(p)) <= target.shared_per_block as usize { bytes } else { 0 }
    }

    fn check(&self, p: &Shape<Dim>, target: &Target) -> Result<(), String> {
        let tactic = self.tactic();
        let most = if target.arch.sm >= 90 { 16 } else { 1 };
        if self.slices == 0 || self.parts == 0 || self.slices > 16 || self.parts > 16 || self.blocks() > most
        {
            return Err(format!("`{tactic}`: a cluster is of 1 to {most} blocks"));
        }
        check_threads(&tactic, self.threads)?;
        // More would leave a thread too few registers for its loads.
        if self.threads > 512 {
            return Err(format!("`{tactic}`: more than 512 threads"));
        }
        if !p.channels.is_multiple_of(self.slices as usize) {
            return Err(format!("`{tactic}` does not divide {} channels", p.channels));
        }
        if self.sums(p) > target.shared_per_block as usize {
            return Err(format!("`{tactic}`: {} bytes of sums do not fit shared memory", self.sums(p)));
        }
        Ok(())
    }

    fn cost(&self, p: &Shape<Dim>, symbols: &Symbols, target: &Target) -> f64 {
        const CYCLES_PER_US: f64 = 1700.0;
        let [slice, own] = self.pitches(p).map(|n| n as f64);
        let (threads, hidden) = (f64::from(self.threads), p.hidden as f64);
        let staged = self.staged(p, target) as f64;
        let size = p.dtype.size() as f64;
        let n = p.n.opt(symbols).max(1) as f64;
        let pixels = p.pixels.opt(symbols).max(1) as f64 / f64::from(self.parts);
        let lanes = (slice / f64::from(self.vector(p))).min(threads);
        let ahead = if f64::from(self.vector(p)) * size > 8.0 { 12.0 } else { 16.0 };
        // Rows of fewer bytes than a sector waste the rest of it.
        let bytes = pixels * (slice * size).max(32.0);
        let load = (pixels / (threads / lanes).floor() / ahead).ceil().max(1.0) * 800.0;
        let load = load.max(bytes / 50.0);
        let rows = 200.0 + (threads / lanes).sqrt() * 20.0;
        let squeeze = (hidden / (threads / 8.0)).ceil() * ((slice / 256.0).ceil() * 120.0 + 200.0);
        let meet = if self.blocks() > 8 {
            900.0
        } else if self.blocks() > 1 {
            500.0
        } else {
            40.0
        };
        let excite = (own / threads).ceil() * (hidden / (threads / own).max(1.0).floor() * 8.0 + 200.0);
        let late = if staged > 0.0 { 0.0 } else { hidden * (slice + own) * size / 40.0 + 800.0 };
        let shared = staged + self.sums(p) as f64 + 1024.0;
        let resident =
            (f64::from(target.shared_per_multiprocessor) / shared).min(2048.0 / threads).floor().max(1.0);
        let blocks = n * f64::from(self.blocks());
        let sms = f64::from(target.multiprocessors);
        let waves = (blocks / (sms * resident)).ceil();
        let memory = rows::bytes(&(&p.n * &p.pixels * Dim::from(p.channels)), p.dtype, symbols)
            / (target.bandwidth * 1e3);
        let crowded = (blocks / sms / waves).ceil().max(1.0).sqrt();
        let own = waves * (load * crowded + rows + squeeze + meet + excite + late) / CYCLES_PER_US;
        LAUNCH + own.max(memory)
    }
}

fn shape(problem: &Problem<Dim>) -> Result<&Shape<Dim>, String> {
    let Problem::Excite(p) = problem else {
        return Err(format!("excite does not implement {}", problem.name()));
    };
    if !matches!(p.dtype, DType::F16 | DType::BF16 | DType::F32) || p.first.out() != p.dtype {
        return Err(format!("excite takes f16, bf16 and f32, not {} and {}", p.dtype, p.first.out()));
    }
    if p.channels == 0 || p.hidden == 0 || p.filters == 0 || p.first.place.is_some() {
        return Err(format!("{} channels, {} hidden, {} filters", p.channels, p.hidden, p.filters));
    }
    Ok(p)
}

impl Family for Excite {
    fn name(&self) -> &'static str {
        "excite"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<Tactic> {
        let Ok(p) = shape(problem) else { return vec![] };
        let mut ranked: Vec<(f64, Split)> = [1, 2, 4, 8, 16]
            .into_iter()
            .flat_map(|slices| [1, 2, 4, 8, 16].map(|parts| (slices, parts)))
            .flat_map(|(slices, parts)| [128, 256, 512].map(|threads| Split { slices, parts, threads }))
            .filter(|split| split.check(p, target).is_ok())
            .map(|split| (split.cost(p, symbols, target), split))
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.iter().take(16).map(|(_, split)| split.tactic()).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        match (shape(problem), Split::of(tactic)) {
            (Ok(p), Ok(split)) if split.check(p, target).is_ok() => split.cost(p, symbols, target),
            _ => f64::INFINITY,
        }
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        target: &Target,
    ) -> Result<Build, String> {
        let p = shape(problem)?;
        let split = Split::of(tactic)?;
        split.check(p, target)?;
        let staged = split.staged(p, target);
        let number = |n: usize| u32::try_from(n).map_err(|_| format!("a size of {n}"));
        let constants = codegen::constants(&[
            ("CHANNELS", number(p.channels)?),
            ("HIDDEN", number(p.hidden)?),
            ("FILTERS", number(p.filters)?),
            ("SLICES", split.slices),
            ("PARTS", split.parts),
            ("THREADS", split.threads),
            ("V", split.vector(p)),
            ("STAGED", u32::from(staged > 0)),
        ]);
        let sizes = format!(
            "typedef {} element_t;\n{}{}",
            codegen::ctype(p.dtype),
            codegen::size("PIXELS", &p.pixels),
            codegen::symbol_params(problem)
        );
        let hidden = [p.n.clone(), Dim::from(p.hidden)];
        let filters = [p.n.clone(), Dim::from(p.filters)];
        let all = product([&p.n, &p.pixels, &Dim::from(p.channels)]);
        let title = format!(
            "excite: {} x {} pixels of {} channels -> {} -> {} filters, {} ({tactic})",
            p.n, p.pixels, p.channels, p.hidden, p.filters, p.dtype
        );
        let kernel = codegen::source(
            &title,
            codegen::is_wide([&all], symbols),
            &[
                &constants,
                &sizes,
                &codegen::between(&p.first, &hidden),
                &codegen::epilogue_in_two_steps(&p.epilogue, &filters),
                STEPS,
                KERNEL,
            ],
        );
        let [slice, own] = split.pitches(p);
        let (slices, blocks) = (split.slices as usize, split.blocks() as usize);
        let (channels, filters) = (p.channels / slices, p.filters.div_ceil(blocks));
        let w1 = Pack {
            shape: vec![slices, p.hidden, slice],
            strides: vec![channels, p.channels, 1],
            limits: vec![Limit { terms: vec![(2, 1)], below: channels }],
            ..Pack::default()
        };
        let w2 = Pack {
            shape: vec![blocks, p.hidden, own],
            strides: vec![filters * p.hidden, 1, p.hidden],
            limits: vec![
                Limit { terms: vec![(2, 1)], below: filters },
                Limit { terms: vec![(0, filters), (2, 1)], below: p.filters },
            ],
            ..Pack::default()
        };
        let own_inputs = problem.own_inputs();
        let extra = own_inputs - 3 + p.epilogue.operands.len();
        let args = (0..own_inputs).map(Arg::Input);
        let args =
            args.chain(codegen::epilogue_args(&p.epilogue, own_inputs)).chain(codegen::symbol_args(problem));
        Ok(Build {
            kernels: vec![kernel],
            launches: vec![Launch {
                kernel: 0,
                grid: [&p.n * &Dim::from(blocks), Dim::from(1), Dim::from(1)],
                block: [split.threads, 1, 1],
                shared: number(staged + split.sums(p))?,
                cluster: (blocks > 1).then_some([split.blocks(), 1, 1]),
                programmatic: true,
                args: args.collect(),
            }],
            workspace: Dim::from(0),
            packs: [None, Some(w1), Some(w2)].into_iter().chain(std::iter::repeat_n(None, extra)).collect(),
        })
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    // Plus a bias, then a gate or its product with the sum.
    let end = |dtype: DType, silu: bool| {
        let mut program = Program { inputs: vec![dtype.class().dtype(), dtype], ..Program::default() };
        let sum = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
        let mut out = program.push(Instr::Apply(Pw::Sigmoid, vec![sum]));
        if silu {
            out = program.push(Instr::Apply(Pw::Mul, vec![sum, out]));
        }
        program.outputs = vec![(out, dtype)];
        Epilogue::new(program, vec![Access { offset: Dim::from(0), strides: rows::dims("0 1") }])
    };
    let sample = |dtype, sizes: &str, [channels, hidden, filters]: [usize; 3]| {
        let sizes = rows::dims(sizes);
        let (first, epilogue) = (end(dtype, true), end(dtype, false));
        let (n, pixels) = (sizes[0].clone(), sizes[1].clone());
        Problem::from(Shape { n, pixels, channels, hidden, filters, dtype, first, epilogue })
    };
    vec![
        sample(DType::F16, "batch 196", [672, 28, 672]),
        sample(DType::F16, "1 12544", [32, 8, 32]),
        sample(DType::BF16, "batch 49", [1152, 48, 1152]),
        sample(DType::F32, "3 seq", [24, 600, 50]),
        sample(DType::F16, "2 35", [7, 3, 5]),
        sample(DType::F16, "1 9", [4096, 256, 1000]),
    ]
}
