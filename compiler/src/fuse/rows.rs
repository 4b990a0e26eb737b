//! Normalisations of rows that the matrix products around them do: the one that makes the rows gives their moments as a second
//! result, and those that read them normalised take the rows as they are. For rows `x` of mean μ and reciprocal deviation ρ,
//! `norm(x) · w + b = ρ (x · γw − μ Σ γw) + (βw + b)`, and what is added to a sum is `(x − μ) ρ γ + β`. GPU plans only, where it
//! is faster.

use super::alternative::Judge;
use super::join::operands;
use super::place::{is_output, readers};
use super::{Region, Regions, number};
use crate::error::{Error, Result, Stage};
use crate::ir::types::dense_strides;
use crate::ir::{Graph, Tensor, Value};
use crate::ops::Moments;
use bakelite_host::problem::{Access, Gemm, LayerNorm, Rows, SPAN};
use bakelite_host::{DType, Instr, Program, Pw};
use bakelite_kernels::{Dim, Problem};

/// A normalisation that is not a region any more.
struct Found {
    norm: usize,
    producer: usize,
    /// Those that read what it makes: region, and how.
    readers: Vec<(usize, Use)>,
}

/// How a product reads normalised rows.
#[derive(Clone, Copy)]
enum Use {
    /// As its left operand; a constant that its epilogue adds to the product at once is this operand of it.
    Product { bias: Option<usize> },
    /// As this operand of its epilogue; to a constant that the epilogue adds as well, this operand of it, the bias goes.
    Sum { rows: usize, bias: Option<usize> },
}

/// Drops every normalisation that the judge says the products around it do; without one, every one that they can do.
pub fn normalise(regions: &mut Regions, mut judge: Option<&mut Judge<'_>>) -> Result<()> {
    let mut at = 0;
    while at < regions.regions.len() {
        let dropped = |found: &Found| judge.as_mut().is_none_or(|judge| is_dropped(regions, found, judge));
        match find(regions, at).filter(dropped) {
            Some(found) => {
                let name = regions.regions[at].name.clone();
                apply(regions, &found)
                    .map_err(|what| Error::new(Stage::Fuse, format!("region {name}"), what))?;
            }
            None => at += 1,
        }
    }
    Ok(())
}

/// What region `at` normalises, if it is a plain normalisation of what a product makes, for products alone.
fn find(regions: &Regions, at: usize) -> Option<Found> {
    let Regions { graph, regions: all } = regions;
    let Problem::LayerNorm(norm) = &all[at].problem else { return None };
    number(&norm.len).filter(|len| *len > 0 && len.is_multiple_of(SPAN))?;
    let plain = norm.epilogue.stores(norm.dtype) && norm.epilogue.operands.is_empty();
    let constants = all[at].inputs[1..].iter().all(|v| graph.data(*v).is_some());
    let y = all[at].outputs[0];
    if !plain || !constants || is_output(graph, y) || all[at].place.is_some() {
        return None;
    }
    let x = all[at].inputs[0];
    let producer = all.iter().position(|r| r.outputs == [x])?;
    let made = product(&all[producer], &norm.rows)?;
    if made.n != norm.len || made.epilogue.moments || all[producer].place.is_some() {
        return None;
    }
    let uses = readers(all, y).into_iter().map(|(r, operand)| {
        let reader = product(&all[r], &norm.rows)?;
        let once = all[r].inputs.iter().filter(|v| **v == y).count() == 1 && !all[r].inputs.contains(&x);
        if !once || reader.epilogue.rows.is_some() || reader.dtype != norm.dtype {
            return None;
        }
        let constant = |operand: &usize| graph.data(all[r].inputs[2 + operand]).is_some();
        let bias = bias(reader).filter(constant);
        let how = match operand {
            0 if reader.k == norm.len && number(&reader.b[1]).is_some() && number(&reader.b[2]).is_some() => {
                graph.data(all[r].inputs[1])?;
                Use::Product { bias }
            }
            0 | 1 => return None,
            operand => {
                let access = &reader.epilogue.operands[operand - 2];
                let dense = dense_strides(&[Dim::from(1), reader.m.clone(), reader.n.clone()]);
                let whole = reader.n == norm.len && access.offset.is(0) && access.strides[1..] == dense[1..];
                let bias = bias.filter(|_| adds(reader, operand - 2));
                whole.then_some(Use::Sum { rows: operand - 2, bias })?
            }
        };
        Some((r, how))
    });
    let readers: Vec<_> = uses.collect::<Option<_>>()?;
    (!readers.is_empty()).then_some(Found { norm: at, producer, readers })
}

