//! Branches: steps that need nothing of each other, on a few lanes side by side. A lane's steps run one after the other in the
//! plan's order, as all of them do where there is one lane; where a step needs what another lane makes, it waits for that too.
//!
//! What holds for one lane must hold for several: a read comes after its writes, and memory is written anew after the last read of
//! what was there. A step waits ([`Step::after`]) for steps that themselves end only after all that they waited for, with
//! programmatic launches too: a kernel ends after its own `griddepcontrol.wait`, which returns when every kernel that it has an edge
//! from has ended, however early that one let it start. So "after" is transitive, and [`Order`] is what verifier and arena ask.

use super::{Place, Plan, Step};
use bakelite_kernels::Symbols;

/// The most lanes that a tuner tries.
pub const MOST_LANES: usize = 4;

/// What it is taken to cost a step to wait for another lane, µs. In graphs it is less, for these edges too are programmatic ones; the
/// networks measured gain no more where less is assumed.
const CROSSING: f64 = 0.5;

/// Lanes must promise to take away this share of the time.
const PROMISE: f64 = 0.02;

/// Most steps of a plan with branches: orders take their square in bits.
pub const MOST_STEPS: usize = 1 << 13;

/// Which steps come before which: for each the set of those that have ended when it begins.
pub struct Order(Vec<Vec<u64>>);

impl Order {
    /// Of steps that come after these earlier ones each, directly.
    pub fn of<'a>(after: impl Iterator<Item = &'a [usize]>) -> Order {
        let mut order = Order(Vec::new());
        after.for_each(|a| order.push(a));
        order
    }

    fn push(&mut self, after: &[usize]) {
        let mut before = vec![0u64; self.0.len().div_ceil(64)];
        for &step in after {
            before.iter_mut().zip(&self.0[step]).for_each(|(mine, its)| *mine |= its);
            before[step / 64] |= 1 << (step % 64);
        }
        self.0.push(before);
    }

    /// Whether `first` has ended when `then` begins.
    pub fn before(&self, first: usize, then: usize) -> bool {
        self.0[then].get(first / 64).is_some_and(|bits| bits >> (first % 64) & 1 == 1)
    }

    // Of these, those that the others do not come after already; ascending.
    fn last(&self, mut steps: Vec<usize>) -> Vec<usize> {
        steps.sort_unstable();
        steps.dedup();
        // What comes before one of them: the later is seen first, and nothing comes after what is later.
        let mut covered = vec![0u64; self.0.len().div_ceil(64)];
        let mut kept: Vec<usize> = Vec::new();
        for step in steps.into_iter().rev().filter(|s| *s < self.0.len()) {
            if covered[step / 64] >> (step % 64) & 1 == 0 {
                covered.iter_mut().zip(&self.0[step]).for_each(|(all, its)| *all |= its);
                kept.push(step);
            }
        }
        kept.reverse();
        kept
    }
}

/// For each step the earlier ones that write what it reads, ascending. Several may write one buffer, each its part, which none of
/// them reads: they need nothing of each other, and a reader is taken to need all that were before it.
pub fn dependencies(plan: &Plan) -> Vec<Vec<usize>> {
    let mut writers: Vec<Vec<usize>> = vec![vec![]; plan.buffers.len()];
    let one = |(at, step): (usize, &Step)| {
        let mut needs = Vec::new();
        for place in &step.inputs {
            if let Place::Buffer(b) = place {
                needs.extend(&writers[*b]);
            }
        }
        for place in &step.outputs {
            if let Place::Buffer(b) = place {
                writers[*b].push(at);
            }
        }
        needs.sort_unstable();
        needs.dedup();
        needs
    };
    plan.steps.iter().enumerate().map(one).collect()
}

/// For each buffer the steps that touch it.
pub(super) fn touches(plan: &Plan) -> Vec<Vec<usize>> {
    let mut touches: Vec<Vec<usize>> = vec![vec![]; plan.buffers.len()];
    for (at, step) in plan.steps.iter().enumerate() {
        let workspace = step.cuda.as_ref().and_then(|c| c.workspace).map(Place::Buffer);
        for place in step.inputs.iter().chain(&step.outputs).chain(&workspace) {
            if let Place::Buffer(b) = place
                && touches[*b].last() != Some(&at)
            {
                touches[*b].push(at);
            }
        }
    }
    touches
}

/// What two buffers may be to each other in a plan with branches.
pub(super) struct Lives {
    order: Order,
    touches: Vec<Vec<usize>>,
    /// Written before the first step, and read again by the next run.
    inputs: Vec<usize>,
    /// Read after the last step.
    outputs: Vec<usize>,
}

impl Lives {
    pub(super) fn of(plan: &Plan) -> Lives {
        let ports = |ports: &[super::Port]| ports.iter().map(|p| p.buffer).collect();
        Lives {
            order: Order::of(plan.steps.iter().map(|s| s.after.as_slice())),
            touches: touches(plan),
            inputs: ports(&plan.inputs),
            outputs: ports(&plan.outputs),
        }
    }

