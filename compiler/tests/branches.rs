//! Plans on several lanes: what they promise, what the tactics file keeps of them, and that a GPU makes the same of them.

#![allow(clippy::unwrap_used)]

use bakelite::Target;
use bakelite::error::Result;
use bakelite::fuse;
use bakelite::ir::{Graph, text::random};
use bakelite::passes::{self, Options, TargetKind};
use bakelite::plan::branches::{Order, dependencies};
use bakelite::plan::{self, Place, Plan};
use bakelite::tune::{self, Chosen, Estimate, Job, Tactics, Tuner, Verdict};
use bakelite_kernels::Symbols;

fn target() -> Target {
    "sm_90a".parse().unwrap()
}

// Two branches of three steps each.
fn chosen() -> Chosen {
    let text = include_str!("../../tests/tests/emitted/forked.mir");
    let graph: Graph = text.parse().unwrap();
    let options = Options { target: TargetKind::Cuda, ..Options::default() };
    let regions = fuse::regions(passes::run(graph, &options, &mut ()).unwrap()).unwrap();
    let gpu = target().gpu().unwrap().clone();
    tune::choose(regions, &gpu, &mut Tactics::default(), &mut Estimate, &mut |w| panic!("{w}")).unwrap()
}

fn on(lanes: usize) -> Plan {
    plan::build(Chosen { lanes, ..chosen() }, &target()).unwrap()
}

#[test]
fn steps_beside_each_other_share_no_memory() {
    let (one, two) = (on(1), on(2));
    assert_eq!((one.lanes, two.lanes), (1, 2));
    assert!(!one.to_string().contains("lane"), "{one}");
    assert!(two.to_string().contains("on 2 lanes") && two.to_string().contains("lane 1 after none"), "{two}");
    assert_eq!(one.key(), two.key());
    let order = Order::of(two.steps.iter().map(|s| s.after.as_slice()));
    for (at, needs) in dependencies(&two).iter().enumerate() {
        assert!(needs.iter().all(|need| order.before(*need, at)), "{two}");
    }
    // Pairs of steps without an order, and whether some buffers of theirs overlap.
    let conflicts = |plan: &Plan| {
        let memory = |at: usize| {
            let places = plan.steps[at].inputs.iter().chain(&plan.steps[at].outputs);
            let buffers = places.filter_map(|p| if let Place::Buffer(b) = p { Some(*b) } else { None });
            let workspace = plan.steps[at].cuda.as_ref().unwrap().workspace;
            buffers.chain(workspace).collect::<Vec<usize>>()
        };
        let overlap = |a: usize, b: usize| {
            let (a, b) = (&plan.buffers[a], &plan.buffers[b]);
            a.offset < b.offset + b.capacity && b.offset < a.offset + a.capacity
        };
        let beside = |a: usize, b: usize| !order.before(a, b) && !order.before(b, a);
        let (mut pairs, mut shared) = (0, 0);
        for then in 0..plan.steps.len() {
            for first in (0..then).filter(|first| beside(*first, then)) {
                pairs += 1;
                // Both may read one buffer.
                let both = |a: usize, b: usize| a != b && overlap(a, b);
                shared +=
                    usize::from(memory(first).iter().any(|a| memory(then).iter().any(|b| both(*a, *b))));
            }
        }
        (pairs, shared)
    };
    let (pairs, shared) = conflicts(&two);
    assert!(pairs > 3 && shared == 0, "{pairs} pairs, {shared} share memory:\n{two}");
    // Where they run one after the other they do share.
    assert!(conflicts(&one).1 > 0, "{one}");
}

/// A GPU on which plans take the time that is said for their number of lanes.
struct Fake {
    times: [f64; 4],
    timed: Vec<usize>,
}

