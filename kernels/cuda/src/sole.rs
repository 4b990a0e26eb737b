//! Blocks that have a multiprocessor each. A kernel that may start while the one before it ends finds most multiprocessors taken; where
//! several of its blocks go to one of the others, they share what comes from L2 and the tensor cores. `sole1` behind the parameters of
//! any family's tactic asks for so much shared memory that no second block fits: the rest wait for a multiprocessor to become free.
//! The kernel is the same.

use crate::dim::{Symbols, product};
use crate::family::Build;
use crate::tactic::Tactic;
use crate::target::Target;

/// The parameter's name.
const NAME: &str = "sole";

/// What a block takes of a multiprocessor's shared memory besides its own.
const BESIDE: u32 = 1024;

/// The tactic with `sole1`.
pub fn sole(tactic: &Tactic) -> Tactic {
    let mut tactic = tactic.clone();
    tactic.params.push((NAME.to_owned(), 1));
    tactic
}

/// The tactic as its family knows it, and whether its blocks are to have a multiprocessor each.
pub fn split(tactic: &Tactic) -> (Tactic, bool) {
    let mut own = tactic.clone();
    own.params.retain(|(name, _)| name != NAME);
    (own, tactic.get(NAME) == Ok(1))
}

/// The build of such a tactic.
pub fn apart(mut build: Build, target: &Target) -> Build {
    let least = least(target);
    build.launches.iter_mut().for_each(|l| l.shared = l.shared.max(least));
    build
}

/// Whether it could make a difference: for blocks that start early, that leave room for each other, and of which each can have a
/// multiprocessor.
pub fn matters(build: &Build, symbols: &Symbols, target: &Target) -> bool {
    let Some(launch) = build.launches.first() else { return false };
    let blocks = product(&launch.grid).opt(symbols);
    launch.programmatic
        && target.arch.sm >= 90
        && launch.shared < least(target)
        && (2..=i64::from(target.multiprocessors)).contains(&blocks)
}

/// The least dynamic shared memory of which a multiprocessor has not twice as much.
fn least(target: &Target) -> u32 {
    (target.shared_per_multiprocessor / 2 - BESIDE + 16).min(target.shared_per_block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_blocks_fit_on_a_multiprocessor_and_one_does() {
        for arch in ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_120"] {
            let target = Target::of(arch.parse().unwrap());
            let shared = least(&target);
            assert!(2 * (shared + BESIDE) > target.shared_per_multiprocessor, "{arch}: {shared}");
            assert!(shared <= target.shared_per_block, "{arch}: {shared}");
        }
    }

    #[test]
    fn a_tactic_comes_apart_as_it_was_put_together() {
        let tactic: Tactic = "attention.whole/4 q32 early1".parse().unwrap();
        assert_eq!(split(&tactic), (tactic.clone(), false));
        let text = sole(&tactic).to_string();
        assert_eq!(text, "attention.whole/4 q32 early1 sole1");
        assert_eq!(split(&text.parse().unwrap()), (tactic, true));
    }
}
