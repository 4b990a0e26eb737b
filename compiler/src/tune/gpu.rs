//! Tuning on a GPU of this machine: candidates compiled in parallel, each checked for failure, then timed under a graph with
//! cold weights, as they will run.

use super::{Job, Tuner};
use crate::error::{Error, Result, Stage};
use crate::execute::gpu::{Addresses, launch, load_kernel, time_graph};
use crate::execute::kernels::Images;
use bakelite_host::{DType, Problem};
use bakelite_kernels::family::KERNEL_NAME;
use bakelite_kernels::{Dim, Nvrtc, Symbols, Target};
use bakelite_runtime::{DeviceBuffer, Gpu, Kernel, Stream};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Mutex;

/// How many candidates are worth timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Effort {
    /// The four most promising of each family.
    Fast,
    /// The 32 most promising of each family.
    #[default]
    Normal,
    /// All.
    Exhaustive,
}

/// What a tuner reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// A kernel was compiled: so many of so many.
    Compiled(usize, usize),
    /// A problem was timed: so many of so many.
    Timed(usize, usize),
}

/// The tuner on a GPU.
pub struct GpuTuner<'a> {
    gpu: Gpu,
    stream: Stream,
    nvrtc: &'a Nvrtc,
    effort: Effort,
    progress: &'a (dyn Fn(Progress) + Sync),
    random: Vec<u8>,
}

/// Weights cycle through this many bytes, more than any L2, so that every repeat finds them in memory.
const COLD_BYTES: usize = 160 << 20;

impl<'a> GpuTuner<'a> {
    /// A tuner on `gpu`.
    pub fn new(
        gpu: &Gpu,
        nvrtc: &'a Nvrtc,
        effort: Effort,
        progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Result<GpuTuner<'a>> {
        let (gpu, stream) = (gpu.clone(), Stream::new(gpu)?);
        // xorshift: timing wants data that is not zero, not good randomness.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let random = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let random = random.take(1 << 17).flatten().collect();
        Ok(GpuTuner { gpu, stream, nvrtc, effort, progress, random })
    }

    // Random values in [-1, 1) for floats; zeros for integers, which may be indices; bits for bool.
    fn fill(&self, buffer: &DeviceBuffer, dtype: DType) -> Result<()> {
        let pattern: Vec<u8> = match dtype {
            DType::F16 => self.floats().flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
            DType::BF16 => self.floats().flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            DType::F32 => self.floats().flat_map(f32::to_le_bytes).collect(),
            DType::F64 => self.floats().flat_map(|v| f64::from(v).to_le_bytes()).collect(),
            DType::Bool => self.random.iter().map(|b| b & 1).collect(),
            _ => return Ok(buffer.fill(&self.stream, 0)?),
        };
        let mut at = 0;
        while at < buffer.len() {
            let len = pattern.len().min(buffer.len() - at);
            buffer.copy_from_host(&self.stream, at, &pattern[..len])?;
            at += len;
        }
        Ok(())
    }

