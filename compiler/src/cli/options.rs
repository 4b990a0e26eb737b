//! Arguments that several subcommands share.

use super::{Environment, Failure, Outcome};
use bakelite::onnx::{ImportOptions, Source};
use bakelite::passes;
use bakelite::tune::Tactics;
use bakelite_kernels::{Nvrtc, Range};
use std::path::{Path, PathBuf};

/// The model and its symbols.
#[derive(clap::Args)]
pub(crate) struct ModelArguments {
    /// The ONNX file.
    pub(crate) model: PathBuf,
    /// Range of a dynamic size, and the value to tune for, such as batch=1..64:8; may be repeated.
    #[arg(long, value_name = "NAME=MIN..MAX[:OPT]", value_parser = symbol)]
    pub(crate) symbol: Vec<(String, Range)>,
    /// Fixed value of a dynamic size, such as batch=4; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = bind)]
    pub(crate) bind: Vec<(String, i64)>,
}

impl ModelArguments {
    pub(crate) fn source(&self) -> Outcome<Source> {
        Ok(Source::open(&self.model)?)
    }

    pub(crate) fn import(&self) -> ImportOptions {
        ImportOptions {
            symbols: self.symbol.iter().cloned().collect(),
            bind: self.bind.iter().cloned().collect(),
            ..ImportOptions::default()
        }
    }

    /// The file's name without its extension.
    pub(crate) fn stem(&self) -> String {
        self.model.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned())
    }
}

fn symbol(text: &str) -> Result<(String, Range), String> {
    let bad = || "expected NAME=MIN..MAX or NAME=MIN..MAX:OPT, such as batch=1..64:8".to_owned();
    let (name, range) = text.split_once('=').ok_or_else(bad)?;
    let (range, opt) = range.split_once(':').map_or((range, None), |(r, o)| (r, Some(o)));
    let (min, max) = range.split_once("..").ok_or_else(|| {
        if range.parse::<i64>().is_ok() { format!("for one value, use --bind {name}={range}") } else { bad() }
    })?;
    let number = |t: &str| t.trim().parse::<i64>().map_err(|e| format!("`{t}`: {e}"));
    let (min, max) = (number(min)?, number(max)?);
    let opt = opt.map_or(Ok(min), number)?;
    if name.is_empty() {
        return Err(bad());
    }
    if !(0 <= min && min <= opt && opt <= max) {
        return Err(format!("it must be that 0 ≤ {min} ≤ {opt} ≤ {max} (MIN, OPT, MAX)"));
    }
    Ok((name.to_owned(), Range { min, max, opt }))
}

fn bind(text: &str) -> Result<(String, i64), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as batch=4")?;
    let value: i64 = value.trim().parse().map_err(|e| format!("`{value}`: {e}"))?;
    if name.is_empty() || value < 0 {
        return Err("expected a name, and a value that is not negative, such as batch=4".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// What f32 operators compute in on a GPU; the CPU computes as the model says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Precision {
    #[default]
    Fp32,
    Tf32,
    /// Two tf32 for each f32: nearly fp32, on tensor cores.
    #[value(name = "tf32x3")]
    Tf32x3,
    Fp16,
    Bf16,
}

impl From<Precision> for passes::Precision {
    fn from(p: Precision) -> passes::Precision {
        match p {
            Precision::Fp32 => passes::Precision::Fp32,
            Precision::Tf32 => passes::Precision::Tf32,
            Precision::Tf32x3 => passes::Precision::Tf32x3,
            Precision::Fp16 => passes::Precision::Fp16,
            Precision::Bf16 => passes::Precision::Bf16,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Tf32x3 => "tf32x3",
            Precision::Fp16 => "fp16",
            Precision::Bf16 => "bf16",
        })
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Device {
    Cpu,
    Gpu,
}

/// A tactics file's contents; none where no file is named.
pub(crate) fn read_tactics(path: Option<&Path>) -> Outcome<Tactics> {
    let Some(path) = path else { return Ok(Tactics::default()) };
    let fail = |e: String| Failure::new(format!("the tactics file \"{}\": {e}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|e| fail(e.to_string()).help("`bakelite tune MODEL --tactics FILE` makes one"))?;
    Tactics::parse(&text).map_err(fail)
}

/// NVRTC from where the user, the environment or the project says.
pub(crate) fn open_nvrtc(explicit: Option<&Path>, environment: &Environment) -> Outcome<Nvrtc> {
    let folder = bakelite::nvrtc::locate(
        explicit,
        environment.nvrtc.as_deref(),
        &environment.folder,
        &environment.sites,
    );
    Nvrtc::open(folder.as_deref()).map_err(|e| {
        Failure::new(e.to_string()).help(
            "install NVRTC with `pip install nvidia-cuda-nvrtc==13.0.88`, and name its folder \
             (nvidia/cu13/lib in the site-packages) with --nvrtc or BAKELITE_NVRTC",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_parse() {
        assert_eq!(symbol("b=1..64:8"), Ok(("b".into(), Range { min: 1, max: 64, opt: 8 })));
        assert_eq!(symbol("b=2..4"), Ok(("b".into(), Range { min: 2, max: 4, opt: 2 })));
        assert!(symbol("b=4").unwrap_err().contains("--bind b=4"));
        for bad in ["b", "=1..2", "b=2..1", "b=1..2:3", "b=-1..2", "b=x..2", "b=1..99999999999999999999"] {
            assert!(symbol(bad).is_err(), "{bad}");
        }
        assert_eq!(bind("b=4"), Ok(("b".into(), 4)));
        for bad in ["b", "=4", "b=-4", "b=x"] {
            assert!(bind(bad).is_err(), "{bad}");
        }
    }
}
