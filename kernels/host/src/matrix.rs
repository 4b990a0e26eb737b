//! Strided matrix products: the one place that calls the SIMD kernels, and the one that shares an output among threads.

use std::marker::PhantomData;

/// A strided matrix to read: element `(i, j)` is `data[i · strides[0] + j · strides[1]]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, A> {
    /// Where its elements lie; `(0, 0)` is the first.
    pub data: &'a [A],
    /// Elements from one row, and from one column, to the next.
    pub strides: [usize; 2],
}

/// Whether a product may use the thread pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The caller is one of many.
    One,
    /// All there are.
    All,
}

/// A scalar with a matrix product.
pub trait Product: Copy + Send + Sync {
    /// `c = a·b` for `[m, n, k]`, none of which is zero.
    ///
    /// # Safety
    /// Every element the sizes and strides reach lies in an allocation, readable or (for `c`) writable, and nobody else
    /// touches those of `c` meanwhile.
    #[allow(unsafe_code)]
    unsafe fn product(
        mnk: [usize; 3],
        a: (*const Self, [usize; 2]),
        b: (*const Self, [usize; 2]),
        c: (*mut Self, [usize; 2]),
        threads: Threads,
    );
    /// The sum of nothing.
    const NOTHING: Self;
}

macro_rules! simd {
    ($($t:ident)*) => { $(
        impl Product for $t {
            const NOTHING: $t = 0.0;
            #[allow(unsafe_code)]
            unsafe fn product(
                [m, n, k]: [usize; 3],
                (a, [ar, ac]): (*const $t, [usize; 2]),
                (b, [br, bc]): (*const $t, [usize; 2]),
                (c, [cr, cc]): (*mut $t, [usize; 2]),
                threads: Threads,
            ) {
                let parallelism = match threads {
                    Threads::One => gemm::Parallelism::None,
                    Threads::All => gemm::Parallelism::Rayon(0),
                };
                // SAFETY: the caller's contract is that of this call; strides of slices fit isize.
                unsafe {
                    gemm::gemm(
                        m, n, k,
                        c, cc as isize, cr as isize, false,
                        a, ac as isize, ar as isize,
                        b, bc as isize, br as isize,
                        0.0, 1.0, false, false, false,
                        parallelism,
                    );
                }
            }
        }
    )* };
}
simd! { f32 f64 }

impl Product for i64 {
    const NOTHING: i64 = 0;
    #[allow(unsafe_code)]
    unsafe fn product(
        [m, n, k]: [usize; 3],
        (a, [ar, ac]): (*const i64, [usize; 2]),
        (b, [br, bc]): (*const i64, [usize; 2]),
        (c, [cr, cc]): (*mut i64, [usize; 2]),
        _: Threads,
    ) {
        for i in 0..m {
            for j in 0..n {
                let sum = (0..k).fold(0i64, |sum, l| {
                    // SAFETY: within the extents the caller vouches for.
                    let (a, b) = unsafe { (*a.add(i * ar + l * ac), *b.add(l * br + j * bc)) };
                    sum.wrapping_add(a.wrapping_mul(b))
                });
                // SAFETY: likewise.
                unsafe { *c.add(i * cr + j * cc) = sum };
            }
        }
    }
}

/// An output that several threads write in disjoint parts.
#[derive(Debug)]
pub struct Tiles<'a, A> {
    at: *mut A,
    len: usize,
    life: PhantomData<&'a mut [A]>,
}

// SAFETY: it is a mutable slice whose users promise, call by call, to keep their parts disjoint.
#[allow(unsafe_code)]
unsafe impl<A: Send> Sync for Tiles<'_, A> {}

fn reach(rows: usize, cols: usize, strides: [usize; 2]) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * strides[0] + (cols - 1) * strides[1] + 1 }
}

impl<'a, A: Product> Tiles<'a, A> {
    /// All of an output.
    pub fn of(data: &'a mut [A]) -> Tiles<'a, A> {
        Tiles { at: data.as_mut_ptr(), len: data.len(), life: PhantomData }
    }

    /// `c = a·b` where `c` begins at `offset`; panics if any of the three leaves its slice.
    ///
    /// # Safety
    /// No other thread touches the elements of `c` meanwhile.
    #[allow(unsafe_code)]
    pub unsafe fn multiply(
        &self,
        [m, n, k]: [usize; 3],
        a: Matrix<'_, A>,
        b: Matrix<'_, A>,
        (offset, strides): (usize, [usize; 2]),
        threads: Threads,
    ) {
        let fits = reach(m, k, a.strides) <= a.data.len()
            && reach(k, n, b.strides) <= b.data.len()
            && reach(m, n, strides) <= self.len.saturating_sub(offset);
        assert!(fits, "a {m}x{n}x{k} product leaves its operands");
        if m == 0 || n == 0 {
            return;
        }
        // SAFETY: all three extents were just checked, and the caller keeps others from `c`.
        unsafe {
            let c = self.at.add(offset);
            if k == 0 {
                for i in 0..m {
                    for j in 0..n {
                        *c.add(i * strides[0] + j * strides[1]) = A::NOTHING;
                    }
                }
                return;
            }
            A::product(
                [m, n, k],
                (a.data.as_ptr(), a.strides),
                (b.data.as_ptr(), b.strides),
                (c, strides),
                threads,
            );
        }
    }

    /// A contiguous part; panics if it leaves the output.
    ///
    /// # Safety
    /// No other thread touches these elements while the slice lives.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub unsafe fn part(&self, offset: usize, len: usize) -> &mut [A] {
        assert!(offset <= self.len && len <= self.len - offset, "a part leaves its output");
        // SAFETY: in bounds, and the caller keeps parts disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(offset), len) }
    }
}

/// `c = a·b` for `[m, n, k]`; panics if a matrix leaves its slice.
pub fn multiply<A: Product>(
    mnk: [usize; 3],
    a: Matrix<'_, A>,
    b: Matrix<'_, A>,
    (c, strides): (&mut [A], [usize; 2]),
    threads: Threads,
) {
    // SAFETY: `c` is borrowed mutably, so nobody else touches it.
    #[allow(unsafe_code)]
    unsafe {
        Tiles::of(c).multiply(mnk, a, b, (0, strides), threads);
    }
}
