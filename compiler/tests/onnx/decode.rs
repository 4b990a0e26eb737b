//! What the decoder takes and what it refuses.

use crate::build::*;
use bakelite::onnx::proto::*;
use bakelite::onnx::{Attribute, Folder, Model, Source, decode};
use prost::Message;
use std::path::Path;

fn read(build: &Build) -> Result<Model, String> {
    decode(Source::memory(build.bytes(), "test.onnx")).map_err(|e| e.to_string())
}

fn refused(build: &Build, expected: &str) {
    let error = read(build).expect_err("it should be refused");
    assert!(error.contains(expected), "the error is\n{error}\nwithout\n{expected}");
}

fn relu(opset: i64) -> Build {
    model(opset).input("x", DataType::Float, "batch 3").output("y").node("y", "Relu", "x", &[])
}

#[test]
fn a_model_decodes() {
    let m = read(&relu(17).init("w", f32s(&[2], &[1.0, 2.0]))).unwrap();
    assert_eq!((m.opset, m.ir_version, m.graph.nodes.len()), (17, 8, 1));
    assert_eq!(m.graph.initializers["w"].to_f64(), [1.0, 2.0]);
    assert_eq!(m.graph.nodes[0].place(), "node \"Relu_y\" (Relu)");
}

#[test]
fn raw_data_are_not_copied() {
    let file = bytes::Bytes::from(relu(17).init("w", f32s(&[64], &[0.5; 64])).bytes());
    let m = decode(Source::memory(file.clone(), "test.onnx")).unwrap();
    let at = m.graph.initializers["w"].bytes.as_ptr() as usize;
    assert!((file.as_ptr() as usize..file.as_ptr() as usize + file.len()).contains(&at));
}

#[test]
fn what_is_no_model_is_refused() {
    let whole = relu(17).bytes();
    for cut in 1..whole.len() {
        // A cut between two fields may leave a decodable message; it never panics.
        let _ = decode(Source::memory(whole[..cut].to_vec(), "cut.onnx"));
    }
    for bytes in
        [&b""[..], b"\x00", b"PK\x03\x04 zip", b"version https://git-lfs.github.com/spec/v1\n", &[0xff; 40]]
    {
        let error = decode(Source::memory(bytes.to_vec(), "junk.onnx")).unwrap_err().to_string();
        assert!(error.contains("not an ONNX model"), "{error}");
    }
    let mut m = relu(17);
    m.model.graph = None;
    m.model.ir_version = None;
    refused(&m, "it has no ir_version and no graph");
    let mut m = relu(17);
    m.model.opset_import.clear();
    refused(&m, "it has no opset_import");
}

#[test]
fn versions_outside_the_range_are_refused() {
    for opset in [1, 6, 29, i64::MAX, i64::MIN] {
        refused(&relu(opset), &format!("it uses opset {opset} of ai.onnx; supported are 7 to 28"));
    }
    for opset in [7, 28] {
        assert!(read(&relu(opset)).is_ok());
    }
    let mut m = relu(17);
    m.model.ir_version = Some(15);
    refused(&m, "its IR version is 15; supported are 1 to 14");
}

#[test]
fn unknown_domains_are_listed_only_when_used() {
    let mut m = relu(17);
    m.model.opset_import.push(opset_id("org.example", 1));
    assert!(read(&m).is_ok());
    let m = m.node("a", "org.example:Foo", "x", &[]).node("b", "org.example:Foo", "x", &[]).node(
        "c",
        "z:Bar",
        "x",
        &[],
    );
    refused(&m, "unknown domains: org.example (Foo ×2); z (Bar ×1)");
}

#[test]
fn every_element_type_decodes_from_raw_and_from_typed_fields() {
    let typed = |dtype: DataType| {
        let mut t = TensorProto { dims: vec![2], data_type: Some(dtype as i32), ..Default::default() };
        match dtype {
            DataType::Float => t.float_data = vec![1.0, 0.0],
            DataType::Double => t.double_data = vec![1.0, 0.0],
            DataType::Int64 => t.int64_data = vec![1, 0],
            DataType::Uint32 | DataType::Uint64 => t.uint64_data = vec![1, 0],
            DataType::Float16 => t.int32_data = vec![0x3c00, 0],
            DataType::Bfloat16 => t.int32_data = vec![0x3f80, 0],
            _ => t.int32_data = vec![1, 0],
        }
        t
    };
    use DataType::*;
    for d in
        [Float, Float16, Bfloat16, Double, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool]
    {
        let m = read(&relu(17).init("w", typed(d))).unwrap();
        let w = &m.graph.initializers["w"];
        assert_eq!(w.to_f64(), [1.0, 0.0], "{d:?}");
        let again = read(&relu(17).init("w", raw(d, &[2], &w.bytes))).unwrap();
        assert_eq!(again.graph.initializers["w"], *w, "{d:?}");
    }
    let m = read(&relu(17).init("w", raw(Bool, &[3], &[0, 1, 200]))).unwrap();
    assert_eq!(&m.graph.initializers["w"].bytes[..], [0, 1, 1]);
}

