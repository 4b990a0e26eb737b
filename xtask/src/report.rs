//! `bench-report`: the results of `benches/peers.py` to tables and plots. Reads files, knows no GPU, and gives the same text
//! for the same results.

use crate::plot;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What `benches/peers.py` writes.
#[derive(Deserialize)]
pub(crate) struct Results {
    gpu: String,
    driver: String,
    versions: BTreeMap<String, Option<String>>,
    date: String,
    rows: Vec<Row>,
    /// Which runs the rows are of, where there are several.
    #[serde(skip)]
    runs: Vec<String>,
}

#[derive(Clone, Deserialize)]
struct Row {
    model: String,
    batch: u32,
    precision: String,
    peer: String,
    status: String,
    why: Option<String>,
    gpu_us: Option<f64>,
    host_us: Option<f64>,
    build_s: Option<f64>,
    /// Whether there was a tactics file, so that nothing, or little, was tuned.
    #[serde(default)]
    from_tactics: bool,
    /// Builds that shared the machine with it.
    builds_at_once: Option<u64>,
    load_ms: Option<f64>,
    arena_bytes: Option<u64>,
    weight_bytes: Option<u64>,
    steps: Option<u64>,
    error: Option<f64>,
    /// Of a single layer: its own time, many in one graph.
    kernel_us: Option<f64>,
}

const OURS: &str = "bakelite";
/// In the order of the tables and plots.
const PEERS: [(&str, &str); 6] = [
    ("torch-eager", "PyTorch eager"),
    ("torch-graph", "PyTorch graph"),
    ("torch-compile", "torch.compile"),
    ("onnxruntime", "ONNX Runtime"),
    ("tensorrt", "TensorRT"),
    (OURS, "Bakelite"),
];

impl Row {
    /// What is compared: whatever else ran the same.
    fn same(&self, other: &Row) -> bool {
        (&self.model, self.batch, &self.precision) == (&other.model, other.batch, &other.precision)
    }
}

fn read(file: &Path) -> Result<Results, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    serde_json::from_str(&text)
        .map_err(|e| format!("{} is no result of benches/peers.py: {e}", file.display()))
}

/// Several runs as one. What a later one measured is all its own, for no ratio to be of two runs.
fn joined(files: &[PathBuf]) -> Result<Results, String> {
    let (first, more) = files.split_first().ok_or("bench-report takes files that bench-peers wrote")?;
    let mut all = read(first)?;
    let mut dates = vec![all.date.clone()];
    // Each with the number of its run; models stay in the order in which they come first.
    let mut rows: Vec<(usize, Row)> = all.rows.drain(..).map(|row| (0, row)).collect();
    let mut order: Vec<String> = rows.iter().map(|(_, row)| row.model.clone()).collect();
    for (run, file) in more.iter().enumerate() {
        let next = read(file)?;
        if (&next.gpu, &next.driver) != (&all.gpu, &all.driver) {
            let both = |r: &Results| format!("{}, driver {}", r.gpu, r.driver);
            return Err(format!(
                "{} is of {}, {} of {}",
                file.display(),
                both(&next),
                first.display(),
                both(&all)
            ));
        }
        rows.retain(|(_, row)| !next.rows.iter().any(|other| other.same(row)));
        order.extend(next.rows.iter().map(|row| row.model.clone()));
        rows.extend(next.rows.into_iter().map(|row| (run + 1, row)));
        dates.push(next.date);
    }
    rows.sort_by_key(|(_, row)| order.iter().position(|model| *model == row.model));
    if !more.is_empty() {
        let what = |(number, (file, date)): (usize, (&PathBuf, &String))| {
            let own = rows.iter().filter(|(run, _)| *run == number).map(|(_, row)| row);
            let names: BTreeSet<_> = own.map(|r| (&r.model, r.batch, &r.precision)).collect();
            let layers = names.iter().filter(|(model, ..)| is_layer(model)).count();
            let counted = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
            let counts = [counted(names.len() - layers, "of networks"), counted(layers, "of layers")];
            let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            format!("`{name}` of {date} ({counts})")
        };
        all.runs = files.iter().zip(&dates).enumerate().map(what).collect();
    }
    all.rows = rows.into_iter().map(|(_, row)| row).collect();
    Ok(all)
}

