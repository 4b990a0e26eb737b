//! Problems: what one kernel launch (or a few) computes, with nothing of graphs or ONNX left in it.
//!
//! Each problem is a struct over a size type `S`: the compiler holds `Problem<Dim>` with symbolic sizes, the host
//! kernels take `Problem<usize>`, and generated code writes the literal. Its doc is the contract for every
//! implementation: operands in order, shapes, and the sum it stands for. Tensors are dense and row-major unless a
//! stride says otherwise. Wherever an `epilogue` stands, its program maps the accumulator (input 0, in the
//! class of the elements: f32 for f16/bf16/f32, f64 for f64, i64 for integers) and its extra operands to the
//! outputs; the extra operands follow the problem's own in the operand list.

use crate::dtype::DType;
use crate::program::Program;

/// Where a tensor operand of an iteration space lies: element `offset + Σ index[d] · strides[d]`. A stride of 0 broadcasts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access<S = usize> {
    /// Element at index 0.
    pub offset: S,
    /// One stride in elements for each dimension of the space it is read in.
    pub strides: Vec<S>,
}

/// Where a result's elements go that are not a dense tensor of their own: a part of a larger tensor, or all of it in
/// another order. No two elements have one place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placement<S = usize> {
    /// The result's dense elements, grouped: as many as the problem's output shape has.
    pub shape: Vec<S>,
    /// Where each goes.
    pub access: Access<S>,
    /// Elements of the whole tensor; what is not placed stays as it is.
    pub elements: S,
}

/// Elements of a row that have a moment: see [`Rows`].
pub const SPAN: usize = 32;

/// What normalises rows of `len` elements, whose moments are known: for each [`SPAN`] elements of a row their sum, and the sum
/// of their squares about their mean, `[rows, len / SPAN, 2]` in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// Elements of a row.
    pub len: usize,
    /// Divide by the root mean square; do not subtract the mean.
    pub rms: bool,
    /// Added to the variance.
    pub epsilon: f32,
}

/// What happens to an accumulator before it is stored. A row is all that have the innermost index of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Epilogue<S = usize> {
    /// Input 0 is the accumulator; the rest are the operands. Exactly one output: the problem's result.
    pub program: Program,
    /// How each extra operand is read over the problem's output shape (as its doc gives it).
    pub operands: Vec<Access<S>>,
    /// Operands 0 and 1 are the mean (0 with `rms`) and the reciprocal deviation of each row of some tensor, read through
    /// accesses over `[rows, 2]`; what is given for both is that tensor's moments.
    pub rows: Option<Rows>,
    /// Whether there is a second result, the moments of the first one's rows, of which nothing is placed.
    pub moments: bool,
    /// Where the result goes; `None`: it is a dense tensor.
    pub place: Option<Placement<S>>,
}

/// Arithmetic of a matrix product or convolution over f32 operands; other types have one each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Math {
    /// IEEE products, f32 (or wider) accumulation.
    #[default]
    Exact,
    /// f32 operands rounded to tf32 (10-bit mantissa), f32 accumulation.
    Tf32,
    /// f32 operands as sums of two tf32, of whose four products the three large ones are taken (3xTF32): within some
    /// 2⁻²⁰ of `Exact`, on tensor cores. An infinite operand gives NaN.
    Tf32x3,
}

/// Order of a convolution's or pool's dimensions in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// `[n, c, spatial...]`
    #[default]
    ChannelsFirst,
    /// `[n, spatial..., c]`
    ChannelsLast,
}

/// `out_j[i] = program_j(in_k[access_k(i)] ...)` for every index `i` of `shape`. Outputs are dense over `shape`.
/// Also every strided copy: transpose, slice, broadcast, cast. Operands: one for each program input.
#[derive(Clone, Debug, PartialEq)]
pub struct Pointwise<S = usize> {
    /// The iteration space.
    pub shape: Vec<S>,
    /// One for each program input.
    pub inputs: Vec<Access<S>>,
    /// The arithmetic; any number of outputs.
    pub program: Program,
}

