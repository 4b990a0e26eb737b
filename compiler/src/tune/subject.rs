//! One problem on the GPU: operands, poisoned results, and the result that every candidate must come to before its time
//! counts. All candidates see the same operands: packed ones are packings of one original.

use super::{Candidate, Job, Verdict};
use crate::error::{Error, Result, Stage};
use crate::execute::gpu::{Addresses, launch, load_kernel, time_graph, time_once};
use crate::execute::kernels::Images;
use bakelite_host::Problem;
use bakelite_kernels::family::Allowance;
use bakelite_kernels::trial::{self, Elements};
use bakelite_kernels::{Build, Dim, Pack, Symbols, prefetch};
use bakelite_runtime::{DeviceBuffer, Gpu, Kernel, Stream, memcpy_dtod};
use rayon::prelude::*;
use std::borrow::Cow;
use std::time::Duration;

/// Weights cycle through this many bytes, more than any L2, so that every repeat finds them in memory ...
const COLD_BYTES: usize = 160 << 20;
/// ... or, where plans ask them into L2 ahead of their step, through so many that they are found there and nowhere nearer.
const NEAR_BYTES: usize = 20 << 20;
/// What results and workspace hold before a candidate runs: NaN in every float type.
const POISON: u8 = 0xff;
/// Bytes behind every result that no kernel may touch.
const BEHIND: usize = 256;
/// Host memory for packed operands.
const ROOM: usize = 2 << 30;
/// What one graph of repeats may take, µs.
const PATIENCE: f64 = 20_000.0;

/// A problem with its operands on the GPU.
pub(super) struct Subject<'a> {
    stream: &'a Stream,
    arch: &'a str,
    symbols: &'a Symbols,
    job: &'a Job,
    problem: Problem<usize>,
    originals: Vec<Elements>,
    /// Operands as packings want them: operand, packing, bytes.
    packed: Vec<(usize, Pack, Vec<u8>)>,
    inputs: Vec<Input>,
    outputs: Vec<DeviceBuffer>,
    scratch: DeviceBuffer,
    wanted: Vec<Elements>,
    fastest: f64,
}

struct Input {
    buffer: DeviceBuffer,
    /// Distance of the copies that repeats cycle through.
    step: usize,
    copies: usize,
    /// The packing of what the buffer holds; `None` while it holds nothing.
    holds: Option<Option<Pack>>,
}

