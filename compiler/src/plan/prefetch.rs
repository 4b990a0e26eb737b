//! Weights asked into L2 by an earlier step. Ahead of time it is known what every step will read, so a step's weights need
//! not wait for the step: while one kernel computes, the memory brings what a later one needs.

use super::{ALIGNMENT, KernelSource, Place, Plan};
use crate::target::Target;
use bakelite_kernels::family::KERNEL_NAME;
use bakelite_kernels::{Problem, prefetch};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// Most that one kernel asks for: more would push out of L2 what is needed sooner.
const MOST: u64 = 16 << 20;

/// Gives kernels the weights of steps `distance` later to prefetch; 0 for none. Only for architectures that can.
pub(super) fn schedule(plan: &mut Plan, distance: usize) {
    if distance == 0 || !matches!(&plan.target, Target::Cuda(gpu) if gpu.arch.sm >= 90) {
        return;
    }
    let mut asked: Vec<Option<Range<u64>>> = vec![None; plan.steps.len()];
    let mut seen = BTreeSet::new();
    for reader in 0..plan.steps.len() {
        let Some(range) = wanted(plan, reader, &mut seen) else { continue };
        // The step `distance` earlier, or the nearest before that which can; near the start whichever there is.
        let mut before = (0..=reader.saturating_sub(distance)).rev().chain(1..reader);
        let with = |at: usize| match &asked[at] {
            None => Some(range.clone()),
            Some(asked) => joined(asked, &range),
        };
        let found =
            before.find_map(|at| (at < reader && can(plan, at)).then(|| with(at).map(|r| (at, r)))?);
        if let Some((at, range)) = found {
            asked[at] = Some(range);
        }
    }
    let mut kernels = Kernels { plan, made: HashMap::new() };
    for (step, range) in asked.into_iter().enumerate() {
        if let Some(range) = range {
            kernels.ask(step, &range);
        }
    }
    drop_unused(plan);
}

// The weights that a step is the first to read, as one range: from the first of them while they follow each other.
fn wanted(plan: &Plan, step: usize, seen: &mut BTreeSet<usize>) -> Option<Range<u64>> {
    let step = &plan.steps[step];
    let mut new: Vec<usize> = Vec::new();
    for place in &step.inputs {
        if let Place::Weight(w) = place
            && seen.insert(*w)
        {
            new.push(*w);
        }
    }
    // Of a table few rows are read.
    if matches!(step.problem, Problem::Gather(_)) {
        return None;
    }
    new.sort_unstable();
    let extent = |w: usize| {
        let weight = &plan.weights[w];
        weight.offset..(weight.offset + weight.bytes.len() as u64).next_multiple_of(ALIGNMENT)
    };
    let mut ranges = new.into_iter().map(extent);
    let first = ranges.next()?;
    let first = first.start..first.end.min(first.start + MOST);
    Some(ranges.fold(first, |sum, next| joined(&sum, &next).unwrap_or(sum)))
}

// Both as one range, if nothing much lies between them and it is not too long.
fn joined(asked: &Range<u64>, more: &Range<u64>) -> Option<Range<u64>> {
    let near = more.start >= asked.end && more.start - asked.end < 16 * ALIGNMENT;
    let end = more.end.min(asked.start + MOST);
    (near && end > asked.end).then_some(asked.start..end)
}

fn can(plan: &Plan, step: usize) -> bool {
    let launch = plan.steps[step].cuda.as_ref().and_then(|c| c.launches.first());
    launch.is_some_and(|l| l.programmatic && prefetch::can(&plan.kernels[l.kernel].source))
}

struct Kernels<'a> {
    plan: &'a mut Plan,
    made: HashMap<usize, usize>,
}

impl Kernels<'_> {
    fn ask(&mut self, step: usize, range: &Range<u64>) {
        let Some(launch) = self.plan.steps[step].cuda.as_mut().and_then(|c| c.launches.first_mut()) else {
            return;
        };
        let kernels = &mut self.plan.kernels;
        let old = launch.kernel;
        let new = self.made.get(&old).copied().or_else(|| {
            let KernelSource { name, source } = &kernels[old];
            let source = prefetch::prefetching(&source.replace(name.as_str(), KERNEL_NAME))?;
            let family = name.rsplit_once('_').map_or(name.as_str(), |(family, _)| family);
            let made = KernelSource::of(family, &source);
            kernels.push(made);
            Some(kernels.len() - 1)
        });
        let Some(new) = new else { return };
        self.made.insert(old, new);
        launch.kernel = new;
        let asked = prefetch::args(range.start, (range.end - range.start) as u32, &launch.grid);
        launch.args.extend(asked);
    }
}

