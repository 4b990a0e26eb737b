//! What works along one or some dimensions: reductions, softmax, norms, sums and orders.

#![allow(clippy::unwrap_used)]

use crate::tensor::{Random, Tensor, attempt, eval, indices, linear, near, same};
use bakelite_host::DType;
use bakelite_host::problem::*;

const KINDS: [ReduceKind; 10] = [
    ReduceKind::Sum,
    ReduceKind::Mean,
    ReduceKind::Max,
    ReduceKind::Min,
    ReduceKind::Prod,
    ReduceKind::SumSquare,
    ReduceKind::L1,
    ReduceKind::L2,
    ReduceKind::LogSum,
    ReduceKind::LogSumExp,
];

fn fold(kind: ReduceKind, v: &[f64]) -> f64 {
    let n = v.len() as f64;
    let sum = |f: &dyn Fn(f64) -> f64| v.iter().map(|v| f(*v)).sum::<f64>();
    match kind {
        ReduceKind::Sum => sum(&|v| v),
        ReduceKind::Mean => sum(&|v| v) / n,
        ReduceKind::Max | ReduceKind::Any => v.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ReduceKind::Min | ReduceKind::All => v.iter().copied().fold(f64::INFINITY, f64::min),
        ReduceKind::Prod => v.iter().product(),
        ReduceKind::SumSquare => sum(&|v| v * v),
        ReduceKind::L1 => sum(&f64::abs),
        ReduceKind::L2 => sum(&|v| v * v).sqrt(),
        ReduceKind::LogSum => sum(&|v| v).ln(),
        ReduceKind::LogSumExp => sum(&f64::exp).ln(),
    }
}

fn reduced(shape: &[usize], flags: &[bool], x: &[f64], f: impl Fn(&[f64]) -> f64) -> (Vec<usize>, Vec<f64>) {
    let keep =
        |v: &[usize]| -> Vec<usize> { v.iter().zip(flags).filter(|(_, r)| !**r).map(|(v, _)| *v).collect() };
    let kept = keep(shape);
    let mut parts = vec![vec![]; kept.iter().product()];
    for i in indices(shape) {
        parts[linear(&kept, &keep(&i))].push(x[linear(shape, &i)]);
    }
    (kept, parts.iter().map(|p| f(p)).collect())
}

#[test]
fn reductions_over_any_dimensions() {
    let mut r = Random(31);
    for case in 0..300 {
        let kind = r.pick(&KINDS);
        let rank = r.below(5);
        let mut shape: Vec<usize> = (0..rank).map(|_| r.within(1, 6)).collect();
        if case % 20 == 0 && rank > 0 {
            shape[r.below(rank)] = 5000;
        }
        let flags: Vec<bool> = (0..rank).map(|_| r.flip()).collect();
        let whole =
            !matches!(kind, ReduceKind::Mean | ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp);
        let exact = whole && kind != ReduceKind::Prod;
        let dtype = if exact {
            r.pick(&[DType::F32, DType::F64, DType::I32, DType::I64])
        } else {
            r.pick(&[DType::F32, DType::F64])
        };
        let total = shape.iter().product();
        let x = if exact { r.integers(dtype, total) } else { r.reals(dtype, total) };
        let (kept, acc) = reduced(&shape, &flags, &x.f64(), |v| fold(kind, v));
        let finish = if exact { r.epilogue(dtype, &kept) } else { Random(0).epilogue(dtype, &kept) };
        let p = Reduce { kind, shape, reduced: flags, dtype, epilogue: finish.epilogue.clone() };
        let got = eval(p.clone(), &finish.inputs(&[&x]));
        if kind == ReduceKind::LogSum {
            // The logarithm of a negative or tiny sum is NaN or ill-conditioned: compare sums.
            let sums =
                |v: &[f64]| v.iter().map(|v| if v.is_nan() { 0.0 } else { v.exp() }).collect::<Vec<_>>();
            if finish.operands.is_empty() {
                near(&sums(&got), &sums(&acc), 1e-3, &p);
            }
        } else {
            near(&got, &finish.apply(&acc), if exact { 0.0 } else { 1e-4 }, &p);
        }
    }
}

