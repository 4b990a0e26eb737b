//! Depthwise convolutions whose result an excitation reads: a block of the convolution's kernel adds up what it stores of each of
//! its channels and multiplies it by their columns of the first product; a second kernel adds these parts up and does the
//! rest. Nothing is read again, and both kernels have as many blocks as they like. What the families of depthwise
//! convolutions share; they add the convolution.

use super::rows;
use super::strips::LAUNCH;
use crate::codegen;
use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, Build, Family, Launch, Limit, Pack};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Access, Conv, Epilogue, Excite, Layout, Math, Squeeze};
use bakelite_host::{DType, Instr, Problem, Program, Pw};

const STORE: &str = include_str!("../../cuda/conv_store.cuh");
const STEPS: &str = include_str!("../../cuda/excite_steps.cuh");
const SUMS: &str = include_str!("../../cuda/conv_squeeze.cuh");
const END: &str = include_str!("../../cuda/excite_parts.cuh");

/// Threads of a block of the second kernel.
const THREADS: usize = 256;

/// The excitation that follows the convolution in `problem`, if one does.
pub(super) fn excite(problem: &Problem<Dim>) -> Result<Option<&Excite<Dim>>, String> {
    let Problem::Squeeze(Squeeze { conv, excite: p }) = problem else { return Ok(None) };
    if !matches!(p.dtype, DType::F16 | DType::BF16 | DType::F32) || p.dtype != conv.dtype {
        return Err(format!("it takes f16, bf16 and f32, all the same, not {} and {}", conv.dtype, p.dtype));
    }
    let placed = [&conv.epilogue, &p.first, &p.epilogue]
        .iter()
        .any(|e| e.place.is_some() || e.moments || e.rows.is_some());
    let fits = conv.layout == Layout::ChannelsLast
        && (conv.filters, conv.epilogue.out(), p.first.out()) == (p.channels, p.dtype, p.dtype)
        && conv.n == p.n
        && product(&conv.output) == p.pixels;
    if placed || !fits || p.hidden == 0 || p.filters == 0 || p.hidden > 4096 || p.filters > 1 << 20 {
        return Err(format!("{} pixels of {} channels, {} hidden", p.pixels, p.channels, p.hidden));
    }
    Ok(Some(p))
}

/// The results of a convolution that only stores them, as text.
pub(super) fn stored(epilogue: &Epilogue<Dim>, shape: &[Dim]) -> String {
    codegen::epilogue_in_two_steps(epilogue, shape) + STORE
}

/// Whether all that an epilogue over channels last reads depends on the channel alone.
pub(super) fn is_fixed(epilogue: &Epilogue<Dim>) -> bool {
    epilogue.operands.iter().all(|a| a.strides.iter().rev().skip(1).all(|s| s.is(0)))
}

/// How the blocks of the convolution's kernel divide their work: `lanes` threads side by side of `v` channels each, `teams` of
/// them, `parts` blocks for the pixels of an image.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    pub(super) v: usize,
    pub(super) lanes: usize,
    pub(super) teams: usize,
    pub(super) threads: usize,
    pub(super) parts: Dim,
}

impl Blocks {
    const fn width(&self) -> usize {
        self.lanes * self.v
    }

    const fn pitch(&self) -> usize {
        self.width().next_multiple_of(8)
    }

    /// Sets of channels.
    const fn sets(&self, p: &Excite<Dim>) -> usize {
        p.channels.div_ceil(self.width())
    }

    /// Threads that share a hidden element.
    fn team(&self) -> usize {
        (self.pitch() / 8).next_power_of_two().min(32)
    }

    /// Blocks for an image.
    pub(super) fn all(&self, p: &Excite<Dim>) -> Dim {
        &self.parts * &Dim::from(self.sets(p))
    }

    /// Bytes of a block's weights and sums in its shared memory.
    pub(super) fn bytes(&self, p: &Excite<Dim>) -> usize {
        let floats = self.pitch() + self.teams * self.width() + self.threads;
        p.hidden.saturating_mul(self.pitch() * p.dtype.size()).saturating_add(4 * floats)
    }

    /// Cycles from a block's last result to its end.
    pub(super) fn cycles(&self, p: &Excite<Dim>) -> f64 {
        let sharers = (self.threads / self.width()).max(1);
        let rows = 120.0 + 8.0 * (self.teams as f64 / sharers as f64 + sharers as f64);
        let each = p.hidden.div_ceil((self.threads / 32 * 32 / self.team()).max(1)) as f64;
        rows + 150.0
            + (each / 4.0).ceil() * 60.0
            + each * (self.pitch() / 8).div_ceil(self.team()) as f64 * 25.0
    }

