//! What rules look at and make: views of a node as a pattern, and small constants. Never changes what a graph computes.

use crate::ir::{Graph, Kind, Node, NodeId, Tensor, Type, Value};
use crate::ops::{Apply, Op, Reshape, Transpose, eval};
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;

/// The operands of `value`, if it is the pointwise operator `op`.
pub(super) fn applied<const N: usize>(graph: &Graph, value: Value, op: Pw) -> Option<[Value; N]> {
    match graph.op(value) {
        Some(Op::Apply(apply)) if apply.op == op => graph.node(value.node).inputs.as_slice().try_into().ok(),
        _ => None,
    }
}

/// The one operand of `value` and its operator, if `pick` accepts that.
pub(super) fn unary<'a, T>(
    graph: &'a Graph,
    value: Value,
    pick: impl Fn(&'a Op) -> Option<T>,
) -> Option<(T, Value)> {
    let picked = pick(graph.op(value)?)?;
    match graph.node(value.node).inputs.as_slice() {
        [x] => Some((picked, *x)),
        _ => None,
    }
}

/// Operands of a commutative operator in the order that makes the second satisfy `second`.
pub(super) fn ordered(pair: [Value; 2], second: impl Fn(Value) -> bool) -> Option<[Value; 2]> {
    let [a, b] = pair;
    if second(b) {
        Some([a, b])
    } else if second(a) {
        Some([b, a])
    } else {
        None
    }
}

/// A constant's value, if all its elements are the same.
pub(super) fn uniform(graph: &Graph, value: Value) -> Option<f64> {
    graph.data(value)?.uniform()
}

/// Whether `value` is a constant whose elements are all `expected`, up to the rounding of its type.
pub(super) fn about(graph: &Graph, value: Value, expected: f64) -> bool {
    uniform(graph, value).is_some_and(|v| near(v, expected, graph.ty(value).dtype))
}

/// Whether two numbers are the same up to the rounding of `dtype`, with slack for constants written with few digits.
pub(super) fn near(a: f64, b: f64, dtype: DType) -> bool {
    let relative = match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1e-2,
        _ => 2e-5,
    };
    (a - b).abs() <= relative * a.abs().max(b.abs())
}

/// Whether `value` is read by exactly `readers` operands and not given out.
pub(super) fn private(graph: &Graph, value: Value, readers: usize) -> bool {
    !graph.is_output(value) && graph.users(value).len() == readers
}

/// Whether `value` is read, is not given out, and each (reader, operand position) satisfies `holds`. Looks at no more than
/// `left` readers, which it counts down: `holds` may look further and is handed what remains.
pub(super) fn every_reader(
    graph: &Graph,
    value: Value,
    left: &mut usize,
    holds: &mut dyn FnMut(NodeId, usize, &mut usize) -> bool,
) -> bool {
    let readers = graph.users(value);
    !graph.is_output(value)
        && !readers.is_empty()
        && readers.into_iter().all(|(reader, port)| {
            let Some(rest) = left.checked_sub(1) else { return false };
            *left = rest;
            holds(reader, port, left)
        })
}

/// Whether windows of such a kernel lie side by side: as far apart as they are long, their taps beside each other, and none of
/// the `amounts` of padding.
pub(super) fn side_by_side(
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
    amounts: &[&[usize]],
) -> bool {
    strides == kernel
        && dilations.iter().zip(kernel).all(|(d, k)| *d == 1 || *k == 1)
        && amounts.iter().all(|a| a.iter().all(|n| *n == 0))
}

/// Makes every reader of node `id` (its first result) read `value`.
pub(super) fn swap(graph: &mut Graph, id: NodeId, value: Value) -> Result<bool, String> {
    graph.replace(id.into(), value)?;
    Ok(true)
}

/// Adds an operator that takes its name from node `like`.
pub(super) fn emit(
    graph: &mut Graph,
    op: impl Into<Op>,
    inputs: &[Value],
    like: NodeId,
) -> Result<Value, String> {
    let name = graph.node(like).name.clone();
    Ok(graph.add(op, inputs, name)?.into())
}

