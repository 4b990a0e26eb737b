//! The tensor maps by which the copy engine finds a convolution's pixels, its results and what its epilogue reads for each of
//! them. Knows no tactic.

use super::conv_geometry::Geometry;
use crate::codegen::{collapse, dense};
use crate::dim::Dim;
use crate::tensor_map::{Piece, Tensor, TensorMap, Windows};
use bakelite_host::DType;
use bakelite_host::problem::{Access, Epilogue};

/// Elements of k in a row of shared memory.
const DEPTH: u32 = 64;

/// The map that brings 64 channels of `count` pixels at a time from the problem's operand 0, if there is one: rows of a matrix
/// where a pixel needs no other, else one tap of `count` windows. `None` where the copy engine's limits are exceeded.
pub(super) fn pixels(geometry: &Geometry, count: u32) -> Option<TensorMap> {
    if !geometry.last
        || geometry.groups != 1
        || geometry.dtype.size() != 2
        || !geometry.channels.is_multiple_of(8)
    {
        return None;
    }
    let channels = Dim::from(geometry.channels);
    let pitch = Dim::from(geometry.channels * geometry.dtype.size());
    let map = |dims, strides, piece| {
        let of = Tensor::Input(0);
        Some(TensorMap { of, offset: Dim::from(0), dtype: geometry.dtype, dims, strides, piece })
    };
    if geometry.is_pointwise() {
        let piece = Piece::Tile(vec![DEPTH, count]);
        return map(vec![channels, geometry.pixels()], vec![pitch], piece);
    }
    let [depth, height, width] = geometry.input.each_ref().map(Dim::as_const);
    let [out_depth, out_height, out_width] = geometry.output.each_ref().map(Dim::as_const);
    if (depth, out_depth) != (Some(1), Some(1))
        || geometry.kernel[0] != 1
        || !geometry.channels.is_multiple_of(64)
    {
        return None;
    }
    let axis = |d: usize, input: i64, output: i64| {
        let (stride, pad) = (geometry.strides[d] as i64, geometry.pads[d] as i64);
        let reach = (geometry.kernel[d] - 1) * geometry.dilations[d];
        let corners = [-pad, (output - 1) * stride - pad - (input - 1)];
        let fits = stride <= 8 && reach <= 255 && corners.iter().all(|c| (-128..=127).contains(c));
        fits.then_some((corners, stride as u32))
    };
    let (x, across) = axis(2, width?, out_width?)?;
    let (y, down) = axis(1, height?, out_height?)?;
    let row = pitch.clone() * Dim::from(width?);
    let image = row.clone() * Dim::from(height?);
    let windows = Windows {
        channels: DEPTH,
        count,
        corners: [0, 1].map(|end| [Dim::from(x[end]), Dim::from(y[end])]),
        steps: [across, down],
    };
    let dims = vec![channels, Dim::from(width?), Dim::from(height?), geometry.n.clone()];
    map(dims, vec![pitch, row, image], Piece::Windows(windows))
}

/// A tensor's part that is a matrix of pixels and filters: its map, by boxes of 16 rows of 64 columns, and the column and row
/// of its first element.
pub(super) struct Matrix {
    pub(super) map: TensorMap,
    pub(super) column: usize,
    pub(super) row: usize,
}

impl Matrix {
    /// Of halves that are read or stored so over `shape`, if its rows lie evenly and the copy engine's limits allow.
    fn of(
        of: Tensor,
        dtype: DType,
        shape: &[Dim],
        access: &Access<Dim>,
        geometry: &Geometry,
    ) -> Option<Matrix> {
        let number = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
        let filters = geometry.filters;
        let (sizes, collapsed) = collapse(shape, &[access]);
        let pitch = match (sizes.as_slice(), collapsed.first()?.strides.as_slice()) {
            // All of it is dense, or there is one pixel.
            ([_], [step]) if step.is(1) => filters,
            ([_, inner], [pitch, step]) if step.is(1) && inner.is(filters as i64) => number(pitch)?,
            _ => return None,
        };
        let offset = number(&access.offset)?;
        let (row, column) = (offset / pitch.max(1), offset % pitch.max(1));
        if !dtype.is_half() || !pitch.is_multiple_of(8) || pitch == 0 || column + filters > pitch {
            return None;
        }
        let map = TensorMap {
            of,
            offset: Dim::from(0),
            dtype,
            dims: vec![Dim::from(column + filters), &Dim::from(row) + &geometry.pixels()],
            strides: vec![Dim::from(2 * pitch)],
            piece: Piece::Tile(vec![DEPTH, 16]),
        };
        Some(Matrix { map, column, row })
    }