    /// Whether they may hold something at the same time: neither is done with before the other is begun.
    pub(super) fn meet(&self, a: usize, b: usize) -> bool {
        !self.ends_before(a, b) && !self.ends_before(b, a)
    }

    fn ends_before(&self, a: usize, b: usize) -> bool {
        let stays = self.inputs.contains(&a) || self.inputs.contains(&b) || self.outputs.contains(&a);
        let before = |first: &usize, then: &usize| self.order.before(*first, *then);
        !stays && self.touches[a].iter().all(|first| self.touches[b].iter().all(|then| before(first, then)))
    }

    pub(super) fn order(&self) -> &Order {
        &self.order
    }
}

/// A step's place among the lanes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Branch {
    pub(super) lane: usize,
    pub(super) after: Vec<usize>,
}

/// A step as far as its schedule goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Task {
    /// Earlier steps that it needs.
    pub(super) needs: Vec<usize>,
    /// Its time, µs.
    pub(super) time: f64,
    /// How much of the GPU it fills: from 0 to 1.
    pub(super) fills: f64,
}

/// How much of a GPU with so many multiprocessors a step fills.
pub(super) fn fills(step: &Step, symbols: &Symbols, multiprocessors: u32) -> f64 {
    let launches = step.cuda.iter().flat_map(|c| &c.launches);
    let blocks = launches.map(|l| l.grid.iter().map(|d| d.opt(symbols) as f64).product::<f64>());
    (blocks.fold(0.0, f64::max) / f64::from(multiprocessors)).clamp(0.0, 1.0)
}

/// The steps on `lanes` lanes, or `None` where that promises nothing. Each chain of steps goes where it can begin first; the steps of
/// one lane keep their order.
pub(super) fn assign(tasks: &[Task], lanes: usize) -> Option<Vec<Branch>> {
    if lanes < 2 {
        return None;
    }
    let chains = chains(tasks);
    let (mut lane_of, mut ends): (Vec<usize>, Vec<f64>) = (Vec::new(), Vec::new());
    let (mut tails, mut order): (Vec<Option<usize>>, _) = (vec![None; lanes], Order(Vec::new()));
    let mut branches: Vec<Branch> = Vec::new();
    for (at, task) in tasks.iter().enumerate() {
        let start = |lane: usize| {
            let free = tails[lane].map_or(0.0, |tail: usize| ends[tail]);
            let needs =
                task.needs.iter().map(|d| ends[*d] + if lane_of[*d] == lane { 0.0 } else { CROSSING });
            needs.fold(free, f64::max)
        };
        let latest = task.needs.iter().copied().max_by(|a, b| ends[*a].total_cmp(&ends[*b]));
        let home = latest.map_or(0, |d| lane_of[d]);
        let lane = match chains[at] == at {
            false => lane_of[chains[at]],
            // Where it is soonest, at home if that is as soon.
            true => (0..lanes).fold(home, |best, lane| if start(lane) < start(best) { lane } else { best }),
        };
        ends.push(start(lane) + task.time);
        lane_of.push(lane);
        let after = order.last(tails[lane].iter().chain(&task.needs).copied().collect());
        order.push(&after);
        branches.push(Branch { lane, after });
        tails[lane] = Some(at);
    }
    // Nor can it take less than what it would if the GPU were always full.
    let work: f64 = tasks.iter().map(|t| t.time * t.fills).sum();
    let (all, longest) =
        (tasks.iter().map(|t| t.time).sum::<f64>(), ends.iter().copied().fold(work, f64::max));
    let used = (1..lanes).all(|lane| lane_of.contains(&lane));
    (used && longest < all * (1.0 - PROMISE)).then_some(branches)
}

