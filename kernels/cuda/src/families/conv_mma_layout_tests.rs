//! What conv_mma.cuh computes with indices, repeated here: pixels and packed weights must meet in the same k.

use super::*;
use crate::families::{conv_samples, gemm_mma_samples, sample_symbols};

fn target() -> Target {
    Target::of("sm_90a".parse().unwrap())
}

#[test]
fn swizzle_is_a_bijection_without_bank_conflicts() {
    for steps in [2, 4] {
        let (chunks, row_bytes) = (2 * steps, 32 * steps);
        let swizzle = |row: usize, chunk: usize| {
            row * row_bytes + ((if steps == 4 { chunk ^ (row & 7) } else { chunk ^ (row >> 1 & 3) }) << 4)
        };
        let mut seen: Vec<usize> = (0..32).flat_map(|r| (0..chunks).map(move |c| swizzle(r, c))).collect();
        seen.sort_unstable();
        assert!(seen.iter().enumerate().all(|(i, at)| *at == 16 * i), "{steps} steps");
        // ldmatrix reads one chunk of eight consecutive rows at a time.
        for (row, chunk) in (0..32).step_by(8).flat_map(|r| (0..chunks).map(move |c| (r, c))) {
            let banks: std::collections::BTreeSet<usize> =
                (row..row + 8).map(|r| swizzle(r, chunk) / 16 % 8).collect();
            assert_eq!(banks.len(), 8, "{steps} steps, rows from {row}, chunk {chunk}");
        }
    }
}

/// The channel and tap of element `e` of chunk `half` of a step of pixels, if it is one.
fn pixel_k(shape: &Shape, step: usize, half: usize, e: usize) -> Option<(usize, usize)> {
    let (cg, taps, chunk) = (shape.geometry.cg(), shape.geometry.taps(), shape.step / 2);
    if shape.gather {
        let k = step * shape.step + half * chunk + e;
        return (k < cg * taps).then_some((k / taps, k % taps));
    }
    let tap_steps = cg.div_ceil(shape.step);
    let channel = step % tap_steps * shape.step + half * chunk;
    (channel < cg).then_some((channel + e, step / tap_steps))
}

#[test]
fn packed_weights_meet_their_pixels_in_every_operand_register() {
    let mut checked = 0;
    let (mut products, gemms) = (0, gemm_mma_samples::samples());
    for problem in conv_samples::conv().iter().chain(&gemms) {
        let Ok(shape) = Shape::of(problem, &target()) else { continue };
        products += usize::from(matches!(problem, Problem::Gemm(_)));
        let (cg, ng, taps) = (shape.geometry.cg(), shape.geometry.ng(), shape.geometry.taps());
        let [by_filter, by_channel, by_tap] = shape.weights;
        for tile in
            cost::candidates(&shape, &target()).iter().filter(|t| t.split * t.cluster == 1 && t.stages <= 2)
        {
            // Element i of the original is the number i + 1, so that 0 is padding.
            let count =
                1 + (shape.geometry.filters - 1) * by_filter + (cg - 1) * by_channel + (taps - 1) * by_tap;
            let original: Vec<u8> = (1..=count as u32).flat_map(u32::to_le_bytes).collect();
            let packed = shape.pack(tile).apply(&original, 4).unwrap();
            let packed: Vec<u32> =
                packed.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
            let (columns, n) = (shape.column_tiles(tile), tile.n as usize);
            let lane_elements = shape.step; // 16 bytes are half a step, of two 8-filter halves: registers x elements
            assert_eq!(packed.len(), shape.geometry.groups * columns * shape.total * n * shape.step);
            let per_register = shape.step / 8;
            for (at, value) in packed.iter().enumerate() {
                // [group][column tile][step][n / 16][lane][16 bytes]
                let element = at % (4 * per_register);
                let lane = at / (4 * per_register) % 32;
                let block = at / (4 * per_register * 32) % (n / 16);
                let step = at / (lane_elements * n) % shape.total;
                let column_tile = at / (lane_elements * n * shape.total) % columns;
                let group = at / (lane_elements * n * shape.total * columns);
                let (register, e) = (element / per_register, element % per_register);
                // mma: a lane's operand register r of filters 8 * (r / 2) holds k = half a step * (r % 2) + its quad.
                let filter = column_tile * n + block * 16 + register / 2 * 8 + lane / 4;
                let k = lane % 4 * per_register + e;
                let want =
                    pixel_k(&shape, step, register % 2, k).filter(|_| filter < ng).map_or(0, |(c, tap)| {
                        (group * ng + filter) * by_filter + c * by_channel + tap * by_tap + 1
                    });
                assert_eq!(*value as usize, want, "{} element {at}", tile.tactic());
                checked += 1;
            }
        }
    }
    assert!(checked > 100_000 && products > 4, "only {checked} elements, {products} matrix products");
}

#[test]
fn a_tactic_that_does_not_fit_is_an_error() {
    let problem = conv_samples::conv().remove(0);
    let symbols = sample_symbols();
    for text in [
        "conv.mma/1 m48 n64 k4 stages3 groups1 warps4 split1 cluster1",
        "conv.mma/1 m64 n64 k4 stages3 groups1 warps4 split2 cluster2",
        "conv.mma/1 m64 n64 k4 stages17 groups1 warps4 split1 cluster1",
        "conv.mma/1 m64 n64 k4 stages3 groups1 warps4 split99 cluster1",
        "conv.mma/1 m64 n64",
    ] {
        let tactic = text.parse().unwrap();
        assert!(ConvMma.build(&problem, &tactic, &symbols, &target()).is_err(), "{text}");
    }
}

#[test]
fn the_model_splits_small_layers_and_keeps_large_ones_whole() {
    let symbols = sample_symbols();
    let layer = |n: usize, c: usize, size: usize| {
        let Problem::Conv(mut conv) = conv_samples::conv().remove(5) else { unreachable!() };
        (conv.n, conv.channels, conv.filters) = (Dim::from(n), c, c);
        (conv.input, conv.output) = (vec![Dim::from(size); 2], vec![Dim::from(size); 2]);
        conv.epilogue = bakelite_host::problem::Epilogue::store(DType::F16);
        let problem = Problem::from(conv);
        let best = ConvMma.tactics(&problem, &symbols, &target()).remove(0);
        (Tile::of(&best).unwrap(), ConvMma.cost(&problem, &best, &symbols, &target()))
    };
    let (small, us) = layer(1, 512, 7);
    assert!(small.split * small.cluster > 1 && us < 20.0, "{small:?} at {us} µs");
    let (large, us) = layer(32, 256, 14);
    assert!(large.split * large.cluster == 1 && us < 60.0, "{large:?} at {us} µs");
}
