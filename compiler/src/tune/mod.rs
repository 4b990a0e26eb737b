//! Choice of one tactic for each region: from the tactics file where it names one, by timing where there is a GPU, else by
//! the families' own cost models. Never changes a region, but may have regions made in another way where that is faster.

mod branch;
mod file;
#[cfg(feature = "cuda")]
pub mod gpu;
mod joins;
mod rivals;
mod settle;
#[cfg(feature = "cuda")]
mod subject;

pub use branch::branch;
pub use file::{Entry, Join, Lanes, Tactics};
pub use joins::{Stages, choose_joined};
pub use settle::{Open, decide, settle};

use crate::error::{Error, Result, Stage};
use crate::fuse::{Region, Regions};
use crate::ir::Graph;
use crate::plan::Plan;
use bakelite_kernels::families::{candidates, find};
use bakelite_kernels::{Build, Dim, Problem, Symbols, Tactic, Target, sole};
use rivals::{products, rivals, with_sole};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

/// One problem of the model with the tactics that could implement it, most promising first.
#[derive(Clone, Debug)]
pub struct Job {
    /// The problem.
    pub problem: Problem<Dim>,
    /// Which of its operands are constants, and so may be packed.
    pub constant: Vec<bool>,
    /// Tactics with their estimated µs and their code.
    pub candidates: Vec<Candidate>,
}

/// A tactic that could implement a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The tactic.
    pub tactic: Tactic,
    /// Estimated time, µs.
    pub estimate: f64,
    /// Its kernels and launches.
    pub build: Build,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It gave the reference's result in so many µs.
    Time(f64),
    /// It could not be compiled or launched, and why.
    Failed(String),
    /// It gave a wrong result, and how wrong.
    Wrong(String),
    /// It was not tried.
    Untried,
}

/// What to try joined and apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Joining {
    /// How long, with the tuning that this needs.
    pub patience: Duration,
    /// Where the estimate joined, over that apart, leaves it open which is faster.
    pub near: RangeInclusive<f64>,
}

/// The GPU, as far as tuning needs one. Everything else of the compiler works without.
pub trait Tuner {
    /// The GPU's name; `None` where there is none.
    fn gpu(&self) -> Option<&str>;

    /// The most candidates of a family worth timing for each of so many problems; 0 where there is nothing to time with.
    fn most_candidates(&self, problems: usize) -> usize;

    /// Sees every job before the first is measured.
    fn prepare(&mut self, jobs: &[Job], symbols: &Symbols, target: &Target) -> Result<()>;

    /// What becomes of each candidate of a job, in their order. An error ends the tuning.
    fn measure(
        &mut self,
        job: &Job,
        symbols: &Symbols,
        target: &Target,
        warn: &mut dyn FnMut(String),
    ) -> Result<Vec<Verdict>>;

    /// What to try joined and apart in the whole plan; `None` for nothing.
    fn joining(&self) -> Option<Joining> {
        None
    }

    /// Sees what is joined or not next: so many of so many questions, and what it is about.
    fn ask(&mut self, _question: (usize, usize), _about: &str) {}

    /// How long from now to try tactics in the whole plan; zero for not at all.
    fn settling(&self) -> Duration {
        Duration::ZERO
    }

    /// Sees every tactic that the whole plan will be tried with before the first trial.
    fn prepare_rivals(&mut self, _open: &[Open], _target: &Target) -> Result<()> {
        Ok(())
    }

    /// µs of one replay of a plan under its graph, or `None` if it cannot run; one of about `trials` trials.
    fn time_plan(&mut self, _plan: &Plan, _trials: usize) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Sees the tactics after each job, so that what was measured can be kept if the rest is not.
    fn keep(&mut self, _tactics: &Tactics) -> Result<()> {
        Ok(())
    }
}

/// No GPU: tactics are ranked by the cost models.
pub struct Estimate;

impl Tuner for Estimate {
    fn gpu(&self) -> Option<&str> {
        None
    }
    fn most_candidates(&self, _: usize) -> usize {
        0
    }
    fn prepare(&mut self, _: &[Job], _: &Symbols, _: &Target) -> Result<()> {
        Ok(())
    }
    fn measure(
        &mut self,
        job: &Job,
        _: &Symbols,
        _: &Target,
        _: &mut dyn FnMut(String),
    ) -> Result<Vec<Verdict>> {
        Ok(vec![Verdict::Untried; job.candidates.len()])
    }
}

