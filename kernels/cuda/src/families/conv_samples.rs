//! Convolutions that the tests of the `conv.*` and `conv_transpose.*` families compile and run.

use crate::codegen;
use crate::dim::Dim;
use bakelite_host::problem::{Access, Added, Conv, ConvTranspose, Epilogue, Layout, Math, Pooled};
use bakelite_host::{DType, Instr, Problem, Program, Pw};

// type layout [type of pixels that lie channels first all the same [with rows apart]], images channels filters groups, input, kernel, stride, dilation, pads (all first, then all last), epilogue[, channels that are added, stride of their pixels][, window, stride, pad before and behind of a max pool]
const CONV: &[&str] = &[
    // ResNet: 3x3, strided, 1x1 wide and narrow, strided 1x1, every epilogue, dynamic batch
    "f16 last | batch 64 64 1 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 1 128 64 1 | 15 13 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias",
    "bf16 last | batch 256 64 1 | 9 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
    "f16 last | 1 64 256 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    "f16 last | batch 64 128 1 | 11 11 | 1 1 | 2 2 | 1 1 | 0 0 0 0 | bias",
    "f16 last | 1 512 64 1 | 7 7 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_residual_relu",
    // channels that do not fill a step, filters that do not fill a tile or a vector, tails of pixels
    "f16 last | 1 24 72 1 | 13 9 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_silu",
    "f16 last | 2 40 36 1 | 9 10 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | silu",
    "bf16 last | 1 16 5 1 | 8 9 | 3 3 | 1 1 | 2 2 | 2 2 2 2 | bias",
    "f16 last | 1 8 10 1 | 6 5 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | plain",
    // asymmetric padding, dilation and stride together, one dimension, a large kernel, a f32 result
    "f16 last | batch 32 32 1 | 12 17 | 3 2 | 2 3 | 2 1 | 0 1 3 0 | bias_relu",
    "f16 last | batch 16 48 1 | 50 | 7 | 1 | 2 | 6 6 | bias_silu",
    "f16 last | 1 16 16 1 | 20 20 | 9 9 | 1 1 | 1 1 | 4 4 4 4 | plain",
    "f16 last | 1 32 64 1 | 6 6 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | to_f32",
    // several tiles of pixels and filters, an odd number of eights, taps that share a tile of k, rows of a sequence
    "f16 last | batch 128 320 1 | 20 20 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_residual_relu",
    "bf16 last | 2 72 200 1 | 17 19 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 3 24 40 1 | 14 14 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias",
    "f16 last | batch 768 96 1 | 197 | 1 | 1 | 1 | 0 0 | bias",
    // more tiles than multiprocessors: pixels and weights shared, warpgroups in turns
    "bf16 last | batch 200 1024 1 | 2900 | 1 | 1 | 1 | 0 0 | bias_gelu",
    "f16 last | batch 64 256 1 | 61 67 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_residual_relu",
    "f16 last | batch 128 256 1 | 40 44 | 3 2 | 2 3 | 2 1 | 0 1 3 0 | bias",
    // results through shared memory: columns past the last box, pixels past the last tile, several tiles to a warp
    "f16 last | batch 64 256 1 | 53 61 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    "bf16 last | 5 128 512 1 | 29 31 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    "f16 last | 3 16 96 1 | 75 77 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_silu",
    "bf16 last | batch 24 144 1 | 45 51 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_gelu",
    "f16 last | batch 40 200 1 | seq 41 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    // groups
    "f16 last | batch 64 64 4 | 10 10 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 1 32 64 8 | 9 9 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias",
    // first layers, and channels that no 16 bytes hold
    "f16 last | batch 3 64 1 | 33 31 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu",
    "f16 last | 1 3 32 1 | 32 32 | 3 3 | 2 2 | 1 1 | 0 0 1 1 | bias_silu",
    "bf16 last | 1 1 20 1 | 28 28 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias",
    "f16 last | 2 58 58 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
    "f16 last | 1 60 32 1 | 8 8 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias",
    // tensor cores over f32
    "tf32 last | batch 64 64 1 | 12 12 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_residual_relu",
    "tf32 last | 1 12 40 1 | 9 9 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias",
    "tf32 last | 1 3 32 1 | 17 17 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu",
    "tf32x3 last | batch 64 64 1 | 12 12 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_residual_relu",
    "tf32x3 last | 1 3 32 1 | 17 17 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu",
    // sizes that change with every call
    "f16 last | batch 32 48 1 | seq 20 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_relu",
    "f32 first | batch 4 6 1 | seq | 3 | 1 | 1 | 1 1 | bias",
    // exact arithmetic: both layouts, one to three dimensions, f64 and integers
    "f32 last | batch 64 64 1 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_residual_relu",
    "f32 first | batch 64 64 1 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_residual_relu",
    "f32 first | 1 3 64 1 | 33 31 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu",
    "f32 last | 1 3 20 1 | 17 19 | 3 3 | 2 2 | 1 1 | 0 0 1 1 | bias_silu",
    "f32 first | 2 32 50 1 | 9 9 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias",
    "f32 first | 1 12 18 3 | 9 11 | 3 3 | 2 1 | 1 2 | 1 2 0 2 | bias",
    "f32 first | 1 4 6 1 | 5 6 7 | 3 3 3 | 1 2 1 | 1 1 1 | 1 1 1 1 1 1 | bias_relu",
    "f32 last | 1 16 24 2 | 4 5 8 | 2 3 1 | 1 1 2 | 1 1 1 | 0 1 0 1 1 0 | bias",
    "f16 first | 1 20 36 1 | 10 12 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_silu",
    "f64 first | 1 5 7 1 | 30 | 4 | 3 | 2 | 1 2 | bias",
    "i32 first | 1 3 4 1 | 6 6 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | plain",
    "i8 last | 1 8 8 1 | 6 6 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | to_i32",
    // channels scaled on their way in: several images to a block, one, part of one; taps, groups, every type
    "f16 last | batch 96 24 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | scaled_bias_residual",
    "f16 last | 1 672 112 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | scaled_bias",
    "f16 last | 3 40 72 1 | 16 16 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | scaled_bias",
    "bf16 last | 2 24 40 1 | seq 6 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | scaled_bias_silu",
    "f16 last | 2 64 32 2 | 9 9 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | scaled_bias_relu",
    "tf32 last | 2 28 40 1 | 5 5 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | scaled_bias",
    "f32 first | 2 6 5 1 | 6 7 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | scaled_bias",
    // another convolution added: pointwise and strided pixels, k of no whole tiles, 3x3 before it, a residual besides, one
    // dimension, clusters; other types and layouts, groups
    "f16 last | batch 64 256 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 64 1",
    "f16 last | batch 128 512 1 | 9 11 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 256 2",
    "bf16 last | 5 40 200 1 | 13 9 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_silu | 24 1",
    "f16 last | 3 64 64 1 | 17 15 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu | 128 2",
    "bf16 last | 2 64 128 1 | 15 13 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_relu | 40 1",
    "f16 last | batch 192 96 1 | 53 61 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu | 72 1",
    "f16 last | 1 512 2048 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 1024 2",
    "f16 last | batch 128 36 1 | 50 | 1 | 1 | 1 | 0 0 | plain | 64 3",
    "f16 last | 2 64 64 1 | 20 21 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | to_f32 | 64 1",
    "f32 last | 1 12 18 3 | 9 11 | 3 3 | 2 1 | 1 2 | 1 2 0 2 | bias | 5 2",
    "f16 first | 2 6 10 1 | 7 8 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | scaled_bias | 7 2",
    // first layers that read a model's input where it lies: whole 16 bytes of it, parts, single elements, through a cast;
    // every stride and width of a window, one to four channels, filters of no whole sixteen, sizes that change
    "f16 last f16 | batch 3 64 1 | 32 40 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu",
    "f16 last f16 | batch 3 64 1 | 33 31 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_residual_relu",
    "f16 last f16 | 2 3 96 1 | 37 48 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last f32 | 1 3 32 1 | 32 36 | 3 3 | 2 2 | 1 1 | 0 0 1 1 | bias_silu",
    "bf16 last f32 | 2 1 20 1 | 28 28 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias",
    "f16 last f16 | 1 2 72 1 | 20 24 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias",
    "bf16 last bf16 | 2 4 10 1 | 17 22 | 4 4 | 4 4 | 1 1 | 0 0 0 0 | plain",
    "f16 last f16 apart | 2 4 16 1 | 19 24 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | to_f32",
    "f16 last f16 | 1 3 144 1 | 34 30 | 2 9 | 1 3 | 1 1 | 1 4 0 4 | bias_relu",
    "f16 last f16 | batch 2 40 1 | 200 | 9 | 3 | 1 | 4 4 | bias_gelu",
    "f16 last f16 | batch 3 48 1 | seq 20 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last f16 | 1 3 24 1 | 16 18 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias",
    "f16 last f16 | 1 3 24 1 | 16 18 | 3 3 | 2 2 | 2 2 | 1 1 1 1 | bias",
    "f16 last f32 apart | batch 6 24 1 | 9 10 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | scaled_bias",
    // the same with maxima over windows of their results: 3x3 by 2 and 2x2 by 2, padding and none, windows that hang over, 3x3 by 1,
    // one dimension, tails of filters, sizes that change
    "f16 last f16 | batch 3 64 1 | 60 72 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu | pooled 3 2 1 1",
    "f16 last f16 | 2 3 64 1 | 63 61 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_residual_relu | pooled 3 2 1 1",
    "bf16 last f32 | 1 3 96 1 | 41 46 | 3 3 | 2 2 | 1 1 | 0 0 0 0 | bias | pooled 3 2 0 1",
    "f16 last f16 | 2 1 40 1 | 28 28 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias_relu | pooled 2 2 0 0",
    "bf16 last bf16 | batch 3 32 1 | seq 36 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | plain | pooled 3 2 1 1",
    "f16 last | 1 4 32 1 | 19 24 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_silu | pooled 3 1 1 1",
    "f16 last f16 | batch 2 32 1 | 200 | 9 | 3 | 1 | 4 4 | bias_gelu | pooled 3 2 1 0",
    "f32 first bf16 | 1 3 5 1 | 6 7 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias",
    // one channel to a group
    "f16 last | batch 32 32 32 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 1 48 48 48 | 15 13 | 5 5 | 2 2 | 1 1 | 2 2 2 2 | bias_silu",
    "bf16 last | 1 20 20 20 | 9 9 | 3 3 | 2 2 | 1 1 | 0 0 1 1 | bias",
    "f32 last | batch 16 16 16 | 9 10 | 3 3 | 1 1 | 2 2 | 2 2 2 2 | bias_residual_relu",
    "f32 first | batch 16 16 16 | 14 12 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 first | 1 7 7 7 | 13 16 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias",
    "f32 last | batch 6 6 6 | seq | 5 | 1 | 1 | 4 0 | bias_silu",
    "f16 last | batch 48 48 48 | 14 14 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias_silu",
    "bf16 last | 2 24 24 24 | 11 10 | 3 3 | 2 1 | 1 2 | 1 2 2 1 | bias_relu",
    "f32 last | 1 8 8 8 | 12 13 | 11 11 | 1 1 | 1 1 | 5 5 5 5 | plain",
    "f64 last | 1 3 3 3 | 6 5 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | plain",
    "f32 first | 1 4 12 4 | 8 8 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias",
    // tiles of columns in shared memory: several of them, tails of channels, rows and columns, a residual, f32
    "f16 last | batch 144 144 144 | 28 30 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 2 84 84 84 | 37 35 | 5 5 | 2 2 | 1 1 | 2 1 2 2 | bias_residual_relu",
    "bf16 last | 2 40 40 40 | seq 19 | 3 5 | 1 1 | 2 1 | 2 2 0 1 | bias",
    "f32 last | 1 36 36 36 | 29 17 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_residual",
    "f16 last | 2 328 328 328 | 14 14 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | silu",
];

