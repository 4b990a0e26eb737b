//! Convolutions with what is in front of them, beside them and behind them; Excite and Squeeze.

#![allow(clippy::unwrap_used)]

use crate::convolutions::{plain, shape};
use crate::tensor::{Random, Tensor, attempt, eval, same};
use bakelite_host::DType;
use bakelite_host::problem::{
    Access, Added, Conv, Epilogue, Excite, Expand, Layout, Placement, Pool, PoolKind, Pooled, Squeeze,
};

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
        let first = plain(dtype, layout, (n, groups * own, filters), &side, kernel);
        let first = Conv { groups, scaled, ..first };
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
        let [between, last] = [&input, &output].map(|p| r.epilogue(dtype, &shape(layout, n, channels, p)));
        if between.epilogue.out() != dtype {
            continue;
        }
        let x = r.integers(dtype, n * own * input.iter().product::<usize>());
        let (first, w) = (
            r.integers(dtype, channels * own),
            r.integers(dtype, channels * (channels / groups) * kernel * kernel),
        );
        let plain = Conv {
            groups,
            output,
            strides: vec![2; 2],
            pads: vec![pad; 2],
            epilogue: last.epilogue.clone(),
            ..plain(dtype, layout, (n, channels, channels), &input, kernel)
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
        let last = r.epilogue(dtype, &shape(layout, n, filters, &side));
        let out = last.epilogue.out();
        if out == DType::Bool || last.epilogue.place.is_some() {
            continue;
        }
        let x = r.integers(dtype, n * channels * side[0] * side[1]);
        let w = r.integers(dtype, filters * channels * 9);
        let plain = plain(dtype, layout, (n, channels, filters), &side, 3);
        let plain = Conv { epilogue: last.epilogue.clone(), ..plain };
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
        let dense = shape(layout, n, filters, &output);
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
        let out = shape(Layout::ChannelsLast, n, channels, &output);
        let (last, between, end) =
            (r.epilogue(dtype, &out), r.epilogue(dtype, &[n, hidden]), r.epilogue(dtype, &[n, filters]));
        if last.epilogue.out() != dtype || between.epilogue.out() != dtype {
            continue;
        }
        let x = r.integers(dtype, n * channels * input.iter().product::<usize>());
        let w = r.integers(dtype, channels * 9);
        let (w1, w2) = (r.integers(dtype, hidden * channels), r.integers(dtype, filters * hidden));
        let conv = Conv {
            groups: channels,
            output: output.clone(),
            strides: vec![2; 2],
            epilogue: last.epilogue.clone(),
            ..plain(dtype, Layout::ChannelsLast, (n, channels, channels), &input, 3)
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
