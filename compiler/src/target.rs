//! What the compiler compiles for: this machine's CPU, or a CUDA architecture.

use bakelite_kernels::{Arch, Target as Gpu};
use std::fmt;
use std::str::FromStr;

/// One target of a generated crate.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Portable Rust kernels: the oracle, and where there is no GPU.
    Host,
    /// CUDA kernels for one architecture.
    Cuda(Gpu),
}

impl Target {
    /// The GPU's figures, for a CUDA target.
    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Target::Host => None,
            Target::Cuda(gpu) => Some(gpu),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Host => f.write_str("host"),
            Target::Cuda(gpu) => write!(f, "{}", gpu.arch),
        }
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(s: &str) -> Result<Target, String> {
        if s == "host" {
            return Ok(Target::Host);
        }
        s.parse::<Arch>().map(|arch| Target::Cuda(Gpu::of(arch))).map_err(|e| format!("{e}, or `host`"))
    }
}
