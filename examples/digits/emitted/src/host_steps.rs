//! The steps of the model on a CPU, in order.
#![allow(clippy::approx_constant)]

use crate::{Result, Sizes};
use bakelite_host::Arena;
use bakelite_host::RunError;
use bakelite_host::pointwise as pw;
use bakelite_host::problem::{Conv, Epilogue, Gemm, Layout, Math, Pool, PoolKind};
use bakelite_host::{DType, at, constant, conv, gemm, map_in_place, pool, read, split};
use bakelite_runtime::Error;

/// Every step in order.
pub(crate) fn run(weights: &[u8], arena: &mut Arena, sizes: &Sizes) -> Result<()> {
    named("a_a_0_conv", a_a_0_conv(weights, arena, sizes))?;
    named("b1_b1_0_conv", b1_b1_0_conv(weights, arena, sizes))?;
    named("b2_b2_0_conv", b2_b2_0_conv(weights, arena, sizes))?;
    named("max_pool", max_pool(weights, arena, sizes))?;
    named("dw_dw_0_conv", dw_dw_0_conv(weights, arena, sizes))?;
    named("pw_pw_0_conv", pw_pw_0_conv(weights, arena, sizes))?;
    named("average_pool", average_pool(weights, arena, sizes))?;
    named("fc1_gemm", fc1_gemm(weights, arena, sizes))?;
    named("fc2_gemm", fc2_gemm(weights, arena, sizes))?;
    Ok(())
}

fn named(step: &str, outcome: Result<(), RunError>) -> Result<()> {
    outcome.map_err(|error| Error::Step {
        step: step.to_owned(),
        what: error.to_string(),
    })
}

// /a/a.0/Conv (Conv) +2: conv n=batch input=[8,8] output=[8,8] kernel=[3,3] strides=[1,1]
// dilations=[1,1] pads=[1,1] channels=1 filters=32 groups=1 layout=channels_first dtype=f32
// math=exact then (f32, f32) { %2 = add %0 %1; %3 = relu %2 } -> %3:f32 [0,1,0,0]
fn a_a_0_conv(weights: &[u8], arena: &mut Arena, sizes: &Sizes) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let w0 = constant(weights, at::<f32>(0, 288))?;
    let w1 = constant(weights, at::<f32>(1280, 32))?;
    let (b0, b1) = split(
        arena,
        (
            at::<f32>(1572864, (64 * batch) as usize),
            at::<f32>(0, (2048 * batch) as usize),
        ),
    )?;
    let p = Conv {
        n: batch as usize,
        channels: 1,
        filters: 32,
        groups: 1,
        input: vec![8, 8],
        output: vec![8, 8],
        kernel: vec![3, 3],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![1, 1],
        layout: Layout::ChannelsFirst,
        x: None,
        scaled: false,
        added: None,
        expand: None,
        pooled: None,
        dtype: DType::F32,
        math: Math::Exact,
        epilogue: Epilogue::apart(),
    };
    conv::conv::<f32>(&p, b0, w0, b1);
    map_in_place(
        &[batch as usize, 32, 8, 8],
        b1,
        (read(w1, 0, &[0, 1, 0, 0]),),
        |x0, (x1,)| {
            let t2 = pw::f32::add(x0, x1);
            pw::f32::relu(t2)
        },
    )?;
    Ok(())
}

// /b1/b1.0/Conv (Conv) +2: conv n=batch input=[8,8] output=[8,8] kernel=[3,3] strides=[1,1]
// dilations=[1,1] pads=[1,1] channels=32 filters=32 groups=1 layout=channels_first dtype=f32
// math=exact then (f32, f32) { %2 = add %0 %1; %3 = relu %2 } -> %3:f32 [0,1,0,0]
fn b1_b1_0_conv(
    weights: &[u8],
    arena: &mut Arena,
    sizes: &Sizes,
) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let w2 = constant(weights, at::<f32>(1536, 9216))?;
    let w3 = constant(weights, at::<f32>(38400, 32))?;
    let (b1, b2) = split(
        arena,
        (
            at::<f32>(0, (2048 * batch) as usize),
            at::<f32>(524288, (2048 * batch) as usize),
        ),
    )?;
    let p = Conv {
        n: batch as usize,
        channels: 32,
        filters: 32,
        groups: 1,
        input: vec![8, 8],
        output: vec![8, 8],
        kernel: vec![3, 3],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![1, 1],
        layout: Layout::ChannelsFirst,
        x: None,
        scaled: false,
        added: None,
        expand: None,
        pooled: None,
        dtype: DType::F32,
        math: Math::Exact,
        epilogue: Epilogue::apart(),
    };
    conv::conv::<f32>(&p, b1, w2, b2);
    map_in_place(
        &[batch as usize, 32, 8, 8],
        b2,
        (read(w3, 0, &[0, 1, 0, 0]),),
        |x0, (x1,)| {
            let t2 = pw::f32::add(x0, x1);
            pw::f32::relu(t2)
        },
    )?;
    Ok(())
}

