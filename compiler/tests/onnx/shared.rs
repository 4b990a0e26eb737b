//! Imports the models of a folder that is not part of the repository, and compares results where it has them.

use crate::evaluate::run;
use bakelite::ir::Tensor;
use bakelite::onnx::{ImportOptions, Source, decode, import};
use std::path::{Path, PathBuf};

fn folder() -> Option<PathBuf> {
    let given = std::env::var_os("BAKELITE_SHARED").map(PathBuf::from);
    let shared = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    let models = shared.join("models");
    if !models.is_dir() {
        eprintln!(
            "SKIPPED: there is no {}; set BAKELITE_SHARED to the folder above `models`",
            models.display()
        );
        return None;
    }
    Some(models)
}

fn models(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for sub in ["digits", "real"] {
        let files = std::fs::read_dir(folder.join(sub)).into_iter().flatten().flatten().map(|e| e.path());
        found.extend(files.filter(|p| p.extension().is_some_and(|e| e == "onnx")));
    }
    found.sort();
    found
}

/// What keeps a model out, by a part of its error: nothing else may.
const REFUSED: &[(&str, &str)] = &[
    ("_qdq_", "QuantizeLinear"),
    ("_qop_", "unknown domains|QLinear"),
    ("dtln_model_1", "LSTM"),
    ("silero_vad", "If"),
];

#[test]
fn every_model_imports_or_says_which_operators_are_missing() {
    let Some(folder) = folder() else { return };
    let mut wrong = Vec::new();
    for path in models(&folder) {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let reason = REFUSED.iter().find(|(part, _)| file.contains(part)).map(|(_, r)| *r);
        let graph = Source::open(&path).and_then(decode).and_then(|m| import(&m, &ImportOptions::default()));
        match (graph, reason) {
            (Ok(_), None) => {}
            (Err(e), Some(reason)) if reason.split('|').any(|r| e.to_string().contains(r)) => {}
            (Ok(_), Some(_)) => wrong.push(format!("{file}: imports, but is listed as refused")),
            (Err(e), _) => wrong.push(format!("{file}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn npz(path: &Path) -> Vec<(String, Tensor)> {
    use npyz::npz::NpzArchive;
    let mut archive = NpzArchive::open(path).unwrap();
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let mut all = Vec::new();
    for name in names {
        let array = archive.by_name(&name).unwrap().unwrap();
        let shape: Vec<usize> = array.shape().iter().map(|d| *d as usize).collect();
        let kind = array.dtype().descr();
        use bakelite_host::DType;
        let tensor = if kind.contains("f4") {
            Tensor::of(DType::F32, shape, &array.into_vec::<f32>().unwrap())
        } else if kind.contains("i8") {
            Tensor::of(DType::I64, shape, &array.into_vec::<i64>().unwrap())
        } else if kind.contains("i4") {
            Tensor::of(DType::I32, shape, &array.into_vec::<i32>().unwrap())
        } else if kind.contains("f2") {
            Tensor::of(DType::F16, shape, &array.into_vec::<half::f16>().unwrap())
        } else {
            continue;
        };
        all.push((name, tensor.unwrap()));
    }
    all
}

#[test]
fn imported_models_compute_what_their_references_say() {
    let Some(folder) = folder() else { return };
    let mut compared = 0;
    for path in models(&folder) {
        let inputs = path.with_extension("inputs.npz");
        let outputs = ["ort_outputs.npz", "outputs.npz"].map(|e| path.with_extension(e));
        let Some(outputs) = outputs.into_iter().find(|p| p.is_file()) else { continue };
        if !inputs.is_file() {
            continue;
        }
        let model = Source::open(&path).and_then(decode).unwrap();
        let (inputs, expected) = (npz(&inputs), npz(&outputs));
        let mut options = ImportOptions::default();
        for (name, ty) in &model.graph.inputs {
            let Some((_, given)) = inputs.iter().find(|(n, _)| n == name) else { continue };
            for (axis, size) in ty.shape.iter().flatten().enumerate() {
                use bakelite::onnx::model::Size;
                let symbol = match size {
                    Size::Const(_) => continue,
                    Size::Named(n) => n.clone(),
                    Size::Unknown => format!("{name}_{axis}"),
                };
                options.bind.insert(symbol, given.shape[axis] as i64);
            }
        }
        let Ok(graph) = import(&model, &options) else { continue };
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let results = run(&graph, &inputs).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for (name, result) in results {
            let Some((_, expected)) = expected.iter().find(|(n, _)| *n == name) else { continue };
            assert_eq!(result.shape, expected.shape, "{} {name}", path.display());
            let (a, b) = (result.to_f64(), expected.to_f64());
            let error: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            let norm: f64 = b.iter().map(|b| b * b).sum::<f64>().sqrt().max(1e-12);
            assert!(error / norm < 1e-3, "{} {name}: relative error {}", path.display(), error / norm);
            compared += 1;
        }
    }
    assert!(compared > 0, "no model of {} has references", folder.display());
}
