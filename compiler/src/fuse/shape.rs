//! The shape that a problem's epilogue is written over, its output but where that is pooled, as the problem's doc gives it.

use bakelite_host::problem::Layout;
use bakelite_kernels::{Dim, Problem};

/// Shape of the result of a problem that takes an epilogue.
pub(crate) fn of_result(problem: &Problem<Dim>) -> Option<Vec<Dim>> {
    match problem {
        Problem::Conv(p) => p.pool().map_or_else(|| of_output(problem), |pool| of_output(&pool.into())),
        _ => of_output(problem),
    }
}

/// Shape of what the epilogue of a problem that takes one makes.
pub(crate) fn of_output(problem: &Problem<Dim>) -> Option<Vec<Dim>> {
    let channels = |n: &Dim, c: Dim, spatial: &[Dim], layout: Layout| {
        let (n, c) = (std::iter::once(n.clone()), std::iter::once(c));
        let spatial = spatial.iter().cloned();
        match layout {
            Layout::ChannelsFirst => n.chain(c).chain(spatial).collect(),
            Layout::ChannelsLast => n.chain(spatial).chain(c).collect(),
        }
    };
    let three = |a: &Dim, b: &Dim, c: &Dim| vec![a.clone(), b.clone(), c.clone()];
    Some(match problem {
        Problem::Gemm(p) => three(&p.batch, &p.m, &p.n),
        Problem::Conv(p) => channels(&p.n, Dim::from(p.filters), &p.output, p.layout),
        Problem::ConvTranspose(p) => channels(&p.n, Dim::from(p.filters), &p.output, p.layout),
        Problem::Pool(p) => channels(&p.n, p.channels.clone(), &p.output, p.layout),
        Problem::Reduce(p) => {
            p.shape.iter().zip(&p.reduced).filter(|(_, r)| !**r).map(|(d, _)| d.clone()).collect()
        }
        Problem::Excite(p) => vec![p.n.clone(), Dim::from(p.filters)],
        Problem::Softmax(p) => three(&p.outer, &p.len, &p.inner),
        Problem::LayerNorm(p) => vec![p.rows.clone(), p.len.clone()],
        Problem::GroupNorm(p) => {
            channels(&p.n, Dim::from(p.channels), std::slice::from_ref(&p.spatial), p.layout)
        }
        Problem::Lrn(p) => three(&p.n, &Dim::from(p.channels), &p.spatial),
        Problem::Concat(p) => {
            three(&p.outer, &p.lens.iter().fold(Dim::from(0), |sum, len| sum + len), &p.inner)
        }
        Problem::Gather(p) => three(&p.outer, &p.count, &p.inner),
        Problem::Resize(p) => p.output.clone(),
        _ => return None,
    })
}
