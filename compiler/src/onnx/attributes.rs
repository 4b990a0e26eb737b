//! Attributes of ONNX nodes with typed getters. Their errors say which attribute is wrong and how; the importer adds the
//! node and its operator.

use super::model::Scope;
use crate::ir::Tensor;
use indexmap::IndexMap;

/// The largest kernel, stride or padding: sums of a few of them cannot overflow.
const MOST: i64 = i32::MAX as i64;

/// An attribute's value.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    Tensor(Tensor),
    Graph(Box<Scope>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Texts(Vec<String>),
    /// A kind that no supported operator takes, by its name in the schema.
    Other(&'static str),
}

impl Attribute {
    fn kind(&self) -> &'static str {
        match self {
            Attribute::Float(_) => "a float",
            Attribute::Int(_) => "an int",
            Attribute::Text(_) => "a string",
            Attribute::Tensor(_) => "a tensor",
            Attribute::Graph(_) => "a graph",
            Attribute::Floats(_) => "a list of floats",
            Attribute::Ints(_) => "a list of ints",
            Attribute::Texts(_) => "a list of strings",
            Attribute::Other(kind) => kind,
        }
    }
}

/// A node's attributes by name, in the file's order.
#[derive(Clone, Debug, Default)]
pub struct Attributes(pub IndexMap<String, Attribute>);

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident $kind:literal $variant:ident($v:ident) -> $t:ty = $e:expr;)+) => {$(
        $(#[$doc])*
        pub fn $name(&self, name: &str) -> Result<Option<$t>, String> {
            match self.0.get(name) {
                None => Ok(None),
                Some(Attribute::$variant($v)) => Ok(Some($e)),
                Some(other) => Err(format!("attribute `{name}` is {}, expected {}", other.kind(), $kind)),
            }
        }
    )+};
}

impl Attributes {
    getters! {
        /// A number, if given.
        find_float "a float" Float(v) -> f32 = *v;
        /// An integer, if given.
        find_int "an int" Int(v) -> i64 = *v;
        /// A text, if given.
        find_text "a string" Text(v) -> &str = v;
        /// A tensor, if given.
        find_tensor "a tensor" Tensor(v) -> &Tensor = v;
        /// A subgraph, if given.
        find_graph "a graph" Graph(v) -> &Scope = v;
        /// Numbers, if given.
        find_floats "a list of floats" Floats(v) -> &[f32] = v;
        /// Integers, if given.
        find_ints "a list of ints" Ints(v) -> &[i64] = v;
    }

    /// Whether the attribute is given.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A number, or what it is when not given.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, String> {
        Ok(self.find_float(name)?.unwrap_or(default))
    }

    /// An integer, or what it is when not given.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        Ok(self.find_int(name)?.unwrap_or(default))
    }

    /// An integer that means yes or no.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, String> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// A text, or what it is when not given.
    pub fn text<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, String> {
        Ok(self.find_text(name)?.unwrap_or(default))
    }

    /// An integer that must be given.
    pub fn need_int(&self, name: &str) -> Result<i64, String> {
        self.find_int(name)?.ok_or_else(|| format!("the attribute `{name}` is missing"))
    }

    /// Integers that must be given.
    pub fn need_ints(&self, name: &str) -> Result<&[i64], String> {
        self.find_ints(name)?.ok_or_else(|| format!("the attribute `{name}` is missing"))
    }

    /// `n` non-negative integers, or `n` times the default when not given.
    pub fn sizes(&self, name: &str, n: usize, default: usize) -> Result<Vec<usize>, String> {
        let Some(ints) = self.find_ints(name)? else { return Ok(vec![default; n]) };
        if ints.len() != n {
            return Err(format!("attribute `{name}` has {} numbers, expected {n}", ints.len()));
        }
        ints.iter()
            .map(|i| match u32::try_from(*i) {
                Ok(size) if *i <= MOST => Ok(size as usize),
                _ => Err(format!("attribute `{name}` has the number {i}, which is not in 0..={MOST}")),
            })
            .collect()
    }
}
