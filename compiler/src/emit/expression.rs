//! Sizes, numbers and problems as Rust expressions.

use super::name::Names;
use bakelite_host::problem::*;
use bakelite_host::{DType, Problem, Scalar};
use bakelite_kernels::{Dim, Symbols};
use std::collections::BTreeMap;

/// How the symbols are called in Rust.
pub(super) struct Scope(BTreeMap<String, String>);

impl Scope {
    /// Names for all symbols.
    pub(super) fn new(symbols: &Symbols, names: &mut Names) -> Scope {
        Scope(symbols.keys().map(|s| (s.clone(), names.give(s, "size"))).collect())
    }

    /// A symbol's name.
    pub(super) fn ident(&self, symbol: &str) -> String {
        self.0.get(symbol).cloned().unwrap_or_else(|| symbol.to_owned())
    }

    /// The size as an i64.
    pub(super) fn int(&self, dim: &Dim) -> String {
        dim.substitute(&|s| Dim::symbol(&self.ident(s))).source("", "i64::max", "i64::min")
    }

    /// The size in another type.
    pub(super) fn cast(&self, dim: &Dim, to: &str) -> String {
        match dim.as_const() {
            Some(c) => c.to_string(),
            None => {
                let text = self.int(dim);
                let alone = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                if alone || enclosed(&text) { format!("{text} as {to}") } else { format!("({text}) as {to}") }
            }
        }
    }

    /// The size as a usize.
    pub(super) fn size(&self, dim: &Dim) -> String {
        self.cast(dim, "usize")
    }

    /// `a, b, c`
    pub(super) fn sizes(&self, dims: &[Dim]) -> String {
        dims.iter().map(|d| self.size(d)).collect::<Vec<_>>().join(", ")
    }

    /// `Access { ... }`
    fn access(&self, a: &Access<Dim>) -> String {
        format!("Access {{ offset: {}, strides: vec![{}] }}", self.size(&a.offset), self.sizes(&a.strides))
    }

    /// The problem as a struct literal, without its epilogue: that is written out in Rust.
    pub(super) fn problem(&self, problem: &Problem<Dim>) -> String {
        match problem {
            Problem::Pointwise(_) => String::new(),
            Problem::Gemm(p) => p.literal(self),
            Problem::Conv(p) => p.literal(self),
            Problem::ConvTranspose(p) => p.literal(self),
            Problem::Pool(p) => p.literal(self),
            Problem::Reduce(p) => p.literal(self),
            Problem::Excite(p) => p.literal(self),
            Problem::Squeeze(p) => p.literal(self),
            Problem::ArgReduce(p) => p.literal(self),
            Problem::Softmax(p) => p.literal(self),
            Problem::LayerNorm(p) => p.literal(self),
            Problem::GroupNorm(p) => p.literal(self),
            Problem::Lrn(p) => p.literal(self),
            Problem::Attention(p) => p.literal(self),
            Problem::Concat(p) => p.literal(self),
            Problem::Pad(p) => p.literal(self),
            Problem::Gather(p) => p.literal(self),
            Problem::GatherElements(p) => p.literal(self),
            Problem::Resize(p) => p.literal(self),
            Problem::CumSum(p) => p.literal(self),
            Problem::TopK(p) => p.literal(self),
        }
    }
}

/// Whether the first parenthesis closes at the end.
fn enclosed(text: &str) -> bool {
    let mut depth = 0;
    let closes = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    text.starts_with('(') && closes == Some(text.len() - 1)
}

/// What can stand in a struct literal.
trait Literal {
    fn literal(&self, scope: &Scope) -> String;
}

impl Literal for Dim {
    fn literal(&self, scope: &Scope) -> String {
        scope.size(self)
    }
}

impl<T: Literal> Literal for Box<T> {
    fn literal(&self, scope: &Scope) -> String {
        format!("Box::new({})", T::literal(self, scope))
    }
}

impl<T: Literal> Literal for Vec<T> {
    fn literal(&self, scope: &Scope) -> String {
        format!("vec![{}]", self.iter().map(|t| t.literal(scope)).collect::<Vec<_>>().join(", "))
    }
}

impl Literal for [Dim; 3] {
    fn literal(&self, scope: &Scope) -> String {
        format!("[{}]", scope.sizes(self))
    }
}

impl Literal for Access<Dim> {
    fn literal(&self, scope: &Scope) -> String {
        scope.access(self)
    }
}

impl Literal for Option<(DType, Access<Dim>)> {
    fn literal(&self, scope: &Scope) -> String {
        match self {
            None => "None".to_owned(),
            Some((dtype, access)) => format!("Some(({}, {}))", dtype.literal(scope), scope.access(access)),
        }
    }
}

