//! Runs pointwise programs over iteration spaces, a block of elements at a time and one instruction at a time over
//! the block, so that each instruction is a loop the compiler vectorises and registers stay in the L1 and L2 caches.
//! Also the epilogue of every other kernel: [`finish`].

use crate::dtype::{Class, DType};
use crate::element::{Element, Lane};
use crate::parallel;
use crate::pointwise::{self, Pw, Signature};
use crate::problem::{Access, Epilogue, Pointwise};
use crate::program::{Instr, Program, Scalar};
use crate::view::{RunError, View, ViewMut, bail};
use crate::walk;
use half::{bf16, f16};

/// Elements processed at a time.
const BLOCK: usize = 1024;
/// Below this many elements times instructions a second thread costs more than it brings.
const SERIAL: usize = 1 << 15;

/// A block of one register.
#[derive(Clone, Debug)]
enum Lanes {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

/// Where a program's input comes from.
enum Source<'a> {
    /// What the first output holds before it is overwritten.
    Output,
    Read {
        view: View<'a>,
        offset: usize,
        strides: Vec<usize>,
    },
}

/// `out_j[i] = program_j(in_k[access_k(i)] ...)`; the views must fit the problem's [`crate::Contract`].
pub fn pointwise(
    p: &Pointwise<usize>,
    inputs: &[View<'_>],
    outputs: &mut [ViewMut<'_>],
) -> Result<(), RunError> {
    let sources = inputs
        .iter()
        .zip(&p.inputs)
        .map(|(v, a)| Source::Read { view: *v, offset: a.offset, strides: a.strides.clone() })
        .collect();
    execute(&p.program, &p.shape, sources, outputs)
}

/// Runs `fill` to write the accumulators of `shape`, then the epilogue on them; without a temporary where the result's
/// type is the accumulators' own.
pub fn finish<A: Lane>(
    epilogue: &Epilogue<usize>,
    shape: &[usize],
    operands: &[View<'_>],
    out: &mut ViewMut<'_>,
    fill: &mut dyn FnMut(&mut [A]) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let read = |views: &[View<'_>]| -> Result<(), RunError> {
        if views.len() != epilogue.operands.len() {
            bail!("the epilogue reads {} operands, not {}", epilogue.operands.len(), views.len());
        }
        Ok(())
    };
    read(operands)?;
    if out.dtype == A::DTYPE {
        fill(out.as_mut_slice::<A>()?)?;
        if epilogue.stores(A::DTYPE) {
            return Ok(());
        }
        let sources = std::iter::once(Source::Output).chain(extra(epilogue, operands)).collect();
        return execute(&epilogue.program, shape, sources, std::slice::from_mut(out));
    }
    let mut acc = vec![A::default(); out.len()];
    fill(&mut acc)?;
    let first = Source::Read { view: View::of(&acc), offset: 0, strides: walk::dense(shape) };
    let sources = std::iter::once(first).chain(extra(epilogue, operands)).collect();
    execute(&epilogue.program, shape, sources, std::slice::from_mut(out))
}

/// Runs an epilogue over accumulators that lie in an operand already, as where a kernel only moves elements.
pub fn finish_moved(
    epilogue: &Epilogue<usize>,
    shape: &[usize],
    dtype: DType,
    operands: &[View<'_>],
    out: &mut ViewMut<'_>,
    fill: &mut dyn FnMut(&mut ViewMut<'_>) -> Result<(), RunError>,
) -> Result<(), RunError> {
    if out.dtype == dtype {
        fill(out)?;
        if epilogue.stores(dtype) {
            return Ok(());
        }
        let sources = std::iter::once(Source::Output).chain(extra(epilogue, operands)).collect();
        return execute(&epilogue.program, shape, sources, std::slice::from_mut(out));
    }
    // u64 words, so that the buffer is aligned for any element type.
    let mut words = vec![0u64; (out.len() * dtype.size()).div_ceil(8)];
    let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..out.len() * dtype.size()];
    fill(&mut ViewMut { dtype, bytes })?;
    let first = Source::Read { view: View { dtype, bytes }, offset: 0, strides: walk::dense(shape) };
    let sources = std::iter::once(first).chain(extra(epilogue, operands)).collect();
    execute(&epilogue.program, shape, sources, std::slice::from_mut(out))
}

fn extra<'a>(epilogue: &'a Epilogue<usize>, operands: &'a [View<'a>]) -> impl Iterator<Item = Source<'a>> {
    operands.iter().zip(&epilogue.operands).map(|(v, a): (_, &Access<usize>)| Source::Read {
        view: *v,
        offset: a.offset,
        strides: a.strides.clone(),
    })
}

/// The program with its first input typed as the source is: an accumulator may be narrower than its class.
fn execute(
    program: &Program,
    shape: &[usize],
    mut sources: Vec<Source<'_>>,
    outputs: &mut [ViewMut<'_>],
) -> Result<(), RunError> {
    let classes = program.classes()?;
    let total = walk::count(shape).ok_or_else(|| RunError(format!("shape {shape:?} is too large")))?;
    if sources.len() != program.inputs.len() || outputs.len() != program.outputs.len() {
        bail!(
            "{program} has {} inputs and {} outputs; given are {} and {}",
            program.inputs.len(),
            program.outputs.len(),
            sources.len(),
            outputs.len()
        );
    }
    for (k, source) in sources.iter().enumerate() {
        let (dtype, len, need) = match source {
            Source::Output => (outputs[0].dtype, outputs[0].len(), total),
            Source::Read { view, offset, strides } => {
                view.verify()?;
                if strides.len() != shape.len() {
                    bail!("input {k} has {} strides over a space of rank {}", strides.len(), shape.len());
                }
                let access = Access { offset: *offset, strides: strides.clone() };
                let need = walk::reach(shape, &access)
                    .ok_or_else(|| RunError(format!("the access of input {k} overflows")))?;
                (view.dtype, view.len(), need)
            }
        };
        if dtype.class() != program.inputs[k].class() {
            bail!("input {k} is {dtype} where the program reads {}", program.inputs[k]);
        }
        if len < need {
            bail!("input {k} has {len} elements where its access reaches {need}");
        }
    }
    for (j, (out, (_, dtype))) in outputs.iter().zip(&program.outputs).enumerate() {
        out.verify()?;
        if out.dtype != *dtype || out.len() != total {
            bail!("output {j} is {} {} where {total} {dtype} are stored", out.len(), out.dtype);
        }
    }
    if total == 0 {
        return Ok(());
    }
    let mut strides: Vec<Vec<usize>> = sources
        .iter()
        .map(|s| match s {
            Source::Output => walk::dense(shape),
            Source::Read { strides, .. } => strides.clone(),
        })
        .collect();
    let space = walk::merge(shape, &mut strides);
    for (source, merged) in sources.iter_mut().zip(strides) {
        if let Source::Read { strides, .. } = source {
            *strides = merged;
        }
    }
    if let Some(moved) = pure_move(program, &sources) {
        copy(&space, moved, &mut outputs[0]);
        return Ok(());
    }
    let work = total.saturating_mul(program.code.len() + 1);
    let chunk = if work <= SERIAL {
        total
    } else {
        let tasks = rayon::current_num_threads() * 4;
        total.div_ceil(tasks).max(SERIAL / (program.code.len() + 1)).next_multiple_of(BLOCK)
    };
    let job = Job { program, classes: &classes, space: &space, sources: &sources };
    if chunk >= total {
        let mut bytes: Vec<&mut [u8]> = outputs.iter_mut().map(|o| &mut *o.bytes).collect();
        job.range(0, total, &mut bytes);
        return Ok(());
    }
    let mut chunks: Vec<Vec<&mut [u8]>> = (0..total.div_ceil(chunk)).map(|_| vec![]).collect();
    for out in outputs.iter_mut() {
        let size = out.dtype.size();
        chunks.iter_mut().zip(out.bytes.chunks_mut(chunk * size)).for_each(|(c, b)| c.push(b));
    }
    parallel::each(chunks, &|i, mut bytes| {
        job.range(i * chunk, chunk.min(total - i * chunk), &mut bytes);
    });
    Ok(())
}

/// The one input of a program that only moves elements of one type.
fn pure_move<'s, 'a>(program: &Program, sources: &'s [Source<'a>]) -> Option<(View<'a>, usize, &'s [usize])> {
    match sources {
        [Source::Read { view, offset, strides }]
            if program.code.is_empty()
                && program.outputs.len() == 1
                && program.outputs[0].1 == view.dtype =>
        {
            Some((*view, *offset, strides))
        }
        _ => None,
    }
}

fn copy(space: &[usize], (view, offset, strides): (View<'_>, usize, &[usize]), out: &mut ViewMut<'_>) {
    with_bits!(view.dtype, T => {
        let src: &[T] = bytemuck::cast_slice(view.bytes);
        let dst: &mut [T] = bytemuck::cast_slice_mut(out.bytes);
        parallel::rows_mut(dst, 1, SERIAL, &|first, dst| {
            walk::runs(space, strides, offset, first, dst.len(), &mut |from, step, at, n| {
                place(src, from, step, &mut dst[at..at + n], |v| v);
            });
        });
    })
}

#[inline(always)]
fn place<T: Copy, U: Copy>(src: &[T], from: usize, step: usize, dst: &mut [U], f: impl Fn(T) -> U) {
    match step {
        0 => dst.fill(f(src[from])),
        1 => {
            let src = &src[from..from + dst.len()];
            dst.iter_mut().zip(src).for_each(|(d, &s)| *d = f(s));
        }
        _ => dst.iter_mut().zip(src[from..].iter().step_by(step)).for_each(|(d, &s)| *d = f(s)),
    }
}

struct Job<'a> {
    program: &'a Program,
    classes: &'a [Class],
    space: &'a [usize],
    sources: &'a [Source<'a>],
}

