//! `lib.rs` of a generated crate: inputs, outputs, sizes, weights, the model.

use crate::format::{code, items, literal};
use crate::model::{Form, Model, Port, Shape, Storage};
use crate::{Result, format};

/// The typed API.
pub fn api(m: &Model) -> Result<String> {
    let (cuda, host) = (!m.cuda.is_empty(), m.host.is_some());
    let (on_gpu, on_host) = (m.gate("cuda"), m.gate("host"));
    let mut text = String::new();
    if m.form == Form::Crate {
        text += &head(m);
        if m.gated() {
            text += "#[cfg(not(any(feature = \"cuda\", feature = \"host\")))]
                compile_error!(\"enable the feature `cuda` or `host`\");\n";
        }
        if cuda {
            text += &format!("{on_gpu}mod cuda;\n");
        }
        if host {
            text += &format!("{on_host}mod host;\n{on_host}mod host_steps;\n");
        }
        for target in &m.cuda {
            text += &format!("{on_gpu}mod {};\n", target.module);
        }
    }
    text += &exports(m);
    text += &types(m);
    text += &checks(m);
    text += &weights(m);
    text += &session(m);
    items(&text)
}

fn head(m: &Model) -> String {
    let targets: Vec<&str> =
        m.cuda.iter().map(|c| c.arch.as_str()).chain(m.host.iter().map(|_| "host")).collect();
    let lines = [
        format!("The model {}, compiled by Bakelite for {}.", code(&m.title), targets.join(", ")),
        String::new(),
        "[`Model::infer`] takes [`Inputs`] and gives [`Outputs`]; shapes that the model fixes are array types, so the".to_owned(),
        "compiler checks them. `plan.txt` lists every step, buffer and weight; README.md shows how to call it.".to_owned(),
    ];
    let doc: String = lines.iter().map(|l| format!("//! {l}\n")).collect();
    format!("{doc}#![forbid(unsafe_code)]\n#![warn(missing_docs)]\n")
}

fn exports(m: &Model) -> String {
    let on_gpu = m.gate("cuda");
    // Whoever includes a module need not name all that it exports, and is not to be warned of what was written for them.
    let quiet = if m.form == Form::Module { "#[allow(unused_imports)]\n" } else { "" };
    let mut text = String::new();
    if !m.cuda.is_empty() {
        text += &format!("{on_gpu}{quiet}pub use bakelite_runtime::{{DevicePtr, Gpu, Stream}};\n");
    }
    text += &format!("{quiet}pub use bakelite_runtime::{{Error, Result}};\n");
    if !m.cuda.is_empty() || m.host.is_some() {
        text += "use std::sync::Arc;\n";
    }
    text
}

fn types(m: &Model) -> String {
    let mut text = String::new();
    let borrowed = |p: &Port| format!("{}pub {}: {},\n", port_doc(p), p.ident, p.input_type());
    let owned = |p: &Port| format!("{}pub {}: {},\n", port_doc(p), p.ident, p.output_type());
    let explicit: String = m
        .symbols
        .iter()
        .filter(|s| s.rows_of.is_none())
        .map(|s| {
            format!("/// The size {}: {} to {}.\npub {}: usize,\n", code(&s.name), s.min, s.max, s.ident)
        })
        .collect();
    let fields: String = m.inputs.iter().map(borrowed).collect();
    let lifetime = if m.inputs.is_empty() { "" } else { "<'a>" };
    text += &format!(
        "/// What one inference takes.\n#[derive(Clone, Copy, Debug)]\npub struct Inputs{lifetime} {{ {fields}{explicit} }}\n"
    );
    let fields: String = m.outputs.iter().map(owned).collect();
    text += &format!(
        "/// What one inference gives.\n#[derive(Clone, Debug, PartialEq)]\npub struct Outputs {{ {fields} }}\n"
    );
    if !m.symbols.is_empty() {
        let fields: String = m
            .symbols
            .iter()
            .map(|s| format!("/// {}: {} to {}.\npub {}: i64,\n", code(&s.name), s.min, s.max, s.ident))
            .collect();
        text += &format!(
            "/// The sizes that the model leaves open.\n#[derive(Clone, Copy, Debug, PartialEq, Eq)]\npub struct Sizes {{ {fields} }}\n"
        );
    }
    if !m.cuda.is_empty() {
        let fields: String = m
            .ports()
            .map(|p| {
                format!("/// {}: {} bytes at most.\npub {}: DevicePtr,\n", code(&p.name), p.capacity, p.ident)
            })
            .collect();
        text += &format!(
            "/// Device addresses of inputs and outputs for [`Model::enqueue`]: dense, aligned to 16 bytes, not overlapping.
            {}#[derive(Clone, Copy, Debug)]\npub struct Buffers {{ {fields} }}\n",
            m.gate("cuda")
        );
    }
    text
}

fn port_doc(p: &Port) -> String {
    let note = match &p.shape {
        Shape::Flat => "; flat, row-major",
        _ => "",
    };
    format!("/// {}: {}{note}\n", code(&p.name), code(&p.text))
}

// Finding the sizes, and checking every shape that the types do not fix.
fn checks(m: &Model) -> String {
    if m.symbols.is_empty() {
        return String::new();
    }
    let mut body = String::new();
    for s in &m.symbols {
        let value = match s.rows_of.and_then(|i| m.inputs.get(i)) {
            Some(port) => format!("self.{}.len() as i64", port.ident),
            None => format!("self.{} as i64", s.ident),
        };
        body += &format!(
            "let {} = {value};\nbakelite_runtime::error::check_range({}, {}, {}, {})?;\n",
            s.ident,
            literal(&s.name),
            s.min,
            s.max,
            s.ident
        );
    }
    for (at, p) in m.inputs.iter().enumerate() {
        let (count, expected, got) = match &p.shape {
            Shape::Static(_) => continue,
            Shape::Rows(..) if m.symbols.iter().any(|s| s.rows_of == Some(at)) => continue,
            Shape::Rows(rows, _) => (rows.clone(), p.dims.join(", "), "rows"),
            Shape::Flat => (p.len.clone(), p.dims.join(", "), "elements"),
        };
        body += &format!(
            "if self.{ident}.len() != {count} {{ return Err(wrong_shape({name}, &[{expected}], self.{ident}.len())); }}\n",
            ident = p.ident,
            name = literal(&p.name),
        );
        let _ = got;
    }
    let fields: Vec<&str> = m.symbols.iter().map(|s| s.ident.as_str()).collect();
    let lifetime = if m.inputs.is_empty() { "" } else { "<'_>" };
    let wrong = if body.contains("wrong_shape(") {
        "fn wrong_shape(tensor: &str, expected: &[usize], got: usize) -> Error {
            Error::Shape { tensor: tensor.to_owned(), expected: expected.to_vec(), got: vec![got] }
        }\n"
    } else {
        ""
    };
    format!(
        "impl Inputs{lifetime} {{
            /// The sizes of these inputs; an error where they disagree or lie outside what the model was compiled for.
            pub fn sizes(&self) -> Result<Sizes> {{ {body} Ok(Sizes {{ {} }}) }}
        }}
        {wrong}",
        fields.join(", ")
    )
}

