//! The subcommands: arguments, files, progress and tables around the library.

mod arrays;
mod bench;
mod compile;
mod device;
mod inspect;
mod layers;
mod options;
mod output;
mod run;
mod table;
mod tune;

use indicatif::{ProgressBar, ProgressStyle};
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Ahead-of-time compiler from ONNX to a standalone Rust crate with CUDA kernels.
#[derive(clap::Parser)]
#[command(name = "bakelite", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Compile a model to a Rust crate.
    Compile(compile::Arguments),
    /// Run a model on arrays from an .npz file.
    Run(run::Arguments),
    /// Measure which kernels are fastest on this machine's GPU, and write them to a tactics file.
    Tune(tune::Arguments),
    /// Measure a model's time and memory.
    Bench(bench::Arguments),
    /// Show a model's inputs, outputs, parameters and operators.
    Inspect(inspect::Arguments),
}

/// What comes from outside the command line.
pub(crate) struct Environment {
    /// The value of `BAKELITE_NVRTC`.
    pub(crate) nvrtc: Option<PathBuf>,
    /// The current folder.
    pub(crate) folder: PathBuf,
    /// Python site folders that may hold NVRTC.
    pub(crate) sites: Vec<PathBuf>,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: Arguments, environment: &Environment) -> Outcome<ExitCode> {
    match arguments.command {
        Command::Compile(a) => compile::run(&a, environment).map(|()| ExitCode::SUCCESS),
        Command::Run(a) => run::run(&a, environment),
        Command::Tune(a) => tune::run(&a, environment).map(|()| ExitCode::SUCCESS),
        Command::Bench(a) => bench::run(&a, environment).map(|()| ExitCode::SUCCESS),
        Command::Inspect(a) => inspect::run(&a).map(|()| ExitCode::SUCCESS),
    }
}

/// What ends the program: a sentence, and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    help: Option<String>,
}

pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Failure {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

impl miette::Diagnostic for Failure {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }
}

impl From<bakelite::Error> for Failure {
    fn from(e: bakelite::Error) -> Failure {
        Failure { what: e.to_string(), help: e.help }
    }
}

/// Writes to the standard output; a reader that has gone away ends the writing, not the program.
pub(crate) fn say(text: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("the standard output cannot be written: {e}")))
        }
        _ => Ok(()),
    }
}

/// A remark beside the results.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A progress bar on the standard error, which shows nothing where that is no terminal.
pub(crate) fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(what);
    match ProgressStyle::with_template("{msg:24} {bar:36} {pos}/{len}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
