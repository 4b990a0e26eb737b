//! `bakelite inspect`: what a model is, and whether it can be compiled.

use super::options::ModelArguments;
use super::table::{Align, bytes, table};
use super::{Outcome, say};
use bakelite::onnx::model::{Model, Size, ValueType};
use bakelite::onnx::{self, Attribute, Scope};
use std::collections::BTreeMap;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
}

pub(crate) fn run(a: &Arguments) -> Outcome<()> {
    let model = onnx::decode(a.model.source()?)?;
    say(&describe(&model))?;
    let imported = onnx::import(&model, &a.model.import());
    let verdict = match &imported {
        Err(e) => format!("not supported\n  {e}\n"),
        Ok(graph) => {
            let rows: Vec<_> =
                graph.histogram().into_iter().map(|(op, n)| vec![format!("  {op}"), n.to_string()]).collect();
            let mut text = String::new();
            if !graph.symbols.is_empty() {
                let rows: Vec<_> = graph
                    .symbols
                    .iter()
                    .map(|(s, r)| vec![format!("  {s}"), format!("{}..{}, tuned at {}", r.min, r.max, r.opt)])
                    .collect();
                text += &format!("symbols\n{}", table(&[Align::Left, Align::Left], &rows));
            }
            text + &format!("supported; as imported\n{}", table(&[Align::Left, Align::Right], &rows))
        }
    };
    say(&verdict)
}

fn describe(model: &Model) -> String {
    let scope = &model.graph;
    let parameters: usize = scope.initializers.values().map(|t| t.count()).sum();
    let size: usize = scope.initializers.values().map(|t| t.bytes.len()).sum();
    let mut text = format!(
        "{}: IR version {}, opset {}{}\n",
        model.name,
        model.ir_version,
        model.opset,
        if model.producer.is_empty() { String::new() } else { format!(", by {}", model.producer) }
    );
    text += &format!(
        "parameters  {parameters} in {} tensors, {}\n",
        scope.initializers.len(),
        bytes(size as u64)
    );
    for (what, values) in [("inputs", &scope.inputs), ("outputs", &scope.outputs)] {
        let rows: Vec<_> =
            values.iter().map(|(name, ty)| vec![format!("  {name}"), value_type(ty)]).collect();
        text += &format!("{what}\n{}", table(&[Align::Left, Align::Left], &rows));
    }
    let mut ops = BTreeMap::new();
    count(scope, &mut ops);
    let mut ops: Vec<(String, usize)> = ops.into_iter().collect();
    ops.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rows: Vec<_> = ops.iter().map(|(op, n)| vec![format!("  {op}"), n.to_string()]).collect();
    text + &format!("operators\n{}", table(&[Align::Left, Align::Right], &rows))
}

/// `f32[batch,3,?]`
fn value_type(ty: &ValueType) -> String {
    let dtype = match &ty.dtype {
        None => "?".to_owned(),
        Some(Ok(dtype)) => dtype.to_string(),
        Some(Err(what)) => format!("({what})"),
    };
    let Some(sizes) = &ty.shape else { return format!("{dtype}, rank not stated") };
    let size = |s: &Size| match s {
        Size::Const(c) => c.to_string(),
        Size::Named(name) => name.clone(),
        Size::Unknown => "?".to_owned(),
    };
    format!("{dtype}[{}]", sizes.iter().map(size).collect::<Vec<_>>().join(","))
}

fn count(scope: &Scope, ops: &mut BTreeMap<String, usize>) {
    for node in &scope.nodes {
        let name =
            if node.domain.is_empty() { node.op.clone() } else { format!("{}.{}", node.domain, node.op) };
        *ops.entry(name).or_default() += 1;
        for graph in node.attributes.0.iter().filter_map(|(_, a)| match a {
            Attribute::Graph(graph) => Some(graph),
            _ => None,
        }) {
            count(graph, ops);
        }
    }
}