impl<'a> Subject<'a> {
    /// Makes operands for a job (`tame` ones if so) and room for its candidates and for `more`, the build of its reference.
    pub(super) fn new(
        (stream, arch): (&'a Stream, &'a str),
        job: &'a Job,
        symbols: &'a Symbols,
        more: Option<&Build>,
        tame: bool,
    ) -> Result<Subject<'a>> {
        let fail = |what: String| Error::new(Stage::Tune, job.problem.to_string(), what);
        let problem = job.problem.map(&mut |d: &Dim| d.opt_size(symbols));
        let seed = blake3::hash(job.problem.to_string().as_bytes()).as_bytes()[..8]
            .iter()
            .fold(0u64, |n, b| n << 8 | u64::from(*b));
        let make = if tame { trial::tame_operands } else { trial::operands };
        let originals = make(&problem, seed).map_err(|e| fail(e.to_string()))?;
        let builds: Vec<&Build> = job.candidates.iter().map(|c| &c.build).chain(more).collect();
        let packed = pack(&originals, &builds).map_err(fail)?;
        let gpu: &Gpu = stream.gpu();
        let prefetched = builds.iter().any(|b| b.kernels.iter().any(|k| prefetch::can(k)))
            && gpu.compute_capability().0 >= 9;
        let mut inputs = Vec::new();
        for (i, original) in originals.iter().enumerate() {
            let packings = builds.iter().filter_map(|b| b.packs.get(i)?.as_ref());
            let packings = packings.map(|p| packed_bytes(p, original));
            let most = packings.clone().chain([original.bytes().len()]).max();
            let step = most.unwrap_or(0).next_multiple_of(256).max(256);
            let is_weight = i == 1 && matches!(problem, Problem::Gemm(_) | Problem::Conv(_));
            let is_weight = is_weight || packings.count() > 0;
            let cycle = if prefetched { NEAR_BYTES } else { COLD_BYTES };
            let copies = if is_weight { (cycle / step).clamp(1, 64) } else { 1 };
            inputs.push(Input {
                buffer: DeviceBuffer::alloc(gpu, step * copies)?,
                step,
                copies,
                holds: None,
            });
        }
        let contract = problem.contract().map_err(|e| fail(e.to_string()))?;
        let outputs = contract.outputs.iter().map(|(dtype, shape)| {
            Ok(DeviceBuffer::alloc(gpu, shape.iter().product::<usize>() * dtype.size() + BEHIND)?)
        });
        let outputs = outputs.collect::<Result<_>>()?;
        let scratch = builds.iter().map(|b| b.workspace.opt(symbols)).max().unwrap_or(0);
        let scratch = DeviceBuffer::alloc(gpu, usize::try_from(scratch).unwrap_or(0).max(256))?;
        let (wanted, fastest) = (vec![], f64::INFINITY);
        Ok(Subject {
            stream,
            arch,
            symbols,
            job,
            problem,
            originals,
            packed,
            inputs,
            outputs,
            scratch,
            wanted,
            fastest,
        })
    }

    /// Takes the host kernels' result as what is right.
    pub(super) fn judge_by_host(&mut self) -> Result<()> {
        let fail = |e: bakelite_host::RunError| {
            Error::new(Stage::Tune, self.job.problem.to_string(), format!("the host kernels: {e}"))
        };
        self.wanted = trial::reference(&self.problem, &self.originals).map_err(fail)?;
        Ok(())
    }

    /// Takes the result of another kernel as what is right.
    pub(super) fn judge_by(&mut self, reference: &Candidate, images: &[&Images]) -> Result<()> {
        let fail = |what: String| {
            let what = format!("its reference `{}`: {what}", reference.tactic);
            Error::new(Stage::Tune, self.job.problem.to_string(), what)
        };
        let kernels = self.kernels(&reference.build, images).map_err(fail)?;
        self.lay(&reference.build)?;
        self.run(&reference.build, &kernels)?;
        let results = self.results()?;
        let contract = self.problem.contract().map_err(|e| fail(e.to_string()))?;
        let mut wanted = Vec::new();
        for ((dtype, shape), bytes) in contract.outputs.iter().zip(results) {
            let mut elements = Elements::new(*dtype, shape.iter().product());
            let len = elements.bytes().len();
            elements.bytes_mut().copy_from_slice(&bytes[..len]);
            wanted.push(elements);
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Runs a candidate, compares, and times it if it is right. An error where the GPU is of no more use.
    pub(super) fn attempt(&mut self, candidate: &Candidate, images: &[&Images]) -> Result<Verdict> {
        let kernels = match self.kernels(&candidate.build, images) {
            Ok(kernels) => kernels,
            Err(why) => return Ok(Verdict::Failed(why)),
        };
        match self.check_and_time(&candidate.build, &kernels) {
            Ok(verdict) => Ok(verdict),
            Err(e) => match self.stream.synchronize() {
                Ok(()) => Ok(Verdict::Failed(e.to_string())),
                // A kernel that reads or writes where nothing is takes the whole context with it.
                Err(_) => {
                    let what = format!("`{}` broke the GPU's context: {}", candidate.tactic, e.what);
                    Err(Error::new(Stage::Tune, self.job.problem.to_string(), what))
                }
            },
        }
    }

    fn check_and_time(&mut self, build: &Build, kernels: &[Kernel]) -> Result<Verdict> {
        self.lay(build)?;
        let once = self.run(build, kernels)?;
        for (n, (want, got)) in self.wanted.iter().zip(self.results()?).enumerate() {
            let (got, behind) = got.split_at(want.bytes().len());
            let outcome = trial::compare(want, got, trial::lenient_tolerance(&self.problem, want.dtype));
            if let Err(why) = outcome {
                return Ok(Verdict::Wrong(format!("result {n} ({}): {why}", want.dtype)));
            }
            if behind.iter().any(|b| *b != POISON) {
                return Ok(Verdict::Wrong(format!("it wrote behind the end of result {n}")));
            }
        }
        // A first run is slow, but not so slow.
        if once > 100.0 && once > 4.0 * self.fastest {
            return Ok(Verdict::Time(once));
        }
        let copies = self.inputs.iter().map(|i| i.copies).max().unwrap_or(1);
        let repeats = ((PATIENCE / once.max(1.0)) as usize).clamp(2, copies.max(16));
        let time =
            time_graph(self.stream, repeats, Duration::ZERO, |repeat| self.enqueue(build, kernels, repeat))?;
        self.fastest = self.fastest.min(time);
        Ok(Verdict::Time(time))
    }

    fn kernels(&self, build: &Build, images: &[&Images]) -> Result<Vec<Kernel>, String> {
        if build.launches.iter().any(|l| l.kernel >= images.len()) {
            return Err("it launches a kernel that it does not have".to_owned());
        }
        let load = |(i, image): (usize, &&Images)| {
            let allowed = Allowance::of(i, build.launches.iter());
            load_kernel(self.stream.gpu(), self.arch, image, allowed).map_err(|e| e.to_string())
        };
        images.iter().enumerate().map(load).collect()
    }

    // Puts the operands on the GPU as the build wants them packed.
    fn lay(&mut self, build: &Build) -> Result<()> {
        for (i, input) in self.inputs.iter_mut().enumerate() {
            let packing = build.packs.get(i).and_then(Option::as_ref);
            if input.holds.as_ref().is_some_and(|h| h.as_ref() == packing) {
                continue;
            }
            let (original, fail) =
                (&self.originals[i], |what: String| Error::new(Stage::Tune, "packing", what));
            let packed = self.packed.iter().find(|(operand, p, _)| *operand == i && Some(p) == packing);
            let bytes: Cow<'_, [u8]> = match (packed, packing) {
                (Some((_, _, bytes)), _) => bytes.into(),
                (None, Some(p)) => p.apply(original.bytes(), original.dtype.size()).map_err(fail)?.into(),
                (None, None) => original.bytes().into(),
            };
            input.buffer.copy_from_host(self.stream, 0, &bytes)?;
            for copy in 1..input.copies {
                let to = input.buffer.ptr().add(copy * input.step);
                memcpy_dtod(self.stream, to, input.buffer.ptr(), bytes.len())?;
            }
            input.holds = Some(packing.cloned());
        }
        Ok(())
    }

    // One run into poisoned memory; its time in µs.
    fn run(&self, build: &Build, kernels: &[Kernel]) -> Result<f64> {
        self.scratch.fill(self.stream, POISON)?;
        self.outputs.iter().try_for_each(|o| o.fill(self.stream, POISON))?;
        time_once(self.stream, || self.enqueue(build, kernels, 0))
    }

    // Every result with what lies behind it.
    fn results(&self) -> Result<Vec<Vec<u8>>> {
        let read = |buffer: &DeviceBuffer| {
            let mut bytes = vec![0; buffer.len()];
            buffer.copy_to_host(self.stream, 0, &mut bytes)?;
            Ok(bytes)
        };
        self.outputs.iter().map(read).collect()
    }

    fn enqueue(&self, build: &Build, kernels: &[Kernel], repeat: usize) -> bakelite_runtime::Result<()> {
        let at = |i: &Input| i.buffer.ptr().0 + (repeat % i.copies * i.step) as u64;
        let inputs: Vec<u64> = self.inputs.iter().map(at).collect();
        let outputs: Vec<u64> = self.outputs.iter().map(|o| o.ptr().0).collect();
        let places =
            Addresses { inputs: &inputs, outputs: &outputs, workspace: self.scratch.ptr().0, weights: 0 };
        let value = |d: &Dim| d.opt(self.symbols);
        build.launches.iter().try_for_each(|l| launch(&kernels[l.kernel], self.stream, l, &places, &value))
    }
}

