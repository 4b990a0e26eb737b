//! The plan's text: `plan.txt` of a generated crate and the last of the numbered dumps.

use super::{Place, Plan};
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan \"{}\" for {}", self.name, self.target)?;
        for (name, range) in &self.symbols {
            writeln!(f, "symbol {name} = {}..{} opt {}", range.min, range.max, range.opt)?;
        }
        writeln!(
            f,
            "arena {} bytes, {:.2} times the lower bound; weights {} bytes in {}; kernels {}; steps {}{}",
            self.arena,
            self.arena_ratio(),
            self.weight_bytes,
            self.weights.len(),
            self.kernels.len(),
            self.steps.len(),
            if self.lanes > 1 { format!(" on {} lanes", self.lanes) } else { String::new() }
        )?;
        for (what, ports) in [("input", &self.inputs), ("output", &self.outputs)] {
            for p in ports {
                writeln!(f, "{what} \"{}\": {} in b{}", p.name, p.ty, p.buffer)?;
            }
        }
        writeln!(f, "\nbuffers: offset + capacity, steps alive")?;
        for (i, b) in self.buffers.iter().enumerate() {
            writeln!(
                f,
                "  b{i:<4} {:>12} + {:<12} {:>4}..{:<4} {}",
                b.offset, b.capacity, b.first, b.last, b.name
            )?;
        }
        if !self.weights.is_empty() {
            writeln!(f, "\nweights: offset + bytes")?;
        }
        for (i, w) in self.weights.iter().enumerate() {
            writeln!(f, "  w{i:<4} {:>12} + {:<12} {} {}", w.offset, w.bytes.len(), w.name, w.text)?;
        }
        writeln!(f, "\nsteps")?;
        let place = |p: &Place| match p {
            Place::Buffer(b) => format!("b{b}"),
            Place::Weight(w) => format!("w{w}"),
        };
        for (i, step) in self.steps.iter().enumerate() {
            let list = |places: &[Place]| places.iter().map(place).collect::<Vec<_>>().join(" ");
            write!(f, "{i:>4} ")?;
            if self.lanes > 1 {
                let after: Vec<String> = step.after.iter().map(usize::to_string).collect();
                write!(
                    f,
                    "lane {} after {}: ",
                    step.lane,
                    if after.is_empty() { "none".to_owned() } else { after.join(" ") }
                )?;
            }
            writeln!(f, "{} <- {}   {}", list(&step.outputs), list(&step.inputs), step.name)?;
            writeln!(f, "     {}", step.problem)?;
            let Some(cuda) = &step.cuda else { continue };
            write!(f, "     {}", cuda.tactic)?;
            if let Some(time) = cuda.measured {
                write!(f, "   {time:.2} us")?;
            }
            writeln!(f)?;
            for l in &cuda.launches {
                let [x, y, z] = &l.grid;
                let kernel = &self.kernels[l.kernel].name;
                writeln!(
                    f,
                    "       {kernel}<<<({x}, {y}, {z}), {}, {}>>>",
                    l.block[0] * l.block[1] * l.block[2],
                    l.shared
                )?;
            }
        }
        Ok(())
    }
}
