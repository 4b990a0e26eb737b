//! Running a CUDA plan on a GPU of this machine, as a generated crate would: kernels loaded, weights uploaded, the steps
//! captured into one graph for each set of sizes.

use super::kernels::Images;
use super::{Sizes, bind, shape, value};
use crate::error::{Error, Result, Stage};
use crate::ir::Tensor;
use crate::plan::{CudaStep, Place, Plan, Step};
use bakelite_host::DType;
use bakelite_kernels::family::Allowance;
use bakelite_kernels::tensor_map::Piece;
use bakelite_kernels::{Arg as PlanArg, Dim, Launch as PlanLaunch, TensorMap as PlanMap};
use bakelite_runtime::{
    Arg, Branches, DeviceBuffer, DevicePtr, Element, Event, Gpu, Graph, GraphCache, Image, Kernel, Launch,
    Module, PinnedBuffer, Stream, Swizzle, TensorMap, Tiled, Windows,
};
use std::collections::HashMap;
use std::time::{Duration, Instant};

impl From<bakelite_runtime::Error> for Error {
    fn from(e: bakelite_runtime::Error) -> Error {
        Error::new(Stage::Run, "GPU", e.to_string())
    }
}

/// A CUDA plan loaded on a GPU.
pub struct Session {
    loaded: Loaded,
    graphs: GraphCache,
    staging_in: PinnedBuffer,
    staging_out: PinnedBuffer,
}

// What recording the steps needs; apart from the graphs, so that both can be borrowed at once.
struct Loaded {
    plan: Plan,
    kernels: Vec<Kernel>,
    weights: DeviceBuffer,
    arena: DeviceBuffer,
    stream: Stream,
}

/// Replays before the first that counts.
const WARM_UP: usize = 5;
/// Replays that the GPU is given ahead: between the events of one it would otherwise wait for the host to launch it.
const AHEAD: usize = 16;
/// How long replays are timed at least: a GPU that lowers its clocks to keep its power takes half of that for it.
const LONG_RUN: Duration = Duration::from_secs(1);

/// Times of repeated runs, µs.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// GPU time of each replay, by events; the GPU has the next replays before it ends one.
    pub gpu: Vec<f64>,
    /// Host-to-host time of each call: pinned copies in, replay, pinned copies out, synchronised.
    pub host: Vec<f64>,
}

impl Session {
    /// Loads kernels and weights.
    pub fn load(gpu: &Gpu, plan: Plan, images: &[Images]) -> Result<Session> {
        let stream = Stream::new(gpu)?;
        let arch = plan.target.to_string();
        let modules: HashMap<&str, &Images> = images.iter().map(|i| (i.name.as_str(), i)).collect();
        let mut kernels = Vec::new();
        for (i, source) in plan.kernels.iter().enumerate() {
            let image = modules.get(source.name.as_str()).ok_or_else(|| {
                Error::new(Stage::Run, format!("kernel {}", source.name), "was not compiled")
            })?;
            kernels.push(load_kernel(gpu, &arch, image, Allowance::of(i, plan.launches()))?);
        }
        let weights = DeviceBuffer::alloc(gpu, plan.weight_bytes as usize)?;
        for w in &plan.weights {
            weights.copy_from_host(&stream, w.offset as usize, &w.bytes)?;
        }
        let arena = DeviceBuffer::alloc(gpu, plan.arena as usize)?;
        // What was never written must not look like a result.
        arena.fill(&stream, 0xFF)?;
        let bytes = |ports: &[crate::plan::Port]| {
            ports.iter().map(|p| plan.buffers[p.buffer].capacity as usize).sum()
        };
        let (staging_in, staging_out) =
            (PinnedBuffer::alloc(gpu, bytes(&plan.inputs))?, PinnedBuffer::alloc(gpu, bytes(&plan.outputs))?);
        stream.synchronize()?;
        let loaded = Loaded { plan, kernels, weights, arena, stream };
        Ok(Session { loaded, graphs: GraphCache::new(8), staging_in, staging_out })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.loaded.plan
    }

