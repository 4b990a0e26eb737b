//! Concat, Pad, Gather, GatherElements, Resize.

#![allow(clippy::unwrap_used)]

use crate::tensor::{Random, Tensor, eval, indices, linear, near, same};
use bakelite_host::DType;
use bakelite_host::problem::*;

#[test]
fn concat_lays_slabs_end_to_end() {
    let mut r = Random(41);
    for _ in 0..80 {
        let dtype = r.pick(&DType::ALL);
        let (outer, inner) = (r.within(1, 4), r.within(1, 5));
        let lens: Vec<usize> = (0..r.within(1, 4)).map(|_| r.below(5)).collect();
        let total: usize = lens.iter().sum();
        let xs: Vec<Tensor> = lens.iter().map(|n| r.integers(dtype, outer * n * inner)).collect();
        let values: Vec<Vec<f64>> = xs.iter().map(Tensor::f64).collect();
        let mut acc = vec![];
        for o in 0..outer {
            for (v, n) in values.iter().zip(&lens) {
                acc.extend(&v[o * n * inner..(o + 1) * n * inner]);
            }
        }
        let shape = [outer, total, inner];
        let seed = if dtype == DType::Bool { 0 } else { r.below(100) as u64 };
        let finish =
            if dtype == DType::Bool { plain(dtype, &shape) } else { Random(seed).epilogue(dtype, &shape) };
        let p = Concat { outer, lens, inner, dtype, epilogue: finish.epilogue.clone() };
        same(&eval(p.clone(), &finish.inputs(&xs.iter().collect::<Vec<_>>())), &finish.apply(&acc), &p);
    }
}

/// An epilogue that only stores.
fn plain(dtype: DType, shape: &[usize]) -> crate::tensor::Finish {
    let mut r = Random(0);
    loop {
        let finish = r.epilogue(dtype, shape);
        if finish.operands.is_empty() {
            return finish;
        }
    }
}

#[test]
fn pads_follow_their_mode() {
    let row = |mode, begin, output| {
        let x = Tensor::of(DType::I32, &[1.0, 2.0, 3.0]);
        let value = Tensor::of(DType::I32, &[9.0]);
        let p = Pad { mode, input: vec![3], output: vec![output], begin: vec![begin], dtype: DType::I32 };
        let operands = if mode == PadMode::Constant { vec![&x, &value] } else { vec![&x] };
        eval(p, &operands).iter().map(|v| v.to_string()).collect::<String>()
    };
    assert_eq!(row(PadMode::Constant, 2, 7), "9912399");
    assert_eq!(row(PadMode::Constant, -1, 3), "239");
    assert_eq!(row(PadMode::Constant, -5, 2), "99");
    assert_eq!(row(PadMode::Edge, 2, 7), "1112333");
    assert_eq!(row(PadMode::Reflect, 2, 7), "3212321");
    assert_eq!(row(PadMode::Reflect, 5, 10), "2123212321");
    assert_eq!(row(PadMode::Wrap, 2, 8), "23123123");
    assert_eq!(row(PadMode::Wrap, -1, 1), "2");
}

#[test]
fn pads_in_many_dimensions() {
    let mut r = Random(42);
    for _ in 0..150 {
        let dtype = r.pick(&DType::ALL);
        let mode = r.pick(&[PadMode::Constant, PadMode::Edge, PadMode::Wrap, PadMode::Reflect]);
        let rank = r.below(4);
        let input: Vec<usize> = (0..rank).map(|_| r.within(1, 5)).collect();
        let begin: Vec<i64> = (0..rank).map(|_| r.below(6) as i64 - 2).collect();
        let output: Vec<usize> = (0..rank).map(|_| r.within(1, 9)).collect();
        let x = r.integers(dtype, input.iter().product());
        let value = r.integers(dtype, 1);
        let xs = x.f64();
        let want: Vec<f64> = indices(&output)
            .iter()
            .map(|o| {
                let source: Option<Vec<usize>> = (0..rank)
                    .map(|d| {
                        let n = input[d] as i64;
                        let mut i = o[d] as i64 - begin[d];
                        match mode {
                            PadMode::Constant if i < 0 || i >= n => return None,
                            PadMode::Constant => {}
                            PadMode::Edge => i = i.clamp(0, n - 1),
                            PadMode::Wrap => i = i.rem_euclid(n),
                            // Bounced until inside.
                            PadMode::Reflect if n == 1 => i = 0,
                            PadMode::Reflect => {
                                while i < 0 || i >= n {
                                    i = if i < 0 { -i } else { 2 * (n - 1) - i };
                                }
                            }
                        }
                        Some(i as usize)
                    })
                    .collect();
                source.map_or(value.f64()[0], |s| xs[linear(&input, &s)])
            })
            .collect();
        let p = Pad { mode, input, output, begin, dtype };
        let operands = if mode == PadMode::Constant { vec![&x, &value] } else { vec![&x] };
        same(&eval(p.clone(), &operands), &want, &p);
    }
}

