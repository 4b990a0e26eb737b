//! Names from a model as Rust names.

use std::collections::BTreeSet;

/// `text` in snake case, of ASCII letters, digits and `_`, not beginning with a digit; `otherwise` where nothing is left.
pub(super) fn snake(text: &str, otherwise: &str) -> String {
    let mut name = String::new();
    let mut before = None::<char>;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            let hump = c.is_ascii_uppercase() && before.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            if hump && !name.ends_with('_') {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        before = Some(c);
    }
    let name = name.trim_matches('_');
    let name = if name.is_empty() { otherwise } else { name };
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("{otherwise}_{name}"),
        false => name.to_owned(),
    }
}

/// Rust names, each given once.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// Names that are taken.
    pub(super) fn taken(names: &[&str]) -> Names {
        Names(names.iter().map(|n| (*n).to_owned()).collect())
    }

    /// A name like `text` that is no keyword and was not given before.
    pub(super) fn give(&mut self, text: &str, otherwise: &str) -> String {
        let mut base = snake(text, otherwise);
        if KEYWORDS.contains(&base.as_str()) {
            base.push('_');
        }
        let mut name = base.clone();
        let mut n = 1;
        while !self.0.insert(name.clone()) {
            n += 1;
            name = format!("{}_{n}", base.trim_end_matches('_'));
        }
        name
    }
}

/// Keywords of every edition, reserved ones too.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum",
    "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move",
    "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "try",
    "type", "typeof", "union", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_identifiers() {
        for (text, expected) in [
            ("image", "image"),
            ("pixelValues", "pixel_values"),
            ("input.1", "input_1"),
            ("/encoder/layer.0/MatMul_output_0", "encoder_layer_0_mat_mul_output_0"),
            ("123", "x_123"),
            ("", "x"),
            ("日本", "x"),
            ("__x__", "x"),
            ("conv1 +2", "conv1_2"),
            ("ResNet50", "res_net50"),
        ] {
            assert_eq!(snake(text, "x"), expected, "{text:?}");
        }
    }

    #[test]
    fn names_are_given_once_and_are_no_keywords() {
        let mut names = Names::taken(&["weights"]);
        let given: Vec<String> = ["type", "type_", "x", "X", "weights", "self"].iter().map(|n| names.give(n, "y")).collect();
        assert_eq!(given, ["type_", "type_2", "x", "x_2", "weights_2", "self_"]);
    }
}
