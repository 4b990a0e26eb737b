//! The whole runtime of a generated Bakelite crate: the driver, memory, modules, launches, graphs, weights, errors.
//!
//! It knows nothing of ONNX, of the compiler or of any network. It never links CUDA: the driver is opened when the
//! first [`Gpu`] is, and everything that can be missing (the driver, a device, an image for it, memory, a file) is a
//! value of [`Error`], never a panic.
//!
//! # What "safe" means here
//! No function of this crate that is not marked `unsafe` reads or writes **host** memory it does not own, and the
//! parameters of a launch are checked against the kernel. What a kernel does with the device addresses it is given is
//! decided by whoever wrote the kernel and the launch: for a generated crate, the compiler.
#![allow(unsafe_code)]

pub mod branches;
mod context;
mod driver;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod launch;
pub mod memory;
pub mod module;
mod queues;
pub mod shaped;
#[cfg(any(feature = "sources", test))]
pub mod sources;
pub mod tensor_map;
pub mod weights;

pub use bytemuck;
pub use half;
pub use half::{bf16, f16};

pub use branches::Branches;
pub use error::{Error, Result};
pub use gpu::{Event, Gpu, Stream};
pub use graph::{Graph, GraphCache};
pub use launch::{Arg, Launch};
pub use memory::{DeviceBuffer, DevicePtr, PinnedBuffer, memcpy_dtod, memset};
pub use module::{Image, Kernel, KernelAttributes, Module};
pub use shaped::{Scalar, Shaped};
pub use tensor_map::{Element, Swizzle, TensorMap, Tiled, Windows};
#[cfg(feature = "file-weights")]
pub use weights::WeightsFile;

/// Includes the single-file form of a model that `build.rs` compiled into `OUT_DIR`: `include_model!("resnet50")`
/// is the text of `$OUT_DIR/resnet50/model.rs`. Put it in a module of its own.
#[macro_export]
macro_rules! include_model {
    ($name:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $name, "/model.rs"));
    };
}
