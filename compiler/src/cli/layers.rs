//! The per-layer view: what each step takes, what it achieves, and how far that is from what no kernel can beat.

use super::device::Session;
use super::table::{Align, table};
use super::{Failure, Outcome};
use bakelite::Target;
use bakelite::ir::Tensor;
use bakelite::plan::Plan;
use bakelite_host::problem::Math;
use bakelite_host::{DType, Problem, Work};
use bakelite_kernels::target::Ceiling;
use serde_json::{Value, json};

/// One step.
pub(crate) struct Layer {
    /// µs that the whole grows by with this step: with overlap, and with its weights as cold as they will be.
    time: f64,
    /// µs of the step alone, repeated, with its operands in L2 where they fit.
    alone: f64,
    work: Work,
    /// µs that its arithmetic or its traffic takes at least.
    floor: f64,
    tactic: String,
    name: String,
    problem: String,
}

/// The steps with their times, slowest first.
pub(crate) fn layers(session: &mut Session, inputs: &[Tensor]) -> Outcome<Vec<Layer>> {
    let (times, alone) = session.time_steps(inputs)?;
    let mut layers = measured(session.plan(), &times, &alone)?;
    layers.sort_by(|a, b| b.time.total_cmp(&a.time));
    Ok(layers)
}

fn measured(plan: &Plan, times: &[f64], alone: &[f64]) -> Outcome<Vec<Layer>> {
    let Target::Cuda(target) = &plan.target else { return Err(Failure::new("the plan is for no GPU")) };
    let ceiling = target.ceiling();
    let one = |((step, time), alone): ((&bakelite::plan::Step, &f64), &f64)| {
        let problem = step.problem.map(&mut |d| d.opt_size(&plan.symbols));
        let work = problem.work().map_err(|e| Failure::new(format!("step {}: {e}", step.name)))?;
        Ok(Layer {
            time: *time,
            alone: *alone,
            work,
            floor: floor(&problem, work, &ceiling),
            tactic: step.cuda.as_ref().map_or_else(String::new, |c| c.tactic.to_string()),
            name: step.name.clone(),
            problem: step.problem.to_string(),
        })
    };
    plan.steps.iter().zip(times).zip(alone).map(one).collect()
}

/// µs of the work at the device's ceilings, arithmetic and traffic fully overlapped.
fn floor(problem: &Problem<usize>, work: Work, ceiling: &Ceiling) -> f64 {
    let (dtype, math) = match problem {
        Problem::Gemm(p) => (p.dtype, p.math),
        Problem::Conv(p) => (p.dtype, p.math),
        Problem::ConvTranspose(p) => (p.dtype, Math::Exact),
        Problem::Attention(p) => (p.dtype, Math::Exact),
        _ => (DType::F32, Math::Exact),
    };
    let products = match (dtype, math) {
        (DType::F16 | DType::BF16, _) => ceiling.half,
        (DType::F32, Math::Tf32) => ceiling.tf32,
        _ => ceiling.simt,
    };
    // 1 TFLOP/s is 10⁶ operations a µs, 1 GB/s is 10³ bytes a µs.
    let products = work.products as f64 / (products * 1e6);
    let others = work.others as f64 / (ceiling.simt * 1e6);
    let traffic = work.bytes() as f64 / (ceiling.bandwidth * 1e3);
    products.max(others).max(traffic)
}

impl Layer {
    fn tflops(&self) -> f64 {
        per(self.work.flops() as f64 / 1e6, self.time)
    }
    fn gbs(&self) -> f64 {
        per(self.work.bytes() as f64 / 1e3, self.time)
    }
}

