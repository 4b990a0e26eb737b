//! The graph IR: typed values, a closed set of operators ([`crate::ops`]), a graph on petgraph, its text form and verifier.
//! Knows nothing of ONNX, kernels' code or devices.

pub mod attribute;
pub mod graph;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use graph::{Graph, Kind, Node, NodeId, Value};
pub use tensor::Tensor;
pub use types::Type;
pub use verify::verify;
