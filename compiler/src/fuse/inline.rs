//! Pointwise regions: a sink with every producer that only it reads, evaluated in one loop over the sink's shape, reading
//! its operands through moves. Also the builder of programs that epilogues share.

use super::access::{Transform, through};
use super::{MOST_OPERANDS, Region, name_of, root};
use crate::ir::{Graph, NodeId, Value};
use crate::ops::{Op, Role};
use bakelite_host::problem::{Access, Pointwise};
use bakelite_host::{Class, DType, Instr, Program, Reg, Scalar};
use bakelite_kernels::Dim;
use std::collections::{HashMap, HashSet};

/// Builds one program out of pointwise operators.
pub(super) struct Builder<'a> {
    graph: &'a Graph,
    members: HashSet<NodeId>,
    /// The program so far.
    pub(super) program: Program,
    /// What each program input past the given ones is, and how it is read over the iteration space.
    pub(super) operands: Vec<(Value, Access<Dim>)>,
    given: Vec<Value>,
    cache: Vec<(Value, Vec<Transform>, Reg)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph, members: HashSet<NodeId>) -> Builder<'a> {
        Builder {
            graph,
            members,
            program: Program::default(),
            operands: vec![],
            given: vec![],
            cache: vec![],
        }
    }

    /// Makes `value` the next program input, given by the caller (an anchor's accumulator).
    pub(super) fn give(&mut self, value: Value, dtype: DType) {
        let reg = self.program.add_input(dtype);
        self.given.push(value);
        self.cache.push((value, vec![], reg));
    }

    /// The register that holds `value`, read through `path` (nearest the reader first).
    pub(super) fn register(&mut self, value: Value, path: &[Transform]) -> Result<Reg, String> {
        let given = |v: &Value| self.given.contains(v) && path.iter().all(Transform::keeps_order);
        if let Some((_, _, reg)) = self.cache.iter().find(|(v, p, _)| *v == value && (p == path || given(v)))
        {
            return Ok(*reg);
        }
        let graph = self.graph;
        let node = graph.node(value.node);
        let reg = match &node.kind {
            crate::ir::Kind::Op(op) if self.members.contains(&value.node) => self.compute(op, value, path)?,
            crate::ir::Kind::Constant(data) if data.uniform().is_some() => {
                let one = data.uniform().unwrap_or(0.0);
                let exact = data.to_i64().first().copied().unwrap_or(0);
                self.program.push(Instr::Const(match data.dtype.class() {
                    Class::F32 => Scalar::F32(one as f32),
                    Class::F64 => Scalar::F64(one),
                    Class::I64 => Scalar::I64(exact),
                    Class::Bool => Scalar::Bool(one != 0.0),
                }))
            }
            _ => {
                let ty = graph.ty(value);
                let reg = self.program.add_input(ty.dtype);
                // Inputs come before code, so every register past it has moved.
                for (_, _, r) in &mut self.cache {
                    if *r >= reg {
                        *r += 1;
                    }
                }
                let access =
                    through(ty, path).ok_or_else(|| format!("{value} cannot be read through its moves"))?;
                self.operands.push((root(graph, value), access));
                reg
            }
        };
        self.cache.push((value, path.to_vec(), reg));
        Ok(reg)
    }

    fn compute(&mut self, op: &Op, value: Value, path: &[Transform]) -> Result<Reg, String> {
        let graph = self.graph;
        let inputs = graph.node(value.node).inputs.clone();
        match op {
            Op::Cast(cast) => {
                let from = graph.ty(inputs[0]).dtype;
                let arg = self.register(inputs[0], path)?;
                // Between float types a register keeps the wider precision; the store rounds.
                let free = from == cast.to || (from.class() == Class::F32 && cast.to.class() == Class::F32);
                Ok(if free { arg } else { self.program.push(Instr::Cast(cast.to, arg)) })
            }
            Op::Apply(apply) => {
                let to = graph.ty(value).shape.clone();
                // All leaves first: adding an input moves the registers of code.
                let paths: Vec<Vec<Transform>> = inputs
                    .iter()
                    .map(|v| {
                        let from = graph.ty(*v).shape.clone();
                        let mut longer = path.to_vec();
                        if from != to {
                            longer.push(Transform::Broadcast { from, to: to.clone() });
                        }
                        longer
                    })
                    .collect();
                for (v, p) in inputs.iter().zip(&paths) {
                    self.register(*v, p)?;
                }
                let args = inputs
                    .iter()
                    .zip(&paths)
                    .map(|(v, p)| self.register(*v, p))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(self.program.push(Instr::Apply(apply.op, args)))
            }
            _ => {
                let step = Transform::of(op, graph.ty(inputs[0]))
                    .ok_or_else(|| format!("{} is not pointwise", op.name()))?;
                let mut longer = path.to_vec();
                longer.push(step);
                self.register(inputs[0], &longer)
            }
        }
    }
}

