//! On how many lanes a plan runs: what runs beside what shows in the whole plan alone, so its time decides.

use super::{Chosen, Lanes, Tactics, Tuner, decide};
use crate::error::Result;
use crate::plan::Plan;
use crate::plan::branches::{MOST_LANES, MOST_STEPS};
use bakelite_kernels::Target;

/// Chooses the number of lanes: what the tactics file says of this plan; where it says nothing, what is fastest, which is recorded
/// there; one, where nothing can be measured. `plan` makes the plan of a choice.
pub fn branch(
    mut chosen: Chosen,
    target: &Target,
    tactics: &mut Tactics,
    tuner: &mut dyn Tuner,
    plan: &mut dyn FnMut(&Chosen) -> Result<Plan>,
) -> Result<Chosen> {
    chosen.lanes = 1;
    let mut plans = vec![plan(&chosen)?];
    if plans[0].steps.len() > MOST_STEPS {
        return Ok(chosen);
    }
    let (key, name) = (plans[0].key(), plans[0].name.replace(|c: char| c.is_control() || c == '|', " "));
    let gpu = tuner.gpu().map(str::to_owned);
    let here = |of: &&Lanes| gpu.as_ref().is_none_or(|gpu| of.gpu.is_empty() || *gpu == of.gpu);
    if let Some(known) = tactics.lanes(target.arch, &key).filter(here) {
        chosen.lanes = known.count.clamp(1, MOST_LANES);
        return Ok(chosen);
    }
    let Some(gpu) = gpu else { return Ok(chosen) };
    for lanes in 2..=MOST_LANES {
        chosen.lanes = lanes;
        plans.extend(Some(plan(&chosen)?).filter(|p| p.lanes == lanes));
    }
    chosen.lanes = 1;
    if plans.len() == 1 {
        return Ok(chosen);
    }
    let mut last = None;
    let mut time = |picks: &[usize]| {
        last = tuner.time_plan(&plans[picks[0]], plans.len())?;
        Ok(last)
    };
    let picks = decide(&[plans.len()], &[], &mut time, &mut || true)?;
    // Once more what was decided, so that the last time is its.
    time(&picks)?;
    let Some(microseconds) = last else { return Ok(chosen) };
    chosen.lanes = plans[picks[0]].lanes;
    tactics.set_lanes(target.arch, &key, Lanes { name, count: chosen.lanes, microseconds, gpu });
    tuner.keep(tactics)?;
    Ok(chosen)
}
