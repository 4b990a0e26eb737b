//! Conversions between classes as functions, for pointwise programs written out in Rust; ONNX Cast semantics: floats
//! truncate toward zero and saturate into integers, integers wrap, anything but zero is true.

use half::{bf16, f16};

/// A class's scalar, to be converted.
#[allow(missing_docs)]
pub trait Cast: Copy {
    fn to_f32(self) -> f32;
    fn to_f64(self) -> f64;
    fn to_bool(self) -> bool;
    fn to_i8(self) -> i8;
    fn to_i16(self) -> i16;
    fn to_i32(self) -> i32;
    fn to_i64(self) -> i64;
    fn to_u8(self) -> u8;
    fn to_u16(self) -> u16;
    fn to_u32(self) -> u32;
    fn to_u64(self) -> u64;
}

macro_rules! casts {
    ($($from:ident $wide:expr, $f32:expr, $bool:expr;)+) => { $(
        impl Cast for $from {
            #[inline(always)]
            fn to_f32(self) -> f32 { ($f32)(self) }
            #[inline(always)]
            fn to_f64(self) -> f64 { ($wide)(self) as f64 }
            #[inline(always)]
            fn to_bool(self) -> bool { ($bool)(self) }
            casts! { to_i8 i8 $wide; to_i16 i16 $wide; to_i32 i32 $wide; to_i64 i64 $wide;
                to_u8 u8 $wide; to_u16 u16 $wide; to_u32 u32 $wide; to_u64 u64 $wide; @ }
        }
    )+ };
    ($($name:ident $to:ident $wide:expr;)+ @) => { $(
        #[inline(always)]
        fn $name(self) -> $to { ($wide)(self) as $to }
    )+ };
}

casts! {
    f32 |x| x, |x| x, |x| x != 0.0;
    f64 |x| x, |x| x as f32, |x| x != 0.0;
    // f32 straight from the integer: through f64 would round twice.
    i64 |x| x, |x| x as f32, |x| x != 0;
    bool u8::from, |x| f32::from(u8::from(x)), |x| x;
}

macro_rules! to {
    ($($name:ident $class:ident $method:ident;)+) => { $(
        /// To what an element of the type holds, in its class.
        #[inline(always)]
        pub fn $name(x: impl Cast) -> $class { x.$method() as $class }
    )+ };
}

to! {
    to_f32 f32 to_f32; to_f64 f64 to_f64; to_i8 i64 to_i8; to_i16 i64 to_i16; to_i32 i64 to_i32; to_i64 i64 to_i64;
    to_u8 i64 to_u8; to_u16 i64 to_u16; to_u32 i64 to_u32; to_u64 i64 to_u64; to_bool bool to_bool;
}

/// Rounded as an f16 is.
#[inline(always)]
pub fn to_f16(x: impl Cast) -> f32 {
    f16::from_f64(x.to_f64()).to_f32()
}

/// Rounded as a bf16 is.
#[inline(always)]
pub fn to_bf16(x: impl Cast) -> f32 {
    bf16::from_f64(x.to_f64()).to_f32()
}
