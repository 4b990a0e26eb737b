//! The weights of a model: embedded in the binary, or in a file beside it.

use std::path::PathBuf;

/// Embeds a file as a function that returns its bytes, aligned to 256.
///
/// `embed_weights!(pub(crate) fn weights = resnet50_weights, concat!(env!("CARGO_MANIFEST_DIR"), "/weights.bin"));`
///
/// The name after `=` is a linker symbol and must be unique in the program. The path must be absolute, without quotes
/// and backslashes. The assembler includes the file, which the compiler never sees: `include_bytes!` takes ten times
/// the time and several times the memory. A build script should print `rerun-if-changed` for the file.
#[macro_export]
macro_rules! embed_weights {
    ($(#[$attribute:meta])* $visible:vis fn $name:ident = $symbol:ident, $path:expr $(,)?) => {
        // On x86-64 Linux the bytes go to a section for large data, which may lie farther than 2 GiB from the code.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        ::core::arch::global_asm!(
            concat!(".pushsection .lrodata.", stringify!($symbol), ",\"al\",@progbits"),
            $crate::__weights_body!("", $symbol, $path),
            options(raw)
        );
        #[cfg(all(not(all(target_arch = "x86_64", target_os = "linux")), not(windows), not(target_vendor = "apple")))]
        ::core::arch::global_asm!(
            concat!(".pushsection .rodata.", stringify!($symbol), ",\"a\",%progbits"),
            $crate::__weights_body!("", $symbol, $path),
            options(raw)
        );
        #[cfg(windows)]
        ::core::arch::global_asm!(
            ".pushsection .rdata,\"dr\"",
            $crate::__weights_body!("", $symbol, $path),
            options(raw)
        );
        #[cfg(target_vendor = "apple")]
        ::core::arch::global_asm!(
            ".pushsection __TEXT,__const",
            $crate::__weights_body!("_", $symbol, $path),
            options(raw)
        );

        $(#[$attribute])*
        $visible fn $name() -> &'static [u8] {
            unsafe extern "C" {
                // The length, in a block of 256 bytes; the file follows.
                static $symbol: u64;
            }
            // SAFETY: the assembly above defines the symbol: a length, and 256 bytes further as many bytes, never
            // written.
            unsafe { $crate::weights::embedded(&raw const $symbol) }
        }
    };
}

/// The part of [`embed_weights!`] that is the same in every object format.
#[doc(hidden)]
#[macro_export]
macro_rules! __weights_body {
    ($prefix:literal, $symbol:ident, $path:expr) => {
        concat!(
            "\n.globl ",
            $prefix,
            stringify!($symbol),
            "\n.p2align 8\n",
            $prefix,
            stringify!($symbol),
            ":",
            "\n.quad 992f - 991f",
            "\n.p2align 8\n991:",
            "\n.incbin \"",
            $path,
            "\"",
            "\n992:",
            // A byte after the end, so that an empty file still has an address of its own.
            "\n.byte 0\n.popsection\n"
        )
    };
}

/// The bytes behind the symbol of [`embed_weights!`].
///
/// # Safety
/// `symbol` is the address of a length, and that many bytes that are never written lie 256 bytes after it.
#[doc(hidden)]
pub unsafe fn embedded(symbol: *const u64) -> &'static [u8] {
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts(symbol.cast::<u8>().add(256), symbol.read() as usize) }
}

/// The path of a file beside the running program, where a deployed weights file lies; `name` itself if the program's
/// own path is not known.
pub fn beside_program(name: &str) -> PathBuf {
    match std::env::current_exe() {
        Ok(program) => program.with_file_name(name),
        Err(_) => PathBuf::from(name),
    }
}

#[cfg(feature = "file-weights")]
pub use file::WeightsFile;

#[cfg(feature = "file-weights")]
mod file {
    use std::fs::File;
    use std::num::NonZero;
    use std::ops::Deref;
    use std::path::Path;

