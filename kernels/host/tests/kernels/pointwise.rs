//! The interpreter: accesses, casts, registers of every class, blocks that meet, the error function.

#![allow(clippy::unwrap_used)]

use crate::tensor::{Random, Tensor, at, eval, indices, near, same};
use bakelite_host::problem::{Access, Pointwise};
use bakelite_host::{Class, DType, Instr, Program, Pw, Scalar, pointwise, walk};

#[test]
fn every_access_reads_the_element_it_names() {
    let mut r = Random(11);
    for case in 0..150 {
        let rank = r.below(6);
        let most = if case % 10 == 0 { 17 } else { 6 };
        let shape: Vec<usize> = (0..rank).map(|_| r.within(1, most.min(30 / rank.max(1) + 2))).collect();
        let dtypes = [r.pick(&DType::ALL[..12]), r.pick(&DType::ALL[..12])];
        let (a, need_a) = r.access(&shape);
        let (b, need_b) = r.access(&shape);
        let (x, y) = (r.integers(dtypes[0], need_a), r.integers(dtypes[1], need_b));
        let mut program = Program { inputs: dtypes.to_vec(), ..Program::default() };
        let left = program.push(Instr::Cast(DType::F64, 0));
        let right = program.push(Instr::Cast(DType::F64, 1));
        let ten = program.push(Instr::Const(Scalar::F64(10.0)));
        let tens = program.push(Instr::Apply(Pw::Mul, vec![left, ten]));
        let sum = program.push(Instr::Apply(Pw::Add, vec![tens, right]));
        program.outputs.push((sum, DType::F64));
        let (xs, ys) = (x.f64(), y.f64());
        let want: Vec<f64> = indices(&shape).iter().map(|i| 10.0 * xs[at(&a, i)] + ys[at(&b, i)]).collect();
        let p = Pointwise { shape, inputs: vec![a, b], program };
        same(&eval(p.clone(), &[&x, &y]), &want, &p);
    }
}

#[test]
fn chunks_and_threads_meet() {
    // Large enough for the parallel path, with a size that no block divides.
    let shape = [307, 411];
    let x = Tensor::of(DType::F32, &(0..307 * 411).map(f64::from).collect::<Vec<_>>());
    let copy = Program::identity(DType::F32, DType::F32);
    let mut twice = Program { inputs: vec![DType::F32], ..Program::default() };
    let sum = twice.push(Instr::Apply(Pw::Add, vec![0, 0]));
    twice.outputs = vec![(sum, DType::F32)];
    for (program, factor) in [(copy, 1.0), (twice, 2.0)] {
        // Transposed: out[i, j] = x[j, i].
        let access = Access { offset: 0, strides: vec![1, 307] };
        let p = Pointwise { shape: vec![307, 411], inputs: vec![access.clone()], program };
        let want: Vec<f64> = indices(&shape).iter().map(|i| factor * at(&access, i) as f64).collect();
        same(&eval(p, &[&x]), &want, &shape);
    }
}

#[test]
fn a_program_has_many_outputs_and_all_classes() {
    let text = "(f32, i32, bool) { %3 = gt %0 %4 } -> %3:bool";
    assert!(text.parse::<Program>().unwrap().classes().is_err());
    let text = "(f32, i32, bool) { %3 = 1.0f32; %4 = gt %0 %3; %5 = and %4 %2; %6 = select %5 %0 %3; \
                %7 = add %1 %1; %8 = cast f32 %7 } -> %5:bool %6:f32 %7:i32 %8:f16";
    let program: Program = text.parse().unwrap();
    let dense = Access { offset: 0, strides: vec![1] };
    let p = Pointwise { shape: vec![4], inputs: vec![dense; 3], program };
    let x = Tensor::of(DType::F32, &[0.5, 2.0, 3.0, f64::NAN]);
    let i = Tensor::of(DType::I32, &[1.0, 2.0, -3.0, 4.0]);
    let b = Tensor::of(DType::Bool, &[1.0, 1.0, 0.0, 1.0]);
    let out = crate::tensor::attempt(&p.into(), &[&x, &i, &b]).unwrap();
    same(&out[0].f64(), &[0.0, 1.0, 0.0, 0.0], &"and");
    same(&out[1].f64(), &[1.0, 2.0, 1.0, 1.0], &"select");
    same(&out[2].f64(), &[2.0, 4.0, -6.0, 8.0], &"add");
    same(&out[3].f64(), &[2.0, 4.0, -6.0, 8.0], &"cast");
}

fn cast(from: DType, to: DType, v: &[f64]) -> Vec<f64> {
    let mut program = Program { inputs: vec![from], ..Program::default() };
    let out = program.push(Instr::Cast(to, 0));
    program.outputs.push((out, to));
    let inputs = vec![Access { offset: 0, strides: vec![1] }];
    eval(Pointwise { shape: vec![v.len()], inputs, program }, &[&Tensor::of(from, v)])
}

