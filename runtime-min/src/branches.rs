//! Steps that become branches of a graph: each says which steps it comes after, instead of coming after the last.
//!
//! In a capture this sets what the stream's next work depends on, so a step without a dependency on the one before it is
//! recorded beside it. Outside a capture nothing is done: the stream's own order is one of the orders that the steps allow.

use std::ptr;

use crate::driver::{CUgraphEdgeData, RawGraphNode};
use crate::error::{Error, Result};
use crate::gpu::Stream;

/// What the next node of a capture depends on: nodes, each with the kind of its edge.
type Dependencies = Vec<(RawGraphNode, CUgraphEdgeData)>;

/// The steps of one run through a model, as they are given to a stream.
pub struct Branches<'a> {
    stream: &'a Stream,
    /// `None` where nothing is captured.
    recording: Option<Recording>,
}

struct Recording {
    /// What was in the stream before the first step.
    before: Dependencies,
    /// Of each step that has ended, its last work.
    ends: Vec<Dependencies>,
    /// Whether some step came after it.
    followed: Vec<bool>,
    /// Whether a step has begun that has not ended.
    open: bool,
}

impl<'a> Branches<'a> {
    /// Before the first step.
    pub fn begin(stream: &'a Stream) -> Result<Branches<'a>> {
        let recording = match stream.is_capturing()? {
            false => None,
            true => {
                let before = stream.dependencies()?;
                Some(Recording { before, ends: vec![], followed: vec![], open: false })
            }
        };
        Ok(Branches { stream, recording })
    }

    /// What is enqueued from here on is step `number`, counted from 0, and comes after these earlier steps and all that they came
    /// after; after none of them where the list is empty.
    pub fn step(&mut self, number: usize, after: &[usize]) -> Result<()> {
        let Some(recording) = &mut self.recording else { return Ok(()) };
        if recording.open {
            recording.end(self.stream.dependencies()?);
        }
        let dependencies = recording.begin(number, after)?;
        self.stream.depend_on(&dependencies)
    }

    /// What is enqueued from here on comes after every step.
    pub fn join(&mut self) -> Result<()> {
        let Some(recording) = &mut self.recording else { return Ok(()) };
        if recording.open {
            recording.end(self.stream.dependencies()?);
        }
        self.stream.depend_on(&recording.last())
    }
}

impl Recording {
    fn end(&mut self, dependencies: Dependencies) {
        self.ends.push(dependencies);
        self.followed.push(false);
        self.open = false;
    }

    fn begin(&mut self, number: usize, after: &[usize]) -> Result<Dependencies> {
        let done = self.ends.len();
        let wrong = after.iter().copied().find(|step| *step >= done);
        if number != done || wrong.is_some() {
            let what = match wrong {
                Some(later) => format!("step {number} is to come after step {later}"),
                None => format!("step {number} was begun"),
            };
            return Err(Error::Busy { what: format!("{what}, and {done} steps have ended") });
        }
        after.iter().for_each(|step| self.followed[*step] = true);
        self.open = true;
        Ok(if after.is_empty() { self.before.clone() } else { self.union(after.iter().copied()) })
    }

    // The ends of all steps that no other came after.
    fn last(&self) -> Dependencies {
        let leaves: Vec<usize> = (0..self.ends.len()).filter(|step| !self.followed[*step]).collect();
        if leaves.is_empty() { self.before.clone() } else { self.union(leaves.into_iter()) }
    }

    fn union(&self, steps: impl Iterator<Item = usize>) -> Dependencies {
        let mut union = Dependencies::new();
        for end in steps.flat_map(|step| &self.ends[step]) {
            if !union.iter().any(|(node, _)| *node == end.0) {
                union.push(*end);
            }
        }
        union
    }
}

impl Stream {
    // What the next work of the capture in progress depends on.
    fn dependencies(&self) -> Result<Dependencies> {
        let (mut status, mut id, mut graph) = (0, 0, ptr::null_mut());
        let (mut nodes, mut edges, mut count) = (ptr::null(), ptr::null(), 0);
        // SAFETY: a live stream; the driver writes one value each, and lends two arrays of `count` until the stream is used again.
        unsafe {
            self.gpu().bind()?.cuStreamGetCaptureInfo_v3(
                self.handle(),
                &mut status,
                &mut id,
                &mut graph,
                &mut nodes,
                &mut edges,
                &mut count,
            )?;
            let plain = CUgraphEdgeData { from_port: 0, to_port: 0, type_: 0, reserved: [0; 5] };
            let one = |i: usize| {
                let edge = if edges.is_null() { plain } else { *edges.add(i) };
                (*nodes.add(i), edge)
            };
            Ok(if nodes.is_null() { vec![] } else { (0..count).map(one).collect() })
        }
    }

    fn depend_on(&self, dependencies: &Dependencies) -> Result<()> {
        const SET: u32 = 1;
        let (mut nodes, edges): (Vec<_>, Vec<_>) = dependencies.iter().copied().unzip();
        // SAFETY: a live stream that is being captured, nodes of that capture, and as many edges.
        unsafe {
            self.gpu().bind()?.cuStreamUpdateCaptureDependencies_v2(
                self.handle(),
                nodes.as_mut_ptr(),
                edges.as_ptr(),
                nodes.len(),
                SET,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: CUgraphEdgeData = CUgraphEdgeData { from_port: 0, to_port: 0, type_: 0, reserved: [0; 5] };

    fn node(n: usize) -> (RawGraphNode, CUgraphEdgeData) {
        (ptr::without_provenance_mut(n), PLAIN)
    }

    #[test]
    fn steps_come_after_those_they_name_and_all_are_joined() {
        let mut r = Recording { before: vec![node(9)], ends: vec![], followed: vec![], open: false };
        assert_eq!(r.begin(0, &[]).unwrap(), [node(9)]);
        r.end(vec![node(10)]);
        for (step, end) in [(1, 11), (2, 12)] {
            assert_eq!(r.begin(step, &[0]).unwrap(), [node(10)]);
            r.end(vec![node(end)]);
        }
        assert_eq!(r.last(), [node(11), node(12)]);
        // A step that launches nothing ends where it began.
        let both = r.begin(3, &[1, 2]).unwrap();
        assert_eq!(both, [node(11), node(12)]);
        r.end(both);
        assert_eq!(r.begin(4, &[2, 3]).unwrap(), [node(12), node(11)]);
        r.end(vec![node(14)]);
        assert_eq!(r.last(), [node(14)]);
    }

    #[test]
    fn a_step_comes_after_earlier_ones_only() {
        let mut r = Recording { before: vec![], ends: vec![], followed: vec![], open: false };
        let later = r.begin(0, &[0]).unwrap_err();
        assert_eq!(later.to_string(), "busy: step 0 is to come after step 0, and 0 steps have ended");
        assert!(r.begin(1, &[]).is_err());
        assert!(r.begin(0, &[]).unwrap().is_empty());
    }
}
