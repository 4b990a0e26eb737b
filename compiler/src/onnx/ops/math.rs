//! Arithmetic, comparison and selection, elementwise; on shape arithmetic, over expressions.

use crate::ir::Value;
use crate::onnx::call::{Call, Results, one};
use crate::onnx::sizes::{self, Sizes};
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;

/// Operators of one operand that leave whole numbers alone, or are defined on them.
pub(super) fn unary(c: &mut Call<'_>, op: Pw) -> Results {
    if let Some(s) = c.all_sizes() {
        let symbols = c.symbols();
        let done = s[0].map(s[0].dtype, |d| match op {
            Pw::Floor | Pw::Ceil | Pw::Round => Some(d.clone()),
            Pw::Neg => Some(Dim::from(0) - d),
            Pw::Abs => match sizes::at_most(&Dim::from(0), d, symbols)? {
                true => Some(d.clone()),
                false => Some(Dim::from(0) - d),
            },
            Pw::Not => d.as_const().map(|v| Dim::from(i64::from(v == 0))),
            _ => None,
        });
        if let Some(done) = done {
            return one(done);
        }
    }
    c.apply(op)
}

/// Add, Sub, Mul, Div.
pub(super) fn arithmetic(c: &mut Call<'_>, op: Pw) -> Results {
    if let Some(done) = on_sizes(c, op) {
        return one(done);
    }
    c.apply(op)
}

fn on_sizes(c: &Call<'_>, op: Pw) -> Option<Sizes> {
    let s = c.all_sizes()?;
    let symbols = c.symbols();
    let mut parts = s.iter().cloned();
    let mut sum = parts.next()?;
    for part in parts {
        let float = sum.dtype.is_float();
        sum = sum.zip(&part, sum.dtype, |a, b| match op {
            Pw::Add => Some(a + b),
            Pw::Sub => Some(a - b),
            Pw::Mul => Some(a * b),
            Pw::Div if float => a.exact_div(b),
            Pw::Div => sizes::divide(a, b, symbols),
            Pw::Min => Some(sizes::min(a, b, symbols)),
            Pw::Max => Some(sizes::max(a, b, symbols)),
            Pw::Mod if float => None,
            Pw::Mod => {
                let floor = (b.bounds(symbols).0 > 0).then(|| a.floor_div(b))?;
                Some(a - floor * b)
            }
            _ => None,
        })?;
    }
    Some(sum)
}

/// Sum, Min, Max of any number of operands.
pub(super) fn variadic(c: &mut Call<'_>, op: Pw) -> Results {
    if let Some(done) = on_sizes(c, op) {
        return one(done);
    }
    one(fold(c, op)?)
}

fn fold(c: &mut Call<'_>, op: Pw) -> Result<Value, String> {
    let values = c.values()?;
    values[1..].iter().try_fold(values[0], |sum, v| c.pw(op, &[sum, *v]))
}

pub(super) fn mean(c: &mut Call<'_>) -> Results {
    let sum = fold(c, Pw::Add)?;
    let count = c.count() as f64;
    one(c.pw_number(Pw::Mul, sum, 1.0 / count)?)
}

/// Equal, Less and their kin; sizes are compared over the whole range of their symbols.
pub(super) fn compare(c: &mut Call<'_>, op: Pw) -> Results {
    if let Some([a, b]) = c.all_sizes().as_deref() {
        let symbols = c.symbols();
        let done = a.zip(b, DType::Bool, |a, b| {
            let yes = match op {
                Pw::Eq => sizes::equal(a, b, symbols),
                Pw::Le => sizes::at_most(a, b, symbols),
                Pw::Ge => sizes::at_most(b, a, symbols),
                Pw::Lt => sizes::at_most(b, a, symbols).map(|v| !v),
                Pw::Gt => sizes::at_most(a, b, symbols).map(|v| !v),
                _ => None,
            };
            yes.map(|v| Dim::from(i64::from(v)))
        });
        if let Some(done) = done {
            return one(done);
        }
    }
    c.apply(op)
}

