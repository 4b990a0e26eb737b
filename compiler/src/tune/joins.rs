//! Regions joined or apart: where the cost models cannot tell, the whole plan is timed both ways. What it says is recorded like a
//! tactic, so that a build from the tactics file needs no GPU and another model asks no question twice.

use super::settle::decide;
use super::{Chosen, Ended, Join, Joining, Measured, Search, Tactics, Tuner, families};
use crate::error::{Error, Result, Stage};
use crate::fuse::alternative::{Alternative, Judge, Way};
use crate::fuse::{Region, Regions};
use crate::plan::Plan;
use bakelite_kernels::Target;
use bakelite_kernels::families::find;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Candidates of a family that are tried for problems that only a question needs: what is faster is tuned in full afterwards.
const FEW: usize = 8;

/// The stages around the choice of tactics.
pub struct Stages<'a> {
    /// Regions, joined as the judge says.
    pub fuse: &'a mut dyn FnMut(&mut Judge<'_>) -> Result<Regions>,
    /// Sees the regions before tactics are chosen for them, and again if others are better.
    pub fused: &'a mut dyn FnMut(&Regions),
    /// The plan of a choice.
    pub plan: &'a mut dyn FnMut(&Chosen) -> Result<Plan>,
}

/// Joins regions and [chooses](super::choose) tactics for them. Where the cost models are not sure and the tactics file says
/// nothing that fits, the tuner decides for as long as it allows, and `tactics` records it.
pub fn choose_joined(
    stages: &mut Stages<'_>,
    target: &Target,
    tactics: &mut Tactics,
    tuner: &mut dyn Tuner,
    warn: &mut dyn FnMut(String),
) -> Result<Chosen> {
    let (mut known, refused) = from_file(target, tactics, tuner.gpu());
    let mut measured = Measured::default();
    let (regions, mut found) =
        measure_joined(stages, target, &mut known, &mut measured, tactics, tuner, warn)?;
    let again = if tuner.joining().is_some() { "; settled again if there is time" } else { "" };
    for alternative in &found {
        if let Some(why) = refused.get(&alternative.text) {
            warn(format!("tactics file: `join {}` is not used: {why}{again}", alternative.text));
        }
    }
    let mut chosen = measured.pick(regions, target, tactics, tuner);
    let Some(Joining { patience, near }) = tuner.joining() else { return Ok(chosen) };
    let (began, mut asked) = (Instant::now(), BTreeSet::new());
    while began.elapsed() < patience {
        let questions = questions(&found, &near, &asked);
        if questions.is_empty() {
            break;
        }
        asked.extend(questions.iter().map(|q| q.subject.clone()));
        let left = patience.saturating_sub(began.elapsed());
        let scratch = (measured.clone(), tactics.clone());
        let mut trials = Trials::new(chosen, &questions, &known, target, scratch, left);
        let picks = trials.settle(stages, tuner, warn)?;
        // Once more what was decided, so that the last time is its.
        trials.time(&picks, stages, tuner, warn)?;
        let verdicts = trials.verdicts(&picks, tuner.gpu().unwrap_or_default());
        let first = trials.into_first();
        for (text, join) in verdicts {
            known.insert(text.clone(), join.way);
            tactics.set_join(target.arch, &text, join);
        }
        tuner.keep(tactics)?;
        if picks.iter().all(|pick| *pick == 0) {
            return first;
        }
        // Other regions, which may be joined in other ways; what is new in them is tuned as everything else is.
        let fused = measure_joined(stages, target, &mut known, &mut measured, tactics, tuner, warn)?;
        found = fused.1;
        chosen = measured.pick(fused.0, target, tactics, tuner);
    }
    Ok(chosen)
}

/// What is known by its text.
type Known = HashMap<String, Way>;

// What the file says for this architecture and GPU, and why the rest of it is not used.
fn from_file(target: &Target, tactics: &Tactics, gpu: Option<&str>) -> (Known, HashMap<String, String>) {
    let (mut known, mut refused) = (Known::new(), HashMap::new());
    for (text, join) in tactics.joins(target.arch) {
        let changed = join.families.iter().flatten().find(|family| {
            let (name, version) = family.split_once('/').unwrap_or_default();
            find(name).is_none_or(|f| f.version().to_string() != version)
        });
        let elsewhere = gpu.filter(|here| !join.gpu.is_empty() && *here != join.gpu);
        let why = match (elsewhere, changed) {
            (Some(here), _) => format!("it was settled on {}, this is {here}", join.gpu),
            (None, Some(family)) => format!("it was settled with `{family}`, which has changed"),
            (None, None) => {
                known.insert(text.to_owned(), join.way);
                continue;
            }
        };
        refused.insert(text.to_owned(), why);
    }
    (known, refused)
}

