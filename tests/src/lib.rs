//! What the tests of whole graphs share: seeded inputs and the comparison of results.

use bakelite::execute::host::Session;
use bakelite::fuse::Regions;
use bakelite::ir::{Graph, Tensor, text::random};

/// Seeded inputs for a graph, its symbols at their optimum.
pub fn seeded_inputs(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let input = |(at, (_, id)): (usize, &(String, bakelite::ir::NodeId))| {
        let ty = graph.ty((*id).into());
        let shape = ty.shape.iter().map(|d| usize::try_from(d.opt(&graph.symbols)).unwrap_or(0)).collect();
        random(ty.dtype, shape, seed.wrapping_mul(1000).wrapping_add(at as u64))
    };
    graph.inputs.iter().enumerate().map(input).collect()
}

/// What the regions compute on the host, in the order of the graph's outputs.
pub fn run_regions(regions: Regions, inputs: &[Tensor]) -> bakelite::Result<Vec<Tensor>> {
    Session::new(bakelite::plan::build_host(regions)?)?.infer(inputs)
}

/// `Err` unless the tensors agree in type, and element by element within `tolerance` (absolute below 1, relative above; NaN
/// equals NaN; integers and bools exactly).
pub fn compare(expected: &[Tensor], got: &[Tensor], tolerance: f64) -> Result<(), String> {
    if expected.len() != got.len() {
        return Err(format!("{} results, expected {}", got.len(), expected.len()));
    }
    for (at, (e, g)) in expected.iter().zip(got).enumerate() {
        if e.dtype != g.dtype || e.shape != g.shape {
            return Err(format!("result {at} is {g:?}, expected {e:?}"));
        }
        if !e.dtype.is_float() {
            if e.bytes != g.bytes {
                return Err(format!("result {at} differs: {:?}, expected {:?}", g.to_i64(), e.to_i64()));
            }
            continue;
        }
        for (i, (e, g)) in e.to_f64().into_iter().zip(g.to_f64()).enumerate() {
            let same = e == g
                || e.is_nan() && g.is_nan()
                || (e - g).abs() <= tolerance * e.abs().max(1.0)
                || tolerance.is_infinite();
            if !same {
                return Err(format!("element {i} of result {at} is {g}, expected {e} within {tolerance}"));
            }
        }
    }
    Ok(())
}
