//! Every tactic of every family's samples, run on the GPU against the host kernels: random operands, poisoned results,
//! bytes behind the results left alone, a second run identical to the last bit. Skips where there is no GPU.
//!
//! - `BAKELITE_NVRTC`: NVRTC's folder, if it is not on the library path.
//! - `BAKELITE_CUBINS`: a folder in which compiled kernels are kept and looked for first, so that a machine with NVRTC
//!   and no GPU can compile (for `BAKELITE_ARCH`, default sm_90a) what a machine with a GPU and no NVRTC runs.
//! - `BAKELITE_TIME`: also print the time of every tactic; without a GPU, the estimate.
//! - `BAKELITE_FAMILY`: only families whose names begin with one of these, separated by commas.
//! - `BAKELITE_SAMPLES`: only these samples of a test, `9-12`.
//! - `BAKELITE_MOST`: at most so many tactics of each family and sample.
//! - `BAKELITE_TACTICS`: these instead of the proposed ones, separated by semicolons, as a tactics file has them.

#![allow(clippy::unwrap_used)]

use bakelite_host::problem::{
    Access, Concat, Coordinates, Epilogue, Gather, Interpolation, Pad, PadMode, Pointwise, Resize,
};
use bakelite_host::{DType, Instr, Program, Pw};
use bakelite_kernels::families::{FAMILIES, SAMPLES, Samples, sample_symbols};
use bakelite_kernels::nvrtc::NvrtcError;
use bakelite_kernels::tensor_map::{Piece, TensorMap};
use bakelite_kernels::trial::{self, Elements, Tolerance};
use bakelite_kernels::{Arch, Arg, Build, Dim, Nvrtc, Problem, Tactic, Target};
use bakelite_runtime as rt;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

/// One test for each file of families: `cargo test --test gpu softmax`.
macro_rules! families {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}
families! {
    pointwise gemm attention conv conv_transpose arg_reduce cum_sum excite expand group_norm layer_norm lrn pool reduce softmax squeeze top_k concat pad gather gather_elements resize placed moments
}

#[test]
fn every_file_of_families_has_its_test() {
    let all: Vec<&str> = SAMPLES.iter().map(|(name, _)| *name).collect();
    assert_eq!(all, TESTED, "tests/gpu.rs lists other files than families::SAMPLES");
}

/// Values of `batch` and `seq` that dynamic samples run at.
const VALUES: [(i64, i64); 2] = [(3, 50), (1, 37)];

// One at a time: timings, and memory.
static GPU: Mutex<()> = Mutex::new(());

struct Job {
    sample: usize,
    tactic: Tactic,
    cost: f64,
    build: Build,
    cubins: Vec<Vec<u8>>,
}

fn check(file: &str) {
    let samples: Samples = SAMPLES.iter().find(|(name, _)| *name == file).unwrap().1;
    check_all(file, &samples());
}

