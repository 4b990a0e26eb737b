//! Matrix products.

use crate::ir::Value;
use crate::onnx::call::{Call, Results, one};
use crate::ops::{MatMul, Reduce};
use bakelite_host::Pw;
use bakelite_host::problem::{Math, ReduceKind};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

pub(super) fn matmul(c: &mut Call<'_>) -> Results {
    let (a, b) = (c.value(0)?, c.value(1)?);
    one(multiply(c, a, b, false, false)?)
}

/// numpy's product: a vector is a row on the left, a column on the right, and its dimension is gone afterwards.
pub(super) fn multiply(
    c: &mut Call<'_>,
    a: Value,
    b: Value,
    trans_a: bool,
    trans_b: bool,
) -> Result<Value, String> {
    let (rank_a, rank_b) = (c.rank(a), c.rank(b));
    let row = if rank_a == 1 { c.reshape(a, vec![Dim::from(1), c.shape(a)[0].clone()])? } else { a };
    let column = if rank_b == 1 { c.reshape(b, vec![c.shape(b)[0].clone(), Dim::from(1)])? } else { b };
    let op = MatMul { trans_a: trans_a && rank_a > 1, trans_b: trans_b && rank_b > 1, math: Math::Exact };
    let y = c.add(op, &[row, column])?;
    let mut shape = c.shape(y);
    if rank_b == 1 {
        shape.pop();
    }
    if rank_a == 1 {
        shape.remove(shape.len() - if rank_b == 1 { 1 } else { 2 });
    }
    c.reshape(y, shape)
}

pub(super) fn fused_matmul(c: &mut Call<'_>) -> Results {
    let (a, b) = (c.value(0)?, c.value(1)?);
    let attributes = c.attributes();
    if attributes.flag("transBatchA", false)? || attributes.flag("transBatchB", false)? {
        return Err("transposed batches are not supported".into());
    }
    let y = multiply(c, a, b, attributes.flag("transA", false)?, attributes.flag("transB", false)?)?;
    one(scaled(c, y, attributes.float("alpha", 1.0)?)?)
}

fn scaled(c: &mut Call<'_>, x: Value, factor: f32) -> Result<Value, String> {
    if factor == 1.0 { Ok(x) } else { c.pw_number(Pw::Mul, x, factor.into()) }
}

pub(super) fn gemm(c: &mut Call<'_>) -> Results {
    let (a, b) = (c.value(0)?, c.value(1)?);
    if c.rank(a) != 2 || c.rank(b) != 2 {
        return Err(format!("operands need two dimensions, got {} and {}", c.ty(a), c.ty(b)));
    }
    let attributes = c.attributes();
    let op = MatMul {
        trans_a: attributes.flag("transA", false)?,
        trans_b: attributes.flag("transB", false)?,
        math: Math::Exact,
    };
    let (alpha, beta) = (attributes.float("alpha", 1.0)?, attributes.float("beta", 1.0)?);
    let product = c.add(op, &[a, b])?;
    let y = scaled(c, product, alpha)?;
    match c.optional(2)? {
        Some(bias) if beta != 0.0 => {
            let bias = scaled(c, bias, beta)?;
            one(c.pw(Pw::Add, &[y, bias])?)
        }
        _ => one(y),
    }
}

