//! Compiling a model in a build script: `bakelite::build("model.onnx").target("host").emit()?`, with
//! `bakelite_runtime::include_model!("model")` in the crate's source.

use crate::emit::{self, EmitOptions, Files, PlanWithImages, WeightsIn};
use crate::error::{Error, Result, Stage};
use crate::onnx::{self, ExternalData, Folder, ImportOptions, Source};
use crate::passes::Precision;
use crate::pipeline::{self, Options, Tools};
use crate::target::Target;
use crate::tune::{Estimate, Tactics};
use bakelite_kernels::{Nvrtc, Range};
use bytes::Bytes;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A model to be compiled by a build script.
pub fn build(model: impl AsRef<Path>) -> Build {
    Build {
        model: model.as_ref().to_owned(),
        name: None,
        targets: vec![],
        tactics: None,
        precision: "fp32".to_owned(),
        symbols: vec![],
        weights: WeightsIn::default(),
        nvrtc: None,
    }
}

/// What to compile, and how; see [`build`].
#[derive(Clone, Debug)]
pub struct Build {
    model: PathBuf,
    name: Option<String>,
    targets: Vec<String>,
    tactics: Option<PathBuf>,
    precision: String,
    symbols: Vec<(String, Range)>,
    weights: WeightsIn,
    nvrtc: Option<PathBuf>,
}

/// File of the output folder that says what was compiled.
const STAMP: &str = "stamp.txt";

impl Build {
    /// Name of the module, and of its folder in `OUT_DIR`; the model file's name if not given.
    #[must_use]
    pub fn name(mut self, name: &str) -> Build {
        self.name = Some(name.to_owned());
        self
    }

    /// Adds a target: `host`, or an architecture such as `sm_90a`. Without any it is `host`.
    #[must_use]
    pub fn target(mut self, target: &str) -> Build {
        self.targets.push(target.to_owned());
        self
    }

    /// The tactics file, made by `bakelite tune` and committed. Without it tactics are ranked by cost models.
    #[must_use]
    pub fn tactics(mut self, file: impl AsRef<Path>) -> Build {
        self.tactics = Some(file.as_ref().to_owned());
        self
    }

    /// What f32 operators compute in on a GPU: `fp32`, `tf32`, `fp16` or `bf16`.
    #[must_use]
    pub fn precision(mut self, precision: &str) -> Build {
        precision.clone_into(&mut self.precision);
        self
    }

    /// The range of a dynamic size, and the value to tune for.
    #[must_use]
    pub fn symbol(mut self, name: &str, min: i64, max: i64, opt: i64) -> Build {
        self.symbols.push((name.to_owned(), Range { min, max, opt }));
        self
    }

    /// Where the weights go.
    #[must_use]
    pub fn weights(mut self, weights: WeightsIn) -> Build {
        self.weights = weights;
        self
    }

    /// The folder of the NVRTC libraries, for CUDA targets; the system's if not given.
    #[must_use]
    pub fn nvrtc(mut self, folder: impl AsRef<Path>) -> Build {
        self.nvrtc = Some(folder.as_ref().to_owned());
        self
    }

    /// Compiles into `OUT_DIR`, and tells Cargo on standard output what the result depends on. Does nothing where model,
    /// tactics and options are those of the last time.
    pub fn emit(&self) -> Result<()> {
        let out = std::env::var_os("OUT_DIR").ok_or_else(|| {
            Error::new(Stage::Emit, "OUT_DIR", "is not set")
                .help("call `emit` from a build script, or `emit_to`")
        })?;
        for file in self.emit_to(Path::new(&out))? {
            println!("cargo:rerun-if-changed={}", file.display());
        }
        Ok(())
    }

    /// Compiles into the folder `<out>/<name>/`; the files that the result depends on.
    pub fn emit_to(&self, out: &Path) -> Result<Vec<PathBuf>> {
        let folder = out.join(self.module());
        let program = program();
        if let Some(files) = self.up_to_date(&folder, &program) {
            return Ok(files);
        }
        let mut read = vec![self.model.clone()];
        read.extend(self.tactics.clone());
        let (files, external) = self.compile()?;
        read.extend(external);
        write(&folder, &files)?;
        let stamp = self.stamp(&read, &program)?;
        let path = folder.join(STAMP);
        std::fs::write(&path, stamp).map_err(|e| io(&path, &e))?;
        Ok(read)
    }

    fn module(&self) -> String {
        let stem = || self.model.file_stem().map(|s| s.to_string_lossy().into_owned());
        emit::module_name(&self.name.clone().or_else(stem).unwrap_or_default())
    }

    // The compiler, the options, and the hash of every file read.
    fn stamp(&self, read: &[PathBuf], program: &str) -> Result<String> {
        let mut text = format!("bakelite {program} {self:?}\n");
        for path in read {
            let bytes = std::fs::read(path).map_err(|e| io(path, &e))?;
            let _ = writeln!(text, "{} {}", blake3::hash(&bytes).to_hex(), path.display());
        }
        Ok(text)
    }

