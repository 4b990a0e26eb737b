fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let model = bakelite::onnx::decode(bakelite::onnx::Source::open(&a[1]).unwrap()).unwrap();
    let inputs = bakelite::npz::read(std::fs::File::open(&a[2]).unwrap()).unwrap();
    let graph = bakelite::onnx::import(&model, &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    let mut graph = graph; graph.remove_dead();
    println!("import {:?} {:?}", t.elapsed(), graph.histogram());
    let regions = bakelite::fuse::regions(graph).unwrap_or_else(|e| panic!("{e}"));
    println!("regions {}", regions.regions.len());
    let plan = bakelite::plan::build_host(regions).unwrap_or_else(|e| panic!("{e}"));
    println!("arena ratio {}", plan.arena_ratio());
    let names: Vec<String> = plan.outputs.iter().map(|o| o.name.clone()).collect();
    let ins: Vec<_> = plan.inputs.iter().map(|p| inputs[&p.name].clone()).collect();
    let mut s = bakelite::execute::host::Session::new(plan).unwrap();
    let mut outs = s.infer(&ins).unwrap_or_else(|e| panic!("{e}"));
    for _ in 0..3 { let t = std::time::Instant::now(); outs = s.infer(&ins).unwrap(); println!("infer {:?}", t.elapsed()); }
    let refs = bakelite::npz::read(std::fs::File::open(&a[3]).unwrap()).unwrap();
    for (n, o) in names.iter().zip(&outs) {
        let key = format!("{n}__f64");
        let r = refs.get(&key).or_else(|| refs.get(n)).unwrap_or_else(|| panic!("no {n} in {:?}", refs.keys()));
        let (x, y) = (o.to_f64(), r.to_f64());
        assert_eq!(o.shape, r.shape);
        let num: f64 = x.iter().zip(&y).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
        let den: f64 = y.iter().map(|b| b * b).sum::<f64>().sqrt();
        println!("{n} {} rel {:.2e}", o.shape.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("x"), num / den);
    }
}
