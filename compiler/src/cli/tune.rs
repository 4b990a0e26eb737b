//! `bakelite tune`: measurements on this machine's GPU to a tactics file.

use super::device::{Effort, open_gpu, target_of, tuned_plan};
use super::options::{ModelArguments, Precision, open_nvrtc, read_tactics};
use super::output::write_file;
use super::{Environment, Failure, Outcome, say};
use bakelite::onnx;
use bakelite::tune::Tactics;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The tactics file. What it already has for this model's problems is kept.
    #[arg(long)]
    tactics: PathBuf,
    /// Measure what the file already has again.
    #[arg(long)]
    again: bool,
    /// What f32 operators compute in.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// How much to try.
    #[arg(long, value_enum, default_value_t)]
    effort: Effort,
    /// Folder that holds NVRTC.
    #[arg(long, value_name = "DIR")]
    nvrtc: Option<PathBuf>,
}

pub(crate) fn run(a: &Arguments, environment: &Environment) -> Outcome<()> {
    let known = read_or_new(&a.tactics)?;
    let model = onnx::decode(a.model.source()?)?;
    let graph = onnx::import(&model, &a.model.import())?;
    let gpu = open_gpu()?;
    let nvrtc = open_nvrtc(a.nvrtc.as_deref(), environment)?;
    let mut tactics = if a.again { Tactics::default() } else { known.clone() };
    let before = if a.again { 0 } else { known.len() };
    let start = Instant::now();
    let plan = tuned_plan(graph, &gpu, &nvrtc, a.precision, a.effort, &mut tactics)?;
    let measured = tactics.len() - before;
    if a.again {
        let fresh = std::mem::replace(&mut tactics, known);
        tactics.measured_on = fresh.measured_on.clone();
        let arch = target_of(&gpu)?.arch;
        for step in &plan.steps {
            if let Some(entry) = fresh.get(arch, &step.problem) {
                tactics.set(arch, &step.problem, entry.clone());
            }
        }
    }
    write(&a.tactics, &tactics)?;
    let sum: f64 = plan.steps.iter().filter_map(|s| s.cuda.as_ref()?.measured).sum();
    say(&format!(
        "{measured} problems measured in {:.1} s; {} entries in {}; the model's {} steps take {sum:.1} µs one by one\n",
        start.elapsed().as_secs_f64(),
        tactics.len(),
        a.tactics.display(),
        plan.steps.len()
    ))
}

/// The file's tactics, or none where there is no such file yet.
pub(crate) fn read_or_new(path: &Path) -> Outcome<Tactics> {
    match path.try_exists() {
        Ok(true) => read_tactics(Some(path)),
        Ok(false) => Ok(Tactics::default()),
        Err(e) => Err(Failure::new(format!("the tactics file \"{}\": {e}", path.display()))),
    }
}

/// Writes the file, whole or not at all.
pub(crate) fn write(path: &Path, tactics: &Tactics) -> Outcome<()> {
    write_file(path, |file| file.write_all(tactics.print().as_bytes()).map_err(|e| e.to_string()))
}
