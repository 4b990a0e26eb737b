//! The parser: by recursive descent, over bytes, with a place for every error.

use super::{LARGEST, random};
use crate::ir::attribute::Attributes;
use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::tensor::Tensor;
use crate::ir::types::Type;
use crate::ops::Op;
use bakelite_host::DType;
use bakelite_kernels::dim::Range;
use std::collections::{BTreeMap, HashMap};

/// Byte position and message.
pub(super) type Failure = (usize, String);

pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
    graph: Graph,
    nodes: HashMap<u64, NodeId>,
}

impl<'a> Parser<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Graph, Failure> {
        let mut parser = Parser { text, at: 0, graph: Graph::default(), nodes: HashMap::new() };
        parser.graph()?;
        Ok(parser.graph)
    }

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
