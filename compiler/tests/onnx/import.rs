//! What import makes of models: shapes as expressions, composites as IR operators, old forms as new ones.

use crate::build::*;
use crate::evaluate::run;
use bakelite::ir::{Graph, Tensor};
use bakelite::onnx::proto::TensorProto;
use bakelite::onnx::{ImportOptions, Source, decode, import};
use bakelite_host::DType;

fn read_with(build: &Build, options: &ImportOptions) -> Result<Graph, String> {
    let model = decode(Source::memory(build.bytes(), "test.onnx")).map_err(|e| e.to_string())?;
    import(&model, options).map_err(|e| e.to_string())
}

fn read(build: &Build) -> Result<Graph, String> {
    read_with(build, &ImportOptions::default())
}

#[track_caller]
fn refused(build: &Build, expected: &str) {
    let error = read(build).expect_err("it should be refused");
    assert!(error.contains(expected), "the error is\n{error}\nwithout\n{expected}");
}

fn output_type(graph: &Graph) -> String {
    graph.ty(graph.outputs[0].1).to_string()
}

fn ops(graph: &Graph) -> Vec<&'static str> {
    graph.order().into_iter().filter_map(|id| graph.node(id).op().map(|o| o.name())).collect()
}

#[track_caller]
fn computes(build: &Build, x: (&[usize], &[f32]), expected: (&[usize], &[f32])) {
    let graph = read(build).unwrap();
    let x = Tensor::of(DType::F32, x.0.to_vec(), x.1).unwrap();
    let y = run(&graph, &[("x", x)]).unwrap().remove(0).1;
    assert_eq!(y.shape, expected.0);
    for (i, (a, b)) in y.to_f64().iter().zip(expected.1).enumerate() {
        assert!((a - f64::from(*b)).abs() < 1e-5, "element {i} is {a}, expected {b}");
    }
}

fn on(opset: i64, sizes: &str) -> Build {
    model(opset).input("x", DataType::Float, sizes).output("y")
}

#[test]
fn unknown_operators_are_all_listed_at_once() {
    let m = on(17, "3").node("a", "Foo", "x", &[]).node("b", "Foo", "x", &[]).node(
        "y",
        "com.microsoft:Bar",
        "a",
        &[],
    );
    refused(&m, "3 nodes have unsupported operators: Foo ×2 (Foo_a, Foo_b); com.microsoft.Bar ×1 (Bar_y)");
}

#[test]
fn dimensions_become_symbols_with_ranges() {
    let m = model(17)
        .input("x", DataType::Float, "batch ? type 3")
        .input("z", DataType::Float, "batch ? 1 3")
        .output("y")
        .node("y", "Relu", "x", &[]);
    let mut options = ImportOptions::default();
    assert_eq!(output_type(&read_with(&m, &options).unwrap()), "f32[batch,x_1,n_type,3]");
    options.bind.insert("type".into(), 5);
    options.symbols.insert("batch".into(), bakelite_kernels::Range { min: 2, max: 8, opt: 4 });
    let g = read_with(&m, &options).unwrap();
    assert_eq!(output_type(&g), "f32[batch,x_1,5,3]");
    assert_eq!(g.symbols["batch"].max, 8);
    assert_eq!(g.symbols["x_1"].max, 64);
    assert!(!g.symbols.contains_key("n_type"));
    options.bind.insert("bach".into(), 1);
    let error = read_with(&m, &options).unwrap_err();
    assert!(error.contains("`bach`: the model has no such symbol; it has batch"), "{error}");
}

