//! `host.rs` and `host_steps.rs`: the model on a CPU.

use crate::Result;
use crate::cuda::embedding;
use crate::format::{comment, items, literal};
use crate::model::{Form, Host, Model, Storage, mentions};

/// Weights and session.
pub fn host(m: &Model, host: &Host) -> Result<String> {
    let w = &host.weights;
    let (fields, opening) = match w.storage {
        Storage::None => ("", "Ok(Weights {})".to_owned()),
        Storage::Embedded => ("", "Ok(Weights {})".to_owned()),
        Storage::File => (
            "file: WeightsFile,",
            format!(
                "let beside = beside_program({name});
            if beside.exists() {{ return Weights::open_at(&beside); }}
            Weights::open_at(Path::new(concat!({folder}, {slash})))",
                name = literal(&w.file),
                folder = m.folder(),
                slash = literal(&format!("/{}", w.file)),
            ),
        ),
    };
    let bytes = match w.storage {
        Storage::None => "&[]",
        Storage::Embedded => "embedded()",
        Storage::File => "&self.file",
    };
    let embedded = match w.storage {
        Storage::Embedded => embedding(m, "embedded", &format!("{}_host", m.name), w),
        _ => String::new(),
    };
    let embed = if embedded.is_empty() { "" } else { "embed_macro!();" };
    let open_at = match w.storage {
        Storage::File => format!(
            "pub(crate) fn open_at(path: &Path) -> Result<Weights> {{
                Ok(Weights {{ file: WeightsFile::open(path, {}, {})? }})
            }}",
            w.len,
            literal(&w.blake3)
        ),
        _ => String::new(),
    };
    let imports = match w.storage {
        Storage::File => {
            "use bakelite_runtime::WeightsFile;\nuse bakelite_runtime::weights::beside_program;\nuse std::path::Path;"
        }
        _ => "",
    };
    let (mut write, mut read) = (String::new(), String::new());
    for (p, offset) in m.inputs.iter().zip(&host.ports) {
        let source = p.flat(&format!("inputs.{}", p.ident));
        write += &format!("place(&mut self.arena, at({offset}, {}), {source})?;\n", p.len);
    }
    for (p, offset) in m.outputs.iter().zip(&host.ports[m.inputs.len()..]) {
        read += &format!(
            "let mut {} = {};\nfetch(&self.arena, at({offset}, {}), {})?;\n",
            p.ident,
            p.zeroed(),
            p.len,
            p.flat_mut()
        );
    }
    let outputs: Vec<&str> = m.outputs.iter().map(|p| p.ident.as_str()).collect();
    let used = format!("{write}{read}");
    let shaped = if mentions(&used, "shaped") { "use bakelite_runtime::shaped;" } else { "" };
    let unused = if m.inputs.is_empty() && m.symbols.is_empty() { "let _ = inputs;" } else { "" };
    let lifetime = if m.inputs.is_empty() { "" } else { "<'_>" };
    let place = if m.inputs.is_empty() {
        ""
    } else {
        "fn place<T: Element>(arena: &mut Arena, to: Place<T>, from: &[T]) -> Result<()> {
            arena.write(to).map_err(refused)?.copy_from_slice(from);
            Ok(())
        }\n"
    };
    let (head, steps) = match m.form {
        Form::Crate => ("//! The model on a CPU.\n", "crate"),
        Form::Module => ("", "super"),
    };
    let text = items(&format!(
        "{head}
        use {steps}::{{Inputs, Outputs, Result{sizes_import}, host_steps}};
        use bakelite_host::arena::{{Arena, Place, at}};
        use bakelite_host::{{Element, RunError}};
        use bakelite_runtime::Error;
        {shaped}
        {imports}
        use std::sync::Arc;
        {embed}

        /// Constant data.
        pub(crate) struct Weights {{ {fields} }}

        impl Weights {{
            pub(crate) fn open() -> Result<Weights> {{ {opening} }}
            {open_at}
            fn bytes(&self) -> &[u8] {{ {bytes} }}
        }}

        /// Memory for one inference at a time.
        pub(crate) struct Session {{ weights: Arc<Weights>, arena: Arena }}

        impl Session {{
            pub(crate) fn new(weights: Arc<Weights>) -> Session {{ Session {{ weights, arena: Arena::new({arena}) }} }}

            pub(crate) fn infer(&mut self, inputs: &Inputs{lifetime}{sizes_parameter}) -> Result<Outputs> {{
                {unpack}{unused}
                {write}
                host_steps::run(self.weights.bytes(), &mut self.arena{sizes_argument})?;
                {read}
                Ok(Outputs {{ {outputs} }})
            }}
        }}

        {place}
        fn fetch<T: Element>(arena: &Arena, from: Place<T>, to: &mut [T]) -> Result<()> {{
            to.copy_from_slice(arena.read(from).map_err(refused)?);
            Ok(())
        }}

        fn refused(error: RunError) -> Error {{ Error::Step {{ step: \"memory\".to_owned(), what: error.to_string() }} }}
        ",
        arena = host.arena,
        outputs = outputs.join(", "),
        unpack = m.unpack(&used),
        sizes_import = m.sizes_import(),
        sizes_parameter = m.sizes_parameter(),
        sizes_argument = m.sizes_argument(),
    ))?;
    Ok(text.replace("embed_macro!();\n", &embedded))
}

/// How many steps one function calls: longer lists are divided, so that a person can keep the place.
const RUN: usize = 40;

/// A function for each step, and one that calls them in order.
pub fn host_steps(m: &Model, host: &Host) -> Result<String> {
    let all: String = host.steps.iter().map(|s| s.body.as_str()).collect();
    let mut steps = String::new();
    for step in &host.steps {
        let data = if mentions(&step.body, "weights") { "weights" } else { "_" };
        let sizes = m.unpack(&step.body);
        let sizes_name = match (m.symbols.is_empty(), sizes.is_empty()) {
            (true, _) => "",
            (_, true) => ", _: &Sizes",
            _ => ", sizes: &Sizes",
        };
        let text = items(&format!(
            "fn {}({data}: &[u8], arena: &mut Arena{sizes_name}) -> Result<(), RunError> {{ {sizes}{} }}",
            step.ident, step.body
        ))?;
        steps += "\n";
        steps += &comment("// ", &step.doc);
        steps += &text;
    }
    let calls: Vec<String> = host
        .steps
        .iter()
        .map(|s| {
            format!("named({}, {}(weights, arena{}))?;\n", literal(&s.ident), s.ident, m.sizes_argument())
        })
        .collect();
    let signature = format!("weights: &[u8], arena: &mut Arena{}", m.sizes_parameter());
    let mut parts = String::new();
    let run = if calls.len() <= RUN {
        calls.concat()
    } else {
        let mut run = String::new();
        for (i, part) in calls.chunks(RUN).enumerate() {
            let name = format!("part_{i}");
            run += &format!("{name}(weights, arena{})?;\n", m.sizes_argument());
            parts += &format!("fn {name}({signature}) -> Result<()> {{ {} Ok(()) }}\n", part.concat());
        }
        run
    };
    let unused = if calls.is_empty() { "let _ = (weights, arena);" } else { "" };
    let (head, root) = match m.form {
        Form::Crate => ("//! The steps of the model on a CPU, in order.\n", "crate"),
        Form::Module => ("", "super"),
    };
    let imported = |prefix: &str, list: Vec<&str>| match list.is_empty() {
        true => String::new(),
        false => format!("use {prefix}::{{{}}};\n", list.join(", ")),
    };
    let used = |list: &[&'static str]| {
        let mut used: Vec<&str> = list.iter().copied().filter(|n| mentions(&all, n)).collect();
        used.sort_unstable();
        used
    };
    let mut imports = String::new();
    imports += &imported("bakelite_host", used(KERNELS));
    imports += &imported("bakelite_host::problem", used(PROBLEMS));
    if mentions(&all, "pw") {
        imports += "use bakelite_host::pointwise as pw;\n";
    }
    for half in ["f16", "bf16"] {
        if mentions(&all, half) {
            imports += &format!("use bakelite_runtime::{half};\n");
        }
    }
    let named = if calls.is_empty() {
        ""
    } else {
        "fn named(step: &str, outcome: Result<(), RunError>) -> Result<()> {
            outcome.map_err(|error| Error::Step { step: step.to_owned(), what: error.to_string() })
        }"
    };
    let errors =
        if calls.is_empty() { "" } else { "use bakelite_host::RunError;\nuse bakelite_runtime::Error;\n" };
    let main = items(&format!(
        "{head}
        #![allow(clippy::approx_constant)]
        use {root}::{{Result{}}};
        use bakelite_host::Arena;
        {errors}
        {imports}

        /// Every step in order.
        pub(crate) fn run({signature}) -> Result<()> {{ {unused}{run} Ok(()) }}
        {parts}
        {named}
        ",
        m.sizes_import()
    ))?;
    Ok(main + &steps)
}

/// What bodies may name of `bakelite_host`.
const KERNELS: &[&str] = &[
    "arg_reduce",
    "attention",
    "cast",
    "concat",
    "conv",
    "conv_transpose",
    "cum_sum",
    "gather",
    "gemm",
    "group_norm",
    "layer_norm",
    "lrn",
    "pad",
    "pool",
    "reduce",
    "resize",
    "softmax",
    "top_k",
    "DType",
    "View",
    "at",
    "constant",
    "map",
    "map_in_place",
    "read",
    "split",
];
/// What bodies may name of `bakelite_host::problem`.
const PROBLEMS: &[&str] = &[
    "Access",
    "ArgReduce",
    "Attention",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Coordinates",
    "CumSum",
    "Epilogue",
    "Gather",
    "GatherElements",
    "Gemm",
    "GroupNorm",
    "Interpolation",
    "LayerNorm",
    "Layout",
    "Lrn",
    "Math",
    "Pad",
    "PadMode",
    "Pool",
    "PoolKind",
    "Reduce",
    "ReduceKind",
    "Resize",
    "Softmax",
    "TopK",
];