#[test]
fn unsupported_element_types_are_named() {
    use DataType::*;
    for (d, name) in [
        (String, "string"),
        (Complex64, "complex64"),
        (Float8e4m3fn, "float8e4m3fn"),
        (Int4, "int4"),
        (Float4e2m1, "float4e2m1"),
    ] {
        refused(
            &relu(17).init("w", raw(d, &[1], &[0])),
            &format!("initializer \"w\": its element type {name} is not supported"),
        );
    }
    let mut t = raw(Float, &[1], &[0; 4]);
    t.data_type = Some(4711);
    refused(&relu(17).init("w", t), "unknown number 4711");
}

#[test]
fn shapes_that_do_not_fit_the_data_are_refused_before_allocating() {
    let huge = [i64::MAX, 1 << 62, 1 << 40];
    for d in huge {
        refused(&relu(17).init("w", f32s(&[d], &[1.0])), "initializer \"w\"");
        refused(&relu(17).init("w", f32s(&[d, d], &[1.0])), "more elements than can exist");
        let t = TensorProto { dims: vec![d], data_type: Some(1), ..Default::default() };
        assert!(read(&relu(17).init("w", t)).is_err());
    }
    refused(&relu(17).init("w", f32s(&[-1], &[1.0])), "has the size -1");
    refused(&relu(17).init("w", f32s(&[3], &[1.0])), "f32[3] needs 12 bytes, but raw_data has 4");
    let t = TensorProto { dims: vec![3], data_type: Some(1), float_data: vec![1.0], ..Default::default() };
    refused(&relu(17).init("w", t), "needs 3 elements, but float_data has 1");
    let t = TensorProto { dims: vec![1], data_type: Some(3), int32_data: vec![300], ..Default::default() };
    refused(&relu(17).init("w", t), "the value 300 in int32_data does not fit i8");
}

#[test]
fn names_may_not_repeat() {
    refused(
        &relu(17).init("w", f32s(&[], &[1.0])).init("w", f32s(&[], &[1.0])),
        "two initializers have this name",
    );
    let m = relu(17).node("z", "Foo", "x", &[("a", A::I(1)), ("a", A::I(2))]);
    refused(&m, "node \"Foo_z\" (Foo): the attribute `a` is given twice");
}

#[test]
fn attribute_errors_name_the_attribute_and_both_kinds() {
    let m = read(&relu(17).node("z", "Foo", "x", &[("axis", A::F(1.0))])).unwrap();
    let error = m.graph.nodes[1].attributes.int("axis", 0).unwrap_err();
    assert_eq!(error, "attribute `axis` is a float, expected an int");
}

// Functions.

fn with_functions(mut m: Build, functions: Vec<FunctionProto>) -> Build {
    m.model.functions = functions;
    m
}

#[test]
fn functions_are_inlined_with_their_attributes() {
    let inner = function(
        "f",
        "Inner",
        "a",
        "b",
        vec![
            node("t", "Relu", "a", &[]),
            node("b", "LeakyRelu", "t", &[("alpha", A::Ref("slope", Kind::Float))]),
        ],
    );
    let mut outer = function(
        "f",
        "Outer",
        "p q",
        "r",
        vec![
            node("t", "f:Inner", "p", &[("slope", A::Ref("s", Kind::Float))]),
            node("u", "f:Inner", "t", &[]),
            node("r", "Sum", "t u q", &[]),
        ],
    );
    outer.attribute_proto = vec![A::F(0.25).proto("s")];
    let m = model(20)
        .input("x", DataType::Float, "3")
        .output("y")
        .output("z")
        .node("y", "f:Outer", "x", &[])
        .node("z", "f:Outer", "y x", &[("s", A::F(0.5))]);
    let m = read(&with_functions(m, vec![inner, outer])).unwrap();
    let nodes = &m.graph.nodes;
    assert_eq!(
        nodes.iter().map(|n| n.op.as_str()).collect::<Vec<_>>(),
        ["Relu", "LeakyRelu", "Relu", "LeakyRelu", "Sum", "Relu", "LeakyRelu", "Relu", "LeakyRelu", "Sum"]
    );
    let alpha = |i: usize| nodes[i].attributes.find_float("alpha").unwrap();
    assert_eq!([alpha(1), alpha(3), alpha(6), alpha(8)], [Some(0.25), None, Some(0.5), None]);
    assert_eq!(nodes[4].outputs, ["y"]);
    assert_eq!(nodes[4].inputs[2], "", "an operand the call leaves out is absent inside");
    assert_eq!(nodes[9].inputs[2], "x");
    assert_eq!(nodes[0].inputs, ["x"]);
    assert_eq!(nodes[0].outputs, nodes[1].inputs);
    assert_eq!(nodes[0].opset, 17, "a function's own opset defines its nodes");
    let mut made: Vec<&String> = nodes.iter().flat_map(|n| &n.outputs).collect();
    made.sort();
    let all = made.len();
    made.dedup();
    assert_eq!(made.len(), all, "every value keeps a name of its own");
}