/// `out[z, i, j] = Σ_k a[z, i, k] · b[z, k, j]`. Operands `a`, `b`, then the epilogue's. Output `[batch, m, n]`.
/// Strides are in elements, for (batch, row, column) of the logical `a[z, i, k]` and `b[z, k, j]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Gemm<S = usize> {
    pub batch: S,
    pub m: S,
    pub n: S,
    pub k: S,
    /// Element type of both operands.
    pub dtype: DType,
    pub math: Math,
    pub a: [S; 3],
    pub b: [S; 3],
    pub epilogue: Epilogue<S>,
}

/// A second convolution, of other pixels of the same images, by one element of all their channels: `Σ_c x2[n, c, p·stride] · w2[o, c]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Added<S = usize> {
    pub channels: usize,
    pub input: Vec<S>,
    pub strides: Vec<usize>,
}

/// A convolution by one element in front of another one, whose pixels it makes: `y[n, c, p] = epilogue(Σ_k x[n, k, p] · w1[c, k])`.
/// Its epilogue's accesses are over the dimensions of `y`, which is of the operands' type and placed nowhere.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Expand<S = usize> {
    pub channels: usize,
    pub epilogue: Epilogue<S>,
}

/// Maxima over windows of a convolution's results `y`, which are stored nowhere: `max_r y[n, o, p·stride + r − pad]` over what lies
/// inside `y`, or -inf (an integer's least) where nothing does.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Pooled<S = usize> {
    pub output: Vec<S>,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub pads: Vec<usize>,
}

/// Cross-correlation: `out[n, o, p] = Σ_{c, r} x[n, g·cg + c, p·stride + r·dilation − pad] · w[o, c, r]`, reading zero
/// outside `x`; `cg = channels / groups`, `g = o / (filters / groups)`. Any number of spatial dimensions.
/// Operands `x`, `w`, then `s` if `scaled`, then `x2`, `w2` if something is `added`, then `w1` and its epilogue's if pixels are
/// made by an `expand`, then the epilogue's. `x` and the output in `layout`; `w` always
/// `[filters, cg, kernel...]`. With `s` (`[n, channels]`), `x[n, c, p] · s[n, c]`, rounded to `dtype`, stands for `x[n, c, p]`.
/// Where `x` is given, the operand is of that type and read through that access over its dimensions, rounded to `dtype`.
/// What is `added` goes into the same accumulators: `x2` is dense in `layout`, `w2` `[filters, channels, 1...]`.
/// With an `expand`, which stands alone, `x` has its channels, and `w1` is `[channels, its channels, 1...]`.
/// The epilogue's accesses are over the output's dimensions in `layout`'s order.
/// Where it is `pooled`, maxima of what the epilogue makes are the result, in `layout`: they are what is placed, of `output` remains
/// nothing, and no moments are known.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Conv<S = usize> {
    pub n: S,
    pub channels: usize,
    pub filters: usize,
    pub groups: usize,
    pub input: Vec<S>,
    pub output: Vec<S>,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Zeros before the first element of each spatial dimension (what follows the last one is implied by `output`).
    pub pads: Vec<usize>,
    pub layout: Layout,
    /// Where `x` lies, if it is no dense tensor of `dtype` in `layout`: its element type, and the access over its dimensions
    /// in `layout`'s order.
    pub x: Option<(DType, Access<S>)>,
    /// Whether every channel of every image has a factor, the third operand.
    pub scaled: bool,
    /// What is added to every sum before the epilogue.
    pub added: Option<Added<S>>,
    /// What makes the pixels that it reads.
    pub expand: Option<Box<Expand<S>>>,
    /// What of its results is the result.
    pub pooled: Option<Pooled<S>>,
    /// Element type of `x`, `w`, `s`, `x2`, `w2` and `w1`.
    pub dtype: DType,
    pub math: Math,
    pub epilogue: Epilogue<S>,
}

