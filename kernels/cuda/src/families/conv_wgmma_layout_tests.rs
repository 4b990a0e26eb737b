//! What conv_wgmma.cuh computes with indices, repeated here: pixels and packed weights must meet in the same k.

use super::*;
use crate::families::{conv_samples, gemm_mma_samples, sample_symbols};
use std::collections::BTreeSet;

fn target() -> Target {
    Target::of("sm_90a".parse().unwrap())
}

/// Of the present version, with these parameters.
fn tactic(parameters: &str) -> Tactic {
    format!("{}/{} {parameters}", ConvWgmma.name(), ConvWgmma.version()).parse().unwrap()
}

#[test]
fn packed_weights_meet_their_pixels_in_every_chunk() {
    let (mut checked, mut products) = (0, 0);
    let gemms = gemm_mma_samples::samples();
    for problem in conv_samples::conv().iter().chain(&gemms) {
        let Ok(shape) = Shape::of(problem, &target()) else { continue };
        products += usize::from(matches!(problem, Problem::Gemm(_)));
        let added = shape.added.as_ref().map(|a| (a, [a.channels, 1, 1]));
        let parts = [Some((&shape.geometry, shape.weights)), added].into_iter().flatten();
        for (n, (geometry, weights)) in parts.flat_map(|part| [(32, part), (96, part)]) {
            let (channels, taps, filters) = (geometry.channels, geometry.taps(), geometry.filters);
            let [by_filter, by_channel, by_tap] = weights;
            let tiles = tiles_of(geometry);
            let tile = Tile {
                m: 64,
                n,
                groups: 1,
                stages: 2,
                deep: 1,
                blocks: 1,
                cluster: 1,
                share: 1,
                spread: 1,
                multicast: 0,
                maps: 0,
                pong: 0,
                through: 0,
                early: 0,
            };
            // Element i of the original is the number i % 65535 + 1, so that 0 is padding.
            let number = |i: usize| (i % 65535 + 1) as u16;
            let count = 1 + (filters - 1) * by_filter + (channels - 1) * by_channel + (taps - 1) * by_tap;
            let original: Vec<u8> = (0..count).flat_map(|i| number(i).to_le_bytes()).collect();
            let packed = shape.pack_of(geometry, weights, &tile).apply(&original, 2).unwrap();
            let n = n as usize;
            assert_eq!(packed.len(), shape.column_tiles(&tile) * tiles * n * 128);
            for (at, value) in packed.chunks_exact(2).enumerate() {
                let (e, place, row) = (at % 8, at / 8 % 8, at / 64 % n);
                let (k_tile, column_tile) = (at / 64 / n % tiles, at / 64 / n / tiles);
                // The chunk that a filling thread puts at this place of a row, and its tap and channel.
                let chunk = k_tile * 8 + (place ^ (row & 7));
                let (tap, channel) = (chunk / (channels / 8), chunk % (channels / 8) * 8 + e);
                // Eight neighbours in the accumulators of one thread: 2 of each 8 columns, of 4 times 8.
                let (j, q) = (row % 32 / 8, row % 8 / 2);
                let filter = column_tile * n + row / 32 * 32 + q * 8 + j * 2 + row % 2;
                let want = if tap < taps && filter < filters {
                    number(filter * by_filter + channel * by_channel + tap * by_tap)
                } else {
                    0
                };
                assert_eq!(u16::from_le_bytes(value.try_into().unwrap()), want, "{} at {at}", tile.tactic());
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
        "m96 n64 groups1 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps0 pong0 through0 early0",
        "m64 n40 groups1 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps0 pong0 through0 early0",
        "m64 n64 groups1 stages9 deep1 blocks1 cluster1 share1 spread1 multicast0 maps0 pong0 through0 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster10 share1 spread1 multicast0 maps0 pong0 through0 early0",
        "m256 n256 groups2 stages2 deep1 blocks1 cluster1 share1 spread1 multicast0 maps0 pong0 through0 early0",
        "m128 n256 groups2 stages4 deep1 blocks2 cluster1 share1 spread1 multicast0 maps0 pong0 through0 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster1 share3 spread1 multicast1 maps0 pong0 through0 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster4 share4 spread1 multicast1 maps0 pong0 through0 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster1 share1 spread1 multicast1 maps0 pong0 through0 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster1 share2 spread1 multicast2 maps0 pong0 through0 early0",
        "m128 n64 groups2 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps2 pong0 through0 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster1 share1 spread2 multicast1 maps1 pong0 through0 early0",
        "m64 n32 groups1 stages3 deep1 blocks1 cluster1 share1 spread2 multicast1 maps0 pong0 through0 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through0 early0",
        "m64 n64 groups2 stages3 deep1 blocks1 cluster2 share1 spread1 multicast0 maps1 pong1 through0 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through3 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster2 share1 spread1 multicast0 maps1 pong0 through1 early0",
        "m64 n64 groups2 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through2 early0",
        "m64 n32 groups1 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through1 early0",
        "m64 n64 groups1 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0 early2",
        "m64 n64",
    ] {
        assert!(ConvWgmma.build(&problem, &tactic(text), &symbols, &target()).is_err(), "{text}");
    }
    let elsewhere = Target::of("sm_100".parse().unwrap());
    assert!(ConvWgmma.tactics(&problem, &symbols, &elsewhere).is_empty());
}

// Of a batch's products, with and without a residual: results from registers and by the copy engine.
#[test]
fn three_warpgroups_have_room_for_192_by_192() {
    let symbols = Symbols::default();
    for epilogue in ["bias", "bias_gelu", "bias_residual"] {
        let problem =
            conv_samples::parse(&format!("f16 last | 32 768 768 1 | 197 | 1 | 1 | 1 | 0 0 | {epilogue}"));
        for through in [0, 1] {
            let text = format!(
                "m192 n192 groups3 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through{through} early0"
            );
            let build = ConvWgmma.build(&problem, &tactic(&text), &symbols, &target()).unwrap();
            assert_eq!((build.launches[0].block[0], build.launches[0].grid[0].as_const()), (512, Some(132)));
        }
        let offered = ConvWgmma.tactics(&problem, &symbols, &target());
        assert!(offered.iter().any(|t| (t.get("m"), t.get("n")) == (Ok(192), Ok(192))), "{epilogue}");
    }
}

// One warpgroup multiplies 24576 results at a time, the other one finishes as many: more for each byte than 128 x 128.
#[test]
fn a_warpgroup_that_takes_turns_has_room_for_192_sums_a_thread() {
    let symbols = Symbols::default();
    let product = |n: u32, epilogue: &str| {
        conv_samples::parse(&format!("f16 last | 32 768 {n} 1 | 197 | 1 | 1 | 1 | 0 0 | {epilogue}"))
    };
    for (m, n) in [(128, 192), (192, 128)] {
        let text = format!(
            "m{m} n{n} groups2 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through1 early0"
        );
        let build = |problem| ConvWgmma.build(&problem, &tactic(&text), &symbols, &target());
        let launch = build(product(3072, "bias_gelu")).unwrap().launches.remove(0);
        assert_eq!((launch.block[0], launch.grid[0].as_const()), (384, Some(132)));
        // A residual would wait in registers that it has not.
        let refused = build(product(768, "bias_residual")).unwrap_err();
        assert!(refused.ends_with("192 accumulators beside 40"), "{refused}");
    }
    // Large products are offered tiles of several sizes: which is best shows in the whole plan.
    let offered = ConvWgmma.tactics(&product(3072, "bias_gelu"), &symbols, &target());
    let sizes: BTreeSet<_> = offered.iter().map(|t| (t.get("m").unwrap(), t.get("n").unwrap())).collect();
    assert!(sizes.len() >= 5 && sizes.contains(&(192, 192)) && sizes.contains(&(192, 128)), "{sizes:?}");
}

// Two teams of two warpgroups in turns: one finishes a tile with an epilogue of many operations while the other multiplies.
#[test]
fn two_warpgroups_are_a_team_that_takes_turns() {
    let symbols = Symbols::default();
    let problem = conv_samples::parse("f16 last | 32 768 3072 1 | 128 | 1 | 1 | 1 | 0 0 | bias_gelu");
    let text = |m: u32, groups: u32| {
        format!(
            "m{m} n128 groups{groups} stages5 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through1 early0"
        )
    };
    let build = ConvWgmma.build(&problem, &tactic(&text(128, 4)), &symbols, &target()).unwrap();
    assert_eq!(build.launches[0].block, [640, 1, 1]);
    // Rows of a team, and teams, are whole.
    for (m, groups) in [(64, 4), (192, 4), (128, 3)] {
        assert!(
            ConvWgmma.build(&problem, &tactic(&text(m, groups)), &symbols, &target()).is_err(),
            "{m} {groups}"
        );
    }
    let offered = ConvWgmma.tactics(&problem, &symbols, &target());
    assert!(offered.iter().any(|t| (t.get("groups"), t.get("pong")) == (Ok(4), Ok(1))));
}

// Blocks of a cluster with tiles beside each other need no maps and no part of each other's barriers, unless they send.
#[test]
fn neighbours_read_all_that_they_need_where_they_do_not_send() {
    let symbols = sample_symbols();
    let tactic = |multicast: u32, maps: u32| {
        tactic(&format!(
            "m64 n32 groups1 stages3 deep1 blocks1 cluster1 share2 spread2 multicast{multicast} maps{maps} pong0 through0 early0"
        ))
    };
    let mut neighbours = 0;
    for problem in conv_samples::conv() {
        let Ok(build) = ConvWgmma.build(&problem, &tactic(0, 0), &symbols, &target()) else { continue };
        assert!(ConvWgmma.build(&problem, &tactic(1, 0), &symbols, &target()).is_err(), "{problem}");
        assert_eq!(build.launches[0].cluster, Some([4, 1, 1]));
        // A map brings a whole tile's rows to a block, or its part of them to two.
        let rows = |multicast| {
            let build = ConvWgmma.build(&problem, &tactic(multicast, 1), &symbols, &target()).ok()?;
            match &build.launches[0].args[0] {
                Arg::Map(map) => Some(format!("{:?}", map.piece)),
                _ => None,
            }
        };
        if let (Some(all), Some(part)) = (rows(0), rows(1)) {
            assert_ne!(all, part, "{problem}");
            neighbours += 1;
        }
    }
    assert!(neighbours > 2, "{neighbours}");
}

#[test]
fn registers_of_all_warpgroups_fit_the_multiprocessor() {
    let mut moved = 0;
    for problem in conv_samples::conv().iter().chain(&gemm_mma_samples::samples()) {
        let Ok(shape) = Shape::of(problem, &target()) else { continue };
        for tile in cost::candidates(&shape, false, &target()) {
            let (start, split) = tile.registers(&shape);
            assert!(start * tile.threads() * tile.blocks <= 65536, "{}", tile.tactic());
            if let Some((filling, multiplying)) = split {
                let pool = start * (tile.groups + 1);
                assert!(filling + multiplying * tile.groups <= pool && filling <= start, "{}", tile.tactic());
                moved += 1;
            }
        }
    }
    assert!(moved > 0);
}
