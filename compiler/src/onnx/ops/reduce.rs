//! Reductions, running sums, and searches along a dimension.

use super::source::{as_sizes, axis_operand};
use crate::ir::types::normalize_axis;
use crate::onnx::call::{Call, Results, one};
use crate::onnx::sizes::{self, Sizes};
use crate::ops::{ArgReduce, CumSum, Reduce, TopK};
use bakelite_host::DType;
use bakelite_host::problem::ReduceKind;
use bakelite_kernels::Dim;

pub(super) fn reduce(c: &mut Call<'_>, kind: ReduceKind) -> Results {
    let rank = c.operand_type(0)?.rank();
    let given = c.ints_or("axes", 1)?.unwrap_or_default();
    let mut axes: Vec<usize> = given.iter().map(|a| normalize_axis(*a, rank)).collect::<Result<_, _>>()?;
    if axes.is_empty() && !c.attributes().flag("noop_with_empty_axes", false)? {
        axes = (0..rank).collect();
    }
    axes.sort_unstable();
    axes.dedup();
    let keepdims = c.attributes().flag("keepdims", true)?;
    if let Some(s) = as_sizes(c)?
        && axes.len() == s.shape.len()
        && let Some(done) = on_sizes(c, &s, kind)
    {
        return one(Sizes {
            dtype: s.dtype,
            shape: if keepdims { vec![1; rank] } else { vec![] },
            dims: vec![done],
        });
    }
    let x = c.value(0)?;
    let kind = match (kind, c.dtype(x)) {
        (ReduceKind::Max, DType::Bool) => ReduceKind::Any,
        (ReduceKind::Min, DType::Bool) => ReduceKind::All,
        _ => kind,
    };
    one(c.add(Reduce { kind, axes, keepdims }, &[x])?)
}

fn on_sizes(c: &Call<'_>, s: &Sizes, kind: ReduceKind) -> Option<Dim> {
    let symbols = c.symbols();
    let mut dims = s.dims.iter();
    let first = dims.next();
    let fold = |f: &dyn Fn(&Dim, &Dim) -> Dim| {
        dims.clone().try_fold(first?.clone(), |a, b| Some(f(&a, b)).filter(sizes::is_short))
    };
    match kind {
        ReduceKind::Sum => fold(&|a, b| a + b),
        ReduceKind::Prod => fold(&|a, b| a * b),
        ReduceKind::Max => fold(&|a, b| sizes::max(a, b, symbols)),
        ReduceKind::Min => fold(&|a, b| sizes::min(a, b, symbols)),
        _ => None,
    }
}

pub(super) fn arg(c: &mut Call<'_>, max: bool) -> Results {
    let x = c.value(0)?;
    let axis = c.axis("axis", 0, x)?;
    let (keepdims, last) =
        (c.attributes().flag("keepdims", true)?, c.attributes().flag("select_last_index", false)?);
    one(c.add(ArgReduce { max, last, axis, keepdims }, &[x])?)
}

pub(super) fn cum_sum(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let axis = axis_operand(c, 1, c.rank(x))?;
    let (exclusive, reverse) =
        (c.attributes().flag("exclusive", false)?, c.attributes().flag("reverse", false)?);
    one(c.add(CumSum { axis, exclusive, reverse }, &[x])?)
}

pub(super) fn top_k(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let k = if c.has(1) {
        c.need_sizes(1, "k")?.first().cloned().ok_or("k is empty")?
    } else {
        Dim::from(c.attributes().need_int("k")?)
    };
    let axis = c.axis("axis", -1, x)?;
    let largest = c.attributes().flag("largest", true)?;
    // `sorted = 0` allows any order; sorted is one.
    let node = c.add_node(TopK { k, axis, largest }, &[x])?;
    let result = |result| crate::ir::Value { node, result }.into();
    Ok(vec![result(0), result(1)])
}
