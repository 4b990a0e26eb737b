//! The GPU a kernel is built for: its architecture and the few numbers that tactics are ranked by.

use std::fmt;
use std::str::FromStr;

/// A CUDA architecture such as `sm_80` or `sm_90a` (arch-specific features, not forward compatible).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    /// 80, 90, 120.
    pub sm: u32,
    /// The `a` of `sm_90a`.
    pub specific: bool,
}

impl Arch {
    /// `sm_90a`
    pub fn name(self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.sm, if self.specific { "a" } else { "" })
    }
}

impl FromStr for Arch {
    type Err = String;
    fn from_str(s: &str) -> Result<Arch, String> {
        let bad = || {
            format!(
                "`{s}` is not a CUDA architecture; expected sm_75, sm_80, sm_86, sm_89, sm_90a, sm_100 or sm_120"
            )
        };
        let digits = s.strip_prefix("sm_").ok_or_else(bad)?;
        let (digits, specific) = digits.strip_suffix('a').map_or((digits, false), |d| (d, true));
        let sm: u32 = digits.parse().map_err(|_| bad())?;
        // NVRTC 13.0 begins at Turing.
        if !(75..=129).contains(&sm) { Err(bad()) } else { Ok(Arch { sm, specific }) }
    }
}

/// An architecture with the figures of the device that tactics are ranked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// What the cubin is compiled for.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Dynamic shared memory that one block may ask for, bytes.
    pub shared_per_block: u32,
    /// Shared memory of a multiprocessor, bytes.
    pub shared_per_multiprocessor: u32,
    /// Device memory bandwidth, GB/s.
    pub bandwidth: f64,
    /// Dense fp16 tensor-core rate with mma.sync, TFLOP/s.
    pub tensor_tflops: f64,
    /// fp32 FMA rate, TFLOP/s.
    pub simt_tflops: f64,
}

/// How fast a device goes at best: the floors of the per-layer view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// Device memory, GB/s.
    pub bandwidth: f64,
    /// Dense fp16 and bf16 products with f32 accumulation, TFLOP/s.
    pub half: f64,
    /// tf32 products, TFLOP/s.
    pub tf32: f64,
    /// f32 arithmetic without tensor cores, TFLOP/s.
    pub simt: f64,
}

impl Target {
    /// What the device was seen to reach at best where that was measured (an H200, 2026-11-20, CUDA 13.0: a device copy,
    /// cuBLAS bf16 at 4096³, tf32 and fp32 at 8192³); else the data sheet's figures, which no kernel quite reaches.
    pub fn ceiling(&self) -> Ceiling {
        match self.arch.sm {
            90..=99 => Ceiling { bandwidth: 4260.0, half: 694.0, tf32: 375.0, simt: 50.7 },
            _ => Ceiling {
                bandwidth: self.bandwidth,
                half: self.tensor_tflops,
                tf32: self.tensor_tflops / 2.0,
                simt: self.simt_tflops,
            },
        }
    }

    /// The data-sheet figures of the architecture's usual data-centre or desktop part.
    pub fn of(arch: Arch) -> Target {
        let (multiprocessors, block, sm, bandwidth, tensor, simt) = match arch.sm {
            75..=79 => (40, 64, 64, 320.0, 65.0, 8.1),
            80 => (108, 163, 164, 1555.0, 312.0, 19.5),
            81..=88 => (84, 99, 100, 760.0, 119.0, 29.8),
            89 => (128, 99, 100, 1008.0, 165.0, 82.6),
            90..=99 => (132, 227, 228, 4200.0, 600.0, 60.0),
            100..=119 => (148, 227, 228, 7700.0, 1000.0, 75.0),
            _ => (170, 99, 100, 1792.0, 210.0, 105.0),
        };
        Target {
            arch,
            multiprocessors,
            shared_per_block: block * 1024,
            shared_per_multiprocessor: sm * 1024,
            bandwidth,
            tensor_tflops: tensor,
            simt_tflops: simt,
        }
    }
}
