//! What a problem asks of its operands: their number, element types and lengths, all checked without overflow.
//! A problem that has a contract can be run on anything that fits it.

use crate::dtype::{Class, DType};
use crate::problem::*;
use crate::view::{RunError, View, ViewMut, bail};
use crate::walk;

/// One operand of a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Its name in the problem's doc; the epilogue's and a pointwise problem's are `operand`.
    pub name: &'static str,
    /// Its element type.
    pub dtype: DType,
    /// Its number of elements; where it is read through an access, the least number.
    pub len: usize,
    /// Whether more elements than `len` are an error.
    pub exact: bool,
}

/// The operands and results of a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// In the order [`crate::run`] takes them.
    pub inputs: Vec<Operand>,
    /// Element type and shape of each output.
    pub outputs: Vec<(DType, Vec<usize>)>,
}

type Outcome = Result<Contract, RunError>;

fn len(shape: &[usize]) -> Result<usize, RunError> {
    walk::count(shape).ok_or_else(|| RunError(format!("shape {shape:?} has more elements than memory")))
}

fn exact(name: &'static str, dtype: DType, shape: &[usize]) -> Result<Operand, RunError> {
    Ok(Operand { name, dtype, len: len(shape)?, exact: true })
}

fn through(name: &'static str, dtype: DType, shape: &[usize], access: &Access) -> Result<Operand, RunError> {
    if access.strides.len() != shape.len() {
        bail!("the access of {name} has {} strides over {shape:?}", access.strides.len());
    }
    match walk::reach(shape, access) {
        Some(len) => Ok(Operand { name, dtype, len, exact: false }),
        None => bail!("the access of {name} over {shape:?} overflows: {access:?}"),
    }
}

/// The contract of a problem with these operands, this accumulator class and epilogue over `shape`.
fn with(mut inputs: Vec<Operand>, class: Class, e: &Epilogue, shape: Vec<usize>) -> Outcome {
    e.program.classes().map_err(|what| RunError(format!("epilogue {}: {what}", e.program)))?;
    let p = &e.program;
    if p.outputs.len() != 1 || p.inputs.is_empty() || p.inputs.len() - 1 != e.operands.len() {
        bail!(
            "an epilogue has one output and an input more than its {} operands; this has {} and {}",
            e.operands.len(),
            p.outputs.len(),
            p.inputs.len()
        );
    }
    if p.inputs[0].class() != class {
        bail!("the epilogue reads {} where the accumulator is {class:?}", p.inputs[0]);
    }
    len(&shape)?;
    for (n, (dtype, access)) in p.inputs[1..].iter().zip(&e.operands).enumerate() {
        let operand = through("operand", *dtype, &shape, access)?;
        inputs.push(match &e.rows {
            Some(rows) if n < 2 => moments_of(rows, *dtype, &shape, operand.len)?,
            _ => operand,
        });
    }
    if e.moments {
        return with_moments(inputs, e, shape);
    }
    let shape = match &e.place {
        Some(place) => vec![placed(place, &shape)?],
        None => shape,
    };
    Ok(Contract { inputs, outputs: vec![(e.out(), shape)] })
}

/// The moments from which an operand of `reach` elements of `[rows, 2]` comes.
fn moments_of(rows: &Rows, dtype: DType, shape: &[usize], reach: usize) -> Result<Operand, RunError> {
    let count = len(&shape[..shape.len().saturating_sub(1)])?;
    let whole = rows.len > 0 && rows.len.is_multiple_of(SPAN) && len(&[count, 2])? >= reach;
    if dtype != DType::F32 || !whole {
        bail!("{reach} numbers ({dtype}) of {count} rows of {}; expected 2 for each (f32)", rows.len);
    }
    exact("moments", dtype, &[count, rows.len / SPAN, 2])
}

/// The contract of an epilogue over `shape` that gives the moments of its result.
fn with_moments(inputs: Vec<Operand>, e: &Epilogue, shape: Vec<usize>) -> Outcome {
    let (rows, row) = match shape.split_last() {
        Some((row, rows)) if row.is_multiple_of(SPAN) => (len(rows)?, *row),
        _ => bail!("moments of rows of {shape:?}, which are no multiple of {SPAN}"),
    };
    if e.place.is_some() || !e.out().is_float() {
        bail!("moments of a result that is placed, or no float ({})", e.out());
    }
    Ok(Contract { inputs, outputs: vec![(e.out(), shape), (DType::F32, vec![rows, row / SPAN, 2])] })
}

