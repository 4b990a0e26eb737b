//! The whole compiler on one screen. Each stage takes its input by value; nothing goes back. No IO: a source in, files out
//! as a map. The GPU is behind [`Tuner`], and NVRTC is handed in.

use crate::emit::{self, EmitOptions, Files, PlanWithImages};
use crate::error::{Error, Result, Stage};
use crate::execute::kernels::{self, Images};
use crate::fuse::{self, Regions};
use crate::ir::Graph;
use crate::onnx::{self, ImportOptions, Model, Source};
use crate::passes::{self, Precision, TargetKind};
use crate::plan::{self, Plan};
use crate::target::Target;
use crate::tune::{self, Tactics, Tuner};
use bakelite_kernels::Nvrtc;

/// What the user asks for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Symbols of the model.
    pub import: ImportOptions,
    /// Precision on CUDA targets; the host computes as the model says.
    pub precision: Precision,
    /// The crate.
    pub emit: EmitOptions,
}

/// What the stages use and tell, apart from the data they pass on.
pub struct Tools<'a> {
    /// The tactics file: read, and written where something is measured.
    pub tactics: &'a mut Tactics,
    /// What measures.
    pub tuner: &'a mut dyn Tuner,
    /// The CUDA compiler; only [`compile`] for a CUDA target needs it.
    pub nvrtc: Option<&'a Nvrtc>,
    /// Sees what every stage makes.
    pub trace: &'a mut dyn Trace,
    /// Is told what the user may want to know but need not.
    pub warn: &'a mut dyn FnMut(String),
    /// Is called after each kernel is compiled, from any thread, with how many the plan has.
    pub compiled: &'a (dyn Fn(usize) + Sync),
}

/// Sees what every stage makes, in order.
pub trait Trace {
    /// The plan for this target begins.
    fn target(&mut self, _target: &Target) {}
    /// A stage, or one pass of the passes, has made this.
    fn made(&mut self, _stage: &str, _form: Form<'_>) {}
}

impl Trace for () {}

/// What a stage makes.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Form<'a> {
    Graph(&'a Graph),
    Regions(&'a Regions),
    Plan(&'a Plan),
}

/// A model to the files of a crate with one plan for each target.
pub fn compile(onnx: Source, targets: &[Target], options: &Options, tools: &mut Tools<'_>) -> Result<Files> {
    let model = onnx::decode(onnx)?;
    let graph = import(&model, options, tools)?;
    let mut plans = Vec::new();
    for target in targets {
        let plan = plan(graph.clone(), target, options, tools)?;
        let images = images(&plan, true, tools)?;
        plans.push(PlanWithImages { plan, images });
    }
    emit::files(&plans, &options.emit)
}

/// A model to a graph in which every shape is a constant or a symbol.
pub fn import(model: &Model, options: &Options, tools: &mut Tools<'_>) -> Result<Graph> {
    let graph = onnx::import(model, &options.import)?;
    tools.trace.made("import", Form::Graph(&graph));
    Ok(graph)
}

/// A graph to a plan for one target.
pub fn plan(graph: Graph, target: &Target, options: &Options, tools: &mut Tools<'_>) -> Result<Plan> {
    tools.trace.target(target);
    let graph = passes::run(graph, &policy(target, options), &mut Passes(tools.trace))?;
    let regions = fuse::regions(graph)?;
    let plan = match target {
        Target::Host => {
            tools.trace.made("regions", Form::Regions(&regions));
            plan::build_host(regions)?
        }
        Target::Cuda(gpu) => {
            let mut packed = plan::Packed::default();
            let mut again = |chosen: &tune::Chosen| plan::build_again(chosen, target, &mut packed);
            let mut stages = tune::Stages {
                // On the host a copy costs what a scattered store does.
                fuse: &mut |judge| {
                    fuse::place::place(fuse::join::join(regions.clone(), judge)?, fuse::place::NEIGHBOURS)
                },
                fused: &mut |regions| tools.trace.made("regions", Form::Regions(regions)),
                plan: &mut again,
            };
            let chosen = tune::choose_joined(&mut stages, gpu, tools.tactics, tools.tuner, tools.warn)?;
            let chosen = tune::settle(chosen, gpu, tools.tactics, tools.tuner, &mut again)?;
            let chosen = tune::branch(chosen, gpu, tools.tactics, tools.tuner, &mut again)?;
            plan::build_again(&chosen, target, &mut packed)?
        }
    };
    tools.trace.made("plan", Form::Plan(&plan));
    Ok(plan)
}

/// The machine code of a plan's kernels; of a host plan, none. With `ptx`, PTX too, so that newer
/// GPUs can run it.
pub fn images(plan: &Plan, ptx: bool, tools: &Tools<'_>) -> Result<Vec<Images>> {
    let Target::Cuda(gpu) = &plan.target else { return Ok(vec![]) };
    let nvrtc = tools.nvrtc.ok_or_else(|| {
        Error::new(Stage::Emit, format!("target {}", plan.target), "the CUDA compiler NVRTC is needed")
    })?;
    let compiled = tools.compiled;
    kernels::compile(plan, nvrtc, gpu.arch, ptx, &|| compiled(plan.kernels.len()))
}

fn policy(target: &Target, options: &Options) -> passes::Options {
    let (target, precision) = match target {
        Target::Host => (TargetKind::Host, Precision::Fp32),
        Target::Cuda(_) => (TargetKind::Cuda, options.precision),
    };
    passes::Options { target, precision, ..passes::Options::default() }
}

struct Passes<'a>(&'a mut dyn Trace);

impl passes::Trace for Passes<'_> {
    fn after(&mut self, pass: &str, graph: &Graph) {
        self.0.made(pass, Form::Graph(graph));
    }
}
