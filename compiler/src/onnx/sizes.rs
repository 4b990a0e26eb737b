//! Small integers of a graph under import: the shape arithmetic that ONNX writes with Shape, Gather, Concat and their
//! kin on int64 tensors, kept as symbolic contents instead of nodes, so that shapes come out as expressions.

use crate::ir::Tensor;
use bakelite_host::DType;
use bakelite_kernels::{Dim, Symbols};

/// More elements than this are data, not sizes.
pub(super) const LIMIT: usize = 1024;
/// A longer expression is refused: it would only grow.
pub(super) const TEXT: usize = 512;

/// A small tensor whose every element is known as an expression over symbols. Its element type may be any: models
/// scale sizes in floating point too, and such a size is tracked while it stays whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sizes {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) dims: Vec<Dim>,
}

impl Sizes {
    /// A one-dimensional i64 tensor.
    pub(super) fn list(dims: Vec<Dim>) -> Sizes {
        Sizes { dtype: DType::I64, shape: vec![dims.len()], dims }
    }

    /// One number.
    pub(super) fn scalar(dim: Dim) -> Sizes {
        Sizes { dtype: DType::I64, shape: vec![], dims: vec![dim] }
    }

    /// The contents of a constant, if it is small and every element is whole.
    pub(super) fn of(tensor: &Tensor) -> Option<Sizes> {
        if tensor.count() > LIMIT {
            return None;
        }
        let dims = if tensor.dtype.is_float() {
            let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 9.0e15).then_some(Dim::from(v as i64));
            tensor.to_f64().into_iter().map(whole).collect::<Option<_>>()?
        } else {
            tensor.to_i64().into_iter().map(Dim::from).collect()
        };
        Some(Sizes { dtype: tensor.dtype, shape: tensor.shape.clone(), dims })
    }

    /// The numbers, if none has a symbol.
    pub(super) fn constants(&self) -> Option<Vec<i64>> {
        self.dims.iter().map(Dim::as_const).collect()
    }

    /// The tensor, if no element has a symbol.
    pub(super) fn tensor(&self) -> Option<Tensor> {
        integers(self.dtype, self.shape.clone(), &self.constants()?).ok()
    }

    /// The same contents under another shape.
    pub(super) fn reshaped(self, shape: &[Dim]) -> Option<Sizes> {
        let shape: Vec<usize> =
            shape.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect::<Option<_>>()?;
        (shape.iter().product::<usize>() == self.dims.len()).then_some(Sizes { shape, ..self })
    }

    /// `f` of every element.
    pub(super) fn map(&self, dtype: DType, f: impl FnMut(&Dim) -> Option<Dim>) -> Option<Sizes> {
        let dims = self.dims.iter().map(f).collect::<Option<_>>()?;
        Sizes { dtype, shape: self.shape.clone(), dims }.bounded()
    }

    /// `f` of the elements of both, with numpy broadcasting.
    pub(super) fn zip(
        &self,
        other: &Sizes,
        dtype: DType,
        mut f: impl FnMut(&Dim, &Dim) -> Option<Dim>,
    ) -> Option<Sizes> {
        let rank = self.shape.len().max(other.shape.len());
        let size = |s: &[usize], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
        let mut shape = Vec::with_capacity(rank);
        for d in 0..rank {
            shape.push(match (size(&self.shape, d), size(&other.shape, d)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            });
        }
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|c| *c <= LIMIT)?;
        let at = |s: &[usize], flat: usize| {
            let (mut rest, mut index, mut stride) = (flat, 0, 1);
            for d in (0..rank).rev() {
                let coordinate = rest % shape[d];
                rest /= shape[d];
                let own = size(s, d);
                if own != 1 {
                    index += coordinate * stride;
                }
                stride *= own;
            }
            index
        };
        let dims = (0..count)
            .map(|i| f(&self.dims[at(&self.shape, i)], &other.dims[at(&other.shape, i)]))
            .collect::<Option<_>>()?;
        Sizes { dtype, shape, dims }.bounded()
    }

    /// Itself, unless an expression has outgrown [`TEXT`].
    pub(super) fn bounded(self) -> Option<Sizes> {
        self.dims.iter().all(is_short).then_some(self)
    }
}

/// Whether an expression is short enough to calculate with.
pub(super) fn is_short(dim: &Dim) -> bool {
    dim.as_const().is_some() || dim.to_string().len() <= TEXT
}

/// Whether `a ≤ b` for every value of the symbols (`Some(true)`), for none (`Some(false)`), or it depends.
pub(super) fn at_most(a: &Dim, b: &Dim, symbols: &Symbols) -> Option<bool> {
    match (b - a).bounds(symbols) {
        (lo, _) if lo >= 0 => Some(true),
        (_, hi) if hi < 0 => Some(false),
        _ => None,
    }
}

/// Whether `a = b` for every value of the symbols, for none, or it depends.
pub(super) fn equal(a: &Dim, b: &Dim, symbols: &Symbols) -> Option<bool> {
    if a == b {
        return Some(true);
    }
    let (lo, hi) = (a - b).bounds(symbols);
    (lo > 0 || hi < 0).then_some(false)
}

/// The smaller of the two, decided by the ranges of the symbols where they decide it.
pub(super) fn min(a: &Dim, b: &Dim, symbols: &Symbols) -> Dim {
    match at_most(a, b, symbols) {
        Some(true) => a.clone(),
        Some(false) => b.clone(),
        None => Dim::min(a, b),
    }
}

/// The larger of the two, decided by the ranges of the symbols where they decide it.
pub(super) fn max(a: &Dim, b: &Dim, symbols: &Symbols) -> Dim {
    match at_most(a, b, symbols) {
        Some(true) => b.clone(),
        Some(false) => a.clone(),
        None => Dim::max(a, b),
    }
}

/// ONNX's integer division, which drops the fraction; `None` where a sign depends on symbols.
pub(super) fn divide(a: &Dim, b: &Dim, symbols: &Symbols) -> Option<Dim> {
    if let (Some(a), Some(b)) = (a.as_const(), b.as_const()) {
        return a.checked_div(b).map(Dim::from);
    }
    if let Some(exact) = a.exact_div(b) {
        return Some(exact);
    }
    (a.bounds(symbols).0 >= 0 && b.bounds(symbols).0 > 0).then(|| a.floor_div(b))
}

/// A tensor of whole numbers.
pub(super) fn integers(dtype: DType, shape: Vec<usize>, values: &[i64]) -> Result<Tensor, String> {
    if dtype.is_float() {
        return floats(dtype, shape, &values.iter().map(|v| *v as f64).collect::<Vec<_>>());
    }
    let mut bytes = Vec::with_capacity(values.len() * dtype.size());
    for v in values {
        match dtype {
            DType::Bool => bytes.push(u8::from(*v != 0)),
            _ => bytes.extend_from_slice(&v.to_le_bytes()[..dtype.size()]),
        }
    }
    Tensor::new(dtype, shape, bytes.into())
}

/// A tensor of numbers, rounded to the element type.
pub(super) fn floats(dtype: DType, shape: Vec<usize>, values: &[f64]) -> Result<Tensor, String> {
    let mut bytes = Vec::with_capacity(values.len() * dtype.size());
    for v in values {
        match dtype {
            DType::F32 => bytes.extend_from_slice(&(*v as f32).to_le_bytes()),
            DType::F64 => bytes.extend_from_slice(&v.to_le_bytes()),
            _ => bytes.extend_from_slice(&Tensor::scalar(dtype, *v).bytes),
        }
    }
    Tensor::new(dtype, shape, bytes.into())
}
