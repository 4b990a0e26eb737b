//! Reads one handwritten digit with a model that the build script compiled.

mod digits {
    bakelite_runtime::include_model!("digits");
}

/// 8 × 8 grey values from 0 to 16: a 3 of the test set.
const THREE: [[u8; 8]; 8] = [
    [0, 0, 2, 9, 13, 8, 0, 0],
    [0, 1, 14, 11, 8, 14, 0, 0],
    [0, 9, 14, 0, 14, 6, 0, 0],
    [0, 0, 2, 4, 15, 0, 0, 0],
    [0, 0, 0, 6, 12, 12, 2, 0],
    [0, 0, 0, 0, 0, 9, 9, 0],
    [0, 0, 14, 13, 4, 10, 11, 0],
    [0, 0, 3, 10, 14, 15, 5, 0],
];

fn main() -> digits::Result<()> {
    let image = [THREE.map(|row| row.map(|grey| f32::from(grey) / 16.0))];
    let mut model = digits::Model::host()?;
    let outputs = model.infer(&digits::Inputs { x: &[image] })?;
    let scores = outputs.logits[0];
    let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    println!("it is a {}", best.map_or("riddle".to_owned(), |digit| digit.to_string()));
    Ok(())
}
