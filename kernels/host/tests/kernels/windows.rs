//! Pool.

#![allow(clippy::unwrap_used)]

use crate::tensor::{Random, eval, indices, linear, near, same};
use bakelite_host::DType;
use bakelite_host::im2col::Window;
use bakelite_host::problem::{Layout, Pool, PoolKind};

#[test]
fn pools_fold_what_lies_inside() {
    let mut r = Random(21);
    for _ in 0..300 {
        let kind = r.pick(&[
            PoolKind::Max,
            PoolKind::Average { count_pads: true },
            PoolKind::Average { count_pads: false },
            PoolKind::Lp(1),
            PoolKind::Lp(2),
            PoolKind::Lp(3),
        ]);
        let whole = matches!(kind, PoolKind::Max | PoolKind::Lp(1));
        let dtype = if whole {
            r.pick(&[DType::F32, DType::F16, DType::I8, DType::U8, DType::I64])
        } else {
            r.pick(&[DType::F32, DType::F64])
        };
        let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
        let rank = r.within(1, 3);
        let (n, channels) = (r.within(1, 2), r.within(1, 5));
        let mut list =
            |low: usize, high: usize| -> Vec<usize> { (0..rank).map(|_| r.within(low, high)).collect() };
        let (input, kernel, strides, dilations) = (list(1, 8), list(1, 3), list(1, 3), list(1, 2));
        let (pads, pads_end, more) = (list(0, 1), list(0, 1), list(0, 1));
        let output: Vec<usize> = (0..rank)
            .map(|d| {
                let padded = input[d] + pads[d] + pads_end[d];
                padded.saturating_sub((kernel[d] - 1) * dilations[d] + 1) / strides[d]
                    + 1
                    + more[d] * (strides[d] - 1).min(1)
            })
            .collect();
        let x = r.integers(dtype, n * channels * input.iter().product::<usize>());
        let xs = x.f64();
        let (pixels, positions) = (input.iter().product::<usize>(), output.iter().product::<usize>());
        let place = |c: usize, size: usize, image: usize, at: usize| match layout {
            Layout::ChannelsFirst => (image * channels + c) * size + at,
            Layout::ChannelsLast => (image * size + at) * channels + c,
        };
        let mut shape = vec![n];
        shape.extend(&output);
        shape.insert(if layout == Layout::ChannelsFirst { 1 } else { shape.len() }, channels);
        let finish = r.epilogue(dtype, &shape);
        let mut acc = vec![0.0; n * channels * positions];
        let mut outside = false;
        for image in 0..n {
            for c in 0..channels {
                for (o, at) in indices(&output).iter().enumerate() {
                    let (mut values, mut divisor) = (vec![], 0);
                    for tap in indices(&kernel) {
                        let i: Vec<isize> = (0..rank)
                            .map(|d| (at[d] * strides[d] + tap[d] * dilations[d]) as isize - pads[d] as isize)
                            .collect();
                        let within = |before: usize, after: &dyn Fn(usize) -> usize| {
                            (0..rank).all(|d| {
                                let low = if before == 1 { -(pads[d] as isize) } else { 0 };
                                i[d] >= low && i[d] < (input[d] + after(d)) as isize
                            })
                        };
                        if within(0, &|_| 0) {
                            let i: Vec<usize> = i.iter().map(|i| *i as usize).collect();
                            values.push(xs[place(c, pixels, image, linear(&input, &i))]);
                        }
                        let counted = match kind {
                            PoolKind::Average { count_pads: true } => within(1, &|d| pads_end[d]),
                            _ => within(0, &|_| 0),
                        };
                        divisor += usize::from(counted);
                    }
                    outside |= values.is_empty();
                    let sum = |f: &dyn Fn(f64) -> f64| values.iter().map(|v| f(*v)).sum::<f64>();
                    acc[place(c, positions, image, o)] = match kind {
                        PoolKind::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                        PoolKind::Average { .. } => sum(&|v| v) / divisor as f64,
                        PoolKind::Lp(e) => sum(&|v| v.abs().powi(e as i32)).powf(1.0 / f64::from(e)),
                    };
                }
            }
        }
        // The maximum of nothing is the least of the accumulator's class, which integers cannot all store.
        if outside && dtype.is_int() {
            continue;
        }
        let epilogue = finish.epilogue.clone();
        let p = Pool {
            kind,
            n,
            channels,
            input,
            output,
            kernel,
            strides,
            dilations,
            pads,
            pads_end,
            layout,
            dtype,
            epilogue,
        };
        let (got, want) = (eval(p.clone(), &finish.inputs(&[&x])), finish.apply(&acc));
        if outside {
            // relu(NaN) is NaN on the host, while f64::max drops it.
            let finite = |v: &[f64]| v.iter().map(|v| if v.is_nan() { 0.0 } else { *v }).collect::<Vec<_>>();
            near(&finite(&got), &finite(&want), 1e-5, &p);
        } else if whole {
            same(&got, &want, &p);
        } else {
            near(&got, &want, 1e-5, &p);
        }
    }
}

