//! Every kernel against loops in f64 written here from the problems' docs. Values are small integers wherever the
//! arithmetic keeps them exact, so that results are compared for equality whatever the order of summation.
#![allow(clippy::unwrap_used, clippy::too_many_arguments)]

mod attention;
mod composed;
mod convolutions;
mod moves;
mod pointwise;
mod products;
mod refusals;
mod rows;
mod tensor;
mod text;
mod windows;
