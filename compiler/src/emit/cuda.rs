//! CUDA steps: each launch with literals only.

use super::expression::Scope;
use crate::error::{Error, Result, Stage};
use crate::plan::{CudaStep, Place, Plan, Step};
use bakelite_kernels::family::{Arg, Launch};
use bakelite_templates as templates;

/// Kernels, with what their launches ask for.
pub(super) fn kernels(plan: &Plan) -> Vec<templates::Kernel> {
    let launches = || plan.steps.iter().filter_map(|s| s.cuda.as_ref()).flat_map(|c| &c.launches);
    let one = |(i, k): (usize, &crate::plan::KernelSource)| {
        let mine = || launches().filter(move |l| l.kernel == i);
        templates::Kernel {
            name: k.name.clone(),
            shared: mine().map(|l| l.shared).max().unwrap_or(0),
            large_clusters: mine().filter_map(|l| l.cluster).any(|[x, y, z]| x * y * z > 8),
        }
    };
    plan.kernels.iter().enumerate().map(one).collect()
}

/// Every step of a CUDA plan; `port` is the Rust name of the input or output in a buffer.
pub(super) fn steps(
    plan: &Plan,
    scope: &Scope,
    port: &dyn Fn(usize) -> Option<String>,
) -> Result<Vec<templates::CudaStep>> {
    let one = |step: &Step| {
        let fail = |what: &str| Error::new(Stage::Emit, format!("step {}", step.name), what);
        let cuda = step.cuda.as_ref().ok_or_else(|| fail("has no kernel, in a plan for a GPU"))?;
        let launches = cuda
            .launches
            .iter()
            .map(|l| {
                launch(plan, step, cuda, l, scope, port)
                    .ok_or_else(|| fail("has a launch with an operand that it lacks"))
            })
            .collect::<Result<Vec<_>>>()?;
        let time = cuda.measured.map(|t| format!(" {t:.2} us")).unwrap_or_default();
        Ok(templates::CudaStep {
            doc: format!("{}: {} | {}{time}", step.name, step.problem, cuda.tactic),
            launches,
            name: step.name.clone(),
            tactic: cuda.tactic.to_string(),
            measured: cuda.measured,
        })
    };
    plan.steps.iter().map(one).collect()
}

fn launch(
    plan: &Plan,
    step: &Step,
    cuda: &CudaStep,
    l: &Launch,
    scope: &Scope,
    port: &dyn Fn(usize) -> Option<String>,
) -> Option<templates::Launch> {
    let pointer = |place: &Place| match place {
        Place::Weight(w) => Some(format!("w({})", plan.weights.get(*w)?.offset)),
        Place::Buffer(b) => match port(*b) {
            Some(name) => Some(format!("io.{name}.into()")),
            None => Some(format!("a({})", plan.buffers.get(*b)?.offset)),
        },
    };
    let arg = |arg: &Arg| match arg {
        Arg::Input(i) => pointer(step.inputs.get(*i)?),
        Arg::Output(i) => pointer(step.outputs.get(*i)?),
        Arg::Workspace(at) => {
            let start = plan.buffers.get(cuda.workspace?)?.offset;
            Some(match at.as_const() {
                Some(at) => format!("a({})", start + u64::try_from(at).ok()?),
                None => format!("a({start} + {})", scope.size(at)),
            })
        }
        Arg::Size(d) => Some(format!("Arg::I32({})", scope.cast(d, "i32"))),
        Arg::Weights(at) => Some(format!("w({at})")),
    };
    Some(templates::Launch {
        kernel: plan.kernels.get(l.kernel)?.name.clone(),
        grid: l.grid.each_ref().map(|d| scope.cast(d, "u32")),
        block: l.block,
        shared: l.shared,
        cluster: l.cluster,
        programmatic: l.programmatic,
        args: l.args.iter().map(arg).collect::<Option<Vec<_>>>()?,
    })
}
