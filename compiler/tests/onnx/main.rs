//! ONNX in, from bytes to graph, without Python.
#![allow(missing_docs, clippy::unwrap_used)]

mod build;
mod decode;
