//! Symbolic sizes: a [`Dim`] is a constant or a polynomial over named symbols, in one canonical form, so that
//! equal expressions compare equal. Never holds a range or a value: those are the caller's ([`Symbols`]).
//!
//! Text form: `1`, `batch`, `196*batch`, `2*batch*seq+1`, `(seq+1)/2` (floor), `max(a,b)`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::str::FromStr;
use std::sync::Arc;

/// What a symbol may be at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Smallest value, inclusive.
    pub min: i64,
    /// Largest value, inclusive: buffers are sized for it.
    pub max: i64,
    /// The value tactics are tuned at.
    pub opt: i64,
}

/// Every symbol of a model with its range, by name.
pub type Symbols = BTreeMap<String, Range>;

/// A size: a constant or an expression over symbols.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Const(i64),
    /// Coefficient of each product of atoms; never empty of symbols, no zero coefficients.
    Poly(Arc<BTreeMap<Vec<Atom>, i64>>),
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Symbol(Arc<str>),
    FloorDiv(Dim, Dim),
    Max(Dim, Dim),
    Min(Dim, Dim),
}

impl Dim {
    /// A named symbol.
    pub fn symbol(name: &str) -> Dim {
        Dim::poly(BTreeMap::from([(vec![Atom::Symbol(name.into())], 1)]))
    }

    /// The value, if it has no symbols.
    pub const fn as_const(&self) -> Option<i64> {
        match self.0 {
            Repr::Const(c) => Some(c),
            Repr::Poly(_) => None,
        }
    }

    /// Whether it is the constant `c`.
    pub fn is(&self, c: i64) -> bool {
        self.as_const() == Some(c)
    }

    fn terms(&self) -> BTreeMap<Vec<Atom>, i64> {
        match &self.0 {
            Repr::Const(0) => BTreeMap::new(),
            Repr::Const(c) => BTreeMap::from([(vec![], *c)]),
            Repr::Poly(p) => (**p).clone(),
        }
    }

    fn poly(mut terms: BTreeMap<Vec<Atom>, i64>) -> Dim {
        terms.retain(|_, c| *c != 0);
        match terms.len() {
            0 => Dim(Repr::Const(0)),
            1 if terms.contains_key(&vec![]) => Dim(Repr::Const(terms[&vec![]])),
            _ => Dim(Repr::Poly(Arc::new(terms))),
        }
    }

    fn atom(atom: Atom) -> Dim {
        Dim::poly(BTreeMap::from([(vec![atom], 1)]))
    }

