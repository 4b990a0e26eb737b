//! Kernel images, the choice between them, and the kernels in them.

use std::ffi::{CString, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use crate::driver::{RawFunction, RawModule, code};
use crate::error::{Error, Result};
use crate::gpu::Gpu;

/// The kernels of a model compiled for one architecture: a cubin (`sm_90a`) or PTX (`compute_80`), the text or its gzip.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The architecture, as NVRTC's `--gpu-architecture` has it.
    pub arch: &'a str,
    /// The image.
    pub bytes: &'a [u8],
}

impl<'a> Image<'a> {
    /// An image.
    pub const fn new(arch: &'a str, bytes: &'a [u8]) -> Image<'a> {
        Image { arch, bytes }
    }
}

/// A parsed architecture name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arch {
    cubin: bool,
    major: u32,
    minor: u32,
    reach: Reach,
}

/// Which devices an image runs on, from the fewest to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// No suffix: a cubin on later minor versions of its major version, PTX on everything later.
    Portable,
    /// `f`: later minor versions of its major version.
    Family,
    /// `a`: exactly the architecture.
    Specific,
}

/// The architectures of Jetson and its kin, whose binaries do not mix with those of the same major version.
const EMBEDDED: [(u32, u32); 6] = [(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0)];

impl Arch {
    fn parse(text: &str) -> Option<Arch> {
        let (cubin, rest) = match text.strip_prefix("sm_") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("compute_")?),
        };
        let (digits, reach) = match rest.as_bytes().last()? {
            b'a' => (&rest[..rest.len() - 1], Reach::Specific),
            b'f' => (&rest[..rest.len() - 1], Reach::Family),
            _ => (rest, Reach::Portable),
        };
        if !(2..=4).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: u32 = digits.parse().ok()?;
        Some(Arch { cubin, major: number / 10, minor: number % 10, reach })
    }

    fn runs_on(&self, device: (u32, u32)) -> bool {
        let own = (self.major, self.minor);
        let embedded = EMBEDDED.contains(&own) || EMBEDDED.contains(&device);
        match (self.reach, self.cubin) {
            (Reach::Specific, _) => own == device,
            (_, true) if embedded => own == device,
            (Reach::Family, _) | (Reach::Portable, true) => self.major == device.0 && self.minor <= device.1,
            (Reach::Portable, false) => own <= device,
        }
    }
}

/// The image to load on a device: the cubin nearest to it, otherwise the newest PTX it can run, otherwise none.
/// Names that are not architectures are passed over.
pub fn choose(archs: &[&str], device: (u32, u32)) -> Option<usize> {
    let usable = archs.iter().enumerate().filter_map(|(index, text)| {
        let arch = Arch::parse(text)?;
        arch.runs_on(device).then_some((index, arch))
    });
    // `Reverse(index)`: the first of several alike.
    usable
        .max_by_key(|(index, arch)| {
            (arch.cubin, arch.major, arch.minor, arch.reach, std::cmp::Reverse(*index))
        })
        .map(|(index, _)| index)
}

/// A module on the device. Kernels taken from it, and graphs made with them, keep it loaded.
#[derive(Clone)]
pub struct Module {
    loaded: Arc<Loaded>,
    arch: String,
}

/// The driver's module; unloaded with its last user.
pub(crate) struct Loaded {
    gpu: Gpu,
    raw: RawModule,
}

// SAFETY: modules belong to the context, not to a thread.
unsafe impl Send for Loaded {}
// SAFETY: as above; nothing is changed after loading.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Ok(driver) = self.gpu.bind() {
            // SAFETY: loaded once, and no kernel or graph of this crate uses it any more.
            let _ = unsafe { driver.cuModuleUnload(self.raw) };
        }
    }
}

