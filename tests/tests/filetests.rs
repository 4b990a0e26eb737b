//! Text tests: `filetests/PASS/*.mir` holds a graph, options, and behind `; expect:` the graph that the pass makes of it.
//! `BLESS=1 cargo test -p bakelite-tests --test filetests` writes the expectations. Before they are compared, both graphs
//! are evaluated on seeded inputs: a pass must not change what a graph computes.
//!
//! ```text
//! // What is tested and why.
//! // options: precision=fp16 target=host budget=64 tolerance=1e-2
//! graph "name" { ... }
//! ; expect:
//! graph "name" { ... }
//! ```
//!
//! In `text` the graph is read and printed; in `verify` it goes through the whole pipeline; in `fuse` the expectation is
//! its regions, which run on the host, in `join` with those joined that one kernel for sm_90a does, in `rows` with rows normalised by products wherever they can be, in `place` with their results placed where four elements stay together. An error
//! stands behind `; expect:` as `error: ...`.

// A test that cannot read its file fails.
#![allow(clippy::unwrap_used)]

use bakelite::fuse;
use bakelite::fuse::alternative::Judge;
use bakelite::ir::{Graph, verify};
use bakelite::ops::eval::evaluate;
use bakelite::passes::{self, Options, Precision, TargetKind};
use bakelite_tests::{compare, run_regions, seeded_inputs};
use std::path::{Path, PathBuf};

const MARK: &str = "; expect:\n";

struct Case {
    options: Options,
    tolerance: f64,
}

fn case(input: &str) -> Case {
    let mut case = Case { options: Options::default(), tolerance: 2e-5 };
    let pairs = input.lines().filter_map(|l| l.strip_prefix("// options:")).flat_map(str::split_whitespace);
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap();
        match (name, value) {
            ("precision", "fp32") => case.options.precision = Precision::Fp32,
            ("precision", "tf32") => case.options.precision = Precision::Tf32,
            ("precision", "tf32x3") => case.options.precision = Precision::Tf32x3,
            ("precision", "fp16") => case.options.precision = Precision::Fp16,
            ("precision", "bf16") => case.options.precision = Precision::Bf16,
            ("target", "host") => case.options.target = TargetKind::Host,
            ("target", "cuda") => case.options.target = TargetKind::Cuda,
            ("budget", bytes) => case.options.fold_budget_bytes = bytes.parse().unwrap(),
            ("tolerance", tolerance) => case.tolerance = tolerance.parse().unwrap(),
            _ => panic!("unknown option {pair}"),
        }
    }
    case
}

fn transform(pass: &str, input: &str) -> Result<String, String> {
    let case = case(input);
    let graph: Graph = input.parse().map_err(|e| format!("{e}"))?;
    verify(&graph)?;
    let inputs = seeded_inputs(&graph, 1);
    let before = evaluate(&graph, &inputs);
    let after = match pass {
        "fuse" | "join" | "rows" | "place" => {
            let before = before.unwrap_or_else(|e| panic!("before fusion: {e}"));
            let mut regions = fuse::regions(graph).map_err(|e| e.to_string())?;
            if pass == "join" {
                let target = bakelite_kernels::Target::of("sm_90a".parse().unwrap());
                regions =
                    fuse::join::join(regions, &mut Judge::estimating(&target)).map_err(|e| e.to_string())?;
            }
            if pass == "rows" {
                fuse::rows::normalise(&mut regions, None).map_err(|e| e.to_string())?;
                fuse::verify(&regions).map_err(|e| e.to_string())?;
            }
            if pass == "place" {
                regions = fuse::place::place(regions, 4).map_err(|e| e.to_string())?;
            }
            let text = regions.to_string();
            let results = run_regions(regions, &inputs).unwrap_or_else(|e| panic!("{e}\n{text}"));
            compare(&before, &results, case.tolerance)
                .unwrap_or_else(|e| panic!("fusion changed the result: {e}\n{text}"));
            return Ok(text);
        }
        "text" => graph,
        "verify" => passes::run(graph, &case.options, &mut ()).map_err(|e| e.to_string())?,
        pass => {
            let (name, run) =
                passes::PASSES.iter().find(|(name, _)| *name == pass).expect("a folder for each pass");
            let mut graph = graph;
            passes::apply(name, *run, &mut graph, &case.options).map_err(|e| e.to_string())?;
            graph
        }
    };
    let before = before.unwrap_or_else(|e| panic!("before {pass}: {e}"));
    let results = evaluate(&after, &inputs).unwrap_or_else(|e| panic!("after {pass}: {e}\n{after}"));
    compare(&before, &results, case.tolerance)
        .unwrap_or_else(|e| panic!("{pass} changed the result: {e}\n{after}"));
    Ok(after.to_string())
}

fn run(path: &Path, pass: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).unwrap();
    let (input, expected) = text.split_once(MARK).unwrap_or((&text, ""));
    let got = match std::panic::catch_unwind(|| transform(pass, input)) {
        Ok(Ok(graph)) => graph,
        Ok(Err(error)) => format!("error: {error}\n"),
        Err(panic) => return Err(panic.downcast_ref::<String>().cloned().unwrap_or("panicked".into())),
    };
    if got == expected {
        return Ok(());
    }
    if std::env::var_os("BLESS").is_some() {
        let separator = if input.ends_with('\n') { "" } else { "\n" };
        std::fs::write(path, format!("{input}{separator}{MARK}{got}")).unwrap();
        return Ok(());
    }
    Err(format!("expected:\n{expected}\ngot:\n{got}"))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "mir")).collect();
    files.sort();
    files
}

#[track_caller]
fn check(pass: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests").join(pass);
    let files = files(&folder);
    assert!(!files.is_empty(), "no tests in {}", folder.display());
    let failures: Vec<String> = files
        .iter()
        .filter_map(|path| run(path, pass).err().map(|e| format!("{}: {e}", path.display())))
        .collect();
    assert!(failures.is_empty(), "{} of {} failed\n\n{}", failures.len(), files.len(), failures.join("\n\n"));
}

#[test]
fn fold() {
    check("fold");
}

#[test]
fn simplify() {
    check("simplify");
}

#[test]
fn compose() {
    check("compose");
}

#[test]
fn precision() {
    check("precision");
}

#[test]
fn vectors() {
    check("vectors");
}

#[test]
fn layout() {
    check("layout");
}

#[test]
fn legalize() {
    check("legalize");
}

#[test]
fn fuse_regions() {
    check("fuse");
}

#[test]
fn join_regions() {
    check("join");
}

#[test]
fn rows_normalised_by_products() {
    check("rows");
}

#[test]
fn place_results() {
    check("place");
}

#[test]
fn verify_whole_pipeline() {
    check("verify");
}

#[test]
fn siblings() {
    check("siblings");
}

#[test]
fn upsample() {
    check("upsample");
}

#[test]
fn patches() {
    check("patches");
}

#[test]
fn text() {
    check("text");
}
