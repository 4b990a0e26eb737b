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
    /// PTX that the driver of any newer GPU can compile at load.
    pub ptx: Option<String>,
}

impl Images {
    /// The virtual architecture of the PTX: `compute_90` for PTX with `.target sm_90`.
    pub fn ptx_arch(&self) -> Option<String> {
        let line = self.ptx.as_ref()?.lines().find_map(|l| l.trim().strip_prefix(".target "))?;
        let arch = line.split(',').next()?.trim().strip_prefix("sm_")?;
        Some(format!("compute_{arch}"))
    }
}

/// Compiles every kernel of a CUDA plan, in parallel; `done` is called after each. With `ptx`, PTX of the architecture
/// without its specific features is made too: older GPUs than that cannot run the tactics of the plan.
pub fn compile(
    plan: &Plan,
    nvrtc: &Nvrtc,
    arch: Arch,
    ptx: bool,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Images>> {
    let one = |kernel: &crate::plan::KernelSource| {
        let fail = |e: bakelite_kernels::nvrtc::NvrtcError| {
            Error::new(Stage::Emit, format!("kernel {}", kernel.name), e.to_string())
        };
        let cubin = nvrtc.compile(&kernel.source, &kernel.name, arch).map_err(fail)?.cubin;
        let ptx = ptx
            .then(|| nvrtc.compile_ptx(&kernel.source, &kernel.name, arch.sm))
            .transpose()
            .map_err(fail)?;
        done();
        Ok(Images { name: kernel.name.clone(), cubin, ptx })
    };
    plan.kernels.par_iter().map(one).collect()
}
