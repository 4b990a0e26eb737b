//! Choosing and settling tactics with a tuner that only pretends to have a GPU.

#![allow(clippy::unwrap_used)]

use bakelite::error::{Error, Result, Stage};
use bakelite::fuse::{self, Regions};
use bakelite::ir::Graph;
use bakelite::passes::{self, Options, TargetKind};
use bakelite::plan::{self, Plan};
use bakelite::tune::{self, Chosen, Job, Open, Tactics, Tuner, Verdict};
use bakelite_kernels::{Symbols, Target};
use std::time::Duration;

const MODEL: &str = r#"graph "g" {
  %0 = input "x": f32[256,512]
  %1 = input "y": f32[512,384]
  %2 = matmul(%0, %1) {trans_a=false trans_b=false math=exact}
  %3 = relu(%2)
  %4 = softmax(%3) {axis=1 log=false}
  output "z" = %4
}
"#;

fn regions() -> Regions {
    let graph: Graph = MODEL.parse().unwrap();
    let options = Options { target: TargetKind::Cuda, ..Options::default() };
    fuse::regions(passes::run(graph, &options, &mut ()).unwrap()).unwrap()
}

fn target() -> Target {
    Target::of("sm_90a".parse().unwrap())
}

/// Gives every candidate the time that `verdict` says for its place; notes what happens.
struct Fake<'a> {
    gpu: &'a str,
    verdict: &'a dyn Fn(usize) -> Verdict,
    /// Candidates of a family.
    most: usize,
    /// Fails once so many jobs are measured.
    interrupted_after: usize,
    /// How long it settles, before rivals are prepared and after.
    settling: [Duration; 2],
    plan_time: &'a dyn Fn(&Plan) -> f64,
    measured: Vec<String>,
    /// Family and estimate of each candidate, of each job.
    estimates: Vec<Vec<(String, f64)>>,
    kept: String,
}

impl Tuner for Fake<'_> {
    fn gpu(&self) -> Option<&str> {
        Some(self.gpu)
    }
    fn most_candidates(&self, _: usize) -> usize {
        self.most
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
        if self.measured.len() == self.interrupted_after {
            return Err(Error::new(Stage::Tune, "test", "interrupted"));
        }
        self.measured.push(job.problem.name().to_owned());
        self.estimates.push(job.candidates.iter().map(|c| (c.tactic.family.clone(), c.estimate)).collect());
        Ok((0..job.candidates.len()).map(self.verdict).collect())
    }
    fn settling(&self) -> Duration {
        self.settling[0]
    }
    fn prepare_rivals(&mut self, _: &[Open], _: &Target) -> Result<()> {
        self.settling[0] = self.settling[1];
        Ok(())
    }
    fn time_plan(&mut self, plan: &Plan, _: usize) -> Result<Option<f64>> {
        Ok(Some((self.plan_time)(plan)))
    }
    fn keep(&mut self, tactics: &Tactics) -> Result<()> {
        self.kept = tactics.print();
        Ok(())
    }
}

fn fake<'a>(gpu: &'a str, verdict: &'a dyn Fn(usize) -> Verdict) -> Fake<'a> {
    Fake {
        gpu,
        verdict,
        most: 4,
        interrupted_after: usize::MAX,
        settling: [Duration::from_secs(3600); 2],
        plan_time: &|_| 1.0,
        measured: vec![],
        estimates: vec![],
        kept: String::new(),
    }
}

fn choose(tuner: &mut Fake<'_>, tactics: &mut Tactics) -> (Result<Chosen>, Vec<String>) {
    let mut warnings = Vec::new();
    let chosen = tune::choose(regions(), &target(), tactics, tuner, &mut |w| warnings.push(w));
    (chosen, warnings)
}

fn settle(chosen: Chosen, tactics: &mut Tactics, tuner: &mut Fake<'_>) -> Chosen {
    let whole = bakelite::Target::Cuda(target());
    let mut make = |chosen: &Chosen| plan::build(chosen.clone(), &whole);
    tune::settle(chosen, &target(), tactics, tuner, &mut make).unwrap()
}

/// Slower the later.
fn ranked(at: usize) -> Verdict {
    Verdict::Time(10.0 + at as f64)
}

