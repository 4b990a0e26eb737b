//! The tactics file: a lock file of what was measured, text and sorted, made to be committed.
//!
//! ```text
//! # bakelite tactics 1
//! # NVIDIA H200, driver 580.159.04, 2026-11-20
//! sm_90a | conv n=1 ... | conv.mma/1 m64 n32 k64 stages3 | 3.41
//! ```

use bakelite_kernels::{Arch, Dim, Problem, Tactic};
use std::collections::BTreeMap;
use std::fmt::Write;

const HEADER: &str = "# bakelite tactics 1";

/// What was measured for one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The fastest tactic.
    pub tactic: Tactic,
    /// Its time.
    pub microseconds: f64,
}

/// The contents of a tactics file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tactics {
    /// Where it was measured, for people: GPU, driver, date.
    pub measured_on: String,
    entries: BTreeMap<(Arch, String), Entry>,
}

impl Tactics {
    /// Reads a file's text; the error names the line.
    pub fn parse(text: &str) -> Result<Tactics, String> {
        let mut tactics = Tactics::default();
        let mut lines = text.lines().enumerate();
        match lines.next() {
            Some((_, HEADER)) => {}
            first => {
                let got = first.map_or("nothing", |(_, l)| l);
                return Err(format!("line 1: expected `{HEADER}`, got `{got}`"));
            }
        }
        for (number, line) in lines {
            if let Some(comment) = line.strip_prefix("# ") {
                tactics.measured_on = comment.to_owned();
            } else if !line.trim().is_empty() {
                let (key, entry) =
                    Tactics::parse_line(line).map_err(|e| format!("line {}: {e}", number + 1))?;
                tactics.entries.insert(key, entry);
            }
        }
        Ok(tactics)
    }

    fn parse_line(line: &str) -> Result<((Arch, String), Entry), String> {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [arch, problem, tactic, time] = parts.as_slice() else {
            return Err(format!("expected `arch | problem | tactic | µs`, got {} parts", parts.len()));
        };
        let microseconds = time.trim().parse().map_err(|e| format!("`{time}` is no time: {e}"))?;
        Ok(((arch.parse()?, (*problem).to_owned()), Entry { tactic: tactic.parse()?, microseconds }))
    }

    /// The file's text: sorted, so that it does not change unless a measurement does.
    pub fn print(&self) -> String {
        let mut text = format!("{HEADER}\n");
        if !self.measured_on.is_empty() {
            let _ = writeln!(text, "# {}", self.measured_on);
        }
        for ((arch, problem), entry) in &self.entries {
            let _ = writeln!(text, "{arch} | {problem} | {} | {:.2}", entry.tactic, entry.microseconds);
        }
        text
    }

    /// The entry for a problem on an architecture.
    pub fn get(&self, arch: Arch, problem: &Problem<Dim>) -> Option<&Entry> {
        self.entries.get(&(arch, problem.to_string()))
    }

    /// Records a measurement.
    pub fn set(&mut self, arch: Arch, problem: &Problem<Dim>, entry: Entry) {
        self.entries.insert((arch, problem.to_string()), entry);
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_errors_name_the_line() {
        let text = "# bakelite tactics 1\n# H200\nsm_90a | gemm m=1 | gemm.mma/1 m64 n32 | 3.41\n";
        let tactics = Tactics::parse(text).unwrap();
        assert_eq!((tactics.len(), tactics.print().as_str()), (1, text));
        assert!(Tactics::parse("").unwrap_err().contains("line 1"));
        assert!(Tactics::parse(&format!("{text}sm_90a | x | y\n")).unwrap_err().contains("line 4"));
    }
}