fn packed_bytes(pack: &Pack, original: &Elements) -> usize {
    pack.shape.iter().product::<usize>() * original.dtype.size()
}

// Every packing that some build wants, each once, side by side; as many as there is room for, and the rest when its turn
// comes.
fn pack(originals: &[Elements], builds: &[&Build]) -> Result<Vec<(usize, Pack, Vec<u8>)>, String> {
    let (mut wanted, mut room): (Vec<(usize, &Pack)>, usize) = (Vec::new(), ROOM);
    for build in builds {
        for (i, packing) in build.packs.iter().enumerate() {
            if let Some(p) = packing.as_ref().filter(|p| i < originals.len() && !wanted.contains(&(i, *p))) {
                let bytes = packed_bytes(p, &originals[i]);
                if bytes <= room {
                    room -= bytes;
                    wanted.push((i, p));
                }
            }
        }
    }
    let apply = |(i, p): (usize, &Pack)| {
        let original = &originals[i];
        Ok((i, p.clone(), p.apply(original.bytes(), original.dtype.size())?))
    };
    wanted.into_par_iter().map(apply).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakelite_host::DType;

    #[test]
    fn candidates_share_the_packings_of_one_original() {
        let original = Elements::random(DType::F16, 6, 1);
        let packing = |shape: &[usize], strides: &[usize]| Pack {
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            ..Pack::default()
        };
        let build = |pack: Option<Pack>| Build {
            kernels: vec![],
            launches: vec![],
            workspace: 0.into(),
            packs: vec![None, pack],
        };
        let turned = packing(&[3, 2], &[1, 3]);
        let builds = [build(Some(turned.clone())), build(None), build(Some(turned.clone()))];
        let originals = [Elements::new(DType::F16, 1), original.clone()];
        let packed = pack(&originals, &builds.iter().collect::<Vec<_>>()).unwrap();
        let [(1, pack, bytes)] = packed.as_slice() else { panic!("one packing of operand 1: {packed:?}") };
        assert_eq!(*pack, turned);
        let at = |i: usize| &original.bytes()[2 * i..2 * i + 2];
        assert_eq!(bytes[..], [at(0), at(3), at(1), at(4), at(2), at(5)].concat()[..]);
        // What does not fit the original is an error, not a panic.
        let beyond = build(Some(packing(&[9], &[1])));
        assert!(super::pack(&originals, &[&beyond]).is_err());
    }
}
