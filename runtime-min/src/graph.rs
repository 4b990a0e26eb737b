//! Recorded work: everything a stream was given, replayed by one call.

use std::collections::HashMap;
use std::fmt;
use std::ptr;
use std::sync::Arc;

use crate::driver::{RawGraph, RawGraphExec, code};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Stream};
use crate::module::Loaded;

/// A graph ready to run. It keeps the modules of its kernels loaded; the buffers are the caller's to keep.
pub struct Graph {
    gpu: Gpu,
    exec: RawGraphExec,
    modules: Vec<Arc<Loaded>>,
}

// SAFETY: a graph may be used from any thread; it is not `Sync`, as the driver does not lock it.
unsafe impl Send for Graph {}

/// Ends a capture on every way out, a panic included.
struct Capture<'a> {
    stream: &'a Stream,
    open: bool,
}

impl<'a> Capture<'a> {
    fn begin(stream: &'a Stream) -> Result<Capture<'a>> {
        // Calls that would break a capture (allocation, module loading) are refused on this thread, not on others.
        const THREAD_LOCAL: i32 = 1;
        if stream.is_capturing()? {
            return Err(Error::Busy { what: "the stream is already being captured".to_owned() });
        }
        // SAFETY: a live stream.
        let begun = unsafe { stream.gpu().bind()?.cuStreamBeginCapture_v2(stream.handle(), THREAD_LOCAL) };
        begun.map_err(|error| match error.driver_code() {
            Some(code::ILLEGAL_STATE) => {
                Error::Busy { what: format!("the stream cannot be captured now: {error}") }
            }
            _ => error,
        })?;
        stream.captured().clear();
        stream.set_capturing(true);
        Ok(Capture { stream, open: true })
    }

    fn end(&mut self) -> Result<(RawGraph, Vec<Arc<Loaded>>)> {
        self.open = false;
        self.stream.set_capturing(false);
        let modules = std::mem::take(&mut *self.stream.captured());
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is being captured by this thread; the driver writes one handle.
        unsafe { self.stream.gpu().bind()?.cuStreamEndCapture(self.stream.handle(), &mut graph)? };
        Ok((graph, modules))
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        if let (Ok((graph, _)), Ok(driver)) = (self.end(), self.stream.gpu().bind())
            && !graph.is_null()
        {
            // SAFETY: just returned by the driver, and used nowhere else.
            let _ = unsafe { driver.cuGraphDestroy(graph) };
        }
    }
}

impl Graph {
    /// Records what the closure enqueues on the stream, without running it. If the closure fails, the capture is
    /// ended, what was recorded is dropped, and its error returned.
    pub fn capture(stream: &Stream, record: impl FnOnce(&Stream) -> Result<()>) -> Result<Graph> {
        let mut capture = Capture::begin(stream)?;
        record(stream)?;
        let (graph, modules) = capture.end()?;
        let driver = stream.gpu().bind()?;
        let mut exec = ptr::null_mut();
        // SAFETY: the graph was just returned by the driver and is destroyed here once; the driver writes one handle.
        let instantiated = unsafe {
            let instantiated = driver.cuGraphInstantiateWithFlags(&mut exec, graph, 0);
            driver.cuGraphDestroy(graph)?;
            instantiated
        };
        instantiated?;
        Ok(Graph { gpu: stream.gpu().clone(), exec, modules })
    }

    /// Enqueues the whole work. A graph that is still running is waited for first, on the device.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: live handles; not `Sync`, so no other thread uses the graph now.
        unsafe { self.gpu.bind()?.cuGraphLaunch(self.exec, stream.handle()) }
    }

    /// Moves what the first launch would move to the device.
    pub fn upload(&self, stream: &Stream) -> Result<()> {
        // SAFETY: as in `launch`.
        unsafe { self.gpu.bind()?.cuGraphUpload(self.exec, stream.handle()) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(driver) = self.gpu.bind() {
            // SAFETY: instantiated once; the driver lets a running graph finish.
            let _ = unsafe { driver.cuGraphExecDestroy(self.exec) };
        }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} modules)", self.modules.len())
    }
}

/// The graphs of a model with dynamic dimensions: one for each combination of their values met lately.
#[derive(Debug)]
pub struct GraphCache<G = Graph> {
    capacity: usize,
    clock: u64,
    /// With the time of the last use.
    graphs: HashMap<Vec<i64>, (G, u64)>,
}

impl<G> GraphCache<G> {
    /// An empty cache that keeps at most `capacity` graphs, and at least one.
    pub fn new(capacity: usize) -> GraphCache<G> {
        GraphCache { capacity: capacity.max(1), clock: 0, graphs: HashMap::new() }
    }

    /// The graph for these values, made if it is not there; the one not used for longest makes room.
    pub fn get_or_make(&mut self, values: &[i64], make: impl FnOnce() -> Result<G>) -> Result<&G> {
        self.clock += 1;
        if !self.graphs.contains_key(values) {
            let made = make()?;
            if self.graphs.len() >= self.capacity {
                self.evict();
            }
            self.graphs.insert(values.to_vec(), (made, 0));
        }
        // Just found or inserted; the key is looked up twice because a borrow cannot be returned from one branch only.
        let entry =
            self.graphs.get_mut(values).ok_or_else(|| Error::Busy { what: "the graph cache".to_owned() })?;
        entry.1 = self.clock;
        Ok(&entry.0)
    }

    fn evict(&mut self) {
        let oldest = self.graphs.iter().min_by_key(|(_, (_, used))| *used).map(|(values, _)| values.clone());
        if let Some(values) = oldest {
            self.graphs.remove(&values);
        }
    }

    /// How many graphs it holds.
    pub fn len(&self) -> usize {
        self.graphs.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.graphs.is_empty()
    }

    /// Drops all graphs: for when a buffer they use has moved.
    pub fn clear(&mut self) {
        self.graphs.clear();
    }
}

impl GraphCache<Graph> {
    /// [`get_or_make`](Self::get_or_make) by capturing.
    pub fn get_or_capture(
        &mut self,
        values: &[i64],
        stream: &Stream,
        record: impl FnOnce(&Stream) -> Result<()>,
    ) -> Result<&Graph> {
        self.get_or_make(values, || Graph::capture(stream, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graph_not_used_for_longest_makes_room() {
        let mut cache = GraphCache::new(2);
        let mut made = Vec::new();
        for key in [1, 2, 1, 3, 1, 2] {
            let value = *cache
                .get_or_make(&[key], || {
                    made.push(key);
                    Ok(key * 10)
                })
                .unwrap();
            assert_eq!(value, key * 10);
        }
        assert_eq!(made, [1, 2, 3, 2]);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_failure_to_make_leaves_the_cache_as_it_was() {
        let mut cache = GraphCache::new(1);
        cache.get_or_make(&[1], || Ok('a')).unwrap();
        let error = Error::Busy { what: "x".into() };
        assert_eq!(cache.get_or_make(&[2], || Err(error.clone())), Err(error));
        assert_eq!(cache.get_or_make(&[1], || Ok('b')), Ok(&'a'));
    }
}
