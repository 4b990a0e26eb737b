//! Damaged models: every answer is allowed but a panic, and nothing may grow beyond what the file's size justifies.

use crate::build::*;
use bakelite::onnx::{ImportOptions, Source, decode, import};
use proptest::prelude::*;

/// A small model that uses shape arithmetic, a function, a subgraph and windows.
fn valid() -> Vec<u8> {
    let mut m = model(17)
        .input("x", DataType::Float, "batch 2 8 8")
        .output("y")
        .output("n")
        .init("w", f32s(&[4, 2, 3, 3], &[0.5; 72]))
        .init("two", i64s(&[1], &[2]))
        .node("c", "Conv", "x w", &[("pads", A::Is(vec![1; 4])), ("strides", A::Is(vec![2, 2]))])
        .node("f", "f:Act", "c", &[("alpha", A::F(0.1))])
        .node("p", "MaxPool", "f", &[("kernel_shape", A::Is(vec![2, 2])), ("ceil_mode", A::I(1))])
        .node("s", "Shape", "p", &[])
        .node("b", "Slice", "s zero one", &[])
        .init("zero", i64s(&[1], &[0]))
        .init("one", i64s(&[1], &[1]))
        .node("m1", "Constant", "", &[("value", A::T(i64s(&[1], &[-1])))])
        .node("to", "Concat", "b m1", &[("axis", A::I(0))])
        .node("r", "Reshape", "p to", &[])
        .node("t", "Tile", "r rep", &[])
        .init("rep", i64s(&[2], &[1, 2]))
        .node("pd", "Pad", "t pads", &[("mode", A::S("constant"))])
        .init("pads", i64s(&[4], &[0, 1, 0, 1]))
        .node("y", "Softmax", "pd", &[("axis", A::I(-1))])
        .node("n", "Range", "zs ns os", &[])
        .init("zs", i64s(&[], &[0]))
        .init("os", i64s(&[], &[1]))
        .node("ns", "Gather", "s zs", &[("axis", A::I(0))]);
    // `Gather` must come before `Range`.
    let last = m.graph().node.pop().unwrap();
    m.graph().node.insert(4, last);
    m.model.functions.push(function(
        "f",
        "Act",
        "a",
        "b",
        vec![node("b", "LeakyRelu", "a", &[("alpha", A::Ref("alpha", Kind::Float))])],
    ));
    m.bytes()
}

fn attempt(bytes: Vec<u8>) -> Result<usize, String> {
    let model = decode(Source::memory(bytes, "hostile.onnx")).map_err(|e| e.to_string())?;
    import(&model, &ImportOptions::default()).map(|g| g.len()).map_err(|e| e.to_string())
}

#[test]
fn the_undamaged_model_imports() {
    assert!(attempt(valid()).unwrap() > 5);
}

#[test]
fn every_truncation_is_answered() {
    let whole = valid();
    for cut in 0..whole.len() {
        let _ = attempt(whole[..cut].to_vec());
    }
}

#[test]
fn every_single_byte_may_be_anything_extreme() {
    let whole = valid();
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = attempt(bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_damage_is_answered(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
                                 cut in any::<prop::sample::Index>(), keep in 0..4) {
        let mut bytes = valid();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if keep == 0 {
            let at = cut.index(bytes.len());
            bytes.remove(at);
        }
        let _ = attempt(bytes);
    }

    #[test]
    fn random_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = attempt(bytes);
    }

    #[test]
    fn random_numbers_in_shapes_and_attributes_are_answered(numbers in prop::collection::vec(extreme(), 4),
                                                            sizes in prop::collection::vec(extreme(), 4), op in 0..9usize) {
        let shape = sizes.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
        let ints = || A::Is(numbers.clone());
        let two = || A::Is(numbers[..2].to_vec());
        let m = model(13).input("x", DataType::Float, &shape).output("y").init("n", i64s(&[4], &numbers))
            .init("w", f32s(&[1, 1, 1, 1], &[1.0]));
        let m = match op {
            0 => m.node("y", "MaxPool", "x", &[("kernel_shape", two()), ("pads", ints()), ("ceil_mode", A::I(1))]),
            1 => m.node("y", "Conv", "x w", &[("strides", two()), ("pads", ints()), ("dilations", two())]),
            2 => m.node("y", "Reshape", "x n", &[]),
            3 => m.node("y", "Expand", "x n", &[]),
            4 => m.node("y", "Tile", "x n", &[]),
            5 => m.node("y", "Slice", "x n n _ n", &[]),
            6 => m.node("y", "ConvTranspose", "x w", &[("strides", two()), ("output_padding", two()), ("pads", ints())]),
            7 => m.node("y", "ConstantOfShape", "n", &[]),
            _ => m.node("s", "Shape", "x", &[]).node("y", "Split", "s n", &[]),
        };
        let _ = attempt(m.bytes());
    }
}

fn extreme() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => -3i64..9,
        1 => Just(i64::MAX),
        1 => Just(i64::MIN),
        1 => Just(i64::from(i32::MAX)),
        1 => any::<i64>(),
    ]
}

#[test]
fn expressions_of_symbols_cannot_explode() {
    let mut m = model(17).input("x", DataType::Float, "a b c").output("y").node("s", "Shape", "x", &[]);
    let mut last = "s".to_owned();
    for i in 0..64 {
        let (sum, next) = (format!("p{i}"), format!("q{i}"));
        m = m.node(&sum, "ReduceSum", &last, &[("keepdims", A::I(1))]).node(
            &next,
            "Mul",
            &format!("{sum} {sum}"),
            &[],
        );
        last = format!("r{i}");
        m = m.node(&last, "Add", &format!("{next} s"), &[]);
    }
    let m = m.node("y", "ConstantOfShape", &last, &[]);
    assert!(attempt(m.bytes()).is_err());
}
