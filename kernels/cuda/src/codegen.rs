//! Text of CUDA C++ that depends on a problem: sizes, symbols, and pointwise programs over rows of elements.
//! Knows no family: what surrounds this text is theirs.

use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, KERNEL_NAME};
use bakelite_host::problem::{Access, Epilogue, Placement};
use bakelite_host::{Class, DType, Instr, Problem, Program, Scalar};
use std::collections::BTreeSet;
use std::fmt::Write;

const PRELUDE: &str = concat!(include_str!("../cuda/prelude.cuh"), include_str!("../cuda/hopper.cuh"));

/// Sections of the prelude that are left out of a source which calls nothing of them.
const OPTIONAL: [&str; 7] = [
    "pointwise functions",
    "warps and blocks",
    "programmatic",
    "shared memory",
    "clusters",
    "barriers in shared memory",
    "warpgroups",
];

/// A complete source: a first line that says what it computes, what it needs of the prelude, then `parts`.
/// `wide` makes flat indices 64 bits.
pub fn source(title: &str, wide: bool, parts: &[&str]) -> String {
    let text = parts.iter().map(|p| p.trim_end()).collect::<Vec<_>>().join("\n");
    let mut sections: Vec<&str> = Vec::new();
    let mut rest = PRELUDE;
    while let Some(at) = rest[1..].find("\n// ----") {
        let (section, after) = rest.split_at(at + 2);
        sections.push(section);
        rest = after;
    }
    sections.push(rest);
    let mut used = text.clone();
    let mut kept: Vec<&str> = Vec::new();
    // From the last: a section may use the ones before it.
    for section in sections.into_iter().rev() {
        let title = section.lines().next().unwrap_or("").trim_start_matches("// ---- ");
        let optional = OPTIONAL.iter().any(|o| title.starts_with(o));
        if !optional || defined(section).iter().any(|name| mentions(&used, name)) {
            kept.push(section);
            used.push_str(section);
        }
    }
    kept.reverse();
    let wide = if wide { "#define INDEX_TYPE long long\n" } else { "" };
    let prefetch = if mentions(&text, "PREFETCH") { crate::prefetch::NOTHING } else { "" };
    format!(
        "// {}\n{wide}\n{}\n\n// ---- this kernel\n\n{prefetch}{text}\n",
        title.replace('\n', " "),
        kept.concat().trim_end()
    )
}

/// Names of the functions that a section defines.
fn defined(section: &str) -> BTreeSet<&str> {
    section
        .lines()
        .filter(|l| l.contains("DEVICE "))
        .filter_map(|l| l[..l.find('(')?].split(['<', ' ']).rfind(|w| !w.is_empty() && !w.ends_with('>')))
        .collect()
}

fn mentions(text: &str, name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(inside) && !text[at + name.len()..].starts_with(inside))
}

/// The C++ type of an element in memory.
pub const fn ctype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::F64 => "double",
        DType::I8 => "int8_t",
        DType::I16 => "int16_t",
        DType::I32 => "int32_t",
        DType::I64 => "int64_t",
        DType::U8 => "uint8_t",
        DType::U16 => "uint16_t",
        DType::U32 => "uint32_t",
        DType::U64 => "uint64_t",
        DType::Bool => "bool",
    }
}

/// The C++ type of a register.
pub const fn class_type(class: Class) -> &'static str {
    match class {
        Class::F32 => "float",
        Class::F64 => "double",
        Class::I64 => "long long",
        Class::Bool => "bool",
    }
}

/// `constexpr int NAME = value;` lines.
pub fn constants(values: &[(&str, u32)]) -> String {
    values
        .iter()
        .fold(String::new(), |text, (name, value)| text + &format!("constexpr int {name} = {value};\n"))
}

/// Defines `name` as a size: a constant, or a macro over the symbols.
pub fn size(name: &str, dim: &Dim) -> String {
    match dim.as_const() {
        Some(c) => format!("constexpr index_t {name} = {c};\n"),
        None => format!("#define {name} {}\n", size_text(dim)),
    }
}

