//! What conv_stem.cuh computes with indices, repeated here: pixels and packed weights must meet in the same k.

use super::*;
use crate::families::{conv_samples, sample_symbols};
use std::collections::BTreeSet;

fn target() -> Target {
    Target::of("sm_90a".parse().unwrap())
}

/// First layers of well-known models: ResNet-50 and MobileNetV2, a batch and one image, then a small YOLO.
fn first_layers() -> Vec<Problem<Dim>> {
    conv_samples::layers().into_iter().filter(|p| Shape::of(p, &target()).is_ok()).collect()
}

/// The convolutions that are taken, with every tile for them.
fn each(mut body: impl FnMut(&Shape, &Tile)) {
    let mut taken = 0;
    for problem in conv_samples::conv().iter().chain(&conv_samples::layers()) {
        let Ok(shape) = Shape::of(problem, &target()) else { continue };
        taken += 1;
        let tiles = candidates(&shape, &target());
        assert!(!tiles.is_empty(), "no tile for {problem:?}");
        tiles.iter().for_each(|tile| body(&shape, tile));
    }
    assert!(taken > 15, "{taken} samples are taken");
}

#[test]
fn packed_weights_meet_their_pixels_in_every_operand_register() {
    let mut seen = BTreeSet::new();
    each(|shape, tile| {
        let geometry = &shape.geometry;
        let (channels, taps, n) = (geometry.channels, geometry.taps(), tile.n as usize);
        let [_, height, width] = geometry.kernel;
        if !seen.insert((geometry.kernel, geometry.filters, channels, shape.lead, tile.n, tile.wgmma)) {
            return;
        }
        // Element i of the original is the number i + 1, so that 0 is padding.
        let count = geometry.filters * channels * taps;
        let original: Vec<u8> = (1..=count as u32).flat_map(u32::to_le_bytes).collect();
        // Chunks of four-byte numbers would change places otherwise than those of halves.
        let pack = Pack { swizzled: false, ..shape.pack(tile) };
        let packed = pack.apply(&original, 4).unwrap();
        let packed: Vec<u32> =
            packed.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let columns = geometry.filters.div_ceil(n);
        assert_eq!(packed.len(), columns * shape.steps * n * 16);
        let mut met = BTreeSet::new();
        for (at, value) in packed.iter().enumerate() {
            let (element, lane, block) = (at % 8, at / 8 % 32, at / 256 % (n / 16));
            let (step, column_tile) = (at / (16 * n) % shape.steps, at / (16 * n * shape.steps));
            // mma: register r of a lane for 8 filters holds k = 8 r + 2 quad + e of a step; the output's quad q has columns
            // 2 q + e of each 8, and the kernel stores its columns of several eights as neighbours.
            let mut place = block * 16 + element / 4 * 8 + lane / 4;
            let mut k = step * 16 + element / 2 % 2 * 8 + lane % 4 * 2 + element % 2;
            if tile.wgmma {
                // Rows of 64 columns for every k.
                (place, k) = (at % 64, at / 64 % (16 * shape.steps));
            }
            let together = if n % 32 == 0 { 4 } else { 2 };
            let (set, j, q, e) = (place / (8 * together), place / 8 % together, place % 8 / 2, place % 2);
            let filter = column_tile * n + set * 8 * together + q * 2 * together + j * 2 + e;
            // The pixel that meets it: column `at` of a line counts from the last even one before the window.
            let (line, column) = (k / (2 * shape.pairs), k % (2 * shape.pairs));
            let tap = column.checked_sub(shape.lead % 2).filter(|c| *c < width);
            let want = match tap {
                Some(s) if line < height * channels && filter < geometry.filters => {
                    (filter * channels + line % channels) * taps + line / channels * width + s + 1
                }
                _ => 0,
            };
            assert_eq!(*value as usize, want, "{} element {at}", tile.tactic());
            met.insert(want);
        }
        assert_eq!(met.len(), count + usize::from(met.contains(&0)), "every weight once");
    });
    assert!(seen.len() > 20, "{} packings", seen.len());
}