// Layers as models have them, for timing: ResNet-50, BERT and ViT (matrix products as convolutions by one element) in batches
// of 32, large products, then batches of one.
const LAYERS: &[&str] = &[
    "f16 last | 32 64 64 1 | 56 56 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 32 256 64 1 | 56 56 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
    "f16 last | 32 128 128 1 | 28 28 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 32 128 512 1 | 28 28 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    "f16 last | 32 256 256 1 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 32 1024 256 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
    "f16 last | 32 256 1024 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    "f16 last | 32 512 512 1 | 7 7 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 32 512 2048 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    "f16 last | 32 768 3072 1 | 128 | 1 | 1 | 1 | 0 0 | bias",
    "f16 last | 32 3072 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
    "f16 last | 32 768 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
    "f16 last | 32 768 2304 1 | 197 | 1 | 1 | 1 | 0 0 | bias",
    "f16 last | 32 768 3072 1 | 128 | 1 | 1 | 1 | 0 0 | bias_gelu",
    "f16 last | 1 4096 4096 1 | 4096 | 1 | 1 | 1 | 0 0 | plain",
    "bf16 last | 1 4096 4096 1 | 4096 | 1 | 1 | 1 | 0 0 | plain",
    "f16 last | 1 8192 8192 1 | 8192 | 1 | 1 | 1 | 0 0 | plain",
    "bf16 last | 1 8192 8192 1 | 8192 | 1 | 1 | 1 | 0 0 | plain",
    "f16 last | 1 64 64 1 | 56 56 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 1 256 256 1 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 1 512 512 1 | 7 7 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last | 1 1024 256 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_relu",
    "f16 last | 1 512 2048 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    "f16 last | 1 768 3072 1 | 128 | 1 | 1 | 1 | 0 0 | bias",
    "f16 last | 1 3072 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
    // EfficientNet-B0's depthwise layers, from 25 on.
    "f16 last | 1 32 32 32 | 112 112 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 1 96 96 96 | 112 112 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 1 144 144 144 | 56 56 | 5 5 | 2 2 | 1 1 | 2 2 2 2 | bias_silu",
    "f16 last | 1 240 240 240 | 28 28 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias_silu",
    "f16 last | 1 480 480 480 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 1 672 672 672 | 14 14 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias_silu",
    "f16 last | 1 1152 1152 1152 | 7 7 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias_silu",
    "f16 last | 32 32 32 32 | 112 112 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 32 144 144 144 | 56 56 | 5 5 | 2 2 | 1 1 | 2 2 2 2 | bias_silu",
    "f16 last | 32 672 672 672 | 14 14 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias_silu",
    // Layers that memory bounds, from 35 on: ResNet-50's widest with their residuals, EfficientNet-B0's.
    "f16 last | 32 64 256 1 | 56 56 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_residual_relu",
    "f16 last | 32 16 96 1 | 112 112 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_silu",
    "f16 last | 32 24 144 1 | 56 56 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_silu",
    // First layers, from 38 on: ResNet-50, MobileNetV2, a small YOLO.
    "f16 last f16 | 32 3 64 1 | 224 224 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu",
    "f16 last f16 | 1 3 64 1 | 224 224 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu",
    "f16 last f16 | 32 3 32 1 | 224 224 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last f16 | 1 3 32 1 | 224 224 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_relu",
    "f16 last f16 | 1 3 16 1 | 640 640 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_silu",
    // Depthwise ones of EfficientNet-B0, from 43 on.
    "f16 last | 32 96 96 96 | 112 112 | 3 3 | 2 2 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 32 144 144 144 | 56 56 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 32 240 240 240 | 28 28 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias_silu",
    "f16 last | 32 480 480 480 | 14 14 | 3 3 | 1 1 | 1 1 | 1 1 1 1 | bias_silu",
    "f16 last | 32 1152 1152 1152 | 7 7 | 5 5 | 1 1 | 1 1 | 2 2 2 2 | bias_silu",
    // A first block's end in ResNet-50, from 48 on: batches of 32, of one.
    "f16 last | 32 64 256 1 | 56 56 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 64 1",
    "f16 last | 32 128 512 1 | 28 28 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 256 2",
    "f16 last | 32 256 1024 1 | 14 14 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 512 2",
    "f16 last | 32 512 2048 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 1024 2",
    "f16 last | 1 64 256 1 | 56 56 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 64 1",
    "f16 last | 1 512 2048 1 | 7 7 | 1 1 | 1 1 | 1 1 | 0 0 0 0 | bias_bias_relu | 1024 2",
    // First layers with their max pools, from 54 on: ResNet-50 in batches of 32 and of one, GoogLeNet.
    "f16 last f16 | 32 3 64 1 | 224 224 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu | pooled 3 2 1 1",
    "f16 last f16 | 1 3 64 1 | 224 224 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu | pooled 3 2 1 1",
    "f16 last f16 | 32 3 64 1 | 224 224 | 7 7 | 2 2 | 1 1 | 3 3 3 3 | bias_relu | pooled 3 2 0 1",
    // Products of encoders' batches of one, from 57 on: BERT, ViT.
    "f16 last | 1 768 768 1 | 128 | 1 | 1 | 1 | 0 0 | bias_residual",
    "f16 last | 1 768 2304 1 | 128 | 1 | 1 | 1 | 0 0 | bias",
    "f16 last | 1 768 3072 1 | 128 | 1 | 1 | 1 | 0 0 | bias_gelu",
    "f16 last | 1 768 768 1 | 197 | 1 | 1 | 1 | 0 0 | bias_residual",
    "f16 last | 1 768 2304 1 | 197 | 1 | 1 | 1 | 0 0 | bias",
    "f16 last | 1 768 3072 1 | 197 | 1 | 1 | 1 | 0 0 | bias_gelu",
    "f16 last | 1 3072 768 1 | 197 | 1 | 1 | 1 | 0 0 | bias_residual",
];

