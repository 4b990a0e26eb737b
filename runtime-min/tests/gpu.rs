//! What needs a device. Without one each test says that it was skipped, and why.

#![allow(clippy::unwrap_used)]

use bakelite_runtime::{
    Arg, Branches, DeviceBuffer, Element, Error, Event, Gpu, Graph, GraphCache, Image, Kernel, Launch,
    Module, PinnedBuffer, Stream, Swizzle, TensorMap, Tiled, memcpy_dtod, memset,
};

/// `scale`: `values[i] = values[i] * factor + 1` for `i < count`.
const PTX: &str = r"
.version 7.0
.target sm_80
.address_size 64

.visible .entry scale(.param .u64 values, .param .s32 count, .param .f32 factor)
{
    .reg .pred %p;
    .reg .b32 %r<5>;
    .reg .f32 %f<3>;
    .reg .b64 %a<3>;
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %ntid.x;
    mov.u32 %r2, %tid.x;
    mad.lo.s32 %r3, %r0, %r1, %r2;
    ld.param.s32 %r4, [count];
    setp.ge.s32 %p, %r3, %r4;
    @%p bra DONE;
    ld.param.u64 %a0, [values];
    cvta.to.global.u64 %a1, %a0;
    mad.wide.s32 %a2, %r3, 4, %a1;
    ld.global.f32 %f0, [%a2];
    ld.param.f32 %f1, [factor];
    fma.rn.f32 %f2, %f0, %f1, 0f3F800000;
    st.global.f32 [%a2], %f2;
DONE:
    ret;
}
";

const IMAGES: [Image<'static>; 1] = [Image::new("compute_80", PTX.as_bytes())];

/// A device with a stream, or `None` and a line that says why not.
fn device() -> Option<(Gpu, Stream)> {
    match Gpu::open(0) {
        Ok(gpu) => {
            let stream = Stream::new(&gpu).expect("a stream");
            Some((gpu, stream))
        }
        Err(error) => {
            eprintln!("skipped: no GPU ({error})");
            None
        }
    }
}

fn scale(gpu: &Gpu) -> Kernel {
    Module::load(gpu, &IMAGES).and_then(|module| module.kernel("scale")).expect("the kernel")
}

fn launch(
    kernel: &Kernel,
    stream: &Stream,
    values: &DeviceBuffer,
    factor: f32,
) -> bakelite_runtime::Result<()> {
    let count = values.len() / 4;
    let shape = Launch::linear(count.div_ceil(128) as u32, 128);
    kernel.launch(stream, &shape, &[values.ptr().into(), Arg::I32(count as i32), Arg::F32(factor)])
}

#[test]
fn the_device_describes_itself() {
    let Some((gpu, _)) = device() else { return };
    let (free, total) = gpu.memory().unwrap();
    eprintln!("{gpu:?} cc {:?} driver {}", gpu.compute_capability(), gpu.driver_version());
    assert!(!gpu.name().is_empty());
    assert!(free > 0 && free <= total);
    assert!(gpu.compute_capability() >= (5, 0) && gpu.multiprocessors() > 0 && gpu.l2_bytes() > 0);
    assert!(gpu.shared_bytes() >= 48 << 10);
    assert!(Gpu::count().unwrap() > 0);
}

#[test]
fn a_device_may_be_opened_again_and_dropped_before_it_is_ready() {
    if device().is_none() {
        return;
    }
    let first = Gpu::open(0).unwrap();
    drop((Gpu::open(0).unwrap(), Gpu::open(0).unwrap()));
    // The first to need the context wait for it, on whatever thread they are.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(first.memory().unwrap().1 > 0));
        }
    });
    let second = Gpu::open(0).unwrap();
    let stream = Stream::new(&second).unwrap();
    drop((first, second));
    // What was made of a device keeps it.
    stream.synchronize().unwrap();
}

