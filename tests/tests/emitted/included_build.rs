//! Copies an emitted model to where a build script would have compiled it.

use std::path::Path;

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=model");
    let out = std::env::var("OUT_DIR").map_err(std::io::Error::other)?;
    copy(Path::new("model"), &Path::new(&out).join("mixed"))
}
