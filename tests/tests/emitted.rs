//! Emitted crates: they build without a warning, run, and give what the executor gives; the same plans give the same bytes.

#![allow(clippy::unwrap_used)]

use bakelite::emit::{self, Dependencies, EmitOptions, Files, PlanWithImages, WeightsIn};
use bakelite::execute::host::Session;
use bakelite::execute::kernels::Images;
use bakelite::ir::{Graph, Tensor, text::random};
use bakelite::onnx::{self, ImportOptions, Source};
use bakelite::passes::{self, Options, TargetKind};
use bakelite::plan::{self, Plan};
use bakelite::tune::{self, Estimate, Tactics};
use bakelite::{Target, fuse};
use bakelite_kernels::{Nvrtc, Range};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn lowered(graph: Graph, target: TargetKind) -> fuse::Regions {
    let options = Options { target, ..Options::default() };
    fuse::regions(passes::run(graph, &options, &mut ()).unwrap()).unwrap()
}

fn host(graph: Graph) -> PlanWithImages {
    PlanWithImages { plan: plan::build_host(lowered(graph, TargetKind::Host)).unwrap(), images: vec![] }
}

fn cuda(graph: Graph, arch: &str, tactics: &str) -> Plan {
    let target: Target = arch.parse().unwrap();
    let mut tactics = if tactics.is_empty() { Tactics::default() } else { Tactics::parse(tactics).unwrap() };
    let gpu = target.gpu().unwrap().clone();
    let regions = lowered(graph, TargetKind::Cuda);
    let chosen = tune::choose(regions, &gpu, &mut tactics, &mut Estimate, &mut |_| ()).unwrap();
    plan::build(chosen, &target).unwrap()
}

/// A plan on two lanes.
fn branched(arch: &str) -> Plan {
    let target: Target = arch.parse().unwrap();
    let gpu = target.gpu().unwrap().clone();
    let regions = lowered(mir("forked"), TargetKind::Cuda);
    let mut chosen =
        tune::choose(regions, &gpu, &mut Tactics::default(), &mut Estimate, &mut |_| ()).unwrap();
    chosen.lanes = 2;
    let plan = plan::build(chosen, &target).unwrap();
    assert_eq!(plan.lanes, 2, "{plan}");
    plan
}

/// A plan whose images are no images: enough to compile the crate, and to be refused by a GPU.
fn unloadable(plan: Plan) -> PlanWithImages {
    let ptx = ".version 8.0\n.target sm_80\n".to_owned();
    let image =
        |k: &plan::KernelSource| Images { name: k.name.clone(), cubin: vec![0; 16], ptx: Some(ptx.clone()) };
    PlanWithImages { images: plan.kernels.iter().map(image).collect(), plan }
}

fn digits() -> Graph {
    let bytes = std::fs::read(root().join("examples/digits/digits_cnn.onnx")).unwrap();
    let model = onnx::decode(Source::memory(bytes, "digits_cnn.onnx")).unwrap();
    let range = Range { min: 1, max: 64, opt: 60 };
    let options = ImportOptions { symbols: [("batch".to_owned(), range)].into(), ..ImportOptions::default() };
    let mut graph = onnx::import(&model, &options).unwrap();
    graph.remove_dead();
    graph
}

