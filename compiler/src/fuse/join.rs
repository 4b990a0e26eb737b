//! Regions joined that each read nothing but the one before, where one kernel does it all and is faster: squeeze and excitation
//! (a mean over pixels and two matrix products of it), the factor of each channel that a convolution reads its pixels with, the
//! copy in another order or type that a network's first convolution would read, and the convolution by one element whose result
//! another one's epilogue adds. And a depthwise convolution with the convolution by one element that makes its pixels, and with
//! the excitation that reads its result, which others read too. And a convolution with the maxima over windows that are all that
//! reads it. GPU plans only.

use super::access::regroup;
use super::alternative::Judge;
use super::place::{is_output, readers};
use super::{Region, Regions, name_of, number};
use crate::error::Result;
use crate::ir::types::dense_strides;
use crate::ir::{Graph, NodeId, Value};
use bakelite_host::problem::{
    Access, Added, Conv, Epilogue, Excite, Expand, Gemm, Layout, Pointwise, PoolKind, Pooled, Reduce,
    ReduceKind, Squeeze,
};
use bakelite_host::{Instr, Program, Pw, Reg};
use bakelite_kernels::dim::product;
use bakelite_kernels::{Dim, Problem};

/// Joins what can be joined and the judge says is.
pub fn join(mut regions: Regions, judge: &mut Judge<'_>) -> Result<Regions> {
    let Regions { graph, regions: all } = &mut regions;
    // What is not joined with its excitation as it is may be once its pixels are made on the way.
    for find in [squeeze, scale, first, add, excited, expand, excited, pooled] {
        let mut at = 0;
        while at < all.len() {
            let joined =
                find(graph, all, at).filter(|(parts, region)| is_joined(graph, all, parts, region, judge));
            let Some((parts, region)) = joined else {
                at += 1;
                continue;
            };
            // The parts before it go; what it reads is made before the first of them, or before itself.
            all[at] = region;
            let before: Vec<usize> = parts.into_iter().filter(|part| *part != at).collect();
            at = at + 1 - before.len();
            before.iter().for_each(|part| drop(all.remove(*part)));
        }
    }
    super::rows::normalise(&mut regions, Some(judge))?;
    super::verify(&regions)?;
    Ok(regions)
}

/// Indices of regions, the last first, and the region that does what they do.
type Joined = (Vec<usize>, Region);

fn is_joined(graph: &Graph, all: &[Region], parts: &[usize], region: &Region, judge: &mut Judge<'_>) -> bool {
    let apart = parts.iter().map(|part| all[*part].problem.clone()).collect();
    let text = region.problem.to_string();
    judge.joins(&graph.symbols, text.clone(), text, [vec![region.problem.clone()], apart])
}

/// The region that makes `value` for this reader alone, all of it, dense.
fn producer(graph: &Graph, all: &[Region], value: Value, reader: usize) -> Option<usize> {
    let made = all.iter().position(|r| r.outputs.contains(&value))?;
    let alone = readers(all, value).iter().map(|(r, _)| *r).eq([reader]);
    (alone && !is_output(graph, value) && all[made].place.is_none() && all[made].outputs.len() == 1)
        .then_some(made)
}

/// The region of all nodes of `parts`, named after `main`.
fn region(
    graph: &Graph,
    parts: &[&Region],
    main: NodeId,
    problem: Problem<Dim>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
) -> Region {
    let inside = |id: &NodeId| parts.iter().any(|part| part.nodes.contains(id));
    let nodes: Vec<NodeId> = graph.order().into_iter().filter(inside).collect();
    Region { name: name_of(graph, &nodes, main), nodes, problem, place: None, inputs, outputs }
}

/// A matrix product of `n` rows by constant weights `[columns, k]`: their numbers, and the epilogue over `[n, columns]`. Exact
/// products do where rounded ones are asked for.
fn layer(graph: &Graph, region: &Region, n: &Dim) -> Option<(usize, usize, Epilogue<Dim>)> {
    let Problem::Gemm(gemm) = &region.problem else { return None };
    let Gemm { batch, m, n: columns, k, a, b, epilogue, .. } = gemm;
    let rows = batch.is(1) && m == n && a[2].is(1) && b[1].is(1) && b[2] == *k;
    let dense = n.is(1) || a[1] == *k;
    graph.data(region.inputs[1])?;
    if !rows || !dense || region.place.is_some() {
        return None;
    }
    let operands = epilogue.operands.iter().map(|a| {
        // Over [1, n, columns].
        Access { offset: a.offset.clone(), strides: a.strides[1..].to_vec() }
    });
    Some((number(k)?, number(columns)?, Epilogue::new(epilogue.program.clone(), operands.collect())))
}

