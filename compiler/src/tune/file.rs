//! The tactics file: a lock file of what was measured, text and sorted, made to be committed.
//!
//! ```text
//! # bakelite tactics 1
//! # NVIDIA H200, driver 580.159.04, 2026-11-20
//! sm_90a | conv n=1 ... | conv.mma/1 m64 n32 k64 stages3 | 3.41 | NVIDIA H200
//! sm_90a | join conv n=1 ... added=256 ... | apart by conv.mma/1, not by conv.wgmma/2 | saves 1.52 | NVIDIA H200
//! sm_90a | join conv n=1 ... added=512 ... | apart, not by conv.wgmma/2 | saves 0.00 | NVIDIA H200
//! sm_90a | plan 3f0c9a52d1b7e684 resnet50 | lanes 2 | 98.10 | NVIDIA H200
//! ```
//!
//! The comment says where it was last measured. A line without a GPU was measured on the comment's. A line with `join` says
//! whether regions that can be joined are ([`fuse::join`](crate::fuse::join)), which families did it so, which the other way, and
//! how many µs that saved in the plan in which it was settled. Without families that did it so, those of the other way did it wrong.
//! A line with `plan` is a whole plan's ([`Plan::key`](crate::plan::Plan::key), and its name for people): on how many lanes it is
//! fastest.

use crate::fuse::alternative::Way;
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

/// Whether regions are joined, as the whole plan settled it.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// Which way is faster.
    pub way: Way,
    /// The families, with their versions, whose kernels did it this way and the other. The first are not known where the second's
    /// kernels were all wrong.
    pub families: [Vec<String>; 2],
    /// µs that it saved in the plan in which it was settled.
    pub saved: f64,
    /// The GPU that it was settled on; empty where that is not known.
    pub gpu: String,
}

const JOIN: &str = "join ";
const NOT: &str = ", not by ";

impl Join {
    fn parse(verdict: &str, saved: &str, gpu: &str) -> Result<Join, String> {
        // Where the other way's kernels were all wrong, no families are named for this one.
        let parts =
            verdict.split_once(NOT).map(|(this, not)| (this.split_once(" by ").unwrap_or((this, "")), not));
        let (way, by) = match parts {
            Some((("joined", by), not)) => (Way::Joined, (by, not)),
            Some((("apart", by), not)) => (Way::Apart, (by, not)),
            _ => {
                return Err(format!(
                    "expected `joined by families{NOT}families`, or `apart ...`, got `{verdict}`"
                ));
            }
        };
        let families = |text: &str| {
            let words = text.split_whitespace().map(|word| {
                let version = word.split_once('/').map(|(_, version)| version.parse::<u32>());
                match version {
                    Some(Ok(_)) => Ok(word.to_owned()),
                    _ => Err(format!("`{word}` is no `family/version`")),
                }
            });
            words.collect::<Result<Vec<_>, _>>()
        };
        let time = saved.strip_prefix("saves ").and_then(|time| time.trim().parse().ok());
        let saved = time.ok_or_else(|| format!("expected `saves µs`, got `{saved}`"))?;
        Ok(Join { way, families: [families(by.0)?, families(by.1)?], saved, gpu: gpu.to_owned() })
    }
}

/// What was measured for a whole plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Lanes {
    /// The plan's name, for people.
    pub name: String,
    /// How many lanes it is fastest on.
    pub count: usize,
    /// Its time.
    pub microseconds: f64,
    /// The GPU that it was measured on; empty where that is not known.
    pub gpu: String,
}

const PLAN: &str = "plan ";
const LANES: &str = "lanes ";

