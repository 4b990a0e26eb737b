//! Nodes that compute nothing themselves: identity, dropout at inference, branches decided at compile time.

use crate::ir::Tensor;
use crate::onnx::call::{Call, Results, one};
use bakelite_host::DType;

pub(super) fn identity(c: &mut Call<'_>) -> Results {
    one(c.operand(0)?)
}

/// Nothing is dropped at inference, so the mask is all true.
pub(super) fn dropout(c: &mut Call<'_>) -> Results {
    if c.has(2) && c.sizes(2).and_then(|s| s.constants()).is_none_or(|v| v != [0]) {
        return Err("training mode is not supported".into());
    }
    let x = c.operand(0)?;
    if c.node.outputs.get(1).is_none_or(String::is_empty) {
        return one(x);
    }
    let value = c.value(0)?;
    let yes = c.constant(Tensor::scalar(DType::Bool, 1.0));
    // Before opset 10 the mask has the operand's type.
    let yes = if c.opset() < 10 { c.cast(yes, c.dtype(value))? } else { yes };
    let mask = c.broadcast(yes, c.shape(value))?;
    Ok(vec![x, mask.into()])
}

/// A branch is taken at compile time; a condition on data would need both.
pub(super) fn if_(c: &mut Call<'_>) -> Results {
    let condition = c.sizes(0).and_then(|s| s.constants());
    let Some([condition]) = condition.as_deref() else {
        return Err(format!(
            "its condition \"{}\" depends on data; control flow is only supported where a branch is known at compile time",
            c.node.inputs.first().map_or("", String::as_str)
        ));
    };
    let branch = if *condition != 0 { "then_branch" } else { "else_branch" };
    let body =
        c.attributes().find_graph(branch)?.ok_or_else(|| format!("the attribute `{branch}` is missing"))?;
    c.importer().inline(body)
}
