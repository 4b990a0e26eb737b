//! The tensor maps by which the copy engine finds an attention's queries, keys and values.

use crate::dim::{Dim, Symbols};
use crate::family::{Arg, Build};
use crate::tensor_map::{Piece, Tensor, TensorMap};
use bakelite_host::problem::{Access, Attention};

/// Columns of a box: 128 bytes of halves.
const COLUMNS: u32 = 64;

/// Maps of queries, keys and values, by boxes of so many of their rows: dimensions of a head, rows, heads, batch. `None` where the
/// copy engine cannot walk them: rows that a batch shares, and keys of which there may be none at all, while there are queries.
pub(super) fn maps(p: &Attention<Dim>, rows: [u32; 3], symbols: &Symbols) -> Option<[TensorMap; 3]> {
    if p.seq_k.bounds(symbols).0 < 1 {
        return None;
    }
    let of = |n: usize, access: &Access<Dim>, heads: usize, seq: &Dim, dim: usize| {
        let sizes = [seq.clone(), Dim::from(heads as i64), p.batch.clone()];
        let [batch, head, row] = access.strides.as_slice() else { return None };
        let strides =
            [row, head, batch].into_iter().zip(&sizes).map(|(stride, size)| match stride.as_const() {
                // Never taken.
                _ if size.is(1) => Some(Dim::from(16)),
                Some(step) if step <= 0 => None,
                _ => Some(stride * &Dim::from(p.dtype.size() as i64)),
            });
        Some(TensorMap {
            of: Tensor::Input(n),
            offset: &access.offset * &Dim::from(p.dtype.size() as i64),
            dtype: p.dtype,
            strides: strides.collect::<Option<_>>()?,
            dims: std::iter::once(Dim::from(dim as i64)).chain(sizes).collect(),
            piece: Piece::Tile(vec![COLUMNS, rows[n], 1, 1]),
        })
    };
    Some([
        of(0, &p.q, p.heads, &p.seq_q, p.dim)?,
        of(1, &p.k, p.kv_heads, &p.seq_k, p.dim)?,
        of(2, &p.v, p.kv_heads, &p.seq_k, p.dim_v)?,
    ])
}

/// The kernel takes `maps` for its first operands.
pub(super) fn take(build: &mut Build, maps: [TensorMap; 3]) {
    for launch in &mut build.launches {
        launch.args.splice(..3, maps.iter().map(|map| Arg::Map(Box::new(map.clone()))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Range;
    use crate::families::{attention_samples, sample_symbols};
    use bakelite_host::Problem;

    #[test]
    fn maps_walk_every_row_that_threads_would() {
        let symbols = sample_symbols();
        let (mut walked, mut not) = (0, 0);
        for problem in attention_samples::samples().iter().chain(&attention_samples::layers()) {
            let Problem::Attention(p) = problem else { continue };
            let of_batches = |access: &Access<Dim>| access.strides[0].is(0) && !p.batch.is(1);
            let Some(maps) = maps(p, [64, 32, 16], &symbols) else {
                assert!([&p.q, &p.k, &p.v].into_iter().any(of_batches), "{p:?}");
                not += 1;
                continue;
            };
            let parts = [(&p.q, &p.seq_q, 64), (&p.k, &p.seq_k, 32), (&p.v, &p.seq_k, 16)];
            for (map, (access, seq, rows)) in maps.iter().zip(parts) {
                let bytes = Dim::from(p.dtype.size() as i64);
                assert_eq!(map.offset, &access.offset * &bytes);
                assert_eq!((&map.dims[1], &map.dims[3]), (seq, &p.batch));
                assert_eq!(map.piece, Piece::Tile(vec![64, rows, 1, 1]));
                let strides = map.strides.iter().zip(access.strides.iter().rev()).zip(&map.dims[1..]);
                for ((stride, own), size) in strides {
                    assert!(*stride == own * &bytes || size.is(1), "{map}");
                }
            }
            walked += 1;
        }
        assert!(walked > 20 && not == 1, "{walked}, {not}");
        let none = symbols.iter().map(|(name, range)| (name.clone(), Range { min: 0, ..*range })).collect();
        let empty = attention_samples::samples().into_iter().find_map(|problem| match problem {
            Problem::Attention(p) if p.seq_k.as_const().is_none() => Some(p),
            _ => None,
        });
        assert!(maps(&empty.unwrap(), [64; 3], &none).is_none());
    }
}