fn fuse(stages: &mut Stages<'_>, target: &Target, known: &Known) -> Result<(Regions, Vec<Alternative>)> {
    let known = |text: &str| known.get(text).copied();
    let mut judge = Judge::new(target, &known);
    let regions = (stages.fuse)(&mut judge)?;
    Ok((regions, judge.found()))
}

// Joins regions and measures what they need. What no kernel does right joined stays apart, and the file says so: a plan that is slower
// beats none.
fn measure_joined(
    stages: &mut Stages<'_>,
    target: &Target,
    known: &mut Known,
    measured: &mut Measured,
    tactics: &mut Tactics,
    tuner: &mut dyn Tuner,
    warn: &mut dyn FnMut(String),
) -> Result<(Regions, Vec<Alternative>)> {
    loop {
        let (regions, found) = fuse(stages, target, known)?;
        (stages.fused)(&regions);
        let (error, tried) = match measured.measure(&regions, target, tactics, Search::FULL, tuner, warn) {
            Ok(()) => return Ok((regions, found)),
            Err(Ended::Failed(error)) => return Err(error),
            Err(Ended::Unusable(error, tried)) => (error, tried),
        };
        // What it is about, or all that was joined, where the problem has been joined again since.
        let mut apart: Vec<Alternative> = found.into_iter().filter(|a| a.way == Way::Joined).collect();
        if apart.iter().any(|a| a.joined.contains(&error.at)) {
            apart.retain(|a| a.joined.contains(&error.at));
        }
        if apart.is_empty() {
            return Err(error);
        }
        for alternative in apart {
            warn(format!("`join {}` stays apart: {}", alternative.text, error.what));
            let gpu = tuner.gpu().unwrap_or_default().to_owned();
            let join = Join { way: Way::Apart, families: [vec![], tried.clone()], saved: 0.0, gpu };
            tactics.set_join(target.arch, &alternative.text, join);
            known.insert(alternative.text, Way::Apart);
        }
        tuner.keep(tactics)?;
    }
}

/// Alternatives that have one answer together.
struct Question {
    subject: String,
    /// What each answer says about each; the first is how it is.
    answers: Vec<BTreeMap<String, Way>>,
}

// What the cost models are not sure about and nobody knows, what takes longest first.
fn questions(found: &[Alternative], near: &RangeInclusive<f64>, asked: &BTreeSet<String>) -> Vec<Question> {
    let mut subjects: BTreeMap<&str, Vec<&Alternative>> = BTreeMap::new();
    for alternative in found.iter().filter(|a| !a.known && !asked.contains(&a.subject)) {
        subjects.entry(&alternative.subject).or_default().push(alternative);
    }
    let mut all: Vec<(f64, Question)> = Vec::new();
    for (subject, members) in subjects {
        let [joined, apart] =
            [0, 1].map(|way| members.iter().map(|a| a.estimates[way] * a.count as f64).sum::<f64>());
        if !near.contains(&(joined / apart)) {
            continue;
        }
        let answer = |way: &dyn Fn(&Alternative) -> Way| -> BTreeMap<String, Way> {
            members.iter().map(|a| (a.text.clone(), way(a))).collect()
        };
        let mut answers = vec![answer(&|a| a.way)];
        for way in [Way::Joined, Way::Apart] {
            let all = answer(&|_| way);
            if all != answers[0] {
                answers.push(all);
            }
        }
        all.push((apart, Question { subject: subject.to_owned(), answers }));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, question)| question).collect()
}

/// Answers tried in the whole plan.
struct Trials<'a> {
    questions: &'a [Question],
    known: &'a Known,
    target: &'a Target,
    /// What the trials need is measured apart from the rest, for it is measured less thoroughly.
    measured: Measured,
    tactics: Tactics,
    /// By answers: what was chosen, and the least time that it took.
    plans: BTreeMap<Vec<usize>, (Chosen, Option<f64>)>,
    began: Instant,
    patience: Duration,
    /// What one problem took to measure.
    each: Duration,
}

