//! Every kernel family, in the order in which they are asked for tactics.

pub mod arg_reduce;
pub mod attention;
pub mod attention_direct;
pub mod attention_heads;
mod attention_maps;
pub mod attention_samples;
pub mod attention_wgmma;
pub mod attention_whole;
pub mod concat;
pub mod conv_depthwise;
pub mod conv_expand;
mod conv_expand_cost;
pub mod conv_expand_samples;
mod conv_geometry;
mod conv_maps;
pub mod conv_mma;
pub mod conv_samples;
pub mod conv_simt;
pub mod conv_simt_direct;
pub mod conv_slide;
pub mod conv_stem;
mod conv_stem_cost;
mod conv_stem_windows;
pub mod conv_transpose;
pub mod conv_wgmma;
pub mod cum_sum;
pub mod excite;
pub mod gather;
pub mod gather_elements;
pub mod gemm_mma;
mod gemm_mma_operands;
pub mod gemm_mma_samples;
pub mod gemm_simt;
pub mod gemm_simt_gemv;
pub mod group_norm;
pub mod layer_norm;
pub mod lrn;
mod moments_samples;
pub mod pad;
mod placed_samples;
pub mod pointwise;
pub mod pool;
pub mod reduce;
pub mod resize;
mod rows;
pub mod softmax;
pub mod squeeze;
mod strips;
mod tile_sums;
pub mod top_k;

use crate::dim::{Dim, Range, Symbols};
use crate::family::Family;
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::Problem;

/// All of them.
pub static FAMILIES: &[&dyn Family] = &[
    &pointwise::Linear, //
    &pointwise::Transpose,
    &gemm_mma::Mma,
    &gemm_simt::Simt,
    &gemm_simt_gemv::Gemv,
    &attention_wgmma::AttentionWgmma,
    &attention_heads::AttentionHeads,
    &attention_whole::AttentionWhole,
    &attention_direct::AttentionDirect,
    &attention::Mma,
    &attention::Simt,
    &conv_wgmma::ConvWgmma,
    &conv_mma::ConvMma,
    &conv_slide::ConvSlide,
    &conv_expand::ConvExpand,
    &conv_stem::ConvStem,
    &conv_depthwise::ConvDepthwise,
    &conv_simt::ConvSimt,
    &conv_simt_direct::ConvDirect,
    &conv_transpose::ConvTransposeSimt,
    &arg_reduce::ArgReduce,
    &cum_sum::CumSum,
    &excite::Excite,
    &group_norm::GroupNorm,
    &layer_norm::LayerNorm,
    &lrn::Lrn,
    &pool::Pool,
    &reduce::Reduce,
    &softmax::Softmax,
    &top_k::TopK,
    &concat::Copy,
    &pad::Copy,
    &gather::Copy,
    &gather_elements::Copy,
    &resize::Gather,
];

/// Makes some problems.
pub type Samples = fn() -> Vec<Problem<Dim>>;

/// For each file of families, the problems that its tests compile and run, over [`sample_symbols`].
pub static SAMPLES: &[(&str, Samples)] = &[
    ("pointwise", pointwise::samples), //
    ("gemm", gemm_mma_samples::samples),
    ("attention", attention_samples::samples),
    ("conv", conv_samples::conv),
    ("conv_transpose", conv_samples::transpose),
    ("arg_reduce", arg_reduce::samples),
    ("cum_sum", cum_sum::samples),
    ("excite", excite::samples),
    ("expand", conv_expand_samples::samples),
    ("group_norm", group_norm::samples),
    ("layer_norm", layer_norm::samples),
    ("lrn", lrn::samples),
    ("pool", pool::samples),
    ("reduce", reduce::samples),
    ("softmax", softmax::samples),
    ("squeeze", squeeze::samples),
    ("top_k", top_k::samples),
    ("concat", concat::samples),
    ("pad", pad::samples),
    ("gather", gather::samples),
    ("gather_elements", gather_elements::samples),
    ("resize", resize::samples),
    ("placed", placed_samples::samples),
    ("moments", moments_samples::samples),
];

/// The symbols that samples use: `batch` and `seq`.
pub fn sample_symbols() -> Symbols {
    Symbols::from([
        ("batch".to_owned(), Range { min: 1, max: 8, opt: 3 }),
        ("seq".to_owned(), Range { min: 1, max: 128, opt: 50 }),
    ])
}

/// What a family offers for a problem; nothing where it does not take such epilogues.
pub fn tactics(
    family: &dyn Family,
    problem: &Problem<Dim>,
    symbols: &Symbols,
    target: &Target,
) -> Vec<Tactic> {
    let rows = problem.epilogue().is_some_and(|e| e.rows.is_some() || e.moments);
    if rows && !family.takes_rows() { vec![] } else { family.tactics(problem, symbols, target) }
}

/// Every tactic for a problem with its estimated µs, by these; ties in the families' order.
pub fn candidates(problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Vec<(Tactic, f64)> {
    let mut all: Vec<(Tactic, f64)> = FAMILIES
        .iter()
        .flat_map(|f| {
            let offered = tactics(*f, problem, symbols, target).into_iter();
            offered.map(|t| (f.cost(problem, &t, symbols, target), t))
        })
        .map(|(cost, tactic)| (tactic, cost))
        .collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all
}

/// The least estimated µs of all tactics for `problem`; `None` where no family has one.
pub fn estimate(problem: &Problem<Dim>, symbols: &Symbols, target: &Target) -> Option<f64> {
    candidates(problem, symbols, target).first().map(|(_, us)| *us).filter(|us| us.is_finite())
}

/// The family that `name` names, such as `pointwise.linear`.
pub fn find(name: &str) -> Option<&'static dyn Family> {
    FAMILIES.iter().copied().find(|f| f.name() == name)
}
