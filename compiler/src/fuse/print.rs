//! The regions' text, for `--emit regions` and the dumps: one line a region, its problem, and the operators inside.

use super::Regions;
use crate::ir::Value;
use std::fmt;

impl fmt::Display for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "regions of \"{}\": {}", self.graph.name, self.regions.len())?;
        let list = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>().join(" ");
        for (at, region) in self.regions.iter().enumerate() {
            writeln!(f, "{at:>4} {} <- {}   {}", list(&region.outputs), list(&region.inputs), region.name)?;
            writeln!(f, "     {}", region.placed())?;
            for id in &region.nodes {
                let node = self.graph.node(*id);
                if let Some(op) = node.op() {
                    writeln!(
                        f,
                        "       %{} = {}({})  // {}",
                        id.0,
                        op.name(),
                        list(&node.inputs),
                        node.name
                    )?;
                }
            }
        }
        for (name, value) in &self.graph.outputs {
            writeln!(f, "output \"{name}\" = {value}")?;
        }
        Ok(())
    }
}
