//! The text form of a graph (`.mir`), which dumps are written in and tests are read from. Never holds big constants: they
//! print as their hash, and such a text does not parse back.
//!
//! ```text
//! graph "digits" {
//!   symbol batch = 1..64 opt 8
//!   %0 = input "image": f32[batch,1,8,8]
//!   %1 = const "conv1.weight": f32[32,1,3,3] blake3:9f2a...   // big data: its hash
//!   %2 = const "bias": f32[2] = [0.5,1.0]                     // at most 16 elements
//!   %3 = const "half": f32[1,32,1,1] = 0.5                    // every element the same
//!   %4 = const "seeded": f32[32,1,3,3] random:7               // only read, for tests: data from a seed
//!   %5 = conv(%0, %1) {strides=[1,1] ...}: f32[batch,32,8,8]  // "conv1 (Conv)"
//!   %6 = top_k(%5) {k=2 axis=1 largest=true}: f32[batch,2,8,8], i64[batch,2,8,8]
//!   output "best" = %6.1
//! }
//! ```
//!
//! Nodes are numbered densely in print order. The types of operators may be left out; written ones are checked. A quoted
//! string in the comment behind a node is its name.

mod parse;

use super::graph::{Graph, Kind, NodeId, Value};
use super::tensor::Tensor;
use super::types::Type;
use bakelite_host::DType;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// Constants of at most so many elements are printed in full.
const LITERAL: usize = 16;
/// The most elements that a parsed fill or seed may ask for: a text must not allocate what it does not hold.
const LARGEST: usize = 1 << 26;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {} {{", quote(&self.name))?;
        for (name, range) in &self.symbols {
            writeln!(f, "  symbol {name} = {}..{} opt {}", range.min, range.max, range.opt)?;
        }
        let order = self.order();
        let number: HashMap<NodeId, usize> = order.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        let text = |v: &Value| {
            let node = number.get(&v.node).map_or("?".to_owned(), usize::to_string);
            if v.result == 0 { format!("%{node}") } else { format!("%{node}.{}", v.result) }
        };
        for (n, id) in order.iter().enumerate() {
            let node = self.node(*id);
            let types = node.types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
            write!(f, "  %{n} = ")?;
            match &node.kind {
                Kind::Input => {
                    let public = self.inputs.iter().find(|(_, i)| i == id).map_or("", |(name, _)| name);
                    writeln!(f, "input {}: {types}", quote(public))?;
                }
                Kind::Constant(tensor) => {
                    writeln!(f, "const {}: {types} {}", quote(&node.name), data_text(tensor))?;
                }
                Kind::Op(op) => {
                    let operands = node.inputs.iter().map(text).collect::<Vec<_>>().join(", ");
                    write!(f, "{}({operands})", op.name())?;
                    let attributes = op.attributes();
                    if !attributes.is_empty() {
                        let pairs = attributes.iter().map(|(name, value)| format!("{name}={value}"));
                        write!(f, " {{{}}}", pairs.collect::<Vec<_>>().join(" "))?;
                    }
                    write!(f, ": {types}")?;
                    if node.name.is_empty() {
                        writeln!(f)?
                    } else {
                        writeln!(f, "  // {}", quote(&node.name))?
                    }
                }
            }
        }
        for (name, value) in &self.outputs {
            writeln!(f, "  output {} = {}", quote(name), text(value))?;
        }
        writeln!(f, "}}")
    }
}

/// A string between quotes; quotes, backslashes and control characters escaped.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn data_text(tensor: &Tensor) -> String {
    let size = tensor.dtype.size();
    let element = |bytes: &[u8]| -> String {
        let one = Tensor { dtype: tensor.dtype, shape: vec![], bytes: bytes::Bytes::copy_from_slice(bytes) };
        match tensor.dtype {
            DType::U64 => one.elements::<u64>().first().map_or(String::new(), u64::to_string),
            DType::Bool => (one.to_i64() != [0]).to_string(),
            DType::F64 => format!("{:?}", one.to_f64().first().copied().unwrap_or(0.0)),
            d if d.is_float() => format!("{:?}", one.to_f64().first().copied().unwrap_or(0.0) as f32),
            _ => one.to_i64().first().map_or(String::new(), i64::to_string),
        }
    };
    if tensor.count() <= LITERAL {
        let elements = tensor.bytes.chunks_exact(size).map(element).collect::<Vec<_>>();
        return format!("= [{}]", elements.join(","));
    }
    let first = &tensor.bytes[..size];
    if tensor.bytes.chunks_exact(size).all(|e| e == first) {
        return format!("= {}", element(first));
    }
    format!("blake3:{}", &blake3::hash(&tensor.bytes).to_hex()[..16])
}

