//! The command line: the one place that reads the environment.

mod cli;

use clap::Parser;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let wrap = std::io::stderr().is_terminal();
    // Where errors go to a file or another program, their lines stay whole. Fails only when called twice.
    let _ = miette::set_hook(Box::new(move |_| {
        Box::new(miette::MietteHandlerOpts::new().wrap_lines(wrap).break_words(false).build())
    }));
    let environment = cli::Environment {
        nvrtc: std::env::var_os("BAKELITE_NVRTC").map(PathBuf::from),
        folder: std::env::current_dir().unwrap_or_default(),
        sites: std::env::var_os("VIRTUAL_ENV").map_or(vec![], |v| python_sites(Path::new(&v))),
    };
    match cli::run(cli::Arguments::parse(), &environment) {
        Ok(code) => code,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(failure));
            ExitCode::FAILURE
        }
    }
}

/// The site folders of a Python environment, in the order of their names.
fn python_sites(environment: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(environment.join("lib")) else { return vec![] };
    let mut sites: Vec<PathBuf> = entries.flatten().map(|e| e.path().join("site-packages")).collect();
    sites.retain(|s| s.is_dir());
    sites.sort();
    sites
}