/// The product of dense rows that a region is, if it is one of so many.
fn product<'a>(region: &'a Region, rows: &Dim) -> Option<&'a Gemm<Dim>> {
    let Problem::Gemm(gemm) = &region.problem else { return None };
    (gemm.batch.is(1) && gemm.m == *rows && gemm.a[1] == gemm.k && gemm.a[2].is(1)).then_some(gemm)
}

/// The operand of one number for each column, of the product's type, that an epilogue adds to the product before all else.
fn bias(gemm: &Gemm<Dim>) -> Option<usize> {
    let program = &gemm.epilogue.program;
    let Some(Instr::Apply(Pw::Add, of)) = program.code.first() else { return None };
    let input = match of[..] {
        [0, input] | [input, 0] if input > 0 && usize::from(input) < program.inputs.len() => input,
        _ => return None,
    };
    let once = |register: u16| {
        let read = program.code.iter().flat_map(operands).filter(|r| **r == register);
        read.count() == 1 && program.outputs.iter().all(|(r, _)| *r != register)
    };
    let operand = usize::from(input) - 1;
    let Access { offset, strides } = &gemm.epilogue.operands[operand];
    let column = offset.is(0) && strides[1].is(0) && strides[2].is(1);
    let same = program.inputs[operand + 1] == gemm.dtype;
    (column && same && once(0) && once(input)).then_some(operand)
}

/// Whether an epilogue's second operation adds this operand to what the first one made.
fn adds(gemm: &Gemm<Dim>, operand: usize) -> bool {
    let (first, input) = (gemm.epilogue.program.inputs.len() as u16, operand as u16 + 1);
    let adds = |of: &[u16]| *of == [first, input] || *of == [input, first];
    matches!(gemm.epilogue.program.code.get(1), Some(Instr::Apply(Pw::Add, of)) if adds(of))
}

// Normalisations of rows of one length are one subject: in a network of layers, products that two of them change would have to
// be tuned for either of them alone too.
fn is_dropped(regions: &Regions, found: &Found, judge: &mut Judge<'_>) -> bool {
    let Regions { graph, regions: all } = regions;
    let Problem::LayerNorm(norm) = &all[found.norm].problem else { return false };
    let subject = format!("rows {norm}");
    let (mut joined, mut apart) = (vec![], vec![all[found.norm].problem.clone()]);
    let mut change = |from: &Problem<Dim>, to: Problem<Dim>| {
        apart.push(from.clone());
        joined.push(to);
    };
    let made = &all[found.producer].problem;
    change(made, with_moments(made));
    // The products without their epilogues, which other normalisations change.
    let size = |gemm: &Gemm<Dim>| format!("{}x{}x{}", gemm.m, gemm.n, gemm.k);
    let mut text = subject.clone();
    if let Problem::Gemm(gemm) = made {
        text += &format!(" of {}", size(gemm));
    }
    for (reader, how) in &found.readers {
        let region = &all[*reader];
        if let Problem::Gemm(gemm) = &region.problem {
            let read = if matches!(how, Use::Sum { .. }) { "added to" } else { "for" };
            text += &format!(" {read} {}", size(gemm));
            change(&region.problem, knowing(gemm, norm, *how).into());
        }
    }
    judge.joins(&graph.symbols, text, subject, [joined, apart])
}

fn with_moments(problem: &Problem<Dim>) -> Problem<Dim> {
    let mut problem = problem.clone();
    if let Some(epilogue) = problem.epilogue_mut() {
        epilogue.moments = true;
    }
    problem
}

