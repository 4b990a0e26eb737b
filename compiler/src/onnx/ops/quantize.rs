//! Dynamic quantisation: integer products and convolutions with zero points, and the scale that a tensor itself asks for.
//! Zero points are subtracted first, so what follows is a product or convolution of i32.

use super::conv::convolve;
use super::linear::multiply;
use crate::ir::Value;
use crate::onnx::call::{Call, Results, one};
use crate::ops::Reduce;
use bakelite_host::problem::ReduceKind;
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;

/// The operand `i`, 8 bits wide, as i32 without its zero point, which is operand `zero`: one number, or one for each index of
/// dimension `axis` (from the end, 1 the last).
fn centred(c: &mut Call<'_>, i: usize, zero: usize, axis: usize) -> Result<Value, String> {
    let x = c.value(i)?;
    if !matches!(c.dtype(x), DType::I8 | DType::U8) {
        return Err(format!("operand {i} is {}; expected 8-bit integers", c.ty(x)));
    }
    let wide = c.cast(x, DType::I32)?;
    let Some(zero_point) = c.optional(zero)? else { return Ok(wide) };
    if c.dtype(zero_point) != c.dtype(x) {
        return Err(format!("the zero point {} is of another type than {}", c.ty(zero_point), c.ty(x)));
    }
    let mut zero_point = c.cast(zero_point, DType::I32)?;
    if c.rank(zero_point) == 1 && !c.shape(zero_point)[0].is(1) {
        let size = c.shape(zero_point)[0].clone();
        let along = c.rank(x).checked_sub(axis).map(|d| c.shape(x)[d].clone());
        if along.as_ref() != Some(&size) {
            return Err(format!("{size} zero points for {}", c.ty(x)));
        }
        let ones = std::iter::repeat_n(Dim::from(1), axis - 1);
        zero_point = c.reshape(zero_point, std::iter::once(size).chain(ones).collect())?;
    }
    c.pw(Pw::Sub, &[wide, zero_point])
}

/// `y = Σ (x − x₀)(w − w₀)` over a window, in i32; padding is x₀ in `x`, so zero here.
pub(super) fn conv_integer(c: &mut Call<'_>) -> Results {
    let filters = c.operand_type(1)?.rank();
    let (x, w) = (centred(c, 0, 2, 1)?, centred(c, 1, 3, filters)?);
    one(convolve(c, x, w)?)
}

/// `(a − a₀)(b − b₀)` in i32; zero points of a for each row, of b for each column.
pub(super) fn matmul_integer(c: &mut Call<'_>) -> Results {
    let (a, b) = (centred(c, 0, 2, 2)?, centred(c, 1, 3, 1)?);
    one(multiply(c, a, b, false, false)?)
}

/// To u8, with the scale and zero point at which the tensor and zero fill 0 to 255. A tensor of zeros has scale 1.
pub(super) fn dynamic_quantize_linear(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    if c.dtype(x) != DType::F32 {
        return Err(format!("the operand is {}; expected f32", c.ty(x)));
    }
    let axes: Vec<usize> = (0..c.rank(x)).collect();
    let mut bound = |kind, op| {
        let extreme = c.add(Reduce { kind, axes: axes.clone(), keepdims: false }, &[x])?;
        c.pw_number(op, extreme, 0.0)
    };
    let (low, high) = (bound(ReduceKind::Min, Pw::Min)?, bound(ReduceKind::Max, Pw::Max)?);
    let range = c.pw(Pw::Sub, &[high, low])?;
    let scale = c.pw_number(Pw::Div, range, 255.0)?;
    let (flat, unit) = (c.pw_number(Pw::Eq, scale, 0.0)?, c.number(scale, 1.0));
    let scale = c.pw(Pw::Select, &[flat, unit, scale])?;
    let steps = c.pw(Pw::Div, &[low, scale])?;
    let zero = c.pw(Pw::Neg, &[steps])?;
    let zero = c.pw(Pw::Round, &[zero])?;
    let zero = to_byte(c, zero)?;
    let steps = c.pw(Pw::Div, &[x, scale])?;
    let steps = c.pw(Pw::Round, &[steps])?;
    let zero_steps = c.cast(zero, DType::F32)?;
    let steps = c.pw(Pw::Add, &[steps, zero_steps])?;
    Ok(vec![to_byte(c, steps)?.into(), scale.into(), zero.into()])
}

fn to_byte(c: &mut Call<'_>, x: Value) -> Result<Value, String> {
    let x = c.pw_number(Pw::Max, x, 0.0)?;
    let x = c.pw_number(Pw::Min, x, 255.0)?;
    c.cast(x, DType::U8)
}
