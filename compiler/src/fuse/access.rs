//! Reading a tensor through moves: how a chain of transposes, slices and broadcasts turns into one access, and how an
//! access over one shape is said over another.

use crate::ir::types::{Type, dense_strides};
use crate::ops::{Broadcast, Op, Slice, Transpose};
use bakelite_host::problem::Access;
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;

/// A step between a value and where it is read: each turns an access over the value's shape into one over the reader's.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Transform {
    Transpose(Transpose),
    Slice(Slice),
    /// From a shape to one it broadcasts to.
    Broadcast {
        from: Vec<Dim>,
        to: Vec<Dim>,
    },
    /// The same dense elements grouped otherwise.
    Reshape {
        from: Vec<Dim>,
        to: Vec<Dim>,
    },
}

impl Transform {
    /// The transform of a move, if the operator is one.
    pub(super) fn of(op: &Op, input: &Type) -> Option<Transform> {
        match op {
            Op::Transpose(t) => Some(Transform::Transpose(t.clone())),
            Op::Slice(s) => Some(Transform::Slice(s.clone())),
            Op::Reshape(r) => Some(Transform::Reshape { from: input.shape.clone(), to: r.shape.clone() }),
            Op::Broadcast(Broadcast { shape }) => {
                Some(Transform::Broadcast { from: input.shape.clone(), to: shape.clone() })
            }
            _ => None,
        }
    }

    /// Whether element i of the value is element i of the reader: only the grouping changes.
    pub(super) fn keeps_order(&self) -> bool {
        match self {
            Transform::Reshape { .. } => true,
            Transform::Broadcast { from, to } => product(from) == product(to),
            _ => false,
        }
    }

    fn apply(&self, mut inner: Digits) -> Option<Digits> {
        match self {
            Transform::Reshape { to, .. } => inner.regroup(to)?,
            Transform::Transpose(t) => inner.dims = t.perm.iter().map(|p| inner.dims[*p].clone()).collect(),
            Transform::Slice(s) => {
                for (d, dim) in inner.dims.iter_mut().enumerate() {
                    let (start, step, size) = (&s.starts[d], s.steps[d], &s.shape[d]);
                    if start.is(0) && step == 1 && *size == product(dim.iter().map(|digit| &digit.size)) {
                        continue;
                    }
                    let stride = collapse(dim)?.stride;
                    inner.offset = &inner.offset + start * &stride;
                    *dim = vec![Digit { size: size.clone(), stride: stride * Dim::from(step) }];
                }
            }
            Transform::Broadcast { from, to } => {
                let skip = to.len() - from.len();
                let digits = |d: usize| match d.checked_sub(skip) {
                    Some(i) if !from[i].is(1) || to[d].is(1) => inner.dims[i].clone(),
                    _ => vec![Digit { size: to[d].clone(), stride: Dim::from(0) }],
                };
                inner.dims = (0..to.len()).map(digits).collect();
            }
        }
        Some(inner)
    }
}

/// Part of a dimension: its index runs over `size`, each step is `stride` elements.
#[derive(Clone, Debug)]
struct Digit {
    size: Dim,
    stride: Dim,
}

/// An access whose dimensions are numbers of several digits, the most significant first: what reshapes join and others
/// split again need not be one stride in between (heads of a batch, `[seq, batch, heads · dim] → [seq, batch · heads, dim]`).
#[derive(Clone, Debug)]
struct Digits {
    offset: Dim,
    dims: Vec<Vec<Digit>>,
}

impl Digits {
    fn new(access: &Access<Dim>, shape: &[Dim]) -> Digits {
        let digit = |(size, stride): (&Dim, &Dim)| vec![Digit { size: size.clone(), stride: stride.clone() }];
        Digits { offset: access.offset.clone(), dims: shape.iter().zip(&access.strides).map(digit).collect() }
    }

    // The same elements in the same order, over dimensions of other sizes; `None` where a digit would have to be cut.
    fn regroup(&mut self, to: &[Dim]) -> Option<()> {
        let mut digits = joined(std::mem::take(&mut self.dims).into_iter().flatten());
        digits.reverse();
        for size in to {
            let (mut dim, mut left) = (Vec::new(), size.clone());
            while !left.is(1) {
                let digit = digits.pop()?;
                if let Some(rest) = digit.size.exact_div(&left) {
                    // A digit larger than wanted splits: its inner part goes back.
                    dim.push(Digit { size: left, stride: &digit.stride * &rest });
                    if !rest.is(1) {
                        digits.push(Digit { size: rest, stride: digit.stride });
                    }
                    break;
                }
                left = left.exact_div(&digit.size)?;
                dim.push(digit);
            }
            if dim.is_empty() {
                dim.push(Digit { size: Dim::from(1), stride: Dim::from(0) });
            }
            self.dims.push(dim);
        }
        digits.is_empty().then_some(())
    }