#[test]
fn a_function_that_hands_its_parameter_back_is_an_identity() {
    let m = relu(17).node("z", "f:Same", "y", &[]);
    let m = read(&with_functions(m, vec![function("f", "Same", "a", "a", vec![])])).unwrap();
    assert_eq!((m.graph.nodes[1].op.as_str(), &m.graph.nodes[1].inputs[0]), ("Identity", &"y".to_owned()));
}

#[test]
fn subgraphs_in_functions_see_the_functions_values() {
    let branch = GraphProto {
        node: vec![node("own", "Add", "a t", &[])],
        output: vec![info("own", DataType::Float, "3")],
        ..Default::default()
    };
    let f = function(
        "f",
        "F",
        "a c",
        "b",
        vec![
            node("t", "Relu", "a", &[]),
            node("b", "If", "c", &[("then_branch", A::G(branch.clone())), ("else_branch", A::G(branch))]),
        ],
    );
    let m = relu(17).node("z", "f:F", "y x", &[]);
    let m = read(&with_functions(m, vec![f])).unwrap();
    let (t, branch) = (
        &m.graph.nodes[1].outputs[0],
        m.graph.nodes[2].attributes.find_graph("then_branch").unwrap().unwrap(),
    );
    assert_eq!(branch.nodes[0].inputs, ["y".to_owned(), t.clone()]);
    assert_eq!(branch.nodes[0].outputs, ["own"]);
}

#[test]
fn recursion_and_explosion_are_refused() {
    let f = |name: &str, callee: &str, times: usize| {
        let nodes = (0..times)
            .map(|i| node(&format!("t{}", i + 1), callee, &format!("t{i}"), &[]))
            .chain([node("b", "Relu", &format!("t{times}"), &[])])
            .collect();
        function("f", name, "t0", "b", nodes)
    };
    let call = || relu(17).node("z", "f:A", "y", &[]);
    refused(
        &with_functions(call(), vec![f("A", "f:B", 1), f("B", "f:A", 1)]),
        "the function calls itself: A → B → A",
    );
    let names = "ABCDEFGHIJKLMNOP".chars().map(String::from).collect::<Vec<_>>();
    let bomb =
        names.windows(2).map(|w| f(&w[0], &format!("f:{}", w[1]), 10)).chain([f("P", "Relu", 10)]).collect();
    refused(&with_functions(call(), bomb), "expand to more than");
    let chain: Vec<_> = (0..5000)
        .map(|i| f(&if i == 0 { "A".into() } else { format!("A{i}") }, &format!("f:A{}", i + 1), 1))
        .chain([f("A5000", "Relu", 1)])
        .collect();
    refused(&with_functions(call(), chain), "nest deeper than");
}

// External data. Each of the refusals was once a hole in another reader. (CVE-2025-51480 was the same holes in a writer;
// nothing here writes.)

fn in_folder(m: &Build, folder: &Path) -> Result<Model, String> {
    std::fs::write(folder.join("m.onnx"), m.bytes()).unwrap();
    decode(Source::open(folder.join("m.onnx")).map_err(|e| e.to_string())?).map_err(|e| e.to_string())
}

fn weights() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("model")).unwrap();
    std::fs::create_dir(dir.path().join("model/sub")).unwrap();
    let data: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    for file in ["secret.bin", "model/w.bin", "model/sub/w.bin"] {
        std::fs::write(dir.path().join(file), &data).unwrap();
    }
    dir
}

fn load(dir: &tempfile::TempDir, entries: &[(&str, &str)]) -> Result<Vec<f64>, String> {
    let m = relu(17).init("w", external(DataType::Float, &[2], entries));
    in_folder(&m, &dir.path().join("model")).map(|m| m.graph.initializers["w"].to_f64())
}

#[test]
fn external_data_load() {
    let dir = weights();
    assert_eq!(load(&dir, &[("location", "w.bin")]).unwrap(), [1.0, 2.0]);
    assert_eq!(
        load(&dir, &[("location", "sub/w.bin"), ("offset", "8"), ("length", "8")]).unwrap(),
        [3.0, 4.0]
    );
    let none = relu(17).init("w", external(DataType::Float, &[2], &[("location", "w.bin")]));
    refused(&none, "given without a folder");
}

