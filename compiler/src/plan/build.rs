//! Building a plan: steps from regions, buffers for values, packed weights, kernels named and shared.

use super::arena::{Buffer, capacity, pack};
use super::branches::{self, Branch, Lives, Task};
use super::{ALIGNMENT, CudaStep, KernelSource, Place, Plan, Port, Step, Weight, prefetch};
use crate::error::{Error, Result, Stage};
use crate::fuse::{Region, Regions, root};
use crate::ir::{Graph, Type, Value};
use crate::target::Target;
use crate::tune::{self, Chosen};
use bakelite_kernels::{Dim, Pack};
use bytes::Bytes;
use std::collections::HashMap;

/// How many steps ahead weights are asked into L2: with one they come too late to help and in time to disturb (lab notes).
const AHEAD: usize = 2;

/// Weights that were packed for one plan, for the next plan of the same model. Told apart by where their data lies: graphs that were
/// fused in different ways may have different constants in one place.
#[derive(Default)]
pub struct Packed(HashMap<(usize, usize, usize, Option<Pack>), PackedWeight>);

#[derive(Clone)]
struct PackedWeight {
    /// Keeps the data where it lies.
    _source: Bytes,
    bytes: Bytes,
    hash: [u8; 32],
}

/// The plan of a model for a GPU.
pub fn build(chosen: Chosen, target: &Target) -> Result<Plan> {
    build_again(&chosen, target, &mut Packed::default())
}

/// As [`build`], with what was packed before; for trying choices one after the other.
pub fn build_again(chosen: &Chosen, target: &Target, packed: &mut Packed) -> Result<Plan> {
    let mut planner = Planner::new(&chosen.regions.graph, target, packed);
    let symbols = &chosen.regions.graph.symbols;
    let gpu = target.gpu().ok_or_else(|| Error::new(Stage::Plan, "target", "tactics are for GPUs"))?;
    for (region, choice) in chosen.regions.regions.iter().zip(&chosen.choices) {
        let placed = match &region.place {
            None => None,
            Some(_) => Some(
                tune::build(&region.placed(), &choice.tactic, symbols, gpu)
                    .map_err(|what| Error::new(Stage::Plan, format!("region {}", region.name), what))?,
            ),
        };
        let build = placed.as_ref().unwrap_or(&choice.build);
        let packs = &build.packs;
        let inputs = region.inputs.iter().enumerate();
        let inputs = inputs.map(|(i, v)| planner.place(*v, packs.get(i).and_then(Option::as_ref), region));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let outputs: Vec<Place> =
            region.outputs.iter().map(|v| planner.make(*v, region)).collect::<Result<_>>()?;
        let workspace = match build.workspace.is(0) {
            true => None,
            false => Some(planner.buffer(format!("workspace of {}", region.name), build.workspace.clone())?),
        };
        let kernels: Vec<usize> =
            build.kernels.iter().map(|k| planner.kernel(&choice.tactic.family, k)).collect();
        let mut launches = build.launches.clone();
        launches.iter_mut().for_each(|l| l.kernel = kernels[l.kernel]);
        // As the tactics file has it, so that a plan from the file is the same.
        let time = choice.measured.map(|t| format!("{t:.2}").parse().unwrap_or(t));
        planner.times.push(time.unwrap_or(choice.estimate));
        let cuda = CudaStep { tactic: choice.tactic.clone(), measured: choice.measured, workspace, launches };
        planner.step(region, inputs, outputs, Some(cuda));
    }
    let mut plan = planner.finish(&chosen.regions.graph, chosen.lanes)?;
    check_memory(&plan)?;
    prefetch::schedule(&mut plan, AHEAD);
    Ok(plan)
}

/// The plan of a model for the host: no tactics, nothing packed.
pub fn build_host(regions: Regions) -> Result<Plan> {
    let mut packed = Packed::default();
    let mut planner = Planner::new(&regions.graph, &Target::Host, &mut packed);
    for region in &regions.regions {
        let inputs = region.inputs.iter().map(|v| planner.place(*v, None, region)).collect::<Result<_>>()?;
        let outputs = region.outputs.iter().map(|v| planner.make(*v, region)).collect::<Result<_>>()?;
        planner.step(region, inputs, outputs, None);
    }
    planner.finish(&regions.graph, 1)
}

