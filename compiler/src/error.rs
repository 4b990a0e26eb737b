//! The one error of the compiler: which stage, where in the model, and a sentence with both values.

use std::fmt;

/// A stage of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Stage {
    Decode,
    Import,
    Passes,
    Fuse,
    Tune,
    Plan,
    Emit,
    Run,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Decode => "decode",
            Stage::Import => "import",
            Stage::Passes => "passes",
            Stage::Fuse => "fuse",
            Stage::Tune => "tune",
            Stage::Plan => "plan",
            Stage::Emit => "emit",
            Stage::Run => "run",
        })
    }
}

/// What went wrong. Displays as `import: node "conv1" (Conv): inner dimensions differ: 64 and 65`.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// Where in the pipeline.
    pub stage: Stage,
    /// Where in the model: a node with its operator, a tensor, a file; empty where there is no such place.
    pub at: String,
    /// A sentence that names both values where two disagree.
    pub what: String,
    /// What to do about it, where there is something to do.
    pub help: Option<String>,
}

/// Shorthand for the compiler's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `stage` at a place in the model.
    pub fn new(stage: Stage, at: impl Into<String>, what: impl Into<String>) -> Error {
        Error { stage, at: at.into(), what: what.into(), help: None }
    }

    /// The same error with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.stage)?;
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {}
