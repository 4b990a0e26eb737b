//! Reads programs and scalars back from the text that [`Program`]'s Display writes.

use crate::dtype::DType;
use crate::program::{Instr, Program, Reg, Scalar};
use std::str::FromStr;

impl FromStr for Scalar {
    type Err = String;
    fn from_str(s: &str) -> Result<Scalar, String> {
        let bad = |what: &str| format!("`{s}` is no {what}");
        match s {
            "true" => return Ok(Scalar::Bool(true)),
            "false" => return Ok(Scalar::Bool(false)),
            _ => {}
        }
        if let Some(v) = s.strip_suffix("f32") {
            v.parse().map(Scalar::F32).map_err(|_| bad("f32"))
        } else if let Some(v) = s.strip_suffix("f64") {
            v.parse().map(Scalar::F64).map_err(|_| bad("f64"))
        } else if let Some(v) = s.strip_suffix("i64") {
            v.parse().map(Scalar::I64).map_err(|_| bad("i64"))
        } else {
            Err(bad("scalar: it ends in neither f32, f64 nor i64 and is neither true nor false"))
        }
    }
}

fn register(s: &str) -> Result<Reg, String> {
    s.strip_prefix('%').and_then(|n| n.parse().ok()).ok_or_else(|| format!("`{s}` is no register"))
}

fn instruction(s: &str) -> Result<Instr, String> {
    let mut words = s.split_whitespace();
    let head = words.next().ok_or("an instruction is empty")?;
    if head == "cast" {
        let (Some(to), Some(arg), None) = (words.next(), words.next(), words.next()) else {
            return Err(format!("`{s}`: a cast is `cast TYPE %REGISTER`"));
        };
        return Ok(Instr::Cast(to.parse()?, register(arg)?));
    }
    // Scalars begin with a digit or sign, or are one of a few words no operator has.
    let args = words.map(register).collect::<Result<Vec<_>, _>>()?;
    match head.parse() {
        Ok(op) => Ok(Instr::Apply(op, args)),
        Err(_) if args.is_empty() && !head.starts_with(char::is_alphabetic) => head.parse().map(Instr::Const),
        Err(unknown) => head.parse().map(Instr::Const).ok().filter(|_| args.is_empty()).ok_or(unknown),
    }
}

impl FromStr for Program {
    type Err = String;

    /// Parses without verifying: [`Program::classes`] does that.
    fn from_str(s: &str) -> Result<Program, String> {
        let shape = || format!("`{s}` is not of the form `(types) {{ code }} -> outputs`");
        let rest = s.trim().strip_prefix('(').ok_or_else(shape)?;
        let (types, rest) = rest.split_once(')').ok_or_else(shape)?;
        let rest = rest.trim_start().strip_prefix('{').ok_or_else(shape)?;
        let (code, rest) = rest.split_once('}').ok_or_else(shape)?;
        let stores = rest.trim_start().strip_prefix("->").ok_or_else(shape)?;
        let mut program = Program::default();
        for t in types.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            program.inputs.push(t.parse::<DType>()?);
        }
        for line in code.split(';').map(str::trim).filter(|l| !l.is_empty()) {
            let (name, body) = line.split_once('=').ok_or_else(|| format!("`{line}` defines no register"))?;
            let next = program.inputs.len() + program.code.len();
            if usize::from(register(name.trim())?) != next {
                return Err(format!("`{line}` defines {} where %{next} is next", name.trim()));
            }
            program.code.push(instruction(body)?);
        }
        for store in stores.split_whitespace() {
            let (r, t) = store.split_once(':').ok_or_else(|| format!("`{store}` is no `%register:type`"))?;
            program.outputs.push((register(r)?, t.parse()?));
        }
        Ok(program)
    }
}