#[test]
fn a_kernel_runs() {
    let Some((gpu, stream)) = device() else { return };
    let module = Module::load(&gpu, &IMAGES).unwrap();
    assert_eq!(module.arch(), "compute_80");
    let kernel = module.kernel("scale").unwrap();
    drop(module);
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let buffer = DeviceBuffer::from_slice(&gpu, &stream, &values).unwrap();
    launch(&kernel, &stream, &buffer, 2.0).unwrap();
    let mut got = vec![0f32; values.len()];
    buffer.read(&stream, 0, &mut got).unwrap();
    assert!(got.iter().zip(&values).all(|(got, value)| *got == value * 2.0 + 1.0));

    let attributes = kernel.attributes().unwrap();
    assert!(attributes.registers > 0 && attributes.local_bytes == 0 && attributes.static_shared_bytes == 0);
    assert!(attributes.max_threads >= 128);
    assert!(kernel.max_active_blocks(128, 0).unwrap() > 1);
    kernel.set_max_dynamic_smem(64 << 10).unwrap();
    assert!(kernel.set_max_dynamic_smem(1 << 30).is_err());
}

#[test]
fn launches_that_do_not_fit_are_refused_by_name() {
    let Some((gpu, stream)) = device() else { return };
    let kernel = scale(&gpu);
    let shape = Launch::linear(1, 32);
    let few = kernel.launch(&stream, &shape, &[Arg::Ptr(0)]).unwrap_err();
    assert_eq!(few.to_string(), "cannot launch kernel scale: it takes 3 arguments, 1 were given");
    let wide = kernel.launch(&stream, &shape, &[Arg::Ptr(0), Arg::I64(0), Arg::F32(0.0)]).unwrap_err();
    assert_eq!(wide.to_string(), "cannot launch kernel scale: its parameter 1 has 4 bytes, and 8 were given");
    let args = [Arg::Ptr(0), Arg::I32(0), Arg::F32(0.0)];
    let large = kernel.launch(&stream, &Launch::linear(1, 4096), &args).unwrap_err().to_string();
    assert!(
        large.starts_with("cannot launch kernel scale: cuLaunchKernelEx failed with CUDA_ERROR_"),
        "{large}"
    );
    assert!(large.contains("block [4096, 1, 1]"), "{large}");
    // No blocks, no launch: not an error, although the driver would make it one.
    kernel.launch(&stream, &Launch::linear(0, 32), &args).unwrap();
    stream.synchronize().unwrap();
}

#[test]
fn clusters_and_dependent_launches_give_the_same() {
    let Some((gpu, stream)) = device() else { return };
    if gpu.compute_capability() < (9, 0) {
        eprintln!("skipped: clusters need compute capability 9.0, this is {:?}", gpu.compute_capability());
        return;
    }
    let sm_90 = PTX.replace(".version 7.0", ".version 7.8").replace("sm_80", "sm_90");
    let module = Module::load(&gpu, &[IMAGES[0], Image::new("compute_90", sm_90.as_bytes())]).unwrap();
    assert_eq!(module.arch(), "compute_90");
    let kernel = module.kernel("scale").unwrap();
    let buffer = DeviceBuffer::from_slice(&gpu, &stream, &[1f32; 512]).unwrap();
    let args = [buffer.ptr().into(), Arg::I32(512), Arg::F32(3.0)];
    let shape = Launch { cluster: Some([2, 1, 1]), programmatic: true, ..Launch::linear(4, 128) };
    kernel.launch(&stream, &shape, &args).unwrap();
    let mut got = [0f32; 512];
    buffer.read(&stream, 0, &mut got).unwrap();
    assert_eq!(got, [4.0; 512]);
    let odd = Launch { cluster: Some([3, 1, 1]), ..shape };
    assert!(matches!(kernel.launch(&stream, &odd, &args), Err(Error::Launch { .. })));
}

#[test]
fn a_graph_replays_what_was_captured_and_keeps_its_module() {
    let Some((gpu, stream)) = device() else { return };
    let buffer = DeviceBuffer::alloc(&gpu, 4096).unwrap();
    let copy = DeviceBuffer::alloc(&gpu, 4096).unwrap();
    let kernel = scale(&gpu);
    let graph = Graph::capture(&stream, |stream| {
        memset(stream, buffer.ptr(), 0, buffer.len())?;
        launch(&kernel, stream, &buffer, 5.0)?;
        launch(&kernel, stream, &buffer, 5.0)?;
        memcpy_dtod(stream, copy.ptr(), buffer.ptr(), 4096)
    })
    .unwrap();
    drop(kernel);
    copy.fill(&stream, 0xFF).unwrap();
    graph.upload(&stream).unwrap();
    for _ in 0..3 {
        graph.launch(&stream).unwrap();
    }
    let mut got = vec![0f32; 1024];
    copy.read(&stream, 0, &mut got).unwrap();
    assert_eq!(got, vec![6.0; 1024]);
    // From another thread, too.
    std::thread::spawn(move || graph.launch(&stream).and_then(|()| stream.synchronize()))
        .join()
        .unwrap()
        .unwrap();
}