/// The transpose of [`Conv`] with respect to its input: `out[n, o, q] = Σ x[n, c, p] · w[c, o, r]` over all `p, r` with
/// `q = p·stride + r·dilation − pad`. Operands `x`, `w` (`[channels, filters / groups, kernel...]`), then the epilogue's.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ConvTranspose<S = usize> {
    pub n: S,
    pub channels: usize,
    pub filters: usize,
    pub groups: usize,
    pub input: Vec<S>,
    pub output: Vec<S>,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub pads: Vec<usize>,
    pub layout: Layout,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// What a pooling window computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// The largest element inside `x`.
    Max,
    /// The sum over the elements inside `x`, divided by the number of window positions inside `x`, or inside the padded
    /// extent if `count_pads`.
    Average {
        /// Padding counts in the divisor.
        count_pads: bool,
    },
    /// `(Σ |x|^p)^(1/p)`
    Lp(u32),
}

/// A window slid over each channel; operand `x`, then the epilogue's. Layouts and accesses as in [`Conv`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Pool<S = usize> {
    pub kind: PoolKind,
    pub n: S,
    pub channels: S,
    pub input: Vec<S>,
    pub output: Vec<S>,
    pub kernel: Vec<S>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub pads: Vec<usize>,
    /// Zeros (for the divisor only) after the last element.
    pub pads_end: Vec<usize>,
    pub layout: Layout,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// What a reduction computes, in the accumulator's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    SumSquare,
    L1,
    L2,
    LogSum,
    LogSumExp,
    /// Bool operand: any / all true.
    Any,
    All,
}

/// `out[kept] = reduce over `reduced` of prologue(in)[...]`. The input is dense over `shape`; dimension d is reduced where
/// `reduced[d]`. The output is dense over the kept dimensions in order; the epilogue's accesses are over those (rank =
/// number of kept dimensions). Operand `x`, then the epilogue's. The mean of nothing is NaN; max of nothing is -inf.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Reduce<S = usize> {
    pub kind: ReduceKind,
    pub shape: Vec<S>,
    pub reduced: Vec<bool>,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// What squeeze and excitation makes of each image: two matrix products of its mean over pixels, `h[n, j] = first(Σ_c m[n, c] ·
/// w1[j, c])` with `m[n, c] = Σ_p x[n, p, c] / pixels`, then `out[n, o] = epilogue(Σ_j h[n, j] · w2[o, j])`. The mean stays in the
/// accumulator's class; `h` is rounded to `dtype`, the one result of `first`, which places nothing.
/// Operands `x` `[n, pixels, channels]`, `w1` `[hidden, channels]`, `w2` `[filters, hidden]`, then `first`'s, whose accesses are over
/// `[n, hidden]`, then the epilogue's, over `[n, filters]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Excite<S = usize> {
    pub n: S,
    pub pixels: S,
    pub channels: usize,
    pub hidden: usize,
    pub filters: usize,
    pub dtype: DType,
    pub first: Epilogue<S>,
    pub epilogue: Epilogue<S>,
}

/// A convolution, channels last, and the excitation of what it stores: `y = conv(...)` and `s = excite(y, ...)`, both results, in
/// this order. Operands: the convolution's, its epilogue's among them, then all of the excitation's but `x`, which is `y` as
/// `[n, pixels, channels]`. Neither result is placed, and no epilogue knows of moments.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Squeeze<S = usize> {
    pub conv: Box<Conv<S>>,
    pub excite: Excite<S>,
}

/// Index (i64) of the largest or smallest element along the middle of `[outer, len, inner]`; output `[outer, inner]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ArgReduce<S = usize> {
    pub max: bool,
    /// Of equal elements take the last, not the first.
    pub last: bool,
    pub outer: S,
    pub len: S,
    pub inner: S,
    pub dtype: DType,
}

/// Softmax (or its log) along the middle of `[outer, len, inner]`, with the maximum subtracted first. Operand `x`, then
/// the epilogue's, whose accesses are over `[outer, len, inner]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Softmax<S = usize> {
    pub log: bool,
    pub outer: S,
    pub len: S,
    pub inner: S,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// Normalisation of each row of `[rows, len]`: `(x − mean) / √(var + ε)`, or with `rms` `x / √(mean(x²) + ε)`; then