#[test]
fn casts_are_those_of_onnx() {
    use DType::*;
    let nan = f64::NAN;
    let inf = f64::INFINITY;
    same(&cast(F32, I8, &[1.9, -1.9, 300.0, -300.0, nan]), &[1.0, -1.0, 127.0, -128.0, 0.0], &"saturate");
    same(&cast(F64, U8, &[255.9, 256.0, -1.0, inf]), &[255.0, 255.0, 0.0, 255.0], &"unsigned");
    same(&cast(I64, I8, &[127.0, 128.0, 256.0, -129.0]), &[127.0, -128.0, 0.0, 127.0], &"wrap");
    same(&cast(I32, U16, &[-1.0, 65536.0]), &[65535.0, 0.0], &"wrap");
    same(&cast(F32, Bool, &[0.0, -0.0, 0.1, nan]), &[0.0, 0.0, 1.0, 1.0], &"truth");
    same(&cast(I16, Bool, &[0.0, -3.0]), &[0.0, 1.0], &"truth");
    same(&cast(Bool, F16, &[0.0, 1.0]), &[0.0, 1.0], &"bool");
    same(&cast(Bool, I32, &[0.0, 1.0]), &[0.0, 1.0], &"bool");
    // Ties of f16 (11 bits) and bf16 (8 bits) to even, and overflow to infinity.
    same(&cast(F32, F16, &[2049.0, 2051.0, 65520.0, 65519.0]), &[2048.0, 2052.0, inf, 65504.0], &"f16");
    same(&cast(F64, BF16, &[257.0, 259.0]), &[256.0, 260.0], &"bf16");
    // One rounding, not two: 2^24 + 1 is a tie in f32.
    same(&cast(I64, F32, &[16_777_217.0, 16_777_219.0]), &[16_777_216.0, 16_777_220.0], &"f32");
}

#[test]
fn an_empty_space_has_no_elements() {
    let program = Program::identity(DType::F32, DType::F32);
    let inputs = vec![Access { offset: 7, strides: vec![1, 1] }];
    let p = Pointwise { shape: vec![3, 0], inputs, program };
    assert!(eval(p, &[&Tensor::zeros(DType::F32, 0)]).is_empty());
}

#[test]
fn erf_to_full_precision() {
    // Digits from tables (DLMF 7.23 and beyond).
    let known = [
        (0.0, 0.0),
        (1e-3, 0.001_128_378_790_969_236_4),
        (0.1, 0.112_462_916_018_284_9),
        (0.5, 0.520_499_877_813_046_5),
        (1.0, 0.842_700_792_949_714_9),
        (1.5, 0.966_105_146_475_310_7),
        (2.0, 0.995_322_265_018_952_7),
        (2.5, 0.999_593_047_982_555),
        (3.0, 0.999_977_909_503_001_4),
        (4.0, 0.999_999_984_582_742_1),
    ];
    for (x, want) in known {
        for sign in [1.0, -1.0] {
            let got = pointwise::math::erf(sign * x);
            assert!((got - sign * want).abs() <= 2.0 * f64::EPSILON, "erf {x}: {got}, not {want}");
        }
    }
    // The table against the series.
    for i in -60_000..60_000 {
        let x = i as f32 * 1e-4;
        let want = pointwise::math::erf(f64::from(x)) as f32;
        let got = pointwise::math::Erf::erf(x);
        assert!((got - want).abs() <= want.abs() * f32::EPSILON, "erf {x}: {got}, not {want}");
    }
    use pointwise::math::Erf;
    assert!(Erf::erf(f32::NAN).is_nan() && Erf::erf(f64::NAN).is_nan());
    assert_eq!([Erf::erf(f32::INFINITY), Erf::erf(f32::NEG_INFINITY)], [1.0, -1.0]);
}

#[test]
fn blocks_apply_the_scalar_functions() {
    let mut r = Random(5);
    let a = r.reals(DType::F32, 700);
    let b = r.reals(DType::F32, 700);
    let (x, y) = (a.f64(), b.f64());
    let dense = || Access { offset: 0, strides: vec![1] };
    for &op in Pw::ALL.iter().filter(|op| op.has(Class::F32) && op.arity() < 3) {
        let to = if op.signature() == pointwise::Signature::Test { DType::Bool } else { DType::F32 };
        let n = op.arity();
        let program = Program::single(op, &vec![DType::F32; n], to);
        let p = Pointwise { shape: vec![700], inputs: vec![dense(); n], program };
        let want: Vec<f64> = (0..700)
            .map(|i| {
                let (a, b) = (x[i] as f32, y[i] as f32);
                let (mut o, mut t) = ([0f32], [false]);
                use pointwise::f32 as f;
                match (n, to) {
                    (1, DType::Bool) => assert!(f::test1(op, &mut t, &[a])),
                    (_, DType::Bool) => assert!(f::test2(op, &mut t, &[a], &[b])),
                    (1, _) => assert!(f::apply1(op, &mut o, &[a])),
                    _ => assert!(f::apply2(op, &mut o, &[a], &[b])),
                }
                if to == DType::Bool { f64::from(u8::from(t[0])) } else { f64::from(o[0]) }
            })
            .collect();
        near(&eval(p, &[&a, &b][..n]), &want, 0.0, &op);
    }
}

#[test]
fn merging_keeps_the_walk() {
    let mut r = Random(9);
    for _ in 0..200 {
        let rank = r.below(5);
        let shape: Vec<usize> = (0..rank).map(|_| r.within(1, 4)).collect();
        let (a, _) = r.access(&shape);
        let mut strides = [a.strides.clone(), walk::dense(&shape)];
        let merged = walk::merge(&shape, &mut strides);
        let total = shape.iter().product();
        for start in 0..total {
            let mut got = vec![usize::MAX; total - start];
            walk::runs(&merged, &strides[0], a.offset, start, total - start, &mut |from, step, at, n| {
                (0..n).for_each(|i| got[at + i] = from + i * step);
            });
            let want: Vec<usize> = indices(&shape)[start..].iter().map(|i| at(&a, i)).collect();
            assert_eq!(got, want, "{shape:?} {a:?} from {start}");
        }
    }
}
