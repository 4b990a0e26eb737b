//! Estimates of `conv.wgmma` beside measured times.

use super::*;
use crate::families::conv_samples;

// Measured on an H200 (2026-11-20, fp16, repeated in a graph), best first: µs and tactic, all of them not early and with one tile
// of k a stage. Estimates must keep their order where the times are 12 % apart.
const MEASURED: &[(&str, &[(f64, &str)])] = &[
    (
        "f16 last | 32 64 64 1 | 56 56 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
        &[
            (
                16.96,
                "m256 n64 groups2 stages5 blocks1 cluster1 share1 spread1 multicast0 maps0 pong0 through0",
            ),
            (
                19.72,
                "m256 n64 groups2 stages4 blocks1 cluster1 share2 spread1 multicast1 maps1 pong0 through1",
            ),
            (
                23.57,
                "m128 n64 groups2 stages4 blocks1 cluster1 share1 spread1 multicast0 maps0 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 32 128 128 1 | 28 28 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
        &[
            (
                11.60,
                "m192 n128 groups3 stages5 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                13.31,
                "m192 n128 groups3 stages5 blocks1 cluster1 share2 spread1 multicast1 maps0 pong0 through0",
            ),
            (
                15.01,
                "m256 n128 groups2 stages4 blocks1 cluster1 share4 spread1 multicast1 maps1 pong0 through0",
            ),
            (
                16.88,
                "m128 n128 groups1 stages7 blocks1 cluster1 share4 spread1 multicast1 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 32 256 256 1 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
        &[
            (
                12.76,
                "m192 n64 groups3 stages7 blocks1 cluster1 share1 spread2 multicast1 maps1 pong0 through0",
            ),
            (
                14.41,
                "m64 n256 groups2 stages5 blocks1 cluster1 share4 spread1 multicast1 maps1 pong1 through0",
            ),
        ],
    ),
    (
        "f16 last | 32 1024 256 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
        &[
            (
                6.74,
                "m192 n64 groups3 stages7 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                7.96,
                "m64 n256 groups2 stages5 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through0",
            ),
        ],
    ),
    (
        "f16 last | 32 256 1024 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
        &[
            (
                9.03,
                "m192 n64 groups3 stages4 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                10.61,
                "m128 n128 groups2 stages6 blocks1 cluster1 share1 spread2 multicast1 maps1 pong0 through1",
            ),
        ],
    ),
    (
        "f16 last | 32 512 2048 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
        &[
            (
                9.19,
                "m128 n256 groups2 stages3 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                10.32,
                "m128 n128 groups2 stages5 blocks1 cluster1 share2 spread2 multicast1 maps1 pong0 through2",
            ),
            (
                12.14,
                "m256 n128 groups2 stages3 blocks1 cluster1 share2 spread1 multicast1 maps1 pong0 through1",
            ),
        ],
    ),
    (
        "f16 last | 32 3072 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
        &[
            (
                28.64,
                "m128 n192 groups2 stages4 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through1",
            ),
            (
                32.51,
                "m128 n96 groups2 stages8 blocks1 cluster1 share1 spread2 multicast1 maps1 pong1 through0",
            ),
            (
                37.92,
                "m256 n128 groups2 stages3 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through1",
            ),
        ],
    ),
    (
        "f16 last | 32 768 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
        &[
            (
                8.97,
                "m128 n96 groups2 stages8 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                12.37,
                "m256 n128 groups2 stages3 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through1",
            ),
        ],
    ),
    (
        "f16 last | 32 768 2304 1 | 197 | 1 | 1 | 1 | 0 0 | bias",
        &[
            (
                35.18,
                "m128 n128 groups2 stages5 blocks1 cluster1 share2 spread1 multicast1 maps1 pong1 through1",
            ),
            (
                39.72,
                "m192 n128 groups3 stages3 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 64 64 1 | 56 56 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
        &[
            (2.31, "m64 n64 groups2 stages8 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through0"),
            (
                2.67,
                "m128 n32 groups1 stages8 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                3.42,
                "m128 n64 groups2 stages3 blocks1 cluster3 share1 spread1 multicast0 maps0 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 256 256 1 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
        &[
            (3.09, "m64 n96 groups1 stages4 blocks1 cluster8 share1 spread1 multicast0 maps0 pong0 through0"),
            (
                3.47,
                "m64 n128 groups1 stages5 blocks1 cluster8 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                3.89,
                "m128 n64 groups1 stages5 blocks1 cluster8 share1 spread1 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 512 512 1 | 7 7 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
        &[
            (3.36, "m64 n64 groups1 stages4 blocks1 cluster8 share1 spread1 multicast0 maps0 pong0 through0"),
            (
                3.99,
                "m64 n128 groups1 stages8 blocks1 cluster8 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (4.71, "m64 n32 groups1 stages8 blocks1 cluster4 share1 spread1 multicast0 maps1 pong0 through0"),
            (
                5.30,
                "m128 n64 groups1 stages8 blocks1 cluster8 share1 spread1 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 1024 256 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
        &[
            (2.42, "m64 n64 groups1 stages4 blocks2 cluster4 share1 spread1 multicast0 maps1 pong0 through0"),
            (
                3.03,
                "m128 n32 groups1 stages4 blocks1 cluster4 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (3.46, "m64 n64 groups2 stages7 blocks2 cluster1 share1 spread1 multicast0 maps1 pong1 through0"),
            (
                3.94,
                "m128 n96 groups2 stages2 blocks1 cluster8 share1 spread1 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 512 2048 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
        &[
            (2.04, "m64 n32 groups1 stages8 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0"),
            (2.35, "m64 n64 groups1 stages4 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0"),
            (
                2.82,
                "m128 n64 groups2 stages8 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                3.21,
                "m128 n64 groups2 stages8 blocks1 cluster1 share1 spread2 multicast1 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 768 3072 1 | 128 | 1 | 1 | 1 | 0 0 | bias",
        &[
            (
                3.05,
                "m128 n32 groups2 stages8 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (3.51, "m64 n32 groups1 stages6 blocks3 cluster1 share1 spread1 multicast0 maps1 pong0 through0"),
            (
                4.82,
                "m128 n96 groups2 stages4 blocks1 cluster3 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                5.40,
                "m64 n128 groups1 stages3 blocks2 cluster3 share2 spread1 multicast1 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 3072 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
        &[
            (
                3.93,
                "m128 n32 groups1 stages8 blocks1 cluster4 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (4.54, "m64 n32 groups1 stages8 blocks2 cluster4 share1 spread1 multicast0 maps1 pong0 through0"),
            (
                5.67,
                "m128 n128 groups2 stages3 blocks1 cluster8 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                7.84,
                "m192 n32 groups3 stages7 blocks1 cluster4 share1 spread1 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 32 24 144 1 | 56 56 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_silu",
        &[
            (
                14.85,
                "m192 n160 groups3 stages3 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through1",
            ),
            (
                16.71,
                "m64 n160 groups1 stages3 blocks2 cluster1 share1 spread1 multicast0 maps1 pong0 through1",
            ),
            (
                19.65,
                "m64 n160 groups1 stages2 blocks2 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                22.96,
                "m128 n64 groups1 stages4 blocks2 cluster1 share1 spread1 multicast0 maps1 pong0 through1",
            ),
        ],
    ),
    // A large product (2026-11-30): where the tiles lie in a cluster makes no difference to it.
    (
        "f16 last | 32 768 2304 1 | 197 | 1 | 1 | 1 | 0 0 | bias",
        &[
            (
                32.76,
                "m128 n128 groups2 stages5 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through1",
            ),
            (
                38.20,
                "m128 n192 groups2 stages5 blocks1 cluster1 share1 spread2 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
];

// Likewise (2026-11-21), all of them early.
const DEEP: &[(&str, &[(f64, &str)])] = &[
    (
        "f16 last | 1 768 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
        &[
            (
                2.05,
                "m64 n32 groups1 stages4 deep3 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                2.28,
                "m64 n32 groups1 stages4 deep2 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                2.56,
                "m64 n32 groups1 stages8 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                2.79,
                "m64 n32 groups1 stages2 deep3 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 768 2304 1 | 128 | 1 | 1 | 1 | 0 0 | bias",
        &[
            (
                2.68,
                "m64 n64 groups1 stages6 deep2 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                3.01,
                "m64 n64 groups1 stages8 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                3.36,
                "m64 n64 groups1 stages2 deep4 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 64 64 1 | 56 56 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
        &[
            (
                2.08,
                "m64 n32 groups1 stages3 deep3 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                2.35,
                "m64 n32 groups1 stages8 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
];

// Likewise (2026-11-29), all of them early, with tiles of blocks beside each other.
const NEAR: &[(&str, &[(f64, &str)])] = &[
    (
        "f16 last | 32 256 256 1 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
        &[
            (
                11.24,
                "m192 n64 groups3 stages7 deep1 blocks1 cluster1 share1 spread2 multicast0 maps1 pong0 through0",
            ),
            (
                13.01,
                "m192 n64 groups3 stages7 deep1 blocks1 cluster1 share1 spread2 multicast1 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 3072 768 1 | 197 | 1 | 1 | 1 | 0 0 | bias_residual",
        &[
            (
                5.46,
                "m64 n128 groups1 stages8 deep1 blocks1 cluster4 share2 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                6.14,
                "m128 n64 groups2 stages8 deep1 blocks1 cluster4 share2 spread1 multicast0 maps1 pong0 through0",
            ),
            (
                7.25,
                "m64 n32 groups1 stages4 deep4 blocks1 cluster1 share2 spread2 multicast0 maps1 pong0 through0",
            ),
            (
                10.07,
                "m128 n32 groups2 stages3 deep3 blocks1 cluster1 share2 spread2 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
    (
        "f16 last | 1 768 3072 1 | 197 | 1 | 1 | 1 | 0 0 | bias_gelu",
        &[
            (
                4.20,
                "m128 n64 groups2 stages8 deep1 blocks1 cluster1 share2 spread2 multicast0 maps1 pong0 through0",
            ),
            (
                6.49,
                "m256 n32 groups2 stages6 deep1 blocks1 cluster1 share1 spread2 multicast0 maps1 pong0 through0",
            ),
        ],
    ),
];

// Likewise (2026-11-30), large products with many sums a thread: stores from registers take L2's time, and 256 x 192 leaves room for
// two stages.
const LONG: &[(&str, &[(f64, &str)])] = &[
    (
        "f16 last | 32 768 3072 1 | 128 | 1 | 1 | 1 | 0 0 | bias_gelu",
        &[
            (
                30.09,
                "m128 n192 groups2 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through1",
            ),
            (
                33.99,
                "m128 n192 groups2 stages5 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through0",
            ),
        ],
    ),
    (
        "f16 last | 32 768 3072 1 | 128 | 1 | 1 | 1 | 0 0 | bias",
        &[
            (
                27.34,
                "m128 n192 groups2 stages3 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong1 through1",
            ),
            (
                36.01,
                "m256 n192 groups2 stages2 deep1 blocks1 cluster1 share1 spread1 multicast0 maps1 pong0 through1",
            ),
        ],
    ),
];

#[test]
fn estimates_rank_as_measured() {
    conv_samples::assert_ranked(&ConvWgmma, MEASURED, " deep1 early0");
    conv_samples::assert_ranked(&ConvWgmma, DEEP, " early1");
    conv_samples::assert_ranked(&ConvWgmma, NEAR, " early1");
    conv_samples::assert_ranked(&ConvWgmma, LONG, " early0");
}
