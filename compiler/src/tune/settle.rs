//! Settling by the whole plan: kernels timed one by one do not show how they overlap under programmatic launches, so where
//! several tactics of a problem are near to each other, the time of the whole plan under its one graph decides.

use super::{Choice, Chosen, Entry, Tactics, Tuner};
use crate::error::Result;
use crate::plan::Plan;
use bakelite_kernels::Target;
use std::collections::BTreeMap;
use std::time::Instant;

/// A problem whose tactics the whole plan has yet to decide between.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// The regions that stand for the problem.
    pub regions: Vec<usize>,
    /// Its tactics that were timed, the most promising first; the first is chosen now.
    pub rivals: Vec<Choice>,
}

/// The most tactics of one problem that are tried in the whole plan.
pub(super) const MOST_RIVALS: usize = 8;
/// A tactic that is this many times slower alone is not tried.
pub(super) const NEAR: f64 = 1.5;
/// Of two problems' tactics that are tried together, the first few of each.
const FEW: usize = 3;
/// A plan must be faster by this share to count as faster.
const NOISE: f64 = 0.0025;

/// Tries rivals in the whole plan for as long as the tuner allows, and records which of them it is faster with. `plan` makes
/// the plan of a choice.
pub fn settle(
    mut chosen: Chosen,
    target: &Target,
    tactics: &mut Tactics,
    tuner: &mut dyn Tuner,
    plan: &mut dyn FnMut(&Chosen) -> Result<Plan>,
) -> Result<Chosen> {
    let mut open = std::mem::take(&mut chosen.open);
    open.retain(|o| o.rivals.len() > 1);
    if tuner.settling().is_zero() || open.is_empty() {
        return Ok(chosen);
    }
    let cost = |o: &Open| o.rivals[0].measured.unwrap_or(0.0) * o.regions.len() as f64;
    open.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    tuner.prepare_rivals(&open, target)?;
    // What preparing took is not there for trials.
    let (began, patience) = (Instant::now(), tuner.settling());
    let rivals: Vec<usize> = open.iter().map(|o| o.rivals.len()).collect();
    let mut time = |picks: &[usize]| {
        put(&mut chosen, &open, picks);
        tuner.time_plan(&plan(&chosen)?, rivals.iter().map(|r| r - 1).sum())
    };
    let picks = decide(&rivals, &neighbours(&open), &mut time, &mut || began.elapsed() < patience)?;
    // Once more what was decided, so that the last time is its.
    time(&picks)?;
    for (open, pick) in open.iter().zip(&picks).filter(|(_, pick)| **pick > 0) {
        let Choice { tactic, measured: Some(microseconds), .. } = &open.rivals[*pick] else { continue };
        let problem = &chosen.regions.regions[open.regions[0]].problem;
        let gpu = tuner.gpu().unwrap_or_default().to_owned();
        tactics.set(target.arch, problem, Entry { tactic: tactic.clone(), microseconds: *microseconds, gpu });
    }
    tuner.keep(tactics)?;
    Ok(chosen)
}

fn put(chosen: &mut Chosen, open: &[Open], picks: &[usize]) {
    for (open, pick) in open.iter().zip(picks) {
        open.regions.iter().for_each(|at| chosen.choices[*at] = open.rivals[*pick].clone());
    }
}

