//! The device that runs a model: this machine's CPU or its GPU.

use super::options::{Device, Precision, open_nvrtc};
use super::table::bytes;
use super::tune::Keeper;
use super::{Environment, Failure, Outcome, note};
use bakelite::Target;
use bakelite::execute::host;
use bakelite::ir::{Graph, Tensor};
use bakelite::pipeline::{self, Options, Tools};
use bakelite::plan::Plan;
use bakelite::tune::{Estimate, Join, Tactics, Tuner};
use bakelite_kernels::{Arch, Nvrtc};
use bakelite_runtime::Gpu;
use std::path::Path;
#[cfg(feature = "cuda")]
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much to try when tuning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Effort {
    /// The four most promising kernels of each family for each problem, each timed alone.
    Fast,
    /// The 32 most promising of each family, fewer in a model of more than 20 problems; then, in the whole model, regions joined or
    /// apart for at most 15 s, and the best kernels for what is left of 50 s, 5 at least and 35 at most.
    #[default]
    Normal,
    /// All of them; then, in the whole model, regions joined or apart, and the best kernels, each for at most 3 minutes.
    Exhaustive,
}

/// What to make ready to run, and how.
pub(crate) struct Order<'a> {
    pub(crate) device: Device,
    pub(crate) precision: Precision,
    /// Whether to measure what the tactics do not say.
    pub(crate) effort: Option<Effort>,
    pub(crate) nvrtc: Option<&'a Path>,
    pub(crate) environment: &'a Environment,
    /// Where measurements go as they are made.
    pub(crate) keeper: Option<Keeper>,
}

/// A model ready to run.
pub(crate) struct Ready {
    pub(crate) session: Session,
    /// What it runs on, for people.
    pub(crate) device: String,
    /// How long loading took: kernels and weights to the device.
    pub(crate) load: Duration,
}

/// A model on its device.
pub(crate) enum Session {
    Host(Box<host::Session>),
    #[cfg(feature = "cuda")]
    Gpu(Box<bakelite::execute::gpu::Session>),
}

/// Times of repeated runs in µs, sorted.
pub(crate) struct Times {
    /// On the GPU alone.
    pub(crate) gpu: Option<Vec<f64>>,
    /// From host memory to host memory.
    pub(crate) host: Vec<f64>,
}

/// Plans a graph for the device and loads it there.
pub(crate) fn prepare(graph: Graph, order: &mut Order<'_>, tactics: &mut Tactics) -> Outcome<Ready> {
    match order.device {
        Device::Cpu => {
            if order.precision != Precision::Fp32 {
                note(format!(
                    "the CPU computes as the model says; --precision {} is for GPUs",
                    order.precision
                ));
            }
            let mut warn = |text: String| note(text);
            let plan = plan(graph, &Target::Host, order.precision, tactics, &mut Estimate, &mut warn)?;
            check_memory(plan.arena.saturating_add(plan.weight_bytes), "the model")?;
            let start = Instant::now();
            let session = Session::Host(Box::new(host::Session::new(plan)?));
            Ok(Ready { session, device: "CPU".to_owned(), load: start.elapsed() })
        }
        Device::Gpu => prepare_gpu(graph, order, tactics),
    }
}

fn plan(
    graph: Graph,
    target: &Target,
    precision: Precision,
    tactics: &mut Tactics,
    tuner: &mut dyn Tuner,
    warn: &mut dyn FnMut(String),
) -> Outcome<Plan> {
    let options = Options { precision: precision.into(), ..Options::default() };
    let mut tools = Tools { tactics, tuner, nvrtc: None, trace: &mut (), warn, compiled: &|_| () };
    Ok(pipeline::plan(graph, target, &options, &mut tools)?)
}

/// This machine's first GPU.
pub(crate) fn open_gpu() -> Outcome<Gpu> {
    if !cfg!(feature = "cuda") {
        return Err(Failure::new("this build of Bakelite cannot use a GPU")
            .help("build it with the feature `cuda`, or use --device cpu"));
    }
    Gpu::open(0).map_err(|e| {
        Failure::new(e.to_string()).help("--device cpu runs anywhere; compiling for a GPU needs none")
    })
}

