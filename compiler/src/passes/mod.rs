//! The passes: Graph to Graph, in one fixed order. Each leaves the graph's inputs, outputs and their types as they are and
//! computes the same function, up to the rounding that its doc names. The verifier runs after each, in release too.

pub mod compose;
pub mod fold;
pub mod layout;
pub mod legalize;
pub mod patches;
mod pattern;
pub mod precision;
pub mod siblings;
pub mod simplify;
pub mod upsample;
pub mod vectors;

use crate::error::{Error, Result, Stage};
use crate::ir::{Graph, NodeId, verify};
use bakelite_host::problem::Math;

/// What the plan will run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TargetKind {
    /// Host kernels.
    Host,
    /// CUDA kernels.
    #[default]
    Cuda,
}

/// What f32 operators compute in. Accumulation is f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// As the model says.
    #[default]
    Fp32,
    /// Matrix products and convolutions round their f32 operands to tf32.
    Tf32,
    /// Matrix products and convolutions take their f32 operands as two tf32 each (3xTF32): nearly fp32, on tensor cores.
    Tf32x3,
    /// f16 operands and results.
    Fp16,
    /// bf16 operands and results.
    Bf16,
}

impl Precision {
    /// What f32 products and convolutions compute in.
    pub fn math(self) -> Math {
        match self {
            Precision::Tf32 => Math::Tf32,
            Precision::Tf32x3 => Math::Tf32x3,
            Precision::Fp32 | Precision::Fp16 | Precision::Bf16 => Math::Exact,
        }
    }
}

/// What the passes need to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Target of the plan.
    pub target: TargetKind,
    /// Policy for f32 operators.
    pub precision: Precision,
    /// The largest constant that folding may make, unless its operands are no smaller.
    pub fold_budget_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            target: TargetKind::default(),
            precision: Precision::default(),
            fold_budget_bytes: 16 << 20,
        }
    }
}

/// Sees the graph after every pass.
pub trait Trace {
    /// Called with the pass's name and its result.
    fn after(&mut self, pass: &str, graph: &Graph);
}

impl Trace for () {
    fn after(&mut self, _: &str, _: &Graph) {}
}

/// One pass.
pub type Pass = fn(&mut Graph, &Options) -> Result<(), String>;

/// Every pass in order. What layout and precision leave behind (casts and transposes of constants) is folded and tidied by
/// a second round of the first two.
pub const PASSES: &[(&str, Pass)] = &[
    ("fold", fold::run),
    ("simplify", simplify::run),
    ("refold", fold::run),
    ("compose", compose::run),
    ("precision", precision::run),
    ("vectors", vectors::run),
    ("layout", layout::run),
    ("tidy", tidy),
    ("siblings", siblings::run),
    ("upsample", upsample::run),
    ("patches", patches::run),
    ("legalize", legalize::run),
];

fn tidy(graph: &mut Graph, options: &Options) -> Result<(), String> {
    fold::run(graph, options)?;
    simplify::run(graph, options)?;
    fold::run(graph, options)
}

/// Runs every pass, verifying and tracing after each.
pub fn run(mut graph: Graph, options: &Options, trace: &mut dyn Trace) -> Result<Graph> {
    check("import", &graph)?;
    for (name, pass) in PASSES {
        apply(name, *pass, &mut graph, options)?;
        trace.after(name, &graph);
    }
    Ok(graph)
}

/// Runs one pass, removes what became dead, and verifies.
pub fn apply(name: &str, pass: Pass, graph: &mut Graph, options: &Options) -> Result<()> {
    pass(graph, options).map_err(|what| Error::new(Stage::Passes, name, what))?;
    graph.remove_dead();
    check(name, graph)
}

fn check(name: &str, graph: &Graph) -> Result<()> {
    verify(graph).map_err(|what| Error::new(Stage::Passes, format!("after {name}"), what))
}

/// A rewrite of what ends in one node: `Ok(true)` if it changed the graph. Its doc is its equation.
pub(crate) type Rule = fn(&mut Graph, NodeId) -> Result<bool, String>;

/// Rounds of [`rewrite`]: far more than nested rewrites need; it only bounds the harm of two rules that undo each other.
const ROUNDS: usize = 64;

/// Applies the rules until none fires. In each round every node is visited once, operands before readers, and takes the
/// first rule that fits. Returns how many fired.
pub(crate) fn rewrite(graph: &mut Graph, rules: &[(&str, Rule)]) -> Result<usize, String> {
    let mut total = 0;
    for _ in 0..ROUNDS {
        let mut fired = 0;
        for id in graph.order() {
            for (name, rule) in rules {
                if !graph.contains(id) {
                    break;
                }
                let before = graph.len();
                if rule(graph, id).map_err(|e| format!("rule {name}: {e}"))? {
                    fired += 1;
                    graph.prune(id);
                } else if graph.len() > before {
                    // What a rule made before it gave up would count as a reader.
                    graph.remove_dead();
                }
            }
        }
        graph.remove_dead();
        total += fired;
        if fired == 0 {
            break;
        }
    }
    Ok(total)
}
