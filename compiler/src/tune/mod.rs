//! Choice of one tactic for each region: from the tactics file where it names one, by timing where there is a GPU, else by
//! the families' own cost models. Never changes a region, but may have regions made in another way where that is faster.

mod branch;
mod file;
#[cfg(feature = "cuda")]
pub mod gpu;
mod joins;
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
use bakelite_kernels::family::LONG;
use bakelite_kernels::{Build, Dim, Problem, Symbols, Tactic, Target, sole};
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

    /// How long to try tactics in the whole plan; zero for not at all.
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

/// The share of what tensor cores reach from which on a GPU lowers its clocks to keep its power.
const BUSY: f64 = 0.25;

/// Halves that tiles read from L2 in the power of a µs of an H200: a network of long kernels has no more, so that in it a kernel takes
/// longer than alone by what it reads. bert_base's and vit_b_16's products in batches of 32 differ so by their tiles.
const HALVES_PER_US: f64 = 20.5e6;
/// What takes so many times as long by that is no rival: it is off by 2 % where it was measured.
const LIKELY: f64 = 1.08;

// What a kernel that takes so many µs alone takes in a network of long ones, of which it makes so many products by tiles of m x n.
fn in_the_long_run(alone: f64, products: u64, (m, n): (u32, u32)) -> f64 {
    alone + products as f64 / 2.0 * (1.0 / f64::from(m) + 1.0 / f64::from(n)) / HALVES_PER_US
}

// Whether so many operations in so many µs keep tensor cores [`BUSY`].
fn is_busy(products: f64, us: f64, target: &Target) -> bool {
    products > BUSY * target.ceiling().half * 1e6 * us
}

// Operations on tensor cores, or what could be there.
fn products(problem: &Problem<Dim>, symbols: &Symbols) -> u64 {
    problem.map(&mut |d: &Dim| d.opt_size(symbols)).work().map_or(0, |work| work.products)
}

// Rows and columns of the result that a block makes at a time.
fn tile(tactic: &Tactic) -> Option<(u32, u32)> {
    tactic.get("m").ok().zip(tactic.get("n").ok())
}

// The fastest few, the fastest of each footprint before any second one: alone they take much the same, but what overlaps with them in
// the whole plan goes by their footprint.
fn rivals<'a>(
    mut timed: Vec<(f64, &'a Candidate)>,
    products: u64,
    target: &Target,
) -> Vec<(f64, &'a Candidate)> {
    let mut seen = BTreeSet::new();
    let fastest = timed.first().map_or(0.0, |(time, _)| *time);
    let long = fastest >= LONG;
    // What memory bounds has power to spare.
    let priced = long && is_busy(products as f64, fastest, target);
    if let Some(usual) = timed.iter().find_map(|(_, c)| tile(&c.tactic)).filter(|_| priced) {
        // What has no tile is taken to read as much as the fastest that has one.
        let taken = |(time, c): &(f64, &Candidate)| {
            in_the_long_run(*time, products, tile(&c.tactic).unwrap_or(usual))
        };
        timed.sort_by(|a, b| taken(a).total_cmp(&taken(b)));
        let most = timed.first().map_or(0.0, taken) * LIKELY;
        timed.retain(|t| taken(t) <= most);
    }
    let (mut first, second): (Vec<_>, Vec<_>) =
        timed.into_iter().partition(|(_, candidate)| seen.insert(footprint(candidate, target, long)));
    first.extend(second);
    // Blocks of a cluster that wait for each other gain 1 % on a cool GPU and lose 2 % on a hot one, seen of 4096 x 4096 x 4096: that the
    // same tile without a cluster is tried is not left to chance.
    let in_cluster = |c: &Candidate| c.build.launches.iter().any(|l| l.cluster.is_some());
    if let Some((_, fastest)) = first.first().filter(|(_, c)| priced && in_cluster(c)) {
        let like = |c: &Candidate| {
            c.tactic.family == fastest.tactic.family && tile(&c.tactic) == tile(&fastest.tactic)
        };
        if let Some(at) = first.iter().position(|(_, c)| like(c) && !in_cluster(c)) {
            first[1..=at].rotate_right(1);
        }
    }
    first.truncate(settle::MOST_RIVALS);
    first
}

// Behind the fastest tactic that could have a multiprocessor for each of its blocks, the same with that: alone they take the same, in the
// whole plan it goes by what the kernels before hold.
fn with_sole(mut rivals: Vec<Choice>, symbols: &Symbols, target: &Target) -> Vec<Choice> {
    if let Some(at) = rivals.iter().position(|r| sole::matters(&r.build, symbols, target)) {
        let Choice { tactic, build, .. } = rivals[at].clone();
        let (tactic, build) = (sole::sole(&tactic), sole::apart(build, target));
        rivals.insert(at + 1, Choice { tactic, build, ..rivals[at] });
        rivals.truncate(settle::MOST_RIVALS);
    }
    rivals
}

