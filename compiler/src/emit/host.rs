//! Host steps: each problem as a call of its typed kernel with the literal problem, each program as a closure.

use super::expression::{Scope, element, scalar};
use super::name::Names;
use crate::error::{Error, Result, Stage};
use crate::fuse::shape::of_output;
use crate::plan::{Place, Plan, Step};
use bakelite_host::problem::{Access, Epilogue, PadMode};
use bakelite_host::{Class, DType, Instr, Problem, Program};
use bakelite_kernels::Dim;
use bakelite_kernels::dim::product;
use bakelite_templates::HostStep;
use std::collections::BTreeMap;

/// Most operands of one program, and of its results: what `bakelite_host::map` has tuples for.
const MOST: (usize, usize) = (12, 4);

/// What the steps' module names itself or imports: a function of the same name would hide it.
const TAKEN: [&str; 11] =
    ["run", "named", "weights", "arena", "sizes", "at", "constant", "map", "map_in_place", "read", "split"];

/// Every step of a host plan.
pub(super) fn steps(plan: &Plan, scope: &Scope) -> Result<Vec<HostStep>> {
    let mut names = Names::taken(&TAKEN);
    let mut steps = Vec::new();
    for step in &plan.steps {
        let fail = |what: String| Error::new(Stage::Emit, format!("step {}", step.name), what);
        // `/layer1/conv (Conv) +2`: the ONNX node's name, without its operator and how many more are inside.
        let node = step.name.split(" (").next().unwrap_or_default();
        let ident = match node.chars().any(|c| c.is_ascii_alphanumeric()) && !node.starts_with('+') {
            // Long lists are divided into functions called so.
            true if node.starts_with("part") => names.give(&format!("step_{node}"), "step"),
            true => names.give(node, "step"),
            false => names.give(step.problem.name(), "step"),
        };
        let body = Writer { plan, step, scope }.body().map_err(fail)?;
        steps.push(HostStep { ident, doc: format!("{}: {}", step.name, step.problem), body });
    }
    Ok(steps)
}

struct Writer<'a> {
    plan: &'a Plan,
    step: &'a Step,
    scope: &'a Scope,
}

/// An operand's or result's variable.
fn variable(place: &Place) -> String {
    match place {
        Place::Buffer(b) => format!("b{b}"),
        Place::Weight(w) => format!("w{w}"),
    }
}