/// Regions with a tactic for each.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The regions.
    pub regions: Regions,
    /// For each region its choice.
    pub choices: Vec<Choice>,
    /// Problems that the whole plan may answer differently ([`settle()`]).
    pub open: Vec<Open>,
    /// On how many lanes its plan is to run ([`crate::plan::branches`]).
    pub lanes: usize,
}

/// What implements a region.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The tactic.
    pub tactic: Tactic,
    /// Measured µs, where it was timed (now or in the tactics file).
    pub measured: Option<f64>,
    /// Estimated µs.
    pub estimate: f64,
    /// Its kernels and launches.
    pub build: Build,
}

/// The kernels of a tactic, if it is of a family's present version.
pub(crate) fn build(
    problem: &Problem<Dim>,
    tactic: &Tactic,
    symbols: &Symbols,
    target: &Target,
) -> Result<Build, String> {
    let family =
        find(&tactic.family).ok_or_else(|| format!("there is no kernel family `{}`", tactic.family))?;
    if family.version() != tactic.version {
        return Err(format!(
            "`{}` is version {} now, not {}",
            tactic.family,
            family.version(),
            tactic.version
        ));
    }
    let (own, sole) = sole::split(tactic);
    let build = family.build(problem, &own, symbols, target)?;
    Ok(if sole { sole::apart(build, target) } else { build })
}

/// Chooses a tactic for each region. `tactics` is read where it has an entry for the problem on this architecture and
/// written where something was measured; entries that no longer fit, or were measured on another GPU than the tuner's,
/// are replaced and reported through `warn`.
pub fn choose(
    regions: Regions,
    target: &Target,
    tactics: &mut Tactics,
    tuner: &mut dyn Tuner,
    warn: &mut dyn FnMut(String),
) -> Result<Chosen> {
    let mut measured = Measured::default();
    measured.measure(&regions, target, tactics, Search::FULL, tuner, warn)?;
    Ok(measured.pick(regions, target, tactics, tuner))
}

/// How thoroughly to measure.
#[derive(Clone, Copy)]
struct Search {
    /// The most candidates of a family, of what the tuner would try.
    most: usize,
    /// Whether it is kept, should the rest not be.
    kept: bool,
}

impl Search {
    const FULL: Search = Search { most: usize::MAX, kept: true };
}

/// Problems that the tactics file did not answer, each with the tactics that may be used, the most promising first.
#[derive(Clone, Default)]
struct Measured(Vec<(Job, Vec<Choice>)>);

impl Measured {
    fn find(&self, region: &Region, constant: &[bool]) -> Option<usize> {
        self.0.iter().position(|(j, _)| j.problem == region.problem && j.constant == constant)
    }

