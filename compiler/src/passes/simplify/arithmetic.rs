//! Equations of pointwise operators and casts.

use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Apply, Cast, Op};
use crate::passes::Rule;
use crate::passes::pattern::*;
use bakelite_host::{DType, Pw};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("constant_second", constant_second),
    ("sub_constant", sub_constant),
    ("neutral", neutral),
    ("mul_zero", mul_zero),
    ("div_power_of_two", div_power_of_two),
    ("power", power),
    ("reciprocal", reciprocal),
    ("max_zero", max_zero),
    ("idempotent", idempotent),
    ("involution", involution),
    ("constants_meet", constants_meet),
    ("select_known", select_known),
    ("cast_same", cast_same),
    ("cast_cast", cast_cast),
];

fn pw(graph: &Graph, id: NodeId) -> Option<(Pw, &[Value])> {
    let node = graph.node(id);
    match node.op()? {
        Op::Apply(Apply { op }) => Some((*op, &node.inputs)),
        _ => None,
    }
}

fn same_type(graph: &Graph, id: NodeId, value: Value) -> bool {
    graph.node(id).types[0] == *graph.ty(value)
}

/// `c + x → x + c`, and so for mul, min, max, and, or, xor: the order that every other rule expects.
fn constant_second(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((op, &[a, b])) = pw(graph, id) else { return Ok(false) };
    let commutes = matches!(op, Pw::Add | Pw::Mul | Pw::And | Pw::Or | Pw::Xor | Pw::Min | Pw::Max);
    if !commutes || graph.data(a).is_none() || graph.data(b).is_some() {
        return Ok(false);
    }
    become_op(graph, id, Apply { op }, &[b, a])
}

/// `x − c → x + (−c)` for floats, where it is exact.
fn sub_constant(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((Pw::Sub, &[x, c])) = pw(graph, id) else { return Ok(false) };
    if !graph.ty(c).dtype.is_float() || graph.data(c).is_none() || graph.data(x).is_some() {
        return Ok(false);
    }
    let Some(negated) = compute(graph, Apply { op: Pw::Neg }, &[c]) else { return Ok(false) };
    become_op(graph, id, Apply { op: Pw::Add }, &[x, negated])
}

/// `x + 0, x − 0, x · 1, x / 1, x^1, x and true, x or false → x`
fn neutral(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((op, &[x, c])) = pw(graph, id) else { return Ok(false) };
    let neutral = match op {
        Pw::Add | Pw::Sub => 0.0,
        Pw::Mul | Pw::Div | Pw::Pow => 1.0,
        Pw::And if graph.ty(c).dtype == DType::Bool => 1.0,
        Pw::Or | Pw::Xor if graph.ty(c).dtype == DType::Bool => 0.0,
        _ => return Ok(false),
    };
    if uniform(graph, c) != Some(neutral) || !same_type(graph, id, x) {
        return Ok(false);
    }
    swap(graph, id, x)
}

/// `x · 0 → 0` for integers; a float may be NaN or infinite.
fn mul_zero(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((Pw::Mul, &[_, c])) = pw(graph, id) else { return Ok(false) };
    if !graph.ty(c).dtype.is_int() || uniform(graph, c) != Some(0.0) || !same_type(graph, id, c) {
        return Ok(false);
    }
    swap(graph, id, c)
}

/// `x / c → x · (1/c)` where every element of c is a power of two, so that it is exact.
fn div_power_of_two(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((Pw::Div, &[x, c])) = pw(graph, id) else { return Ok(false) };
    let Some(tensor) = graph.data(c).filter(|t| t.dtype.is_float() && t.count() <= 4096) else {
        return Ok(false);
    };
    // Within f16's normal range both ways, so exact in every type.
    let exact =
        |v: &f64| v.abs() >= 1.0 / 16384.0 && v.abs() <= 16384.0 && v.to_bits() & ((1 << 52) - 1) == 0;
    if !tensor.to_f64().iter().all(exact) {
        return Ok(false);
    }
    let Some(inverse) = compute(graph, Apply { op: Pw::Recip }, &[c]) else { return Ok(false) };
    become_op(graph, id, Apply { op: Pw::Mul }, &[x, inverse])
}

/// `x^2 → x·x`, `x^0.5 → √x`, `x^−1 → 1/x`, `x^−0.5 → 1/√x`
fn power(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((Pw::Pow, &[x, c])) = pw(graph, id) else { return Ok(false) };
    let float = graph.ty(x).dtype.is_float();
    let (op, operands) = match uniform(graph, c) {
        Some(2.0) => (Pw::Mul, vec![x, x]),
        Some(0.5) if float => (Pw::Sqrt, vec![x]),
        Some(-1.0) if float => (Pw::Recip, vec![x]),
        Some(-0.5) if float => (Pw::Rsqrt, vec![x]),
        _ => return Ok(false),
    };
    become_op(graph, id, Apply { op }, &operands)
}

