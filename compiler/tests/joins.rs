//! Regions joined or apart, settled by a tuner that only pretends to have a GPU, and found again in the tactics file.

#![allow(clippy::unwrap_used)]

use bakelite::error::Result;
use bakelite::ir::Graph;
use bakelite::pipeline::{self, Options, Tools};
use bakelite::plan::Plan;
use bakelite::tune::{Estimate, Job, Joining, Tactics, Tuner, Verdict};
use bakelite_kernels::{Symbols, Target};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A convolution to which another one is added, estimated to be faster joined, and two LayerNorms between products, estimated to
/// be faster apart. The second is asked about first, so that graphs have other constants under the same numbers.
const MODEL: &str = r#"graph "both" {
  %0 = input "x": f16[64,96]
  %1 = const "w" : f16[96,128] random:1
  %2 = matmul(%0, %1) {trans_a=false trans_b=false math=exact}
  %3 = const "scale": f16[128] random:2
  %4 = const "shift": f16[128] random:3
  %5 = layer_norm(%2, %3, %4) {rms=false axis=1 epsilon=1e-5}
  %6 = const "v": f16[128,256] random:4
  %7 = matmul(%5, %6) {trans_a=false trans_b=false math=exact}
  %8 = const "scale2": f16[256] random:5
  %9 = const "shift2": f16[256] random:6
  %10 = layer_norm(%7, %8, %9) {rms=false axis=1 epsilon=1e-5}
  %11 = const "u": f16[256,1024] random:7
  %12 = matmul(%10, %11) {trans_a=false trans_b=false math=exact}
  %13 = input "h": f16[1,14,14,128]
  %14 = input "wide": f16[1,28,28,64]
  %15 = const "window": f16[256,128,3,3] random:8
  %16 = const "one": f16[256,64,1,1] random:9
  %17 = conv(%13, %15) {strides=[1,1] dilations=[1,1] pads=[1,1] pads_end=[1,1] groups=1 layout=last math=exact}
  %18 = conv(%14, %16) {strides=[2,2] dilations=[1,1] pads=[0,0] pads_end=[0,0] groups=1 layout=last math=exact}
  %19 = add(%17, %18)
  %20 = relu(%19)
  output "y" = %12
  output "z" = %20
}
"#;

const ALL: RangeInclusive<f64> = 0.0..=f64::INFINITY;

/// Every candidate takes as long; a plan takes what `time` says.
struct Fake<'a> {
    gpu: &'a str,
    joining: Option<Joining>,
    time: &'a dyn Fn(&Plan) -> f64,
    /// Every candidate is wrong for problems whose text has this.
    wrong: Option<&'a str>,
    measured: usize,
    plans: usize,
    asked: BTreeSet<String>,
}

impl Tuner for Fake<'_> {
    fn gpu(&self) -> Option<&str> {
        Some(self.gpu)
    }
    fn most_candidates(&self, _: usize) -> usize {
        2
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
        self.measured += 1;
        let text = job.problem.to_string();
        if self.wrong.is_some_and(|what| text.contains(what)) {
            return Ok(vec![Verdict::Wrong("NaN".into()); job.candidates.len()]);
        }
        Ok((0..job.candidates.len()).map(|at| Verdict::Time(10.0 + at as f64)).collect())
    }
    fn joining(&self) -> Option<Joining> {
        self.joining.clone()
    }
    fn ask(&mut self, _: (usize, usize), about: &str) {
        self.asked.insert(about.to_owned());
    }
    fn time_plan(&mut self, plan: &Plan, _: usize) -> Result<Option<f64>> {
        self.plans += 1;
        Ok(Some((self.time)(plan)))
    }
}

fn fake<'a>(gpu: &'a str, time: &'a dyn Fn(&Plan) -> f64) -> Fake<'a> {
    let joining = Some(Joining { patience: Duration::from_secs(3600), near: ALL });
    Fake { gpu, joining, time, wrong: None, measured: 0, plans: 0, asked: BTreeSet::new() }
}

