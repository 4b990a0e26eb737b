//! The emitter: plans to the files of a crate, or of a module for a build script. It decides nothing that a plan has not decided,
//! and the same plans give the same bytes.

mod cuda;
mod expression;
mod host;
mod name;

use crate::error::{Error, Result, Stage};
use crate::execute::kernels::Images;
use crate::plan::{Plan, Port};
use crate::target::Target;
use bakelite_kernels::Dim;
use bakelite_templates::{self as templates, Form, Model, Shape, Storage};
use bytes::Bytes;
use expression::Scope;
use name::Names;
use std::collections::BTreeMap;
use std::io::Write;

pub use bakelite_templates::Dependencies;

/// Files by path, relative to the crate's folder, with `/` between names.
pub type Files = BTreeMap<String, Bytes>;

/// A plan with its kernels' images.
#[derive(Clone, Debug)]
pub struct PlanWithImages {
    /// The plan.
    pub plan: Plan,
    /// An image of each kernel, in the plan's order; empty for the host.
    pub images: Vec<Images>,
}

/// Where the weights go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightsIn {
    /// In the binary.
    Embed,
    /// In a file beside it.
    File,
    /// In the binary up to 64 MB.
    #[default]
    Auto,
}

/// Weights up to this many bytes go into the binary if nothing else is asked for.
const EMBED_LIMIT: u64 = 64 << 20;

/// What the plans do not say.
#[derive(Clone, Debug)]
pub struct EmitOptions {
    /// Name of the crate or module; the model's name if empty.
    pub name: String,
    /// Where the weights go.
    pub weights: WeightsIn,
    /// How the crate finds the runtime.
    pub dependencies: Dependencies,
    /// BLAKE3 of the ONNX file, for the README; may be empty.
    pub model_hash: String,
    /// Where times were measured, for the README; may be empty.
    pub measured_on: String,
}

impl Default for EmitOptions {
    fn default() -> EmitOptions {
        EmitOptions {
            name: String::new(),
            weights: WeightsIn::default(),
            dependencies: Dependencies::Registry("0.1".to_owned()),
            model_hash: String::new(),
            measured_on: String::new(),
        }
    }
}

/// Formatted when it was generated: `cargo fmt` changes nothing, so that a new generation differs only where the model does.
const RUSTFMT: &str = "# Generated code, formatted already.\ndisable_all_formatting = true\n";

/// The files of a crate.
pub fn files(plans: &[PlanWithImages], options: &EmitOptions) -> Result<Files> {
    let (model, mut files) = describe(plans, options, Form::Crate)?;
    let mut put = |path: &str, text: String| files.insert(path.to_owned(), Bytes::from(text));
    put("Cargo.toml", templates::manifest(&model, &options.dependencies));
    put("rustfmt.toml", RUSTFMT.to_owned());
    put("README.md", templates::readme(&model, &options.dependencies));
    put("src/lib.rs", templates::api(&model).map_err(bug)?);
    put("src/main.rs", templates::program(&model).map_err(bug)?);
    for (module, text) in modules(&model)? {
        put(&format!("src/{module}.rs"), text);
    }
    if options.dependencies == Dependencies::Vendored {
        let version = env!("CARGO_PKG_VERSION");
        put("bakelite-runtime/Cargo.toml", templates::vendored_runtime(version));
        for (name, text) in bakelite_runtime::sources::FILES {
            put(&format!("bakelite-runtime/src/{name}"), (*text).to_owned());
        }
        if model.host.is_some() {
            put("bakelite-host/Cargo.toml", templates::vendored_host(version));
            for (name, text) in bakelite_host::sources::FILES {
                put(&format!("bakelite-host/src/{name}"), (*text).to_owned());
            }
        }
    }
    Ok(files)
}

/// The files of a module for a build script: `model.rs`, which `bakelite_runtime::include_model!` includes, and what it
/// reads.
pub fn single_module(plans: &[PlanWithImages], options: &EmitOptions) -> Result<Files> {
    let (model, mut files) = describe(plans, options, Form::Module)?;
    let api = templates::api(&model).map_err(bug)?;
    let modules = modules(&model)?;
    let parts: Vec<(&str, String)> = modules.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let text = templates::single(&model, &api, &parts).map_err(bug)?;
    files.insert("model.rs".to_owned(), Bytes::from(text));
    Ok(files)
}

/// The Rust name of a crate or module for a model of this name.
pub fn module_name(text: &str) -> String {
    name::snake(text, "model")
}