/// `1 / x → recip(x)`, `recip(√x) → rsqrt(x)`
fn reciprocal(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    match pw(graph, id) {
        Some((Pw::Div, &[c, x])) if graph.ty(c).dtype.is_float() && uniform(graph, c) == Some(1.0) => {
            become_op(graph, id, Apply { op: Pw::Recip }, &[x])
        }
        Some((Pw::Recip, &[s])) => match applied(graph, s, Pw::Sqrt) {
            Some([x]) => become_op(graph, id, Apply { op: Pw::Rsqrt }, &[x]),
            None => Ok(false),
        },
        _ => Ok(false),
    }
}

/// `max(x, 0) → relu(x)`
fn max_zero(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((Pw::Max, &[x, c])) = pw(graph, id) else { return Ok(false) };
    if uniform(graph, c) != Some(0.0) {
        return Ok(false);
    }
    become_op(graph, id, Apply { op: Pw::Relu }, &[x])
}

/// `f(f(x)) → f(x)` for relu, abs, floor, ceil, round, trunc, sign
fn idempotent(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((op, &[inner])) = pw(graph, id) else { return Ok(false) };
    let once = matches!(op, Pw::Relu | Pw::Abs | Pw::Floor | Pw::Ceil | Pw::Round | Pw::Trunc | Pw::Sign);
    if !once || applied::<1>(graph, inner, op).is_none() {
        return Ok(false);
    }
    swap(graph, id, inner)
}

/// `−(−x) → x`, `!!x → x`
fn involution(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((op, &[inner])) = pw(graph, id) else { return Ok(false) };
    match applied(graph, inner, op) {
        Some([x]) if matches!(op, Pw::Neg | Pw::Not) => swap(graph, id, x),
        _ => Ok(false),
    }
}

/// `(x ∘ a) ∘ b → x ∘ (a ∘ b)` for constants a, b and one of +, ·, min, max, where the inner result has no other reader and
/// the joint constant is no larger than both.
fn constants_meet(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((op, &[inner, b])) = pw(graph, id) else { return Ok(false) };
    if !matches!(op, Pw::Add | Pw::Mul | Pw::Min | Pw::Max) || !graph.used_once(inner) {
        return Ok(false);
    }
    let Some([x, a]) = applied::<2>(graph, inner, op) else { return Ok(false) };
    let (Some(ta), Some(tb)) = (graph.data(a), graph.data(b)) else { return Ok(false) };
    let most = ta.count().max(tb.count());
    if ta.dtype != tb.dtype {
        return Ok(false);
    }
    let Some(joint) = compute(graph, Apply { op }, &[a, b]) else { return Ok(false) };
    let sound =
        graph.data(joint).is_some_and(|t| t.count() <= most && t.to_f64().iter().all(|v| v.is_finite()));
    if !sound {
        graph.prune(joint.node);
        return Ok(false);
    }
    become_op(graph, id, Apply { op }, &[x, joint])
}

/// `select(true, a, b) → a`, `select(false, a, b) → b`, `select(c, a, a) → a`
fn select_known(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((Pw::Select, &[c, a, b])) = pw(graph, id) else { return Ok(false) };
    let taken = match uniform(graph, c) {
        _ if a == b => a,
        Some(0.0) => b,
        Some(_) => a,
        None => return Ok(false),
    };
    if same_type(graph, id, taken) { swap(graph, id, taken) } else { Ok(false) }
}

/// `cast(x: T) {to=T} → x`
fn cast_same(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    match unary(graph, id.into(), cast) {
        Some((_, x)) if same_type(graph, id, x) => swap(graph, id, x),
        _ => Ok(false),
    }
}

fn cast(op: &Op) -> Option<DType> {
    if let Op::Cast(Cast { to }) = op { Some(*to) } else { None }
}

/// `cast(cast(x: T) {to=U}) {to=V} → cast(x) {to=V}` where U holds every T
fn cast_cast(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let Some((to, inner)) = unary(graph, id.into(), cast) else { return Ok(false) };
    let Some((middle, x)) = unary(graph, inner, cast) else { return Ok(false) };
    let from = graph.ty(x).dtype;
    // An integer that detours over a float saturates where it would wrap.
    let detour = from.is_int() && middle.is_float() && to.is_int() && !holds(to, from);
    if !holds(middle, from) || detour {
        return Ok(false);
    }
    become_op(graph, id, Cast { to }, &[x])
}

/// Whether every value of `small` is a value of `large`.
fn holds(large: DType, small: DType) -> bool {
    // (signed, bits of value)
    let bits = |d: DType| match d {
        DType::Bool => (false, 1),
        DType::U8 => (false, 8),
        DType::U16 => (false, 16),
        DType::U32 => (false, 32),
        DType::U64 => (false, 64),
        DType::I8 => (true, 7),
        DType::I16 => (true, 15),
        DType::I32 => (true, 31),
        DType::I64 => (true, 63),
        // Integers that a float holds exactly.
        DType::F16 => (true, 11),
        DType::BF16 => (true, 8),
        DType::F32 => (true, 24),
        DType::F64 => (true, 53),
    };
    if large == small {
        return true;
    }
    match (large.is_float(), small.is_float()) {
        (true, true) => matches!((large, small), (DType::F64, _) | (DType::F32, DType::F16 | DType::BF16)),
        (false, true) => false,
        _ => {
            let ((ls, lb), (ss, sb)) = (bits(large), bits(small));
            (ls || !ss) && lb >= sb && large != DType::Bool
        }
    }
}