/// times `scale[len]`, plus `bias[len]` if present. Statistics in f32 (f64 for f64), two-pass. Operands `x`, `scale`,
/// [`bias`], then the epilogue's, whose accesses are over `[rows, len]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct LayerNorm<S = usize> {
    pub rms: bool,
    pub rows: S,
    pub len: S,
    pub epsilon: f32,
    pub bias: bool,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// Normalisation over each group of `channels / groups` channels and all `spatial` positions of one image, then times
/// `scale[channels]` plus `bias[channels]`. InstanceNorm has `groups == channels`. Operands `x`, `scale`, `bias`, then the
/// epilogue's, whose accesses are over `[n, channels, spatial]` or `[n, spatial, channels]` by `layout`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct GroupNorm<S = usize> {
    pub n: S,
    pub channels: usize,
    pub groups: usize,
    pub spatial: S,
    pub epsilon: f32,
    pub layout: Layout,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// `x / (bias + alpha / size · Σ x²)^beta` over a window of `size` channels of `[n, channels, spatial]`
/// (`floor((size-1)/2)` before, `ceil((size-1)/2)` after, clipped). Operand `x`, then the epilogue's, over that shape.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Lrn<S = usize> {
    pub n: S,
    pub channels: usize,
    pub spatial: S,
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub bias: f32,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// `softmax(scale · q·kᵀ + mask) · v` for each batch and head. `heads` query heads share `kv_heads` (query head h reads
/// h · kv_heads / heads). Strides are in elements for (batch, head, position); the last dimension is dense. Output
/// `[batch, seq_q, heads, dim_v]` if `out_heads_inner`, else `[batch, heads, seq_q, dim_v]`, dense.
/// `causal` masks keys with `j > i + seq_k − seq_q`. A row with every key masked gives zeros.
/// Operands `q`, `k`, `v`, [`mask`]; the mask adds its value (or, if bool, masks where false), in accesses over
/// `[batch, heads, seq_q, seq_k]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Attention<S = usize> {
    pub batch: S,
    pub heads: usize,
    pub kv_heads: usize,
    pub seq_q: S,
    pub seq_k: S,
    pub dim: usize,
    pub dim_v: usize,
    pub scale: f32,
    pub causal: bool,
    pub q: Access<S>,
    pub k: Access<S>,
    pub v: Access<S>,
    pub mask: Option<(DType, Access<S>)>,
    pub out_heads_inner: bool,
    pub dtype: DType,
}

/// Joins along the middle: operand i is `[outer, lens[i], inner]`, the output `[outer, Σ lens, inner]`. The epilogue's
/// input 0 is the copied element (in its class); its accesses are over that output shape.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Concat<S = usize> {
    pub outer: S,
    pub lens: Vec<S>,
    pub inner: S,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// What lies outside a padded tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PadMode {
    /// The one element of the second operand.
    Constant,
    /// Mirrored without repeating the edge.
    Reflect,
    /// The edge repeated.
    Edge,
    /// Taken from the other end.
    Wrap,
}

/// `out[i] = x[i − begin]`, or what `mode` says where that lies outside. A negative `begin` crops. Operands `x` over
/// `input`, for `Constant` the value (one element), output dense over `output`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Pad<S = usize> {
    pub mode: PadMode,
    pub input: Vec<S>,
    pub output: Vec<S>,
    pub begin: Vec<i64>,
    pub dtype: DType,
}

/// `out[o, j, i] = x[o, indices[j], i]`: `x` `[outer, len, inner]`, `indices` `[count]`, output `[outer, count, inner]`.
/// Negative indices count from the end; one still outside `0..len` is an error on the host and reads as zero on a GPU.
/// The epilogue's accesses are over the output shape.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Gather<S = usize> {
    pub outer: S,
    pub len: S,
    pub inner: S,
    pub count: S,
    pub dtype: DType,
    pub index: DType,
    pub epilogue: Epilogue<S>,
}

