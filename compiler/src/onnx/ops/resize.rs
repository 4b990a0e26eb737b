//! Resampling.

use crate::ir::Value;
use crate::ir::types::normalize_axis;
use crate::onnx::call::{Call, Results, one};
use crate::ops::Resize;
use bakelite_host::problem::{Coordinates, Interpolation};
use bakelite_kernels::Dim;

/// `⌊size · scale⌋`, also for a symbolic size if the scale is a simple fraction.
fn scaled(size: &Dim, scale: f64) -> Result<Dim, String> {
    if let Some(size) = size.as_const() {
        return Ok(Dim::from((size as f64 * scale).floor() as i64));
    }
    for below in 1..=64i64 {
        let above = scale * below as f64;
        if (above - above.round()).abs() < 1e-9 * above && above < 1e9 {
            return Ok((size * &Dim::from(above.round() as i64)).floor_div(&Dim::from(below)));
        }
    }
    Err(format!("the size {size} times {scale} is no expression of whole numbers"))
}

/// Operand `i` as scales: positive numbers, one for each axis.
fn scales(c: &mut Call<'_>, i: usize) -> Result<Option<Vec<f64>>, String> {
    if !c.has(i) {
        return Ok(None);
    }
    let scales = c.need_floats(i, "the scales")?;
    Ok(Some(scales).filter(|s| !s.is_empty()))
}

fn checked(scales: &[f64]) -> Result<(), String> {
    match scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        Some(bad) => Err(format!("the scale {bad} is not a positive number")),
        None => Ok(()),
    }
}

/// Upsample, and Resize of opset 10, which is the same: from the corner, to the element before.
pub(super) fn upsample(c: &mut Call<'_>) -> Results {
    let x = c.value(0)?;
    let scales = match scales(c, 1)? {
        Some(scales) => scales,
        None => c
            .attributes()
            .find_floats("scales")?
            .ok_or("the scales are missing")?
            .iter()
            .map(|s| f64::from(*s))
            .collect(),
    };
    let interpolation = match c.attributes().text("mode", "nearest")? {
        "nearest" => Interpolation::NearestFloor,
        "linear" | "bilinear" => Interpolation::Linear,
        other => return Err(format!("attribute `mode` is \"{other}\", expected nearest or linear")),
    };
    let axes: Vec<usize> = (0..c.rank(x)).collect();
    one(by_scales(c, x, &axes, &scales, Coordinates::Asymmetric, interpolation)?)
}

fn by_scales(
    c: &mut Call<'_>,
    x: Value,
    axes: &[usize],
    scales: &[f64],
    coordinates: Coordinates,
    interpolation: Interpolation,
) -> Result<Value, String> {
    if scales.len() != axes.len() {
        return Err(format!("{} scales for {} dimensions", scales.len(), axes.len()));
    }
    checked(scales)?;
    let mut shape = c.shape(x);
    let mut all = vec![1.0f32; shape.len()];
    for (axis, scale) in axes.iter().zip(scales) {
        shape[*axis] = scaled(&shape[*axis], *scale)?;
        all[*axis] = *scale as f32;
    }
    if all.iter().all(|s| *s == 1.0) {
        return Ok(x);
    }
    c.add(Resize { shape, scales: all, coordinates, interpolation }, &[x])
}

pub(super) fn resize(c: &mut Call<'_>) -> Results {
    if c.opset() < 11 {
        return upsample(c);
    }
    let x = c.value(0)?;
    let a = c.attributes();
    let coordinates = match a.text("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        other => return Err(format!("the coordinate_transformation_mode \"{other}\" is not supported")),
    };
    let interpolation = match a.text("mode", "nearest")? {
        "nearest" => match a.text("nearest_mode", "round_prefer_floor")? {
            "round_prefer_floor" => Interpolation::NearestPreferFloor,
            "round_prefer_ceil" => Interpolation::NearestPreferCeil,
            "floor" => Interpolation::NearestFloor,
            "ceil" => Interpolation::NearestCeil,
            other => return Err(format!("the nearest_mode \"{other}\" is not supported")),
        },
        "linear" => Interpolation::Linear,
        "cubic" => Interpolation::Cubic { a: a.float("cubic_coeff_a", -0.75)? },
        other => return Err(format!("attribute `mode` is \"{other}\", expected nearest, linear or cubic")),
    };
    if a.flag("exclude_outside", false)? && matches!(interpolation, Interpolation::Cubic { .. }) {
        return Err("exclude_outside is not supported".into());
    }
    let rank = c.rank(x);
    let axes: Vec<usize> = match a.find_ints("axes")? {
        Some(axes) => axes.iter().map(|a| normalize_axis(*a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let antialias = a.flag("antialias", false)? && !matches!(interpolation, Interpolation::NearestFloor);
    let refuse_shrinking = |scale: f64| {
        if antialias && scale < 1.0 {
            Err("antialias is not supported where the result is smaller".to_owned())
        } else {
            Ok(())
        }
    };
    // A scale is a size over a size where the model computes it; what remains must be a number.
    if let Some(scales) = scales(c, 2)? {
        scales.iter().try_for_each(|s| refuse_shrinking(*s))?;
        return one(by_scales(c, x, &axes, &scales, coordinates, interpolation)?);
    }
    if !c.has(3) {
        return Err("neither scales nor sizes are given".into());
    }
    if a.text("keep_aspect_ratio_policy", "stretch")? != "stretch" {
        return Err("a keep_aspect_ratio_policy is not supported".into());
    }
    let sizes = c.need_sizes(3, "the sizes")?;
    if sizes.len() != axes.len() {
        return Err(format!("{} sizes for {} dimensions", sizes.len(), axes.len()));
    }
    let mut shape = c.shape(x);
    let mut all = vec![1.0f32; rank];
    for (axis, size) in axes.iter().zip(sizes) {
        let from = &shape[*axis];
        let scale = match (size.as_const(), from.as_const(), size.exact_div(from).and_then(|q| q.as_const()))
        {
            (Some(to), Some(from), _) if from > 0 => to as f64 / from as f64,
            (_, _, Some(quotient)) => quotient as f64,
            _ => return Err(format!("the ratio of {size} to {from} is not known at compile time")),
        };
        refuse_shrinking(scale)?;
        all[*axis] = scale as f32;
        shape[*axis] = size;
    }
    if shape == c.shape(x) {
        return one(x);
    }
    one(c.add(Resize { shape, scales: all, coordinates, interpolation }, &[x])?)
}
