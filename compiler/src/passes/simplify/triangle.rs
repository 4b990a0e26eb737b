//! What masks are made of: values that are one number up to a diagonal of their last two dimensions and another beyond it.
//! Known from how a value is computed, and so whatever its size, symbolic too. Never writes a value out, never changes a graph.

use crate::ir::{Graph, Tensor, Type, Value};
use crate::ops::{Apply, Op, Slice, eval};
use bakelite_host::{DType, Pw};
use bakelite_kernels::Dim;
use std::collections::HashMap;

/// What is known of every element of a value. Dimensions are counted from the last, which is 0: so broadcasting keeps them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// The same number everywhere: a tensor of no dimensions.
    Uniform(Tensor),
    /// An integer: `first`, and one more with each step along the dimension.
    Position { along: Option<usize>, first: Dim },
    /// `sides[0]` in row i and column j where `j ≤ i + diagonal`, else `sides[1]`.
    Triangle { diagonal: Dim, sides: Tensor },
}

/// The form of a value, if it has one.
pub(super) fn form(graph: &Graph, value: Value) -> Option<Form> {
    Reader { graph, known: HashMap::new(), left: 96 }.form(value)
}

struct Reader<'a> {
    graph: &'a Graph,
    known: HashMap<Value, Option<Form>>,
    /// Values that may still be looked at: a mask takes up to forty.
    left: usize,
}