impl Writer<'_> {
    fn body(&self) -> Result<String, String> {
        let Writer { plan, step, scope } = self;
        let at_opt = step.problem.map(&mut |d| d.opt_size(&plan.symbols));
        let contract = at_opt.contract().map_err(|e| e.to_string())?;
        let bool_reduce = matches!(&step.problem, Problem::Reduce(p) if p.dtype == DType::Bool);
        let mut dtypes: BTreeMap<Place, DType> = BTreeMap::new();
        for (i, (place, operand)) in step.inputs.iter().zip(&contract.inputs).enumerate() {
            let dtype = if bool_reduce && i == 0 { DType::U8 } else { operand.dtype };
            if let Some(other) = dtypes.insert(*place, dtype)
                && other != dtype
            {
                return Err(format!("{} is read as {other} and as {dtype}", variable(place)));
            }
        }
        for (place, (dtype, _)) in step.outputs.iter().zip(&contract.outputs) {
            dtypes.insert(*place, *dtype);
        }
        let mut text = String::new();
        let (mut variables, mut places) = (Vec::new(), Vec::new());
        for (place, dtype) in &dtypes {
            match place {
                Place::Buffer(b) => {
                    let buffer = &plan.buffers[*b];
                    let len = buffer.bytes.floor_div(&Dim::from(dtype.size()));
                    variables.push(variable(place));
                    places.push(format!(
                        "at::<{}>({}, {})",
                        element(*dtype),
                        buffer.offset,
                        scope.size(&len)
                    ));
                }
                Place::Weight(w) => {
                    let weight = &plan.weights[*w];
                    let len = weight.bytes.len() / dtype.size();
                    text += &format!(
                        "let w{w} = constant(weights, at::<{}>({}, {len}))?;\n",
                        element(*dtype),
                        weight.offset
                    );
                }
            }
        }
        if let ([one], [place]) = (variables.as_slice(), places.as_slice()) {
            text += &format!("let {one} = arena.write({place})?;\n");
        } else {
            text += &format!("let ({}) = split(arena, ({}))?;\n", variables.join(", "), places.join(", "));
        }
        let y = variable(&step.outputs[0]);
        if !matches!(step.problem, Problem::Pointwise(_)) {
            let Place::Buffer(out) = step.outputs[0] else { return Err("a result is a weight".into()) };
            if plan.buffers[out].bytes.bounds(&plan.symbols).0 <= 0 {
                text += &format!("if {y}.is_empty() {{ return Ok(()); }}\n");
            }
            text += &format!("let p = {};\n", scope.problem(&step.problem));
        }
        text += &self.call(&y)?;
        Ok(text + "Ok(())")
    }

    fn input(&self, i: usize) -> String {
        self.step.inputs.get(i).map(variable).unwrap_or_default()
    }

    fn call(&self, y: &str) -> Result<String, String> {
        let problem = &self.step.problem;
        let (x, x1, x2) = (self.input(0), self.input(1), self.input(2));
        let anchor = |dtype: DType, module: &str, operands: &str| {
            let t = element(dtype);
            let call = |y: &str| format!("{module}::{module}::<{t}>(&p, {operands}, {y});\n");
            self.finish(y, dtype.class().dtype(), &call)
        };
        let plain = |dtype: DType, module: &str, rest: &str| {
            Ok(format!("{module}::{module}::<{}>(&p, {x}, {rest});\n", element(dtype)))
        };
        match problem {
            Problem::Pointwise(p) => {
                let operands: Vec<(String, &Access<Dim>)> =
                    self.step.inputs.iter().map(variable).zip(&p.inputs).collect();
                self.map(&p.program, &p.shape, &operands)
            }
            Problem::Gemm(p) => anchor(p.dtype, "gemm", &format!("{x}, {x1}")),
            Problem::Conv(p)
                if p.scaled || p.x.is_some() || p.added.is_some() || p.expand.is_some() || p.pooled.is_some() =>
            {
                Err("a convolution of scaled channels, of pixels that lie otherwise or are made on the way, with another added or pooled is not written out for the host"
                    .to_owned())
            }
            Problem::Conv(p) => anchor(p.dtype, "conv", &format!("{x}, {x1}")),
            // `fuse::join` works for GPUs alone.
            Problem::Excite(_) | Problem::Squeeze(_) => {
                Err("excitation in one step is not written out for the host".to_owned())
            }
            Problem::ConvTranspose(p) => anchor(p.dtype, "conv_transpose", &format!("{x}, {x1}")),
            Problem::Pool(p) => anchor(p.dtype, "pool", &x),
            Problem::Reduce(p) if p.dtype == DType::Bool => {
                let fill = |acc: &str| {
                    format!(
                        "let mut wide = vec![0i64; {acc}.len()];
                        reduce::reduce::<u8>(&p, {x}, &mut wide);
                        {acc}.iter_mut().zip(wide).for_each(|(y, v)| *y = v > 0);\n"
                    )
                };
                self.finish(y, DType::Bool, &fill)
            }
            Problem::Reduce(p) => anchor(p.dtype, "reduce", &x),
            Problem::Softmax(p) => anchor(p.dtype, "softmax", &x),
            Problem::LayerNorm(p) => {
                let bias = if p.bias { x2 } else { "&[]".to_owned() };
                anchor(p.dtype, "layer_norm", &format!("{x}, {x1}, {bias}"))
            }
            Problem::GroupNorm(p) => anchor(p.dtype, "group_norm", &format!("{x}, {x1}, {x2}")),
            Problem::Lrn(p) => anchor(p.dtype, "lrn", &x),
            Problem::Resize(p) => anchor(p.dtype, "resize", &x),
            Problem::ArgReduce(p) => plain(p.dtype, "arg_reduce", y),
            Problem::CumSum(p) => plain(p.dtype, "cum_sum", y),
            Problem::TopK(p) => {
                let second = self.step.outputs.get(1).map(variable).unwrap_or_default();
                plain(p.dtype, "top_k", &format!("{y}, {second}"))
            }
            Problem::Attention(p) => {
                let mask = match p.mask {
                    Some(_) => format!("Some(View::of(&*{}))", self.input(3)),
                    None => "None".to_owned(),
                };
                let t = element(p.dtype);
                Ok(format!("attention::attention::<{t}>(&p, {x}, {x1}, {x2}, {mask}, {y})?;\n"))
            }
            Problem::Concat(p) => {
                let parts: Vec<String> = (0..p.lens.len()).map(|i| format!("&*{}", self.input(i))).collect();
                let fill = |y: &str| format!("concat::concat(&p, &[{}], {y});\n", parts.join(", "));
                self.finish(y, p.dtype, &fill)
            }
            Problem::Pad(p) => {
                let value = match p.mode {
                    PadMode::Constant => format!("{x1}.first().copied()"),
                    _ => "None".to_owned(),
                };
                Ok(format!("pad::pad(&p, {x}, {value}, {y});\n"))
            }
            Problem::Gather(p) => {
                let fill = |y: &str| {
                    format!(
                        "let places = gather::positions(View::of(&*{x1}), p.len)?;
                        gather::gather(&p, {x}, &places, {y});\n"
                    )
                };
                self.finish(y, p.dtype, &fill)
            }
            Problem::GatherElements(p) => Ok(format!(
                "let places = gather::positions(View::of(&*{x1}), {})?;
                gather::gather_elements(&p, {x}, &places, {y});\n",
                self.scope.size(&p.input[p.axis])
            )),
        }
    }

    /// A kernel that writes accumulators of type `acc`, then the epilogue: in place where the result has that type too.
    fn finish(&self, y: &str, acc: DType, fill: &dyn Fn(&str) -> String) -> Result<String, String> {
        let problem = &self.step.problem;
        let epilogue = problem.epilogue().ok_or("it has no epilogue")?;
        let shape = of_output(problem).ok_or("it has no output shape")?;
        let own = problem.own_inputs();
        let operands: Vec<(String, &Access<Dim>)> =
            self.step.inputs[own..].iter().map(variable).zip(&epilogue.operands).collect();
        if epilogue.out() == acc {
            let mut text = fill(y);
            if !epilogue.stores(acc) {
                text += &self.in_place(y, epilogue, &shape, &operands)?;
            }
            return Ok(text);
        }
        let dense = Access { offset: Dim::from(0), strides: crate::ir::types::dense_strides(&shape) };
        let mut all = vec![("acc".to_owned(), &dense)];
        all.extend(operands);
        let zero = match acc {
            DType::Bool => "false".to_owned(),
            DType::F16 | DType::BF16 => format!("{}::default()", element(acc)),
            _ => format!("0 as {}", element(acc)),
        };
        let mut text = format!("let mut acc = vec![{zero}; {}];\n", self.scope.size(&product(&shape)));
        text += &fill("&mut acc").replace("&mut acc.", "acc.");
        Ok(text + &self.map(&epilogue.program, &shape, &all)?)
    }

    fn in_place(
        &self,
        y: &str,
        epilogue: &Epilogue<Dim>,
        shape: &[Dim],
        operands: &[(String, &Access<Dim>)],
    ) -> Result<String, String> {
        let code = Code::of(&epilogue.program)?;
        Ok(format!(
            "map_in_place(&[{}], {y}, {}, |{}, {}| {})?;\n",
            self.scope.sizes(shape),
            self.reads(operands)?,
            code.inputs[0],
            tuple(&code.inputs[1..]),
            code.block(),
        ))
    }

    fn map(
        &self,
        program: &Program,
        shape: &[Dim],
        operands: &[(String, &Access<Dim>)],
    ) -> Result<String, String> {
        if program.outputs.len() > MOST.1 {
            return Err(format!(
                "it has {} results; at most {} are written out",
                program.outputs.len(),
                MOST.1
            ));
        }
        let outputs: Vec<String> = self.step.outputs.iter().map(variable).collect();
        let shape = self.scope.sizes(shape);
        if let ([(x, access)], [y]) = (operands, outputs.as_slice())
            && program.code.is_empty()
            && program.outputs[0].1 == program.inputs[0]
            && x != "acc"
        {
            return Ok(format!("map::copy(&[{shape}], {}, {y})?;\n", self.read(x, access)));
        }
        let code = Code::of(program)?;
        let result = match outputs.as_slice() {
            // Bound by a pattern, so already a reference that may move.
            [one] => one.clone(),
            many => format!("({})", many.join(", ")),
        };
        Ok(format!(
            "map(&[{shape}], {}, {result}, |{}| {})?;\n",
            self.reads(operands)?,
            tuple(&code.inputs),
            code.block()
        ))
    }

    fn read(&self, x: &str, access: &Access<Dim>) -> String {
        let x = if x == "acc" { "&acc" } else { x };
        format!("read({x}, {}, &[{}])", self.scope.size(&access.offset), self.scope.sizes(&access.strides))
    }

    fn reads(&self, operands: &[(String, &Access<Dim>)]) -> Result<String, String> {
        if operands.len() > MOST.0 {
            return Err(format!("it reads {} operands; at most {} are written out", operands.len(), MOST.0));
        }
        Ok(tuple(&operands.iter().map(|(x, a)| self.read(x, a)).collect::<Vec<_>>()))
    }
}