    // With one stride for each dimension.
    fn access(&self) -> Option<Access<Dim>> {
        let strides: Option<Vec<Dim>> = self.dims.iter().map(|dim| Some(collapse(dim)?.stride)).collect();
        Some(Access { offset: self.offset.clone(), strides: strides? })
    }
}

// The digits with neighbours that count on as one; those of size 1 say nothing.
fn joined(digits: impl IntoIterator<Item = Digit>) -> Vec<Digit> {
    let mut found: Vec<Digit> = Vec::new();
    for digit in digits {
        match found.last_mut() {
            _ if digit.size.is(1) => {}
            Some(last) if last.stride == &digit.stride * &digit.size => {
                *last = Digit { size: &last.size * &digit.size, stride: digit.stride };
            }
            _ => found.push(digit),
        }
    }
    found
}

// A dimension's digits as one, if they count on.
fn collapse(dim: &[Digit]) -> Option<Digit> {
    if let [one] = dim {
        return Some(one.clone());
    }
    let mut all = joined(dim.iter().cloned());
    let last = all.pop().unwrap_or(Digit { size: Dim::from(1), stride: Dim::from(0) });
    all.is_empty().then_some(last)
}

/// How a dense tensor is read through `transforms`, the one nearest the reader first; `None` where no access can say it.
pub(super) fn through(ty: &Type, transforms: &[Transform]) -> Option<Access<Dim>> {
    let dense = Access { offset: Dim::from(0), strides: dense_strides(&ty.shape) };
    let dense = Digits::new(&dense, &ty.shape);
    transforms.iter().rev().try_fold(dense, |inner, t| t.apply(inner))?.access()
}

/// The access over `from` said over `to`, another grouping of the same dense elements: `None` where the strides do not go
/// together. Sizes of 1 do not matter.
pub(super) fn regroup(access: &Access<Dim>, from: &[Dim], to: &[Dim]) -> Option<Access<Dim>> {
    let mut digits = Digits::new(access, from);
    digits.regroup(to)?;
    digits.access()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(text: &str) -> Vec<Dim> {
        crate::ir::attribute::parse_list(text).unwrap()
    }

    fn access(text: &str) -> Access<Dim> {
        Access { offset: Dim::from(0), strides: dims(text) }
    }

    #[test]
    fn regrouping_merges_splits_and_refuses() {
        let check = |strides: &str, from: &str, to: &str, expected: Option<&str>| {
            assert_eq!(
                regroup(&access(strides), &dims(from), &dims(to)),
                expected.map(access),
                "{strides} {from} {to}"
            );
        };
        check("0,0,1", "batch,128,768", "1,128*batch,768", Some("0,0,1"));
        check("0,64,1", "128,12,64", "128,768", Some("0,1"));
        check("768,1", "128,768", "128,12,64", Some("768,64,1"));
        check("98304,768,1", "batch,128,768", "1,128*batch,768", Some("0,768,1"));
        check("0,768,1", "batch,128,768", "1,128*batch,768", None);
        check("1,128", "768,128", "98304", None);
        check("0,0", "1,1", "1", Some("0"));
    }

    #[test]
    fn moves_compose() {
        let ty = Type::new(bakelite_host::DType::F32, &[4, 6]);
        let slice = Slice { starts: dims("1,2"), steps: vec![1, 2], shape: dims("3,2") };
        let moves = [Transform::Transpose(Transpose { perm: vec![1, 0] }), Transform::Slice(slice)];
        // out[i, j] = slice[j, i] = x[1 + j, 2 + 2i]
        assert_eq!(through(&ty, &moves), Some(Access { offset: Dim::from(8), strides: dims("2,6") }));
    }

    #[test]
    fn dimensions_joined_and_split_again_need_no_stride_between() {
        // [seq, batch, 3 · heads · dim], of which the second third is read by head.
        let ty = Type::new(bakelite_host::DType::F32, &[197, 32, 2304]);
        let reshape = |from: &str, to: &str| Transform::Reshape { from: dims(from), to: dims(to) };
        let slice = Slice { starts: dims("0,0,768"), steps: vec![1; 3], shape: dims("197,32,768") };
        let mut moves = vec![
            reshape("384,197,64", "32,12,197,64"),
            Transform::Transpose(Transpose { perm: vec![1, 0, 2] }),
            reshape("197,32,768", "197,384,64"),
            Transform::Slice(slice),
        ];
        let read = Access { offset: Dim::from(768), strides: dims("2304,64,73728,1") };
        assert_eq!(through(&ty, &moves), Some(read));
        // Batch and heads together have no stride.
        moves.remove(0);
        assert_eq!(through(&ty, &moves), None);
    }
}