pub(super) fn where_(c: &mut Call<'_>) -> Results {
    if let Some([condition, a, b]) = c.all_sizes().as_deref() {
        // Two steps of two operands: tag each element of `b` by taking `a`'s where the condition holds.
        let picked = condition.constants().and_then(|_| {
            let both = a.zip(b, a.dtype, |a, _| Some(a.clone()))?;
            let other = a.zip(b, a.dtype, |_, b| Some(b.clone()))?;
            let yes =
                condition.zip(&both, a.dtype, |c, a| Some(if c.is(0) { Dim::from(0) } else { a.clone() }))?;
            let no = condition
                .zip(&other, a.dtype, |c, b| Some(if c.is(0) { b.clone() } else { Dim::from(0) }))?;
            yes.zip(&no, a.dtype, |a, b| Some(a + b))
        });
        if let Some(done) = picked {
            return one(done);
        }
    }
    c.apply(Pw::Select)
}

pub(super) fn sqrt(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    one(c.pw(Pw::Sqrt, &[x])?)
}

pub(super) fn pow(c: &mut Call<'_>) -> Results {
    let (x, y) = (c.value(0)?, c.value(1)?);
    let dtype = c.dtype(x);
    match c.data(y).and_then(|t| t.uniform()) {
        Some(1.0) if c.data(y).is_some_and(|t| t.count() == 1 && t.shape.len() <= c.rank(x)) => {
            return one(x);
        }
        Some(2.0) if c.data(y).is_some_and(|t| t.count() == 1 && t.shape.len() <= c.rank(x)) => {
            return one(c.pw(Pw::Mul, &[x, x])?);
        }
        Some(0.5)
            if dtype.is_float()
                && c.data(y).is_some_and(|t| t.count() == 1 && t.shape.len() <= c.rank(x)) =>
        {
            return one(c.pw(Pw::Sqrt, &[x])?);
        }
        _ => {}
    }
    // The exponent may have a type of its own; a fractional one of an integer base is computed in floating point.
    if dtype.is_int() && c.dtype(y).is_float() {
        let wide = c.cast(x, DType::F64)?;
        let exponent = c.cast(y, DType::F64)?;
        let power = c.pw(Pw::Pow, &[wide, exponent])?;
        return one(c.cast(power, dtype)?);
    }
    let y = c.cast(y, dtype)?;
    one(c.pw(Pw::Pow, &[x, y])?)
}

pub(super) fn modulo(c: &mut Call<'_>) -> Results {
    if c.attributes().flag("fmod", false)? {
        return c.apply(Pw::Rem);
    }
    if !c.operand_type(0)?.dtype.is_float() {
        return arithmetic(c, Pw::Mod);
    }
    // By the exact remainder, which then takes the divisor's sign: right for infinite and for very large operands too.
    let (a, b) = (c.value(0)?, c.value(1)?);
    let rest = c.pw(Pw::Rem, &[a, b])?;
    let (below, divisor_below) = (c.pw_number(Pw::Lt, rest, 0.0)?, c.pw_number(Pw::Lt, b, 0.0)?);
    let (unlike, some) = (c.pw(Pw::Xor, &[below, divisor_below])?, c.pw_number(Pw::Ne, rest, 0.0)?);
    let (turn, turned) = (c.pw(Pw::And, &[unlike, some])?, c.pw(Pw::Add, &[rest, b])?);
    one(c.pw(Pw::Select, &[turn, turned, rest])?)
}

pub(super) fn bit_shift(c: &mut Call<'_>) -> Results {
    match c.attributes().text("direction", "")? {
        "LEFT" => c.apply(Pw::Shl),
        "RIGHT" => {
            let (x, by) = (c.value(0)?, c.value(1)?);
            if !matches!(c.dtype(x), DType::I8 | DType::I16 | DType::I32 | DType::I64) {
                return one(c.pw(Pw::Shr, &[x, by])?);
            }
            // The row shifts in zeros; for a negative number the complement does what the sign bit asks.
            let (below, flipped) = (c.pw_number(Pw::Lt, x, 0.0)?, c.pw(Pw::Not, &[x])?);
            let positive = c.pw(Pw::Select, &[below, flipped, x])?;
            let shifted = c.pw(Pw::Shr, &[positive, by])?;
            let back = c.pw(Pw::Not, &[shifted])?;
            one(c.pw(Pw::Select, &[below, back, shifted])?)
        }
        other => Err(format!("the direction is \"{other}\", expected LEFT or RIGHT")),
    }
}

