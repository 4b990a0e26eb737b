//! Gemm, Conv, ConvTranspose.

#![allow(clippy::unwrap_used)]

use crate::tensor::{Random, Tensor, attempt, eval, indices, linear, same};
use bakelite_host::DType;
use bakelite_host::problem::{
    Access, Added, Conv, ConvTranspose, Epilogue, Excite, Expand, Gemm, Layout, Math, Placement, Pool,
    PoolKind, Pooled, Squeeze,
};

const TYPES: [DType; 8] =
    [DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I8, DType::U32];

/// Keeps what an element type rounds or wraps out of the comparison: sums stay small.
fn depth(dtype: DType) -> usize {
    match dtype {
        DType::I8 | DType::BF16 => 12,
        _ => 70,
    }
}

#[test]
fn gemm_is_the_triple_loop() {
    let mut r = Random(1);
    for case in 0..120 {
        let dtype = r.pick(&TYPES);
        let [batch, m, n] = [r.within(1, 4), r.within(1, 40), r.within(1, 40)];
        let (m, n) = if case % 10 == 0 { (m * 8, n * 8) } else { (m, n) };
        let k = r.within(0, depth(dtype));
        let mut operand = |rows: usize, cols: usize| {
            let inner = if r.flip() { [cols, 1] } else { [1, rows] };
            let stride = if r.below(3) == 0 { 0 } else { rows * cols };
            ([stride, inner[0], inner[1]], r.integers(dtype, batch * rows * cols))
        };
        let (a, av) = operand(m, k);
        let (b, bv) = operand(k, n);
        let shape = [batch, m, n];
        let finish = r.epilogue(dtype, &shape);
        let (x, y) = (av.f64(), bv.f64());
        let acc: Vec<f64> = indices(&shape)
            .iter()
            .map(|i| {
                (0..k)
                    .map(|l| {
                        x[i[0] * a[0] + i[1] * a[1] + l * a[2]] * y[i[0] * b[0] + l * b[1] + i[2] * b[2]]
                    })
                    .sum()
            })
            .collect();
        let epilogue = finish.epilogue.clone();
        let p = Gemm { batch, m, n, k, dtype, math: Math::Exact, a, b, epilogue };
        let want: Vec<f64> = finish.apply(&acc);
        same(&eval(p.clone(), &finish.inputs(&[&av, &bv])), &want, &p);
    }
}

#[test]
fn tf32_rounds_operands_to_ten_bits() {
    let one = |math| {
        let strides = [1, 1, 1];
        let epilogue = Epilogue::store(DType::F32);
        Gemm { batch: 1, m: 1, n: 1, k: 1, dtype: DType::F32, math, a: strides, b: strides, epilogue }
    };
    let unit = Tensor::of(DType::F32, &[1.0]);
    for (bits, to) in [(11, 1.0 + 2f64.powi(-10)), (12, 1.0)] {
        let v = 1.0 + 2f64.powi(-bits);
        let x = Tensor::of(DType::F32, &[v]);
        assert_eq!(eval(one(Math::Exact), &[&x, &unit]), [v]);
        assert_eq!(eval(one(Math::Tf32), &[&x, &unit]), [to]);
        assert_eq!(eval(one(Math::Tf32), &[&unit, &x]), [to]);
        assert_eq!(eval(one(Math::Tf32x3), &[&x, &unit]), [v]);
    }
    let infinite = Tensor::of(DType::F32, &[f64::INFINITY]);
    assert_eq!(eval(one(Math::Tf32), &[&infinite, &unit]), [f64::INFINITY]);
}

/// Position in a tensor with channels first or last.
fn place(layout: Layout, c: usize, channels: usize, spatial: &[usize], n: usize, at: &[usize]) -> usize {
    let pixels: usize = spatial.iter().product();
    match layout {
        Layout::ChannelsFirst => (n * channels + c) * pixels + linear(spatial, at),
        Layout::ChannelsLast => (n * pixels + linear(spatial, at)) * channels + c,
    }
}

