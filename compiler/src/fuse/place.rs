//! Results written where they are wanted: a concatenation whose operands are made for it alone writes nothing, since each
//! producer writes its part; and a move of all that a producer makes is done as the producer writes.
//!
//! Only for producers whose kernels store through an epilogue, and only where rows of some length stay together. What else
//! reads such a part reads it in the whole, through its access.

use super::shape::{of_output, of_result};
use super::{Region, Regions, root};
use crate::error::Result;
use crate::ir::types::dense_strides;
use crate::ir::{Graph, Value};
use bakelite_host::problem::{Access, Concat, Placement};
use bakelite_kernels::codegen::collapse;
use bakelite_kernels::dim::product;
use bakelite_kernels::{Dim, Problem};

/// Elements that stay neighbours: no kernel stores more in one piece.
pub const NEIGHBOURS: usize = 16;

/// Elements of a tensor that kernels index with 32 bits, whatever their own operands need.
const MOST_ELEMENTS: i64 = (1 << 31) - (1 << 20);

/// Places results, where at least `neighbours` elements, a multiple of it, stay together.
pub fn place(mut regions: Regions, neighbours: usize) -> Result<Regions> {
    let neighbours = Dim::from(neighbours);
    let Regions { graph, regions: all } = &mut regions;
    absorb_moves(graph, all, &neighbours);
    let mut at = 0;
    while at < all.len() {
        at += usize::from(!join(graph, all, at, &neighbours));
    }
    super::verify(&regions)?;
    Ok(regions)
}

fn producers(all: &[Region], value: Value) -> Vec<usize> {
    (0..all.len()).filter(|r| all[*r].outputs.contains(&value)).collect()
}

// (region, operand)
pub(super) fn readers(all: &[Region], value: Value) -> Vec<(usize, usize)> {
    let of = |(r, region): (usize, &Region)| {
        let inputs = region.inputs.iter().enumerate().filter(|(_, v)| **v == value);
        inputs.map(|(i, _)| (r, i)).collect::<Vec<_>>()
    };
    all.iter().enumerate().flat_map(of).collect()
}

pub(super) fn is_output(graph: &Graph, value: Value) -> bool {
    graph.outputs.iter().any(|(_, v)| root(graph, *v) == value)
}

// Kernels of these store rows along the innermost dimension of what they make.
fn stores_rows(region: &Region) -> bool {
    let alone = region.outputs.len() == 1;
    alone
        && matches!(
            region.problem,
            Problem::Gemm(_) | Problem::Conv(_) | Problem::Pool(_) | Problem::Resize(_) | Problem::Concat(_)
        )
}

// Whether rows that kernels store stay together, in a tensor that is not too large.
fn fits(graph: &Graph, place: &Placement<Dim>, neighbours: &Dim) -> bool {
    let (sizes, accesses) = collapse(&place.shape, &[&place.access]);
    let together = sizes.last().is_some_and(|inner| inner.exact_div(neighbours).is_some())
        && accesses[0].strides.last().is_some_and(|s| s.is(1));
    together && place.elements.upper(&graph.symbols) < MOST_ELEMENTS
}

/// `move(f(x)) → f(x)` placed where the move puts it, for a move that keeps every element and is all that reads f.
fn absorb_moves(graph: &Graph, all: &mut Vec<Region>, neighbours: &Dim) {
    let mut at = 0;
    while at < all.len() {
        let absorbed = permutation(&all[at]).filter(|p| fits(graph, p, neighbours)).and_then(|place| {
            let value = *all[at].inputs.first()?;
            let &[producer] = producers(all, value).as_slice() else { return None };
            let alone = readers(all, value) == [(at, 0)] && !is_output(graph, value);
            let whole = graph.ty(value).count() == place.elements;
            (alone && whole && stores_rows(&all[producer]) && all[producer].place.is_none())
                .then_some((producer, place))
        });
        let Some((producer, place)) = absorbed else {
            at += 1;
            continue;
        };
        let region = all.remove(at);
        all[producer].place = Some(place);
        all[producer].outputs = region.outputs;
        all[producer].nodes.extend(region.nodes);
    }
}