fn tuple(items: &[String]) -> String {
    match items {
        [one] => format!("({one},)"),
        many => format!("({})", many.join(", ")),
    }
}

/// A program as a closure's parameters and body.
struct Code {
    inputs: Vec<String>,
    lines: Vec<String>,
    result: String,
}

impl Code {
    fn of(program: &Program) -> Result<Code, String> {
        let classes = program.classes()?;
        let first = program.inputs.len();
        let mut registers: Vec<String> = (0..first).map(|i| format!("x{i}")).collect();
        let mut lines = Vec::new();
        let mut used = vec![false; first];
        let mut mark = |r: u16| {
            if let Some(u) = used.get_mut(usize::from(r)) {
                *u = true;
            }
        };
        for (i, instr) in program.code.iter().enumerate() {
            let name = format!("t{}", first + i);
            let value = match instr {
                Instr::Const(s) => {
                    registers.push(scalar(*s));
                    continue;
                }
                Instr::Cast(to, arg) => {
                    mark(*arg);
                    format!("cast::to_{}({})", to.name(), registers[usize::from(*arg)])
                }
                Instr::Apply(op, args) => {
                    args.iter().for_each(|a| mark(*a));
                    let of = args.last().map_or(Class::F32, |a| classes[usize::from(*a)]);
                    let args: Vec<&str> = args.iter().map(|a| registers[usize::from(*a)].as_str()).collect();
                    // A raw name, as `mod` would be; the operator's function is called `modulo`.
                    format!("pw::{}::{}({})", of.dtype().name(), op.name(), args.join(", "))
                }
            };
            lines.push(format!("let {name} = {value};"));
            registers.push(name);
        }
        program.outputs.iter().for_each(|(r, _)| mark(*r));
        let results: Vec<String> =
            program.outputs.iter().map(|(r, _)| registers[usize::from(*r)].clone()).collect();
        let result =
            if let [one] = results.as_slice() { one.clone() } else { format!("({})", results.join(", ")) };
        let inputs =
            used.iter().enumerate().map(|(i, u)| if *u { format!("x{i}") } else { "_".into() }).collect();
        let mut code = Code { inputs, lines, result };
        code.tidy();
        Ok(code)
    }

    // `let t = f(x); t` is `f(x)`.
    fn tidy(&mut self) {
        if let Some(value) = self
            .lines
            .last()
            .and_then(|l| l.strip_prefix(&format!("let {} = ", self.result)))
            .and_then(|l| l.strip_suffix(';'))
        {
            self.result = value.to_owned();
            self.lines.pop();
        }
    }

    fn block(&self) -> String {
        match self.lines.is_empty() {
            true => self.result.clone(),
            false => format!("{{ {} {} }}", self.lines.join(" "), self.result),
        }
    }
}
