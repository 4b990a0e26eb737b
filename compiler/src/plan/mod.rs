//! The plan: steps in order, one arena with every buffer's place, packed weights, kernel sources. What the emitter writes
//! and the executors run; nothing is decided after it.

mod arena;
pub mod branches;
mod build;
mod prefetch;
mod print;

pub use arena::{Buffer, pack};
pub use build::{Packed, build, build_again, build_host};

use crate::ir::Type;
use crate::target::Target;
use bakelite_kernels::family::KERNEL_NAME;
use bakelite_kernels::{Dim, Launch, Problem, Symbols, Tactic};
use bytes::Bytes;

/// A compiled model for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The model's name.
    pub name: String,
    /// What it is for.
    pub target: Target,
    /// Symbols of the shapes, with their ranges.
    pub symbols: Symbols,
    /// The model's inputs in order.
    pub inputs: Vec<Port>,
    /// The model's outputs in order.
    pub outputs: Vec<Port>,
    /// Every buffer of the arena.
    pub buffers: Vec<Buffer>,
    /// Bytes of the arena.
    pub arena: u64,
    /// The most bytes alive at one time: no arena can be smaller.
    pub lower_bound: u64,
    /// Constant data as the kernels want it.
    pub weights: Vec<Weight>,
    /// Bytes of all weights, each at a multiple of [`ALIGNMENT`].
    pub weight_bytes: u64,
    /// Kernel sources by name, each once.
    pub kernels: Vec<KernelSource>,
    /// In order: run one after the other they are right, however many lanes there are.
    pub steps: Vec<Step>,
    /// How many of them may run beside each other ([`branches`]).
    pub lanes: usize,
}

/// Every buffer and weight begins at a multiple of this.
pub const ALIGNMENT: u64 = 256;

/// An input or output of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its public name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Its buffer.
    pub buffer: usize,
}

/// Constant data.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// From the model.
    pub name: String,
    /// What it is, for people: type and packing.
    pub text: String,
    /// Offset in the weights.
    pub offset: u64,
    /// The packed data.
    pub bytes: Bytes,
}

/// A kernel's CUDA C++.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelSource {
    /// Its entry point, unique in the plan: family and a hash of the source.
    pub name: String,
    /// The source as NVRTC compiles it.
    pub source: String,
}

/// The name that a plan gives to a kernel: its family and a hash of its source.
pub fn kernel_name(family: &str, source: &str) -> String {
    format!("{}_{}", family.replace('.', "_"), &blake3::hash(source.as_bytes()).to_hex()[..8])
}

impl KernelSource {
    /// Names the kernel in a family's source after the family and what the source says.
    fn of(family: &str, source: &str) -> KernelSource {
        let name = kernel_name(family, source);
        KernelSource { source: source.replace(KERNEL_NAME, &name), name }
    }
}

/// Where an operand or result lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A buffer of the arena.
    Buffer(usize),
    /// A weight.
    Weight(usize),
}

/// One step: a region made executable.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The region's name.
    pub name: String,
    /// What it computes.
    pub problem: Problem<Dim>,
    /// Operands in the problem's order.
    pub inputs: Vec<Place>,
    /// Results in the problem's order.
    pub outputs: Vec<Place>,
    /// Which lane it is on; 0 where there is one.
    pub lane: usize,
    /// The earlier steps that must have ended when it begins, less those that come before these anyway. With one lane, the one
    /// before it.
    pub after: Vec<usize>,
    /// How, on a GPU; `None` on the host.
    pub cuda: Option<CudaStep>,
}

/// How a GPU runs a step.
#[derive(Clone, Debug, PartialEq)]
pub struct CudaStep {
    /// The tactic.
    pub tactic: Tactic,
    /// Measured µs, if it was.
    pub measured: Option<f64>,
    /// Scratch memory, if any: a buffer of the arena.
    pub workspace: Option<usize>,
    /// Launches in order; `Launch::kernel` indexes [`Plan::kernels`].
    pub launches: Vec<Launch>,
}

impl Plan {
    /// Arena bytes over the lower bound: 1 is perfect.
    pub fn arena_ratio(&self) -> f64 {
        if self.lower_bound == 0 { 1.0 } else { self.arena as f64 / self.lower_bound as f64 }
    }

    /// Every launch of every step.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> + Clone {
        self.steps.iter().filter_map(|s| s.cuda.as_ref()).flat_map(|c| &c.launches)
    }

    /// Names what the plan computes, and what of it needs what, whatever kernels do it: the key of choices for the whole plan.
    pub fn key(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for (step, needs) in self.steps.iter().zip(branches::dependencies(self)) {
            hash.update(format!("{} after {needs:?}\n", step.problem).as_bytes());
        }
        hash.finalize().to_hex()[..16].to_owned()
    }

    /// All weights in one piece, as uploaded and written to `weights.bin`.
    pub fn weight_blob(&self) -> Vec<u8> {
        let mut blob = vec![0u8; usize::try_from(self.weight_bytes).unwrap_or(0)];
        for w in &self.weights {
            let at = w.offset as usize;
            blob[at..at + w.bytes.len()].copy_from_slice(&w.bytes);
        }
        blob
    }
}