impl Job<'_> {
    /// Elements `start..start + len` of the space; `outputs` are those elements of each output.
    fn range(&self, start: usize, len: usize, outputs: &mut [&mut [u8]]) {
        let block = BLOCK.min(len);
        let mut registers: Vec<Lanes> = self.classes.iter().map(|c| Lanes::new(*c, block)).collect();
        let inputs = self.sources.len();
        // What is the same in every block is computed once.
        for (k, source) in self.sources.iter().enumerate() {
            if let Source::Read { view, offset, strides } = source
                && strides.iter().all(|s| *s == 0)
            {
                registers[k].load(*view, &[block], &[0], *offset, 0, block);
            }
        }
        for (i, instr) in self.program.code.iter().enumerate() {
            if let Instr::Const(s) = instr {
                registers[inputs + i].fill(*s);
            }
        }
        let mut done = 0;
        while done < len {
            let n = block.min(len - done);
            for (k, source) in self.sources.iter().enumerate() {
                match source {
                    Source::Output => {
                        let dtype = self.program.outputs[0].1;
                        let view = View { dtype, bytes: &*outputs[0] };
                        registers[k].load(view, &[len], &[1], 0, done, n);
                    }
                    Source::Read { view, offset, strides } if strides.iter().any(|s| *s != 0) => {
                        registers[k].load(*view, self.space, strides, *offset, start + done, n);
                    }
                    Source::Read { .. } => {}
                }
            }
            for (i, instr) in self.program.code.iter().enumerate() {
                let (earlier, rest) = registers.split_at_mut(inputs + i);
                rest[0].step(instr, earlier, n);
            }
            for ((register, dtype), out) in self.program.outputs.iter().zip(outputs.iter_mut()) {
                let size = dtype.size();
                registers[*register as usize].store(*dtype, &mut out[done * size..(done + n) * size]);
            }
            done += n;
        }
    }
}

