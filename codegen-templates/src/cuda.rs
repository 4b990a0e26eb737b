//! `cuda.rs` and `steps.rs`: the model on a GPU.

use crate::Result;
use crate::format::{comment, items, literal, statements};
use crate::model::{Cuda, Form, Kernel, Launch, Model, Port, Storage, Weights};

/// Weights, kernels and session, for all CUDA targets.
pub fn cuda(m: &Model) -> Result<String> {
    let (head, root) = match m.form {
        Form::Crate => ("//! The model on a GPU.\n", "crate"),
        Form::Module => ("", "super"),
    };
    let modules: Vec<&str> = m.cuda.iter().map(|c| c.module.as_str()).collect();
    let (mut write, mut upload, mut download, mut read) =
        (String::new(), String::new(), String::new(), String::new());
    let (mut staged_in, mut staged_out) = (0u64, 0u64);
    for (i, p) in m.inputs.iter().enumerate() {
        let source = p.flat(&format!("inputs.{}", p.ident));
        let bytes = range(staged_in, p);
        write += &format!("stage(&mut self.input, {staged_in}, {source});\n");
        upload +=
            &format!("self.arena.upload(&self.stream, places.ports[{i}], &mut self.input, {bytes})?;\n");
        staged_in += p.capacity;
    }
    for (i, p) in m.outputs.iter().enumerate() {
        let at = m.inputs.len() + i;
        let bytes = range(staged_out, p);
        download +=
            &format!("self.arena.download(&self.stream, places.ports[{at}], &mut self.output, {bytes})?;\n");
        read += &format!(
            "let mut {} = {};\nfetch(&self.output[{bytes}], {})?;\n",
            p.ident,
            p.zeroed(),
            p.flat_mut()
        );
        staged_out += p.capacity;
    }
    let outputs: Vec<&str> = m.outputs.iter().map(|p| p.ident.as_str()).collect();
    let buffers: String =
        m.ports().enumerate().map(|(i, p)| format!("{}: arena.add(places.ports[{i}]),\n", p.ident)).collect();
    let mut code = String::new();
    for text in [&write, &upload, &download, &read] {
        code += text;
    }
    let shaped = if code.contains("shaped::") { "use bakelite_runtime::shaped;" } else { "" };
    let stage = if m.inputs.is_empty() {
        ""
    } else {
        "fn stage<T: Scalar>(pinned: &mut PinnedBuffer, at: usize, from: &[T]) {
            let bytes: &[u8] = bakelite_runtime::bytemuck::cast_slice(from);
            pinned[at..at + bytes.len()].copy_from_slice(bytes);
        }"
    };
    let unused = if m.inputs.is_empty() && m.symbols.is_empty() { "let _ = inputs;" } else { "" };
    let all = |which: &dyn Fn(&Launch) -> bool| {
        m.cuda.iter().flat_map(|c| &c.steps).flat_map(|s| &s.launches).any(which)
    };
    let shape = |name: &str, doc: &str, programmatic: bool| match all(&|l| l.programmatic == programmatic) {
        true => format!(
            "{doc}pub(crate) const fn {name}(grid: [u32; 3], block: [u32; 3]) -> Launch {{
                Launch {{ grid, block, shared_bytes: 0, cluster: None, programmatic: {programmatic} }}
            }}\n"
        ),
        false => String::new(),
    };
    let key: Vec<String> = m.symbols.iter().map(|s| format!("sizes.{}", s.ident)).collect();
    let lifetime = if m.inputs.is_empty() { "" } else { "<'_>" };
    let embedded: String = m.cuda.iter().map(|c| embed(m, c)).collect();
    let text = items(&format!(
        "{head}
        use {root}::{{Buffers, Inputs, Outputs, Result{sizes_import}, {modules}}};
        use bakelite_runtime::{{{launching}DeviceBuffer, DevicePtr, Error, Gpu, GraphCache, Image, Kernel, {shape_type}Module, PinnedBuffer, Scalar, Stream}};
        use bakelite_runtime::module::choose;
        {shaped}
        {imports}
        use std::sync::Arc;
        {embed}

        /// How much memory a target needs, and where in it inputs and outputs are, in order.
        pub(crate) struct Places {{ pub(crate) arena: usize, pub(crate) ports: [usize; {ports}] }}

        /// Weights and kernels on a GPU.
        pub(crate) struct Weights {{ gpu: Gpu, data: DeviceBuffer, kernels: Kernels }}

        {kernels}

        /// Memory, stream and graphs for one inference at a time.
        pub(crate) struct Session {{
            weights: Arc<Weights>,
            stream: Stream,
            arena: DeviceBuffer,
            input: PinnedBuffer,
            output: PinnedBuffer,
            graphs: GraphCache,
        }}

        impl Session {{
            pub(crate) fn new(weights: Arc<Weights>) -> Result<Session> {{
                let gpu = &weights.gpu;
                Ok(Session {{
                    stream: Stream::new(gpu)?,
                    arena: DeviceBuffer::alloc(gpu, weights.kernels.places().arena)?,
                    input: PinnedBuffer::alloc(gpu, {staged_in})?,
                    output: PinnedBuffer::alloc(gpu, {staged_out})?,
                    graphs: GraphCache::new({graphs}),
                    weights,
                }})
            }}

            pub(crate) fn infer(&mut self, inputs: &Inputs{lifetime}{sizes_parameter}) -> Result<Outputs> {{
                let places = self.weights.kernels.places();
                {unpack}{unused}
                {write}
                {upload}
                let Session {{ weights, stream, arena, graphs, .. }} = self;
                let graph = graphs.get_or_capture(&[{key}], stream, |stream| {{
                    let arena = arena.ptr();
                    let io = Buffers {{ {buffers} }};
                    weights.kernels.enqueue(stream, weights.data.ptr(), arena, &io{sizes_argument})
                }})?;
                graph.launch(stream)?;
                {download}
                self.stream.synchronize()?;
                {read}
                Ok(Outputs {{ {outputs} }})
            }}

            pub(crate) fn enqueue(&mut self, stream: &Stream, io: &Buffers{sizes_parameter}) -> Result<()> {{
                self.weights.kernels.enqueue(stream, self.weights.data.ptr(), self.arena.ptr(), io{sizes_argument})
            }}
        }}

        {stage}

        fn fetch<T: Scalar>(from: &[u8], to: &mut [T]) -> Result<()> {{
            T::fill_from(to, |bytes| {{ bytes.copy_from_slice(from); Ok(()) }})
        }}

        {early}
        {plain}
        {launch}

        /// Loads one kernel, allowed what its launches ask for.
        pub(crate) fn kernel(gpu: &Gpu, name: &str, images: &[Image<'_>], shared: u32, large_clusters: bool) -> Result<Kernel> {{
            const ALWAYS_ALLOWED: u32 = 48 * 1024;
            let kernel = Module::load(gpu, images)?.kernel(name)?;
            if shared > ALWAYS_ALLOWED {{ kernel.set_max_dynamic_smem(shared)?; }}
            if large_clusters {{ kernel.allow_large_clusters()?; }}
            Ok(kernel)
        }}
        ",
        sizes_import = m.sizes_import(),
        sizes_parameter = m.sizes_parameter(),
        sizes_argument = m.sizes_argument(),
        modules = modules.join(", "),
        imports = if m.cuda.iter().any(|c| c.weights.storage == Storage::File) {
            "use bakelite_runtime::WeightsFile;\nuse bakelite_runtime::weights::beside_program;\nuse std::path::Path;"
        } else {
            ""
        },
        embed = if embedded.is_empty() { "" } else { "embed_macro!();" },
        ports = m.inputs.len() + m.outputs.len(),
        kernels = kernels(m),
        graphs = if m.symbols.is_empty() { 1 } else { 16 },
        unpack = m.unpack(&code),
        key = key.join(", "),
        outputs = outputs.join(", "),
        launching = if all(&|_| true) { "Arg, " } else { "" },
        shape_type = if all(&|_| true) { "Launch, " } else { "" },
        early = shape("early", "/// A launch that may begin before the one ahead has ended: its kernel waits by itself.\n", true),
        plain = shape("plain", "/// A launch that begins when the one ahead has ended.\n", false),
        launch = if all(&|_| true) {
            "/// Enqueues one kernel.
            pub(crate) fn launch(stream: &Stream, kernel: &Kernel, launch: Launch, args: &[Arg<'_>]) -> Result<()> {
                kernel.launch(stream, &launch, args)
            }"
        } else {
            ""
        },
    ))?;
    Ok(text.replace("embed_macro!();\n", &embedded))
}

