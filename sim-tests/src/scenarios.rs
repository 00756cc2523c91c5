//! Faults that are set by hand instead of by dice: what the documents say about failures, one scenario to a line.

use crate::{
    faults::TABLE,
    plan::{Overrides, Plan, Strike},
};
use rollcall_registry::raft::RaftSettings;
use std::time::Duration;

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens.
    pub what: &'static str,
    /// How many nodes vote.
    pub voters: usize,
    /// Kind of fault, second of its begin, milliseconds. Each strikes where it hurts most: the leader, or all owners.
    pub strikes: &'static [(&'static str, u64, u64)],
    /// What else the seed does not decide.
    pub tune: fn(&mut Plan),
    /// Points that it must reach, or it shows nothing; and how often.
    pub must: &'static [(&'static str, u64)],
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "calm",
        what: "nothing goes wrong",
        voters: 3,
        strikes: &[],
        tune: |_| {},
        must: &[("a write was acknowledged", 1), ("a stream was stuck at the end", 1)],
    },
    Scenario {
        name: "leader-loss",
        what: "leaders lose power one after the other, then one is killed",
        voters: 3,
        strikes: &[
            ("power", 7, 3_000),
            ("power", 13, 3_000),
            ("power", 19, 3_000),
            ("kill", 25, 2_500),
        ],
        tune: |_| {},
        must: &[("the leader changed", 5)],
    },
    Scenario {
        name: "leader-churn",
        what: "leaders are cut off again and again, faster than leases run out",
        voters: 5,
        strikes: &[("cut", 7, 2_500), ("cut", 11, 2_500), ("cut", 15, 2_500), ("cut", 19, 2_500)],
        tune: |plan| plan.mix.ttl = Duration::from_secs(6),
        must: &[("the leader was cut off", 4), ("the leader changed twice within a lease", 3)],
    },
    Scenario {
        name: "old-leader",
        what: "leaders hear no other machine for longer than leases, and clients still reach them",
        voters: 3,
        strikes: &[("old_leader", 8, 7_000), ("old_leader", 20, 7_000)],
        tune: |plan| owners(plan, 4, 2, 2),
        must: &[("the leader was cut off", 2), ("the leader changed", 3)],
    },
    Scenario {
        name: "blackout",
        what: "all machines lose power at once, twice",
        voters: 3,
        strikes: &[("blackout", 10, 2_000), ("blackout", 20, 9_000)],
        tune: |_| {},
        must: &[("all nodes lost power at once", 2)],
    },
    Scenario {
        name: "mass-death",
        what: "all owners die with all their instances, and come back as a herd",
        voters: 3,
        strikes: &[("owners_die", 8, 8_000), ("owners_die", 22, 3_000)],
        tune: |plan| {
            plan.timing.lease.protection = true;
            owners(plan, 4, 2, 2);
        },
        must: &[("protection began", 1), ("protection ended", 1)],
    },
    Scenario {
        name: "silent-owners",
        what: "owners reach nobody for about as long as their leases",
        voters: 3,
        strikes: &[("owners_cut", 8, 1_200), ("owners_cut", 13, 3_000), ("owners_cut", 20, 6_000)],
        tune: |plan| owners(plan, 4, 4, 2),
        must: &[("a lease expired", 1), ("an owner was registered again by itself", 1)],
    },
    Scenario {
        name: "wiped-node",
        what: "the machine of a leader comes back empty, and replaces what it was; twice",
        voters: 3,
        strikes: &[("wipe", 8, 1_000), ("wipe", 20, 1_000)],
        tune: |_| {},
        must: &[
            ("a node came back with an empty disk", 2),
            ("a wiped node became a voter again", 2),
        ],
    },
    Scenario {
        name: "rotten-disk",
        what: "bits on the disk of a leader flip, twice",
        voters: 3,
        strikes: &[("bit_flip", 8, 500), ("bit_flip", 20, 500)],
        tune: |_| {},
        must: &[("a wiped node became a voter again", 1)],
    },
    Scenario {
        name: "slow-disk",
        what: "whatever a majority with the leader saves takes up to half a second, for longer than leases",
        voters: 3,
        strikes: &[("slow_disk", 8, 6_000), ("slow_disk", 17, 3_000), ("slow_disk", 23, 6_000)],
        tune: |plan| owners(plan, 4, 2, 2),
        must: &[
            ("the disks of the leader and of a majority were slow", 3),
            ("a write was acknowledged", 20),
        ],
    },
    Scenario {
        name: "failing-disk",
        what: "fsyncs and writes of a leader fail, and a power cut hits the middle of a write",
        voters: 3,
        strikes: &[("sync_error", 8, 100), ("write_error", 13, 100), ("mid_write", 18, 100)],
        tune: |_| {},
        must: &[("a node stopped itself over a disk fault", 3)],
    },
    Scenario {
        name: "paused-leader",
        what: "leaders stand still for longer than an election and longer than a lease",
        voters: 3,
        strikes: &[("pause", 8, 2_000), ("pause", 15, 6_000), ("pause", 25, 300)],
        tune: |plan| plan.mix.ttl = Duration::from_secs(3),
        must: &[("the leader was paused", 3), ("the leader changed", 3)],
    },
    Scenario {
        name: "wrong-clocks",
        what: "clocks of leaders jump by years and run a tenth too fast or too slow",
        voters: 3,
        strikes: &[
            ("clock_jump", 7, 100),
            ("clock_rate", 8, 9_000),
            ("clock_jump", 12, 100),
            ("cut", 14, 2_500),
            ("clock_rate", 20, 8_000),
        ],
        tune: |plan| owners(plan, 4, 4, 2),
        must: &[("the leader was cut off", 1), ("the leader changed", 2)],
    },
    Scenario {
        name: "full-disk",
        what: "the disk of a leader is nearly full, then those of all",
        voters: 3,
        strikes: &[
            ("disk_full", 8, 4_000),
            ("disk_full", 16, 8_000),
            ("disk_full", 18, 6_000),
            ("disk_full", 20, 4_000),
        ],
        tune: |plan| plan.mix.pause = Duration::from_millis(50),
        must: &[
            ("the disk of the leader was nearly full", 4),
            ("the leader changed", 3),
            ("a write was refused for a full disk", 1),
        ],
    },
    Scenario {
        name: "cut-off",
        what: "a checker reaches its peers but none of its targets, one of which dies meanwhile",
        voters: 3,
        strikes: &[("targets_cut", 25, 30_000), ("target_dies", 40, 15_000)],
        tune: |plan| plan.mix.probed = 24,
        must: &[
            ("a checker was cut off from its targets", 1),
            ("a death was found by checks in time", 1),
        ],
    },
];