/// What the GPU is as a target: its own architecture and figures.
pub(crate) fn target_of(gpu: &Gpu) -> Outcome<bakelite_kernels::Target> {
    let (major, minor) = gpu.compute_capability();
    let name = if (major, minor) == (9, 0) { "sm_90a".to_owned() } else { format!("sm_{major}{minor}") };
    let arch: Arch =
        name.parse().map_err(|e| Failure::new(format!("the GPU {} is not supported: {e}", gpu.name())))?;
    let mut target = bakelite_kernels::Target::of(arch);
    target.multiprocessors = u32::try_from(gpu.multiprocessors()).unwrap_or(target.multiprocessors);
    Ok(target)
}

/// The GPU and its driver, for people.
pub(crate) fn describe(gpu: &Gpu) -> String {
    let module = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let version = module.split_whitespace().find(|w| {
        w.contains('.')
            && w.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    });
    let cuda = gpu.driver_version();
    let version =
        version.map_or_else(|| format!("for CUDA {}.{}", cuda / 1000, cuda % 1000 / 10), str::to_owned);
    format!("{}, driver {version}", gpu.name())
}

#[cfg(feature = "cuda")]
fn prepare_gpu(graph: Graph, order: &mut Order<'_>, tactics: &mut Tactics) -> Outcome<Ready> {
    let gpu = open_gpu()?;
    let nvrtc = open_nvrtc(order.nvrtc, order.environment)?;
    let target = Target::Cuda(target_of(&gpu)?);
    let plan = match order.effort {
        Some(effort) => {
            let keeper = order.keeper.as_mut();
            tuned_plan(graph, &gpu, &nvrtc, order.precision, effort, tactics, keeper)?.plan
        }
        None => {
            note_other_gpus(tactics, &gpu);
            plan(graph, &target, order.precision, tactics, &mut Estimate, &mut |text| note(text))?
        }
    };
    let bar = super::bar("compiling kernels");
    bar.set_length(plan.kernels.len() as u64);
    let Target::Cuda(figures) = &target else { return Err(Failure::new("the GPU is no CUDA target")) };
    let images = bakelite::execute::kernels::compile(&plan, &nvrtc, figures.arch, false, &|| bar.inc(1))?;
    bar.finish_and_clear();
    let start = Instant::now();
    let session = bakelite::execute::gpu::Session::load(&gpu, plan, &images)?;
    Ok(Ready { session: Session::Gpu(Box::new(session)), device: describe(&gpu), load: start.elapsed() })
}

/// Says which tactics were measured elsewhere: they are right here too, but may not be the fastest.
#[cfg(feature = "cuda")]
fn note_other_gpus(tactics: &Tactics, gpu: &Gpu) {
    let Ok(target) = target_of(gpu) else { return };
    for ((arch, other), count) in tactics.origins() {
        if arch == target.arch && !other.is_empty() && other != gpu.name() {
            note(format!(
                "{count} tactics were measured on {other}, and this is {}; `bakelite tune` measures them here",
                gpu.name()
            ));
        }
    }
}

/// A plan that was tuned, and what that took.
pub(crate) struct Tuned {
    pub(crate) plan: Plan,
    /// How many candidates were tried.
    pub(crate) candidates: usize,
    /// How many of them failed or were wrong.
    pub(crate) refused: usize,
    /// What could be joined or not and was settled now, by what it is.
    pub(crate) joins: Vec<(String, Join)>,
    /// How many plans were timed to settle it, and µs of the first and of the last.
    pub(crate) settled: Option<(usize, f64, f64)>,
}

