//! The command line, as a user sees it: bad input of every kind ends in one clear error, exit code 1, and nothing left
//! behind. Runs the built program.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "onnx/build.rs"]
#[allow(dead_code, unreachable_pub)]
mod build;

use bakelite::ir::Tensor;
use bakelite::npz;
use bakelite_host::DType;
use build::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the program in `folder`, with no GPU and no NVRTC to find.
fn bakelite(folder: &Path, arguments: &[&str]) -> Ran {
    let done = Command::new(env!("CARGO_BIN_EXE_bakelite"))
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .env("CUDA_VISIBLE_DEVICES", "")
        .env_remove("BAKELITE_NVRTC")
        .env_remove("VIRTUAL_ENV")
        .output()
        .unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Ran { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) }
}

/// The program must fail in good order and say each of `expected`.
fn fails(folder: &Path, arguments: &[&str], expected: &[&str]) {
    let ran = bakelite(folder, arguments);
    assert_eq!(ran.code, Some(1), "{arguments:?}\n{}{}", ran.out, ran.err);
    assert!(!ran.err.contains("panicked"), "{arguments:?}\n{}", ran.err);
    for text in expected {
        assert!(ran.err.contains(text), "{arguments:?}: no `{text}` in\n{}", ran.err);
    }
}

/// Runs the program where no file can grow past `blocks` blocks, as on a disk that fills up: what was written before stays,
/// and the write that is too much fails.
#[cfg(unix)]
fn bakelite_with_little_space(folder: &Path, blocks: u32, arguments: &[&str]) -> Ran {
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let done = Command::new("sh")
        .args(["-c", &limited, env!("CARGO_BIN_EXE_bakelite")])
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Ran { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) }
}