/// The elements of the tensor that a result of `shape` is placed in.
fn placed(place: &Placement, shape: &[usize]) -> Result<usize, RunError> {
    let (all, grouped) = (len(shape)?, len(&place.shape)?);
    let reach = through("the result", DType::U8, &place.shape, &place.access)?.len;
    if all != grouped || reach > len(&[place.elements])? {
        bail!(
            "{all} elements of {shape:?} are placed as {:?} in {}: {:?}",
            place.shape,
            place.elements,
            place.access
        );
    }
    Ok(place.elements)
}

fn float(dtype: DType, what: &str) -> Result<(), RunError> {
    if !dtype.is_float() {
        bail!("{what} is not defined for {dtype}");
    }
    Ok(())
}

fn number(dtype: DType, what: &str) -> Result<(), RunError> {
    if dtype == DType::Bool {
        bail!("{what} is not defined for {dtype}");
    }
    Ok(())
}

/// The dimensions of a tensor of `channels` in their layout's order.
pub(crate) fn layout(n: usize, channels: usize, spatial: &[usize], layout: Layout) -> Vec<usize> {
    let channel = std::iter::once(channels);
    let spatial = spatial.iter().copied();
    let n = std::iter::once(n);
    match layout {
        Layout::ChannelsFirst => n.chain(channel).chain(spatial).collect(),
        Layout::ChannelsLast => n.chain(spatial).chain(channel).collect(),
    }
}

/// Whether a window's lists agree in rank and its coordinates cannot overflow.
fn window(lists: [&[usize]; 6], pads_end: Option<&[usize]>) -> Result<(), RunError> {
    let [input, output, kernel, strides, dilations, pads] = lists;
    let rank = input.len();
    if lists.iter().any(|l| l.len() != rank) || pads_end.is_some_and(|l| l.len() != rank) {
        bail!("the lists of a window differ in rank: {lists:?}");
    }
    len(kernel)?;
    for d in 0..rank {
        if strides[d] == 0 || dilations[d] == 0 || kernel[d] == 0 {
            bail!("dimension {d} of a window has a stride, dilation or kernel of 0: {lists:?}");
        }
        let farthest = || {
            let position = output[d].checked_mul(strides[d])?;
            let tap = kernel[d].checked_mul(dilations[d])?;
            let input = input[d].checked_add(pads[d])?.checked_add(pads_end.map_or(0, |p| p[d]))?;
            position.checked_add(tap)?.checked_add(input).filter(|n| isize::try_from(*n).is_ok())
        };
        if farthest().is_none() {
            bail!("dimension {d} of a window overflows: {lists:?}");
        }
    }
    Ok(())
}

fn grouped(channels: usize, filters: usize, groups: usize) -> Result<(), RunError> {
    if groups == 0 || channels == 0 || !channels.is_multiple_of(groups) || !filters.is_multiple_of(groups) {
        bail!("{groups} groups do not divide {channels} channels and {filters} filters");
    }
    Ok(())
}

impl Problem<usize> {
    /// What must be given to run it; an error where the problem itself is inconsistent.
    pub fn contract(&self) -> Result<Contract, RunError> {
        let named = |e: RunError| RunError(format!("{}: {e}", self.name()));
        self.unnamed().map_err(named)
    }

    /// Shape of each output.
    pub fn output_shapes(&self) -> Result<Vec<Vec<usize>>, RunError> {
        Ok(self.contract()?.outputs.into_iter().map(|(_, shape)| shape).collect())
    }

    /// Number of elements of each output.
    pub fn output_lens(&self) -> Result<Vec<usize>, RunError> {
        self.output_shapes()?.iter().map(|s| len(s)).collect()
    }

