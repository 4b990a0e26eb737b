//! Pointwise operators, one row each: name, meaning on the host for each class, and in CUDA C++.
//! The rows know nothing of tensors; [`crate::program`] strings them together.

use crate::dtype::Class;

/// How a row's operands and result are typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// All operands of one class, the result of the same.
    Same,
    /// All operands of one class, the result a bool.
    Test,
    /// A bool, then two of one class, which is the result's: `select(c, a, b)`.
    Select,
}

macro_rules! rows {
    (
        unary($ua:ident) { $( $U:ident $u:ident float[$($uf:expr)?] int[$($ui:expr)?] bool[$($ub:expr)?] $uc:literal; )* }
        binary($ba:ident, $bb:ident) { $( $B:ident $b:ident float[$($bf:expr)?] int[$($bi:expr)?] bool[$($bo:expr)?] $bc:literal; )* }
        test1($sa:ident) { $( $S:ident $s:ident float[$($sf:expr)?] int[$($si:expr)?] bool[$($so:expr)?] $sc:literal; )* }
        test2($ta:ident, $tb:ident) { $( $T:ident $t:ident float[$($tf:expr)?] int[$($ti:expr)?] bool[$($to:expr)?] $tc:literal; )* }
    ) => {
        /// A pointwise operator: one row of the table in this file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Pw { $($U,)* $($B,)* $($S,)* $($T,)* Select }

        impl Pw {
            /// Every row, in the table's order.
            pub const ALL: &'static [Pw] = &[$(Pw::$U,)* $(Pw::$B,)* $(Pw::$S,)* $(Pw::$T,)* Pw::Select];

            /// Lower-case name: text forms use it, and the scalar function is called so.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Pw::$U => stringify!($u),)* $(Pw::$B => stringify!($b),)*
                    $(Pw::$S => stringify!($s),)* $(Pw::$T => stringify!($t),)* Pw::Select => "select",
                }
            }

            /// Number of operands.
            pub const fn arity(self) -> usize {
                match self { $(Pw::$U => 1,)* $(Pw::$B => 2,)* $(Pw::$S => 1,)* $(Pw::$T => 2,)* Pw::Select => 3 }
            }

            /// How operands and result are typed.
            pub const fn signature(self) -> Signature {
                match self {
                    $(Pw::$U => Signature::Same,)* $(Pw::$B => Signature::Same,)*
                    $(Pw::$S => Signature::Test,)* $(Pw::$T => Signature::Test,)* Pw::Select => Signature::Select,
                }
            }

            /// The CUDA C++ expression over operands `a`, `b` (and `c`, the condition of `select`) of scalar type `T`.
            pub const fn cuda(self) -> &'static str {
                match self {
                    $(Pw::$U => $uc,)* $(Pw::$B => $bc,)* $(Pw::$S => $sc,)* $(Pw::$T => $tc,)*
                    Pw::Select => "(c ? a : b)",
                }
            }
        }

        module! { /// Scalar functions on f32 (f16 and bf16 compute here too).
            f32 f32
            unary($ua) { $($U $u [$($uf)?])* } binary($ba, $bb) { $($B $b [$($bf)?])* }
            test1($sa) { $($S $s [$($sf)?])* } test2($ta, $tb) { $($T $t [$($tf)?])* } }
        module! { /// Scalar functions on f64.
            f64 f64
            unary($ua) { $($U $u [$($uf)?])* } binary($ba, $bb) { $($B $b [$($bf)?])* }
            test1($sa) { $($S $s [$($sf)?])* } test2($ta, $tb) { $($T $t [$($tf)?])* } }
        module! { /// Scalar functions on integers, all widened to i64, wrapping.
            i64 i64
            unary($ua) { $($U $u [$($ui)?])* } binary($ba, $bb) { $($B $b [$($bi)?])* }
            test1($sa) { $($S $s [$($si)?])* } test2($ta, $tb) { $($T $t [$($ti)?])* } }
        module! { /// Scalar functions on booleans.
            bool bool
            unary($ua) { $($U $u [$($ub)?])* } binary($ba, $bb) { $($B $b [$($bo)?])* }
            test1($sa) { $($S $s [$($so)?])* } test2($ta, $tb) { $($T $t [$($to)?])* } }
    };
}

