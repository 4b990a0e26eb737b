//! Dynamic quantisation, on the numbers of the operators' specifications.

use crate::build::*;
use crate::evaluate::run;
use bakelite::ir::Tensor;
use bakelite::onnx::proto::TensorProto;
use bakelite::onnx::{ImportOptions, Source, decode, import};
use bakelite_host::DType;

fn outputs(build: Build, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, String> {
    let model = decode(Source::memory(build.bytes(), "m.onnx")).map_err(|e| e.to_string())?;
    let graph = import(&model, &ImportOptions::default()).map_err(|e| e.to_string())?;
    Ok(run(&graph, inputs)?.into_iter().map(|(_, t)| t).collect())
}

fn bytes(dims: &[i64], values: &[u8]) -> TensorProto {
    raw(DataType::Uint8, dims, values)
}

fn u8_tensor(shape: &[usize], values: &[u8]) -> Tensor {
    Tensor::of(DType::U8, shape.to_vec(), values).unwrap()
}

#[test]
fn a_tensor_is_quantised_by_its_own_range() {
    let quantise = |values: &[f32]| {
        let shape = format!("{}", values.len());
        let build = model(17)
            .input("x", DataType::Float, &shape)
            .node("y s z", "DynamicQuantizeLinear", "x", &[])
            .output("y")
            .output("s")
            .output("z");
        let x = Tensor::of(DType::F32, vec![values.len()], values).unwrap();
        let out = outputs(build, &[("x", x)]).unwrap();
        (out[0].to_i64(), out[1].to_f64()[0] as f32, out[2].to_i64()[0])
    };
    let (y, scale, zero) = quantise(&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]);
    assert_eq!((y, zero), (vec![153, 255, 0, 26, 221, 179], 153));
    assert!((scale - 0.019_607_844).abs() < 1e-8, "{scale}");
    // Zero is always inside the range.
    assert_eq!(quantise(&[-1.0, -2.1, -1.3, -2.5, -3.34, -4.0]).0, [191, 121, 172, 96, 42, 0]);
    assert_eq!(quantise(&[1.0, 2.1, 1.3, 2.5, 3.34, 4.0]).2, 0);
    assert_eq!(quantise(&[0.0, 0.0]), (vec![0, 0], 1.0, 0));
}

#[test]
fn zero_points_come_off_before_the_window_sums_and_padding_is_zero() {
    let x = u8_tensor(&[1, 1, 3, 3], &[2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let conv = |pads: Vec<i64>, more: &str, zeros: TensorProto| {
        model(17)
            .input("x", DataType::Uint8, "1 1 3 3")
            .init("w", bytes(&[2, 1, 2, 2], &[1, 1, 1, 1, 3, 3, 3, 3]))
            .init("x0", bytes(&[], &[1]))
            .init("w0", zeros)
            .node("y", "ConvInteger", &format!("x w {more}"), &[("pads", A::Is(pads))])
            .output("y")
    };
    let one = |b: Build| outputs(b, &[("x", x.clone())]).map(|t| (t[0].dtype, t[0].to_i64()));
    let (dtype, y) = one(conv(vec![0; 4], "x0", bytes(&[], &[0]))).unwrap();
    assert_eq!((dtype, &y[..4]), (DType::I32, [12, 16, 24, 28].as_slice()));
    // A zero point for each filter: the second is 1 + 1 everywhere.
    let (_, y) = one(conv(vec![0; 4], "x0 w0", bytes(&[2], &[0, 1]))).unwrap();
    assert_eq!(y, [12, 16, 24, 28, 24, 32, 48, 56]);
    let (_, y) = one(conv(vec![1; 4], "x0", bytes(&[], &[0]))).unwrap();
    assert_eq!(&y[..4], [1, 3, 5, 3], "padding holds the zero point, not zero");
    let wrong = one(conv(vec![0; 4], "x0 w0", bytes(&[3], &[0, 1, 2]))).unwrap_err();
    assert!(wrong.contains("3 zero points for u8[2,1,2,2]"), "{wrong}");
}

#[test]
fn rows_and_columns_have_zero_points_of_their_own() {
    let a = u8_tensor(&[4, 3], &[11, 7, 3, 10, 6, 2, 9, 5, 1, 8, 4, 0]);
    let product = |a0: TensorProto, b0: TensorProto| {
        let build = model(17)
            .input("a", DataType::Uint8, "4 3")
            .init("b", bytes(&[3, 2], &[1, 4, 2, 5, 3, 6]))
            .init("a0", a0)
            .init("b0", b0)
            .node("y", "MatMulInteger", "a b a0 b0", &[])
            .output("y");
        outputs(build, &[("a", a.clone())]).unwrap()[0].to_i64()
    };
    let all = product(bytes(&[], &[12]), bytes(&[], &[0]));
    assert_eq!(all, [-38, -83, -44, -98, -50, -113, -56, -128]);
    let each = product(bytes(&[4], &[12, 0, 12, 12]), bytes(&[2], &[0, 1]));
    assert_eq!(each[..4], [-38, -83 + 15, 10 + 12 + 6, 40 + 30 + 12 - 18]);
}
