//! Where NVRTC may lie. Reads no environment variable: `main.rs` hands in what the user's environment says.

use std::path::{Path, PathBuf};

/// The library itself, whose presence makes a folder an NVRTC folder.
const LIBRARY: &str = "libnvrtc.so.13";
/// Where the `nvidia-cuda-nvrtc` wheel keeps it inside a Python site folder.
const WHEEL: &str = "nvidia/cu13/lib";

/// The folder to load NVRTC from, or `None` for the system's loader to find it. In this order: `explicit` (what the user
/// asked for on the command line), `environment` (the value of `BAKELITE_NVRTC`), `.bakelite/nvrtc` in `start` or a folder
/// above it, and each of the Python `sites`. The first two are taken even where they hold no library, so that opening
/// them says so; a folder that a wheel was installed into is taken as the folder inside it.
pub fn locate(
    explicit: Option<&Path>,
    environment: Option<&Path>,
    start: &Path,
    sites: &[PathBuf],
) -> Option<PathBuf> {
    if let Some(asked) = explicit.or(environment) {
        return Some(inside(asked).unwrap_or_else(|| asked.to_owned()));
    }
    start
        .ancestors()
        .map(|folder| folder.join(".bakelite/nvrtc"))
        .chain(sites.iter().cloned())
        .find_map(|folder| inside(&folder))
}

fn inside(folder: &Path) -> Option<PathBuf> {
    [folder.to_owned(), folder.join(WHEEL)].into_iter().find(|f| f.join(LIBRARY).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_places_wins() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| {
            let folder = root.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(LIBRARY), "").unwrap();
            folder
        };
        let start = root.path().join("work/deep");
        std::fs::create_dir_all(&start).unwrap();
        let sites = vec![root.path().join("none"), root.path().join("site")];
        assert_eq!(locate(None, None, &start, &sites), None);
        let wheel = at("site/nvidia/cu13/lib");
        assert_eq!(locate(None, None, &start, &sites), Some(wheel.clone()));
        let own = at("work/.bakelite/nvrtc");
        assert_eq!(locate(None, None, &start, &sites), Some(own));
        let site = root.path().join("site");
        assert_eq!(locate(None, Some(&site), &start, &[]), Some(wheel));
        let absent = Path::new("/no/such/folder");
        assert_eq!(locate(Some(absent), Some(&site), &start, &[]), Some(absent.to_owned()));
    }
}
