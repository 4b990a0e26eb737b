//! Problems: what one kernel launch (or a few) computes, with nothing of graphs or ONNX left in it.
//!
//! Each problem is a struct over a size type `S`: the compiler holds `Problem<Dim>` with symbolic sizes, the host
//! kernels take `Problem<usize>`, and generated code writes the literal. Its doc is the contract for every
//! implementation: operands in order, shapes, and the sum it stands for. Tensors are dense and row-major unless a
//! stride says otherwise. Wherever an `epilogue` stands, its program maps the accumulator (input 0, in the
//! class of the elements: f32 for f16/bf16/f32, f64 for f64, i64 for integers) and its extra operands to the
//! outputs; the extra operands follow the problem's own in the operand list.

mod conv;
mod epilogue;

pub use conv::{Added, Conv, Excite, Expand, Pooled, Squeeze};
pub use epilogue::{Access, Epilogue, Placement, Rows, SPAN};

use crate::dtype::DType;
use crate::program::Program;

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

map_sizes! { Added: list input; keep channels strides; }
map_sizes! { Expand: keep channels; epilogue epilogue; }
map_sizes! { Pooled: list output; keep kernel strides pads; }
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
