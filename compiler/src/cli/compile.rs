//! `bakelite compile`: a model to a crate, or to the text of one stage.

use super::device::{open_gpu, target_of};
use super::options::{ModelArguments, Precision, open_nvrtc, read_tactics};
use super::output::{check_folder, write_folder};
use super::table::bytes;
use super::{Environment, Failure, Outcome, bar, note, say};
use bakelite::Target;
use bakelite::emit::{Dependencies, EmitOptions, Files, PlanWithImages, WeightsIn, files};
use bakelite::passes::PASSES;
use bakelite::pipeline::{self, Form, Options, Tools, Trace};
use bakelite::plan::Plan;
use bakelite::tune::{Estimate, Tactics};
use bakelite_kernels::Nvrtc;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Folder for the crate; replaced if Bakelite made it.
    #[arg(long, required_unless_present = "emit")]
    out: Option<PathBuf>,
    /// Name of the crate [default: the file's name].
    #[arg(long)]
    name: Option<String>,
    /// What to compile for: `host`, or architectures such as sm_80,sm_90a [default: this machine's GPU, or sm_80].
    #[arg(long, value_delimiter = ',')]
    target: Vec<Target>,
    /// What f32 operators compute in on GPUs; the host computes as the model says.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Tactics that `bakelite tune` measured.
    #[arg(long)]
    tactics: Option<PathBuf>,
    /// Where the weights go [default: into the binary up to 64 MB].
    #[arg(long, value_enum)]
    weights: Option<Weights>,
    /// Put a copy of the runtime's source into the crate.
    #[arg(long, conflicts_with = "runtime_path")]
    vendor_runtime: bool,
    /// Depend on the runtime in this checkout of Bakelite instead of the registry's.
    #[arg(long, value_name = "DIR")]
    runtime_path: Option<PathBuf>,
    /// Write what every stage makes to this folder: 00-import.mir, 01-fold.mir, ..., regions.txt, plan.txt.
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Print what this stage makes.
    #[arg(long, value_enum)]
    emit: Option<Emit>,
    /// Folder that holds NVRTC.
    #[arg(long, value_name = "DIR")]
    nvrtc: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Weights {
    Embed,
    File,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Emit {
    /// The graph after every pass.
    Graph,
    /// The graph divided into kernels' problems.
    Regions,
    /// Steps, buffers, tactics.
    Plan,
    /// The kernels' source.
    Cuda,
}

pub(crate) fn run(a: &Arguments, environment: &Environment) -> Outcome<()> {
    if let Some(out) = &a.out {
        check_folder(out)?;
    }
    let targets = targets(&a.target)?;
    let mut tactics = read_tactics(a.tactics.as_deref())?;
    // Missing tools are missed before the work, not after.
    let nvrtc = match &a.out {
        Some(_) if targets.iter().any(|t| t.gpu().is_some()) => {
            Some(open_nvrtc(a.nvrtc.as_deref(), environment)?)
        }
        _ => None,
    };
    let source = a.model.source()?;
    let options = Options {
        import: a.model.import(),
        precision: a.precision.into(),
        emit: EmitOptions {
            name: a.name.clone().unwrap_or_else(|| a.model.stem()),
            weights: a.weights.map_or(WeightsIn::Auto, |w| match w {
                Weights::Embed => WeightsIn::Embed,
                Weights::File => WeightsIn::File,
            }),
            dependencies: dependencies(a)?,
            model_hash: blake3::hash(&source.bytes).to_hex().to_string(),
            measured_on: tactics.measured_on.clone(),
        },
    };
    let mut watch = Watch::new(a, targets.len() > 1);
    let made = make(source, &targets, &options, &mut tactics, nvrtc.as_ref(), &mut watch, a.out.is_some());
    // What was made before an error shows where it comes from.
    say(&watch.text)?;
    let (crate_files, summary) = made?;
    if let Some(failure) = watch.failure {
        return Err(failure);
    }
    if let Some(out) = &a.out {
        write_folder(&crate_files, out)?;
        note(format!("{summary}wrote {} files to {}", crate_files.len(), out.display()));
    }
    Ok(())
}

// As `bakelite::compile`, but for a look at each plan, and for stopping before the kernels are compiled if only text is
// asked for.
fn make(
    source: bakelite::onnx::Source,
    targets: &[Target],
    options: &Options,
    tactics: &mut Tactics,
    nvrtc: Option<&Nvrtc>,
    watch: &mut Watch<'_>,
    whole: bool,
) -> Outcome<(Files, String)> {
    let bar = bar("compiling kernels");
    let compiled = |of: usize| {
        bar.set_length(of as u64);
        bar.inc(1);
    };
    let mut warn = |text: String| note(text);
    let mut tools =
        Tools { tactics, tuner: &mut Estimate, nvrtc, trace: watch, warn: &mut warn, compiled: &compiled };
    let model = bakelite::onnx::decode(source)?;
    let graph = pipeline::import(&model, options, &mut tools)?;
    let (mut plans, mut summary) = (Vec::new(), String::new());
    for target in targets {
        let plan = pipeline::plan(graph.clone(), target, options, &mut tools)?;
        if whole {
            bar.set_position(0);
            let images = pipeline::images(&plan, true, &tools)?;
            summary += &summarize(&plan);
            plans.push(PlanWithImages { plan, images });
        }
    }
    bar.finish_and_clear();
    let files = if whole { files(&plans, &options.emit)? } else { Files::new() };
    Ok((files, summary))
}

fn summarize(plan: &Plan) -> String {
    let unmeasured =
        plan.steps.iter().filter_map(|s| s.cuda.as_ref()).filter(|c| c.measured.is_none()).count();
    let mut text = format!(
        "{}: {} steps, {} kernels, arena {}, weights {}",
        plan.target,
        plan.steps.len(),
        plan.kernels.len(),
        bytes(plan.arena),
        bytes(plan.weight_bytes)
    );
    if unmeasured > 0 {
        text += &format!("; {unmeasured} steps with estimated tactics (`bakelite tune` measures them)");
    }
    text + "\n"
}

fn targets(asked: &[Target]) -> Outcome<Vec<Target>> {
    let names: Vec<String> = asked.iter().map(Target::to_string).collect();
    if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
        return Err(Failure::new(format!("the target {} is given twice", twice.1)));
    }
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    let own = open_gpu().and_then(|gpu| target_of(&gpu)).map(Target::Cuda);
    let target = match own {
        Ok(target) => target,
        Err(_) => "sm_80".parse().map_err(Failure::new)?,
    };
    note(format!("compiling for {target}; --target names another"));
    Ok(vec![target])
}