#[test]
fn shape_arithmetic_leaves_no_nodes() {
    // What PyTorch writes for x.view(x.size(0), -1, x.size(2) * 2 // 2).
    let m = on(13, "batch 6 seq")
        .init("i0", i64s(&[], &[0]))
        .init("i2", i64s(&[], &[2]))
        .init("ax", i64s(&[1], &[0]))
        .init("m1", i64s(&[1], &[-1]))
        .node("s", "Shape", "x", &[])
        .node("a", "Gather", "s i0", &[])
        .node("b", "Gather", "s i2", &[])
        .node("b2", "Mul", "b i2", &[])
        .node("b1", "Div", "b2 i2", &[])
        .node("au", "Unsqueeze", "a ax", &[])
        .node("bu", "Unsqueeze", "b1 ax", &[])
        .node("to", "Concat", "au m1 bu", &[("axis", A::I(0))])
        .node("f", "Flatten", "x", &[])
        .node("y", "Reshape", "f to", &[]);
    let g = read(&m).unwrap();
    assert_eq!(output_type(&g), "f32[batch,6,seq]");
    assert_eq!(ops(&g), ["reshape", "reshape"]);
}

#[test]
fn sizes_flow_through_slice_split_where_and_cast() {
    let m = on(13, "n 4 6")
        .init("one", i64s(&[1], &[1]))
        .init("big", i64s(&[1], &[i64::MAX]))
        .init("m1", i64s(&[2], &[-1, -1]))
        .node("s", "Shape", "x", &[])
        .node("tail", "Slice", "s one big", &[])
        .node("same", "Equal", "tail m1", &[])
        .node("w", "Where", "same m1 tail", &[])
        .node("f", "Cast", "w", &[("to", A::I(1))])
        .node("g", "Cast", "f", &[("to", A::I(7))])
        .node("h i", "Split", "g", &[])
        .node("rows", "ReduceProd", "g", &[("keepdims", A::I(1))])
        .node("m", "Mul", "rows one", &[])
        .init("rest", i64s(&[1], &[-1]))
        .node("to", "Concat", "rest m", &[("axis", A::I(0))])
        .node("y", "Reshape", "x to", &[]);
    assert_eq!(output_type(&read(&m).unwrap()), "f32[n,24]");
}

#[test]
fn a_size_that_becomes_data_is_read_from_a_table() {
    let m = on(13, "batch 3")
        .init("i0", i64s(&[], &[0]))
        .node("s", "Shape", "x", &[])
        .node("b", "Gather", "s i0", &[])
        .node("f", "Cast", "b", &[("to", A::I(1))])
        .node("y", "Mul", "x f", &[]);
    let g = read(&m).unwrap();
    assert!(ops(&g).contains(&"slice"), "{:?}", ops(&g));
    assert_eq!(output_type(&g), "f32[batch,3]");
    let m = on(13, "2 3")
        .init("i0", i64s(&[], &[0]))
        .node("s", "Shape", "x", &[])
        .node("b", "Gather", "s i0", &[])
        .node("f", "Cast", "b", &[("to", A::I(1))])
        .node("y", "Mul", "x f", &[]);
    computes(&m, (&[2, 3], &[1., 2., 3., 4., 5., 6.]), (&[2, 3], &[2., 4., 6., 8., 10., 12.]));
}

#[test]
fn a_symbolic_range_is_a_window_of_a_table() {
    let m = model(13)
        .input("x", DataType::Float, "1 seq")
        .output("y")
        .init("i0", i64s(&[], &[0]))
        .init("i1", i64s(&[], &[1]))
        .node("s", "Shape", "x", &[])
        .node("n", "Gather", "s i1", &[])
        .node("y", "Range", "i0 n i1", &[]);
    let g = read(&m).unwrap();
    assert_eq!((output_type(&g).as_str(), ops(&g)), ("i64[seq]", vec!["slice"]));
}

