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

use super::attribute::Attributes;
use super::graph::{Graph, Kind, NodeId, Value};
use super::tensor::Tensor;
use super::types::Type;
use crate::ops::Op;
use bakelite_host::DType;
use bakelite_kernels::dim::Range;
use std::collections::{BTreeMap, HashMap};
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
        let mut parser = Parser { text, at: 0, graph: Graph::default(), nodes: HashMap::new() };
        let parsed = parser.graph();
        match parsed {
            Ok(()) => Ok(parser.graph),
            Err((at, what)) => {
                let before = &text[..at];
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
                Err(TextError { line, column, what })
            }
        }
    }
}

/// Byte position and message.
type Failure = (usize, String);

struct Parser<'a> {
    text: &'a str,
    at: usize,
    graph: Graph,
    nodes: HashMap<u64, NodeId>,
}

impl<'a> Parser<'a> {
    fn graph(&mut self) -> Result<(), Failure> {
        self.keyword("graph")?;
        self.graph.name = self.string()?;
        self.expect("{")?;
        loop {
            self.skip();
            if self.take("}") {
                break;
            }
            if self.rest().starts_with('%') {
                self.node()?;
                continue;
            }
            let at = self.at;
            match self.word() {
                "symbol" => self.symbol()?,
                "output" => self.output()?,
                _ => return Err(self.expected(at, "a node `%0 = ...`, `symbol`, `output` or `}`")),
            }
        }
        self.skip();
        if self.rest().is_empty() { Ok(()) } else { Err(self.expected(self.at, "the end after `}`")) }
    }