impl Reader<'_> {
    fn form(&mut self, value: Value) -> Option<Form> {
        if let Some(known) = self.known.get(&value) {
            return known.clone();
        }
        self.left = self.left.checked_sub(1)?;
        let form = self.read(value);
        self.known.insert(value, form.clone());
        form
    }

    fn read(&mut self, value: Value) -> Option<Form> {
        if let Some(data) = self.graph.data(value) {
            return constant(data);
        }
        let node = self.graph.node(value.node);
        let ty = &node.types[value.result as usize];
        match (node.op()?, node.inputs.as_slice()) {
            (Op::Apply(Apply { op }), operands) => self.pointwise(*op, operands, ty),
            (Op::Cast(cast), &[x]) => match self.form(x)? {
                Form::Position { along, first } => self.position(along, first, ty),
                form => evaluated(&cast.clone().into(), &[form]),
            },
            (Op::Broadcast(_), &[x]) => self.form(x).filter(|form| form.spans(self.graph.ty(x), ty)),
            (Op::Reshape(_), &[x]) => self.form(x)?.reshaped(&self.graph.ty(x).shape, &ty.shape),
            (Op::Transpose(transpose), &[x]) => self.form(x)?.transposed(&transpose.perm),
            (Op::Slice(slice), &[x]) => match self.form(x)?.sliced(slice)? {
                Form::Position { along, first } => self.position(along, first, ty),
                form => Some(form),
            },
            (Op::Concat(concat), operands) => self.joined(concat.axis, operands, ty),
            (Op::Gather(gather), &[x, index]) if gather.axis == 0 => self.gathered(x, index, ty),
            (Op::CumSum(_), &[x]) => {
                self.form(x).filter(|x| matches!(x, Form::Uniform(n) if n.uniform() == Some(0.0)))
            }
            _ => None,
        }
    }

    // Positions of which each operand continues the one before it.
    fn joined(&mut self, axis: usize, operands: &[Value], ty: &Type) -> Option<Form> {
        let along = ty.rank() - 1 - axis;
        let mut start: Option<Dim> = None;
        let mut next = Dim::from(0);
        for operand in operands {
            let size = size(&self.graph.ty(*operand).shape, along)?.clone();
            let (own, first) = self.form(*operand)?.counts()?;
            let counts = own == Some(along) || own.is_none() && size.is(1);
            if !counts || start.is_some() && first != next {
                return None;
            }
            next = &first + size;
            start.get_or_insert(first);
        }
        self.position(Some(along), start?, ty)
    }

    // Of elements that are all the same, whichever; of positions, another position where it lies inside.
    fn gathered(&mut self, x: Value, index: Value, ty: &Type) -> Option<Form> {
        let (from, (along, at)) = match self.form(x)? {
            Form::Position { along: Some(0), first } => (first, self.form(index)?.counts()?),
            Form::Uniform(number) => return Some(Form::Uniform(number)),
            _ => return None,
        };
        let ([size_of_x], index) = (self.graph.ty(x).shape.as_slice(), self.graph.ty(index)) else {
            return None;
        };
        let steps = along.map_or(Some(Dim::from(0)), |a| Some(size(&index.shape, a)? - Dim::from(1)))?;
        let room = size_of_x - Dim::from(1) - (&at + steps);
        let least = |dim: &Dim| dim.bounds(&self.graph.symbols).0;
        let inside = least(&at) >= 0 && least(&room) >= 0;
        inside.then(|| self.position(along, from + at, ty))?
    }

    // A position in a type that holds all of them. Along a dimension of one element it is a number.
    fn position(&self, along: Option<usize>, first: Dim, ty: &Type) -> Option<Form> {
        let along = along.filter(|a| !size(&ty.shape, *a).is_some_and(|n| n.is(1)));
        let (least, most) = self.range(along, &first, ty)?;
        let holds = i64::from(i32::MIN) <= least && most <= i64::from(i32::MAX);
        if !holds || !matches!(ty.dtype, DType::I32 | DType::I64) {
            return None;
        }
        Some(match (along, first.as_const()) {
            (None, Some(number)) => Form::Uniform(Tensor::scalar(ty.dtype, number as f64)),
            _ => Form::Position { along, first },
        })
    }

    // The least and the largest of the positions, whatever the symbols are.
    fn range(&self, along: Option<usize>, first: &Dim, ty: &Type) -> Option<(i64, i64)> {
        let last = match along {
            Some(a) => first + (size(&ty.shape, a)? - Dim::from(1)),
            None => first.clone(),
        };
        let symbols = &self.graph.symbols;
        Some((first.bounds(symbols).0, last.bounds(symbols).1))
    }

    fn pointwise(&mut self, op: Pw, operands: &[Value], ty: &Type) -> Option<Form> {
        let forms = operands.iter().map(|v| self.form(*v)).collect::<Option<Vec<_>>>()?;
        if !forms.iter().zip(operands).all(|(form, v)| form.spans(self.graph.ty(*v), ty)) {
            return None;
        }
        if let (Pw::Select, [Form::Uniform(condition), a, b]) = (op, forms.as_slice()) {
            return Some(if condition.uniform()? == 0.0 { b } else { a }.clone());
        }
        if !forms.iter().any(|form| matches!(form, Form::Position { .. })) {
            return evaluated(&Apply { op }.into(), &forms);
        }
        let [a, b] = forms.as_slice() else { return None };
        let ((a_along, a), (b_along, b)) = (a.counts()?, b.counts()?);
        match op {
            Pw::Add if a_along.is_none() || b_along.is_none() => {
                self.position(a_along.or(b_along), &a + &b, ty)
            }
            Pw::Sub if b_along.is_none() || a_along == b_along => {
                self.position(a_along.filter(|_| b_along.is_none()), &a - &b, ty)
            }
            // Of which one is 1 everywhere: a stride.
            Pw::Mul if b_along.is_none() && b.is(1) => self.position(a_along, a, ty),
            _ => self.compared(op, (a_along, &a), (b_along, &b), operands),
        }
    }

    // Two positions compared: of one result everywhere, or a triangle of those along columns with those along rows.
    fn compared(
        &self,
        op: Pw,
        a: (Option<usize>, &Dim),
        b: (Option<usize>, &Dim),
        operands: &[Value],
    ) -> Option<Form> {
        let (least, most) = if a.0 == b.0 {
            (a.1 - b.1).bounds(&self.graph.symbols)
        } else {
            let a = self.range(a.0, a.1, self.graph.ty(operands[0]))?;
            let b = self.range(b.0, b.1, self.graph.ty(operands[1]))?;
            (a.0.saturating_sub(b.1), a.1.saturating_sub(b.0))
        };
        let (below, above, equal) = (most < 0, least > 0, least == 0 && most == 0);
        let definite = match op {
            Pw::Lt => (below, least >= 0),
            Pw::Le => (most <= 0, above),
            Pw::Gt => (above, most <= 0),
            Pw::Ge => (least >= 0, below),
            Pw::Eq => (equal, below || above),
            _ => return None,
        };
        if definite.0 || definite.1 {
            return Some(Form::Uniform(Tensor::scalar(DType::Bool, f64::from(u8::from(definite.0)))));
        }
        let (op, columns, rows) = match (a.0, b.0) {
            (Some(0), Some(1)) => (op, a.1, b.1),
            (Some(1), Some(0)) => (turned(op)?, b.1, a.1),
            _ => return None,
        };
        let diagonal = rows - columns;
        let (diagonal, upto) = match op {
            Pw::Le => (diagonal, 1u8),
            Pw::Lt => (diagonal - Dim::from(1), 1),
            Pw::Gt => (diagonal, 0),
            Pw::Ge => (diagonal - Dim::from(1), 0),
            _ => return None,
        };
        let sides = Tensor::of(DType::Bool, vec![2], &[upto, 1 - upto]).ok()?;
        Some(Form::Triangle { diagonal, sides })
    }
}