/// `wait`: spins until `*flag` is not 0, and for so many nanoseconds at most; then `*flag += 1`.
const WAIT: &str = r"
.version 7.0
.target sm_80
.address_size 64

.visible .entry wait(.param .u64 flag, .param .u64 most)
{
    .reg .pred %p;
    .reg .b32 %r<2>;
    .reg .b64 %a<6>;
    ld.param.u64 %a0, [flag];
    cvta.to.global.u64 %a1, %a0;
    ld.param.u64 %a2, [most];
    mov.u64 %a3, %globaltimer;
LOOP:
    ld.volatile.global.u32 %r0, [%a1];
    setp.ne.u32 %p, %r0, 0;
    @%p bra DONE;
    mov.u64 %a4, %globaltimer;
    sub.u64 %a5, %a4, %a3;
    setp.lt.u64 %p, %a5, %a2;
    @%p bra LOOP;
DONE:
    add.u32 %r1, %r0, 1;
    st.volatile.global.u32 [%a1], %r1;
    ret;
}
";

#[test]
fn branches_run_beside_each_other_in_a_graph_and_in_order_without() {
    let Some((gpu, stream)) = device() else { return };
    let wait =
        Module::load(&gpu, &[Image::new("compute_80", WAIT.as_bytes())]).unwrap().kernel("wait").unwrap();
    let scale = scale(&gpu);
    let flag = DeviceBuffer::alloc(&gpu, 4).unwrap();
    let values = DeviceBuffer::alloc(&gpu, 256).unwrap();
    let copy = DeviceBuffer::alloc(&gpu, 256).unwrap();
    let enqueue = |stream: &Stream, patience: i64| {
        memset(stream, flag.ptr(), 0, 4)?;
        let mut branches = Branches::begin(stream)?;
        branches.step(0, &[])?;
        memset(stream, values.ptr(), 0, 256)?;
        // It is set free by what was enqueued after it and comes before it in no order but the stream's.
        branches.step(1, &[0])?;
        wait.launch(stream, &Launch::linear(1, 1), &[flag.ptr().into(), Arg::I64(patience)])?;
        branches.step(2, &[0])?;
        launch(&scale, stream, &values, 2.0)?;
        branches.step(3, &[2])?;
        memset(stream, flag.ptr(), 1, 4)?;
        branches.step(4, &[1, 3])?;
        launch(&scale, stream, &values, 2.0)?;
        branches.join()?;
        memcpy_dtod(stream, copy.ptr(), values.ptr(), 256)
    };
    let results = || {
        let (mut set, mut got) = ([0u32], [0f32; 64]);
        flag.read(&stream, 0, &mut set).unwrap();
        copy.read(&stream, 0, &mut got).unwrap();
        assert_eq!(got, [3.0; 64]);
        set[0]
    };
    let graph = Graph::capture(&stream, |stream| enqueue(stream, 2_000_000_000)).unwrap();
    for _ in 0..3 {
        graph.launch(&stream).unwrap();
        assert_eq!(results(), 0x0101_0102, "the branch was set free by the one beside it");
    }
    // In the stream's order the wait is in vain, and the flag is set after it.
    enqueue(&stream, 1_000_000).unwrap();
    assert_eq!(results(), 0x0101_0101);
    let wrong = Graph::capture(&stream, |stream| Branches::begin(stream)?.step(0, &[0])).unwrap_err();
    assert_eq!(wrong.to_string(), "busy: step 0 is to come after step 0, and 0 steps have ended");
}

