//! Every kernel family, in the order in which they are asked for tactics.

pub mod pointwise;

use crate::dim::{Dim, Range, Symbols};
use crate::family::Family;
use bakelite_host::Problem;

/// All of them.
pub static FAMILIES: &[&dyn Family] = &[
    &pointwise::Linear, //
    &pointwise::Transpose,
];

/// Makes some problems.
pub type Samples = fn() -> Vec<Problem<Dim>>;

/// For each file of families, the problems that its tests compile and run, over [`sample_symbols`].
pub static SAMPLES: &[(&str, Samples)] = &[
    ("pointwise", pointwise::samples), //
];

/// The symbols that samples use: `batch` and `seq`.
pub fn sample_symbols() -> Symbols {
    Symbols::from([
        ("batch".to_owned(), Range { min: 1, max: 8, opt: 3 }),
        ("seq".to_owned(), Range { min: 1, max: 128, opt: 50 }),
    ])
}

/// The family that `name` names, such as `pointwise.linear`.
pub fn find(name: &str) -> Option<&'static dyn Family> {
    FAMILIES.iter().copied().find(|f| f.name() == name)
}
