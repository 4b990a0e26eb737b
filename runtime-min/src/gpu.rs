//! A device with its primary context, streams and events.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::context::Primary;
use crate::driver::{Driver, RawEvent, RawStream};
use crate::error::{Error, Result};
use crate::module::Loaded;

/// Device attributes that are read, by their number in cuda.h.
mod attribute {
    pub(super) const MULTIPROCESSORS: i32 = 16;
    pub(super) const L2_BYTES: i32 = 38;
    pub(super) const MAJOR: i32 = 75;
    pub(super) const MINOR: i32 = 76;
    pub(super) const SHARED_BYTES_OPTIN: i32 = 97;
}

/// A GPU: its primary context, shared with whatever else of this process uses the device. Cheap to clone.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    driver: &'static Driver,
    ordinal: usize,
    context: Primary,
    name: String,
    compute_capability: (u32, u32),
    multiprocessors: usize,
    l2_bytes: usize,
    shared_bytes: usize,
}

impl Gpu {
    /// Opens the device with this ordinal, in the driver's order (`CUDA_VISIBLE_DEVICES` applies).
    ///
    /// Its context is made meanwhile and waited for by what first needs it, which is also told if that failed.
    pub fn open(ordinal: usize) -> Result<Gpu> {
        let count = Gpu::count()?;
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let driver = Driver::get()?;
        let mut device = 0;
        let mut name = [0; 256];
        // SAFETY: the driver writes one integer, and at most `name.len()` bytes with their NUL.
        let name = unsafe {
            driver.cuDeviceGet(&mut device, ordinal as c_int)?;
            driver.cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device)?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        let attribute = |number| -> Result<usize> {
            let mut value = 0;
            // SAFETY: the driver writes one integer.
            unsafe { driver.cuDeviceGetAttribute(&mut value, number, device)? };
            Ok(usize::try_from(value).unwrap_or(0))
        };
        let compute_capability = (attribute(attribute::MAJOR)? as u32, attribute(attribute::MINOR)? as u32);
        let multiprocessors = attribute(attribute::MULTIPROCESSORS)?;
        let l2_bytes = attribute(attribute::L2_BYTES)?;
        let shared_bytes = attribute(attribute::SHARED_BYTES_OPTIN)?;
        let context = Primary::retain(driver, device);
        Ok(Gpu(Arc::new(Inner {
            driver,
            ordinal,
            context,
            name,
            compute_capability,
            multiprocessors,
            l2_bytes,
            shared_bytes,
        })))
    }

    /// How many devices the driver shows; 0 where it is installed and sees none.
    pub fn count() -> Result<usize> {
        let driver = match Driver::get() {
            Err(Error::NoDevice { .. }) => return Ok(0),
            other => other?,
        };
        let mut count = 0;
        // SAFETY: the driver writes one integer.
        unsafe { driver.cuDeviceGetCount(&mut count)? };
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The ordinal it was opened with.
    pub fn ordinal(&self) -> usize {
        self.0.ordinal
    }

    /// The marketing name, for example `NVIDIA H200`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The compute capability: `(9, 0)` for an H200.
    pub fn compute_capability(&self) -> (u32, u32) {
        self.0.compute_capability
    }

    /// The CUDA version that the driver supports: 13000 is 13.0.
    pub fn driver_version(&self) -> u32 {
        self.0.driver.version()
    }

    /// How many multiprocessors it has.
    pub fn multiprocessors(&self) -> usize {
        self.0.multiprocessors
    }

    /// The size of its L2 cache in bytes.
    pub fn l2_bytes(&self) -> usize {
        self.0.l2_bytes
    }

    /// The most shared memory that one block can have, in bytes.
    pub fn shared_bytes(&self) -> usize {
        self.0.shared_bytes
    }

    /// Device memory now: free and total bytes.
    pub fn memory(&self) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the driver writes two sizes.
        unsafe { self.bind()?.cuMemGetInfo_v2(&mut free, &mut total)? };
        Ok((free, total))
    }

    /// Makes the context current on this thread; every call that needs it goes through here.
    pub(crate) fn bind(&self) -> Result<&'static Driver> {
        self.0.context.bind()
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({}: {})", self.0.ordinal, self.0.name)
    }
}

/// A queue of work on a GPU. Work of one stream runs in order; nothing orders two streams but events.
pub struct Stream {
    gpu: Gpu,
    raw: RawStream,
    owned: bool,
    /// Unlike the driver's handle, never used twice.
    id: u64,
    capturing: AtomicBool,
    /// The modules whose kernels were launched into the capture in progress; the graph keeps them loaded.
    captured: Mutex<Vec<Arc<Loaded>>>,
}