#[test]
fn a_capture_that_fails_leaves_the_stream_usable() {
    let Some((gpu, stream)) = device() else { return };
    let buffer = DeviceBuffer::from_slice(&gpu, &stream, &[1f32; 64]).unwrap();
    let kernel = scale(&gpu);
    let failure = Error::Busy { what: "on purpose".into() };
    let outcome = Graph::capture(&stream, |stream| {
        launch(&kernel, stream, &buffer, 2.0)?;
        Err(failure.clone())
    });
    assert_eq!(outcome.unwrap_err(), failure);

    let nested = Graph::capture(&stream, |stream| Graph::capture(stream, |_| Ok(())).map(drop)).unwrap_err();
    assert_eq!(nested.to_string(), "busy: the stream is already being captured");
    let copied = Graph::capture(&stream, |stream| buffer.copy_from_host(stream, 0, &[0; 4])).unwrap_err();
    assert!(matches!(copied, Error::Busy { .. }), "{copied}");
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Graph::capture(&stream, |_| panic!("x"))));
    assert!(panicked.is_err());

    assert!(!stream.is_capturing().unwrap());
    let mut got = [0f32; 64];
    buffer.read(&stream, 0, &mut got).unwrap();
    assert_eq!(got, [1.0; 64]);
}

#[test]
fn the_graph_cache_captures_once_per_value() {
    let Some((gpu, stream)) = device() else { return };
    let buffer = DeviceBuffer::from_slice(&gpu, &stream, &[0f32; 64]).unwrap();
    let kernel = scale(&gpu);
    let mut cache = GraphCache::new(2);
    let mut captures = 0;
    for batch in [1, 2, 1, 2] {
        let graph = cache.get_or_capture(&[batch], &stream, |stream| {
            captures += 1;
            launch(&kernel, stream, &buffer, batch as f32)
        });
        graph.unwrap().launch(&stream).unwrap();
    }
    assert_eq!(captures, 2);
    let mut got = [0f32; 64];
    buffer.read(&stream, 0, &mut got).unwrap();
    // 0 -> 0*1+1 -> 1*2+1 -> 3*1+1 -> 4*2+1
    assert_eq!(got, [9.0; 64]);
}

#[test]
fn pinned_memory_waits_for_its_copies() {
    let Some((gpu, stream)) = device() else { return };
    const BYTES: usize = 32 << 20;
    let device = DeviceBuffer::alloc(&gpu, BYTES).unwrap();
    let mut from = PinnedBuffer::alloc(&gpu, BYTES).unwrap();
    let mut to = PinnedBuffer::alloc(&gpu, BYTES).unwrap();
    assert!(to.iter().all(|&byte| byte == 0));
    for round in 1..4u8 {
        from.fill(round);
        device.upload(&stream, 0, &mut from, 0..BYTES / 2).unwrap();
        device.upload(&stream, BYTES / 2, &mut from, BYTES / 2..BYTES).unwrap();
        // Overwriting waits for the upload; what arrives is the old content.
        from.fill(0xEE);
        device.download(&stream, 0, &mut to, 0..BYTES).unwrap();
        assert!(to.iter().all(|&byte| byte == round));
    }
    // Another stream, with the order given by an event.
    let other = Stream::new(&gpu).unwrap();
    device.fill(&stream, 0xAB).unwrap();
    let filled = Event::new(&gpu).unwrap();
    filled.record(&stream).unwrap();
    other.wait(&filled).unwrap();
    device.download(&other, 0, &mut to, 0..BYTES).unwrap();
    assert!(to.iter().all(|&byte| byte == 0xAB));

    assert!(matches!(device.upload(&stream, 1, &mut from, 0..BYTES), Err(Error::Bounds { .. })));
    assert!(matches!(device.upload(&stream, 0, &mut from, 1..BYTES + 1), Err(Error::Bounds { .. })));
    let captured = Graph::capture(&stream, |stream| device.upload(stream, 0, &mut from, 0..8)).unwrap_err();
    assert!(matches!(captured, Error::Busy { .. }), "{captured}");
    // Dropped while its copy runs.
    device.upload(&stream, 0, &mut from, 0..BYTES).unwrap();
    drop(from);
    stream.synchronize().unwrap();
}

