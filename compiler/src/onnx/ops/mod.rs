//! The table of ONNX operators: one line each, and one function each in the files beside this one, which maps a node
//! onto IR operators. To add an operator, add its function and its line.

use super::call::{Call, Results};
use bakelite_host::Pw;
use bakelite_host::problem::ReduceKind;

mod activation;
mod attention;
mod control;
mod conv;
mod index;
mod linear;
mod math;
mod normalize;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod shape;
mod slice;
mod source;

/// Maps one node.
pub(super) type Import = fn(&mut Call<'_>) -> Results;

/// How an operator is called in the table: with its domain, unless that is ai.onnx.
pub(super) fn key(domain: &str, op: &str) -> String {
    if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") }
}

/// The mapping of an operator, if there is one.
pub(super) fn find(domain: &str, op: &str) -> Option<Import> {
    let key = key(domain, op);
    TABLE.binary_search_by(|(name, _)| (*name).cmp(key.as_str())).ok().map(|i| TABLE[i].1)
}

/// Every operator that is supported, in alphabetical order.
#[rustfmt::skip]
const TABLE: &[(&str, Import)] = &[
    ("Abs", |c| math::unary(c, Pw::Abs)),
    ("Acos", |c| c.apply(Pw::Acos)),
    ("Acosh", |c| c.apply(Pw::Acosh)),
    ("Add", |c| math::arithmetic(c, Pw::Add)),
    ("Affine", math::affine),
    ("And", |c| c.apply(Pw::And)),
    ("ArgMax", |c| reduce::arg(c, true)),
    ("ArgMin", |c| reduce::arg(c, false)),
    ("Asin", |c| c.apply(Pw::Asin)),
    ("Asinh", |c| c.apply(Pw::Asinh)),
    ("Atan", |c| c.apply(Pw::Atan)),
    ("Atanh", |c| c.apply(Pw::Atanh)),
    ("Attention", attention::attention),
    ("AveragePool", pool::average),
    ("BatchNormalization", normalize::batch),
    ("BitShift", math::bit_shift),
    ("BitwiseAnd", |c| c.apply(Pw::And)),
    ("BitwiseNot", |c| c.apply(Pw::Not)),
    ("BitwiseOr", |c| c.apply(Pw::Or)),
    ("BitwiseXor", |c| c.apply(Pw::Xor)),
    ("Cast", math::cast),
    ("CastLike", math::cast_like),
    ("Ceil", |c| math::unary(c, Pw::Ceil)),
    ("Celu", activation::celu),
    ("Clip", math::clip),
    ("Concat", shape::concat),
    ("Constant", source::constant),
    ("ConstantOfShape", source::constant_of_shape),
    ("Conv", conv::conv),
    ("ConvInteger", quantize::conv_integer),
    ("ConvTranspose", conv::conv_transpose),
    ("Cos", |c| c.apply(Pw::Cos)),
    ("Cosh", |c| c.apply(Pw::Cosh)),
    ("Crop", slice::crop),
    ("CumSum", reduce::cum_sum),
    ("DepthToSpace", shape::depth_to_space),
    ("Div", |c| math::arithmetic(c, Pw::Div)),
    ("Dropout", control::dropout),
    ("DynamicQuantizeLinear", quantize::dynamic_quantize_linear),
    ("Einsum", linear::einsum),
    ("Elu", activation::elu),
    ("Equal", |c| math::compare(c, Pw::Eq)),
    ("Erf", |c| c.apply(Pw::Erf)),
    ("Exp", |c| c.apply(Pw::Exp)),
    ("Expand", shape::expand),
    ("EyeLike", source::eye_like),
    ("Flatten", shape::flatten),
    ("Floor", |c| math::unary(c, Pw::Floor)),
    ("Gather", index::gather),
    ("GatherElements", index::gather_elements),
    ("GatherND", index::gather_nd),
    ("Gelu", activation::gelu),
    ("Gemm", linear::gemm),
    ("GlobalAveragePool", |c| pool::global(c, ReduceKind::Mean)),
    ("GlobalLpPool", pool::global_lp),
    ("GlobalMaxPool", |c| pool::global(c, ReduceKind::Max)),
    ("Greater", |c| math::compare(c, Pw::Gt)),
    ("GreaterOrEqual", |c| math::compare(c, Pw::Ge)),
    ("GroupNormalization", normalize::group),
    ("HardSigmoid", activation::hard_sigmoid),
    ("HardSwish", |c| c.apply(Pw::HardSwish)),
    ("Hardmax", activation::hardmax),
    ("Identity", control::identity),
    ("If", control::if_),
    ("ImageScaler", math::image_scaler),
    ("InstanceNormalization", normalize::instance),
    ("IsInf", math::is_inf),
    ("IsNaN", |c| c.apply(Pw::IsNan)),
    ("LRN", normalize::lrn),
    ("LayerNormalization", normalize::layer),
    ("LeakyRelu", activation::leaky_relu),
    ("Less", |c| math::compare(c, Pw::Lt)),
    ("LessOrEqual", |c| math::compare(c, Pw::Le)),
    ("Log", |c| c.apply(Pw::Log)),
    ("LogSoftmax", |c| activation::softmax(c, true)),
    ("LpNormalization", normalize::lp),
    ("LpPool", pool::lp),
    ("MatMul", linear::matmul),
    ("MatMulInteger", quantize::matmul_integer),
    ("Max", |c| math::variadic(c, Pw::Max)),
    ("MaxPool", pool::max),
    ("Mean", math::mean),
    ("MeanVarianceNormalization", normalize::mean_variance),
    ("Min", |c| math::variadic(c, Pw::Min)),
    ("Mish", activation::mish),
    ("Mod", math::modulo),
    ("Mul", |c| math::arithmetic(c, Pw::Mul)),
    ("Neg", |c| math::unary(c, Pw::Neg)),
    ("NonZero", index::non_zero),
    ("Not", |c| math::unary(c, Pw::Not)),
    ("OneHot", index::one_hot),
    ("Or", |c| c.apply(Pw::Or)),
    ("PRelu", |c| c.apply(Pw::Prelu)),
    ("Pad", slice::pad),
    ("Pow", math::pow),
    ("RMSNormalization", normalize::rms),
    ("Range", source::range),
    ("Reciprocal", |c| c.apply(Pw::Recip)),
    ("ReduceL1", |c| reduce::reduce(c, ReduceKind::L1)),
    ("ReduceL2", |c| reduce::reduce(c, ReduceKind::L2)),
    ("ReduceLogSum", |c| reduce::reduce(c, ReduceKind::LogSum)),
    ("ReduceLogSumExp", |c| reduce::reduce(c, ReduceKind::LogSumExp)),
    ("ReduceMax", |c| reduce::reduce(c, ReduceKind::Max)),
    ("ReduceMean", |c| reduce::reduce(c, ReduceKind::Mean)),
    ("ReduceMin", |c| reduce::reduce(c, ReduceKind::Min)),
    ("ReduceProd", |c| reduce::reduce(c, ReduceKind::Prod)),
    ("ReduceSum", |c| reduce::reduce(c, ReduceKind::Sum)),
    ("ReduceSumSquare", |c| reduce::reduce(c, ReduceKind::SumSquare)),
    ("Relu", |c| c.apply(Pw::Relu)),
    ("Reshape", shape::reshape),
    ("Resize", resize::resize),
    ("Round", |c| math::unary(c, Pw::Round)),
    ("Selu", activation::selu),
    ("Shape", source::shape),
    ("Shrink", activation::shrink),
    ("Sigmoid", |c| c.apply(Pw::Sigmoid)),
    ("Sign", |c| c.apply(Pw::Sign)),
    ("SimplifiedLayerNormalization", normalize::rms),
    ("Sin", |c| c.apply(Pw::Sin)),
    ("Sinh", |c| c.apply(Pw::Sinh)),
    ("Size", source::size),
    ("Slice", slice::slice),
    ("Softmax", |c| activation::softmax(c, false)),
    ("Softplus", |c| c.apply(Pw::Softplus)),
    ("Softsign", |c| c.apply(Pw::Softsign)),
    ("SpaceToDepth", shape::space_to_depth),
    ("Split", slice::split),
    ("Sqrt", math::sqrt),
    ("Squeeze", shape::squeeze),
    ("Sub", |c| math::arithmetic(c, Pw::Sub)),
    ("Sum", |c| math::variadic(c, Pw::Add)),
    ("Swish", activation::swish),
    ("Tan", |c| c.apply(Pw::Tan)),
    ("Tanh", |c| c.apply(Pw::Tanh)),
    ("ThresholdedRelu", activation::thresholded_relu),
    ("Tile", shape::tile),
    ("TopK", reduce::top_k),
    ("Transpose", shape::transpose),
    ("Trilu", index::trilu),
    ("Unsqueeze", shape::unsqueeze),
    ("Upsample", resize::upsample),
    ("Where", math::where_),
    ("Xor", |c| c.apply(Pw::Xor)),
    ("com.microsoft.BiasGelu", activation::bias_gelu),
    ("com.microsoft.FastGelu", activation::fast_gelu),
    ("com.microsoft.FusedMatMul", linear::fused_matmul),
    ("com.microsoft.Gelu", |c| c.apply(Pw::Gelu)),
    ("com.microsoft.QuickGelu", activation::swish),
    ("com.microsoft.SkipLayerNormalization", |c| normalize::skip_layer(c, false)),
    ("com.microsoft.SkipSimplifiedLayerNormalization", |c| normalize::skip_layer(c, true)),
];

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn the_table_is_sorted_and_has_no_duplicates() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} stands before {}", pair[0].0, pair[1].0);
        }
    }
}
