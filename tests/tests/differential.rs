//! Random small graphs: what they compute before and after the passes, and in regions, is the same, nothing panics, and the
//! verifier (which runs after every pass) finds nothing.

#![allow(clippy::unwrap_used)]

use bakelite::fuse;
use bakelite::ir::{Graph, Type, Value, text::random};
use bakelite::ops::eval::evaluate;
use bakelite::ops::{
    Apply, Broadcast, Concat, Conv, MatMul, Pad, Pool, Reduce, Reshape, Slice, Softmax, Transpose,
};
use bakelite::passes::{self, Options, Precision, TargetKind};
use bakelite_host::problem::{Layout, Math, PadMode, PoolKind, ReduceKind};
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;
use bakelite_tests::{compare, run_regions, seeded_inputs};
use proptest::prelude::*;

// A choice for each step: which operator, on which earlier values, with which variant.
type Step = (u8, usize, usize, u64);

const UNARY: [Pw; 6] = [Pw::Relu, Pw::Sigmoid, Pw::Tanh, Pw::Neg, Pw::Abs, Pw::Silu];
const BINARY: [Pw; 5] = [Pw::Add, Pw::Sub, Pw::Mul, Pw::Max, Pw::Min];

fn permutation(rank: usize, mut variant: u64) -> Vec<usize> {
    let mut perm: Vec<usize> = (0..rank).collect();
    for d in (1..rank).rev() {
        perm.swap(d, (variant % (d as u64 + 1)) as usize);
        variant /= d as u64 + 1;
    }
    perm
}

// A step that does not fit its operands adds nothing.
fn grow(graph: &mut Graph, values: &[Value], (kind, a, b, variant): Step) -> Option<Value> {
    // Mostly recent values, so that chains grow long.
    let recent = values.len().min(3);
    let (a, b) = (values[values.len() - 1 - a % recent], values[b % values.len()]);
    let ty = graph.ty(a).clone();
    let dims = ty.dims()?;
    let rank = dims.len();
    let pick = |n: usize| (variant % n as u64) as usize;
    let added = match kind % 14 {
        0 => graph.add(Apply { op: UNARY[pick(UNARY.len())] }, &[a], ""),
        1 => graph.add(Apply { op: BINARY[pick(BINARY.len())] }, &[a, b], ""),
        2 => {
            // A constant along one dimension.
            let mut shape = vec![1; rank];
            if rank > 0 {
                let d = pick(rank);
                shape[d] = dims[d];
            }
            let constant = graph.constant(random(DType::F32, shape, variant), "c");
            graph.add(Apply { op: BINARY[(variant / 7 % 5) as usize] }, &[a, constant], "")
        }
        3 => {
            let number = [0.0, 1.0, 2.0, 0.5, 3.0][pick(5)];
            let constant = graph.constant(bakelite::ir::Tensor::scalar(DType::F32, number), "n");
            graph.add(Apply { op: BINARY[(variant / 5 % 3) as usize] }, &[a, constant], "")
        }
        4 => graph.add(Transpose { perm: permutation(rank, variant) }, &[a], ""),
        5 => {
            // Two neighbouring dimensions joined, or one split.
            let mut shape: Vec<Dim> = ty.shape.clone();
            let d = pick(rank.max(1));
            if variant & 64 == 0 && d + 1 < rank {
                shape[d] = &shape[d] * &shape[d + 1];
                shape.remove(d + 1);
            } else if d < rank && rank < 6 && dims[d] % 2 == 0 {
                shape[d] = Dim::from(dims[d] / 2);
                shape.insert(d, Dim::from(2));
            }
            graph.add(Reshape { shape }, &[a], "")
        }
        6 => {
            let axes: Vec<usize> = (0..rank).filter(|d| variant >> d & 1 == 1).collect();
            let kind = [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max][(variant / 64 % 3) as usize];
            graph.add(Reduce { kind, axes, keepdims: variant & 1024 == 0 }, &[a], "")
        }
        7 => {
            let k = *dims.last()?;
            let weight = graph.constant(random(DType::F32, vec![k, 1 + pick(5)], variant), "w");
            graph.add(MatMul::PLAIN, &[a, weight], "")
        }
        8 => graph.add(MatMul { trans_b: variant & 1 == 1, ..MatMul::PLAIN }, &[a, b], ""),
        9 if rank == 4 => {
            let kernel = 1 + 2 * pick(2);
            let weight =
                graph.constant(random(DType::F32, vec![2 + pick(3), dims[1], kernel, kernel], variant), "k");
            let spatial = |n: usize| vec![n; 2];
            let conv = Conv {
                strides: spatial(1 + (variant / 2 % 2) as usize),
                dilations: spatial(1),
                pads: spatial(kernel / 2),
                pads_end: spatial(kernel / 2),
                groups: 1,
                layout: Layout::ChannelsFirst,
                math: Math::Exact,
            };
            graph.add(conv, &[a, weight], "")
        }
        10 if rank == 4 => {
            let kind = [
                PoolKind::Max,
                PoolKind::Average { count_pads: false },
                PoolKind::Average { count_pads: true },
            ];
            let pool = Pool {
                kind: kind[pick(3)],
                kernel: vec![2, 2],
                strides: vec![1 + (variant / 4 % 2) as usize; 2],
                dilations: vec![1, 1],
                pads: vec![(variant / 8 % 2) as usize; 2],
                pads_end: vec![(variant / 16 % 2) as usize; 2],
                ceil: false,
                layout: Layout::ChannelsFirst,
            };
            graph.add(pool, &[a], "")
        }
        11 if rank > 0 => graph.add(Softmax { axis: pick(rank), log: variant & 256 == 0 }, &[a], ""),
        12 if rank > 0 => {
            let d = pick(rank);
            let mut shape = ty.shape.clone();
            let mut starts = vec![Dim::from(0); rank];
            let start = (variant / 8) as usize % dims[d].max(1);
            (starts[d], shape[d]) = (Dim::from(start), Dim::from(dims[d] - start));
            graph.add(Slice { starts, steps: vec![1; rank], shape }, &[a], "")
        }
        13 if rank > 0 => match variant & 3 {
            0 => graph.add(Concat { axis: (variant / 4) as usize % rank }, &[a, b], ""),
            1 => {
                let zero = graph.constant(bakelite::ir::Tensor::scalar(DType::F32, 0.0), "zero");
                let begin = (0..rank).map(|d| (variant >> (4 + d) & 1) as i64).collect();
                graph.add(Pad { mode: PadMode::Constant, begin, end: vec![1; rank] }, &[a, zero], "")
            }
            _ => {
                let mut shape = ty.shape.clone();
                shape.insert(0, Dim::from(2));
                graph.add(Broadcast { shape }, &[a], "")
            }
        },
        _ => return None,
    };
    let value: Value = added.ok()?.into();
    // Small graphs on small tensors: their number is what finds bugs.
    let count = graph.ty(value).dims()?.iter().product::<usize>();
    (count > 0 && count <= 4096 && graph.ty(value).rank() <= 6).then_some(value)
}