macro_rules! operate {
    ($module:ident, $class:ident, $op:expr, $out:expr, $args:expr, $earlier:expr, $n:expr) => {{
        let lane = |r: u16| match &$earlier[r as usize] {
            Lanes::$class(v) => &v[..$n],
            _ => &[],
        };
        match ($op.signature(), $out, $args) {
            (Signature::Same, Lanes::$class(o), &[a]) => {
                pointwise::$module::apply1($op, &mut o[..$n], lane(a))
            }
            (Signature::Same, Lanes::$class(o), &[a, b]) => {
                pointwise::$module::apply2($op, &mut o[..$n], lane(a), lane(b))
            }
            (Signature::Test, Lanes::Bool(o), &[a]) => pointwise::$module::test1($op, &mut o[..$n], lane(a)),
            (Signature::Test, Lanes::Bool(o), &[a, b]) => {
                pointwise::$module::test2($op, &mut o[..$n], lane(a), lane(b))
            }
            (Signature::Select, Lanes::$class(o), &[c, a, b]) => {
                if let Lanes::Bool(c) = &$earlier[c as usize] {
                    for (((o, &c), &a), &b) in o[..$n].iter_mut().zip(c).zip(lane(a)).zip(lane(b)) {
                        *o = pointwise::$module::select(c, a, b);
                    }
                }
                true
            }
            _ => false,
        }
    }};
}