impl Literal for Option<Added<Dim>> {
    fn literal(&self, scope: &Scope) -> String {
        self.as_ref().map_or_else(|| "None".to_owned(), |added| format!("Some({})", added.literal(scope)))
    }
}

impl Literal for Option<Box<Expand<Dim>>> {
    fn literal(&self, scope: &Scope) -> String {
        self.as_ref()
            .map_or_else(|| "None".to_owned(), |first| format!("Some({}.into())", first.literal(scope)))
    }
}

impl Literal for Option<Pooled<Dim>> {
    fn literal(&self, scope: &Scope) -> String {
        self.as_ref().map_or_else(|| "None".to_owned(), |pooled| format!("Some({})", pooled.literal(scope)))
    }
}

impl Literal for Epilogue<Dim> {
    fn literal(&self, _: &Scope) -> String {
        "Epilogue::apart()".to_owned()
    }
}

impl Literal for f32 {
    fn literal(&self, _: &Scope) -> String {
        float(f64::from(*self), "f32", format!("{self:?}"))
    }
}

macro_rules! plain {
    ($($t:ty),+) => {$(
        impl Literal for $t {
            fn literal(&self, _: &Scope) -> String { format!("{self:?}") }
        }
    )+};
}
plain!(bool, usize, i64);

// Enums: the debug text after the type's name.
macro_rules! named {
    ($($t:ident),+) => {$(
        impl Literal for $t {
            fn literal(&self, _: &Scope) -> String { format!(concat!(stringify!($t), "::{:?}"), self) }
        }
    )+};
}
named!(DType, Math, Layout, PoolKind, ReduceKind, PadMode, Coordinates, Interpolation);

macro_rules! literals {
    ($($name:ident { $($field:ident)* })+) => {$(
        impl Literal for $name<Dim> {
            fn literal(&self, scope: &Scope) -> String {
                let mut text = concat!(stringify!($name), " { ").to_owned();
                $(text += &format!(concat!(stringify!($field), ": {}, "), self.$field.literal(scope));)*
                text + "}"
            }
        }
    )+};
}
literals! {
    Gemm { batch m n k dtype math a b epilogue }
    Conv { n channels filters groups input output kernel strides dilations pads layout x scaled added expand pooled dtype math epilogue }
    Added { channels input strides }
    Expand { channels epilogue }
    Pooled { output kernel strides pads }
    ConvTranspose { n channels filters groups input output kernel strides dilations pads layout dtype epilogue }
    Pool { kind n channels input output kernel strides dilations pads pads_end layout dtype epilogue }
    Reduce { kind shape reduced dtype epilogue }
    Excite { n pixels channels hidden filters dtype first epilogue }
    Squeeze { conv excite }
    ArgReduce { max last outer len inner dtype }
    Softmax { log outer len inner dtype epilogue }
    LayerNorm { rms rows len epsilon bias dtype epilogue }
    GroupNorm { n channels groups spatial epsilon layout dtype epilogue }
    Lrn { n channels spatial size alpha beta bias dtype epilogue }
    Attention { batch heads kv_heads seq_q seq_k dim dim_v scale causal q k v mask out_heads_inner dtype }
    Concat { outer lens inner dtype epilogue }
    Pad { mode input output begin dtype }
    Gather { outer len inner count dtype index epilogue }
    GatherElements { axis input output dtype index }
    Resize { input output scales coordinates interpolation dtype epilogue }
    CumSum { outer len inner exclusive reverse dtype }
    TopK { outer len inner k largest dtype }
}

fn float(value: f64, of: &str, text: String) -> String {
    if value.is_nan() {
        format!("{of}::NAN")
    } else if value.is_infinite() {
        format!("{of}::{}INFINITY", if value < 0.0 { "NEG_" } else { "" })
    } else {
        text
    }
}

/// An immediate of a program.
pub(super) fn scalar(s: Scalar) -> String {
    match s {
        Scalar::F32(v) => float(f64::from(v), "f32", format!("{v:?}f32")),
        Scalar::F64(v) => float(v, "f64", format!("{v:?}f64")),
        Scalar::I64(i64::MIN) => "i64::MIN".to_owned(),
        Scalar::I64(v) => format!("{v}i64"),
        Scalar::Bool(v) => v.to_string(),
    }
}

/// The Rust type of an element, where `f16` and `bf16` are imported.
pub(super) fn element(dtype: DType) -> &'static str {
    dtype.name()
}
