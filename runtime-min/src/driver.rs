//! The driver calls this crate makes, resolved once. A call that is missing is an error when the driver is opened,
//! so that none can be missing later. Codes are kept as integers: a newer driver may return one that no enum has.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys;
use libloading::Library;

use crate::error::{Error, Result};

/// The oldest driver that has every call below (`cuFuncGetParamInfo` came last).
pub(crate) const OLDEST: u32 = 12040;

/// Codes that are told apart.
pub(crate) mod code {
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const STUB_LIBRARY: u32 = 34;
    pub(crate) const NO_DEVICE: u32 = 100;
    pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub(crate) const ILLEGAL_STATE: u32 = 401;
    pub(crate) const NOT_FOUND: u32 = 500;
}

pub(crate) type Context = sys::CUcontext;
pub(crate) type RawStream = sys::CUstream;
pub(crate) type RawEvent = sys::CUevent;
pub(crate) type RawModule = sys::CUmodule;
pub(crate) type RawFunction = sys::CUfunction;
pub(crate) type RawGraph = sys::CUgraph;
pub(crate) type RawGraphExec = sys::CUgraphExec;
pub(crate) type RawGraphNode = sys::CUgraphNode;
pub(crate) use sys::CUgraphEdgeData;
pub(crate) use sys::{CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig};

macro_rules! driver_calls {
    ($( $call:ident ( $($arg:ident : $type:ty),* $(,)? ); )*) => {
        /// The resolved calls; each returns the driver's code as an [`Error`].
        #[allow(non_snake_case)]
        pub(crate) struct Driver {
            /// Where the calls are; never closed.
            _library: Library,
            version: u32,
            $( $call: unsafe extern "C" fn($($type),*) -> u32, )*
        }

        // Some are called through their pointers only, before there is a `Driver` to make an error with.
        #[allow(non_snake_case, clippy::too_many_arguments, dead_code)]
        impl Driver {
            fn resolve(library: Library, version: u32) -> Result<Driver> {
                // SAFETY: the signatures below are those of cuda.h.
                Ok(Driver { version, $( $call: unsafe { symbol(&library, stringify!($call))? }, )* _library: library })
            }

            $(
                /// # Safety
                /// As the driver's documentation of the call: valid handles, and pointers to what it reads and writes.
                pub(crate) unsafe fn $call(&self, $($arg: $type),*) -> Result<()> {
                    // SAFETY: passed on to the caller.
                    match unsafe { (self.$call)($($arg),*) } {
                        0 => Ok(()),
                        code => Err(self.error(stringify!($call), code)),
                    }
                }
            )*
        }
    };
}

driver_calls! {
    cuInit(flags: c_uint);
    cuGetErrorName(code: u32, text: *mut *const c_char);
    cuGetErrorString(code: u32, text: *mut *const c_char);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut c_int, ordinal: c_int);
    cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int);
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int);
    cuDevicePrimaryCtxRetain(context: *mut Context, device: c_int);
    cuDevicePrimaryCtxRelease_v2(device: c_int);
    cuCtxSetCurrent(context: Context);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(address: *mut u64, bytes: usize);
    cuMemFree_v2(address: u64);
    cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemFreeHost(address: *mut c_void);
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: RawStream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: RawStream);
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: RawStream);
    cuMemsetD8Async(to: u64, byte: u8, bytes: usize, stream: RawStream);
    cuStreamCreate(stream: *mut RawStream, flags: c_uint);
    cuStreamDestroy_v2(stream: RawStream);
    cuStreamSynchronize(stream: RawStream);
    cuStreamWaitEvent(stream: RawStream, event: RawEvent, flags: c_uint);
    cuStreamBeginCapture_v2(stream: RawStream, mode: c_int);
    cuStreamEndCapture(stream: RawStream, graph: *mut RawGraph);
    cuStreamIsCapturing(stream: RawStream, status: *mut c_int);
    cuStreamGetCaptureInfo_v3(
        stream: RawStream, status: *mut c_int, id: *mut u64, graph: *mut RawGraph,
        nodes: *mut *const RawGraphNode, edges: *mut *const CUgraphEdgeData, count: *mut usize,
    );
    cuStreamUpdateCaptureDependencies_v2(
        stream: RawStream, nodes: *mut RawGraphNode, edges: *const CUgraphEdgeData, count: usize, flags: c_uint,
    );
    cuEventCreate(event: *mut RawEvent, flags: c_uint);
    cuEventDestroy_v2(event: RawEvent);
    cuEventRecord(event: RawEvent, stream: RawStream);
    cuEventSynchronize(event: RawEvent);
    cuEventElapsedTime(milliseconds: *mut f32, start: RawEvent, end: RawEvent);
    cuModuleLoadDataEx(
        module: *mut RawModule, image: *const c_void,
        count: c_uint, options: *mut c_int, values: *mut *mut c_void,
    );
    cuModuleUnload(module: RawModule);
    cuModuleGetFunction(function: *mut RawFunction, module: RawModule, name: *const c_char);
    cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: RawFunction);
    cuFuncSetAttribute(function: RawFunction, attribute: c_int, value: c_int);
    cuFuncGetParamInfo(function: RawFunction, index: usize, offset: *mut usize, bytes: *mut usize);
    cuLaunchKernelEx(
        config: *const CUlaunchConfig, function: RawFunction,
        arguments: *mut *mut c_void, extra: *mut *mut c_void,
    );
    cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int, function: RawFunction, threads: c_int, dynamic_shared: usize,
    );
    cuGraphInstantiateWithFlags(exec: *mut RawGraphExec, graph: RawGraph, flags: u64);
    cuGraphLaunch(exec: RawGraphExec, stream: RawStream);
    cuGraphUpload(exec: RawGraphExec, stream: RawStream);
    cuGraphDestroy(graph: RawGraph);
    cuGraphExecDestroy(exec: RawGraphExec);
    cuTensorMapEncodeTiled(
        map: *mut c_void, element: c_int, rank: u32, address: *mut c_void, dims: *const u64, strides: *const u64,
        tile: *const u32, steps: *const u32, interleave: c_int, swizzle: c_int, promotion: c_int, fill: c_int,
    );
    cuTensorMapEncodeIm2col(
        map: *mut c_void, element: c_int, rank: u32, address: *mut c_void, dims: *const u64, strides: *const u64,
        lower: *const c_int, upper: *const c_int, channels: u32, pixels: u32, steps: *const u32,
        interleave: c_int, swizzle: c_int, promotion: c_int, fill: c_int,
    );
}