impl Lanes {
    fn new(class: Class, len: usize) -> Lanes {
        match class {
            Class::F32 => Lanes::F32(vec![0.0; len]),
            Class::F64 => Lanes::F64(vec![0.0; len]),
            Class::I64 => Lanes::I64(vec![0; len]),
            Class::Bool => Lanes::Bool(vec![false; len]),
        }
    }

    fn fill(&mut self, s: Scalar) {
        match (self, s) {
            (Lanes::F32(v), Scalar::F32(s)) => v.fill(s),
            (Lanes::F64(v), Scalar::F64(s)) => v.fill(s),
            (Lanes::I64(v), Scalar::I64(s)) => v.fill(s),
            (Lanes::Bool(v), Scalar::Bool(s)) => v.fill(s),
            _ => unreachable!("the program's classes were checked"),
        }
    }

    fn load(
        &mut self,
        view: View<'_>,
        space: &[usize],
        strides: &[usize],
        offset: usize,
        start: usize,
        n: usize,
    ) {
        fn gather<T: Element + bytemuck::AnyBitPattern>(
            bytes: &[u8],
            out: &mut [T::Acc],
            runs: impl FnOnce(&mut dyn FnMut(usize, usize, usize, usize)),
        ) {
            let src: &[T] = bytemuck::cast_slice(bytes);
            runs(&mut |from, step, at, n| {
                let out = &mut out[at..at + n];
                if step == 1 {
                    T::widen_into(&src[from..from + n], out);
                } else {
                    place(src, from, step, out, T::widen);
                }
            });
        }
        let runs = |run: &mut dyn FnMut(usize, usize, usize, usize)| {
            walk::runs(space, strides, offset, start, n, run);
        };
        match (self, view.dtype) {
            (Lanes::F32(o), DType::F32) => gather::<f32>(view.bytes, o, runs),
            (Lanes::F32(o), DType::F16) => gather::<f16>(view.bytes, o, runs),
            (Lanes::F32(o), DType::BF16) => gather::<bf16>(view.bytes, o, runs),
            (Lanes::F64(o), DType::F64) => gather::<f64>(view.bytes, o, runs),
            (Lanes::I64(o), DType::I8) => gather::<i8>(view.bytes, o, runs),
            (Lanes::I64(o), DType::I16) => gather::<i16>(view.bytes, o, runs),
            (Lanes::I64(o), DType::I32) => gather::<i32>(view.bytes, o, runs),
            (Lanes::I64(o), DType::I64) => gather::<i64>(view.bytes, o, runs),
            (Lanes::I64(o), DType::U8) => gather::<u8>(view.bytes, o, runs),
            (Lanes::I64(o), DType::U16) => gather::<u16>(view.bytes, o, runs),
            (Lanes::I64(o), DType::U32) => gather::<u32>(view.bytes, o, runs),
            (Lanes::I64(o), DType::U64) => gather::<u64>(view.bytes, o, runs),
            (Lanes::Bool(o), DType::Bool) => runs(&mut |from, step, at, n| {
                place(view.bytes, from, step, &mut o[at..at + n], |b| b != 0);
            }),
            _ => unreachable!("input classes were checked"),
        }
    }

    fn store(&self, dtype: DType, out: &mut [u8]) {
        fn narrow<T: Element + bytemuck::AnyBitPattern>(src: &[T::Acc], out: &mut [u8]) {
            T::narrow_into(src, bytemuck::cast_slice_mut(out));
        }
        match (self, dtype) {
            (Lanes::F32(v), DType::F32) => narrow::<f32>(v, out),
            (Lanes::F32(v), DType::F16) => narrow::<f16>(v, out),
            (Lanes::F32(v), DType::BF16) => narrow::<bf16>(v, out),
            (Lanes::F64(v), DType::F64) => narrow::<f64>(v, out),
            (Lanes::I64(v), DType::I8) => narrow::<i8>(v, out),
            (Lanes::I64(v), DType::I16) => narrow::<i16>(v, out),
            (Lanes::I64(v), DType::I32) => narrow::<i32>(v, out),
            (Lanes::I64(v), DType::I64) => narrow::<i64>(v, out),
            (Lanes::I64(v), DType::U8) => narrow::<u8>(v, out),
            (Lanes::I64(v), DType::U16) => narrow::<u16>(v, out),
            (Lanes::I64(v), DType::U32) => narrow::<u32>(v, out),
            (Lanes::I64(v), DType::U64) => narrow::<u64>(v, out),
            (Lanes::Bool(v), DType::Bool) => out.iter_mut().zip(v).for_each(|(o, b)| *o = u8::from(*b)),
            _ => unreachable!("output classes were checked"),
        }
    }