impl<'a> Trials<'a> {
    /// With `chosen` as what the first answers come to.
    fn new(
        chosen: Chosen,
        questions: &'a [Question],
        known: &'a Known,
        target: &'a Target,
        (measured, tactics): (Measured, Tactics),
        patience: Duration,
    ) -> Trials<'a> {
        let plans = BTreeMap::from([(vec![0; questions.len()], (chosen, None))]);
        let (began, each) = (Instant::now(), Duration::from_millis(500));
        Trials { questions, known, target, measured, tactics, plans, began, patience, each }
    }

    /// The answer to each question with which the plan is fastest.
    fn settle(
        &mut self,
        stages: &mut Stages<'_>,
        tuner: &mut dyn Tuner,
        warn: &mut dyn FnMut(String),
    ) -> Result<Vec<usize>> {
        let answers: Vec<usize> = self.questions.iter().map(|q| q.answers.len()).collect();
        let (began, patience) = (self.began, self.patience);
        decide(&answers, &[], &mut |picks| self.time(picks, stages, tuner, warn), &mut || {
            began.elapsed() < patience
        })
    }

    // `None` too where measuring what it needs would take longer than there is time.
    fn time(
        &mut self,
        picks: &[usize],
        stages: &mut Stages<'_>,
        tuner: &mut dyn Tuner,
        warn: &mut dyn FnMut(String),
    ) -> Result<Option<f64>> {
        if let Some(question) = picks.iter().rposition(|pick| *pick > 0) {
            tuner.ask((question + 1, picks.len()), &self.questions[question].subject);
        }
        if !self.plans.contains_key(picks) {
            let answers = self.questions.iter().zip(picks).flat_map(|(q, pick)| q.answers[*pick].clone());
            let mut known = self.known.clone();
            known.extend(answers);
            let (regions, _) = fuse(stages, self.target, &known)?;
            let missing =
                self.measured.missing(&regions, self.target, &self.tactics, tuner.gpu(), &mut |_| ()).len();
            let needed = self.each * u32::try_from(missing).unwrap_or(u32::MAX);
            if self.began.elapsed() + needed > self.patience {
                return Ok(None);
            }
            let start = Instant::now();
            let search = Search { most: FEW, kept: false };
            let done = self.measured.measure(&regions, self.target, &mut self.tactics, search, tuner, warn);
            match done {
                Ok(()) => (),
                Err(Ended::Failed(error)) => return Err(error),
                // What it is now can be done, or there would be nothing to compare with.
                Err(Ended::Unusable(why, _)) => {
                    warn(format!("what else could be joined or apart is not tried: {why}"));
                    return Ok(None);
                }
            }
            if missing > 0 {
                self.each = start.elapsed() / u32::try_from(missing).unwrap_or(u32::MAX);
            }
            let chosen = self.measured.pick(regions, self.target, &self.tactics, tuner);
            self.plans.insert(picks.to_vec(), (chosen, None));
        }
        let trials = self.questions.iter().map(|q| q.answers.len() - 1).sum();
        let Some((chosen, least)) = self.plans.get_mut(picks) else { return Ok(None) };
        let time = tuner.time_plan(&(stages.plan)(chosen)?, trials)?;
        *least = (*least).into_iter().chain(time).reduce(f64::min);
        Ok(time)
    }

    /// What the first answers came to.
    fn into_first(mut self) -> Result<Chosen> {
        let first = self.plans.remove(&vec![0; self.questions.len()]);
        let missing = || Error::new(Stage::Tune, "joins", "nothing was chosen to begin with");
        first.map(|(chosen, _)| chosen).ok_or_else(missing)
    }

    // What is known now of every question that was tried, by the text of what it is about.
    fn verdicts(&self, picks: &[usize], gpu: &str) -> Vec<(String, Join)> {
        let mut verdicts = Vec::new();
        for (at, question) in self.questions.iter().enumerate() {
            // Another answer beside the same answers to the other questions, whatever those were: at least so much is saved.
            let other =
                self.plans.iter().filter(|(other, _)| other[at] != picks[at]).filter_map(|(other, plan)| {
                    let mut this = other.clone();
                    this[at] = picks[at];
                    let (plan, this) = ((&plan.0, plan.1?), self.plans.get(&this)?);
                    Some((plan.1 - this.1?, differing(&this.0, plan.0)))
                });
            let Some((saved, families)) = other.min_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
            for (text, way) in &question.answers[picks[at]] {
                let (saved, gpu) = (saved.max(0.0), gpu.to_owned());
                verdicts.push((text.clone(), Join { way: *way, families: families.clone(), saved, gpu }));
            }
        }
        verdicts
    }
}

// The families of what the one has more of, and of what the other has more of.
fn differing(one: &Chosen, other: &Chosen) -> [Vec<String>; 2] {
    [(one, other), (other, one)].map(|(one, other)| {
        let count = |of: &Chosen, this: &Region| {
            of.regions.regions.iter().filter(|r| r.problem == this.problem).count()
        };
        let all = one.regions.regions.iter().zip(&one.choices);
        let more = all.filter(|(r, _)| count(one, r) > count(other, r));
        families(more.map(|(_, choice)| &choice.tactic))
    })
}