    /// The convolution's results, as text; weights and sums lie `at` bytes from the beginning of shared memory, 16 times something.
    pub(super) fn text(&self, p: &Excite<Dim>, epilogue: &Epilogue<Dim>, shape: &[Dim], at: u32) -> String {
        let constants = codegen::constants(&[
            ("HIDDEN", p.hidden as u32),
            ("TEAM", self.team() as u32),
            ("SQUEEZE_AT", at),
        ]);
        codegen::epilogue_returned(epilogue, shape) + STEPS + &constants + SUMS
    }

    /// Adds to the build of a convolution, whose kernel takes its own two operands and its epilogue's, what follows it: where its
    /// sums go, and the second kernel.
    pub(super) fn complete(
        &self,
        build: &mut Build,
        (problem, p): (&Problem<Dim>, &Excite<Dim>),
        slices: usize,
        tactic: &Tactic,
        (symbols, target): (&Symbols, &Target),
    ) -> Result<(), String> {
        if slices == 0 || slices > p.filters {
            return Err(format!("`{tactic}` divides {} filters", p.filters));
        }
        let number = |n: usize| u32::try_from(n).map_err(|_| format!("a size of {n}"));
        let first = build.packs.len();
        let symbol_args = codegen::symbol_args(problem);
        let launch = &mut build.launches[0];
        let place = launch.args.len() - symbol_args.len();
        launch.args.splice(place..place, [Arg::Input(first), Arg::Workspace(Dim::from(0))]);

        let own = p.filters.div_ceil(slices);
        let pitch = own.next_multiple_of(8);
        let vector = codegen::power_of_two([&Dim::from(p.hidden)], 4) as usize;
        let sums = 4 * (THREADS * (vector + 1) + p.hidden) + p.hidden * p.dtype.size();
        let weights = p.hidden * pitch * p.dtype.size();
        let staged = weights + sums <= target.shared_per_block as usize;
        let constants = codegen::constants(&[
            ("HIDDEN", number(p.hidden)?),
            ("FILTERS", number(p.filters)?),
            ("SLICES", number(slices)?),
            ("THREADS", number(THREADS)?),
            ("STAGED", u32::from(staged)),
        ]);
        let all = self.all(p);
        let sizes = format!(
            "typedef {} element_t;\n{}{}",
            codegen::ctype(p.dtype),
            codegen::size("PARTS", &all),
            codegen::symbol_params(problem)
        );
        let title = format!(
            "the end of squeeze and excitation: {} x {all} parts of {} hidden -> {} filters, {} ({tactic})",
            p.n, p.hidden, p.filters, p.dtype
        );
        let floats = &p.n * &all * Dim::from(p.hidden);
        build.kernels.push(codegen::source(
            &title,
            codegen::is_wide([&floats], symbols),
            &[
                &constants,
                &sizes,
                &codegen::between(&p.first, &[p.n.clone(), Dim::from(p.hidden)]),
                &codegen::epilogue_in_two_steps(&p.epilogue, &[p.n.clone(), Dim::from(p.filters)]),
                STEPS,
                END,
            ],
        ));
        let extra = p.first.operands.len() + p.epilogue.operands.len();
        let operands = (first + 1..first + 2 + extra).map(Arg::Input);
        let args = [Arg::Workspace(Dim::from(0))].into_iter().chain(operands);
        build.launches.push(Launch {
            kernel: 1,
            grid: [&p.n * &Dim::from(slices), Dim::from(1), Dim::from(1)],
            block: [number(THREADS)?, 1, 1],
            shared: number(sums + if staged { weights } else { 0 })?,
            cluster: None,
            programmatic: true,
            args: args.chain([Arg::Output(1)]).chain(symbol_args).collect(),
        });
        build.workspace = floats * Dim::from(4);
        let width = self.width();
        build.packs.push(Some(Pack {
            shape: vec![self.sets(p), p.hidden, self.pitch()],
            strides: vec![width, p.channels, 1],
            limits: vec![
                Limit { terms: vec![(2, 1)], below: width },
                Limit { terms: vec![(0, width), (2, 1)], below: p.channels },
            ],
            ..Pack::default()
        }));
        build.packs.push(Some(Pack {
            shape: vec![slices, p.hidden, pitch],
            strides: vec![own * p.hidden, 1, p.hidden],
            limits: vec![
                Limit { terms: vec![(2, 1)], below: own },
                Limit { terms: vec![(0, own), (2, 1)], below: p.filters },
            ],
            ..Pack::default()
        }));
        build.packs.extend(std::iter::repeat_n(None, extra));
        Ok(())
    }