    fn unnamed(&self) -> Outcome {
        match self {
            Problem::Pointwise(p) => {
                p.program.classes().map_err(|what| RunError(format!("program {}: {what}", p.program)))?;
                if p.program.inputs.len() != p.inputs.len() {
                    bail!("{} accesses for {} program inputs", p.inputs.len(), p.program.inputs.len());
                }
                len(&p.shape)?;
                let inputs = p.program.inputs.iter().zip(&p.inputs);
                let inputs =
                    inputs.map(|(d, a)| through("operand", *d, &p.shape, a)).collect::<Result<_, _>>()?;
                let outputs = p.program.outputs.iter().map(|(_, d)| (*d, p.shape.clone())).collect();
                Ok(Contract { inputs, outputs })
            }
            Problem::Gemm(p) => {
                number(p.dtype, "a product")?;
                let access = |s: &[usize; 3]| Access { offset: 0, strides: s.to_vec() };
                let a = through("a", p.dtype, &[p.batch, p.m, p.k], &access(&p.a))?;
                let b = through("b", p.dtype, &[p.batch, p.k, p.n], &access(&p.b))?;
                with(vec![a, b], p.dtype.class(), &p.epilogue, vec![p.batch, p.m, p.n])
            }
            Problem::Conv(p) => {
                number(p.dtype, "a convolution")?;
                grouped(p.channels, p.filters, p.groups)?;
                window([&p.input, &p.output, &p.kernel, &p.strides, &p.dilations, &p.pads], None)?;
                let channels = p.expand.as_ref().map_or(p.channels, |e| e.channels);
                let pixels = layout(p.n, channels, &p.input, p.layout);
                let x = match &p.x {
                    None => exact("x", p.dtype, &pixels)?,
                    Some((dtype, access)) if dtype.class() == p.dtype.class() => {
                        len(&pixels)?;
                        through("x", *dtype, &pixels, access)?
                    }
                    Some((dtype, _)) => bail!("it reads {dtype} as {}, of another class", p.dtype),
                };
                let mut w = vec![p.filters, p.channels / p.groups];
                w.extend(&p.kernel);
                let w = exact("w", p.dtype, &w)?;
                let mut inputs = vec![x, w];
                if p.scaled {
                    inputs.push(exact("s", p.dtype, &[p.n, p.channels])?);
                }
                if let Some(more) = p.addition() {
                    grouped(more.channels, more.filters, 1)?;
                    window(
                        [&more.input, &more.output, &more.kernel, &more.strides, &more.dilations, &more.pads],
                        None,
                    )?;
                    let pixels = layout(more.n, more.channels, &more.input, more.layout);
                    inputs.push(exact("x2", p.dtype, &pixels)?);
                    let w: Vec<usize> =
                        [more.filters, more.channels].into_iter().chain(more.kernel).collect();
                    inputs.push(exact("w2", p.dtype, &w)?);
                }
                if let Some(first) = p.expansion() {
                    inputs.extend(expansion(p, &first)?);
                }
                let out = layout(p.n, p.filters, &p.output, p.layout);
                if p.pooled.is_some() {
                    return pooled(p, inputs, out);
                }
                with(inputs, p.dtype.class(), &p.epilogue, out)
            }
            Problem::ConvTranspose(p) => {
                number(p.dtype, "a transposed convolution")?;
                grouped(p.channels, p.filters, p.groups)?;
                window([&p.output, &p.input, &p.kernel, &p.strides, &p.dilations, &p.pads], None)?;
                let x = exact("x", p.dtype, &layout(p.n, p.channels, &p.input, p.layout))?;
                let mut w = vec![p.channels, p.filters / p.groups];
                w.extend(&p.kernel);
                let w = exact("w", p.dtype, &w)?;
                let out = layout(p.n, p.filters, &p.output, p.layout);
                with(vec![x, w], p.dtype.class(), &p.epilogue, out)
            }
            Problem::Pool(p) => {
                number(p.dtype, "a pool")?;
                if p.kind == PoolKind::Lp(0) {
                    bail!("the norm of order 0 is not defined");
                }
                let lists = [&*p.input, &p.output, &p.kernel, &p.strides, &p.dilations, &p.pads];
                window(lists, Some(&p.pads_end))?;
                let x = exact("x", p.dtype, &layout(p.n, p.channels, &p.input, p.layout))?;
                let out = layout(p.n, p.channels, &p.output, p.layout);
                with(vec![x], p.dtype.class(), &p.epilogue, out)
            }
            Problem::Reduce(p) => {
                let logical = matches!(p.kind, ReduceKind::Any | ReduceKind::All);
                if logical != (p.dtype == DType::Bool) {
                    bail!("{:?} is not defined for {}", p.kind, p.dtype);
                }
                if p.reduced.len() != p.shape.len() {
                    bail!("{} flags for a shape of rank {}", p.reduced.len(), p.shape.len());
                }
                let kept = p.shape.iter().zip(&p.reduced).filter(|(_, r)| !**r).map(|(d, _)| *d).collect();
                let x = exact("x", p.dtype, &p.shape)?;
                with(vec![x], p.dtype.class(), &p.epilogue, kept)
            }
            Problem::Excite(p) => {
                float(p.dtype, "excitation")?;
                if p.channels == 0 || p.hidden == 0 {
                    bail!("{} channels and {} between the products", p.channels, p.hidden);
                }
                len(&[p.n, p.channels])?;
                let inputs = vec![
                    exact("x", p.dtype, &[p.n, p.pixels, p.channels])?,
                    exact("w1", p.dtype, &[p.hidden, p.channels])?,
                    exact("w2", p.dtype, &[p.filters, p.hidden])?,
                ];
                let first = with(inputs, p.dtype.class(), &p.first, vec![p.n, p.hidden])?;
                if p.first.out() != p.dtype || p.first.place.is_some() {
                    bail!("what is between the products is {}, not a dense {}", p.first.out(), p.dtype);
                }
                with(first.inputs, p.dtype.class(), &p.epilogue, vec![p.n, p.filters])
            }
            Problem::Squeeze(p) => squeeze(p),
            Problem::ArgReduce(p) => {
                number(p.dtype, "an order")?;
                if p.len == 0 && p.outer != 0 && p.inner != 0 {
                    bail!("a dimension of no elements has no largest");
                }
                let x = exact("x", p.dtype, &[p.outer, p.len, p.inner])?;
                len(&[p.outer, p.inner])?;
                Ok(Contract { inputs: vec![x], outputs: vec![(DType::I64, vec![p.outer, p.inner])] })
            }
            Problem::Softmax(p) => {
                float(p.dtype, "softmax")?;
                let shape = vec![p.outer, p.len, p.inner];
                with(vec![exact("x", p.dtype, &shape)?], p.dtype.class(), &p.epilogue, shape)
            }
            Problem::LayerNorm(p) => {
                float(p.dtype, "normalisation")?;
                let shape = vec![p.rows, p.len];
                let mut inputs = vec![exact("x", p.dtype, &shape)?, exact("scale", p.dtype, &[p.len])?];
                if p.bias {
                    inputs.push(exact("bias", p.dtype, &[p.len])?);
                }
                with(inputs, p.dtype.class(), &p.epilogue, shape)
            }
            Problem::GroupNorm(p) => {
                float(p.dtype, "normalisation")?;
                grouped(p.channels, p.channels, p.groups)?;
                let shape = layout(p.n, p.channels, &[p.spatial], p.layout);
                let channel = |name| exact(name, p.dtype, &[p.channels]);
                let inputs = vec![exact("x", p.dtype, &shape)?, channel("scale")?, channel("bias")?];
                with(inputs, p.dtype.class(), &p.epilogue, shape)
            }
            Problem::Lrn(p) => {
                float(p.dtype, "normalisation")?;
                if p.size == 0 {
                    bail!("a window of 0 channels");
                }
                let shape = vec![p.n, p.channels, p.spatial];
                with(vec![exact("x", p.dtype, &shape)?], p.dtype.class(), &p.epilogue, shape)
            }
            Problem::Attention(p) => attention(p),
            Problem::Concat(p) => {
                let operand = |n: &usize| exact("operand", p.dtype, &[p.outer, *n, p.inner]);
                let inputs = p.lens.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
                let joined = p.lens.iter().try_fold(0usize, |a, b| a.checked_add(*b));
                let Some(joined) = joined else { bail!("lengths {:?} overflow", p.lens) };
                with(inputs, p.dtype.class(), &p.epilogue, vec![p.outer, joined, p.inner])
            }
            Problem::Pad(p) => {
                if p.output.len() != p.input.len() || p.begin.len() != p.input.len() {
                    bail!("ranks differ: input {:?}, output {:?}, begin {:?}", p.input, p.output, p.begin);
                }
                let mut inputs = vec![exact("x", p.dtype, &p.input)?];
                if p.mode == PadMode::Constant {
                    inputs.push(exact("value", p.dtype, &[])?);
                } else if len(&p.input)? == 0 && len(&p.output)? != 0 {
                    bail!("nothing to repeat in an empty {:?}", p.input);
                }
                len(&p.output)?;
                Ok(Contract { inputs, outputs: vec![(p.dtype, p.output.clone())] })
            }
            Problem::Gather(p) => {
                index(p.index)?;
                let x = exact("x", p.dtype, &[p.outer, p.len, p.inner])?;
                let indices = exact("indices", p.index, &[p.count])?;
                with(vec![x, indices], p.dtype.class(), &p.epilogue, vec![p.outer, p.count, p.inner])
            }
            Problem::GatherElements(p) => {
                index(p.index)?;
                let rank = p.input.len();
                if p.output.len() != rank || p.axis >= rank {
                    bail!("axis {} of input {:?} and output {:?}", p.axis, p.input, p.output);
                }
                if let Some(d) = (0..rank).find(|&d| d != p.axis && p.output[d] > p.input[d]) {
                    bail!("dimension {d} of the indices is {} where x has {}", p.output[d], p.input[d]);
                }
                let x = exact("x", p.dtype, &p.input)?;
                let indices = exact("indices", p.index, &p.output)?;
                Ok(Contract { inputs: vec![x, indices], outputs: vec![(p.dtype, p.output.clone())] })
            }
            Problem::Resize(p) => {
                float(p.dtype, "resampling")?;
                if p.output.len() != p.input.len() || p.scales.len() != p.input.len() {
                    bail!("ranks differ: input {:?}, output {:?}, scales {:?}", p.input, p.output, p.scales);
                }
                if p.scales.iter().any(|s| !(*s > 0.0 && s.is_finite())) {
                    bail!("scales are positive and finite, not {:?}", p.scales);
                }
                let x = exact("x", p.dtype, &p.input)?;
                if x.len == 0 && len(&p.output)? != 0 {
                    bail!("nothing to sample in an empty {:?}", p.input);
                }
                with(vec![x], p.dtype.class(), &p.epilogue, p.output.clone())
            }
            Problem::CumSum(p) => {
                number(p.dtype, "a sum")?;
                let shape = vec![p.outer, p.len, p.inner];
                Ok(Contract { inputs: vec![exact("x", p.dtype, &shape)?], outputs: vec![(p.dtype, shape)] })
            }
            Problem::TopK(p) => {
                number(p.dtype, "an order")?;
                if p.k > p.len {
                    bail!("the {} first of {}", p.k, p.len);
                }
                let x = exact("x", p.dtype, &[p.outer, p.len, p.inner])?;
                let shape = vec![p.outer, p.k, p.inner];
                len(&shape)?;
                Ok(Contract { inputs: vec![x], outputs: vec![(p.dtype, shape.clone()), (DType::I64, shape)] })
            }
        }
    }
}

