//! Runs the model once on raw little-endian or `.npy` files, one for each input in order, or on made-up numbers, and
//! prints the largest elements of each output, and times.

use bakelite_runtime::shaped::{self, Scalar};
use digits::{Inputs, Model};
use std::error::Error;
use std::time::Instant;

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut on_host, mut sizes, mut files) = (false, Vec::new(), Vec::new());
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some((name, value)) => sizes.push((name.to_owned(), value.parse::<i64>()?)),
            None if argument == "--host" => on_host = true,
            None if argument.starts_with('-') => {
                return Err("usage: digits [--host] batch=N [X]".into());
            }
            None => files.push(content(&argument)?),
        }
    }
    let started = Instant::now();
    let mut model = open(on_host)?;
    println!("loaded in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let mut batch = size(&sizes, "batch", 60)?;
    if let Some(file) = files.first() {
        batch = file.len() as i64 / 256;
    }
    let x: Vec<f32> = tensor("x", files.first(), (64 * batch) as usize)?;
    let inputs = Inputs {
        x: shaped::shaped_rows(&x)?,
    };
    let started = Instant::now();
    let outputs = model.infer(&inputs)?;
    let first = started.elapsed();
    let mut times = Vec::new();
    while times.len() < 5 || (times.len() < 100 && started.elapsed().as_secs_f64() < 1.0)
    {
        let started = Instant::now();
        model.infer(&inputs)?;
        times.push(started.elapsed());
    }
    times.sort();
    show("logits", shaped::flat_rows(&outputs.logits));
    let (first, median) = (
        first.as_secs_f64() * 1e3,
        times[times.len() / 2].as_secs_f64() * 1e3,
    );
    println!(
        "first inference {first:.3} ms, then {median:.3} ms (median of {})", times.len()
    );
    Ok(())
}

/// One inference at a time: with one queue, the GPU is ready sooner.
fn open(on_host: bool) -> Result<Model, Box<dyn Error>> {
    #[cfg(feature = "host")]
    if on_host || cfg!(not(feature = "cuda")) {
        return Ok(Model::host()?);
    }
    #[cfg(feature = "cuda")]
    if !on_host {
        digits::Gpu::limit_queues(1);
        return Ok(Model::load(&digits::Gpu::open(0)?)?);
    }
    Err("--host needs the feature `host`".into())
}

/// The elements of a file: all of it, or what follows the header of an `.npy`.
fn content(path: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    if !bytes.starts_with(b"\x93NUMPY") {
        return Ok(bytes);
    }
    let short = || format!("{path}: the header is cut off");
    let (length, at) = match bytes.get(6) {
        Some(1) => {
            (bytes.get(8..10).map(|b| usize::from(b[0]) | usize::from(b[1]) << 8), 10)
        }
        _ => {
            (
                bytes
                    .get(8..12)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize),
                12,
            )
        }
    };
    let end = at + length.ok_or_else(short)?;
    let header = String::from_utf8_lossy(bytes.get(at..end).ok_or_else(short)?)
        .into_owned();
    if header.contains("'fortran_order': True") || header.contains("'>") {
        return Err(
            format!("{path}: only little-endian row-major arrays are read").into(),
        );
    }
    Ok(bytes[end..].to_vec())
}

fn size(
    sizes: &[(String, i64)],
    name: &str,
    otherwise: i64,
) -> Result<i64, Box<dyn Error>> {
    match sizes.iter().find(|(n, _)| n == name) {
        Some((_, value)) if *value < 0 => {
            Err(format!("{name}={value}: sizes are not negative").into())
        }
        found => Ok(found.map_or(otherwise, |(_, value)| *value)),
    }
}

/// The elements of a file, or made-up ones.
fn tensor<T: Value>(
    name: &str,
    file: Option<&Vec<u8>>,
    count: usize,
) -> Result<Vec<T>, Box<dyn Error>> {
    let Some(bytes) = file else { return Ok((0..count).map(T::made).collect()) };
    if bytes.len() != count * size_of::<T>() {
        let (got, expected) = (bytes.len(), count * size_of::<T>());
        return Err(
            format!("{name}: expected {expected} bytes, the file has {got}").into(),
        );
    }
    let mut elements = vec![T::default(); count];
    T::fill_from(
        &mut elements,
        |to| {
            to.copy_from_slice(bytes);
            Ok(())
        },
    )?;
    Ok(elements)
}

/// An element that can be made up and printed.
trait Value: Scalar + Default {
    fn made(i: usize) -> Self;
    fn number(self) -> f64;
}

impl Value for f32 {
    fn made(i: usize) -> Self {
        ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5
    }

    fn number(self) -> f64 {
        f64::from(self)
    }
}

fn show<T: Value>(name: &str, elements: &[T]) {
    let mut largest: Vec<(usize, f64)> = elements
        .iter()
        .map(|e| e.number())
        .enumerate()
        .collect();
    largest.sort_by(|a, b| b.1.total_cmp(&a.1));
    let text: Vec<String> = largest
        .iter()
        .take(5)
        .map(|(i, v)| format!("{i}: {v:.5}"))
        .collect();
    println!("{name} ({} elements): {}", elements.len(), text.join(", "));
}
