//! `bakelite run`: a model on arrays, with its results compared with a reference if there is one.

use super::arrays::{self, Arrays};
use super::device::{Order, prepare};
use super::options::{Device, ModelArguments, Precision, read_tactics};
use super::table::{Align, table};
use super::{Environment, Failure, Outcome, say};
use bakelite::ir::Tensor;
use bakelite::onnx;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Arrays by the inputs' names.
    #[arg(long, value_name = "NPZ")]
    inputs: Option<PathBuf>,
    /// Make up the inputs from this seed instead.
    #[arg(long, value_name = "SEED", conflicts_with = "inputs")]
    random: Option<u64>,
    /// Where the outputs go, by their names.
    #[arg(long, value_name = "NPZ")]
    outputs: Option<PathBuf>,
    /// Where to run.
    #[arg(long, value_enum)]
    device: Device,
    /// What f32 operators compute in on the GPU.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Tactics that `bakelite tune` measured.
    #[arg(long)]
    tactics: Option<PathBuf>,
    /// Arrays to compare the outputs with, by name; NAME__f64 is preferred to NAME.
    #[arg(long, value_name = "NPZ")]
    reference: Option<PathBuf>,
    /// Fail if an output's relative error, ‖out − ref‖ / ‖ref‖, is above this.
    #[arg(long, requires = "reference")]
    tolerance: Option<f64>,
    /// Folder that holds NVRTC.
    #[arg(long, value_name = "DIR")]
    nvrtc: Option<PathBuf>,
}

pub(crate) fn run(a: &Arguments, environment: &Environment) -> Outcome<ExitCode> {
    let mut tactics = read_tactics(a.tactics.as_deref())?;
    let given = a.inputs.as_deref().map(arrays::read).transpose()?;
    let reference = a.reference.as_deref().map(arrays::read).transpose()?;
    let model = onnx::decode(a.model.source()?)?;
    let mut import = a.model.import();
    if let Some(given) = &given {
        arrays::widen(&mut import, &model, given);
    }
    let graph = onnx::import(&model, &import)?;
    let inputs = match (given, a.random) {
        (Some(given), _) => arrays::arrange(&arrays::input_types(&graph), given)?,
        (None, Some(seed)) => arrays::random(&graph, seed)?,
        (None, None) if graph.inputs.is_empty() => vec![],
        (None, None) => {
            let expected = arrays::expected(&arrays::input_types(&graph));
            return Err(Failure::new("the model needs inputs: give --inputs or --random").help(expected));
        }
    };
    let mut order = Order {
        device: a.device,
        precision: a.precision,
        effort: None,
        nvrtc: a.nvrtc.as_deref(),
        environment,
        keeper: None,
    };
    let mut ready = prepare(graph, &mut order, &mut tactics)?;
    let tensors = ready.session.infer(&inputs)?;
    let names = ready.session.plan().outputs.iter().map(|p| p.name.clone());
    let outputs: Vec<(String, Tensor)> = names.zip(tensors).collect();
    if let Some(path) = &a.outputs {
        arrays::write(path, &outputs.iter().cloned().collect())?;
    }
    match reference {
        Some(reference) => compare(&outputs, &reference, a.tolerance),
        None => {
            let rows: Vec<_> =
                outputs.iter().map(|(n, t)| vec![n.clone(), arrays::shown(t), range(t)]).collect();
            say(&table(&[Align::Left; 3], &rows))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `-1.5 to 2`
fn range(tensor: &Tensor) -> String {
    let values = tensor.to_f64();
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    let nan = values.iter().filter(|v| v.is_nan()).count();
    let nan = if nan > 0 { format!(", {nan} NaN") } else { String::new() };
    if low > high { nan.trim_start_matches(", ").to_owned() } else { format!("{low:.6} to {high:.6}{nan}") }
}

fn compare(outputs: &[(String, Tensor)], reference: &Arrays, tolerance: Option<f64>) -> Outcome<ExitCode> {
    let mut rows =
        vec![["output", "type", "relative error", "largest error", ""].map(str::to_owned).to_vec()];
    let mut within = true;
    for (name, out) in outputs {
        let expected =
            reference.get(&format!("{name}__f64")).or_else(|| reference.get(name)).ok_or_else(|| {
                let names = reference.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Failure::new(format!(
                    "the reference has no array \"{name}\" or \"{name}__f64\"; it has {names}"
                ))
            })?;
        if expected.shape != out.shape {
            let what = format!(
                "the output \"{name}\" is {}, but its reference is {}",
                arrays::shown(out),
                arrays::shown(expected)
            );
            return Err(Failure::new(what));
        }
        let distance = arrays::distance(out, expected);
        // A NaN is not within.
        let good = tolerance.is_none_or(|t| distance.relative <= t);
        within &= good;
        rows.push(vec![
            name.clone(),
            arrays::shown(out),
            format!("{:.3e}", distance.relative),
            format!("{:.3e}", distance.largest),
            if good { String::new() } else { "above the tolerance".to_owned() },
        ]);
    }
    say(&table(&[Align::Left, Align::Left, Align::Right, Align::Right, Align::Left], &rows))?;
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