#[test]
fn every_column_that_is_read_lies_in_its_line() {
    each(|shape, tile| {
        let (wide, stride) = (tile.wide as usize, shape.geometry.strides[2]);
        let (vec, pitch) = (shape.vec as usize, tile.pitch(shape) as usize);
        let apart = shape.windows.as_ref().map_or(wide, |w| w.across(tile.wide).1 as usize);
        let over = shape.windows.as_ref().map_or(0, |w| w.pads[1] as usize);
        let before = shape.geometry.pads[2] + over * stride;
        assert_eq!((apart * stride % vec, pitch % 4), (0, 0), "lines begin aligned");
        assert_eq!((shape.lead + before) % vec.max(2), 0, "a patch's first column is aligned");
        let loaded = ((wide - 1) * stride + shape.geometry.kernel[2] + shape.lead).next_multiple_of(vec);
        assert!(loaded <= 2 * pitch, "{loaded} columns in {pitch} words");
        // Of the last pixel, the last pair of a line, and for an odd stride the word behind it.
        let pixel = wide - 1;
        let word = shape.lead / 2 + (pixel * stride - pixel * stride % 2) / 2 + shape.pairs - 1;
        assert!(word + stride % 2 < pitch, "word {word} of {pitch}");
    });
}

/// What strips of patches complete, by the kernel's numbers: every maximum once, of results that are in shared memory then.
#[test]
fn every_maximum_is_taken_once_of_all_its_results() {
    let (symbols, mut taken) = (sample_symbols(), 0);
    each(|shape, tile| {
        let Some(windows) = &shape.windows else { return };
        taken += 1;
        let (tall, (first, more)) = (tile.tall, tile.rows(windows));
        let ([kernel, _], [stride, _]) = (windows.kernel, windows.strides);
        let ring = tile.results(shape) / (tile.wide * tile.n * 2);
        let rows = windows.output[0].opt(&symbols).max(1) as u32;
        let strip = first + (tile.turns - 1) * more;
        let mut patches = 0;
        for begin in (0..rows).step_by(strip as usize) {
            // Rows of results by their place in the ring, counted from the strip's first.
            let (mut held, mut done) = (vec![None; ring as usize], 0);
            for turn in 0..tile.turns {
                (turn * tall..(turn + 1) * tall).for_each(|row| held[(row % ring) as usize] = Some(row));
                let (from, completed) =
                    if turn == 0 { (0, first) } else { (first + (turn - 1) * more, more) };
                assert_eq!(from, done, "{}", tile.tactic());
                for row in (from..from + completed).flat_map(|r| r * stride..r * stride + kernel) {
                    assert_eq!(held[(row % ring) as usize], Some(row), "{} row {row}", tile.tactic());
                }
                done = from + completed;
                patches += 1;
                if begin + done >= rows {
                    break;
                }
            }
            assert!(done == strip || begin + done >= rows, "{}", tile.tactic());
        }
        let columns = windows.output[1].ceil_div(&Dim::from(i64::from(windows.across(tile.wide).0)));
        let images = (&shape.geometry.n * &columns).opt(&symbols).max(1);
        let all = f64::from(patches) * images as f64;
        assert_eq!(tile.patches(shape, &symbols), all, "{}", tile.tactic());
    });
    assert!(taken > 500, "{taken} tiles");
}

#[test]
fn strides_of_two_read_shared_memory_without_conflicts() {
    each(|shape, tile| {
        if shape.geometry.strides[2] != 2 {
            return;
        }
        let pitch = tile.pitch(shape) as usize;
        let words: BTreeSet<usize> = (0..32)
            .map(|lane| {
                let quad = lane % 4;
                let line =
                    if shape.pairs < 4 { quad / shape.pairs * pitch + quad % shape.pairs } else { quad };
                lane / 4 + line
            })
            .collect();
        let banks: BTreeSet<usize> = words.iter().map(|w| w % 32).collect();
        assert_eq!(words.len(), banks.len(), "{} with {pitch} words to a line", tile.tactic());
    });
}

