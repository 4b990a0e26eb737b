//! Everything that can go wrong at run time, as values: what, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// The result of a fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The NVIDIA driver is not installed, or what was found in its place is unusable.
    NoDriver {
        /// What was looked for and what was found.
        why: String,
    },
    /// The driver is there but older than what is asked of it. Versions are in the driver's notation: 13000 is 13.0.
    DriverTooOld {
        /// The CUDA version of the installed driver.
        have: u32,
        /// The CUDA version needed.
        need: u32,
        /// What needs it.
        what: String,
    },
    /// There is no device with this ordinal.
    NoDevice {
        /// The ordinal asked for.
        ordinal: usize,
        /// How many devices there are.
        count: usize,
    },
    /// The device, or page-locked host memory, is full.
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// Bytes free on the device.
        free: usize,
        /// Bytes of the device.
        total: usize,
        /// Which memory: `device` or `pinned host`.
        memory: &'static str,
    },
    /// A driver call failed.
    Driver {
        /// The call, for example `cuMemcpyHtoDAsync_v2`.
        call: &'static str,
        /// The driver's code.
        code: u32,
        /// The name of the code, for example `CUDA_ERROR_ILLEGAL_ADDRESS`.
        name: String,
        /// The driver's sentence, with the JIT's log where there is one.
        text: String,
    },
    /// No image of the module runs on the device.
    NoImage {
        /// The architecture of the device, for example `sm_86`.
        device_arch: String,
        /// The architectures of the images.
        have: Vec<String>,
    },
    /// An image is damaged.
    Image {
        /// Its architecture.
        arch: String,
        /// What is wrong with it.
        what: String,
    },
    /// The module has no such kernel.
    NoKernel {
        /// The name asked for.
        kernel: String,
    },
    /// A launch was refused, by this crate or by the driver.
    Launch {
        /// The kernel.
        kernel: String,
        /// The reason.
        what: String,
    },
    /// The weights are not the ones that the crate was generated with.
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: WeightsFault,
    },
    /// A tensor has another shape than the model wants.
    Shape {
        /// The name of the tensor; empty where it is not known.
        tensor: String,
        /// The shape wanted.
        expected: Vec<usize>,
        /// The shape, or the number of elements, given.
        got: Vec<usize>,
    },
    /// The value of a dynamic dimension is outside the range that the model was compiled for.
    Range {
        /// The name of the dimension.
        symbol: String,
        /// The smallest value allowed.
        low: i64,
        /// The largest value allowed.
        high: i64,
        /// The value given.
        got: i64,
    },
    /// A copy reaches outside a buffer.
    Bounds {
        /// Which buffer of which operation.
        what: &'static str,
        /// The first byte.
        offset: usize,
        /// How many bytes.
        bytes: usize,
        /// The size of the buffer.
        size: usize,
    },
    /// A step of a model refused its data, as an index outside its dimension.
    Step {
        /// The step.
        step: String,
        /// What it refused.
        what: String,
    },
    /// Something is in use in a way that excludes this call.
    Busy {
        /// What is in use, and by what.
        what: String,
    },
}

/// What is wrong with a weights file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightsFault {
    /// It cannot be opened or mapped; the system's reason.
    Unreadable(String),
    /// It has another length.
    Length {
        /// Bytes wanted.
        expected: u64,
        /// Bytes found.
        got: u64,
    },
    /// It has another content.
    Hash {
        /// BLAKE3 wanted, in hexadecimal.
        expected: String,
        /// BLAKE3 found.
        got: String,
    },
}

impl Error {
    /// Names the tensor of a shape error that was found where the name was not known.
    #[must_use]
    pub fn of_tensor(mut self, name: &str) -> Error {
        if let Error::Shape { tensor, .. } = &mut self {
            name.clone_into(tensor);
        }
        self
    }