struct Planner<'a> {
    graph: &'a Graph,
    before: &'a mut Packed,
    plan: Plan,
    made: HashMap<Value, usize>,
    packed: HashMap<[u8; 32], usize>,
    kernels: HashMap<String, usize>,
    /// Of each step on a GPU, µs: measured, or estimated.
    times: Vec<f64>,
}

impl<'a> Planner<'a> {
    fn new(graph: &'a Graph, target: &Target, before: &'a mut Packed) -> Planner<'a> {
        let plan = Plan {
            name: graph.name.clone(),
            target: target.clone(),
            symbols: graph.symbols.clone(),
            inputs: vec![],
            outputs: vec![],
            buffers: vec![],
            arena: 0,
            lower_bound: 0,
            weights: vec![],
            weight_bytes: 0,
            kernels: vec![],
            steps: vec![],
            lanes: 1,
        };
        let mut planner = Planner {
            graph,
            before,
            plan,
            made: HashMap::new(),
            packed: HashMap::new(),
            kernels: HashMap::new(),
            times: vec![],
        };
        for (name, id) in &graph.inputs {
            let ty = graph.ty((*id).into()).clone();
            // An impossible size is reported when the plan is finished, by the input's name.
            let buffer = planner.raw_buffer(name.clone(), ty.bytes());
            planner.made.insert((*id).into(), buffer);
            planner.plan.inputs.push(Port { name: name.clone(), ty, buffer });
        }
        planner
    }

    fn raw_buffer(&mut self, name: String, bytes: Dim) -> usize {
        let now = self.plan.steps.len();
        let capacity = capacity(bytes.upper(&self.plan.symbols)).unwrap_or(u64::MAX);
        self.plan.buffers.push(Buffer { name, bytes, capacity, first: now, last: now, offset: 0 });
        self.plan.buffers.len() - 1
    }

    fn buffer(&mut self, name: String, bytes: Dim) -> Result<usize> {
        let at = self.raw_buffer(name, bytes);
        check_size(&self.plan.buffers[at])?;
        Ok(at)
    }

    fn make(&mut self, value: Value, region: &Region) -> Result<Place> {
        // Several regions may make one value, each its part.
        if region.place.is_some()
            && let Some(at) = self.made.get(&value)
        {
            self.plan.buffers[*at].last = self.plan.steps.len();
            return Ok(Place::Buffer(*at));
        }
        let ty = self.graph.ty(value);
        let at = self.buffer(region.name.clone(), ty.bytes())?;
        self.made.insert(value, at);
        Ok(Place::Buffer(at))
    }

    fn place(&mut self, value: Value, packing: Option<&Pack>, region: &Region) -> Result<Place> {
        let at_region = |what: String| Error::new(Stage::Plan, format!("region {}", region.name), what);
        if let Some(buffer) = self.made.get(&value) {
            if packing.is_some() {
                return Err(at_region(format!("its tactic packs {value}, which is not a constant")));
            }
            let now = self.plan.steps.len();
            self.plan.buffers[*buffer].last = now;
            return Ok(Place::Buffer(*buffer));
        }
        let data = self
            .graph
            .data(value)
            .ok_or_else(|| at_region(format!("its operand {value} is made by nothing")))?;
        let source = &data.bytes;
        let key = (source.as_ptr() as usize, source.len(), data.dtype.size(), packing.cloned());
        let PackedWeight { bytes, hash, .. } = match self.before.0.get(&key) {
            Some(known) => known.clone(),
            None => {
                let bytes = match packing {
                    None => data.bytes.clone(),
                    Some(p) => Bytes::from(p.apply(&data.bytes, data.dtype.size()).map_err(at_region)?),
                };
                let hash = *blake3::hash(&bytes).as_bytes();
                let packed = PackedWeight { _source: source.clone(), bytes, hash };
                self.before.0.insert(key, packed.clone());
                packed
            }
        };
        if let Some(weight) = self.packed.get(&hash) {
            return Ok(Place::Weight(*weight));
        }
        let text = match packing {
            None => Type::new(data.dtype, &data.shape).to_string(),
            Some(p) => format!("{} packed as {:?}", Type::new(data.dtype, &data.shape), p.shape),
        };
        let offset = self.plan.weight_bytes;
        self.plan.weight_bytes = (offset + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        let name = self.graph.node(value.node).name.clone();
        self.plan.weights.push(Weight { name, text, offset, bytes });
        self.packed.insert(hash, self.plan.weights.len() - 1);
        Ok(Place::Weight(self.plan.weights.len() - 1))
    }

    fn kernel(&mut self, family: &str, source: &str) -> usize {
        if let Some(at) = self.kernels.get(source) {
            return *at;
        }
        self.plan.kernels.push(KernelSource::of(family, source));
        self.kernels.insert(source.to_owned(), self.plan.kernels.len() - 1);
        self.plan.kernels.len() - 1
    }

    fn step(&mut self, region: &Region, inputs: Vec<Place>, outputs: Vec<Place>, cuda: Option<CudaStep>) {
        let (name, problem) = (region.name.clone(), region.placed());
        let after = self.plan.steps.len().checked_sub(1).into_iter().collect();
        self.plan.steps.push(Step { name, problem, inputs, outputs, lane: 0, after, cuda });
    }

    // Puts the steps on so many lanes, where that promises something.
    fn branch(&mut self, lanes: usize) {
        let plan = &mut self.plan;
        let few = plan.steps.len() <= branches::MOST_STEPS;
        let Some(gpu) = plan.target.gpu().filter(|_| lanes > 1 && few) else { return };
        let fills = plan.steps.iter().map(|s| branches::fills(s, &plan.symbols, gpu.multiprocessors));
        let tasks = branches::dependencies(plan).into_iter().zip(&self.times).zip(fills);
        let tasks: Vec<Task> =
            tasks.map(|((needs, time), fills)| Task { needs, time: *time, fills }).collect();
        if let Some(all) = branches::assign(&tasks, lanes) {
            plan.lanes = lanes;
            for (step, Branch { lane, after }) in plan.steps.iter_mut().zip(all) {
                (step.lane, step.after) = (lane, after);
            }
        }
    }

    fn finish(mut self, graph: &Graph, lanes: usize) -> Result<Plan> {
        let end = self.plan.steps.len();
        for (name, value) in &graph.outputs {
            let buffer = self.made.get(&root(graph, *value)).copied();
            let buffer = buffer
                .filter(|b| *b >= self.plan.inputs.len() && self.plan.outputs.iter().all(|o| o.buffer != *b));
            let buffer = buffer.ok_or_else(|| {
                let what = "has no buffer of its own";
                Error::new(Stage::Plan, format!("output {name}"), what)
            })?;
            self.plan.buffers[buffer].last = end;
            self.plan.buffers[buffer].name.clone_from(name);
            self.plan.outputs.push(Port { name: name.clone(), ty: graph.ty(*value).clone(), buffer });
        }
        // Inputs live throughout: a replay reads them again without a new copy.
        for input in &self.plan.inputs {
            self.plan.buffers[input.buffer].last = end;
            check_size(&self.plan.buffers[input.buffer])?;
        }
        self.branch(lanes);
        let (lives, buffers) =
            ((self.plan.lanes > 1).then(|| Lives::of(&self.plan)), self.plan.buffers.clone());
        let meet = |a: usize, b: usize| match &lives {
            None => buffers[a].lives_with(&buffers[b]),
            Some(lives) => lives.meet(a, b),
        };
        (self.plan.arena, self.plan.lower_bound) = pack(&mut self.plan.buffers, &meet);
        verify(&self.plan)?;
        Ok(self.plan)
    }
}