fn plan(tactics: &mut Tactics, tuner: &mut dyn Tuner) -> (Plan, Vec<String>) {
    let graph: Graph = MODEL.parse().unwrap();
    let mut warnings = Vec::new();
    let mut warn = |warning| warnings.push(warning);
    let mut tools = Tools { tactics, tuner, nvrtc: None, trace: &mut (), warn: &mut warn, compiled: &|_| () };
    let target = "sm_90a".parse().unwrap();
    let plan = pipeline::plan(graph, &target, &Options::default(), &mut tools).unwrap();
    (plan, warnings)
}

/// Steps that have another convolution added, and steps that know their rows.
fn joined(plan: &Plan) -> (usize, usize) {
    let count = |what: &str| plan.steps.iter().filter(|s| s.problem.to_string().contains(what)).count();
    (count(" added="), count(" rows "))
}

/// Slower with what is added, and with each LayerNorm that a product does: nothing is as estimated.
fn otherwise(plan: &Plan) -> f64 {
    let (added, rows) = joined(plan);
    100.0 + 10.0 * added as f64 + 20.0 * rows as f64
}

/// As estimated, but for what the sizes of things are.
fn as_estimated(plan: &Plan) -> f64 {
    let (added, rows) = joined(plan);
    100.0 - 10.0 * added as f64 - 20.0 * rows as f64
}

fn joins(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains("| join ")).collect()
}

fn identical(a: &Plan, b: &Plan) -> bool {
    a.to_string() == b.to_string() && a.kernels == b.kernels && a.weight_blob() == b.weight_blob()
}

#[test]
fn what_the_whole_plan_says_is_recorded_and_built_again_without_a_gpu() {
    let (estimated, _) = plan(&mut Tactics::default(), &mut Estimate);
    assert_eq!(joined(&estimated), (1, 2));
    let (mut tactics, mut tuner) = (Tactics::default(), fake("A", &otherwise));
    let (tuned, warnings) = plan(&mut tactics, &mut tuner);
    assert_eq!((joined(&tuned), warnings), ((0, 0), vec![]));
    assert_eq!(tuner.asked.len(), 3, "{:?}", tuner.asked);

    let text = tactics.print();
    let lines = joins(&text);
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("| join conv n=1 ") && lines[0].contains(" added=64 of [28,28] "), "{text}");
    assert!(lines[0].contains(" | apart by ") && lines[0].ends_with(" | saves 10.00 | A"), "{text}");
    for (line, len) in lines[1..].iter().zip([128, 256]) {
        assert!(line.contains(&format!("| join rows layer_norm rows=64 len={len} ")), "{text}");
        assert!(line.contains(" | apart by conv.") && line.contains(", not by "), "{text}");
        assert!(line.ends_with(" | saves 20.00 | A"), "{text}");
    }

    let mut file = Tactics::parse(&text).unwrap();
    let (built, warnings) = plan(&mut file, &mut Estimate);
    assert!(identical(&built, &tuned), "{built}\n{tuned}");
    assert_eq!((warnings, file.print()), (vec![], text.clone()));
    // Nothing is left to measure or to ask.
    let mut again = fake("A", &as_estimated);
    let (built, _) = plan(&mut file, &mut again);
    assert!(identical(&built, &tuned) && file.print() == text);
    assert_eq!((again.measured, again.plans), (0, 0));
}