fn shape(layout: Layout, n: usize, channels: usize, spatial: &[usize]) -> Vec<usize> {
    let mut shape = vec![n];
    shape.extend(spatial);
    shape.insert(if layout == Layout::ChannelsFirst { 1 } else { shape.len() }, channels);
    shape
}

/// The element under a tap, if it lies inside.
fn under(o: &[usize], r: &[usize], p: [&[usize]; 4]) -> Option<Vec<usize>> {
    let [input, strides, dilations, pads] = p;
    (0..o.len())
        .map(|d| (o[d] * strides[d] + r[d] * dilations[d]).checked_sub(pads[d]).filter(|i| *i < input[d]))
        .collect()
}

fn convolution(r: &mut Random, case: usize) {
    let dtype = r.pick(&TYPES);
    let rank = r.pick(&[0, 1, 2, 2, 2, 2, 3]);
    let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
    let groups = r.pick(&[1, 1, 1, 2, 3, 5]);
    let own = if case.is_multiple_of(3) { 1 } else { r.within(1, 4) };
    let each = r.within(1, 3);
    let (channels, filters) = (groups * own, groups * each);
    let n = r.within(1, 3);
    let pointwise = r.below(4) == 0;
    let mut list =
        |low: usize, high: usize| -> Vec<usize> { (0..rank).map(|_| r.within(low, high)).collect() };
    let most = [1, 300, 14, 6][rank];
    let input = list(1, most);
    let (kernel, strides, dilations, pads) = if pointwise {
        (vec![1; rank], vec![1; rank], vec![1; rank], vec![0; rank])
    } else {
        (list(1, 3), list(1, 3), list(1, 2), list(0, 2))
    };
    // Any output size is legal: what lies outside is zero.
    let output: Vec<usize> = (0..rank)
        .map(|d| {
            let reach = (kernel[d] - 1) * dilations[d];
            let fits = (input[d] + 2 * pads[d]).saturating_sub(reach + 1) / strides[d] + 1;
            if pointwise { fits } else { fits + r.below(2) }
        })
        .collect();
    let x = r.integers(dtype, n * channels * input.iter().product::<usize>());
    let taps: usize = kernel.iter().product();
    let w = r.integers(dtype, filters * own * taps);
    let (xs, ws) = (x.f64(), w.f64());
    let out = shape(layout, n, filters, &output);
    let finish = r.epilogue(dtype, &out);
    let mut acc = vec![0.0; out.iter().product()];
    for image in 0..n {
        for o in 0..filters {
            for at in indices(&output) {
                let mut sum = 0.0;
                for c in 0..own {
                    for (t, tap) in indices(&kernel).iter().enumerate() {
                        let Some(i) = under(&at, tap, [&input, &strides, &dilations, &pads]) else {
                            continue;
                        };
                        let channel = o / each * own + c;
                        sum += xs[place(layout, channel, channels, &input, image, &i)]
                            * ws[(o * own + c) * taps + t];
                    }
                }
                acc[place(layout, o, filters, &output, image, &at)] = sum;
            }
        }
    }
    let epilogue = finish.epilogue.clone();
    let math = Math::Exact;
    let p = Conv {
        n,
        channels,
        filters,
        groups,
        input,
        output,
        kernel,
        strides,
        dilations,
        pads,
        layout,
        x: None,
        scaled: false,
        added: None,
        expand: None,
        pooled: None,
        dtype,
        math,
        epilogue,
    };
    if dtype == DType::I8 && acc.iter().any(|v| v.abs() > 120.0)
        || dtype == DType::BF16 && acc.iter().any(|v| v.abs() > 250.0)
    {
        return;
    }
    same(&eval(p.clone(), &finish.inputs(&[&x, &w])), &finish.apply(&acc), &p);
}

#[test]
fn conv_is_the_sum_over_taps() {
    let mut r = Random(2);
    (0..300).for_each(|case| convolution(&mut r, case));
}