    fn up_to_date(&self, folder: &Path, program: &str) -> Option<Vec<PathBuf>> {
        let old = std::fs::read_to_string(folder.join(STAMP)).ok()?;
        let paths = old.lines().skip(1).map(|l| l.split_once(' ').map(|(_, path)| PathBuf::from(path)));
        let paths = paths.collect::<Option<Vec<_>>>()?;
        (self.stamp(&paths, program).ok()? == old).then_some(paths)
    }

    fn compile(&self) -> Result<(Files, Vec<PathBuf>)> {
        let bytes = std::fs::read(&self.model).map_err(|e| io(&self.model, &e))?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let base = match self.model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder = Folder::new(base).map_err(|what| Error::new(Stage::Decode, "", what))?;
        let opened = Arc::new(Mutex::new(Vec::new()));
        let source = Source {
            bytes: Bytes::from(bytes),
            name: self.model.display().to_string(),
            external: Box::new(Recorded { folder, base: base.to_owned(), opened: opened.clone() }),
        };
        let model = onnx::decode(source)?;
        let import =
            ImportOptions { symbols: self.symbols.iter().cloned().collect(), ..ImportOptions::default() };
        let emit = EmitOptions {
            name: self.module(),
            weights: self.weights,
            model_hash: hash,
            ..EmitOptions::default()
        };
        let options = Options { import, precision: precision(&self.precision)?, emit };
        let targets = self.targets.iter().map(|t| t.parse().map_err(|what: String| refuse(t, what)));
        let mut targets = targets.collect::<Result<Vec<Target>>>()?;
        if targets.is_empty() {
            targets.push(Target::Host);
        }
        let nvrtc = match targets.iter().find(|t| t.gpu().is_some()) {
            None => None,
            Some(target) => Some(
                Nvrtc::open(self.nvrtc.as_deref()).map_err(|e| refuse(&target.to_string(), e.to_string()))?,
            ),
        };
        let mut tools = Tools {
            tactics: &mut self.read_tactics()?,
            tuner: &mut Estimate,
            nvrtc: nvrtc.as_ref(),
            trace: &mut (),
            warn: &mut |text| println!("cargo:warning={text}"),
            compiled: &|_| (),
        };
        let graph = pipeline::import(&model, &options, &mut tools)?;
        let mut plans = Vec::new();
        for target in &targets {
            let plan = pipeline::plan(graph.clone(), target, &options, &mut tools)?;
            let images = pipeline::images(&plan, true, &tools)?;
            plans.push(PlanWithImages { plan, images });
        }
        let files = emit::single_module(&plans, &options.emit)?;
        let opened = std::mem::take(&mut *opened.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((files, opened))
    }

    fn read_tactics(&self) -> Result<Tactics> {
        let Some(path) = &self.tactics else { return Ok(Tactics::default()) };
        let text = std::fs::read_to_string(path).map_err(|e| io(path, &e))?;
        Tactics::parse(&text).map_err(|what| Error::new(Stage::Tune, path.display().to_string(), what))
    }
}

fn refuse(target: &str, what: String) -> Error {
    Error::new(Stage::Emit, format!("target \"{target}\""), what)
}

fn precision(text: &str) -> Result<Precision> {
    Ok(match text {
        "fp32" => Precision::Fp32,
        "tf32" => Precision::Tf32,
        "tf32x3" => Precision::Tf32x3,
        "fp16" => Precision::Fp16,
        "bf16" => Precision::Bf16,
        _ => {
            let what = format!("\"{text}\" is none of fp32, tf32, tf32x3, fp16, bf16");
            return Err(Error::new(Stage::Passes, "precision", what));
        }
    })
}

/// Remembers which files the weights came from.
#[derive(Debug)]
struct Recorded {
    folder: Folder,
    base: PathBuf,
    opened: Arc<Mutex<Vec<PathBuf>>>,
}

impl ExternalData for Recorded {
    fn open(&self, location: &str) -> Result<Bytes, String> {
        let bytes = self.folder.open(location)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.base.join(location);
        if !opened.contains(&path) {
            opened.push(path);
        }
        Ok(bytes)
    }
}

// What the compiler is: the hash of the program that it is part of, as another compiler writes another crate.
fn program() -> String {
    let hash = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(std::env::current_exe()?)?)?;
        Ok::<_, std::io::Error>(hasher.finalize().to_hex().to_string())
    };
    hash().unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned())
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Stage::Emit, path.display().to_string(), error.to_string())
}

// Anew, so that no kernel of an earlier time stays.
fn write(folder: &Path, files: &Files) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|e| io(folder, &e))?;
    }
    for (name, bytes) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| io(parent, &e))?;
        }
        std::fs::write(&path, bytes).map_err(|e| io(&path, &e))?;
    }
    Ok(())
}