// What a kernel leaves to the kernels before and behind it: how many multiprocessors near each other its clusters wait for, and how many of
// its blocks one multiprocessor has room for. Kernels of one family do the rest alike. Of a `long` one, its tile: by that go the bytes that
// it moves, and the power that they take of what a network of such kernels has.
fn footprint(candidate: &Candidate, target: &Target, long: bool) -> (String, u32, u32) {
    if let (true, Some((m, n))) = (long, tile(&candidate.tactic)) {
        return (candidate.tactic.family.clone(), m, n);
    }
    let launch = candidate.build.launches.first();
    let cluster = launch.and_then(|l| l.cluster).map_or(1, |c| c.iter().product());
    let room = launch.map_or(1, |l| target.shared_per_multiprocessor / (l.shared + 1024).max(1));
    (candidate.tactic.family.clone(), cluster, room.min(3))
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

#[cfg(test)]
mod tests {
    use super::*;
    use bakelite_kernels::Launch;

    // Measured on an H200, alone and as the difference that one product's tile makes to the whole plan, µs for each of its twelve.
    #[test]
    fn tiles_rank_as_they_do_in_networks() {
        let products = |m: u64, n: u64, k: u64| 2 * m * n * k;
        let (wide, tall) = (products(6304, 2304, 768), products(4096, 3072, 768));
        // (products, tile, alone), what is faster in the plan first, and by how much there.
        let pairs = [
            ((wide, (192, 192), 33.5), (wide, (128, 128), 32.6), 2.0),
            ((tall, (128, 128), 31.1), (tall, (192, 192), 34.9), 1.0),
            ((tall, (128, 256), 32.2), (tall, (128, 128), 31.1), 0.5),
        ];
        for (fast, slow, measured) in pairs {
            let [fast, slow] =
                [fast, slow].map(|(products, tile, alone)| in_the_long_run(alone, products, tile));
            assert!((slow - fast - measured).abs() < 0.6, "{fast} {slow} {measured}");
        }
    }

    fn candidate(m: u32, n: u32, share: u32) -> Candidate {
        let launch = Launch {
            kernel: 0,
            grid: [132.into(), 1.into(), 1.into()],
            block: [384, 1, 1],
            shared: 0,
            cluster: (share > 1).then_some([share, 1, 1]),
            programmatic: true,
            args: vec![],
        };
        let build = Build { kernels: vec![], launches: vec![launch], workspace: 0.into(), packs: vec![] };
        let params = [("m", m), ("n", n), ("share", share)];
        Candidate { tactic: Tactic::new("conv.wgmma", 1, &params), estimate: 0.0, build }
    }

    #[test]
    fn what_a_hot_gpu_may_do_sooner_without_clusters_is_tried_so() {
        let target = Target::of("sm_90a".parse().unwrap());
        let [pairs, other, alone, third] = [(128, 256, 2), (256, 128, 2), (128, 256, 1), (192, 192, 1)]
            .map(|(m, n, share)| candidate(m, n, share));
        let timed = vec![(180.0, &pairs), (183.0, &other), (184.0, &alone), (193.0, &third)];
        let rivals = rivals(timed, 2 * 4096 * 4096 * 4096, &target);
        let of = |c: &Candidate| ["m", "n", "share"].map(|name| c.tactic.get(name).unwrap());
        let tried: Vec<_> = rivals.iter().map(|(_, c)| of(c)).collect();
        assert_eq!(tried, [[128, 256, 2], [128, 256, 1], [256, 128, 2], [192, 192, 1]]);
    }

    #[test]
    fn of_long_kernels_only_likely_ones_are_rivals() {
        let target = Target::of("sm_90a".parse().unwrap());
        let [tall, large, small] = [(128, 192), (192, 192), (64, 64)].map(|(m, n)| candidate(m, n, 1));
        // The smallest tile is nearly as fast alone, and reads most.
        let timed = |scale: f64| {
            let times = [(30.4, &tall), (30.6, &small), (31.0, &large)];
            times.map(|(us, c)| (us * scale, c)).to_vec()
        };
        let left = |scale: f64, products: u64| -> Vec<u32> {
            let rivals = rivals(timed(scale), products, &target);
            rivals.iter().map(|(_, c)| c.tactic.get("m").unwrap()).collect()
        };
        assert_eq!(left(1.0, 2 * 4096 * 3072 * 768), [192, 128]);
        // What is short, and what memory bounds, is settled by the whole plan alone.
        assert_eq!(left(0.1, 2 * 128 * 3072 * 768), [128, 64, 192]);
        assert_eq!(left(1.0, 2 * 4096 * 512 * 128), [128, 64, 192]);
    }
}
