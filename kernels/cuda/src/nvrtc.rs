//! NVRTC through dlopen: CUDA C++ to cubin or PTX, with no GPU and no CUDA headers. Knows nothing of problems: text in, code out.

use crate::family::KERNEL_NAME;
use crate::target::Arch;
use cudarc::nvrtc::sys;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The oldest NVRTC that knows every architecture we name, and the newest whose PTX the driver this is built for accepts.
const OLDEST: (i32, i32) = (13, 0);
const NEWEST: (i32, i32) = (13, 0);

/// The compiler. Cheap to copy around by reference; safe to call from many threads at once.
#[derive(Debug)]
pub struct Nvrtc {
    version: (i32, i32),
}

/// What one kernel compiled to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The machine code, loadable as a module.
    pub cubin: Vec<u8>,
    /// Registers of one thread.
    pub registers: u32,
    /// Bytes that one thread spills to local memory: stores and loads together. A kernel of ours must have none.
    pub spill_bytes: u32,
    /// Shared memory declared in the source, bytes.
    pub static_shared: u32,
}

/// Why there is no code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvrtcError {
    /// The library is not where it was looked for.
    Missing {
        /// What was tried, and what the loader said.
        what: String,
    },
    /// The library is too old or too new.
    Version {
        /// What was found.
        found: (i32, i32),
    },
    /// The source does not compile.
    Compile {
        /// The kernel.
        name: String,
        /// What it was compiled for.
        target: String,
        /// NVRTC's messages.
        log: String,
    },
}

impl std::error::Error for NvrtcError {}

impl fmt::Display for NvrtcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NvrtcError::Missing { what } => write!(f, "NVRTC was not found: {what}"),
            NvrtcError::Version { found: (major, minor) } if (*major, *minor) < OLDEST => write!(
                f,
                "NVRTC {major}.{minor} is too old; {}.{} or later 12.x, or {}.{}, is needed",
                OLDEST.0, OLDEST.1, NEWEST.0, NEWEST.1
            ),
            NvrtcError::Version { found: (major, minor) } => write!(
                f,
                "NVRTC {major}.{minor} is newer than {}.{}: its PTX may be too new for the driver; install {}.{}",
                NEWEST.0, NEWEST.1, NEWEST.0, NEWEST.1
            ),
            NvrtcError::Compile { name, target, log } => {
                write!(f, "the kernel `{name}` does not compile for {target}:\n{}", log.trim())
            }
        }
    }
}

impl Nvrtc {
    /// Opens the library in `dir` (as the nvidia-cuda-nvrtc wheel lays it out), or else the system's.
    pub fn open(dir: Option<&Path>) -> Result<Nvrtc, NvrtcError> {
        if let Some(dir) = dir {
            preload(dir)?;
        }
        // SAFETY: only opens the library by name; its initialisers are NVIDIA's and have no preconditions.
        #[allow(unsafe_code)]
        let present = unsafe { sys::is_culib_present() };
        if !present {
            let what = match dir {
                Some(dir) => format!("the library in {} did not stay loaded", dir.display()),
                None => {
                    "no libnvrtc.so.13 on the library path (pip install nvidia-cuda-nvrtc==13.0.88)".into()
                }
            };
            return Err(NvrtcError::Missing { what });
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to live integers.
        #[allow(unsafe_code)]
        let result = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
        if result != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(NvrtcError::Missing { what: format!("nvrtcVersion: {}", message(result)) });
        }
        let found = (major, minor);
        if found < OLDEST || found > NEWEST {
            return Err(NvrtcError::Version { found });
        }
        Ok(Nvrtc { version: found })
    }

    /// Its version, such as (13, 0).
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles `source`, its `KERNEL_NAME` replaced by `name`, to machine code.
    pub fn compile(&self, source: &str, name: &str, arch: Arch) -> Result<Compiled, NvrtcError> {
        let target = arch.name();
        let (program, log) = Program::compile(source, name, &target)?;
        let fail = |what: &str| NvrtcError::Compile {
            name: name.to_owned(),
            target: target.clone(),
            log: format!("{what}\n{log}"),
        };
        let cubin = program.output(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN).map_err(|e| fail(&e))?;
        Ok(Compiled {
            cubin,
            registers: before(&log, " registers").ok_or_else(|| fail("the log names no registers"))?,
            spill_bytes: before(&log, " bytes spill stores").unwrap_or(0)
                + before(&log, " bytes spill loads").unwrap_or(0),
            static_shared: before(&log, " bytes smem").unwrap_or(0),
        })
    }