/// `epilogue(w2 · first(w1 · mean(x)))`, where region `at` is the last product.
fn squeeze(graph: &Graph, all: &[Region], at: usize) -> Option<Joined> {
    let Problem::Gemm(last) = &all[at].problem else { return None };
    let n = last.m.clone();
    let (hidden, filters, epilogue) = layer(graph, &all[at], &n)?;
    let middle = producer(graph, all, all[at].inputs[0], at)?;
    let (channels, between, first) = layer(graph, &all[middle], &n)?;
    let mean = producer(graph, all, all[middle].inputs[0], middle)?;
    let Problem::Reduce(reduce) = &all[mean].problem else { return None };
    let Reduce { kind, shape, reduced, dtype, epilogue: plain } = reduce;
    // Images, pixels, channels.
    let start = reduced.iter().position(|r| *r)?;
    let end = reduced.iter().rposition(|r| *r)? + 1;
    let columns = reduced[start..end].iter().all(|r| *r)
        && product(&shape[..start]) == n
        && product(&shape[end..]).is(channels as i64);
    let same = last.dtype == *dtype && first.out() == *dtype && between == hidden;
    let whole = *kind == ReduceKind::Mean && plain.stores(*dtype) && plain.operands.is_empty();
    if !columns || !same || !whole {
        return None;
    }
    let pixels = product(&shape[start..end]);
    let problem = Excite { n, pixels, channels, hidden, filters, dtype: *dtype, first, epilogue };
    let weights = [all[mean].inputs[0], all[middle].inputs[1], all[at].inputs[1]];
    let inputs =
        weights.iter().chain(&all[middle].inputs[2..]).chain(&all[at].inputs[2..]).copied().collect();
    let parts = [&all[mean], &all[middle], &all[at]];
    let main = *all[mean].nodes.first()?;
    let region = region(graph, &parts, main, problem.into(), inputs, all[at].outputs.clone());
    Some((vec![at, middle, mean], region))
}

/// `conv(x · s)`, where region `at` is the convolution.
fn scale(graph: &Graph, all: &[Region], at: usize) -> Option<Joined> {
    let Problem::Conv(conv) = &all[at].problem else { return None };
    if conv.scaled || conv.expand.is_some() || conv.layout != Layout::ChannelsLast {
        return None;
    }
    graph.data(all[at].inputs[1])?;
    let product = producer(graph, all, all[at].inputs[0], at)?;
    let Problem::Pointwise(p) = &all[product].problem else { return None };
    let factor = factor(p, conv)?;
    let [x, s] = [1 - factor, factor].map(|i| all[product].inputs[i]);
    let mut inputs = vec![x, all[at].inputs[1], s];
    inputs.extend(&all[at].inputs[2..]);
    reading(graph, all, [product, at], Conv { scaled: true, ..conv.clone() }, inputs)
}

/// The convolution of region `at` that does what region `before` did, too.
fn reading(
    graph: &Graph,
    all: &[Region],
    [before, at]: [usize; 2],
    conv: Conv<Dim>,
    inputs: Vec<Value>,
) -> Option<Joined> {
    let main = *all[at].nodes.first()?;
    let outputs = all[at].outputs.clone();
    let mut region = region(graph, &[&all[before], &all[at]], main, conv.into(), inputs, outputs);
    region.place = all[at].place.clone();
    Some((vec![at, before], region))
}

/// `conv(x)` of one filter to each channel and `excite` of it, where region `at` is the excitation: both results in one region,
/// which stands where the excitation does. What else reads the convolution's result must come after it.
fn excited(graph: &Graph, all: &[Region], at: usize) -> Option<Joined> {
    let Problem::Excite(excite) = &all[at].problem else { return None };
    let y = all[at].inputs[0];
    let made = all.iter().position(|r| r.outputs == [y])?;
    let Problem::Conv(conv) = &all[made].problem else { return None };
    let known =
        [&conv.epilogue, &excite.first, &excite.epilogue].iter().any(|e| e.moments || e.rows.is_some());
    // Also where another convolution makes its pixels.
    let plain =
        (conv.expand.is_some() || reads_as_it_lies(conv)) && !known && conv.layout == Layout::ChannelsLast;
    let fits = (conv.epilogue.out(), conv.filters) == (excite.dtype, excite.channels)
        && conv.n == excite.n
        && product(&conv.output) == excite.pixels;
    let later =
        readers(all, y).iter().all(|(reader, operand)| *reader > at || (*reader, *operand) == (at, 0));
    let dense = all[made].place.is_none() && all[at].place.is_none();
    if !conv.is_depthwise() || !plain || !fits || !later || !dense {
        return None;
    }
    for weights in [all[made].inputs[1], all[at].inputs[1], all[at].inputs[2]] {
        graph.data(weights)?;
    }
    let problem = Squeeze { conv: conv.clone().into(), excite: excite.clone() };
    let inputs = all[made].inputs.iter().chain(&all[at].inputs[1..]).copied().collect();
    let outputs = vec![y, *all[at].outputs.first()?];
    let main = *all[made].nodes.first()?;
    let region = region(graph, &[&all[made], &all[at]], main, problem.into(), inputs, outputs);
    Some((vec![at, made], region))
}