fn bug(what: String) -> Error {
    Error::new(Stage::Emit, "templates", what)
}

fn modules(model: &Model) -> Result<Vec<(String, String)>> {
    let mut modules = Vec::new();
    if !model.cuda.is_empty() {
        modules.push(("cuda".to_owned(), templates::cuda(model).map_err(bug)?));
        for target in &model.cuda {
            modules.push((target.module.clone(), templates::cuda_steps(model, target).map_err(bug)?));
        }
    }
    if let Some(host) = &model.host {
        modules.push(("host".to_owned(), templates::host(model, host).map_err(bug)?));
        modules.push(("host_steps".to_owned(), templates::host_steps(model, host).map_err(bug)?));
    }
    Ok(modules)
}

/// What the templates need, and the files that are not Rust.
fn describe(plans: &[PlanWithImages], options: &EmitOptions, form: Form) -> Result<(Model, Files)> {
    let first = match plans.first() {
        Some(first) => &first.plan,
        None => return Err(Error::new(Stage::Emit, "targets", "there is no plan to emit")),
    };
    for other in plans {
        agree(first, &other.plan)?;
    }
    let name = module_name(if options.name.is_empty() { &first.name } else { &options.name });
    // What the generated functions call their own variables.
    let mut names = Names::taken(&[
        "inputs", "outputs", "sizes", "weights", "arena", "stream", "io", "graphs", "graph", "places", "k",
        "w", "a", "p", "acc", "on_host", "files", "model", "started", "first", "times", "argument",
        "session", "shaped", "branches", "value", "pw", "cast", "map", "read", "at", "constant", "gpu",
        "Gpu",
    ]);
    let scope = Scope::new(&first.symbols, &mut names);
    let port =
        |p: &Port, names: &mut Names, what: &str| describe_port(p, names.give(&p.name, what), &scope, first);
    let inputs: Vec<_> = first.inputs.iter().map(|p| port(p, &mut names, "input")).collect();
    let outputs: Vec<_> = first.outputs.iter().map(|p| port(p, &mut names, "output")).collect();
    let rows_of = |symbol: &str| {
        first.inputs.iter().zip(&inputs).position(|(p, d)| {
            matches!(d.shape, Shape::Rows(..)) && p.ty.shape.first() == Some(&Dim::symbol(symbol))
        })
    };
    let symbols = first
        .symbols
        .iter()
        .map(|(name, range)| templates::Symbol {
            name: name.clone(),
            ident: scope.ident(name),
            min: range.min,
            max: range.max,
            opt: range.opt,
            rows_of: rows_of(name),
        })
        .collect();
    let mut model = Model {
        name,
        title: title(&first.name, options),
        hash: options.model_hash.clone(),
        measured_on: options.measured_on.clone(),
        form,
        symbols,
        inputs,
        outputs,
        host: None,
        cuda: vec![],
    };
    let mut files = Files::new();
    let mut listing = String::new();
    for PlanWithImages { plan, images } in plans {
        if !listing.is_empty() {
            listing.push('\n');
        }
        listing += &plan.to_string();
        let blob = Bytes::from(plan.weight_blob());
        let weights = store(plan, &blob, options);
        if weights.storage != Storage::None {
            files.insert(weights.file.clone(), blob);
        }
        let ports = || plan.inputs.iter().chain(&plan.outputs);
        let offsets = ports().map(|p| plan.buffers[p.buffer].offset).collect();
        match &plan.target {
            Target::Host => {
                let steps = host::steps(plan, &scope)?;
                model.host = Some(templates::Host { arena: plan.arena, ports: offsets, weights, steps });
            }
            Target::Cuda(gpu) => {
                let arch = gpu.arch.to_string();
                let idents: Vec<String> =
                    model.inputs.iter().chain(&model.outputs).map(|p| p.ident.clone()).collect();
                let port =
                    |buffer: usize| ports().position(|p| p.buffer == buffer).map(|i| idents[i].clone());
                let suffix = if model.cuda.is_empty() { String::new() } else { format!("_{arch}") };
                let ptx = put_kernels(plan, images, &suffix, &mut files)?;
                model.cuda.push(templates::Cuda {
                    module: format!("steps{suffix}"),
                    arena: plan.arena,
                    ports: offsets,
                    weights,
                    kernels: cuda::kernels(plan),
                    steps: cuda::steps(plan, &scope, &port)?,
                    branches: plan.lanes > 1,
                    ptx,
                    arch,
                });
            }
        }
    }
    files.insert("plan.txt".to_owned(), Bytes::from(listing));
    Ok((model, files))
}

