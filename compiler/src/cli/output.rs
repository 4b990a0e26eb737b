//! Writing what the user asked for: all of it or nothing, and never over what is not ours.

use super::{Failure, Outcome};
use bakelite::emit::Files;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file that marks a folder as generated: such a folder may be replaced.
pub(crate) const MARKER: &str = ".bakelite";

/// Refuses an output folder that may not be made or replaced.
pub(crate) fn check_folder(folder: &Path) -> Outcome<()> {
    let refuse = |why: &str| {
        let what = format!("the output folder \"{}\" {why}", folder.display());
        Err(Failure::new(what).help("name another folder with --out, or remove this one yourself"))
    };
    if folder.file_name().is_none() {
        return refuse("has no name of its own");
    }
    let found = match fs::symlink_metadata(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return refuse(&format!("cannot be examined: {e}")),
        Ok(found) => found,
    };
    if !found.is_dir() {
        return refuse("exists and is no folder");
    }
    let marked = fs::symlink_metadata(folder.join(MARKER)).is_ok_and(|m| m.is_file());
    let empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if marked || empty() {
        return Ok(());
    }
    refuse(&format!("exists and was not made by Bakelite (it has no `{MARKER}` file)"))
}

/// Writes a folder: to a temporary sibling first, which takes its place when it is complete.
pub(crate) fn write_folder(files: &Files, folder: &Path) -> Outcome<()> {
    check_folder(folder)?;
    let fail = |path: &Path, e: io::Error| Failure::new(format!("cannot write \"{}\": {e}", path.display()));
    let parent = parent(folder);
    fs::create_dir_all(&parent).map_err(|e| fail(&parent, e))?;
    let fresh = temporary_folder(&parent).map_err(|e| fail(folder, e))?;
    for (name, bytes) in files {
        let path = fresh.path().join(name);
        let put = |path: &Path| {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            fs::write(path, bytes)
        };
        put(&path).map_err(|e| fail(&folder.join(name), e))?;
    }
    let marker = format!("Made by bakelite {}, which may replace this folder.\n", env!("CARGO_PKG_VERSION"));
    fs::write(fresh.path().join(MARKER), marker).map_err(|e| fail(&folder.join(MARKER), e))?;
    // A folder cannot be renamed over one that has files: the old one steps aside, and back if that fails.
    let old = temporary_folder(&parent).map_err(|e| fail(folder, e))?;
    let aside = old.path().join("old");
    let had_old = folder.exists();
    if had_old {
        fs::rename(folder, &aside).map_err(|e| fail(folder, e))?;
    }
    let complete = fresh.keep();
    fs::rename(&complete, folder).map_err(|e| {
        if had_old {
            let _ = fs::rename(&aside, folder);
        }
        let _ = fs::remove_dir_all(&complete);
        fail(folder, e)
    })
}

/// Writes a file: to a temporary sibling first, which takes its place when it is complete.
pub(crate) fn write_file(
    path: &Path,
    write: impl FnOnce(&mut fs::File) -> Result<(), String>,
) -> Outcome<()> {
    let fail = |e: String| Failure::new(format!("cannot write \"{}\": {e}", path.display()));
    if path.is_dir() {
        return Err(fail("it is a folder".to_owned()));
    }
    let mut fresh = builder(0o666).tempfile_in(parent(path)).map_err(|e| fail(e.to_string()))?;
    write(fresh.as_file_mut()).map_err(fail)?;
    fresh.persist(path).map(|_| ()).map_err(|e| fail(e.to_string()))
}

fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn temporary_folder(parent: &Path) -> io::Result<tempfile::TempDir> {
    builder(0o777).tempdir_in(parent)
}

// What is made stays, so it gets the permissions that any file gets, not those of a secret.
fn builder(_mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bakelite-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(_mode));
    }
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Files {
        names.iter().map(|n| ((*n).to_owned(), bytes::Bytes::from_static(b"text"))).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn our_own_folder_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("new/out");
        write_folder(&files(&["a", "src/b"]), &out).unwrap();
        assert_eq!(names(&out), [".bakelite", "a", "src"]);
        write_folder(&files(&["c"]), &out).unwrap();
        assert_eq!(names(&out), [".bakelite", "c"]);
        assert_eq!(names(&root.path().join("new")), ["out"]);
    }

    #[test]
    fn a_failure_leaves_the_old_folder_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        write_folder(&files(&["a"]), &out).unwrap();
        // `b` cannot be a file and a folder.
        assert!(write_folder(&files(&["b", "b/c"]), &out).is_err());
        assert_eq!(
            (names(&out), names(root.path())),
            (vec![".bakelite".into(), "a".into()], vec!["out".into()])
        );
    }

    #[test]
    fn what_is_not_ours_stays() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("mine"), "precious").unwrap();
        for folder in [root.path(), &root.path().join("mine"), Path::new("/"), Path::new("..")] {
            assert!(write_folder(&files(&["a"]), folder).is_err(), "{}", folder.display());
        }
        assert_eq!(names(root.path()), ["mine"]);
    }
}
