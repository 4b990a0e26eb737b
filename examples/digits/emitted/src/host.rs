//! The model on a CPU.

use crate::{Inputs, Outputs, Result, Sizes, host_steps};
use bakelite_host::arena::{Arena, Place, at};
use bakelite_host::{Element, RunError};
use bakelite_runtime::Error;
use bakelite_runtime::shaped;
use std::sync::Arc;

bakelite_runtime::embed_weights!(
    fn embedded = digits_host_25e324ae,
    concat!(env!("CARGO_MANIFEST_DIR"), "/weights.host.bin")
);

/// Constant data.
pub(crate) struct Weights {}

impl Weights {
    pub(crate) fn open() -> Result<Weights> {
        Ok(Weights {})
    }

    fn bytes(&self) -> &[u8] {
        embedded()
    }
}

/// Memory for one inference at a time.
pub(crate) struct Session {
    weights: Arc<Weights>,
    arena: Arena,
}

impl Session {
    pub(crate) fn new(weights: Arc<Weights>) -> Session {
        Session {
            weights,
            arena: Arena::new(1589248),
        }
    }

    pub(crate) fn infer(
        &mut self,
        inputs: &Inputs<'_>,
        sizes: &Sizes,
    ) -> Result<Outputs> {
        let Sizes { batch } = *sizes;
        place(
            &mut self.arena,
            at(1572864, (64 * batch) as usize),
            shaped::flat_rows(inputs.x),
        )?;
        host_steps::run(self.weights.bytes(), &mut self.arena, sizes)?;
        let mut logits = shaped::rows_zeroed::<[f32; 10]>(batch as usize);
        fetch(
            &self.arena,
            at(16384, (10 * batch) as usize),
            shaped::flat_rows_mut(&mut logits),
        )?;
        Ok(Outputs { logits })
    }
}

fn place<T: Element>(arena: &mut Arena, to: Place<T>, from: &[T]) -> Result<()> {
    arena.write(to).map_err(refused)?.copy_from_slice(from);
    Ok(())
}

fn fetch<T: Element>(arena: &Arena, from: Place<T>, to: &mut [T]) -> Result<()> {
    to.copy_from_slice(arena.read(from).map_err(refused)?);
    Ok(())
}

fn refused(error: RunError) -> Error {
    Error::Step {
        step: "memory".to_owned(),
        what: error.to_string(),
    }
}
