//! Portable host kernels: the reference semantics of every [`problem`], multi-threaded, on plain slices.
//! They know nothing of graphs, ONNX or GPUs. Generated crates call them with their `host` feature; the compiler folds
//! constants and checks CUDA kernels with them.

pub mod dtype;
pub mod pointwise;
pub mod problem;
pub mod program;

pub use dtype::{Class, DType};
pub use pointwise::Pw;
pub use problem::Problem;
pub use program::{Instr, Program, Reg, Scalar};