#[test]
fn reductions_of_nothing_and_of_infinities() {
    let p = |kind, dtype, len| Reduce {
        kind,
        shape: vec![len],
        reduced: vec![true],
        dtype,
        epilogue: Epilogue::store(dtype),
    };
    let none = Tensor::zeros(DType::F32, 0);
    let inf = f64::INFINITY;
    for (kind, want) in [
        (ReduceKind::Sum, 0.0),
        (ReduceKind::Mean, f64::NAN),
        (ReduceKind::Max, -inf),
        (ReduceKind::Min, inf),
        (ReduceKind::Prod, 1.0),
        (ReduceKind::LogSumExp, -inf),
    ] {
        same(&eval(p(kind, DType::F32, 0), &[&none]), &[want], &kind);
    }
    let none = Tensor::zeros(DType::Bool, 0);
    same(&eval(p(ReduceKind::Any, DType::Bool, 0), &[&none]), &[0.0], &"any");
    same(&eval(p(ReduceKind::All, DType::Bool, 0), &[&none]), &[1.0], &"all");
    let x = Tensor::of(DType::F32, &[1.0, inf]);
    same(&eval(p(ReduceKind::LogSumExp, DType::F32, 2), &[&x]), &[inf], &"inf");
    let x = Tensor::of(DType::F32, &[-inf, -inf]);
    same(&eval(p(ReduceKind::LogSumExp, DType::F32, 2), &[&x]), &[-inf], &"-inf");
    let x = Tensor::of(DType::F32, &[1000.0, 1000.0]);
    near(&eval(p(ReduceKind::LogSumExp, DType::F32, 2), &[&x]), &[1000.0 + 2f64.ln()], 1e-6, &"large");
    let x = Tensor::of(DType::F32, &[1.0, f64::NAN, 2.0]);
    same(&eval(p(ReduceKind::Max, DType::F32, 3), &[&x]), &[f64::NAN], &"NaN");
}

#[test]
fn any_and_all() {
    let mut r = Random(32);
    for kind in [ReduceKind::Any, ReduceKind::All] {
        let shape = vec![3, 4, 5];
        let x = r.integers(DType::Bool, 60);
        let flags = vec![false, true, false];
        let (_, want) = reduced(&shape, &flags, &x.f64(), |v| fold(kind, v));
        let p = Reduce {
            kind,
            shape,
            reduced: flags,
            dtype: DType::Bool,
            epilogue: Epilogue::store(DType::Bool),
        };
        same(&eval(p, &[&x]), &want, &kind);
    }
}

/// The middle of `[outer, len, inner]` at (o, i).
fn middle(x: &[f64], [_, len, inner]: [usize; 3], o: usize, i: usize) -> Vec<f64> {
    (0..len).map(|j| x[(o * len + j) * inner + i]).collect()
}

/// Applies f along the middle dimension; every result has `out` elements.
fn along(x: &[f64], shape: [usize; 3], out: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let [outer, _, inner] = shape;
    let mut y = vec![0.0; outer * out * inner];
    for o in 0..outer {
        for i in 0..inner {
            for (j, v) in f(&middle(x, shape, o, i)).into_iter().enumerate() {
                y[(o * out + j) * inner + i] = v;
            }
        }
    }
    y
}

fn slab(r: &mut Random) -> [usize; 3] {
    [r.within(1, 5), r.within(1, 40), r.pick(&[1, 1, 3, 70])]
}

#[test]
fn softmax_sums_to_one() {
    let mut r = Random(33);
    for _ in 0..60 {
        let shape = slab(&mut r);
        let [outer, len, inner] = shape;
        let dtype = r.pick(&[DType::F32, DType::F64, DType::F16]);
        let log = r.flip();
        let x = r.reals(dtype, outer * len * inner);
        let finish = r.epilogue(dtype, &shape);
        let acc = along(&x.f64(), shape, len, |v| {
            let sum: f64 = v.iter().map(|v| v.exp()).sum();
            v.iter().map(|v| if log { v - sum.ln() } else { v.exp() / sum }).collect()
        });
        let p = Softmax { log, outer, len, inner, dtype, epilogue: finish.epilogue.clone() };
        let tolerance = if dtype == DType::F16 { 2e-3 } else { 1e-5 };
        near(&eval(p.clone(), &finish.inputs(&[&x])), &finish.apply(&acc), tolerance, &p);
    }
    // Large values neither overflow nor vanish.
    let x = Tensor::of(DType::F32, &[1e4, 1e4, -1e4]);
    let p = Softmax {
        log: false,
        outer: 1,
        len: 3,
        inner: 1,
        dtype: DType::F32,
        epilogue: Epilogue::store(DType::F32),
    };
    same(&eval(p, &[&x]), &[0.5, 0.5, 0.0], &"large");
}