/// `conv(first(x))` of one filter to each channel, where region `at` is that convolution, alone or with the excitation of its result,
/// and `first` a convolution by one element whose result nothing else reads: it is never stored.
fn expand(graph: &Graph, all: &[Region], at: usize) -> Option<Joined> {
    let (conv, excite) = match &all[at].problem {
        Problem::Conv(conv) => (conv, None),
        Problem::Squeeze(p) => (&*p.conv, Some(&p.excite)),
        _ => return None,
    };
    if !conv.is_depthwise() || !reads_as_it_lies(conv) || conv.layout != Layout::ChannelsLast {
        return None;
    }
    let before = producer(graph, all, all[at].inputs[0], at)?;
    let Problem::Conv(first) = &all[before].problem else { return None };
    let pointwise = is_by_one_element(first) && first.strides.iter().all(|s| *s == 1);
    let alike = (&first.n, &first.output, first.filters, first.layout, first.dtype, first.math)
        == (&conv.n, &conv.input, conv.channels, conv.layout, conv.dtype, conv.math);
    let ends = &first.epilogue;
    if !pointwise || !alike || ends.out() != conv.dtype || ends.moments || ends.rows.is_some() {
        return None;
    }
    for part in [before, at] {
        graph.data(all[part].inputs[1])?;
    }
    let expand = Some(Expand { channels: first.channels, epilogue: ends.clone() }.into());
    let conv = Conv { expand, ..conv.clone() };
    let problem = match excite {
        None => conv.into(),
        Some(excite) => Squeeze { conv: conv.into(), excite: excite.clone() }.into(),
    };
    let (own, made) = (&all[at].inputs, &all[before].inputs);
    let inputs = [&[made[0], own[1]], &made[1..], &own[2..]].concat();
    let main = *all[at].nodes.first()?;
    let outputs = all[at].outputs.clone();
    let mut region = region(graph, &[&all[before], &all[at]], main, problem, inputs, outputs);
    region.place = all[at].place.clone();
    Some((vec![at, before], region))
}

/// Maxima over windows of `conv(x)`, which nothing else reads, where region `at` finds them: what the convolution makes is never
/// stored.
fn pooled(graph: &Graph, all: &[Region], at: usize) -> Option<Joined> {
    let Problem::Pool(pool) = &all[at].problem else { return None };
    let before = producer(graph, all, *all[at].inputs.first()?, at)?;
    let Problem::Conv(conv) = &all[before].problem else { return None };
    let maxima = pool.kind == PoolKind::Max && pool.dilations.iter().all(|d| *d == 1);
    let alike = (&pool.n, &pool.channels, &pool.input, pool.layout, pool.dtype)
        == (&conv.n, &Dim::from(conv.filters), &conv.output, conv.layout, conv.epilogue.out());
    let plain = pool.epilogue.stores(pool.dtype) && pool.epilogue.operands.is_empty();
    let known = conv.epilogue.moments || conv.epilogue.rows.is_some();
    if !maxima || !alike || !plain || known || conv.pooled.is_some() {
        return None;
    }
    graph.data(all[before].inputs[1])?;
    let pooled = Some(Pooled {
        output: pool.output.clone(),
        kernel: pool.kernel.iter().map(number).collect::<Option<_>>()?,
        strides: pool.strides.clone(),
        pads: pool.pads.clone(),
    });
    let parts = [&all[before], &all[at]];
    let (inputs, outputs) = (all[before].inputs.clone(), all[at].outputs.clone());
    let main = *all[before].nodes.first()?;
    let problem = Conv { pooled, ..conv.clone() }.into();
    let mut region = region(graph, &parts, main, problem, inputs, outputs);
    region.place = all[at].place.clone();
    Some((vec![at, before], region))
}

/// Whether it is a convolution by one element of pixels as they lie.
fn is_by_one_element(conv: &Conv<Dim>) -> bool {
    let one = conv.kernel.iter().all(|k| *k == 1) && conv.pads.iter().all(|p| *p == 0);
    one && conv.groups == 1 && reads_as_it_lies(conv)
}

