//! The pure parts of leases: when a lease is due, what a new leader grants, what a checkpoint holds.
//!
//! Time is milliseconds on the leader's monotonic clock and always an argument; calling early is harmless.

use crate::instance::Ttl;
use std::{collections::BTreeSet, time::Duration};

/// What is due when. The caller keeps the true deadline and arms a handle again if it was renewed meanwhile, so that
/// a heartbeat costs one store and no reordering.
#[derive(Debug, Clone, Default)]
pub struct Deadlines {
    by_time: BTreeSet<(u64, u64)>,
}

impl Deadlines {
    /// Looks at `handle` again at `at_ms`.
    pub fn arm(&mut self, handle: u64, at_ms: u64) {
        self.by_time.insert((at_ms, handle));
    }

    /// Takes the handles that are due at `now_ms`, earliest first, at most `max`.
    pub fn due(&mut self, now_ms: u64, max: usize) -> Vec<u64> {
        let mut due = Vec::new();
        while due.len() < max {
            match self.by_time.first() {
                Some((at, _)) if *at <= now_ms => {}
                _ => break,
            }
            if let Some((_, handle)) = self.by_time.pop_first() {
                due.push(handle);
            }
        }
        due
    }

    /// When to look again.
    pub fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// How many are armed.
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Whether none is armed.
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// Forgets everything, as a node does that no longer leads.
    pub fn clear(&mut self) {
        self.by_time.clear();
    }
}

/// What a new leader grants a lease, counted from its own first applied entry: a full TTL, or for one that had missed
/// a beat the larger of what it had left and two beats, at most the TTL.
pub fn grant(ttl: Ttl, remaining_ms: Option<u32>) -> Duration {
    match remaining_ms {
        None => ttl.duration(),
        Some(remaining) => {
            let two_beats = ttl.beat_interval() * 2;
            Duration::from_millis(u64::from(remaining)).max(two_beats).min(ttl.duration())
        }
    }
}

/// How often a leader checkpoints the leases of this length: the larger of 2 s and a quarter of the TTL.
pub fn checkpoint_interval(ttl: Ttl) -> Duration {
    (ttl.duration() / 4).max(Duration::from_secs(2))
}

/// Whether a lease with so much time left has missed a beat: it should have come after a third of the TTL, with a
/// tenth of that for jitter and as much again for the way.
pub fn missed_a_beat(ttl: Ttl, remaining: Duration) -> bool {
    let beat = ttl.beat_interval();
    ttl.duration().saturating_sub(remaining) > beat + beat / 5
}

/// Longest silence after which an instance is EXPIRED, across `leader_changes` of which each leaves the cluster
/// without a leader for at most `outage`: TTL + k x (E + C) + 0.3 s, with
/// C = min(TTL, max(2/3 TTL, 0.4 TTL + max(2 s, TTL/4))): what a change of the leader costs a lease that no checkpoint
/// names is the time it may have been silent unnamed; what it costs one that is named is the two beats of its grant.
pub fn expiry_bound(ttl: Ttl, leader_changes: u32, outage: Duration) -> Duration {
    let unnamed = ttl.duration() * 2 / 5 + checkpoint_interval(ttl);
    let named = ttl.beat_interval() * 2;
    let lost = unnamed.max(named).min(ttl.duration());
    ttl.duration() + (outage + lost) * leader_changes + Duration::from_millis(300)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttl(seconds: u64) -> Ttl {
        Ttl::parse(Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn what_is_due_comes_earliest_first_and_no_more_than_asked() {
        let mut deadlines = Deadlines::default();
        for (handle, at) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
            deadlines.arm(handle, at);
        }
        assert_eq!(deadlines.due(9, 10), []);
        assert_eq!(deadlines.next(), Some(10));
        assert_eq!(deadlines.due(30, 2), [2, 3]);
        assert_eq!(deadlines.due(30, 2), [1]);
        assert_eq!(deadlines.len(), 1);
    }

    #[test]
    fn a_new_leader_gives_a_beating_lease_its_whole_length() {
        assert_eq!(grant(ttl(9), None), Duration::from_secs(9));
    }

    #[test]
    fn a_new_leader_gives_a_silent_lease_what_it_had_left_but_two_beats_at_least() {
        assert_eq!(grant(ttl(9), Some(8_000)), Duration::from_secs(8));
        assert_eq!(grant(ttl(9), Some(10)), Duration::from_secs(6));
        assert_eq!(grant(ttl(9), Some(60_000)), Duration::from_secs(9));
    }

    #[test]
    fn a_beat_is_missed_when_it_is_later_than_its_jitter_explains() {
        let third = Duration::from_secs(1);
        assert!(!missed_a_beat(ttl(3), Duration::from_secs(3) - third - third / 10));
        assert!(missed_a_beat(ttl(3), Duration::from_secs(3) - third - third / 4));
    }

    #[test]
    fn the_bound_grows_by_outage_and_checkpoint_for_each_leader_change() {
        let bound = expiry_bound(ttl(3), 2, Duration::from_millis(1_500));
        assert_eq!(bound, Duration::from_millis(3_000 + 2 * (1_500 + 3_000) + 300));
        let bound = expiry_bound(ttl(6), 1, Duration::from_millis(1_500));
        assert_eq!(bound, Duration::from_millis(6_000 + 1_500 + 4_400 + 300));
        let bound = expiry_bound(ttl(9), 1, Duration::from_millis(1_500));
        assert_eq!(bound, Duration::from_millis(9_000 + 1_500 + 6_000 + 300));
    }
}