/// A size as an expression, in parentheses if it has an operator.
pub fn size_text(dim: &Dim) -> String {
    let text = dim.substitute(&|s| Dim::symbol(&identifier(s))).source("sym_", "max", "min");
    if text.contains(['+', '-', '*', '/']) { format!("({text})") } else { text }
}

// A symbol's name as part of an identifier.
fn identifier(symbol: &str) -> String {
    symbol.chars().fold(String::new(), |mut out, c| {
        match c {
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            '.' => out.push_str("__"),
            c => out.push_str(&format!("_u{:x}", u32::from(c))),
        }
        out
    })
}

/// Every symbol of the problem's sizes, sorted.
pub fn symbols(problem: &Problem<Dim>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    problem.map(&mut |dim| {
        dim.visit_symbols(&mut |s| {
            found.insert(s.to_owned());
        });
    });
    found
}

fn symbols_of<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dim in dims {
        dim.visit_symbols(&mut |s| {
            found.insert(s.to_owned());
        });
    }
    found
}

/// `#define SYMBOL_PARAMS , int sym_batch, int sym_seq`: the tail of a kernel's parameters, maybe empty.
pub fn symbol_params(problem: &Problem<Dim>) -> String {
    let params: String = symbols(problem).iter().map(|s| format!(", int sym_{}", identifier(s))).collect();
    format!("#define SYMBOL_PARAMS{}{params}\n", if params.is_empty() { "" } else { " " })
}

/// What goes with [`symbol_params`].
pub fn symbol_args(problem: &Problem<Dim>) -> Vec<Arg> {
    symbols(problem).iter().map(|s| Arg::Size(Dim::symbol(s))).collect()
}

/// Whether flat indices into any of these many elements need 64 bits.
pub fn is_wide<'a>(sizes: impl IntoIterator<Item = &'a Dim>, ranges: &Symbols) -> bool {
    // Room for the last block to run past the end.
    sizes.into_iter().any(|s| s.upper(ranges) >= (1 << 31) - (1 << 20))
}

/// One more than the largest element that `access` reaches over `shape`.
pub fn extent(access: &Access<Dim>, shape: &[Dim]) -> Dim {
    let last = access.strides.iter().zip(shape).filter(|(stride, _)| !stride.is(0));
    last.fold(&access.offset + &Dim::from(1), |sum, (stride, size)| sum + stride * &(size - &Dim::from(1)))
}

/// Dense strides of a row-major tensor.
pub fn dense(shape: &[Dim]) -> Vec<Dim> {
    (0..shape.len()).map(|d| product(&shape[d + 1..])).collect()
}

/// The largest power of two up to `most` that divides every one of `dims`.
pub fn power_of_two<'a>(dims: impl IntoIterator<Item = &'a Dim>, most: u32) -> u32 {
    let mut align = most;
    for dim in dims {
        while align > 1 && dim.exact_div(&Dim::from(i64::from(align))).is_none() {
            align /= 2;
        }
    }
    align
}

/// The same iteration with fewer dimensions: those of size 1 dropped, and neighbours joined wherever every access walks
/// them as one. The dense order of elements stays the same.
pub fn collapse(shape: &[Dim], accesses: &[&Access<Dim>]) -> (Vec<Dim>, Vec<Access<Dim>>) {
    let mut sizes: Vec<Dim> = Vec::new();
    let mut out: Vec<Access<Dim>> =
        accesses.iter().map(|a| Access { offset: a.offset.clone(), strides: vec![] }).collect();
    for (d, size) in shape.iter().enumerate().filter(|(_, s)| !s.is(1)) {
        let joins = !sizes.is_empty()
            && out
                .iter()
                .zip(accesses)
                .all(|(o, a)| o.strides.last().is_some_and(|outer| *outer == &a.strides[d] * size));
        match sizes.last_mut() {
            Some(last) if joins => *last = &*last * size,
            _ => sizes.push(size.clone()),
        }
        for (o, a) in out.iter_mut().zip(accesses) {
            if joins {
                o.strides.pop();
            }
            o.strides.push(a.strides[d].clone());
        }
    }
    (sizes, out)
}