    /// Problems of these regions that neither the file nor what was measured answers.
    fn missing<'a>(
        &self,
        regions: &'a Regions,
        target: &Target,
        tactics: &Tactics,
        gpu: Option<&str>,
        warn: &mut dyn FnMut(String),
    ) -> Vec<(&'a Region, Vec<bool>)> {
        let mut missing: Vec<(&Region, Vec<bool>)> = Vec::new();
        for region in &regions.regions {
            let constant = constants(region, &regions.graph);
            let alike = |(other, c): &(&Region, Vec<bool>)| other.problem == region.problem && *c == constant;
            if self.find(region, &constant).is_none()
                && !missing.iter().any(alike)
                && from_file(region, &regions.graph, (target, gpu), tactics, warn).is_none()
            {
                missing.push((region, constant));
            }
        }
        missing
    }

    /// Measures what is missing.
    fn measure(
        &mut self,
        regions: &Regions,
        target: &Target,
        tactics: &mut Tactics,
        search: Search,
        tuner: &mut dyn Tuner,
        warn: &mut dyn FnMut(String),
    ) -> Result<(), Ended> {
        let (symbols, gpu) = (&regions.graph.symbols, tuner.gpu().map(str::to_owned));
        let missing = self.missing(regions, target, tactics, gpu.as_deref(), warn);
        let most = tuner.most_candidates(missing.len()).clamp(1, search.most);
        let jobs = missing.into_iter().map(|(region, constant)| job(region, constant, symbols, target, most));
        let jobs = jobs.collect::<Result<Vec<Job>>>()?;
        if !jobs.is_empty() {
            tuner.prepare(&jobs, symbols, target)?;
        }
        for job in jobs {
            let verdicts = tuner.measure(&job, symbols, target, warn)?;
            let rivals = ranked(&job, &verdicts, (symbols, target), warn)?;
            if let Choice { tactic, measured: Some(microseconds), .. } = &rivals[0] {
                let (tactic, gpu) = (tactic.clone(), gpu.clone().unwrap_or_default());
                tactics.set(target.arch, &job.problem, Entry { tactic, microseconds: *microseconds, gpu });
                if search.kept {
                    tuner.keep(tactics)?;
                }
            }
            // Their sources are in the rivals; of many candidates, that is much.
            self.0.push((Job { candidates: vec![], ..job }, rivals));
        }
        Ok(())
    }

    /// The fastest tactics for regions of which none is missing.
    fn pick(&self, regions: Regions, target: &Target, tactics: &Tactics, tuner: &dyn Tuner) -> Chosen {
        let mut open: Vec<Open> =
            self.0.iter().map(|(_, rivals)| Open { regions: vec![], rivals: rivals.clone() }).collect();
        let choice =
            |(at, region): (usize, &Region)| match self.find(region, &constants(region, &regions.graph)) {
                Some(measured) => {
                    open[measured].regions.push(at);
                    Some(open[measured].rivals[0].clone())
                }
                None => from_file(region, &regions.graph, (target, tuner.gpu()), tactics, &mut |_| ()),
            };
        let choices: Vec<Choice> = regions.regions.iter().enumerate().filter_map(choice).collect();
        debug_assert_eq!(choices.len(), regions.regions.len());
        open.retain(|o| !o.regions.is_empty());
        Chosen { regions, choices, open, lanes: 1 }
    }
}

/// Why measuring ended early.
enum Ended {
    /// No candidate of a problem is right; the families that were tried, with their versions.
    Unusable(Error, Vec<String>),
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

impl From<Ended> for Error {
    fn from(ended: Ended) -> Error {
        match ended {
            Ended::Unusable(error, _) | Ended::Failed(error) => error,
        }
    }
}

// The candidates that may be used, the most promising first and at least one: those with a time, or where there is none, the most
// promising that was not tried. One that failed or was wrong is never among them.
fn ranked(
    job: &Job,
    verdicts: &[Verdict],
    (symbols, target): (&Symbols, &Target),
    warn: &mut dyn FnMut(String),
) -> Result<Vec<Choice>, Ended> {
    let choice = |candidate: &Candidate, measured| {
        let Candidate { tactic, estimate, build } = candidate.clone();
        Choice { tactic, measured, estimate, build }
    };
    let (mut timed, mut refused): (Vec<(f64, &Candidate)>, _) = (Vec::new(), Vec::new());
    for (candidate, verdict) in job.candidates.iter().zip(verdicts) {
        let why = match verdict {
            Verdict::Time(time) if time.is_finite() => {
                timed.push((*time, candidate));
                continue;
            }
            Verdict::Time(time) => format!("`{}` took {time} µs", candidate.tactic),
            Verdict::Wrong(why) => format!("`{}` gives a wrong result: {why}", candidate.tactic),
            Verdict::Failed(why) => format!("`{}` failed: {why}", candidate.tactic),
            Verdict::Untried => continue,
        };
        warn(format!("not used for `{}`: {why}", job.problem));
        refused.push(why);
    }
    timed.sort_by(|a, b| a.0.total_cmp(&b.0));
    if let Some(limit) = timed.first().map(|(time, _)| time * settle::NEAR) {
        timed.retain(|(time, _)| *time <= limit);
        let rivals = rivals(timed, products(&job.problem, symbols), target);
        let rivals = rivals.into_iter().map(|(time, c)| choice(c, Some(time))).collect();
        return Ok(with_sole(rivals, symbols, target));
    }
    let untried = job.candidates.iter().zip(verdicts).find(|(_, v)| **v == Verdict::Untried);
    untried.map(|(candidate, _)| vec![choice(candidate, None)]).ok_or_else(|| {
        let what = format!("no tactic can be used: {}", refused.join("; "));
        let error = Error::new(Stage::Tune, job.problem.to_string(), what);
        Ended::Unusable(error, families(job.candidates.iter().map(|c| &c.tactic)))
    })
}

// Each once, with its version.
fn families<'a>(tactics: impl Iterator<Item = &'a Tactic>) -> Vec<String> {
    let names = tactics.map(|tactic| format!("{}/{}", tactic.family, tactic.version));
    names.collect::<BTreeSet<String>>().into_iter().collect()
}

