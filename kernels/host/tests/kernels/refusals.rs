//! What does not fit is an error with the values in it, never a panic.

#![allow(clippy::unwrap_used)]

use crate::convolutions::plain;
use crate::tensor::{Tensor, attempt};
use bakelite_host::problem::*;
use bakelite_host::{DType, Instr, Problem, Program, Pw, View, ViewMut, run};

#[track_caller]
fn refused(problem: impl Into<Problem>, inputs: &[&Tensor], want: &str) {
    let error = attempt(&problem.into(), inputs).unwrap_err().to_string();
    assert!(error.contains(want), "`{error}` does not say `{want}`");
}

fn floats(n: usize) -> Tensor {
    Tensor::zeros(DType::F32, n)
}

fn gemm(epilogue: Epilogue) -> Gemm {
    let strides = [6, 3, 1];
    Gemm {
        batch: 1,
        m: 2,
        n: 2,
        k: 3,
        dtype: DType::F32,
        math: Math::Exact,
        a: strides,
        b: [6, 2, 1],
        epilogue,
    }
}

fn conv() -> Conv {
    plain(DType::F32, Layout::ChannelsFirst, (1, 4, 2), &[3, 3], 3)
}

#[test]
fn operands_that_do_not_fit() {
    let p = gemm(Epilogue::store(DType::F32));
    refused(p.clone(), &[&floats(6)], "gemm: takes 2 operands and gives 1 results; given are 1 and 1");
    refused(p.clone(), &[&floats(6), &floats(5)], "operand 1 (b) has 5 elements, not at least 6");
    refused(p.clone(), &[&floats(6), &Tensor::zeros(DType::F16, 6)], "operand 1 (b) is f16, not f32");
    refused(conv(), &[&floats(36), &floats(73)], "operand 1 (w) has 73 elements, not 72");
    let x = [0f32; 6];
    let mut y = [0f32; 5];
    let views = [View::of(&x), View::of(&x)];
    let error = run(&p.clone().into(), &views, &mut [ViewMut::of(&mut y)]).unwrap_err();
    assert_eq!(error.to_string(), "gemm: output 0 has 5 elements, not 4 ([1, 2, 2])");
    let mut y = [0f64; 4];
    let error = run(&p.into(), &views, &mut [ViewMut::of(&mut y)]).unwrap_err();
    assert_eq!(error.to_string(), "gemm: output 0 is f64, not f32");
}

#[test]
fn bytes_that_are_no_elements() {
    let words = [0u64; 2];
    let bytes: &[u8] = bytemuck::cast_slice(&words);
    assert!(View::new(DType::F32, &bytes[1..5]).unwrap_err().to_string().contains("not aligned"));
    assert!(View::new(DType::F32, &bytes[..5]).unwrap_err().to_string().contains("no whole number"));
    assert!(View::new(DType::F32, &bytes[..8]).unwrap().as_slice::<f64>().is_err());
    assert!(View::new(DType::Bool, &[2u8]).unwrap().as_slice::<bool>().is_err());
    assert_eq!(View::new(DType::Bool, &[1u8]).unwrap().as_slice::<bool>().unwrap(), [true]);
    let mut y = [0f32; 1];
    let program = Program::identity(DType::F32, DType::F32);
    let inputs = vec![Access { offset: 0, strides: vec![] }];
    let p: Problem = Pointwise { shape: vec![], inputs, program }.into();
    let crooked = View { dtype: DType::F32, bytes: &bytes[1..5] };
    assert!(run(&p, &[crooked], &mut [ViewMut::of(&mut y)]).unwrap_err().to_string().contains("not aligned"));
}

