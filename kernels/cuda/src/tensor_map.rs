//! Tensor maps as kernels ask for them: how the copy engine of sm_90 and later walks an operand or a result. Says what the driver is to
//! encode, with symbolic sizes; encodes nothing.

use crate::dim::Dim;
use bakelite_host::DType;
use std::fmt;

/// A tensor map over an operand or a result. All lists begin with the innermost dimension. What is copied lies in shared memory in rows
/// of 128 bytes whose 16-byte chunk c is at place c ^ (row & 7); elements outside the tensor are zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMap<D = Dim> {
    /// What it walks.
    pub of: Tensor,
    /// Bytes from the tensor's first element to the map's, a multiple of 16.
    pub offset: D,
    /// The type of its elements, of 16 bits.
    pub dtype: DType,
    /// Elements of each dimension.
    pub dims: Vec<D>,
    /// Bytes from one index to the next, of each dimension but the innermost; multiples of 16.
    pub strides: Vec<D>,
    /// What one copy moves.
    pub piece: Piece<D>,
}

/// A tensor of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensor {
    /// The problem's operand i.
    Input(usize),
    /// The problem's result i.
    Output(usize),
}

impl Tensor {
    /// What of `inputs` or `outputs` it is, if there are so many.
    pub fn among<'a, T>(&self, inputs: &'a [T], outputs: &'a [T]) -> Option<&'a T> {
        match *self {
            Tensor::Input(i) => inputs.get(i),
            Tensor::Output(i) => outputs.get(i),
        }
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tensor::Input(i) => write!(f, "input {i}"),
            Tensor::Output(i) => write!(f, "result {i}"),
        }
    }
}

/// What one copy moves.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<D = Dim> {
    /// A tile of so many elements in each dimension.
    Tile(Vec<u32>),
    /// One tap of consecutive windows over channels-last images: channels, x, y, image.
    Windows(Windows<D>),
}

/// The windows of a convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows<D = Dim> {
    /// Channels of one copy.
    pub channels: u32,
    /// Windows of one copy.
    pub count: u32,
    /// Where the first taps of the first and of the last window are, x and y: the first from the image's first pixel, the last
    /// from its last.
    pub corners: [[D; 2]; 2],
    /// From one window to the next, x and y.
    pub steps: [u32; 2],
}

impl TensorMap<Dim> {
    /// The same with numbers.
    pub fn eval(&self, value: &dyn Fn(&Dim) -> i64) -> TensorMap<i64> {
        self.map(&mut |d| value(d))
    }

    /// Every size in another form.
    pub fn map<E>(&self, f: &mut dyn FnMut(&Dim) -> E) -> TensorMap<E> {
        TensorMap {
            of: self.of,
            offset: f(&self.offset),
            dtype: self.dtype,
            dims: self.dims.iter().map(&mut *f).collect(),
            strides: self.strides.iter().map(&mut *f).collect(),
            piece: match &self.piece {
                Piece::Tile(tile) => Piece::Tile(tile.clone()),
                Piece::Windows(w) => Piece::Windows(Windows {
                    channels: w.channels,
                    count: w.count,
                    corners: w.corners.each_ref().map(|c| c.each_ref().map(&mut *f)),
                    steps: w.steps,
                }),
            },
        }
    }
}

impl<D: fmt::Display> fmt::Display for TensorMap<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |of: &[D]| of.iter().map(D::to_string).collect::<Vec<_>>().join("x");
        write!(f, "{} as {} by {}", self.of, list(&self.dims), list(&self.strides))?;
        match &self.piece {
            Piece::Tile(tile) => write!(f, " in tiles {tile:?}"),
            Piece::Windows(w) => {
                let [first, last] = w.corners.each_ref().map(|c| list(c));
                write!(f, " in {} windows of {} channels, {first}..{last}", w.count, w.channels)
            }
        }
    }
}