#[test]
fn norms_have_mean_zero_and_variance_one() {
    let mut r = Random(34);
    for _ in 0..60 {
        let (rows, len) = (r.within(1, 6), r.within(1, 90));
        let dtype = r.pick(&[DType::F32, DType::F64, DType::BF16]);
        let (rms, bias) = (r.flip(), r.flip());
        let [x, s, b] = [rows * len, len, len].map(|n| r.reals(dtype, n));
        let (sv, bv) = (s.f64(), b.f64());
        let finish = r.epilogue(dtype, &[rows, len]);
        let acc = along(&x.f64(), [rows, len, 1], len, |v| {
            let n = len as f64;
            let mean = if rms { 0.0 } else { v.iter().sum::<f64>() / n };
            let var = v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let offset = |i: usize| if bias { bv[i] } else { 0.0 };
            (0..len).map(|i| (v[i] - mean) / (var + f64::from(0.01f32)).sqrt() * sv[i] + offset(i)).collect()
        });
        let p = LayerNorm { rms, rows, len, epsilon: 0.01, bias, dtype, epilogue: finish.epilogue.clone() };
        let own: Vec<&Tensor> = [&x, &s].into_iter().chain(bias.then_some(&b)).collect();
        let tolerance = if dtype == DType::BF16 { 1e-2 } else { 2e-5 };
        near(&eval(p.clone(), &finish.inputs(&own)), &finish.apply(&acc), tolerance, &p);
    }
}

#[test]
fn group_norm_in_both_layouts() {
    let mut r = Random(35);
    for _ in 0..60 {
        let (n, groups, own, spatial) = (r.within(1, 3), r.within(1, 4), r.within(1, 3), r.within(1, 30));
        let channels = groups * own;
        let dtype = r.pick(&[DType::F32, DType::F64]);
        let layout = r.pick(&[Layout::ChannelsFirst, Layout::ChannelsLast]);
        let [x, s, b] = [n * channels * spatial, channels, channels].map(|n| r.reals(dtype, n));
        let (xs, sv, bv) = (x.f64(), s.f64(), b.f64());
        let place = |i: usize, c: usize, q: usize| match layout {
            Layout::ChannelsFirst => (i * channels + c) * spatial + q,
            Layout::ChannelsLast => (i * spatial + q) * channels + c,
        };
        let mut acc = vec![0.0; xs.len()];
        for (i, g) in indices(&[n, groups]).iter().map(|v| (v[0], v[1])) {
            let at: Vec<(usize, usize)> = (0..own)
                .flat_map(|c| (0..spatial).map(move |q| (g * own + c, q)))
                .map(|(c, q)| (c, place(i, c, q)))
                .collect();
            let count = at.len() as f64;
            let mean = at.iter().map(|(_, p)| xs[*p]).sum::<f64>() / count;
            let var = at.iter().map(|(_, p)| (xs[*p] - mean).powi(2)).sum::<f64>() / count;
            for (c, p) in at {
                acc[p] = (xs[p] - mean) / (var + f64::from(1e-3f32)).sqrt() * sv[c] + bv[c];
            }
        }
        let shape = match layout {
            Layout::ChannelsFirst => [n, channels, spatial],
            Layout::ChannelsLast => [n, spatial, channels],
        };
        let finish = r.epilogue(dtype, &shape);
        let epilogue = finish.epilogue.clone();
        let p = GroupNorm { n, channels, groups, spatial, epsilon: 1e-3, layout, dtype, epilogue };
        near(&eval(p.clone(), &finish.inputs(&[&x, &s, &b])), &finish.apply(&acc), 2e-5, &p);
    }
}

#[test]
fn lrn_looks_at_neighbouring_channels() {
    let mut r = Random(36);
    for _ in 0..40 {
        let [n, channels, spatial] = [r.within(1, 2), r.within(1, 7), r.within(1, 9)];
        let size = r.within(1, 6);
        let x = r.reals(DType::F32, n * channels * spatial);
        let acc = along(&x.f64(), [n, channels, spatial], channels, |v| {
            (0..channels as isize)
                .map(|c| {
                    let low = c - (size as isize - 1) / 2;
                    let sum: f64 = (low..low + size as isize)
                        .filter_map(|j| usize::try_from(j).ok().and_then(|j| v.get(j)))
                        .map(|v| v * v)
                        .sum();
                    v[c as usize] / (1.5 + 0.3 / size as f64 * sum).powf(0.75)
                })
                .collect()
        });
        let finish = r.epilogue(DType::F32, &[n, channels, spatial]);
        let epilogue = finish.epilogue.clone();
        let p = Lrn {
            n,
            channels,
            spatial,
            size,
            alpha: 0.3,
            beta: 0.75,
            bias: 1.5,
            dtype: DType::F32,
            epilogue,
        };
        near(&eval(p.clone(), &finish.inputs(&[&x])), &finish.apply(&acc), 1e-5, &p);
    }
}