    /// Compiles `source`, its `KERNEL_NAME` replaced by `name`, to PTX for the virtual architecture `compute` (80, say).
    pub fn compile_ptx(&self, source: &str, name: &str, compute: u32) -> Result<String, NvrtcError> {
        let target = format!("compute_{compute}");
        let (program, log) = Program::compile(source, name, &target)?;
        let ptx = program.output(sys::nvrtcGetPTXSize, sys::nvrtcGetPTX);
        ptx.and_then(|bytes| {
            let text = CStr::from_bytes_until_nul(&bytes).map_err(|e| e.to_string())?;
            Ok(bare(text.to_str().map_err(|e| e.to_string())?))
        })
        .map_err(|e| NvrtcError::Compile {
            name: name.to_owned(),
            target,
            log: format!("{e}\n{log}"),
        })
    }
}

/// PTX without what only people read (indentation, blank lines, comments, spaces between operands) and without constants that
/// nothing names: a quarter of its size, and every generated crate carries it.
fn bare(ptx: &str) -> String {
    let lines: Vec<&str> =
        ptx.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//")).collect();
    let word = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '$' | '%');
    // How often each name occurs.
    let mut names: HashMap<&str, usize> = HashMap::new();
    lines.iter().flat_map(|l| l.split(word)).for_each(|name| *names.entry(name).or_default() += 1);
    let unread = |line: &str| {
        let declared = line
            .strip_prefix(".global .align ")
            .and_then(|l| l.split_once(" = ").map_or(Some(l), |l| Some(l.0)));
        let name = declared.and_then(|l| l.trim_end_matches(';').rsplit(' ').next());
        name.is_some_and(|name| names.get(name) == Some(&1))
    };
    // Names that nobody outside a kernel sees need not say whose they are.
    let entries = lines.iter().filter_map(|l| l.split_once(".entry ")?.1.split_once('('));
    let own: Vec<String> = entries.map(|(name, _)| format!("{name}_param_")).collect();
    let mut text = String::new();
    for line in lines.iter().filter(|l| !unread(l)) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let line = words.join(" ").replace(", ", ",").replace("$L__BB0_", "$L");
        text += &own.iter().fold(line, |line, prefix| line.replace(prefix, "param_"));
        text.push('\n');
    }
    text
}

/// Opens both libraries by path and keeps them open, so that cudarc's look-up by name finds them.
fn preload(dir: &Path) -> Result<(), NvrtcError> {
    static OPEN: Mutex<Vec<(PathBuf, libloading::Library)>> = Mutex::new(Vec::new());
    let mut open = OPEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // The builtins first: libnvrtc has no RUNPATH and would not find them.
    for file in ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"] {
        let path = dir.join(file);
        if open.iter().any(|(p, _)| *p == path) {
            continue;
        }
        // SAFETY: NVIDIA's libraries, whose initialisers have no preconditions; never closed.
        #[allow(unsafe_code)]
        let library = unsafe { libloading::Library::new(&path) }
            .map_err(|e| NvrtcError::Missing { what: format!("{}: {e}", path.display()) })?;
        open.push((path, library));
    }
    Ok(())
}

/// A compiled program, destroyed when dropped.
struct Program(sys::nvrtcProgram);

type SizeOf = unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult;
type Read = unsafe fn(sys::nvrtcProgram, *mut std::ffi::c_char) -> sys::nvrtcResult;