/// The contents of a tactics file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tactics {
    /// Where it was measured, for people: GPU, driver, date.
    pub measured_on: String,
    entries: BTreeMap<(Arch, String), Entry>,
    joins: BTreeMap<(Arch, String), Join>,
    /// By the plan's key.
    lanes: BTreeMap<(Arch, String), Lanes>,
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
                tactics.read_line(line).map_err(|e| format!("line {}: {e}", number + 1))?;
            }
        }
        if let Some((gpu, _)) = tactics.measured_on.split_once(", driver ") {
            let gpus = tactics.entries.values_mut().map(|e| &mut e.gpu);
            let gpus = gpus.chain(tactics.joins.values_mut().map(|j| &mut j.gpu));
            let gpus = gpus.chain(tactics.lanes.values_mut().map(|l| &mut l.gpu));
            gpus.filter(|g| g.is_empty()).for_each(|g| gpu.clone_into(g));
        }
        Ok(tactics)
    }

    fn read_line(&mut self, line: &str) -> Result<(), String> {
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
        let arch = arch.parse()?;
        if let Some(text) = problem.strip_prefix(JOIN) {
            self.joins.insert((arch, text.to_owned()), Join::parse(tactic, time, gpu)?);
            return Ok(());
        }
        let (microseconds, gpu) =
            (time.trim().parse().map_err(|e| format!("`{time}` is no time: {e}"))?, gpu.to_owned());
        if let (Some(plan), Some(count)) = (problem.strip_prefix(PLAN), tactic.strip_prefix(LANES)) {
            let (key, name) = plan.split_once(' ').unwrap_or((plan, ""));
            let count = count.parse().map_err(|e| format!("`{count}` is no number of lanes: {e}"))?;
            let lanes = Lanes { name: name.to_owned(), count, microseconds, gpu };
            self.lanes.insert((arch, key.to_owned()), lanes);
            return Ok(());
        }
        let entry = Entry { tactic: tactic.parse()?, microseconds, gpu };
        self.entries.insert((arch, problem.to_owned()), entry);
        Ok(())
    }

    /// The file's text: sorted, so that it does not change unless a measurement does.
    pub fn print(&self) -> String {
        let mut text = format!("{HEADER}\n");
        if !self.measured_on.is_empty() {
            let _ = writeln!(text, "# {}", self.measured_on);
        }
        let on = |gpu: &str| if gpu.is_empty() { String::new() } else { format!(" | {gpu}") };
        for ((arch, problem), entry) in &self.entries {
            let Entry { tactic, microseconds, gpu } = entry;
            let _ = writeln!(text, "{arch} | {problem} | {tactic} | {microseconds:.2}{}", on(gpu));
        }
        for ((arch, joined), Join { way, families, saved, gpu }) in &self.joins {
            let [by, other] = [0, 1].map(|i| families[i].join(" "));
            let by = if by.is_empty() { by } else { format!(" by {by}") };
            let _ = writeln!(
                text,
                "{arch} | {JOIN}{joined} | {way}{by}{NOT}{other} | saves {saved:.2}{}",
                on(gpu)
            );
        }
        for ((arch, key), Lanes { name, count, microseconds, gpu }) in &self.lanes {
            let time = format!("{microseconds:.2}{}", on(gpu));
            let _ = writeln!(text, "{arch} | {PLAN}{key} {name} | {LANES}{count} | {time}");
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

    /// What was settled about regions that can be joined, by what they are.
    pub fn joins(&self, arch: Arch) -> impl Iterator<Item = (&str, &Join)> {
        self.joins.iter().filter(move |((a, _), _)| *a == arch).map(|((_, text), join)| (text.as_str(), join))
    }

    /// Records what was settled about regions that can be joined.
    pub fn set_join(&mut self, arch: Arch, text: &str, join: Join) {
        self.joins.insert((arch, text.to_owned()), join);
    }

    /// On how many lanes the plan with this key is fastest.
    pub fn lanes(&self, arch: Arch, key: &str) -> Option<&Lanes> {
        self.lanes.get(&(arch, key.to_owned()))
    }

    /// Records on how many lanes the plan with this key is fastest.
    pub fn set_lanes(&mut self, arch: Arch, key: &str, lanes: Lanes) {
        self.lanes.insert((arch, key.to_owned()), lanes);
    }

    /// Takes over all that another file has.
    pub fn merge(&mut self, other: &Tactics) {
        self.entries.extend(other.entries.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        self.joins.extend(other.joins.iter().map(|(key, join)| (key.clone(), join.clone())));
        self.lanes.extend(other.lanes.iter().map(|(key, lanes)| (key.clone(), lanes.clone())));
        if !other.measured_on.is_empty() {
            self.measured_on.clone_from(&other.measured_on);
        }
    }

    /// For each architecture and GPU, the number of entries.
    pub fn origins(&self) -> BTreeMap<(Arch, &str), usize> {
        let mut origins = BTreeMap::new();
        let entries = self.entries.iter().map(|((arch, _), entry)| (*arch, entry.gpu.as_str()));
        let joins = self.joins.iter().map(|((arch, _), join)| (*arch, join.gpu.as_str()));
        let lanes = self.lanes.iter().map(|((arch, _), lanes)| (*arch, lanes.gpu.as_str()));
        entries.chain(joins).chain(lanes).for_each(|origin| *origins.entry(origin).or_insert(0) += 1);
        origins
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len() + self.joins.len() + self.lanes.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
    fn joins_round_trip_and_errors_name_the_line() {
        let line = "sm_90a | join conv n=1 added=2 | apart by conv.mma/4 gemm.mma/2, not by conv.mma/4 | saves 1.52 | H200";
        let text =
            format!("# bakelite tactics 1\nsm_90a | conv n=1 | conv.mma/4 m64 | 3.41 | H200\n{line}\n");
        let tactics = Tactics::parse(&text).unwrap();
        assert_eq!((tactics.len(), tactics.print()), (2, text.clone()));
        let arch: Arch = "sm_90a".parse().unwrap();
        let (joined, join) = tactics.joins(arch).next().unwrap();
        assert_eq!((joined, join.way, join.saved), ("conv n=1 added=2", Way::Apart, 1.52));
        assert_eq!(
            join.families,
            [vec!["conv.mma/4".to_owned(), "gemm.mma/2".into()], vec!["conv.mma/4".into()]]
        );
        assert_eq!(tactics.joins("sm_80".parse().unwrap()).count(), 0);
        let mut all = Tactics::default();
        all.merge(&tactics);
        assert_eq!((all.print(), all.origins()[&(arch, "H200")]), (text.clone(), 2));
        let only = text.replace(" by conv.mma/4 gemm.mma/2,", ",");
        let tactics = Tactics::parse(&only).unwrap();
        let (_, join) = tactics.joins(arch).next().unwrap();
        assert_eq!((join.way, &join.families), (Way::Apart, &[vec![], vec!["conv.mma/4".to_owned()]]));
        assert_eq!(tactics.print(), only);
        for (right, wrong) in
            [("apart by", "asunder by"), (", not by", ""), ("mma/2", "mma"), ("saves 1.52", "1.52")]
        {
            let error = Tactics::parse(&text.replace(right, wrong)).unwrap_err();
            assert!(error.starts_with("line 3: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn whole_plans_have_lines_of_their_own() {
        let line = "sm_90a | plan 00ff resnet 50 | lanes 2 | 98.10 | NVIDIA H200\n";
        let text =
            format!("# bakelite tactics 1\nsm_90a | gemm m=1 | gemm.mma/1 m64 | 3.41 | NVIDIA H200\n{line}");
        let tactics = Tactics::parse(&text).unwrap();
        assert_eq!((tactics.len(), tactics.print()), (2, text));
        let arch: Arch = "sm_90a".parse().unwrap();
        let lanes = tactics.lanes(arch, "00ff").unwrap();
        assert_eq!((lanes.count, lanes.name.as_str()), (2, "resnet 50"));
        assert_eq!(tactics.lanes(arch, "00fe"), None);
        let mut merged = Tactics::default();
        merged.merge(&tactics);
        assert_eq!(merged, tactics);
        let wrong = line.replace("lanes 2", "lanes two");
        let error = Tactics::parse(&format!("# bakelite tactics 1\n{wrong}")).unwrap_err();
        assert!(error.contains("line 2") && error.contains("`two`"), "{error}");
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