impl Form {
    // A position, or an integer as one.
    fn counts(&self) -> Option<(Option<usize>, Dim)> {
        match self {
            Form::Position { along, first } => Some((*along, first.clone())),
            Form::Uniform(number) if matches!(number.dtype, DType::I32 | DType::I64) => {
                Some((None, Dim::from(*number.to_i64().first()?)))
            }
            _ => None,
        }
    }

    // How many of the last dimensions it depends on.
    fn depth(&self) -> usize {
        match self {
            Form::Uniform(_) => 0,
            Form::Position { along, .. } => along.map_or(0, |a| a + 1),
            Form::Triangle { .. } => 2,
        }
    }

    // Whether it is the form of a broadcast too: none of the dimensions it depends on is repeated.
    fn spans(&self, from: &Type, to: &Type) -> bool {
        match self {
            Form::Uniform(_) => true,
            Form::Position { along, .. } => along.is_none_or(|a| size(&from.shape, a) == size(&to.shape, a)),
            Form::Triangle { .. } => tail(&from.shape, 2).is_some_and(|t| Some(t) == tail(&to.shape, 2)),
        }
    }

    fn reshaped(self, from: &[Dim], to: &[Dim]) -> Option<Form> {
        if tail(from, self.depth()).is_some_and(|t| Some(t) == tail(to, self.depth())) {
            return Some(self);
        }
        let Form::Position { along: Some(_), first } = self else { return None };
        // Of one dimension: it may stand anywhere among dimensions of size 1.
        let alone = |shape: &[Dim]| {
            let mut large = (0..shape.len()).filter(|d| !shape[*d].is(1));
            large.next().filter(|_| large.next().is_none())
        };
        let (at, now) = (alone(from)?, alone(to)?);
        (from[at] == to[now]).then(|| Form::Position { along: Some(to.len() - 1 - now), first })
    }

    fn transposed(self, perm: &[usize]) -> Option<Form> {
        let rank = perm.len();
        match self {
            Form::Uniform(_) | Form::Position { along: None, .. } => Some(self),
            Form::Position { along: Some(a), first } => {
                let now = perm.iter().position(|p| p + a + 1 == rank)?;
                Some(Form::Position { along: Some(rank - 1 - now), first })
            }
            Form::Triangle { diagonal, sides } => match *perm {
                [.., i, j] if (i + 2, j + 1) == (rank, rank) => Some(Form::Triangle { diagonal, sides }),
                [.., i, j] if (i + 1, j + 2) == (rank, rank) => {
                    let sides = Tensor { bytes: [side(&sides, 1), side(&sides, 0)].concat().into(), ..sides };
                    Some(Form::Triangle { diagonal: Dim::from(-1) - diagonal, sides })
                }
                _ => None,
            },
        }
    }

    fn sliced(self, slice: &Slice) -> Option<Form> {
        let rank = slice.starts.len();
        let start = |a: usize| {
            let d = rank.checked_sub(a + 1)?;
            (slice.steps[d] == 1).then_some(&slice.starts[d])
        };
        Some(match self {
            Form::Position { along: Some(a), first } => {
                Form::Position { along: Some(a), first: first + start(a)? }
            }
            Form::Triangle { diagonal, sides } => {
                Form::Triangle { diagonal: diagonal + start(1)? - start(0)?, sides }
            }
            form => form,
        })
    }
}

// A pointwise operator of forms that are no positions: by its own kernel, on one element for each side.
fn evaluated(op: &Op, forms: &[Form]) -> Option<Form> {
    let mut shared = None;
    let mut operands = Vec::new();
    for form in forms {
        operands.push(match form {
            Form::Uniform(number) => number,
            Form::Triangle { diagonal, sides } if *shared.get_or_insert(diagonal) == diagonal => sides,
            _ => return None,
        });
    }
    let sides = eval::eval(op, &operands).ok()?.into_iter().next()?;
    Some(match shared {
        Some(diagonal) if side(&sides, 0) != side(&sides, 1) => {
            Form::Triangle { diagonal: diagonal.clone(), sides }
        }
        _ => Form::Uniform(Tensor { dtype: sides.dtype, shape: vec![], bytes: side(&sides, 0) }),
    })
}

