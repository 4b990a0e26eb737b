//! Text of CUDA C++ that depends on a problem: sizes, symbols, and pointwise programs over rows of elements.
//! Knows no family: what surrounds this text is theirs.

use crate::dim::{Dim, Symbols, product};
use crate::family::{Arg, KERNEL_NAME};
use bakelite_host::problem::{Access, Epilogue, Placement};
use bakelite_host::{Class, DType, Instr, Problem, Program, Pw, Scalar};
use std::collections::BTreeSet;
use std::fmt::Write;

mod epilogue;
mod row;

pub use epilogue::{
    Record, between, epilogue, epilogue_args, epilogue_carried, epilogue_in_two_steps,
    epilogue_of_ragged_rows, epilogue_returned,
};
pub use row::{Source, goes_by_column, indent, literal, row};

const PRELUDE: &str = concat!(include_str!("../cuda/prelude.cuh"), include_str!("../cuda/hopper.cuh"));

/// Sections of the prelude that are left out of a source which calls nothing of them.
const OPTIONAL: [&str; 8] = [
    "loads under a condition",
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

/// `extern "C" __global__ void KERNEL_NAME(...)`, for kernels written in Rust strings.
pub fn entry(params: &str) -> String {
    format!("extern \"C\" __global__ void {KERNEL_NAME}({params})")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let text = epilogue(&Epilogue::new(program, operands), &dims("49*batch 512"));
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
      const float r5 = pw_relu(r4);
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
        let text = epilogue(&placed, &dims("6272 64"));
        let store = "    const index_t o0 = i / 200704;
    const index_t o1 = i / 3584 % 56;
    const index_t o2 = i / 64 % 56;
    const index_t o3 = i % 64;
    static_assert(V == 1 || 64 % V == 0, \"a row lies in one piece\");
    store_row<V, 16>(out + o0 * 1806336 + o1 * 16128 + o2 * 144 + o3 + 32, result);\n";
        assert!(text.contains(store), "{text}");
    }

    #[test]
    fn a_result_is_given_to_those_who_store_it() {
        let text = epilogue_returned(&Epilogue::store(DType::F16), &dims("6272 65"));
        assert!(text.contains("typedef f16 result_t;\n"), "{text}");
        assert!(text.contains("DEVICE Vec<result_t, V> result(") && !text.contains("store"), "{text}");
    }

    #[test]
    fn what_goes_by_the_column_is_read_to_the_end_of_a_row() {
        let mut program = Program { inputs: vec![DType::F32], ..Program::default() };
        let (bias, scale) = (program.add_input(DType::F16), program.add_input(DType::F16));
        let sum = program.push(Instr::Apply(Pw::Add, vec![0, bias]));
        let out = program.push(Instr::Apply(Pw::Mul, vec![sum, scale]));
        program.outputs = vec![(out, DType::F16)];
        let of = |rows: &str| Epilogue::new(program.clone(), vec![access("0", "0 1"), access("4", rows)]);
        let text = epilogue_of_ragged_rows(&of("0 1"), &dims("128 1003"));
        let reads = "return {load_row_within<V, 16>(e0 + c1, 1003 - c1), load_row_within<V, 4>(e1 + c1 + 4, 1003 - c1)};";
        assert!(text.contains(reads), "{text}");
        // What goes by the row, too, has an element behind its last.
        let text = epilogue_of_ragged_rows(&of("1003 1"), &dims("128 1003"));
        assert!(text.contains("load_row<V, 4>(e1 + i + 4)"), "{text}");
        assert!(!epilogue_returned(&of("0 1"), &dims("128 1003")).contains("load_row_within"));
    }

    #[test]
    fn where_elements_lie_in_their_row_may_be_given() {
        // A bias by column, one by row, and two residuals, of which the kernel brings the first itself.
        let mut program = Program { inputs: vec![DType::F32], ..Program::default() };
        let mut sum = 0;
        let strides = ["0 1", "1 0", "512 1", "512 1"];
        let inputs = strides.map(|_| program.add_input(DType::F16));
        for input in inputs {
            sum = program.push(Instr::Apply(Pw::Add, vec![sum, input]));
        }
        program.outputs = vec![(sum, DType::F16)];
        let operands = strides.iter().map(|strides| access("0", strides)).collect();
        let text = epilogue_carried(&Epilogue::new(program, operands), &dims("64 512"), Some(2));
        let reads = "  template <int V> struct Reads {
    Vec<f16, V> v1;
    float x2;
    Vec<f16, V> v4;
  };
  template <int V> DEVICE Reads<V> read(index_t i, index_t c1) const {
    const index_t c0 = i / 512;
    return {load_row<V, 16>(e0 + c1), widen(e1[c0]), load_row<V, 16>(e3 + i)};
  }
  template <int V> DEVICE Reads<V> read(index_t i) const { return read<V>(i, i % 512); }
";
        assert!(text.contains(reads), "{text}");
        for line in ["v1 = reads.v1;", "x2 = reads.x2;", "v3 = carried;", "v4 = reads.v4;"] {
            assert!(text.contains(&format!("const auto& {line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn what_is_rounded_to_halves_is_computed_for_halves() {
        let gelu = |code: &[Instr], out: DType| {
            let mut program = Program { inputs: vec![DType::F32], ..Program::default() };
            let mut last = program.push(Instr::Apply(Pw::Gelu, vec![0]));
            for instr in code {
                last = program.push(instr.clone());
            }
            program.outputs = vec![(last, out)];
            epilogue(&Epilogue::new(program, vec![]), &dims("8 64")).contains("pw_gelu_half(")
        };
        let doubled = Instr::Apply(Pw::Add, vec![1, 1]);
        assert!(gelu(&[], DType::F16) && gelu(&[], DType::BF16) && !gelu(&[], DType::F32));
        assert!(!gelu(std::slice::from_ref(&doubled), DType::F16));
        let cast = Instr::Cast(DType::F16, 1);
        assert!(gelu(std::slice::from_ref(&cast), DType::F32) && !gelu(&[cast, doubled], DType::F32));
    }

    #[test]
    fn a_malformed_epilogue_is_an_error_line() {
        let program = Program { inputs: vec![DType::F32], code: vec![], outputs: vec![(3, DType::F32)] };
        let text = epilogue(&Epilogue::new(program, vec![]), &dims("4"));
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