    /// Estimated µs of the second kernel.
    pub(super) fn cost(&self, p: &Excite<Dim>, slices: usize, symbols: &Symbols, target: &Target) -> f64 {
        const CYCLES_PER_US: f64 = 1700.0;
        let parts = self.all(p).opt(symbols).max(1) as f64;
        let vector = f64::from(codegen::power_of_two([&Dim::from(p.hidden)], 4));
        let (hidden, threads) = (p.hidden as f64, THREADS as f64);
        let own = p.filters.div_ceil(slices.max(1)) as f64;
        let rows = (threads / (hidden / vector)).floor().max(1.0);
        let load = (parts / rows / 12.0).ceil() * 600.0 + parts * hidden * 4.0 / 50.0;
        let depth = (threads / own).floor().max(1.0);
        let excite = (own / threads).ceil() * (hidden / depth * 8.0 + 150.0);
        let blocks = p.n.opt(symbols).max(1) as f64 * slices as f64;
        // Weights that all blocks of a multiprocessor wait for.
        let beside = (blocks / f64::from(target.multiprocessors)).ceil();
        let weights = beside * hidden * own * p.dtype.size() as f64 / 50.0;
        // Its blocks wait beside the first kernel's last ones.
        LAUNCH - 0.9
            + ((load * beside.sqrt()).max(weights) + 8.0 * (rows / 4.0).min(30.0) + 250.0 + excite)
                / CYCLES_PER_US
    }
}

/// A tactic of so many of each, with blocks for the filters of an image where an excitation follows.
pub(super) fn tactic(family: &dyn Family, params: &[(&str, usize)], slices: Option<usize>) -> Tactic {
    let params = params.iter().copied().chain(slices.map(|n| ("slices", n)));
    let params: Vec<_> = params.map(|(name, n)| (name, n as u32)).collect();
    Tactic::new(family.name(), family.version(), &params)
}

/// Blocks for the filters of an image: such that all images keep the machine busy.
pub(super) fn slices(p: &Excite<Dim>, symbols: &Symbols, target: &Target) -> usize {
    let images = p.n.opt(symbols).max(1) as usize;
    (target.multiprocessors as usize / images).clamp(1, p.filters.div_ceil(64))
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    // Plus a bias, then SiLU, or a sigmoid.
    let end = |dtype: DType, rank: usize, silu: bool| {
        let mut program = Program { inputs: vec![dtype.class().dtype(), dtype], ..Program::default() };
        let sum = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
        let mut out = program.push(Instr::Apply(Pw::Sigmoid, vec![sum]));
        if silu {
            out = program.push(Instr::Apply(Pw::Mul, vec![sum, out]));
        }
        program.outputs = vec![(out, dtype)];
        let strides = (1..=rank).map(|d| Dim::from(i64::from(d == rank))).collect();
        Epilogue::new(program, vec![Access { offset: Dim::from(0), strides }])
    };
    let sample = |dtype, sizes: &str, [kernel, stride, channels, hidden]: [usize; 4]| {
        let sizes = rows::dims(sizes);
        let n = sizes[0].clone();
        let input = sizes[1..].to_vec();
        let pad = kernel / 2;
        let output: Vec<Dim> = input
            .iter()
            .map(|d| {
                (d + &Dim::from(2 * pad) - Dim::from(kernel)).floor_div(&Dim::from(stride)) + Dim::from(1)
            })
            .collect();
        let pixels = product(&output);
        let conv = Conv {
            n: n.clone(),
            channels,
            filters: channels,
            groups: channels,
            input,
            output,
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            dilations: vec![1; 2],
            pads: vec![pad; 2],
            layout: Layout::ChannelsLast,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype,
            math: Math::Exact,
            epilogue: end(dtype, 4, true),
        };
        let filters = channels;
        let (first, epilogue) = (end(dtype, 2, true), end(dtype, 2, false));
        let excite = Excite { n, pixels, channels, hidden, filters, dtype, first, epilogue };
        Problem::from(Squeeze { conv: conv.into(), excite })
    };
    vec![
        sample(DType::F16, "1 112 112", [3, 1, 32, 8]),
        sample(DType::F16, "batch 7 7", [5, 1, 1152, 48]),
        sample(DType::F16, "batch 112 112", [3, 2, 96, 4]),
        sample(DType::F16, "1 56 56", [5, 2, 144, 6]),
        sample(DType::F16, "3 28 28", [5, 1, 240, 10]),
        sample(DType::BF16, "batch 14 14", [3, 1, 480, 20]),
        sample(DType::F16, "1 14 14", [5, 2, 672, 28]),
        sample(DType::F32, "2 9 11", [3, 1, 36, 10]),
        sample(DType::BF16, "2 seq 6", [3, 2, 24, 5]),
        sample(DType::F16, "2 5 6", [3, 1, 7, 3]),
        sample(DType::F16, "3 6 6", [3, 1, 40, 300]),
    ]
}
