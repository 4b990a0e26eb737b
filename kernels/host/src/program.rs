//! Straight-line pointwise programs: what fusion puts before and after an anchor, and all of a pointwise problem.
//! A program never knows shapes: which element an input stands for is the caller's affair.
//!
//! Text form, one line: `(f32, f16) { %2 = add %0 %1; %3 = relu %2 } -> %3:f16`. Inputs are registers `%0..`,
//! each instruction defines the next register.

use crate::dtype::{Class, DType};
use crate::pointwise::{Pw, Signature};
use std::fmt;

/// A register: inputs first, then one for each instruction.
pub type Reg = u16;

/// A scalar immediate.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Scalar {
    F32(f32),
    F64(f64),
    I64(i64),
    Bool(bool),
}

impl Scalar {
    /// The class of the register that holds it.
    pub const fn class(self) -> Class {
        match self {
            Scalar::F32(_) => Class::F32,
            Scalar::F64(_) => Class::F64,
            Scalar::I64(_) => Class::I64,
            Scalar::Bool(_) => Class::Bool,
        }
    }
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub enum Instr {
    /// An immediate.
    Const(Scalar),
    /// A pointwise operator over earlier registers.
    Apply(Pw, Vec<Reg>),
    /// Conversion to what an element of the type can hold, so a cast to f16 rounds and one to u8 wraps; ONNX Cast semantics.
    Cast(DType, Reg),
}

/// A straight-line program: `inputs` load into registers, `code` computes, `outputs` narrow and store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Element type of each input; register `i` has its class.
    pub inputs: Vec<DType>,
    /// One register each, in order.
    pub code: Vec<Instr>,
    /// Register and element type of each output.
    pub outputs: Vec<(Reg, DType)>,
}

impl Program {
    /// One input stored as it is, narrowed to `to`.
    pub fn identity(from: DType, to: DType) -> Program {
        Program { inputs: vec![from], code: vec![], outputs: vec![(0, to)] }
    }

    /// One operator over inputs of `from`, stored as `to`.
    pub fn single(op: Pw, from: &[DType], to: DType) -> Program {
        let args = (0..from.len() as Reg).collect();
        Program {
            inputs: from.to_vec(),
            code: vec![Instr::Apply(op, args)],
            outputs: vec![(from.len() as Reg, to)],
        }
    }

    /// Whether it computes nothing: its one output is its first input, in a type that holds the input's class unchanged.
    pub fn is_identity(&self) -> bool {
        self.code.is_empty()
            && self.outputs.len() == 1
            && self.outputs[0].0 == 0
            && self.outputs[0].1 == self.inputs[0]
    }

    /// Appends an instruction and returns its register.
    pub fn push(&mut self, instr: Instr) -> Reg {
        self.code.push(instr);
        (self.inputs.len() + self.code.len() - 1) as Reg
    }

    /// Adds an input. Registers of code already present move up by one.
    pub fn add_input(&mut self, dtype: DType) -> Reg {
        let at = self.inputs.len() as Reg;
        self.inputs.push(dtype);
        let shift = |r: &mut Reg| {
            if *r >= at {
                *r += 1;
            }
        };
        for instr in &mut self.code {
            match instr {
                Instr::Const(_) => {}
                Instr::Apply(_, args) => args.iter_mut().for_each(shift),
                Instr::Cast(_, arg) => shift(arg),
            }
        }
        self.outputs.iter_mut().for_each(|(r, _)| shift(r));
        at
    }

    /// The class of every register, or what is wrong: the program's verifier. It checks that every operand is
    /// defined before use, that every operator exists for its operands' class, and that every output's class fits.
    pub fn classes(&self) -> Result<Vec<Class>, String> {
        let mut classes: Vec<Class> = self.inputs.iter().map(|d| d.class()).collect();
        for instr in &self.code {
            let here = classes.len();
            let class_of = |r: &Reg| {
                classes
                    .get(*r as usize)
                    .copied()
                    .ok_or(format!("%{here} uses %{r}, which is not defined before it"))
            };
            let class = match instr {
                Instr::Const(s) => s.class(),
                Instr::Cast(to, arg) => class_of(arg).map(|_| to.class())?,
                Instr::Apply(op, args) => {
                    if args.len() != op.arity() {
                        return Err(format!("{op} takes {} operands, not {}", op.arity(), args.len()));
                    }
                    let of = args.iter().map(class_of).collect::<Result<Vec<_>, _>>()?;
                    let select = op.signature() == Signature::Select;
                    if select && of[0] != Class::Bool {
                        return Err(format!("the condition of %{here} = {op} is {:?}, not Bool", of[0]));
                    }
                    let values = if select { &of[1..] } else { &of[..] };
                    if values.iter().any(|c| *c != values[0]) {
                        return Err(format!("operands of %{here} = {op} differ in class: {values:?}"));
                    }
                    if !op.has(values[0]) {
                        return Err(format!("{op} is not defined for {:?}", values[0]));
                    }
                    if op.signature() == Signature::Test { Class::Bool } else { values[0] }
                }
            };
            classes.push(class);
        }
        for (r, d) in &self.outputs {
            match classes.get(*r as usize) {
                None => return Err(format!("output %{r} is not defined")),
                Some(c) if *c != d.class() => {
                    return Err(format!("output %{r} is {c:?} but is stored as {d}; cast it first"));
                }
                _ => {}
            }
        }
        Ok(classes)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::F32(v) => write!(f, "{v:?}f32"),
            Scalar::F64(v) => write!(f, "{v:?}f64"),
            Scalar::I64(v) => write!(f, "{v}i64"),
            Scalar::Bool(v) => write!(f, "{v}"),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = self.inputs.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ");
        write!(f, "({types}) {{")?;
        for (i, instr) in self.code.iter().enumerate() {
            write!(f, "{} %{} = ", if i == 0 { "" } else { ";" }, self.inputs.len() + i)?;
            match instr {
                Instr::Const(s) => write!(f, "{s}")?,
                Instr::Cast(to, a) => write!(f, "cast {to} %{a}")?,
                Instr::Apply(op, args) => {
                    write!(f, "{op}")?;
                    args.iter().try_for_each(|a| write!(f, " %{a}"))?;
                }
            }
        }
        write!(f, " }} ->")?;
        self.outputs.iter().try_for_each(|(r, d)| write!(f, " %{r}:{d}"))
    }
}