/// The product that knows what its normalised rows were before. Its epilogue's operands are mean and deviation; then, for a
/// left operand, sums of the weights' columns and the bias; then its own but that; then, for a sum, scale, and bias if no other
/// has it.
fn knowing(gemm: &Gemm<Dim>, norm: &LayerNorm<Dim>, how: Use) -> Gemm<Dim> {
    let mut gemm = gemm.clone();
    let (m, zero, one) = (gemm.m.clone(), Dim::from(0), Dim::from(1));
    let row = |n: usize| Access {
        offset: Dim::from(n),
        strides: vec![&m * &Dim::from(2), Dim::from(2), zero.clone()],
    };
    let column = || Access { offset: zero.clone(), strides: vec![zero.clone(), zero.clone(), one.clone()] };
    let old = std::mem::take(&mut gemm.epilogue.program);
    let mut program = Program { inputs: vec![old.inputs[0], DType::F32, DType::F32], ..Program::default() };
    let mut operands = vec![row(0), row(1)];
    let apply = |program: &mut Program, op, of: [u16; 2]| program.push(Instr::Apply(op, of.to_vec()));
    // Where the old inputs are now; the arithmetic follows all of them.
    let mut registers: Vec<u16> = vec![0];
    let (own, bias) = match how {
        Use::Product { bias } => {
            operands.extend([column(), column()]);
            ([norm.dtype; 2].map(|d| program.add_input(d)), bias)
        }
        Use::Sum { .. } => ([0; 2], None),
    };
    for (operand, (dtype, access)) in old.inputs[1..].iter().zip(gemm.epilogue.operands).enumerate() {
        registers.push(match bias {
            Some(bias) if bias == operand => own[1],
            _ => {
                operands.push(access);
                program.add_input(*dtype)
            }
        });
    }
    match how {
        Use::Product { .. } => {
            let off = apply(&mut program, Pw::Mul, [1, own[0]]);
            let about = apply(&mut program, Pw::Sub, [0, off]);
            let unit = apply(&mut program, Pw::Mul, [about, 2]);
            registers[0] = apply(&mut program, Pw::Add, [unit, own[1]]);
        }
        Use::Sum { rows, bias } => {
            let mut input = |program: &mut Program| {
                operands.push(column());
                program.add_input(norm.dtype)
            };
            let (scale, own) = (input(&mut program), bias.is_none().then(|| input(&mut program)));
            let about = apply(&mut program, Pw::Sub, [registers[rows + 1], 1]);
            let unit = apply(&mut program, Pw::Mul, [about, 2]);
            let scaled = apply(&mut program, Pw::Mul, [unit, scale]);
            registers[rows + 1] = own.map_or(scaled, |own| apply(&mut program, Pw::Add, [scaled, own]));
        }
    }
    // The bias is added now.
    registers.extend(bias.map(|_| registers[0]));
    for instr in &old.code[usize::from(bias.is_some())..] {
        let of = |args: &[u16]| args.iter().map(|a| registers[usize::from(*a)]).collect::<Vec<_>>();
        let moved = match instr {
            Instr::Const(value) => Instr::Const(*value),
            Instr::Cast(to, arg) => Instr::Cast(*to, registers[usize::from(*arg)]),
            Instr::Apply(op, args) => Instr::Apply(*op, of(args)),
        };
        let register = program.push(moved);
        registers.push(register);
    }
    program.outputs = old.outputs.iter().map(|(r, d)| (registers[usize::from(*r)], *d)).collect();
    gemm.epilogue.program = program;
    gemm.epilogue.operands = operands;
    let len = number(&norm.len).unwrap_or(0);
    gemm.epilogue.rows = Some(Rows { len, rms: norm.rms, epsilon: norm.epsilon });
    gemm
}

