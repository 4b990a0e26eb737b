//! Recognition: subgraphs that stand for one operator become that operator. A subgraph is only replaced where nothing else
//! reads what lies inside it. The result rounds differently, by the operator's own accumulation order.

mod activation;
mod attention;
mod norm;
mod product;

pub(super) use product::row_operand;

use super::{Options, Rule, layout, rewrite, simplify};
use crate::ir::Graph;

/// Every rule. Movement is simplified along the way: what composition frees must merge before the next rule looks.
const TABLES: [&[(&str, Rule)]; 6] =
    [simplify::MOVEMENT, layout::HEADS, norm::RULES, activation::RULES, product::RULES, attention::RULES];

/// Applies every rule until none fires.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), String> {
    rewrite(graph, &TABLES.concat()).map(drop)
}
