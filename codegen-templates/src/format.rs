//! Formatting: prettyplease for every item, with blank lines between them and comments, which a syntax tree does not keep.

use crate::Result;

fn parse(text: &str) -> Result<syn::File> {
    syn::parse_file(text).map_err(|e| {
        let line = e.span().start().line;
        let near = text.lines().nth(line.saturating_sub(1)).unwrap_or("").trim();
        format!("generated code does not parse: {e}, at `{near}`")
    })
}

/// Items formatted as rustfmt does, a blank line between them.
pub fn items(text: &str) -> Result<String> {
    let mut file = parse(text)?;
    let attrs = std::mem::take(&mut file.attrs);
    let mut out = String::new();
    let plain = |items, attrs| prettyplease::unparse(&syn::File { shebang: None, attrs, items, ..empty() });
    if !attrs.is_empty() {
        out.push_str(plain(vec![], attrs).trim_end());
        out.push('\n');
    }
    let mut last = None;
    for item in sorted(file.items) {
        let kind = match &item {
            syn::Item::Use(u) => Some(("use", matches!(u.vis, syn::Visibility::Public(_)))),
            syn::Item::Mod(m) if m.content.is_none() => Some(("mod", false)),
            _ => None,
        };
        if !out.is_empty() && (kind.is_none() || kind != last) {
            out.push('\n');
        }
        last = kind;
        let members = matches!(item, syn::Item::Impl(_) | syn::Item::Trait(_));
        let text = joined(&plain(vec![item], vec![]));
        out.push_str(&if members { spaced(&text) } else { text });
    }
    Ok(out)
}

/// Imports in rustfmt's order: ours first, then by name.
fn sorted(mut items: Vec<syn::Item>) -> Vec<syn::Item> {
    let key = |item: &syn::Item| {
        let text = prettyplease::unparse(&syn::File { items: vec![item.clone()], ..empty() });
        let text: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        let text = text.join(" ");
        (text.starts_with("pub"), !text.contains("use crate::") && !text.contains("use super::"), text)
    };
    let mut at = 0;
    while at < items.len() {
        let end =
            items[at..].iter().position(|i| !matches!(i, syn::Item::Use(_))).map_or(items.len(), |n| at + n);
        if end == at {
            at += 1;
            continue;
        }
        items[at..end].sort_by_cached_key(key);
        at = end;
    }
    items
}

fn empty() -> syn::File {
    syn::File { shebang: None, frontmatter: None, attrs: vec![], items: vec![] }
}

// `receiver` and `.method(` on one line where the method is the only one, as rustfmt has it.
fn joined(text: &str) -> String {
    let indent = |l: &str| l.len() - l.trim_start().len();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut at = 0;
    while at + 1 < lines.len() {
        let (own, next) = (indent(&lines[at]), &lines[at + 1]);
        let opens =
            next.trim_start().starts_with('.') && next.ends_with(['(', '{']) && indent(next) == own + 4;
        let receiver = lines[at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let end = (at + 2..lines.len()).find(|i| indent(&lines[*i]) <= own + 4);
        if let (true, true, Some(end)) = (opens, receiver, end)
            && lines[end].trim_start().starts_with([')', '}'])
            && !lines.get(end + 1).is_some_and(|l| l.trim_start().starts_with('.'))
        {
            let method = lines.remove(at + 1);
            lines[at] += method.trim_start();
            for line in &mut lines[at + 1..end] {
                line.replace_range(..4, "");
            }
        }
        at += 1;
    }
    lines.iter().map(|l| format!("{l}\n")).collect()
}

// A blank line between the members of an impl.
fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut ended = false;
    for line in text.lines() {
        let member = line.starts_with("    ") && !line.starts_with("     ") && !line.starts_with("    }");
        if ended && member {
            out.push('\n');
        }
        ended = line == "    }";
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Statements of a function's body, formatted and indented once.
pub fn statements(text: &str) -> Result<String> {
    let formatted = joined(&prettyplease::unparse(&parse(&format!("fn f() {{ {text} }}"))?));
    let mut lines: Vec<&str> = formatted.lines().collect();
    if lines.len() < 2 {
        return Ok(String::new());
    }
    lines.pop();
    Ok(lines[1..].iter().map(|l| format!("{l}\n")).collect())
}

/// A comment over as many lines as it needs, each begun with `prefix`.
pub fn comment(prefix: &str, text: &str) -> String {
    const WIDTH: usize = 100;
    let mut out = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && prefix.len() + line.len() + 1 + word.len() > WIDTH {
            out.push_str(&format!("{prefix}{line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    out.push_str(&format!("{prefix}{line}\n"));
    out
}

/// Text as a Rust string literal.
pub fn literal(text: &str) -> String {
    format!("{text:?}")
}

/// Text in backquotes, for a doc comment.
pub fn code(text: &str) -> String {
    format!("`{}`", text.replace(['`', '\n', '\r'], "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_apart_and_imports_in_order() {
        let text = "#![forbid(unsafe_code)] use b::c; use crate::a; mod m; struct S { x: u8 } impl S { fn a() {} fn b() { if true { f(); } g(); } }";
        let expected = "#![forbid(unsafe_code)]\n\nuse crate::a;\nuse b::c;\n\nmod m;\n\nstruct S {\n    x: u8,\n}\n\nimpl S {\n    fn a() {}\n    fn b() {\n        if true {\n            f();\n        }\n        g();\n    }\n}\n";
        assert_eq!(items(text).unwrap(), expected);
    }

    #[test]
    fn a_single_method_stays_with_its_receiver() {
        let long = "a_receiver_with_a_long_name.some_method_with_a_long_name(|argument| { first(argument); second(argument) })?;";
        let got = statements(long).unwrap();
        assert!(got.starts_with("    a_receiver_with_a_long_name.some_method_with_a_long_name("), "{got}");
        let depth =
            |text: &str| got.lines().find(|l| l.contains(text)).map(|l| l.len() - l.trim_start().len());
        assert_eq!((depth("|argument|"), depth("first(argument)")), (Some(4), Some(8)), "{got}");
    }

    #[test]
    fn comments_wrap_and_text_is_escaped() {
        let long = "word ".repeat(40);
        assert!(comment("// ", &long).lines().all(|l| l.starts_with("// word") && l.len() <= 104));
        assert_eq!(code("a`b"), "`a'b`");
        assert_eq!(literal("a\"b"), "\"a\\\"b\"");
        let error = items("fn f( {").unwrap_err();
        assert!(error.contains("generated code does not parse") && error.contains("fn f( {"), "{error}");
    }
}