/// Plans a graph for the GPU with every tactic that the file does not name measured on it.
#[cfg(feature = "cuda")]
pub(crate) fn tuned_plan(
    graph: Graph,
    gpu: &Gpu,
    nvrtc: &Nvrtc,
    precision: Precision,
    effort: Effort,
    tactics: &mut Tactics,
    mut keeper: Option<&mut Keeper>,
) -> Outcome<Tuned> {
    use bakelite::tune::gpu::{self, GpuTuner, Progress};
    use std::sync::atomic::{AtomicUsize, Ordering};
    let effort = match effort {
        Effort::Fast => gpu::Effort::Fast,
        Effort::Normal => gpu::Effort::Normal,
        Effort::Exhaustive => gpu::Effort::Exhaustive,
    };
    let bar = super::bar("tuning");
    let (watch, tried) = (Watch::start(), AtomicUsize::new(0));
    let progress = |p: Progress| {
        let (message, at, of) = match p {
            Progress::Compiled(at, of) => ("compiling kernels".to_owned(), at, of),
            Progress::Trying { tactic, problem, candidates: (at, of), problems: (done, all) } => {
                watch.begin(format!("`{tactic}` for `{problem}`"));
                tried.store(at + 1, Ordering::Relaxed);
                (format!("problem {} of {all}", done + 1), at, of)
            }
            Progress::Asking { question: (number, of), about } => {
                watch.end();
                let about: String = about.chars().take(60).collect();
                (format!("joined or apart {number} of {of}: {about}"), number, of)
            }
            Progress::Settling { trial, trials, times } => {
                watch.begin("the whole model".to_owned());
                let first = times.map_or_else(String::new, |(first, _)| format!(", first {first:.1} µs"));
                (format!("whole model{first}"), trial.min(trials), trials)
            }
            Progress::Preparing => return watch.end(),
        };
        if bar.message() != message {
            bar.set_message(message);
        }
        if bar.length() != Some(of as u64) {
            bar.reset_eta();
        }
        bar.set_length(of as u64);
        bar.set_position(at as u64);
    };
    let target = Target::Cuda(target_of(gpu)?);
    let (before, here) = (tactics.clone(), format!("{}, {}", describe(gpu), today()));
    let mut keep = |tactics: &Tactics| match &mut keeper {
        Some(keeper) => keeper.keep(tactics, &here).map_err(|f| {
            bakelite::error::Error::new(bakelite::error::Stage::Tune, "tactics file", f.to_string())
        }),
        None => Ok(()),
    };
    let mut tuner = GpuTuner::new(gpu, nvrtc, effort, &progress, &mut keep)?;
    let mut refused = 0;
    let mut warn = |text: String| {
        refused += usize::from(text.starts_with("not used for"));
        bar.suspend(|| note(text));
    };
    let plan = plan(graph, &target, precision, tactics, &mut tuner, &mut warn)?;
    let settled = tuner.plan_times().map(|(before, after)| (tuner.plans_timed(), before, after));
    bar.finish_and_clear();
    if *tactics != before {
        tactics.measured_on = here;
    }
    let arch = plan.target.gpu().map(|target| target.arch);
    let joins = |of: &Tactics| -> Vec<(String, Join)> {
        let all =
            arch.map(|arch| of.joins(arch).map(|(text, join)| (text.to_owned(), join.clone())).collect());
        all.unwrap_or_default()
    };
    let mut now = joins(tactics);
    let old = joins(&before);
    now.retain(|join| !old.contains(join));
    Ok(Tuned { plan, candidates: tried.load(Ordering::Relaxed), refused, joins: now, settled })
}

/// Ends the program where a kernel never ends: nothing else can stop one.
#[cfg(feature = "cuda")]
struct Watch {
    /// What runs now, and since when.
    running: Arc<Mutex<Option<(Instant, String)>>>,
}

/// No candidate takes so long, were it the slowest.
#[cfg(feature = "cuda")]
const HANGS: Duration = Duration::from_secs(60);

#[cfg(feature = "cuda")]
impl Watch {
    fn start() -> Watch {
        let running: Arc<Mutex<Option<(Instant, String)>>> = Arc::default();
        let weak = Arc::downgrade(&running);
        std::thread::spawn(move || {
            while let Some(running) = weak.upgrade() {
                if let Some(what) = hung(&running, Instant::now()) {
                    note(format!("Error: {what}"));
                    note("what was measured before is in the tactics file; a rerun goes on from there");
                    std::process::exit(1);
                }
                drop(running);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        Watch { running }
    }

    fn begin(&self, what: String) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), what));
    }

    fn end(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(feature = "cuda")]
fn hung(running: &Mutex<Option<(Instant, String)>>, now: Instant) -> Option<String> {
    let running = running.lock().unwrap_or_else(PoisonError::into_inner);
    let (since, what) = running.as_ref()?;
    let long = now.duration_since(*since) > HANGS;
    long.then(|| format!("tune: {what} has not ended after {} s and is taken to hang", HANGS.as_secs()))
}