impl Module {
    /// Loads the image that suits the device best (see [`choose`]). PTX is compiled by the driver, which takes time.
    pub fn load(gpu: &Gpu, images: &[Image<'_>]) -> Result<Module> {
        let archs: Vec<&str> = images.iter().map(|image| image.arch).collect();
        let (major, minor) = gpu.compute_capability();
        let Some(index) = choose(&archs, (major, minor)) else {
            let have = archs.into_iter().map(str::to_owned).collect();
            return Err(Error::NoImage { device_arch: format!("sm_{major}{minor}"), have });
        };
        let Image { arch, bytes } = images[index];
        let raw = load_image(gpu, arch, bytes)?;
        Ok(Module { loaded: Arc::new(Loaded { gpu: gpu.clone(), raw }), arch: arch.to_owned() })
    }

    /// The architecture of the image that was loaded.
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// A kernel by its name in the image.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let missing = || Error::NoKernel { kernel: name.to_owned() };
        let c_name = CString::new(name).map_err(|_| missing())?;
        let driver = self.loaded.gpu.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: a live module and a terminated string; the driver writes one handle.
        let found = unsafe { driver.cuModuleGetFunction(&mut raw, self.loaded.raw, c_name.as_ptr()) };
        found
            .map_err(|error| if error.driver_code() == Some(code::NOT_FOUND) { missing() } else { error })?;
        // The driver has no count of the parameters; it refuses the first index that is too large.
        let mut parameters = Vec::new();
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: a live function; the driver writes two sizes.
        while unsafe { driver.cuFuncGetParamInfo(raw, parameters.len(), &mut offset, &mut bytes) }.is_ok() {
            parameters.push(bytes);
        }
        let (module, name, waits) = (self.loaded.clone(), name.to_owned(), can_wait(&self.arch));
        let kernel = Kernel(Arc::new(Function { module, raw, name, parameters, waits }));
        // All of a multiprocessor's shared memory, for every kernel alike: between kernels that want it divided otherwise the
        // multiprocessor must drain, and nothing of the next overlaps with the end of the one before.
        const PREFERRED_SHARED_MEMORY_CARVEOUT: c_int = 9;
        kernel.set(PREFERRED_SHARED_MEMORY_CARVEOUT, 100)?;
        Ok(kernel)
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({})", self.arch)
    }
}

fn load_image(gpu: &Gpu, arch: &str, bytes: &[u8]) -> Result<RawModule> {
    const ERROR_LOG_BUFFER: c_int = 5;
    const ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;
    let is_ptx = arch.starts_with("compute_");
    let text = if is_ptx { ptx_text(arch, bytes)? } else { Vec::new() };
    let image = if is_ptx { &text } else { bytes };
    let driver = gpu.bind()?;
    let mut log = vec![0u8; 8192];
    let mut options = [ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())];
    let mut raw = ptr::null_mut();
    // SAFETY: PTX is terminated and a cubin describes its own length; the log outlives the call and its size is given.
    let outcome = unsafe {
        let image = image.as_ptr().cast();
        driver.cuModuleLoadDataEx(&mut raw, image, 2, options.as_mut_ptr(), values.as_mut_ptr())
    };
    match outcome {
        Ok(()) => Ok(raw),
        Err(Error::Driver { code: code::UNSUPPORTED_PTX_VERSION, .. }) if is_ptx => {
            let what = format!("the {arch} PTX of this module");
            Err(Error::DriverTooOld { have: gpu.driver_version(), need: cuda_of_ptx(&text), what })
        }
        Err(Error::Driver { call, code, name, text }) => {
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0').trim();
            let separator = if log.is_empty() { "" } else { "\n" };
            Err(Error::Driver {
                call,
                code,
                name,
                text: format!("{text}, loading the {arch} image{separator}{log}"),
            })
        }
        Err(error) => Err(error),
    }
}

/// PTX with a 0 behind it, as the driver takes it.
fn ptx_text(arch: &str, image: &[u8]) -> Result<Vec<u8>> {
    // A header without optional fields; eight bytes of sums at the end.
    const HEADER: [u8; 4] = [0x1f, 0x8b, 8, 0];
    let mut text = match image.strip_prefix(&HEADER) {
        None => image.to_vec(),
        Some(rest) => {
            let packed = rest.get(6..rest.len().saturating_sub(8)).unwrap_or_default();
            let inflated = miniz_oxide::inflate::decompress_to_vec_with_limit(packed, MOST_PTX);
            inflated.map_err(|e| Error::Image {
                arch: arch.to_owned(),
                what: format!("its gzip ends in {:?}", e.status),
            })?
        }
    };
    if text.last() != Some(&0) {
        text.push(0);
    }
    Ok(text)
}

/// Bytes of PTX of one kernel, far more than any has.
const MOST_PTX: usize = 64 << 20;

