//! ONNX in: [`decode`] takes a file's bytes to a [`Model`], and [`import`] a model to a graph. Everything here treats the
//! file as hostile: no panic, no allocation that the file's size does not bound, no path outside its folder.

pub mod attributes;
mod call;
pub mod external;
mod function;
mod import;
pub mod model;
mod ops;
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[rustfmt::skip]
pub mod proto;
mod sizes;
mod tensor;

pub use attributes::{Attribute, Attributes};
pub use external::Folder;
pub use import::{ImportOptions, import};
pub use model::{ExternalData, Model, Node, Scope, Source, ValueType, decode};
