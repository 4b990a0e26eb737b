//! Problems whose results do not lie dense, for the tests of every family that stores through an epilogue: the samples of
//! those families again, the result's outer dimensions in the opposite order.

use crate::codegen::dense;
use crate::dim::{Dim, product};
use crate::families::{concat, conv_samples, gemm_mma_samples, pool, resize};
use bakelite_host::Problem;
use bakelite_host::problem::{Access, Layout, Placement};

/// Elements that stay together: what the compiler promises.
const NEIGHBOURS: i64 = 16;

fn output(problem: &Problem<Dim>) -> Option<Vec<Dim>> {
    let last = |n: &Dim, spatial: &[Dim], c: Dim, layout| {
        let shape = std::iter::once(n).chain(spatial).cloned().chain([c]);
        (layout == Layout::ChannelsLast).then(|| shape.collect())
    };
    match problem {
        Problem::Gemm(p) => Some(vec![p.batch.clone(), p.m.clone(), p.n.clone()]),
        Problem::Conv(p) if p.pooled.is_some() => p.pool().and_then(|pool| output(&pool.into())),
        Problem::Conv(p) => last(&p.n, &p.output, p.filters.into(), p.layout),
        Problem::Pool(p) => last(&p.n, &p.output, p.channels.clone(), p.layout),
        Problem::Resize(p) => Some(p.output.clone()),
        Problem::Concat(p) => {
            let len = p.lens.iter().fold(Dim::from(0), |sum, len| sum + len);
            Some(vec![p.outer.clone(), len, p.inner.clone()])
        }
        _ => None,
    }
}

fn placed(mut problem: Problem<Dim>) -> Option<Problem<Dim>> {
    let mut shape = output(&problem)?;
    let inner = shape.pop()?;
    inner.exact_div(&Dim::from(NEIGHBOURS))?;
    // A single outer dimension has no other order: its rows are cut.
    if let [rows] = shape.iter().filter(|d| !d.is(1)).cloned().collect::<Vec<_>>().as_slice()
        && let Some(half) = rows.exact_div(&Dim::from(2))
    {
        shape = vec![half, Dim::from(2)];
    }
    let reversed: Vec<Dim> = shape.iter().rev().cloned().chain([inner.clone()]).collect();
    let mut strides = dense(&reversed);
    let last = strides.pop()?;
    strides.reverse();
    strides.push(last);
    shape.push(inner);
    let elements = product(&shape);
    let access = Access { offset: Dim::from(0), strides };
    problem.epilogue_mut()?.place = Some(Placement { shape, access, elements });
    Some(problem)
}

/// Problems that the tests compile and run.
pub(super) fn samples() -> Vec<Problem<Dim>> {
    let all =
        [gemm_mma_samples::samples, conv_samples::conv, pool::samples, resize::samples, concat::samples];
    all.iter().flat_map(|samples| samples()).filter_map(placed).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_family_that_is_placed_has_a_sample() {
        let samples = super::samples();
        for name in ["gemm", "conv", "pool", "resize", "concat"] {
            assert!(samples.iter().any(|p| p.name() == name), "{name}");
        }
    }
}
