//! The end of a region as a member function that kernels call with their accumulators.

use super::row::parts;
use super::*;
use bakelite_host::problem::Rows;

const MOMENTS: &str = include_str!("../../cuda/moments.cuh");

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
pub fn epilogue(epilogue: &Epilogue<Dim>, out_shape: &[Dim]) -> String {
    epilogue_in_steps(epilogue, out_shape, &Steps::One, &LAST)
}

/// The same with `store<V>(acc, i, reads)` after `reads = read<V>(i)`, which stores nothing where i is negative: as operands may
/// lie where the output does, no compiler reads for one row before it has stored another, and kernels that finish several rows
/// should. Of rows that begin at one element of the innermost dimension, what goes by it alone is read once where
/// `read<V>(i, column)` says so.
pub fn epilogue_in_two_steps(epilogue: &Epilogue<Dim>, out_shape: &[Dim]) -> String {
    epilogue_in_steps(epilogue, out_shape, &Steps::Two, &LAST)
}

/// The same with `result<V>(acc, i, reads)`, which stores nothing: for kernels that store the result, of type `result_t`, in ways of
/// their own.
pub fn epilogue_returned(epilogue: &Epilogue<Dim>, out_shape: &[Dim]) -> String {
    epilogue_in_steps(epilogue, out_shape, &Steps::Returned { ragged: false }, &LAST)
}

/// The same for V elements of which the last may lie past the end of a row, if all that it reads goes by the column
/// ([`goes_by_column`]) or is known of rows. What becomes of those is for nobody.
pub fn epilogue_of_ragged_rows(epilogue: &Epilogue<Dim>, out_shape: &[Dim]) -> String {
    epilogue_in_steps(epilogue, out_shape, &Steps::Returned { ragged: true }, &LAST)
}

/// The same with `result<V>(acc, i, reads, carried)`: for kernels that also bring the elements of operand `carried`, of type
/// `carried_t`, themselves.
pub fn epilogue_carried(epilogue: &Epilogue<Dim>, out_shape: &[Dim], carried: Option<usize>) -> String {
    epilogue_in_steps(epilogue, out_shape, &Steps::Carried(carried), &LAST)
}

/// What a kernel does to sums on their way to a second product, in two steps: `struct Between`, `BETWEEN_PARAMS` for its operands
/// alone, and `BETWEEN(out)`, the value that stores at `out`.
pub fn between(epilogue: &Epilogue<Dim>, out_shape: &[Dim]) -> String {
    epilogue_in_steps(epilogue, out_shape, &Steps::Two, &BETWEEN)
}

/// How a kernel calls an epilogue.
enum Steps {
    /// It reads and stores.
    One,
    /// It reads, then it stores.
    Two,
    /// It reads, and stores nothing.
    Returned { ragged: bool },
    /// It reads all but this operand, and stores nothing.
    Carried(Option<usize>),
}

/// What the text of an epilogue calls its struct, its macros and its operands.
struct Names {
    record: &'static str,
    macros: &'static str,
    operands: &'static str,
    /// Whether the result is a parameter of the kernel, not of the macro.
    stored: bool,
}

const LAST: Names = Names { record: "Epilogue", macros: "EPILOGUE", operands: "e", stored: true };
const BETWEEN: Names = Names { record: "Between", macros: "BETWEEN", operands: "b", stored: false };