/// The CUDA version whose driver first took the `.version` of a PTX text; 0 where it has none.
fn cuda_of_ptx(ptx: &[u8]) -> u32 {
    let text = String::from_utf8_lossy(ptx);
    let version = text.lines().find_map(|line| line.trim().strip_prefix(".version"));
    let Some((major, minor)) = version.and_then(|version| version.trim().split_once('.')) else { return 0 };
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else { return 0 };
    match (major, minor) {
        // CUDA 12.6 brought no new version, so 8.6 is 12.7.
        (8, 6..) => 12000 + (minor + 1) * 10,
        (8, _) => 12000 + minor * 10,
        // 9.0 is 13.0, and 7.0 was 11.0.
        _ => (major + 4) * 1000 + minor * 10,
    }
}

/// Whether code for `arch` has `griddepcontrol`: from sm_90 on. Older code leaves the wait out, even on a newer device.
fn can_wait(arch: &str) -> bool {
    let digits = arch
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.parse::<u32>().is_ok_and(|sm| sm >= 90)
}

/// A kernel of a loaded module. Cheap to clone; keeps the module loaded.
#[derive(Clone)]
pub struct Kernel(pub(crate) Arc<Function>);

pub(crate) struct Function {
    pub(crate) module: Arc<Loaded>,
    pub(crate) raw: RawFunction,
    pub(crate) name: String,
    /// The size of each parameter.
    pub(crate) parameters: Vec<usize>,
    /// Whether its code can wait for the kernel ahead of it, and so may be launched programmatically.
    pub(crate) waits: bool,
}

// SAFETY: functions belong to the module, not to a thread.
unsafe impl Send for Function {}
// SAFETY: as above; the driver serialises changes of attributes.
unsafe impl Sync for Function {}

/// What the compiler made of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelAttributes {
    /// Registers of a thread.
    pub registers: usize,
    /// Local memory of a thread in bytes: spills and indexed arrays.
    pub local_bytes: usize,
    /// Static shared memory of a block in bytes.
    pub static_shared_bytes: usize,
    /// The most threads that a block can have.
    pub max_threads: usize,
}

impl Kernel {
    /// Its name in the image.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Allows launches with this much dynamic shared memory; needed above 48 KiB.
    pub fn set_max_dynamic_smem(&self, bytes: u32) -> Result<()> {
        const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
        self.set(MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes)
    }

    /// Allows clusters of more than 8 blocks, which not every GPU has.
    pub fn allow_large_clusters(&self) -> Result<()> {
        const NON_PORTABLE_CLUSTER_SIZE_ALLOWED: c_int = 14;
        self.set(NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
    }

    /// Registers, local and shared memory.
    pub fn attributes(&self) -> Result<KernelAttributes> {
        Ok(KernelAttributes {
            registers: self.attribute(4)?,
            local_bytes: self.attribute(3)?,
            static_shared_bytes: self.attribute(1)?,
            max_threads: self.attribute(0)?,
        })
    }

    /// How many blocks of this size fit one multiprocessor at a time.
    pub fn max_active_blocks(&self, threads: u32, dynamic_shared_bytes: u32) -> Result<usize> {
        let mut blocks = 0;
        let driver = self.0.module.gpu.bind()?;
        // SAFETY: a live function; the driver writes one integer.
        unsafe {
            driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                self.0.raw,
                c_int::try_from(threads).unwrap_or(c_int::MAX),
                dynamic_shared_bytes as usize,
            )
        }
        .map_err(|error| self.blame(error))?;
        Ok(usize::try_from(blocks).unwrap_or(0))
    }

    fn attribute(&self, number: c_int) -> Result<usize> {
        let mut value = 0;
        // SAFETY: a live function; the driver writes one integer.
        unsafe { self.0.module.gpu.bind()?.cuFuncGetAttribute(&mut value, number, self.0.raw)? };
        Ok(usize::try_from(value).unwrap_or(0))
    }

    fn set(&self, number: c_int, value: u32) -> Result<()> {
        let value = c_int::try_from(value).unwrap_or(c_int::MAX);
        // SAFETY: a live function.
        unsafe { self.0.module.gpu.bind()?.cuFuncSetAttribute(self.0.raw, number, value) }
            .map_err(|error| self.blame(error))
    }