    fn floats(&self) -> impl Iterator<Item = f32> {
        self.random
            .chunks_exact(4)
            .map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]]) as f32 / 2f32.powi(31))
    }

    fn compile(&self, jobs: &[Job], target: &Target) -> HashMap<String, Option<Images>> {
        let mut sources: Vec<&String> =
            jobs.iter().flat_map(|j| &j.candidates).flat_map(|c| &c.build.kernels).collect();
        sources.sort();
        sources.dedup();
        let (done, total) = (Mutex::new(0usize), sources.len());
        let one = |source: &&String| {
            let name = format!("candidate_{}", &blake3::hash(source.as_bytes()).to_hex()[..8]);
            let text = source.replace(KERNEL_NAME, &name);
            let compiled = self.nvrtc.compile(&text, &name, target.arch).ok();
            if let Ok(mut done) = done.lock() {
                *done += 1;
                (self.progress)(Progress::Compiled(*done, total));
            }
            ((*source).clone(), compiled.map(|c| Images { name, cubin: c.cubin, ptx: None }))
        };
        sources.par_iter().map(one).collect()
    }

    fn time_job(
        &self,
        job: &Job,
        images: &HashMap<String, Option<Images>>,
        symbols: &Symbols,
        arch: &str,
    ) -> Result<Vec<Option<f64>>> {
        let fail = |what: String| Error::new(Stage::Tune, job.problem.to_string(), what);
        let value = |d: &Dim| d.opt(symbols);
        let problem = job.problem.map(&mut |d| usize::try_from(value(d)).unwrap_or(0));
        let contract = problem.contract().map_err(|e| fail(e.to_string()))?;
        // A packed operand may be larger than the original: take the largest any candidate packs to.
        let bytes = |i: usize| {
            let packed = job
                .candidates
                .iter()
                .filter_map(|c| c.build.packs.get(i)?.as_ref())
                .map(|p| p.shape.iter().product());
            let len = packed.max().unwrap_or(0usize).max(contract.inputs[i].len);
            (len * contract.inputs[i].dtype.size()).next_multiple_of(256).max(256)
        };
        let is_weight = |i: usize| i == 1 && matches!(problem, Problem::Gemm(_) | Problem::Conv(_));
        let copies =
            if contract.inputs.len() > 1 && is_weight(1) { (COLD_BYTES / bytes(1)).clamp(1, 64) } else { 1 };
        let mut inputs = Vec::new();
        for (i, operand) in contract.inputs.iter().enumerate() {
            let n = if is_weight(i) { copies } else { 1 };
            let buffer = DeviceBuffer::alloc(&self.gpu, bytes(i) * n)?;
            self.fill(&buffer, operand.dtype)?;
            inputs.push((buffer, if n > 1 { bytes(i) } else { 0 }));
        }
        let mut outputs = Vec::new();
        for (dtype, shape) in &contract.outputs {
            outputs.push(DeviceBuffer::alloc(
                &self.gpu,
                (shape.iter().product::<usize>() * dtype.size()).max(256),
            )?);
        }
        let scratch = job.candidates.iter().map(|c| value(&c.build.workspace)).max().unwrap_or(0);
        let scratch = DeviceBuffer::alloc(&self.gpu, usize::try_from(scratch).unwrap_or(0).max(256))?;
        let out: Vec<u64> = outputs.iter().map(|o| o.ptr().0).collect();
        let mut times = Vec::new();
        for candidate in &job.candidates {
            let kernels: Option<Vec<Kernel>> = candidate
                .build
                .kernels
                .iter()
                .map(|k| load_kernel(&self.gpu, arch, images.get(k)?.as_ref()?).ok())
                .collect();
            let Some(kernels) = kernels else {
                times.push(None);
                continue;
            };
            let record = |repeat: usize| {
                let at: Vec<u64> =
                    inputs.iter().map(|(b, step)| b.ptr().0 + (repeat % copies * step) as u64).collect();
                let places = Addresses { inputs: &at, outputs: &out, workspace: scratch.ptr().0, weights: 0 };
                let mut launches = candidate.build.launches.iter();
                launches.try_for_each(|l| launch(&kernels[l.kernel], &self.stream, l, &places, &value))
            };
            let fits =
                candidate.build.launches.iter().all(|l| {
                    l.shared <= 48 * 1024 || kernels[l.kernel].set_max_dynamic_smem(l.shared).is_ok()
                });
            times.push(if fits { time_graph(&self.stream, copies.max(16), record).ok() } else { None });
        }
        Ok(times)
    }
}

impl Tuner for GpuTuner<'_> {
    fn most_candidates(&self) -> usize {
        match self.effort {
            Effort::Fast => 4,
            Effort::Normal => 32,
            Effort::Exhaustive => usize::MAX,
        }
    }

    fn measure(&mut self, jobs: &[Job], symbols: &Symbols, target: &Target) -> Result<Vec<Vec<Option<f64>>>> {
        let images = self.compile(jobs, target);
        let arch = target.arch.to_string();
        let mut all = Vec::new();
        for (at, job) in jobs.iter().enumerate() {
            all.push(self.time_job(job, &images, symbols, &arch)?);
            (self.progress)(Progress::Timed(at + 1, jobs.len()));
        }
        Ok(all)
    }
}