// /b2/b2.0/Conv (Conv) +3: conv n=batch input=[8,8] output=[8,8] kernel=[3,3] strides=[1,1]
// dilations=[1,1] pads=[1,1] channels=32 filters=32 groups=1 layout=channels_first dtype=f32
// math=exact then (f32, f32, f32) { %3 = add %0 %2; %4 = add %1 %3; %5 = relu %4 } -> %5:f32
// [2048,64,8,1] [0,1,0,0]
fn b2_b2_0_conv(
    weights: &[u8],
    arena: &mut Arena,
    sizes: &Sizes,
) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let w4 = constant(weights, at::<f32>(38656, 9216))?;
    let w5 = constant(weights, at::<f32>(75520, 32))?;
    let (b1, b2, b3) = split(
        arena,
        (
            at::<f32>(0, (2048 * batch) as usize),
            at::<f32>(524288, (2048 * batch) as usize),
            at::<f32>(1048576, (2048 * batch) as usize),
        ),
    )?;
    let p = Conv {
        n: batch as usize,
        channels: 32,
        filters: 32,
        groups: 1,
        input: vec![8, 8],
        output: vec![8, 8],
        kernel: vec![3, 3],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![1, 1],
        layout: Layout::ChannelsFirst,
        x: None,
        scaled: false,
        added: None,
        expand: None,
        pooled: None,
        dtype: DType::F32,
        math: Math::Exact,
        epilogue: Epilogue::apart(),
    };
    conv::conv::<f32>(&p, b2, w4, b3);
    map_in_place(
        &[batch as usize, 32, 8, 8],
        b3,
        (read(b1, 0, &[2048, 64, 8, 1]), read(w5, 0, &[0, 1, 0, 0])),
        |x0, (x1, x2)| {
            let t3 = pw::f32::add(x0, x2);
            let t4 = pw::f32::add(x1, t3);
            pw::f32::relu(t4)
        },
    )?;
    Ok(())
}

// /MaxPool (MaxPool): pool n=batch channels=32 input=[8,8] output=[4,4] kernel=[2,2] strides=[2,2]
// dilations=[1,1] pads=[0,0] pads_end=[0,0] kind=max layout=channels_first dtype=f32 then (f32) { }
// -> %0:f32
fn max_pool(_: &[u8], arena: &mut Arena, sizes: &Sizes) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let (b3, b4) = split(
        arena,
        (
            at::<f32>(1048576, (2048 * batch) as usize),
            at::<f32>(0, (512 * batch) as usize),
        ),
    )?;
    let p = Pool {
        kind: PoolKind::Max,
        n: batch as usize,
        channels: 32,
        input: vec![8, 8],
        output: vec![4, 4],
        kernel: vec![2, 2],
        strides: vec![2, 2],
        dilations: vec![1, 1],
        pads: vec![0, 0],
        pads_end: vec![0, 0],
        layout: Layout::ChannelsFirst,
        dtype: DType::F32,
        epilogue: Epilogue::apart(),
    };
    pool::pool::<f32>(&p, b3, b4);
    Ok(())
}

// /dw/dw.0/Conv (Conv) +3: conv n=batch input=[4,4] output=[4,4] kernel=[3,3] strides=[1,1]
// dilations=[1,1] pads=[1,1] channels=32 filters=32 groups=32 layout=channels_first dtype=f32
// math=exact then (f32, f32) { %2 = add %0 %1; %3 = relu %2; %4 = 6.0f32; %5 = min %3 %4 } ->
// %5:f32 [0,1,0,0]
fn dw_dw_0_conv(
    weights: &[u8],
    arena: &mut Arena,
    sizes: &Sizes,
) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let w6 = constant(weights, at::<f32>(75776, 288))?;
    let w7 = constant(weights, at::<f32>(77056, 32))?;
    let (b4, b5) = split(
        arena,
        (at::<f32>(0, (512 * batch) as usize), at::<f32>(262144, (512 * batch) as usize)),
    )?;
    let p = Conv {
        n: batch as usize,
        channels: 32,
        filters: 32,
        groups: 32,
        input: vec![4, 4],
        output: vec![4, 4],
        kernel: vec![3, 3],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![1, 1],
        layout: Layout::ChannelsFirst,
        x: None,
        scaled: false,
        added: None,
        expand: None,
        pooled: None,
        dtype: DType::F32,
        math: Math::Exact,
        epilogue: Epilogue::apart(),
    };
    conv::conv::<f32>(&p, b4, w6, b5);
    map_in_place(
        &[batch as usize, 32, 4, 4],
        b5,
        (read(w7, 0, &[0, 1, 0, 0]),),
        |x0, (x1,)| {
            let t2 = pw::f32::add(x0, x1);
            let t3 = pw::f32::relu(t2);
            pw::f32::min(t3, 6.0f32)
        },
    )?;
    Ok(())
}