const TRANSPOSE: &[&str] = &[
    "f16 last | batch 32 16 1 | 7 7 | 2 2 | 2 2 | 1 1 | 0 0 0 0 | bias_relu",
    "f16 last | 1 24 20 1 | 6 5 | 4 4 | 2 2 | 1 1 | 1 1 1 1 | bias",
    "f32 first | batch 16 24 1 | 7 9 | 3 3 | 2 2 | 1 1 | 1 1 0 0 | bias_residual_relu",
    "f32 first | 1 12 6 3 | 5 6 | 3 3 | 1 2 | 2 1 | 0 1 1 0 | bias",
    "f32 last | 1 8 5 1 | 6 6 | 3 3 | 3 3 | 2 2 | 1 0 2 3 | silu",
    "f32 last | batch 16 16 16 | 6 7 | 4 4 | 2 2 | 1 1 | 1 1 1 1 | plain",
    "bf16 first | 1 8 12 1 | seq | 5 | 3 | 1 | 1 1 | bias_silu",
    "f32 first | 1 4 4 1 | 3 4 5 | 3 2 3 | 2 2 1 | 1 1 1 | 1 0 1 1 0 1 | bias",
    "f64 first | 1 3 2 1 | 6 6 | 3 3 | 2 2 | 2 2 | 1 1 1 1 | bias",
];

