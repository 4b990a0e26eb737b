//! Tuning on a GPU of this machine: candidates compiled in parallel, each checked against a reference before its time counts,
//! then timed under a graph with the weights where they will be when it runs: in L2 if the plan asks them there ahead, else in
//! memory.

use super::rivals::{is_busy, products};
use super::subject::Subject;
use super::{Candidate, Job, Joining, Open, Tactics, Tuner, Verdict};
use crate::error::{Error, Result, Stage};
use crate::execute::gpu::{Session, median};
use crate::execute::kernels::Images;
use crate::execute::shape;
use crate::ir::Tensor;
use crate::plan::{Plan, kernel_name};
use bakelite_host::{DType, Problem, Work};
use bakelite_kernels::families::candidates;
use bakelite_kernels::family::KERNEL_NAME;
use bakelite_kernels::trial::Elements;
use bakelite_kernels::{Dim, Nvrtc, Symbols, Target, prefetch};
use bakelite_runtime::{Gpu, Stream};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How much to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Effort {
    /// The four most promising tactics of each family for each problem.
    Fast,
    /// The 32 most promising of each family, fewer where there are more than 20 problems; then regions joined or apart in the whole plan
    /// for at most 15 s, and the best tactics for what is left of 50 s, 5 at least and 35 at most.
    #[default]
    Normal,
    /// All; then regions joined or apart in the whole plan, and the best tactics, each for at most 3 minutes.
    Exhaustive,
}

impl Effort {
    /// The most candidates of a family for each of so many problems.
    fn candidates(self, problems: usize) -> usize {
        match self {
            Effort::Fast => 4,
            // On 16 cores resnet50's 26 problems take less than a minute so. Twelve of all families together missed good ones.
            Effort::Normal => (640 / problems.max(1)).clamp(16, 32),
            Effort::Exhaustive => usize::MAX,
        }
    }
}

/// What a tuner reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Kernels were compiled: so many of so many.
    Compiled(usize, usize),
    /// A candidate is about to run; should nothing follow, it hangs.
    Trying {
        /// The candidate's tactic.
        tactic: String,
        /// What it implements.
        problem: String,
        /// Candidates that were tried, and all of them.
        candidates: (usize, usize),
        /// Problems that are done, and all of them.
        problems: (usize, usize),
    },
    /// Whether regions are joined is settled next.
    Asking {
        /// Which question, from 1, and how many there are.
        question: (usize, usize),
        /// What it is about.
        about: String,
    },
    /// A whole plan is about to run.
    Settling {
        /// Plans that were tried.
        trial: usize,
        /// About how many there will be.
        trials: usize,
        /// Time of the first plan and of the last, µs.
        times: Option<(f64, f64)>,
    },
    /// The GPU does nothing for a while: operands and references are made on the CPU.
    Preparing,
}

/// The tuner on a GPU.
pub struct GpuTuner<'a> {
    gpu: Gpu,
    stream: Stream,
    nvrtc: &'a Nvrtc,
    effort: Effort,
    progress: &'a (dyn Fn(Progress) + Sync),
    keep: &'a mut dyn FnMut(&Tactics) -> Result<()>,
    /// By the kernel's name in a plan: its code, or why there is none.
    images: HashMap<String, Result<Images, String>>,
    /// What judges large problems, by their text.
    judges: HashMap<String, Candidate>,
    candidates: (usize, usize),
    problems: (usize, usize),
    began: Instant,
    /// Times of whole plans in the order in which they were tried.
    plans: Vec<f64>,
    /// The last of them while the GPU still replays it, and since when.
    hot: Option<(Session, Instant)>,
}

/// Estimates of one way over those of another between which neither is sure to be faster: layer norms that products do were once
/// estimated to take a tenth of a whole network less than they do.
const NEAR: RangeInclusive<f64> = 0.65..=1.5;

/// How long a plan is replayed for its time.
const MEASURING: Duration = Duration::from_millis(60);
/// How long a busy GPU ([`is_busy`]) takes to lower its clocks: an H200 keeps its highest clocks for 50 to 100 ms, then an encoder's products take 12 % longer;
/// vit_b_16 in batches of 32 takes 2.27 ms after 0.2 s and 2.36 from 0.6 s on. Such a plan is timed as it runs in the long run, or what
/// asks for less power than others would not show it, and the first of two that are compared would look faster.
const HEATING: Duration = Duration::from_millis(500);
/// How long it is replayed while the next one is made, so that this one needs no heating.
const KEPT_HOT: Duration = Duration::from_millis(200);
/// How long a GPU may rest after that.
const REST: Duration = Duration::from_millis(100);
/// Bytes of a plan beside which another one has room.
const ROOM: u64 = 4 << 30;

