//! What a template is filled with: plain data, expressions as Rust text.

/// Whether the code is a crate of its own or modules of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A crate, its targets behind features where there are both.
    Crate,
    /// One file under `OUT_DIR/<name>/`, without features.
    Module,
}

/// A model to be written.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name of the crate or module.
    pub name: String,
    /// Name in the ONNX file.
    pub title: String,
    /// BLAKE3 of the ONNX file; empty if unknown.
    pub hash: String,
    /// Where times were measured; empty if they were not.
    pub measured_on: String,
    /// Crate or module.
    pub form: Form,
    /// Dynamic sizes.
    pub symbols: Vec<Symbol>,
    /// Inputs in order.
    pub inputs: Vec<Port>,
    /// Outputs in order.
    pub outputs: Vec<Port>,
    /// The host target, if there is one.
    pub host: Option<Host>,
    /// CUDA targets, preferred ones first.
    pub cuda: Vec<Cuda>,
}

/// A dynamic size.
#[derive(Clone, Debug)]
pub struct Symbol {
    /// Name in the model.
    pub name: String,
    /// Rust name.
    pub ident: String,
    /// Smallest value.
    pub min: i64,
    /// Largest value.
    pub max: i64,
    /// The value it was tuned for.
    pub opt: i64,
    /// The input whose number of rows it is, by index.
    pub rows_of: Option<usize>,
}

/// An input or output.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name in the model.
    pub name: String,
    /// Rust name.
    pub ident: String,
    /// Rust type of an element.
    pub element: String,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// Type in Bakelite's text form, for people.
    pub text: String,
    /// Its Rust shape.
    pub shape: Shape,
    /// Number of elements: an expression of type usize over the symbols.
    pub len: String,
    /// Sizes, outermost first: expressions of type usize.
    pub dims: Vec<String>,
    /// Most bytes.
    pub capacity: u64,
}

/// How a port looks in Rust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nested arrays.
    Static(Vec<usize>),
    /// A slice or vector of nested arrays; the number of rows is an expression of type usize.
    Rows(String, Vec<usize>),
    /// A flat slice or vector.
    Flat,
}

/// Where weights are.
#[derive(Clone, Debug)]
pub struct Weights {
    /// File name in the crate.
    pub file: String,
    /// Its length.
    pub len: u64,
    /// Its BLAKE3.
    pub blake3: String,
    /// In the binary or beside it.
    pub storage: Storage,
}

/// Where weights are at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the binary.
    Embedded,
    /// In a file beside it.
    File,
    /// There are none.
    None,
}

/// The host target.
#[derive(Clone, Debug)]
pub struct Host {
    /// Bytes of the arena.
    pub arena: u64,
    /// Offset of each input, then of each output.
    pub ports: Vec<u64>,
    /// Constant data.
    pub weights: Weights,
    /// In order.
    pub steps: Vec<HostStep>,
}

/// One step on the host.
#[derive(Clone, Debug)]
pub struct HostStep {
    /// Name of its function.
    pub ident: String,
    /// What it is: the region and its problem.
    pub doc: String,
    /// Its statements.
    pub body: String,
}

/// A CUDA target.
#[derive(Clone, Debug)]
pub struct Cuda {
    /// `sm_90a`
    pub arch: String,
    /// Module with its steps.
    pub module: String,
    /// Bytes of the arena.
    pub arena: u64,
    /// Offset of each input, then of each output.
    pub ports: Vec<u64>,
    /// Constant data.
    pub weights: Weights,
    /// Kernels.
    pub kernels: Vec<Kernel>,
    /// `compute_80`, if every kernel has such PTX.
    pub ptx: Option<String>,
    /// In order.
    pub steps: Vec<CudaStep>,
    /// Whether steps say which others they come after; if not, each comes after the one before it.
    pub branches: bool,
}

/// A kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name in its image, and of its files.
    pub name: String,
    /// Most dynamic shared memory of its launches, bytes.
    pub shared: u32,
    /// Whether some launch has clusters of more than 8 blocks.
    pub large_clusters: bool,
}

/// One step on a GPU.
#[derive(Clone, Debug)]
pub struct CudaStep {
    /// What it is: region, problem, tactic, time.
    pub doc: String,
    /// Earlier steps that it comes after.
    pub after: Vec<usize>,
    /// Launches in order.
    pub launches: Vec<Launch>,
    /// Name for the README.
    pub name: String,
    /// Tactic for the README.
    pub tactic: String,
    /// Measured µs.
    pub measured: Option<f64>,
}

/// One launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks: expressions of type u32.
    pub grid: [String; 3],
    /// Threads.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// Blocks of a cluster.
    pub cluster: Option<[u32; 3]>,
    /// Programmatic dependent launch.
    pub programmatic: bool,
    /// Expressions of type `TensorMap`, over `arena.add(offset)`, `weights.add(offset)`, `io`, `stream` and the symbols.
    pub maps: Vec<String>,
    /// Expressions of type `Arg`, over `w(offset)`, `a(offset)`, `io`, the symbols and the maps by [`Launch::map_name`].
    pub args: Vec<String>,
}