/// Convolutions.
pub fn conv() -> Vec<Problem<Dim>> {
    CONV.iter().map(|text| Sample::of(text).conv()).collect()
}

/// Layers of well-known models, which take too long for a routine run.
pub fn layers() -> Vec<Problem<Dim>> {
    LAYERS.iter().map(|text| Sample::of(text).conv()).collect()
}

/// The convolution that a line like those above says.
#[cfg(test)]
pub(super) fn parse(text: &str) -> Problem<Dim> {
    Sample::of(text).conv()
}

/// Asserts that a family's estimates rank tactics on the H200 as measured times do, wherever these are 12 % apart. For each sample,
/// times in µs and tactics without the family's name and what `all` have in common, the fastest first.
#[cfg(test)]
pub(super) fn assert_ranked(family: &dyn crate::Family, measured: &[(&str, &[(f64, &str)])], all: &str) {
    let symbols = super::sample_symbols();
    let target = crate::Target::of("sm_90a".parse().unwrap());
    for (text, times) in measured {
        let problem = parse(text);
        let cost = |tactic: &str| {
            let tactic = format!("{}/{} {tactic}{all}", family.name(), family.version());
            family.cost(&problem, &tactic.parse().unwrap(), &symbols, &target)
        };
        for (i, (fast, one)) in times.iter().enumerate() {
            for (slow, other) in times[i + 1..].iter().filter(|t| t.0 > fast * 1.12) {
                let (least, most) = (cost(one), cost(other));
                assert!(
                    least < most,
                    "{text}: {one}: {fast} µs, {least:.2} estimated; {other}: {slow} µs, {most:.2}"
                );
            }
        }
    }
}