// /pw/pw.0/Conv (Conv) +2: conv n=batch input=[4,4] output=[4,4] kernel=[1,1] strides=[1,1]
// dilations=[1,1] pads=[0,0] channels=32 filters=64 groups=1 layout=channels_first dtype=f32
// math=exact then (f32, f32) { %2 = add %0 %1; %3 = hard_swish %2 } -> %3:f32 [0,1,0,0]
fn pw_pw_0_conv(
    weights: &[u8],
    arena: &mut Arena,
    sizes: &Sizes,
) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let w8 = constant(weights, at::<f32>(77312, 2048))?;
    let w9 = constant(weights, at::<f32>(85504, 64))?;
    let (b5, b6) = split(
        arena,
        (
            at::<f32>(262144, (512 * batch) as usize),
            at::<f32>(0, (1024 * batch) as usize),
        ),
    )?;
    let p = Conv {
        n: batch as usize,
        channels: 32,
        filters: 64,
        groups: 1,
        input: vec![4, 4],
        output: vec![4, 4],
        kernel: vec![1, 1],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![0, 0],
        layout: Layout::ChannelsFirst,
        x: None,
        scaled: false,
        added: None,
        expand: None,
        pooled: None,
        dtype: DType::F32,
        math: Math::Exact,
        epilogue: Epilogue::apart(),
    };
    conv::conv::<f32>(&p, b5, w8, b6);
    map_in_place(
        &[batch as usize, 64, 4, 4],
        b6,
        (read(w9, 0, &[0, 1, 0, 0]),),
        |x0, (x1,)| {
            let t2 = pw::f32::add(x0, x1);
            pw::f32::hard_swish(t2)
        },
    )?;
    Ok(())
}

// /AveragePool (AveragePool): pool n=batch channels=64 input=[4,4] output=[2,2] kernel=[2,2]
// strides=[2,2] dilations=[1,1] pads=[0,0] pads_end=[0,0] kind=average{count_pads:false}
// layout=channels_first dtype=f32 then (f32) { } -> %0:f32
fn average_pool(_: &[u8], arena: &mut Arena, sizes: &Sizes) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let (b6, b7) = split(
        arena,
        (
            at::<f32>(0, (1024 * batch) as usize),
            at::<f32>(262144, (256 * batch) as usize),
        ),
    )?;
    let p = Pool {
        kind: PoolKind::Average {
            count_pads: false,
        },
        n: batch as usize,
        channels: 64,
        input: vec![4, 4],
        output: vec![2, 2],
        kernel: vec![2, 2],
        strides: vec![2, 2],
        dilations: vec![1, 1],
        pads: vec![0, 0],
        pads_end: vec![0, 0],
        layout: Layout::ChannelsFirst,
        dtype: DType::F32,
        epilogue: Epilogue::apart(),
    };
    pool::pool::<f32>(&p, b6, b7);
    Ok(())
}

// /fc1/Gemm (Gemm) +2: gemm batch=1 m=batch n=64 k=256 a=[0,256,1] b=[0,1,256] dtype=f32 math=exact
// then (f32, f32) { %2 = add %0 %1; %3 = relu %2 } -> %3:f32 [0,0,1]
fn fc1_gemm(weights: &[u8], arena: &mut Arena, sizes: &Sizes) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let w10 = constant(weights, at::<f32>(85760, 16384))?;
    let w11 = constant(weights, at::<f32>(151296, 64))?;
    let (b7, b8) = split(
        arena,
        (at::<f32>(262144, (256 * batch) as usize), at::<f32>(0, (64 * batch) as usize)),
    )?;
    let p = Gemm {
        batch: 1,
        m: batch as usize,
        n: 64,
        k: 256,
        dtype: DType::F32,
        math: Math::Exact,
        a: [0, 256, 1],
        b: [0, 1, 256],
        epilogue: Epilogue::apart(),
    };
    gemm::gemm::<f32>(&p, b7, w10, b8);
    map_in_place(
        &[1, batch as usize, 64],
        b8,
        (read(w11, 0, &[0, 0, 1]),),
        |x0, (x1,)| {
            let t2 = pw::f32::add(x0, x1);
            pw::f32::relu(t2)
        },
    )?;
    Ok(())
}

// /fc2/Gemm (Gemm) +1: gemm batch=1 m=batch n=10 k=64 a=[0,64,1] b=[0,1,64] dtype=f32 math=exact
// then (f32, f32) { %2 = add %0 %1 } -> %2:f32 [0,0,1]
fn fc2_gemm(weights: &[u8], arena: &mut Arena, sizes: &Sizes) -> Result<(), RunError> {
    let Sizes { batch } = *sizes;
    let w12 = constant(weights, at::<f32>(151552, 640))?;
    let w13 = constant(weights, at::<f32>(154112, 10))?;
    let (b8, b9) = split(
        arena,
        (at::<f32>(0, (64 * batch) as usize), at::<f32>(16384, (10 * batch) as usize)),
    )?;
    let p = Gemm {
        batch: 1,
        m: batch as usize,
        n: 10,
        k: 64,
        dtype: DType::F32,
        math: Math::Exact,
        a: [0, 64, 1],
        b: [0, 1, 64],
        epilogue: Epilogue::apart(),
    };
    gemm::gemm::<f32>(&p, b8, w12, b9);
    map_in_place(
        &[1, batch as usize, 10],
        b9,
        (read(w13, 0, &[0, 0, 1]),),
        |x0, (x1,)| pw::f32::add(x0, x1),
    )?;
    Ok(())
}