    /// `self / by` where the division is exact for every value of the symbols, else `None`.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        if self == by {
            return Some(Dim::from(1));
        }
        let by = by.terms();
        if by.len() != 1 {
            return None;
        }
        let (atoms, coefficient) = by.into_iter().next()?;
        let mut out = BTreeMap::new();
        for (mut term, c) in self.terms() {
            for atom in &atoms {
                let at = term.iter().position(|t| t == atom)?;
                term.remove(at);
            }
            if c.checked_rem(coefficient)? != 0 {
                return None;
            }
            out.insert(term, c / coefficient);
        }
        Some(Dim::poly(out))
    }

    /// `⌊self / by⌋`. Division by the constant 0 gives 0.
    pub fn floor_div(&self, by: &Dim) -> Dim {
        if let Some(exact) = self.exact_div(by) {
            return exact;
        }
        match (self.as_const(), by.as_const()) {
            (_, Some(0)) => Dim::from(0),
            (Some(a), Some(b)) => Dim::from(floor_div(a, b)),
            _ => Dim::atom(Atom::FloorDiv(self.clone(), by.clone())),
        }
    }

    /// `⌈self / by⌉` for positive `by`.
    pub fn ceil_div(&self, by: &Dim) -> Dim {
        match self.exact_div(by) {
            Some(exact) => exact,
            None => (self + by - Dim::from(1)).floor_div(by),
        }
    }

    /// The larger of the two.
    pub fn max(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => Dim::from(a.max(b)),
            _ if self == other => self.clone(),
            _ => Dim::atom(Atom::Max(self.clone().min_of(other), self.max_of(other))),
        }
    }

    /// The smaller of the two.
    pub fn min(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => Dim::from(a.min(b)),
            _ if self == other => self.clone(),
            _ => Dim::atom(Atom::Min(self.clone().min_of(other), self.max_of(other))),
        }
    }

    // Orders the operands of a commutative atom by the canonical order of expressions, not by value.
    fn min_of(self, other: &Dim) -> Dim {
        std::cmp::Ord::min(&self, other).clone()
    }
    fn max_of(&self, other: &Dim) -> Dim {
        std::cmp::Ord::max(self, other).clone()
    }

    /// The value where `symbol` gives each symbol's; saturating, so an absurd size stays absurd instead of wrapping.
    pub fn eval(&self, symbol: &dyn Fn(&str) -> i64) -> i64 {
        match &self.0 {
            Repr::Const(c) => *c,
            Repr::Poly(p) => p.iter().fold(0i64, |sum, (atoms, c)| {
                let product =
                    atoms.iter().fold(*c, |product, atom| product.saturating_mul(atom.eval(symbol)));
                sum.saturating_add(product)
            }),
        }
    }

    /// Value at the optimum of every range (unknown symbols count as 1).
    pub fn opt(&self, symbols: &Symbols) -> i64 {
        self.eval(&|s| symbols.get(s).map_or(1, |r| r.opt))
    }

    /// The same as a size; 0 for what is none.
    pub fn opt_size(&self, symbols: &Symbols) -> usize {
        usize::try_from(self.opt(symbols)).unwrap_or(0)
    }

    /// An upper bound over every range; exact for expressions monotone in each symbol, as sizes are.
    pub fn upper(&self, symbols: &Symbols) -> i64 {
        self.bounds(symbols).1
    }

    /// Lower and upper bound over every range, by interval arithmetic.
    pub fn bounds(&self, symbols: &Symbols) -> (i64, i64) {
        match &self.0 {
            Repr::Const(c) => (*c, *c),
            Repr::Poly(p) => p.iter().fold((0i64, 0i64), |(lo, hi), (atoms, c)| {
                let (a, b) = atoms.iter().fold((*c, *c), |(lo, hi), atom| {
                    let (x, y) = atom.bounds(symbols);
                    let corners = [
                        lo.saturating_mul(x),
                        lo.saturating_mul(y),
                        hi.saturating_mul(x),
                        hi.saturating_mul(y),
                    ];
                    (corners.into_iter().min().unwrap_or(0), corners.into_iter().max().unwrap_or(0))
                });
                (lo.saturating_add(a), hi.saturating_add(b))
            }),
        }
    }

    /// Calls `f` with every symbol that occurs, repeats included.
    pub fn visit_symbols(&self, f: &mut dyn FnMut(&str)) {
        if let Repr::Poly(p) = &self.0 {
            for atom in p.keys().flatten() {
                match atom {
                    Atom::Symbol(s) => f(s),
                    Atom::FloorDiv(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                        a.visit_symbols(f);
                        b.visit_symbols(f);
                    }
                }
            }
        }
    }

    /// Each symbol replaced by what `with` gives for it.
    pub fn substitute(&self, with: &dyn Fn(&str) -> Dim) -> Dim {
        match &self.0 {
            Repr::Const(_) => self.clone(),
            Repr::Poly(p) => p.iter().fold(Dim::from(0), |sum, (atoms, c)| {
                let product = atoms.iter().fold(Dim::from(*c), |product, atom| {
                    let value = match atom {
                        Atom::Symbol(s) => with(s),
                        Atom::FloorDiv(a, b) => a.substitute(with).floor_div(&b.substitute(with)),
                        Atom::Max(a, b) => Dim::max(&a.substitute(with), &b.substitute(with)),
                        Atom::Min(a, b) => Dim::min(&a.substitute(with), &b.substitute(with)),
                    };
                    &product * &value
                });
                sum + product
            }),
        }
    }

    /// The expression in source text: symbols as `prefix` + name; products, sums, `/` for floor division of non-negative
    /// values, and `max`/`min` through the given function names. Valid in Rust and CUDA C++ alike.
    pub fn source(&self, prefix: &str, max: &str, min: &str) -> String {
        let Repr::Poly(p) = &self.0 else { return self.to_string() };
        let mut out = String::new();
        // The constant term last, as people write it.
        for (atoms, c) in
            p.iter().filter(|(a, _)| !a.is_empty()).chain(p.iter().filter(|(a, _)| a.is_empty()))
        {
            if !out.is_empty() && *c >= 0 {
                out.push('+');
            }
            let mut factors: Vec<String> = atoms.iter().map(|a| a.source(prefix, max, min)).collect();
            match *c {
                1 if !atoms.is_empty() => {}
                -1 if !atoms.is_empty() => out.push('-'),
                c => factors.insert(0, c.to_string()),
            }
            out.push_str(&factors.join("*"));
        }
        out
    }
}