#[track_caller]
fn refused_location(dir: &tempfile::TempDir, location: &str, why: &str) {
    let error = load(dir, &[("location", location)]).expect_err(location);
    assert!(error.contains(why) && error.contains("initializer \"w\""), "{location}: {error}");
}

#[test]
fn cve_2022_25882_dot_dot_and_absolute_paths() {
    let dir = weights();
    refused_location(&dir, "../secret.bin", "leaves the model's folder");
    refused_location(&dir, "sub/../w.bin", "leaves the model's folder");
    refused_location(&dir, dir.path().join("secret.bin").to_str().unwrap(), "absolute");
    refused_location(&dir, "/etc/passwd", "absolute");
}

#[test]
fn cve_2024_27318_paths_written_to_pass_a_naive_check() {
    let dir = weights();
    for location in ["sub/../../secret.bin", "sub//../../secret.bin", "./../secret.bin", "..\\secret.bin"] {
        assert!(load(&dir, &[("location", location)]).is_err(), "{location}");
    }
    refused_location(&dir, "", "empty component");
    refused_location(&dir, ".", "empty component or a `.`");
    refused_location(&dir, "sub//w.bin", "empty component");
    refused_location(&dir, "sub/", "empty component");
    refused_location(&dir, "w.bin\0.png", "NUL");
    refused_location(&dir, "C:w.bin", "`:`");
}

#[test]
#[cfg(unix)]
fn cve_2026_27489_symbolic_links() {
    let dir = weights();
    let model = dir.path().join("model");
    std::os::unix::fs::symlink(dir.path().join("secret.bin"), model.join("file.bin")).unwrap();
    std::os::unix::fs::symlink(dir.path(), model.join("up")).unwrap();
    std::os::unix::fs::symlink(model.join("w.bin"), model.join("inside.bin")).unwrap();
    for location in ["file.bin", "up/secret.bin", "inside.bin"] {
        refused_location(&dir, location, "symbolic link");
    }
}

#[test]
#[cfg(unix)]
fn cve_2026_34446_hard_links_and_special_files() {
    let dir = weights();
    let model = dir.path().join("model");
    std::fs::hard_link(dir.path().join("secret.bin"), model.join("hard.bin")).unwrap();
    refused_location(&dir, "hard.bin", "more than one hard link");
    refused_location(&dir, "sub", "not a regular file");
    let _socket = std::os::unix::net::UnixListener::bind(model.join("socket")).unwrap();
    refused_location(&dir, "socket", "not a regular file");
    refused_location(&dir, "missing.bin", "No such file");
}

#[test]
fn cve_2026_34445_entries_beyond_the_schema_and_impossible_sizes() {
    let dir = weights();
    let entry = |k: &'static str, v: &'static str| load(&dir, &[("location", "w.bin"), (k, v)]);
    // Unknown keys are data, not instructions.
    assert_eq!(entry("__class__", "os.system").unwrap(), [1.0, 2.0]);
    for (k, v) in [
        ("offset", "-1"),
        ("offset", "9"),
        ("offset", "18446744073709551615"),
        ("offset", "99999999999999999999999"),
        ("length", "-8"),
        ("length", "4"),
        ("length", "9223372036854775807"),
        ("offset", "0x8"),
        ("location", "w.bin"),
    ] {
        let error = entry(k, v).expect_err(v);
        assert!(error.contains("external data"), "{k}={v}: {error}");
    }
    assert!(load(&dir, &[("offset", "0")]).unwrap_err().contains("no location"));
    let huge = relu(17).init("w", external(DataType::Float, &[1 << 40], &[("location", "w.bin")]));
    assert!(in_folder(&huge, &dir.path().join("model")).unwrap_err().contains("which has 16 bytes"));
}

#[test]
fn attribute_tensors_may_be_external_too_and_are_held_to_the_same_rules() {
    let dir = weights();
    let constant = |location: &str| {
        let t = external(DataType::Float, &[2], &[("location", location)]);
        in_folder(&relu(17).node("c", "Constant", "", &[("value", A::T(t))]), &dir.path().join("model"))
    };
    let m = constant("w.bin").unwrap();
    assert!(
        matches!(&m.graph.nodes[1].attributes.0["value"], Attribute::Tensor(t) if t.to_f64() == [1.0, 2.0])
    );
    assert!(constant("../secret.bin").unwrap_err().contains("attribute `value`"));
}

#[test]
fn a_folder_must_exist() {
    assert!(Folder::new("/nonexistent/folder").is_err());
    assert!(Source::open("/nonexistent/m.onnx").is_err());
    assert!(Source::open(std::env::temp_dir()).is_err());
}

#[test]
fn encoding_a_decoded_proto_is_lossless() {
    let bytes = relu(17).init("w", f32s(&[2], &[1.0, 2.0])).bytes();
    assert_eq!(ModelProto::decode(&bytes[..]).unwrap().encode_to_vec(), bytes);
}