fn constant(data: &Tensor) -> Option<Form> {
    if data.bytes.is_empty() {
        return None;
    }
    if data.uniform().is_some() {
        return Some(Form::Uniform(Tensor { dtype: data.dtype, shape: vec![], bytes: side(data, 0) }));
    }
    let mut large = (0..data.shape.len()).filter(|d| data.shape[*d] != 1);
    if let (Some(d), None) = (large.next(), large.next()) {
        if !matches!(data.dtype, DType::I32 | DType::I64) {
            return None;
        }
        let numbers = data.to_i64();
        let counts = numbers.windows(2).all(|w| w[0].checked_add(1) == Some(w[1]));
        let first = Dim::from(*numbers.first()?);
        return counts.then(|| Form::Position { along: Some(data.shape.len() - 1 - d), first });
    }
    triangle(data)
}

// The side up to the diagonal holds the last row's first element, the other the first row's last.
fn triangle(data: &Tensor) -> Option<Form> {
    let [.., rows, columns] = *data.shape.as_slice() else { return None };
    let each = data.dtype.size();
    let row = |n: usize| &data.bytes[n * columns * each..][..columns * each];
    let matrices = data.count().checked_div(rows * columns)?;
    let (upto, beyond) = (&row(rows - 1)[..each], &row(0)[(columns - 1) * each..]);
    let leading = |n: usize| row(n).chunks_exact(each).take_while(|e| *e == upto).count();
    let (at, count) = (0..rows).map(|n| (n, leading(n))).find(|(_, count)| *count > 0)?;
    let diagonal = count as i64 - 1 - at as i64;
    let split = |n: usize| {
        let seen = ((n % rows) as i64 + diagonal + 1).clamp(0, columns as i64) as usize;
        let (before, after) = row(n).split_at(seen * each);
        before.chunks_exact(each).all(|e| e == upto) && after.chunks_exact(each).all(|e| e == beyond)
    };
    let bytes = [upto, beyond].concat().into();
    let sides = Tensor { dtype: data.dtype, shape: vec![2], bytes };
    (upto != beyond && (0..matrices * rows).all(split))
        .then(|| Form::Triangle { diagonal: Dim::from(diagonal), sides })
}

fn side(sides: &Tensor, n: usize) -> bytes::Bytes {
    let each = sides.dtype.size();
    sides.bytes.slice(n * each..(n + 1) * each)
}

fn size(shape: &[Dim], along: usize) -> Option<&Dim> {
    shape.len().checked_sub(along + 1).map(|d| &shape[d])
}

fn tail(shape: &[Dim], dims: usize) -> Option<&[Dim]> {
    shape.len().checked_sub(dims).map(|d| &shape[d..])
}

