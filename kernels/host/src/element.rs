//! Element types as Rust types: how each widens to its class and narrows back, and the arithmetic kernels need.

use crate::dtype::DType;
use crate::parallel;
use bytemuck::{CheckedBitPattern, NoUninit};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

/// A Rust type that is an element type: f32, f64, f16, bf16, i8..u64, bool.
pub trait Element:
    NoUninit + CheckedBitPattern + Default + PartialOrd + Debug + Send + Sync + 'static
{
    /// What it computes in: the scalar of its [`crate::Class`].
    type Acc: Lane;
    /// Its tag.
    const DTYPE: DType;
    /// To the class, exactly (u64 wraps into i64).
    fn widen(self) -> Self::Acc;
    /// From the class: floats round to nearest even, integers wrap.
    fn narrow(acc: Self::Acc) -> Self;
    /// A number that compares as the element does; all NaN are one, above everything.
    fn rank(self) -> u64;

    /// `dst[i] = src[i].widen()` over the shorter of the two.
    fn widen_into(src: &[Self], dst: &mut [Self::Acc]) {
        for (d, &s) in dst.iter_mut().zip(src) {
            *d = s.widen();
        }
    }

    /// `dst[i] = narrow(src[i])` over the shorter of the two.
    fn narrow_into(src: &[Self::Acc], dst: &mut [Self]) {
        for (d, &s) in dst.iter_mut().zip(src) {
            *d = Self::narrow(s);
        }
    }

    /// The slice in its class, where the element type is the class's own.
    fn in_class(src: &[Self]) -> Option<&[Self::Acc]> {
        let _ = src;
        None
    }

    /// The slice in its class: borrowed where the element type is the class's own.
    fn widened(src: &[Self]) -> Cow<'_, [Self::Acc]> {
        let mut dst = vec![Self::Acc::default(); src.len()];
        parallel::rows_mut(&mut dst, 1, 1 << 14, &|first, d| Self::widen_into(&src[first..], d));
        Cow::Owned(dst)
    }
}

/// A class's scalar: f32, f64, i64 or bool.
pub trait Lane: Element<Acc = Self> {}

/// A class with arithmetic: f32, f64, i64 (wrapping; roots and logarithms truncate).
#[allow(missing_docs)]
pub trait Number: Lane + crate::matrix::Product {
    const ZERO: Self;
    const ONE: Self;
    /// The maximum of nothing.
    const LOWEST: Self;
    /// The minimum of nothing.
    const HIGHEST: Self;
    fn plus(self, b: Self) -> Self;
    fn minus(self, b: Self) -> Self;
    fn times(self, b: Self) -> Self;
    /// Zero when integers are divided by zero.
    fn over(self, b: Self) -> Self;
    fn magnitude(self) -> Self;
    fn of_count(n: usize) -> Self;
    /// Through f64.
    fn through(self, f: impl Fn(f64) -> f64) -> Self;
    fn exponential(self) -> Self;

    /// The larger; NaN if either is NaN.
    #[inline(always)]
    #[allow(clippy::eq_op)]
    fn larger(self, b: Self) -> Self {
        if self >= b || self != self { self } else { b }
    }

    /// The smaller; NaN if either is NaN.
    #[inline(always)]
    #[allow(clippy::eq_op)]
    fn smaller(self, b: Self) -> Self {
        if self <= b || self != self { self } else { b }
    }
}

