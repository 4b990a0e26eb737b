//! The model on a GPU.

use crate::{Buffers, Inputs, Outputs, Result, Sizes, steps};
use bakelite_runtime::module::choose;
use bakelite_runtime::shaped;
use bakelite_runtime::{
    Arg, DeviceBuffer, DevicePtr, Error, Gpu, GraphCache, Image, Kernel, Launch, Module,
    PinnedBuffer, Scalar, Stream,
};
use std::sync::Arc;

bakelite_runtime::embed_weights!(
    fn steps_weights = digits_sm_90a_7f67d299,
    concat!(env!("CARGO_MANIFEST_DIR"), "/weights.sm_90a.bin")
);

/// How much memory a target needs, and where in it inputs and outputs are, in order.
pub(crate) struct Places {
    pub(crate) arena: usize,
    pub(crate) ports: [usize; 2],
}

/// Weights and kernels on a GPU.
pub(crate) struct Weights {
    gpu: Gpu,
    data: DeviceBuffer,
    kernels: Kernels,
}

/// The kernels of the target that suits the GPU.
enum Kernels {
    First(steps::Kernels),
}

impl Kernels {
    fn places(&self) -> &'static Places {
        match self {
            Kernels::First(_) => &steps::PLACES,
        }
    }

    fn enqueue(
        &self,
        stream: &Stream,
        weights: DevicePtr,
        arena: DevicePtr,
        io: &Buffers,
        sizes: &Sizes,
    ) -> Result<()> {
        match self {
            Kernels::First(k) => steps::enqueue(k, stream, weights, arena, io, sizes),
        }
    }
}

impl Weights {
    pub(crate) fn load(gpu: &Gpu) -> Result<Weights> {
        const ARCHS: [&str; 2] = ["sm_90a", "compute_90"];
        let (major, minor) = gpu.compute_capability();
        let (kernels, data) = match choose(&ARCHS, (major, minor)) {
            Some(0 | 1) => {
                (
                    Kernels::First(steps::Kernels::load(gpu)?),
                    DeviceBuffer::from_slice(gpu, &Stream::new(gpu)?, steps_weights())?,
                )
            }
            _ => {
                return Err(Error::NoImage {
                    device_arch: format!("sm_{major}{minor}"),
                    have: ARCHS.map(str::to_owned).to_vec(),
                });
            }
        };
        Ok(Weights {
            gpu: gpu.clone(),
            data,
            kernels,
        })
    }
}

/// Memory, stream and graphs for one inference at a time.
pub(crate) struct Session {
    weights: Arc<Weights>,
    stream: Stream,
    arena: DeviceBuffer,
    input: PinnedBuffer,
    output: PinnedBuffer,
    graphs: GraphCache,
}

impl Session {
    pub(crate) fn new(weights: Arc<Weights>) -> Result<Session> {
        let gpu = &weights.gpu;
        Ok(Session {
            stream: Stream::new(gpu)?,
            arena: DeviceBuffer::alloc(gpu, weights.kernels.places().arena)?,
            input: PinnedBuffer::alloc(gpu, 16384)?,
            output: PinnedBuffer::alloc(gpu, 2560)?,
            graphs: GraphCache::new(16),
            weights,
        })
    }

    pub(crate) fn infer(
        &mut self,
        inputs: &Inputs<'_>,
        sizes: &Sizes,
    ) -> Result<Outputs> {
        let places = self.weights.kernels.places();
        let Sizes { batch } = *sizes;
        stage(&mut self.input, 0, shaped::flat_rows(inputs.x));
        self.arena.upload(
            &self.stream,
            places.ports[0],
            &mut self.input,
            0..(64 * batch) as usize * 4,
        )?;
        let Session { weights, stream, arena, graphs, .. } = self;
        let graph = graphs.get_or_capture(
            &[sizes.batch],
            stream,
            |stream| {
                let arena = arena.ptr();
                let io = Buffers {
                    x: arena.add(places.ports[0]),
                    logits: arena.add(places.ports[1]),
                };
                weights
                    .kernels
                    .enqueue(stream, weights.data.ptr(), arena, &io, sizes)
            },
        )?;
        graph.launch(stream)?;
        self.arena.download(
            &self.stream,
            places.ports[1],
            &mut self.output,
            0..(10 * batch) as usize * 4,
        )?;
        self.stream.synchronize()?;
        let mut logits = shaped::rows_zeroed::<[f32; 10]>(batch as usize);
        fetch(
            &self.output[0..(10 * batch) as usize * 4],
            shaped::flat_rows_mut(&mut logits),
        )?;
        Ok(Outputs { logits })
    }

    pub(crate) fn enqueue(
        &mut self,
        stream: &Stream,
        io: &Buffers,
        sizes: &Sizes,
    ) -> Result<()> {
        self.weights
            .kernels
            .enqueue(stream, self.weights.data.ptr(), self.arena.ptr(), io, sizes)
    }
}

fn stage<T: Scalar>(pinned: &mut PinnedBuffer, at: usize, from: &[T]) {
    let bytes: &[u8] = bakelite_runtime::bytemuck::cast_slice(from);
    pinned[at..at + bytes.len()].copy_from_slice(bytes);
}

fn fetch<T: Scalar>(from: &[u8], to: &mut [T]) -> Result<()> {
    T::fill_from(
        to,
        |bytes| {
            bytes.copy_from_slice(from);
            Ok(())
        },
    )
}

/// A launch that may begin before the one ahead has ended: its kernel waits by itself.
pub(crate) const fn early(grid: [u32; 3], block: [u32; 3]) -> Launch {
    Launch {
        grid,
        block,
        shared_bytes: 0,
        cluster: None,
        programmatic: true,
    }
}

/// Enqueues one kernel.
pub(crate) fn launch(
    stream: &Stream,
    kernel: &Kernel,
    launch: Launch,
    args: &[Arg<'_>],
) -> Result<()> {
    kernel.launch(stream, &launch, args)
}

/// Loads one kernel, allowed what its launches ask for.
pub(crate) fn kernel(
    gpu: &Gpu,
    name: &str,
    images: &[Image<'_>],
    shared: u32,
    large_clusters: bool,
) -> Result<Kernel> {
    const ALWAYS_ALLOWED: u32 = 48 * 1024;
    let kernel = Module::load(gpu, images)?.kernel(name)?;
    if shared > ALWAYS_ALLOWED {
        kernel.set_max_dynamic_smem(shared)?;
    }
    if large_clusters {
        kernel.allow_large_clusters()?;
    }
    Ok(kernel)
}
