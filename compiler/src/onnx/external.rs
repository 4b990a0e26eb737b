//! The file system, as far as models need it: mapping a model file, and the files beside it that hold its weights.
//! The one place of the library that opens files. A location comes from an untrusted model, so only regular files
//! that lie plainly inside the model's folder are opened: no absolute path, no `..`, no link of either kind.

use super::model::{ExternalData, Source, error};
use crate::error::Result;
use bytes::Bytes;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Files beside a model.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Source {
    /// Maps a model file; its external data may lie in the same folder or below it.
    pub fn open(path: impl AsRef<Path>) -> Result<Source> {
        let path = path.as_ref();
        let at = format!("\"{}\"", path.display());
        let file = File::open(path).map_err(|e| error(&at, e.to_string()))?;
        let regular = file.metadata().is_ok_and(|m| m.is_file());
        if !regular {
            return Err(error(at, "it is not a regular file"));
        }
        let bytes = map(&file).map_err(|e| error(&at, e))?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let external = Folder::new(parent).map_err(|e| error(&at, e))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Source { bytes, name, external: Box::new(external) })
    }
}

impl Folder {
    /// The folder at `path`, which is itself trusted and may be reached through links.
    pub fn new(path: impl AsRef<Path>) -> Result<Folder, String> {
        let path = path.as_ref();
        let root = path.canonicalize().map_err(|e| format!("the folder \"{}\": {e}", path.display()))?;
        Ok(Folder { root })
    }
}

impl ExternalData for Folder {
    fn open(&self, location: &str) -> Result<Bytes, String> {
        let refuse =
            |why: &str| Err(format!("external data \"{}\" are refused: {why}", location.escape_debug()));
        if location.contains('\0') || location.contains('\\') || location.contains(':') {
            return refuse("a location may not contain NUL, `\\` or `:`");
        }
        if location.starts_with('/') || Path::new(location).is_absolute() {
            return refuse("the path is absolute; it must lie in the model's folder");
        }
        for component in location.split('/') {
            match component {
                ".." => return refuse("the path leaves the model's folder by `..`"),
                "" | "." => return refuse("the path has an empty component or a `.`"),
                _ => {}
            }
        }
        let path = self.root.join(location);
        let named = match path.symlink_metadata() {
            Ok(m) => m,
            Err(e) => {
                return Err(format!("external data \"{location}\" in \"{}\": {e}", self.root.display()));
            }
        };
        // With no link on the way the resolved path is the path itself.
        let resolved = path.canonicalize().map_err(|e| format!("external data \"{location}\": {e}"))?;
        if named.is_symlink() || resolved != path {
            return refuse(
                "the path goes through a symbolic link; put the file itself into the model's folder",
            );
        }
        if !named.is_file() {
            return refuse("it is not a regular file");
        }
        let file = File::open(&path).map_err(|e| format!("external data \"{location}\": {e}"))?;
        let opened = file.metadata().map_err(|e| format!("external data \"{location}\": {e}"))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            // A hard link may give a file outside the folder a name inside it.
            if opened.nlink() > 1 {
                return refuse("the file has more than one hard link");
            }
            if (opened.dev(), opened.ino()) != (named.dev(), named.ino()) {
                return refuse("the file changed while it was opened");
            }
        }
        if !opened.is_file() {
            return refuse("it is not a regular file");
        }
        map(&file).map_err(|e| format!("external data \"{location}\": {e}"))
    }
}

fn map(file: &File) -> Result<Bytes, String> {
    // SAFETY: the mapping is private and read-only, and handed out as bytes that are valid for any contents. Someone who
    // truncates the file during compilation can make the process fault, which is the accepted price of not copying it.
    #[allow(unsafe_code)]
    let mapping = unsafe { memmap2::MmapOptions::new().map_copy_read_only(file) };
    match mapping {
        Ok(mapping) => Ok(Bytes::from_owner(mapping)),
        // Some systems refuse to map nothing.
        Err(_) if file.metadata().is_ok_and(|m| m.len() == 0) => Ok(Bytes::new()),
        Err(e) => Err(format!("it cannot be mapped: {e}")),
    }
}