    /// Computes the outputs, in the plan's order, from inputs in the plan's order.
    pub fn infer(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let sizes = bind(&self.loaded.plan, inputs)?;
        self.run(inputs, &sizes)?;
        let Loaded { plan, .. } = &self.loaded;
        let mut at = 0;
        let outputs = plan.outputs.iter().map(|port| {
            let shape = shape(port, &sizes);
            let len = shape.iter().product::<usize>() * port.ty.dtype.size();
            let bytes = bytes::Bytes::copy_from_slice(&self.staging_out[at..at + len]);
            at += plan.buffers[port.buffer].capacity as usize;
            Tensor { dtype: port.ty.dtype, shape, bytes }
        });
        Ok(outputs.collect())
    }

    // Copies in, replay, copies out; the outputs are in the staging buffer when it returns.
    fn run(&mut self, inputs: &[Tensor], sizes: &Sizes) -> Result<()> {
        let Session { loaded, graphs, staging_in, staging_out } = self;
        let Loaded { plan, arena, stream, .. } = &*loaded;
        let mut at = 0;
        for (port, tensor) in plan.inputs.iter().zip(inputs) {
            staging_in[at..at + tensor.bytes.len()].copy_from_slice(&tensor.bytes);
            at += plan.buffers[port.buffer].capacity as usize;
        }
        at = 0;
        for (port, tensor) in plan.inputs.iter().zip(inputs) {
            let offset = plan.buffers[port.buffer].offset as usize;
            arena.upload(stream, offset, staging_in, at..at + tensor.bytes.len())?;
            at += plan.buffers[port.buffer].capacity as usize;
        }
        loaded.graph(graphs, sizes)?.launch(stream)?;
        at = 0;
        for port in &plan.outputs {
            let len = shape(port, sizes).iter().product::<usize>() * port.ty.dtype.size();
            let offset = plan.buffers[port.buffer].offset as usize;
            arena.download(stream, offset, staging_out, at..at + len)?;
            at += plan.buffers[port.buffer].capacity as usize;
        }
        stream.synchronize()?;
        Ok(())
    }

