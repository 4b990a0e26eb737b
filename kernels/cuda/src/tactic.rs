//! Tactics: which family implements a problem, and with what numbers. A tactic is data: it prints, parses and compares;
//! its text is the value in the tactics file, the comment in generated code and what `--force-tactic` takes.
//!
//! Text form: `gemm.mma/1 m128 n64 k32 stages3 splitk1` (family, version, parameters in the family's order).

use std::fmt;
use std::str::FromStr;

/// One way to implement a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tactic {
    /// The family's name, such as `gemm.mma`.
    pub family: String,
    /// The family's version: it changes whenever the same parameters would mean other code.
    pub version: u32,
    /// Named numbers, in the family's order.
    pub params: Vec<(String, u32)>,
}

impl Tactic {
    /// A tactic of `family` with `params`.
    pub fn new(family: &str, version: u32, params: &[(&str, u32)]) -> Tactic {
        let params = params.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
        Tactic { family: family.to_owned(), version, params }
    }

    /// A parameter's value, or an error that names it.
    pub fn get(&self, name: &str) -> Result<u32, String> {
        let hit = self.params.iter().find(|(n, _)| n == name);
        hit.map(|(_, v)| *v).ok_or_else(|| format!("tactic `{self}` lacks the parameter `{name}`"))
    }
}

impl fmt::Display for Tactic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.family, self.version)?;
        self.params.iter().try_for_each(|(name, value)| write!(f, " {name}{value}"))
    }
}

impl FromStr for Tactic {
    type Err = String;
    fn from_str(text: &str) -> Result<Tactic, String> {
        let bad =
            |what: &str| format!("{what} in the tactic `{text}`; expected e.g. `gemm.mma/1 m128 n64 k32`");
        let mut words = text.split_whitespace();
        let (family, version) =
            words.next().and_then(|w| w.split_once('/')).ok_or_else(|| bad("no `family/version`"))?;
        let version = version.parse().map_err(|_| bad("no version number"))?;
        let mut params = Vec::new();
        for word in words {
            let digits =
                word.find(|c: char| c.is_ascii_digit()).ok_or_else(|| bad("a parameter without a number"))?;
            let (name, value) = word.split_at(digits);
            params.push((name.to_owned(), value.parse().map_err(|_| bad("a parameter without a number"))?));
        }
        Ok(Tactic { family: family.to_owned(), version, params })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let tactic = Tactic::new("gemm.mma", 2, &[("m", 128), ("splitk", 4)]);
        assert_eq!(tactic.to_string(), "gemm.mma/2 m128 splitk4");
        assert_eq!(tactic.to_string().parse(), Ok(tactic.clone()));
        assert_eq!(tactic.get("splitk"), Ok(4));
        assert!(tactic.get("n").unwrap_err().contains('n'));
        for bad in ["", "gemm", "gemm/x", "gemm/1 m"] {
            assert!(bad.parse::<Tactic>().is_err(), "{bad:?}");
        }
    }
}
