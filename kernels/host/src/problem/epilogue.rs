//! What becomes of an accumulator on its way to memory, and where operands and results lie.

use super::each;
use crate::dtype::DType;
use crate::program::Program;

/// Where a tensor operand of an iteration space lies: element `offset + Σ index[d] · strides[d]`. A stride of 0 broadcasts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access<S = usize> {
    /// Element at index 0.
    pub offset: S,
    /// One stride in elements for each dimension of the space it is read in.
    pub strides: Vec<S>,
}

/// Where a result's elements go that are not a dense tensor of their own: a part of a larger tensor, or all of it in
/// another order. No two elements have one place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placement<S = usize> {
    /// The result's dense elements, grouped: as many as the problem's output shape has.
    pub shape: Vec<S>,
    /// Where each goes.
    pub access: Access<S>,
    /// Elements of the whole tensor; what is not placed stays as it is.
    pub elements: S,
}

/// Elements of a row that have a moment: see [`Rows`].
pub const SPAN: usize = 32;

/// What normalises rows of `len` elements, whose moments are known: for each [`SPAN`] elements of a row their sum, and the sum
/// of their squares about their mean, `[rows, len / SPAN, 2]` in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// Elements of a row.
    pub len: usize,
    /// Divide by the root mean square; do not subtract the mean.
    pub rms: bool,
    /// Added to the variance.
    pub epsilon: f32,
}

/// What happens to an accumulator before it is stored. A row is all that have the innermost index of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Epilogue<S = usize> {
    /// Input 0 is the accumulator; the rest are the operands. Exactly one output: the problem's result.
    pub program: Program,
    /// How each extra operand is read over the problem's output shape (as its doc gives it).
    pub operands: Vec<Access<S>>,
    /// Operands 0 and 1 are the mean (0 with `rms`) and the reciprocal deviation of each row of some tensor, read through
    /// accesses over `[rows, 2]`; what is given for both is that tensor's moments.
    pub rows: Option<Rows>,
    /// Whether there is a second result, the moments of the first one's rows, of which nothing is placed.
    pub moments: bool,
    /// Where the result goes; `None`: it is a dense tensor.
    pub place: Option<Placement<S>>,
}

impl<S> Access<S> {
    /// The same access with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Access<T> {
        Access { offset: f(&self.offset), strides: each(&self.strides, f) }
    }
}

impl<S> Placement<S> {
    /// The same placement with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Placement<T> {
        Placement { shape: each(&self.shape, f), access: self.access.map(f), elements: f(&self.elements) }
    }
}

impl<S> Epilogue<S> {
    /// A program with its operands; the result dense.
    pub fn new(program: Program, operands: Vec<Access<S>>) -> Epilogue<S> {
        Epilogue { program, operands, rows: None, moments: false, place: None }
    }

    /// Stores the accumulator of elements of `dtype` as `dtype`.
    pub fn store(dtype: DType) -> Epilogue<S> {
        Epilogue::new(Program::identity(dtype.class().dtype(), dtype), vec![])
    }

    /// None: whoever calls the kernel sees to the accumulators.
    pub fn apart() -> Epilogue<S> {
        Epilogue::new(Program::default(), vec![])
    }

    /// The same epilogue with every size mapped.
    pub fn map<T>(&self, f: &mut impl FnMut(&S) -> T) -> Epilogue<T> {
        Epilogue {
            program: self.program.clone(),
            operands: self.operands.iter().map(|a| a.map(f)).collect(),
            rows: self.rows,
            moments: self.moments,
            place: self.place.as_ref().map(|p| p.map(f)),
        }
    }

    /// Whether it only stores elements of `dtype`, accumulated as they are or in their class, one behind the other.
    pub fn stores(&self, dtype: DType) -> bool {
        let p = &self.program;
        p.code.is_empty() && p.outputs == [(0, dtype)] && self.place.is_none() && !self.moments
    }

    /// Element type of the problem's result.
    pub fn out(&self) -> DType {
        self.program.outputs[0].1
    }
}