#[test]
fn running_sums() {
    let mut r = Random(37);
    for _ in 0..60 {
        let shape = slab(&mut r);
        let [outer, len, inner] = shape;
        let dtype = r.pick(&[DType::F32, DType::F64, DType::I32, DType::U64, DType::F16]);
        let (exclusive, reverse) = (r.flip(), r.flip());
        let x = r.integers(dtype, outer * len * inner);
        let want = along(&x.f64(), shape, len, |v| {
            (0..len)
                .map(|j| match (exclusive, reverse) {
                    (false, false) => v[..=j].iter().sum(),
                    (true, false) => v[..j].iter().sum(),
                    (false, true) => v[j..].iter().sum(),
                    (true, true) => v[j + 1..].iter().sum(),
                })
                .map(|v: f64| v + 0.0)
                .collect()
        });
        let p = CumSum { outer, len, inner, exclusive, reverse, dtype };
        same(&eval(p.clone(), &[&x]), &want, &p);
    }
}

#[test]
fn orders_and_their_ties() {
    let mut r = Random(38);
    for _ in 0..100 {
        let shape = slab(&mut r);
        let [outer, len, inner] = shape;
        // Five values among forty elements: ties everywhere.
        let dtype = r.pick(&DType::ALL[..12]);
        let x = r.integers(dtype, outer * len * inner);
        let (max, last) = (r.flip(), r.flip());
        let want = along(&x.f64(), shape, 1, |v| {
            let best = v.iter().copied().fold(v[0], |a, b| if max { a.max(b) } else { a.min(b) });
            let found =
                if last { v.iter().rposition(|v| *v == best) } else { v.iter().position(|v| *v == best) };
            vec![found.unwrap() as f64]
        });
        let p = ArgReduce { max, last, outer, len, inner, dtype };
        same(&eval(p.clone(), &[&x]), &want, &p);

        let k = r.within(0, len);
        let sorted = |v: &[f64]| {
            let mut order: Vec<usize> = (0..len).collect();
            order.sort_by(|a, b| if max { v[*b].total_cmp(&v[*a]) } else { v[*a].total_cmp(&v[*b]) });
            order.truncate(k);
            order
        };
        let p = TopK { outer, len, inner, k, largest: max, dtype };
        let out = attempt(&p.clone().into(), &[&x]).unwrap();
        let values = along(&x.f64(), shape, k, |v| sorted(v).iter().map(|j| v[*j]).collect());
        let places = along(&x.f64(), shape, k, |v| sorted(v).iter().map(|j| *j as f64).collect());
        same(&out[0].f64(), &values, &p);
        same(&out[1].f64(), &places, &p);
    }
}

#[test]
fn nan_is_the_most_extreme() {
    let x = Tensor::of(DType::F32, &[1.0, f64::NAN, 3.0, f64::NAN]);
    let arg = |max, last| ArgReduce { max, last, outer: 1, len: 4, inner: 1, dtype: DType::F32 };
    for max in [true, false] {
        assert_eq!(eval(arg(max, false), &[&x]), [1.0]);
        assert_eq!(eval(arg(max, true), &[&x]), [3.0]);
    }
    let p = TopK { outer: 1, len: 4, inner: 1, k: 3, largest: true, dtype: DType::F32 };
    let out = attempt(&p.into(), &[&x]).unwrap();
    assert_eq!(out[1].f64(), [1.0, 3.0, 2.0]);
}

/// 2^63 and above are negative as i64; an order must still be that of u64.
#[test]
fn orders_of_u64_are_unsigned() {
    let x = Tensor::of(DType::U64, &[1.0, 1e19, 5.0]);
    let p = ArgReduce { max: true, last: false, outer: 1, len: 3, inner: 1, dtype: DType::U64 };
    assert_eq!(eval(p, &[&x]), [1.0]);
}