/// f32 or f64.
#[allow(missing_docs)]
pub trait Float:
    Number
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
{
    fn from_f32(v: f32) -> Self;
    fn from_f64(v: f64) -> Self;
    fn to_f64(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn powf(self, e: Self) -> Self;
}

/// A floating-point element type: f32, f64, f16 or bf16; the last two compute in f32.
pub trait Real: Element<Acc: Float> {}
impl<T: Element<Acc: Float>> Real for T {}

macro_rules! lanes {
    ($($t:ident $d:ident $rank:expr;)*) => { $(
        impl Element for $t {
            type Acc = $t;
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn widen(self) -> $t { self }
            #[inline(always)]
            fn narrow(acc: $t) -> $t { acc }
            #[inline(always)]
            fn rank(self) -> u64 { ($rank)(self) }
            fn widened(src: &[$t]) -> Cow<'_, [$t]> { Cow::Borrowed(src) }
            fn in_class(src: &[$t]) -> Option<&[$t]> { Some(src) }
        }
        impl Lane for $t {}
    )* };
}
lanes! {
    f32 F32 |v| rank_float(f64::from(v));
    f64 F64 rank_float;
    i64 I64 |v| (v as u64) ^ (1 << 63);
    bool Bool u64::from;
}

/// The bits of an f64 in the order of its values.
fn rank_float(v: f64) -> u64 {
    if v.is_nan() {
        return u64::MAX;
    }
    let bits = (v + 0.0).to_bits(); // −0 + 0 is +0
    if v < 0.0 { !bits } else { bits | 1 << 63 }
}

macro_rules! integers {
    ($($t:ident $d:ident)*) => { $(
        impl Element for $t {
            type Acc = i64;
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn widen(self) -> i64 { self as i64 }
            #[inline(always)]
            fn narrow(acc: i64) -> $t { acc as $t }
            #[inline(always)]
            fn rank(self) -> u64 {
                if $t::MIN == 0 { self as u64 } else { (self as i64 as u64) ^ (1 << 63) }
            }
        }
    )* };
}
integers! { i8 I8 i16 I16 i32 I32 u8 U8 u16 U16 u32 U32 u64 U64 }

macro_rules! halves {
    ($($t:ident $d:ident)*) => { $(
        impl Element for $t {
            type Acc = f32;
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn widen(self) -> f32 { self.to_f32() }
            #[inline(always)]
            fn narrow(acc: f32) -> $t { $t::from_f32(acc) }
            #[inline(always)]
            fn rank(self) -> u64 { rank_float(self.to_f64()) }
            fn widen_into(src: &[$t], dst: &mut [f32]) {
                let n = src.len().min(dst.len());
                src[..n].convert_to_f32_slice(&mut dst[..n]);
            }
            fn narrow_into(src: &[f32], dst: &mut [$t]) {
                let n = src.len().min(dst.len());
                dst[..n].convert_from_f32_slice(&src[..n]);
            }
        }
    )* };
}
halves! { f16 F16 bf16 BF16 }

macro_rules! floats {
    ($($t:ident)*) => { $(
        impl Number for $t {
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            const LOWEST: $t = $t::NEG_INFINITY;
            const HIGHEST: $t = $t::INFINITY;
            #[inline(always)]
            fn plus(self, b: $t) -> $t { self + b }
            #[inline(always)]
            fn minus(self, b: $t) -> $t { self - b }
            #[inline(always)]
            fn times(self, b: $t) -> $t { self * b }
            #[inline(always)]
            fn over(self, b: $t) -> $t { self / b }
            #[inline(always)]
            fn magnitude(self) -> $t { self.abs() }
            fn of_count(n: usize) -> $t { n as $t }
            #[inline(always)]
            fn through(self, f: impl Fn(f64) -> f64) -> $t { f(f64::from(self)) as $t }
            #[inline(always)]
            fn exponential(self) -> $t { $t::exp(self) }
        }
        impl Float for $t {
            #[inline(always)]
            fn from_f32(v: f32) -> $t { $t::from(v) }
            #[inline(always)]
            fn from_f64(v: f64) -> $t { v as $t }
            #[inline(always)]
            fn to_f64(self) -> f64 { f64::from(self) }
            #[inline(always)]
            fn exp(self) -> $t { $t::exp(self) }
            #[inline(always)]
            fn ln(self) -> $t { $t::ln(self) }
            #[inline(always)]
            fn sqrt(self) -> $t { $t::sqrt(self) }
            #[inline(always)]
            fn powf(self, e: $t) -> $t { $t::powf(self, e) }
        }
    )* };
}
floats! { f32 f64 }

impl Number for i64 {
    const ZERO: i64 = 0;
    const ONE: i64 = 1;
    const LOWEST: i64 = i64::MIN;
    const HIGHEST: i64 = i64::MAX;
    #[inline(always)]
    fn plus(self, b: i64) -> i64 {
        self.wrapping_add(b)
    }
    #[inline(always)]
    fn minus(self, b: i64) -> i64 {
        self.wrapping_sub(b)
    }
    #[inline(always)]
    fn times(self, b: i64) -> i64 {
        self.wrapping_mul(b)
    }
    #[inline(always)]
    fn over(self, b: i64) -> i64 {
        self.checked_div(b).unwrap_or(0)
    }
    #[inline(always)]
    fn magnitude(self) -> i64 {
        self.wrapping_abs()
    }
    fn of_count(n: usize) -> i64 {
        n as i64
    }
    fn through(self, f: impl Fn(f64) -> f64) -> i64 {
        f(self as f64) as i64
    }
    fn exponential(self) -> i64 {
        (self as f64).exp() as i64
    }
}

/// `with_number!(dtype, T => expr, _ => other)`: the expression with `T` the Rust type of a float or integer type, and
/// another for bool.
macro_rules! with_number {
    ($dtype:expr, $t:ident => $body:expr, _ => $bool:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::DType::F16 => {
                type $t = half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            $crate::DType::I8 => {
                type $t = i8;
                $body
            }
            $crate::DType::I16 => {
                type $t = i16;
                $body
            }
            $crate::DType::I32 => {
                type $t = i32;
                $body
            }
            $crate::DType::I64 => {
                type $t = i64;
                $body
            }
            $crate::DType::U8 => {
                type $t = u8;
                $body
            }
            $crate::DType::U16 => {
                type $t = u16;
                $body
            }
            $crate::DType::U32 => {
                type $t = u32;
                $body
            }
            $crate::DType::U64 => {
                type $t = u64;
                $body
            }
            $crate::DType::Bool => $bool,
        }
    };
}

/// As `with_number!` over floats, with an arm for the rest.
macro_rules! with_real {
    ($dtype:expr, $t:ident => $body:expr, _ => $rest:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::DType::F16 => {
                type $t = half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            _ => $rest,
        }
    };
}

/// With `T` the unsigned integer as wide as the element type: for kernels that only move elements.
macro_rules! with_bits {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype.size() {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            _ => {
                type $t = u64;
                $body
            }
        }
    };
}
