//! Running a host plan, step by step, on the CPU.

use super::{Sizes, bind, shape, value};
use crate::error::{Error, Result, Stage};
use crate::ir::Tensor;
use crate::ops::eval::Aligned;
use crate::plan::{Place, Plan};
use bakelite_host::view::{View, ViewMut};

/// A host plan with its memory.
pub struct Session {
    plan: Plan,
    weights: Vec<Aligned>,
    arena: Aligned,
}

impl Session {
    /// Takes the memory the plan asks for.
    pub fn new(plan: Plan) -> Result<Session> {
        let bytes =
            usize::try_from(plan.arena).map_err(|e| Error::new(Stage::Run, "arena", e.to_string()))?;
        let weights = plan.weights.iter().map(|w| Aligned::copied(&w.bytes)).collect();
        Ok(Session { weights, arena: Aligned::zeroed(bytes), plan })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Computes the outputs, in the plan's order, from inputs in the plan's order.
    pub fn infer(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let sizes = bind(&self.plan, inputs)?;
        for (port, tensor) in self.plan.inputs.iter().zip(inputs) {
            let at = self.plan.buffers[port.buffer].offset as usize;
            self.arena.bytes_mut()[at..at + tensor.bytes.len()].copy_from_slice(&tensor.bytes);
        }
        for at in 0..self.plan.steps.len() {
            self.step(at, &sizes)?;
        }
        let outputs = self.plan.outputs.iter().map(|port| {
            let (from, shape) = (self.plan.buffers[port.buffer].offset as usize, shape(port, &sizes));
            let len = shape.iter().product::<usize>() * port.ty.dtype.size();
            let bytes = bytes::Bytes::copy_from_slice(&self.arena.bytes()[from..from + len]);
            Tensor { dtype: port.ty.dtype, shape, bytes }
        });
        Ok(outputs.collect())
    }

    fn step(&mut self, at: usize, sizes: &Sizes) -> Result<()> {
        let step = &self.plan.steps[at];
        let fail = |what: String| Error::new(Stage::Run, format!("step {}", step.name), what);
        let problem = step.problem.map(&mut |d| usize::try_from(value(d, sizes)).unwrap_or(0));
        let contract = problem.contract().map_err(|e| fail(e.to_string()))?;
        // The same buffer may be two operands: borrow each once.
        let mut buffers: Vec<usize> = step.inputs.iter().chain(&step.outputs).filter_map(buffer_of).collect();
        buffers.sort_unstable();
        buffers.dedup();
        let mut rest = self.arena.bytes_mut();
        let mut order = buffers.clone();
        order.sort_by_key(|b| self.plan.buffers[*b].offset);
        let (mut pieces, mut consumed): (Vec<Option<&mut [u8]>>, usize) =
            (buffers.iter().map(|_| None).collect(), 0);
        for b in order {
            let (offset, capacity) =
                (self.plan.buffers[b].offset as usize, self.plan.buffers[b].capacity as usize);
            let (_, tail) = rest.split_at_mut(offset - consumed);
            let (piece, tail) = tail.split_at_mut(capacity);
            (rest, consumed) = (tail, offset + capacity);
            if let Ok(i) = buffers.binary_search(&b) {
                pieces[i] = Some(piece);
            }
        }
        let mut outputs = Vec::new();
        for (place, (dtype, shape)) in step.outputs.iter().zip(&contract.outputs) {
            let piece =
                buffer_of(place).and_then(|b| buffers.binary_search(&b).ok()).and_then(|i| pieces[i].take());
            let piece = piece.ok_or_else(|| fail("an output is also an operand".into()))?;
            let len = shape.iter().product::<usize>() * dtype.size();
            outputs.push(ViewMut { dtype: *dtype, bytes: &mut piece[..len] });
        }
        let mut inputs = Vec::new();
        for (place, operand) in step.inputs.iter().zip(&contract.inputs) {
            let all: &[u8] = match place {
                Place::Weight(w) => self.weights[*w].bytes(),
                Place::Buffer(b) => {
                    let i = buffers.binary_search(b).unwrap_or(0);
                    pieces[i].as_deref().ok_or_else(|| fail("an operand is also an output".into()))?
                }
            };
            let len = operand.len * operand.dtype.size();
            let bytes = all
                .get(..len)
                .ok_or_else(|| fail(format!("{} needs {len} bytes of {}", operand.name, all.len())))?;
            inputs.push(View { dtype: operand.dtype, bytes });
        }
        bakelite_host::run(&problem, &inputs, &mut outputs).map_err(|e| fail(e.to_string()))
    }
}

fn buffer_of(place: &Place) -> Option<usize> {
    match place {
        Place::Buffer(b) => Some(*b),
        Place::Weight(_) => None,
    }
}