/// Whether a convolution's pixels are its operand, with no factors, and nothing is added to its sums.
fn reads_as_it_lies(conv: &Conv<Dim>) -> bool {
    conv.x.is_none() && !conv.scaled && conv.added.is_none() && conv.expand.is_none() && conv.pooled.is_none()
}

/// The dimensions of a convolution's pixels, channels last.
fn pixels(conv: &Conv<Dim>) -> Vec<Dim> {
    [&conv.n].into_iter().chain(&conv.input).cloned().chain([Dim::from(conv.channels)]).collect()
}

/// `conv(copy(x))` of few channels, where region `at` is the convolution and the copy changes the order of elements, or their
/// type, alone.
fn first(graph: &Graph, all: &[Region], at: usize) -> Option<Joined> {
    let Problem::Conv(conv) = &all[at].problem else { return None };
    if conv.x.is_some() || conv.scaled || conv.layout != Layout::ChannelsLast || conv.channels > 4 {
        return None;
    }
    graph.data(all[at].inputs[1])?;
    let copy = producer(graph, all, all[at].inputs[0], at)?;
    let Problem::Pointwise(p) = &all[copy].problem else { return None };
    let ([from], [access]) = (&p.program.inputs[..], &p.inputs[..]) else { return None };
    let copies = p.program.code.is_empty() && p.program.outputs == [(0, conv.dtype)];
    if !copies || from.class() != conv.dtype.class() {
        return None;
    }
    let x = Some((*from, regroup(access, &p.shape, &pixels(conv))?));
    let mut inputs = all[at].inputs.clone();
    inputs[0] = all[copy].inputs[0];
    reading(graph, all, [copy, at], Conv { x, ..conv.clone() }, inputs)
}

/// `conv(x) + conv(x2)` in one, where region `at` is the convolution whose epilogue adds the other's result. Either may be the one
/// that is added, by one element.
fn add(graph: &Graph, all: &[Region], at: usize) -> Option<Joined> {
    let Problem::Conv(last) = &all[at].problem else { return None };
    let own = all[at].problem.own_inputs();
    let shape = super::shape::of_output(&all[at].problem)?;
    let dense = dense_strides(&shape);
    last.epilogue.operands.iter().enumerate().find_map(|(operand, access)| {
        if !reads(access, &dense, &shape) {
            return None;
        }
        let before = producer(graph, all, all[at].inputs[own + operand], at)?;
        let Problem::Conv(other) = &all[before].problem else { return None };
        let alike = (&last.n, &last.output, last.filters, last.layout, last.dtype, last.math)
            == (&other.n, &other.output, other.filters, other.layout, other.dtype, other.math);
        if !alike {
            return None;
        }
        let (epilogue, more) = sum(last, operand, other)?;
        let (main, conv, second, added) = match (addable(other), addable(last)) {
            (Some(added), _) if last.added.is_none() => (at, last, before, added),
            (_, Some(added)) if other.added.is_none() => (before, other, at, added),
            _ => return None,
        };
        [main, second].iter().try_for_each(|part| graph.data(all[*part].inputs[1]).map(drop))?;
        let own = all[main].problem.own_inputs();
        let mut inputs = [&all[main].inputs[..own], &all[second].inputs[..2]].concat();
        let mut rest = all[at].inputs[all[at].problem.own_inputs()..].to_vec();
        rest.splice(operand..=operand, more.then(|| all[before].inputs[all[before].problem.own_inputs()]));
        inputs.extend(rest);
        reading(graph, all, [before, at], Conv { added: Some(added), epilogue, ..conv.clone() }, inputs)
    })
}

/// A convolution by one element of pixels as they lie, as what is added to another.
fn addable(conv: &Conv<Dim>) -> Option<Added<Dim>> {
    let Conv { channels, input, strides, .. } = conv;
    is_by_one_element(conv).then(|| Added {
        channels: *channels,
        input: input.clone(),
        strides: strides.clone(),
    })
}