fn index(dtype: DType) -> Result<(), RunError> {
    if !dtype.is_int() {
        bail!("indices are integers, not {dtype}");
    }
    Ok(())
}

/// The operands of what makes a convolution's pixels, but for those.
fn expansion(p: &Conv<usize>, first: &Conv<usize>) -> Result<Vec<Operand>, RunError> {
    if p.x.is_some() || p.scaled || p.added.is_some() {
        bail!(
            "its pixels are made by another convolution, and lie otherwise, are scaled, or something is added"
        );
    }
    let e = &first.epilogue;
    if e.place.is_some() || e.moments || e.rows.is_some() {
        bail!("the pixels that it makes are placed, or moments of them or their operands are known");
    }
    let Contract { mut inputs, outputs } = Problem::from(first.clone()).contract()?;
    if outputs[0].0 != p.dtype {
        bail!("the pixels that it makes are {}, not {}", outputs[0].0, p.dtype);
    }
    inputs.remove(0);
    inputs[0].name = "w1";
    Ok(inputs)
}

/// The contract of a convolution of results of `shape`, of which maxima are the result.
fn pooled(p: &Conv<usize>, inputs: Vec<Operand>, shape: Vec<usize>) -> Outcome {
    let e = &p.epilogue;
    if e.moments || e.rows.is_some() {
        bail!("what it pools are rows whose moments, or whose operands' moments, are known");
    }
    let Contract { inputs, mut outputs } =
        with(inputs, p.dtype.class(), &Epilogue { place: None, ..e.clone() }, shape)?;
    if let Some(pool) = p.pool() {
        outputs = Problem::from(pool).contract()?.outputs;
    }
    if let (Some(place), [(_, shape)]) = (&e.place, &mut outputs[..]) {
        *shape = vec![placed(place, shape)?];
    }
    Ok(Contract { inputs, outputs })
}

