//! A model as a graph: each ONNX node is mapped by one function of [`super::ops`] onto IR operators, in the file's order.
//! Composites come apart here and shape arithmetic dissolves into symbolic sizes; nothing is optimised beyond that.

use super::call::{Call, Operand};
use super::model::{Model, Node, Scope, Size, ValueType};
use super::ops;
use super::sizes::{Sizes, is_short};
use crate::error::{Error, Result, Stage};
use crate::ir::{Graph, Type, Value};
use bakelite_host::DType;
use bakelite_kernels::{Dim, Range};
use std::collections::{BTreeMap, HashMap};

/// Tensors of more dimensions are refused.
pub(super) const RANK: usize = 16;

/// What the caller knows of a model's symbols.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Ranges of symbols, by name.
    pub symbols: BTreeMap<String, Range>,
    /// The range of every symbol that is not listed.
    pub default: Range,
    /// Symbols that are constants here.
    pub bind: BTreeMap<String, i64>,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions {
            symbols: BTreeMap::new(),
            default: Range { min: 1, max: 64, opt: 1 },
            bind: BTreeMap::new(),
        }
    }
}

fn error(at: impl Into<String>, what: impl Into<String>) -> Error {
    Error::new(Stage::Import, at, what)
}

/// Maps a model onto a graph. All operators that have no mapping are listed in one error, before anything is done.
pub fn import(model: &Model, options: &ImportOptions) -> Result<Graph> {
    refuse_unknown(model)?;
    let name = if model.graph.name.is_empty() { &model.name } else { &model.graph.name };
    let mut importer = Importer::new(Graph::new(name.clone()));
    let mut unused: Vec<&String> = options.symbols.keys().chain(options.bind.keys()).collect();
    for (name, ty) in &model.graph.inputs {
        let ty = importer.input_type(name, ty, options, &mut unused)?;
        let value = importer.graph.input(name.clone(), ty);
        importer.define(name, Operand::Value(value), "")?;
    }
    if let Some(symbol) = unused.first() {
        let mut known: Vec<&str> = importer.names.values().map(String::as_str).collect();
        known.sort_unstable();
        return Err(error(
            format!("symbol `{symbol}`"),
            format!("the model has no such symbol; it has {}", or_none(&known.join(", "))),
        ));
    }
    importer.run(&model.graph)?;
    for (name, _) in &model.graph.outputs {
        let at = format!("output \"{name}\"");
        let operand = importer.look_up(name).ok_or_else(|| error(&at, "no node makes it"))?;
        let value = importer.value(&operand, name).map_err(|e| error(&at, e))?;
        if importer.graph.outputs.iter().any(|(n, _)| n == name) {
            return Err(error(at, "two outputs have this name"));
        }
        importer.graph.outputs.push((name.clone(), value));
    }
    if importer.graph.outputs.is_empty() {
        return Err(error(format!("\"{}\"", model.name), "the model has no outputs"));
    }
    importer.graph.remove_dead();
    Ok(importer.graph)
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn refuse_unknown(model: &Model) -> Result<()> {
    fn visit<'a>(scope: &'a Scope, unknown: &mut BTreeMap<String, Vec<&'a Node>>) {
        for node in &scope.nodes {
            if ops::find(&node.domain, &node.op).is_none() {
                unknown.entry(ops::key(&node.domain, &node.op)).or_default().push(node);
            }
        }
    }
    let mut unknown = BTreeMap::new();
    visit(&model.graph, &mut unknown);
    if unknown.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = unknown
        .iter()
        .map(|(op, nodes)| {
            let names: Vec<&str> =
                nodes
                    .iter()
                    .take(3)
                    .map(|n| {
                        if n.name.is_empty() { n.outputs.first().map_or("", String::as_str) } else { &n.name }
                    })
                    .collect();
            let more = if nodes.len() > 3 { ", ..." } else { "" };
            format!("{op} ×{} ({}{more})", nodes.len(), names.join(", "))
        })
        .collect();
    let all: usize = unknown.values().map(Vec::len).sum();
    Err(error(
        format!("\"{}\"", model.name),
        format!("{all} nodes have unsupported operators: {}", lines.join("; ")),
    ))
}

/// The graph under construction and the names that stand for its values.
pub(super) struct Importer {
    pub(super) graph: Graph,
    /// Innermost scope last.
    scopes: Vec<HashMap<String, Operand>>,
    /// Symbol of each name of the model.
    names: BTreeMap<String, String>,
    /// Constants `first, first + 1, ...` by element type, first and length.
    counting: HashMap<(DType, i64, i64), Value>,
}

impl Importer {
    fn new(graph: Graph) -> Importer {
        Importer { graph, scopes: vec![HashMap::new()], names: BTreeMap::new(), counting: HashMap::new() }
    }

    fn look_up(&self, name: &str) -> Option<Operand> {
        self.scopes.iter().rev().find_map(|s| s.get(name)).cloned()
    }