fn epilogue_in_steps(epilogue: &Epilogue<Dim>, out_shape: &[Dim], steps: &Steps, names: &Names) -> String {
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
        .map(|(n, d)| (format!("const {}*", ctype(*d)), format!("{}{n}", names.operands)))
        .collect();
    pointers.push((format!("{}*", ctype(epilogue.out())), "out".to_owned()));
    if epilogue.moments {
        pointers.push(("float*".to_owned(), "moments".to_owned()));
    }
    let mut sources = vec![Source::Value("acc[j]".to_owned())];
    sources.extend(epilogue.operands.iter().enumerate().map(|(n, a)| match (&epilogue.rows, n) {
        (Some(_), 0) => Source::Value("row.mean".to_owned()),
        (Some(_), 1) => Source::Value("row.rate".to_owned()),
        _ => Source::Memory(format!("{}{n}", names.operands), a),
    }));
    let row = match parts(out_shape, program, &sources, &["out".to_owned()], epilogue.place.as_ref()) {
        Ok(row) => row,
        Err(e) => return format!("#error the epilogue: {}\n", e.replace('\n', " ")),
    };
    // Operand n is the program's input n + 1.
    let carried = match steps {
        Steps::Carried(Some(n)) => format!("v{}", n + 1),
        _ => String::new(),
    };
    let (reads, more) = match steps {
        Steps::One => (String::new(), ""),
        _ => row.reads(&carried, matches!(steps, Steps::Returned { ragged: true })),
    };
    let loads = row.loads.iter().map(|load| match (&load.of, steps) {
        (None, _) | (_, Steps::One) => load.statement(),
        (_, Steps::Carried(_)) if load.name == carried => format!("const auto& {carried} = carried;\n"),
        _ => format!("const auto& {0} = reads.{0};\n", load.name),
    });
    let mut body = row.coordinates() + &loads.collect::<String>() + &row.results;
    if epilogue.moments {
        body += "store_moments(moments, i, result);\n";
    }
    let (moments, rows) = match steps {
        Steps::One => (String::new(), String::new()),
        _ => rows(epilogue, names.operands),
    };
    let out_type = ctype(epilogue.out());
    let (types, member, body) = match steps {
        Steps::Returned { .. } | Steps::Carried(_) => {
            let mut types = format!("typedef {out_type} result_t;\n");
            let mut brought = "";
            if let Steps::Carried(n) = steps {
                let carried = n.and_then(|n| program.inputs.get(n + 1)).map_or(out_type, |d| ctype(*d));
                types += &format!("typedef {carried} carried_t;\n");
                brought = ", const Vec<carried_t, V>& carried";
            }
            let member = format!(
                "Vec<result_t, V> result(const acc_t (&acc)[V], index_t i{more}{brought}, const Row& row = {{}})"
            );
            (types, member, body + "return result;\n")
        }
        _ => {
            // Who stores in one step knows nothing of rows, and gives no moments.
            let two = matches!(steps, Steps::Two);
            let known = if two { ", const Row& row = {}" } else { "" };
            let member = format!("void store(const acc_t (&acc)[V], index_t i{more}{known})");
            let stores =
                if two { format!("if (i >= 0) {{\n{}}}\n", indent(&row.stores, 2)) } else { row.stores };
            (String::new(), member, body + &stores)
        }
    };
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
    let (fields, value) = Record { pointers: &pointers, sizes }.fields_and_value(names.record);
    let parameters = pointers.len() - usize::from(!names.stored);
    let params: String = pointers[..parameters].iter().map(|(ty, name)| format!(", {ty} {name}")).collect();
    let Names { record, macros, stored, .. } = names;
    let out = if *stored { "" } else { "(out)" };
    let what = record.to_lowercase();
    format!(
        "{moments}// {what}: {program}\n\
         typedef {} acc_t;\n\
         {types}\
         struct {record} {{\n{fields}\n{rows}{reads}  \
           // Elements i to i + V - 1 of the output, from their accumulators.\n  \
           template <int V> DEVICE {member} const {{\n{}  }}\n}};\n\
         #define {macros}_PARAMS {params}\n\
         #define {macros}{out} {value}\n",
        class_type(acc.class()),
        indent(&body, 4),
    )
}

/// What moments need, and the members that say what is known of a row: nothing, or its mean and deviation.
fn rows(epilogue: &Epilogue<Dim>, operands: &str) -> (String, String) {
    let text = if epilogue.rows.is_some() || epilogue.moments { MOMENTS } else { "" };
    let (types, parts, row) = match &epilogue.rows {
        None => ("struct RowParts {};\n  struct Row {};".to_owned(), "{}".to_owned(), "{}".to_owned()),
        Some(Rows { len, rms, epsilon }) => (
            format!("typedef ::RowParts<{len}> RowParts;\n  typedef RowStatistics Row;"),
            format!("RowParts({operands}0, r)"),
            format!("row_statistics<{rms}>(parts, {})", literal(Scalar::F32(*epsilon))),
        ),
    };
    let together = epilogue.moments;
    let members = format!(
        "  // Whether all threads of a warp finish their elements together, those that do not exist as negative ones.\n  \
           static constexpr bool TOGETHER = {together};\n  // What is known of row r of the output: asked for, then there, by four neighbouring lanes at one row.\n  {types}\n  \
           DEVICE RowParts row_parts(index_t r) const {{ return {parts}; }}\n  \
           DEVICE Row row(const RowParts& parts) const {{ return {row}; }}\n"
    );
    (text.to_owned(), members)
}

/// What goes with `EPILOGUE_PARAMS`.
pub fn epilogue_args(epilogue: &Epilogue<Dim>, own_inputs: usize) -> Vec<Arg> {
    let operands = (0..epilogue.operands.len()).map(|n| Arg::Input(own_inputs + n));
    operands.chain((0..1 + usize::from(epilogue.moments)).map(Arg::Output)).collect()
}