    /// Times `iterations` runs on `inputs` after some to warm up; on the GPU at least as many, for a second.
    pub fn time(&mut self, inputs: &[Tensor], iterations: usize) -> Result<Timing> {
        let sizes = bind(&self.loaded.plan, inputs)?;
        let mut timing = Timing { gpu: vec![], host: vec![] };
        for i in 0..iterations + 10 {
            let began = Instant::now();
            self.run(inputs, &sizes)?;
            if i >= 10 {
                timing.host.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        timing.gpu = self.replay(&sizes, iterations, LONG_RUN)?;
        Ok(timing)
    }

    /// GPU time of replays one after the other, µs: at least `least` of them, and more for as long as `patience` lasts.
    pub fn time_replays(&mut self, inputs: &[Tensor], least: usize, patience: Duration) -> Result<Vec<f64>> {
        let sizes = bind(&self.loaded.plan, inputs)?;
        self.run(inputs, &sizes)?;
        self.replay(&sizes, least, patience)
    }

    /// Has the GPU replay `count` times, and does not wait for it.
    pub fn keep_busy(&mut self, inputs: &[Tensor], count: usize) -> Result<()> {
        let sizes = bind(&self.loaded.plan, inputs)?;
        let Session { loaded, graphs, .. } = self;
        let graph = loaded.graph(graphs, &sizes)?;
        (0..count).try_for_each(|_| Ok(graph.launch(&loaded.stream)?))
    }

    fn replay(&mut self, sizes: &Sizes, least: usize, patience: Duration) -> Result<Vec<f64>> {
        let Session { loaded, graphs, .. } = self;
        let graph = loaded.graph(graphs, sizes)?;
        let (mut times, began) = (Vec::new(), Instant::now());
        while times.len() < least + WARM_UP || began.elapsed() < patience {
            let mut marks = Marks::default();
            for _ in 0..=AHEAD {
                marks.around(&loaded.stream, || graph.launch(&loaded.stream))?;
            }
            // The first waited for the host.
            times.extend(marks.times(&loaded.stream)?.split_off(1));
        }
        Ok(times.split_off(WARM_UP))
    }

    /// GPU time of each step alone, µs: repeated in a graph of its own, so with its operands in L2 where they fit; for a second in all,
    /// as the whole is timed.
    pub fn time_steps(&mut self, inputs: &[Tensor]) -> Result<Vec<f64>> {
        let sizes = bind(&self.loaded.plan, inputs)?;
        self.run(inputs, &sizes)?;
        let Loaded { plan, stream, .. } = &self.loaded;
        let each = LONG_RUN / plan.steps.len().max(1) as u32;
        let time = |step| time_graph(stream, 20, each, |_| self.loaded.record(step, &sizes));
        plan.steps.iter().map(time).collect()
    }

    /// GPU time of each step in its place, µs: by how much the graph of the steps so far grows with it. Noise and overlap can
    /// make one negative.
    pub fn time_steps_in_place(&mut self, inputs: &[Tensor]) -> Result<Vec<f64>> {
        let sizes = bind(&self.loaded.plan, inputs)?;
        self.run(inputs, &sizes)?;
        let Loaded { plan, stream, .. } = &self.loaded;
        let part = |of: &[Step]| -> Result<Option<Graph>> {
            let record = |_: &Stream| of.iter().try_for_each(|s| self.loaded.record(s, &sizes));
            Ok(if of.is_empty() { None } else { Some(Graph::capture(stream, record)?) })
        };
        // The steps so far, and the rest: those weights come and go between the runs as they do in the whole.
        let launch = |graph: &Option<Graph>| graph.as_ref().map_or(Ok(()), |g| g.launch(stream));
        let time = |marks: &mut Marks, (first, rest): &(Option<Graph>, Option<Graph>)| -> Result<()> {
            marks.around(stream, || launch(first))?;
            Ok(launch(rest)?)
        };
        let split = |count: usize| -> Result<(Option<Graph>, Option<Graph>)> {
            let (first, rest) = plan.steps.split_at(count);
            Ok((part(first)?, part(rest)?))
        };
        let (mut without, mut times) = (split(0)?, Vec::new());
        for count in 1..=plan.steps.len() {
            let with = split(count)?;
            // With and without it in turns: clocks that sink by 3 % between the two would be 25 µs of 800.
            let mut marks = Marks::default();
            for _ in 0..10 {
                time(&mut marks, &without)?;
                time(&mut marks, &with)?;
            }
            let taken = marks.times(stream)?;
            // The first waited for the host.
            times.push(median(taken.chunks_exact(2).skip(1).map(|t| t[1] - t[0]).collect()));
            without = with;
        }
        Ok(times)
    }
}

impl Drop for Session {
    /// Waits for what the GPU still runs.
    fn drop(&mut self) {
        // Whoever waits for a result hears what went wrong.
        let _ = self.loaded.stream.synchronize();
    }
}

/// Events around each of several things that a stream is given to do one after the other.
#[derive(Default)]
struct Marks(Vec<(Event, Event)>);

impl Marks {
    fn around(
        &mut self,
        stream: &Stream,
        enqueue: impl FnOnce() -> bakelite_runtime::Result<()>,
    ) -> bakelite_runtime::Result<()> {
        let (start, end) = (Event::new(stream.gpu())?, Event::new(stream.gpu())?);
        start.record(stream)?;
        enqueue()?;
        end.record(stream)?;
        self.0.push((start, end));
        Ok(())
    }

    /// GPU time of each, µs; all have ended when this returns.
    fn times(&self, stream: &Stream) -> bakelite_runtime::Result<Vec<f64>> {
        stream.synchronize()?;
        self.0.iter().map(|(start, end)| Ok(f64::from(start.elapsed_us(end)?))).collect()
    }
}

/// GPU time of what `enqueue` puts on the stream, µs; it has ended when this returns.
pub(crate) fn time_once(
    stream: &Stream,
    enqueue: impl FnOnce() -> bakelite_runtime::Result<()>,
) -> Result<f64> {
    let mut marks = Marks::default();
    marks.around(stream, enqueue)?;
    Ok(marks.times(stream)?[0])
}

/// The middle one of some times.
pub(crate) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Median µs of one of `repeats` recordings, replayed in one graph a few times, and more for as long as `patience` lasts; `record` is
/// told which repeat it is.
pub(crate) fn time_graph(
    stream: &Stream,
    repeats: usize,
    patience: Duration,
    record: impl Fn(usize) -> bakelite_runtime::Result<()>,
) -> Result<f64> {
    let graph = Graph::capture(stream, |_| (0..repeats).try_for_each(&record))?;
    let (mut times, began) = (Vec::new(), Instant::now());
    while times.len() < 7 || began.elapsed() < patience {
        times.push(time_once(stream, || graph.launch(stream))? / repeats as f64);
    }
    // The first two also upload the graph and warm the caches.
    Ok(median(times.split_off(2)))
}

/// A kernel from its images, for launches that ask for so much.
pub(crate) fn load_kernel(gpu: &Gpu, arch: &str, images: &Images, allowed: Allowance) -> Result<Kernel> {
    const ALWAYS_ALLOWED: u32 = 48 * 1024;
    let mut list = vec![Image::new(arch, &images.cubin)];
    let ptx_arch = images.ptx_arch();
    if let (Some(arch), Some(ptx)) = (&ptx_arch, &images.ptx) {
        list.push(Image::new(arch, ptx.as_bytes()));
    }
    let at =
        |e: bakelite_runtime::Error| Error::new(Stage::Run, format!("kernel {}", images.name), e.to_string());
    let kernel = Module::load(gpu, &list).and_then(|m| m.kernel(&images.name)).map_err(at)?;
    if allowed.shared > ALWAYS_ALLOWED {
        kernel.set_max_dynamic_smem(allowed.shared).map_err(at)?;
    }
    if allowed.large_clusters {
        kernel.allow_large_clusters().map_err(at)?;
    }
    Ok(kernel)
}

impl Loaded {
    fn graph<'g>(&self, graphs: &'g mut GraphCache, sizes: &Sizes) -> Result<&'g Graph> {
        let key: Vec<i64> = sizes.values().copied().collect();
        Ok(graphs.get_or_capture(&key, &self.stream, |_| self.record_all(sizes))?)
    }