/// Where a program's input comes from while a row of V elements, `i` to `i + V - 1` of a dense order, is computed.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// A register: the expression for element `j` of the row, in the input's class.
    Value(String),
    /// Memory: the pointer's name, and how it is read over the shape.
    Memory(String, &'a Access<Dim>),
}

/// Statements that compute and store elements `i` to `i + V - 1` of every output (dense over `shape`, pointers
/// `outputs`). V and i are names in scope; i is a multiple of V, and V divides the innermost size.
pub fn row(
    shape: &[Dim],
    program: &Program,
    sources: &[Source<'_>],
    outputs: &[String],
) -> Result<String, String> {
    let Row { before, loads, rest } = parts(shape, program, sources, outputs, None)?;
    Ok(before + &loads.iter().map(Load::statement).collect::<String>() + &rest)
}

/// The statements of [`row`], in order.
struct Row {
    before: String,
    loads: Vec<Load>,
    rest: String,
}

/// What is read before the elements are computed one by one.
struct Load {
    /// `None` for a pointer, which reads nothing yet.
    of: Option<String>,
    declared: String,
    name: String,
    value: String,
}

impl Load {
    fn statement(&self) -> String {
        format!("{} {} = {};\n", self.declared, self.name, self.value)
    }
}

impl Row {
    /// The members that read what a row needs, and the parameter that takes it.
    fn reads(&self) -> (String, &'static str) {
        let (mut fields, mut values) = (String::new(), Vec::new());
        for load in &self.loads {
            if let Some(of) = &load.of {
                let _ = writeln!(fields, "    {of} {};", load.name);
                values.push(load.value.as_str());
            }
        }
        let before = indent(&self.before, 4);
        let values = values.join(", ");
        let text = format!(
            "  // What those elements read besides.\n  template <int V> struct Reads {{\n{fields}  }};\n  \
               template <int V> DEVICE Reads<V> read(index_t i) const {{\n{before}    return {{{values}}};\n  }}\n"
        );
        (text, ", const Reads<V>& reads")
    }
}

// With `place`, the elements of the one output go where it says.
fn parts(
    shape: &[Dim],
    program: &Program,
    sources: &[Source<'_>],
    outputs: &[String],
    place: Option<&Placement<Dim>>,
) -> Result<Row, String> {
    let classes = program.classes()?;
    if sources.len() != program.inputs.len() {
        return Err(format!("the program has {} inputs, not {}", program.inputs.len(), sources.len()));
    }
    let memory: Vec<&Access<Dim>> =
        sources.iter().filter_map(|s| if let Source::Memory(_, a) = s { Some(*a) } else { None }).collect();
    if let Some(bad) = memory.iter().find(|a| a.strides.len() != shape.len()) {
        return Err(format!("an access has {} strides over {} dimensions", bad.strides.len(), shape.len()));
    }
    let (sizes, collapsed) = collapse(shape, &memory);
    let strides = dense(&sizes);
    let live = live(program);

    let mut before = String::new();
    let mut coordinates = BTreeSet::new();
    let mut loads = Vec::new();
    let mut elements = String::new();
    let mut raw: Vec<Option<String>> = vec![None; sources.len()];
    let mut accesses = collapsed.iter();
    for (n, source) in sources.iter().enumerate() {
        let class = class_type(classes[n]);
        let (pointer, access) = match source {
            Source::Value(value) => {
                if live[n] {
                    let _ = writeln!(elements, "  const {class} x{n} = {value};");
                }
                continue;
            }
            Source::Memory(pointer, _) => (pointer, accesses.next().ok_or("an access is missing")?),
        };
        if !live[n] {
            continue;
        }
        let inner = access.strides.last();
        let full = access.strides == strides;
        let others = access.strides.iter().rev().skip(1).chain([&access.offset]);
        let align = power_of_two(others, 16);
        let at = address(access, full, &mut coordinates);
        if inner.is_none_or(|s| s.is(0)) {
            // The same element for the whole row.
            loads.push(Load {
                of: Some(class.to_owned()),
                declared: format!("const {class}"),
                name: format!("x{n}"),
                value: format!("widen({})", index(pointer, &at)),
            });
            continue;
        }
        let element = if inner.is_some_and(|s| s.is(1)) {
            let from = if at.is_empty() { pointer.clone() } else { format!("{pointer} + {at}") };
            let align = if full { power_of_two([&access.offset], 16) } else { align };
            loads.push(Load {
                of: Some(format!("Vec<{}, V>", ctype(program.inputs[n]))),
                declared: "const auto".to_owned(),
                name: format!("v{n}"),
                value: format!("load_row<V, {align}>({from})"),
            });
            format!("v{n}.v[j]")
        } else {
            let step = inner.map_or_else(String::new, size_text);
            loads.push(Load {
                of: None,
                declared: "const auto*".to_owned(),
                name: format!("p{n}"),
                value: format!("{pointer} + {}", if at.is_empty() { "0" } else { &at }),
            });
            format!("p{n}[j * {step}]")
        };
        raw[n] = Some(element.clone());
        let _ = writeln!(elements, "  const {class} x{n} = widen({element});");
    }
    for d in coordinates {
        let by = if strides[d].is(1) { String::new() } else { format!(" / {}", size_text(&strides[d])) };
        let modulo = if d == 0 { String::new() } else { format!(" % {}", size_text(&sizes[d])) };
        let _ = writeln!(before, "const index_t c{d} = i{by}{modulo};");
    }

    let values = arithmetic(program, &classes, &live, &mut elements);
    let mut results = String::new();
    let mut stores = String::new();
    for (n, ((register, dtype), pointer)) in program.outputs.iter().zip(outputs).enumerate() {
        let to = ctype(*dtype);
        let name = if outputs.len() == 1 { "result".to_owned() } else { format!("result{n}") };
        let _ = writeln!(results, "Vec<{to}, V> {name};");
        // A copy moves bits, so that it keeps every NaN as it is.
        let copied = raw.get(usize::from(*register)).cloned().flatten();
        match copied {
            Some(element) if program.inputs[usize::from(*register)] == *dtype => {
                let _ = writeln!(elements, "  {name}.v[j] = {element};");
            }
            _ => {
                let _ =
                    writeln!(elements, "  {name}.v[j] = narrow<{to}>({});", values[usize::from(*register)]);
            }
        }
        stores += &match place {
            None => format!("store_vec<V>({pointer} + i, {name});\n"),
            Some(place) => placed(place, pointer, &name),
        };
    }
    // Registers that only a bit copy uses are not computed.
    let elements = drop_unused(&elements);
    let rest = format!("{results}#pragma unroll\nfor (int j = 0; j < V; ++j) {{\n{elements}}}\n{stores}");
    Ok(Row { before, loads, rest })
}

/// Stores row `name` where its elements are placed.
fn placed(place: &Placement<Dim>, pointer: &str, name: &str) -> String {
    let (sizes, accesses) = collapse(&place.shape, &[&place.access]);
    let access = &accesses[0];
    let (counts, mut text, mut terms) = (dense(&sizes), String::new(), Vec::new());
    for (d, stride) in access.strides.iter().enumerate() {
        let by = if counts[d].is(1) { String::new() } else { format!(" / {}", size_text(&counts[d])) };
        let modulo = if d == 0 { String::new() } else { format!(" % {}", size_text(&sizes[d])) };
        let _ = writeln!(text, "const index_t o{d} = i{by}{modulo};");
        terms.push(if stride.is(1) { format!("o{d}") } else { format!("o{d} * {}", size_text(stride)) });
    }
    if !access.offset.is(0) || terms.is_empty() {
        terms.push(size_text(&access.offset));
    }
    let at = terms.join(" + ");
    // What is not known here is promised.
    if let Some(inner) = sizes.last().filter(|d| d.as_const().is_some()) {
        let _ = writeln!(
            text,
            "static_assert(V == 1 || {} % V == 0, \"a row lies in one piece\");",
            size_text(inner)
        );
    }
    let step = access.strides.last().filter(|s| !s.is(1));
    match step {
        None => {
            let align = power_of_two(access.strides.iter().rev().skip(1).chain([&access.offset]), 16);
            let _ = writeln!(text, "store_row<V, {align}>({pointer} + {at}, {name});");
        }
        Some(step) => {
            let step = size_text(step);
            let _ = writeln!(
                text,
                "#pragma unroll\nfor (int j = 0; j < V; ++j) {pointer}[{at} + j * {step}] = {name}.v[j];"
            );
        }
    }
    text
}

/// The pointer expression's index: `offset + c0 * s0 + ...`, empty for 0.
fn address(access: &Access<Dim>, full: bool, coordinates: &mut BTreeSet<usize>) -> String {
    let mut terms = Vec::new();
    if full && !access.strides.is_empty() {
        terms.push("i".to_owned());
    } else {
        for (d, stride) in access.strides.iter().enumerate().filter(|(_, s)| !s.is(0)) {
            coordinates.insert(d);
            terms.push(if stride.is(1) { format!("c{d}") } else { format!("c{d} * {}", size_text(stride)) });
        }
    }
    if !access.offset.is(0) {
        terms.push(size_text(&access.offset));
    }
    terms.join(" + ")
}

fn index(pointer: &str, at: &str) -> String {
    if at.is_empty() { format!("*{pointer}") } else { format!("{pointer}[{at}]") }
}

/// Which registers reach an output.
fn live(program: &Program) -> Vec<bool> {
    let inputs = program.inputs.len();
    let mut live = vec![false; inputs + program.code.len()];
    for (r, _) in &program.outputs {
        live[usize::from(*r)] = true;
    }
    for (n, instr) in program.code.iter().enumerate().rev() {
        if live[inputs + n] {
            match instr {
                Instr::Const(_) => {}
                Instr::Cast(_, arg) => live[usize::from(*arg)] = true,
                Instr::Apply(_, args) => args.iter().for_each(|a| live[usize::from(*a)] = true),
            }
        }
    }
    live
}

/// Writes one statement for each live instruction and returns the expression that names each register.
fn arithmetic(program: &Program, classes: &[Class], live: &[bool], out: &mut String) -> Vec<String> {
    let mut names: Vec<String> = (0..program.inputs.len()).map(|n| format!("x{n}")).collect();
    for instr in &program.code {
        let here = names.len();
        let class = class_type(classes[here]);
        let value = match instr {
            Instr::Const(scalar) => {
                names.push(literal(*scalar));
                continue;
            }
            Instr::Cast(to, arg) => format!("widen(narrow<{}>({}))", ctype(*to), names[usize::from(*arg)]),
            Instr::Apply(op, args) => {
                let of: Vec<&str> = args.iter().map(|a| names[usize::from(*a)].as_str()).collect();
                let operand = class_type(classes[usize::from(*args.last().unwrap_or(&0))]);
                let names: Vec<(&str, &str)> = match of[..] {
                    [c, a, b] => vec![("c", c), ("a", a), ("b", b), ("T", operand)],
                    [a, b] => vec![("a", a), ("b", b), ("T", operand)],
                    _ => vec![("a", of[0]), ("T", operand)],
                };
                let text = replace_words(op.cuda(), &names);
                // The table's text is in parentheses of its own, which a whole statement does not need.
                match text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
                    Some(inner) if balanced(inner) => inner.to_owned(),
                    _ => text,
                }
            }
        };
        if live[here] {
            let _ = writeln!(out, "  const {class} r{here} = {value};");
        }
        names.push(format!("r{here}"));
    }
    names
}

fn balanced(text: &str) -> bool {
    let mut depth = 0i32;
    text.chars().all(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth >= 0
    })
}

