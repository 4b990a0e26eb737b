//! The moments of rows: what a normalisation by somebody else needs to know of them. Fusion puts it beside what makes the rows.

use super::{Operator, Problem, Role, Type, expect_float, expect_inputs};
use bakelite_host::problem::{self, Epilogue, ReduceKind, SPAN};
use bakelite_host::DType;
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

op! {
    /// Results: the operand as it is, and the moments of its rows (its last dimension), `[rows, len / SPAN, 2]`: see
    /// [`bakelite_host::problem::Rows`].
    Moments "moments" {}
}

/// Rows, and elements of each.
fn rows(x: &Type) -> Result<(Dim, Dim), String> {
    let (len, rows) = x.shape.split_last().ok_or_else(|| format!("{x} has no rows"))?;
    Ok((product(rows), len.clone()))
}

impl Operator for Moments {
    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        expect_inputs(inputs, 1, 1)?;
        expect_float(inputs[0])?;
        let (rows, len) = rows(inputs[0])?;
        let spans = len.exact_div(&Dim::from(SPAN));
        let spans = spans.ok_or_else(|| format!("rows of {len} elements; expected a multiple of {SPAN}"))?;
        Ok(vec![inputs[0].clone(), Type { dtype: DType::F32, shape: vec![rows, spans, Dim::from(2)] }])
    }

    fn role(&self) -> Role {
        Role::Opaque
    }

    fn lower(&self, inputs: &[&Type], _: &[Type]) -> Result<Problem<Dim>, String> {
        let (rows, len) = rows(inputs[0])?;
        let dtype = inputs[0].dtype;
        let epilogue = Epilogue { moments: true, ..Epilogue::store(dtype) };
        let (shape, reduced) = (vec![rows, len], vec![false; 2]);
        Ok(problem::Reduce { kind: ReduceKind::Sum, shape, reduced, dtype, epilogue }.into())
    }
}