#[test]
fn what_is_wrong_is_named_and_never_chosen() {
    let first = choose(&mut fake("A", &ranked), &mut Tactics::default()).0.unwrap();
    let unlike = |at| match at {
        0 => Verdict::Wrong("error 1e0 over 1e-5".into()),
        1 => Verdict::Failed("too much shared memory".into()),
        2 => Verdict::Time(99.0),
        _ => Verdict::Time(f64::NAN),
    };
    let mut tactics = Tactics::default();
    let (chosen, warnings) = choose(&mut fake("A", &unlike), &mut tactics);
    for (choice, before) in chosen.unwrap().choices.iter().zip(&first.choices) {
        assert_ne!(choice.tactic, before.tactic);
        assert_eq!(choice.measured, Some(99.0));
    }
    let gemm = &first.choices[0].tactic;
    assert!(
        warnings.iter().any(|w| w.contains(&format!("`{gemm}` gives a wrong result: error 1e0"))),
        "{warnings:?}"
    );
    assert!(warnings.iter().any(|w| w.contains("failed: too much shared memory")), "{warnings:?}");
    assert!(!tactics.print().contains(&format!("| {gemm} |")), "{}", tactics.print());
}

/// A product that tensor cores take in several ways.
fn product() -> Regions {
    product_of(128, 384, 512)
}

fn product_of(m: u32, n: u32, k: u32) -> Regions {
    let text = format!(
        r#"graph "g" {{
  %0 = input "x": f16[{m},{k}]
  %1 = const "w": f16[{k},{n}] random:1
  %2 = matmul(%0, %1) {{trans_a=false trans_b=false math=exact}}
  output "y" = %2
}}
"#
    );
    fuse::regions(text.parse::<Graph>().unwrap()).unwrap()
}

#[test]
fn of_each_family_a_few_are_tried_and_more_only_where_they_promise_something() {
    let (mut tuner, mut tactics) = (Fake { most: 32, ..fake("A", &ranked) }, Tactics::default());
    tune::choose(product(), &target(), &mut tactics, &mut tuner, &mut |w| panic!("{w}")).unwrap();
    let candidates = &tuner.estimates[0];
    let best = candidates[0].1;
    let of = |name: &str| candidates.iter().filter(|(f, _)| f == name).collect::<Vec<_>>();
    let families: std::collections::BTreeSet<&String> = candidates.iter().map(|(f, _)| f).collect();
    assert!(families.len() > 2, "{families:?}");
    for family in families {
        let tried = of(family);
        let beyond = |from: usize, limit: f64| tried.iter().skip(from).all(|(_, e)| *e <= limit * best);
        assert!(!tried.is_empty() && beyond(4, 1.25) && beyond(1, 3.0), "{tried:?}");
    }
    assert!(of("gemm.mma").len() > 1);
    // Ordinary cores take many times as long: one, should all others be refused.
    assert_eq!(of("gemm.simt").len(), 1);
}

/// The rivals for a product whose candidates take so many µs, each a hundredth more than the one before.
fn rivals_from(fastest: f64) -> Vec<tune::Choice> {
    rivals_of(product(), &|at| Verdict::Time(fastest + at as f64 / 100.0))
}

fn rivals_of(product: Regions, verdict: &dyn Fn(usize) -> Verdict) -> Vec<tune::Choice> {
    let (mut tuner, mut tactics) = (Fake { most: 32, ..fake("A", verdict) }, Tactics::default());
    let chosen = tune::choose(product, &target(), &mut tactics, &mut tuner, &mut |w| panic!("{w}"));
    chosen.unwrap().open.swap_remove(0).rivals
}

#[test]
fn rivals_are_the_fastest_of_each_footprint_and_then_the_others() {
    let rivals = rivals_from(10.0);
    assert_eq!((rivals.len(), rivals[0].measured), (8, Some(10.0)));
    let footprint = |r: &tune::Choice| {
        let launch = &r.build.launches[0];
        let room = target().shared_per_multiprocessor / (launch.shared + 1024);
        let cluster: u32 = launch.cluster.map_or(1, |c| c.iter().product());
        (r.tactic.family.clone(), cluster, room.min(3))
    };
    let mut seen = std::collections::BTreeSet::new();
    let firsts: Vec<bool> = rivals.iter().map(|r| seen.insert(footprint(r))).collect();
    assert!(firsts.is_sorted_by(|a, b| a >= b), "{firsts:?}");
    // Clusters of two sizes at least, and two families.
    let clusters: std::collections::BTreeSet<_> = seen.iter().map(|(_, cluster, _)| cluster).collect();
    let families: std::collections::BTreeSet<_> = seen.iter().map(|(family, ..)| family).collect();
    assert!(clusters.len() > 1 && families.len() > 1, "{seen:?}");
    let times: Vec<f64> = rivals.iter().map(|r| r.measured.unwrap()).collect();
    let firsts = firsts.iter().filter(|f| **f).count();
    assert!(times[..firsts].is_sorted() && times[firsts..].is_sorted(), "{times:?}");
}