#[test]
fn a_placed_result_leaves_the_rest_alone() {
    let x = Tensor::of(DType::F16, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mut epilogue = Epilogue::store(DType::F16);
    // [3, 2] as columns 1 and 2 of [3, 4].
    let access = Access { offset: 1, strides: vec![4, 1] };
    epilogue.place = Some(Placement { shape: vec![3, 2], access, elements: 12 });
    let p = Concat { outer: 3, lens: vec![2], inner: 1, dtype: DType::F16, epilogue };
    let mut out = Tensor::of(DType::F16, &[9.0; 12]);
    let problem = Problem::from(p);
    bakelite_host::run(&problem, &[x.view()], &mut [out.view_mut()]).unwrap();
    assert_eq!(out.f64(), [9.0, 1.0, 2.0, 9.0, 9.0, 3.0, 4.0, 9.0, 9.0, 5.0, 6.0, 9.0]);
    let text = problem.to_string();
    assert!(text.ends_with("at [3,2]: 1+[4,1] of 12"), "{text}");
}

#[test]
fn gathers_pick_by_index() {
    let mut r = Random(43);
    for _ in 0..120 {
        let dtype = r.pick(&DType::ALL);
        let index = r.pick(&[DType::I64, DType::I32, DType::I8, DType::U8]);
        let signed = index != DType::U8;
        let (outer, len, inner, count) = (r.within(1, 4), r.within(1, 7), r.within(1, 5), r.below(6));
        let mut pick = |n: usize| -> Vec<f64> {
            (0..n).map(|_| r.below(len) as f64 - if signed && r.flip() { len as f64 } else { 0.0 }).collect()
        };
        let wrapped = |i: f64| (if i < 0.0 { i + len as f64 } else { i }) as usize;
        let at = pick(count);
        let shape = vec![outer, len, inner];
        let elements = vec![r.within(1, outer), r.within(1, 5), r.within(1, inner)];
        let mut pick = |n: usize| -> Vec<f64> { (0..n).map(|_| r.below(len) as f64).collect() };
        let each = pick(elements.iter().product());
        let x = r.integers(dtype, outer * len * inner);
        let xs = x.f64();

        let out = [outer, count, inner];
        let acc: Vec<f64> =
            indices(&out).iter().map(|i| xs[linear(&shape, &[i[0], wrapped(at[i[1]]), i[2]])]).collect();
        let finish = if dtype == DType::Bool { plain(dtype, &out) } else { r.epilogue(dtype, &out) };
        let p = Gather { outer, len, inner, count, dtype, index, epilogue: finish.epilogue.clone() };
        let places = Tensor::of(index, &at);
        same(&eval(p.clone(), &finish.inputs(&[&x, &places])), &finish.apply(&acc), &p);

        let want: Vec<f64> = indices(&elements)
            .iter()
            .map(|i| xs[linear(&shape, &[i[0], each[linear(&elements, i)] as usize, i[2]])])
            .collect();
        let p = GatherElements { axis: 1, input: shape, output: elements, dtype, index };
        same(&eval(p.clone(), &[&x, &Tensor::of(index, &each)]), &want, &p);
    }
}

fn resize(
    x: &[f64],
    output: usize,
    scale: f32,
    coordinates: Coordinates,
    interpolation: Interpolation,
) -> Vec<f64> {
    let p = Resize {
        input: vec![x.len()],
        output: vec![output],
        scales: vec![scale],
        coordinates,
        interpolation,
        dtype: DType::F32,
        epilogue: Epilogue::store(DType::F32),
    };
    eval(p, &[&Tensor::of(DType::F32, x)])
}

#[test]
fn resize_samples_where_the_coordinates_say() {
    use Coordinates::*;
    use Interpolation::*;
    let x = [1.0, 2.0, 3.0, 4.0];
    let check = |got: Vec<f64>, want: &[f64]| near(&got, want, 1e-6, &want);
    check(resize(&x, 8, 2.0, HalfPixel, Linear), &[1.0, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.0]);
    check(resize(&x, 7, 1.75, AlignCorners, Linear), &[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]);
    check(resize(&x, 8, 2.0, Asymmetric, NearestFloor), &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
    check(resize(&x, 8, 2.0, Asymmetric, NearestCeil), &[1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 4.0]);
    // Half a step: the ties.
    check(resize(&x, 8, 2.0, Asymmetric, NearestPreferFloor), &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
    check(resize(&x, 8, 2.0, Asymmetric, NearestPreferCeil), &[1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 4.0]);
    check(resize(&x, 2, 0.5, HalfPixel, Linear), &[1.5, 3.5]);
    check(resize(&x, 1, 0.25, PytorchHalfPixel, Linear), &[1.0]);
    check(resize(&x, 1, 0.25, AlignCorners, Linear), &[1.0]);
    // A cubic through its own points gives them back; halfway it is (a, b, c, d)·(-3, 19, 19, -3)/32 for a = -3/4.
    let cubic = resize(&x, 8, 2.0, Asymmetric, Cubic { a: -0.75 });
    let w = [-0.09375, 0.59375, 0.59375, -0.09375];
    let half = |v: [f64; 4]| v.iter().zip(w).map(|(v, w)| v * w).sum::<f64>();
    check(
        cubic,
        &[
            1.0,
            half([1.0, 1.0, 2.0, 3.0]),
            2.0,
            half([1.0, 2.0, 3.0, 4.0]),
            3.0,
            half([2.0, 3.0, 4.0, 4.0]),
            4.0,
            half([3.0, 4.0, 4.0, 4.0]),
        ],
    );
}

#[test]
fn resize_is_a_product_over_dimensions() {
    let mut r = Random(44);
    for interpolation in
        [Interpolation::Linear, Interpolation::Cubic { a: -0.5 }, Interpolation::NearestPreferFloor]
    {
        let (input, output) = (vec![2, 3, 4], vec![2, 5, 6]);
        let scales = vec![1.0, 5.0 / 3.0, 1.5];
        let x = r.reals(DType::F32, 24);
        let xs = x.f64();
        // The weights of one dimension are its response to unit impulses.
        let weights = |d: usize| -> Vec<Vec<f64>> {
            (0..input[d])
                .map(|i| {
                    let impulse: Vec<f64> = (0..input[d]).map(|j| f64::from(u8::from(i == j))).collect();
                    resize(&impulse, output[d], scales[d], Coordinates::HalfPixel, interpolation)
                })
                .collect()
        };
        let (w1, w2) = (weights(1), weights(2));
        let acc: Vec<f64> = indices(&output)
            .iter()
            .map(|o| {
                indices(&input[1..])
                    .iter()
                    .map(|i| xs[linear(&input, &[o[0], i[0], i[1]])] * w1[i[0]][o[1]] * w2[i[1]][o[2]])
                    .sum()
            })
            .collect();
        let finish = r.epilogue(DType::F32, &output);
        let p = Resize {
            input,
            output,
            scales,
            coordinates: Coordinates::HalfPixel,
            interpolation,
            dtype: DType::F32,
            epilogue: finish.epilogue.clone(),
        };
        near(&eval(p.clone(), &finish.inputs(&[&x])), &finish.apply(&acc), 1e-5, &p);
    }
}
