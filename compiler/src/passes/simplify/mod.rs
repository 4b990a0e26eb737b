//! Simplification by equations, to a fixpoint. Rules never make worse code, and never change a type; floats may round
//! differently where two constants meet (`(x·a)·b = x·(a·b)`) or a weight takes a factor up.

mod arithmetic;
mod broadcast;
mod mask;
mod movement;
mod sharing;
mod triangle;
mod weights;

use super::{Options, Rule, rewrite};
use crate::ir::Graph;

/// Every rule.
const TABLES: [&[(&str, Rule)]; 5] =
    [arithmetic::RULES, broadcast::RULES, mask::RULES, movement::RULES, weights::RULES];

/// The rules on movement of data alone, which composition needs too.
pub(super) const MOVEMENT: &[(&str, Rule)] = movement::RULES;

/// Applies every rule and shares equal subexpressions, until nothing changes.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), String> {
    let rules = TABLES.concat();
    sharing::run(graph)?;
    // Each round that continues has removed a node.
    while rewrite(graph, &rules)? > 0 && sharing::run(graph)? > 0 {}
    Ok(())
}
