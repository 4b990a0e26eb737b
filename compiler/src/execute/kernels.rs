//! Kernel sources to images: cubin for the plan's architecture, PTX for every other GPU. Needs NVRTC, not a GPU.

use crate::error::{Error, Result, Stage};
use crate::plan::Plan;
use bakelite_kernels::{Arch, Nvrtc};
use rayon::prelude::*;

/// A kernel's images.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// The kernel's name.
    pub name: String,
    /// Machine code for one architecture.
    pub cubin: Vec<u8>,
    /// PTX that any newer GPU can compile at load, where the code is not specific to one architecture.
    pub ptx: Option<String>,
}

/// Compiles every kernel of a CUDA plan, in parallel; `done` is called after each. With `ptx`, PTX for that compute capability
/// (such as 80) is made too.
pub fn compile(
    plan: &Plan,
    nvrtc: &Nvrtc,
    arch: Arch,
    ptx: Option<u32>,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Images>> {
    let one = |kernel: &crate::plan::KernelSource| {
        let fail = |e: bakelite_kernels::nvrtc::NvrtcError| {
            Error::new(Stage::Emit, format!("kernel {}", kernel.name), e.to_string())
        };
        let cubin = nvrtc.compile(&kernel.source, &kernel.name, arch).map_err(fail)?.cubin;
        let ptx = ptx
            .map(|compute| nvrtc.compile_ptx(&kernel.source, &kernel.name, compute))
            .transpose()
            .map_err(fail)?;
        done();
        Ok(Images { name: kernel.name.clone(), cubin, ptx })
    };
    plan.kernels.par_iter().map(one).collect()
}
