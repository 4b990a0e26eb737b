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