/// `out[i] = x[i with coordinate axis replaced by indices[i]]`. `x` dense over `input`, `indices` and output over `output`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct GatherElements<S = usize> {
    pub axis: usize,
    pub input: Vec<S>,
    pub output: Vec<S>,
    pub dtype: DType,
    pub index: DType,
}

/// How a resize coordinate maps back: ONNX `coordinate_transformation_mode`, 1.23 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Coordinates {
    HalfPixel,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

/// How a resize interpolates.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Interpolation {
    /// Ties to the lower element.
    NearestPreferFloor,
    NearestPreferCeil,
    NearestFloor,
    NearestCeil,
    Linear,
    /// Keys' cubic convolution with coefficient `a`, edges clamped.
    Cubic {
        a: f32,
    },
}

/// Resampling of every dimension of `x` (dense over `input`) to `output`; a dimension of equal size and scale 1 is copied.
/// `scales[d]` is output / input as the model states it. Operand `x`, then the epilogue's, over `output`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Resize<S = usize> {
    pub input: Vec<S>,
    pub output: Vec<S>,
    pub scales: Vec<f32>,
    pub coordinates: Coordinates,
    pub interpolation: Interpolation,
    pub dtype: DType,
    pub epilogue: Epilogue<S>,
}

/// Running sum along the middle of `[outer, len, inner]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct CumSum<S = usize> {
    pub outer: S,
    pub len: S,
    pub inner: S,
    pub exclusive: bool,
    pub reverse: bool,
    pub dtype: DType,
}

/// The `k` largest (or smallest) along the middle of `[outer, len, inner]`, sorted; of equal elements the lower index first.
/// Outputs: values `[outer, k, inner]` and indices (i64) of that shape.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct TopK<S = usize> {
    pub outer: S,
    pub len: S,
    pub inner: S,
    pub k: S,
    pub largest: bool,
    pub dtype: DType,
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident $text:literal;)+) => {
        /// One of the problems of this module.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Problem<S = usize> { $($name($name<S>)),+ }
        $(impl<S> From<$name<S>> for Problem<S> { fn from(p: $name<S>) -> Self { Problem::$name(p) } })+
        impl<S> Problem<S> {
            /// Lower-case name, as in tactics and plans.
            pub const fn name(&self) -> &'static str { match self { $(Problem::$name(_) => $text),+ } }
            /// The same problem with every size mapped: symbolic to actual, say.
            pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Problem<T> {
                match self { $(Problem::$name(p) => Problem::$name(p.map(f))),+ }
            }
        }
    };
}

problems! {
    Pointwise "pointwise"; Gemm "gemm"; Conv "conv"; ConvTranspose "conv_transpose"; Pool "pool"; Reduce "reduce";
    Excite "excite"; Squeeze "squeeze"; ArgReduce "arg_reduce"; Softmax "softmax"; LayerNorm "layer_norm"; GroupNorm "group_norm"; Lrn "lrn";
    Attention "attention"; Concat "concat"; Pad "pad"; Gather "gather"; GatherElements "gather_elements";
    Resize "resize"; CumSum "cum_sum"; TopK "top_k";
}

macro_rules! with_epilogue {
    ($($name:ident)+) => {
        impl<S> Problem<S> {
            /// The epilogue, for problems that take one.
            pub fn epilogue(&self) -> Option<&Epilogue<S>> {
                match self { $(Problem::$name(p) => Some(&p.epilogue),)+ _ => None }
            }
            /// The epilogue, to be changed.
            pub fn epilogue_mut(&mut self) -> Option<&mut Epilogue<S>> {
                match self { $(Problem::$name(p) => Some(&mut p.epilogue),)+ _ => None }
            }
        }
    };
}
with_epilogue!(Gemm Conv ConvTranspose Pool Reduce Excite Softmax LayerNorm GroupNorm Lrn Concat Gather Resize);

