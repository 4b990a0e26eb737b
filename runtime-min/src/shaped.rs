//! Between nested arrays, whose shape the compiler checks, and the flat slices that kernels see. Nothing is copied.

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};
use half::{bf16, f16};

use crate::error::{Error, Result};

/// An element of a tensor. Every one is valid as zero bytes and has no padding.
pub trait Scalar:
    NoUninit + Zeroable + CheckedBitPattern + PartialEq + std::fmt::Debug + Send + Sync
{
    /// Fills elements with what `read` puts into their bytes. Where not every bit pattern is an element (`bool`), it
    /// reads into other memory first, and every byte but 0 is true.
    fn fill_from(values: &mut [Self], read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()>;
}

fn fill_plain<T: Pod>(values: &mut [T], read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
    read(bytemuck::cast_slice_mut(values))
}

macro_rules! scalars {
    ($($type:ident)*) => { $(
        impl Scalar for $type {
            fn fill_from(values: &mut [Self], read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
                fill_plain(values, read)
            }
        }
        impl_shaped!($type);
    )* };
}

macro_rules! impl_shaped {
    ($type:ident) => {
        // SAFETY: one element, itself.
        unsafe impl Shaped for $type {
            type Elem = $type;
            const LEN: usize = 1;
            fn push_dims(_: &mut Vec<usize>) {}
        }
    };
}

scalars!(f32 f64 f16 bf16 i8 i16 i32 i64 u8 u16 u32 u64);

impl Scalar for bool {
    fn fill_from(values: &mut [bool], read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let mut bytes = vec![0; values.len()];
        read(&mut bytes)?;
        for (value, byte) in values.iter_mut().zip(bytes) {
            *value = byte != 0;
        }
        Ok(())
    }
}
impl_shaped!(bool);

/// A scalar, or an array of something shaped: `[[[f32; 224]; 224]; 3]`.
///
/// # Safety
/// The type is laid out as `LEN` elements of `Elem`, one after the other.
pub unsafe trait Shaped: Copy + Zeroable + Send + Sync + 'static {
    /// The element.
    type Elem: Scalar;
    /// How many elements.
    const LEN: usize;

    /// Appends the dimensions, outermost first.
    #[doc(hidden)]
    fn push_dims(dims: &mut Vec<usize>);
}

// SAFETY: an array is laid out as its items, one after the other, without padding between them.
unsafe impl<A: Shaped, const N: usize> Shaped for [A; N] {
    type Elem = A::Elem;
    const LEN: usize = N * A::LEN;

    fn push_dims(dims: &mut Vec<usize>) {
        dims.push(N);
        A::push_dims(dims);
    }
}

/// The dimensions of a shaped type, outermost first: `[3, 224, 224]`.
pub fn dims<A: Shaped>() -> Vec<usize> {
    let mut dims = Vec::new();
    A::push_dims(&mut dims);
    dims
}

/// The elements of an array, in row-major order.
pub fn flat<A: Shaped>(array: &A) -> &[A::Elem] {
    flat_rows(std::slice::from_ref(array))
}

/// The elements of an array, to be written.
pub fn flat_mut<A: Shaped>(array: &mut A) -> &mut [A::Elem] {
    flat_rows_mut(std::slice::from_mut(array))
}

/// The elements of a tensor whose leading dimension is dynamic.
pub fn flat_rows<A: Shaped>(rows: &[A]) -> &[A::Elem] {
    // SAFETY: `Shaped` promises that each row is `LEN` elements.
    unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), rows.len() * A::LEN) }
}

/// The elements of a tensor whose leading dimension is dynamic, to be written.
pub fn flat_rows_mut<A: Shaped>(rows: &mut [A]) -> &mut [A::Elem] {
    // SAFETY: as in `flat_rows`; every element that can be written there is valid in the array.
    unsafe { std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast(), rows.len() * A::LEN) }
}

/// Sees elements as an array. Their number must be right.
pub fn shaped<A: Shaped>(elements: &[A::Elem]) -> Result<&A> {
    if elements.len() != A::LEN {
        return Err(Error::Shape { tensor: String::new(), expected: dims::<A>(), got: vec![elements.len()] });
    }
    // SAFETY: `Shaped` promises that `A` is `LEN` elements, and thereby its alignment.
    Ok(unsafe { &*elements.as_ptr().cast() })
}