/// The bytes of a port that is staged from `at` on.
fn range(at: u64, p: &Port) -> String {
    let size = p.element_bytes as u64;
    match p.len.parse::<u64>() {
        Ok(len) => format!("{at}..{}", at + len * size),
        Err(_) => {
            let start = if at == 0 { String::new() } else { format!("{at} + ") };
            let factor = if size == 1 { String::new() } else { format!(" * {size}") };
            format!("{at}..{start}{}{factor}", p.len)
        }
    }
}

fn embed(m: &Model, target: &Cuda) -> String {
    let symbol = format!("{}_{}", m.name, target.arch);
    match target.weights.storage {
        Storage::Embedded => embedding(m, &format!("{}_weights", target.module), &symbol, &target.weights),
        _ => String::new(),
    }
}

/// The macro call that embeds a weights file as function `name`; `symbol` begins the name that the linker sees.
pub(crate) fn embedding(m: &Model, name: &str, symbol: &str, w: &Weights) -> String {
    let path = format!("concat!({}, {})", m.folder(), literal(&format!("/{}", w.file)));
    let hash = &w.blake3[..8];
    format!("bakelite_runtime::embed_weights!(\n    fn {name} = {symbol}_{hash},\n    {path}\n);\n")
}

// Which target's steps run: chosen once, by the device.
fn kernels(m: &Model) -> String {
    let variant = |c: &Cuda| {
        let name = c.module.strip_prefix("steps").unwrap_or(&c.module).replace('_', "");
        if name.is_empty() { "First".to_owned() } else { name.to_uppercase() }
    };
    let (mut archs, mut variants, mut places, mut enqueue) =
        (Vec::new(), String::new(), String::new(), String::new());
    let (mut load, mut folder) = (String::new(), String::new());
    let mut files = false;
    for target in &m.cuda {
        let (variant, module) = (variant(target), &target.module);
        let first = archs.len();
        archs.push(literal(&target.arch));
        archs.extend(target.ptx.as_deref().map(literal));
        let pattern =
            if archs.len() - first == 2 { format!("{first} | {}", first + 1) } else { first.to_string() };
        variants += &format!("{variant}({module}::Kernels),\n");
        places += &format!("Kernels::{variant}(_) => &{module}::PLACES,\n");
        enqueue += &format!(
            "Kernels::{variant}(k) => {module}::enqueue(k, stream, weights, arena, io{}),\n",
            m.sizes_argument()
        );
        let w = &target.weights;
        let make = format!("Kernels::{variant}({module}::Kernels::load(gpu)?)");
        let both = match w.storage {
            Storage::None => format!("({make}, DeviceBuffer::alloc(gpu, 0)?)"),
            Storage::Embedded => {
                format!("({make}, DeviceBuffer::from_slice(gpu, &Stream::new(gpu)?, {module}_weights())?)")
            }
            Storage::File => {
                files = true;
                format!(
                    "WeightsFile::read(folder({file}), {}, {}, |bytes| {{
                        Ok(({make}, DeviceBuffer::from_slice(gpu, &Stream::new(gpu)?, bytes)?))
                    }})?",
                    w.len,
                    literal(&w.blake3),
                    file = literal(&w.file)
                )
            }
        };
        load += &format!("Some({pattern}) => {both},\n");
        folder.clone_from(&m.folder());
    }
    let (public, parameter) = if files {
        (
            format!(
                "pub(crate) fn load(gpu: &Gpu) -> Result<Weights> {{
                    Weights::load_with(gpu, |file| {{
                        let beside = beside_program(file);
                        if beside.exists() {{ beside }} else {{ Path::new(concat!({folder})).join(file) }}
                    }})
                }}

                pub(crate) fn load_from(gpu: &Gpu, folder: &Path) -> Result<Weights> {{
                    Weights::load_with(gpu, |file| folder.join(file))
                }}

                fn load_with(gpu: &Gpu, folder: impl Fn(&str) -> std::path::PathBuf) -> Result<Weights>"
            ),
            "",
        )
    } else {
        ("pub(crate) fn load(gpu: &Gpu) -> Result<Weights>".to_owned(), "")
    };
    format!(
        "/// The kernels of the target that suits the GPU.
        enum Kernels {{ {variants} }}

        impl Kernels {{
            fn places(&self) -> &'static Places {{ match self {{ {places} }} }}

            fn enqueue(&self, stream: &Stream, weights: DevicePtr, arena: DevicePtr, io: &Buffers{}) -> Result<()> {{
                match self {{ {enqueue} }}
            }}
        }}

        impl Weights {{
            {public} {{{parameter}
                const ARCHS: [&str; {}] = [{}];
                let (major, minor) = gpu.compute_capability();
                let (kernels, data) = match choose(&ARCHS, (major, minor)) {{
                    {load}
                    _ => return Err(Error::NoImage {{
                        device_arch: format!(\"sm_{{major}}{{minor}}\"),
                        have: ARCHS.map(str::to_owned).to_vec(),
                    }}),
                }};
                Ok(Weights {{ gpu: gpu.clone(), data, kernels }})
            }}
        }}",
        m.sizes_parameter(),
        archs.len(),
        archs.join(", "),
    )
}

