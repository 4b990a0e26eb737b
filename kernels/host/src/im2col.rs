//! Windows that slide over spatial dimensions: which elements lie under each tap, in runs along the last dimension;
//! and the copying of those elements into a matrix.

use crate::parallel::{self, worth};
use crate::problem::{Conv, ConvTranspose, Pool};
use std::ops::Range;

/// The geometry a convolution, its transpose and a pool share; at least one dimension.
#[derive(Clone, Debug)]
pub struct Window {
    /// Size of each dimension slid over.
    pub input: Vec<usize>,
    /// Number of positions along each dimension.
    pub output: Vec<usize>,
    /// Taps along each dimension.
    pub kernel: Vec<usize>,
    /// Elements from one position to the next.
    pub strides: Vec<usize>,
    /// Elements from one tap to the next.
    pub dilations: Vec<usize>,
    /// Elements by which the first position lies before the first element.
    pub pads: Vec<usize>,
}

/// A run of positions along the last dimension: of positions `at..at + len`, those in `inside` have elements
/// `from, from + stride, ...`; the others lie outside the input.
#[derive(Clone, Debug)]
pub struct Run {
    /// First position, counted from the start of the range asked for.
    pub at: usize,
    /// Number of positions.
    pub len: usize,
    /// Which of them, counted from `at`, have an element.
    pub inside: Range<usize>,
    /// The element under the first of those, counted in row-major order of the input's dimensions.
    pub from: usize,
}

macro_rules! windows {
    ($($p:ident $i:ident $o:ident;)*) => { $(
        impl From<&$p<usize>> for Window {
            fn from(p: &$p<usize>) -> Window {
                let one = |v: &[usize], fill: usize| if v.is_empty() { vec![fill] } else { v.to_vec() };
                Window {
                    input: one(&p.$i, 1),
                    output: one(&p.$o, 1),
                    kernel: one(&p.kernel, 1),
                    strides: one(&p.strides, 1),
                    dilations: one(&p.dilations, 1),
                    pads: one(&p.pads, 0),
                }
            }
        }
    )* };
}
// A transposed convolution slides over its output.
windows! { Conv input output; Pool input output; ConvTranspose output input; }

impl Window {
    /// Number of input elements.
    pub fn elements(&self) -> usize {
        self.input.iter().product()
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.output.iter().product()
    }

    /// Number of taps.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Distance between neighbouring elements of a run.
    pub fn step(&self) -> usize {
        self.strides[self.strides.len() - 1]
    }

    /// Whether position i is over element i and there is but one tap.
    pub fn is_pointwise(&self) -> bool {
        self.taps() == 1
            && self.strides.iter().all(|s| *s == 1)
            && self.pads.iter().all(|p| *p == 0)
            && self.input == self.output
    }

    /// The positions along dimension d whose tap r lies inside.
    pub fn inside(&self, d: usize, r: usize) -> Range<usize> {
        let ahead = r * self.dilations[d];
        let (stride, pad) = (self.strides[d], self.pads[d]);
        let lo = pad.saturating_sub(ahead).div_ceil(stride);
        let hi = match (self.input[d] + pad).checked_sub(ahead + 1) {
            Some(last) if self.input[d] > 0 => (last / stride + 1).min(self.output[d]),
            _ => 0,
        };
        lo.min(hi)..hi
    }

    /// The taps along dimension d that lie inside for some position, for they may be few of a huge window.
    pub fn useful(&self, d: usize) -> Range<usize> {
        let dilation = self.dilations[d];
        if self.input[d] == 0 || self.output[d] == 0 {
            return 0..0;
        }
        let hi = ((self.input[d] - 1 + self.pads[d]) / dilation + 1).min(self.kernel[d]);
        let lo = self.pads[d].saturating_sub((self.output[d] - 1) * self.strides[d]).div_ceil(dilation);
        lo.min(hi)..hi
    }