/// Tensors far larger than the L2 cache, for `BAKELITE_TIME`: how near to the memory's bandwidth kernels come.
#[test]
fn large() {
    if std::env::var_os("BAKELITE_TIME").is_none() {
        println!("SKIPPED large: only with BAKELITE_TIME");
        return;
    }
    let dims = |text: &str| -> Vec<Dim> { text.split_whitespace().map(|t| t.parse().unwrap()).collect() };
    let access = |strides: &str| Access { offset: 0.into(), strides: dims(strides) };
    let copy = |shape: &str, strides: &str, dtype| {
        let program = Program::identity(dtype, dtype);
        Problem::from(Pointwise { shape: dims(shape), inputs: vec![access(strides)], program })
    };
    let mut bias = Program { inputs: vec![DType::F16; 3], ..Program::default() };
    let sum = bias.push(Instr::Apply(Pw::Add, vec![0, 1]));
    let sum = bias.push(Instr::Apply(Pw::Add, vec![sum, 2]));
    let out = bias.push(Instr::Apply(Pw::Relu, vec![sum]));
    bias.outputs = vec![(out, DType::F16)];
    let resize = |input: &str, output: &str, scales: &[f32]| {
        Problem::from(Resize {
            input: dims(input),
            output: dims(output),
            scales: scales.to_vec(),
            coordinates: Coordinates::HalfPixel,
            interpolation: Interpolation::Linear,
            dtype: DType::F16,
            epilogue: Epilogue::store(DType::F16),
        })
    };
    let samples = [
        copy("33554432", "1", DType::F16),
        copy("33554432", "1", DType::F32),
        copy("33554431", "1", DType::U8),
        Pointwise {
            shape: dims("64 256 2048"),
            inputs: vec![access("524288 2048 1"), access("0 1 0"), access("524288 2048 1")],
            program: bias,
        }
        .into(),
        copy("8192 4096", "1 8192", DType::F16),
        copy("8192 4096", "1 8192", DType::F32),
        copy("64 3136 256", "802816 1 3136", DType::F16),
        Concat {
            outer: 64.into(),
            lens: vec![256.into(), 128.into()],
            inner: 2048.into(),
            dtype: DType::F16,
            epilogue: Epilogue::store(DType::F16),
        }
        .into(),
        Pad {
            mode: PadMode::Constant,
            input: dims("64 64 112 112"),
            output: dims("64 64 114 116"),
            begin: vec![0, 0, 1, 1],
            dtype: DType::F16,
        }
        .into(),
        Gather {
            outer: 1.into(),
            len: 50000.into(),
            inner: 768.into(),
            count: 65536.into(),
            dtype: DType::F16,
            index: DType::I64,
            epilogue: Epilogue::store(DType::F16),
        }
        .into(),
        resize("32 64 56 56", "32 64 112 112", &[1.0, 1.0, 2.0, 2.0]),
        resize("32 56 56 64", "32 112 112 64", &[1.0, 2.0, 2.0, 1.0]),
    ];
    check_all("large", &samples);
}

/// Layers of well-known models, for `BAKELITE_TIME`.
#[test]
fn layers() {
    time("layers", bakelite_kernels::families::conv_samples::layers);
}

/// Attentions of well-known models, for `BAKELITE_TIME`.
#[test]
fn attention_layers() {
    time("attention_layers", bakelite_kernels::families::attention_samples::layers);
}

/// Convolutions by one element in front of depthwise ones of well-known models, for `BAKELITE_TIME`.
#[test]
fn expand_layers() {
    time("expand_layers", bakelite_kernels::families::conv_expand_samples::layers);
}

fn time(name: &str, layers: Samples) {
    if std::env::var_os("BAKELITE_TIME").is_none() {
        println!("SKIPPED {name}: only with BAKELITE_TIME");
        return;
    }
    check_all(name, &layers());
}

