//! Activations that are not a single row of the pointwise table, and softmax.

use crate::ir::Value;
use crate::ir::types::normalize_axis;
use crate::onnx::call::{Call, Results, one};
use crate::ops::{ArgReduce, Softmax};
use bakelite_host::{DType, Pw};
use bakelite_kernels::dim::product;

fn float(c: &Call<'_>, name: &str, default: f32) -> Result<f64, String> {
    Ok(c.attributes().float(name, default)?.into())
}

pub(super) fn leaky_relu(c: &mut Call<'_>) -> Results {
    let (x, alpha) = (c.value(0)?, float(c, "alpha", 0.01)?);
    one(c.pw_number(Pw::Prelu, x, alpha)?)
}

pub(super) fn elu(c: &mut Call<'_>) -> Results {
    let (x, alpha) = (c.value(0)?, float(c, "alpha", 1.0)?);
    one(c.pw_number(Pw::Elu, x, alpha)?)
}

pub(super) fn selu(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let (alpha, gamma) = (float(c, "alpha", 1.673_263_2)?, float(c, "gamma", 1.050_701)?);
    let elu = c.pw_number(Pw::Elu, x, alpha)?;
    one(c.pw_number(Pw::Mul, elu, gamma)?)
}

/// `x < 0 ? α·(e^(x/α) − 1) : x` for positive α.
pub(super) fn celu(c: &mut Call<'_>) -> Results {
    let (x, alpha) = (c.value(0)?, float(c, "alpha", 1.0)?);
    if alpha == 0.0 {
        return Err("attribute `alpha` is 0".into());
    }
    let scaled = c.pw_number(Pw::Mul, x, 1.0 / alpha)?;
    let elu = c.pw_number(Pw::Elu, scaled, 1.0)?;
    let negative = c.pw_number(Pw::Mul, elu, alpha)?;
    let zero = c.number(x, 0.0);
    let (low, high) = (c.pw(Pw::Min, &[negative, zero])?, c.pw(Pw::Max, &[x, zero])?);
    one(c.pw(Pw::Add, &[low, high])?)
}

pub(super) fn thresholded_relu(c: &mut Call<'_>) -> Results {
    let (x, alpha) = (c.value(0)?, float(c, "alpha", 1.0)?);
    let (passes, zero) = (c.pw_number(Pw::Gt, x, alpha)?, c.number(x, 0.0));
    one(c.pw(Pw::Select, &[passes, x, zero])?)
}

pub(super) fn hard_sigmoid(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let (alpha, beta) = (float(c, "alpha", 0.2)?, float(c, "beta", 0.5)?);
    let scaled = c.pw_number(Pw::Mul, x, alpha)?;
    let line = c.pw_number(Pw::Add, scaled, beta)?;
    let above = c.pw_number(Pw::Max, line, 0.0)?;
    one(c.pw_number(Pw::Min, above, 1.0)?)
}

pub(super) fn mish(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let soft = c.pw(Pw::Softplus, &[x])?;
    let gate = c.pw(Pw::Tanh, &[soft])?;
    one(c.pw(Pw::Mul, &[x, gate])?)
}

/// `x · sigmoid(α·x)`: Swish, and com.microsoft's QuickGelu with its own default.
pub(super) fn swish(c: &mut Call<'_>) -> Results {
    let default = if c.node.op == "QuickGelu" { 1.702 } else { 1.0 };
    let (x, alpha) = (c.value(0)?, float(c, "alpha", default)?);
    if alpha == 1.0 {
        return one(c.pw(Pw::Silu, &[x])?);
    }
    let scaled = c.pw_number(Pw::Mul, x, alpha)?;
    let gate = c.pw(Pw::Sigmoid, &[scaled])?;
    one(c.pw(Pw::Mul, &[x, gate])?)
}

pub(super) fn shrink(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let (lambd, bias) = (float(c, "lambd", 0.5)?, float(c, "bias", 0.0)?);
    let (low, high) = (c.pw_number(Pw::Lt, x, -lambd)?, c.pw_number(Pw::Gt, x, lambd)?);
    let (up, down, zero) = (c.pw_number(Pw::Add, x, bias)?, c.pw_number(Pw::Sub, x, bias)?, c.number(x, 0.0));
    let inner = c.pw(Pw::Select, &[high, down, zero])?;
    one(c.pw(Pw::Select, &[low, up, inner])?)
}

pub(super) fn gelu(c: &mut Call<'_>) -> Results {
    match c.attributes().text("approximate", "none")? {
        "none" => c.apply(Pw::Gelu),
        "tanh" => c.apply(Pw::GeluTanh),
        other => Err(format!("attribute `approximate` is \"{other}\", expected none or tanh")),
    }
}

fn biased(c: &mut Call<'_>, op: Pw) -> Results {
    let mut x = c.value(0)?;
    if let Some(bias) = c.optional(1)? {
        x = c.pw(Pw::Add, &[x, bias])?;
    }
    one(c.pw(op, &[x])?)
}

pub(super) fn bias_gelu(c: &mut Call<'_>) -> Results {
    biased(c, Pw::Gelu)
}

pub(super) fn fast_gelu(c: &mut Call<'_>) -> Results {
    biased(c, Pw::GeluTanh)
}

/// Before opset 13 the dimensions from `axis` on are normalised together.
pub(super) fn softmax(c: &mut Call<'_>, log: bool) -> Results {
    let x = c.value(0)?;
    one(along(c, x, |c, x, axis| c.add(Softmax { axis, log }, &[x]))?)
}

pub(super) fn hardmax(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let hardmax = |c: &mut Call<'_>, x: Value, axis: usize| {
        let largest = c.add(ArgReduce { max: true, last: false, axis, keepdims: true }, &[x])?;
        let len = c.shape(x)[axis].clone();
        let positions = c.counting(DType::I64, &len)?;
        let mut shape = vec![1.into(); c.rank(x)];
        shape[axis] = len;
        let positions = c.reshape(positions, shape)?;
        let hit = c.pw(Pw::Eq, &[positions, largest])?;
        c.cast(hit, c.dtype(x))
    };
    one(along(c, x, hardmax)?)
}

fn along(
    c: &mut Call<'_>,
    x: Value,
    f: impl Fn(&mut Call<'_>, Value, usize) -> Result<Value, String>,
) -> Result<Value, String> {
    let rank = c.rank(x);
    if c.opset() >= 13 {
        let axis = c.axis("axis", -1, x)?;
        return f(c, x, axis);
    }
    let axis = normalize_axis(c.attributes().int("axis", 1)?, rank)?;
    if axis + 1 == rank {
        return f(c, x, axis);
    }
    let shape = c.shape(x);
    let flat = c.reshape(x, vec![product(&shape[..axis]), product(&shape[axis..])])?;
    let done = f(c, flat, 1)?;
    c.reshape(done, shape)
}