/// Every whole word that `with` names, replaced.
fn replace_words(text: &str, with: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if word == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (name, after) = rest.split_at(word);
        // `long long(0)` is no expression; `(long long)` before a parenthesis is.
        match with.iter().find(|(n, _)| *n == name) {
            Some((_, value)) if value.contains("long long") => {
                let _ = write!(out, "({value})");
            }
            Some((_, value)) => out.push_str(value),
            None => out.push_str(name),
        }
        rest = after;
    }
    out
}

/// Removes `const ... xN = ...;` lines whose register occurs nowhere else.
fn drop_unused(elements: &str) -> String {
    let lines: Vec<&str> = elements.lines().collect();
    let mut out = String::new();
    for line in &lines {
        let name =
            line.trim_start().strip_prefix("const ").and_then(|l| l.split(" = ").next()?.rsplit(' ').next());
        let used = name.is_none_or(|name| lines.iter().any(|l| l != line && mentions(l, name)));
        if used {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// An immediate in C++.
pub fn literal(scalar: Scalar) -> String {
    let text = match scalar {
        Scalar::F32(v) if v.is_finite() => format!("{v:?}f"),
        Scalar::F32(v) => format!("__int_as_float(0x{:08x})", v.to_bits()),
        Scalar::F64(v) if v.is_finite() => format!("{v:?}"),
        Scalar::F64(v) => format!("__longlong_as_double(0x{:016x})", v.to_bits()),
        Scalar::I64(i64::MIN) => "(-9223372036854775807ll - 1)".to_owned(),
        Scalar::I64(v) => format!("{v}ll"),
        Scalar::Bool(v) => v.to_string(),
    };
    if text.starts_with('-') { format!("({text})") } else { text }
}

/// Lines indented by `by` spaces.
pub fn indent(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    text.lines().fold(String::new(), |out, line| match line {
        line if line.starts_with('#') => out + line + "\n",
        line => out + &pad + line + "\n",
    })
}

/// A struct that holds pointers and symbols, with one member template; what the macros need to name it.
pub struct Record<'a> {
    /// Type and name of each pointer.
    pub pointers: &'a [(String, String)],
    /// Every size its text mentions.
    pub sizes: Vec<&'a Dim>,
}

impl Record<'_> {
    /// The fields, and the expression that makes one from names in scope.
    pub fn fields_and_value(&self, name: &str) -> (String, String) {
        let symbols: Vec<String> =
            symbols_of(self.sizes.iter().copied()).iter().map(|s| format!("sym_{}", identifier(s))).collect();
        let mut fields = String::new();
        for (ty, pointer) in self.pointers {
            let _ = writeln!(fields, "  {ty} {pointer};");
        }
        for symbol in &symbols {
            let _ = writeln!(fields, "  index_t {symbol};");
        }
        let members: Vec<&str> =
            self.pointers.iter().map(|(_, n)| n.as_str()).chain(symbols.iter().map(String::as_str)).collect();
        (fields, format!("{name}{{{}}}", members.join(", ")))
    }
}

/// The epilogue as text: `acc_t`, `struct Epilogue` with `store<V>(acc, i)`, and the macros `EPILOGUE_PARAMS` (parameters
/// that follow the kernel's own inputs) and `EPILOGUE` (the value). `i` counts elements of the dense output `out_shape`,
/// wherever they are placed.
/// A malformed epilogue gives an `#error` line, so that the reason comes out where the source is compiled.
pub fn epilogue(epilogue: &Epilogue<Dim>, out_shape: &[Dim], own_inputs: usize) -> String {
    let _ = own_inputs;
    epilogue_in_steps(epilogue, out_shape, false)
}

/// The same with `store<V>(acc, i, reads)` after `reads = read<V>(i)`: as operands may lie where the output does, no
/// compiler reads for one row before it has stored another, and kernels that finish several rows should.
pub fn epilogue_in_two_steps(epilogue: &Epilogue<Dim>, out_shape: &[Dim]) -> String {
    epilogue_in_steps(epilogue, out_shape, true)
}

fn epilogue_in_steps(epilogue: &Epilogue<Dim>, out_shape: &[Dim], two: bool) -> String {
    let program = &epilogue.program;
    let Some(acc) = program.inputs.first() else {
        return "#error the epilogue has no accumulator\n".to_owned();
    };
    if program.outputs.len() != 1 || program.inputs.len() != epilogue.operands.len() + 1 {
        return "#error the epilogue's operands or results do not match its program\n".to_owned();
    }
    let mut pointers: Vec<(String, String)> = program.inputs[1..]
        .iter()
        .enumerate()
        .map(|(n, d)| (format!("const {}*", ctype(*d)), format!("e{n}")))
        .collect();
    pointers.push((format!("{}*", ctype(epilogue.out())), "out".to_owned()));
    let mut sources = vec![Source::Value("acc[j]".to_owned())];
    sources.extend(epilogue.operands.iter().enumerate().map(|(n, a)| Source::Memory(format!("e{n}"), a)));
    let row = match parts(out_shape, program, &sources, &["out".to_owned()], epilogue.place.as_ref()) {
        Ok(row) => row,
        Err(e) => return format!("#error the epilogue: {}\n", e.replace('\n', " ")),
    };
    let (reads, more) = if two { row.reads() } else { (String::new(), "") };
    let loads = row.loads.iter().map(|load| match &load.of {
        Some(_) if two => format!("const auto& {0} = reads.{0};\n", load.name),
        _ => load.statement(),
    });
    let body = row.before.clone() + &loads.collect::<String>() + &row.rest;
    let sizes = out_shape
        .iter()
        .chain(epilogue.operands.iter().flat_map(|a| a.strides.iter().chain([&a.offset])))
        .chain(
            epilogue
                .place
                .iter()
                .flat_map(|p| p.shape.iter().chain(&p.access.strides).chain([&p.access.offset])),
        )
        .collect();
    let (fields, value) = Record { pointers: &pointers, sizes }.fields_and_value("Epilogue");
    let params: String = pointers.iter().map(|(ty, name)| format!(", {ty} {name}")).collect();
    format!(
        "// epilogue: {program}\n\
         typedef {} acc_t;\n\
         struct Epilogue {{\n{fields}\n{reads}  \
           // Elements i to i + V - 1 of the output, from their accumulators.\n  \
           template <int V> DEVICE void store(const acc_t (&acc)[V], index_t i{more}) const {{\n{}  }}\n}};\n\
         #define EPILOGUE_PARAMS {params}\n\
         #define EPILOGUE {value}\n",
        class_type(acc.class()),
        indent(&body, 4),
    )
}

/// What goes with `EPILOGUE_PARAMS`.
pub fn epilogue_args(epilogue: &Epilogue<Dim>, own_inputs: usize) -> Vec<Arg> {
    let operands = (0..epilogue.operands.len()).map(|n| Arg::Input(own_inputs + n));
    operands.chain([Arg::Output(0)]).collect()
}

/// `extern "C" __global__ void KERNEL_NAME(...)`, for kernels written in Rust strings.
pub fn entry(params: &str) -> String {
    format!("extern \"C\" __global__ void {KERNEL_NAME}({params})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakelite_host::Pw;

    fn dims(text: &str) -> Vec<Dim> {
        text.split_whitespace().map(|t| t.parse().unwrap()).collect()
    }
    fn access(offset: &str, strides: &str) -> Access<Dim> {
        Access { offset: offset.parse().unwrap(), strides: dims(strides) }
    }

    #[test]
    fn collapses_what_every_access_walks_as_one() {
        let (full, bias) = (access("0", "3136*64 3136 56 1"), access("0", "0 1 0 0"));
        let (sizes, out) = collapse(&dims("batch 64 56 56"), &[&full, &bias]);
        assert_eq!(sizes, dims("batch 64 3136"));
        assert_eq!(out, [access("0", "200704 3136 1"), access("0", "0 1 0")]);
        let (sizes, out) = collapse(&dims("batch 64 56 56"), &[&full]);
        assert_eq!((sizes, out), (dims("200704*batch"), vec![access("0", "1")]));
        let (sizes, _) = collapse(&dims("1 1"), &[&access("5", "0 0")]);
        assert!(sizes.is_empty());
    }

    #[test]
    fn an_epilogue_reads_well() {
        let mut program = Program { inputs: vec![DType::F32, DType::F16, DType::F16], ..Program::default() };
        let sum = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
        let sum = program.push(Instr::Apply(Pw::Add, vec![sum, 2]));
        let out = program.push(Instr::Apply(Pw::Relu, vec![sum]));
        program.outputs = vec![(out, DType::F16)];
        let operands = vec![access("0", "0 1"), access("0", "512 1")];
        let text = epilogue(&Epilogue::new(program, operands), &dims("49*batch 512"), 2);
        assert_eq!(
            text,
            "// epilogue: (f32, f16, f16) { %3 = add %0 %1; %4 = add %3 %2; %5 = relu %4 } -> %5:f16\n\
typedef float acc_t;
struct Epilogue {
  const f16* e0;
  const f16* e1;
  f16* out;
  index_t sym_batch;

  // Elements i to i + V - 1 of the output, from their accumulators.
  template <int V> DEVICE void store(const acc_t (&acc)[V], index_t i) const {
    const index_t c1 = i % 512;
    const auto v1 = load_row<V, 16>(e0 + c1);
    const auto v2 = load_row<V, 16>(e1 + i);
    Vec<f16, V> result;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float x0 = acc[j];
      const float x1 = widen(v1.v[j]);
      const float x2 = widen(v2.v[j]);
      const float r3 = x0 + x1;
      const float r4 = r3 + x2;
      const float r5 = r4 < float(0) ? float(0) : r4;
      result.v[j] = narrow<f16>(r5);
    }
    store_vec<V>(out + i, result);
  }
};
#define EPILOGUE_PARAMS , const f16* e0, const f16* e1, f16* out
#define EPILOGUE Epilogue{e0, e1, out, sym_batch}
"
        );
    }

    #[test]
    fn a_placed_result_is_stored_by_its_digits() {
        // Columns 32 to 95 of 144, of an image whose rows are every other one.
        let place = Placement {
            shape: dims("2 56 56 64"),
            access: access("32", "1806336 16128 144 1"),
            elements: "3612672".parse().unwrap(),
        };
        let mut placed = Epilogue::store(DType::F16);
        placed.place = Some(place);
        let text = epilogue(&placed, &dims("6272 64"), 2);
        let store = "    const index_t o0 = i / 200704;
    const index_t o1 = i / 3584 % 56;
    const index_t o2 = i / 64 % 56;
    const index_t o3 = i % 64;
    static_assert(V == 1 || 64 % V == 0, \"a row lies in one piece\");
    store_row<V, 16>(out + o0 * 1806336 + o1 * 16128 + o2 * 144 + o3 + 32, result);\n";
        assert!(text.contains(store), "{text}");
    }

    #[test]
    fn a_malformed_epilogue_is_an_error_line() {
        let program = Program { inputs: vec![DType::F32], code: vec![], outputs: vec![(3, DType::F32)] };
        let text = epilogue(&Epilogue::new(program, vec![]), &dims("4"), 1);
        assert!(text.starts_with("#error") && text.contains("%3"), "{text}");
    }

    #[test]
    fn sections_come_along_only_where_used() {
        let bare = source("copies", false, &["extern \"C\" __global__ void KERNEL_NAME() {}"]);
        assert!(bare.starts_with("// copies\n") && !bare.contains("ldmatrix") && !bare.contains("pw_pow"));
        let uses = source("sums", false, &["... warp_sum(x) ... launch_dependents() ..."]);
        assert!(
            uses.contains("T warp_sum(") && uses.contains("griddepcontrol") && !uses.contains("ldmatrix")
        );
        // warp_max uses pw_max.
        assert!(uses.contains("pw_max(T a"));
    }

    #[test]
    fn names_of_symbols_become_identifiers() {
        assert_eq!(size("N", &Dim::symbol("nonzero.count")), "#define N sym_nonzero__count\n");
        assert_eq!(size("N", &"196*batch+1".parse().unwrap()), "#define N (196*sym_batch+1)\n");
        assert_eq!(size("N", &Dim::from(7)), "constexpr index_t N = 7;\n");
    }
}