/// Transposed convolutions; their pads crop the result.
pub fn transpose() -> Vec<Problem<Dim>> {
    TRANSPOSE.iter().map(|text| Sample::of(text).transpose()).collect()
}

struct Sample {
    dtype: DType,
    math: Math,
    layout: Layout,
    /// The type of pixels that lie channels first whatever the layout, and whether with rows apart.
    pixels: Option<(DType, bool)>,
    n: Dim,
    channels: usize,
    filters: usize,
    groups: usize,
    input: Vec<Dim>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
    epilogue: String,
    /// Channels and stride of what is added.
    added: Option<(usize, usize)>,
    /// Window, stride, pad before and behind of a max pool, in every dimension.
    pooled: Option<[usize; 4]>,
}

impl Sample {
    fn of(text: &str) -> Sample {
        let words: Vec<Vec<&str>> = text.split('|').map(|part| part.split_whitespace().collect()).collect();
        let size = |word: &str| -> Dim { word.parse().unwrap_or_else(|e| panic!("{text}: {e}")) };
        let number = |word: &&str| -> usize { word.parse().unwrap_or_else(|e| panic!("{text}: {e}")) };
        let numbers = |part: usize| words[part].iter().map(number).collect();
        let (dtype, math) = match words[0][0] {
            "tf32" => ("f32", Math::Tf32),
            "tf32x3" => ("f32", Math::Tf32x3),
            dtype => (dtype, Math::Exact),
        };
        Sample {
            dtype: dtype.parse().unwrap_or_else(|e| panic!("{text}: {e}")),
            math,
            layout: if words[0][1] == "last" { Layout::ChannelsLast } else { Layout::ChannelsFirst },
            pixels: words[0].get(2).map(|d| {
                (d.parse().unwrap_or_else(|e| panic!("{text}: {e}")), words[0].get(3) == Some(&"apart"))
            }),
            n: size(words[1][0]),
            channels: number(&words[1][1]),
            filters: number(&words[1][2]),
            groups: number(&words[1][3]),
            input: words[2].iter().map(|w| size(w)).collect(),
            kernel: numbers(3),
            strides: numbers(4),
            dilations: numbers(5),
            pads: numbers(6),
            epilogue: words[7][0].to_owned(),
            added: words.get(8).filter(|w| w[0] != "pooled").map(|w| (number(&w[0]), number(&w[1]))),
            pooled: words
                .get(8)
                .filter(|w| w[0] == "pooled")
                .map(|w| std::array::from_fn(|i| number(&w[i + 1]))),
        }
    }