pub(super) fn cast(c: &mut Call<'_>) -> Results {
    let number = i32::try_from(c.attributes().need_int("to")?).unwrap_or(-1);
    let to = crate::onnx::tensor::dtype(number).map_err(|e| format!("attribute `to`: {e}"))?;
    convert(c, to)
}

pub(super) fn cast_like(c: &mut Call<'_>) -> Results {
    let to = c.operand_type(1)?.dtype;
    convert(c, to)
}

fn convert(c: &mut Call<'_>, to: DType) -> Results {
    if let Some([s, ..]) = c.all_sizes().as_deref() {
        let symbols = c.symbols();
        // What the type holds exactly: a size beyond that is data.
        let most: i64 = match to {
            DType::I64 | DType::U64 | DType::F64 => 1 << 52,
            DType::I32 | DType::U32 => i32::MAX.into(),
            DType::F32 => 1 << 24,
            DType::I16 | DType::U16 => i16::MAX.into(),
            DType::F16 => 1 << 11,
            DType::BF16 => 1 << 8,
            DType::I8 | DType::U8 => i8::MAX.into(),
            DType::Bool => 1,
        };
        let done = s.map(to, |d| {
            let (lo, hi) = d.bounds(symbols);
            match to {
                DType::Bool if lo > 0 || hi < 0 => Some(Dim::from(1)),
                DType::Bool => d.as_const().map(|v| Dim::from(i64::from(v != 0))),
                _ => {
                    (-most <= lo && hi <= most || d.as_const().is_some() && s.dtype == to).then(|| d.clone())
                }
            }
        });
        if let Some(done) = done {
            return one(done);
        }
    }
    let x = c.value(0)?;
    one(c.cast(x, to)?)
}

/// Bounds by attributes before opset 11, by operands since; an absent bound does not bound.
pub(super) fn clip(c: &mut Call<'_>) -> Results {
    let mut x = c.value(0)?;
    for (i, name, op) in [(1, "min", Pw::Max), (2, "max", Pw::Min)] {
        if let Some(bound) = c.optional(i)? {
            x = c.pw(op, &[x, bound])?;
        } else if let Some(bound) = c.attributes().find_float(name)? {
            x = c.pw_number(op, x, f64::from(bound))?;
        }
    }
    one(x)
}

pub(super) fn is_inf(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let (negative, positive) =
        (c.attributes().flag("detect_negative", true)?, c.attributes().flag("detect_positive", true)?);
    let infinite = c.pw(Pw::IsInf, &[x])?;
    let sign = match (negative, positive) {
        (true, true) => return one(infinite),
        (false, true) => Pw::Gt,
        (true, false) => Pw::Lt,
        (false, false) => {
            let no = c.scalar(DType::Bool, 0.0);
            return one(c.pw(Pw::And, &[infinite, no])?);
        }
    };
    let signed = c.pw_number(sign, x, 0.0)?;
    one(c.pw(Pw::And, &[infinite, signed])?)
}

/// `alpha · x + beta`, an experimental operator that old exporters wrote.
pub(super) fn affine(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let (alpha, beta) = (c.attributes().float("alpha", 1.0)?, c.attributes().float("beta", 0.0)?);
    let scaled = c.pw_number(Pw::Mul, x, alpha.into())?;
    one(c.pw_number(Pw::Add, scaled, beta.into())?)
}

/// `scale · x + bias[channel]`, an experimental operator that old exporters wrote.
pub(super) fn image_scaler(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let scale = c.attributes().float("scale", 1.0)?;
    let bias: Vec<f64> =
        c.attributes().find_floats("bias")?.unwrap_or_default().iter().map(|b| f64::from(*b)).collect();
    let scaled = c.pw_number(Pw::Mul, x, scale.into())?;
    if bias.is_empty() {
        return one(scaled);
    }
    let bias = c.vector(x, &bias)?;
    let bias = c.per_channel(bias, c.rank(x))?;
    one(c.pw(Pw::Add, &[scaled, bias])?)
}