fn check_all(file: &str, samples: &[Problem<Dim>]) {
    let _one = GPU.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let gpu = rt::Gpu::open(0);
    let arch: Arch = match &gpu {
        Ok(gpu) => {
            let (major, minor) = gpu.compute_capability();
            let sm = major * 10 + minor;
            Arch { sm, specific: sm == 90 }
        }
        // Without a GPU there is nothing to do but to compile for a machine that has one, where that is asked for.
        Err(e) if std::env::var_os("BAKELITE_CUBINS").is_none() => {
            println!("SKIPPED {file}, nothing was run: {e}");
            return;
        }
        Err(_) => std::env::var("BAKELITE_ARCH").unwrap_or("sm_90a".into()).parse().unwrap(),
    };
    let target = Target::of(arch);
    let timed = std::env::var_os("BAKELITE_TIME").is_some();
    let mut jobs = jobs(samples, &target);
    if timed && gpu.is_err() {
        for job in &jobs {
            println!("{:9.2} µs expected  {}  {file} #{}", job.cost, job.tactic, job.sample);
        }
    }
    match compile(&mut jobs, arch) {
        Err(e @ (NvrtcError::Missing { .. } | NvrtcError::Version { .. })) => {
            println!("SKIPPED {file}, nothing was compiled or run: {e}");
            return;
        }
        outcome => outcome.unwrap_or_else(|e| panic!("{e}")),
    }
    let gpu = match gpu {
        Ok(gpu) => gpu,
        Err(e) => {
            println!("SKIPPED {file}, nothing was run: {e}");
            return;
        }
    };
    let stream = rt::Stream::new(&gpu).unwrap();
    let mut failures = Vec::new();
    let mut runs = 0;
    for (n, sample) in samples.iter().enumerate().filter(|(n, _)| jobs.iter().any(|j| j.sample == *n)) {
        let dynamic = !bakelite_kernels::codegen::symbols(sample).is_empty();
        for (batch, seq) in VALUES.into_iter().take(if dynamic { 2 } else { 1 }) {
            let value = |s: &str| if s == "batch" { batch } else { seq };
            let problem = sample.map(&mut |d: &Dim| usize::try_from(d.eval(&value)).unwrap());
            let mut reference = Reference::of(&problem, n as u64 * 2 + batch as u64);
            reference.spoil(&problem);
            for job in jobs.iter().filter(|j| j.sample == n) {
                runs += 1;
                let outcome = run(&gpu, &stream, job, &reference, &value, timed);
                let at = if dynamic { format!(" at batch {batch}, seq {seq}") } else { String::new() };
                match outcome {
                    Ok(Some(us)) => {
                        let gbs = reference.bytes() as f64 / us / 1e3;
                        let (cost, tactic) = (job.cost, &job.tactic);
                        println!(
                            "{us:9.2} µs ({cost:7.2} expected) {gbs:6.0} GB/s  {tactic}  {file} #{n}{at}"
                        );
                    }
                    Ok(None) => {}
                    Err(e) => failures.push(format!("{}: {file} #{n}{at}: {e}", job.tactic)),
                }
            }
        }
    }
    println!("{file}: {runs} runs, {} failed", failures.len());
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Every tactic of every sample, not yet compiled.
fn jobs(samples: &[Problem<Dim>], target: &Target) -> Vec<Job> {
    let symbols = sample_symbols();
    let only = std::env::var("BAKELITE_FAMILY").unwrap_or_default();
    let most = std::env::var("BAKELITE_MOST").map_or(usize::MAX, |n| n.parse().unwrap());
    let named = std::env::var("BAKELITE_TACTICS").ok();
    let some = std::env::var("BAKELITE_SAMPLES").ok();
    let some = some.map(|text| {
        let (first, last) = text.split_once('-').unwrap();
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    });
    let named: Option<Vec<Tactic>> = named.map(|all| all.split(';').map(|t| t.parse().unwrap()).collect());
    let mut jobs = Vec::new();
    let picked = |n: usize| some.as_ref().is_none_or(|some| some.contains(&n));
    for (sample, problem) in samples.iter().enumerate().filter(|(n, _)| picked(*n)) {
        for family in FAMILIES.iter().filter(|f| only.split(',').any(|o| f.name().starts_with(o))) {
            let offered = match &named {
                Some(named) => named.iter().filter(|t| t.family == family.name()).cloned().collect(),
                None => bakelite_kernels::families::tactics(*family, problem, &symbols, target),
            };
            for tactic in offered.into_iter().take(most) {
                let build = match family.build(problem, &tactic, &symbols, target) {
                    Ok(build) => build,
                    Err(e) if named.is_some() => {
                        println!("{tactic} is refused: {e}");
                        continue;
                    }
                    Err(e) => panic!("{tactic} refuses what it proposed: {e}"),
                };
                let cost = family.cost(problem, &tactic, &symbols, target);
                jobs.push(Job { sample, tactic, cost, build, cubins: vec![] });
            }
        }
    }
    jobs
}

/// Compiles each kernel once, or takes it from where it is kept.
fn compile(jobs: &mut [Job], arch: Arch) -> Result<(), NvrtcError> {
    let kept = std::env::var_os("BAKELITE_CUBINS").map(PathBuf::from);
    let dir = std::env::var_os("BAKELITE_NVRTC").map(PathBuf::from);
    let nvrtc = Nvrtc::open(dir.as_deref());
    let sources: BTreeSet<&String> = jobs.iter().flat_map(|j| &j.build.kernels).collect();
    let compiled: BTreeMap<String, Vec<u8>> = sources
        .into_par_iter()
        .map(|source| {
            let key = format!("{arch}-{}.cubin", blake3::hash(source.as_bytes()).to_hex());
            let file = kept.as_ref().map(|dir| dir.join(key));
            if let Some(cubin) = file.as_ref().and_then(|f| std::fs::read(f).ok()) {
                return Ok((source.clone(), cubin));
            }
            let compiled = nvrtc.as_ref().map_err(Clone::clone)?.compile(source, "kernel", arch)?;
            if compiled.spill_bytes > 0 {
                println!(
                    "{} spills {} bytes",
                    source.lines().next().unwrap_or_default(),
                    compiled.spill_bytes
                );
            }
            let cubin = compiled.cubin;
            if let Some(file) = file {
                std::fs::write(&file, &cubin).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            }
            Ok((source.clone(), cubin))
        })
        .collect::<Result<_, NvrtcError>>()?;
    for job in jobs {
        job.cubins = job.build.kernels.iter().map(|k| compiled[k].clone()).collect();
    }
    Ok(())
}

/// Operands of a problem and what the host kernels make of them.
struct Reference {
    inputs: Vec<Elements>,
    outputs: Vec<Elements>,
    /// For each output.
    tolerances: Vec<Tolerance>,
}

impl Reference {
    fn of(problem: &Problem<usize>, seed: u64) -> Reference {
        let inputs = trial::operands(problem, seed).unwrap_or_else(|e| panic!("{e}: {problem:?}"));
        let outputs = trial::reference(problem, &inputs).unwrap_or_else(|e| panic!("{e}: {problem:?}"));
        let tolerances = outputs.iter().map(|o| trial::tolerance(problem, o.dtype)).collect();
        Reference { inputs, outputs, tolerances }
    }
    fn bytes(&self) -> usize {
        self.inputs.iter().chain(&self.outputs).map(|e| e.bytes().len()).sum()
    }
}

impl Reference {
    /// Where a gather only stores what it reads: moves every third index out of range, which the host refuses and
    /// a GPU reads as zero.
    fn spoil(&mut self, problem: &Problem<usize>) {
        // For each index: first element of its results, how many neighbours, and how often at what distance.
        let (len, outer, across, inner) = match problem {
            Problem::Gather(p) if p.epilogue.stores(p.dtype) => (p.len, p.outer, p.count * p.inner, p.inner),
            Problem::GatherElements(p) => (p.input[p.axis], 1, 0, 1),
            _ => return,
        };
        let dtype = self.inputs[1].dtype;
        let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
        let size = dtype.size();
        for j in (0..self.inputs[1].len).step_by(3) {
            let index = match j % 2 {
                0 if signed => -(len as i64) - 1 - j as i64,
                _ => len as i64 + (j % 7) as i64,
            };
            self.inputs[1].bytes_mut()[j * size..(j + 1) * size]
                .copy_from_slice(&index.to_ne_bytes()[..size]);
            let size = self.outputs[0].dtype.size();
            for o in 0..outer {
                let first = o * across + j * inner;
                self.outputs[0].bytes_mut()[first * size..(first + inner) * size].fill(0);
            }
        }
    }
}

/// What the compiler's session and generated crates do with a map.
fn encode(gpu: &rt::Gpu, map: &TensorMap<i64>, address: rt::DevicePtr) -> rt::Result<rt::TensorMap> {
    let element = if map.dtype == DType::BF16 { rt::Element::BF16 } else { rt::Element::F16 };
    let address = address.add(map.offset as usize);
    let swizzle = rt::Swizzle::B128;
    let dims: Vec<u64> = map.dims.iter().map(|d| *d as u64).collect();
    let strides: Vec<u64> = map.strides.iter().map(|d| *d as u64).collect();
    match &map.piece {
        Piece::Tile(tile) => {
            let what = rt::Tiled { element, address, dims: &dims, strides: &strides, tile, swizzle };
            rt::TensorMap::tiled(gpu, &what)
        }
        Piece::Windows(w) => {
            let what = rt::Windows {
                element,
                address,
                dims: dims.try_into().unwrap(),
                strides: strides.try_into().unwrap(),
                corners: w.corners.map(|c| c.map(|d| d as i32)),
                steps: w.steps,
                channels: w.channels,
                windows: w.count,
                swizzle,
            };
            rt::TensorMap::windows(gpu, &what)
        }
    }
}

const POISON: u8 = 0xff;
/// Bytes behind every result that no kernel may touch.
const BEHIND: usize = 256;

/// Runs a tactic twice and compares. The time of one run in µs if `timed`.
fn run(
    gpu: &rt::Gpu,
    stream: &rt::Stream,
    job: &Job,
    reference: &Reference,
    value: &dyn Fn(&str) -> i64,
    timed: bool,
) -> Result<Option<f64>, String> {
    let text = |e: rt::Error| e.to_string();
    let arch = match gpu.compute_capability() {
        (9, 0) => "sm_90a".to_owned(),
        (major, minor) => format!("sm_{major}{minor}"),
    };
    let mut kernels = Vec::new();
    for cubin in &job.cubins {
        let module = rt::Module::load(gpu, &[rt::Image::new(&arch, cubin)]).map_err(text)?;
        kernels.push(module.kernel("kernel").map_err(text)?);
    }
    let mut inputs = Vec::new();
    for (elements, pack) in reference.inputs.iter().zip(&job.build.packs) {
        let packed = match pack {
            Some(pack) => pack.apply(elements.bytes(), elements.dtype.size())?,
            None => elements.bytes().to_vec(),
        };
        let buffer = rt::DeviceBuffer::alloc(gpu, packed.len().max(1)).map_err(text)?;
        buffer.copy_from_host(stream, 0, &packed).map_err(text)?;
        inputs.push(buffer);
    }
    if job.build.packs.len() != reference.inputs.len() {
        return Err(format!("{} packs for {} operands", job.build.packs.len(), reference.inputs.len()));
    }
    let outputs: Vec<rt::DeviceBuffer> = reference
        .outputs
        .iter()
        .map(|e| rt::DeviceBuffer::alloc(gpu, e.bytes().len() + BEHIND).map_err(text))
        .collect::<Result<_, _>>()?;
    let space = job.build.workspace.eval(value).max(1) as usize;
    let workspace = rt::DeviceBuffer::alloc(gpu, space + BEHIND).map_err(text)?;

    let number = |d: &Dim| d.eval(value);
    let mut launches = Vec::new();
    // Beside the launches, which borrow them.
    let maps: Vec<rt::TensorMap> = job
        .build
        .launches
        .iter()
        .flat_map(|l| &l.args)
        .filter_map(|arg| match arg {
            Arg::Map(map) => {
                let tensor = map.of.among(&inputs, &outputs).ok_or_else(|| "no such tensor".to_owned());
                Some(tensor.and_then(|t| encode(gpu, &map.eval(&number), t.ptr()).map_err(text)))
            }
            _ => None,
        })
        .collect::<Result<_, String>>()?;
    let mut maps = maps.iter();
    for launch in &job.build.launches {
        let kernel = kernels.get(launch.kernel).ok_or("a launch of a kernel that is not there")?;
        if launch.shared > 48 * 1024 {
            kernel.set_max_dynamic_smem(launch.shared).map_err(text)?;
        }
        if launch.cluster.is_some_and(|c| c.iter().product::<u32>() > 8) {
            kernel.allow_large_clusters().map_err(text)?;
        }
        let shape = rt::Launch {
            grid: launch.grid.each_ref().map(|d| u32::try_from(number(d)).unwrap_or(u32::MAX)),
            block: launch.block,
            shared_bytes: launch.shared,
            cluster: launch.cluster,
            programmatic: launch.programmatic,
        };
        let args: Vec<rt::Arg<'_>> = launch
            .args
            .iter()
            .map(|arg| {
                Ok(match arg {
                    Arg::Input(n) => rt::Arg::Ptr(inputs.get(*n).ok_or("no such operand")?.ptr().0),
                    Arg::Output(n) => rt::Arg::Ptr(outputs.get(*n).ok_or("no such result")?.ptr().0),
                    Arg::Workspace(at) => rt::Arg::Ptr(workspace.ptr().0 + number(at) as u64),
                    Arg::Map(_) => rt::Arg::Map(maps.next().ok_or("a map too few")?),
                    Arg::Weights(_) => return Err("only a planner passes weights".to_owned()),
                    Arg::Size(d) => rt::Arg::I32(i32::try_from(number(d)).map_err(|e| e.to_string())?),
                })
            })
            .collect::<Result<_, String>>()?;
        launches.push((kernel, shape, args));
    }
    let enqueue = |stream: &rt::Stream| -> rt::Result<()> {
        launches.iter().try_for_each(|(kernel, shape, args)| kernel.launch(stream, shape, args))
    };

    let mut results: Vec<Vec<Vec<u8>>> = Vec::new();
    for scratch in [POISON, 0xa5] {
        workspace.fill(stream, scratch).map_err(text)?;
        outputs.iter().try_for_each(|o| o.fill(stream, POISON)).map_err(text)?;
        enqueue(stream).map_err(text)?;
        stream.synchronize().map_err(text)?;
        let mut all = Vec::new();
        for buffer in outputs.iter().chain([&workspace]) {
            let mut bytes = vec![0; buffer.len()];
            buffer.copy_to_host(stream, 0, &mut bytes).map_err(text)?;
            stream.synchronize().map_err(text)?;
            let poison = if all.len() == outputs.len() { scratch } else { POISON };
            if bytes[bytes.len() - BEHIND..].iter().any(|b| *b != poison) {
                return Err("it wrote behind the end of a buffer".into());
            }
            all.push(bytes);
        }
        // What is left in the workspace is the kernel's own affair.
        all.pop();
        results.push(all);
    }
    if results[0] != results[1] {
        return Err("two runs differ".into());
    }
    for (n, (want, got)) in reference.outputs.iter().zip(&results[0]).enumerate() {
        let got = &got[..got.len() - BEHIND];
        trial::compare(want, got, reference.tolerances[n])
            .map_err(|e| format!("result {n} ({}): {e}", want.dtype))?;
    }
    if !timed {
        return Ok(None);
    }
    const REPEATS: usize = 50;
    let graph = rt::Graph::capture(stream, |s| (0..REPEATS).try_for_each(|_| enqueue(s))).map_err(text)?;
    let (start, end) = (rt::Event::new(gpu).map_err(text)?, rt::Event::new(gpu).map_err(text)?);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        start.record(stream).map_err(text)?;
        graph.launch(stream).map_err(text)?;
        end.record(stream).map_err(text)?;
        end.synchronize().map_err(text)?;
        best = best.min(f64::from(start.elapsed_us(&end).map_err(text)?) / REPEATS as f64);
    }
    Ok(Some(best))
}
