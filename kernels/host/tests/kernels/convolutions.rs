//! Conv, ConvTranspose.

#![allow(clippy::unwrap_used)]

use crate::products::TYPES;
use crate::tensor::{Random, Tensor, eval, indices, linear, same};
use bakelite_host::DType;
use bakelite_host::problem::{Access, Conv, ConvTranspose, Epilogue, Layout, Math};

/// Position in a tensor with channels first or last.
fn place(layout: Layout, c: usize, channels: usize, spatial: &[usize], n: usize, at: &[usize]) -> usize {
    let pixels: usize = spatial.iter().product();
    match layout {
        Layout::ChannelsFirst => (n * channels + c) * pixels + linear(spatial, at),
        Layout::ChannelsLast => (n * pixels + linear(spatial, at)) * channels + c,
    }
}

pub(crate) fn shape(layout: Layout, n: usize, channels: usize, spatial: &[usize]) -> Vec<usize> {
    let mut shape = vec![n];
    shape.extend(spatial);
    shape.insert(if layout == Layout::ChannelsFirst { 1 } else { shape.len() }, channels);
    shape
}

/// A convolution of two dimensions in one group, by stride 1, with half a kernel of zeros around its pixels; nothing else with it.
pub(crate) fn plain(
    dtype: DType,
    layout: Layout,
    (n, channels, filters): (usize, usize, usize),
    side: &[usize],
    kernel: usize,
) -> Conv<usize> {
    Conv {
        n,
        channels,
        filters,
        groups: 1,
        input: side.to_vec(),
        output: side.to_vec(),
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
    }
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
    let plain = plain(dtype, layout, (n, channels, filters), &input, 1);
    let p = Conv { groups, output, kernel, strides, dilations, pads, epilogue, ..plain };
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
        let p = Conv { groups, ..plain(DType::F32, layout, (1, channels, filters), &side, 3) };
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
        let plain = Conv { groups, ..plain(dtype, layout, (n, channels, groups * 2), &side, kernel) };
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
        let plain = plain(dtype, layout, (n, channels, 2), &side, kernel);
        let expected = eval(plain.clone(), &[&Tensor::of(dtype, &dense), &w]);
        let strided = Conv { x: Some((from, Access { offset: 3, strides })), ..plain };
        same(&eval(strided.clone(), &[&memory, &w]), &expected, &strided);
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