// Where the elements of the one operand of a region go that only puts them in another order.
fn permutation(region: &Region) -> Option<Placement<Dim>> {
    let Problem::Pointwise(p) = &region.problem else { return None };
    let ([dtype], [access]) = (p.program.inputs.as_slice(), p.inputs.as_slice()) else { return None };
    let copies = p.program.code.is_empty() && p.program.outputs == [(0, *dtype)] && access.offset.is(0);
    if !copies {
        return None;
    }
    let dense = Access { offset: Dim::from(0), strides: dense_strides(&p.shape) };
    let (sizes, accesses) = collapse(&p.shape, &[access, &dense]);
    let mut digits: Vec<(Dim, Dim, Dim)> = Vec::new();
    // In the operand's order: the digit after which `left` elements lie is the one of that stride.
    let mut left = product(&p.shape);
    while digits.len() < sizes.len() {
        let next = (0..sizes.len()).find(|d| &accesses[0].strides[*d] * &sizes[*d] == left)?;
        digits.push((sizes[next].clone(), accesses[1].strides[next].clone(), left));
        left = accesses[0].strides[next].clone();
    }
    left.is(1).then(|| Placement {
        shape: digits.iter().map(|(size, ..)| size.clone()).collect(),
        access: Access {
            offset: Dim::from(0),
            strides: digits.iter().map(|(_, stride, _)| stride.clone()).collect(),
        },
        elements: product(&p.shape),
    })
}

/// Where a part lies in the whole: its rows of `row` elements are `pitch` apart, the first at `offset`.
struct Window {
    row: Dim,
    pitch: Dim,
    offset: Dim,
    elements: Dim,
}

impl Window {
    // An access to the dense part as one to the whole. Digits that begin inside a row and end outside are cut in two.
    fn access(&self, shape: &[Dim], access: &Access<Dim>) -> Option<(Vec<Dim>, Access<Dim>)> {
        let row = &self.row;
        let (mut sizes, mut strides) = (Vec::new(), Vec::new());
        let (first, inside) = match access.offset.exact_div(row) {
            Some(rows) => (rows * &self.pitch, Dim::from(0)),
            None => {
                let (offset, row) = (access.offset.as_const()?, row.as_const()?);
                (Dim::from(offset / row) * &self.pitch, Dim::from(offset % row))
            }
        };
        // The last element of a row that is reached.
        let mut last = inside.clone();
        for (size, stride) in shape.iter().zip(&access.strides) {
            if size.is(1) || stride.is(0) {
                sizes.push(size.clone());
                strides.push(Dim::from(0));
            } else if let Some(rows) = stride.exact_div(row) {
                sizes.push(size.clone());
                strides.push(rows * &self.pitch);
            } else {
                let extent = stride * size;
                let short = extent.as_const().zip(row.as_const()).is_some_and(|(extent, row)| extent <= row);
                let (inner, rows) = match short || row.exact_div(&extent).is_some() {
                    true => (size.clone(), None),
                    false => (row.exact_div(stride)?, Some(extent.exact_div(row)?)),
                };
                last = last + (&inner - Dim::from(1)) * stride;
                if let Some(rows) = rows {
                    sizes.push(rows);
                    strides.push(self.pitch.clone());
                }
                sizes.push(inner);
                strides.push(stride.clone());
            }
        }
        // A step along a row never leads to the next.
        let carries = last.is(0) || last.as_const().zip(row.as_const()).is_some_and(|(last, row)| last < row);
        carries.then(|| (sizes, Access { offset: first + inside + &self.offset, strides }))
    }

    fn place(&self, region: &Region) -> Option<Placement<Dim>> {
        let (shape, access) = match &region.place {
            Some(place) => (place.shape.clone(), place.access.clone()),
            None => {
                let shape = of_result(&region.problem)?;
                let strides = dense_strides(&shape);
                (shape, Access { offset: Dim::from(0), strides })
            }
        };
        let (shape, access) = self.access(&shape, &access)?;
        Some(Placement { shape, access, elements: self.elements.clone() })
    }
}

/// What becomes of a concatenation's operand that is written in its place.
struct Part {
    value: Value,
    /// Each with where it writes.
    producers: Vec<(usize, Placement<Dim>)>,
    /// Each with how it reads the whole: (region, operand).
    readers: Vec<((usize, usize), Access<Dim>)>,
}

