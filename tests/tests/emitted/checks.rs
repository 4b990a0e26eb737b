//! Calls each emitted crate as its user would, and compares with the executor's results in the files beside it.

#![allow(clippy::unwrap_used)]

use std::error::Error;

type Outcome = Result<(), Box<dyn Error>>;

fn bytes(name: &str) -> Vec<u8> {
    let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn f32s(name: &str) -> Vec<f32> {
    bytes(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn i64s(name: &str) -> Vec<i64> {
    bytes(name).as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

fn i32s(name: &str) -> Vec<i32> {
    bytes(name).as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

fn u16s(name: &str) -> Vec<u16> {
    bytes(name).as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
}

fn bools(name: &str) -> Vec<bool> {
    bytes(name).iter().map(|b| *b != 0).collect()
}

#[track_caller]
fn close(got: &[f32], name: &str) {
    let expected = f32s(name);
    assert_eq!(got.len(), expected.len(), "{name}");
    for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
        assert!((g - e).abs() <= 1e-5 * e.abs().max(1.0), "{name}[{i}]: {g}, expected {e}");
    }
}

fn digits() -> Outcome {
    let pixels = f32s("digits/in0");
    let images: Vec<[[[f32; 8]; 8]; 1]> =
        pixels.as_chunks::<8>().0.as_chunks::<8>().0.as_chunks::<1>().0.to_vec();
    let weights = digits::Weights::host()?;
    // Two sessions share the weights, each in its thread.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut model = digits::Model::new(&weights).unwrap();
                for _ in 0..2 {
                    let outputs = model.infer(&digits::Inputs { x: &images }).unwrap();
                    close(outputs.logits.as_flattened(), "digits/out0");
                }
            });
        }
    });
    let many = vec![images[0]; 65];
    let error = digits::Model::new(&weights)?.infer(&digits::Inputs { x: &many }).unwrap_err();
    assert_eq!(error, digits::Error::Range { symbol: "batch".into(), low: 1, high: 64, got: 65 });
    // Without a GPU that is an error, and on one the images of this test are refused.
    let on_gpu = digits::Gpu::open(0).and_then(|gpu| digits::Model::load(&gpu));
    assert!(on_gpu.is_err());
    Ok(())
}

fn fixed() -> Outcome {
    let mut x = [[bakelite_runtime::f16::ZERO; 3]; 2];
    for (x, bits) in x.as_flattened_mut().iter_mut().zip(u16s("fixed/in0")) {
        *x = bakelite_runtime::f16::from_bits(bits);
    }
    let outputs = fixed::Model::host()?.infer(&fixed::Inputs { x: &x })?;
    let y: &[[_; 4]; 2] = &outputs.y_0;
    assert_eq!(y.as_flattened().iter().map(|v| v.to_bits()).collect::<Vec<_>>(), u16s("fixed/out0"));
    close(outputs.probabilities.as_flattened(), "fixed/out1");
    close(&[outputs.top], "fixed/out2");
    Ok(())
}

fn forked() -> Outcome {
    let mut x = [[bakelite_runtime::f16::ZERO; 512]; 32];
    for (x, bits) in x.as_flattened_mut().iter_mut().zip(u16s("forked/in0")) {
        *x = bakelite_runtime::f16::from_bits(bits);
    }
    let outputs = forked::Model::host()?.infer(&forked::Inputs { x: &x })?;
    let y: Vec<u16> = outputs.y.as_flattened().iter().map(|v| v.to_bits()).collect();
    assert_eq!(y, u16s("forked/out0"));
    Ok(())
}

fn mixed() -> Outcome {
    let (values, mask, ids) = (f32s("mixed/in0"), bools("mixed/in1"), i64s("mixed/in2"));
    let inputs = mixed::Inputs { type_: &values, mask: &mask, ids_1: &ids, seq: 7 };
    let mut model = mixed::Model::host()?;
    let outputs = model.infer(&inputs)?;
    close(&outputs.picked, "mixed/out0");
    assert_eq!(outputs.big, bools("mixed/out1"));
    assert_eq!(outputs.output_1st, i32s("mixed/out2"));
    let joined: &Vec<[f32; 12]> = &outputs.self_;
    close(joined.as_flattened(), "mixed/out3");
    let rounded: Vec<u16> = outputs.rounded.as_flattened().iter().map(|v| v.to_bits()).collect();
    assert_eq!(rounded, u16s("mixed/out4"));
    assert_eq!(outputs.some, bools("mixed/out5"));
    let error = model.infer(&mixed::Inputs { seq: 6, ..inputs }).unwrap_err();
    assert_eq!(error, mixed::Error::Shape { tensor: "type".into(), expected: vec![3, 6], got: vec![21] });
    let error = model.infer(&mixed::Inputs { ids_1: &[0, 4, 1], ..inputs }).unwrap_err();
    assert!(error.to_string().contains("index 4 lies outside a dimension of 4"), "{error}");
    assert_eq!(model.infer(&inputs)?, outputs);
    Ok(())
}

fn main() -> Outcome {
    digits()?;
    fixed()?;
    forked()?;
    mixed()?;
    println!("all agree");
    Ok(())
}