/// Large enough for several tiles and for many tasks.
#[test]
fn conv_tiles_meet() {
    for (layout, groups, size) in [
        (Layout::ChannelsFirst, 1, 40),
        (Layout::ChannelsLast, 1, 40),
        (Layout::ChannelsFirst, 2, 33),
        (Layout::ChannelsLast, 2, 33),
    ] {
        let mut r = Random(7);
        let (channels, filters) = (128, 4);
        let x = r.integers(DType::F32, channels * size * size);
        let w = r.integers(DType::F32, filters * channels / groups * 9);
        let (xs, ws) = (x.f64(), w.f64());
        let side = [size, size];
        let own = channels / groups;
        let mut acc = vec![0.0; filters * size * size];
        for o in 0..filters {
            for at in indices(&side) {
                let mut sum = 0.0;
                for (t, tap) in indices(&[3, 3]).iter().enumerate() {
                    let Some(i) = under(&at, tap, [&side, &[1, 1], &[1, 1], &[1, 1]]) else { continue };
                    for c in 0..own {
                        let channel = o / (filters / groups) * own + c;
                        sum += xs[place(layout, channel, channels, &side, 0, &i)] * ws[(o * own + c) * 9 + t];
                    }
                }
                acc[place(layout, o, filters, &side, 0, &at)] = sum;
            }
        }
        let two = |v: usize| vec![v; 2];
        let p = Conv {
            n: 1,
            channels,
            filters,
            groups,
            input: two(size),
            output: two(size),
            kernel: two(3),
            strides: two(1),
            dilations: two(1),
            pads: two(1),
            layout,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype: DType::F32,
            math: Math::Exact,
            epilogue: Epilogue::store(DType::F32),
        };
        same(&eval(p.clone(), &[&x, &w]), &acc, &p);
    }
}