/// How many steps one function enqueues: longer lists are divided, so that a person can keep the place.
const RUN: usize = 25;

/// The kernels of one target, and its steps: a comment and a launch for each.
pub fn cuda_steps(m: &Model, target: &Cuda) -> Result<String> {
    let (head, root) = match m.form {
        Form::Crate => (
            format!(
                "//! The steps of the model on {}, in order: one launch each, every number a literal.\n//! `w` is a weight by its offset, `a` a buffer of the arena, `io` what the caller gave.\n",
                target.arch
            ),
            "crate",
        ),
        Form::Module => (String::new(), "super"),
    };
    let mut used = String::new();
    // Functions of parts of the steps share what the whole has begun.
    let signature = |part: bool| {
        let branches = if part && target.branches { "branches: &mut Branches<'_>, " } else { "" };
        format!(
            "k: &Kernels, stream: &Stream, {branches}weights: DevicePtr, arena: DevicePtr, io: &Buffers{}",
            m.sizes_parameter()
        )
    };
    let arguments = |part: bool| {
        let branches = if part && target.branches { "branches, " } else { "" };
        format!("k, stream, {branches}weights, arena, io{}", m.sizes_argument())
    };
    let (begin, join) = match target.branches {
        true => ("    let branches = &mut Branches::begin(stream)?;\n", "    branches.join()?;\n"),
        false => ("", ""),
    };
    let mut parts = Vec::new();
    for (part, chunk) in target.steps.chunks(RUN).enumerate() {
        let (mut body, mut code) = (String::new(), String::new());
        for (at, step) in chunk.iter().enumerate() {
            body += &comment("    // ", &step.doc);
            if target.branches {
                body += &format!("    branches.step({}, &{:?})?;\n", part * RUN + at, step.after);
            }
            for l in &step.launches {
                let launch = launch(l);
                body += &statements(&launch)?;
                code += &launch;
            }
        }
        let mut opening = String::new();
        for (name, from) in [("w", "weights"), ("a", "arena")] {
            match code.contains(&format!(" {name}(")) || code.contains(&format!("[{name}(")) {
                true => opening += &format!("let {name} = |offset| Arg::from({from}.add(offset));\n"),
                false if code.contains(&format!("{from}.add(")) => {}
                false => opening += &format!("let _ = {from};\n"),
            }
        }
        if !code.contains("io.") {
            opening += "let _ = io;\n";
        }
        let sizes = m.unpack(&code);
        if sizes.is_empty() && !m.symbols.is_empty() {
            opening += "let _ = sizes;\n";
        }
        opening += &sizes;
        used += &code;
        parts.push((statements(&opening)?, body));
    }
    let fields: String = target.kernels.iter().map(|k| format!("{}: Kernel,\n", k.name)).collect();
    let loads: String = target.kernels.iter().map(load).collect();
    let unused = if target.kernels.is_empty() { "let _ = gpu;" } else { "" };
    let ports: Vec<String> = target.ports.iter().map(u64::to_string).collect();
    let named = |name: &str| match name {
        "Arg" => used.contains("Arg::") || parts.iter().any(|(o, _)| o.contains("Arg::")),
        "Image" | "Kernel" => !target.kernels.is_empty(),
        "Branches" => target.branches,
        "DevicePtr" | "Gpu" | "Stream" => true,
        _ => used.contains(&format!("{name}::")) || used.contains(&format!("{name} {{")),
    };
    let imported = [
        "Arg",
        "Branches",
        "DevicePtr",
        "Element",
        "Gpu",
        "Image",
        "Kernel",
        "Launch",
        "Stream",
        "Swizzle",
        "TensorMap",
        "Tiled",
        "Windows",
    ];
    let imported = imported.into_iter().filter(|name| named(name)).collect::<Vec<_>>().join(", ");
    let mut import = String::new();
    for name in ["early", "plain"] {
        if used.contains(&format!("{name}([")) {
            import += &format!(", {name}");
        }
    }
    if !target.kernels.is_empty() {
        import += ", kernel, launch";
    }
    let mut text = items(&format!(
        "{head}
        use {root}::cuda::{{Places{import}}};
        use {root}::{{Buffers, Result{}}};
        use bakelite_runtime::{{{imported}}};

        /// Memory of this target.
        pub(crate) const PLACES: Places = Places {{ arena: {}, ports: [{}] }};

        /// Every kernel of this target.
        pub(crate) struct Kernels {{ {fields} }}

        {placeholder}

        impl Kernels {{
            pub(crate) fn load(gpu: &Gpu) -> Result<Kernels> {{ {unused} Ok(Kernels {{ {loads} }}) }}
        }}
        ",
        m.sizes_import(),
        target.arena,
        ports.join(", "),
        placeholder = if target.kernels.is_empty() { "" } else { "load_macro!();" },
    ))?;
    text = text.replace("load_macro!();\n", &loading(m, target));
    let whole = |name: &str, visible: &str, doc: &str, body: &str| -> Result<String> {
        let shell = items(&format!(
            "{doc}{visible}fn {name}({}) -> Result<()> {{ body!(); }}",
            signature(visible.is_empty())
        ))?;
        Ok(format!("\n{}", shell.replace("    body!();\n", &format!("{body}    Ok(())\n"))))
    };
    let doc = match target.branches {
        true => {
            "/// Every step, each after those it names: in a graph, steps that need nothing of each other run side by side.\n"
        }
        false => "/// Every step in order.\n",
    };
    match parts.as_slice() {
        [] => {
            let unused = format!("    let _ = ({});\n", arguments(false));
            text += &whole("enqueue", "pub(crate) ", doc, &unused)?;
        }
        [(opening, body)] => {
            text += &whole("enqueue", "pub(crate) ", doc, &format!("{opening}{begin}{body}{join}"))?;
        }
        many => {
            let call = |i: usize| format!("    part_{i}({})?;\n", arguments(true));
            let calls: String = (0..many.len()).map(call).collect();
            text += &whole("enqueue", "pub(crate) ", doc, &format!("{begin}{calls}{join}"))?;
            for (i, (opening, body)) in many.iter().enumerate() {
                text += &whole(&format!("part_{i}"), "", "", &format!("{opening}{body}"))?;
            }
        }
    }
    Ok(text)
}