/// So many instances to an owner, in so many services, with leases of so many seconds and up to three times that.
fn owners(plan: &mut Plan, instances: usize, services: usize, ttl_s: u64) {
    (plan.mix.instances, plan.mix.services) = (instances, services);
    plan.mix.ttl = Duration::from_secs(ttl_s);
    plan.mix.evict_after = Duration::from_secs(3);
}

/// The plan of a scenario. The seed decides everything that the scenario does not.
pub fn plan(name: &str, seed: u64) -> Option<Plan> {
    let scenario = SCENARIOS.iter().find(|known| known.name == name)?;
    let mut plan = Plan::of(seed, &Overrides::default());
    (plan.voters, plan.learners) = (scenario.voters, 0);
    plan.rates = vec![1_000; scenario.voters];
    let strike = |(at, (name, second, lasts)): (usize, &(&str, u64, u64))| Strike {
        kind: TABLE.iter().position(|kind| kind.name == *name).unwrap_or_default(),
        at: Duration::from_secs(*second),
        lasts: Duration::from_millis(*lasts),
        seed: seed.wrapping_mul(31).wrapping_add(at as u64),
        worst: true,
    };
    plan.strikes = scenario.strikes.iter().enumerate().map(strike).collect();
    let end = plan.strikes.iter().map(|strike| strike.at + strike.lasts).max();
    plan.length = plan.length.max(end.unwrap_or_default());
    plan.kinds = plan.strikes.iter().map(|strike| strike.kind).collect();
    // What operators do by themselves would make leaders go that no fault has met; what a stream that nobody reads
    // costs is always of interest.
    (plan.mix.operator, plan.mix.lookups) = (false, true);
    // With these an outage lasts 1.5 s at most.
    let RaftSettings { heartbeat, election_timeout_min, election_timeout_max, .. } =
        RaftSettings::default();
    let raft = &mut plan.timing.raft;
    raft.heartbeat = heartbeat;
    (raft.election_timeout_min, raft.election_timeout_max) =
        (election_timeout_min, election_timeout_max);
    plan.mix.stuck = plan.mix.stuck.max(1);
    (scenario.tune)(&mut plan);
    plan.must = scenario.must;
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points;

    #[test]
    fn every_scenario_names_faults_and_points_that_there_are() {
        for scenario in SCENARIOS {
            for (kind, ..) in scenario.strikes {
                assert!(TABLE.iter().any(|known| known.name == *kind), "{}: {kind}", scenario.name);
            }
            for (point, _) in scenario.must {
                assert!(points::NAMES.contains(point), "{}: {point}", scenario.name);
            }
            assert!(!scenario.must.is_empty(), "{}: nothing that it must reach", scenario.name);
        }
    }
}