fn per(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// All steps one after the other.
fn total(layers: &[Layer]) -> Layer {
    let sum = |f: fn(&Work) -> u64| layers.iter().map(|l| f(&l.work)).fold(0, u64::saturating_add);
    Layer {
        time: layers.iter().map(|l| l.time).sum(),
        alone: layers.iter().map(|l| l.alone).sum(),
        work: Work {
            products: sum(|w| w.products),
            others: sum(|w| w.others),
            read: sum(|w| w.read),
            written: sum(|w| w.written),
        },
        floor: layers.iter().map(|l| l.floor).sum(),
        tactic: String::new(),
        name: "all steps".to_owned(),
        problem: String::new(),
    }
}

/// The table for people.
pub(crate) fn layers_table(layers: &[Layer]) -> String {
    let total = total(layers);
    let head = ["µs", "share", "alone µs", "TFLOP/s", "GB/s", "floor µs", "× floor", "tactic", "step"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for layer in layers.iter().chain([&total]) {
        rows.push(vec![
            format!("{:.2}", layer.time),
            format!("{:.1} %", 100.0 * per(layer.time, total.time)),
            format!("{:.2}", layer.alone),
            format!("{:.1}", layer.tflops()),
            format!("{:.0}", layer.gbs()),
            format!("{:.2}", layer.floor),
            format!("{:.1}", per(layer.time, layer.floor)),
            layer.tactic.clone(),
            layer.name.clone(),
        ]);
    }
    let right = [Align::Right; 7].into_iter();
    table(&right.chain([Align::Left; 2]).collect::<Vec<_>>(), &rows)
}

/// The same numbers for programs.
pub(crate) fn layers_json(layers: &[Layer]) -> Value {
    let total = total(layers);
    let row = |l: &Layer| {
        json!({
            "us": l.time,
            "alone_us": l.alone,
            "share": per(l.time, total.time),
            "flops": l.work.flops(),
            "bytes": l.work.bytes(),
            "tflops": l.tflops(),
            "gb_per_s": l.gbs(),
            "floor_us": l.floor,
            "ratio": per(l.time, l.floor),
            "tactic": l.tactic,
            "name": l.name,
            "problem": l.problem,
        })
    };
    json!({ "steps": layers.iter().map(row).collect::<Vec<_>>(), "total": row(&total) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakelite_host::problem::{Epilogue, Gemm};

    fn layer(time: f64, floor: f64, name: &str) -> Layer {
        let work = Work { products: 8_000_000, others: 0, read: 60_000, written: 20_000 };
        Layer {
            time,
            alone: time / 2.0,
            work,
            floor,
            tactic: "t/1".into(),
            name: name.into(),
            problem: String::new(),
        }
    }

    #[test]
    fn layers_add_up() {
        let layers = [layer(30.0, 3.0, "a"), layer(10.0, 5.0, "b")];
        let expected = "   µs    share  alone µs  TFLOP/s  GB/s  floor µs  × floor  tactic  step
30.00   75.0 %     15.00      0.3     3      3.00     10.0  t/1     a
10.00   25.0 %      5.00      0.8     8      5.00      2.0  t/1     b
40.00  100.0 %     20.00      0.4     4      8.00      5.0          all steps
";
        assert_eq!(layers_table(&layers), expected);
        let json = layers_json(&layers);
        assert_eq!(
            (json["steps"][1]["ratio"].as_f64(), json["total"]["us"].as_f64()),
            (Some(2.0), Some(40.0))
        );
        assert_eq!(json["total"]["flops"].as_u64(), Some(16_000_000));
        // Nothing to time is no division by nothing.
        assert!(layers_table(&[]).contains("0.0 %"));
    }

    #[test]
    fn floors_are_the_slower_of_arithmetic_and_traffic() {
        let ceiling = Ceiling { bandwidth: 4000.0, half: 500.0, tf32: 250.0, simt: 50.0 };
        let gemm = |dtype, math, n: usize| {
            let (m, k, epilogue) = (4096usize, 768usize, Epilogue::store(dtype));
            let p = Gemm { batch: 1, m, n, k, dtype, math, a: [0, k, 1], b: [0, n, 1], epilogue };
            let problem = Problem::from(p);
            floor(&problem, problem.work().unwrap_or_default(), &ceiling)
        };
        let products = 2.0 * 4096.0 * 768.0 * 3072.0;
        assert_eq!(gemm(DType::F16, Math::Exact, 3072), products / 500e6);
        assert_eq!(gemm(DType::F32, Math::Tf32, 3072), products / 250e6);
        assert_eq!(gemm(DType::F32, Math::Exact, 3072), products / 50e6);
        // A product with a vector only reads.
        assert_eq!(gemm(DType::F16, Math::Exact, 1), 2.0 * (4096.0 * 768.0 + 768.0 + 4096.0) / 4e6);
    }
}