/// Operands are contracted from left to right; each pair is one batched product.
pub(super) fn einsum(c: &mut Call<'_>) -> Results {
    let equation: String =
        c.attributes().text("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<Vec<char>> = left.split(',').map(|t| t.chars().collect()).collect();
    let all: Vec<char> = terms.concat();
    let output: Vec<char> = right.map_or_else(
        || {
            let mut once: Vec<char> =
                all.iter().copied().filter(|l| all.iter().filter(|m| *m == l).count() == 1).collect();
            once.sort_unstable();
            once
        },
        |right| right.chars().collect(),
    );
    let distinct = |labels: &[char]| (1..labels.len()).all(|i| !labels[..i].contains(&labels[i]));
    let plain =
        terms.iter().chain([&output]).all(|t| t.iter().all(|l| l.is_ascii_alphabetic()) && distinct(t));
    if !plain || !output.iter().all(|l| all.contains(l)) {
        return Err(format!(
            "the equation \"{equation}\" has an ellipsis or repeats a label, which is not supported"
        ));
    }
    let values = c.values()?;
    let fits = terms.len() == values.len() && terms.iter().zip(&values).all(|(t, v)| t.len() == c.rank(*v));
    if !fits {
        return Err(format!("the equation \"{equation}\" does not fit the operands"));
    }
    let mut acc = (values[0], terms[0].clone());
    for i in 1..values.len() {
        let kept = |l: &char| output.contains(l) || terms[i + 1..].concat().contains(l);
        acc = contract(c, acc, (values[i], terms[i].clone()), &kept)?;
    }
    let (x, labels) = sum_out(c, acc, &|l| output.contains(l))?;
    let perm = output.iter().filter_map(|l| labels.iter().position(|m| m == l)).collect();
    one(c.transpose(x, perm)?)
}

type Labelled = (Value, Vec<char>);

/// Sums over the labels that are not kept.
fn sum_out(
    c: &mut Call<'_>,
    (x, labels): Labelled,
    kept: &dyn Fn(&char) -> bool,
) -> Result<Labelled, String> {
    let axes: Vec<usize> = (0..labels.len()).filter(|i| !kept(&labels[*i])).collect();
    if axes.is_empty() {
        return Ok((x, labels));
    }
    let x = c.add(Reduce { kind: ReduceKind::Sum, axes, keepdims: false }, &[x])?;
    Ok((x, labels.into_iter().filter(|l| kept(l)).collect()))
}

fn contract(
    c: &mut Call<'_>,
    a: Labelled,
    b: Labelled,
    kept: &dyn Fn(&char) -> bool,
) -> Result<Labelled, String> {
    let (in_a, in_b) = (a.1.clone(), b.1.clone());
    let a = sum_out(c, a, &|l| kept(l) || in_b.contains(l))?;
    let b = sum_out(c, b, &|l| kept(l) || in_a.contains(l))?;
    let shared: Vec<char> = a.1.iter().copied().filter(|l| b.1.contains(l)).collect();
    let (batch, inner): (Vec<char>, Vec<char>) = shared.iter().partition(|l| kept(l));
    let rows: Vec<char> = a.1.iter().copied().filter(|l| !shared.contains(l)).collect();
    let columns: Vec<char> = b.1.iter().copied().filter(|l| !shared.contains(l)).collect();
    let (left, sizes_a) = arranged(c, &a, &batch, &rows, &inner)?;
    let (right, sizes_b) = arranged(c, &b, &batch, &inner, &columns)?;
    let y = c.add(MatMul::PLAIN, &[left, right])?;
    let mut shape = sizes_a[0].clone();
    shape.extend(sizes_a[1].iter().chain(&sizes_b[2]).cloned());
    let y = c.reshape(y, shape)?;
    Ok((y, [batch, rows, columns].concat()))
}

/// The operand as `[batch..., Π first, Π second]`, with the sizes of each part.
fn arranged(
    c: &mut Call<'_>,
    (x, labels): &Labelled,
    batch: &[char],
    first: &[char],
    second: &[char],
) -> Result<(Value, [Vec<Dim>; 3]), String> {
    let shape = c.shape(*x);
    let place =
        |part: &[char]| part.iter().filter_map(|l| labels.iter().position(|m| m == l)).collect::<Vec<_>>();
    let places = [place(batch), place(first), place(second)];
    let sizes = places.clone().map(|p| p.iter().map(|d| shape[*d].clone()).collect::<Vec<_>>());
    let moved = c.transpose(*x, places.concat())?;
    let mut to = sizes[0].clone();
    to.extend([product(&sizes[1]), product(&sizes[2])]);
    Ok((c.reshape(moved, to)?, sizes))
}