#[test]
fn a_pool_larger_than_its_input_ends() {
    let p = Pool {
        kind: PoolKind::Max,
        n: 1,
        channels: 1,
        input: vec![3],
        output: vec![1],
        kernel: vec![1 << 40],
        strides: vec![1],
        dilations: vec![1],
        pads: vec![1],
        pads_end: vec![1 << 40],
        layout: Layout::ChannelsFirst,
        dtype: DType::F32,
        epilogue: bakelite_host::problem::Epilogue::store(DType::F32),
    };
    let x = crate::tensor::Tensor::of(DType::F32, &[1.0, 5.0, 2.0]);
    assert_eq!(eval(p, &[&x]), [5.0]);
}

/// Scratch is used again and again, so every element must be written, those outside the input too.
#[test]
fn gathers_overwrite_what_scratch_held() {
    let mut r = Random(22);
    for _ in 0..200 {
        let rank = r.within(1, 3);
        let mut list =
            |low: usize, high: usize| -> Vec<usize> { (0..rank).map(|_| r.within(low, high)).collect() };
        let window = Window {
            input: list(1, 6),
            output: list(1, 6),
            kernel: list(1, 3),
            strides: list(1, 3),
            dilations: list(1, 2),
            pads: list(0, 3),
        };
        let (elements, positions, taps) = (window.elements(), window.positions(), window.taps());
        let begin = r.below(positions);
        let range = begin..r.within(begin + 1, positions);
        let width = range.len();
        let (all, first, channels) = (3, 1, 2);
        // Element e of channel c, never zero.
        let value = |c: usize, e: usize| (c * elements + e + 1) as f32;
        let (outputs, kernel) = (indices(&window.output), indices(&window.kernel));
        let under = |position: usize, tap: usize, c: usize| {
            let at: Option<Vec<usize>> = (0..rank)
                .map(|d| {
                    (outputs[position][d] * window.strides[d] + kernel[tap][d] * window.dilations[d])
                        .checked_sub(window.pads[d])
                        .filter(|i| *i < window.input[d])
                })
                .collect();
            at.map_or(0.0, |at| value(c, linear(&window.input, &at)))
        };
        let x: Vec<f32> = (0..channels).flat_map(|c| (0..elements).map(move |e| value(c, e))).collect();
        for everyone in [false, true] {
            let mut col = vec![f32::NAN; channels * taps * width];
            window.gather_first(&x, range.clone(), &mut col, everyone);
            let want: Vec<f32> = indices(&[channels, taps, width])
                .iter()
                .map(|i| under(range.start + i[2], i[1], i[0]))
                .collect();
            assert_eq!(col, want, "{window:?} {range:?}");
        }
        let x: Vec<f32> = (0..elements).flat_map(|e| (0..all).map(move |c| value(c, e))).collect();
        let mut col = vec![f32::NAN; width * taps * channels];
        window.gather_last(&x, (all, first, channels), range.clone(), &mut col);
        let want: Vec<f32> = indices(&[width, taps, channels])
            .iter()
            .map(|i| under(range.start + i[0], i[1], first + i[2]))
            .collect();
        assert_eq!(col, want, "{window:?} {range:?}");
    }
}
