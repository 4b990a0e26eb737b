//! A value's type: element type and symbolic shape.

use bakelite_host::DType;
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;
use std::fmt;
use std::str::FromStr;

/// Element type and shape of a value. Text form: `f32[batch,3,224,224]`, `i64[]` for a scalar.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Size of each dimension, outermost first.
    pub shape: Vec<Dim>,
}

impl Type {
    /// A type with the given sizes.
    pub fn new<D: Clone + Into<Dim>>(dtype: DType, shape: &[D]) -> Type {
        Type { dtype, shape: shape.iter().cloned().map(Into::into).collect() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn count(&self) -> Dim {
        product(&self.shape)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> Dim {
        self.count() * Dim::from(self.dtype.size())
    }

    /// The shape, if it has no symbols and no negative size.
    pub fn dims(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.as_const().and_then(|c| usize::try_from(c).ok())).collect()
    }

    /// The same shape with another element type.
    #[must_use]
    pub fn with_dtype(&self, dtype: DType) -> Type {
        Type { dtype, shape: self.shape.clone() }
    }

    /// Dense row-major strides in elements.
    pub fn strides(&self) -> Vec<Dim> {
        dense_strides(&self.shape)
    }
}

/// Row-major strides in elements of a dense tensor of `shape`.
pub fn dense_strides(shape: &[Dim]) -> Vec<Dim> {
    let mut strides = vec![Dim::from(1); shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        strides[d] = &strides[d + 1] * &shape[d + 1];
    }
    strides
}

/// The shape two shapes broadcast to (numpy's rule), or the two sizes that clash.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, String> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], d: usize| (d + s.len()).checked_sub(rank).map_or(Dim::from(1), |i| s[i].clone());
    (0..rank)
        .map(|d| match (at(a, d), at(b, d)) {
            (x, y) if x == y => Ok(x),
            (x, y) if x.is(1) => Ok(y),
            (x, y) if y.is(1) => Ok(x),
            (x, y) => {
                Err(format!("shapes {} and {} do not broadcast: sizes {x} and {y} differ", text(a), text(b)))
            }
        })
        .collect()
}

/// `[batch,3,224,224]`
pub fn text(shape: &[Dim]) -> String {
    format!("[{}]", shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(","))
}

/// The axis counted from the front, for an `axis` that may count from the back; an error names both.
pub fn normalize_axis(axis: i64, rank: usize) -> Result<usize, String> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_front)
        .ok()
        .filter(|a| *a < rank)
        .ok_or_else(|| format!("axis {axis} is outside a tensor of {rank} dimensions"))
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, text(&self.shape))
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Type {
    type Err = String;
    fn from_str(s: &str) -> Result<Type, String> {
        let (dtype, rest) =
            s.split_once('[').ok_or_else(|| format!("`{s}` is not a type; expected e.g. f32[2,3]"))?;
        let sizes = rest.strip_suffix(']').ok_or_else(|| format!("the type `{s}` lacks its `]`"))?;
        Ok(Type { dtype: dtype.parse()?, shape: super::attribute::parse_list(sizes)? })
    }
}