    use blake3::hazmat::{
        ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
    };
    use memmap2::Mmap;

    use crate::error::{Error, Result, WeightsFault};

    /// A weights file mapped into memory, the one that the crate was generated with.
    #[derive(Debug)]
    pub struct WeightsFile {
        map: Mmap,
    }

    impl WeightsFile {
        /// Maps the file and checks its length and its BLAKE3 hash (64 hexadecimal digits).
        ///
        /// The file must not be changed while it is mapped.
        pub fn open(path: impl AsRef<Path>, expected_len: u64, expected_blake3: &str) -> Result<WeightsFile> {
            let file = WeightsFile::map(path.as_ref(), expected_len)?;
            file.check(path.as_ref(), expected_blake3)?;
            Ok(file)
        }

        /// What `read` makes of the file's bytes, if the file is the right one: other threads bring it into memory and hash it
        /// meanwhile, while a GPU just opened is still getting ready. `read` must not trust what the bytes say; their number
        /// is right.
        pub fn read<T>(
            path: impl AsRef<Path>,
            expected_len: u64,
            expected_blake3: &str,
            read: impl FnOnce(&[u8]) -> Result<T>,
        ) -> Result<T> {
            let path = path.as_ref();
            let file = WeightsFile::map(path, expected_len)?;
            std::thread::scope(|scope| {
                let check = scope.spawn(|| file.check(path, expected_blake3));
                let made = read(&file.map);
                // That the file is another one explains whatever else went wrong.
                check.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                made
            })
        }

        fn map(path: &Path, expected_len: u64) -> Result<WeightsFile> {
            let refuse = |fault| Error::Weights { path: path.to_owned(), fault };
            let unreadable = |error: std::io::Error| refuse(WeightsFault::Unreadable(error.to_string()));
            let file = File::open(path).map_err(unreadable)?;
            let got = file.metadata().map_err(unreadable)?.len();
            if got != expected_len {
                return Err(refuse(WeightsFault::Length { expected: expected_len, got }));
            }
            // SAFETY: the map is read only; that nobody changes the file meanwhile is required above, as of every
            // mapped file.
            let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
            Ok(WeightsFile { map })
        }

        fn check(&self, path: &Path, expected_blake3: &str) -> Result<()> {
            // All of it is wanted, and soon: on a disk, reads then run ahead of the hash. Without that it is only slower.
            #[cfg(unix)]
            let _ = self.map.advise(memmap2::Advice::WillNeed);
            let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
            let got = hash(&self.map, cores.min(self.map.len() / BYTES_OF_THREAD)).to_hex();
            if !got.eq_ignore_ascii_case(expected_blake3) {
                let (expected, got) = (expected_blake3.to_owned(), got.to_string());
                return Err(Error::Weights {
                    path: path.to_owned(),
                    fault: WeightsFault::Hash { expected, got },
                });
            }
            Ok(())
        }
    }

    /// One thread hashes as much in some 20 ms, of which a second one would spare half.
    const BYTES_OF_THREAD: usize = 64 << 20;

    /// BLAKE3 is a tree: threads hash parts of it, whose values are then joined.
    fn hash(bytes: &[u8], threads: usize) -> blake3::Hash {
        if threads < 2 {
            return blake3::hash(bytes);
        }
        let [left, right] = halves(bytes, 0, threads);
        merge_subtrees_root(&left, &right, Mode::Hash)
    }