fn dependencies(a: &Arguments) -> Outcome<Dependencies> {
    if a.vendor_runtime {
        return Ok(Dependencies::Vendored);
    }
    let Some(path) = &a.runtime_path else { return Ok(EmitOptions::default().dependencies) };
    let folder = |name: &str| {
        let folder = path.join(name);
        let found = folder.join("Cargo.toml").is_file().then(|| folder.canonicalize().ok()).flatten();
        found.map(|f| f.to_string_lossy().into_owned()).ok_or_else(|| {
            Failure::new(format!("--runtime-path: there is no crate in \"{}\"", folder.display()))
                .help("name the root of a checkout of Bakelite, which has runtime-min and kernels/host")
        })
    };
    Ok(Dependencies::Path(folder("runtime-min")?, folder("kernels/host")?))
}

/// Writes the dumps and collects the text to print.
struct Watch<'a> {
    dump: Option<&'a Path>,
    emit: Option<Emit>,
    several: bool,
    /// Folder of the target inside the dump's, if there are several.
    target: String,
    passes: usize,
    text: String,
    failure: Option<Failure>,
}

impl<'a> Watch<'a> {
    fn new(a: &'a Arguments, several: bool) -> Watch<'a> {
        Watch {
            dump: a.dump.as_deref(),
            emit: a.emit,
            several,
            target: String::new(),
            passes: 0,
            text: String::new(),
            failure: None,
        }
    }

    fn write(&mut self, name: &str, text: &str) {
        let Some(dump) = self.dump.filter(|_| self.failure.is_none()) else { return };
        let folder = dump.join(&self.target);
        let path = folder.join(name);
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, text));
        if let Err(e) = written {
            self.failure = Some(Failure::new(format!("--dump: cannot write \"{}\": {e}", path.display())));
        }
    }
}

impl Trace for Watch<'_> {
    fn target(&mut self, target: &Target) {
        if self.several {
            self.target = target.to_string();
        }
        self.passes = 0;
    }

    fn made(&mut self, stage: &str, form: Form<'_>) {
        let last_pass = PASSES.last().is_some_and(|(name, _)| *name == stage);
        let wanted = match form {
            Form::Graph(_) => self.emit == Some(Emit::Graph) && last_pass,
            Form::Regions(_) => self.emit == Some(Emit::Regions),
            Form::Plan(_) => self.emit == Some(Emit::Plan),
        };
        if self.dump.is_some() || wanted {
            let (name, text) = match form {
                Form::Graph(graph) => {
                    let number = if stage == "import" { 0 } else { self.passes + 1 };
                    (format!("{number:02}-{stage}.mir"), graph.to_string())
                }
                Form::Regions(regions) => ("regions.txt".to_owned(), regions.to_string()),
                Form::Plan(plan) => ("plan.txt".to_owned(), plan.to_string()),
            };
            self.write(&name, &text);
            if wanted {
                self.text += &text;
            }
        }
        if matches!(form, Form::Graph(_)) && stage != "import" {
            self.passes += 1;
        }
        if let (Form::Plan(plan), Some(Emit::Cuda)) = (form, self.emit) {
            for kernel in &plan.kernels {
                self.text +=
                    &format!("// {} for {}\n{}\n", kernel.name, plan.target, kernel.source.trim_end());
            }
        }
    }
}