fn works(folder: &Path, arguments: &[&str]) -> String {
    let ran = bakelite(folder, arguments);
    assert_eq!(ran.code, Some(0), "{arguments:?}\n{}{}", ran.out, ran.err);
    ran.out
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// `y = relu(x · w)`, with x of `sizes`.
fn linear(sizes: &str) -> Build {
    model(17)
        .input("x", DataType::Float, sizes)
        .init("w", f32s(&[3, 2], &[1.0, -1.0, 2.0, 0.5, 0.0, 1.0]))
        .node("h", "MatMul", "x w", &[])
        .node("y", "Relu", "h", &[])
        .output("y")
}

struct Here {
    folder: tempfile::TempDir,
}

impl Here {
    fn new() -> Here {
        Here { folder: tempfile::tempdir().unwrap() }
    }
    fn path(&self) -> &Path {
        self.folder.path()
    }
    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
    fn arrays(&self, name: &str, arrays: &[(&str, Tensor)]) {
        let arrays: BTreeMap<String, Tensor> =
            arrays.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
        npz::write(fs::File::create(self.path().join(name)).unwrap(), &arrays).unwrap();
    }
}

fn f32_array(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::of(DType::F32, shape.to_vec(), values).unwrap()
}

const RUN: [&str; 4] = ["run", "m.onnx", "--device", "cpu"];

fn run_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    RUN.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn files_that_are_no_models() {
    let here = Here::new();
    let whole = linear("batch 3").bytes();
    here.put("short.onnx", &whole[..whole.len() - 7]);
    here.put("empty.onnx", b"");
    let mut state = 1u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    here.put("random.onnx", (0..4096).map(|_| byte()).collect::<Vec<u8>>());
    // A message of other fields that protobuf can decode.
    here.put("other.onnx", [0xfa, 0x3f, 0x03, b'a', b'b', b'c']);
    fs::create_dir(here.path().join("folder.onnx")).unwrap();
    for command in ["inspect", "compile", "run", "bench"] {
        for (file, expected) in [
            ("short.onnx", "not an ONNX model"),
            ("empty.onnx", "not an ONNX model"),
            ("random.onnx", "not an ONNX model"),
            ("other.onnx", "not an ONNX model"),
            ("folder.onnx", "not a regular file"),
            ("absent.onnx", "No such file"),
        ] {
            let more: &[&str] = match command {
                "compile" => &["--target", "host", "--out", "out"],
                "run" => &["--device", "cpu", "--random", "1"],
                "bench" => &["--device", "cpu"],
                _ => &[],
            };
            let arguments: Vec<&str> = [command, file].iter().chain(more).copied().collect();
            fails(here.path(), &arguments, &["decode: ", file, expected]);
        }
    }
    assert!(!here.path().join("out").exists());
}

#[test]
fn graphs_that_make_no_sense() {
    let here = Here::new();
    let compile = ["compile", "m.onnx", "--target", "host", "--out", "out"];
    let cyclic = model(17)
        .input("x", DataType::Float, "2")
        .node("a", "Add", "x b", &[])
        .node("b", "Relu", "a", &[])
        .output("b");
    here.put("m.onnx", cyclic.bytes());
    fails(
        here.path(),
        &compile,
        &["node \"Add_a\" (Add)", "its operand \"b\" is defined by nothing before it"],
    );
    let missing =
        model(17).input("x", DataType::Float, "2 3").node("y", "MatMul", "x nowhere", &[]).output("y");
    here.put("m.onnx", missing.bytes());
    fails(here.path(), &compile, &["node \"MatMul_y\"", "\"nowhere\" is defined by nothing before it"]);
    here.put(
        "m.onnx",
        model(17).input("x", DataType::Float, "2").node("y", "Relu", "x", &[]).output("z").bytes(),
    );
    fails(here.path(), &compile, &["output \"z\"", "no node makes it"]);
    let unknown = model(17)
        .input("x", DataType::Float, "2")
        .node("a", "Frobnicate", "x", &[])
        .node("b", "Quux", "a", &[])
        .output("b");
    here.put("m.onnx", unknown.bytes());
    fails(here.path(), &compile, &["2 nodes have unsupported operators", "Frobnicate", "Quux"]);
    let inspected = works(here.path(), &["inspect", "m.onnx"]);
    assert!(inspected.contains("not supported") && inspected.contains("Frobnicate"), "{inspected}");
    here.put("m.onnx", linear("batch 4").bytes());
    fails(here.path(), &compile, &["node \"MatMul_h\" (MatMul)", "3", "4"]);
    assert_eq!(names(here.path()), ["m.onnx"]);
}

#[test]
fn sizes_that_cannot_be() {
    let here = Here::new();
    // Some exporters write a negative size for a dynamic one, so it is taken as that in an input; data cannot have it.
    here.put("m.onnx", linear("-5 3").bytes());
    assert!(works(here.path(), &["inspect", "m.onnx"]).contains("f32[?,3]"));
    works(here.path(), &run_with(&["--random", "1"]));
    let negative = linear("batch 3").init("v", f32s(&[-2, 3], &[0.0; 6]));
    here.put("m.onnx", negative.bytes());
    fails(here.path(), &run_with(&["--random", "1"]), &["initializer \"v\"", "-2"]);
    // Refused for what it would take, whichever stage notices first; never by dying of it.
    for sizes in ["9223372036854775807 3", "1000000000000 3", "3037000500 3037000500 3"] {
        here.put("m.onnx", linear(sizes).bytes());
        fails(here.path(), &run_with(&["--random", "1"]), &[]);
        fails(here.path(), &["bench", "m.onnx", "--device", "cpu"], &[]);
    }
    // A plan for a GPU is made without one, and so is its refusal.
    here.put("m.onnx", linear("1000000000000 3").bytes());
    let compile = ["compile", "m.onnx", "--target", "sm_90a", "--emit", "plan"];
    fails(here.path(), &compile, &["bytes of GPU memory", "the largest buffer is", "smaller sizes"]);
    here.put("m.onnx", linear("batch 3").bytes());
    fails(here.path(), &run_with(&["--random", "1", "--bind", "batch=1000000000000"]), &["memory"]);
    fails(
        here.path(),
        &run_with(&["--random", "1", "--bind", "other=2"]),
        &["symbol `other`", "it has batch"],
    );
}

#[test]
fn external_data_stay_in_the_models_folder() {
    let here = Here::new();
    let models = here.path().join("models");
    fs::create_dir(&models).unwrap();
    let secret = here.put("secret.bin", [0; 24]);
    fs::write(models.join("short.bin"), [0; 20]).unwrap();
    fs::write(models.join("good.bin"), [0; 24]).unwrap();
    let refuse = |location: &str, expected: &str| {
        let tensor = external(DataType::Float, &[3, 2], &[("location", location)]);
        let mut build = linear("batch 3");
        build.graph().initializer.clear();
        fs::write(models.join("m.onnx"), build.init("w", tensor).bytes()).unwrap();
        let compile = ["compile", "models/m.onnx", "--target", "host", "--out", "out"];
        if expected.is_empty() {
            works(here.path(), &["compile", "models/m.onnx", "--target", "host", "--emit", "plan"]);
        } else {
            fails(here.path(), &compile, &["initializer \"w\"", expected]);
        }
    };
    refuse("good.bin", "");
    refuse("absent.bin", "No such file");
    refuse("short.bin", "20");
    refuse(secret.to_str().unwrap(), "absolute");
    refuse("../secret.bin", "`..`");
    refuse("sub/../../secret.bin", "`..`");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&secret, models.join("soft.bin")).unwrap();
        fs::hard_link(&secret, models.join("hard.bin")).unwrap();
        refuse("soft.bin", "symbolic link");
        refuse("hard.bin", "hard link");
    }
    assert!(!here.path().join("out").exists());
}