/// The region that ends in `sink`, a pointwise operator or a move. What is `needed` by others, through moves of its own
/// perhaps, stays outside.
pub(super) fn from_sink(
    graph: &Graph,
    sink: NodeId,
    taken: &HashSet<NodeId>,
    needed: &HashSet<Value>,
) -> Result<Region, String> {
    let mut members = HashSet::from([sink]);
    // Try to take each producer in turn, nearest first; keep it only while the operands stay few.
    let mut queue: std::collections::VecDeque<Value> = graph.node(sink).inputs.iter().copied().collect();
    let mut seen: HashSet<NodeId> = HashSet::new();
    while let Some(value) = queue.pop_front() {
        if needed.contains(&value) || !joins(graph, value, sink, &members, taken) {
            continue;
        }
        if !seen.insert(value.node) {
            continue;
        }
        members.insert(value.node);
        // A reshape joins what no access can say, where strides behind it do not go together.
        let readable = || Builder::new(graph, members.clone()).register(sink.into(), &[]).is_ok();
        let views = members.iter().any(|m| is_view(graph, *m));
        if operand_count(graph, &members) > MOST_OPERANDS || views && !readable() {
            members.remove(&value.node);
            continue;
        }
        // A new member may make a shared producer wholly inside: look at all operands again.
        seen.retain(|n| members.contains(n));
        queue.extend(
            members
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .flat_map(|m| graph.node(*m).inputs.clone()),
        );
    }
    let mut builder = Builder::new(graph, members.clone());
    let result = builder.register(sink.into(), &[])?;
    let ty = graph.ty(sink.into());
    builder.program.outputs.push((result, ty.dtype));
    let (program, operands) = (builder.program, builder.operands);
    program.classes()?;
    let (inputs, accesses): (Vec<Value>, Vec<Access<Dim>>) = operands.into_iter().unzip();
    let nodes: Vec<NodeId> = graph.order().into_iter().filter(|n| members.contains(n)).collect();
    Ok(Region {
        name: name_of(graph, &nodes, sink),
        problem: Pointwise { shape: ty.shape.clone(), inputs: accesses, program }.into(),
        place: None,
        nodes,
        inputs,
        outputs: vec![sink.into()],
    })
}

// Whether the producer of `value` may be evaluated inside the region.
fn joins(
    graph: &Graph,
    value: Value,
    sink: NodeId,
    members: &HashSet<NodeId>,
    taken: &HashSet<NodeId>,
) -> bool {
    let id = value.node;
    let Some(op) = graph.node(id).op() else { return false };
    if members.contains(&id) || taken.contains(&id) || graph.is_output(value) {
        return false;
    }
    let only_here = read_inside(graph, value, sink, members);
    let same_count = graph.ty(value).count() == graph.ty(sink.into()).count();
    match op.role() {
        Role::Pointwise => only_here && same_count,
        // Reading through a broadcast or a slice costs nothing, so many may do it.
        Role::Move => match op {
            Op::Transpose(_) => only_here,
            _ => true,
        },
        Role::View => true,
        _ => false,
    }
}

fn is_view(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).op().is_some_and(|op| op.role() == Role::View)
}

// Whether nothing outside reads the value, not even through a move inside that others read through too.
fn read_inside(graph: &Graph, value: Value, sink: NodeId, members: &HashSet<NodeId>) -> bool {
    graph.users(value).iter().all(|(user, _)| {
        let role = graph.node(*user).op().map(Op::role);
        let shared = matches!(role, Some(Role::Move | Role::View));
        members.contains(user)
            && (!shared || *user == sink || read_inside(graph, (*user).into(), sink, members))
    })
}

fn operand_count(graph: &Graph, members: &HashSet<NodeId>) -> usize {
    let mut leaves: HashMap<Value, ()> = HashMap::new();
    for m in members {
        for v in &graph.node(*m).inputs {
            let scalar = graph.data(*v).is_some_and(|d| d.uniform().is_some());
            if !members.contains(&v.node) && !scalar {
                leaves.insert(*v, ());
            }
        }
    }
    leaves.len()
}
