//! The single-file form, for build scripts: every module inside one file that `include_model!` includes.

use crate::Result;
use crate::model::Model;

/// The file's text: the API with the other files as modules after it. `modules` are (name, text) in order.
pub fn single(m: &Model, api: &str, modules: &[(&str, String)]) -> Result<String> {
    let mut text =
        format!("// The model \"{}\", compiled by Bakelite. Made anew by the build script.\n\n", m.title);
    text += api;
    for (name, body) in modules {
        text += &format!("\nmod {name} {{\n");
        for line in body.lines() {
            text += &if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") };
        }
        text += "}\n";
    }
    Ok(text)
}
