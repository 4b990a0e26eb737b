//! CUDA steps: each launch with literals only.

use super::expression::Scope;
use crate::error::{Error, Result, Stage};
use crate::plan::{CudaStep, Place, Plan, Step};
use bakelite_host::DType;
use bakelite_kernels::Dim;
use bakelite_kernels::family::{Allowance, Arg, Launch};
use bakelite_kernels::tensor_map::{Piece, TensorMap};
use bakelite_templates as templates;

/// Kernels, with what their launches ask for.
pub(super) fn kernels(plan: &Plan) -> Vec<templates::Kernel> {
    let one = |(i, k): (usize, &crate::plan::KernelSource)| {
        let Allowance { shared, large_clusters } = Allowance::of(i, plan.launches());
        templates::Kernel { name: k.name.clone(), shared, large_clusters }
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
            after: step.after.clone(),
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
    // Where something lies, in terms of functions of offsets in the weights and in the arena.
    let lies = |place: &Place, [weights, arena, of_port]: [&str; 3]| match place {
        Place::Weight(w) => Some(format!("{weights}({})", plan.weights.get(*w)?.offset)),
        Place::Buffer(b) => match port(*b) {
            Some(name) => Some(format!("io.{name}{of_port}")),
            None => Some(format!("{arena}({})", plan.buffers.get(*b)?.offset)),
        },
    };
    let pointer = |place: &Place| lies(place, ["w", "a", ".into()"]);
    let address = |place: &Place| lies(place, ["weights.add", "arena.add", ""]);
    let map = |arg: &Arg| match arg {
        Arg::Map(m) => {
            let place = m.of.among(&step.inputs, &step.outputs);
            Some(place.and_then(address).map(|at| map(m, &at, scope)))
        }
        _ => None,
    };
    let maps = l.args.iter().filter_map(map).collect::<Option<Vec<_>>>()?;
    let mut names = (0..maps.len()).map(templates::Launch::map_name);
    let mut arg = |arg: &Arg| match arg {
        Arg::Map(_) => Some(format!("Arg::Map(&{})", names.next()?)),
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
        maps,
        args: l.args.iter().map(&mut arg).collect::<Option<Vec<_>>>()?,
    })
}

// The expression that encodes a map over the tensor at `address`, a `DevicePtr`.
fn map(map: &TensorMap, address: &str, scope: &Scope) -> String {
    let element = if map.dtype == DType::BF16 { "BF16" } else { "F16" };
    let list = |dims: &[Dim]| dims.iter().map(|d| scope.cast(d, "u64")).collect::<Vec<_>>().join(", ");
    let (dims, strides) = (list(&map.dims), list(&map.strides));
    let from = if map.offset.is(0) { String::new() } else { format!(".add({})", scope.size(&map.offset)) };
    let head = format!("element: Element::{element}, address: {address}{from}");
    match &map.piece {
        Piece::Tile(tile) => format!(
            "TensorMap::tiled(stream.gpu(), &Tiled {{ {head}, dims: &[{dims}], strides: &[{strides}], tile: &{tile:?}, swizzle: Swizzle::B128 }})?"
        ),
        Piece::Windows(w) => {
            let corner = |c: &[Dim; 2]| c.each_ref().map(|d| scope.cast(d, "i32")).join(", ");
            let [first, last] = w.corners.each_ref().map(corner);
            format!(
                "TensorMap::windows(stream.gpu(), &Windows {{ {head}, dims: [{dims}], strides: [{strides}], corners: [[{first}], [{last}]], steps: {:?}, channels: {}, windows: {}, swizzle: Swizzle::B128 }})?",
                w.steps, w.channels, w.count
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::name::Names;
    use bakelite_kernels::tensor_map::{Tensor, Windows};
    use bakelite_kernels::{Range, Symbols};

    #[test]
    fn maps_are_written_with_their_sizes() {
        let symbols = Symbols::from([("batch".to_owned(), Range { min: 1, max: 8, opt: 1 })]);
        let scope = Scope::new(&symbols, &mut Names::default());
        let size = |n: i64| Dim::from(n);
        let rows = TensorMap {
            of: Tensor::Input(0),
            offset: size(0),
            dtype: DType::BF16,
            dims: vec![size(72), Dim::symbol("batch") * size(49)],
            strides: vec![size(144)],
            piece: Piece::Tile(vec![64, 128]),
        };
        let text = map(&rows, "arena.add(256)", &scope);
        for part in ["tiled", "Element::BF16", "arena.add(256)", "&[72, ", "batch", "&[144]", "&[64, 128]"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let windows = Windows {
            channels: 64,
            count: 128,
            corners: [[size(-1), size(-2)], [size(-3), size(0)]],
            steps: [2, 1],
        };
        let dims = vec![size(64), size(9), size(7), Dim::symbol("batch")];
        let strides = vec![size(128), size(1152), size(8064)];
        let images = TensorMap {
            of: Tensor::Output(0),
            offset: size(32),
            dtype: DType::F16,
            dims,
            strides,
            piece: Piece::Windows(windows),
        };
        let text = map(&images, "io.image", &scope);
        for part in [
            "windows",
            "io.image.add(32)",
            "[64, 9, 7, batch as u64]",
            "[[-1, -2], [-3, 0]]",
            "steps: [2, 1]",
            "windows: 128",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
