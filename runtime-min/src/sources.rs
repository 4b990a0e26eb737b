//! This crate's own source, for generated crates that carry a copy of it.

macro_rules! files {
    ($($name:literal)*) => {
        /// Name and text of every file of `src`.
        pub const FILES: &[(&str, &str)] = &[$(($name, include_str!($name))),*];
    };
}

files! {
    "branches.rs"
    "context.rs"
    "driver.rs"
    "error.rs"
    "gpu.rs"
    "graph.rs"
    "launch.rs"
    "lib.rs"
    "memory.rs"
    "module.rs"
    "queues.rs"
    "shaped.rs"
    "sources.rs"
    "tensor_map.rs"
    "weights.rs"
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(super::FILES.iter().map(|(n, _)| *n).collect::<Vec<_>>(), names);
    }
}
