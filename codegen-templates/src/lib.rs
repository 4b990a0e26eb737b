//! The text of the crates that Bakelite generates: manifest, typed API, sessions, steps, program, README. It knows nothing of
//! graphs, plans or kernels: the compiler hands over names, literals and expressions, and gets formatted source back.

mod api;
mod cuda;
pub mod format;
mod host;
mod manifest;
mod model;
mod program;
mod readme;
mod single;

pub use api::api;
pub use cuda::{cuda, cuda_steps};
pub use host::{host, host_steps};
pub use manifest::{Dependencies, manifest, vendored_host, vendored_runtime};
pub use model::{
    Cuda, CudaStep, Form, Host, HostStep, Kernel, Launch, Model, Port, Shape, Storage, Symbol, Weights,
};
pub use program::program;
pub use readme::readme;
pub use single::single;

/// What cannot be formatted: a bug in a template or an expression that is no Rust.
pub type Result<T, E = String> = std::result::Result<T, E>;