/// Families of plain kernels, which may stand for the host where it would take too long.
const PLAIN: [&str; 4] = ["gemm.simt", "conv.simt", "conv.direct", "attention.simt"];

impl<'a> GpuTuner<'a> {
    /// A tuner on `gpu`. `keep` sees the tactics after each problem.
    pub fn new(
        gpu: &Gpu,
        nvrtc: &'a Nvrtc,
        effort: Effort,
        progress: &'a (dyn Fn(Progress) + Sync),
        keep: &'a mut dyn FnMut(&Tactics) -> Result<()>,
    ) -> Result<GpuTuner<'a>> {
        let (gpu, stream) = (gpu.clone(), Stream::new(gpu)?);
        let (images, candidates, problems, plans) = (HashMap::new(), (0, 0), (0, 0), vec![]);
        Ok(GpuTuner {
            gpu,
            stream,
            nvrtc,
            effort,
            progress,
            keep,
            images,
            judges: HashMap::new(),
            candidates,
            problems,
            plans,
            hot: None,
            began: Instant::now(),
        })
    }

    /// Time of the plan as it was before settling, and the last that was timed, µs.
    pub fn plan_times(&self) -> Option<(f64, f64)> {
        Some((*self.plans.first()?, *self.plans.last()?))
    }

    /// Whole plans that were timed.
    pub fn plans_timed(&self) -> usize {
        self.plans.len()
    }

    // Compiles what is not yet compiled, on all cores: kernels by their names in a plan.
    fn compile(&mut self, sources: impl Iterator<Item = (String, String)>, target: &Target) {
        let sources: BTreeMap<String, String> =
            sources.filter(|(name, _)| !self.images.contains_key(name)).collect();
        let (done, total) = (Mutex::new(0usize), sources.len());
        let one = |(name, source): (String, String)| {
            let compiled = self.nvrtc.compile(&source.replace(KERNEL_NAME, &name), &name, target.arch);
            if let Ok(mut done) = done.lock() {
                *done += 1;
                (self.progress)(Progress::Compiled(*done, total));
            }
            let images = compiled.map(|c| Images { name: name.clone(), cubin: c.cubin, ptx: None });
            (name, images.map_err(|e| e.to_string().lines().take(4).collect::<Vec<_>>().join(" ")))
        };
        let compiled: Vec<_> = sources.into_par_iter().map(one).collect();
        self.images.extend(compiled);
    }

    fn try_all(
        &self,
        job: &Job,
        plain: Option<&Candidate>,
        symbols: &Symbols,
        target: &Target,
        tame: bool,
    ) -> Result<Vec<Verdict>> {
        (self.progress)(Progress::Preparing);
        let arch = target.arch.to_string();
        let room = plain.map(|p| &p.build);
        let mut subject = Subject::new((&self.stream, &arch), job, symbols, room, tame)?;
        let (mut tried, all) = self.candidates;
        let mut running = |tactic: String| {
            let (problem, candidates) = (job.problem.to_string(), (tried.min(all), all));
            tried += 1;
            (self.progress)(Progress::Trying { tactic, problem, candidates, problems: self.problems });
        };
        match plain {
            None => subject.judge_by_host()?,
            Some(plain) => {
                let images = self.images(plain);
                let fail = |what| Error::new(Stage::Tune, job.problem.to_string(), what);
                running(plain.tactic.to_string());
                subject.judge_by(plain, &images.map_err(fail)?)?;
            }
        }
        let one = |candidate: &Candidate| {
            running(candidate.tactic.to_string());
            match self.images(candidate) {
                Ok(images) => subject.attempt(candidate, &images),
                Err(why) => Ok(Verdict::Failed(why)),
            }
        };
        job.candidates.iter().map(one).collect()
    }

    fn images(&self, candidate: &Candidate) -> Result<Vec<&Images>, String> {
        let find = |source: &String| {
            let image = self.images.get(&kernel_name(&candidate.tactic.family, source));
            image.ok_or("it was not compiled")?.as_ref().map_err(Clone::clone)
        };
        candidate.build.kernels.iter().map(find).collect()
    }
}

