//! What a seed decides before anything runs: topology, timings, workload and which faults strike when.
//!
//! Each aspect has dice of its own, so that leaving one out (`--faults`, the shrinker) changes no other.

use crate::faults::{self, TABLE};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rollcall_registry::{
    api::ApiSettings, check::CheckSettings, lease::LeaseSettings, raft::RaftSettings,
};
use std::time::Duration;

/// Faults begin when the cluster has formed.
const FIRST_FAULT: Duration = Duration::from_secs(6);

/// Timings of every node of a simulated cluster.
#[derive(Debug, Clone, Default)]
pub struct Timing {
    /// Consensus.
    pub raft: RaftSettings,
    /// Leases.
    pub lease: LeaseSettings,
    /// Active checks.
    pub check: CheckSettings,
    /// The API.
    pub api: ApiSettings,
}

/// How many clients of each kind there are, and what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Instances of each owner process.
    pub instances: usize,
    /// Services that owners register for.
    pub services: usize,
    /// TTL of the first instance; later ones have up to three times as much.
    pub ttl: Duration,
    /// From the end of a lease to the removal.
    pub evict_after: Duration,
    /// Tasks that write without keeping anything.
    pub writers: usize,
    /// Pause between two operations of a task, at most.
    pub pause: Duration,
    /// Tasks that read in all modes.
    pub readers: usize,
    /// Watches.
    pub watches: usize,
    /// Journal tails.
    pub tails: usize,
    /// Streams that nobody reads.
    pub stuck: usize,
    /// An operator transfers leadership and takes snapshots.
    pub operator: bool,
    /// A pair of instances is changed and looked up over DNS.
    pub lookups: bool,
    /// Instances with a check that always live; there is one more, which may die, if there are any.
    pub probed: usize,
    /// Somebody registers instances and never beats.
    pub forsaken: bool,
}

/// One fault that will strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// Its kind, by its place in [`TABLE`].
    pub kind: usize,
    /// When it begins.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// Dice of this strike.
    pub seed: u64,
    /// It strikes where it hurts most, not where its dice say.
    pub worst: bool,
}

/// How long the phase with faults is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// In simulated time.
    Time(Duration),
    /// In steps of the seed.
    Steps(u32),
}

/// What is different from what the seed says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Length of the phase with faults.
    pub length: Option<Length>,
    /// Only these kinds of fault, of those that the seed picked.
    pub faults: Option<Vec<String>>,
    /// Divides the number of clients.
    pub fewer: usize,
}

/// Everything that a seed decides.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Length of the phase with faults.
    pub length: Duration,
    /// Step of the simulation.
    pub tick: Duration,
    /// Nodes with a vote.
    pub voters: usize,
    /// Nodes without.
    pub learners: usize,
    /// Settings of all nodes.
    pub timing: Timing,
    /// Rate of the monotonic clock of each node, in thousandths.
    pub rates: Vec<u32>,
    /// The clients.
    pub mix: Mix,
    /// The kinds of fault that the seed picked.
    pub kinds: Vec<usize>,
    /// The faults, in order of time.
    pub strikes: Vec<Strike>,
    /// Points that must be reached, and how often at least.
    pub must: &'static [(&'static str, u64)],
}

/// Dice of one aspect of a seed.
pub fn dice(seed: u64, aspect: &str) -> SmallRng {
    // FNV-1a: any fixed mixing will do.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    SmallRng::seed_from_u64(aspect.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
}

fn pick<T: Copy>(dice: &mut SmallRng, of: &[T]) -> T {
    of[dice.random_range(0..of.len())]
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64, overrides: &Overrides) -> Self {
        let mut shape = dice(seed, "shape");
        let voters = pick(&mut shape, &[1, 3, 3, 3, 5, 5]);
        // A checker that is alone never doubts itself.
        let voters = if is_about_checks(seed) { voters.max(3) } else { voters };
        let learners = pick(&mut shape, &[0, 0, 0, 1]);
        let tick = Duration::from_millis(pick(&mut shape, &[1, 5, 5, 5, 10]));
        let length = match overrides.length {
            None => Duration::from_secs(30),
            Some(Length::Time(length)) => length,
            Some(Length::Steps(steps)) => tick * steps,
        };
        let (kinds, strikes) = strikes(seed, length, overrides.faults.as_deref());
        let mut clocks = dice(seed, "clocks");
        let rates = (0..voters + learners).map(|_| pick(&mut clocks, &[1_000, 1_000, 999, 1_001]));
        Self {
            seed,
            length,
            tick,
            voters,
            learners,
            timing: timing(seed),
            rates: rates.collect(),
            mix: mix(seed, overrides.fewer.max(1)),
            kinds,
            strikes,
            must: &[],
        }
    }

    /// One line for people.
    pub fn sketch(&self) -> String {
        let names: Vec<&str> = self.kinds.iter().map(|kind| TABLE[*kind].name).collect();
        format!(
            "{} voters, {} learners, tick {:?}, snapshot every {}, {} strikes of [{}], {:?}",
            self.voters,
            self.learners,
            self.tick,
            self.timing.raft.snapshot_entries,
            self.strikes.len(),
            names.join(","),
            self.mix
        )
    }
}

