//! Constant data: a dense tensor whose bytes are shared, often a piece of the memory-mapped model file.

use bakelite_host::DType;
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

/// A dense, row-major tensor of known contents. Cloning shares the bytes.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Little-endian elements; may be unaligned.
    pub bytes: Bytes,
}

impl Tensor {
    /// A tensor of `bytes`, or an error when their number does not fit the shape.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Tensor, String> {
        let expected = shape.iter().try_fold(dtype.size(), |n, d| n.checked_mul(*d));
        if expected != Some(bytes.len()) {
            let sizes = expected.map_or("an impossible number of".to_owned(), |n| n.to_string());
            return Err(format!("{dtype}{shape:?} needs {sizes} bytes, but there are {}", bytes.len()));
        }
        Ok(Tensor { dtype, shape, bytes })
    }

    /// A tensor of plain elements, whose type must be the one `dtype` stands for.
    pub fn of<T: bytemuck::NoUninit>(
        dtype: DType,
        shape: Vec<usize>,
        elements: &[T],
    ) -> Result<Tensor, String> {
        Tensor::new(dtype, shape, Bytes::copy_from_slice(bytemuck::cast_slice(elements)))
    }

    /// A one-element f32, f64, integer or bool tensor of rank 0; the value is converted to `dtype`.
    pub fn scalar(dtype: DType, value: f64) -> Tensor {
        let bytes = match dtype {
            DType::F32 => (value as f32).to_le_bytes().to_vec(),
            DType::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
            DType::F64 => value.to_le_bytes().to_vec(),
            DType::Bool => vec![u8::from(value != 0.0)],
            int => (value as i64).to_le_bytes()[..int.size()].to_vec(),
        };
        Tensor { dtype, shape: vec![], bytes: bytes.into() }
    }

    /// A tensor of floats, rounded to `dtype`, a floating-point type.
    pub fn from_f64(dtype: DType, shape: Vec<usize>, values: &[f64]) -> Result<Tensor, String> {
        let mut bytes = Vec::with_capacity(values.len() * dtype.size());
        for value in values {
            match dtype {
                DType::F32 => bytes.extend((*value as f32).to_le_bytes()),
                DType::F64 => bytes.extend(value.to_le_bytes()),
                DType::F16 => bytes.extend(half::f16::from_f64(*value).to_le_bytes()),
                DType::BF16 => bytes.extend(half::bf16::from_f64(*value).to_le_bytes()),
                _ => return Err(format!("{dtype} is no floating-point type")),
            }
        }
        Tensor::new(dtype, shape, bytes.into())
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// The elements, if `T` has the element type's size; copied only when the bytes are unaligned.
    pub fn elements<T: bytemuck::Pod>(&self) -> Cow<'_, [T]> {
        match bytemuck::try_cast_slice(&self.bytes) {
            Ok(slice) => Cow::Borrowed(slice),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(&self.bytes)),
        }
    }

    /// Every element as i64 (floats truncated).
    pub fn to_i64(&self) -> Vec<i64> {
        match self.dtype {
            DType::I8 => self.elements::<i8>().iter().map(|v| i64::from(*v)).collect(),
            DType::I16 => self.elements::<i16>().iter().map(|v| i64::from(*v)).collect(),
            DType::I32 => self.elements::<i32>().iter().map(|v| i64::from(*v)).collect(),
            DType::I64 => self.elements::<i64>().to_vec(),
            DType::U8 | DType::Bool => self.elements::<u8>().iter().map(|v| i64::from(*v)).collect(),
            DType::U16 => self.elements::<u16>().iter().map(|v| i64::from(*v)).collect(),
            DType::U32 => self.elements::<u32>().iter().map(|v| i64::from(*v)).collect(),
            DType::U64 => self.elements::<u64>().iter().map(|v| *v as i64).collect(),
            _ => self.to_f64().iter().map(|v| *v as i64).collect(),
        }
    }

    /// Every element as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        match self.dtype {
            DType::F32 => self.elements::<f32>().iter().map(|v| f64::from(*v)).collect(),
            DType::F64 => self.elements::<f64>().to_vec(),
            DType::F16 => self.elements::<half::f16>().iter().map(|v| v.to_f64()).collect(),
            DType::BF16 => self.elements::<half::bf16>().iter().map(|v| v.to_f64()).collect(),
            _ => self.to_i64().iter().map(|v| *v as f64).collect(),
        }
    }

    /// The single value, if there is exactly one element or all elements are bit-identical.
    pub fn uniform(&self) -> Option<f64> {
        let first = self.bytes.get(..self.dtype.size())?;
        if !self.bytes.chunks_exact(self.dtype.size()).all(|e| e == first) {
            return None;
        }
        let one = Tensor { dtype: self.dtype, shape: vec![], bytes: self.bytes.slice(..self.dtype.size()) };
        one.to_f64().first().copied()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}
