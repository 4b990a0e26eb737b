//! Pointwise programs over a row of elements: what is read, what is computed element by element, what is stored.

use super::*;

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
    let row = parts(shape, program, sources, outputs, None)?;
    let loads: String = row.loads.iter().map(Load::statement).collect();
    Ok(row.coordinates() + &loads + &row.results + &row.stores)
}

/// The statements of [`row`], in order.
pub(super) struct Row {
    /// The coordinates that loads need, but for the next.
    outer: String,
    /// The one that says where an element lies in its row of the output, if it is needed: name and value.
    column: Option<(String, String)>,
    pub(super) loads: Vec<Load>,
    pub(super) results: String,
    pub(super) stores: String,
}

/// What is read before the elements are computed one by one.
pub(super) struct Load {
    /// `None` for a pointer, which reads nothing yet.
    pub(super) of: Option<String>,
    declared: String,
    pub(super) name: String,
    value: String,
    /// The value where V elements may reach past the end of a row, of what goes by the column alone.
    ragged: Option<String>,
}

impl Load {
    pub(super) fn statement(&self) -> String {
        format!("{} {} = {};\n", self.declared, self.name, self.value)
    }
}

impl Row {
    /// The coordinates that loads need.
    pub(super) fn coordinates(&self) -> String {
        let column = self.column.as_ref().map(|(name, value)| coordinate(name, value));
        self.outer.clone() + &column.unwrap_or_default()
    }

    /// The members that read what a row needs, all but the load called `carried`, and the parameter that takes it. `ragged`: what goes by
    /// the column alone is read as far as there is any.
    pub(super) fn reads(&self, carried: &str, ragged: bool) -> (String, &'static str) {
        let (mut fields, mut values) = (String::new(), Vec::new());
        for load in &self.loads {
            if let Some(of) = load.of.as_ref().filter(|_| load.name != carried) {
                let _ = writeln!(fields, "    {of} {};", load.name);
                let value = load.ragged.as_ref().filter(|_| ragged).unwrap_or(&load.value);
                values.push(value.as_str());
            }
        }
        let (name, column) = self.column.as_ref().map_or(("", "0"), |(name, value)| (name, value));
        let (outer, values) = (indent(&self.outer, 4), values.join(", "));
        let text = format!(
            "  // What those elements read besides; where the first lies in its row may be known.\n  template <int V> struct Reads {{\n{fields}  }};\n  \
               template <int V> DEVICE Reads<V> read(index_t i, index_t {name}) const {{\n{outer}    return {{{values}}};\n  }}\n  \
               template <int V> DEVICE Reads<V> read(index_t i) const {{ return read<V>(i, {column}); }}\n"
        );
        (text, ", const Reads<V>& reads")
    }
}

// With `place`, the elements of the one output go where it says.
pub(super) fn parts(
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

    let (mut outer, mut column) = (String::new(), None);
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
                ragged: None,
            });
            continue;
        }
        let element = if inner.is_some_and(|s| s.is(1)) {
            let from = if at.is_empty() { pointer.clone() } else { format!("{pointer} + {at}") };
            let align = if full { power_of_two([&access.offset], 16) } else { align };
            let by_column = goes_by_column(access) && sizes.last() == shape.last();
            let last = format!("c{}", sizes.len().saturating_sub(1));
            let ragged = sizes.last().filter(|_| by_column).map(|columns| {
                format!("load_row_within<V, {align}>({from}, {} - {last})", size_text(columns))
            });
            loads.push(Load {
                of: Some(format!("Vec<{}, V>", ctype(program.inputs[n]))),
                declared: "const auto".to_owned(),
                name: format!("v{n}"),
                value: format!("load_row<V, {align}>({from})"),
                ragged,
            });
            format!("v{n}.v[j]")
        } else {
            let step = inner.map_or_else(String::new, size_text);
            loads.push(Load {
                of: None,
                declared: "const auto*".to_owned(),
                name: format!("p{n}"),
                value: format!("{pointer} + {}", if at.is_empty() { "0" } else { &at }),
                ragged: None,
            });
            format!("p{n}[j * {step}]")
        };
        raw[n] = Some(element.clone());
        let _ = writeln!(elements, "  const {class} x{n} = widen({element});");
    }
    for d in coordinates {
        let by = if strides[d].is(1) { String::new() } else { format!(" / {}", size_text(&strides[d])) };
        let modulo = if d == 0 { String::new() } else { format!(" % {}", size_text(&sizes[d])) };
        let (name, value) = (format!("c{d}"), format!("i{by}{modulo}"));
        if d + 1 == sizes.len() && sizes.last() == shape.last() {
            column = Some((name, value));
        } else {
            outer += &coordinate(&name, &value);
        }
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
    let results = format!("{results}#pragma unroll\nfor (int j = 0; j < V; ++j) {{\n{elements}}}\n");
    Ok(Row { outer, column, loads, results, stores })
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

/// Whether all rows read the same in a column, and neighbours in neighbouring ones.
pub fn goes_by_column(access: &Access<Dim>) -> bool {
    let strides = access.strides.split_last();
    strides.is_some_and(|(inner, outer)| inner.is(1) && outer.iter().all(|stride| stride.is(0)))
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

fn coordinate(name: &str, value: &str) -> String {
    format!("const index_t {name} = {value};\n")
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

/// Which registers are only ever rounded to halves.
fn rounded(program: &Program, live: &[bool]) -> Vec<bool> {
    let inputs = program.inputs.len();
    let mut rounded = vec![true; live.len()];
    for (r, dtype) in &program.outputs {
        rounded[usize::from(*r)] &= dtype.is_half();
    }
    for (instr, _) in program.code.iter().zip(&live[inputs..]).filter(|(_, live)| **live) {
        match instr {
            Instr::Const(_) => {}
            Instr::Cast(to, arg) => rounded[usize::from(*arg)] &= to.is_half(),
            Instr::Apply(_, args) => args.iter().for_each(|a| rounded[usize::from(*a)] = false),
        }
    }
    rounded
}

/// The text of an operator of which a half is made: what that does not show is not computed.
fn to_half(op: Pw) -> &'static str {
    match op {
        Pw::Gelu => "pw_gelu_half(a)",
        Pw::GeluTanh => "pw_gelu_tanh_half(a)",
        op => op.cuda(),
    }
}

/// Writes one statement for each live instruction and returns the expression that names each register.
fn arithmetic(program: &Program, classes: &[Class], live: &[bool], out: &mut String) -> Vec<String> {
    let mut names: Vec<String> = (0..program.inputs.len()).map(|n| format!("x{n}")).collect();
    let rounded = rounded(program, live);
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
                let text =
                    if rounded[here] && classes[here] == Class::F32 { to_half(*op) } else { op.cuda() };
                let text = replace_words(text, &names);
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
