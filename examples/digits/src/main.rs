//! Classifies the 540 test digits of scikit-learn's handwritten digits with the generated crate `digits`: on the CPU, and on
//! a GPU where there is one. Prints accuracy and speed.

use digits::{Inputs, Model};
use std::time::Instant;

/// One digit: 8 × 8 grey values from 0 to 16, then the label.
const DIGITS: &[u8] = include_bytes!("../test_digits.bin");
const RECORD: usize = 65;
type Image = [[[f32; 8]; 8]; 1];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (images, labels): (Vec<Image>, Vec<u8>) = DIGITS.chunks_exact(RECORD).map(digit).unzip();
    #[cfg(feature = "host")]
    report("CPU", &mut Model::host()?, &images, &labels)?;
    #[cfg(feature = "cuda")]
    match digits::Gpu::open(0) {
        Ok(gpu) => report(gpu.name(), &mut Model::load(&gpu)?, &images, &labels)?,
        Err(why) => println!("{:<24} not used: {why}", "GPU"),
    }
    Ok(())
}

fn digit(record: &[u8]) -> (Image, u8) {
    let mut image = Image::default();
    for (pixel, value) in image.as_flattened_mut().as_flattened_mut().iter_mut().zip(record) {
        *pixel = f32::from(*value) / 16.0;
    }
    (image, record[RECORD - 1])
}

fn report(device: &str, model: &mut Model, images: &[Image], labels: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    // As many at a time as the crate was compiled for.
    const BATCH: usize = 60;
    let mut right = 0;
    model.infer(&Inputs { x: &images[..BATCH] })?;
    let began = Instant::now();
    for (images, labels) in images.chunks(BATCH).zip(labels.chunks(BATCH)) {
        let outputs = model.infer(&Inputs { x: images })?;
        for (scores, label) in outputs.logits.iter().zip(labels) {
            let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            right += usize::from(best == Some(usize::from(*label)));
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{device:<24} {right} of {} digits right ({:.2} %), {:.1} µs a digit in batches of {BATCH}",
        labels.len(),
        100.0 * right as f64 / labels.len() as f64,
        seconds * 1e6 / labels.len() as f64
    );
    Ok(())
}