    /// The driver's code, where the error came from the driver.
    pub fn driver_code(&self) -> Option<u32> {
        match self {
            Error::Driver { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Refuses the value of a dynamic dimension outside `low..=high`.
pub fn check_range(symbol: &str, low: i64, high: i64, got: i64) -> Result<()> {
    if (low..=high).contains(&got) {
        return Ok(());
    }
    Err(Error::Range { symbol: symbol.to_owned(), low, high, got })
}

/// `13000` is shown as `13.0`.
struct Version(u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// Bytes in the unit that a person reads, exact below 10 MiB.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bytes(n) = *self;
        if n < 10 << 20 {
            write!(f, "{n} bytes")
        } else {
            write!(f, "{:.1} MiB", n as f64 / f64::from(1 << 20))
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoDriver { why } => write!(
                f,
                "no usable NVIDIA driver: {why}; install the NVIDIA driver (in a container, run with GPU access), \
                 the CUDA toolkit is not needed"
            ),
            Error::DriverTooOld { have, need, what } => write!(
                f,
                "the NVIDIA driver is too old: it supports CUDA {}, and {what} needs CUDA {}; update the driver",
                Version(*have),
                Version(*need)
            ),
            Error::NoDevice { count: 0, .. } => {
                write!(
                    f,
                    "no CUDA device: the driver is installed and sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"
                )
            }
            Error::NoDevice { ordinal, count } => write!(
                f,
                "no CUDA device {ordinal}: there {} {count}, numbered from 0; check CUDA_VISIBLE_DEVICES",
                if *count == 1 { "is" } else { "are" }
            ),
            Error::OutOfMemory { requested, free, total, memory } => write!(
                f,
                "out of {memory} memory: {} asked for, and {} of the device's {} are free; use a smaller batch, or \
                 close what else uses the GPU",
                Bytes(*requested),
                Bytes(*free),
                Bytes(*total)
            ),
            Error::Driver { call, code, name, text } => {
                write!(f, "{call} failed with {name} ({code}): {text}")
            }
            Error::NoImage { device_arch, have } => write!(
                f,
                "no kernel image runs on this GPU ({device_arch}): there are images for {}; compile the model for \
                 {device_arch}, or with portable PTX",
                if have.is_empty() { "nothing".to_owned() } else { have.join(", ") }
            ),
            Error::Image { arch, what } => {
                write!(f, "the {arch} image is damaged: {what}; generate the crate again")
            }
            Error::NoKernel { kernel } => {
                write!(
                    f,
                    "the module has no kernel {kernel}: image and code come from different compilations"
                )
            }
            Error::Launch { kernel, what } => write!(f, "cannot launch kernel {kernel}: {what}"),
            Error::Weights { path, fault } => write!(f, "weights file {}: {fault}", path.display()),
            Error::Shape { tensor, expected, got } => {
                let name = if tensor.is_empty() { "a tensor" } else { tensor };
                write!(f, "{name} has the wrong shape: expected {expected:?}, got {got:?}")
            }
            Error::Range { symbol, low, high, got } => write!(
                f,
                "dimension {symbol} is {got}, and the model was compiled for {low} to {high}; compile it with a \
                 wider range"
            ),
            Error::Bounds { what, offset, bytes, size } => {
                write!(f, "{what}: {bytes} bytes from byte {offset} do not fit a buffer of {size} bytes")
            }
            Error::Step { step, what } => write!(f, "step {step}: {what}"),
            Error::Busy { what } => write!(f, "busy: {what}"),
        }
    }
}

impl fmt::Display for WeightsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightsFault::Unreadable(why) => {
                write!(f, "cannot be read ({why}); the file made with the crate must lie at this path")
            }
            WeightsFault::Length { expected, got } => write!(
                f,
                "has {got} bytes instead of {expected}; it is cut off or belongs to another version of the model"
            ),
            WeightsFault::Hash { expected, got } => {
                write!(
                    f,
                    "has BLAKE3 {got} instead of {expected}; it is damaged or belongs to another version of the model"
                )
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: Error, text: &str) {
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn messages_say_what_where_and_what_to_do() {
        check(
            Error::NoDriver { why: "libcuda.so.1 was not found".into() },
            "no usable NVIDIA driver: libcuda.so.1 was not found; install the NVIDIA driver (in a container, run with \
             GPU access), the CUDA toolkit is not needed",
        );
        check(
            Error::DriverTooOld { have: 12020, need: 13000, what: "the PTX of this model".into() },
            "the NVIDIA driver is too old: it supports CUDA 12.2, and the PTX of this model needs CUDA 13.0; update the driver",
        );
        check(
            Error::NoDevice { ordinal: 2, count: 1 },
            "no CUDA device 2: there is 1, numbered from 0; check CUDA_VISIBLE_DEVICES",
        );
        check(
            Error::NoDevice { ordinal: 0, count: 0 },
            "no CUDA device: the driver is installed and sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES",
        );
        check(
            Error::OutOfMemory { requested: 3 << 30, free: 1 << 20, total: 80 << 30, memory: "device" },
            "out of device memory: 3072.0 MiB asked for, and 1048576 bytes of the device's 81920.0 MiB are free; use a \
             smaller batch, or close what else uses the GPU",
        );
        check(
            Error::NoImage { device_arch: "sm_75".into(), have: vec!["sm_90a".into(), "compute_80".into()] },
            "no kernel image runs on this GPU (sm_75): there are images for sm_90a, compute_80; compile the model for \
             sm_75, or with portable PTX",
        );
        check(
            Error::Launch { kernel: "gemm_3".into(), what: "it takes 4 arguments, 3 were given".into() },
            "cannot launch kernel gemm_3: it takes 4 arguments, 3 were given",
        );
        check(
            Error::Shape { tensor: String::new(), expected: vec![2, 3], got: vec![5] },
            "a tensor has the wrong shape: expected [2, 3], got [5]",
        );
    }

    #[test]
    fn a_shape_error_can_be_given_its_tensor() {
        let error = Error::Shape { tensor: String::new(), expected: vec![2], got: vec![3] };
        check(error.of_tensor("image"), "image has the wrong shape: expected [2], got [3]");
    }

    #[test]
    fn ranges_are_inclusive() {
        assert_eq!(check_range("batch", 1, 8, 1), Ok(()));
        assert_eq!(check_range("batch", 1, 8, 8), Ok(()));
        let error = check_range("batch", 1, 8, 9).unwrap_err();
        check(
            error,
            "dimension batch is 9, and the model was compiled for 1 to 8; compile it with a wider range",
        );
    }
}
