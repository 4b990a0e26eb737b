//! The steps of the model on sm_90a, in order: one launch each, every number a literal.
//! `w` is a weight by its offset, `a` a buffer of the arena, `io` what the caller gave.

use crate::cuda::{Places, early, kernel, launch};
use crate::{Buffers, Result, Sizes};
use bakelite_runtime::{Arg, DevicePtr, Gpu, Image, Kernel, Stream};

/// Memory of this target.
pub(crate) const PLACES: Places = Places {
    arena: 5783552,
    ports: [5767168, 0],
};

/// Every kernel of this target.
pub(crate) struct Kernels {
    conv_direct_cf57c4c1: Kernel,
    conv_simt_1d4bd58d: Kernel,
    conv_simt_b8c5aede: Kernel,
    conv_simt_7ee2c257: Kernel,
    conv_simt_e6c465f0: Kernel,
    pool_6f9bab6a: Kernel,
    conv_direct_43cc5462: Kernel,
    conv_simt_14fe27b8: Kernel,
    pool_73e9a95f: Kernel,
    gemm_simt_b30ffc46: Kernel,
    gemm_simt_1e67141d: Kernel,
    gemm_simt_a1d3e341: Kernel,
}

/// A kernel from its images, with the dynamic shared memory and clusters that its launches have.
macro_rules! load {
    ($gpu:ident, $name:literal, $shared:literal, $large_clusters:literal) => {{
        let cubin = include_bytes!(concat!("../kernels/", $name, ".cubin"));
        let ptx = include_bytes!(concat!("../kernels/", $name, ".ptx.gz"));
        let images = [Image::new("sm_90a", cubin), Image::new("compute_90", ptx)];
        kernel($gpu, $name, &images, $shared, $large_clusters)?
    }};
}

impl Kernels {
    pub(crate) fn load(gpu: &Gpu) -> Result<Kernels> {
        Ok(Kernels {
            conv_direct_cf57c4c1: load!(gpu, "conv_direct_cf57c4c1", 0, false),
            conv_simt_1d4bd58d: load!(gpu, "conv_simt_1d4bd58d", 0, false),
            conv_simt_b8c5aede: load!(gpu, "conv_simt_b8c5aede", 0, false),
            conv_simt_7ee2c257: load!(gpu, "conv_simt_7ee2c257", 0, false),
            conv_simt_e6c465f0: load!(gpu, "conv_simt_e6c465f0", 0, false),
            pool_6f9bab6a: load!(gpu, "pool_6f9bab6a", 0, false),
            conv_direct_43cc5462: load!(gpu, "conv_direct_43cc5462", 0, false),
            conv_simt_14fe27b8: load!(gpu, "conv_simt_14fe27b8", 0, false),
            pool_73e9a95f: load!(gpu, "pool_73e9a95f", 0, false),
            gemm_simt_b30ffc46: load!(gpu, "gemm_simt_b30ffc46", 0, false),
            gemm_simt_1e67141d: load!(gpu, "gemm_simt_1e67141d", 0, false),
            gemm_simt_a1d3e341: load!(gpu, "gemm_simt_a1d3e341", 0, false),
        })
    }
}