#[test]
fn copies_are_bounded_and_booleans_survive() {
    let Some((gpu, stream)) = device() else { return };
    let buffer = DeviceBuffer::from_slice(&gpu, &stream, &[true, false, true]).unwrap();
    assert_eq!((buffer.len(), buffer.ptr().0 % 256), (3, 0));
    let mut got = [false; 2];
    buffer.read(&stream, 1, &mut got).unwrap();
    assert_eq!(got, [false, true]);
    let outside = buffer.copy_to_host(&stream, 2, &mut [0; 2]).unwrap_err();
    assert_eq!(outside, Error::Bounds { what: "copy_to_host", offset: 2, bytes: 2, size: 3 });
    let empty = DeviceBuffer::alloc(&gpu, 0).unwrap();
    empty.fill(&stream, 1).unwrap();
    empty.copy_from_host(&stream, 0, &[]).unwrap();
    assert!(empty.is_empty());
    assert!(PinnedBuffer::alloc(&gpu, 0).unwrap().is_empty());
}

#[test]
fn events_measure_time() {
    let Some((gpu, stream)) = device() else { return };
    let buffer = DeviceBuffer::alloc(&gpu, 256 << 20).unwrap();
    let (start, end) = (Event::new(&gpu).unwrap(), Event::new(&gpu).unwrap());
    start.record(&stream).unwrap();
    buffer.fill(&stream, 1).unwrap();
    end.record(&stream).unwrap();
    let elapsed = start.elapsed_us(&end).unwrap();
    eprintln!("256 MiB filled in {elapsed} us");
    // Not faster than 20 TB/s, nor slower than 1 GB/s.
    assert!(elapsed > 13.0 && elapsed < 270_000.0, "{elapsed}");
}

#[test]
fn full_memory_is_an_error_that_says_how_full() {
    let Some((gpu, stream)) = device() else { return };
    let requested = gpu.memory().unwrap().1 * 2;
    match DeviceBuffer::alloc(&gpu, requested) {
        Err(Error::OutOfMemory { requested: named, free, total, memory: "device" }) => {
            assert_eq!(named, requested);
            assert!(free > 0 && free <= total);
        }
        other => panic!("{other:?}"),
    }
    // The context survives.
    DeviceBuffer::from_slice(&gpu, &stream, &[1u8]).unwrap();
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let Some((gpu, _)) = device() else { return };
    let (major, minor) = gpu.compute_capability();
    let error = Module::load(&gpu, &[Image::new("sm_20", b""), Image::new("compute_999", b"")]).unwrap_err();
    let have = vec!["sm_20".to_owned(), "compute_999".to_owned()];
    assert_eq!(error, Error::NoImage { device_arch: format!("sm_{major}{minor}"), have });

    let broken = PTX.replace("fma.rn.f32", "fma.rn.f33");
    let error = Module::load(&gpu, &[Image::new("compute_80", broken.as_bytes())]).unwrap_err().to_string();
    assert!(
        error.contains("CUDA_ERROR_INVALID_PTX") && error.contains("ptxas"),
        "the JIT's log is missing: {error}"
    );

    let newer = PTX.replace(".version 7.0", ".version 99.0");
    let error = Module::load(&gpu, &[Image::new("compute_80", newer.as_bytes())]).unwrap_err();
    assert!(matches!(error, Error::DriverTooOld { need: 103_000, .. }), "{error}");

    let error = Module::load(&gpu, &IMAGES).unwrap().kernel("absent").unwrap_err();
    assert_eq!(error, Error::NoKernel { kernel: "absent".into() });
}

#[test]
fn a_tensor_map_is_encoded_or_refused() {
    let Some((gpu, _)) = device() else { return };
    if gpu.compute_capability() < (9, 0) {
        eprintln!("skipped: tensor maps need compute capability 9.0, this is {:?}", gpu.compute_capability());
        return;
    }
    let buffer = DeviceBuffer::alloc(&gpu, 1 << 16).unwrap();
    let map = Tiled {
        element: Element::BF16,
        address: buffer.ptr(),
        dims: &[128, 256],
        strides: &[256],
        tile: &[64, 128],
        swizzle: Swizzle::B128,
    };
    assert_ne!(TensorMap::tiled(&gpu, &map).unwrap(), TensorMap::default());
    let error = TensorMap::tiled(&gpu, &Tiled { strides: &[250], ..map }).unwrap_err().to_string();
    assert!(error.contains("cuTensorMapEncodeTiled") && error.contains("250"), "{error}");
}