/// Writes `docs/benchmarks.md` and its plots from results files, of which later ones stand for earlier ones.
pub(crate) fn write(files: &[PathBuf], root: &Path) -> Result<(), String> {
    let results = joined(files)?;
    let docs = root.join("docs");
    let put = |name: &str, text: &str| {
        let path = docs.join(name);
        let written =
            std::fs::create_dir_all(docs.join("benchmarks")).and_then(|()| std::fs::write(&path, text));
        written.map_err(|e| format!("{}: {e}", path.display()))
    };
    for (name, svg) in plots(&results) {
        put(&format!("benchmarks/{name}"), &svg)?;
    }
    put("benchmarks.md", &page(&results))
}

/// One setting: all models at one precision and batch.
struct Setting<'a> {
    precision: &'a str,
    batch: u32,
    /// Models in the file's order, with the row of each peer.
    models: Vec<(&'a str, BTreeMap<&'a str, &'a Row>)>,
}

fn settings(results: &Results) -> Vec<Setting<'_>> {
    let kinds: BTreeSet<(&str, u32)> = results.rows.iter().map(|r| (r.precision.as_str(), r.batch)).collect();
    let mut all = Vec::new();
    for (precision, batch) in kinds {
        let mut models: Vec<(&str, BTreeMap<&str, &Row>)> = Vec::new();
        let here = |r: &&Row| r.precision == precision && r.batch == batch && !is_layer(&r.model);
        for row in results.rows.iter().filter(here) {
            match models.iter_mut().find(|(name, _)| *name == row.model) {
                Some((_, peers)) => drop(peers.insert(&row.peer, row)),
                None => models.push((&row.model, BTreeMap::from([(row.peer.as_str(), row)]))),
            }
        }
        if !models.is_empty() {
            all.push(Setting { precision, batch, models });
        }
    }
    all
}

/// Whether the model is a single layer, by its name (benches/layers.py).
fn is_layer(model: &str) -> bool {
    ["gemm_", "conv_", "attention_", "causal_"].iter().any(|kind| model.starts_with(kind))
}

/// Single layers against the libraries' kernels, if there are any.
fn layers(text: &mut String, results: &Results) {
    let all = || results.rows.iter().filter(|r| is_layer(&r.model));
    let theirs = |ours: &Row| all().find(|r| r.peer == "torch-graph" && r.same(ours))?.kernel_us;
    let rows: Vec<(&Row, Option<f64>)> = all().filter(|r| r.peer == OURS).map(|r| (r, theirs(r))).collect();
    if rows.is_empty() {
        return;
    }
    *text += "\n## Single layers\n\nµs of one of many in a graph: cuBLAS, cuDNN and PyTorch's attention through PyTorch, and \
              Bakelite's kernel with its epilogue.\n\n\
              | layer | precision | batch | PyTorch | Bakelite | ratio |\n|---|---|---:|---:|---:|---:|\n";
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (ours, theirs) in rows {
        let ratio = theirs.zip(ours.kernel_us).filter(|(_, own)| *own > 0.0).map(|(other, own)| other / own);
        let kind = ours.model.split('_').next().unwrap_or_default();
        ratios.entry(kind).or_default().extend(ratio);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            ours.model,
            ours.precision,
            ours.batch,
            number(theirs, 1),
            number(ours.kernel_us, 1),
            number(ratio, 2)
        );
    }
    let means = ratios
        .iter()
        .filter_map(|(kind, ratios)| Some(format!("{kind} {:.2}", geometric_mean(ratios)?)))
        .collect::<Vec<_>>();
    let _ = writeln!(text, "\nGeometric means of the ratios: {}.", means.join(", "));
}

fn time(peers: &BTreeMap<&str, &Row>, peer: &str) -> Option<f64> {
    peers.get(peer).filter(|r| r.status == "ok")?.gpu_us.filter(|t| *t > 0.0)
}

/// The fastest of the others.
fn best_rival(peers: &BTreeMap<&str, &Row>) -> Option<f64> {
    let rivals = PEERS.iter().filter(|(peer, _)| *peer != OURS).filter_map(|(peer, _)| time(peers, peer));
    rivals.min_by(f64::total_cmp)
}

fn geometric_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"))
}

fn mib(bytes: Option<u64>) -> String {
    number(bytes.map(|b| b as f64 / f64::from(1 << 20)), 1)
}

