//! Convolutions, with what may stand before, beside and behind one.

use super::{Access, Epilogue, Layout, Math, Pool, PoolKind, each};
use crate::dtype::DType;

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
