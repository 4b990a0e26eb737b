//! Bakelite: an ahead-of-time compiler from ONNX to a standalone Rust crate with CUDA kernels and baked weights.

pub mod error;
pub mod ir;
pub mod ops;
pub mod passes;

pub use error::{Error, Result, Stage};