// Places what can be of the concatenation at `at`. True if the region there is gone.
fn join(graph: &Graph, all: &mut Vec<Region>, at: usize, neighbours: &Dim) -> bool {
    let region = &all[at];
    let Problem::Concat(concat) = &region.problem else { return false };
    if !concat.epilogue.stores(concat.dtype) || region.place.is_some() {
        return false;
    }
    let (concat, inputs, whole) = (concat.clone(), region.inputs.clone(), region.outputs[0]);
    let parts: Vec<Option<Part>> =
        (0..inputs.len()).map(|i| part(graph, all, at, &concat, &inputs, i, neighbours)).collect();
    // What cannot be placed is copied, by one region.
    let left: Vec<usize> = (0..inputs.len()).filter(|i| parts[*i].is_none()).collect();
    if left.len() == inputs.len() || left.windows(2).any(|w| w[0] + 1 != w[1]) {
        return false;
    }
    if let (Some(first), Some(last)) = (left.first(), left.last()) {
        let rest = Concat { lens: concat.lens[*first..=*last].to_vec(), ..concat.clone() };
        let window = window(&concat, *first, *last);
        let copy = Region { problem: rest.into(), place: None, ..all[at].clone() };
        let Some(place) = window.place(&copy).filter(|p| fits(graph, p, neighbours)) else { return false };
        all[at] = Region { place: Some(place), inputs: inputs[*first..=*last].to_vec(), ..copy };
    }
    let mut owner = at;
    for part in parts.into_iter().flatten() {
        for (r, place) in part.producers {
            all[r].place = Some(place);
            all[r].outputs = vec![whole];
            owner = r;
        }
        for ((r, operand), access) in part.readers {
            all[r].inputs[operand] = whole;
            if let Some(own) = access_of(&mut all[r].problem, operand) {
                *own = access;
            }
        }
        debug_assert!(producers(all, part.value).is_empty());
    }
    if left.is_empty() {
        let nodes = std::mem::take(&mut all[at].nodes);
        all[owner].nodes.extend(nodes);
        all.remove(at);
    }
    left.is_empty()
}

fn window(concat: &Concat<Dim>, first: usize, last: usize) -> Window {
    let sum = |lens: &[Dim]| lens.iter().fold(Dim::from(0), |sum, len| sum + len);
    let pitch = sum(&concat.lens) * &concat.inner;
    Window {
        row: sum(&concat.lens[first..=last]) * &concat.inner,
        offset: sum(&concat.lens[..first]) * &concat.inner,
        elements: &concat.outer * &pitch,
        pitch,
    }
}

fn part(
    graph: &Graph,
    all: &[Region],
    at: usize,
    concat: &Concat<Dim>,
    inputs: &[Value],
    operand: usize,
    neighbours: &Dim,
) -> Option<Part> {
    let value = inputs[operand];
    let makers = producers(all, value);
    let once = inputs.iter().filter(|v| **v == value).count() == 1;
    if makers.is_empty() || !once || is_output(graph, value) {
        return None;
    }
    let window = window(concat, operand, operand);
    let placed = |r: &usize| {
        let place = stores_rows(&all[*r]).then(|| window.place(&all[*r]))??;
        fits(graph, &place, neighbours).then_some((*r, place))
    };
    // Who writes a part of the whole cannot read another: the whole is one buffer.
    let writes = |r: usize| inputs.iter().any(|v| all[r].outputs.contains(v));
    let read = |(r, i): (usize, usize)| {
        let (shape, access) = read_over(&all[r].problem, i).filter(|_| !writes(r))?;
        let (sizes, access) = window.access(&shape, &access)?;
        (sizes == shape).then_some(((r, i), access))
    };
    Some(Part {
        value,
        producers: makers.iter().map(placed).collect::<Option<_>>()?,
        readers: readers(all, value)
            .into_iter()
            .filter(|(r, _)| *r != at)
            .map(read)
            .collect::<Option<_>>()?,
    })
}

// The shape over which an operand is read, and its access, for operands that are read through one.
fn read_over(problem: &Problem<Dim>, operand: usize) -> Option<(Vec<Dim>, Access<Dim>)> {
    let shape = match problem {
        Problem::Pointwise(p) => p.shape.clone(),
        _ if operand >= problem.own_inputs() => of_output(problem)?,
        _ => return None,
    };
    Some((shape, access_of(&mut problem.clone(), operand)?.clone()))
}

fn access_of(problem: &mut Problem<Dim>, operand: usize) -> Option<&mut Access<Dim>> {
    let own = problem.own_inputs();
    match problem {
        Problem::Pointwise(p) => p.inputs.get_mut(operand),
        _ => problem.epilogue_mut()?.operands.get_mut(operand.checked_sub(own)?),
    }
}