#[test]
fn tuples_joined_from_columns_are_not_joined_to_gather() {
    let gather = |data: TensorProto, x: (&[usize], &[f32]), expected: &[f32]| {
        let m = on(13, "2 1")
            .init("data", data)
            .init("other", i64s(&[2, 1], &[0, -1]))
            .node("column", "Cast", "x", &[("to", A::I(7))])
            .node("tuples", "Concat", "other column", &[("axis", A::I(-1))])
            .node("y", "GatherND", "data tuples", &[]);
        assert!(!ops(&read(&m).unwrap()).contains(&"reduce"));
        computes(&m, x, (&[2], expected));
    };
    gather(f32s(&[2, 3], &[0., 1., 2., 3., 4., 5.]), (&[2, 1], &[1., -1.]), &[1., 5.]);
    gather(f32s(&[1, 3], &[0., 1., 2.]), (&[2, 1], &[-2., 2.]), &[1., 2.]);
    gather(f32s(&[3, 1], &[0., 1., 2.]), (&[2, 1], &[0., -1.]), &[0., 2.]);
    gather(f32s(&[1, 1], &[7.]), (&[2, 1], &[0., -1.]), &[7., 7.]);
}

#[test]
fn a_shape_that_depends_on_data_is_refused_with_its_name() {
    let m = on(13, "4").node("c", "Cast", "x", &[("to", A::I(7))]).node("y", "Reshape", "x c", &[]);
    refused(&m, "node \"Reshape_y\" (Reshape): the shape \"c\" depends on data");
}

#[test]
fn softmax_before_13_normalises_all_later_dimensions_together() {
    let x = (&[1usize, 2, 2][..], &[0.0f32, 0.0, 0.0, 0.0][..]);
    computes(&on(11, "1 2 2").node("y", "Softmax", "x", &[]), x, (&[1, 2, 2], &[0.25; 4]));
    computes(&on(13, "1 2 2").node("y", "Softmax", "x", &[]), x, (&[1, 2, 2], &[0.5; 4]));
}

#[test]
fn slice_clip_pad_and_squeeze_read_attributes_in_old_opsets() {
    let m = on(9, "4")
        .node(
            "a",
            "Slice",
            "x",
            &[("starts", A::Is(vec![-3])), ("ends", A::Is(vec![9999])), ("axes", A::Is(vec![0]))],
        )
        .node("b", "Clip", "a", &[("min", A::F(2.5)), ("max", A::F(3.5))])
        .node("c", "Pad", "b", &[("pads", A::Is(vec![1, 0])), ("value", A::F(9.0))])
        .node("d", "Unsqueeze", "c", &[("axes", A::Is(vec![0]))])
        .node("y", "Squeeze", "d", &[("axes", A::Is(vec![0]))]);
    computes(&m, (&[4], &[1., 2., 3., 4.]), (&[4], &[9., 2.5, 3., 3.5]));
}

#[test]
fn slices_may_go_backwards() {
    let m = on(13, "2 3")
        .init("s", i64s(&[1], &[-1]))
        .init("e", i64s(&[1], &[i64::MIN]))
        .init("a", i64s(&[1], &[1]))
        .init("st", i64s(&[1], &[-2]))
        .node("y", "Slice", "x s e a st", &[]);
    computes(&m, (&[2, 3], &[1., 2., 3., 4., 5., 6.]), (&[2, 2], &[3., 1., 6., 4.]));
}

#[test]
fn batch_normalisation_is_a_factor_and_an_offset_for_each_channel() {
    let m = on(15, "1 2 1")
        .init("s", f32s(&[2], &[2.0, 1.0]))
        .init("b", f32s(&[2], &[1.0, 0.0]))
        .init("m", f32s(&[2], &[1.0, 2.0]))
        .init("v", f32s(&[2], &[4.0, 1.0]))
        .node("y", "BatchNormalization", "x s b m v", &[("epsilon", A::F(0.0))]);
    assert_eq!(ops(&read(&m).unwrap()), ["mul", "add"]);
    computes(&m, (&[1, 2, 1], &[3., 5.]), (&[1, 2, 1], &[3., 3.]));
    let m = m.clone().node("z t", "BatchNormalization", "x s b m v", &[]);
    refused(&m, "its result 1, \"t\", is not supported");
}