impl Program {
    fn compile(source: &str, name: &str, target: &str) -> Result<(Program, String), NvrtcError> {
        let fail =
            |log: String| NvrtcError::Compile { name: name.to_owned(), target: target.to_owned(), log };
        let text =
            |s: String| CString::new(s).map_err(|e| fail(format!("the source holds a zero byte: {e}")));
        let source = text(source.replace(KERNEL_NAME, name))?;
        let file = text(format!("{name}.cu"))?;
        let options = [
            "--std=c++17".to_owned(),
            "-default-device".to_owned(),
            format!("--gpu-architecture={target}"),
            "--ptxas-options=-v".to_owned(),
            // A cached result comes without the log that names registers and spills; and a build that writes into the
            // user's home is no reproducible one.
            "--no-cache".to_owned(),
        ]
        .into_iter()
        // ptxas does not run for a virtual architecture.
        .filter(|o| !(target.starts_with("compute_") && o.starts_with("--ptxas")))
        .map(text)
        .collect::<Result<Vec<_>, _>>()?;
        let options: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();

        let mut program = Program(std::ptr::null_mut());
        // SAFETY: the strings live across the call, which copies them; no headers are passed.
        #[allow(unsafe_code)]
        let result = unsafe {
            sys::nvrtcCreateProgram(
                &mut program.0,
                source.as_ptr(),
                file.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        if result != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(fail(message(result)));
        }
        // SAFETY: the program was created above, and the option strings live across the call.
        #[allow(unsafe_code)]
        let result = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as i32, options.as_ptr()) };
        let log = program.output(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog).map_err(&fail)?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        if result != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(fail(format!("{}\n{log}", message(result))));
        }
        Ok((program, log))
    }

    fn output(&self, size_of: SizeOf, read: Read) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: the program is live, and `size` is written before it is used.
        #[allow(unsafe_code)]
        let result = unsafe { size_of(self.0, &mut size) };
        if result != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(message(result));
        }
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size NVRTC asked for.
        #[allow(unsafe_code)]
        let result = unsafe { read(self.0, bytes.as_mut_ptr().cast()) };
        if result != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(message(result));
        }
        Ok(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: created by nvrtcCreateProgram and destroyed once. A failure leaves nothing to do.
            #[allow(unsafe_code)]
            let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
        }
    }
}

fn message(result: sys::nvrtcResult) -> String {
    // SAFETY: NVRTC returns a pointer to a static string for every value.
    #[allow(unsafe_code)]
    let text = unsafe { CStr::from_ptr(sys::nvrtcGetErrorString(result)) };
    text.to_string_lossy().into_owned()
}

/// The largest number that stands right before `words` in ptxas's log.
fn before(log: &str, words: &str) -> Option<u32> {
    log.match_indices(words)
        .filter_map(|(at, _)| {
            let digits = log[..at].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |p| p + 1);
            log[digits..at].parse().ok()
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_ptx_keeps_what_is_read() {
        let ptx = "// Generated\n.version 9.0\n.global .align 4 .u32 BM = 128;\n.global .align 4 .u32 EARLY;\n\
                   .global .align 4 .b8 table[8] = {1, 2};\n.global .align 4 .u32 seen = 3;\n\n\
                   .extern .shared .align 128 .b8 shared[];\n\t// begin\n\tld.global.u32 \t%r1, [seen];\n\
                   .visible .entry kernel(\n\t.param .u64 kernel_param_0,\n\t.param .u64 kernel_param_1\n)\n{\n\
                   \tld.param.u64 \t%rd1, [kernel_param_1];\n\
                   \tmad.lo.s32 \t%r3, %r1, %r2, 4;\n$L__BB0_1:\n\t@%p1 bra \t$L__BB0_1;\n";
        let want = ".version 9.0\n.global .align 4 .b8 table[8] = {1,2};\n.global .align 4 .u32 seen = 3;\n\
                    .extern .shared .align 128 .b8 shared[];\nld.global.u32 %r1,[seen];\n\
                    .visible .entry kernel(\n.param .u64 param_0,\n.param .u64 param_1\n)\n{\nld.param.u64 %rd1,[param_1];\n\
                    mad.lo.s32 %r3,%r1,%r2,4;\n$L1:\n@%p1 bra $L1;\n";
        assert_eq!(bare(ptx), want);
    }

    #[test]
    fn reads_the_log() {
        let log = "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
                   ptxas info    : Used 10 registers, used 1 barriers, 384 bytes smem";
        assert_eq!(before(log, " registers"), Some(10));
        assert_eq!(before(log, " bytes spill stores"), Some(4));
        assert_eq!(before(log, " bytes spill loads"), Some(12));
        assert_eq!(before(log, " bytes smem"), Some(384));
        assert_eq!(before(log, " bytes cmem"), None);
    }

    #[test]
    fn errors_say_where_and_what() {
        let missing = Nvrtc::open(Some(Path::new("/no/such/place"))).unwrap_err().to_string();
        assert!(missing.contains("/no/such/place/libnvrtc-builtins.so.13.0"), "{missing}");
        let old = NvrtcError::Version { found: (12, 4) }.to_string();
        assert!(old.contains("12.4") && old.contains("too old"), "{old}");
        let new = NvrtcError::Version { found: (13, 2) }.to_string();
        assert!(new.contains("13.2") && new.contains("too new for the driver"), "{new}");
    }
}