/// The model's name, unless it is one that exporters give to every model.
fn title(name: &str, options: &EmitOptions) -> String {
    const GENERIC: [&str; 6] = ["", "graph", "main", "main_graph", "torch_jit", "torch-jit-export"];
    let name = if GENERIC.contains(&name) { &options.name } else { name };
    name.replace(|c: char| c.is_control(), " ")
}

/// Sources and images of the kernels; the architecture of their PTX if all have it.
fn put_kernels(plan: &Plan, images: &[Images], suffix: &str, files: &mut Files) -> Result<Option<String>> {
    if images.len() != plan.kernels.len() {
        let what = format!("the plan has {} kernels and {} images", plan.kernels.len(), images.len());
        return Err(Error::new(Stage::Emit, format!("target {}", plan.target), what));
    }
    let mut archs = Vec::new();
    for (kernel, image) in plan.kernels.iter().zip(images) {
        let stem = format!("kernels/{}{suffix}", kernel.name);
        files.insert(format!("{stem}.cu"), Bytes::from(kernel.source.clone()));
        files.insert(format!("{stem}.cubin"), Bytes::from(image.cubin.clone()));
        if let Some(ptx) = &image.ptx {
            files.insert(
                format!("{stem}.ptx.gz"),
                compressed(ptx.as_bytes()).map_err(|e| Error::new(Stage::Emit, stem, e.to_string()))?,
            );
            archs.push(image.ptx_arch());
        }
    }
    let all = archs.len() == images.len();
    let first = archs.first().cloned().flatten();
    Ok(first.filter(|f| all && archs.iter().all(|a| a.as_ref() == Some(f))))
}

/// gzip without a name or a time: the same text gives the same bytes.
fn compressed(text: &[u8]) -> std::io::Result<Bytes> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(text)?;
    gzip.finish().map(Bytes::from)
}

fn store(plan: &Plan, blob: &Bytes, options: &EmitOptions) -> templates::Weights {
    let storage = match options.weights {
        _ if blob.is_empty() => Storage::None,
        WeightsIn::Embed => Storage::Embedded,
        WeightsIn::File => Storage::File,
        WeightsIn::Auto if plan.weight_bytes <= EMBED_LIMIT => Storage::Embedded,
        WeightsIn::Auto => Storage::File,
    };
    templates::Weights {
        file: format!("weights.{}.bin", plan.target),
        len: blob.len() as u64,
        blake3: blake3::hash(blob).to_hex().to_string(),
        storage,
    }
}

fn agree(a: &Plan, b: &Plan) -> Result<()> {
    let ports = |p: &Plan| {
        p.inputs
            .iter()
            .chain(&p.outputs)
            .map(|p| format!("{}: {}", p.name, p.ty))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if ports(a) == ports(b) && a.symbols == b.symbols {
        return Ok(());
    }
    let what = format!("has ({}), and {} has ({})", ports(a), b.target, ports(b));
    Err(Error::new(Stage::Emit, format!("target {}", a.target), what))
}

fn describe_port(p: &Port, ident: String, scope: &Scope, plan: &Plan) -> templates::Port {
    let fixed = |dims: &[Dim]| {
        dims.iter()
            .map(|d| d.as_const().and_then(|c| usize::try_from(c).ok()))
            .collect::<Option<Vec<usize>>>()
    };
    let shape = match (fixed(&p.ty.shape), p.ty.shape.split_first()) {
        (Some(dims), _) => Shape::Static(dims),
        (None, Some((rows, row))) => match fixed(row) {
            // Rows of no elements cannot be counted.
            Some(row) if !row.contains(&0) => Shape::Rows(scope.size(rows), row),
            _ => Shape::Flat,
        },
        (None, None) => Shape::Flat,
    };
    let dtype = p.ty.dtype;
    templates::Port {
        name: p.name.clone(),
        ident,
        element: match dtype {
            bakelite_host::DType::F16 | bakelite_host::DType::BF16 => format!("bakelite_runtime::{dtype}"),
            other => other.to_string(),
        },
        element_bytes: dtype.size(),
        text: p.ty.to_string(),
        shape,
        len: scope.size(&p.ty.count()),
        dims: p.ty.shape.iter().map(|d| scope.size(d)).collect(),
        capacity: plan.buffers[p.buffer].capacity,
    }
}
