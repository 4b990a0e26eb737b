//! Attributes of operators, and their text form: what stands between the braces in `conv(%0, %1) {strides=[2,2] groups=1}`.

use bakelite_host::DType;
use bakelite_host::problem::{Coordinates, Interpolation, Layout, Math, PadMode, PoolKind, ReduceKind};
use bakelite_kernels::Dim;
use std::collections::BTreeMap;
use std::str::FromStr;

/// A type that can stand as an attribute: its text contains no blank outside brackets, and parses back to an equal value.
pub trait Attribute: Sized {
    /// The text.
    fn print(&self) -> String;
    /// The value of a text, or what is wrong with it.
    fn parse(text: &str) -> Result<Self, String>;
}

/// Attributes by name, as parsed, each to be taken once.
#[derive(Debug, Default)]
pub struct Attributes(pub BTreeMap<String, String>);

impl Attributes {
    /// Removes and parses an attribute.
    pub fn take<T: Attribute>(&mut self, name: &str) -> Result<T, String> {
        let text = self.0.remove(name).ok_or_else(|| format!("the attribute `{name}` is missing"))?;
        T::parse(&text).map_err(|e| format!("attribute `{name}`: {e}"))
    }
}

/// The items of `a,b,(c,d)`: commas inside brackets do not separate.
pub fn parse_list<T: FromStr<Err = String>>(text: &str) -> Result<Vec<T>, String> {
    split_list(text).into_iter().map(str::parse).collect()
}

fn split_list(text: &str) -> Vec<&str> {
    let (mut items, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                items.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() || !items.is_empty() {
        items.push(text[start..].trim());
    }
    items
}

macro_rules! through_from_str {
    ($($t:ty),+) => {$(
        impl Attribute for $t {
            fn print(&self) -> String { self.to_string() }
            fn parse(text: &str) -> Result<$t, String> { text.parse().map_err(|e| format!("`{text}`: {e}")) }
        }
    )+};
}
through_from_str!(i64, usize, u32, bool, DType, Dim);

impl Attribute for f32 {
    fn print(&self) -> String {
        format!("{self:?}")
    }
    fn parse(text: &str) -> Result<f32, String> {
        text.parse().map_err(|e| format!("`{text}`: {e}"))
    }
}

impl<T: Attribute> Attribute for Vec<T> {
    fn print(&self) -> String {
        format!("[{}]", self.iter().map(Attribute::print).collect::<Vec<_>>().join(","))
    }
    fn parse(text: &str) -> Result<Vec<T>, String> {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let inner = inner.ok_or_else(|| format!("`{text}` is not a list; expected e.g. [1,2]"))?;
        split_list(inner).into_iter().map(T::parse).collect()
    }
}

macro_rules! words {
    ($t:ty { $($value:pat => $make:expr, $word:literal;)+ }) => {
        impl Attribute for $t {
            fn print(&self) -> String { match self { $($value => $word.to_owned(),)+ #[allow(unreachable_patterns)] other => format!("{other:?}") } }
            fn parse(text: &str) -> Result<$t, String> {
                match text {
                    $($word => Ok($make),)+
                    _ => Err(format!("`{text}` is none of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words! { Layout { Layout::ChannelsFirst => Layout::ChannelsFirst, "first"; Layout::ChannelsLast => Layout::ChannelsLast, "last"; } }
words! { Math { Math::Exact => Math::Exact, "exact"; Math::Tf32 => Math::Tf32, "tf32"; Math::Tf32x3 => Math::Tf32x3, "tf32x3"; } }
words! { PadMode { PadMode::Constant => PadMode::Constant, "constant"; PadMode::Reflect => PadMode::Reflect, "reflect";
PadMode::Edge => PadMode::Edge, "edge"; PadMode::Wrap => PadMode::Wrap, "wrap"; } }
words! { Coordinates { Coordinates::HalfPixel => Coordinates::HalfPixel, "half_pixel";
Coordinates::PytorchHalfPixel => Coordinates::PytorchHalfPixel, "pytorch_half_pixel";
Coordinates::AlignCorners => Coordinates::AlignCorners, "align_corners"; Coordinates::Asymmetric => Coordinates::Asymmetric, "asymmetric"; } }
words! { ReduceKind { ReduceKind::Sum => ReduceKind::Sum, "sum"; ReduceKind::Mean => ReduceKind::Mean, "mean";
ReduceKind::Max => ReduceKind::Max, "max"; ReduceKind::Min => ReduceKind::Min, "min"; ReduceKind::Prod => ReduceKind::Prod, "prod";
ReduceKind::SumSquare => ReduceKind::SumSquare, "sum_square"; ReduceKind::L1 => ReduceKind::L1, "l1"; ReduceKind::L2 => ReduceKind::L2, "l2";
ReduceKind::LogSum => ReduceKind::LogSum, "log_sum"; ReduceKind::LogSumExp => ReduceKind::LogSumExp, "log_sum_exp";
ReduceKind::Any => ReduceKind::Any, "any"; ReduceKind::All => ReduceKind::All, "all"; } }

impl Attribute for PoolKind {
    fn print(&self) -> String {
        match self {
            PoolKind::Max => "max".into(),
            PoolKind::Average { count_pads: false } => "average".into(),
            PoolKind::Average { count_pads: true } => "average_padded".into(),
            PoolKind::Lp(p) => format!("lp{p}"),
        }
    }
    fn parse(text: &str) -> Result<PoolKind, String> {
        match text {
            "max" => Ok(PoolKind::Max),
            "average" => Ok(PoolKind::Average { count_pads: false }),
            "average_padded" => Ok(PoolKind::Average { count_pads: true }),
            _ => text
                .strip_prefix("lp")
                .and_then(|p| p.parse().ok())
                .map(PoolKind::Lp)
                .ok_or_else(|| format!("`{text}` is none of max, average, average_padded, lp2")),
        }
    }
}

impl Attribute for Interpolation {
    fn print(&self) -> String {
        match self {
            Interpolation::NearestPreferFloor => "nearest_prefer_floor".into(),
            Interpolation::NearestPreferCeil => "nearest_prefer_ceil".into(),
            Interpolation::NearestFloor => "nearest_floor".into(),
            Interpolation::NearestCeil => "nearest_ceil".into(),
            Interpolation::Linear => "linear".into(),
            Interpolation::Cubic { a } => format!("cubic({a:?})"),
        }
    }
    fn parse(text: &str) -> Result<Interpolation, String> {
        Ok(match text {
            "nearest_prefer_floor" => Interpolation::NearestPreferFloor,
            "nearest_prefer_ceil" => Interpolation::NearestPreferCeil,
            "nearest_floor" => Interpolation::NearestFloor,
            "nearest_ceil" => Interpolation::NearestCeil,
            "linear" => Interpolation::Linear,
            _ => {
                let a = text
                    .strip_prefix("cubic(")
                    .and_then(|t| t.strip_suffix(')'))
                    .and_then(|a| a.parse().ok());
                Interpolation::Cubic { a: a.ok_or_else(|| format!("`{text}` is no interpolation"))? }
            }
        })
    }
}
