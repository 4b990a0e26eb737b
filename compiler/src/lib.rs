//! Bakelite: an ahead-of-time compiler from ONNX to a standalone Rust crate with CUDA kernels and baked weights.

pub mod build_script;
pub mod emit;
pub mod error;
pub mod execute;
pub mod fuse;
pub mod ir;
pub mod npz;
pub mod nvrtc;
pub mod onnx;
pub mod ops;
pub mod passes;
pub mod pipeline;
pub mod plan;
pub mod target;
pub mod tune;

pub use build_script::{Build, build};
pub use error::{Error, Result, Stage};
pub use pipeline::compile;
pub use target::Target;