#[test]
fn arrays_that_do_not_fit() {
    let here = Here::new();
    here.put("m.onnx", linear("batch 3").bytes());
    let x = f32_array(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let run = run_with(&["--inputs", "in.npz", "--outputs", "out.npz"]);
    let takes = ["the model takes", "f32[batch,3]"];
    let refuse = |arrays: &[(&str, Tensor)], expected: &[&str]| {
        here.arrays("in.npz", arrays);
        fails(here.path(), &run, &[expected, &takes].concat());
    };
    refuse(&[], &["the input \"x\" is missing"]);
    refuse(&[("x", x.clone()), ("z", x.clone())], &["the model has no input \"z\""]);
    let ids = Tensor::of(DType::I64, vec![2, 3], &[0i64; 6]).unwrap();
    refuse(&[("x", ids)], &["the input \"x\" is f32[batch,3], but its array is i64[2,3]"]);
    refuse(&[("x", f32_array(&[2, 4], &[0.0; 8]))], &["f32[batch,3], but its array is f32[2,4]"]);
    refuse(&[("x", f32_array(&[6], &[0.0; 6]))], &["its array is f32[6]"]);
    fails(here.path(), &run_with(&[]), &["give --inputs or --random", "f32[batch,3]"]);
    here.put("in.npz", b"PK\x03\x04 and no more");
    fails(here.path(), &run, &["in.npz", "not an .npz archive"]);
    here.arrays("in.npz", &[("x", x.clone())]);
    let narrow = [run.as_slice(), &["--symbol", "batch=3..8"]].concat();
    fails(here.path(), &narrow, &["symbol `batch` is 2", "3 to 8"]);
    assert_eq!(names(here.path()), ["in.npz", "m.onnx"]);

    // And what does fit gives the right numbers.
    works(here.path(), &run);
    let read = |name: &str| npz::read(fs::File::open(here.path().join(name)).unwrap()).unwrap();
    assert_eq!(read("out.npz")["y"], f32_array(&[2, 2], &[5.0, 3.0, 14.0, 4.5]));
    // A batch beyond the default range widens it.
    here.arrays("in.npz", &[("x", f32_array(&[100, 3], &[1.0; 300]))]);
    works(here.path(), &run);
    assert_eq!(read("out.npz")["y"], f32_array(&[100, 2], &[3.0, 0.5].repeat(100)));
}

#[test]
fn references_are_compared() {
    let here = Here::new();
    here.put("m.onnx", linear("batch 3").bytes());
    here.arrays("in.npz", &[("x", f32_array(&[1, 3], &[1.0, 2.0, 3.0]))]);
    let wrong = f32_array(&[1, 2], &[0.0, 0.0]);
    let right = Tensor::of(DType::F64, vec![1, 2], &[5.0f64, 3.0]).unwrap();
    here.arrays("good.npz", &[("y", wrong.clone()), ("y__f64", right)]);
    here.arrays("bad.npz", &[("y", f32_array(&[1, 2], &[5.0, 3.5]))]);
    here.arrays("nan.npz", &[("y", f32_array(&[1, 2], &[5.0, f32::NAN]))]);
    here.arrays("shape.npz", &[("y", f32_array(&[2], &[5.0, 3.0]))]);
    here.arrays("other.npz", &[("z", wrong)]);
    let against = |file: &str, tolerance: &str| {
        let more = ["--inputs", "in.npz", "--reference", file, "--tolerance", tolerance];
        bakelite(here.path(), &run_with(&more))
    };
    let good = against("good.npz", "1e-6");
    assert_eq!(good.code, Some(0), "{}{}", good.out, good.err);
    assert!(good.out.contains("0.000e0"), "{}", good.out);
    let bad = against("bad.npz", "1e-2");
    assert_eq!(bad.code, Some(1), "{}{}", bad.out, bad.err);
    assert!(bad.out.contains("above the tolerance") && bad.out.contains("5.000e-1"), "{}", bad.out);
    assert_eq!(against("bad.npz", "1").code, Some(0));
    assert_eq!(against("nan.npz", "1").code, Some(1));
    assert!(against("shape.npz", "1").err.contains("f32[1,2], but its reference is f32[2]"));
    assert!(against("other.npz", "1").err.contains("no array \"y\""));
}

#[test]
fn output_folders() {
    let here = Here::new();
    here.put("m.onnx", linear("batch 3").bytes());
    let compile = |out: &str| ["compile", "m.onnx", "--target", "host", "--out", out].map(str::to_owned);
    let refused = |out: &str, expected: &[&str]| {
        let arguments = compile(out);
        fails(here.path(), &arguments.each_ref().map(String::as_str), expected);
    };
    fs::create_dir(here.path().join("mine")).unwrap();
    here.put("mine/precious", "text");
    refused("mine", &["\"mine\"", "was not made by Bakelite", "name another folder"]);
    here.put("file", "text");
    refused("file", &["exists and is no folder"]);
    refused("file/out", &["cannot"]);
    refused("/proc/bakelite/out", &["/proc/bakelite"]);
    assert_eq!(
        (names(&here.path().join("mine")), names(here.path())),
        (vec!["precious".to_owned()], ["file", "m.onnx", "mine"].map(str::to_owned).to_vec())
    );
    let arguments = compile("out");
    let arguments = arguments.each_ref().map(String::as_str);
    works(here.path(), &arguments);
    let first = names(&here.path().join("out"));
    for name in [".bakelite", "Cargo.toml", "README.md", "plan.txt", "src"] {
        assert!(first.iter().any(|n| n == name), "{first:?}");
    }
    here.put("out/stale", "text");
    works(here.path(), &arguments);
    assert_eq!(names(&here.path().join("out")), first);
    assert_eq!(names(here.path()), ["file", "m.onnx", "mine", "out"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills() {
    let here = Here::new();
    let weights: Vec<f32> = (0..300 * 300).map(|i| i as f32).collect();
    let model = model(17)
        .input("x", DataType::Float, "300 300")
        .init("w", f32s(&[300, 300], &weights))
        .node("y", "MatMul", "x w", &[])
        .output("y");
    here.put("m.onnx", model.bytes());
    let compile = ["compile", "m.onnx", "--target", "host", "--out", "out"];
    let run = run_with(&["--random", "1", "--outputs", "y.npz"]);
    let full = |arguments: &[&str], expected: &str| {
        let ran = bakelite_with_little_space(here.path(), 64, arguments);
        assert_eq!(ran.code, Some(1), "{arguments:?}\n{}{}", ran.out, ran.err);
        assert!(ran.err.contains(expected) && ran.err.contains("File too large"), "{}", ran.err);
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
    };
    // Nothing half-written stays, and nothing new.
    full(&compile, "cannot write \"out/");
    full(&run, "cannot write \"y.npz\"");
    assert_eq!(names(here.path()), ["m.onnx"]);
    // What was there before stays as it was.
    works(here.path(), &compile);
    works(here.path(), &run);
    let before = (names(&here.path().join("out")), fs::read(here.path().join("y.npz")).unwrap());
    full(&compile, "cannot write \"out/");
    full(&run, "cannot write \"y.npz\"");
    assert_eq!((names(&here.path().join("out")), fs::read(here.path().join("y.npz")).unwrap()), before);
    assert_eq!(names(here.path()), ["m.onnx", "out", "y.npz"]);
}

#[test]
fn every_stage_can_be_seen() {
    let here = Here::new();
    here.put("m.onnx", linear("batch 3").bytes());
    let emit = |what: &str, target: &str| {
        works(here.path(), &["compile", "m.onnx", "--target", target, "--emit", what, "--dump", "dump"])
    };
    assert!(emit("graph", "host").contains("input \"x\": f32[batch,3]"));
    assert!(emit("regions", "sm_80").contains("output \"y\""));
    assert!(emit("plan", "sm_80").contains("<<<("));
    assert!(emit("cuda", "sm_80").contains("__global__"));
    let dumped = names(&here.path().join("dump"));
    for name in ["00-import.mir", "01-fold.mir", "plan.txt", "regions.txt"] {
        assert!(dumped.iter().any(|n| n == name), "{dumped:?}");
    }
    here.put("file", "");
    let dump = ["compile", "m.onnx", "--target", "host", "--emit", "plan", "--dump", "file"];
    fails(here.path(), &dump, &["--dump", "file"]);
}

#[test]
fn tools_that_are_not_there() {
    let here = Here::new();
    here.put("m.onnx", linear("batch 3").bytes());
    for arguments in [
        &["run", "m.onnx", "--device", "gpu", "--random", "1"][..],
        &["bench", "m.onnx"],
        &["tune", "m.onnx", "--tactics", "t.txt"],
    ] {
        // No driver, or one that shows no device.
        fails(here.path(), arguments, &["help: "]);
        let said = bakelite(here.path(), arguments).err;
        assert!(said.contains("no usable NVIDIA driver") || said.contains("GPU"), "{said}");
    }
    let compile = ["compile", "m.onnx", "--target", "sm_80", "--out", "out", "--nvrtc", "/no/such/folder"];
    fails(
        here.path(),
        &compile,
        &["NVRTC was not found", "/no/such/folder", "pip install nvidia-cuda-nvrtc"],
    );
    here.put("t.txt", "nonsense");
    let tactics = ["compile", "m.onnx", "--target", "sm_80", "--emit", "plan", "--tactics", "t.txt"];
    fails(here.path(), &tactics, &["\"t.txt\"", "line 1"]);
    let absent = ["compile", "m.onnx", "--target", "sm_80", "--emit", "plan", "--tactics", "absent.txt"];
    fails(here.path(), &absent, &["absent.txt", "bakelite tune"]);
    assert_eq!(names(here.path()), ["m.onnx", "t.txt"]);
}