fn squeeze(p: &Squeeze<usize>) -> Outcome {
    let Squeeze { conv, excite } = p;
    let first = Problem::from(Conv::clone(conv)).contract()?;
    let second = Problem::from(excite.clone()).contract()?;
    let ends = [&conv.epilogue, &excite.first, &excite.epilogue];
    if conv.pooled.is_some() {
        bail!("its pixels are pooled");
    }
    if ends.iter().any(|e| e.moments || e.rows.is_some()) {
        bail!("its results' or operands' moments are known");
    }
    if conv.layout != Layout::ChannelsLast || ends.iter().any(|e| e.place.is_some()) {
        bail!("a convolution of {:?} or a placed result; expected dense ones, channels last", conv.layout);
    }
    let made = (conv.epilogue.out(), conv.n, len(&conv.output)?, conv.filters);
    let read = (excite.dtype, excite.n, excite.pixels, excite.channels);
    if made != read {
        bail!("type, images, pixels and channels {made:?} of the convolution are {read:?} to the excitation");
    }
    let inputs = first.inputs.into_iter().chain(second.inputs.into_iter().skip(1)).collect();
    Ok(Contract { inputs, outputs: first.outputs.into_iter().chain(second.outputs).collect() })
}

fn attention(p: &Attention<usize>) -> Outcome {
    float(p.dtype, "attention")?;
    if p.kv_heads == 0 || !p.heads.is_multiple_of(p.kv_heads) {
        bail!("{} query heads do not share {} heads of keys", p.heads, p.kv_heads);
    }
    // The last dimension of q, k and v is dense: an access over one dimension more, with stride 1.
    let operand = |name, heads: usize, seq: usize, dim: usize, access: &Access| {
        let mut access = access.clone();
        access.strides.push(1);
        through(name, p.dtype, &[p.batch, heads, seq, dim], &access)
    };
    let mut inputs = vec![
        operand("q", p.heads, p.seq_q, p.dim, &p.q)?,
        operand("k", p.kv_heads, p.seq_k, p.dim, &p.k)?,
        operand("v", p.kv_heads, p.seq_k, p.dim_v, &p.v)?,
    ];
    if let Some((dtype, access)) = &p.mask {
        if dtype.is_int() {
            bail!("a mask is bool or float, not {dtype}");
        }
        inputs.push(through("mask", *dtype, &[p.batch, p.heads, p.seq_q, p.seq_k], access)?);
    }
    let shape = if p.out_heads_inner {
        vec![p.batch, p.seq_q, p.heads, p.dim_v]
    } else {
        vec![p.batch, p.heads, p.seq_q, p.dim_v]
    };
    len(&shape)?;
    Ok(Contract { inputs, outputs: vec![(p.dtype, shape)] })
}

