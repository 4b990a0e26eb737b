//! Two ways to compute the same: regions joined, or apart. A verdict that somebody knows decides which; where nobody knows one,
//! the families' cost models do, and say how sure they are.

use bakelite_kernels::families::estimate;
use bakelite_kernels::{Dim, Problem, Symbols, Target};
use std::collections::HashMap;
use std::fmt;

/// Regions that can be joined: what both ways take, and which was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// What is joined. Alternatives of one text are one, with one verdict.
    pub text: String,
    /// The problems of the joined way, as they were when it was found.
    pub joined: Vec<String>,
    /// Alternatives of one subject are best answered alike.
    pub subject: String,
    /// How often it was found.
    pub count: usize,
    /// Estimated µs of one: joined, apart.
    pub estimates: [f64; 2],
    /// Which it was.
    pub way: Way,
    /// Whether that was known; else it was estimated.
    pub known: bool,
}

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Way {
    Joined,
    Apart,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Joined => "joined",
            Way::Apart => "apart",
        })
    }
}

/// Decides of what can be joined what is, and remembers it.
pub struct Judge<'a> {
    target: &'a Target,
    known: &'a dyn Fn(&str) -> Option<Way>,
    costs: HashMap<String, Option<f64>>,
    found: Vec<Alternative>,
}

impl<'a> Judge<'a> {
    /// `known` is asked first.
    pub fn new(target: &'a Target, known: &'a dyn Fn(&str) -> Option<Way>) -> Judge<'a> {
        Judge { target, known, costs: HashMap::new(), found: vec![] }
    }

    /// One that goes by the cost models alone.
    pub fn estimating(target: &'a Target) -> Judge<'a> {
        Judge::new(target, &|_| None)
    }

    /// All that could be joined, in the order in which it was found.
    pub fn found(self) -> Vec<Alternative> {
        self.found
    }

    /// Whether regions are joined. What no kernel can do joined never is, whatever is known about it.
    pub(super) fn joins(
        &mut self,
        symbols: &Symbols,
        text: String,
        subject: String,
        [joined, apart]: [Vec<Problem<Dim>>; 2],
    ) -> bool {
        let both =
            [&joined, &apart].map(|way| way.iter().map(|p| self.cost(p, symbols)).sum::<Option<f64>>());
        let [Some(one), Some(other)] = both else { return false };
        let alike = self.found.iter_mut().find(|a| a.text == text);
        if let Some(alternative) = alike {
            alternative.count += 1;
            return alternative.way == Way::Joined;
        }
        let known = (self.known)(&text);
        let way = known.unwrap_or(if one < other { Way::Joined } else { Way::Apart });
        let (estimates, known) = ([one, other], known.is_some());
        let joined = joined.iter().map(ToString::to_string).collect();
        self.found.push(Alternative { text, joined, subject, count: 1, estimates, way, known });
        way == Way::Joined
    }

    fn cost(&mut self, problem: &Problem<Dim>, symbols: &Symbols) -> Option<f64> {
        let make = || estimate(problem, symbols, self.target);
        *self.costs.entry(problem.to_string()).or_insert_with(make)
    }
}
