//! Test tensors of any element type, seen as f64, and what tests share.

#![allow(clippy::unwrap_used)]

use bakelite_host::problem::{Access, Epilogue, Problem};
use bakelite_host::{DType, Element, Instr, Program, Pw, RunError, View, ViewMut, run};
use half::{bf16, f16};

/// Elements in aligned words.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: DType,
    len: usize,
    words: Vec<u64>,
}

macro_rules! each_dtype {
    ($dtype:expr, $t:ident => $body:expr, bool => $bool:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
            DType::F16 => {
                type $t = f16;
                $body
            }
            DType::BF16 => {
                type $t = bf16;
                $body
            }
            DType::I8 => {
                type $t = i8;
                $body
            }
            DType::I16 => {
                type $t = i16;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            DType::U16 => {
                type $t = u16;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            DType::U64 => {
                type $t = u64;
                $body
            }
            DType::Bool => $bool,
        }
    };
}

trait Wide: Element {
    fn of(v: f64) -> Self;
    fn f64(self) -> f64;
}
macro_rules! wide {
    ($($t:ident)*) => { $( impl Wide for $t {
        fn of(v: f64) -> $t { v as $t }
        fn f64(self) -> f64 { self as f64 }
    } )* };
}
wide! { f32 f64 i8 i16 i32 i64 u8 u16 u32 u64 }
impl Wide for f16 {
    fn of(v: f64) -> f16 {
        f16::from_f64(v)
    }
    fn f64(self) -> f64 {
        self.to_f64()
    }
}
impl Wide for bf16 {
    fn of(v: f64) -> bf16 {
        bf16::from_f64(v)
    }
    fn f64(self) -> f64 {
        self.to_f64()
    }
}

impl Tensor {
    pub(crate) fn zeros(dtype: DType, len: usize) -> Tensor {
        Tensor { dtype, len, words: vec![0; (len * dtype.size()).div_ceil(8)] }
    }

    pub(crate) fn of(dtype: DType, values: &[f64]) -> Tensor {
        let mut t = Tensor::zeros(dtype, values.len());
        each_dtype!(dtype, T => {
            let mut view = t.view_mut();
            let to = view.as_mut_slice::<T>().unwrap();
            to.iter_mut().zip(values).for_each(|(t, v)| *t = T::of(*v));
        }, bool => {
            t.view_mut().bytes.iter_mut().zip(values).for_each(|(t, v)| *t = u8::from(*v != 0.0));
        });
        t
    }

    pub(crate) fn f64(&self) -> Vec<f64> {
        each_dtype!(self.dtype, T => self.view().as_slice::<T>().unwrap().iter().map(|v| v.f64()).collect(),
            bool => self.view().bytes.iter().map(|b| f64::from(*b)).collect())
    }

    pub(crate) fn view(&self) -> View<'_> {
        let bytes = &bytemuck::cast_slice(&self.words)[..self.len * self.dtype.size()];
        View { dtype: self.dtype, bytes }
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
        let bytes = &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len * self.dtype.size()];
        ViewMut { dtype: self.dtype, bytes }
    }
}

/// The outputs of a problem, or why there are none.
pub(crate) fn attempt(problem: &Problem, inputs: &[&Tensor]) -> Result<Vec<Tensor>, RunError> {
    let contract = problem.contract()?;
    // Outputs begin as garbage: nothing may rely on zeros.
    let mut outputs: Vec<Tensor> = contract
        .outputs
        .iter()
        .map(|(d, s)| {
            let mut t = Tensor::zeros(*d, s.iter().product());
            t.words.fill(0x7f7f_7f7f_7f7f_7f7f);
            t
        })
        .collect();
    let views: Vec<View<'_>> = inputs.iter().map(|t| t.view()).collect();
    let mut out: Vec<ViewMut<'_>> = outputs.iter_mut().map(|t| t.view_mut()).collect();
    run(problem, &views, &mut out)?;
    Ok(outputs)
}

/// The first output of a problem that must run.
#[track_caller]
pub(crate) fn eval(problem: impl Into<Problem>, inputs: &[&Tensor]) -> Vec<f64> {
    let problem = problem.into();
    match attempt(&problem, inputs) {
        Ok(out) => out[0].f64(),
        Err(e) => panic!("{e}\n{problem:?}"),
    }
}

#[track_caller]
pub(crate) fn same(got: &[f64], want: &[f64], what: &dyn std::fmt::Debug) {
    near(got, want, 0.0, what);
}