/// Maxima that a convolution stores itself go where a concatenation wants them.
#[test]
fn what_is_pooled_is_placed() {
    let graph: Graph = r#"graph "first" {
  %0 = input "x": f16[1,64,64,3]
  %1 = const "w": f16[64,3,7,7] random:1
  %2 = conv(%0, %1) {strides=[2,2] dilations=[1,1] pads=[3,3] pads_end=[3,3] groups=1 layout=last math=exact}
  %3 = relu(%2)
  %4 = pool(%3) {kind=max kernel=[3,3] strides=[2,2] dilations=[1,1] pads=[1,1] pads_end=[1,1] ceil=false layout=last}
  %5 = input "other": f16[1,16,16,32]
  %6 = const "v": f16[64,32,1,1] random:2
  %7 = conv(%5, %6) {strides=[1,1] dilations=[1,1] pads=[0,0] pads_end=[0,0] groups=1 layout=last math=exact}
  %8 = concat(%4, %7) {axis=3}
  output "y" = %8
}
"#
    .parse()
    .unwrap();
    let mut tactics = Tactics::default();
    let mut tools = Tools {
        tactics: &mut tactics,
        tuner: &mut Estimate,
        nvrtc: None,
        trace: &mut (),
        warn: &mut |warning| panic!("{warning}"),
        compiled: &|_| (),
    };
    let target = "sm_90a".parse().unwrap();
    let plan = pipeline::plan(graph, &target, &Options::default(), &mut tools).unwrap();
    let placed = |s: &&bakelite::plan::Step| s.problem.epilogue().is_some_and(|e| e.place.is_some());
    let pooled = |s: &&bakelite::plan::Step| s.problem.to_string().contains(" pooled=[16,16] ");
    assert_eq!(plan.steps.len(), 2, "{plan}");
    assert_eq!((plan.steps.iter().filter(placed).count(), plan.steps.iter().filter(pooled).count()), (2, 1));
}

#[test]
fn what_was_estimated_well_stays_and_is_asked_once() {
    let (estimated, _) = plan(&mut Tactics::default(), &mut Estimate);
    for time in [&as_estimated as &dyn Fn(&Plan) -> f64, &|_| 100.0] {
        let (mut tactics, mut tuner) = (Tactics::default(), fake("A", time));
        let (tuned, _) = plan(&mut tactics, &mut tuner);
        assert_eq!(joined(&tuned), joined(&estimated));
        let text = tactics.print();
        let lines = joins(&text);
        assert!(lines.len() == 3 && lines.iter().all(|line| line.contains(" | joined by ")), "{text}");
        // What only the other way needs is not in the file.
        let problems: BTreeSet<String> = tuned.steps.iter().map(|s| s.problem.to_string()).collect();
        // The last line is the whole plan's, whose steps could run beside each other.
        assert!(text.lines().last().is_some_and(|line| line.contains(" both | lanes 1 | ")), "{text}");
        assert_eq!(tactics.len(), problems.len() + 3 + 1, "{text}");
        let mut again = fake("A", &otherwise);
        plan(&mut tactics, &mut again);
        assert_eq!((again.measured, again.plans), (0, 0));
    }
}

#[test]
fn what_cannot_be_done_right_another_way_ends_nothing_and_is_not_recorded() {
    let (mut tactics, mut tuner) =
        (Tactics::default(), Fake { wrong: Some("layer_norm "), ..fake("A", &otherwise) });
    let (tuned, warnings) = plan(&mut tactics, &mut tuner);
    assert_eq!(joined(&tuned), (0, 2));
    let text = tactics.print();
    assert!(joins(&text).len() == 1 && joins(&text)[0].contains(" | apart by "), "{text}");
    assert!(warnings.iter().any(|w| w.contains("is not tried: ") && w.contains("NaN")), "{warnings:?}");
}

