//! Portable host kernels: the reference semantics of every [`problem`], multi-threaded, on plain slices.
//! They know nothing of graphs, ONNX or GPUs. Generated crates call them with their `host` feature; the compiler folds
//! constants and checks CUDA kernels with them.
//!
//! [`run`] takes any problem and byte views; each kernel's module also has a typed function on plain slices. Those
//! take the problem by reference and trust its sizes only as far as the slices go: [`Problem::contract`] says what fits.
//! Narrow element types are widened to their class first (f16 to f32, i8 to i64), so every kernel exists once per class.

#[macro_use]
mod element;

pub mod arena;
pub mod arg_reduce;
pub mod attention;
pub mod cast;
pub mod concat;
pub mod contract;
pub mod conv;
pub mod conv_transpose;
pub mod cum_sum;
pub mod depthwise;
pub mod dtype;
pub mod excite;
pub mod gather;
pub mod gemm;
pub mod group_norm;
pub mod im2col;
pub mod interpret;
pub mod layer_norm;
pub mod lrn;
pub mod map;
pub mod matrix;
pub mod moments;
pub mod pad;
pub mod parallel;
pub mod parse;
pub mod pointwise;
pub mod pool;
pub mod problem;
pub mod program;
pub mod reduce;
pub mod resize;
pub mod run;
pub mod softmax;
#[cfg(any(feature = "sources", test))]
pub mod sources;
pub mod text;
pub mod top_k;
pub mod view;
pub mod walk;
pub mod work;

pub use arena::{Arena, at, constant, split};
pub use contract::{Contract, Operand};
pub use dtype::{Class, DType};
pub use element::{Element, Float, Lane, Number, Real};
pub use map::{map, map_in_place, read};
pub use pointwise::Pw;
pub use problem::Problem;
pub use program::{Instr, Program, Reg, Scalar};
pub use run::run;
pub use view::{RunError, View, ViewMut};
pub use work::Work;
