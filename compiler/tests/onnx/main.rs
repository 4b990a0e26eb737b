//! ONNX in, from bytes to graph, without Python.
#![allow(missing_docs, clippy::unwrap_used)]

mod build;
mod conformance;
mod decode;
mod evaluate;
mod hostile;
mod import;
mod quantize;
mod shared;