// For each step the first of its chain. A step continues a chain if it needs one step alone that it alone needs, but for what is
// needed through others anyway.
fn chains(tasks: &[Task]) -> Vec<usize> {
    let order = Order::of(tasks.iter().map(|t| t.needs.as_slice()));
    let needs: Vec<Vec<usize>> = tasks.iter().map(|t| order.last(t.needs.clone())).collect();
    let mut readers = vec![0; tasks.len()];
    needs.iter().flatten().for_each(|d| readers[*d] += 1);
    let mut chains: Vec<usize> = Vec::new();
    for (at, needs) in needs.iter().enumerate() {
        chains.push(match needs.as_slice() {
            &[one] if readers[one] == 1 => chains[one],
            _ => at,
        });
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(all: &[(&[usize], f64)]) -> Vec<Task> {
        all.iter().map(|(needs, time)| Task { needs: needs.to_vec(), time: *time, fills: 0.1 }).collect()
    }

    fn lanes(branches: &[Branch]) -> Vec<usize> {
        branches.iter().map(|b| b.lane).collect()
    }

    // A trunk, two branches of three steps, and what joins them.
    const FORK: [(&[usize], f64); 8] = [
        (&[], 2.0),
        (&[0], 2.0),
        (&[1], 2.0),
        (&[2], 2.0),
        (&[0], 2.0),
        (&[4], 2.0),
        (&[5], 2.0),
        (&[3, 6], 2.0),
    ];

    #[test]
    fn branches_run_beside_each_other_and_are_joined() {
        let branches = assign(&tasks(&FORK), 2).unwrap();
        assert_eq!(lanes(&branches)[..7], [0, 0, 0, 0, 1, 1, 1]);
        let after: Vec<&[usize]> = branches.iter().map(|b| b.after.as_slice()).collect();
        let expected: [&[usize]; 8] = [&[], &[0], &[1], &[2], &[0], &[4], &[5], &[3, 6]];
        assert_eq!(after, expected);
    }

    #[test]
    fn nothing_is_promised_where_nothing_is_gained() {
        let chain = tasks(&[(&[], 2.0), (&[0], 2.0), (&[1], 2.0)]);
        assert_eq!(assign(&chain, 2), None);
        // A third lane has nothing to do.
        assert_eq!(assign(&tasks(&FORK), 3), None);
        // Short branches stay where they are.
        let short: Vec<Task> = tasks(&FORK).into_iter().map(|t| Task { time: 0.1, ..t }).collect();
        assert_eq!(assign(&short, 2), None);
        // Steps that fill the GPU gain nothing beside each other.
        let full: Vec<Task> = tasks(&FORK).into_iter().map(|t| Task { fills: 1.0, ..t }).collect();
        assert_eq!(assign(&full, 2), None);
    }

    #[test]
    fn what_is_needed_through_others_makes_no_branch() {
        // A shortcut around two steps.
        let shortcut = tasks(&[(&[], 4.0), (&[0], 4.0), (&[1], 4.0), (&[0, 2], 4.0), (&[3], 4.0)]);
        assert_eq!(chains(&shortcut), [0; 5]);
        assert_eq!(assign(&shortcut, 2), None);
    }

    #[test]
    fn a_lane_runs_in_order_and_waits_for_what_others_make() {
        // Three heads on two lanes: whatever goes where, every need is met and every lane is in order.
        let mut all: Vec<(&[usize], f64)> = FORK.to_vec();
        all.extend([(&[0usize][..], 5.0), (&[7, 8], 4.0), (&[4], 6.0), (&[9, 10], 1.0)]);
        let all = tasks(&all);
        for count in [2, 3] {
            let branches = assign(&all, count).unwrap();
            let order = Order::of(branches.iter().map(|b| b.after.as_slice()));
            for (at, task) in all.iter().enumerate() {
                assert!(task.needs.iter().all(|d| order.before(*d, at)), "{at}: {branches:?}");
                let same = (0..at).filter(|s| branches[*s].lane == branches[at].lane);
                assert!(same.into_iter().all(|s| order.before(s, at)), "{at}: {branches:?}");
            }
        }
    }

    #[test]
    fn plans_that_break_the_order_are_refused() {
        use crate::plan::build::{build, verify};
        let text = include_str!("../../../tests/tests/emitted/forked.mir");
        let graph: crate::ir::Graph = text.parse().unwrap();
        let target: crate::Target = "sm_90a".parse().unwrap();
        let regions = crate::fuse::regions(graph).unwrap();
        let (mut tactics, gpu) = (crate::tune::Tactics::default(), target.gpu().unwrap().clone());
        let mut chosen =
            crate::tune::choose(regions, &gpu, &mut tactics, &mut crate::tune::Estimate, &mut |_| ())
                .unwrap();
        chosen.lanes = 2;
        let plan = build(chosen, &target).unwrap();
        assert_eq!(plan.lanes, 2, "{plan}");
        let refused = |change: &dyn Fn(&mut Plan)| {
            let mut plan = plan.clone();
            change(&mut plan);
            verify(&plan).unwrap_err().what
        };
        let needy = (0..plan.steps.len()).find(|at| !plan.steps[*at].after.is_empty()).unwrap();
        let early = refused(&|p| p.steps[needy].after.clear());
        assert!(early.contains("does not come after it"), "{early}");
        let late = refused(&|p| p.steps[needy].after = vec![needy]);
        assert!(late.contains("comes after"), "{late}");
        // The first steps of both lanes.
        let output = |lane: usize| match plan.steps.iter().find(|s| s.lane == lane).unwrap().outputs[0] {
            Place::Buffer(b) => b,
            Place::Weight(_) => unreachable!(),
        };
        let shared = refused(&|p| p.buffers[output(1)].offset = p.buffers[output(0)].offset);
        assert!(shared.contains("while both live"), "{shared}");
        let chain = refused(&|p| p.lanes = 1);
        assert!(chain.contains("of one lane"), "{chain}");
    }
}