/// Replaces node `id` by an operator, if the operator accepts the operands and gives the same type; else changes nothing.
pub(super) fn become_op(
    graph: &mut Graph,
    id: NodeId,
    op: impl Into<Op>,
    inputs: &[Value],
) -> Result<bool, String> {
    let op = op.into();
    let types: Vec<&Type> = inputs.iter().map(|v| graph.ty(*v)).collect();
    match op.infer(&types) {
        Ok(types) if types == graph.node(id).types => {}
        _ => return Ok(false),
    }
    let new = emit(graph, op, inputs, id)?;
    swap(graph, id, new)
}

/// Adds a pointwise operator.
pub(super) fn pointwise(graph: &mut Graph, op: Pw, inputs: &[Value], like: NodeId) -> Result<Value, String> {
    emit(graph, Apply { op }, inputs, like)
}

/// The result of an operator on constants, as a new constant; `None` where the host refuses.
pub(super) fn compute(graph: &mut Graph, op: impl Into<Op>, inputs: &[Value]) -> Option<Value> {
    let operands = inputs.iter().map(|v| graph.data(*v)).collect::<Option<Vec<_>>>()?;
    let result = eval::eval(&op.into(), &operands).ok()?.into_iter().next()?;
    let name = graph.node(inputs[0].node).name.clone();
    Some(graph.constant(result, name))
}

/// A constant of `shape` with every element `value`.
pub(super) fn filled(graph: &mut Graph, dtype: DType, shape: &[usize], value: f64, name: &str) -> Value {
    let bytes = Tensor::scalar(dtype, value).bytes.repeat(shape.iter().product());
    graph.constant(Tensor { dtype, shape: shape.to_vec(), bytes: bytes.into() }, name)
}

/// A constant under another shape of as many elements.
pub(super) fn reshaped(graph: &mut Graph, constant: Value, shape: &[usize]) -> Option<Value> {
    let tensor = graph.data(constant)?;
    if tensor.shape == shape {
        return Some(constant);
    }
    let tensor = Tensor::new(tensor.dtype, shape.to_vec(), tensor.bytes.clone()).ok()?;
    let name = graph.node(constant.node).name.clone();
    Some(graph.constant(tensor, name))
}

/// Whether a permutation of `shape` keeps the order of the elements in memory: only dimensions of size 1 move.
pub(super) fn moves_nothing(perm: &[usize], shape: &[Dim]) -> bool {
    let moved: Vec<usize> = perm.iter().copied().filter(|p| shape.get(*p).is_none_or(|d| !d.is(1))).collect();
    moved.windows(2).all(|w| w[0] < w[1])
}

/// `x` under another shape; `x` itself if it has it.
pub(super) fn reshape(graph: &mut Graph, x: Value, shape: Vec<Dim>, like: NodeId) -> Result<Value, String> {
    if graph.ty(x).shape == shape { Ok(x) } else { emit(graph, Reshape { shape }, &[x], like) }
}

/// `x` with its dimensions permuted; constants at once, and a permutation undone by another is none.
pub(super) fn transposed(graph: &mut Graph, x: Value, perm: &[usize], like: NodeId) -> Result<Value, String> {
    let mut op = Transpose { perm: perm.to_vec() };
    let mut x = x;
    if let Some((first, base)) = unary(graph, x, |op| if let Op::Transpose(t) = op { Some(t) } else { None })
    {
        (op, x) = (op.after(first), base);
    }
    if op.is_identity() {
        return Ok(x);
    }
    if graph.data(x).is_some()
        && let Some(constant) = compute(graph, op.clone(), &[x])
    {
        return Ok(constant);
    }
    let existing = graph
        .users(x)
        .into_iter()
        .find(|(user, _)| graph.op((*user).into()) == Some(&Op::Transpose(op.clone())));
    match existing {
        Some((user, _)) => Ok(user.into()),
        None => emit(graph, op, &[x], like),
    }
}

/// Which dimension of a result of `rank` dimensions a constant varies along, right-aligned: `Some(None)` for one element,
/// `None` for more than one dimension.
pub(super) fn varies_along(tensor: &Tensor, rank: usize) -> Option<Option<usize>> {
    if tensor.shape.len() > rank {
        return None;
    }
    let skip = rank - tensor.shape.len();
    let mut large = tensor.shape.iter().enumerate().filter(|(_, size)| **size != 1).map(|(d, _)| d + skip);
    match (large.next(), large.next()) {
        (first, None) => Some(first),
        _ => None,
    }
}

/// Whether the node is a constant.
pub(super) fn is_constant(node: &Node) -> bool {
    matches!(node.kind, Kind::Constant(_))
}