#[test]
fn what_old_exporters_wrote_for_images_still_imports() {
    let m = on(7, "1 2 2 2")
        .node("a", "ImageScaler", "x", &[("scale", A::F(2.0)), ("bias", A::Fs(vec![1.0, -1.0]))])
        .node("y", "Crop", "a", &[("border", A::Is(vec![1, 0, 0, 1]))]);
    computes(&m, (&[1, 2, 2, 2], &[1., 2., 3., 4., 5., 6., 7., 8.]), (&[1, 2, 1, 1], &[5., 11.]));
}

#[test]
fn initializers_that_are_also_inputs_are_constants() {
    let mut m = on(8, "2").init("w", f32s(&[2], &[1.0, 2.0])).node("y", "Add", "x w", &[]);
    m.model.ir_version = Some(3);
    let m = m.input("w", DataType::Float, "2");
    let g = read(&m).unwrap();
    assert_eq!(g.inputs.len(), 1);
}

#[test]
fn gemm_applies_its_factors() {
    let m = on(13, "1 2")
        .init("w", f32s(&[2, 2], &[1., 2., 3., 4.]))
        .init("c", f32s(&[2], &[10., 20.]))
        .node("y", "Gemm", "x w c", &[("alpha", A::F(2.0)), ("beta", A::F(0.5)), ("transB", A::I(1))]);
    computes(&m, (&[1, 2], &[1., 1.]), (&[1, 2], &[11., 24.]));
}

#[test]
fn einsum_contracts_any_labels() {
    let m = on(13, "2 2 3").init("w", f32s(&[3, 2], &[1., 0., 0., 1., 1., 1.])).node(
        "y",
        "Einsum",
        "x w",
        &[("equation", A::S("bij, jk -> kb"))],
    );
    computes(
        &m,
        (&[2, 2, 3], &[1., 2., 3., 4., 5., 6., 1., 1., 1., 0., 0., 0.]),
        (&[2, 2], &[14., 2., 16., 2.]),
    );
}

#[test]
fn branches_known_at_compile_time_are_taken() {
    use bakelite::onnx::proto::GraphProto;
    let branch = |op: &str| {
        A::G(GraphProto {
            node: vec![node("own", op, "x", &[])],
            output: vec![info("own", DataType::Float, "2")],
            ..Default::default()
        })
    };
    let m = on(17, "2").init("yes", raw(DataType::Bool, &[], &[1]));
    let attributes = [("then_branch", branch("Neg")), ("else_branch", branch("Abs"))];
    computes(&m.clone().node("y", "If", "yes", &attributes), (&[2], &[1., -2.]), (&[2], &[-1., 2.]));
    let m = m.node("any", "Greater", "x x", &[]).node("y", "If", "any", &attributes);
    refused(&m, "its condition \"any\" depends on data");
}

#[test]
fn names_survive_for_people() {
    let g = read(&on(17, "2").node("y", "Relu", "x", &[])).unwrap();
    assert_eq!(g.node(g.outputs[0].1.node).name, "Relu_y (Relu)");
    assert_eq!((g.inputs[0].0.as_str(), g.outputs[0].0.as_str()), ("x", "y"));
}

#[test]
fn errors_name_the_node_and_both_sizes() {
    let m = on(17, "2 64").init("w", f32s(&[65, 1], &[0.0; 65])).node("y", "MatMul", "x w", &[]);
    refused(&m, "node \"MatMul_y\" (MatMul): inner dimensions differ: 64 of f32[2,64] and 65 of f32[65,1]");
    refused(&on(17, "2").node("y", "Relu", "z", &[]), "its operand \"z\" is defined by nothing before it");
    refused(
        &on(17, "2").node("y", "Relu", "x", &[]).node("y", "Neg", "x", &[]),
        "the value \"y\" is defined twice",
    );
    refused(&on(17, "2"), "output \"y\": no node makes it");
}
