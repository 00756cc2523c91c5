//! Rare states that a run should reach now and then, counted by name. A night that never reaches one has a hole.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Every point there is. [`Points::hit`] with another name is a mistake in the simulation.
pub const NAMES: &[&str] = &[
    "all nodes lost power at once",
    "the leader was cut off",
    "the leader was paused",
    "the disk of the leader was nearly full",
    "a node came back with an empty disk",
    "a node refused to start with damaged data",
    "a node stopped itself over a disk fault",
    "a wiped node became a voter again",
    "the leader changed",
    "the leader changed twice within a lease",
    "a follower installed a snapshot",
    "the log was purged",
    "the lead was handed over",
    "a write was acknowledged",
    "a write was refused",
    "the outcome of a write was unknown",
    "a write of unknown outcome took effect",
    "a write of unknown outcome took no effect",
    "a retry after an acknowledgement was answered",
    "a compare-and-set succeeded",
    "a compare-and-set lost",
    "a write was refused without a leader",
    "a write was refused for a full disk",
    "a linearizable read was answered by a follower",
    "a bounded read was refused as stale",
    "a stale read was answered without a leader",
    "a read waited for a revision",
    "a lease expired",
    "a lease was restored",
    "an instance was evicted",
    "an instance was taken over",
    "an instance was deregistered",
    "an expiry came within a second of a beat",
    "protection began",
    "protection ended",
    "a watch was reset",
    "a watch was sent a delta",
    "a watch lost its node",
    "a tail was far behind",
    "a stream was stuck at the end",
    "an owner was registered again by itself",
    "a registration was let go of with unknown outcome",
    "an owner was fenced by its own ghost",
    "a history was put in order",
    "a history was too long to be put in order",
    "the disks of the leader and of a majority were slow",
    "a look-up was answered",
    "a look-up was answered over TCP",
    "a look-up was answered as stale",
    "a checker was cut off from its targets",
    "a probed instance died",
    "a death was found by checks in time",
    "a tail began after a revision",
    "a goodbye came too late",
];

/// Points that a night may do without: what they count is allowed, and better never seen.
pub const MAY_BE_NEVER: &[&str] =
    &["an owner was fenced by its own ghost", "a history was too long to be put in order"];

/// Counts of the points of one run.
#[derive(Debug, Clone, Default)]
pub struct Points(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Points {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A point was reached.
    ///
    /// # Panics
    /// When the point is not in [`NAMES`].
    pub fn hit(&self, name: &'static str) {
        assert!(NAMES.contains(&name), "{name:?} is not in the list of points");
        *self.counts().entry(name).or_default() += 1;
    }

    /// How often a point was reached.
    pub fn count(&self, name: &str) -> u64 {
        self.counts().get(name).copied().unwrap_or_default()
    }

    /// The points that were reached, with their counts, by their number in [`NAMES`]: `3=1 7=20`.
    pub fn line(&self) -> String {
        let counts = self.counts();
        let numbered = NAMES.iter().enumerate();
        let reached = numbered.filter_map(|(at, name)| Some((at, counts.get(name)?)));
        reached.map(|(at, count)| format!("{at}={count}")).collect::<Vec<_>>().join(" ")
    }
}

/// Adds a [`Points::line`] to sums by number. Words that are none are left out.
pub fn add_line(sums: &mut [u64], line: &str) {
    for word in line.split_whitespace() {
        let Some((at, count)) = word.split_once('=') else { continue };
        if let (Ok(at), Ok(count)) = (at.parse::<usize>(), count.parse::<u64>())
            && let Some(sum) = sums.get_mut(at)
        {
            *sum += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_adds_up_again() {
        let points = Points::default();
        points.hit(NAMES[2]);
        points.hit(NAMES[2]);
        points.hit(NAMES[5]);
        let mut sums = vec![0; NAMES.len()];
        add_line(&mut sums, &points.line());
        add_line(&mut sums, &points.line());
        assert_eq!((sums[2], sums[5], sums[0]), (4, 2, 0));
        assert_eq!((points.count(NAMES[2]), points.count(NAMES[0])), (2, 0));
    }
}