fn weights(m: &Model) -> String {
    let (on_gpu, on_host) = (m.gate("cuda"), m.gate("host"));
    let (mut kinds, mut makers) = (String::new(), String::new());
    if !m.cuda.is_empty() {
        kinds += &format!("{on_gpu}Cuda(Arc<cuda::Weights>),\n");
        makers += &format!(
            "/// Uploads the weights and loads the kernels that suit the GPU.
            {on_gpu}pub fn load(gpu: &Gpu) -> Result<Weights> {{ Ok(Weights(Kind::Cuda(Arc::new(cuda::Weights::load(gpu)?)))) }}\n"
        );
    }
    if let Some(host) = &m.host {
        kinds += &format!("{on_host}Host(Arc<host::Weights>),\n");
        makers += &format!(
            "/// The weights for this machine's CPU.
            {on_host}pub fn host() -> Result<Weights> {{ Ok(Weights(Kind::Host(Arc::new(host::Weights::open()?)))) }}\n"
        );
        if host.weights.storage == Storage::File {
            makers += &format!(
                "/// As [`Weights::host`], from a file at another place.
                {on_host}pub fn host_from(path: impl AsRef<std::path::Path>) -> Result<Weights> {{
                    Ok(Weights(Kind::Host(Arc::new(host::Weights::open_at(path.as_ref())?))))
                }}\n"
            );
        }
    }
    if m.cuda.iter().any(|c| c.weights.storage == Storage::File) {
        makers += &format!(
            "/// As [`Weights::load`], with the weights files in another folder.
            {on_gpu}pub fn load_from(gpu: &Gpu, folder: impl AsRef<std::path::Path>) -> Result<Weights> {{
                Ok(Weights(Kind::Cuda(Arc::new(cuda::Weights::load_from(gpu, folder.as_ref())?))))
            }}\n"
        );
    }
    format!(
        "/// The weights, in place for one device. Cheap to clone: any number of models share them.
        #[derive(Clone)]
        pub struct Weights(Kind);

        #[derive(Clone)]
        enum Kind {{ {kinds} }}

        impl Weights {{ {makers} }}

        impl std::fmt::Debug for Weights {{
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{ f.write_str(\"Weights\") }}
        }}\n"
    )
}

fn session(m: &Model) -> String {
    let (on_gpu, on_host) = (m.gate("cuda"), m.gate("host"));
    let sizes = if m.symbols.is_empty() { "" } else { "let sizes = &inputs.sizes()?;\n" };
    let argument = m.sizes_argument();
    let lifetime = if m.inputs.is_empty() { "" } else { "<'_>" };
    let (mut engines, mut makers, mut new, mut infer) =
        (String::new(), String::new(), String::new(), String::new());
    let mut enqueue = String::new();
    if !m.cuda.is_empty() {
        engines += &format!("{on_gpu}Cuda(Box<cuda::Session>),\n");
        makers += &format!(
            "/// Puts the model on a GPU: weights uploaded, kernels loaded.
            {on_gpu}pub fn load(gpu: &Gpu) -> Result<Model> {{ Model::new(&Weights::load(gpu)?) }}\n"
        );
        new += &format!(
            "{on_gpu}Kind::Cuda(weights) => Engine::Cuda(Box::new(cuda::Session::new(weights.clone())?)),\n"
        );
        infer += &format!("{on_gpu}Engine::Cuda(session) => session.infer(inputs{argument}),\n");
        let other = match m.host.is_some() {
            true => format!(
                "{on_host}Engine::Host(_) => Err(Error::Busy {{ what: \"the model is on the host: it has no stream\".to_owned() }}),"
            ),
            false => String::new(),
        };
        enqueue = format!(
            "/// Enqueues one inference on device memory and returns at once. The stream may be capturing. Calls on several
            /// streams at a time need a model each: they share its scratch memory.
            {on_gpu}pub fn enqueue(&mut self, stream: &Stream, buffers: &Buffers{}) -> Result<()> {{
                match &mut self.0 {{ Engine::Cuda(session) => session.enqueue(stream, buffers{argument}), {other} }}
            }}\n",
            m.sizes_parameter()
        );
    }
    if m.host.is_some() {
        engines += &format!("{on_host}Host(host::Session),\n");
        makers += &format!(
            "/// The model on this machine's CPU.
            {on_host}pub fn host() -> Result<Model> {{ Model::new(&Weights::host()?) }}\n"
        );
        new +=
            &format!("{on_host}Kind::Host(weights) => Engine::Host(host::Session::new(weights.clone())),\n");
        infer += &format!("{on_host}Engine::Host(session) => session.infer(inputs{argument}),\n");
    }
    let made = "Ok(Model(match &weights.0 {";
    format!(
        "/// The model with memory of its own. One inference at a time; make one for each thread, with shared [`Weights`].
        pub struct Model(Engine);

        enum Engine {{ {engines} }}

        impl Model {{
            {makers}
            /// A model on the device that the weights are on.
            pub fn new(weights: &Weights) -> Result<Model> {{ {made} {new} }})) }}

            /// Computes the outputs.
            pub fn infer(&mut self, inputs: &Inputs{lifetime}) -> Result<Outputs> {{
                {sizes}match &mut self.0 {{ {infer} }}
            }}
            {enqueue}
        }}

        impl std::fmt::Debug for Model {{
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{ f.write_str({}) }}
        }}\n",
        format::literal(&format!("Model({})", m.title))
    )
}