    /// The result.
    pub(super) fn result(epilogue: &Epilogue<Dim>, geometry: &Geometry) -> Option<Matrix> {
        let (of, dtype) = (Tensor::Output(0), epilogue.out());
        match &epilogue.place {
            Some(place) => Matrix::of(of, dtype, &place.shape, &place.access, geometry),
            None => {
                let shape = geometry.out_shape();
                let access = Access { offset: Dim::from(0), strides: dense(&shape) };
                Matrix::of(of, dtype, &shape, &access, geometry)
            }
        }
    }

    /// The first operand of the epilogue that is of the result's type and has an element for each of its elements, and which of
    /// the epilogue's operands that is. The problem has `own` operands before them.
    pub(super) fn carried(
        epilogue: &Epilogue<Dim>,
        own: usize,
        geometry: &Geometry,
    ) -> Option<(usize, Matrix)> {
        let (shape, dtype) = (geometry.out_shape(), epilogue.out());
        epilogue.operands.iter().zip(epilogue.program.inputs.iter().skip(1)).enumerate().find_map(
            |(n, (access, of))| {
                let tensor = Tensor::Input(own + n);
                let matrix = Matrix::of(tensor, dtype, &shape, access, geometry).filter(|_| *of == dtype)?;
                Some((n, matrix))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{conv_samples, gemm_mma_samples};
    use bakelite_host::Problem;

    /// Which output pixel's window begins at which input pixel, by the map and by the definition.
    #[test]
    fn windows_begin_where_the_convolution_has_them() {
        let mut checked = 0;
        for problem in conv_samples::conv() {
            let Problem::Conv(conv) = &problem else { continue };
            // One that scales its channels has no kernel with maps.
            let Ok(geometry) = Geometry::of_conv(conv) else { continue };
            let Some(TensorMap { piece: Piece::Windows(w), dims, .. }) = pixels(&geometry, 64) else {
                continue;
            };
            let number = |d: &Dim| d.as_const().unwrap();
            for (axis, d) in [(0, 2), (1, 1)] {
                let (first, last) = (number(&w.corners[0][axis]), number(&w.corners[1][axis]));
                let last = number(&dims[1 + axis]) - 1 + last;
                let starts: Vec<i64> = (first..=last).step_by(w.steps[axis] as usize).collect();
                let want: Vec<i64> = (0..number(&geometry.output[d]))
                    .map(|o| o * geometry.strides[d] as i64 - geometry.pads[d] as i64)
                    .collect();
                assert_eq!(starts, want, "{problem:?}");
                checked += 1;
            }
        }
        assert!(checked > 10, "{checked}");
    }

    #[test]
    fn products_and_pointwise_convolutions_are_matrices() {
        let gemms = gemm_mma_samples::samples();
        let matrices = gemms.iter().filter_map(|problem| match problem {
            Problem::Gemm(g) => pixels(&Geometry::of_gemm(g).ok()?, 128),
            _ => None,
        });
        let mut count = 0;
        for map in matrices {
            assert_eq!(map.dims.len(), 2);
            assert!(map.strides[0].exact_div(&Dim::from(16)).is_some());
            assert_eq!(map.piece, Piece::Tile(vec![64, 128]));
            count += 1;
        }
        assert!(count > 4, "{count}");
    }
}
