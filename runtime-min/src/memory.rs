//! Device memory, page-locked host memory, and the copies between them.

use std::ffi::c_void;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::driver::{Driver, code};
use crate::error::{Error, Result};
use crate::gpu::{Event, Gpu, Stream};
use crate::shaped::Scalar;

/// An address in device memory. A plain number: it owns nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    #[must_use]
    pub const fn add(self, bytes: usize) -> DevicePtr {
        DevicePtr(self.0.wrapping_add(bytes as u64))
    }
}

impl fmt::Debug for DevicePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevicePtr({:#x})", self.0)
    }
}

/// A piece of device memory, aligned to 256 bytes, freed on drop. Its content is what was there before.
pub struct DeviceBuffer {
    gpu: Gpu,
    address: u64,
    bytes: usize,
}

impl DeviceBuffer {
    /// Allocates. A buffer of no bytes is allowed; its address must not be used.
    pub fn alloc(gpu: &Gpu, bytes: usize) -> Result<DeviceBuffer> {
        let mut address = 0;
        if bytes > 0 {
            let driver = gpu.bind()?;
            // SAFETY: the driver writes one address.
            let outcome = unsafe { driver.cuMemAlloc_v2(&mut address, bytes) };
            outcome.map_err(|error| name_shortage(error, gpu, bytes, "device"))?;
        }
        Ok(DeviceBuffer { gpu: gpu.clone(), address, bytes })
    }

    /// Allocates and copies; done when it returns.
    pub fn from_slice<T: Scalar>(gpu: &Gpu, stream: &Stream, values: &[T]) -> Result<DeviceBuffer> {
        let buffer = DeviceBuffer::alloc(gpu, size_of_val(values))?;
        buffer.write(stream, 0, values)?;
        Ok(buffer)
    }

    /// The address of the first byte.
    pub fn ptr(&self) -> DevicePtr {
        DevicePtr(self.address)
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies bytes to the device after the work in the stream; done when it returns.
    pub fn copy_from_host(&self, stream: &Stream, offset: usize, from: &[u8]) -> Result<()> {
        let Some(to) = self.at("copy_from_host", offset, from.len())? else { return Ok(()) };
        stream.refuse_capture("copy_from_host")?;
        // SAFETY: `from` is borrowed until the copy is done, or until no more can be waited for.
        unsafe {
            stream.gpu().bind()?.cuMemcpyHtoDAsync_v2(
                to.0,
                from.as_ptr().cast(),
                from.len(),
                stream.handle(),
            )?
        };
        stream.synchronize()
    }

    /// Copies bytes from the device after the work in the stream; done when it returns.
    pub fn copy_to_host(&self, stream: &Stream, offset: usize, to: &mut [u8]) -> Result<()> {
        let Some(from) = self.at("copy_to_host", offset, to.len())? else { return Ok(()) };
        stream.refuse_capture("copy_to_host")?;
        // SAFETY: `to` is borrowed until the copy is done, or until no more can be waited for.
        unsafe {
            stream.gpu().bind()?.cuMemcpyDtoHAsync_v2(
                to.as_mut_ptr().cast(),
                from.0,
                to.len(),
                stream.handle(),
            )?
        };
        stream.synchronize()
    }

    /// [`copy_from_host`](Self::copy_from_host) of elements; `offset` is in bytes.
    pub fn write<T: Scalar>(&self, stream: &Stream, offset: usize, values: &[T]) -> Result<()> {
        self.copy_from_host(stream, offset, bytemuck::cast_slice(values))
    }

    /// [`copy_to_host`](Self::copy_to_host) of elements; `offset` is in bytes.
    pub fn read<T: Scalar>(&self, stream: &Stream, offset: usize, values: &mut [T]) -> Result<()> {
        T::fill_from(values, |bytes| self.copy_to_host(stream, offset, bytes))
    }

    /// Enqueues a copy from page-locked memory and returns; the range of `from` is free again when it is next read or
    /// written through its slice, which waits for the copy. Not recordable into a graph.
    pub fn upload(
        &self,
        stream: &Stream,
        offset: usize,
        from: &mut PinnedBuffer,
        range: Range<usize>,
    ) -> Result<()> {
        let Some(to) = self.at("upload", offset, range.len())? else { return Ok(()) };
        let source = from.range("upload", range.clone())?;
        from.track(stream, "upload", |driver| {
            // SAFETY: the range lies in the pinned buffer, which waits for the copy before it is touched or freed.
            unsafe { driver.cuMemcpyHtoDAsync_v2(to.0, source, range.len(), stream.handle()) }
        })
    }

    /// Enqueues a copy to page-locked memory and returns; reading `to` waits for it. Not recordable into a graph.
    pub fn download(
        &self,
        stream: &Stream,
        offset: usize,
        to: &mut PinnedBuffer,
        range: Range<usize>,
    ) -> Result<()> {
        let Some(from) = self.at("download", offset, range.len())? else { return Ok(()) };
        let target = to.range("download", range.clone())?;
        to.track(stream, "download", |driver| {
            // SAFETY: as in `upload`.
            unsafe { driver.cuMemcpyDtoHAsync_v2(target, from.0, range.len(), stream.handle()) }
        })
    }

    /// Enqueues setting every byte.
    pub fn fill(&self, stream: &Stream, byte: u8) -> Result<()> {
        memset(stream, self.ptr(), byte, self.bytes)
    }

    /// The address of a range that lies inside, or nothing for no bytes.
    fn at(&self, what: &'static str, offset: usize, bytes: usize) -> Result<Option<DevicePtr>> {
        check_bounds(what, offset, bytes, self.bytes)?;
        Ok((bytes > 0).then(|| self.ptr().add(offset)))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        if let Ok(driver) = self.gpu.bind() {
            // SAFETY: allocated by `alloc`; the driver waits for work that uses it.
            let _ = unsafe { driver.cuMemFree_v2(self.address) };
        }
    }
}

impl fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBuffer({:?}, {} bytes)", self.ptr(), self.bytes)
    }
}