/// For each question how it is best answered: `answers` says how many answers each has, the most promising first, and the first
/// is the one to beat; all second answers are tried, then all third ones, for time may run out, and at last those of `pairs` of questions
/// together. `time` says how long everything takes with these answers, or `None` if it cannot; `go_on` whether there is time for more.
pub fn decide(
    answers: &[usize],
    pairs: &[(usize, usize)],
    time: &mut dyn FnMut(&[usize]) -> Result<Option<f64>>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<usize>> {
    let picks = vec![0; answers.len()];
    let Some(best) = time(&picks)? else { return Ok(picks) };
    let mut tried = Attempts { picks, best, late: false, time, go_on };
    // An answer may suit the ones given after it less: as often as something changes, all over again.
    loop {
        let before = tried.picks.clone();
        for answer in 0..answers.iter().copied().max().unwrap_or(0) {
            for (question, count) in answers.iter().enumerate() {
                if answer < *count && answer != before[question] {
                    tried.attempt(&[(question, answer)])?;
                }
            }
        }
        if tried.picks == before {
            for (one, other) in pairs {
                let few = |question: usize| 0..answers[question].min(FEW);
                for (a, b) in few(*one).flat_map(|a| few(*other).map(move |b| (a, b))) {
                    tried.attempt(&[(*one, a), (*other, b)])?;
                }
            }
        }
        if tried.late || tried.picks == before {
            return Ok(tried.picks);
        }
    }
}

struct Attempts<'a> {
    picks: Vec<usize>,
    best: f64,
    /// Whether there was no time for an attempt.
    late: bool,
    time: &'a mut dyn FnMut(&[usize]) -> Result<Option<f64>>,
    go_on: &'a mut dyn FnMut() -> bool,
}

impl Attempts<'_> {
    // Tries these answers to these questions, all of them other ones than now, and keeps them if they are faster.
    fn attempt(&mut self, answers: &[(usize, usize)]) -> Result<()> {
        if self.late || answers.iter().any(|(question, answer)| self.picks[*question] == *answer) {
            return Ok(());
        }
        self.late = !(self.go_on)();
        if self.late {
            return Ok(());
        }
        let mut trial = self.picks.clone();
        answers.iter().for_each(|(question, answer)| trial[*question] = *answer);
        let faster = |time: f64, best: f64| time < best * (1.0 - NOISE);
        let Some(first) = (self.time)(&trial)?.filter(|t| faster(*t, self.best)) else { return Ok(()) };
        // It may have been luck, or the old one's bad luck: both once more, the old one judged by its best.
        self.best = (self.time)(&self.picks)?.map_or(self.best, |t| t.min(self.best));
        let Some(second) = (self.time)(&trial)? else { return Ok(()) };
        if faster(first.max(second), self.best) {
            (self.picks, self.best) = (trial, first.max(second));
        }
        Ok(())
    }
}

