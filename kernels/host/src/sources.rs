//! This crate's own source, for generated crates that carry a copy of it.

macro_rules! files {
    ($($name:literal)*) => {
        /// Name and text of every file of `src`.
        pub const FILES: &[(&str, &str)] = &[$(($name, include_str!($name))),*];
    };
}

files! {
    "arena.rs"
    "arg_reduce.rs"
    "attention.rs"
    "cast.rs"
    "concat.rs"
    "contract.rs"
    "conv.rs"
    "conv_transpose.rs"
    "cum_sum.rs"
    "depthwise.rs"
    "dtype.rs"
    "element.rs"
    "excite.rs"
    "gather.rs"
    "gemm.rs"
    "group_norm.rs"
    "im2col.rs"
    "interpret.rs"
    "layer_norm.rs"
    "lib.rs"
    "lrn.rs"
    "map.rs"
    "matrix.rs"
    "moments.rs"
    "pad.rs"
    "parallel.rs"
    "parse.rs"
    "pointwise.rs"
    "pool.rs"
    "problem.rs"
    "problem/conv.rs"
    "problem/epilogue.rs"
    "program.rs"
    "reduce.rs"
    "resize.rs"
    "run.rs"
    "softmax.rs"
    "sources.rs"
    "text.rs"
    "top_k.rs"
    "view.rs"
    "walk.rs"
    "work.rs"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn walk(folder: &Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, names);
            } else {
                let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
                names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_file_is_listed() {
        let mut names = Vec::new();
        walk(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut names);
        names.sort();
        assert_eq!(super::FILES.iter().map(|(n, _)| *n).collect::<Vec<_>>(), names);
    }
}
