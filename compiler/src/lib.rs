//! Bakelite: an ahead-of-time compiler from ONNX to a standalone Rust crate with CUDA kernels and baked weights.

pub mod error;
pub mod fuse;
pub mod ir;
pub mod onnx;
pub mod ops;

pub use error::{Error, Result, Stage};