impl<S> Problem<S> {
    /// Number of operands that are the problem's own, not its epilogue's.
    pub fn own_inputs(&self) -> usize {
        match self {
            Problem::Pointwise(p) => p.inputs.len(),
            Problem::LayerNorm(p) => 2 + usize::from(p.bias),
            Problem::GroupNorm(_) => 3,
            Problem::Attention(p) => 3 + usize::from(p.mask.is_some()),
            Problem::Concat(p) => p.lens.len(),
            Problem::Pad(p) => 1 + usize::from(p.mode == PadMode::Constant),
            Problem::Conv(p) => p.own_inputs(),
            Problem::Excite(p) => 3 + p.first.operands.len(),
            Problem::Squeeze(p) => p.conv_operands() + p.excite_operands(),
            Problem::Gemm(_) | Problem::ConvTranspose(_) => 2,
            Problem::Gather(_) | Problem::GatherElements(_) => 2,
            _ => 1,
        }
    }

    /// Number of operands in all, and of results.
    pub fn arity(&self) -> (usize, usize) {
        let outputs = match self {
            Problem::Pointwise(p) => p.program.outputs.len(),
            Problem::TopK(_) | Problem::Squeeze(_) => 2,
            other => 1 + usize::from(other.epilogue().is_some_and(|e| e.moments)),
        };
        (self.own_inputs() + self.epilogue().map_or(0, |e| e.operands.len()), outputs)
    }
}

impl<S: Clone> Problem<S> {
    /// The same problem with its result a dense tensor, wherever it is placed.
    pub fn unplaced(&self) -> Problem<S> {
        let mut dense = self.clone();
        if let Some(epilogue) = dense.epilogue_mut() {
            epilogue.place = None;
        }
        dense
    }
}

fn each<S, T>(sizes: &[S], f: &mut impl FnMut(&S) -> T) -> Vec<T> {
    sizes.iter().map(f).collect()
}

// `map_sizes!(Type: sizes a b; lists c; epilogue e)` writes Type::map: named sizes and lists are mapped, the rest cloned.
macro_rules! map_sizes {
    ($name:ident: $(size $($s:ident)*;)? $(list $($l:ident)*;)? $(keep $($k:ident)*;)? $(epilogue $e:ident;)?) => {
        impl<S> $name<S> {
            /// The same problem with every size mapped.
            pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> $name<T> {
                $name {
                    $($($s: f(&self.$s),)*)?
                    $($($l: each(&self.$l, f),)*)?
                    $($($k: self.$k.clone(),)*)?
                    $($e: self.$e.map(f),)?
                }
            }
        }
    };
}

impl<S> Access<S> {
    /// The same access with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Access<T> {
        Access { offset: f(&self.offset), strides: each(&self.strides, f) }
    }
}

impl<S> Placement<S> {
    /// The same placement with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Placement<T> {
        Placement { shape: each(&self.shape, f), access: self.access.map(f), elements: f(&self.elements) }
    }
}

impl<S> Epilogue<S> {
    /// A program with its operands; the result dense.
    pub fn new(program: Program, operands: Vec<Access<S>>) -> Epilogue<S> {
        Epilogue { program, operands, rows: None, moments: false, place: None }
    }

    /// Stores the accumulator of elements of `dtype` as `dtype`.
    pub fn store(dtype: DType) -> Epilogue<S> {
        Epilogue::new(Program::identity(dtype.class().dtype(), dtype), vec![])
    }

    /// None: whoever calls the kernel sees to the accumulators.
    pub fn apart() -> Epilogue<S> {
        Epilogue::new(Program::default(), vec![])
    }

    /// The same epilogue with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Epilogue<T> {
        Epilogue {
            program: self.program.clone(),
            operands: self.operands.iter().map(|a| a.map(f)).collect(),
            rows: self.rows,
            moments: self.moments,
            place: self.place.as_ref().map(|p| p.map(f)),
        }
    }

    /// Whether it only stores elements of `dtype`, accumulated as they are or in their class, one behind the other.
    pub fn stores(&self, dtype: DType) -> bool {
        let p = &self.program;
        p.code.is_empty() && p.outputs == [(0, dtype)] && self.place.is_none() && !self.moments
    }

    /// Element type of the problem's result.
    pub fn out(&self) -> DType {
        self.program.outputs[0].1
    }
}