#[test]
fn a_tactic_that_does_not_fit_is_an_error() {
    let problem = first_layers().pop().unwrap();
    let symbols = sample_symbols();
    assert!(!ConvStem.tactics(&problem, &symbols, &target()).is_empty());
    for text in [
        "conv.stem/2 tall8 wide12 n16 warps4 turns1 wgmma0",
        "conv.stem/2 tall4 wide16 n24 warps4 turns1 wgmma0",
        "conv.stem/2 tall4 wide8 n16 warps4 turns1 wgmma0",
        "conv.stem/2 tall32 wide64 n16 warps4 turns1 wgmma0",
        "conv.stem/2 tall8 wide16 n0 warps4 turns1 wgmma0",
        "conv.stem/2 tall8 wide16 n16 warps4 turns1 wgmma1",
        "conv.stem/2 tall8 wide16",
    ] {
        let tactic = text.parse().unwrap();
        assert!(ConvStem.build(&problem, &tactic, &symbols, &target()).is_err(), "{text}");
    }
    // Turing multiplies halves, but not bf16.
    let turing = Target::of("sm_75".parse().unwrap());
    assert!(!ConvStem.tactics(&problem, &symbols, &turing).is_empty());
    let Problem::Conv(mut conv) = problem else { unreachable!() };
    conv.dtype = DType::BF16;
    assert!(ConvStem.tactics(&conv.into(), &symbols, &turing).is_empty());
}

#[test]
fn the_model_keeps_filters_together_where_stores_take_the_time() {
    let symbols = sample_symbols();
    let best = |layer: usize| {
        let problem = first_layers().remove(layer);
        let tactics = ConvStem.tactics(&problem, &symbols, &target());
        for tactic in &tactics {
            println!("#{layer} {:.2} {tactic}", ConvStem.cost(&problem, tactic, &symbols, &target()));
        }
        Tile::of(&tactics[0]).unwrap()
    };
    let resnet = best(0);
    assert!(resnet.n == 64 && resnet.wgmma, "{resnet:?}");
    best(1);
    let mobilenet = best(2);
    assert_eq!(mobilenet.n, 32, "{mobilenet:?}");
    best(3);
    best(4);
}

#[test]
fn the_model_ranks_pooled_layers_as_measured() {
    let measured: [(&str, &[(f64, &str)]); 2] = [
        (
            "f16 last f16 | 32 3 64 1 | 224 224 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu | pooled 3 2 1 1",
            &[
                (33.27, "tall8 wide16 n64 warps4 turns5 wgmma1"),
                (35.37, "tall8 wide16 n64 warps4 turns2 wgmma1"),
                (37.21, "tall8 wide16 n64 warps4 turns4 wgmma1"),
                (38.16, "tall8 wide32 n64 warps4 turns8 wgmma1"),
                (38.46, "tall4 wide32 n64 warps4 turns3 wgmma1"),
                (39.17, "tall8 wide64 n64 warps8 turns4 wgmma1"),
                (40.25, "tall8 wide32 n64 warps8 turns5 wgmma1"),
            ],
        ),
        (
            "f16 last f16 | 1 3 64 1 | 224 224 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu | pooled 3 2 1 1",
            &[
                (2.82, "tall16 wide16 n32 warps8 turns1 wgmma0"),
                (3.02, "tall8 wide8 n64 warps4 turns1 wgmma1"),
                (3.43, "tall8 wide16 n32 warps4 turns2 wgmma0"),
                (3.44, "tall16 wide8 n64 warps4 turns1 wgmma1"),
                (3.81, "tall4 wide32 n64 warps4 turns1 wgmma1"),
            ],
        ),
    ];
    conv_samples::assert_ranked(&ConvStem, &measured, "");
}
