//! Every family's samples compile for every architecture, without spills and within shared memory. Needs NVRTC (its folder in
//! BAKELITE_NVRTC, or on the library path) and no GPU. The first tactics of each sample are enough for a routine run;
//! BAKELITE_EXHAUSTIVE=1 compiles all of them, which takes a quarter of an hour on two cores.

#![allow(clippy::unwrap_used)]

use bakelite_kernels::families::{FAMILIES, SAMPLES, sample_symbols};
use bakelite_kernels::prefetch::prefetching;
use bakelite_kernels::{Nvrtc, Target};
use rayon::prelude::*;

#[test]
fn every_tactic_compiles_without_spills() {
    let dir = std::env::var_os("BAKELITE_NVRTC").map(std::path::PathBuf::from);
    let nvrtc = match Nvrtc::open(dir.as_deref()) {
        Ok(nvrtc) => nvrtc,
        Err(e) => {
            println!("SKIPPED, nothing was compiled: {e}");
            return;
        }
    };
    // BAKELITE_FAMILY, or BAKELITE_SAMPLES with a name of SAMPLES, narrows the work while one is being written.
    let only = std::env::var("BAKELITE_FAMILY").unwrap_or_default();
    let only_samples = std::env::var("BAKELITE_SAMPLES").unwrap_or_default();
    let exhaustive = std::env::var_os("BAKELITE_EXHAUSTIVE").is_some();
    let symbols = sample_symbols();
    let mut jobs = Vec::new();
    for (name, samples) in SAMPLES.iter().filter(|(name, _)| name.starts_with(&only_samples)) {
        for (index, problem) in samples().into_iter().enumerate() {
            let mut proposed = 0;
            for sm in ["sm_80", "sm_90a", "sm_75", "sm_86", "sm_89", "sm_100", "sm_120"] {
                let target = Target::of(sm.parse().unwrap());
                for family in FAMILIES.iter().filter(|f| f.name().starts_with(&only)) {
                    let mut tactics =
                        bakelite_kernels::families::tactics(*family, &problem, &symbols, &target);
                    proposed += tactics.len();
                    tactics.truncate(match sm {
                        "sm_80" | "sm_90a" if exhaustive => 32,
                        "sm_90a" => 1,
                        "sm_80" => usize::from(exhaustive || index % 2 == 0),
                        _ => usize::from(exhaustive || index % 8 == 0),
                    });
                    for tactic in tactics {
                        assert_eq!(tactic.version, family.version(), "{tactic}");
                        assert_eq!(tactic.family, family.name(), "{tactic}");
                        let cost = family.cost(&problem, &tactic, &symbols, &target);
                        assert!(cost.is_finite() && cost > 0.0, "{tactic} costs {cost} µs");
                        let build = family.build(&problem, &tactic, &symbols, &target).unwrap_or_else(|e| {
                            panic!("{tactic} refuses what it proposed: {e}\n{problem:?}")
                        });
                        for launch in &build.launches {
                            assert!(launch.shared <= target.shared_per_block, "{tactic}: {launch:?}");
                            assert!(launch.block.iter().product::<u32>() <= 1024, "{tactic}: {launch:?}");
                            assert!(launch.kernel < build.kernels.len(), "{tactic}: {launch:?}");
                        }
                        let shared = build.launches.iter().map(|l| l.shared).max().unwrap_or(0);
                        jobs.extend(
                            build
                                .kernels
                                .into_iter()
                                .map(|k| (shipped(k, &target), target.clone(), tactic.clone(), shared)),
                        );
                    }
                }
            }
            assert!(proposed > 0 || !only.is_empty(), "no tactic for this sample of {name}: {problem:?}");
        }
    }
    let all = jobs.len();
    // The same text occurs under several samples and tactics.
    jobs.sort_by(|a, b| (&a.0, a.1.arch).cmp(&(&b.0, b.1.arch)));
    jobs.dedup_by(|a, b| a.0 == b.0 && a.1.arch == b.1.arch);
    let failures: Vec<String> = jobs
        .par_iter()
        .filter_map(|(source, target, tactic, shared)| {
            let what = match nvrtc.compile(source, "kernel", target.arch) {
                Err(e) => e.to_string(),
                Ok(c) if c.spill_bytes > 0 => format!("spills {} bytes", c.spill_bytes),
                Ok(c) if c.static_shared + shared > target.shared_per_block => {
                    format!("{} + {shared} bytes of shared memory", c.static_shared)
                }
                // What newer GPUs are given beside the code of one architecture alone.
                Ok(_) if target.arch.specific && source.contains("_FEAT_") => {
                    nvrtc.compile_ptx(source, "kernel", target.arch.sm).err()?.to_string()
                }
                Ok(_) => return None,
            };
            Some(format!("== {tactic} on {}: {what}\n{source}", target.arch))
        })
        .collect();
    println!("{} kernels compiled ({all} with repeats), {} failed", jobs.len(), failures.len());
    if let Some(first) = failures.first() {
        let heads: Vec<&str> = failures.iter().filter_map(|f| f.lines().next()).collect();
        panic!("{}\n\nthe first in full:\n{first}", heads.join("\n"));
    }
}

// The form with the most in it: kernels may be given weights to prefetch where there is an instruction for it.
fn shipped(source: String, target: &Target) -> String {
    if target.arch.sm < 90 { source } else { prefetching(&source).unwrap_or(source) }
}
