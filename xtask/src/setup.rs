//! NVRTC without a CUDA installation: two libraries out of NVIDIA's PyPI wheel, into `.bakelite/nvrtc`.

use std::path::{Path, PathBuf};
use std::process::Command;

const WHEEL: &str = "nvidia-cuda-nvrtc==13.0.88";
const LIBRARIES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc-builtins.so.13.0"];

/// The folder with both libraries, installed now if they are not there.
pub(crate) fn nvrtc(root: &Path) -> Result<PathBuf, String> {
    let folder = root.join(".bakelite/nvrtc");
    if LIBRARIES.iter().all(|l| folder.join(l).is_file()) {
        return Ok(folder);
    }
    println!("Installing NVRTC from the wheel {WHEEL} (90 MB, once) ...");
    let temporary = root.join(".bakelite/download");
    let io = |what: &Path| {
        let what = what.display().to_string();
        move |e: std::io::Error| format!("{what}: {e}")
    };
    let _ = std::fs::remove_dir_all(&temporary);
    std::fs::create_dir_all(&temporary).map_err(io(&temporary))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]);
    pip.arg("--target").arg(&temporary).arg(WHEEL);
    match pip.status() {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(format!("python3 -m pip install {WHEEL}: {status}")),
        Err(e) => return Err(format!("python3 with pip is needed to install NVRTC: {e}")),
    }
    let from = temporary.join("nvidia/cu13/lib");
    std::fs::create_dir_all(&folder).map_err(io(&folder))?;
    for library in LIBRARIES {
        std::fs::rename(from.join(library), folder.join(library)).map_err(io(&from.join(library)))?;
    }
    std::fs::remove_dir_all(&temporary).map_err(io(&temporary))?;
    Ok(folder)
}