// Pairs of open problems of which one comes right behind the other, most often first: what overlaps.
fn neighbours(open: &[Open]) -> Vec<(usize, usize)> {
    let of = |region: usize| open.iter().position(|o| o.regions.contains(&region));
    let mut often: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (at, problem) in open.iter().enumerate() {
        let next = problem.regions.iter().filter_map(|region| of(region + 1)).filter(|next| *next != at);
        next.for_each(|next| *often.entry((at.min(next), at.max(next))).or_default() += 1);
    }
    let mut pairs: Vec<_> = often.into_iter().collect();
    pairs.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    pairs.into_iter().map(|(pair, _)| pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Times that add up, but for what `overlap` takes away; every call is counted.
    fn run(
        times: &[&[f64]],
        overlap: impl Fn(&[usize]) -> f64,
        most: usize,
    ) -> (Vec<usize>, Vec<Vec<usize>>) {
        let mut calls = Vec::new();
        let mut left = most;
        let answers: Vec<usize> = times.iter().map(|t| t.len()).collect();
        let mut time = |picks: &[usize]| {
            calls.push(picks.to_vec());
            let sum: f64 = picks.iter().zip(times).map(|(p, t)| t[*p]).sum();
            Ok(Some(sum - overlap(picks)))
        };
        let mut go_on = || {
            left = left.saturating_sub(1);
            left > 0
        };
        let picks = decide(&answers, &[(0, 1)], &mut time, &mut go_on).unwrap();
        (picks, calls)
    }

    #[test]
    fn what_is_faster_alone_stays_where_nothing_overlaps() {
        let (picks, calls) = run(&[&[10.0, 11.0, 12.0], &[5.0, 6.0]], |_| 0.0, 100);
        assert_eq!(picks, [0, 0]);
        let single = [vec![0, 0], vec![1, 0], vec![0, 1], vec![2, 0]];
        assert_eq!((&calls[..4], &calls[4..]), (&single[..], &[vec![1, 1], vec![2, 1]][..]));
    }

    #[test]
    fn the_whole_plan_decides() {
        // The second tactic of both is slower alone and hides more of what follows; of the first, the third even more.
        let hidden = |p: &[usize]| [0.0, 3.0, 5.0][p[0]] + [0.0, 2.0][p[1]];
        assert_eq!(run(&[&[10.0, 11.0, 12.0], &[5.0, 6.0]], hidden, 100).0, [2, 1]);
        // Only beside the second question's new answer is the first one's better: it is asked again.
        let together = |p: &[usize]| if p == [1, 1] { 3.0 } else { 0.0 };
        assert_eq!(run(&[&[10.0, 11.0], &[5.0, 4.0]], together, 100).0, [1, 1]);
        // Together they spoil it: the second question is answered with the first one's new answer in place.
        let spoilt = |p: &[usize]| if p == [1, 0] { 3.0 } else { 0.0 };
        assert_eq!(run(&[&[10.0, 11.0], &[5.0, 4.0]], spoilt, 100).0, [1, 0]);
    }

    #[test]
    fn two_questions_are_answered_together_where_neither_is_alone() {
        // A kernel that lets the next one start early, and one that gains by it: either alone is slower.
        let together = |p: &[usize]| if p == [1, 2] { 6.0 } else { 0.0 };
        let times: [&[f64]; 2] = [&[10.0, 11.0], &[5.0, 6.0, 7.0, 8.0]];
        assert_eq!(run(&times, together, 100).0, [1, 2]);
        // The fourth answer is not among the few.
        let far = |p: &[usize]| if p == [1, 3] { 6.0 } else { 0.0 };
        assert_eq!(run(&times, far, 100).0, [0, 0]);
        // What is better together may make another answer better alone.
        let again = |p: &[usize]| [0.0, 6.0, 9.0][usize::from(p[0] == 1) * p[1].saturating_sub(1).min(2)];
        assert_eq!(run(&times, again, 100).0, [1, 3]);
    }

    #[test]
    fn neighbours_are_the_problems_of_regions_behind_each_other() {
        let open = |regions: &[usize]| Open { regions: regions.to_vec(), rivals: vec![] };
        // Three layers of a, b, c; d in front.
        let open = [open(&[1, 4, 7]), open(&[2, 5, 8]), open(&[3, 6, 9]), open(&[0])];
        assert_eq!(neighbours(&open), [(0, 1), (1, 2), (0, 2), (0, 3)]);
        assert!(neighbours(&open[3..]).is_empty());
    }

    #[test]
    fn noise_does_not_decide() {
        // The first call had bad luck, so the trial looks faster by more than noise; the second look says otherwise.
        let (mut calls, times) = (0, [10.0, 9.99]);
        let mut time = |picks: &[usize]| {
            calls += 1;
            Ok(Some(times[picks[0]] * if calls == 1 { 1.01 } else { 1.0 }))
        };
        assert_eq!(decide(&[2], &[], &mut time, &mut || true).unwrap(), [0]);
        assert_eq!(calls, 4, "the first, the trial, and both again");
    }

    #[test]
    fn time_runs_out_and_trials_fail() {
        let (picks, calls) = run(&[&[10.0, 1.0], &[5.0, 1.0]], |_| 0.0, 2);
        assert_eq!((picks, calls.len()), (vec![1, 0], 4));
        let mut time = |picks: &[usize]| Ok((picks[0] != 1).then_some(10.0 - picks[0] as f64));
        assert_eq!(decide(&[3], &[], &mut time, &mut || true).unwrap(), [2]);
        assert_eq!(decide(&[3], &[], &mut |_: &[usize]| Ok(None), &mut || true).unwrap(), [0]);
    }
}