// What takes long runs at the clocks that power leaves, and power goes by the bytes that a tile moves.
#[test]
fn rivals_of_long_kernels_differ_in_their_tiles_first() {
    let mut rivals = rivals_from(20.0);
    // One is the first again, with a multiprocessor for each block.
    rivals.retain(|r| r.tactic.get("sole").is_err());
    let tile = |r: &tune::Choice| (r.tactic.family.clone(), r.tactic.get("m"), r.tactic.get("n"));
    let mut seen = std::collections::BTreeSet::new();
    let firsts: Vec<bool> = rivals.iter().map(|r| seen.insert(tile(r))).collect();
    assert!(firsts.len() == 7 && firsts.is_sorted_by(|a, b| a >= b), "{firsts:?}");
    assert!(seen.len() > 5, "{seen:?}");
}

#[test]
fn of_long_kernels_that_take_the_same_alone_what_reads_least_comes_first() {
    let first = |us: f64| {
        let rivals = rivals_of(product_of(4096, 3072, 768), &|_| Verdict::Time(us));
        let tile = |r: &tune::Choice| Some(r.tactic.get("m").ok()?.min(r.tactic.get("n").ok()?));
        (tile(&rivals[0]), rivals.iter().map(tile).max().unwrap())
    };
    let (long, widest) = first(31.0);
    assert!(long == widest && long > Some(128), "{long:?} of {widest:?}");
    // What is short has the power that it wants: the estimates' order stays.
    assert_ne!(first(3.0).0, long);
}

#[test]
fn where_nothing_is_right_there_is_an_error() {
    let wrong = |_| Verdict::Wrong("NaN".into());
    let mut tactics = Tactics::default();
    let error = choose(&mut fake("A", &wrong), &mut tactics).0.unwrap_err();
    assert!(error.what.contains("no tactic can be used") && error.what.contains("NaN"), "{error}");
    assert!(tactics.is_empty());
}

#[test]
fn an_interrupted_run_continues() {
    let all = choose(&mut fake("A", &ranked), &mut Tactics::default()).0.unwrap();
    let problems = all.choices.len();
    assert!(problems > 1);
    let mut broken = Fake { interrupted_after: 1, ..fake("A", &ranked) };
    assert!(choose(&mut broken, &mut Tactics::default()).0.is_err());
    let mut tactics = Tactics::parse(&broken.kept).unwrap();
    assert_eq!(tactics.len(), 1);
    let mut rest = fake("A", &ranked);
    assert_eq!(choose(&mut rest, &mut tactics).0.unwrap().choices, all.choices);
    assert_eq!((rest.measured.len(), tactics.len()), (problems - 1, problems));
    let mut nothing = fake("A", &ranked);
    choose(&mut nothing, &mut tactics).0.unwrap();
    assert!(nothing.measured.is_empty(), "{:?}", nothing.measured);
}

#[test]
fn entries_of_other_gpus_and_versions_are_named_and_measured_again() {
    let mut tactics = Tactics::default();
    choose(&mut fake("A", &ranked), &mut tactics).0.unwrap();
    let text = tactics.print();
    let problems = tactics.len();

    let mut other = fake("B", &ranked);
    let (_, warnings) = choose(&mut other, &mut tactics);
    assert_eq!(other.measured.len(), problems);
    assert!(warnings[0].contains("measured on A, this is B; measured again"), "{warnings:?}");
    assert!(tactics.print().contains(" | B\n") && !tactics.print().contains(" | A\n"), "{}", tactics.print());

    let old = text.replace("softmax/", "softmax/9");
    assert_ne!(old, text);
    let mut tuner = fake("A", &ranked);
    let (_, warnings) = choose(&mut tuner, &mut Tactics::parse(&old).unwrap());
    assert_eq!(tuner.measured, ["softmax"]);
    assert!(warnings[0].contains("`softmax` is version"), "{warnings:?}");

    // Without a GPU what the file says for the architecture is taken.
    let mut warnings = Vec::new();
    let mut tactics = Tactics::parse(&text).unwrap();
    let mut estimate = tune::Estimate;
    let chosen =
        tune::choose(regions(), &target(), &mut tactics, &mut estimate, &mut |w| warnings.push(w)).unwrap();
    assert!(chosen.choices.iter().all(|c| c.measured == Some(10.0)), "{warnings:?}");
    assert_eq!(tactics.print(), text);
}