fn constants(region: &Region, graph: &Graph) -> Vec<bool> {
    region.inputs.iter().map(|v| graph.data(*v).is_some()).collect()
}

// A family may ask for an operand to be rearranged at compile time, which only a constant can be.
fn packs_constants_only(build: Build, constant: &[bool]) -> Result<Build, String> {
    match build.packs.iter().zip(constant).position(|(pack, constant)| pack.is_some() && !constant) {
        Some(operand) => Err(format!("it packs operand {operand}, which is computed")),
        None => Ok(build),
    }
}

fn from_file(
    region: &Region,
    graph: &Graph,
    (target, gpu): (&Target, Option<&str>),
    tactics: &Tactics,
    warn: &mut dyn FnMut(String),
) -> Option<Choice> {
    let (entry, symbols) = (tactics.get(target.arch, &region.problem)?, &graph.symbols);
    let elsewhere = gpu.filter(|here| !entry.gpu.is_empty() && *here != entry.gpu);
    let built = match elsewhere {
        Some(here) => Err(format!("it was measured on {}, this is {here}", entry.gpu)),
        None => build(&region.problem, &entry.tactic, symbols, target),
    };
    match built.and_then(|b| packs_constants_only(b, &constants(region, graph))) {
        Ok(build) => {
            let estimate = find(&entry.tactic.family)
                .map_or(0.0, |f| f.cost(&region.problem, &entry.tactic, symbols, target));
            Some(Choice { tactic: entry.tactic.clone(), measured: Some(entry.microseconds), estimate, build })
        }
        Err(why) => {
            let again = if gpu.is_some() { "; measured again" } else { "" };
            warn(format!("tactics file: {}: `{}` is not used: {why}{again}", region.name, entry.tactic));
            None
        }
    }
}

/// A tactic whose estimate is this many times the best one's is not among the promising. Of 45 that were chosen by their
/// times, none was over 1.15 times.
const PROMISING: f64 = 1.25;

/// Tactics of a family that are tried although they are estimated to be slower: its estimates may all be too high ...
const FEW: usize = 4;
/// ... but by so much they are not. Its best one stays, should all others be refused.
const HOPELESS: f64 = 3.0;

fn job(region: &Region, constant: Vec<bool>, symbols: &Symbols, target: &Target, most: usize) -> Result<Job> {
    let mut problem_candidates: Vec<Candidate> = Vec::new();
    let mut refused = Vec::new();
    for (tactic, estimate) in candidates(&region.problem, symbols, target) {
        // Of each family: estimates are better within one than between two.
        let alike = problem_candidates.iter().filter(|c| c.tactic.family == tactic.family).count();
        let best = problem_candidates.first().map_or(estimate, |c| c.estimate);
        let tried = |from: usize, limit: f64| alike < from || estimate <= best * limit;
        if alike == most || most < usize::MAX && !(tried(FEW, PROMISING) && tried(1, HOPELESS)) {
            continue;
        }
        let built = build(&region.problem, &tactic, symbols, target);
        match built.and_then(|b| packs_constants_only(b, &constant)) {
            Ok(build) => problem_candidates.push(Candidate { tactic, estimate, build }),
            Err(why) => refused.push(format!("{tactic}: {why}")),
        }
    }
    if problem_candidates.is_empty() {
        let why =
            if refused.is_empty() { "no kernel family takes it".to_owned() } else { refused.join("; ") };
        let what = format!("no tactic on {} for `{}`: {why}", target.arch, region.problem);
        return Err(Error::new(Stage::Tune, format!("region {}", region.name), what));
    }
    Ok(Job { problem: region.problem.clone(), constant, candidates: problem_candidates })
}
