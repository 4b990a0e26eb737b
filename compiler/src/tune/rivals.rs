//! Which of a problem's timed tactics the whole plan is tried with, and in which order.

use super::{Candidate, Choice, settle};
use bakelite_kernels::family::LONG;
use bakelite_kernels::{Dim, Problem, Symbols, Tactic, Target, sole};
use std::collections::BTreeSet;

/// The share of what tensor cores reach from which on a GPU lowers its clocks to keep its power.
const BUSY: f64 = 0.25;

/// Halves that tiles read from L2 in the power of a µs of an H200: a network of long kernels has no more, so that in it a kernel takes
/// longer than alone by what it reads. bert_base's and vit_b_16's products in batches of 32 differ so by their tiles.
const HALVES_PER_US: f64 = 20.5e6;
/// What takes so many times as long by that is no rival: it is off by 2 % where it was measured.
const LIKELY: f64 = 1.08;

// What a kernel that takes so many µs alone takes in a network of long ones, of which it makes so many products by tiles of m x n.
fn in_the_long_run(alone: f64, products: u64, (m, n): (u32, u32)) -> f64 {
    alone + products as f64 / 2.0 * (1.0 / f64::from(m) + 1.0 / f64::from(n)) / HALVES_PER_US
}

/// Whether so many operations in so many µs keep tensor cores [`BUSY`].
pub(super) fn is_busy(products: f64, us: f64, target: &Target) -> bool {
    products > BUSY * target.ceiling().half * 1e6 * us
}

/// Operations on tensor cores, or what could be there.
pub(super) fn products(problem: &Problem<Dim>, symbols: &Symbols) -> u64 {
    problem.map(&mut |d: &Dim| d.opt_size(symbols)).work().map_or(0, |work| work.products)
}

// Rows and columns of the result that a block makes at a time.
fn tile(tactic: &Tactic) -> Option<(u32, u32)> {
    tactic.get("m").ok().zip(tactic.get("n").ok())
}

/// The fastest few, the fastest of each footprint before any second one: alone they take much the same, but what overlaps with them in
/// the whole plan goes by their footprint.
pub(super) fn rivals<'a>(
    mut timed: Vec<(f64, &'a Candidate)>,
    products: u64,
    target: &Target,
) -> Vec<(f64, &'a Candidate)> {
    let mut seen = BTreeSet::new();
    let fastest = timed.first().map_or(0.0, |(time, _)| *time);
    let long = fastest >= LONG;
    // What memory bounds has power to spare.
    let priced = long && is_busy(products as f64, fastest, target);
    if let Some(usual) = timed.iter().find_map(|(_, c)| tile(&c.tactic)).filter(|_| priced) {
        // What has no tile is taken to read as much as the fastest that has one.
        let taken = |(time, c): &(f64, &Candidate)| {
            in_the_long_run(*time, products, tile(&c.tactic).unwrap_or(usual))
        };
        timed.sort_by(|a, b| taken(a).total_cmp(&taken(b)));
        let most = timed.first().map_or(0.0, taken) * LIKELY;
        timed.retain(|t| taken(t) <= most);
    }
    let (mut first, second): (Vec<_>, Vec<_>) =
        timed.into_iter().partition(|(_, candidate)| seen.insert(footprint(candidate, target, long)));
    first.extend(second);
    // Blocks of a cluster that wait for each other gain 1 % on a cool GPU and lose 2 % on a hot one, seen of 4096 x 4096 x 4096: that the
    // same tile without a cluster is tried is not left to chance.
    let in_cluster = |c: &Candidate| c.build.launches.iter().any(|l| l.cluster.is_some());
    if let Some((_, fastest)) = first.first().filter(|(_, c)| priced && in_cluster(c)) {
        let like = |c: &Candidate| {
            c.tactic.family == fastest.tactic.family && tile(&c.tactic) == tile(&fastest.tactic)
        };
        if let Some(at) = first.iter().position(|(_, c)| like(c) && !in_cluster(c)) {
            first[1..=at].rotate_right(1);
        }
    }
    first.truncate(settle::MOST_RIVALS);
    first
}

/// Behind the fastest tactic that could have a multiprocessor for each of its blocks, the same with that: alone they take the same, in the
/// whole plan it goes by what the kernels before hold.
pub(super) fn with_sole(mut rivals: Vec<Choice>, symbols: &Symbols, target: &Target) -> Vec<Choice> {
    if let Some(at) = rivals.iter().position(|r| sole::matters(&r.build, symbols, target)) {
        let Choice { tactic, build, .. } = rivals[at].clone();
        let (tactic, build) = (sole::sole(&tactic), sole::apart(build, target));
        rivals.insert(at + 1, Choice { tactic, build, ..rivals[at] });
        rivals.truncate(settle::MOST_RIVALS);
    }
    rivals
}