#[test]
fn the_whole_plan_settles_and_the_file_records_it() {
    let mut tactics = Tactics::default();
    let alone = choose(&mut fake("A", &ranked), &mut tactics).0.unwrap();
    let best = alone.choices[0].tactic.clone();
    let open = alone.open.iter().find(|o| o.regions == [0]).unwrap();
    let second = open.rivals.iter().find(|r| r.measured == Some(11.0)).unwrap().tactic.clone();
    // In the whole plan the product's second tactic is faster.
    let plan_time = |plan: &Plan| {
        let tactic = &plan.steps[0].cuda.as_ref().unwrap().tactic;
        if *tactic == second { 90.0 } else { 100.0 }
    };
    let mut tuner = Fake { plan_time: &plan_time, ..fake("A", &ranked) };
    let settled = settle(alone, &mut tactics, &mut tuner);
    assert_eq!(settled.choices[0].tactic, second);
    assert!(settled.open.is_empty());
    for text in [tactics.print(), tuner.kept] {
        assert!(text.contains(&format!("| {second} | 11.00 | A")), "{text}");
        assert!(!text.contains(&format!("| {best} |")), "{text}");
    }
}

#[test]
fn what_preparing_takes_is_not_there_for_settling() {
    let trials = |settling: [u64; 2]| {
        let mut tactics = Tactics::default();
        let alone = choose(&mut fake("A", &ranked), &mut tactics).0.unwrap();
        let plans = std::cell::Cell::new(0);
        let plan_time = |_: &Plan| {
            plans.set(plans.get() + 1);
            1.0
        };
        let settling = settling.map(Duration::from_secs);
        let mut tuner = Fake { plan_time: &plan_time, settling, ..fake("A", &ranked) };
        settle(alone, &mut tactics, &mut tuner);
        plans.get()
    };
    // Of the plan as it is and as it was decided alone, once preparing has taken all of the time.
    assert_eq!((trials([0, 0]), trials([60, 0])), (0, 2));
    assert!(trials([60, 60]) > 2);
}

#[test]
fn blocks_get_a_multiprocessor_each_where_the_whole_plan_is_faster_so() {
    let (mut tactics, target) = (Tactics::default(), target());
    let mut tuner = Fake { most: 32, ..fake("A", &ranked) };
    let alone = tune::choose(product(), &target, &mut tactics, &mut tuner, &mut |w| panic!("{w}")).unwrap();
    let least = target.shared_per_multiprocessor / 2;
    let shared = |c: &tune::Choice| c.build.launches[0].shared;
    // The fastest whose blocks leave room, and right behind it the same kernel for blocks that have none beside them.
    let rivals = &alone.open[0].rivals;
    let at = rivals.iter().position(|r| shared(r) < least - 1024).unwrap();
    let (with, sole) = (&rivals[at], &rivals[at + 1]);
    assert_eq!(sole.tactic.to_string(), format!("{} sole1", with.tactic));
    assert_eq!((&sole.build.kernels, sole.measured), (&with.build.kernels, with.measured));
    assert!(2 * (shared(sole) + 1024) > target.shared_per_multiprocessor);
    assert_eq!(rivals.iter().filter(|r| r.tactic.get("sole").is_ok()).count(), 1);

    let (whole, wanted) = (bakelite::Target::Cuda(target.clone()), shared(sole));
    let of = |plan: &Plan| plan.steps[0].cuda.as_ref().unwrap().launches[0].shared;
    let plan_time = |plan: &Plan| if of(plan) == wanted { 90.0 } else { 100.0 };
    let mut tuner = Fake { plan_time: &plan_time, ..fake("A", &ranked) };
    settle(alone, &mut tactics, &mut tuner);
    // A build from the file is the same.
    let mut file = Tactics::parse(&tactics.print()).unwrap();
    let chosen =
        tune::choose(product(), &target, &mut file, &mut tune::Estimate, &mut |w| panic!("{w}")).unwrap();
    assert!(chosen.choices[0].tactic.to_string().ends_with(" sole1"), "{}", tactics.print());
    assert_eq!(of(&plan::build(chosen, &whole).unwrap()), wanted);
}

/// What the networks of the comparison were last tuned to.
#[test]
fn committed_tactics_can_be_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/tactics");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let tactics = Tactics::parse(&std::fs::read_to_string(&path).unwrap());
        assert!(!tactics.unwrap_or_else(|e| panic!("{}: {e}", path.display())).is_empty());
        files += 1;
    }
    assert!(files > 0);
}