// Kernels that every launch of has been given another.
fn drop_unused(plan: &mut Plan) {
    let launches = |plan: &mut Plan, f: &mut dyn FnMut(&mut usize)| {
        let steps = plan.steps.iter_mut().filter_map(|s| s.cuda.as_mut());
        steps.flat_map(|c| &mut c.launches).for_each(|l| f(&mut l.kernel));
    };
    let mut order: Vec<usize> = Vec::new();
    launches(plan, &mut |k| {
        let at = order.iter().position(|o| o == k).unwrap_or_else(|| {
            order.push(*k);
            order.len() - 1
        });
        *k = at;
    });
    plan.kernels = order.iter().map(|k| plan.kernels[*k].clone()).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Graph, Type, text::random};
    use crate::ops::MatMul;
    use crate::tune::{Estimate, Tactics, choose};
    use bakelite_host::DType;
    use bakelite_host::problem::Math;
    use bakelite_kernels::Arg;

    // Four products in a row, each with a weight of 128 KiB.
    fn plan(target: &str) -> Plan {
        let mut graph = Graph::new("chain");
        let mut value = graph.input("x", Type::new(DType::F16, &[64, 256]));
        for i in 0..4 {
            let weight = graph.constant(random(DType::F16, vec![256, 256], i), format!("w{i}"));
            value = graph
                .add(
                    MatMul { trans_a: false, trans_b: false, math: Math::Exact },
                    &[value, weight],
                    format!("product {i}"),
                )
                .unwrap()
                .into();
        }
        graph.outputs.push(("y".into(), value));
        let target: Target = target.parse().unwrap();
        let Target::Cuda(gpu) = &target else { unreachable!() };
        let regions = crate::fuse::regions(graph).unwrap();
        let chosen =
            choose(regions, gpu, &mut Tactics::default(), &mut Estimate, &mut |w| panic!("{w}")).unwrap();
        crate::plan::build(chosen, &target).unwrap()
    }

    fn asked(plan: &Plan) -> Vec<Vec<(u64, i64)>> {
        let of = |args: &[Arg]| match args {
            [.., Arg::Weights(at), Arg::Size(bytes), Arg::Size(_)] => Some((*at, bytes.as_const().unwrap())),
            _ => None,
        };
        let launches = plan.steps.iter().map(|s| &s.cuda.as_ref().unwrap().launches);
        launches.map(|l| l.iter().filter_map(|l| of(&l.args)).collect()).collect()
    }

    #[test]
    fn each_step_asks_for_the_weights_two_steps_on_and_the_first_for_the_second_as_well() {
        let plan = plan("sm_90a");
        let size = 256 * 256 * 2;
        assert_eq!(plan.weights.iter().map(|w| w.offset).collect::<Vec<_>>(), [0, 1, 2, 3].map(|i| i * size));
        let (one, two) = (size as i64, 2 * size as i64);
        assert_eq!(asked(&plan), [vec![(size, two)], vec![(3 * size, one)], vec![], vec![]]);
        let text = |step: usize| {
            let kernel = plan.steps[step].cuda.as_ref().unwrap().launches[0].kernel;
            plan.kernels[kernel].source.contains("cp.async.bulk.prefetch")
        };
        assert_eq!([0, 1, 2, 3].map(text), [true, true, false, false]);
        let used = |k: usize| {
            plan.steps.iter().flat_map(|s| &s.cuda.as_ref().unwrap().launches).any(|l| l.kernel == k)
        };
        assert!((0..plan.kernels.len()).all(used), "a kernel is left over");
    }

    #[test]
    fn older_gpus_have_no_such_instruction() {
        assert!(asked(&plan("sm_80")).iter().all(Vec::is_empty));
    }
}