    /// The runs of tap `tap` over positions `range`.
    pub fn runs(&self, tap: usize, range: Range<usize>, run: &mut dyn FnMut(Run)) {
        let last = self.output.len() - 1;
        let width = self.output[last];
        let mut taps = [0usize; 8];
        let mut spilled; // only windows of more than 8 dimensions allocate
        let taps = if last < 8 {
            &mut taps[..=last]
        } else {
            spilled = vec![0; last + 1];
            &mut spilled[..]
        };
        let mut rest = tap;
        for d in (0..=last).rev() {
            taps[d] = rest % self.kernel[d];
            rest /= self.kernel[d];
        }
        let across = self.inside(last, taps[last]);
        let mut p = range.start;
        while p < range.end {
            let (row, left) = (p / width, p % width);
            let len = (width - left).min(range.end - p);
            let at = p - range.start;
            p += len;
            let inside =
                across.start.clamp(left, left + len) - left..across.end.clamp(left, left + len) - left;
            match self.row(row, taps) {
                Some(base) if !inside.is_empty() => {
                    let first = left + inside.start;
                    let from = base + first * self.strides[last] + taps[last] * self.dilations[last]
                        - self.pads[last];
                    run(Run { at, len, inside, from });
                }
                _ => run(Run { at, len, inside: 0..0, from: 0 }),
            }
        }
    }

    /// The first element of the input row under output row `row` and tap `taps`.
    fn row(&self, mut row: usize, taps: &[usize]) -> Option<usize> {
        let last = self.output.len() - 1;
        let (mut base, mut pitch) = (0, self.input[last]);
        for d in (0..last).rev() {
            let o = row % self.output[d];
            row /= self.output[d];
            let i = (o * self.strides[d] + taps[d] * self.dilations[d]).checked_sub(self.pads[d])?;
            if i >= self.input[d] {
                return None;
            }
            base += i * pitch;
            pitch *= self.input[d];
        }
        Some(base)
    }

    /// Copies channels `[channels, elements]` under positions `range` to `col`, `[channels, taps, range]`.
    pub fn gather_first<A: Copy + Default + Send + Sync>(
        &self,
        x: &[A],
        range: Range<usize>,
        col: &mut [A],
        all: bool,
    ) {
        let (elements, taps, width, step) = (self.elements(), self.taps(), range.len(), self.step());
        let runs: Vec<Vec<Run>> = (0..taps)
            .map(|t| {
                let mut runs = vec![];
                self.runs(t, range.clone(), &mut |r| runs.push(r));
                runs
            })
            .collect();
        let pairs = taps * width;
        let channels = |first: usize, col: &mut [A]| {
            for (c, col) in (first..).zip(col.chunks_mut(pairs.max(1))) {
                let x = &x[c * elements..][..elements];
                for (runs, col) in runs.iter().zip(col.chunks_exact_mut(width)) {
                    for r in runs {
                        let col = &mut col[r.at..r.at + r.len];
                        col[..r.inside.start].fill(A::default());
                        col[r.inside.end..].fill(A::default());
                        let col = &mut col[r.inside.clone()];
                        if step == 1 {
                            col.copy_from_slice(&x[r.from..r.from + col.len()]);
                        } else if !col.is_empty() {
                            col.iter_mut().zip(x[r.from..].iter().step_by(step)).for_each(|(c, x)| *c = *x);
                        }
                    }
                }
            }
        };
        if all { parallel::rows_mut(col, pairs, worth(1 << 12, pairs), &channels) } else { channels(0, col) }
    }

    /// Copies channels `first..first + channels` of `[elements, all]` under positions `range` to `col`,
    /// `[range, taps, channels]`.
    pub fn gather_last<A: Copy + Default>(
        &self,
        x: &[A],
        (all, first, channels): (usize, usize, usize),
        range: Range<usize>,
        col: &mut [A],
    ) {
        let (taps, step) = (self.taps(), self.step());
        for t in 0..taps {
            self.runs(t, range.clone(), &mut |r| {
                for i in 0..r.len {
                    let at = ((r.at + i) * taps + t) * channels;
                    let col = &mut col[at..at + channels];
                    if r.inside.contains(&i) {
                        let from = (r.from + (i - r.inside.start) * step) * all + first;
                        col.copy_from_slice(&x[from..from + channels]);
                    } else {
                        col.fill(A::default());
                    }
                }
            });
        }
    }
}