#[test]
fn problems_that_contradict_themselves() {
    let x = floats(36);
    refused(Conv { groups: 3, ..conv() }, &[], "3 groups do not divide 4 channels and 2 filters");
    refused(Conv { strides: vec![1], ..conv() }, &[], "differ in rank");
    refused(Conv { strides: vec![0, 1], ..conv() }, &[], "dimension 0 of a window has a stride");
    refused(Conv { pads: vec![usize::MAX, 0], ..conv() }, &[], "overflows");
    refused(Conv { input: vec![1 << 40, 1 << 40], ..conv() }, &[], "more elements than memory");
    refused(Conv { dtype: DType::Bool, ..conv() }, &[], "not defined for bool");
    let added = |channels: usize, strides: &[usize]| Conv {
        added: Some(Added { channels, input: conv().output, strides: strides.to_vec() }),
        ..conv()
    };
    refused(added(0, &[1, 1]), &[], "0 channels and 2 filters");
    refused(added(3, &[1]), &[], "differ in rank");
    refused(added(3, &[0, 1]), &[], "dimension 0 of a window has a stride");
    refused(
        Softmax {
            log: false,
            outer: 1,
            len: 2,
            inner: 1,
            dtype: DType::I32,
            epilogue: Epilogue::store(DType::I32),
        },
        &[],
        "softmax is not defined for i32",
    );
    refused(
        Reduce {
            kind: ReduceKind::Any,
            shape: vec![36],
            reduced: vec![true],
            dtype: DType::F32,
            epilogue: Epilogue::store(DType::F32),
        },
        &[&x],
        "Any is not defined for f32",
    );
    refused(
        TopK { outer: 1, len: 2, inner: 1, k: 3, largest: true, dtype: DType::F32 },
        &[],
        "the 3 first of 2",
    );
    refused(
        ArgReduce { max: true, last: false, outer: 1, len: 0, inner: 1, dtype: DType::F32 },
        &[],
        "no largest",
    );
    refused(
        Pad { mode: PadMode::Edge, input: vec![0], output: vec![2], begin: vec![0], dtype: DType::F32 },
        &[],
        "nothing to repeat",
    );
    let wide = Gemm { a: [0, usize::MAX, 1], ..gemm(Epilogue::store(DType::F32)) };
    refused(wide, &[], "overflows");
}

#[test]
fn epilogues_that_do_not_fit() {
    let mut e = Epilogue::store(DType::F32);
    e.program.inputs[0] = DType::I64;
    e.program.outputs[0].1 = DType::I64;
    refused(gemm(e), &[], "the epilogue reads i64 where the accumulator is F32");
    let mut e = Epilogue::store(DType::F32);
    e.program.outputs.clear();
    refused(gemm(e), &[], "an epilogue has one output");
    let mut e = Epilogue::store(DType::F32);
    e.program.push(Instr::Apply(Pw::Add, vec![0, 9]));
    refused(gemm(e), &[], "%1 uses %9");
    let mut e = Epilogue::store(DType::F32);
    e.program.add_input(DType::F32);
    e.operands.push(Access { offset: 0, strides: vec![1] });
    refused(gemm(e), &[], "has 1 strides over [1, 2, 2]");
    let mut place =
        Placement { shape: vec![2, 2], access: Access { offset: 2, strides: vec![4, 1] }, elements: 8 };
    let mut e = Epilogue::store(DType::F32);
    e.place = Some(place.clone());
    assert_eq!(Problem::from(gemm(e.clone())).output_shapes(), Ok(vec![vec![8]]));
    place.access.offset = 3;
    e.place = Some(place.clone());
    refused(gemm(e.clone()), &[], "4 elements of [1, 2, 2] are placed as [2, 2] in 8");
    place.shape = vec![2, 1];
    e.place = Some(place);
    refused(gemm(e), &[], "4 elements of [1, 2, 2] are placed as [2, 1] in 8");
}

#[test]
fn indices_outside() {
    let p = Gather {
        outer: 1,
        len: 3,
        inner: 1,
        count: 2,
        dtype: DType::F32,
        index: DType::I64,
        epilogue: Epilogue::store(DType::F32),
    };
    for (i, fits) in [(2.0, true), (-3.0, true), (3.0, false), (-4.0, false)] {
        let at = Tensor::of(DType::I64, &[0.0, i]);
        match attempt(&p.clone().into(), &[&floats(3), &at]) {
            Ok(_) => assert!(fits, "{i}"),
            Err(e) => {
                assert!(!fits, "{i}");
                assert_eq!(e.to_string(), format!("gather: index {i} lies outside a dimension of 3"));
            }
        }
    }
    // As i64 this would be -1, the last element.
    let at = Tensor::of(DType::U64, &[u64::MAX as f64, 0.0]);
    refused(Gather { index: DType::U64, ..p.clone() }, &[&floats(3), &at], "lies outside");
    refused(Gather { index: DType::F32, ..p }, &[], "indices are integers, not f32");
    let p = GatherElements { axis: 0, input: vec![2], output: vec![1], dtype: DType::F32, index: DType::I32 };
    refused(p.clone(), &[&floats(2), &Tensor::of(DType::I32, &[2.0])], "index 2 lies outside");
    refused(GatherElements { axis: 1, ..p }, &[], "axis 1");
}