fn timing(seed: u64) -> Timing {
    let mut dice = dice(seed, "timing");
    let mut timing = Timing::default();
    let raft = &mut timing.raft;
    let pace = pick(&mut dice, &[100, 100, 150, 250]);
    raft.heartbeat = Duration::from_millis(pace);
    raft.election_timeout_min = Duration::from_millis(pace * 3);
    raft.election_timeout_max = Duration::from_millis(pace * 6);
    raft.rpc_timeout = Duration::from_millis(pick(&mut dice, &[500, 1_000, 2_000]));
    raft.snapshot_timeout = Duration::from_secs(10);
    raft.snapshot_entries = pick(&mut dice, &[20, 100, 1_000]);
    raft.kept_entries = pick(&mut dice, &[10, 50, 500]);
    raft.catch_up_entries = pick(&mut dice, &[20, 200]);
    raft.journal_events = 100_000;
    timing.lease.protection = dice.random_range(0..5) != 0;
    timing.api.keepalive = Duration::from_secs(2);
    timing.api.keepalive_timeout = Duration::from_secs(1);
    timing.api.request_deadline = Duration::from_secs(pick(&mut dice, &[2, 5]));
    timing
}

fn mix(seed: u64, fewer: usize) -> Mix {
    let least_probed = if is_about_checks(seed) { 12 } else { 0 };
    let forsaken = dice(seed, "forsaken").random_range(0..3) != 0;
    let mut dice = dice(seed, "mix");
    let some = |count: usize| count.div_ceil(fewer);
    Mix {
        instances: some(pick(&mut dice, &[1, 2, 4, 12])),
        services: pick(&mut dice, &[1, 2, 4]),
        ttl: Duration::from_millis(pick(&mut dice, &[1_000, 1_500, 3_000, 6_000])),
        evict_after: Duration::from_millis(pick(&mut dice, &[0, 500, 3_000, 30_000])),
        writers: some(pick(&mut dice, &[1, 2, 4])),
        pause: Duration::from_millis(pick(&mut dice, &[50, 200, 800])),
        readers: some(pick(&mut dice, &[1, 3])),
        watches: some(pick(&mut dice, &[1, 2, 4])),
        tails: pick(&mut dice, &[0, 1, 2]),
        stuck: pick(&mut dice, &[0, 0, 1, 2]),
        operator: pick(&mut dice, &[true, false]),
        lookups: pick(&mut dice, &[true, true, true, false]),
        probed: some(pick(&mut dice, &[0, 0, 4, 12])).max(least_probed),
        forsaken,
    }
}

/// Some promises about checks can be judged only where nothing else goes wrong: one seed of twelve is about them.
fn is_about_checks(seed: u64) -> bool {
    dice(seed, "focus").random_range(0..12) == 0
}

/// Each kind of fault is in with one chance of three, and then strikes at its own pace; where the seed is about checks,
/// only targets of checks and the way to them suffer.
fn strikes(seed: u64, length: Duration, only: Option<&[String]>) -> (Vec<usize>, Vec<Strike>) {
    let mut chosen = dice(seed, "faults");
    let mut kinds: Vec<usize> = Vec::new();
    for kind in 0..TABLE.len() {
        if chosen.random_range(0..3) == 0 {
            kinds.push(kind);
        }
    }
    if is_about_checks(seed) {
        kinds = (0..TABLE.len()).filter(|kind| TABLE[*kind].name.starts_with("target")).collect();
    }
    if let Some(only) = only {
        kinds.retain(|kind| only.iter().any(|name| name == TABLE[*kind].name));
    }
    let (ttl, mut strikes) = (mix(seed, 1).ttl, Vec::new());
    for &kind in &kinds {
        let mut dice = dice(seed, TABLE[kind].name);
        let gap_ms = dice.random_range(3_000..20_000);
        let mut at = FIRST_FAULT + Duration::from_millis(dice.random_range(0..gap_ms));
        while at < length {
            // Mostly short; now and then longer than any election or lease.
            let longest = pick(&mut dice, &[300, 1_500, 1_500, 4_000, 9_000]);
            // A death that is over before any check could tell shows little.
            let longest = if TABLE[kind].name == "target_dies" { longest * 2 } else { longest };
            let drawn = Duration::from_millis(dice.random_range(20..longest));
            let lasts = faults::lasts(TABLE[kind].name, ttl).unwrap_or(drawn);
            strikes.push(Strike { kind, at, lasts, seed: dice.random(), worst: false });
            at += lasts + Duration::from_millis(dice.random_range(0..gap_ms));
        }
    }
    strikes.sort_by_key(|strike| (strike.at, strike.kind));
    (kinds, strikes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_a_fault_out_changes_nothing_else() {
        let whole = (1..).map(|seed| Plan::of(seed, &Overrides::default()));
        let whole = whole.into_iter().find(|plan| plan.kinds.len() > 2).unwrap();
        let without = whole.kinds[0];
        let rest = whole.kinds[1..].iter().map(|kind| TABLE[*kind].name.to_owned()).collect();
        let overrides = Overrides { faults: Some(rest), ..Overrides::default() };
        let less = Plan::of(whole.seed, &overrides);
        let mut expected = whole.strikes.clone();
        expected.retain(|strike| strike.kind != without);
        assert_eq!(less.strikes, expected);
        assert_eq!((less.voters, less.mix), (whole.voters, whole.mix));
    }

    #[test]
    fn seeds_differ_in_topology_faults_and_mix() {
        let plans: Vec<_> = (0..60).map(|seed| Plan::of(seed, &Overrides::default())).collect();
        for voters in [1, 3, 5] {
            assert!(plans.iter().any(|plan| plan.voters == voters), "{voters} voters");
        }
        for (kind, known) in TABLE.iter().enumerate() {
            let picked = plans.iter().any(|plan| plan.kinds.contains(&kind));
            assert!(picked, "{} is never picked", known.name);
        }
    }
}
