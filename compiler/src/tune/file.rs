//! The tactics file: a lock file of what was measured, text and sorted, made to be committed.
//!
//! ```text
//! # bakelite tactics 1
//! # NVIDIA H200, driver 580.159.04, 2026-11-20
//! sm_90a | conv n=1 ... | conv.mma/1 m64 n32 k64 stages3 | 3.41 | NVIDIA H200
//! ```
//!
//! The comment says where it was last measured. A line without a GPU was measured on the comment's.

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
    /// The GPU that it was measured on; empty where that is not known.
    pub gpu: String,
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
        if let Some((gpu, _)) = tactics.measured_on.split_once(", driver ") {
            let unnamed = tactics.entries.values_mut().filter(|e| e.gpu.is_empty());
            unnamed.for_each(|e| gpu.clone_into(&mut e.gpu));
        }
        Ok(tactics)
    }

    fn parse_line(line: &str) -> Result<((Arch, String), Entry), String> {
        let parts: Vec<&str> = line.split(" | ").collect();
        let (arch, problem, tactic, time, gpu) = match *parts.as_slice() {
            [arch, problem, tactic, time] => (arch, problem, tactic, time, ""),
            [arch, problem, tactic, time, gpu] => (arch, problem, tactic, time, gpu.trim()),
            _ => {
                return Err(format!(
                    "expected `arch | problem | tactic | µs | GPU`, got {} parts",
                    parts.len()
                ));
            }
        };
        let (microseconds, gpu) =
            (time.trim().parse().map_err(|e| format!("`{time}` is no time: {e}"))?, gpu.to_owned());
        Ok(((arch.parse()?, problem.to_owned()), Entry { tactic: tactic.parse()?, microseconds, gpu }))
    }

    /// The file's text: sorted, so that it does not change unless a measurement does.
    pub fn print(&self) -> String {
        let mut text = format!("{HEADER}\n");
        if !self.measured_on.is_empty() {
            let _ = writeln!(text, "# {}", self.measured_on);
        }
        for ((arch, problem), entry) in &self.entries {
            let _ = write!(text, "{arch} | {problem} | {} | {:.2}", entry.tactic, entry.microseconds);
            let gpu = if entry.gpu.is_empty() { String::new() } else { format!(" | {}", entry.gpu) };
            let _ = writeln!(text, "{gpu}");
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

    /// Takes over all that another file has.
    pub fn merge(&mut self, other: &Tactics) {
        self.entries.extend(other.entries.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        if !other.measured_on.is_empty() {
            self.measured_on.clone_from(&other.measured_on);
        }
    }

    /// For each architecture and GPU, the number of entries.
    pub fn origins(&self) -> BTreeMap<(Arch, &str), usize> {
        let mut origins = BTreeMap::new();
        for ((arch, _), entry) in &self.entries {
            *origins.entry((*arch, entry.gpu.as_str())).or_insert(0) += 1;
        }
        origins
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

    #[test]
    fn entries_know_their_gpu() {
        let old = "# bakelite tactics 1\n# NVIDIA H200, driver 580.1, 2026-11-20\nsm_90a | x | gemm.mma/1 m64 | 3.41\n";
        let mut tactics = Tactics::parse(old).unwrap();
        let line = "sm_90a | x | gemm.mma/1 m64 | 3.41 | NVIDIA H200\n";
        assert!(tactics.print().ends_with(line), "{}", tactics.print());
        let arch: Arch = "sm_90a".parse().unwrap();
        assert_eq!(tactics.origins(), BTreeMap::from([((arch, "NVIDIA H200"), 1)]));
        let other =
            Tactics::parse("# bakelite tactics 1\n# A, driver 1, today\nsm_80 | x | gemm.mma/1 m32 | 2\n");
        tactics.merge(&other.unwrap());
        assert_eq!((tactics.len(), tactics.measured_on.as_str()), (2, "A, driver 1, today"));
        assert_eq!(Tactics::parse(&tactics.print()).unwrap(), tactics);
    }
}