impl Tuner for Fake {
    fn gpu(&self) -> Option<&str> {
        Some("A")
    }
    fn most_candidates(&self, _: usize) -> usize {
        1
    }
    fn prepare(
        &mut self,
        _: &[Job],
        _: &bakelite_kernels::Symbols,
        _: &bakelite_kernels::Target,
    ) -> Result<()> {
        Ok(())
    }
    fn measure(
        &mut self,
        job: &Job,
        _: &Symbols,
        _: &bakelite_kernels::Target,
        _: &mut dyn FnMut(String),
    ) -> Result<Vec<Verdict>> {
        Ok(vec![Verdict::Untried; job.candidates.len()])
    }
    fn time_plan(&mut self, plan: &Plan, _: usize) -> Result<Option<f64>> {
        self.timed.push(plan.lanes);
        Ok(Some(self.times[plan.lanes - 1]))
    }
}

#[test]
fn the_whole_plan_decides_and_the_file_keeps_it() {
    let (target, gpu) = (target(), target().gpu().unwrap().clone());
    let branch = |tactics: &mut Tactics, tuner: &mut dyn Tuner| {
        let mut make = |chosen: &Chosen| plan::build(chosen.clone(), &target);
        let chosen = tune::branch(chosen(), &gpu, tactics, tuner, &mut make).unwrap();
        plan::build(chosen, &target).unwrap()
    };
    let mut tactics = Tactics::default();
    let mut slower = Fake { times: [10.0, 11.0, 12.0, 12.0], timed: vec![] };
    assert_eq!(branch(&mut tactics, &mut slower), on(1));
    assert!(tactics.print().contains(" forked | lanes 1 | 10.00 | A\n"), "{}", tactics.print());
    // The file knows: nothing is timed again.
    let mut faster = Fake { times: [10.0, 9.0, 12.0, 12.0], timed: vec![] };
    assert_eq!((branch(&mut tactics, &mut faster), faster.timed.len()), (on(1), 0));

    let mut tactics = Tactics::default();
    let tuned = branch(&mut tactics, &mut faster);
    assert_eq!((&tuned, faster.timed.last()), (&on(2), Some(&2)));
    let text = tactics.print();
    assert!(text.contains(&format!("sm_90a | plan {} forked | lanes 2 | 9.00 | A\n", tuned.key())), "{text}");
    // Without a GPU, from the file; and one lane where it has no line.
    assert_eq!(branch(&mut Tactics::parse(&text).unwrap(), &mut Estimate), tuned);
    assert_eq!(branch(&mut Tactics::default(), &mut Estimate), on(1));
    // What was measured on another GPU is measured here.
    let mut elsewhere = Tactics::parse(&text.replace("| A", "| B")).unwrap();
    assert_eq!(branch(&mut elsewhere, &mut slower), on(1));
    assert!(elsewhere.print().contains("lanes 1 | 10.00 | A"), "{}", elsewhere.print());
}

#[cfg(feature = "cuda")]
#[test]
fn lanes_change_no_bit() {
    use bakelite::execute::{gpu::Session, kernels};
    let gpu = match bakelite_runtime::Gpu::open(0) {
        Ok(gpu) if gpu.compute_capability() == (9, 0) => gpu,
        Ok(gpu) => {
            return eprintln!("skipped: the plan is for sm_90a, this is {:?}", gpu.compute_capability());
        }
        Err(why) => return eprintln!("skipped: no GPU ({why})"),
    };
    let folder = std::env::var_os("BAKELITE_NVRTC").map(std::path::PathBuf::from);
    let nvrtc = bakelite_kernels::Nvrtc::open(folder.as_deref()).unwrap();
    let results = [1, 2].map(|lanes| {
        let plan = on(lanes);
        let arch = target().gpu().unwrap().arch;
        let images = kernels::compile(&plan, &nvrtc, arch, false, &|| ()).unwrap();
        let shape = plan.inputs[0].ty.shape.iter().map(|d| d.as_const().unwrap() as usize).collect();
        let input = random(plan.inputs[0].ty.dtype, shape, 7);
        let mut session = Session::load(&gpu, plan, &images).unwrap();
        (0..20).map(|_| session.infer(std::slice::from_ref(&input)).unwrap()).collect::<Vec<_>>()
    });
    let first = &results[0][0];
    assert!(results.iter().flatten().all(|r| r == first));
}