    fn conv(&self) -> Problem<Dim> {
        let output: Vec<Dim> = (0..self.kernel.len())
            .map(|d| {
                let reach = self.dilations[d] * (self.kernel[d] - 1) + 1;
                let padded = &self.input[d] + &Dim::from(self.pads[d] + self.pads[d + self.kernel.len()]);
                (padded - Dim::from(reach)).floor_div(&Dim::from(self.strides[d])) + Dim::from(1)
            })
            .collect();
        Problem::from(Conv {
            n: self.n.clone(),
            channels: self.channels,
            filters: self.filters,
            groups: self.groups,
            input: self.input.clone(),
            epilogue: self.epilogue(&output),
            added: self.added(&output),
            pooled: self.pooled(&output),
            output,
            kernel: self.kernel.clone(),
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads[..self.kernel.len()].to_vec(),
            layout: self.layout,
            x: self.pixels.map(|(dtype, apart)| (dtype, self.x(apart))),
            scaled: self.epilogue.contains("scaled"),
            expand: None,
            dtype: self.dtype,
            math: self.math,
        })
    }

    fn pooled(&self, output: &[Dim]) -> Option<Pooled<Dim>> {
        let [kernel, stride, pad, behind] = self.pooled?;
        let all = |of: usize| vec![of; output.len()];
        let positions = output.iter().map(|o| {
            (o + &Dim::from(pad + behind) - Dim::from(kernel)).floor_div(&Dim::from(stride)) + Dim::from(1)
        });
        Some(Pooled {
            output: positions.collect(),
            kernel: all(kernel),
            strides: all(stride),
            pads: all(pad),
        })
    }

