//! Memory of a generated crate: one block with every buffer at a place of its own, and constant data beside it. Never
//! says what a place means: that is the plan's affair.

use crate::element::Element;
use crate::view::{RunError, View, ViewMut, bail};
use std::marker::PhantomData;
use std::ops::Range;

/// What every place is aligned to.
#[derive(Clone, Copy)]
#[repr(C, align(256))]
struct Block([u8; 256]);

// SAFETY: plain bytes without padding.
#[allow(unsafe_code)]
unsafe impl bytemuck::Zeroable for Block {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl bytemuck::Pod for Block {}

/// A place: `len` elements from byte `offset` on.
#[derive(Debug)]
pub struct Place<T> {
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

/// `len` elements of `T` from byte `offset` on.
pub const fn at<T>(offset: usize, len: usize) -> Place<T> {
    Place { offset, len, element: PhantomData }
}

impl<T> Place<T> {
    fn bytes(&self) -> Option<Range<usize>> {
        Some(self.offset..self.offset.checked_add(self.len.checked_mul(size_of::<T>())?)?)
    }
}

/// Zeroed memory, aligned to 256 bytes.
pub struct Arena(Vec<Block>);

impl Arena {
    /// Memory of at least so many bytes.
    pub fn new(bytes: usize) -> Arena {
        Arena(bytemuck::allocation::zeroed_vec(bytes.div_ceil(size_of::<Block>())))
    }

    /// The elements at one place.
    pub fn read<T: Element>(&self, place: Place<T>) -> Result<&[T], RunError> {
        constant(bytemuck::cast_slice(&self.0), place)
    }

    /// The elements at one place, to be written.
    pub fn write<T: Element>(&mut self, place: Place<T>) -> Result<&mut [T], RunError> {
        self.split((place,)).map(|(slice,)| slice)
    }

    /// The elements at several places, all to be read or written; places that overlap are an error.
    pub fn split<P: Places>(&mut self, places: P) -> Result<P::Slices<'_>, RunError> {
        places.split(bytemuck::cast_slice_mut(&mut self.0))
    }
}

/// As [`Arena::split`]: what steps begin with.
pub fn split<P: Places>(arena: &mut Arena, places: P) -> Result<P::Slices<'_>, RunError> {
    arena.split(places)
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} bytes)", self.0.len() * size_of::<Block>())
    }
}

/// The elements at a place of constant data, which is aligned as an arena is.
pub fn constant<T: Element>(data: &[u8], place: Place<T>) -> Result<&[T], RunError> {
    let bytes = place.bytes().and_then(|range| data.get(range));
    let Some(bytes) = bytes else {
        bail!("{} {} from byte {} do not lie in {} bytes", place.len, T::DTYPE, place.offset, data.len());
    };
    View { dtype: T::DTYPE, bytes }.as_slice()
}

fn elements<T: Element>(bytes: &mut [u8]) -> Result<&mut [T], RunError> {
    ViewMut { dtype: T::DTYPE, bytes }.into_mut_slice()
}

/// One or more places of an arena.
pub trait Places {
    /// Their elements.
    type Slices<'a>;
    /// Divides memory.
    fn split(self, memory: &mut [u8]) -> Result<Self::Slices<'_>, RunError>;
}

macro_rules! places {
    ($($t:ident $p:ident),+) => {
        impl<$($t: Element),+> Places for ($(Place<$t>,)+) {
            type Slices<'a> = ($(&'a mut [$t],)+);
            fn split(self, memory: &mut [u8]) -> Result<Self::Slices<'_>, RunError> {
                let ($($p,)+) = self;
                let size = memory.len();
                let places = [$($p.bytes()),+];
                let ranges = places.each_ref().map(|p| p.clone().unwrap_or(0..usize::MAX));
                let Ok([$($p),+]) = memory.get_disjoint_mut(ranges) else {
                    bail!("places overlap or do not lie in {size} bytes: {places:?}");
                };
                Ok(($(elements::<$t>($p)?,)+))
            }
        }
    };
}
places!(A a);
places!(A a, B b);
places!(A a, B b, C c);
places!(A a, B b, C c, D d);
places!(A a, B b, C c, D d, E e);
places!(A a, B b, C c, D d, E e, F f);
places!(A a, B b, C c, D d, E e, F f, G g);
places!(A a, B b, C c, D d, E e, F f, G g, H h);
places!(A a, B b, C c, D d, E e, F f, G g, H h, I i);
places!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j);
places!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k);
places!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k, L l);
places!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k, L l, M m);
places!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k, L l, M m, N n);
places!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k, L l, M m, N n, O o);
places!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k, L l, M m, N n, O o, P p);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_disjoint_and_inside() {
        let mut arena = Arena::new(600);
        let (x, y) = arena.split((at::<f32>(0, 2), at::<bool>(512, 3))).unwrap();
        x.copy_from_slice(&[1.0, 2.0]);
        y[1] = true;
        assert_eq!(arena.read(at::<f32>(0, 2)).unwrap(), [1.0, 2.0]);
        assert_eq!(arena.read(at::<bool>(512, 3)).unwrap(), [false, true, false]);
        assert!(arena.split((at::<f32>(0, 2), at::<u8>(7, 1))).is_err());
        assert!(arena.write(at::<i64>(256, 1 << 20)).is_err());
        assert!(arena.write(at::<i64>(8, usize::MAX)).is_err());
    }
}