/// The macro that includes a kernel's images, so that one line loads one kernel.
fn loading(m: &Model, target: &Cuda) -> String {
    if target.kernels.is_empty() {
        return String::new();
    }
    // A kernel's files are named after it, and its target where it is not the first.
    let suffix = target.module.strip_prefix("steps").unwrap_or_default();
    let include = |image: &str, extension: &str| {
        let file = literal(&format!("{suffix}.{extension}"));
        let path = match m.form {
            Form::Crate => format!("\"../kernels/\", $name, {file}"),
            Form::Module => format!("{}, \"/kernels/\", $name, {file}", m.folder()),
        };
        format!("        let {image} = include_bytes!(concat!({path}));\n")
    };
    let mut includes = include("cubin", "cubin");
    let mut images = format!("Image::new({}, cubin)", literal(&target.arch));
    if let Some(arch) = &target.ptx {
        includes += &include("ptx", "ptx.gz");
        images += &format!(", Image::new({}, ptx)", literal(arch));
    }
    format!(
        "/// A kernel from its images, with the dynamic shared memory and clusters that its launches have.
macro_rules! load {{
    ($gpu:ident, $name:literal, $shared:literal, $large_clusters:literal) => {{{{
{includes}        let images = [{images}];
        kernel($gpu, $name, &images, $shared, $large_clusters)?
    }}}};
}}
"
    )
}

fn load(k: &Kernel) -> String {
    format!("{}: load!(gpu, {}, {}, {}),\n", k.name, literal(&k.name), k.shared, k.large_clusters)
}

fn launch(l: &Launch) -> String {
    let [x, y, z] = &l.grid;
    let [bx, by, bz] = l.block;
    // Only what is out of the ordinary is named.
    let start = if l.programmatic { "early" } else { "plain" };
    let shape = format!("{start}([{x}, {y}, {z}], [{bx}, {by}, {bz}])");
    let mut special = String::new();
    if l.shared > 0 {
        special += &format!("shared_bytes: {}, ", l.shared);
    }
    if let Some([x, y, z]) = l.cluster {
        special += &format!("cluster: Some([{x}, {y}, {z}]), ");
    }
    let shape = if special.is_empty() { shape } else { format!("Launch {{ {special}..{shape} }}") };
    let map = |(i, map): (usize, &String)| format!("let {} = {map};\n", Launch::map_name(i));
    let maps: String = l.maps.iter().enumerate().map(map).collect();
    format!("{maps}launch(stream, &k.{}, {shape}, &[{}])?;", l.kernel, l.args.join(", "))
}