    // Every step, on its lane.
    fn record_all(&self, sizes: &Sizes) -> bakelite_runtime::Result<()> {
        let steps = &self.plan.steps;
        if self.plan.lanes == 1 {
            return steps.iter().try_for_each(|step| self.record(step, sizes));
        }
        let mut branches = Branches::begin(&self.stream)?;
        for (number, step) in steps.iter().enumerate() {
            branches.step(number, &step.after)?;
            self.record(step, sizes)?;
        }
        branches.join()
    }

    fn record(&self, step: &Step, sizes: &Sizes) -> bakelite_runtime::Result<()> {
        let Some(CudaStep { workspace, launches, .. }) = &step.cuda else { return Ok(()) };
        let buffer = |b: usize| self.arena.ptr().0 + self.plan.buffers[b].offset;
        let address = |place: &Place| match place {
            Place::Buffer(b) => buffer(*b),
            Place::Weight(w) => self.weights.ptr().0 + self.plan.weights[*w].offset,
        };
        let inputs: Vec<u64> = step.inputs.iter().map(address).collect();
        let outputs: Vec<u64> = step.outputs.iter().map(address).collect();
        let workspace = workspace.map_or(0, buffer);
        let places =
            Addresses { inputs: &inputs, outputs: &outputs, workspace, weights: self.weights.ptr().0 };
        launches
            .iter()
            .try_for_each(|l| launch(&self.kernels[l.kernel], &self.stream, l, &places, &|d| value(d, sizes)))
    }
}