// The comparison of the operands in the other order.
fn turned(op: Pw) -> Option<Pw> {
    match op {
        Pw::Lt => Some(Pw::Gt),
        Pw::Le => Some(Pw::Ge),
        Pw::Gt => Some(Pw::Lt),
        Pw::Ge => Some(Pw::Le),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Broadcast, Cast, Concat, Gather, Reshape, Transpose};
    use proptest::prelude::*;

    const PAIRS: [Pw; 11] =
        [Pw::Add, Pw::Sub, Pw::Mul, Pw::Le, Pw::Lt, Pw::Ge, Pw::Gt, Pw::Eq, Pw::And, Pw::Or, Pw::Min];

    // What a form says of each element.
    fn written_out(form: &Form, ty: &Type) -> Vec<f64> {
        let dims = ty.dims().unwrap();
        let at = |n: usize, along: usize| {
            let d = dims.len() - 1 - along;
            (n / dims[d + 1..].iter().product::<usize>() % dims[d]) as i64
        };
        let element = |n: usize| match form {
            Form::Uniform(number) => number.to_f64()[0],
            Form::Position { along, first } => {
                (first.as_const().unwrap() + along.map_or(0, |a| at(n, a))) as f64
            }
            Form::Triangle { diagonal, sides } => {
                sides.to_f64()[usize::from(at(n, 0) > at(n, 1) + diagonal.as_const().unwrap())]
            }
        };
        (0..dims.iter().product()).map(element).collect()
    }

    fn grow(
        graph: &mut Graph,
        values: &[Value],
        (kind, a, b, c): (u8, usize, usize, usize),
    ) -> Option<Value> {
        let choice = c;
        let [a, b, c] = [a, b, c].map(|at| values[at % values.len()]);
        let dims = graph.ty(a).shape.clone();
        let pair = PAIRS[usize::from(kind) % PAIRS.len()];
        let to = [DType::F32, DType::Bool, DType::I64, DType::I32][usize::from(kind / 8) % 4];
        let mut corner = Slice { starts: vec![], steps: vec![1; dims.len()], shape: vec![] };
        for (d, size) in dims.iter().enumerate() {
            let start = Dim::from((choice >> d & 1) as i64).min(size - Dim::from(1));
            corner.shape.push(size - &start);
            corner.starts.push(start);
        }
        let (op, operands): (Op, Vec<Value>) = match kind % 16 {
            0..7 => (Apply { op: pair }.into(), vec![a, b]),
            7 => (Apply { op: Pw::Not }.into(), vec![a]),
            8 => (Apply { op: Pw::Select }.into(), vec![a, b, c]),
            9 => (Cast { to }.into(), vec![a]),
            10 => (Transpose { perm: (0..dims.len()).rev().collect() }.into(), vec![a]),
            11 => (Reshape { shape: [dims, vec![Dim::from(1)]].concat() }.into(), vec![a]),
            12 => (
                Broadcast { shape: [vec![Dim::from(2)], graph.ty(b).shape.clone()].concat() }.into(),
                vec![a],
            ),
            13 => (Concat { axis: 0 }.into(), vec![a, b]),
            14 => (Gather { axis: 0 }.into(), vec![a, b]),
            _ => (corner.into(), vec![a]),
        };
        let types: Vec<Type> = operands.iter().map(|v| graph.ty(*v).clone()).collect();
        let outputs = op.infer(&types.iter().collect::<Vec<_>>()).ok()?;
        let count: usize = outputs[0].dims()?.iter().product();
        (outputs[0].rank() < 5 && count < 500).then(|| graph.add(op, &operands, "").unwrap().into())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn forms_say_what_values_hold(
            (rows, columns) in (1i64..5, 1i64..5),
            steps in prop::collection::vec((any::<u8>(), any::<usize>(), any::<usize>(), any::<usize>()), 1..24),
        ) {
            let mut graph = Graph::new("forms");
            let counting = |n: i64, first: i64| (first..first + n).collect::<Vec<i64>>();
            let i64s = |shape: &[i64], v: &[i64]| {
                Tensor::of(DType::I64, shape.iter().map(|d| *d as usize).collect(), v).unwrap()
            };
            let lower: Vec<f64> = (0..rows * columns).map(|n| f64::from(n % columns <= n / columns + 1)).collect();
            let mut values: Vec<Value> = [
                i64s(&[columns], &counting(columns, 0)),
                i64s(&[rows, 1], &counting(rows, -1)),
                i64s(&[], &[1]),
                Tensor::scalar(DType::F32, f64::NEG_INFINITY),
                Tensor::from_f64(DType::F32, vec![rows as usize, columns as usize], &lower).unwrap(),
            ]
            .map(|tensor| graph.constant(tensor, ""))
            .to_vec();
            let mut data: Vec<Tensor> = values.iter().map(|v| graph.data(*v).unwrap().clone()).collect();
            for step in steps {
                let Some(value) = grow(&mut graph, &values, step) else { continue };
                let node = graph.node(value.node);
                let operands: Vec<&Tensor> =
                    node.inputs.iter().map(|v| &data[values.iter().position(|w| w == v).unwrap()]).collect();
                let Ok(results) = eval::eval(node.op().unwrap(), &operands) else { continue };
                let result = results.into_iter().next().unwrap();
                if let Some(form) = form(&graph, value) {
                    let (said, is) = (written_out(&form, graph.ty(value)), result.to_f64());
                    let same = said.iter().zip(&is).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
                    prop_assert!(same && said.len() == is.len(), "{form:?} of {is:?}\n{graph}");
                }
                values.push(value);
                data.push(result);
            }
        }
    }
}