/// Page-locked host memory, which the GPU copies from and to without a detour. It reads as a slice of bytes, zero at
/// first; taking the slice waits for copies in flight.
pub struct PinnedBuffer {
    gpu: Gpu,
    address: NonNull<u8>,
    bytes: usize,
    /// After the last copy enqueued.
    last: Event,
    /// The stream of the copies that may be in flight, by its id; 0 for none.
    in_flight: AtomicU64,
}

// SAFETY: owned memory; whoever reads or writes it has waited for the device.
unsafe impl Send for PinnedBuffer {}
// SAFETY: as above; copies are enqueued through `&mut` only.
unsafe impl Sync for PinnedBuffer {}

impl PinnedBuffer {
    /// Allocates, zeroed and aligned to a page. A buffer of no bytes is allowed.
    pub fn alloc(gpu: &Gpu, bytes: usize) -> Result<PinnedBuffer> {
        let last = Event::new(gpu)?;
        let mut address = ptr::null_mut();
        if bytes > 0 {
            let driver = gpu.bind()?;
            // SAFETY: the driver writes one address.
            let outcome = unsafe { driver.cuMemHostAlloc(&mut address, bytes, 0) };
            outcome.map_err(|error| name_shortage(error, gpu, bytes, "pinned host"))?;
            // SAFETY: `bytes` bytes were just allocated there.
            unsafe { ptr::write_bytes(address.cast::<u8>(), 0, bytes) };
        }
        let address = NonNull::new(address.cast()).unwrap_or(NonNull::dangling());
        Ok(PinnedBuffer { gpu: gpu.clone(), address, bytes, last, in_flight: AtomicU64::new(0) })
    }

    /// The address of a range that lies inside.
    fn range(&self, what: &'static str, range: Range<usize>) -> Result<*mut c_void> {
        check_bounds(what, range.start, range.len(), self.bytes)?;
        // SAFETY: inside the allocation.
        Ok(unsafe { self.address.as_ptr().add(range.start) }.cast())
    }

    /// Enqueues a copy and remembers its end.
    fn track(&mut self, stream: &Stream, call: &str, copy: impl FnOnce(&Driver) -> Result<()>) -> Result<()> {
        stream.refuse_capture(call)?;
        // The one event stands for all copies in flight, which is right only if they are in one queue.
        if *self.in_flight.get_mut() != stream.id() {
            self.wait();
        }
        copy(stream.gpu().bind()?)?;
        if let Err(error) = self.last.record(stream) {
            stream.synchronize()?;
            return Err(error);
        }
        *self.in_flight.get_mut() = stream.id();
        Ok(())
    }

    /// Waits for the copies in flight. An error means that the device is lost, and with it the copy; whoever waits for
    /// the stream is told.
    fn wait(&self) {
        if self.in_flight.load(Ordering::Acquire) != 0 {
            let _ = self.last.synchronize();
            self.in_flight.store(0, Ordering::Release);
        }
    }
}

impl Deref for PinnedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.wait();
        // SAFETY: owned, initialised, and not written by the device while borrowed: a copy needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.bytes) }
    }
}

impl DerefMut for PinnedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.wait();
        // SAFETY: as in `deref`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.bytes) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        self.wait();
        if self.bytes == 0 {
            return;
        }
        if let Ok(driver) = self.gpu.bind() {
            // SAFETY: allocated by `alloc`; no copy is in flight.
            let _ = unsafe { driver.cuMemFreeHost(self.address.as_ptr().cast()) };
        }
    }
}

/// Enqueues a copy inside device memory. The ranges must not overlap.
pub fn memcpy_dtod(stream: &Stream, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: device addresses only; see the crate's documentation for who answers for those.
    unsafe { stream.gpu().bind()?.cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, stream.handle()) }
}

/// Enqueues setting bytes of device memory.
pub fn memset(stream: &Stream, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: as in `memcpy_dtod`.
    unsafe { stream.gpu().bind()?.cuMemsetD8Async(to.0, byte, bytes, stream.handle()) }
}

fn check_bounds(what: &'static str, offset: usize, bytes: usize, size: usize) -> Result<()> {
    match offset.checked_add(bytes) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::Bounds { what, offset, bytes, size }),
    }
}

/// Turns the driver's code for a full memory into the error that says how full.
fn name_shortage(error: Error, gpu: &Gpu, requested: usize, memory: &'static str) -> Error {
    if error.driver_code() != Some(code::OUT_OF_MEMORY) {
        return error;
    }
    let (free, total) = gpu.memory().unwrap_or((0, 0));
    Error::OutOfMemory { requested, free, total, memory }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_the_end_and_do_not_wrap() {
        assert_eq!(check_bounds("copy", 4, 4, 8), Ok(()));
        assert_eq!(check_bounds("copy", 8, 0, 8), Ok(()));
        let error = check_bounds("copy", 5, 4, 8).unwrap_err();
        assert_eq!(error.to_string(), "copy: 4 bytes from byte 5 do not fit a buffer of 8 bytes");
        assert!(check_bounds("copy", usize::MAX, 2, 8).is_err());
    }
}
