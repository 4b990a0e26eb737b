//! Weights embedded by the assembler are the bytes of the file. The crate forbids `unsafe`, as generated crates do.

#![allow(clippy::unwrap_used)]
#![forbid(unsafe_code)]

bakelite_runtime::embed_weights!(
    /// This crate's manifest, as a file that is there.
    pub fn manifest = bakelite_runtime_test_manifest,
    concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")
);

mod inner {
    bakelite_runtime::embed_weights!(
        pub(crate) fn empty = bakelite_runtime_test_empty,
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/empty.bin")
    );
    bakelite_runtime::embed_weights!(
        // One that does not change: incremental builds do not assemble again for another file's sake.
        pub(crate) fn license = bakelite_runtime_test_license,
        concat!(env!("CARGO_MANIFEST_DIR"), "/../LICENSE-MIT"),
    );
}

#[test]
fn embedded_bytes_are_those_of_the_file_and_aligned() {
    assert_eq!(manifest(), include_bytes!("../Cargo.toml"));
    assert_eq!(inner::license(), include_bytes!("../../LICENSE-MIT"));
    assert_eq!(inner::empty(), b"");
    for bytes in [manifest(), inner::empty(), inner::license()] {
        assert_eq!(bytes.as_ptr().addr() % 256, 0);
    }
}
