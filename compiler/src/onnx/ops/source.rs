//! Values that come from no data: constants, shapes, ranges.

use crate::ir::Tensor;
use crate::ir::types::normalize_axis;
use crate::onnx::attributes::Attribute;
use crate::onnx::call::{Call, Operand, Results, one};
use crate::onnx::sizes::{self, Sizes};
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

pub(super) fn constant(c: &mut Call<'_>) -> Results {
    let tensor = match c.attributes().0.iter().next() {
        Some((name, Attribute::Tensor(t))) if name == "value" => t.clone(),
        Some((name, Attribute::Float(v))) if name == "value_float" => Tensor::of(DType::F32, vec![], &[*v])?,
        Some((name, Attribute::Int(v))) if name == "value_int" => Tensor::of(DType::I64, vec![], &[*v])?,
        Some((name, Attribute::Floats(v))) if name == "value_floats" => {
            Tensor::of(DType::F32, vec![v.len()], v)?
        }
        Some((name, Attribute::Ints(v))) if name == "value_ints" => Tensor::of(DType::I64, vec![v.len()], v)?,
        Some((name, _)) => return Err(format!("a constant by the attribute `{name}` is not supported")),
        None => return Err("the attribute `value` is missing".into()),
    };
    one(c.constant(tensor))
}

pub(super) fn constant_of_shape(c: &mut Call<'_>) -> Results {
    let shape = c.need_sizes(0, "the shape")?;
    if let Some(negative) = shape.iter().find(|d| d.bounds(c.symbols()).1 < 0) {
        return Err(format!("the shape has the size {negative}"));
    }
    let value = match c.attributes().find_tensor("value")? {
        None => Tensor::scalar(DType::F32, 0.0),
        Some(t) if t.count() == 1 => Tensor::new(t.dtype, vec![], t.bytes.clone())?,
        Some(t) => return Err(format!("attribute `value` has {} elements, expected 1", t.count())),
    };
    let value = c.constant(value);
    one(c.broadcast(value, shape)?)
}

pub(super) fn shape(c: &mut Call<'_>) -> Results {
    let shape = c.operand_type(0)?.shape;
    let rank = shape.len() as i64;
    let at = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (at(c.attributes().int("start", 0)?), at(c.attributes().int("end", rank)?));
    one(Sizes::list(shape.get(start..end).unwrap_or_default().to_vec()))
}

pub(super) fn size(c: &mut Call<'_>) -> Results {
    one(Sizes::scalar(product(&c.operand_type(0)?.shape)))
}

pub(super) fn range(c: &mut Call<'_>) -> Results {
    let dtype = c.operand_type(0)?.dtype;
    let bounds: Option<Vec<Sizes>> = (0..3).map(|i| c.sizes(i)).collect();
    if let Some([start, limit, delta]) = bounds.as_deref()
        && let ([start], [limit], [delta]) = (&start.dims[..], &limit.dims[..], &delta.dims[..])
        && let Some(step) = delta.as_const()
    {
        if step == 0 {
            return Err("the step is 0".into());
        }
        let (room, size) =
            if step > 0 { (limit - start, step) } else { (start - limit, step.saturating_neg()) };
        let count = sizes::max(&room.ceil_div(&Dim::from(size)), &Dim::from(0), c.symbols());
        // In the widest type of the class first: the table of positions is shared.
        let positions = c.counting(dtype, &count)?;
        let mut x = positions;
        if step != 1 {
            x = c.pw_number(Pw::Mul, x, step as f64)?;
        }
        if !start.is(0) {
            let start = c.sizes_value(Sizes { dtype, ..Sizes::scalar(start.clone()) })?;
            x = c.pw(Pw::Add, &[x, start])?;
        }
        return one(x);
    }
    let number = |c: &mut Call<'_>, i: usize| match c.need_floats(i, "a bound")?.as_slice() {
        [one] => Ok(*one),
        many => Err(format!("a bound must be one number, but has {}", many.len())),
    };
    let (start, limit, delta) = (number(c, 0)?, number(c, 1)?, number(c, 2)?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    if count.is_nan() || count > f64::from(1 << 20) {
        return Err(format!("the range from {start} to {limit} by {delta} has {count} elements"));
    }
    let values: Vec<f64> = (0..count as usize).map(|i| start + i as f64 * delta).collect();
    let tensor = sizes::floats(dtype, vec![values.len()], &values)?;
    one(c.constant(tensor))
}

pub(super) fn eye_like(c: &mut Call<'_>) -> Results {
    let ty = c.operand_type(0)?;
    let [rows, columns] = ty.shape.as_slice() else { return Err(format!("expected 2 dimensions, got {ty}")) };
    let to = match c.attributes().find_int("dtype")? {
        Some(number) => crate::onnx::tensor::dtype(i32::try_from(number).unwrap_or(-1))?,
        None => ty.dtype,
    };
    let k = c.attributes().int("k", 0)?;
    let row = c.counting(DType::I64, rows)?;
    let row = c.reshape(row, vec![rows.clone(), Dim::from(1)])?;
    let diagonal = c.sizes_value(Sizes::scalar(Dim::from(k)))?;
    let row = c.pw(Pw::Add, &[row, diagonal])?;
    let column = c.counting(DType::I64, columns)?;
    let hit = c.pw(Pw::Eq, &[row, column])?;
    one(c.cast(hit, to)?)
}

/// The axis that operand `i` gives.
pub(super) fn axis_operand(c: &Call<'_>, i: usize, rank: usize) -> Result<usize, String> {
    normalize_axis(c.need_int(i, "the axis")?, rank)
}

/// Operand 0 if it is shape arithmetic.
pub(super) fn as_sizes(c: &Call<'_>) -> Result<Option<Sizes>, String> {
    Ok(match c.operand(0)? {
        Operand::Sizes(sizes) => Some(sizes),
        Operand::Value(_) => None,
    })
}
