//! Running a plan in this process: for `bakelite run` and `bakelite bench`, and as the oracle of tests. Generated crates do
//! the same with literals in the place of the plan.

#[cfg(feature = "cuda")]
pub mod gpu;
pub mod host;
pub mod kernels;

use crate::error::{Error, Result, Stage};
use crate::ir::Tensor;
use crate::plan::{Plan, Port};
use bakelite_kernels::Dim;
use std::collections::BTreeMap;

/// The value of each symbol.
pub type Sizes = BTreeMap<String, i64>;

/// The value of a size.
pub fn value(dim: &Dim, sizes: &Sizes) -> i64 {
    dim.eval(&|s| sizes.get(s).copied().unwrap_or(1))
}

/// The shape of a port.
pub fn shape(port: &Port, sizes: &Sizes) -> Vec<usize> {
    port.ty.shape.iter().map(|d| usize::try_from(value(d, sizes)).unwrap_or(0)).collect()
}

/// Checks inputs, given in the plan's order, against the plan, and finds the value of each symbol.
pub fn bind(plan: &Plan, inputs: &[Tensor]) -> Result<Sizes> {
    let fail =
        |port: &Port, what: String| Err(Error::new(Stage::Run, format!("input \"{}\"", port.name), what));
    let mut sizes = Sizes::new();
    for (port, tensor) in plan.inputs.iter().zip(inputs) {
        if tensor.dtype != port.ty.dtype {
            return fail(port, format!("expected {}, got {}", port.ty.dtype, tensor.dtype));
        }
        if tensor.shape.len() != port.ty.rank() {
            return fail(port, format!("expected {}, got {:?}", port.ty, tensor.shape));
        }
        for (dim, size) in port.ty.shape.iter().zip(&tensor.shape) {
            let mut symbols = Vec::new();
            dim.visit_symbols(&mut |s| symbols.push(s.to_owned()));
            if let [symbol] = symbols.as_slice()
                && *dim == Dim::symbol(symbol)
            {
                sizes.entry(symbol.clone()).or_insert(*size as i64);
            }
        }
    }
    for (port, tensor) in plan.inputs.iter().zip(inputs) {
        let expected = shape(port, &sizes);
        if expected != tensor.shape {
            return fail(port, format!("expected {} = {expected:?}, got {:?}", port.ty, tensor.shape));
        }
    }
    for (symbol, range) in &plan.symbols {
        let got = *sizes.entry(symbol.clone()).or_insert(range.opt);
        if !(range.min..=range.max).contains(&got) {
            let what = format!(
                "symbol `{symbol}` is {got}, but the plan was made for {} to {}",
                range.min, range.max
            );
            return Err(
                Error::new(Stage::Run, "inputs", what).help("compile with a wider range for the symbol")
            );
        }
    }
    Ok(sizes)
}