impl<S> Pointwise<S> {
    /// The same problem with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Pointwise<T> {
        Pointwise {
            shape: each(&self.shape, f),
            inputs: self.inputs.iter().map(|a| a.map(f)).collect(),
            program: self.program.clone(),
        }
    }
}

impl<S> Gemm<S> {
    /// The same problem with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Gemm<T> {
        Gemm {
            batch: f(&self.batch),
            m: f(&self.m),
            n: f(&self.n),
            k: f(&self.k),
            dtype: self.dtype,
            math: self.math,
            a: self.a.each_ref().map(&mut *f),
            b: self.b.each_ref().map(&mut *f),
            epilogue: self.epilogue.map(f),
        }
    }
}

impl<S> Conv<S> {
    /// The same problem with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Conv<T> {
        Conv {
            n: f(&self.n),
            channels: self.channels,
            filters: self.filters,
            groups: self.groups,
            input: each(&self.input, f),
            output: each(&self.output, f),
            kernel: self.kernel.clone(),
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            layout: self.layout,
            x: self.x.as_ref().map(|(d, a)| (*d, a.map(f))),
            scaled: self.scaled,
            added: self.added.as_ref().map(|a| a.map(f)),
            expand: self.expand.as_ref().map(|e| Box::new(e.map(f))),
            pooled: self.pooled.as_ref().map(|p| p.map(f)),
            dtype: self.dtype,
            math: self.math,
            epilogue: self.epilogue.map(f),
        }
    }

    /// Which operand `x2` is, if something is added; `w2` follows it.
    pub fn added_input(&self) -> usize {
        2 + usize::from(self.scaled)
    }

    /// Whether it has one filter for each channel.
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.channels && self.filters == self.channels
    }

    /// Which operand `w1` is, if pixels are made by another convolution; its epilogue's follow it.
    pub fn expand_input(&self) -> usize {
        self.added_input() + 2 * usize::from(self.added.is_some())
    }

    /// Number of operands that are not the epilogue's.
    pub fn own_inputs(&self) -> usize {
        self.expand_input() + self.expand.as_ref().map_or(0, |e| 1 + e.epilogue.operands.len())
    }
}

impl<S: Clone> Conv<S> {
    /// What is added, as a convolution of its own: of `x2` by `w2`, without an epilogue.
    pub fn addition(&self) -> Option<Conv<S>> {
        let Added { channels, input, strides } = self.added.clone()?;
        Some(Conv { input, strides, ..self.by_one_element(channels, Epilogue::apart()) })
    }

    /// What makes its pixels, as a convolution of its own: of `x` by `w1`.
    pub fn expansion(&self) -> Option<Conv<S>> {
        let Expand { channels, epilogue } = *self.expand.clone()?;
        let (filters, output) = (self.channels, self.input.clone());
        Some(Conv { filters, output, ..self.by_one_element(channels, epilogue) })
    }

    // The same otherwise, of so many channels at one pixel each, and with nothing before or beside it.
    fn by_one_element(&self, channels: usize, epilogue: Epilogue<S>) -> Conv<S> {
        let ones = vec![1; self.kernel.len()];
        Conv {
            channels,
            groups: 1,
            kernel: ones.clone(),
            strides: ones.clone(),
            dilations: ones,
            pads: vec![0; self.kernel.len()],
            x: None,
            scaled: false,
            added: None,
            expand: None,
            pooled: None,
            epilogue,
            ..self.clone()
        }
    }
}

impl<S: Clone + From<usize>> Conv<S> {
    /// The maxima of its results, as a pool of its own.
    pub fn pool(&self) -> Option<Pool<S>> {
        let Pooled { output, kernel, strides, pads } = self.pooled.clone()?;
        let (ones, zeros) = (vec![1; kernel.len()], vec![0; kernel.len()]);
        Some(Pool {
            kind: PoolKind::Max,
            n: self.n.clone(),
            channels: self.filters.into(),
            input: self.output.clone(),
            output,
            kernel: kernel.into_iter().map(S::from).collect(),
            strides,
            dilations: ones,
            pads,
            pads_end: zeros,
            layout: self.layout,
            dtype: self.epilogue.out(),
            epilogue: Epilogue::store(self.epilogue.out()),
        })
    }
}