/// Where a launch's operands are.
pub(crate) struct Addresses<'a> {
    pub(crate) inputs: &'a [u64],
    pub(crate) outputs: &'a [u64],
    pub(crate) workspace: u64,
    pub(crate) weights: u64,
}

const EMPTY: TensorMap = TensorMap::EMPTY;

/// The map that a launch asks for, which begins at `address`.
fn encode(gpu: &Gpu, map: &PlanMap<i64>, address: u64) -> bakelite_runtime::Result<TensorMap> {
    let element = if map.dtype == DType::BF16 { Element::BF16 } else { Element::F16 };
    let (address, swizzle) = (DevicePtr(address), Swizzle::B128);
    // Sizes are never negative; a list of another length than four is refused by the driver's check of ranks.
    let unsigned = |list: &[i64]| list.iter().map(|d| u64::try_from(*d).unwrap_or(0)).collect::<Vec<u64>>();
    let (dims, strides) = (unsigned(&map.dims), unsigned(&map.strides));
    match &map.piece {
        Piece::Tile(tile) => {
            let what = Tiled { element, address, dims: &dims, strides: &strides, tile, swizzle };
            TensorMap::tiled(gpu, &what)
        }
        Piece::Windows(w) => {
            let at = |list: &[u64], i: usize| list.get(i).copied().unwrap_or(0);
            let what = Windows {
                element,
                address,
                dims: [0, 1, 2, 3].map(|i| at(&dims, i)),
                strides: [0, 1, 2].map(|i| at(&strides, i)),
                corners: w.corners.map(|c| c.map(|d| i32::try_from(d).unwrap_or(i32::MAX))),
                steps: w.steps,
                channels: w.channels,
                windows: w.count,
                swizzle,
            };
            TensorMap::windows(gpu, &what)
        }
    }
}

/// Enqueues one launch of a build with actual addresses and sizes.
pub(crate) fn launch(
    kernel: &Kernel,
    stream: &Stream,
    launch: &PlanLaunch,
    places: &Addresses<'_>,
    value: &dyn Fn(&Dim) -> i64,
) -> bakelite_runtime::Result<()> {
    let maps = launch.args.iter().filter_map(|a| match a {
        PlanArg::Map(map) => {
            // Of a tensor that is not there the driver refuses the address.
            let (map, tensor) = (map.eval(value), map.of.among(places.inputs, places.outputs));
            let address = tensor.map_or(0, |tensor| tensor.wrapping_add_signed(map.offset));
            Some(encode(stream.gpu(), &map, address))
        }
        _ => None,
    });
    let maps = maps.collect::<bakelite_runtime::Result<Vec<_>>>()?;
    let mut maps = maps.iter();
    let args: Vec<Arg<'_>> = launch
        .args
        .iter()
        .map(|a| match a {
            PlanArg::Map(_) => Arg::Map(maps.next().unwrap_or(&EMPTY)),
            PlanArg::Input(i) => Arg::Ptr(places.inputs[*i]),
            PlanArg::Output(i) => Arg::Ptr(places.outputs[*i]),
            PlanArg::Workspace(offset) => Arg::Ptr(places.workspace + value(offset) as u64),
            PlanArg::Weights(offset) => Arg::Ptr(places.weights + offset),
            PlanArg::Size(d) => Arg::I32(i32::try_from(value(d)).unwrap_or(i32::MAX)),
        })
        .collect();
    let grid = launch.grid.each_ref().map(|d| u32::try_from(value(d)).unwrap_or(0));
    let shape = Launch {
        grid,
        block: launch.block,
        shared_bytes: launch.shared,
        cluster: launch.cluster,
        programmatic: launch.programmatic,
    };
    kernel.launch(stream, &shape, &args)
}