#[test]
fn what_cannot_be_done_right_joined_stays_apart() {
    for (wrong, left, named) in [(" added=", (0, 2), 1), (" rows 256 ", (1, 1), 1), (" rows ", (1, 0), 2)] {
        let none = Some(Joining { patience: Duration::ZERO, near: ALL });
        let tuner = Fake { wrong: Some(wrong), joining: none, ..fake("A", &as_estimated) };
        let (mut tactics, mut tuner) = (Tactics::default(), tuner);
        let (tuned, warnings) = plan(&mut tactics, &mut tuner);
        assert_eq!(joined(&tuned), left, "{wrong}: {warnings:?}");
        let apart = warnings.iter().filter(|w| w.contains("` stays apart: no tactic can be used: "));
        assert_eq!(apart.count(), named, "{wrong}: {warnings:?}");
        // A build from the file knows, without a GPU and without a word.
        let text = tactics.print();
        let lines = joins(&text);
        assert!(lines.len() == named && lines.iter().all(|l| l.contains(" | apart, not by ")), "{text}");
        let (built, warnings) = plan(&mut Tactics::parse(&text).unwrap(), &mut Estimate);
        assert!(identical(&built, &tuned) && warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn verdicts_of_other_gpus_and_versions_are_named_and_settled_again() {
    let mut tactics = Tactics::default();
    plan(&mut tactics, &mut fake("A", &otherwise));
    let text = tactics.print();
    let mut here = fake("B", &as_estimated);
    let (tuned, warnings) = plan(&mut tactics, &mut here);
    assert_eq!(joined(&tuned), (1, 2));
    let named = warnings.iter().filter(|w| w.contains("`join ") && w.contains("settled on A, this is B"));
    assert_eq!(named.count(), 3, "{warnings:?}");
    let now = tactics.print();
    assert!(joins(&now).len() == 3 && joins(&now).iter().all(|line| line.ends_with(" | B")), "{now}");

    let line = joins(&text)[1];
    let family = line.split(" | apart by ").nth(1).unwrap().split([' ', ',']).next().unwrap();
    let changed = line.replacen(family, &format!("{}/99", family.split('/').next().unwrap()), 1);
    let old = text.replace(line, &changed);
    assert_ne!(old, text);
    let mut tuner = fake("A", &otherwise);
    let (tuned, warnings) = plan(&mut Tactics::parse(&old).unwrap(), &mut tuner);
    assert_eq!((joined(&tuned), tuner.asked.len()), ((0, 0), 1));
    assert!(
        warnings.len() == 1 && warnings[0].contains("/99`, which has changed; settled again"),
        "{warnings:?}"
    );
    // Without a GPU, what was estimated.
    let (built, warnings) = plan(&mut Tactics::parse(&old).unwrap(), &mut Estimate);
    assert_eq!((joined(&built), warnings.len()), ((0, 1), 1), "{warnings:?}");
}

#[test]
fn files_from_before_and_verdicts_on_nothing_here() {
    let mut tactics = Tactics::default();
    plan(&mut tactics, &mut fake("A", &as_estimated));
    let mut old = tactics.print();
    for line in joins(&tactics.print()) {
        old = old.replace(&format!("{line}\n"), "");
    }
    let before = "sm_90a | join conv n=7 added=1 | joined by conv.mma/1, not by nothing/1 | saves 1.00 | A\n";
    let (estimated, _) = plan(&mut Tactics::parse(&old).unwrap(), &mut Estimate);
    let mut file = Tactics::parse(&format!("{old}{before}")).unwrap();
    let (built, warnings) = plan(&mut file, &mut Estimate);
    assert!(identical(&built, &estimated) && warnings.is_empty(), "{warnings:?}");
    // The old file is asked what it does not know; the verdict on what is not here stays.
    let (tuned, _) = plan(&mut file, &mut fake("A", &otherwise));
    assert_eq!(joined(&tuned), (0, 0));
    assert!(joins(&file.print()).len() == 4 && file.print().contains(before), "{}", file.print());
}

#[test]
fn what_is_sure_is_not_asked_and_impatience_asks_nothing() {
    let near = |near| Some(Joining { patience: Duration::from_secs(3600), near });
    let none = Some(Joining { patience: Duration::ZERO, near: ALL });
    for (joining, asked) in [(near(ALL), 3), (near(0.0..=1.0), 3), (near(1.0..=9.0), 0), (none, 0), (None, 0)]
    {
        let (mut tactics, mut tuner) = (Tactics::default(), Fake { joining, ..fake("A", &otherwise) });
        let (tuned, _) = plan(&mut tactics, &mut tuner);
        assert_eq!((tuner.asked.len(), joins(&tactics.print()).len()), (asked, asked));
        assert!(identical(&plan(&mut tactics, &mut Estimate).0, &tuned));
    }
}
