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

    fn apply(&self, inner: &Access<Dim>) -> Option<Access<Dim>> {
        let strides = &inner.strides;
        Some(match self {
            Transform::Reshape { from, to } => return regroup(inner, from, to),
            Transform::Transpose(t) => Access {
                offset: inner.offset.clone(),
                strides: t.perm.iter().map(|p| strides[*p].clone()).collect(),
            },
            Transform::Slice(s) => Access {
                offset: s
                    .starts
                    .iter()
                    .zip(strides)
                    .fold(inner.offset.clone(), |sum, (start, stride)| sum + start * stride),
                strides: strides
                    .iter()
                    .zip(&s.steps)
                    .map(|(stride, step)| stride * Dim::from(*step))
                    .collect(),
            },
            Transform::Broadcast { from, to } => {
                let skip = to.len() - from.len();
                let stride = |d: usize| match d.checked_sub(skip) {
                    Some(i) if !from[i].is(1) || to[d].is(1) => strides[i].clone(),
                    _ => Dim::from(0),
                };
                Access { offset: inner.offset.clone(), strides: (0..to.len()).map(stride).collect() }
            }
        })
    }
}

/// How a dense tensor is read through `transforms`, the one nearest the reader first; `None` where no access can say it.
pub(super) fn through(ty: &Type, transforms: &[Transform]) -> Option<Access<Dim>> {
    let dense = Access { offset: Dim::from(0), strides: dense_strides(&ty.shape) };
    transforms.iter().rev().try_fold(dense, |inner, t| t.apply(&inner))
}

/// The access over `from` said over `to`, another grouping of the same dense elements: `None` where the strides do not go
/// together. Sizes of 1 do not matter.
pub(super) fn regroup(access: &Access<Dim>, from: &[Dim], to: &[Dim]) -> Option<Access<Dim>> {
    let mut dims: Vec<(Dim, Dim)> = from
        .iter()
        .cloned()
        .zip(access.strides.iter().cloned())
        .filter(|(size, _)| !size.is(1))
        .rev()
        .collect();
    let mut strides = Vec::new();
    for size in to {
        if size.is(1) {
            strides.push(Dim::from(0));
            continue;
        }
        let (mut grown, mut stride) = dims.pop()?;
        while &grown != size {
            // A dimension larger than wanted splits: its inner part goes back.
            if let Some(rest) = grown.exact_div(size) {
                let outer = &stride * &rest;
                dims.push((rest, stride));
                (grown, stride) = (size.clone(), outer);
                continue;
            }
            let (next, inner) = dims.pop()?;
            if stride != &inner * &next {
                return None;
            }
            (grown, stride) = (grown * next, inner);
        }
        strides.push(stride);
    }
    dims.is_empty().then_some(Access { offset: access.offset.clone(), strides })
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
}
