use bakelite::*;
use bakelite_kernels::{Arch, Nvrtc};
fn rel(o: &ir::Tensor, r: &ir::Tensor) -> f64 {
    let (x, y) = (o.to_f64(), r.to_f64());
    let num: f64 = x.iter().zip(&y).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    num / y.iter().map(|b| b * b).sum::<f64>().sqrt()
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    if let Err(e) = go(&a) {
        println!("FAIL {} {e}", a[1]);
        std::process::exit(1)
    }
}
fn go(a: &[String]) -> Result<()> {
    let (dev, prec) = (a[4].as_str(), a[5].as_str());
    let t = std::time::Instant::now();
    let model = onnx::decode(onnx::Source::open(&a[1])?)?;
    let inputs = npz::read(std::fs::File::open(&a[2]).unwrap()).unwrap();
    let mut options = onnx::ImportOptions::default();
    let _ = &mut options;
    let mut graph = onnx::import(&model, &options)?;
    graph.remove_dead();
    let target = if dev == "cpu" {
        Target::Host
    } else {
        Target::Cuda(bakelite_kernels::Target::of("sm_90a".parse::<Arch>().unwrap()))
    };
    let precision = match prec {
        "fp16" => passes::Precision::Fp16,
        "tf32" => passes::Precision::Tf32,
        "bf16" => passes::Precision::Bf16,
        _ => passes::Precision::Fp32,
    };
    let po = passes::Options {
        target: if dev == "cpu" { passes::TargetKind::Host } else { passes::TargetKind::Cuda },
        precision,
        ..Default::default()
    };
    let graph = passes::run(graph, &po, &mut ())?;
    let hist = format!("{:?}", graph.histogram());
    let regions = fuse::regions(graph)?;
    println!("{} {prec}: front {:?} regions {} {hist}", a[1], t.elapsed(), regions.regions.len());
    let check = |plan: &plan::Plan, outs: &[ir::Tensor]| {
        let refs = npz::read(std::fs::File::open(&a[3]).unwrap()).unwrap();
        for (n, o) in plan.outputs.iter().map(|o| &o.name).zip(outs) {
            let r = refs.get(&format!("{n}__f64")).or_else(|| refs.get(n)).unwrap();
            println!(
                "   {n} {:?} rel {:.2e} max {:.2e}",
                o.shape,
                rel(o, r),
                o.to_f64().iter().zip(r.to_f64()).map(|(a, b)| (a - b).abs()).fold(0., f64::max)
            );
        }
    };
    if dev == "cpu" {
        let plan = plan::build_host(regions)?;
        let ins: Vec<_> = plan.inputs.iter().map(|p| inputs[&p.name].clone()).collect();
        let mut s = execute::host::Session::new(plan.clone())?;
        let mut outs = s.infer(&ins)?;
        let mut best = 1e9f64;
        for _ in 0..3 {
            let t = std::time::Instant::now();
            outs = s.infer(&ins)?;
            best = best.min(t.elapsed().as_secs_f64() * 1e3);
        }
        println!("   cpu {best:.1} ms ratio {:.3}", plan.arena_ratio());
        check(&plan, &outs);
        return Ok(());
    }
    let nvrtc = Nvrtc::open(std::env::var("BAKELITE_NVRTC").ok().as_deref().map(std::path::Path::new))
        .map_err(|e| Error::new(Stage::Tune, "", e.to_string()))?;
    let g = target.gpu().unwrap().clone();
    let t = std::time::Instant::now();
    let mut tactics = tune::Tactics::default();
    let tune_it = a.len() > 6 && a[6] == "tune";
    let gpu = if dev == "gpu" { Some(bakelite_runtime::Gpu::open(0)?) } else { None };
    let progress = |_: tune::gpu::Progress| ();
    let mut warn = |w| println!("{w}");
    let chosen = match &gpu {
        Some(gpu) if tune_it => tune::choose(
            regions,
            &g,
            &mut tactics,
            &mut tune::gpu::GpuTuner::new(gpu, &nvrtc, tune::gpu::Effort::Normal, &progress)?,
            &mut warn,
        )?,
        _ => tune::choose(regions, &g, &mut tactics, &mut tune::Estimate, &mut warn)?,
    };
    let tt = t.elapsed();
    let plan = plan::build(chosen, &target)?;
    let t = std::time::Instant::now();
    let images = execute::kernels::compile(&plan, &nvrtc, g.arch, false, &|| ())?;
    println!(
        "   tune {tt:?} compile {:?} kernels {} ratio {:.3}",
        t.elapsed(),
        images.len(),
        plan.arena_ratio()
    );
    if dev == "plan" {
        println!("{plan}");
        return Ok(());
    }
    let ins: Vec<_> = plan.inputs.iter().map(|p| inputs[&p.name].clone()).collect();
    let mut s = execute::gpu::Session::load(gpu.as_ref().unwrap(), plan.clone(), &images)?;
    let outs = s.infer(&ins)?;
    check(&plan, &outs);
    let again = s.infer(&ins)?;
    println!("   identical {}", outs == again);
    let mut tm = s.time(&ins, 100)?;
    tm.gpu.sort_by(f64::total_cmp);
    tm.host.sort_by(f64::total_cmp);
    println!("   GPU {:.1} us  host-to-host {:.1} us", tm.gpu[50], tm.host[50]);
    if a.iter().any(|x| x == "layers") {
        let times = s.time_steps(&ins)?;
        let mut rows: Vec<_> = plan.steps.iter().zip(&times).collect();
        rows.sort_by(|a, b| b.1.total_cmp(a.1));
        println!("   sum of steps {:.1}", times.iter().sum::<f64>());
        for (st, t) in rows.iter().take(14) {
            println!(
                "   {t:7.2} {} | {} | {}",
                st.cuda.as_ref().unwrap().tactic,
                st.name,
                st.problem.to_string().chars().take(150).collect::<String>()
            );
        }
    }
    Ok(())
}