#[cfg(not(feature = "cuda"))]
fn prepare_gpu(_: Graph, order: &mut Order<'_>, _: &mut Tactics) -> Outcome<Ready> {
    let gpu = open_gpu()?;
    open_nvrtc(order.nvrtc, order.environment)?;
    Err(Failure::new(format!(
        "this build of Bakelite cannot run or tune {:?} on {}",
        order.effort,
        describe(&gpu)
    )))
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn tuned_plan(
    _: Graph,
    gpu: &Gpu,
    _: &Nvrtc,
    _: Precision,
    _: Effort,
    _: &mut Tactics,
    _: Option<&mut Keeper>,
) -> Outcome<Tuned> {
    Err(Failure::new(format!("this build of Bakelite cannot tune on {}", gpu.name())))
}

impl Session {
    /// The plan.
    pub(crate) fn plan(&self) -> &Plan {
        match self {
            Session::Host(s) => s.plan(),
            #[cfg(feature = "cuda")]
            Session::Gpu(s) => s.plan(),
        }
    }

    /// Computes the outputs in the plan's order.
    pub(crate) fn infer(&mut self, inputs: &[Tensor]) -> Outcome<Vec<Tensor>> {
        Ok(match self {
            Session::Host(s) => s.infer(inputs)?,
            #[cfg(feature = "cuda")]
            Session::Gpu(s) => s.infer(inputs)?,
        })
    }

    /// Times repeated runs, after some to warm up.
    pub(crate) fn time(&mut self, inputs: &[Tensor], iterations: usize) -> Outcome<Times> {
        let (mut gpu, mut times): (Option<Vec<f64>>, Vec<f64>) = match self {
            Session::Host(s) => {
                s.infer(inputs)?;
                let mut times = Vec::new();
                for _ in 0..iterations {
                    let start = Instant::now();
                    s.infer(inputs)?;
                    times.push(start.elapsed().as_secs_f64() * 1e6);
                }
                (None, times)
            }
            #[cfg(feature = "cuda")]
            Session::Gpu(s) => {
                let timing = s.time(inputs, iterations)?;
                (Some(timing.gpu), timing.host)
            }
        };
        times.sort_by(f64::total_cmp);
        if let Some(gpu) = &mut gpu {
            gpu.sort_by(f64::total_cmp);
        }
        Ok(Times { gpu, host: times })
    }

    /// GPU time of each step in its place and alone, µs.
    pub(crate) fn time_steps(&mut self, inputs: &[Tensor]) -> Outcome<(Vec<f64>, Vec<f64>)> {
        match self {
            Session::Host(_) => {
                let _ = inputs;
                Err(Failure::new("the steps of a model are timed on a GPU only")
                    .help("use --layers with --device gpu"))
            }
            #[cfg(feature = "cuda")]
            Session::Gpu(s) => Ok((s.time_steps_in_place(inputs)?, s.time_steps(inputs)?)),
        }
    }
}

/// Refuses what cannot fit this machine's memory: a model may ask for any size.
pub(crate) fn check_memory(needed: u64, what: &str) -> Outcome<()> {
    // `MemTotal:       32768000 kB`; other systems are asked by trying.
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let total = total.map_or(u64::MAX / 2, |kib: u64| kib.saturating_mul(1024));
    if needed <= total {
        return Ok(());
    }
    let what =
        format!("{what} would need {} of memory, and this machine has {}", bytes(needed), bytes(total));
    Err(Failure::new(what).help("bind dynamic sizes with --bind NAME=VALUE or narrow them with --symbol"))
}

/// Today's date, such as 2026-11-20 (UTC).
#[cfg(feature = "cuda")]
fn today() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    date(since.as_secs() / 86400)
}

/// The date of a day counted from 1970-01-01.
#[cfg(feature = "cuda")]
fn date(mut day: u64) -> String {
    let leap = |y: u64| y.is_multiple_of(4) && !y.is_multiple_of(100) || y.is_multiple_of(400);
    let (mut year, mut month) = (1970, 0);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "cuda")]
    #[test]
    fn days_are_dates() {
        let cases = [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11016, "2000-02-29"),
            (20777, "2026-11-20"),
            (47540, "2100-02-28"),
            (47541, "2100-03-01"),
        ];
        for (day, text) in cases {
            assert_eq!(date(day), text);
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn what_does_not_end_is_named() {
        let watch = Watch::start();
        watch.begin("`gemm.mma/1 m64`".into());
        let soon = Instant::now();
        assert_eq!(hung(&watch.running, soon), None);
        let what = hung(&watch.running, soon + HANGS + Duration::from_secs(1)).unwrap();
        assert!(what.contains("`gemm.mma/1 m64` has not ended after 60 s"), "{what}");
        watch.end();
        assert_eq!(hung(&watch.running, soon + 2 * HANGS), None);
    }

    #[test]
    fn memory_has_an_end() {
        assert!(check_memory(1 << 20, "x").is_ok());
        let failure = check_memory(u64::MAX, "the inputs").unwrap_err().to_string();
        assert!(failure.starts_with("the inputs would need "), "{failure}");
    }
}
