//! `bakelite bench`: a model's time and memory.

use super::arrays;
use super::device::{Effort, Order, prepare};
use super::layers::{layers, layers_json, layers_table};
use super::options::{Device, ModelArguments, Precision, read_tactics};
use super::output::write_file;
use super::table::{Align, bytes, table};
use super::tune::{self, Keeper};
use super::{Environment, Failure, Outcome, say};
use bakelite::onnx;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Where to run.
    #[arg(long, value_enum, default_value = "gpu")]
    device: Device,
    /// What f32 operators compute in on the GPU.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Tactics that `bakelite tune` measured.
    #[arg(long)]
    tactics: Option<PathBuf>,
    /// Measure first what the tactics file does not have, and write it there.
    #[arg(long)]
    tune: bool,
    /// Where the numbers go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Time each step in its place and alone, with what it achieves, the floor that arithmetic and memory set, and its tactic.
    #[arg(long)]
    layers: bool,
    /// How many runs to time [default: 200 on a GPU, 20 on a CPU]; on a GPU, replays are timed for a second at least.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    iterations: Option<u32>,
    /// Folder that holds NVRTC.
    #[arg(long, value_name = "DIR")]
    nvrtc: Option<PathBuf>,
}

pub(crate) fn run(a: &Arguments, environment: &Environment) -> Outcome<()> {
    if a.device == Device::Cpu && (a.layers || a.tune) {
        return Err(Failure::new("--layers and --tune are for GPUs").help("use --device gpu"));
    }
    let mut tactics = match &a.tactics {
        Some(path) if a.tune => tune::read_or_new(path)?,
        path => read_tactics(path.as_deref())?,
    };
    let model = onnx::decode(a.model.source()?)?;
    let graph = onnx::import(&model, &a.model.import())?;
    let inputs = arrays::random(&graph, 1)?;
    let keeper = a.tactics.as_deref().filter(|_| a.tune).map(|path| Keeper::new(path, tactics.clone()));
    let mut order = Order {
        device: a.device,
        precision: a.precision,
        effort: a.tune.then_some(Effort::Normal),
        nvrtc: a.nvrtc.as_deref(),
        environment,
        keeper,
    };
    let mut ready = prepare(graph, &mut order, &mut tactics)?;
    if let Some(keeper) = &mut order.keeper {
        keeper.write(&tactics)?;
    }
    let iterations = a.iterations.unwrap_or(if a.device == Device::Gpu { 200 } else { 20 });
    let times = ready.session.time(&inputs, iterations as usize)?;
    let layers = if a.layers { Some(layers(&mut ready.session, &inputs)?) } else { None };
    let plan = ready.session.plan();
    let summary =
        |times: &[f64]| json!({ "median_us": quantile(times, 0.5), "p99_us": quantile(times, 0.99) });
    let mut numbers = json!({
        "model": a.model.stem(),
        "target": plan.target.to_string(),
        "device": ready.device,
        "precision": if a.device == Device::Gpu { a.precision.to_string() } else { "as the model".to_owned() },
        "iterations": iterations,
        "host_to_host": summary(&times.host),
        "arena_bytes": plan.arena,
        "arena_ratio": plan.arena_ratio(),
        "weight_bytes": plan.weight_bytes,
        "load_ms": ready.load.as_secs_f64() * 1e3,
        "steps": plan.steps.len(),
    });
    let mut rows = vec![
        vec!["model".to_owned(), a.model.stem()],
        vec!["device".to_owned(), format!("{} ({})", ready.device, plan.target)],
    ];
    let shown = |t: &[f64]| format!("{}, p99 {}", time(quantile(t, 0.5)), time(quantile(t, 0.99)));
    if let Some(gpu) = &times.gpu {
        numbers["gpu"] = summary(gpu);
        numbers["replays"] = json!(gpu.len());
        rows.push(vec!["GPU time".to_owned(), shown(gpu)]);
    }
    rows.push(vec!["host to host".to_owned(), shown(&times.host)]);
    let arena = format!("{}, {:.3} times the lower bound", bytes(plan.arena), plan.arena_ratio());
    rows.push(vec!["arena".to_owned(), arena]);
    rows.push(vec!["weights".to_owned(), bytes(plan.weight_bytes)]);
    rows.push(vec!["load".to_owned(), time(ready.load.as_secs_f64() * 1e6)]);
    rows.push(vec!["steps".to_owned(), plan.steps.len().to_string()]);
    say(&table(&[Align::Left, Align::Left], &rows))?;
    if let Some(layers) = layers {
        say(&format!("\n{}", layers_table(&layers)))?;
        numbers["layers"] = layers_json(&layers);
    }
    if let Some(path) = &a.json {
        write_file(path, |file| writeln!(file, "{numbers:#}").map_err(|e| e.to_string()))?;
    }
    Ok(())
}

/// The smallest of the sorted times that a share `q` of them does not exceed.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn time(us: f64) -> String {
    if us < 1000.0 { format!("{us:.1} µs") } else { format!("{:.2} ms", us / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_times() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&hundred, 0.5), quantile(&hundred, 0.99)), (50.0, 99.0));
        assert_eq!((quantile(&[7.0], 0.5), quantile(&[7.0], 0.99)), (7.0, 7.0));
    }
}