impl Contract {
    /// Whether these views fit; the error names the first that does not.
    pub fn check(&self, inputs: &[View<'_>], outputs: &[ViewMut<'_>]) -> Result<(), RunError> {
        if inputs.len() != self.inputs.len() || outputs.len() != self.outputs.len() {
            bail!(
                "takes {} operands and gives {} results; given are {} and {}",
                self.inputs.len(),
                self.outputs.len(),
                inputs.len(),
                outputs.len()
            );
        }
        for (i, (view, want)) in inputs.iter().zip(&self.inputs).enumerate() {
            let at = |e: RunError| RunError(format!("operand {i} ({}): {e}", want.name));
            view.verify().map_err(at)?;
            if view.dtype != want.dtype {
                bail!("operand {i} ({}) is {}, not {}", want.name, view.dtype, want.dtype);
            }
            if view.len() < want.len || (want.exact && view.len() != want.len) {
                let least = if want.exact { "" } else { "at least " };
                bail!("operand {i} ({}) has {} elements, not {least}{}", want.name, view.len(), want.len);
            }
        }
        for (i, (view, (dtype, shape))) in outputs.iter().zip(&self.outputs).enumerate() {
            view.verify().map_err(|e| RunError(format!("output {i}: {e}")))?;
            if view.dtype != *dtype {
                bail!("output {i} is {}, not {dtype}", view.dtype);
            }
            let want = len(shape)?;
            if view.len() != want {
                bail!("output {i} has {} elements, not {want} ({shape:?})", view.len());
            }
        }
        Ok(())
    }
}