/// The epilogue over both sums in one accumulator, of a convolution whose epilogue adds, as this operand, the result of `other`; and
/// whether it has an operand of `other`'s epilogue in the place of that result. `None` where it does more than add.
fn sum(last: &Conv<Dim>, operand: usize, other: &Conv<Dim>) -> Option<(Epilogue<Dim>, bool)> {
    let Epilogue { program, operands, place, .. } = &last.epilogue;
    let read = Reg::try_from(operand + 1).ok()?;
    if !adds(program, 0, read) || !last.dtype.is_float() {
        return None;
    }
    let (mut program, mut operands) = (program.clone(), operands.clone());
    let before = &other.epilogue.program;
    let biased = matches!(before.code.as_slice(), [Instr::Apply(Pw::Add, of)] if matches!(of[..], [0, 1] | [1, 0]))
        && before.outputs[0].0 == 2
        && before.inputs.len() == 2;
    if biased {
        program.inputs[usize::from(read)] = before.inputs[1];
        operands[operand] = other.epilogue.operands[0].clone();
    } else if before.code.is_empty() && before.outputs[0].0 == 0 && before.inputs.len() == 1 {
        program = without(&program, read)?;
        operands.remove(operand);
    } else {
        return None;
    }
    Some((Epilogue { place: place.clone(), ..Epilogue::new(program, operands) }, biased))
}

/// The registers that an instruction reads.
pub(super) fn operands(instr: &Instr) -> &[Reg] {
    match instr {
        Instr::Apply(_, of) => of,
        Instr::Cast(_, of) => std::slice::from_ref(of),
        Instr::Const(_) => &[],
    }
}

/// Whether two inputs of a program come into one sum, and go nowhere else.
fn adds(program: &Program, a: Reg, b: Reg) -> bool {
    // The sums that a register goes into, one after the other.
    let sums = |from: Reg| {
        let mut all = vec![from];
        while let Some(last) = all.last().copied() {
            let mut readers = program.code.iter().enumerate().flat_map(|(i, instr)| {
                operands(instr)
                    .iter()
                    .filter(move |r| **r == last)
                    .map(move |_| (program.inputs.len() + i, instr))
            });
            let stored = program.outputs.iter().any(|(r, _)| *r == last);
            match (readers.next(), readers.next()) {
                (Some((at, Instr::Apply(Pw::Add, _))), None) if !stored => all.extend(Reg::try_from(at)),
                _ => break,
            }
        }
        all
    };
    let (a, b) = (sums(a), sums(b));
    a.iter().skip(1).any(|sum| b.contains(sum))
}

/// The program without an input that is added to something once.
fn without(program: &Program, input: Reg) -> Option<Program> {
    let mut shorter = Program { inputs: program.inputs.clone(), ..Program::default() };
    shorter.inputs.remove(usize::from(input));
    // Where each register is now.
    let mut now: Vec<Option<Reg>> = (0..program.inputs.len() as Reg)
        .map(|r| (r != input).then(|| if r > input { r - 1 } else { r }))
        .collect();
    for instr in &program.code {
        let at = |r: &Reg| now.get(usize::from(*r)).copied().flatten();
        let next = match instr {
            Instr::Apply(Pw::Add, of) if of.contains(&input) => at(of.iter().find(|r| **r != input)?)?,
            Instr::Apply(op, of) => {
                let of = of.iter().map(at).collect::<Option<Vec<_>>>()?;
                shorter.push(Instr::Apply(*op, of))
            }
            Instr::Cast(to, of) => shorter.push(Instr::Cast(*to, at(of)?)),
            Instr::Const(value) => shorter.push(Instr::Const(*value)),
        };
        now.push(Some(next));
    }
    let stored = |(r, dtype): &(Reg, _)| Some((now.get(usize::from(*r)).copied().flatten()?, *dtype));
    shorter.outputs = program.outputs.iter().map(stored).collect::<Option<_>>()?;
    Some(shorter)
}

/// Whether an access from the first element has these strides wherever there is more than one element.
fn reads(access: &Access<Dim>, strides: &[Dim], shape: &[Dim]) -> bool {
    let mut each = access.strides.iter().zip(strides).zip(shape);
    access.offset.is(0) && each.all(|((a, b), size)| size.is(1) || a == b)
}

/// Which operand of a product of two is one number for each image and channel, the other being the convolution's pixels.
fn factor(p: &Pointwise<Dim>, conv: &Conv<Dim>) -> Option<usize> {
    let program = &p.program;
    let multiplies =
        matches!(program.code.as_slice(), [Instr::Apply(Pw::Mul, of)] if matches!(of[..], [0, 1] | [1, 0]));
    let same = program.inputs == [conv.dtype; 2] && program.outputs == [(2, conv.dtype)];
    if !multiplies || !same || p.shape != pixels(conv) {
        return None;
    }
    let reads = |access: &Access<Dim>, strides: &[Dim]| reads(access, strides, &p.shape);
    let mut each = vec![Dim::from(0); p.shape.len()];
    each[0] = Dim::from(conv.channels);
    *each.last_mut()? = Dim::from(1);
    let dense = dense_strides(&p.shape);
    (0..2).find(|i| reads(&p.inputs[*i], &each) && reads(&p.inputs[1 - i], &dense))
}