/// Sees elements as a tensor whose leading dimension is dynamic. Their number must be a multiple of a row's.
pub fn shaped_rows<A: Shaped>(elements: &[A::Elem]) -> Result<&[A]> {
    let refuse = |rows| {
        let expected = [vec![rows], dims::<A>()].concat();
        Err(Error::Shape { tensor: String::new(), expected, got: vec![elements.len()] })
    };
    if A::LEN == 0 {
        return if elements.is_empty() { Ok(&[]) } else { refuse(0) };
    }
    let rows = elements.len() / A::LEN;
    if elements.len() % A::LEN != 0 {
        return refuse(rows);
    }
    // SAFETY: as in `shaped`, for each row.
    Ok(unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), rows) })
}

/// An array of zeros that was never on the stack, where an image batch would not fit.
pub fn boxed_zeroed<A: Shaped>() -> Box<A> {
    bytemuck::allocation::zeroed_box()
}

/// Rows of zeros: a tensor whose leading dimension is dynamic.
pub fn rows_zeroed<A: Shaped>(rows: usize) -> Vec<A> {
    bytemuck::allocation::zeroed_vec(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_flat_in_row_major_order() {
        let mut array = [[1i64, 2, 3], [4, 5, 6]];
        assert_eq!(flat(&array), [1, 2, 3, 4, 5, 6]);
        flat_mut(&mut array)[3] = 40;
        assert_eq!(array[1][0], 40);
        assert_eq!(dims::<[[[bf16; 4]; 3]; 2]>(), [2, 3, 4]);
        assert_eq!(<[[[bf16; 4]; 3]; 2]>::LEN, 24);
        assert_eq!(flat(&7u8), [7]);
        assert!(dims::<f32>().is_empty());
    }

    #[test]
    fn slices_take_a_shape_of_their_size_only() {
        let flat = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(shaped::<[[f32; 3]; 2]>(&flat), Ok(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]));
        let error = shaped::<[[f32; 2]; 2]>(&flat).unwrap_err().of_tensor("scores");
        assert_eq!(error.to_string(), "scores has the wrong shape: expected [2, 2], got [6]");
    }

    #[test]
    fn the_leading_dimension_may_be_dynamic() {
        let rows = [[true, false], [false, true], [true, true]];
        assert_eq!(flat_rows(&rows), [true, false, false, true, true, true]);
        assert_eq!(shaped_rows::<[bool; 2]>(flat_rows(&rows)), Ok(&rows[..]));
        assert_eq!(shaped_rows::<[f64; 2]>(&[]), Ok(&[][..]));
        let error = shaped_rows::<[u8; 4]>(&[0; 9]).unwrap_err();
        assert_eq!(error, Error::Shape { tensor: String::new(), expected: vec![2, 4], got: vec![9] });
    }

    #[test]
    fn empty_dimensions_are_allowed() {
        assert_eq!(flat(&[[0f32; 0]; 5]), [0f32; 0]);
        assert_eq!(shaped::<[[i8; 0]; 5]>(&[]), Ok(&[[0; 0]; 5]));
        assert_eq!(shaped_rows::<[i8; 0]>(&[]), Ok(&[][..]));
        assert!(shaped_rows::<[i8; 0]>(&[1]).is_err());
        assert_eq!(*boxed_zeroed::<[u16; 0]>(), [0; 0]);
    }

    #[test]
    fn a_large_array_is_made_off_the_stack() {
        let array = boxed_zeroed::<[[[f32; 1024]; 1024]; 16]>();
        assert!(flat(&*array).iter().all(|&value| value == 0.0));
        assert_eq!(rows_zeroed::<[bool; 2]>(3), [[false; 2]; 3]);
    }

    #[test]
    fn a_boolean_is_any_byte_but_zero() {
        let mut values = [false; 3];
        let fill = |bytes: &mut [u8]| {
            bytes.copy_from_slice(&[0, 2, 255]);
            Ok(())
        };
        bool::fill_from(&mut values, fill).unwrap();
        assert_eq!(values, [false, true, true]);
        let mut numbers = [0u16; 1];
        u16::fill_from(&mut numbers, |bytes| {
            bytes.copy_from_slice(&258u16.to_ne_bytes());
            Ok(())
        })
        .unwrap();
        assert_eq!(numbers, [258]);
    }
}
