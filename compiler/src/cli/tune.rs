//! `bakelite tune`: measurements on this machine's GPU to a tactics file.

use super::device::{Effort, Tuned, open_gpu, target_of, tuned_plan};
use super::options::{ModelArguments, Precision, open_nvrtc, read_tactics};
use super::output::write_file;
use super::{Environment, Failure, Outcome, note, say};
use bakelite::fuse::alternative::Way;
use bakelite::onnx;
use bakelite::tune::{Join, Tactics};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The tactics file. What it already has for this model's problems on this GPU is kept; it is written while tuning
    /// goes on, so that a run that was interrupted continues where it was.
    #[arg(long)]
    tactics: PathBuf,
    /// Measure what the file already has again.
    #[arg(long)]
    again: bool,
    /// What f32 operators compute in.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// How much to try. Every kernel's result is checked before its time counts.
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
    note_other_architectures(&known, &gpu)?;
    let mut keeper = Keeper::new(&a.tactics, known.clone());
    let mut tactics = if a.again { Tactics::default() } else { known };
    let start = Instant::now();
    let tuned = tuned_plan(graph, &gpu, &nvrtc, a.precision, a.effort, &mut tactics, Some(&mut keeper))?;
    keeper.write(&tactics)?;
    let Tuned { plan, candidates, refused, joins, settled } = tuned;
    let sum: f64 = plan.steps.iter().filter_map(|s| s.cuda.as_ref()?.measured).sum();
    let seconds = start.elapsed().as_secs_f64();
    let mut text = format!("{candidates} candidates tried in {seconds:.1} s, {refused} of them not used; ");
    text += &format!("{} entries in {}\n", keeper.known.len(), a.tactics.display());
    text += &format!("the model's {} steps take {sum:.1} µs one by one", plan.steps.len());
    if let Some((plans, before, after)) = settled {
        text +=
            &format!("; all in one graph {before:.1} µs, and {after:.1} µs after settling by {plans} plans");
    }
    if plan.lanes > 1 {
        text += &format!(", on {} lanes", plan.lanes);
    }
    text += &summarize(&joins);
    say(&format!("{text}\n"))
}

/// What was settled about regions that could be joined.
fn summarize(joins: &[(String, Join)]) -> String {
    if joins.is_empty() {
        return String::new();
    }
    let joined = joins.iter().filter(|(_, join)| join.way == Way::Joined).count();
    let (all, apart) = (joins.len(), joins.len() - joined);
    let mut text = format!("\njoined {joined} of {all} that could be joined or not, {apart} apart:");
    for (what, Join { way, saved, .. }) in joins {
        text += &format!("\n  {way}, saves {saved:.2} µs: {}", without_epilogue(what));
    }
    text
}

/// What is joined, without what its epilogue does; of rows, with the products around them.
fn without_epilogue(what: &str) -> String {
    match what.split_once(" then ") {
        None => what.to_owned(),
        Some((what, rest)) => {
            rest.split_once(" of ").map_or_else(|| what.to_owned(), |(_, sizes)| format!("{what} of {sizes}"))
        }
    }
}

/// Entries for other GPUs stay, and are of no use here.
fn note_other_architectures(known: &Tactics, gpu: &bakelite_runtime::Gpu) -> Outcome<()> {
    let here = target_of(gpu)?.arch;
    for ((arch, gpu), count) in known.origins() {
        if arch != here {
            let on = if gpu.is_empty() { String::new() } else { format!(", measured on {gpu}") };
            note(format!(
                "{count} entries of the file are for {arch}{on}; they stay, and are not used on {here}"
            ));
        }
    }
    Ok(())
}

/// Writes tactics as they are measured, so that a run that is interrupted is not lost.
pub(crate) struct Keeper {
    path: PathBuf,
    /// What the file has, or will have.
    known: Tactics,
    written: Option<Instant>,
}

/// Between two writings while measuring.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
const INTERVAL: Duration = Duration::from_secs(1);

impl Keeper {
    /// Of a file that has `known` now.
    pub(crate) fn new(path: &Path, known: Tactics) -> Keeper {
        Keeper { path: path.to_owned(), known, written: None }
    }

    /// Takes what was measured, on what `here` says, and writes it unless it just did.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn keep(&mut self, tactics: &Tactics, here: &str) -> Outcome<()> {
        if self.written.is_some_and(|at| at.elapsed() < INTERVAL) {
            return Ok(());
        }
        let mut tactics = tactics.clone();
        here.clone_into(&mut tactics.measured_on);
        self.write(&tactics)
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&mut self, tactics: &Tactics) -> Outcome<()> {
        self.known.merge(tactics);
        let text = self.known.print();
        write_file(&self.path, |file| file.write_all(text.as_bytes()).map_err(|e| e.to_string()))?;
        self.written = Some(Instant::now());
        Ok(())
    }
}

/// The file's tactics, or none where there is no such file yet.
pub(crate) fn read_or_new(path: &Path) -> Outcome<Tactics> {
    match path.try_exists() {
        Ok(true) => read_tactics(Some(path)),
        Ok(false) => Ok(Tactics::default()),
        Err(e) => Err(Failure::new(format!("the tactics file \"{}\": {e}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tactics(text: &str) -> Tactics {
        Tactics::parse(&format!("# bakelite tactics 1\n{text}")).unwrap()
    }

    #[test]
    fn what_is_measured_is_kept_at_intervals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tactics");
        let read = || std::fs::read_to_string(&path).unwrap();
        let mut keeper = Keeper::new(&path, tactics("sm_80 | old | gemm.mma/1 m64 | 1.00\n"));
        let first = tactics("sm_90a | a | gemm.mma/1 m64 | 2.00 | H200\n");
        keeper.keep(&first, "H200, driver 1, today").unwrap();
        let expected = "# bakelite tactics 1\n# H200, driver 1, today\nsm_80 | old | gemm.mma/1 m64 | 1.00\nsm_90a | a | gemm.mma/1 m64 | 2.00 | H200\n";
        assert_eq!(read(), expected);
        // So soon after, nothing is written; at the end everything is.
        let both =
            tactics("sm_90a | a | gemm.mma/1 m32 | 1.50 | H200\nsm_90a | b | gemm.mma/1 m64 | 3.00 | H200\n");
        keeper.keep(&both, "H200, driver 1, today").unwrap();
        assert_eq!(read(), expected);
        keeper.write(&both).unwrap();
        assert_eq!(Tactics::parse(&read()).unwrap().len(), 3);
        assert!(read().contains("| a | gemm.mma/1 m32 | 1.50 | H200"), "{}", read());
    }

    #[test]
    fn joins_are_told_apart_without_their_epilogues() {
        let rows = "rows layer_norm rows=128 len=768 dtype=f16 then (f32) { } -> %0:f16 of 128x768x3072 for 128x2304x768";
        let short = "rows layer_norm rows=128 len=768 dtype=f16 of 128x768x3072 for 128x2304x768";
        assert_eq!(without_epilogue(rows), short);
        let conv = "conv n=1 added=512 of [28,28] by [2,2] then (f32) { } -> %0:f16";
        assert_eq!(without_epilogue(conv), "conv n=1 added=512 of [28,28] by [2,2]");
    }
}