/// Every step in order.
pub(crate) fn enqueue(
    k: &Kernels,
    stream: &Stream,
    weights: DevicePtr,
    arena: DevicePtr,
    io: &Buffers,
    sizes: &Sizes,
) -> Result<()> {
    let w = |offset| Arg::from(weights.add(offset));
    let a = |offset| Arg::from(arena.add(offset));
    let Sizes { batch } = *sizes;
    // /a/a.0/Conv (Conv) +2: conv n=batch input=[8,8] output=[8,8] kernel=[3,3] strides=[1,1]
    // dilations=[1,1] pads=[1,1] channels=1 filters=32 groups=1 layout=channels_first dtype=f32
    // math=exact then (f32, f32) { %2 = add %0 %1; %3 = relu %2 } -> %3:f32 [0,1,0,0] |
    // conv.direct/1 1.87 us
    launch(
        stream,
        &k.conv_direct_cf57c4c1,
        early([(16 * batch) as u32, 1, 1], [128, 1, 1]),
        &[
            io.x.into(),
            w(0),
            w(1280),
            a(4194304),
            Arg::I32(batch as i32),
            w(1536),
            Arg::I32(74240),
            Arg::I32(
                (256 * ((((16 * batch + 74239) / (16 * batch)) + 255) / 256)) as i32,
            ),
        ],
    )?;
    // /b1/b1.0/Conv (Conv) +2: conv n=batch input=[8,8] output=[8,8] kernel=[3,3] strides=[1,1]
    // dilations=[1,1] pads=[1,1] channels=32 filters=32 groups=1 layout=channels_first dtype=f32
    // math=exact then (f32, f32) { %2 = add %0 %1; %3 = relu %2 } -> %3:f32 [0,1,0,0] | conv.simt/1
    // m32 n32 k16 tm4 tn4 split8 7.78 us
    launch(
        stream,
        &k.conv_simt_1d4bd58d,
        early([(2 * batch) as u32, 8, 1], [64, 1, 1]),
        &[a(4194304), w(1536), a(0), Arg::I32(batch as i32)],
    )?;
    launch(
        stream,
        &k.conv_simt_b8c5aede,
        early([(4 * batch) as u32, 1, 1], [128, 1, 1]),
        &[a(0), w(38400), a(4718592), Arg::I32(batch as i32)],
    )?;
    // /b2/b2.0/Conv (Conv) +3: conv n=batch input=[8,8] output=[8,8] kernel=[3,3] strides=[1,1]
    // dilations=[1,1] pads=[1,1] channels=32 filters=32 groups=1 layout=channels_first dtype=f32
    // math=exact then (f32, f32, f32) { %3 = add %0 %2; %4 = add %1 %3; %5 = relu %4 } -> %5:f32
    // [2048,64,8,1] [0,1,0,0] | conv.simt/1 m32 n32 k16 tm4 tn4 split8 7.82 us
    launch(
        stream,
        &k.conv_simt_7ee2c257,
        early([(2 * batch) as u32, 8, 1], [64, 1, 1]),
        &[
            a(4718592),
            w(38656),
            a(0),
            Arg::I32(batch as i32),
            w(75776),
            Arg::I32(1536),
            Arg::I32((256 * ((((16 * batch + 1535) / (16 * batch)) + 255) / 256)) as i32),
        ],
    )?;
    launch(
        stream,
        &k.conv_simt_e6c465f0,
        early([(4 * batch) as u32, 1, 1], [128, 1, 1]),
        &[a(0), a(4194304), w(75520), a(5242880), Arg::I32(batch as i32)],
    )?;
    // /MaxPool (MaxPool): pool n=batch channels=32 input=[8,8] output=[4,4] kernel=[2,2]
    // strides=[2,2] dilations=[1,1] pads=[0,0] pads_end=[0,0] kind=max layout=channels_first
    // dtype=f32 then (f32) { } -> %0:f32 | pool/1 threads256 v1 1.13 us
    launch(
        stream,
        &k.pool_6f9bab6a,
        early([(2 * batch) as u32, 1, 1], [256, 1, 1]),
        &[
            a(5242880),
            a(0),
            Arg::I32(batch as i32),
            w(77312),
            Arg::I32(8448),
            Arg::I32((256 * ((((2 * batch + 8447) / (2 * batch)) + 255) / 256)) as i32),
        ],
    )?;
    // /dw/dw.0/Conv (Conv) +3: conv n=batch input=[4,4] output=[4,4] kernel=[3,3] strides=[1,1]
    // dilations=[1,1] pads=[1,1] channels=32 filters=32 groups=32 layout=channels_first dtype=f32
    // math=exact then (f32, f32) { %2 = add %0 %1; %3 = relu %2; %4 = 6.0f32; %5 = min %3 %4 } ->
    // %5:f32 [0,1,0,0] | conv.direct/1 1.26 us
    launch(
        stream,
        &k.conv_direct_43cc5462,
        early([(4 * batch) as u32, 1, 1], [128, 1, 1]),
        &[a(0), w(75776), w(77056), a(262144), Arg::I32(batch as i32)],
    )?;
    // /pw/pw.0/Conv (Conv) +2: conv n=batch input=[4,4] output=[4,4] kernel=[1,1] strides=[1,1]
    // dilations=[1,1] pads=[0,0] channels=32 filters=64 groups=1 layout=channels_first dtype=f32
    // math=exact then (f32, f32) { %2 = add %0 %1; %3 = hard_swish %2 } -> %3:f32 [0,1,0,0] |
    // conv.simt/1 m32 n64 k16 tm4 tn4 split1 2.14 us
    launch(
        stream,
        &k.conv_simt_14fe27b8,
        early([((16 * batch + 31) / 32) as u32, 1, 1], [128, 1, 1]),
        &[
            a(262144),
            w(77312),
            w(85504),
            a(0),
            Arg::I32(batch as i32),
            w(85760),
            Arg::I32(65792),
            Arg::I32(
                (256
                    * ((((((16 * batch + 31) / 32) + 65791) / ((16 * batch + 31) / 32))
                        + 255) / 256)) as i32,
            ),
        ],
    )?;
    // /AveragePool (AveragePool): pool n=batch channels=64 input=[4,4] output=[2,2] kernel=[2,2]
    // strides=[2,2] dilations=[1,1] pads=[0,0] pads_end=[0,0] kind=average{count_pads:false}
    // layout=channels_first dtype=f32 then (f32) { } -> %0:f32 | pool/1 threads256 v1 0.95 us
    launch(
        stream,
        &k.pool_73e9a95f,
        early([batch as u32, 1, 1], [256, 1, 1]),
        &[
            a(0),
            a(262144),
            Arg::I32(batch as i32),
            w(151552),
            Arg::I32(2816),
            Arg::I32((256 * ((((batch + 2815) / batch) + 255) / 256)) as i32),
        ],
    )?;
    // /fc1/Gemm (Gemm) +2: gemm batch=1 m=batch n=64 k=256 a=[0,256,1] b=[0,1,256] dtype=f32
    // math=exact then (f32, f32) { %2 = add %0 %1; %3 = relu %2 } -> %3:f32 [0,0,1] | gemm.simt/1
    // m32 n32 k16 tm4 tn4 splitk4 3.53 us
    launch(
        stream,
        &k.gemm_simt_b30ffc46,
        early([(2 * ((batch + 31) / 32)) as u32, 1, 4], [64, 1, 1]),
        &[a(262144), w(85760), a(0), Arg::I32(batch as i32)],
    )?;
    launch(
        stream,
        &k.gemm_simt_1e67141d,
        early([((64 * batch + 1023) / 1024) as u32, 1, 1], [256, 1, 1]),
        &[a(0), w(151296), a(65536), Arg::I32(batch as i32)],
    )?;
    // /fc2/Gemm (Gemm) +1: gemm batch=1 m=batch n=10 k=64 a=[0,64,1] b=[0,1,64] dtype=f32
    // math=exact then (f32, f32) { %2 = add %0 %1 } -> %2:f32 [0,0,1] | gemm.simt/1 m32 n32 k16 tm4
    // tn4 splitk1 3.01 us
    launch(
        stream,
        &k.gemm_simt_a1d3e341,
        early([((batch + 31) / 32) as u32, 1, 1], [64, 1, 1]),
        &[a(65536), w(151552), w(154112), io.logits.into(), Arg::I32(batch as i32)],
    )?;
    Ok(())
}