impl Tuner for GpuTuner<'_> {
    fn gpu(&self) -> Option<&str> {
        Some(self.gpu.name())
    }

    fn most_candidates(&self, problems: usize) -> usize {
        self.effort.candidates(problems)
    }

    fn prepare(&mut self, jobs: &[Job], symbols: &Symbols, target: &Target) -> Result<()> {
        self.judges.clear();
        for job in jobs {
            if let Some(plain) = plain_kernel(job, symbols, target)? {
                self.judges.insert(job.problem.to_string(), plain);
            }
        }
        let sources: Vec<_> =
            jobs.iter().flat_map(|j| &j.candidates).chain(self.judges.values()).flat_map(kernels).collect();
        self.compile(sources.into_iter(), target);
        self.problems = (0, jobs.len());
        self.candidates = (0, jobs.iter().map(|j| j.candidates.len()).sum());
        Ok(())
    }

    fn measure(
        &mut self,
        job: &Job,
        symbols: &Symbols,
        target: &Target,
        warn: &mut dyn FnMut(String),
    ) -> Result<Vec<Verdict>> {
        self.hot = None;
        let plain = self.judges.get(&job.problem.to_string());
        let mut verdicts = self.try_all(job, plain, symbols, target, false)?;
        let any = |of: fn(&Verdict) -> bool| verdicts.iter().any(of);
        if any(|v| matches!(v, Verdict::Wrong(_))) && !any(|v| matches!(v, Verdict::Time(_))) {
            // Either all are wrong, or the problem makes much of little differences.
            let tame = self.try_all(job, plain, symbols, target, true)?;
            let wrong = verdicts.iter().find(|v| matches!(v, Verdict::Wrong(_)));
            if let (true, Some(Verdict::Wrong(why))) =
                (tame.iter().any(|v| matches!(v, Verdict::Time(_))), wrong)
            {
                warn(format!(
                    "`{}`: no tactic is right on operands of either sign ({why}); on operands from 0.5 to 1.5 some \
                     are, and these are taken to be right",
                    job.problem
                ));
                verdicts = tame;
            }
        }
        self.candidates.0 += job.candidates.len();
        self.problems.0 += 1;
        (self.progress)(Progress::Preparing);
        Ok(verdicts)
    }

    fn joining(&self) -> Option<Joining> {
        match self.effort {
            Effort::Fast => None,
            // Of a minute, after measuring and before settling.
            Effort::Normal => {
                let left = Duration::from_secs(40).saturating_sub(self.began.elapsed());
                let patience = left.clamp(Duration::from_secs(8), Duration::from_secs(15));
                Some(Joining { patience, near: NEAR })
            }
            Effort::Exhaustive => {
                Some(Joining { patience: Duration::from_secs(180), near: 0.0..=f64::INFINITY })
            }
        }
    }

    fn ask(&mut self, question: (usize, usize), about: &str) {
        (self.progress)(Progress::Asking { question, about: about.to_owned() });
    }

    fn settling(&self) -> Duration {
        match self.effort {
            Effort::Fast => Duration::ZERO,
            // What measuring and compiling have left of a minute, but for what comes before and after.
            Effort::Normal => Duration::from_secs(50)
                .saturating_sub(self.began.elapsed())
                .clamp(Duration::from_secs(5), Duration::from_secs(35)),
            Effort::Exhaustive => Duration::from_secs(180),
        }
    }

    fn prepare_rivals(&mut self, open: &[Open], target: &Target) -> Result<()> {
        // A plan gives some kernels the weights of later steps to prefetch.
        let rivals = open.iter().flat_map(|o| &o.rivals);
        let variants = rivals.flat_map(|r| r.build.kernels.iter().map(|k| (&r.tactic.family, k)));
        let variants = variants.filter_map(|(family, source)| {
            let source = prefetch::prefetching(source)?;
            Some((kernel_name(family, &source), source))
        });
        self.compile(variants, target);
        Ok(())
    }

    fn time_plan(&mut self, plan: &Plan, trials: usize) -> Result<Option<f64>> {
        let Some(target) = plan.target.gpu() else { return Ok(None) };
        // Nearly all were compiled as candidates or rivals; these have their names already.
        self.compile(plan.kernels.iter().map(|k| (k.name.clone(), k.source.clone())), target);
        let images = plan.kernels.iter().map(|k| self.images.get(&k.name)?.as_ref().ok().cloned());
        let Some(images) = images.collect::<Option<Vec<Images>>>() else { return Ok(None) };
        (self.progress)(Progress::Settling { trial: self.plans.len(), trials, times: self.plan_times() });
        let mut session = Session::load(&self.gpu, plan.clone(), &images)?;
        let sizes = plan.symbols.iter().map(|(name, range)| (name.clone(), range.opt)).collect();
        let inputs: Vec<Tensor> =
            plan.inputs.iter().enumerate().map(|(i, p)| random(p.ty.dtype, shape(p, &sizes), i)).collect();
        let hot = self.hot.take().is_some_and(|(_, since)| since.elapsed() < KEPT_HOT + REST);
        let mut time = |least: usize, patience: Duration| -> Result<f64> {
            Ok(median(session.time_replays(&inputs, least, patience)?))
        };
        let mut taken = time(30, MEASURING)?;
        let products: f64 = plan.steps.iter().map(|s| products(&s.problem, &plan.symbols) as f64).sum();
        if is_busy(products, taken, target) {
            if !hot {
                time(1, HEATING)?;
                taken = time(30, MEASURING)?;
            }
            if plan.weight_bytes + plan.arena < ROOM {
                session.keep_busy(&inputs, (KEPT_HOT.as_secs_f64() * 1e6 / taken) as usize)?;
                self.hot = Some((session, Instant::now()));
            }
        }
        self.plans.push(taken);
        (self.progress)(Progress::Preparing);
        Ok(Some(taken))
    }

    fn keep(&mut self, tactics: &Tactics) -> Result<()> {
        (self.keep)(tactics)
    }
}