    fn step(&mut self, instr: &Instr, earlier: &[Lanes], n: usize) {
        match instr {
            Instr::Const(_) => {}
            Instr::Cast(to, arg) => self.cast(*to, &earlier[*arg as usize], n),
            Instr::Apply(op, args) => {
                let value: u16 = if *op == Pw::Select { args[1] } else { args[0] };
                let op = *op;
                let known = match &earlier[value as usize] {
                    Lanes::F32(_) => operate!(f32, F32, op, self, args.as_slice(), earlier, n),
                    Lanes::F64(_) => operate!(f64, F64, op, self, args.as_slice(), earlier, n),
                    Lanes::I64(_) => operate!(i64, I64, op, self, args.as_slice(), earlier, n),
                    Lanes::Bool(_) => operate!(bool, Bool, op, self, args.as_slice(), earlier, n),
                };
                debug_assert!(known, "{op} has no row for its class, which the verifier refuses");
            }
        }
    }

    /// ONNX Cast: floats truncate toward zero and saturate into integers, integers wrap, anything but zero is true.
    fn cast(&mut self, to: DType, from: &Lanes, n: usize) {
        fn each<A: Copy, B>(a: &[A], out: &mut [B], n: usize, f: impl Fn(A) -> B) {
            out[..n].iter_mut().zip(a).for_each(|(o, &a)| *o = f(a));
        }
        macro_rules! into_float {
            ($o:expr, $t:ident, $round:expr) => {
                match from {
                    Lanes::F32(a) => each(a, $o, n, |a| $round(f64::from(a))),
                    Lanes::F64(a) => each(a, $o, n, |a| $round(a)),
                    Lanes::I64(a) => each(a, $o, n, |a| $round(a as f64)),
                    Lanes::Bool(a) => each(a, $o, n, |a| $round(f64::from(u8::from(a)))),
                }
            };
        }
        macro_rules! into_int {
            ($o:expr, $t:ident) => {
                match from {
                    Lanes::F32(a) => each(a, $o, n, |a| a as $t as i64),
                    Lanes::F64(a) => each(a, $o, n, |a| a as $t as i64),
                    Lanes::I64(a) => each(a, $o, n, |a| a as $t as i64),
                    Lanes::Bool(a) => each(a, $o, n, |a| i64::from(a)),
                }
            };
        }
        match (self, to) {
            (Lanes::F32(o), DType::F32) => match from {
                Lanes::F32(a) => o[..n].copy_from_slice(&a[..n]),
                // Straight from the integer: through f64 would round twice.
                Lanes::I64(a) => each(a, o, n, |a| a as f32),
                _ => into_float!(o, f32, |v: f64| v as f32),
            },
            (Lanes::F32(o), DType::F16) => into_float!(o, f32, |v| f16::from_f64(v).to_f32()),
            (Lanes::F32(o), DType::BF16) => into_float!(o, f32, |v| bf16::from_f64(v).to_f32()),
            (Lanes::F64(o), _) => into_float!(o, f64, |v: f64| v),
            (Lanes::I64(o), DType::I8) => into_int!(o, i8),
            (Lanes::I64(o), DType::I16) => into_int!(o, i16),
            (Lanes::I64(o), DType::I32) => into_int!(o, i32),
            (Lanes::I64(o), DType::I64) => into_int!(o, i64),
            (Lanes::I64(o), DType::U8) => into_int!(o, u8),
            (Lanes::I64(o), DType::U16) => into_int!(o, u16),
            (Lanes::I64(o), DType::U32) => into_int!(o, u32),
            (Lanes::I64(o), DType::U64) => into_int!(o, u64),
            (Lanes::Bool(o), _) => match from {
                Lanes::F32(a) => each(a, o, n, |a| a != 0.0),
                Lanes::F64(a) => each(a, o, n, |a| a != 0.0),
                Lanes::I64(a) => each(a, o, n, |a| a != 0),
                Lanes::Bool(a) => o[..n].copy_from_slice(&a[..n]),
            },
            _ => unreachable!("the register's class is that of the cast's type"),
        }
    }
}