fn apply(regions: &mut Regions, found: &Found) -> std::result::Result<(), String> {
    let Regions { graph, regions: all } = regions;
    let Problem::LayerNorm(norm) = all[found.norm].problem.clone() else {
        return Err("no normalisation".to_owned());
    };
    let (x, parameters) = (all[found.norm].inputs[0], all[found.norm].inputs[1..].to_vec());
    let y = all[found.norm].outputs[0];
    let nodes = all[found.norm].nodes.clone();
    let id = graph.add(Moments {}, &[x], format!("moments of {}", graph.node(x.node).name))?;
    let moments = Value { node: id, result: 1 };
    let producer = &mut all[found.producer];
    producer.problem = with_moments(&producer.problem);
    producer.nodes.push(id);
    producer.outputs.push(moments);
    for (reader, how) in &found.readers {
        let region = &mut all[*reader];
        let Problem::Gemm(gemm) = &region.problem else { continue };
        let knows = knowing(gemm, &norm, *how);
        let mut inputs = region.inputs.clone();
        inputs.iter_mut().filter(|v| **v == y).for_each(|v| *v = x);
        let at = 2;
        match how {
            Use::Product { bias } => {
                let own = bias.map(|operand| inputs.remove(2 + operand));
                let [weights, sums, bias] = folded(graph, gemm, inputs[1], &parameters, own)?;
                inputs[1] = weights;
                inputs.splice(at..at, [moments, moments, sums, bias]);
            }
            Use::Sum { bias, .. } => {
                let shift = match parameters.get(1) {
                    Some(bias) => *bias,
                    None => zeros(graph, parameters[0])?,
                };
                if let Some(operand) = bias {
                    inputs[2 + operand] = sum(graph, inputs[2 + operand], shift)?;
                }
                inputs.splice(at..at, [moments, moments]);
                inputs.push(parameters[0]);
                inputs.extend(bias.is_none().then_some(shift));
            }
        }
        region.problem = knows.into();
        region.inputs = inputs;
        region.nodes.splice(0..0, nodes.iter().copied());
    }
    all.remove(found.norm);
    Ok(())
}

fn sum(graph: &mut Graph, a: Value, b: Value) -> std::result::Result<Value, String> {
    let data = |v: Value| graph.data(v).ok_or_else(|| format!("{v} is no constant"));
    let (x, y) = (data(a)?, data(b)?);
    let values: Vec<f64> = x.to_f64().iter().zip(y.to_f64()).map(|(x, y)| x + y).collect();
    let sum = Tensor::from_f64(x.dtype, x.shape.clone(), &values)?;
    let name = format!("{} and {}", graph.node(a.node).name, graph.node(b.node).name);
    Ok(graph.constant(sum, name))
}

fn zeros(graph: &mut Graph, like: Value) -> std::result::Result<Value, String> {
    let ty = graph.data(like).ok_or("a scale that is no constant")?;
    let zeros = Tensor::new(ty.dtype, ty.shape.clone(), vec![0; ty.bytes.len()].into())?;
    Ok(graph.constant(zeros, "no bias"))
}

/// `γw`, the sums of its columns, and `βw + own`.
fn folded(
    graph: &mut Graph,
    gemm: &Gemm<Dim>,
    weights: Value,
    parameters: &[Value],
    own: Option<Value>,
) -> std::result::Result<[Value; 3], String> {
    let data = |v: &Value| graph.data(*v).ok_or_else(|| format!("{v} is no constant"));
    let (w, scale) = (data(&weights)?, data(&parameters[0])?.to_f64());
    let bias = parameters.get(1).map(data).transpose()?.map(Tensor::to_f64);
    let known = |d: &Dim| number(d).ok_or_else(|| format!("{d} is not known"));
    let ([k, n], [row, column]) =
        ([known(&gemm.k)?, known(&gemm.n)?], [known(&gemm.b[1])?, known(&gemm.b[2])?]);
    let mut values = w.to_f64();
    let own = own.as_ref().map(data).transpose()?.map(Tensor::to_f64);
    let (mut sums, mut biases) = (vec![0.0; n], own.unwrap_or_else(|| vec![0.0; n]));
    for i in 0..k {
        for j in 0..n {
            let value = &mut values[i * row + j * column];
            biases[j] += bias.as_ref().map_or(0.0, |b| b[i] * *value);
            *value *= scale[i];
        }
    }
    let scaled = Tensor::from_f64(w.dtype, w.shape.clone(), &values)?;
    // Of what is multiplied, rounded as it is: an equal part of all elements of a row cancels.
    let values = scaled.to_f64();
    for i in 0..k {
        sums.iter_mut().enumerate().for_each(|(j, sum)| *sum += values[i * row + j * column]);
    }
    let (name, dtype) = (graph.node(weights.node).name.clone(), w.dtype);
    let [sums, biases] = [sums, biases].map(|v| Tensor::from_f64(dtype, vec![n], &v));
    Ok([
        graph.constant(scaled, format!("{name} scaled")),
        graph.constant(sums?, format!("sums of {name}")),
        graph.constant(biases?, format!("bias through {name}")),
    ])
}
