//! Activations from their pieces. Products are compared as sets of factors, so every association order fits.

use crate::ir::{Graph, NodeId, Value};
use crate::ops::Apply;
use crate::passes::Rule;
use crate::passes::pattern::*;
use bakelite_host::Pw;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

pub(super) const RULES: &[(&str, Rule)] =
    &[("product_activation", product_activation), ("softplus", softplus)];

/// The factors of a product tree: one number, and the values. Inner products and quotients by a number count when nothing
/// else reads them.
fn factors(graph: &Graph, root: Value) -> (f64, Vec<Value>) {
    let (mut number, mut values, mut stack) = (1.0, Vec::new(), vec![root]);
    while let Some(value) = stack.pop() {
        let inner = value == root || graph.used_once(value);
        let mul = applied::<2>(graph, value, Pw::Mul).filter(|_| inner);
        let square = mul.filter(|[a, b]| a == b);
        let div = applied::<2>(graph, value, Pw::Div).filter(|_| inner);
        let power = applied::<2>(graph, value, Pw::Pow).filter(|_| inner);
        if let Some(constant) = uniform(graph, value) {
            number *= constant;
        } else if let Some([x, _]) = square {
            values.extend([x, x]);
        } else if let Some(pair) = mul {
            stack.extend(pair);
        } else if let Some((x, by)) = div.and_then(|[x, c]| Some((x, uniform(graph, c)?))) {
            number /= by;
            stack.push(x);
        } else if let Some(x) = power.and_then(|[x, c]| (uniform(graph, c) == Some(3.0)).then_some(x)) {
            values.extend([x, x, x]);
        } else {
            values.push(value);
        }
        // A product of many factors is none of the patterns here.
        if values.len() + stack.len() > 8 {
            return (f64::NAN, vec![]);
        }
    }
    (number, values)
}

/// `x · sigmoid(x) → silu(x)`,
/// `x · ½ · (1 + erf(x / √2)) → gelu(x)`,
/// `x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) → gelu_tanh(x)`,
/// `x · clip(x + 3, 0, 6) / 6 → hard_swish(x)`, `x · clip(x / 6 + ½, 0, 1) → hard_swish(x)`
fn product_activation(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let root = Value::from(id);
    if applied::<2>(graph, root, Pw::Mul).is_none() && applied::<2>(graph, root, Pw::Div).is_none() {
        return Ok(false);
    }
    let (number, values) = factors(graph, root);
    let &[a, b] = values.as_slice() else { return Ok(false) };
    for (x, gate) in [(a, b), (b, a)] {
        if x == gate || !graph.used_once(gate) || graph.ty(x) != graph.ty(gate) {
            continue;
        }
        let dtype = graph.ty(x).dtype;
        let is = |expected: f64| near(number, expected, dtype);
        let op = if is(1.0) && applied::<1>(graph, gate, Pw::Sigmoid) == Some([x]) {
            Pw::Silu
        } else if is(0.5) && erf_gate(graph, gate, x) {
            Pw::Gelu
        } else if is(0.5) && tanh_gate(graph, gate, x) {
            Pw::GeluTanh
        } else if is(1.0 / 6.0) && clipped(graph, gate, 6.0).is_some_and(|t| ramp(graph, t, x, 1.0, 3.0))
            || is(1.0) && clipped(graph, gate, 1.0).is_some_and(|t| ramp(graph, t, x, 1.0 / 6.0, 0.5))
        {
            Pw::HardSwish
        } else {
            continue;
        };
        return become_op(graph, id, Apply { op }, &[x]);
    }
    Ok(false)
}

// `1 + erf(x / √2)`
fn erf_gate(graph: &Graph, gate: Value, x: Value) -> bool {
    let Some([e, one]) = applied::<2>(graph, gate, Pw::Add) else { return false };
    let Some([argument]) = applied::<1>(graph, e, Pw::Erf) else { return false };
    let (number, values) = factors(graph, argument);
    about(graph, one, 1.0)
        && graph.used_once(e)
        && near(number, FRAC_1_SQRT_2, graph.ty(x).dtype)
        && values == [x]
        && argument != x
}

// `1 + tanh(√(2/π) · (x + 0.044715 · x³))`, or with the bracket as `x · (1 + 0.044715 · x²)`
fn tanh_gate(graph: &Graph, gate: Value, x: Value) -> bool {
    let Some([t, one]) = applied::<2>(graph, gate, Pw::Add) else { return false };
    let Some([argument]) = applied::<1>(graph, t, Pw::Tanh) else { return false };
    let dtype = graph.ty(x).dtype;
    let (number, values) = factors(graph, argument);
    let root = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    if !about(graph, one, 1.0) || !graph.used_once(t) || !near(number, root, dtype) {
        return false;
    }
    let is_power = |v: Value, power: usize| {
        let (number, values) = factors(graph, v);
        near(number, 0.044_715, dtype) && values == vec![x; power]
    };
    match values.as_slice() {
        [sum] => applied::<2>(graph, *sum, Pw::Add)
            .and_then(|pair| ordered(pair, |v| is_power(v, 3)))
            .is_some_and(|[other, _]| other == x),
        [a, b] => [(*a, *b), (*b, *a)].into_iter().any(|(first, sum)| {
            let pair = applied::<2>(graph, sum, Pw::Add).and_then(|p| ordered(p, |v| about(graph, v, 1.0)));
            first == x && pair.is_some_and(|[power, _]| is_power(power, 2))
        }),
        _ => false,
    }
}

// The operand of `clip(t, 0, top)` in either order of its bounds.
fn clipped(graph: &Graph, gate: Value, top: f64) -> Option<Value> {
    let below = |v: Value| {
        let [t, c] = applied::<2>(graph, v, Pw::Min)?;
        about(graph, c, top).then_some(t)
    };
    let above = |v: Value| applied::<1>(graph, v, Pw::Relu).map(|[t]| t);
    let (inner, both) = match (below(gate), above(gate)) {
        (Some(inner), _) => (inner, above(inner)),
        (_, Some(inner)) => (inner, below(inner)),
        _ => return None,
    };
    both.filter(|_| graph.used_once(inner))
}

// `t = slope · x + offset`
fn ramp(graph: &Graph, t: Value, x: Value, slope: f64, offset: f64) -> bool {
    let Some([line, c]) = applied::<2>(graph, t, Pw::Add) else { return false };
    let (number, values) = if line == x { (1.0, vec![x]) } else { factors(graph, line) };
    graph.used_once(t) && about(graph, c, offset) && near(number, slope, graph.ty(x).dtype) && values == [x]
}

/// `log(1 + exp(x)) → softplus(x)`, `log1p(exp(x)) → softplus(x)`
fn softplus(graph: &mut Graph, id: NodeId) -> Result<bool, String> {
    let root = Value::from(id);
    let exponential = if let Some([e]) = applied::<1>(graph, root, Pw::Log1p) {
        Some(e)
    } else {
        let sum = applied::<1>(graph, root, Pw::Log).filter(|[s]| graph.used_once(*s));
        let pair = sum.and_then(|[s]| applied::<2>(graph, s, Pw::Add));
        pair.filter(|[_, one]| uniform(graph, *one) == Some(1.0)).map(|[e, _]| e)
    };
    let x = exponential.filter(|e| graph.used_once(*e)).and_then(|e| applied::<1>(graph, e, Pw::Exp));
    match x {
        Some([x]) => become_op(graph, id, Apply { op: Pw::Softplus }, &[x]),
        None => Ok(false),
    }
}
