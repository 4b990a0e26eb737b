//! Arrays in and out: checked against the model's inputs, made up, compared.

use super::output::write_file;
use super::table::{Align, table};
use super::{Failure, Outcome};
use bakelite::ir::{Graph, Tensor, Type};
use bakelite::npz;
use bakelite::onnx::ImportOptions;
use bakelite::onnx::model::{Model, Size};
use bakelite_host::DType;
use bakelite_kernels::Range;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) type Arrays = BTreeMap<String, Tensor>;

/// Every array of an archive.
pub(crate) fn read(path: &Path) -> Outcome<Arrays> {
    let fail = |e: String| Failure::new(format!("the arrays \"{}\": {e}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
    npz::read(file).map_err(|e| fail(e).help("numpy.savez(path, **{input_name: array}) makes such a file"))
}

/// Writes an archive, whole or not at all.
pub(crate) fn write(path: &Path, arrays: &Arrays) -> Outcome<()> {
    write_file(path, |file| npz::write(file, arrays))
}

/// Widens the default ranges of dynamic sizes to what the arrays have, which also becomes their optimum. Ranges and values
/// that the user has given stay.
pub(crate) fn widen(options: &mut ImportOptions, model: &Model, arrays: &Arrays) {
    let default = options.default;
    for (name, ty) in &model.graph.inputs {
        let (Some(array), Some(sizes)) = (arrays.get(name), &ty.shape) else { continue };
        for (axis, (size, got)) in sizes.iter().zip(&array.shape).enumerate() {
            let symbol = match size {
                Size::Const(_) => continue,
                Size::Named(name) => name.clone(),
                Size::Unknown => format!("{name}_{axis}"),
            };
            let Ok(opt) = i64::try_from(*got) else { continue };
            if !options.bind.contains_key(&symbol) {
                let range = Range { min: default.min.min(opt), max: default.max.max(opt), opt };
                options.symbols.entry(symbol).or_insert(range);
            }
        }
    }
}

/// The graph's inputs with their types.
pub(crate) fn input_types(graph: &Graph) -> Vec<(String, Type)> {
    graph.inputs.iter().map(|(name, id)| (name.clone(), graph.ty((*id).into()).clone())).collect()
}

/// The arrays in the order of the inputs. Every input has its array, every array its input, with the type and the rank and
/// the fixed sizes it expects.
pub(crate) fn arrange(inputs: &[(String, Type)], mut arrays: Arrays) -> Outcome<Vec<Tensor>> {
    let mut wrong = Vec::new();
    let mut tensors = Vec::new();
    for (name, ty) in inputs {
        match arrays.remove(name) {
            None => wrong.push(format!("the input \"{name}\" is missing")),
            Some(array) => match fit(ty, array) {
                Ok(tensor) => tensors.push(tensor),
                Err(got) => wrong.push(format!("the input \"{name}\" is {ty}, but its array is {got}")),
            },
        }
    }
    wrong.extend(arrays.keys().map(|name| format!("the model has no input \"{name}\"")));
    if wrong.is_empty() { Ok(tensors) } else { Err(Failure::new(wrong.join("; ")).help(expected(inputs))) }
}

fn fit(ty: &Type, mut array: Tensor) -> Result<Tensor, String> {
    // numpy has no bf16: its bits come as u16, and are written so too.
    if ty.dtype == DType::BF16 && array.dtype == DType::U16 {
        array.dtype = DType::BF16;
    }
    let sizes_fit = ty.rank() == array.shape.len()
        && ty
            .shape
            .iter()
            .zip(&array.shape)
            .all(|(d, got)| d.as_const().is_none_or(|c| usize::try_from(c).is_ok_and(|c| c == *got)));
    if array.dtype == ty.dtype && sizes_fit { Ok(array) } else { Err(shown(&array)) }
}

/// What the model takes, for the help of an error.
pub(crate) fn expected(inputs: &[(String, Type)]) -> String {
    let rows: Vec<_> = inputs.iter().map(|(name, ty)| vec![format!("  {name}"), ty.to_string()]).collect();
    format!("the model takes\n{}", table(&[Align::Left, Align::Left], &rows).trim_end())
}

/// `f32[2,3]`
pub(crate) fn shown(tensor: &Tensor) -> String {
    Type::new(tensor.dtype, &tensor.shape).to_string()
}

/// Made-up inputs, the same for the same seed: floats about normally distributed, integers 0 or 1 (they may be indices into
/// anything), either bool. Dynamic sizes have their optimum.
pub(crate) fn random(graph: &Graph, seed: u64) -> Outcome<Vec<Tensor>> {
    let inputs = input_types(graph);
    let sizes = |ty: &Type| -> Vec<usize> { ty.shape.iter().map(|d| d.opt_size(&graph.symbols)).collect() };
    let bytes = |ty: &Type| sizes(ty).iter().try_fold(ty.dtype.size(), |n, d| n.checked_mul(*d));
    let total = inputs.iter().try_fold(0usize, |n, (_, ty)| n.checked_add(bytes(ty)?));
    super::device::check_memory(total.map_or(u64::MAX, |n| n as u64), "the inputs")?;
    let mut state = seed;
    let mut next = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    // The sum of four uniform numbers of variance 1/12 each, scaled to variance 1.
    let normal = |bits: u64| {
        let sum: f64 = (0..4).map(|i| ((bits >> (16 * i)) & 0xffff) as f64 / 65536.0).sum();
        (sum - 2.0) * 3f64.sqrt()
    };
    let tensors = inputs.iter().map(|(_, ty)| {
        let shape = sizes(ty);
        let mut data = Vec::with_capacity(bytes(ty).unwrap_or(0));
        for _ in 0..shape.iter().product::<usize>() {
            let bits = next();
            let value = if ty.dtype.is_float() { normal(bits) } else { (bits >> 63) as f64 };
            data.extend_from_slice(&Tensor::scalar(ty.dtype, value).bytes);
        }
        Tensor { dtype: ty.dtype, shape, bytes: data.into() }
    });
    Ok(tensors.collect())
}

/// How far a result is from its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Distance {
    /// ‖out − ref‖ / ‖ref‖.
    pub(crate) relative: f64,
    /// Largest difference of two elements.
    pub(crate) largest: f64,
}

/// The distance of a result from its reference, which has as many elements. Equal infinities and two NaNs do not differ.
pub(crate) fn distance(out: &Tensor, reference: &Tensor) -> Distance {
    let (mut square, mut norm, mut largest) = (0f64, 0f64, 0f64);
    for (a, b) in out.to_f64().into_iter().zip(reference.to_f64()) {
        let same = a == b || a.is_nan() && b.is_nan();
        let difference = if same { 0.0 } else { (a - b).abs() };
        square += difference * difference;
        norm += if b.is_finite() { b * b } else { 0.0 };
        // `max` would drop a NaN.
        largest = if difference.is_nan() || difference > largest { difference } else { largest };
    }
    let relative = if square == 0.0 { 0.0 } else { square.sqrt() / norm.sqrt() };
    Distance { relative, largest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_notice_what_is_not_a_number() {
        let t = |v: &[f32]| Tensor::of(DType::F32, vec![v.len()], v).unwrap();
        let close = distance(&t(&[3.0, 4.5]), &t(&[3.0, 4.0]));
        assert_eq!(close, Distance { relative: 0.1, largest: 0.5 });
        let same = distance(&t(&[f32::INFINITY, f32::NAN]), &t(&[f32::INFINITY, f32::NAN]));
        assert_eq!(same, Distance { relative: 0.0, largest: 0.0 });
        let nan = distance(&t(&[f32::NAN, 1.0]), &t(&[1.0, 1.0]));
        assert!(nan.relative.is_nan() && nan.largest.is_nan());
        assert_eq!(distance(&t(&[1.0]), &t(&[0.0])).relative, f64::INFINITY);
    }

    #[test]
    fn every_mistake_is_listed_at_once() {
        let ty = |text: &str| text.parse::<Type>().unwrap();
        let inputs = [
            ("a".to_owned(), ty("f32[n,2]")),
            ("b".to_owned(), ty("i64[]")),
            ("c".to_owned(), ty("bf16[1]")),
        ];
        let zeros = |dtype: DType, shape: &[usize]| {
            let len = shape.iter().product::<usize>() * dtype.size();
            Tensor::new(dtype, shape.to_vec(), vec![0; len].into()).unwrap()
        };
        let good: Arrays = [
            ("a".to_owned(), zeros(DType::F32, &[5, 2])),
            ("b".to_owned(), zeros(DType::I64, &[])),
            ("c".to_owned(), zeros(DType::U16, &[1])),
        ]
        .into();
        let arranged = arrange(&inputs, good.clone()).unwrap();
        assert_eq!((arranged[0].shape.as_slice(), arranged[2].dtype), (&[5, 2][..], DType::BF16));
        let mut bad = good;
        bad.insert("a".into(), zeros(DType::F32, &[5, 3]));
        bad.insert("x".into(), zeros(DType::F32, &[]));
        bad.remove("b");
        let failure = arrange(&inputs, bad).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "the input \"a\" is f32[n,2], but its array is f32[5,3]; the input \"b\" is missing; the model has no input \"x\""
        );
    }
}