fn random(dtype: DType, shape: Vec<usize>, seed: usize) -> Tensor {
    let elements = Elements::random(dtype, shape.iter().product(), seed as u64);
    Tensor { dtype, shape, bytes: bytes::Bytes::copy_from_slice(elements.bytes()) }
}

// A candidate's kernels with their names in a plan.
fn kernels(candidate: &Candidate) -> impl Iterator<Item = (String, String)> {
    let named = |source: &String| (kernel_name(&candidate.tactic.family, source), source.clone());
    candidate.build.kernels.iter().map(named)
}

// What judges a problem that the host would take too long for: a kernel of a plain family, where one takes it.
fn plain_kernel(job: &Job, symbols: &Symbols, target: &Target) -> Result<Option<Candidate>> {
    let problem = job.problem.map(&mut |d: &Dim| d.opt_size(symbols));
    let fail = |e: bakelite_host::RunError| Error::new(Stage::Tune, job.problem.to_string(), e.to_string());
    if host_is_quick(&problem, problem.work().map_err(fail)?) {
        return Ok(None);
    }
    let all = candidates(&job.problem, symbols, target);
    let plain = all.into_iter().filter(|(tactic, _)| PLAIN.contains(&tactic.family.as_str()));
    let mut built = plain.filter_map(|(tactic, estimate)| {
        let build = super::build(&job.problem, &tactic, symbols, target).ok()?;
        Some(Candidate { tactic, estimate, build })
    });
    Ok(built.next())
}

// Some tenths of a second on a few cores: dense products run at full speed there, everything else does not.
fn host_is_quick(problem: &Problem<usize>, work: Work) -> bool {
    let dense = match problem {
        Problem::Gemm(p) => p.dtype.is_float(),
        Problem::Conv(p) => p.groups == 1 && p.dtype.is_float() && p.dtype != DType::F64,
        _ => false,
    };
    work.flops() <= if dense { 16_000_000_000 } else { 2_000_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakelite_host::problem::{Attention, Epilogue, Gemm, Math};
    use bakelite_kernels::Dim;

    fn gemm(m: i64, n: i64, k: i64) -> Job {
        let [m, n, k] = [m, n, k].map(Dim::from);
        let epilogue = Epilogue::store(DType::F16);
        let (a, b) = ([0.into(), k.clone(), 1.into()], [0.into(), n.clone(), 1.into()]);
        let problem = Gemm { batch: 1.into(), m, n, k, dtype: DType::F16, math: Math::Exact, a, b, epilogue };
        Job { problem: problem.into(), constant: vec![false; 2], candidates: vec![] }
    }

    #[test]
    fn what_is_small_is_judged_by_the_host() {
        let target = Target::of("sm_90a".parse().unwrap());
        let symbols = Symbols::default();
        assert_eq!(plain_kernel(&gemm(128, 768, 768), &symbols, &target).unwrap(), None);
        let large = plain_kernel(&gemm(8192, 8192, 8192), &symbols, &target).unwrap().unwrap();
        assert_eq!(large.tactic.family, "gemm.simt");
    }

    #[test]
    fn many_problems_get_fewer_candidates_each() {
        let normal = [1, 20, 26, 40, 64].map(|problems| Effort::Normal.candidates(problems));
        assert_eq!(normal, [32, 32, 24, 16, 16]);
        assert_eq!((Effort::Fast.candidates(64), Effort::Exhaustive.candidates(64)), (4, usize::MAX));
    }

    #[test]
    fn every_plain_family_exists() {
        for name in PLAIN {
            assert!(bakelite_kernels::families::find(name).is_some(), "{name}");
        }
        let access = || bakelite_host::problem::Access { offset: 0, strides: vec![0, 0, 128] };
        let attention = Attention {
            batch: 8,
            heads: 16,
            kv_heads: 16,
            seq_q: 4096,
            seq_k: 4096,
            dim: 128,
            dim_v: 128,
            scale: 0.1,
            causal: false,
            q: access(),
            k: access(),
            v: access(),
            mask: None,
            out_heads_inner: true,
            dtype: DType::F16,
        };
        let problem = Problem::from(attention);
        assert!(!host_is_quick(&problem, problem.work().unwrap()));
    }
}
