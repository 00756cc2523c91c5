//! Faults that are set by hand instead of by dice: what the documents say about failures, one scenario to a line.

use crate::{
    faults::TABLE,
    plan::{Overrides, Plan, Strike},
};
use std::time::Duration;

/// One scenario: its name, what happens, how many vote, and its strikes: kind, second of its begin, milliseconds.
pub type Scenario = (&'static str, &'static str, usize, &'static [(&'static str, u64, u64)]);

/// Instances with checks where a scenario is about them.
const PROBED: usize = 24;

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    ("calm", "nothing goes wrong", 3, &[]),
    (
        "leader-loss",
        "the machines, mostly leaders, lose power one after the other",
        3,
        &[("power", 7, 3_000), ("power", 13, 3_000), ("power", 19, 3_000), ("kill", 25, 500)],
    ),
    (
        "leader-churn",
        "leaders are cut off again and again, faster than leases run out",
        5,
        &[("cut", 7, 1_500), ("cut", 10, 1_500), ("cut", 13, 1_500), ("cut", 16, 1_500)],
    ),
    (
        "blackout",
        "all machines lose power at once, twice",
        3,
        &[("blackout", 10, 2_000), ("blackout", 20, 9_000)],
    ),
    (
        "mass-death",
        "owners die with all their instances, and come back as a herd",
        3,
        &[("owners_die", 8, 8_000), ("owners_die", 22, 3_000)],
    ),
    (
        "silent-owners",
        "owners reach nobody for about as long as their leases",
        3,
        &[("owners_cut", 8, 1_200), ("owners_cut", 13, 3_000), ("owners_cut", 20, 6_000)],
    ),
    (
        "wiped-node",
        "a machine comes back empty, and replaces what it was",
        3,
        &[("wipe", 8, 1_000), ("wipe", 20, 1_000)],
    ),
    (
        "rotten-disk",
        "bits of one machine flip, twice",
        3,
        &[("bit_flip", 8, 500), ("bit_flip", 20, 500)],
    ),
    (
        "failing-disk",
        "fsyncs and writes fail, and a power cut hits the middle of a write",
        3,
        &[("sync_error", 8, 100), ("write_error", 13, 100), ("mid_write", 18, 100)],
    ),
    (
        "paused-leader",
        "machines stand still for longer than an election and longer than a lease",
        3,
        &[("pause", 8, 2_000), ("pause", 15, 6_000), ("pause", 25, 300)],
    ),
    (
        "wrong-clocks",
        "clocks jump by years and run a tenth too fast or too slow",
        3,
        &[
            ("clock_jump", 7, 100),
            ("clock_rate", 8, 9_000),
            ("clock_jump", 12, 100),
            ("cut", 14, 2_000),
            ("clock_rate", 20, 8_000),
        ],
    ),
    (
        "full-disk",
        "disks are nearly full, also that of the leader",
        3,
        &[("disk_full", 8, 4_000), ("disk_full", 15, 4_000), ("disk_full", 22, 4_000)],
    ),
    (
        "cut-off",
        "a checker reaches its peers but none of its targets, one of which dies meanwhile",
        3,
        &[("targets_cut", 25, 30_000), ("target_dies", 40, 15_000)],
    ),
];

/// The plan of a scenario. The seed decides everything but topology and strikes.
pub fn plan(name: &str, seed: u64) -> Option<Plan> {
    let (_, _, voters, strikes) = SCENARIOS.iter().find(|(known, ..)| *known == name)?;
    let mut plan = Plan::of(seed, &Overrides::default());
    (plan.voters, plan.learners) = (*voters, 0);
    plan.rates = vec![1_000; *voters];
    let strike = |(at, (name, second, lasts)): (usize, &(&str, u64, u64))| Strike {
        kind: TABLE.iter().position(|kind| kind.name == *name).unwrap_or_default(),
        at: Duration::from_secs(*second),
        lasts: Duration::from_millis(*lasts),
        seed: seed.wrapping_mul(31).wrapping_add(at as u64),
    };
    plan.strikes = strikes.iter().enumerate().map(strike).collect();
    let end = plan.strikes.iter().map(|strike| strike.at + strike.lasts).max();
    plan.length = plan.length.max(end.unwrap_or_default());
    if strikes.iter().any(|(kind, ..)| kind.starts_with("target")) {
        plan.mix.probed = PROBED;
    }
    plan.kinds = plan.strikes.iter().map(|strike| strike.kind).collect();
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strike_of_a_scenario_names_a_fault() {
        for (name, _, _, strikes) in SCENARIOS {
            for (kind, ..) in *strikes {
                assert!(TABLE.iter().any(|known| known.name == *kind), "{name}: {kind}");
            }
        }
    }
}
