//! Which instances are to be removed when, because they are expired or UNHEALTHY for too long. Exact: what has come
//! back is not looked at again, so that an instance which expires twice waits its whole time twice.

use super::time::millis;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What is due when. Lease time in ms.
#[derive(Debug, Default)]
pub struct Evictions {
    /// Since when each generation is to be removed, and when it is looked at.
    waiting: BTreeMap<u64, Wait>,
    by_time: BTreeSet<(u64, u64)>,
}

/// For what an instance is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Its lease ran out.
    Expired,
    /// It is UNHEALTHY since that revision.
    Unhealthy(u64),
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    ground: Ground,
    since: u64,
    at: u64,
}

impl Evictions {
    /// There is this ground to remove an instance since `now`, unless that is known already; it is removed `after`.
    /// With another ground it waits its whole time again.
    pub fn wait(&mut self, generation: u64, ground: Ground, now: u64, after: Duration) {
        let known = self.waiting.get(&generation).filter(|wait| wait.ground == ground);
        if known.is_none() {
            self.forget(generation);
            let at = now.saturating_add(millis(after));
            self.waiting.insert(generation, Wait { ground, since: now, at });
            self.by_time.insert((at, generation));
        }
    }

    /// The wait of such an instance has changed; it is counted from its beginning.
    pub fn change(&mut self, generation: u64, after: Duration) {
        if let Some(wait) = self.waiting.get(&generation) {
            self.again(generation, wait.since.saturating_add(millis(after)));
        }
    }

    /// Looks again at `at`, where the instance still waits.
    pub fn again(&mut self, generation: u64, at: u64) {
        if let Some(wait) = self.waiting.get_mut(&generation) {
            self.by_time.remove(&(wait.at, generation));
            wait.at = at;
            self.by_time.insert((at, generation));
        }
    }

    /// There is no ground any more.
    pub fn forget(&mut self, generation: u64) {
        if let Some(wait) = self.waiting.remove(&generation) {
            self.by_time.remove(&(wait.at, generation));
        }
    }

    /// Those that are due at `now`, earliest first, at most `max`. They are due again at `again`, unless forgotten.
    pub fn due(&mut self, now: u64, max: usize, again: u64) -> Vec<u64> {
        let due: Vec<u64> =
            self.by_time.range(..=(now, u64::MAX)).take(max).map(|(_, it)| *it).collect();
        for generation in &due {
            self.again(*generation, again);
        }
        due
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_came_back_is_not_looked_at_and_waits_its_whole_time_again() {
        let mut evictions = Evictions::default();
        evictions.wait(1, Ground::Expired, 0, SECOND);
        evictions.forget(1);
        evictions.wait(1, Ground::Expired, 900, SECOND);
        assert!(evictions.due(1_899, 10, 9_999).is_empty());
        assert_eq!(evictions.due(1_900, 10, 9_999), [1]);
    }

    #[test]
    fn what_is_due_stays_until_it_is_gone() {
        let mut evictions = Evictions::default();
        evictions.wait(2, Ground::Expired, 0, SECOND);
        evictions.wait(1, Ground::Expired, 0, SECOND);
        assert_eq!(evictions.due(1_000, 1, 2_000), [1]);
        assert_eq!(evictions.due(1_000, 9, 2_000), [2]);
        assert!(evictions.due(1_999, 9, 3_000).is_empty());
        evictions.forget(1);
        assert_eq!(evictions.due(2_000, 9, 3_000), [2]);
    }

    #[test]
    fn a_changed_wait_counts_from_the_expiry() {
        let mut evictions = Evictions::default();
        evictions.wait(1, Ground::Expired, 5_000, 30 * SECOND);
        evictions.wait(1, Ground::Expired, 6_000, 30 * SECOND);
        evictions.change(1, SECOND);
        assert!(evictions.due(5_999, 10, 9_999).is_empty());
        assert_eq!(evictions.due(6_000, 10, 9_999), [1]);
    }

    #[test]
    fn what_is_unhealthy_and_expires_waits_its_whole_time_again() {
        let mut evictions = Evictions::default();
        evictions.wait(1, Ground::Unhealthy(7), 0, SECOND);
        evictions.wait(1, Ground::Unhealthy(7), 500, SECOND);
        evictions.wait(1, Ground::Expired, 900, SECOND);
        assert!(evictions.due(1_899, 10, 9_999).is_empty());
        assert_eq!(evictions.due(1_900, 10, 9_999), [1]);
        evictions.wait(1, Ground::Unhealthy(9), 2_000, SECOND);
        assert!(evictions.due(2_999, 10, 9_999).is_empty());
    }
}