    /// The values of the two parts of a tree that begins at byte `at` of the file, by at least two threads.
    fn halves(bytes: &[u8], at: u64, threads: usize) -> [ChainingValue; 2] {
        let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
        // The left part may be much the larger; each gets threads by its size.
        let for_left = (threads * left.len() / bytes.len()).clamp(1, threads - 1);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| subtree(left, at, for_left));
            let second = subtree(right, at + left.len() as u64, threads - for_left);
            [first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), second]
        })
    }

    fn subtree(bytes: &[u8], at: u64, threads: usize) -> ChainingValue {
        if threads < 2 {
            let mut hasher = blake3::Hasher::new();
            return hasher.set_input_offset(at).update(bytes).finalize_non_root();
        }
        let [left, right] = halves(bytes, at, threads);
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    }

    impl Deref for WeightsFile {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            &self.map
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const BYTES: &[u8] = b"weights";

        #[track_caller]
        fn refused(path: &Path, len: u64, hash: &str) -> WeightsFault {
            match WeightsFile::open(path, len, hash) {
                Err(Error::Weights { path: named, fault }) => {
                    assert_eq!(named, path);
                    fault
                }
                other => panic!("{other:?}"),
            }
        }

        #[test]
        fn length_and_hash_are_checked() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("weights.bin");
            let hash = blake3::hash(BYTES).to_hex().to_string();
            let missing = refused(&path, 7, &hash);
            assert!(matches!(missing, WeightsFault::Unreadable(_)), "{missing:?}");

            std::fs::write(&path, BYTES).unwrap();
            assert_eq!(&*WeightsFile::open(&path, 7, &hash).unwrap(), BYTES);
            assert_eq!(&*WeightsFile::open(&path, 7, &hash.to_uppercase()).unwrap(), BYTES);

            std::fs::write(&path, &BYTES[..5]).unwrap();
            assert_eq!(refused(&path, 7, &hash), WeightsFault::Length { expected: 7, got: 5 });

            std::fs::write(&path, b"weightz").unwrap();
            let got = blake3::hash(b"weightz").to_hex().to_string();
            assert_eq!(refused(&path, 7, &hash), WeightsFault::Hash { expected: hash, got });

            std::fs::write(&path, b"").unwrap();
            assert!(WeightsFile::open(&path, 0, &blake3::hash(b"").to_hex()).unwrap().is_empty());
        }

        #[test]
        fn threads_hash_to_the_same() {
            let bytes: Vec<u8> = (0..300_001u32).map(|i| (i * 7 + i / 251) as u8).collect();
            for len in [0, 1, 1024, 65_537, 131_072, 262_144, 262_145, 299_999, 300_001] {
                let bytes = &bytes[..len];
                let expected = blake3::hash(bytes);
                for threads in (0..=12).filter(|threads| threads * 2048 <= len) {
                    assert_eq!(hash(bytes, threads), expected, "{len} bytes, {threads} threads");
                }
            }
        }

        #[test]
        fn what_is_read_counts_only_if_the_hash_is_right() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("weights.bin");
            let hash = blake3::hash(BYTES).to_hex().to_string();
            std::fs::write(&path, BYTES).unwrap();
            assert_eq!(WeightsFile::read(&path, 7, &hash, |bytes| Ok(bytes.to_vec())).unwrap(), BYTES);
            let other =
                || Error::Weights { path: path.clone(), fault: WeightsFault::Unreadable("read".into()) };
            let failed = WeightsFile::read::<()>(&path, 7, &hash, |_| Err(other())).unwrap_err();
            assert_eq!(failed.to_string(), other().to_string());

            std::fs::write(&path, b"weightz").unwrap();
            for read in
                [|bytes: &[u8]| Ok(bytes.len()), |_: &[u8]| Err(Error::NoDevice { ordinal: 0, count: 0 })]
            {
                match WeightsFile::read(&path, 7, &hash, read) {
                    Err(Error::Weights { fault: WeightsFault::Hash { expected, .. }, .. }) => {
                        assert_eq!(expected, hash);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }

        #[test]
        fn the_message_names_file_and_both_values() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("w.bin");
            std::fs::write(&path, BYTES).unwrap();
            let error = WeightsFile::open(&path, 9, "00").unwrap_err();
            let expected = format!(
                "weights file {}: has 7 bytes instead of 9; it is cut off or belongs to another version of the model",
                path.display()
            );
            assert_eq!(error.to_string(), expected);
        }
    }
}