    fn define(&mut self, name: &str, operand: Operand, at: &str) -> Result<()> {
        let scope = self.scopes.last_mut().ok_or_else(|| error(at, "no scope is open"))?;
        match scope.insert(name.to_owned(), operand) {
            None => Ok(()),
            Some(_) => Err(error(at, format!("the value \"{name}\" is defined twice"))),
        }
    }

    /// Imports a scope's constants and nodes into the innermost scope.
    fn run(&mut self, scope: &Scope) -> Result<()> {
        for (name, tensor) in &scope.initializers {
            let value = self.graph.constant(tensor.clone(), name.clone());
            self.define(name, Operand::Value(value), &format!("initializer \"{name}\""))?;
        }
        for node in &scope.nodes {
            self.node(node)?;
        }
        Ok(())
    }

    /// Imports a branch of control flow that is always taken, and gives its outputs.
    pub(super) fn inline(&mut self, scope: &Scope) -> Result<Vec<Operand>, String> {
        self.scopes.push(HashMap::new());
        let done = self
            .run(scope)
            .map_err(|e| if e.at.is_empty() { e.what } else { format!("{}: {}", e.at, e.what) });
        let outputs = scope.outputs.iter().map(|(name, _)| {
            self.look_up(name).ok_or_else(|| format!("the branch's output \"{name}\" is made by no node"))
        });
        let outputs: Result<Vec<Operand>, String> = outputs.collect();
        self.scopes.pop();
        done.and(outputs)
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let at = node.place();
        let import = ops::find(&node.domain, &node.op).ok_or_else(|| {
            error(&at, format!("the operator {} is not supported", ops::key(&node.domain, &node.op)))
        })?;
        let operands = node.inputs.iter().map(|name| {
            if name.is_empty() {
                return Ok(None);
            }
            let found = self.look_up(name);
            found
                .map(Some)
                .ok_or_else(|| error(&at, format!("its operand \"{name}\" is defined by nothing before it")))
        });
        let operands = operands.collect::<Result<Vec<_>>>()?;
        let results = import(&mut Call::new(self, node, operands)).map_err(|e| error(&at, e))?;
        for (i, name) in node.outputs.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            let Some(result) = results.get(i) else {
                return Err(error(&at, format!("its result {i}, \"{name}\", is not supported")));
            };
            self.define(name, result.clone(), &at)?;
        }
        Ok(())
    }

    fn input_type(
        &mut self,
        name: &str,
        ty: &ValueType,
        options: &ImportOptions,
        unused: &mut Vec<&String>,
    ) -> Result<Type> {
        let at = format!("input \"{name}\"");
        let dtype = match &ty.dtype {
            Some(dtype) => dtype.clone().map_err(|e| error(&at, e))?,
            None => return Err(error(at, "its element type is missing")),
        };
        let sizes = ty.shape.as_ref().ok_or_else(|| error(&at, "its number of dimensions is not stated"))?;
        if sizes.len() > RANK {
            return Err(error(
                at,
                format!("it has {} dimensions; at most {RANK} are supported", sizes.len()),
            ));
        }
        let mut shape = Vec::with_capacity(sizes.len());
        for (axis, size) in sizes.iter().enumerate() {
            let stated = match size {
                Size::Const(c) => {
                    shape.push(Dim::from(*c));
                    continue;
                }
                Size::Named(stated) => stated.clone(),
                Size::Unknown => format!("{name}_{axis}"),
            };
            let symbol = self.symbol(&stated, matches!(size, Size::Named(_)));
            unused.retain(|u| **u != symbol && **u != stated);
            let given = |map: &BTreeMap<String, i64>| map.get(&symbol).or(map.get(&stated)).copied();
            if let Some(value) = given(&options.bind) {
                if value < 0 {
                    return Err(error(at, format!("the symbol `{symbol}` is bound to {value}")));
                }
                shape.push(Dim::from(value));
                continue;
            }
            let range = options.symbols.get(&symbol).or(options.symbols.get(&stated)).copied();
            let range = range.unwrap_or(options.default);
            if !(0 <= range.min && range.min <= range.opt && range.opt <= range.max) {
                return Err(error(at, format!("the symbol `{symbol}` has the impossible range {range:?}")));
            }
            self.graph.symbols.insert(symbol.clone(), range);
            shape.push(Dim::symbol(&symbol));
        }
        let ty = Type { dtype, shape };
        self.check(&ty).map_err(|e| error(at, e))?;
        Ok(ty)
    }

    /// Refuses a type whose sizes nothing could calculate with or hold.
    pub(super) fn check(&self, ty: &Type) -> Result<(), String> {
        const MOST: i64 = 1 << 46;
        if ty.rank() > RANK {
            return Err(format!("{ty} has {} dimensions; at most {RANK} are supported", ty.rank()));
        }
        if let Some(long) = ty.shape.iter().find(|d| !is_short(d)) {
            return Err(format!("a size became too long an expression: {:.60}...", long.to_string()));
        }
        let mut bytes = ty.dtype.size() as i64;
        for size in &ty.shape {
            let (_, most) = size.bounds(&self.graph.symbols);
            if most < 0 {
                return Err(format!("{ty} has the negative size {size}"));
            }
            // An empty tensor may still not have absurd sizes beside its zero.
            bytes = bytes
                .checked_mul(most.max(1))
                .filter(|b| *b <= MOST)
                .ok_or_else(|| format!("{ty} is larger than any memory"))?;
        }
        Ok(())
    }

    /// The identifier for a name of the model; the same for the same name, if it is a `shared` one.
    fn symbol(&mut self, stated: &str, shared: bool) -> String {
        let key = if shared { stated.to_owned() } else { format!("\0{stated}") };
        if let Some(symbol) = self.names.get(&key) {
            return symbol.clone();
        }
        let mut base: String =
            stated.chars().take(64).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if !base.starts_with(|c: char| c.is_ascii_alphabetic()) || is_reserved(&base) {
            base.insert_str(0, "n_");
        }
        let mut symbol = base.clone();
        let mut n = 1;
        while self.names.values().any(|s| *s == symbol) {
            n += 1;
            symbol = format!("{base}_{n}");
        }
        self.names.insert(key, symbol.clone());
        symbol
    }

    /// The operand as a value of the graph. Sizes without symbols are a constant; a size with symbols is read from a
    /// table of numbers at the position it gives, since the IR has no other way from a shape to data.
    pub(super) fn value(&mut self, operand: &Operand, name: &str) -> Result<Value, String> {
        let sizes = match operand {
            Operand::Value(value) => return Ok(*value),
            Operand::Sizes(sizes) => sizes,
        };
        if let Some(tensor) = sizes.tensor() {
            return Ok(self.graph.constant(tensor, name));
        }
        if sizes.dims.len() > 16 {
            return Err(format!(
                "{} symbolic sizes are used as data; at most 16 are supported",
                sizes.dims.len()
            ));
        }
        let mut parts = Vec::with_capacity(sizes.dims.len());
        for dim in &sizes.dims {
            let (lo, hi) = dim.bounds(&self.graph.symbols);
            let first = self.counting(sizes.dtype, lo, hi)?;
            let slice = crate::ops::Slice {
                starts: vec![dim - Dim::from(lo)],
                steps: vec![1],
                shape: vec![Dim::from(1)],
            };
            parts.push(self.graph.add(slice, &[first], name)?.into());
        }
        let joined = match parts.as_slice() {
            [one] => *one,
            _ => self.graph.add(crate::ops::Concat { axis: 0 }, &parts, name)?.into(),
        };
        let shape = sizes.shape.iter().map(|s| Dim::from(*s)).collect();
        Ok(self.graph.add(crate::ops::Reshape { shape }, &[joined], name)?.into())
    }

    /// The constant `lo, lo + 1, ..., hi`.
    pub(super) fn counting(&mut self, dtype: DType, lo: i64, hi: i64) -> Result<Value, String> {
        const MOST: i64 = 1 << 20;
        let count = hi.checked_sub(lo).and_then(|c| c.checked_add(1)).filter(|c| (0..=MOST).contains(c));
        let count = count.ok_or_else(|| {
            format!("sizes from {lo} to {hi} are used as data; at most {MOST} are supported")
        })?;
        if let Some(value) = self.counting.get(&(dtype, lo, count)) {
            return Ok(*value);
        }
        let numbers: Vec<i64> = (lo..=hi).collect();
        let tensor = super::sizes::integers(dtype, vec![numbers.len()], &numbers)?;
        let value = self.graph.constant(tensor, format!("{lo}..={hi}"));
        self.counting.insert((dtype, lo, count), value);
        Ok(value)
    }
}