impl Atom {
    fn eval(&self, symbol: &dyn Fn(&str) -> i64) -> i64 {
        match self {
            Atom::Symbol(s) => symbol(s),
            Atom::FloorDiv(a, b) => floor_div(a.eval(symbol), b.eval(symbol)),
            Atom::Max(a, b) => a.eval(symbol).max(b.eval(symbol)),
            Atom::Min(a, b) => a.eval(symbol).min(b.eval(symbol)),
        }
    }

    fn bounds(&self, symbols: &Symbols) -> (i64, i64) {
        match self {
            Atom::Symbol(s) => symbols.get(&**s).map_or((0, i64::MAX), |r| (r.min, r.max)),
            Atom::FloorDiv(a, b) => {
                let ((al, ah), (bl, bh)) = (a.bounds(symbols), b.bounds(symbols));
                let corners = [
                    floor_div(al, bl.max(1)),
                    floor_div(al, bh),
                    floor_div(ah, bl.max(1)),
                    floor_div(ah, bh),
                ];
                (corners.into_iter().min().unwrap_or(0), corners.into_iter().max().unwrap_or(0))
            }
            Atom::Max(a, b) => {
                let ((al, ah), (bl, bh)) = (a.bounds(symbols), b.bounds(symbols));
                (al.max(bl), ah.max(bh))
            }
            Atom::Min(a, b) => {
                let ((al, ah), (bl, bh)) = (a.bounds(symbols), b.bounds(symbols));
                (al.min(bl), ah.min(bh))
            }
        }
    }

    fn source(&self, prefix: &str, max: &str, min: &str) -> String {
        let group = |d: &Dim| {
            let text = d.source(prefix, max, min);
            if text.contains(['+', '-', '*', '/']) && !is_group(&text) { format!("({text})") } else { text }
        };
        match self {
            Atom::Symbol(s) => format!("{prefix}{s}"),
            Atom::FloorDiv(a, b) => format!("({}/{})", group(a), group(b)),
            Atom::Max(a, b) => {
                format!("{max}({},{})", a.source(prefix, max, min), b.source(prefix, max, min))
            }
            Atom::Min(a, b) => {
                format!("{min}({},{})", a.source(prefix, max, min), b.source(prefix, max, min))
            }
        }
    }
}

// Whether all of it stands between one pair of parentheses.
fn is_group(text: &str) -> bool {
    let mut open = 0;
    text.ends_with(')')
        && text.char_indices().all(|(at, c)| {
            open += i32::from(c == '(') - i32::from(c == ')');
            open > 0 || at + 1 == text.len()
        })
}

fn floor_div(a: i64, b: i64) -> i64 {
    match a.checked_div_euclid(b) {
        Some(q) if b > 0 => q,
        Some(_) => (a as f64 / b as f64).floor() as i64,
        None => 0,
    }
}

/// The product of sizes.
pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::from(1), |p, d| &p * d)
}

impl From<i64> for Dim {
    fn from(c: i64) -> Dim {
        Dim(Repr::Const(c))
    }
}
impl From<usize> for Dim {
    fn from(c: usize) -> Dim {
        Dim(Repr::Const(i64::try_from(c).unwrap_or(i64::MAX)))
    }
}
impl From<i32> for Dim {
    fn from(c: i32) -> Dim {
        Dim(Repr::Const(c.into()))
    }
}

impl Add<&Dim> for &Dim {
    type Output = Dim;
    fn add(self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return Dim::from(a.saturating_add(b));
        }
        let mut terms = self.terms();
        for (atoms, c) in other.terms() {
            let sum = terms.entry(atoms).or_insert(0);
            *sum = sum.saturating_add(c);
        }
        Dim::poly(terms)
    }
}

impl Mul<&Dim> for &Dim {
    type Output = Dim;
    fn mul(self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return Dim::from(a.saturating_mul(b));
        }
        let mut terms = BTreeMap::new();
        for (a, ca) in self.terms() {
            for (b, cb) in other.terms() {
                let mut atoms = a.clone();
                atoms.extend(b);
                atoms.sort();
                let sum = terms.entry(atoms).or_insert(0i64);
                *sum = sum.saturating_add(ca.saturating_mul(cb));
            }
        }
        Dim::poly(terms)
    }
}

impl Sub<&Dim> for &Dim {
    type Output = Dim;
    fn sub(self, other: &Dim) -> Dim {
        self + &(&Dim::from(-1) * other)
    }
}