    // symbol batch = 1..64 opt 8
    fn symbol(&mut self) -> Result<(), Failure> {
        self.skip();
        let at = self.at;
        let name = self.word();
        if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return Err(self.expected(at, "the name of a symbol"));
        }
        self.expect("=")?;
        let min = self.integer()?;
        self.expect("..")?;
        let max = self.integer()?;
        self.keyword("opt")?;
        let opt = self.integer()?;
        if !(0 <= min && min <= opt && opt <= max) {
            return Err((at, format!("the range {min}..{max} opt {opt} of `{name}` is not ordered")));
        }
        if self.graph.symbols.insert(name.to_owned(), Range { min, max, opt }).is_some() {
            return Err((at, format!("the symbol `{name}` is declared twice")));
        }
        Ok(())
    }

    // output "logits" = %9
    fn output(&mut self) -> Result<(), Failure> {
        let name = self.string()?;
        self.expect("=")?;
        let value = self.value()?;
        self.graph.outputs.push((name, value));
        Ok(())
    }

    fn node(&mut self) -> Result<(), Failure> {
        let at = self.at;
        let number = self.number()?;
        if self.nodes.contains_key(&number) {
            return Err((at, format!("%{number} is defined twice")));
        }
        self.expect("=")?;
        self.skip();
        let at = self.at;
        let id = match self.word() {
            "input" => {
                let name = self.string()?;
                self.expect(":")?;
                let ty = self.ty()?;
                self.graph.input(name, ty).node
            }
            "const" => {
                let name = self.string()?;
                self.expect(":")?;
                let tensor = self.tensor()?;
                self.graph.constant(tensor, name).node
            }
            "" => return Err(self.expected(at, "`input`, `const` or an operator")),
            name => self.operator(at, name)?,
        };
        self.nodes.insert(number, id);
        Ok(())
    }

    // conv(%0, %1) {strides=[1,1]}: f32[..]  // "conv1 (Conv)"
    fn operator(&mut self, at: usize, name: &'a str) -> Result<NodeId, Failure> {
        self.expect("(")?;
        let mut inputs = Vec::new();
        self.skip();
        if !self.take(")") {
            loop {
                inputs.push(self.value()?);
                self.skip();
                if self.take(")") {
                    break;
                }
                if !self.take(",") {
                    return Err(self.expected(self.at, "`,` or `)`"));
                }
            }
        }
        // On the same line: a comment here holds the node's name.
        self.blanks();
        let attributes = if self.take("{") { self.attributes()? } else { Attributes::default() };
        let op = Op::parse(name, attributes).map_err(|e| (at, e))?;
        let id = self.graph.add(op, &inputs, "").map_err(|e| (at, e))?;
        self.blanks();
        if self.take(":") {
            let mut written = Vec::new();
            self.skip();
            let at = self.at;
            loop {
                written.push(self.ty()?);
                self.blanks();
                if !self.take(",") {
                    break;
                }
            }
            if written != self.graph.node(id).types {
                let list = |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
                let inferred = list(&self.graph.node(id).types);
                return Err((
                    at,
                    format!(
                        "the type is written as {}, but {inferred} follows from the operands",
                        list(&written)
                    ),
                ));
            }
        }
        self.blanks();
        if let Some(comment) = self.rest().strip_prefix("//")
            && comment.trim_start_matches(' ').starts_with('"')
        {
            self.at += 2;
            let name = self.string()?;
            self.graph.rename(id, name);
        }
        Ok(id)
    }

    // Behind the `{`: strides=[1,1] groups=1}
    fn attributes(&mut self) -> Result<Attributes, Failure> {
        let mut attributes = BTreeMap::new();
        loop {
            self.skip();
            if self.take("}") {
                return Ok(Attributes(attributes));
            }
            let at = self.at;
            let name = self.word();
            if name.is_empty() {
                return Err(self.expected(at, "the name of an attribute or `}`"));
            }
            self.expect("=")?;
            self.blanks();
            let mut depth = 0usize;
            let end = self.rest().find(|c: char| match c {
                '[' | '(' => {
                    depth += 1;
                    false
                }
                ']' | ')' => {
                    depth = depth.saturating_sub(1);
                    false
                }
                '\n' | '}' => true,
                c => depth == 0 && c.is_whitespace(),
            });
            let end = end.unwrap_or(self.rest().len());
            let value = self.rest()[..end].to_owned();
            self.at += end;
            if attributes.insert(name.to_owned(), value).is_some() {
                return Err((at, format!("the attribute `{name}` is given twice")));
            }
        }
    }

    // f32[2] = [0.5,1] | f32[2] = 0.5 | f32[2] random:7
    fn tensor(&mut self) -> Result<Tensor, Failure> {
        self.skip();
        let at = self.at;
        let ty = self.ty()?;
        let shape = ty.dims().ok_or_else(|| (at, format!("the constant's type {ty} is symbolic")))?;
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= LARGEST);
        let count = count
            .ok_or_else(|| (at, format!("the constant's type {ty} has too many elements for a text")))?;
        self.skip();
        let at = self.at;
        let mut bytes = Vec::new();
        if self.take("=") {
            self.skip();
            if self.take("[") {
                let mut elements = 0;
                self.skip();
                while !self.take("]") {
                    if elements > 0 {
                        self.expect(",")?;
                    }
                    bytes.extend(self.element(ty.dtype)?);
                    elements += 1;
                    self.skip();
                }
                if elements != count {
                    return Err((at, format!("{elements} elements for the type {ty}, which has {count}")));
                }
            } else {
                bytes = self.element(ty.dtype)?.repeat(count);
            }
        } else if self.take("random:") {
            let seed = self.integer()? as u64;
            return Ok(random(ty.dtype, shape, seed));
        } else if self.take("blake3:") {
            return Err((
                at,
                "only the hash of this constant was printed, its data cannot be read back".into(),
            ));
        } else {
            return Err(self.expected(at, "`= [elements]`, `= element` or `random:seed`"));
        }
        Tensor::new(ty.dtype, shape, bytes.into()).map_err(|e| (at, e))
    }

    fn element(&mut self, dtype: DType) -> Result<Vec<u8>, Failure> {
        self.skip();
        let at = self.at;
        let end = self.rest().find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '+')));
        let word = &self.rest()[..end.unwrap_or(self.rest().len())];
        self.at += word.len();
        let bad = || (at, format!("expected an element of {dtype}, found `{word}`"));
        let small = || word.parse::<f32>().map_err(|_| bad());
        Ok(match dtype {
            DType::F32 => small()?.to_le_bytes().to_vec(),
            DType::F16 => half::f16::from_f32(small()?).to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f32(small()?).to_le_bytes().to_vec(),
            DType::F64 => word.parse::<f64>().map_err(|_| bad())?.to_le_bytes().to_vec(),
            DType::Bool => vec![u8::from(word.parse::<bool>().map_err(|_| bad())?)],
            DType::U64 => word.parse::<u64>().map_err(|_| bad())?.to_le_bytes().to_vec(),
            DType::I8 => word.parse::<i8>().map_err(|_| bad())?.to_le_bytes().to_vec(),
            DType::I16 => word.parse::<i16>().map_err(|_| bad())?.to_le_bytes().to_vec(),
            DType::I32 => word.parse::<i32>().map_err(|_| bad())?.to_le_bytes().to_vec(),
            DType::I64 => word.parse::<i64>().map_err(|_| bad())?.to_le_bytes().to_vec(),
            DType::U8 => word.parse::<u8>().map_err(|_| bad())?.to_le_bytes().to_vec(),
            DType::U16 => word.parse::<u16>().map_err(|_| bad())?.to_le_bytes().to_vec(),
            DType::U32 => word.parse::<u32>().map_err(|_| bad())?.to_le_bytes().to_vec(),
        })
    }

    fn ty(&mut self) -> Result<Type, Failure> {
        self.skip();
        let at = self.at;
        let end = self.rest().find([']', '\n']).filter(|end| self.rest()[*end..].starts_with(']'));
        let end = end.ok_or_else(|| self.expected(at, "a type such as f32[2,3]"))?;
        let ty = self.rest()[..=end].parse().map_err(|e| (at, e))?;
        self.at += end + 1;
        Ok(ty)
    }

    // %7 or %7.1
    fn value(&mut self) -> Result<Value, Failure> {
        self.skip();
        let at = self.at;
        let number = self.number()?;
        let node = *self
            .nodes
            .get(&number)
            .ok_or_else(|| (at, format!("%{number} is not defined before its use")))?;
        let result = if self.take(".") { self.digits()? } else { 0 };
        let results = self.graph.node(node).types.len();
        match u32::try_from(result) {
            Ok(result) if (result as usize) < results => Ok(Value { node, result }),
            _ => Err((at, format!("%{number} has {results} results, there is no %{number}.{result}"))),
        }
    }

    fn number(&mut self) -> Result<u64, Failure> {
        if !self.take("%") {
            return Err(self.expected(self.at, "a value such as %0"));
        }
        self.digits()
    }

    fn digits(&mut self) -> Result<u64, Failure> {
        let at = self.at;
        let end = self.rest().find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest().len());
        let digits = &self.rest()[..end];
        let number = digits.parse().map_err(|_| self.expected(at, "a number"))?;
        self.at += end;
        Ok(number)
    }

    fn integer(&mut self) -> Result<i64, Failure> {
        self.skip();
        let at = self.at;
        let negative = self.take("-");
        let value = i64::try_from(self.digits()?).map_err(|_| (at, "the number is too large".to_owned()))?;
        Ok(if negative { -value } else { value })
    }

    fn string(&mut self) -> Result<String, Failure> {
        // A string never follows a comment: behind a node the comment is the string.
        self.blanks();
        let at = self.at;
        if !self.take("\"") {
            return Err(self.expected(at, "a string between quotes"));
        }
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, c)) => out.push(c),
                    None => break,
                },
                '\n' => break,
                c => out.push(c),
            }
        }
        Err((at, "the string has no closing quote on its line".into()))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    // Blanks, line ends and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    // Blanks within the line.
    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn take(&mut self, text: &str) -> bool {
        let hit = self.rest().starts_with(text);
        if hit {
            self.at += text.len();
        }
        hit
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        // Symbols may hold dots: `nonzero.count`.
        let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += word.len();
        word
    }

    fn keyword(&mut self, word: &str) -> Result<(), Failure> {
        self.skip();
        let at = self.at;
        if self.word() == word { Ok(()) } else { Err(self.expected(at, &format!("`{word}`"))) }
    }

    fn expect(&mut self, text: &str) -> Result<(), Failure> {
        self.skip();
        if self.take(text) { Ok(()) } else { Err(self.expected(self.at, &format!("`{text}`"))) }
    }

    fn expected(&self, at: usize, what: &str) -> Failure {
        let line = self.text[at..].lines().next().unwrap_or("").trim_end();
        let found: String = line.chars().take(20).collect();
        let found = if found.is_empty() { "the end of the line".to_owned() } else { format!("`{found}`") };
        (at, format!("expected {what}, found {found}"))
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