/// The driver's library. It is opened once and by its own name: `libcuda.so` may be the stub of a toolkit.
fn library() -> Result<Library> {
    const NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    // SAFETY: loading the driver's library runs its initialisers, as in every CUDA program.
    let found = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    found.ok_or_else(|| Error::NoDriver { why: format!("{} was not found", NAMES[0]) })
}

/// One symbol of the driver's library.
///
/// # Safety
/// `F` is the type of a function pointer with the signature of `name`, and is called only while the library is open.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> Result<F> {
    // SAFETY: passed on to the caller.
    match unsafe { library.get::<F>(name) } {
        Ok(symbol) => Ok(*symbol),
        Err(_) => Err(Error::NoDriver { why: format!("the driver library lacks {name}") }),
    }
}

impl Driver {
    /// The driver, opened and initialised at the first call. The outcome is kept: a missing driver stays missing.
    pub(crate) fn get() -> Result<&'static Driver> {
        static DRIVER: OnceLock<Result<Driver>> = OnceLock::new();
        DRIVER.get_or_init(Driver::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Driver> {
        let library = library()?;
        let mut version: c_int = 0;
        // SAFETY: the signature is that of cuda.h; the call needs no initialisation and writes one integer.
        unsafe {
            let get_version: unsafe extern "C" fn(*mut c_int) -> u32 =
                symbol(&library, "cuDriverGetVersion")?;
            if get_version(&mut version) != 0 {
                let why = "cuDriverGetVersion failed (is libcuda.so the stub of a CUDA toolkit?)";
                return Err(Error::NoDriver { why: why.to_owned() });
            }
        }
        let version = u32::try_from(version).unwrap_or(0);
        if version < OLDEST {
            let what = "the Bakelite runtime".to_owned();
            return Err(Error::DriverTooOld { have: version, need: OLDEST, what });
        }
        let driver = Driver::resolve(library, version)?;
        // SAFETY: the flags must be 0.
        match unsafe { (driver.cuInit)(0) } {
            0 => Ok(driver),
            code::NO_DEVICE => Err(Error::NoDevice { ordinal: 0, count: 0 }),
            code::STUB_LIBRARY => {
                let why =
                    "the libcuda.so found first is the stub of a CUDA toolkit; take it off LD_LIBRARY_PATH";
                Err(Error::NoDriver { why: why.to_owned() })
            }
            code => Err(driver.error("cuInit", code)),
        }
    }

    /// The CUDA version that the driver supports: 13000 is 13.0.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    fn error(&self, call: &'static str, code: u32) -> Error {
        let text = |query: unsafe extern "C" fn(u32, *mut *const c_char) -> u32| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes the address of a static string, or null for a code it does not know.
            unsafe {
                if query(code, &mut text) != 0 || text.is_null() {
                    return "unknown error".to_owned();
                }
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        };
        Error::Driver { call, code, name: text(self.cuGetErrorName), text: text(self.cuGetErrorString) }
    }
}