// More than any GPU has, so that no machine need find it out.
const MOST_MEMORY: u64 = 1 << 40;

fn check_memory(plan: &Plan) -> Result<()> {
    let needed = plan.arena.saturating_add(plan.weight_bytes);
    if needed <= MOST_MEMORY {
        return Ok(());
    }
    let largest = plan.buffers.iter().max_by_key(|b| b.capacity);
    let name =
        largest.map_or(String::new(), |b| format!("; the largest buffer is {} with {}", b.name, b.capacity));
    let what = format!("needs {needed} bytes of GPU memory, and no GPU has more than {MOST_MEMORY}{name}");
    Err(Error::new(Stage::Plan, format!("model {}", plan.name), what)
        .help("give the symbols of the shapes smaller ranges, or the inputs smaller sizes"))
}

fn check_size(buffer: &Buffer) -> Result<()> {
    if buffer.capacity != u64::MAX {
        return Ok(());
    }
    let what = format!("needs `{}` bytes, which is negative or more than any memory", buffer.bytes);
    Err(Error::new(Stage::Plan, format!("buffer {}", buffer.name), what)
        .help("give the symbols of the shape smaller ranges"))
}

/// Checks what executors and the emitter rely on: places exist, every buffer is written before it is read, steps come after those
/// that make what they read, and buffers alive together do not overlap.
pub(super) fn verify(plan: &Plan) -> Result<()> {
    let fail = |step: &Step, what: String| Err(Error::new(Stage::Plan, format!("step {}", step.name), what));
    let mut written: Vec<bool> = vec![false; plan.buffers.len()];
    plan.inputs.iter().for_each(|p| written[p.buffer] = true);
    for (at, step) in plan.steps.iter().enumerate() {
        let (inputs, outputs) = step.problem.arity();
        if (step.inputs.len(), step.outputs.len()) != (inputs, outputs) {
            return fail(step, format!("has {} operands, its problem takes {inputs}", step.inputs.len()));
        }
        for place in &step.inputs {
            match place {
                Place::Buffer(b) if !written[*b] => {
                    return fail(step, format!("reads buffer {b} before it is written"));
                }
                Place::Buffer(b) if !(plan.buffers[*b].first..=plan.buffers[*b].last).contains(&at) => {
                    return fail(step, format!("reads buffer {b} after its life"));
                }
                Place::Weight(w) if *w >= plan.weights.len() => {
                    return fail(step, format!("there is no weight {w}"));
                }
                _ => {}
            }
        }
        for place in &step.outputs {
            match place {
                Place::Buffer(b) => written[*b] = true,
                Place::Weight(w) => return fail(step, format!("writes weight {w}")),
            }
        }
    }
    if let Some((at, step)) = plan.steps.iter().enumerate().find(|(at, s)| s.after.iter().any(|a| a >= at)) {
        return fail(step, format!("is step {at} and comes after {:?}", step.after));
    }
    let lives = (plan.lanes > 1).then(|| Lives::of(plan));
    match &lives {
        None => {
            let chained = |at: usize| plan.steps[at].after.iter().copied().eq(at.checked_sub(1));
            if let Some(at) = (0..plan.steps.len()).find(|at| !chained(*at)) {
                return fail(
                    &plan.steps[at],
                    format!("is step {at} of one lane and comes after {:?}", plan.steps[at].after),
                );
            }
        }
        Some(lives) => {
            for (at, needs) in branches::dependencies(plan).iter().enumerate() {
                if let Some(need) = needs.iter().find(|need| !lives.order().before(**need, at)) {
                    let writer = &plan.steps[*need].name;
                    let what =
                        format!("reads what step {need} ({writer}) writes, and does not come after it");
                    return fail(&plan.steps[at], what);
                }
            }
        }
    }
    for (i, a) in plan.buffers.iter().enumerate() {
        for (j, b) in plan.buffers[..i].iter().enumerate() {
            let together = lives.as_ref().map_or_else(|| a.lives_with(b), |lives| lives.meet(i, j));
            if together && a.offset < b.offset + b.capacity && b.offset < a.offset + a.capacity {
                let what = format!("overlaps buffer {j} ({}) while both live", b.name);
                return Err(Error::new(Stage::Plan, format!("buffer {i} ({})", a.name), what));
            }
        }
    }
    Ok(())
}
