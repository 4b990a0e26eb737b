//! The node tests of the onnx package, where someone has dumped them: `BAKELITE_NODE_TESTS/<name>/model.onnx` with
//! `input_N.pb` and `output_N.pb` beside it. Prints what is not supported; a wrong result fails.

use crate::evaluate::run;
use bakelite::ir::Tensor;
use bakelite::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto};
use bakelite::onnx::{ImportOptions, Source, decode, import};
use prost::Message;
use std::path::Path;

/// A stored tensor, read by way of a model that holds nothing else.
fn tensor(path: &Path) -> Result<(String, Tensor), String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let proto = TensorProto::decode(&bytes[..]).map_err(|e| e.to_string())?;
    let name = proto.name().to_owned();
    let initializer = vec![TensorProto { name: Some("t".into()), ..proto }];
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(GraphProto { initializer, ..Default::default() }),
        ..Default::default()
    };
    let model = decode(Source::memory(model.encode_to_vec(), "t")).map_err(|e| e.to_string())?;
    Ok((name, model.graph.initializers["t"].clone()))
}

fn all(folder: &Path, kind: &str) -> Result<Vec<(String, Tensor)>, String> {
    (0..)
        .map(|i| folder.join(format!("{kind}_{i}.pb")))
        .take_while(|p| p.is_file())
        .map(|p| tensor(&p))
        .collect()
}

/// Where we differ on purpose, each with its reason.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "test_resize_downsample_scales_cubic_align_corners",
        "published with a fractional output size; onnxruntime agrees with us",
    ),
    (
        "test_resize_downsample_scales_linear_align_corners",
        "published with a fractional output size; onnxruntime agrees with us",
    ),
];

enum Outcome {
    Same,
    Unsupported(String),
    Wrong(String),
}

fn attempt(folder: &Path) -> Outcome {
    let load = || -> Result<_, String> {
        let (inputs, expected) = (all(folder, "input")?, all(folder, "output")?);
        let mut model =
            Source::open(folder.join("model.onnx")).and_then(decode).map_err(|e| e.to_string())?;
        // Sizes that these models leave open are those of the data; operands that set shapes are constants.
        model.graph.inputs.retain(|(name, ty)| {
            let Some((_, t)) = inputs.iter().find(|(n, _)| n == name) else { return true };
            let shapes =
                ty.dtype.as_ref().is_some_and(|d| d.as_ref().is_ok_and(|d| !d.is_float())) && t.count() <= 16;
            if shapes || t.shape.contains(&0) || name.contains("scales") {
                model.graph.initializers.insert(name.clone(), t.clone());
            }
            !(shapes || t.shape.contains(&0) || name.contains("scales"))
        });
        for (name, ty) in &mut model.graph.inputs {
            use bakelite::onnx::model::Size;
            if let Some((_, t)) = inputs.iter().find(|(n, _)| n == name) {
                ty.shape = Some(t.shape.iter().map(|s| Size::Const(*s as i64)).collect());
            }
        }
        let graph = import(&model, &ImportOptions::default()).map_err(|e| e.to_string())?;
        Ok((graph, inputs, expected))
    };
    let (graph, inputs, expected) = match load() {
        Ok(loaded) => loaded,
        Err(e) => return Outcome::Unsupported(e),
    };
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let results = match run(&graph, &inputs) {
        Ok(results) => results,
        // A pass brings these into a form that lowers.
        Err(e) if e.contains("is neither 1 nor the result's") => return Outcome::Unsupported(e),
        Err(e) => return Outcome::Wrong(e),
    };
    for (name, t) in results {
        let Some((_, want)) = expected.iter().find(|(n, _)| *n == name) else { continue };
        if (t.dtype, &t.shape) != (want.dtype, &want.shape) {
            return Outcome::Wrong(format!("{name} is {t:?}, expected {want:?}"));
        }
        let (a, b) = (t.to_f64(), want.to_f64());
        let scale = b.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
        let tolerance =
            if t.dtype.size() == 2 { 2e-2 } else { 1e-3 } * if t.dtype.is_float() { scale } else { 0.0 };
        let off =
            |(x, y): (&f64, &f64)| !(x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tolerance);
        if let Some(i) = a.iter().zip(&b).position(off) {
            return Outcome::Wrong(format!("{name}[{i}] is {}, expected {}", a[i], b[i]));
        }
    }
    Outcome::Same
}

#[test]
fn node_tests_give_the_published_results() {
    let Some(root) = std::env::var_os("BAKELITE_NODE_TESTS") else {
        eprintln!("SKIPPED: BAKELITE_NODE_TESTS names no folder of dumped node tests");
        return;
    };
    let mut folders: Vec<_> = std::fs::read_dir(&root).unwrap().flatten().map(|e| e.path()).collect();
    folders.sort();
    let (mut same, mut unsupported, mut wrong) = (0, vec![], vec![]);
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let different = DIFFERENT.iter().any(|(n, _)| *n == name);
        match attempt(folder) {
            Outcome::Same if different => {
                wrong.push(format!("{name}: is the same, but is listed as different"))
            }
            Outcome::Wrong(_) if different => {}
            Outcome::Same => same += 1,
            Outcome::Unsupported(e) => unsupported.push(format!("{name}: {e}")),
            Outcome::Wrong(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    eprintln!("{same} the same, {} unsupported, {} wrong", unsupported.len(), wrong.len());
    unsupported.iter().for_each(|u| eprintln!("  unsupported {u}"));
    assert!(wrong.is_empty(), "wrong:\n{}", wrong.join("\n"));
}
