//! Layer and RMS normalisation: rows in registers, and rows read once for each pass.

use super::rows::{self, Kernel, Rows, Stream};
use crate::dim::{Dim, Symbols};
use crate::family::{Build, Family};
use crate::tactic::Tactic;
use crate::target::Target;
use bakelite_host::problem::{Epilogue, LayerNorm as Shape};
use bakelite_host::{DType, Problem};

/// Normalisation of contiguous rows.
pub struct LayerNorm;

/// What a launch takes alone, and not in a graph, where kernels begin while others end: 128 rows of 768 take 1.2 to 1.4 µs there.
const OVERLAPPED: f64 = 1.6;

impl Family for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn version(&self) -> u32 {
        3
    }

    fn tactics(&self, problem: &Problem<Dim>, symbols: &Symbols, _: &Target) -> Vec<Tactic> {
        let Problem::LayerNorm(p) = problem else { return vec![] };
        if !p.dtype.is_float() {
            return vec![];
        }
        let rows = Rows::propose(p.dtype, &p.len, true, symbols);
        rows.into_iter().map(|r| Tactic::new(self.name(), self.version(), &r.params())).collect()
    }

    fn cost(&self, problem: &Problem<Dim>, tactic: &Tactic, symbols: &Symbols, target: &Target) -> f64 {
        let Problem::LayerNorm(p) = problem else { return f64::INFINITY };
        let Ok(r) = Rows::of(tactic, p.dtype, &p.len, symbols) else { return f64::INFINITY };
        let all = &p.rows * &p.len;
        let again = if r.chunks > 0 { 1.0 } else { 3.0 };
        Stream {
            bytes: rows::bytes(&all, p.dtype, symbols) + rows::bytes(&all, p.epilogue.out(), symbols),
            blocks: r.blocks(&p.rows).opt(symbols) as f64,
            threads: f64::from(r.threads()),
            // Scale and bias come after the statistics.
            steps: again * r.steps(&p.len, symbols) + 1.0,
            barriers: if r.group > 32 { 4.0 } else { 1.0 },
        }
        .cost(target)
            - OVERLAPPED
    }

    fn build(
        &self,
        problem: &Problem<Dim>,
        tactic: &Tactic,
        symbols: &Symbols,
        _: &Target,
    ) -> Result<Build, String> {
        let Problem::LayerNorm(p) = problem else {
            return Err(format!("`{tactic}` is no {}", problem.name()));
        };
        let r = Rows::of(tactic, p.dtype, &p.len, symbols)?;
        let own = if p.bias { 3 } else { 2 };
        let kernel = Kernel::new(problem, tactic, p.dtype, &[&p.rows * &p.len], symbols)
            .flag("RMS", u32::from(p.rms))
            .flag("BIAS", u32::from(p.bias))
            .number("EPSILON", p.epsilon)
            .size("OUTER", &p.rows)
            .size("LEN", &p.len);
        let kernel = r.define(kernel).epilogue(&p.epilogue, &[p.rows.clone(), p.len.clone()]);
        Ok(Build {
            kernels: vec![kernel.finish(include_str!("../../cuda/layer_norm.cuh"))],
            launches: vec![rows::launch(
                0,
                r.blocks(&p.rows),
                r.threads(),
                rows::args(problem, own, &p.epilogue),
            )],
            workspace: Dim::from(0),
            packs: vec![None; own + p.epilogue.operands.len()],
        })
    }
}

/// Problems that the tests compile and run.
pub fn samples() -> Vec<Problem<Dim>> {
    let sample = |rms, bias, dtype, shape: &str, fused| {
        let shape = rows::dims(shape);
        let epilogue = if fused { rows::sample_epilogue(dtype, &shape) } else { Epilogue::store(dtype) };
        let [rows, len] = [shape[0].clone(), shape[1].clone()];
        Problem::from(Shape { rms, rows, len, epsilon: 1e-5, bias, dtype, epilogue })
    };
    vec![
        sample(false, true, DType::F16, "128*batch 768", false),
        sample(false, true, DType::F32, "50 768", true),
        sample(true, false, DType::BF16, "batch*seq 4096", false),
        sample(false, false, DType::F16, "33 97", true),
        sample(false, true, DType::F64, "7 250", false),
        sample(true, true, DType::F32, "3 20000", false),
        sample(false, true, DType::F16, "5 50000", true),
        sample(false, true, DType::F32, "100 12", false),
        sample(false, true, DType::F32, "4 seq", false),
        // As large as an encoder's.
        sample(false, true, DType::F16, "4099 768", false),
    ]
}
