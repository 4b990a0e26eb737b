//! `Cargo.toml` of a generated crate, and of the copies of our runtime that it may carry.

use crate::model::{Model, Storage};

/// How a generated crate finds the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependencies {
    /// From the registry.
    Registry(String),
    /// From folders: of the runtime, and of the host kernels.
    Path(String, String),
    /// Copies inside the crate.
    Vendored,
}

/// The crate's manifest.
pub fn manifest(m: &Model, dependencies: &Dependencies) -> String {
    let (cuda, host) = (!m.cuda.is_empty(), m.host.is_some());
    let both = cuda && host;
    let source = |package: &str, folder: &str| match dependencies {
        Dependencies::Registry(version) => format!("version = \"{version}\""),
        Dependencies::Path(runtime, kernels) => {
            let path = if package == "bakelite-runtime" { runtime } else { kernels };
            format!("path = {path:?}")
        }
        Dependencies::Vendored => format!("path = \"{folder}\""),
    };
    let file = m.cuda.iter().map(|c| &c.weights).chain(m.host.iter().map(|h| &h.weights));
    let file = file.into_iter().any(|w| w.storage == Storage::File);
    let features = if file { ", features = [\"file-weights\"]" } else { "" };
    let runtime = source("bakelite-runtime", "bakelite-runtime");
    let mut text = format!(
        "[package]\nname = {:?}\nversion = \"0.1.0\"\nedition = \"2024\"\ndescription = {:?}\npublish = false\n\n",
        m.name,
        format!("The model {}, compiled by Bakelite", m.title.replace(['"', '\\'], "'")),
    );
    let default = if cuda { "cuda" } else { "host" };
    text += &format!("[features]\ndefault = [\"{default}\"]\n");
    if cuda {
        text += "# NVIDIA GPUs; needs only the driver.\ncuda = []\n";
    }
    if host {
        let needs = if both { "\"dep:bakelite-host\"" } else { "" };
        text += &format!("# This machine's CPU.\nhost = [{needs}]\n");
    }
    text += &format!("\n[dependencies]\nbakelite-runtime = {{ {runtime}{features} }}\n");
    if host {
        let optional = if both { ", optional = true" } else { "" };
        text += &format!("bakelite-host = {{ {}{optional} }}\n", source("bakelite-host", "bakelite-host"));
    }
    text += "\n[profile.release]\nlto = true\ncodegen-units = 1\npanic = \"abort\"\nstrip = true\n";
    if !host {
        text += "# The work is the GPU's.\nopt-level = \"s\"\n";
    }
    // The host kernels are unusable without optimisation.
    text += "\n[profile.dev]\nopt-level = 1\n\n[profile.dev.package.\"*\"]\nopt-level = 2\n";
    text += "\n# A crate of its own, wherever it lies.\n[workspace]\n";
    text
}

/// The manifest of the copy of `bakelite-runtime`.
pub fn vendored_runtime(version: &str) -> String {
    format!(
        "[package]\nname = \"bakelite-runtime\"\nversion = \"{version}\"\nedition = \"2024\"\n\
         description = \"The runtime of a Bakelite model: driver, memory, modules, graphs, errors\"\n\
         license = \"MIT OR Apache-2.0\"\npublish = false\n\n\
         [features]\ndefault = []\nfile-weights = [\"dep:memmap2\", \"dep:blake3\"]\nsources = []\n\n\
         [dependencies]\n{}\n[lib]\ntest = false\ndoctest = false\n",
        RUNTIME.iter().map(|d| format!("{d}\n")).collect::<String>()
    )
}

/// The manifest of the copy of `bakelite-host`.
pub fn vendored_host(version: &str) -> String {
    format!(
        "[package]\nname = \"bakelite-host\"\nversion = \"{version}\"\nedition = \"2024\"\n\
         description = \"Portable host kernels of a Bakelite model\"\n\
         license = \"MIT OR Apache-2.0\"\npublish = false\n\n\
         [features]\nsources = []\n\n[dependencies]\n{}\n[lib]\ntest = false\ndoctest = false\n",
        HOST.iter().map(|d| format!("{d}\n")).collect::<String>()
    )
}

const RUNTIME: &[&str] = &[
    "blake3 = { version = \"1.8.7\", features = [\"pure\"], optional = true }",
    "bytemuck = { version = \"1.25.2\", features = [\"extern_crate_alloc\", \"min_const_generics\"] }",
    "cudarc = { version = \"0.19.10\", default-features = false, features = [\"std\", \"dynamic-loading\", \"cuda-13000\", \"driver\"] }",
    "half = { version = \"2.7.1\", features = [\"bytemuck\", \"num-traits\"] }",
    "libloading = \"0.9.0\"",
    "memmap2 = { version = \"0.9.12\", optional = true }",
    "miniz_oxide = { version = \"0.9.1\", default-features = false, features = [\"with-alloc\"] }",
];

const HOST: &[&str] = &[
    "bytemuck = { version = \"1.25.2\", features = [\"extern_crate_alloc\", \"min_const_generics\"] }",
    "gemm = { version = \"0.19.0\", default-features = false, features = [\"std\", \"rayon\", \"f16\", \"x86-v4\"] }",
    "half = { version = \"2.7.1\", features = [\"bytemuck\", \"num-traits\"] }",
    "rayon = \"1.12.0\"",
];
