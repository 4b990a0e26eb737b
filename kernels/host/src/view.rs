//! Borrowed tensors without a shape: an element type and bytes. The problem knows the shape.

use crate::dtype::DType;
use crate::element::Element;
use std::fmt;

/// Why a problem could not be run: a sentence with the values that do not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunError(pub String);

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RunError {}

impl From<String> for RunError {
    fn from(s: String) -> RunError {
        RunError(s)
    }
}

/// `bail!("...")`: returns a [`RunError`].
macro_rules! bail {
    ($($t:tt)*) => { return Err($crate::view::RunError(format!($($t)*))) };
}
pub(crate) use bail;

/// Elements to read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the bytes are.
    pub dtype: DType,
    /// Native-endian elements, aligned to the element's size.
    pub bytes: &'a [u8],
}

/// Elements to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// What the bytes are.
    pub dtype: DType,
    /// Native-endian elements, aligned to the element's size.
    pub bytes: &'a mut [u8],
}

fn check(dtype: DType, bytes: &[u8]) -> Result<(), RunError> {
    let size = dtype.size();
    if !bytes.len().is_multiple_of(size) {
        bail!("{} bytes are no whole number of {dtype} elements of {size} bytes", bytes.len());
    }
    if !bytes.is_empty() && !(bytes.as_ptr() as usize).is_multiple_of(size) {
        bail!("{dtype} elements at address {:p} are not aligned to {size} bytes", bytes.as_ptr());
    }
    Ok(())
}

fn mismatch<T: Element>(dtype: DType) -> RunError {
    RunError(format!("the elements are {dtype}, not {}", T::DTYPE))
}

impl<'a> View<'a> {
    /// A view of a slice.
    pub fn of<T: Element>(data: &'a [T]) -> View<'a> {
        View { dtype: T::DTYPE, bytes: bytemuck::cast_slice(data) }
    }

    /// A view of bytes; an error if they are misaligned or not a whole number of elements.
    pub fn new(dtype: DType, bytes: &'a [u8]) -> Result<View<'a>, RunError> {
        check(dtype, bytes)?;
        Ok(View { dtype, bytes })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements; an error for another type, misaligned bytes, or a bool that is neither 0 nor 1.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], RunError> {
        if self.dtype != T::DTYPE {
            return Err(mismatch::<T>(self.dtype));
        }
        self.verify()?;
        if self.bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::checked::try_cast_slice(self.bytes)
            .map_err(|e| RunError(format!("the bytes are no {} elements: {e}", self.dtype)))
    }

    /// Whether length and alignment fit the element type.
    pub fn verify(&self) -> Result<(), RunError> {
        check(self.dtype, self.bytes)
    }
}

impl<'a> ViewMut<'a> {
    /// A view of a slice.
    pub fn of<T: Element + bytemuck::AnyBitPattern>(data: &'a mut [T]) -> ViewMut<'a> {
        ViewMut { dtype: T::DTYPE, bytes: bytemuck::cast_slice_mut(data) }
    }

    /// A view of bytes; an error if they are misaligned or not a whole number of elements.
    pub fn new(dtype: DType, bytes: &'a mut [u8]) -> Result<ViewMut<'a>, RunError> {
        check(dtype, bytes)?;
        Ok(ViewMut { dtype, bytes })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements; an error for another type or misaligned bytes. Bytes that are no bool read as false.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], RunError> {
        self.reborrow().into_mut_slice()
    }

    /// The elements for as long as the bytes; see [`ViewMut::as_mut_slice`].
    pub fn into_mut_slice<T: Element>(self) -> Result<&'a mut [T], RunError> {
        if self.dtype != T::DTYPE {
            return Err(mismatch::<T>(self.dtype));
        }
        self.verify()?;
        if self.bytes.is_empty() {
            return Ok(&mut []);
        }
        if self.dtype == DType::Bool {
            self.bytes.iter_mut().filter(|b| **b > 1).for_each(|b| *b = 0);
        }
        bytemuck::checked::try_cast_slice_mut(self.bytes)
            .map_err(|e| RunError(format!("the bytes are no {} elements: {e}", T::DTYPE)))
    }

    /// To read what it holds.
    pub fn as_view(&self) -> View<'_> {
        View { dtype: self.dtype, bytes: self.bytes }
    }

    /// The same bytes for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { dtype: self.dtype, bytes: self.bytes }
    }

    /// Whether length and alignment fit the element type.
    pub fn verify(&self) -> Result<(), RunError> {
        check(self.dtype, self.bytes)
    }
}
