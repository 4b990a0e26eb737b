//! Tensor maps: how the copy engine of sm_90 and later (TMA) walks a tensor in device memory.

use std::ffi::c_int;
use std::ptr;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::memory::DevicePtr;

/// An encoded tensor map; a kernel takes it by value ([`crate::Arg::Map`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(128))]
pub struct TensorMap {
    opaque: [u64; 16],
}

/// The elements of a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    U8 = 0,
    U16 = 1,
    U32 = 2,
    I32 = 3,
    U64 = 4,
    I64 = 5,
    F16 = 6,
    F32 = 7,
    F64 = 8,
    BF16 = 9,
    TF32 = 11,
}

/// How 16-byte pieces are permuted in shared memory against bank conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Swizzle {
    None = 0,
    B32 = 1,
    B64 = 2,
    B128 = 3,
}

/// What a tiled map says. All lists begin with the innermost dimension.
#[derive(Clone, Copy, Debug)]
pub struct Tiled<'a> {
    /// The element type.
    pub element: Element,
    /// The first element, aligned to 16 bytes.
    pub address: DevicePtr,
    /// The size of each dimension, in elements.
    pub dims: &'a [u64],
    /// The distance in bytes from one index to the next, of each dimension but the innermost; multiples of 16.
    pub strides: &'a [u64],
    /// The size of the tile that one copy moves, in elements.
    pub tile: &'a [u32],
    /// The layout of the tile in shared memory.
    pub swizzle: Swizzle,
}

/// What a map of windows over channels-last images says: channels, x, y, image, in this order.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// The element type.
    pub element: Element,
    /// The first element, aligned to 16 bytes.
    pub address: DevicePtr,
    /// The size of each dimension, in elements.
    pub dims: [u64; 4],
    /// The distance in bytes from one index to the next, of x, y and image; multiples of 16.
    pub strides: [u64; 3],
    /// Where the first window begins, x and y, from the image's first pixel, and the last from its last.
    pub corners: [[i32; 2]; 2],
    /// From one window to the next, x and y.
    pub steps: [u32; 2],
    /// How many channels of one tap, of how many windows, one copy moves.
    pub channels: u32,
    /// Likewise.
    pub windows: u32,
    /// The layout in shared memory.
    pub swizzle: Swizzle,
}

const PROMOTE_TO_256_BYTES: c_int = 3;

// What the driver refused, with its reason.
fn refused(error: Error, what: &dyn std::fmt::Debug) -> Error {
    match error {
        Error::Driver { call, code, name, text } => {
            Error::Driver { call, code, name, text: format!("{text}: {what:?}") }
        }
        other => other,
    }
}

impl TensorMap {
    /// Walks nothing.
    pub const EMPTY: TensorMap = TensorMap { opaque: [0; 16] };

    /// Encodes a tiled map. Elements of a tile outside the tensor are read as zeros and not written. Of an empty tensor the map
    /// is empty too: nothing is launched with it.
    pub fn tiled(gpu: &Gpu, what: &Tiled<'_>) -> Result<TensorMap> {
        let rank = check_lists(what)?;
        let steps = [1; 5];
        let mut map = TensorMap::EMPTY;
        if what.dims.contains(&0) {
            return Ok(map);
        }
        // SAFETY: the lists have the lengths that the rank says; the driver writes 128 bytes, aligned to 128.
        unsafe {
            gpu.bind()?.cuTensorMapEncodeTiled(
                ptr::from_mut(&mut map).cast(),
                what.element as c_int,
                rank,
                ptr::without_provenance_mut(what.address.0 as usize),
                what.dims.as_ptr(),
                what.strides.as_ptr(),
                what.tile.as_ptr(),
                steps.as_ptr(),
                0,
                what.swizzle as c_int,
                PROMOTE_TO_256_BYTES,
                0,
            )
        }
        .map_err(|error| refused(error, what))?;
        Ok(map)
    }

    /// Encodes a map of windows. Taps outside the images are read as zeros. Of an empty tensor the map is empty too.
    pub fn windows(gpu: &Gpu, what: &Windows) -> Result<TensorMap> {
        let [x, y] = what.steps;
        let steps = [1, x, y, 1];
        let mut map = TensorMap::EMPTY;
        if what.dims.contains(&0) {
            return Ok(map);
        }
        // SAFETY: the lists have the lengths that the rank asks for (two corners, three strides); the driver writes 128 bytes,
        // aligned to 128.
        unsafe {
            gpu.bind()?.cuTensorMapEncodeIm2col(
                ptr::from_mut(&mut map).cast(),
                what.element as c_int,
                4,
                ptr::without_provenance_mut(what.address.0 as usize),
                what.dims.as_ptr(),
                what.strides.as_ptr(),
                what.corners[0].as_ptr(),
                what.corners[1].as_ptr(),
                what.channels,
                what.windows,
                steps.as_ptr(),
                0,
                what.swizzle as c_int,
                PROMOTE_TO_256_BYTES,
                0,
            )
        }
        .map_err(|error| refused(error, what))?;
        Ok(map)
    }
}

/// The rank, where the lists agree on it: the driver reads as much of each as the rank says.
fn check_lists(what: &Tiled<'_>) -> Result<u32> {
    let rank = what.dims.len();
    let expected = vec![rank.clamp(1, 5), rank.clamp(1, 5) - 1, rank.clamp(1, 5)];
    let got = vec![rank, what.strides.len(), what.tile.len()];
    if expected == got {
        return Ok(rank as u32);
    }
    Err(Error::Shape { tensor: "a tensor map (lengths of dims, strides, tile)".to_owned(), expected, got })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_must_agree() {
        let map = Tiled {
            element: Element::BF16,
            address: DevicePtr(256),
            dims: &[64, 8],
            strides: &[128],
            tile: &[64, 8],
            swizzle: Swizzle::B128,
        };
        assert_eq!(check_lists(&map), Ok(2));
        assert!(check_lists(&Tiled { strides: &[], ..map }).is_err());
        assert!(check_lists(&Tiled { tile: &[64], ..map }).is_err());
        assert!(check_lists(&Tiled { dims: &[], strides: &[], tile: &[], ..map }).is_err());
        assert!(check_lists(&Tiled { dims: &[1; 6], strides: &[16; 5], tile: &[1; 6], ..map }).is_err());
    }
}