/// Words that cannot name a variable in the generated Rust or CUDA C++.
fn is_reserved(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "abstract",
        "as",
        "asm",
        "async",
        "auto",
        "await",
        "become",
        "bool",
        "box",
        "break",
        "case",
        "catch",
        "char",
        "class",
        "const",
        "continue",
        "crate",
        "default",
        "delete",
        "do",
        "double",
        "dyn",
        "else",
        "enum",
        "explicit",
        "extern",
        "false",
        "final",
        "float",
        "fn",
        "for",
        "friend",
        "gen",
        "goto",
        "if",
        "impl",
        "in",
        "inline",
        "int",
        "let",
        "long",
        "loop",
        "macro",
        "match",
        "max",
        "min",
        "mod",
        "move",
        "mut",
        "mutable",
        "namespace",
        "new",
        "operator",
        "override",
        "priv",
        "private",
        "protected",
        "pub",
        "public",
        "ref",
        "register",
        "return",
        "self",
        "Self",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "super",
        "switch",
        "template",
        "this",
        "throw",
        "trait",
        "true",
        "try",
        "type",
        "typedef",
        "typename",
        "typeof",
        "union",
        "unsafe",
        "unsigned",
        "unsized",
        "use",
        "using",
        "virtual",
        "void",
        "volatile",
        "where",
        "while",
        "yield",
    ];
    WORDS.contains(&word)
}

impl From<Sizes> for Operand {
    fn from(sizes: Sizes) -> Operand {
        Operand::Sizes(sizes)
    }
}
