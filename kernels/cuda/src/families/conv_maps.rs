//! The tensor maps by which the copy engine finds a convolution's pixels. Knows no tactic.

use super::conv_geometry::Geometry;
use crate::dim::Dim;
use crate::tensor_map::{Piece, TensorMap, Windows};

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
    let map =
        |dims, strides, piece| Some(TensorMap { input: 0, dtype: geometry.dtype, dims, strides, piece });
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