/// Where a text is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong: what was expected and what was found.
    pub what: String,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for TextError {}

impl FromStr for Graph {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Graph, TextError> {
        parse::Parser::parse(text).map_err(|(at, what)| {
            let before = &text[..at];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            TextError { line, column, what }
        })
    }
}

/// Deterministic data for tests: floats uniform in -1..1, integers in 0..8, either bool.
pub fn random(dtype: DType, shape: Vec<usize>, seed: u64) -> Tensor {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes = Vec::new();
    for _ in 0..shape.iter().product::<usize>() {
        let bits = next();
        let unit = (bits >> 40) as f64 / (1u64 << 23) as f64 - 1.0;
        let value = if dtype.is_float() { unit } else { (bits >> 61) as f64 };
        let value = if dtype == DType::Bool { f64::from((bits >> 63) as u8) } else { value };
        bytes.extend_from_slice(&Tensor::scalar(dtype, value).bytes);
    }
    Tensor { dtype, shape, bytes: bytes.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"graph "a \"b\"" {
  symbol batch = 1..64 opt 8
  %0 = input "x": f32[batch,8]
  %1 = const "w": f32[8] = [0.5,-1.0,2.0,1e-20,inf,-inf,0.1,3.0]
  %2 = add(%0, %1): f32[batch,8]  // "add1 (Add)"
  %3 = const "half": f16[1,32] = 0.5
  %4 = top_k(%2) {k=2 axis=1 largest=true}: f32[batch,2], i64[batch,2]
  %5 = cast(%4.1) {to=f32}: f32[batch,2]
  output "best" = %4
  output "at" = %5
  output "half" = %3
}
"#;

    #[test]
    fn text_round_trips() {
        let graph: Graph = TEXT.parse().unwrap();
        let printed = graph.to_string();
        let again: Graph = printed.parse().unwrap();
        assert_eq!(again.to_string(), printed);
        assert!(printed.contains("%2 = add(%0, %1): f32[batch,8]  // \"add1 (Add)\""), "{printed}");
        assert!(printed.contains("= [0.5,-1.0,2.0,1e-20,inf,-inf,0.1,3.0]"), "{printed}");
    }

    #[test]
    fn errors_have_a_place() {
        let check = |from: &str, to: &str, line: usize, column: usize, what: &str| {
            assert!(TEXT.contains(from), "{from}");
            let error = TEXT.replacen(from, to, 1).parse::<Graph>().unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{error}");
            assert!(error.what.contains(what), "{error}");
        };
        check("add(%0", "add(%9", 5, 12, "%9 is not defined");
        check("add(%0, %1)", "add(%0; %1)", 5, 14, "expected `,` or `)`, found `; %1)");
        check("): f32[batch,8]", "): f32[batch,9]", 5, 21, "written as f32[batch,9]");
        check("k=2 ", "", 7, 8, "attribute `k` is missing");
        check("k=2 ", "k=2 m=1 ", 7, 8, "no attribute `m`");
        check("%4.1", "%4.2", 8, 13, "%4 has 2 results");
        check("1..64", "1.64", 2, 19, "expected `..`");
        check("1..64 opt 8", "1..64 opt 80", 2, 10, "not ordered");
        check("f16[1,32]", "f16[1,99999999999]", 6, 22, "too many elements");
        check("[0.5,-1.0,2.0", "[0.5,-1.0", 4, 26, "7 elements for the type f32[8]");
        check("graph", "grape", 1, 1, "expected `graph`");
    }

    #[test]
    fn cut_text_is_an_error_not_a_panic() {
        for end in (0..TEXT.trim_end().len()).filter(|e| TEXT.is_char_boundary(*e)) {
            assert!(TEXT[..end].parse::<Graph>().is_err(), "{end}");
        }
    }
}
