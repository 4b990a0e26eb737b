//! `main.rs` of a generated crate: one run on files or on made-up numbers, with times.

use crate::Result;
use crate::format::{items, literal};
use crate::model::{Model, Port, Shape};

/// The program.
pub fn program(m: &Model) -> Result<String> {
    let name = &m.name;
    let mut body = String::new();
    for s in &m.symbols {
        body += &format!("let mut {} = size(&sizes, {}, {})?;\n", s.ident, literal(&s.name), s.opt);
    }
    // Rows of a file say what the size is.
    for s in &m.symbols {
        let Some(port) = s.rows_of.and_then(|i| m.inputs.get(i).map(|p| (i, p))) else { continue };
        let (index, Port { shape: Shape::Rows(_, row), element_bytes, .. }) = port else { continue };
        let bytes = row.iter().product::<usize>() * element_bytes;
        body += &format!(
            "if let Some(file) = {file} {{ {} = file.len() as i64 / {}; }}\n",
            s.ident,
            bytes.max(1),
            file = file(index),
        );
    }
    let mut fields = String::new();
    for (i, p) in m.inputs.iter().enumerate() {
        let ident = &p.ident;
        body += &format!(
            "let {ident}: Vec<{}> = tensor({}, {}, {})?;\n",
            p.element,
            literal(&p.name),
            file(i),
            p.len
        );
        fields += &match &p.shape {
            Shape::Static(_) => format!("{ident}: shaped::shaped(&{ident})?,"),
            Shape::Rows(..) => format!("{ident}: shaped::shaped_rows(&{ident})?,"),
            Shape::Flat => format!("{ident}: &{ident},"),
        };
    }
    for s in m.symbols.iter().filter(|s| s.rows_of.is_none()) {
        fields += &format!("{}: {} as usize,", s.ident, s.ident);
    }
    let mut shown = String::new();
    for p in &m.outputs {
        let ident = &p.ident;
        let flat = match &p.shape {
            Shape::Static(dims) if dims.is_empty() => format!("shaped::flat(&outputs.{ident})"),
            Shape::Static(_) => format!("shaped::flat(&*outputs.{ident})"),
            Shape::Rows(..) => format!("shaped::flat_rows(&outputs.{ident})"),
            Shape::Flat => format!("&outputs.{ident}"),
        };
        shown += &format!("show({}, {flat});\n", literal(&p.name));
    }
    let mut elements: Vec<&str> = m.inputs.iter().chain(&m.outputs).map(|p| p.element.as_str()).collect();
    elements.sort_unstable();
    elements.dedup();
    let values: String = elements.iter().map(|e| value(e)).collect();
    let open = match (m.cuda.is_empty(), m.host.is_some(), m.gated()) {
        (false, true, true) => format!(
            "{OPEN_DOC}fn open(on_host: bool) -> Result<Model, Box<dyn Error>> {{
                #[cfg(feature = \"host\")]
                if on_host || cfg!(not(feature = \"cuda\")) {{ return Ok(Model::host()?); }}
                #[cfg(feature = \"cuda\")]
                if !on_host {{
                    {name}::Gpu::limit_queues(1);
                    return Ok(Model::load(&{name}::Gpu::open(0)?)?);
                }}
                Err(\"--host needs the feature `host`\".into())
            }}"
        ),
        (true, ..) => "fn open(_: bool) -> Result<Model, Box<dyn Error>> { Ok(Model::host()?) }".to_owned(),
        _ => format!(
            "{OPEN_DOC}fn open(on_host: bool) -> Result<Model, Box<dyn Error>> {{
                if on_host {{ return Err(\"this crate has no host target\".into()); }}
                {name}::Gpu::limit_queues(1);
                Ok(Model::load(&{name}::Gpu::open(0)?)?)
            }}"
        ),
    };
    let mutable = if body.contains("let mut") && !m.symbols.iter().any(|s| s.rows_of.is_some()) {
        body = body.replace("let mut ", "let ");
        ""
    } else {
        ""
    };
    for s in m.symbols.iter().filter(|s| s.rows_of.is_none()) {
        body = body.replace(&format!("let mut {} =", s.ident), &format!("let {} =", s.ident));
    }
    let takes = if m.inputs.is_empty() { "let _ = files;" } else { "" };
    let sizes = if m.symbols.is_empty() { "let _ = sizes;" } else { "" };
    let names: Vec<String> =
        m.inputs.iter().map(|p| format!("[{}]", p.name.to_uppercase().replace(['[', ']'], "_"))).collect();
    let size_names: Vec<String> = m.symbols.iter().map(|s| format!("{}=N", s.name)).collect();
    let usage = format!("usage: {name} [--host] {} {}", size_names.join(" "), names.join(" "));
    let tensor = if m.inputs.is_empty() { "" } else { TENSOR };
    let size = if m.symbols.is_empty() { "" } else { SIZE };
    items(&format!(
        "//! Runs the model once on raw little-endian or `.npy` files, one for each input in order, or on made-up numbers, and
        //! prints the largest elements of each output, and times.
        use bakelite_runtime::shaped::{{self, Scalar}};
        use {name}::{{Inputs, Model}};
        use std::error::Error;
        use std::time::Instant;

        fn main() -> std::process::ExitCode {{
            match run() {{
                Ok(()) => std::process::ExitCode::SUCCESS,
                Err(error) => {{
                    eprintln!(\"{{error}}\");
                    std::process::ExitCode::FAILURE
                }}
            }}
        }}
        fn run() -> Result<(), Box<dyn Error>> {{
            let (mut on_host, mut sizes, mut files) = (false, Vec::new(), Vec::new());
            for argument in std::env::args().skip(1) {{
                match argument.split_once('=') {{
                    Some((name, value)) => sizes.push((name.to_owned(), value.parse::<i64>()?)),
                    None if argument == \"--host\" => on_host = true,
                    None if argument.starts_with('-') => return Err({usage}.into()),
                    None => files.push(content(&argument)?),
                }}
            }}
            let started = Instant::now();
            let mut model = open(on_host)?;
            println!(\"loaded in {{:.1}} ms\", started.elapsed().as_secs_f64() * 1e3);
            {takes}{sizes}
            {body}{mutable}
            let inputs = Inputs {{ {fields} }};
            let started = Instant::now();
            let outputs = model.infer(&inputs)?;
            let first = started.elapsed();
            let mut times = Vec::new();
            while times.len() < 5 || (times.len() < 100 && started.elapsed().as_secs_f64() < 1.0) {{
                let started = Instant::now();
                model.infer(&inputs)?;
                times.push(started.elapsed());
            }}
            times.sort();
            {shown}
            let (first, median) = (first.as_secs_f64() * 1e3, times[times.len() / 2].as_secs_f64() * 1e3);
            println!(\"first inference {{first:.3}} ms, then {{median:.3}} ms (median of {{}})\", times.len());
            Ok(())
        }}

        {open}

        /// The elements of a file: all of it, or what follows the header of an `.npy`.
        fn content(path: &str) -> Result<Vec<u8>, Box<dyn Error>> {{
            let bytes = std::fs::read(path).map_err(|e| format!(\"{{path}}: {{e}}\"))?;
            if !bytes.starts_with(b\"\\x93NUMPY\") {{ return Ok(bytes); }}
            let short = || format!(\"{{path}}: the header is cut off\");
            let (length, at) = match bytes.get(6) {{
                Some(1) => (bytes.get(8..10).map(|b| usize::from(b[0]) | usize::from(b[1]) << 8), 10),
                _ => (bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize), 12),
            }};
            let end = at + length.ok_or_else(short)?;
            let header = String::from_utf8_lossy(bytes.get(at..end).ok_or_else(short)?).into_owned();
            if header.contains(\"'fortran_order': True\") || header.contains(\"'>\") {{
                return Err(format!(\"{{path}}: only little-endian row-major arrays are read\").into());
            }}
            Ok(bytes[end..].to_vec())
        }}

        {size}
        {tensor}

        /// An element that can be made up and printed.
        trait Value: Scalar + Default {{
            fn made(i: usize) -> Self;
            fn number(self) -> f64;
        }}
        {values}

        fn show<T: Value>(name: &str, elements: &[T]) {{
            let mut largest: Vec<(usize, f64)> = elements.iter().map(|e| e.number()).enumerate().collect();
            largest.sort_by(|a, b| b.1.total_cmp(&a.1));
            let text: Vec<String> = largest.iter().take(5).map(|(i, v)| format!(\"{{i}}: {{v:.5}}\")).collect();
            println!(\"{{name}} ({{}} elements): {{}}\", elements.len(), text.join(\", \"));
        }}
        ",
        usage = literal(usage.trim_end()),
    ))
}

/// The content given for input `i`.
fn file(i: usize) -> String {
    if i == 0 { "files.first()".to_owned() } else { format!("files.get({i})") }
}

const OPEN_DOC: &str = "/// One inference at a time: with one queue, the GPU is ready sooner.\n";

const SIZE: &str = "
fn size(sizes: &[(String, i64)], name: &str, otherwise: i64) -> Result<i64, Box<dyn Error>> {
    match sizes.iter().find(|(n, _)| n == name) {
        Some((_, value)) if *value < 0 => Err(format!(\"{name}={value}: sizes are not negative\").into()),
        found => Ok(found.map_or(otherwise, |(_, value)| *value)),
    }
}";

const TENSOR: &str = "
/// The elements of a file, or made-up ones.
fn tensor<T: Value>(name: &str, file: Option<&Vec<u8>>, count: usize) -> Result<Vec<T>, Box<dyn Error>> {
    let Some(bytes) = file else { return Ok((0..count).map(T::made).collect()) };
    if bytes.len() != count * size_of::<T>() {
        let (got, expected) = (bytes.len(), count * size_of::<T>());
        return Err(format!(\"{name}: expected {expected} bytes, the file has {got}\").into());
    }
    let mut elements = vec![T::default(); count];
    T::fill_from(&mut elements, |to| {
        to.copy_from_slice(bytes);
        Ok(())
    })?;
    Ok(elements)
}";

fn value(element: &str) -> String {
    let (made, number) = match element {
        "f32" => ("((i * 37 + 11) % 101) as f32 / 101.0 - 0.5", "f64::from(self)"),
        "f64" => ("((i * 37 + 11) % 101) as f64 / 101.0 - 0.5", "self"),
        "bool" => ("i.is_multiple_of(2)", "f64::from(u8::from(self))"),
        "i64" | "u64" => (if element == "i64" { "(i % 3) as i64" } else { "(i % 3) as u64" }, "self as f64"),
        "bakelite_runtime::f16" | "bakelite_runtime::bf16" => {
            return format!(
                "impl Value for {element} {{
                    fn made(i: usize) -> Self {{ Self::from_f32(((i * 37 + 11) % 101) as f32 / 101.0 - 0.5) }}
                    fn number(self) -> f64 {{ self.to_f64() }}
                }}\n"
            );
        }
        _ => ("(i % 3) as Self", "f64::from(self)"),
    };
    format!(
        "impl Value for {element} {{
            fn made(i: usize) -> Self {{ {made} }}
            fn number(self) -> f64 {{ {number} }}
        }}\n"
    )
}
