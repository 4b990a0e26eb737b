//! `README.md` of a generated crate.

use crate::manifest::Dependencies;
use crate::model::{Model, Port, Storage};

/// The README.
pub fn readme(m: &Model, dependencies: &Dependencies) -> String {
    let mut text = format!("# {}\n\nThe model `{}`, compiled ahead of time by Bakelite.", m.name, m.title);
    text +=
        " Everything it computes is in `src/` and `kernels/`; `plan.txt` lists it.\n\n| | |\n| --- | --- |\n";
    if !m.hash.is_empty() {
        text += &format!("| model | BLAKE3 `{}` |\n", m.hash);
    }
    let targets: Vec<String> = m
        .cuda
        .iter()
        .map(|c| match &c.ptx {
            Some(ptx) => format!("{} (with {ptx} PTX)", c.arch),
            None => c.arch.clone(),
        })
        .chain(m.host.iter().map(|_| "host (feature `host`)".to_owned()))
        .collect();
    text += &format!("| targets | {} |\n", targets.join(", "));
    if !m.measured_on.is_empty() {
        text += &format!("| measured on | {} |\n", m.measured_on);
    }
    for w in m.cuda.iter().map(|c| &c.weights).chain(m.host.iter().map(|h| &h.weights)) {
        let place = match w.storage {
            Storage::None => continue,
            Storage::Embedded => "in the binary",
            Storage::File => "beside the program, mapped and checked",
        };
        text += &format!("| `{}` | {} bytes, {place}, BLAKE3 `{}` |\n", w.file, w.len, w.blake3);
    }
    let runtime = match dependencies {
        Dependencies::Vendored => {
            "Our runtime is copied into this folder: there is no dependency on Bakelite."
        }
        _ => "It depends on Bakelite's runtime, not on its compiler.",
    };
    text += &format!("\n{runtime}\n\n## Call it\n\n```rust\n{}```\n", example(m));
    text += "\n`cargo run --release` runs it once; `.npy` or raw little-endian files for the inputs go after `--`.\n";
    if !m.cuda.is_empty() {
        text += &format!(
            "\nA program with one stream loads it sooner if `main` begins with `{}::Gpu::limit_queues(1)`, as `src/main.rs` does: the\n\
             driver then makes one queue for kernels and one for copies instead of several.\n",
            m.name
        );
    }
    text += "\nTo use it, depend on it by path. Inside a workspace of yours list its folder under `workspace.exclude`.\n";
    let port = |p: &Port| format!("| `{}` | `{}` | `{}` |\n", p.ident, p.text, p.name);
    text += "\n| input | type | name in the model |\n| --- | --- | --- |\n";
    text += &m.inputs.iter().map(port).collect::<String>();
    text += "\n| output | type | name in the model |\n| --- | --- | --- |\n";
    text += &m.outputs.iter().map(port).collect::<String>();
    for s in &m.symbols {
        text += &format!("\nThe size `{}` is {} to {}, tuned for {}.\n", s.name, s.min, s.max, s.opt);
    }
    for target in &m.cuda {
        let timed: Vec<_> = target.steps.iter().filter(|s| s.measured.is_some()).collect();
        if timed.is_empty() {
            continue;
        }
        let total: f64 = timed.iter().filter_map(|s| s.measured).sum();
        text += &format!(
            "\n## Steps on {}\n\n{} of {} steps were timed, each on its own: {total:.1} µs in all.\n\n",
            target.arch,
            timed.len(),
            target.steps.len()
        );
        text += "| step | tactic | µs |\n| --- | --- | ---: |\n";
        for s in timed {
            let name = s.name.replace(['|', '`'], "'");
            text += &format!("| `{name}` | `{}` | {:.2} |\n", s.tactic, s.measured.unwrap_or(0.0));
        }
    }
    text
}

fn example(m: &Model) -> String {
    let fields: Vec<String> = m
        .inputs
        .iter()
        .map(|p| format!("{}: &{}", p.ident, p.ident))
        .chain(m.symbols.iter().filter(|s| s.rows_of.is_none()).map(|s| s.ident.clone()))
        .collect();
    let mut text = String::new();
    let name = &m.name;
    if m.cuda.is_empty() {
        text += &format!("let mut model = {name}::Model::host()?;\n");
    } else {
        text += &format!("let gpu = {name}::Gpu::open(0)?;\nlet mut model = {name}::Model::load(&gpu)?;\n");
    }
    text += &format!("let outputs = model.infer(&{name}::Inputs {{ {} }})?;\n", fields.join(", "));
    if let Some(p) = m.outputs.first() {
        text += &format!("println!(\"{{:?}}\", outputs.{});\n", p.ident);
    }
    text
}
