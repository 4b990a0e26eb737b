//! The project's chores. No logic of the product: every line here is a command that a person could type.

mod plot;
mod report;
mod setup;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask COMMAND

  setup   install NVRTC 13.0 (from its PyPI wheel) into .bakelite/nvrtc
  demo    compile a digit classifier to a crate, build it, run it on 540 digits   (also: cargo demo)
  test    everything that CI runs: format, lints, tests, doc tests, kernels for every architecture

  bench-peers [--models A,B] [--batches 1,32] [--json FILE] ...
          Bakelite against PyTorch, ONNX Runtime and TensorRT on this machine's GPU: builds the command line, then runs
          benches/peers.py, which takes these arguments and more (--help)
  bench-report FILE...
          docs/benchmarks.md and its plots from such JSON files, later ones before earlier ones; needs no GPU
";

type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("setup") => setup::nvrtc(&root()).map(|dir| println!("NVRTC is in {}", dir.display())),
        Some("demo") => demo(&root()),
        Some("test") => test(&root()),
        Some("bench-peers") => bench_peers(&root(), std::env::args().skip(2)),
        Some("bench-report") => {
            let files: Vec<PathBuf> = std::env::args_os().skip(2).map(PathBuf::from).collect();
            report::write(&files, &root()).map(|()| println!("wrote docs/benchmarks.md"))
        }
        _ => Err(HELP.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

fn run(what: &str, command: &mut Command) -> Outcome {
    println!("\n\x1b[1m== {what}\x1b[0m");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(e) => Err(format!("{what}: cannot start {:?}: {e}", command.get_program())),
    }
}

fn demo(root: &Path) -> Outcome {
    let nvrtc = setup::nvrtc(root)?;
    let (demo, example) = (root.join("target/demo"), root.join("examples/digits"));
    let compile =
        ["run", "--release", "--package", "bakelite", "--", "compile", "examples/digits/digits_cnn.onnx"];
    let mut command = cargo(root);
    command.args(compile).args(["--name", "digits", "--target", "host,sm_90a", "--symbol", "batch=1..64:60"]);
    command.arg("--out").arg(demo.join("digits")).arg("--nvrtc").arg(nvrtc);
    command.args(["--tactics", "examples/digits/digits.tactics"]);
    command.arg("--runtime-path").arg(root);
    run("Compiling digits_cnn.onnx to the crate target/demo/digits", &mut command)?;
    let app = demo.join("app");
    let io = |e: std::io::Error| format!("target/demo/app: {e}");
    std::fs::create_dir_all(app.join("src")).map_err(io)?;
    for file in ["src/main.rs", "test_digits.bin"] {
        std::fs::copy(example.join(file), app.join(file)).map_err(io)?;
    }
    let manifest = std::fs::read_to_string(example.join("Cargo.toml")).map_err(io)?;
    std::fs::write(app.join("Cargo.toml"), manifest.replace("path = \"emitted\"", "path = \"../digits\""))
        .map_err(io)?;
    let mut build = cargo(&app);
    build.args(["run", "--release"]);
    run("Building the crate and a program around it, and running that on 540 test digits", &mut build)?;
    println!(
        "\nThe generated code: target/demo/digits/src/lib.rs (its interface), src/steps.rs and src/host_steps.rs"
    );
    println!(
        "(one launch or call for each step), kernels/*.cu (CUDA C++), plan.txt (memory and tactics), README.md."
    );
    Ok(())
}

fn bench_peers(root: &Path, arguments: impl Iterator<Item = String>) -> Outcome {
    let mut build = cargo(root);
    build.args(["build", "--release", "--package", "bakelite"]);
    run("Building the command line", &mut build)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut peers = Command::new("python3");
    peers.arg(root.join("benches/peers.py")).arg("--bakelite").arg(target.join("release/bakelite"));
    let nvrtc = root.join(".bakelite/nvrtc");
    if nvrtc.is_dir() && std::env::var_os("BAKELITE_NVRTC").is_none() {
        peers.env("BAKELITE_NVRTC", setup::nvrtc(root)?);
    }
    run("Measuring", peers.args(arguments))
}

fn test(root: &Path) -> Outcome {
    let nvrtc = setup::nvrtc(root)?;
    run("Format", cargo(root).args(["fmt", "--all", "--check"]))?;
    run(
        "Lints",
        cargo(root).args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]),
    )?;
    let nextest = Command::new("cargo-nextest").arg("--version").output().is_ok();
    let runner: &[&str] = if nextest { &["nextest", "run"] } else { &["test", "--lib", "--bins", "--tests"] };
    run(
        "Tests",
        cargo(root).args(runner).args(["--workspace", "--no-fail-fast"]).env("BAKELITE_NVRTC", &nvrtc),
    )?;
    run("Documentation's tests", cargo(root).args(["test", "--workspace", "--doc", "--quiet"]))
}