macro_rules! by_value {
    ($($trait:ident $method:ident),+) => {$(
        impl $trait<Dim> for Dim { type Output = Dim; fn $method(self, other: Dim) -> Dim { $trait::$method(&self, &other) } }
        impl $trait<&Dim> for Dim { type Output = Dim; fn $method(self, other: &Dim) -> Dim { $trait::$method(&self, other) } }
        impl $trait<Dim> for &Dim { type Output = Dim; fn $method(self, other: Dim) -> Dim { $trait::$method(self, &other) } }
    )+};
}
by_value!(Add add, Mul mul, Sub sub);

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Const(c) => write!(f, "{c}"),
            Repr::Poly(_) => f.write_str(&self.source("", "max", "min")),
        }
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Dim {
    type Err = String;
    fn from_str(text: &str) -> Result<Dim, String> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let dim = parser.sum()?;
        if parser.peek().is_some() {
            return Err(format!("`{}` is left over in the size `{text}`", &text[parser.at..]));
        }
        Ok(dim)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, c: char) -> bool {
        let hit = self.peek() == Some(c);
        if hit {
            self.at += c.len_utf8();
        }
        hit
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.take(c) {
            Ok(())
        } else {
            Err(format!("expected `{c}` at column {} of the size `{}`", self.at + 1, self.text))
        }
    }

    fn sum(&mut self) -> Result<Dim, String> {
        self.depth += 1;
        if self.depth > 64 {
            return Err(format!("the size `{}` nests too deeply", self.text));
        }
        let mut sum = if self.take('-') { Dim::from(-1) * self.product()? } else { self.product()? };
        loop {
            if self.take('+') {
                sum = sum + self.product()?;
            } else if self.take('-') {
                sum = sum - self.product()?;
            } else {
                self.depth -= 1;
                return Ok(sum);
            }
        }
    }

    fn product(&mut self) -> Result<Dim, String> {
        let mut product = self.factor()?;
        loop {
            if self.take('*') {
                product = product * self.factor()?;
            } else if self.take('/') {
                product = product.floor_div(&self.factor()?);
            } else {
                return Ok(product);
            }
        }
    }

    fn factor(&mut self) -> Result<Dim, String> {
        if self.take('(') {
            let inner = self.sum()?;
            self.expect(')')?;
            return Ok(inner);
        }
        self.peek();
        let rest = &self.text[self.at..];
        let word = &rest
            [..rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len())];
        if word.is_empty() {
            return Err(format!("expected a size at column {} of `{}`", self.at + 1, self.text));
        }
        self.at += word.len();
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word
                .parse::<i64>()
                .map(Dim::from)
                .map_err(|e| format!("`{word}` in the size `{}`: {e}", self.text));
        }
        if matches!(word, "max" | "min") && self.take('(') {
            let a = self.sum()?;
            self.expect(',')?;
            let b = self.sum()?;
            self.expect(')')?;
            return Ok(if word == "max" { Dim::max(&a, &b) } else { Dim::min(&a, &b) });
        }
        Ok(Dim::symbol(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(text: &str) -> Dim {
        text.parse().unwrap()
    }

    #[test]
    fn equal_expressions_compare_equal() {
        assert_eq!(dim("batch*(seq+1)"), dim("seq*batch+batch"));
        assert_eq!(dim("(4*batch)/2"), dim("2*batch"));
        assert_eq!(dim("batch-batch"), Dim::from(0));
        assert_eq!(Dim::max(&dim("a"), &dim("b")), Dim::max(&dim("b"), &dim("a")));
        assert_ne!(dim("(seq+1)/2"), dim("seq/2"));
        assert_eq!(dim("batch*196*3").exact_div(&dim("3*batch")), Some(Dim::from(196)));
    }

    #[test]
    fn text_round_trips() {
        for text in ["7", "batch", "196*batch", "((1+seq)/2)", "max(a,b)", "2*batch*seq-3", "(n/max(a,2))*4"]
        {
            let d = dim(text);
            assert_eq!(dim(&d.to_string()), d, "{text} printed as {d}");
        }
    }

    #[test]
    fn bounds_cover_every_value() {
        let symbols = Symbols::from([("n".into(), Range { min: 1, max: 9, opt: 4 })]);
        for text in ["n", "3*n-2", "(n+1)/2", "10-n", "n*n", "max(n,5)", "min(n,5)*2"] {
            let (lo, hi) = dim(text).bounds(&symbols);
            for n in 1..=9 {
                let v = dim(text).eval(&|_| n);
                assert!((lo..=hi).contains(&v), "{text} at {n} is {v}, outside {lo}..={hi}");
            }
        }
        assert_eq!(dim("3*n").opt(&symbols), 12);
    }

    #[test]
    fn bad_text_is_an_error_not_a_panic() {
        for text in ["", "3+", "(a", "a b", "99999999999999999999", "max(a)"] {
            assert!(text.parse::<Dim>().is_err(), "{text:?}");
        }
        assert!("(".repeat(1000).parse::<Dim>().is_err());
    }
}