#[track_caller]
pub(crate) fn near(got: &[f64], want: &[f64], tolerance: f64, what: &dyn std::fmt::Debug) {
    assert_eq!(got.len(), want.len(), "length, {what:?}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let fits = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tolerance * (1.0 + w.abs());
        assert!(fits, "element {i}: {g}, not {w}, in {what:?}");
    }
}

/// A small generator, so that a failure can be run again.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Below n.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }

    /// Within low..=high.
    pub(crate) fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Small integers, nonnegative for what has no sign.
    pub(crate) fn integers(&mut self, dtype: DType, len: usize) -> Tensor {
        let unsigned = matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64);
        let low = if unsigned { 0.0 } else { -2.0 };
        let values: Vec<f64> = (0..len).map(|_| self.below(5) as f64 + low).collect();
        Tensor::of(dtype, &values)
    }

    /// In −2..2, not integers.
    pub(crate) fn reals(&mut self, dtype: DType, len: usize) -> Tensor {
        let values: Vec<f64> = (0..len).map(|_| self.below(4001) as f64 / 1000.0 - 2.0).collect();
        Tensor::of(dtype, &values)
    }

    /// A random access over `shape` (broadcast in some dimensions, permuted, offset) and how many elements it needs.
    pub(crate) fn access(&mut self, shape: &[usize]) -> (Access, usize) {
        let mut order: Vec<usize> = (0..shape.len()).collect();
        for i in (1..order.len()).rev() {
            if self.below(3) == 0 {
                order.swap(i, self.below(i + 1));
            }
        }
        let mut strides = vec![0; shape.len()];
        let mut next = self.pick(&[1, 1, 1, 2]);
        for &d in order.iter().rev() {
            if self.below(4) > 0 {
                strides[d] = next;
                next *= shape[d].max(1);
            }
        }
        let offset = self.pick(&[0, 0, 3]);
        let reach: usize = shape.iter().zip(&strides).map(|(n, s)| n.saturating_sub(1) * s).sum();
        (Access { offset, strides }, offset + reach + 1)
    }

    /// A random epilogue, its operands, and the same as a function of (linear index, accumulator).
    pub(crate) fn epilogue(&mut self, dtype: DType, shape: &[usize]) -> Finish {
        let class = dtype.class().dtype();
        match self.below(4) {
            0 => Finish {
                epilogue: Epilogue::store(dtype),
                operands: vec![],
                addend: None,
                shape: shape.to_vec(),
            },
            kind => {
                // relu(acc + operand), stored as the type, as its class or as f64.
                let (access, len) = self.access(shape);
                let operand = self.integers(dtype, len);
                let mut program = Program { inputs: vec![class, dtype], code: vec![], outputs: vec![] };
                let sum = program.push(Instr::Apply(Pw::Add, vec![0, 1]));
                let relu = program.push(Instr::Apply(Pw::Relu, vec![sum]));
                let (register, out) = match kind {
                    1 => (relu, dtype),
                    2 => (relu, class),
                    _ => (program.push(Instr::Cast(DType::F64, relu)), DType::F64),
                };
                program.outputs.push((register, out));
                Finish {
                    epilogue: Epilogue::new(program, vec![access.clone()]),
                    addend: Some((access, operand.f64())),
                    operands: vec![operand],
                    shape: shape.to_vec(),
                }
            }
        }
    }
}

/// An epilogue and what it means.
pub(crate) struct Finish {
    pub(crate) epilogue: Epilogue,
    pub(crate) operands: Vec<Tensor>,
    addend: Option<(Access, Vec<f64>)>,
    shape: Vec<usize>,
}

impl Finish {
    pub(crate) fn apply(&self, acc: &[f64]) -> Vec<f64> {
        let Some((access, operand)) = &self.addend else { return acc.to_vec() };
        acc.iter()
            .zip(indices(&self.shape))
            .map(|(acc, index)| (acc + operand[at(access, &index)]).max(0.0))
            .collect()
    }

    pub(crate) fn inputs<'a>(&'a self, own: &[&'a Tensor]) -> Vec<&'a Tensor> {
        own.iter().copied().chain(&self.operands).collect()
    }
}

pub(crate) fn at(access: &Access, index: &[usize]) -> usize {
    access.offset + index.iter().zip(&access.strides).map(|(i, s)| i * s).sum::<usize>()
}

/// Every index of a shape, in row-major order.
pub(crate) fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &n in shape {
        all = all
            .into_iter()
            .flat_map(|index| {
                (0..n).map(move |i| {
                    let mut index = index.clone();
                    index.push(i);
                    index
                })
            })
            .collect();
    }
    all
}

/// Row-major position of an index.
pub(crate) fn linear(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |at, (n, i)| at * n + i)
}