    /// Names the kernel in an error of the driver.
    pub(crate) fn blame(&self, error: Error) -> Error {
        match error {
            Error::Driver { .. } => Error::Launch { kernel: self.0.name.clone(), what: error.to_string() },
            other => other,
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({}, parameters of {:?} bytes)", self.0.name, self.0.parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(archs: &[&str], device: (u32, u32), expected: Option<&str>) {
        assert_eq!(choose(archs, device).map(|index| archs[index]), expected);
    }

    #[test]
    fn ptx_is_taken_as_text_and_as_gzip() {
        let ptx = ".version 9.0\n.target sm_90\n".repeat(50);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut gzip, ptx.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        assert!(gzip.len() < ptx.len() / 4);
        let wanted = [ptx.as_bytes(), &[0]].concat();
        for image in [ptx.as_bytes(), &wanted, &gzip] {
            assert_eq!(ptx_text("compute_90", image).unwrap(), wanted);
        }
        let cut = ptx_text("compute_90", &gzip[..gzip.len() / 2]).unwrap_err().to_string();
        assert!(cut.contains("compute_90") && cut.contains("gzip"), "{cut}");
        assert!(ptx_text("compute_90", &gzip[..4]).is_err());
    }

    #[test]
    fn only_code_for_sm_90_and_later_waits() {
        for (arch, waits) in [
            ("sm_90a", true),
            ("compute_90", true),
            ("sm_120", true),
            ("compute_80", false),
            ("sm_75", false),
        ] {
            assert_eq!(can_wait(arch), waits, "{arch}");
        }
    }

    #[test]
    fn a_specific_cubin_runs_on_its_own_architecture_only() {
        let archs = ["compute_80", "sm_90a"];
        check(&archs, (9, 0), Some("sm_90a"));
        check(&archs, (10, 0), Some("compute_80"));
        check(&["sm_90a"], (10, 0), None);
        check(&["sm_100a"], (10, 3), None);
    }

    #[test]
    fn a_portable_cubin_runs_on_later_minor_versions() {
        check(&["sm_86"], (8, 9), Some("sm_86"));
        check(&["sm_86"], (8, 0), None);
        check(&["sm_86"], (9, 0), None);
        check(&["sm_80", "sm_86"], (8, 9), Some("sm_86"));
        check(&["sm_86", "sm_80"], (8, 0), Some("sm_80"));
        check(&["sm_75"], (8, 0), None);
    }

    #[test]
    fn a_specific_image_beats_a_portable_one_and_a_cubin_beats_ptx() {
        check(&["sm_90", "sm_90a", "compute_90a"], (9, 0), Some("sm_90a"));
        check(&["compute_90", "sm_90"], (9, 0), Some("sm_90"));
        check(&["compute_89", "sm_80"], (8, 9), Some("sm_80"));
        check(&["compute_90", "compute_90a"], (9, 0), Some("compute_90a"));
    }

    #[test]
    fn ptx_runs_on_everything_later_unless_specific() {
        check(&["compute_75", "compute_80"], (12, 0), Some("compute_80"));
        check(&["compute_80"], (7, 5), None);
        check(&["compute_90a"], (12, 0), None);
        check(&["compute_100f"], (10, 3), Some("compute_100f"));
        check(&["compute_100f"], (12, 0), None);
        check(&["sm_100f", "sm_100"], (10, 3), Some("sm_100f"));
    }

    #[test]
    fn three_digits_are_two_of_major_version() {
        assert_eq!(Arch::parse("sm_120a").map(|arch| (arch.major, arch.minor)), Some((12, 0)));
        check(&["sm_120"], (12, 1), Some("sm_120"));
        check(&["sm_100"], (12, 0), None);
    }

    #[test]
    fn embedded_devices_take_their_own_cubins_only() {
        check(&["sm_80"], (8, 7), None);
        check(&["sm_87"], (8, 9), None);
        check(&["sm_87"], (8, 7), Some("sm_87"));
        check(&["sm_80", "compute_80"], (8, 7), Some("compute_80"));
    }

    #[test]
    fn what_is_no_architecture_is_passed_over() {
        let archs = ["", "sm_", "sm_a", "sm_9", "sm_9x", "sm_99999", "sm_+90", "lto_90", "compute_8é"];
        check(&archs, (9, 0), None);
        check(&[], (9, 0), None);
    }

    #[test]
    fn the_first_of_several_alike_is_taken() {
        assert_eq!(choose(&["compute_80", "sm_90", "sm_90"], (9, 0)), Some(1));
    }

    #[test]
    fn a_ptx_version_names_its_cuda() {
        assert_eq!(cuda_of_ptx(b"// x\n.version 9.0\n.target sm_80\n"), 13000);
        assert_eq!(cuda_of_ptx(b".version 8.5"), 12050);
        assert_eq!(cuda_of_ptx(b".version 8.8"), 12090);
        assert_eq!(cuda_of_ptx(b".version 7.8"), 11080);
        assert_eq!(cuda_of_ptx(b"no ptx"), 0);
    }
}