fn mir(name: &str) -> Graph {
    let path = root().join(format!("tests/tests/emitted/{name}.mir"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn path_dependencies() -> Dependencies {
    let path = |folder: &str| root().join(folder).display().to_string();
    Dependencies::Path(path("runtime-min"), path("kernels/host"))
}

fn options(name: &str) -> EmitOptions {
    EmitOptions { name: name.to_owned(), dependencies: path_dependencies(), ..EmitOptions::default() }
}

fn write(folder: &Path, files: &Files) {
    if folder.exists() {
        std::fs::remove_dir_all(folder).unwrap();
    }
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A crate to be put into one workspace with others, which may have one root only.
fn member(folder: &Path, files: &Files) {
    write(folder, files);
    let manifest = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.split("\n[profile.release]").next().unwrap();
    std::fs::write(manifest, text).unwrap();
}

/// Inputs at these sizes, and what the executor makes of them, as files next to the program that checks them.
fn expectations(folder: &Path, plan: &Plan, sizes: &[(&str, usize)], ids_below: i64) {
    std::fs::create_dir_all(folder).unwrap();
    let size = |s: &str| sizes.iter().find(|(n, _)| *n == s).map_or(1, |(_, v)| *v as i64);
    let input = |(i, p): (usize, &plan::Port)| {
        let shape = p.ty.shape.iter().map(|d| usize::try_from(d.eval(&size)).unwrap()).collect();
        let mut tensor = random(p.ty.dtype, shape, 7 + i as u64);
        if p.ty.dtype == bakelite_host::DType::I64 {
            let ids: Vec<i64> = tensor.to_i64().iter().map(|v| v.rem_euclid(ids_below)).collect();
            tensor = Tensor::of(p.ty.dtype, tensor.shape.clone(), &ids).unwrap();
        }
        tensor
    };
    let inputs: Vec<Tensor> = plan.inputs.iter().enumerate().map(input).collect();
    let outputs = Session::new(plan.clone()).unwrap().infer(&inputs).unwrap();
    for (what, tensors) in [("in", &inputs), ("out", &outputs)] {
        for (i, t) in tensors.iter().enumerate() {
            std::fs::write(folder.join(format!("{what}{i}")), &t.bytes).unwrap();
        }
    }
}

fn cargo(folder: &Path, args: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(folder)
        .args(args)
        .env_remove("RUSTFLAGS")
        .env("CARGO_TARGET_DIR", root().join("target/emitted"));
    let output = cargo.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "cargo {args:?} in {}:\n{out}\n{err}", folder.display());
    out + &err
}

#[test]
fn crates_build_without_a_warning_and_compute_what_the_executor_computes() {
    let folder = root().join("target/emitted-crates");
    let graph = digits();
    let plans = [host(graph.clone()), unloadable(cuda(graph, "sm_90a", ""))];
    member(&folder.join("digits"), &emit::files(&plans, &options("digits")).unwrap());
    expectations(&folder.join("checks/digits"), &plans[0].plan, &[("batch", 3)], 1);

    let fixed = [host(mir("fixed"))];
    let in_file = EmitOptions { weights: WeightsIn::File, ..options("fixed") };
    member(&folder.join("fixed"), &emit::files(&fixed, &in_file).unwrap());
    expectations(&folder.join("checks/fixed"), &fixed[0].plan, &[], 1);

    let mixed = [
        host(mir("mixed")),
        unloadable(cuda(mir("mixed"), "sm_90a", "")),
        unloadable(cuda(mir("mixed"), "sm_80", "")),
    ];
    member(&folder.join("mixed"), &emit::files(&mixed, &options("mixed")).unwrap());
    expectations(&folder.join("checks/mixed"), &mixed[0].plan, &[("batch", 3), ("seq", 7)], 4);

    // Steps on two lanes for one target, and one after the other for the other.
    let forked =
        [host(mir("forked")), unloadable(branched("sm_90a")), unloadable(cuda(mir("forked"), "sm_80", ""))];
    let files = emit::files(&forked, &options("forked")).unwrap();
    let steps = |name: &str| String::from_utf8_lossy(&files[name]).into_owned();
    let text = steps("src/steps.rs");
    assert!(
        text.contains("    branches.step(2, &[])?;\n    launch(") && text.contains("branches.join()?;"),
        "{text}"
    );
    assert!(!steps("src/steps_sm_80.rs").contains("branches"));
    member(&folder.join("forked"), &files);
    expectations(&folder.join("checks/forked"), &forked[0].plan, &[], 1);

    // The form for build scripts, both targets; a build script that only copies stands for the compiler.
    let included = folder.join("included");
    write(&included.join("model"), &emit::single_module(&mixed, &options("mixed")).unwrap());
    std::fs::create_dir_all(included.join("src")).unwrap();
    let manifest = include_str!("emitted/included.toml").replace("ROOT", &root().display().to_string());
    std::fs::write(included.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(included.join("build.rs"), include_str!("emitted/included_build.rs")).unwrap();
    let library = "//! A model included as a module.\n#![warn(missing_docs)]\n/// The model.\npub mod mixed {\n    \
                   bakelite_runtime::include_model!(\"mixed\");\n}\n";
    std::fs::write(included.join("src/lib.rs"), library).unwrap();

    let checks = folder.join("checks");
    std::fs::create_dir_all(checks.join("src")).unwrap();
    std::fs::write(checks.join("src/main.rs"), include_str!("emitted/checks.rs")).unwrap();
    let runtime = root().join("runtime-min").display().to_string();
    let manifest = include_str!("emitted/checks.toml").replace("RUNTIME", &runtime);
    std::fs::write(checks.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(folder.join("Cargo.toml"), include_str!("emitted/workspace.toml")).unwrap();
    std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();

    let checked = cargo(&folder, &["run", "--package", "checks"]);
    assert!(checked.contains("all agree"), "{checked}");
    cargo(
        &folder,
        &["clippy", "--workspace", "--all-targets", "--all-features", "--quiet", "--", "--deny", "warnings"],
    );
    let program = cargo(&folder, &["run", "--quiet", "--package", "fixed"]);
    assert!(program.contains("probabilities (8 elements): "), "{program}");
    let input = folder.join("checks/digits/in0");
    let program = cargo(
        &folder,
        &[
            "run",
            "--quiet",
            "--package",
            "digits",
            "--features",
            "host",
            "--",
            "--host",
            &input.display().to_string(),
        ],
    );
    assert!(program.contains("logits (30 elements): "), "{program}");
}

#[test]
fn the_same_plans_give_the_same_bytes() {
    let files = || {
        let plans = [host(mir("mixed")), unloadable(cuda(mir("mixed"), "sm_90a", ""))];
        emit::files(&plans, &EmitOptions { dependencies: Dependencies::Vendored, ..EmitOptions::default() })
            .unwrap()
    };
    let (first, second) = (files(), files());
    assert_eq!(first, second);
    assert!(
        first.contains_key("bakelite-runtime/src/lib.rs") && first.contains_key("bakelite-host/src/map.rs")
    );
    let manifest = String::from_utf8_lossy(&first["Cargo.toml"]);
    assert!(manifest.contains("path = \"bakelite-runtime\"") && !manifest.contains("0.1\""), "{manifest}");
}

#[test]
fn a_crate_with_its_own_runtime_needs_nothing_of_ours() {
    let folder = root().join("target/emitted-vendored");
    let plans = [host(mir("fixed")), unloadable(cuda(mir("fixed"), "sm_90a", ""))];
    for weights in [WeightsIn::Embed, WeightsIn::File] {
        let options = EmitOptions { weights, dependencies: Dependencies::Vendored, ..options("vendored") };
        write(&folder, &emit::files(&plans, &options).unwrap());
        std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        for features in ["cuda", "host", "cuda,host"] {
            let arguments = ["check", "--quiet", "--no-default-features", "--features", features];
            let said = cargo(&folder, &arguments);
            assert!(!said.contains("warning"), "{features}: {said}");
        }
    }
}

#[test]
fn plans_that_disagree_are_refused() {
    let error = emit::files(&[host(mir("fixed")), host(mir("mixed"))], &EmitOptions::default()).unwrap_err();
    assert!(error.what.contains("X: f16[2,3]") && error.what.contains("type: f32[batch,seq]"), "{error}");
    assert!(emit::files(&[], &EmitOptions::default()).is_err());
    let without = PlanWithImages { plan: cuda(mir("fixed"), "sm_80", ""), images: vec![] };
    assert!(emit::files(&[without], &EmitOptions::default()).unwrap_err().what.contains("0 images"));
}

/// The images of a plan: those committed with the exhibit where the kernels are still the same, else NVRTC's.
fn images(plan: &Plan, kernels: &Path) -> Vec<Images> {
    let committed = |k: &plan::KernelSource| {
        let read = |extension: &str| std::fs::read(kernels.join(format!("{}.{extension}", k.name))).ok();
        let mut ptx = String::new();
        flate2::read::GzDecoder::new(read("ptx.gz")?.as_slice()).read_to_string(&mut ptx).ok()?;
        (read("cu")? == k.source.as_bytes()).then_some(())?;
        Some(Images { name: k.name.clone(), cubin: read("cubin")?, ptx: Some(ptx) })
    };
    if let Some(images) = plan.kernels.iter().map(committed).collect() {
        return images;
    }
    let folder = std::env::var_os("BAKELITE_NVRTC").map(PathBuf::from);
    let nvrtc =
        Nvrtc::open(folder.as_deref()).unwrap_or_else(|e| panic!("the exhibit's kernels have changed: {e}"));
    let arch = plan.target.gpu().unwrap().arch;
    bakelite::execute::kernels::compile(plan, &nvrtc, arch, true, &|| ()).unwrap()
}

#[test]
fn the_exhibit_is_what_the_compiler_writes() {
    let example = root().join("examples/digits");
    let emitted = example.join("emitted");
    let tactics = std::fs::read_to_string(example.join("digits.tactics")).unwrap_or_default();
    let measured_on = Tactics::parse(&tactics).map(|t| t.measured_on).unwrap_or_default();
    let plan = cuda(digits(), "sm_90a", &tactics);
    let images = images(&plan, &emitted.join("kernels"));
    let plans = [host(digits()), PlanWithImages { plan, images }];
    let hash = blake3::hash(&std::fs::read(example.join("digits_cnn.onnx")).unwrap());
    let options = EmitOptions {
        dependencies: Dependencies::Path("../../../runtime-min".into(), "../../../kernels/host".into()),
        model_hash: hash.to_hex().to_string(),
        measured_on,
        ..options("digits")
    };
    let files = emit::files(&plans, &options).unwrap();
    if std::env::var_os("BLESS").is_some() {
        return write(&emitted, &files);
    }
    for (name, bytes) in &files {
        let committed = std::fs::read(emitted.join(name)).unwrap_or_default();
        assert!(committed == *bytes, "examples/digits/emitted/{name} is stale: run the test with BLESS=1");
    }
    let kernels = std::fs::read_dir(emitted.join("kernels")).unwrap().count();
    assert_eq!(
        kernels,
        files.keys().filter(|f| f.starts_with("kernels/")).count(),
        "kernels of an earlier time"
    );
}

#[test]
fn a_build_script_compiles_a_model_once() {
    let example = root().join("examples/build-rs");
    let lock = example.join("Cargo.lock");
    std::fs::copy(root().join("Cargo.lock"), &lock).unwrap();
    // Nothing optimised: it is the compiler that takes time here, not what it compiles.
    let said = cargo(
        &example,
        &[
            "run",
            "--offline",
            "--config=profile.dev.opt-level=0",
            "--config=profile.dev.package.'*'.opt-level=0",
            "--config=profile.dev.debug=false",
            "--config=profile.dev.incremental=false",
        ],
    );
    assert!(said.contains("it is a 3") && !said.contains("warning"), "{said}");

    let out = tempfile::tempdir().unwrap();
    let model = root().join("examples/digits/digits_cnn.onnx");
    let build = bakelite::build(&model).name("Digits Net").symbol("batch", 1, 8, 4);
    assert_eq!(build.emit_to(out.path()).unwrap(), [model]);
    let stamp = out.path().join("digits_net/stamp.txt");
    let text = out.path().join("digits_net/model.rs");
    std::fs::write(&text, "untouched").unwrap();
    build.emit_to(out.path()).unwrap();
    assert_eq!(std::fs::read_to_string(&text).unwrap(), "untouched");
    let before = std::fs::read_to_string(&stamp).unwrap();
    build.symbol("batch", 1, 9, 4).emit_to(out.path()).unwrap();
    assert_ne!(std::fs::read_to_string(&text).unwrap(), "untouched");
    assert_ne!(std::fs::read_to_string(&stamp).unwrap(), before);
    let error = bakelite::build("no-such.onnx").emit_to(out.path()).unwrap_err();
    assert!(error.at.contains("no-such.onnx"), "{error}");
}