impl Launch {
    /// What the map is called that the launch asks for in this place.
    pub fn map_name(index: usize) -> String {
        if index == 0 { "map".to_owned() } else { format!("map_{index}") }
    }
}

impl Model {
    /// Whether targets are chosen by features: both kinds are there, in a crate.
    pub(crate) fn gated(&self) -> bool {
        self.form == Form::Crate && self.host.is_some() && !self.cuda.is_empty()
    }

    /// `#[cfg(feature = "...")]` where targets are chosen by features.
    pub(crate) fn gate(&self, feature: &str) -> String {
        if self.gated() { format!("#[cfg(feature = \"{feature}\")]\n") } else { String::new() }
    }

    /// `const` text of the folder that weights and kernels lie in.
    pub(crate) fn folder(&self) -> String {
        match self.form {
            Form::Crate => "env!(\"CARGO_MANIFEST_DIR\")".to_owned(),
            Form::Module => format!("env!(\"OUT_DIR\"), \"/{}\"", self.name),
        }
    }

    /// Inputs, then outputs.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &Port> {
        self.inputs.iter().chain(&self.outputs)
    }

    /// `let Sizes { batch, .. } = *sizes;` for the symbols that `text` names.
    pub(crate) fn unpack(&self, text: &str) -> String {
        let used: Vec<&str> =
            self.symbols.iter().map(|s| s.ident.as_str()).filter(|s| mentions(text, s)).collect();
        let rest = if used.len() < self.symbols.len() { ", .." } else { "" };
        match used.is_empty() {
            true => String::new(),
            false => format!("let Sizes {{ {}{rest} }} = *sizes;\n", used.join(", ")),
        }
    }

    /// `, sizes: &Sizes` where there are dynamic sizes.
    pub(crate) fn sizes_parameter(&self) -> &'static str {
        if self.symbols.is_empty() { "" } else { ", sizes: &Sizes" }
    }

    /// `, sizes` where there are dynamic sizes.
    pub(crate) fn sizes_argument(&self) -> &'static str {
        if self.symbols.is_empty() { "" } else { ", sizes" }
    }

    /// `, Sizes` where there are dynamic sizes.
    pub(crate) fn sizes_import(&self) -> &'static str {
        if self.symbols.is_empty() { "" } else { ", Sizes" }
    }
}

impl Port {
    /// The type of one row, or of all of it.
    pub(crate) fn array(&self) -> String {
        let dims = match &self.shape {
            Shape::Static(dims) | Shape::Rows(_, dims) => dims.as_slice(),
            Shape::Flat => &[],
        };
        dims.iter().rev().fold(self.element.clone(), |inner, n| format!("[{inner}; {n}]"))
    }

    /// The type of the field of `Inputs`.
    pub(crate) fn input_type(&self) -> String {
        match self.shape {
            Shape::Static(_) => format!("&'a {}", self.array()),
            Shape::Rows(..) | Shape::Flat => format!("&'a [{}]", self.array()),
        }
    }

    /// The type of the field of `Outputs`.
    pub(crate) fn output_type(&self) -> String {
        match &self.shape {
            Shape::Static(dims) if dims.is_empty() => self.element.clone(),
            Shape::Static(_) => format!("Box<{}>", self.array()),
            Shape::Rows(..) | Shape::Flat => format!("Vec<{}>", self.array()),
        }
    }

    /// The elements of an input as a flat slice.
    pub(crate) fn flat(&self, value: &str) -> String {
        match self.shape {
            Shape::Static(_) => format!("shaped::flat({value})"),
            Shape::Rows(..) => format!("shaped::flat_rows({value})"),
            Shape::Flat => value.to_owned(),
        }
    }

    /// A zeroed output.
    pub(crate) fn zeroed(&self) -> String {
        match &self.shape {
            Shape::Static(dims) if dims.is_empty() => format!("{}::default()", self.element),
            Shape::Static(_) => format!("shaped::boxed_zeroed::<{}>()", self.array()),
            Shape::Rows(rows, _) => format!("shaped::rows_zeroed::<{}>({rows})", self.array()),
            Shape::Flat => format!("shaped::rows_zeroed::<{}>({})", self.element, self.len),
        }
    }

    /// The elements of an output named `ident`, to be written.
    pub(crate) fn flat_mut(&self) -> String {
        let ident = &self.ident;
        match &self.shape {
            Shape::Static(dims) if dims.is_empty() => format!("shaped::flat_mut(&mut {ident})"),
            Shape::Static(_) => format!("shaped::flat_mut(&mut *{ident})"),
            Shape::Rows(..) => format!("shaped::flat_rows_mut(&mut {ident})"),
            Shape::Flat => format!("&mut {ident}[..]"),
        }
    }
}

/// Whether `word` stands alone somewhere in `text`.
pub(crate) fn mentions(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(part)
            && !text[at + word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}