/// A convolution of scaled pixels is one of pixels that were multiplied before, in both layouts.
#[test]
fn factors_scale_the_pixels_of_their_image_and_channel() {
    let mut r = Random(11);
    for case in 0..40 {
        let dtype = r.pick(&[DType::F32, DType::F64, DType::F16, DType::I64]);
        let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
        let (n, groups, own) = (r.within(1, 3), r.pick(&[1, 2]), r.within(1, 3));
        let (channels, side, kernel) = (groups * own, vec![r.within(2, 5), r.within(2, 5)], r.pick(&[1, 3]));
        let x = r.integers(dtype, n * channels * side[0] * side[1]);
        let w = r.integers(dtype, groups * 2 * own * kernel * kernel);
        let s = r.integers(dtype, n * channels);
        let (xs, ss) = (x.f64(), s.f64());
        let mut product = xs.clone();
        for image in 0..n {
            for c in 0..channels {
                for at in indices(&side) {
                    product[place(layout, c, channels, &side, image, &at)] *= ss[image * channels + c];
                }
            }
        }
        let plain = Conv {
            n,
            channels,
            filters: groups * 2,
            groups,
            input: side.clone(),
            output: side,
            kernel: vec![kernel; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: vec![kernel / 2; 2],
            layout,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype,
            math: Math::Exact,
            epilogue: Epilogue::store(dtype),
        };
        let scaled = Conv { scaled: true, ..plain.clone() };
        let expected = eval(plain, &[&Tensor::of(dtype, &product), &w]);
        assert!(case > 0 || xs != product, "factors of 1 test nothing");
        same(&eval(scaled.clone(), &[&x, &w, &s]), &expected, &scaled);
    }
}

/// A convolution of pixels that lie otherwise, in a wider type even, is one of a dense copy of them.
#[test]
fn pixels_are_read_where_they_lie() {
    let mut r = Random(13);
    for _ in 0..40 {
        let (dtype, from) = r.pick(&[
            (DType::F32, DType::F32),
            (DType::F16, DType::F32),
            (DType::F64, DType::F64),
            (DType::I64, DType::I32),
        ]);
        let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
        let (n, channels, side, kernel) =
            (r.within(1, 3), r.within(1, 4), vec![r.within(2, 5), r.within(2, 5)], r.pick(&[1, 3]));
        let [height, width] = [side[0], side[1]];
        // In memory: [h, n, w + 1, c], from the third element on.
        let strides = [(width + 1) * channels, n * (width + 1) * channels, channels, 1];
        let memory = r.integers(from, 3 + n * height * (width + 1) * channels);
        let values = memory.f64();
        let mut dense = vec![0.0; n * channels * height * width];
        for at in indices(&[n, height, width, channels]) {
            let from = 3 + at.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>();
            dense[place(layout, at[3], channels, &side, at[0], &at[1..3])] = values[from];
        }
        let [image, row, column, channel] = strides;
        let strides = match layout {
            Layout::ChannelsFirst => vec![image, channel, row, column],
            Layout::ChannelsLast => vec![image, row, column, channel],
        };
        let w = r.integers(dtype, 2 * channels * kernel * kernel);
        let plain = Conv {
            n,
            channels,
            filters: 2,
            groups: 1,
            input: side.clone(),
            output: side,
            kernel: vec![kernel; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: vec![kernel / 2; 2],
            layout,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype,
            math: Math::Exact,
            epilogue: Epilogue::store(dtype),
        };
        let expected = eval(plain.clone(), &[&Tensor::of(dtype, &dense), &w]);
        let strided = Conv { x: Some((from, Access { offset: 3, strides })), ..plain };
        same(&eval(strided.clone(), &[&memory, &w]), &expected, &strided);
    }
}

/// What is added is another convolution's result, before the epilogue, also where that one's pixels end before its output does.
#[test]
fn what_is_added_is_the_sum_of_two_convolutions() {
    let mut r = Random(14);
    for _ in 0..40 {
        let dtype = r.pick(&[DType::F32, DType::F64, DType::F16, DType::I64]);
        let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
        let (n, groups, own, filters) = (r.within(1, 3), r.pick(&[1, 2]), r.within(1, 3), 2 * r.within(1, 3));
        let (side, kernel, scaled) = (vec![r.within(2, 5), r.within(2, 5)], r.pick(&[1, 3]), r.flip());
        let (more, strides) = (r.within(1, 4), vec![r.within(1, 3), r.within(1, 3)]);
        let input: Vec<usize> = side.iter().zip(&strides).map(|(o, s)| o * s - r.below(2)).collect();
        let x = r.integers(dtype, n * groups * own * side[0] * side[1]);
        let w = r.integers(dtype, filters * own * kernel * kernel);
        let s = r.integers(dtype, n * groups * own);
        let x2 = r.integers(dtype, n * more * input[0] * input[1]);
        let w2 = r.integers(dtype, filters * more);
        let first = Conv {
            n,
            channels: groups * own,
            filters,
            groups,
            input: side.clone(),
            output: side.clone(),
            kernel: vec![kernel; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: vec![kernel / 2; 2],
            layout,
            x: None,
            scaled,
            added: None,
            expand: None,
            pooled: None,
            dtype,
            math: Math::Exact,
            epilogue: Epilogue::store(dtype),
        };
        let second = Conv {
            channels: more,
            groups: 1,
            input: input.clone(),
            kernel: vec![1; 2],
            strides: strides.clone(),
            pads: vec![0; 2],
            scaled: false,
            ..first.clone()
        };
        let operands: &[&Tensor] = if scaled { &[&x, &w, &s] } else { &[&x, &w] };
        let (one, other) = (eval(first.clone(), operands), eval(second, &[&x2, &w2]));
        let sum: Vec<f64> = one.iter().zip(&other).map(|(a, b)| a + b).collect();
        let both = Conv { added: Some(Added { channels: more, input, strides }), ..first };
        same(&eval(both.clone(), &[operands, &[&x2, &w2]].concat()), &sum, &both);
    }
}

/// What is made on the way is another convolution's result, rounded, with zeros around it; in both layouts.
#[test]
fn an_expansion_is_a_convolution_before() {
    let mut r = Random(22);
    for _ in 0..60 {
        let dtype = r.pick(&[DType::F32, DType::F64, DType::F16, DType::I32]);
        let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
        let [n, own, channels] = [r.within(1, 3), r.within(1, 4), r.within(1, 5)];
        let groups = r.pick(&[1, channels]);
        let (input, kernel, pad) = (vec![r.within(3, 6), r.within(3, 6)], r.within(1, 3), r.within(0, 2));
        let output: Vec<usize> = input.iter().map(|i| (i + 2 * pad - kernel) / 2 + 1).collect();
        let shape = |pixels: &[usize]| match layout {
            Layout::ChannelsFirst => [&[n, channels], pixels].concat(),
            Layout::ChannelsLast => [&[n], pixels, &[channels]].concat(),
        };
        let (between, last) = (r.epilogue(dtype, &shape(&input)), r.epilogue(dtype, &shape(&output)));
        if between.epilogue.out() != dtype {
            continue;
        }
        let x = r.integers(dtype, n * own * input.iter().product::<usize>());
        let (first, w) = (
            r.integers(dtype, channels * own),
            r.integers(dtype, channels * (channels / groups) * kernel * kernel),
        );
        let plain = Conv {
            n,
            channels,
            filters: channels,
            groups,
            input: input.clone(),
            output,
            kernel: vec![kernel; 2],
            strides: vec![2; 2],
            dilations: vec![1; 2],
            pads: vec![pad; 2],
            layout,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype,
            math: Math::Exact,
            epilogue: last.epilogue.clone(),
        };
        let one = Conv {
            channels: own,
            groups: 1,
            output: input,
            kernel: vec![1; 2],
            strides: vec![1; 2],
            pads: vec![0; 2],
            epilogue: between.epilogue.clone(),
            ..plain.clone()
        };
        let made = attempt(&one.into(), &between.inputs(&[&x, &first])).unwrap().remove(0);
        let expected = attempt(&plain.clone().into(), &last.inputs(&[&made, &w])).unwrap().remove(0);
        let expand = Expand { channels: own, epilogue: between.epilogue.clone() };
        let p = Conv { expand: Some(expand.into()), ..plain };
        let inputs = last.inputs(&between.inputs(&[&x, &w, &first]));
        same(&eval(p.clone(), &inputs), &expected.f64(), &p);
        // It stands alone, and makes what the other convolution takes.
        let wrong = Conv { scaled: true, ..p.clone() };
        assert!(bakelite_host::Problem::from(wrong).contract().is_err());
        let mut wrong = p;
        wrong.expand = Some(Expand { channels: own, epilogue: Epilogue::store(DType::F64) }.into());
        assert_eq!(bakelite_host::Problem::from(wrong).contract().is_ok(), dtype == DType::F64);
    }
}

/// What is pooled is a pool's result over the convolution's, epilogue and all; windows may hang over. It may be placed.
#[test]
fn what_is_pooled_is_a_pool_behind() {
    let mut r = Random(31);
    for _ in 0..60 {
        let dtype = r.pick(&[DType::F32, DType::F64, DType::F16, DType::I32]);
        let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
        let [n, channels, filters] = [r.within(1, 3), r.within(1, 3), r.within(1, 5)];
        let side = [r.within(3, 8), r.within(3, 8)];
        let shape = |pixels: &[usize]| match layout {
            Layout::ChannelsFirst => [&[n, filters], pixels].concat(),
            Layout::ChannelsLast => [&[n], pixels, &[filters]].concat(),
        };
        let last = r.epilogue(dtype, &shape(&side));
        let out = last.epilogue.out();
        if out == DType::Bool || last.epilogue.place.is_some() {
            continue;
        }
        let x = r.integers(dtype, n * channels * side[0] * side[1]);
        let w = r.integers(dtype, filters * channels * 9);
        let plain = Conv {
            n,
            channels,
            filters,
            groups: 1,
            input: side.to_vec(),
            output: side.to_vec(),
            kernel: vec![3; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: vec![1; 2],
            layout,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype,
            math: Math::Exact,
            epilogue: last.epilogue.clone(),
        };
        let (kernel, stride, pad) = (r.within(2, 3), r.within(1, 2), r.below(2));
        let hanging = r.below(2);
        let output: Vec<usize> = side.iter().map(|i| (i + 2 * pad + hanging - kernel) / stride + 1).collect();
        let pool = Pool {
            kind: PoolKind::Max,
            n,
            channels: filters,
            input: side.to_vec(),
            output: output.clone(),
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            dilations: vec![1; 2],
            pads: vec![pad; 2],
            pads_end: vec![pad; 2],
            layout,
            dtype: out,
            epilogue: Epilogue::store(out),
        };
        let inputs = last.inputs(&[&x, &w]);
        let made = attempt(&plain.clone().into(), &inputs).unwrap().remove(0);
        let expected = attempt(&pool.into(), &[&made]).unwrap().remove(0).f64();
        let pooled = Pooled {
            output: output.clone(),
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            pads: vec![pad; 2],
        };
        let p = Conv { pooled: Some(pooled), ..plain };
        same(&eval(p.clone(), &inputs), &expected, &p);
        // Placed one behind the other, from the fourth element on.
        let mut placed = p.clone();
        let dense = shape(&output);
        let len: usize = dense.iter().product();
        let access = Access { offset: 3, strides: vec![1] };
        placed.epilogue.place = Some(Placement { shape: vec![len], access, elements: len + 3 });
        let all = eval(placed.clone(), &inputs);
        same(&all[3..], &expected, &placed);
        // Of its windows, nothing but their maxima is known.
        let mut wrong = p;
        wrong.epilogue.moments = true;
        assert!(bakelite_host::Problem::from(wrong).contract().is_err());
    }
}

#[test]
fn excite_is_a_mean_and_two_products() {
    let mut r = Random(12);
    for _ in 0..40 {
        let dtype = r.pick(&[DType::F32, DType::F64, DType::F16]);
        let [n, channels, hidden, filters] = [r.within(1, 3), r.within(1, 6), r.within(1, 5), r.within(1, 6)];
        // A power of two, so that means are exact.
        let pixels = 1 << r.below(4);
        let x = r.integers(dtype, n * pixels * channels);
        let (w1, w2) = (r.integers(dtype, hidden * channels), r.integers(dtype, filters * hidden));
        let (between, last) = (r.epilogue(dtype, &[n, hidden]), r.epilogue(dtype, &[n, filters]));
        if between.epilogue.out() != dtype {
            continue;
        }
        let (xs, a, b) = (x.f64(), w1.f64(), w2.f64());
        let mut sums = vec![0.0; n * hidden];
        for (i, sum) in sums.iter_mut().enumerate() {
            for (c, p) in (0..channels).flat_map(|c| (0..pixels).map(move |p| (c, p))) {
                let at = (i / hidden * pixels + p) * channels + c;
                *sum += xs[at] / pixels as f64 * a[i % hidden * channels + c];
            }
        }
        let h = Tensor::of(dtype, &between.apply(&sums)).f64();
        let outs: Vec<f64> = (0..n * filters)
            .map(|i| {
                (0..hidden).map(|j| h[i / filters * hidden + j] * b[i % filters * hidden + j]).sum::<f64>()
            })
            .collect();
        let p = Excite {
            n,
            pixels,
            channels,
            hidden,
            filters,
            dtype,
            first: between.epilogue.clone(),
            epilogue: last.epilogue.clone(),
        };
        let inputs: Vec<&Tensor> = between.inputs(&[&x, &w1, &w2]);
        let inputs = last.inputs(&inputs);
        same(&eval(p.clone(), &inputs), &last.apply(&outs), &p);
    }
}

#[test]
fn squeeze_is_its_parts() {
    let mut r = Random(21);
    for _ in 0..30 {
        let dtype = r.pick(&[DType::F32, DType::F64, DType::F16]);
        let [n, channels, hidden, filters] = [r.within(1, 3), r.within(1, 5), r.within(1, 4), r.within(1, 5)];
        let input = vec![r.within(3, 7), r.within(3, 6)];
        let output: Vec<usize> = input.iter().map(|i| (i - 1) / 2 + 1).collect();
        let out = [&[n][..], &output, &[channels]].concat();
        let (last, between, end) =
            (r.epilogue(dtype, &out), r.epilogue(dtype, &[n, hidden]), r.epilogue(dtype, &[n, filters]));
        if last.epilogue.out() != dtype || between.epilogue.out() != dtype {
            continue;
        }
        let x = r.integers(dtype, n * channels * input.iter().product::<usize>());
        let w = r.integers(dtype, channels * 9);
        let (w1, w2) = (r.integers(dtype, hidden * channels), r.integers(dtype, filters * hidden));
        let conv = Conv {
            n,
            channels,
            filters: channels,
            groups: channels,
            input,
            output: output.clone(),
            kernel: vec![3; 2],
            strides: vec![2; 2],
            dilations: vec![1; 2],
            pads: vec![1; 2],
            layout: Layout::ChannelsLast,
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            dtype,
            math: Math::Exact,
            epilogue: last.epilogue.clone(),
        };
        let pixels = output.iter().product();
        let (first, epilogue) = (between.epilogue.clone(), end.epilogue.clone());
        let excite = Excite { n, pixels, channels, hidden, filters, dtype, first, epilogue };
        let own = last.inputs(&[&x, &w]);
        let y = attempt(&conv.clone().into(), &own).unwrap().remove(0);
        let rest = between.inputs(&[&w1, &w2]);
        let rest = end.inputs(&rest);
        let s = attempt(&excite.clone().into(), &[&[&y][..], &rest].concat()).unwrap().remove(0);
        let p = Squeeze { conv: conv.into(), excite };
        let both = attempt(&p.clone().into(), &[own, rest].concat()).unwrap();
        same(&both[0].f64(), &y.f64(), &p);
        same(&both[1].f64(), &s.f64(), &p);
        // Parts that do not belong together.
        let mut wrong = p.clone();
        wrong.excite.pixels += 1;
        assert!(bakelite_host::Problem::from(wrong).contract().is_err());
        let mut wrong = p;
        wrong.conv.layout = Layout::ChannelsFirst;
        assert!(bakelite_host::Problem::from(wrong).contract().is_err());
    }
}

#[test]
fn conv_transpose_scatters_every_tap() {
    let mut r = Random(3);
    for _ in 0..150 {
        let dtype = r.pick(&TYPES);
        let rank = r.within(1, 3);
        let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
        let groups = r.pick(&[1, 1, 2, 3]);
        let (own, each, n) = (r.within(1, 3), r.within(1, 3), r.within(1, 2));
        let (channels, filters) = (groups * own, groups * each);
        let mut list =
            |low: usize, high: usize| -> Vec<usize> { (0..rank).map(|_| r.within(low, high)).collect() };
        let (input, kernel) = (list(1, 5), list(1, 3));
        let (strides, dilations, pads) = (list(1, 3), list(1, 2), list(0, 2));
        let more = list(0, 2);
        let output: Vec<usize> = (0..rank)
            .map(|d| {
                let end = (input[d] - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 + more[d];
                end.saturating_sub(2 * pads[d]).max(1)
            })
            .collect();
        let x = r.integers(dtype, n * channels * input.iter().product::<usize>());
        let taps: usize = kernel.iter().product();
        let w = r.integers(dtype, channels * each * taps);
        let (xs, ws) = (x.f64(), w.f64());
        let out = shape(layout, n, filters, &output);
        let finish = r.epilogue(dtype, &out);
        let mut acc = vec![0.0; out.iter().product()];
        for image in 0..n {
            for c in 0..channels {
                for at in indices(&input) {
                    for (t, tap) in indices(&kernel).iter().enumerate() {
                        let Some(q) = under(&at, tap, [&output, &strides, &dilations, &pads]) else {
                            continue;
                        };
                        for e in 0..each {
                            let o = c / own * each + e;
                            acc[place(layout, o, filters, &output, image, &q)] += xs
                                [place(layout, c, channels, &input, image, &at)]
                                * ws[(c * each + e) * taps + t];
                        }
                    }
                }
            }
        }
        if acc.iter().any(|v| v.abs() > 110.0) {
            continue;
        }
        let epilogue = finish.epilogue.clone();
        let p = ConvTranspose {
            n,
            channels,
            filters,
            groups,
            input,
            output,
            kernel,
            strides,
            dilations,
            pads,
            layout,
            dtype,
            epilogue,
        };
        same(&eval(p.clone(), &finish.inputs(&[&x, &w])), &finish.apply(&acc), &p);
    }
}
