//! Bakelite's CUDA kernels: sources (`cuda/*.cuh`), the families that specialise them, and NVRTC without a GPU.
//! Knows nothing of graphs or ONNX: it takes a [`Problem`] and gives sources and launches.

pub mod codegen;
pub mod dim;
pub mod families;
pub mod family;
pub mod nvrtc;
pub mod prefetch;
pub mod sole;
pub mod tactic;
pub mod target;
pub mod tensor_map;
pub mod trial;
pub mod wgmma;

pub use bakelite_host::Problem;
pub use dim::{Dim, Range, Symbols};
pub use families::FAMILIES;
pub use family::{Arg, Build, Family, Launch, Pack};
pub use nvrtc::Nvrtc;
pub use tactic::Tactic;
pub use target::{Arch, Target};
pub use tensor_map::TensorMap;