// SAFETY: the driver's streams may be used from any thread, and from several at once.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A new stream that does not wait for the legacy default stream.
    pub fn new(gpu: &Gpu) -> Result<Stream> {
        const NON_BLOCKING: u32 = 1;
        let mut raw = ptr::null_mut();
        // SAFETY: the driver writes one handle.
        unsafe { gpu.bind()?.cuStreamCreate(&mut raw, NON_BLOCKING)? };
        Ok(Stream::wrap(gpu, raw, true))
    }

    /// A stream that somebody else owns (a `CUstream`, which is also a `cudaStream_t`); it is not destroyed on drop.
    ///
    /// # Safety
    /// `raw` is a stream of the primary context of this GPU and outlives the value. While it is being captured by
    /// other means than [`crate::Graph::capture`], modules launched on it must outlive that graph.
    pub unsafe fn from_raw(gpu: &Gpu, raw: *mut c_void) -> Stream {
        Stream::wrap(gpu, raw.cast(), false)
    }

    fn wrap(gpu: &Gpu, raw: RawStream, owned: bool) -> Stream {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let capturing = AtomicBool::new(false);
        Stream { gpu: gpu.clone(), raw, owned, id, capturing, captured: Mutex::new(Vec::new()) }
    }

    /// The `CUstream`, for other libraries.
    pub fn raw(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// The GPU it belongs to.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Waits until all its work is done. An error of an earlier kernel appears here.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: a live stream.
        unsafe { self.gpu.bind()?.cuStreamSynchronize(self.raw) }
    }

    /// Makes later work of this stream wait for the event; the host does not wait.
    pub fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: live handles.
        unsafe { self.gpu.bind()?.cuStreamWaitEvent(self.raw, event.raw, 0) }
    }

    /// Whether work is being recorded into a graph instead of run.
    pub fn is_capturing(&self) -> Result<bool> {
        let mut status = 0;
        // SAFETY: a live stream; the driver writes one integer.
        unsafe { self.gpu.bind()?.cuStreamIsCapturing(self.raw, &mut status)? };
        Ok(status != 0)
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn handle(&self) -> RawStream {
        self.raw
    }

    /// Refuses what cannot be recorded into a graph.
    pub(crate) fn refuse_capture(&self, call: &str) -> Result<()> {
        if self.is_capturing()? {
            let what = format!("{call} cannot be recorded into a graph, and the stream is being captured");
            return Err(Error::Busy { what });
        }
        Ok(())
    }

    /// Notes that the capture in progress, if any, uses a module.
    pub(crate) fn keep(&self, module: &Arc<Loaded>) {
        if self.capturing.load(Ordering::Acquire) {
            let mut captured = self.captured();
            if !captured.iter().any(|seen| Arc::ptr_eq(seen, module)) {
                captured.push(module.clone());
            }
        }
    }

    pub(crate) fn set_capturing(&self, on: bool) {
        self.capturing.store(on, Ordering::Release);
    }

    pub(crate) fn captured(&self) -> MutexGuard<'_, Vec<Arc<Loaded>>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let (true, Ok(driver)) = (self.owned, self.gpu.bind()) {
            // SAFETY: created by `new`; the driver lets queued work finish.
            let _ = unsafe { driver.cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A point in a stream's work, with the time at which it was reached.
pub struct Event {
    gpu: Gpu,
    raw: RawEvent,
}

// SAFETY: the driver's events may be used from any thread, and from several at once.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// A new event, not yet recorded.
    pub fn new(gpu: &Gpu) -> Result<Event> {
        let mut raw = ptr::null_mut();
        // SAFETY: the driver writes one handle.
        unsafe { gpu.bind()?.cuEventCreate(&mut raw, 0)? };
        Ok(Event { gpu: gpu.clone(), raw })
    }

    /// Puts the event after all work that is in the stream now.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: live handles.
        unsafe { self.gpu.bind()?.cuEventRecord(self.raw, stream.raw) }
    }

    /// Waits until the event is reached; at once if it was never recorded.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: a live event.
        unsafe { self.gpu.bind()?.cuEventSynchronize(self.raw) }
    }

    /// Microseconds from this event to `end`, after waiting for `end`.
    pub fn elapsed_us(&self, end: &Event) -> Result<f32> {
        end.synchronize()?;
        let mut milliseconds = 0.0;
        // SAFETY: live events; the driver writes one float.
        unsafe { self.gpu.bind()?.cuEventElapsedTime(&mut milliseconds, self.raw, end.raw)? };
        Ok(milliseconds * 1000.0)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(driver) = self.gpu.bind() {
            // SAFETY: created by `new`.
            let _ = unsafe { driver.cuEventDestroy_v2(self.raw) };
        }
    }
}
