//! The model `digits`, compiled by Bakelite for sm_90a, host.
//!
//! [`Model::infer`] takes [`Inputs`] and gives [`Outputs`]; shapes that the model fixes are array types, so the
//! compiler checks them. `plan.txt` lists every step, buffer and weight; README.md shows how to call it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(not(any(feature = "cuda", feature = "host")))]
compile_error!("enable the feature `cuda` or `host`");

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "host")]
mod host;
#[cfg(feature = "host")]
mod host_steps;
#[cfg(feature = "cuda")]
mod steps;

use std::sync::Arc;

#[cfg(feature = "cuda")]
pub use bakelite_runtime::{DevicePtr, Gpu, Stream};
pub use bakelite_runtime::{Error, Result};

/// What one inference takes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `x`: `f32[batch,1,8,8]`
    pub x: &'a [[[[f32; 8]; 8]; 1]],
}

/// What one inference gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// `logits`: `f32[batch,10]`
    pub logits: Vec<[f32; 10]>,
}

/// The sizes that the model leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// `batch`: 1 to 64.
    pub batch: i64,
}

/// Device addresses of inputs and outputs for [`Model::enqueue`]: dense, aligned to 16 bytes, not overlapping.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// `x`: 16384 bytes at most.
    pub x: DevicePtr,
    /// `logits`: 2560 bytes at most.
    pub logits: DevicePtr,
}

impl Inputs<'_> {
    /// The sizes of these inputs; an error where they disagree or lie outside what the model was compiled for.
    pub fn sizes(&self) -> Result<Sizes> {
        let batch = self.x.len() as i64;
        bakelite_runtime::error::check_range("batch", 1, 64, batch)?;
        Ok(Sizes { batch })
    }
}

/// The weights, in place for one device. Cheap to clone: any number of models share them.
#[derive(Clone)]
pub struct Weights(Kind);

#[derive(Clone)]
enum Kind {
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::Weights>),
    #[cfg(feature = "host")]
    Host(Arc<host::Weights>),
}

impl Weights {
    /// Uploads the weights and loads the kernels that suit the GPU.
    #[cfg(feature = "cuda")]
    pub fn load(gpu: &Gpu) -> Result<Weights> {
        Ok(Weights(Kind::Cuda(Arc::new(cuda::Weights::load(gpu)?))))
    }

    /// The weights for this machine's CPU.
    #[cfg(feature = "host")]
    pub fn host() -> Result<Weights> {
        Ok(Weights(Kind::Host(Arc::new(host::Weights::open()?))))
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Weights")
    }
}

/// The model with memory of its own. One inference at a time; make one for each thread, with shared [`Weights`].
pub struct Model(Engine);

enum Engine {
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Session>),
    #[cfg(feature = "host")]
    Host(host::Session),
}

impl Model {
    /// Puts the model on a GPU: weights uploaded, kernels loaded.
    #[cfg(feature = "cuda")]
    pub fn load(gpu: &Gpu) -> Result<Model> {
        Model::new(&Weights::load(gpu)?)
    }

    /// The model on this machine's CPU.
    #[cfg(feature = "host")]
    pub fn host() -> Result<Model> {
        Model::new(&Weights::host()?)
    }

    /// A model on the device that the weights are on.
    pub fn new(weights: &Weights) -> Result<Model> {
        Ok(
            Model(
                match &weights.0 {
                    #[cfg(feature = "cuda")]
                    Kind::Cuda(weights) => {
                        Engine::Cuda(Box::new(cuda::Session::new(weights.clone())?))
                    }
                    #[cfg(feature = "host")]
                    Kind::Host(weights) => {
                        Engine::Host(host::Session::new(weights.clone()))
                    }
                },
            ),
        )
    }

    /// Computes the outputs.
    pub fn infer(&mut self, inputs: &Inputs<'_>) -> Result<Outputs> {
        let sizes = &inputs.sizes()?;
        match &mut self.0 {
            #[cfg(feature = "cuda")]
            Engine::Cuda(session) => session.infer(inputs, sizes),
            #[cfg(feature = "host")]
            Engine::Host(session) => session.infer(inputs, sizes),
        }
    }

    /// Enqueues one inference on device memory and returns at once. The stream may be capturing. Calls on several
    /// streams at a time need a model each: they share its scratch memory.
    #[cfg(feature = "cuda")]
    pub fn enqueue(
        &mut self,
        stream: &Stream,
        buffers: &Buffers,
        sizes: &Sizes,
    ) -> Result<()> {
        match &mut self.0 {
            Engine::Cuda(session) => session.enqueue(stream, buffers, sizes),
            #[cfg(feature = "host")]
            Engine::Host(_) => {
                Err(Error::Busy {
                    what: "the model is on the host: it has no stream".to_owned(),
                })
            }
        }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Model(digits)")
    }
}