fn build(steps: &[Step]) -> Graph {
    let mut graph = Graph::new("random");
    let mut values = vec![
        graph.input("image", Type::new(DType::F32, &[2i64, 4, 5, 5])),
        graph.input("rows", Type::new(DType::F32, &[3i64, 4])),
    ];
    for step in steps {
        if let Some(value) = grow(&mut graph, &values, *step) {
            values.push(value);
        }
    }
    let last = values.len() - 1;
    graph.outputs.push(("last".into(), values[last]));
    graph.outputs.push(("middle".into(), values[last / 2]));
    graph.remove_dead();
    graph
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pipeline_keeps_the_function(
        steps in prop::collection::vec((any::<u8>(), any::<usize>(), any::<usize>(), any::<u64>()), 1..24),
        precision in prop::sample::select(vec![Precision::Fp32, Precision::Fp32, Precision::Tf32, Precision::Tf32x3, Precision::Fp16, Precision::Bf16]),
    ) {
        let graph = build(&steps);
        let inputs = seeded_inputs(&graph, 3);
        // Products grow; a graph that overflows says nothing.
        let expected = evaluate(&graph, &inputs).unwrap();
        prop_assume!(expected.iter().all(|t| t.to_f64().iter().all(|v| v.abs() < 1e6)));
        let text = graph.to_string();
        let options = Options { precision, target: TargetKind::Cuda, ..Options::default() };
        let after = passes::run(graph, &options, &mut ()).unwrap();
        let got = evaluate(&after, &inputs).unwrap();
        // Sums of products cancel: what a narrow type rounds away has no bound here, but types and shapes do.
        let tolerance = match precision {
            Precision::Fp32 | Precision::Tf32x3 => 2e-3,
            Precision::Tf32 => 1e-1,
            Precision::Fp16 | Precision::Bf16 => f64::INFINITY,
        };
        if let Err(e) = compare(&expected, &got, tolerance) {
            return Err(TestCaseError::fail(format!("{e}\n{text}\n{after}")));
        }
        let fail = |e: bakelite::Error| TestCaseError::fail(format!("{e}\n{text}\n{after}"));
        let regions = fuse::regions(after.clone()).map_err(fail)?;
        let placed = fuse::place::place(regions.clone(), 1).map_err(fail)?;
        for regions in [regions, placed] {
            let fused = regions.to_string();
            let results = run_regions(regions, &inputs).map_err(fail)?;
            if let Err(e) = compare(&expected, &results, tolerance) {
                return Err(TestCaseError::fail(format!("{e}\n{text}\n{after}\n{fused}")));
            }
        }
    }
}