// What a kernel leaves to the kernels before and behind it: how many multiprocessors near each other its clusters wait for, and how many of
// its blocks one multiprocessor has room for. Kernels of one family do the rest alike. Of a `long` one, its tile: by that go the bytes that
// it moves, and the power that they take of what a network of such kernels has.
fn footprint(candidate: &Candidate, target: &Target, long: bool) -> (String, u32, u32) {
    if let (true, Some((m, n))) = (long, tile(&candidate.tactic)) {
        return (candidate.tactic.family.clone(), m, n);
    }
    let launch = candidate.build.launches.first();
    let cluster = launch.and_then(|l| l.cluster).map_or(1, |c| c.iter().product());
    let room = launch.map_or(1, |l| target.shared_per_multiprocessor / (l.shared + 1024).max(1));
    (candidate.tactic.family.clone(), cluster, room.min(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakelite_kernels::{Build, Launch};

    // Measured on an H200, alone and as the difference that one product's tile makes to the whole plan, µs for each of its twelve.
    #[test]
    fn tiles_rank_as_they_do_in_networks() {
        let products = |m: u64, n: u64, k: u64| 2 * m * n * k;
        let (wide, tall) = (products(6304, 2304, 768), products(4096, 3072, 768));
        // (products, tile, alone), what is faster in the plan first, and by how much there.
        let pairs = [
            ((wide, (192, 192), 33.5), (wide, (128, 128), 32.6), 2.0),
            ((tall, (128, 128), 31.1), (tall, (192, 192), 34.9), 1.0),
            ((tall, (128, 256), 32.2), (tall, (128, 128), 31.1), 0.5),
        ];
        for (fast, slow, measured) in pairs {
            let [fast, slow] =
                [fast, slow].map(|(products, tile, alone)| in_the_long_run(alone, products, tile));
            assert!((slow - fast - measured).abs() < 0.6, "{fast} {slow} {measured}");
        }
    }

    fn candidate(m: u32, n: u32, share: u32) -> Candidate {
        let launch = Launch {
            kernel: 0,
            grid: [132.into(), 1.into(), 1.into()],
            block: [384, 1, 1],
            shared: 0,
            cluster: (share > 1).then_some([share, 1, 1]),
            programmatic: true,
            args: vec![],
        };
        let build = Build { kernels: vec![], launches: vec![launch], workspace: 0.into(), packs: vec![] };
        let params = [("m", m), ("n", n), ("share", share)];
        Candidate { tactic: Tactic::new("conv.wgmma", 1, &params), estimate: 0.0, build }
    }

    #[test]
    fn what_a_hot_gpu_may_do_sooner_without_clusters_is_tried_so() {
        let target = Target::of("sm_90a".parse().unwrap());
        let [pairs, other, alone, third] = [(128, 256, 2), (256, 128, 2), (128, 256, 1), (192, 192, 1)]
            .map(|(m, n, share)| candidate(m, n, share));
        let timed = vec![(180.0, &pairs), (183.0, &other), (184.0, &alone), (193.0, &third)];
        let rivals = rivals(timed, 2 * 4096 * 4096 * 4096, &target);
        let of = |c: &Candidate| ["m", "n", "share"].map(|name| c.tactic.get(name).unwrap());
        let tried: Vec<_> = rivals.iter().map(|(_, c)| of(c)).collect();
        assert_eq!(tried, [[128, 256, 2], [128, 256, 1], [256, 128, 2], [192, 192, 1]]);
    }

    #[test]
    fn of_long_kernels_only_likely_ones_are_rivals() {
        let target = Target::of("sm_90a".parse().unwrap());
        let [tall, large, small] = [(128, 192), (192, 192), (64, 64)].map(|(m, n)| candidate(m, n, 1));
        // The smallest tile is nearly as fast alone, and reads most.
        let timed = |scale: f64| {
            let times = [(30.4, &tall), (30.6, &small), (31.0, &large)];
            times.map(|(us, c)| (us * scale, c)).to_vec()
        };
        let left = |scale: f64, products: u64| -> Vec<u32> {
            let rivals = rivals(timed(scale), products, &target);
            rivals.iter().map(|(_, c)| c.tactic.get("m").unwrap()).collect()
        };
        assert_eq!(left(1.0, 2 * 4096 * 3072 * 768), [192, 128]);
        // What is short, and what memory bounds, is settled by the whole plan alone.
        assert_eq!(left(0.1, 2 * 128 * 3072 * 768), [128, 64, 192]);
        assert_eq!(left(1.0, 2 * 4096 * 512 * 128), [128, 64, 192]);
    }
}