impl<S> Attention<S> {
    /// The same problem with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Attention<T> {
        Attention {
            batch: f(&self.batch),
            heads: self.heads,
            kv_heads: self.kv_heads,
            seq_q: f(&self.seq_q),
            seq_k: f(&self.seq_k),
            dim: self.dim,
            dim_v: self.dim_v,
            scale: self.scale,
            causal: self.causal,
            q: self.q.map(f),
            k: self.k.map(f),
            v: self.v.map(f),
            mask: self.mask.as_ref().map(|(d, a)| (*d, a.map(f))),
            out_heads_inner: self.out_heads_inner,
            dtype: self.dtype,
        }
    }
}

impl<S> Added<S> {
    /// The same with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Added<T> {
        Added { channels: self.channels, input: each(&self.input, f), strides: self.strides.clone() }
    }
}

impl<S> Expand<S> {
    /// The same with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Expand<T> {
        Expand { channels: self.channels, epilogue: self.epilogue.map(f) }
    }
}

impl<S> Pooled<S> {
    /// The same with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Pooled<T> {
        let Pooled { output, kernel, strides, pads } = self;
        let (kernel, strides, pads) = (kernel.clone(), strides.clone(), pads.clone());
        Pooled { output: each(output, f), kernel, strides, pads }
    }
}

impl<S> Excite<S> {
    /// The same problem with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Excite<T> {
        Excite {
            n: f(&self.n),
            pixels: f(&self.pixels),
            channels: self.channels,
            hidden: self.hidden,
            filters: self.filters,
            dtype: self.dtype,
            first: self.first.map(f),
            epilogue: self.epilogue.map(f),
        }
    }
}

impl<S> Squeeze<S> {
    /// The same problem with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Squeeze<T> {
        Squeeze { conv: Box::new(self.conv.map(f)), excite: self.excite.map(f) }
    }

    /// Number of operands of the convolution, which come first.
    pub fn conv_operands(&self) -> usize {
        self.conv.own_inputs() + self.conv.epilogue.operands.len()
    }

    /// Number of operands of the excitation but for its first, which is the convolution's result.
    pub fn excite_operands(&self) -> usize {
        2 + self.excite.first.operands.len() + self.excite.epilogue.operands.len()
    }
}

map_sizes! { ConvTranspose: size n; list input output; keep channels filters groups kernel strides dilations pads layout dtype; epilogue epilogue; }
map_sizes! { Pool: size n channels; list input output kernel; keep kind strides dilations pads pads_end layout dtype; epilogue epilogue; }
map_sizes! { Reduce: list shape; keep kind reduced dtype; epilogue epilogue; }
map_sizes! { ArgReduce: size outer len inner; keep max last dtype; }
map_sizes! { Softmax: size outer len inner; keep log dtype; epilogue epilogue; }
map_sizes! { LayerNorm: size rows len; keep rms epsilon bias dtype; epilogue epilogue; }
map_sizes! { GroupNorm: size n spatial; keep channels groups epsilon layout dtype; epilogue epilogue; }
map_sizes! { Lrn: size n spatial; keep channels size alpha beta bias dtype; epilogue epilogue; }
map_sizes! { Concat: size outer inner; list lens; keep dtype; epilogue epilogue; }
map_sizes! { Pad: list input output; keep mode begin dtype; }
map_sizes! { Gather: size outer len inner count; keep dtype index; epilogue epilogue; }
map_sizes! { GatherElements: list input output; keep axis dtype index; }
map_sizes! { Resize: list input output; keep scales coordinates interpolation dtype; epilogue epilogue; }
map_sizes! { CumSum: size outer len inner; keep exclusive reverse dtype; }
map_sizes! { TopK: size outer len inner k; keep largest dtype; }