macro_rules! module {
    ($(#[$doc:meta])* $module:ident $ty:ident
        unary($ua:ident) { $($U:ident $u:ident [$($uf:expr)?])* } binary($ba:ident, $bb:ident) { $($B:ident $b:ident [$($bf:expr)?])* }
        test1($sa:ident) { $($S:ident $s:ident [$($sf:expr)?])* } test2($ta:ident, $tb:ident) { $($T:ident $t:ident [$($tf:expr)?])* }
    ) => {
        $(#[$doc])*
        #[allow(missing_docs, unused_imports, unused_variables, unreachable_code, clippy::float_cmp, clippy::bool_comparison, clippy::eq_op)]
        #[allow(clippy::excessive_precision, clippy::unnecessary_cast)]
        pub mod $module {
            use super::{Pw, math};
            type T = $ty;
            $($(#[inline(always)] pub fn $u($ua: T) -> T { $uf })?)*
            $($(#[inline(always)] pub fn $b($ba: T, $bb: T) -> T { $bf })?)*
            $($(#[inline(always)] pub fn $s($sa: T) -> bool { $sf })?)*
            $($(#[inline(always)] pub fn $t($ta: T, $tb: T) -> bool { $tf })?)*
            /// `if c { a } else { b }`
            #[inline(always)]
            pub fn select(c: bool, a: T, b: T) -> T { if c { a } else { b } }

            /// `out[i] = op(a[i])`; false when this class has no such operator.
            pub fn apply1(op: Pw, out: &mut [T], a: &[T]) -> bool {
                match op { $($(Pw::$U => for (o, &$ua) in out.iter_mut().zip(a) { *o = $uf },)?)* _ => return false }
                true
            }
            /// `out[i] = op(a[i], b[i])`; false when this class has no such operator.
            pub fn apply2(op: Pw, out: &mut [T], a: &[T], b: &[T]) -> bool {
                match op {
                    $($(Pw::$B => for ((o, &$ba), &$bb) in out.iter_mut().zip(a).zip(b) { *o = $bf },)?)*
                    _ => return false,
                }
                true
            }
            /// `out[i] = test(a[i])`; false when this class has no such operator.
            pub fn test1(op: Pw, out: &mut [bool], a: &[T]) -> bool {
                match op { $($(Pw::$S => for (o, &$sa) in out.iter_mut().zip(a) { *o = $sf },)?)* _ => return false }
                true
            }
            /// `out[i] = test(a[i], b[i])`; false when this class has no such operator.
            pub fn test2(op: Pw, out: &mut [bool], a: &[T], b: &[T]) -> bool {
                match op {
                    $($(Pw::$T => for ((o, &$ta), &$tb) in out.iter_mut().zip(a).zip(b) { *o = $tf },)?)*
                    _ => return false,
                }
                true
            }
            /// Whether this class has the operator.
            pub fn has(op: Pw) -> bool {
                match op.arity() {
                    3 => true,
                    2 => apply2(op, &mut [], &[], &[]) || test2(op, &mut [], &[], &[]),
                    _ => apply1(op, &mut [], &[]) || test1(op, &mut [], &[]),
                }
            }
        }
    };
}

// `T` is the class's scalar type in both languages; the CUDA text may use any function of prelude.cuh.
rows! {
    unary(a) {
        Neg      neg      float[-a]            int[a.wrapping_neg()] bool[]   "(-a)";
        Abs      abs      float[a.abs()]       int[a.wrapping_abs()] bool[]   "(a < T(0) ? -a : a)";
        Sign     sign     float[if a > 0.0 { 1.0 } else if a < 0.0 { -1.0 } else { a }] int[a.signum()] bool[]
                          "(a > T(0) ? T(1) : a < T(0) ? T(-1) : a)";
        Not      not      float[]              int[!a]               bool[!a] "pw_not(a)";
        Floor    floor    float[a.floor()]     int[a] bool[] "floor(a)";
        Ceil     ceil     float[a.ceil()]      int[a] bool[] "ceil(a)";
        Round    round    float[a.round_ties_even()] int[a] bool[] "rint(a)";
        Trunc    trunc    float[a.trunc()]     int[a] bool[] "trunc(a)";
        Recip    recip    float[1.0 / a]       int[] bool[] "(T(1) / a)";
        Sqrt     sqrt     float[a.sqrt()]      int[] bool[] "sqrt(a)";
        Rsqrt    rsqrt    float[1.0 / a.sqrt()] int[] bool[] "rsqrt(a)";
        Exp      exp      float[a.exp()]       int[] bool[] "exp(a)";
        Log      log      float[a.ln()]        int[] bool[] "log(a)";
        Log1p    log1p    float[a.ln_1p()]     int[] bool[] "log1p(a)";
        Sin      sin      float[a.sin()]       int[] bool[] "sin(a)";
        Cos      cos      float[a.cos()]       int[] bool[] "cos(a)";
        Tan      tan      float[a.tan()]       int[] bool[] "tan(a)";
        Asin     asin     float[a.asin()]      int[] bool[] "asin(a)";
        Acos     acos     float[a.acos()]      int[] bool[] "acos(a)";
        Atan     atan     float[a.atan()]      int[] bool[] "atan(a)";
        Sinh     sinh     float[a.sinh()]      int[] bool[] "sinh(a)";
        Cosh     cosh     float[a.cosh()]      int[] bool[] "cosh(a)";
        Tanh     tanh     float[a.tanh()]      int[] bool[] "tanh(a)";
        Asinh    asinh    float[a.asinh()]     int[] bool[] "asinh(a)";
        Acosh    acosh    float[a.acosh()]     int[] bool[] "acosh(a)";
        Atanh    atanh    float[a.atanh()]     int[] bool[] "atanh(a)";
        Erf      erf      float[math::Erf::erf(a)] int[] bool[] "erf(a)";
        Sigmoid  sigmoid  float[1.0 / (1.0 + (-a).exp())] int[] bool[] "pw_quotient(T(1), T(1) + pw_power(-a))";
        Silu     silu     float[a / (1.0 + (-a).exp())]   int[] bool[] "pw_quotient(a, T(1) + pw_power(-a))";
        Relu     relu     float[if a < 0.0 { 0.0 } else { a }] int[a.max(0)] bool[] "pw_relu(a)";
        Gelu     gelu     float[0.5 * a * (1.0 + math::Erf::erf(a * std::f64::consts::FRAC_1_SQRT_2 as T))] int[] bool[]
                          "pw_gelu(a)";
        GeluTanh gelu_tanh float[0.5 * a * (1.0 + (0.797_884_560_802_865_4 * (a + 0.044_715 * a * a * a)).tanh())] int[] bool[]
                          "pw_quotient(a, T(1) + pw_power(T(-1.5957691216057307) * (a + T(0.044715) * a * a * a)))";
        Softplus softplus float[if a > 0.0 { a + (-a).exp().ln_1p() } else { a.exp().ln_1p() }] int[] bool[]
                          "(a > T(0) ? a + log1p(exp(-a)) : log1p(exp(a)))";
        Softsign softsign float[a / (1.0 + a.abs())] int[] bool[] "(a / (T(1) + (a < T(0) ? -a : a)))";
        HardSwish hard_swish float[a * (a + 3.0).clamp(0.0, 6.0) / 6.0] int[] bool[]
                          "(a * min(max(a + T(3), T(0)), T(6)) * T(0.16666666666666667))";
    }
    binary(a, b) {
        Add      add      float[a + b]         int[a.wrapping_add(b)] bool[] "(a + b)";
        Sub      sub      float[a - b]         int[a.wrapping_sub(b)] bool[] "(a - b)";
        Mul      mul      float[a * b]         int[a.wrapping_mul(b)] bool[] "(a * b)";
        // Integer division by zero is undefined in ONNX; here it is 0, never a trap.
        Div      div      float[a / b]         int[a.checked_div(b).unwrap_or(0)] bool[] "pw_div(a, b)";
        // C's remainder (sign of the dividend), ONNX Mod with fmod=1.
        Rem      rem      float[a % b]         int[a.checked_rem(b).unwrap_or(0)] bool[] "pw_rem(a, b)";
        // Python's modulo (sign of the divisor), ONNX Mod with fmod=0.
        Mod      modulo   float[a - (a / b).floor() * b] int[math::floor_mod(a, b)] bool[] "pw_mod(a, b)";
        Pow      pow      float[a.powf(b)]     int[math::int_pow(a, b)] bool[] "pw_pow(a, b)";
        // NaN in either operand gives NaN, as ONNX Min and Max ask.
        Min      min      float[if a < b || a.is_nan() { a } else { b }] int[a.min(b)] bool[] "pw_min(a, b)";
        Max      max      float[if a > b || a.is_nan() { a } else { b }] int[a.max(b)] bool[] "pw_max(a, b)";
        Atan2    atan2    float[a.atan2(b)]    int[] bool[] "atan2(a, b)";
        // `prelu(x, slope)`: also LeakyRelu with a constant slope.
        Prelu    prelu    float[if a < 0.0 { a * b } else { a }] int[if a < 0 { a.wrapping_mul(b) } else { a }] bool[]
                          "(a < T(0) ? a * b : a)";
        // `elu(x, alpha)` = x < 0 ? alpha * (e^x - 1) : x
        Elu      elu      float[if a < 0.0 { b * a.exp_m1() } else { a }] int[] bool[] "(a < T(0) ? b * expm1(a) : a)";
        And      and      float[]              int[a & b]            bool[a & b] "(a & b)";
        Or       or       float[]              int[a | b]            bool[a | b] "(a | b)";
        Xor      xor      float[]              int[a ^ b]            bool[a ^ b] "(a ^ b)";
        Shl      shl      float[]              int[if (0..64).contains(&b) { a << b } else { 0 }] bool[] "pw_shl(a, b)";
        Shr      shr      float[]              int[if (0..64).contains(&b) { ((a as u64) >> b) as i64 } else { 0 }] bool[] "pw_shr(a, b)";
    }
    test1(a) {
        IsNan    is_nan   float[a.is_nan()]    int[{ let _ = a; false }] bool[] "(a != a)";
        IsInf    is_inf   float[a.is_infinite()] int[{ let _ = a; false }] bool[] "pw_is_inf(a)";
    }
    test2(a, b) {
        Eq       eq       float[a == b]        int[a == b]           bool[a == b] "(a == b)";
        Ne       ne       float[a != b]        int[a != b]           bool[a != b] "(a != b)";
        Lt       lt       float[a < b]         int[a < b]            bool[!a & b] "(a < b)";
        Le       le       float[a <= b]        int[a <= b]           bool[a <= b] "(a <= b)";
        Gt       gt       float[a > b]         int[a > b]            bool[a & !b] "(a > b)";
        Ge       ge       float[a >= b]        int[a >= b]           bool[a >= b] "(a >= b)";
    }
}

impl Pw {
    /// Whether operands of `class` are defined.
    pub fn has(self, class: Class) -> bool {
        match class {
            Class::F32 => f32::has(self),
            Class::F64 => f64::has(self),
            Class::I64 => i64::has(self),
            Class::Bool => bool::has(self),
        }
    }
}

impl std::fmt::Display for Pw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Pw {
    type Err = String;
    fn from_str(s: &str) -> Result<Pw, String> {
        Pw::ALL
            .iter()
            .copied()
            .find(|p| p.name() == s)
            .ok_or_else(|| format!("unknown pointwise operator `{s}`"))
    }
}

/// Scalar mathematics the standard library lacks.
pub mod math {
    use std::sync::LazyLock;

    /// A float with an error function: f64 by series, f32 from a table, for networks are full of it.
    pub trait Erf {
        /// The error function, to the type's precision.
        fn erf(self) -> Self;
    }

    impl Erf for f64 {
        #[inline]
        fn erf(self) -> f64 {
            erf(self)
        }
    }

    /// Points of the table per unit.
    const GRID: f64 = 32.0;
    /// At each point x, erf x and its derivative 2/√π · e^{-x²}; f32 rounds erf to 1 before the table ends.
    static TABLE: LazyLock<Vec<(f64, f64)>> = LazyLock::new(|| {
        let point = |i: u32| {
            let x = f64::from(i) / GRID;
            (erf(x), std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp())
        };
        (0..=128).map(point).collect()
    });

    impl Erf for f32 {
        /// Five terms of the Taylor series about the nearest point of the table; the rest is below 1e-9 of the value.
        #[inline]
        fn erf(self) -> f32 {
            let a = f64::from(self.abs());
            if a >= 4.0 {
                return self.signum();
            }
            let i = (a * GRID).round();
            // NaN reads the first entry, and d carries it on.
            let Some(&(value, slope)) = TABLE.get(i as usize) else { return self };
            let x = i / GRID;
            let d = a - x;
            let xx = x * x;
            // Hermite: erf⁽ⁿ⁺¹⁾(x) = (−1)ⁿ Hₙ(x) · erf'(x).
            let tail = d
                * ((4.0 * xx - 2.0) / 6.0
                    + d * ((12.0 - 8.0 * xx) * x / 24.0 + d * ((16.0 * xx - 48.0) * xx + 12.0) / 120.0));
            let series = d * (1.0 + d * (-x + tail));
            (value + slope * series).copysign(f64::from(self)) as f32
        }
    }

    /// The error function to double precision: the confluent series (Abramowitz and Stegun 7.1.6) below 2.5, the
    /// continued fraction of erfc (7.1.14) above.
    pub fn erf(x: f64) -> f64 {
        let a = x.abs();
        if a > 6.0 {
            return x.signum();
        }
        if a < 2.5 {
            // erf x = 2/√π · e^{-x²} · Σ 2^n x^(2n+1) / (2n+1)!!: every term positive, so nothing cancels.
            let (mut term, mut sum, mut n) = (a, a, 0.0);
            while term > sum * 1e-17 {
                n += 1.0;
                term *= 2.0 * a * a / (2.0 * n + 1.0);
                sum += term;
            }
            return x.signum() * sum * (-a * a).exp() * std::f64::consts::FRAC_2_SQRT_PI;
        }
        // erfc x = e^{-x²}/√π · 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))), from the tail.
        let mut f = 0.0;
        for n in (1..=40).rev() {
            f = f64::from(n) / 2.0 / (a + f);
        }
        let erfc = (-a * a).exp() / (a + f) * std::f64::consts::FRAC_2_SQRT_PI * 0.5;
        x.signum() * (1.0 - erfc)
    }

    /// Python's `%`; 0 when the divisor is 0.
    pub fn floor_mod(a: i64, b: i64) -> i64 {
        let r = a.checked_rem(b).unwrap_or(0);
        if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
    }

    /// Wrapping integer power; a negative exponent gives 0 except for bases 1 and -1.
    pub fn int_pow(a: i64, b: i64) -> i64 {
        match (a, b) {
            (_, 0..) => a.wrapping_pow(u32::try_from(b).unwrap_or(u32::MAX)),
            (1, _) => 1,
            (-1, _) => 1 - 2 * (b & 1),
            _ => 0,
        }
    }
}