fn page(results: &Results) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    let _ = writeln!(
        text,
        "Made by `cargo xtask bench-report` from what `benches/peers.py` measured on one GPU; do not edit. {}, driver {}, {}.",
        results.gpu, results.driver, results.date
    );
    if !results.runs.is_empty() {
        let _ = writeln!(
            text,
            "Several runs, each on one GPU of this kind; the times of a row are all of one run. Rows: {}.",
            results.runs.join("; ")
        );
    }
    let known = results.versions.iter().filter_map(|(name, v)| Some(format!("{name} {}", v.as_ref()?)));
    let _ = writeln!(text, "Versions: {}.\n", known.collect::<Vec<_>>().join(", "));
    text += "Every row is one network with the same random weights, from the same ONNX file where the peer takes ONNX. Times are \
             medians of GPU time by CUDA events around single inferences with inputs on the device, which has the next ones before \
             it ends one, µs. The ratio is the best peer's time over Bakelite's: above 1 Bakelite is faster.\n";
    let measured = |peer: &&(&str, &str)| results.rows.iter().any(|row| row.peer == peer.0);
    let missing: Vec<&str> = PEERS.iter().filter(|p| !measured(p)).map(|(_, title)| *title).collect();
    if !missing.is_empty() {
        let _ = writeln!(text, "\n**Not measured in this run**, and so in no ratio: {}.", missing.join(", "));
    }
    for setting in settings(results) {
        section(&mut text, &setting);
    }
    layers(&mut text, results);
    text
}

fn section(text: &mut String, setting: &Setting<'_>) {
    let Setting { precision, batch, models } = setting;
    let _ = writeln!(text, "\n## {precision}, batch {batch}\n");
    if models.iter().any(|(_, peers)| best_rival(peers).is_some()) {
        let _ = writeln!(text, "![](benchmarks/{})\n", plot_name(setting));
    }
    let shown: Vec<(&str, &str)> = PEERS
        .into_iter()
        .filter(|(peer, _)| models.iter().any(|(_, peers)| peers.contains_key(peer)))
        .collect();
    let head: Vec<&str> = shown.iter().map(|(_, title)| *title).collect();
    let _ =
        writeln!(text, "| model | {} | ratio |\n|---|{}---:|", head.join(" | "), "---:|".repeat(shown.len()));
    let mut ratios = Vec::new();
    for (model, peers) in models {
        let times: Vec<String> = shown
            .iter()
            .map(|(peer, _)| match time(peers, peer) {
                Some(t) if *peer == OURS || Some(t) == best_rival(peers) => format!("**{t:.1}**"),
                t => number(t, 1),
            })
            .collect();
        let ratio = best_rival(peers).zip(time(peers, OURS)).map(|(rival, ours)| rival / ours);
        ratios.extend(ratio);
        let _ = writeln!(text, "| {model} | {} | {} |", times.join(" | "), number(ratio, 2));
    }
    if let Some(mean) = geometric_mean(&ratios) {
        // Against each peer alone, over the models that both have.
        let alone = |peer: &str| {
            let both = models.iter().filter_map(|(_, p)| Some(time(p, peer)? / time(p, OURS)?));
            geometric_mean(&both.collect::<Vec<_>>())
        };
        let means: Vec<String> = shown
            .iter()
            .map(|(peer, _)| {
                alone(peer).filter(|_| *peer != OURS).map_or_else(String::new, |m| format!("× {m:.2}"))
            })
            .collect();
        let _ = writeln!(text, "| geometric mean | {} | {mean:.2} |", means.join(" | "));
    }
    for (model, peers) in models {
        for (peer, title) in PEERS {
            if let Some(row) = peers.get(peer).filter(|r| r.status != "ok") {
                let why = row.why.as_deref().unwrap_or("no reason was recorded");
                let _ = writeln!(text, "\n{model}, {title}: {}: {}", row.status, escape(why));
            }
        }
    }
    let _ = writeln!(
        text,
        "\n| model | Bakelite: steps | arena MiB | weights MiB | load ms | host to host µs | tuning and build s | build s of the others | errors |"
    );
    let _ = writeln!(text, "|---|---:|---:|---:|---:|---:|---:|---|---|");
    for (model, peers) in models {
        let ours = peers.get(OURS).copied();
        let each = |f: &dyn Fn(&Row) -> Option<String>| {
            let all =
                PEERS.iter().filter_map(|(peer, title)| Some(format!("{title} {}", f(peers.get(peer)?)?)));
            all.collect::<Vec<_>>().join(", ")
        };
        let beside = |r: &Row| match r.builds_at_once {
            Some(n @ 2..) => format!(" ({n} at once)"),
            _ => String::new(),
        };
        let builds =
            each(&|r| (r.peer != OURS).then(|| r.build_s.map(|s| format!("{s:.1}{}", beside(r))))?);
        let errors = each(&|r| r.error.map(|e| format!("{e:.1e}")));
        let of = |f: &dyn Fn(&Row) -> Option<f64>| ours.and_then(f);
        let _ = writeln!(
            text,
            "| {model} | {} | {} | {} | {} | {} | {} | {builds} | {errors} |",
            number(of(&|r| r.steps.map(|s| s as f64)), 0),
            mib(ours.and_then(|r| r.arena_bytes)),
            mib(ours.and_then(|r| r.weight_bytes)),
            number(of(&|r| r.load_ms), 1),
            number(of(&|r| r.host_us), 1),
            number(of(&|r| r.build_s), 1)
                + if ours.is_some_and(|r| r.from_tactics) { " (from a tactics file)" } else { "" },
        );
    }
}