    // Of as many pixels as the strides need.
    fn added(&self, output: &[Dim]) -> Option<Added<Dim>> {
        let (channels, stride) = self.added?;
        let input = output.iter().map(|o| (o - &Dim::from(1)) * Dim::from(stride) + Dim::from(1));
        Some(Added { channels, input: input.collect(), strides: vec![stride; output.len()] })
    }

    // Of channels first: dense, or with three elements behind each row and five in front.
    fn x(&self, apart: bool) -> Access<Dim> {
        let mut memory: Vec<Dim> = [self.n.clone(), Dim::from(self.channels)].into();
        memory.extend(self.input.iter().cloned());
        if let (true, Some(row)) = (apart, memory.last_mut()) {
            *row = &*row + Dim::from(3);
        }
        let mut strides = codegen::dense(&memory);
        if self.layout == Layout::ChannelsLast {
            let channel = strides.remove(1);
            strides.push(channel);
        }
        Access { offset: Dim::from(if apart { 5 } else { 0 }), strides }
    }

    fn transpose(&self) -> Problem<Dim> {
        let output: Vec<Dim> = (0..self.kernel.len())
            .map(|d| {
                let reach = self.dilations[d] * (self.kernel[d] - 1) + 1;
                let full = (&self.input[d] - &Dim::from(1)) * Dim::from(self.strides[d]) + Dim::from(reach);
                full - Dim::from(self.pads[d] + self.pads[d + self.kernel.len()])
            })
            .collect();
        Problem::from(ConvTranspose {
            n: self.n.clone(),
            channels: self.channels,
            filters: self.filters,
            groups: self.groups,
            input: self.input.clone(),
            epilogue: self.epilogue(&output),
            output,
            kernel: self.kernel.clone(),
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads[..self.kernel.len()].to_vec(),
            layout: self.layout,
            dtype: self.dtype,
        })
    }

    // What the name's words say, in order.
    fn epilogue(&self, output: &[Dim]) -> Epilogue<Dim> {
        let filters = [Dim::from(self.filters)];
        let first = self.layout == Layout::ChannelsFirst;
        let n = [self.n.clone()];
        let shape: Vec<Dim> = if first {
            n.iter().chain(&filters).chain(output).cloned().collect()
        } else {
            n.iter().chain(output).chain(&filters).cloned().collect()
        };
        let channel = if first { 1 } else { shape.len() - 1 };
        let mut program = Program { inputs: vec![self.dtype.class().dtype()], ..Program::default() };
        let mut operands = Vec::new();
        let (mut value, mut out) = (0, self.dtype);
        for word in self.epilogue.split('_') {
            match word {
                "bias" | "residual" => {
                    let strides = if word == "bias" {
                        (0..shape.len()).map(|d| Dim::from(usize::from(d == channel))).collect()
                    } else {
                        codegen::dense(&shape)
                    };
                    operands.push(Access { offset: Dim::from(0), strides });
                    let operand = program.add_input(self.dtype);
                    value += u16::from(value > 0);
                    value = program.push(Instr::Apply(Pw::Add, vec![value, operand]));
                }
                "gelu" => value = program.push(Instr::Apply(Pw::Gelu, vec![value])),
                "relu" => value = program.push(Instr::Apply(Pw::Relu, vec![value])),
                "silu" => {
                    let gate = program.push(Instr::Apply(Pw::Sigmoid, vec![value]));
                    value = program.push(Instr::Apply(Pw::Mul, vec![value, gate]));
                }
                "f32" => out = DType::F32,
                "i32" => out = DType::I32,
                _ => {}
            }
        }
        program.outputs = vec![(value, out)];
        Epilogue::new(program, operands)
    }
}