/// Text from a peer must not be read as markup.
fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('`', "'")
}

fn plot_name(setting: &Setting<'_>) -> String {
    format!("{}_b{}.svg", setting.precision, setting.batch)
}

fn plots(results: &Results) -> Vec<(String, String)> {
    let plot = |s: &Setting<'_>| {
        let groups = s.models.iter().filter_map(|(model, peers)| {
            let best = best_rival(peers)?;
            let bar = |(peer, title): &(&'static str, &'static str)| {
                let t = time(peers, peer)?;
                let text = format!("{t:.0} µs");
                Some(plot::Bar { series: title, value: best / t, text, strong: *peer == OURS })
            };
            Some(plot::Group { name: (*model).to_owned(), bars: PEERS.iter().filter_map(bar).collect() })
        });
        let title = format!(
            "Inferences per second, relative to the fastest other: {}, batch {}",
            s.precision, s.batch
        );
        let under =
            format!("{}, driver {}, {}. Longer is faster.", results.gpu, results.driver, results.date);
        (plot_name(s), plot::bars(&title, &under, &groups.collect::<Vec<_>>()))
    };
    settings(results)
        .iter()
        .filter(|s| s.models.iter().any(|(_, p)| best_rival(p).is_some()))
        .map(plot)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "gpu": "NVIDIA H200", "driver": "580.1", "date": "2026-11-20",
        "versions": {"torch": "2.11", "tensorrt": null},
        "rows": [
            {"model": "resnet50", "batch": 1, "precision": "fp16", "peer": "torch-graph", "status": "ok", "gpu_us": 900.0, "build_s": 3.0},
            {"model": "resnet50", "batch": 1, "precision": "fp16", "peer": "torch-compile", "status": "ok", "gpu_us": 400.0, "build_s": 200.0, "builds_at_once": 8},
            {"model": "resnet50", "batch": 1, "precision": "fp16", "peer": "tensorrt", "status": "unavailable", "why": "No module named <tensorrt>"},
            {"model": "resnet50", "batch": 1, "precision": "fp16", "peer": "bakelite", "status": "ok", "gpu_us": 100.0, "build_s": 9.5,
             "load_ms": 12.25, "arena_bytes": 3145728, "weight_bytes": 52428800, "steps": 57, "host_us": 150.0, "error": 0.0012},
            {"model": "gpt2", "batch": 1, "precision": "fp16", "peer": "torch-graph", "status": "ok", "gpu_us": 900.0},
            {"model": "gpt2", "batch": 1, "precision": "fp16", "peer": "bakelite", "status": "ok", "gpu_us": 225.0, "build_s": 4.5, "from_tactics": true},
            {"model": "gpt2", "batch": 32, "precision": "fp16", "peer": "bakelite", "status": "failed", "why": "a | b"},
            {"model": "gemm_128x768x768", "batch": 1, "precision": "fp16", "peer": "torch-graph", "status": "ok", "gpu_us": 6.0, "kernel_us": 4.0},
            {"model": "gemm_128x768x768", "batch": 1, "precision": "fp16", "peer": "bakelite", "status": "ok", "gpu_us": 5.0, "kernel_us": 2.0},
            {"model": "gemm_8192x8192x8192", "batch": 1, "precision": "fp16", "peer": "bakelite", "status": "ok", "gpu_us": 5.0, "kernel_us": 1600.0}
        ]}"#;

    #[test]
    fn tables_have_ratios_means_and_reasons() {
        let text = page(&serde_json::from_str(FILE).unwrap());
        assert!(
            text.contains("| model | PyTorch graph | torch.compile | TensorRT | Bakelite | ratio |"),
            "{text}"
        );
        assert!(text.contains("| resnet50 | 900.0 | **400.0** | – | **100.0** | 4.00 |"), "{text}");
        assert!(text.contains("| gpt2 | **900.0** | – | – | **225.0** | 4.00 |"), "{text}");
        // √(9 · 4) against the graphs; 4 against the best.
        assert!(text.contains("| geometric mean | × 6.00 | × 4.00 |  |  | 4.00 |"), "{text}");
        assert!(text.contains("resnet50, TensorRT: unavailable: No module named &lt;tensorrt>"), "{text}");
        assert!(
            text.contains("**Not measured in this run**, and so in no ratio: PyTorch eager, ONNX Runtime"),
            "{text}"
        );
        assert!(text.contains("gpt2, Bakelite: failed: a \\| b"), "{text}");
        let details = "| resnet50 | 57 | 3.0 | 50.0 | 12.2 | 150.0 | 9.5 | PyTorch graph 3.0, torch.compile 200.0 (8 at once) | Bakelite 1.2e-3 |";
        assert!(text.contains(details), "{text}");
        assert!(text.contains("| gpt2 | – | – | – | – | – | 4.5 (from a tactics file) |"), "{text}");
        assert!(
            text.contains("Versions: torch 2.11.") && text.contains("NVIDIA H200, driver 580.1, 2026-11-20"),
            "{text}"
        );
    }

    #[test]
    fn single_layers_have_a_table_of_their_own() {
        let text = page(&serde_json::from_str(FILE).unwrap());
        let (networks, layers) = text.split_once("## Single layers").unwrap();
        assert!(!networks.contains("gemm_"), "{networks}");
        assert!(layers.contains("| gemm_128x768x768 | fp16 | 1 | 4.0 | 2.0 | 2.00 |"), "{layers}");
        assert!(layers.contains("| gemm_8192x8192x8192 | fp16 | 1 | – | 1600.0 | – |"), "{layers}");
        assert!(layers.contains("Geometric means of the ratios: gemm 2.00."), "{layers}");
        let kinds = include_str!("../../benches/layers.py");
        assert!(
            kinds.contains("(gemm|conv|attention|causal)_"),
            "is_layer knows the kinds of benches/layers.py"
        );
    }

    #[test]
    fn rows_of_a_later_run_are_all_its_own() {
        let root = std::env::temp_dir().join(format!("bakelite-runs-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let later = r#"{"gpu": "NVIDIA H200", "driver": "580.1", "date": "2026-11-30", "versions": {}, "rows": [
            {"model": "gpt2", "batch": 1, "precision": "fp16", "peer": "torch-compile", "status": "ok", "gpu_us": 600.0},
            {"model": "gpt2", "batch": 1, "precision": "fp16", "peer": "bakelite", "status": "ok", "gpu_us": 200.0}]}"#;
        let files = [("first.json", FILE), ("later.json", later)].map(|(name, text)| {
            let path = root.join(name);
            std::fs::write(&path, text).unwrap();
            path
        });
        let text = page(&joined(&files).unwrap());
        // Not 900 of the first run, though nobody asked PyTorch's graph in the second.
        assert!(text.contains("| gpt2 | – | **600.0** | – | **200.0** | 3.00 |"), "{text}");
        let runs = "Rows: `first.json` of 2026-11-20 (2 of networks, 2 of layers); `later.json` of 2026-11-30 (1 of networks).";
        assert!(text.contains(runs), "{text}");
        std::fs::write(&files[1], later.replace("580.1", "590.2")).unwrap();
        let why = joined(&files).err().unwrap();
        assert!(why.contains("later.json is of NVIDIA H200, driver 590.2"), "{why}");
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_script_measures_what_the_report_shows() {
        let script = include_str!("../../benches/peers.py");
        let names = PEERS.map(|(peer, _)| format!("\"{peer}\""));
        assert!(script.contains(&format!("PEERS = [{}]", names.join(", "))));
    }

    #[test]
    fn plots_are_of_settings_with_rivals() {
        let plots = plots(&serde_json::from_str(FILE).unwrap());
        assert_eq!(plots.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["fp16_b1.svg"]);
        assert!(plots[0].1.contains("100 µs") && plots[0].1.contains("4.00"), "{}", plots[0].1);
    }

    #[test]
    fn files_are_written_and_bad_ones_named() {
        let root = std::env::temp_dir().join(format!("bakelite-report-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("good.json"), FILE).unwrap();
        std::fs::write(root.join("bad.json"), "{}").unwrap();
        write(&[root.join("good.json")], &root).unwrap();
        let page = std::fs::read_to_string(root.join("docs/benchmarks.md")).unwrap();
        assert!(
            page.contains("![](benchmarks/fp16_b1.svg)")
                && root.join("docs/benchmarks/fp16_b1.svg").is_file()
        );
        assert!(write(&[root.join("bad.json")], &root).unwrap_err().contains("bad.json is no result"));
        assert!(write(&[root.join("none.json")], &root).unwrap_err().contains("none.json"));
        assert!(write(&[], &root).unwrap_err().contains("takes files"));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
