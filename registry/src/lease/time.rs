//! Lease time: the leader's monotonic clock without the time in which it could not hear its instances.
//!
//! While the leader looks at it every few milliseconds it runs; where it did not look, or could not acknowledge a
//! beat for lack of a quorum, it stands still, which adds the gap to every deadline at once.

use crate::clock::Clock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A longer gap between two looks is a pause of this process, and is added to every deadline.
pub const GAP: Duration = Duration::from_millis(200);

/// The clock of the leases of one node. Milliseconds; not comparable between nodes. It stands still from a gap on
/// and may step back by at most [`GAP`] when that is noticed, never forward: no lease loses by it.
#[derive(Debug)]
pub struct LeaseTime {
    clock: Arc<dyn Clock>,
    /// Monotonic time of the last look, ms.
    looked: AtomicU64,
    /// What does not count, ms.
    left_out: AtomicU64,
}

impl LeaseTime {
    /// A clock that was just looked at.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let looked = AtomicU64::new(millis(clock.monotonic()));
        Self { clock, looked, left_out: AtomicU64::new(0) }
    }

    /// Lease time in ms.
    pub fn now(&self) -> u64 {
        let monotonic = millis(self.clock.monotonic());
        // Read in the other order than written: a mix of old and new is late, which no lease suffers from.
        let left_out = self.left_out.load(Ordering::Acquire);
        let looked = self.looked.load(Ordering::Acquire);
        // After a gap that was not noticed yet it is still the time of the last look: what arrives now is not
        // given the gap on top.
        let heard = if monotonic.saturating_sub(looked) > millis(GAP) { looked } else { monotonic };
        heard.saturating_sub(left_out)
    }

    /// The leader looks: every few milliseconds. `counts` = it could hear its instances since the last look.
    /// Returns the gap since then, where that was a pause of this process.
    pub fn look(&self, counts: bool) -> Option<Duration> {
        let monotonic = millis(self.clock.monotonic());
        let passed = monotonic.saturating_sub(self.looked.load(Ordering::Acquire));
        let paused = passed > millis(GAP);
        self.looked.fetch_max(monotonic, Ordering::AcqRel);
        if paused || !counts {
            self.left_out.fetch_add(passed, Ordering::AcqRel);
        }
        paused.then(|| Duration::from_millis(passed))
    }

    /// Leaves out time that has passed already.
    pub fn leave_out(&self, gap: Duration) {
        self.left_out.fetch_add(millis(gap), Ordering::AcqRel);
    }

    /// What was left out so far.
    pub fn left_out(&self) -> Duration {
        Duration::from_millis(self.left_out.load(Ordering::Acquire))
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::table::tests::Hand;

    fn rig() -> (Arc<Hand>, LeaseTime) {
        let clock = Arc::new(Hand::default());
        clock.pass(10_000);
        let time = LeaseTime::new(clock.clone());
        (clock, time)
    }

    #[test]
    fn time_runs_while_it_is_looked_at() {
        let (clock, time) = rig();
        let start = time.now();
        for _ in 0..10 {
            clock.pass(100);
            assert_eq!(time.look(true), None);
        }
        assert_eq!(time.now() - start, 1_000);
        assert_eq!(time.left_out(), Duration::ZERO);
    }

    #[test]
    fn a_gap_is_left_out_once() {
        let (clock, time) = rig();
        let start = time.now();
        clock.pass(5_000);
        assert_eq!(time.now(), start, "before the gap is noticed");
        assert_eq!(time.look(true), Some(Duration::from_millis(5_000)));
        assert_eq!(time.now(), start, "after it was noticed");
        assert_eq!(time.look(true), None);
        clock.pass(100);
        assert_eq!(time.now(), start + 100);
        assert_eq!(time.left_out(), Duration::from_millis(5_000));
    }

    #[test]
    fn a_gap_without_a_quorum_is_left_out_once() {
        let (clock, time) = rig();
        let start = time.now();
        clock.pass(5_000);
        time.look(false);
        clock.pass(10);
        time.look(false);
        assert_eq!(time.now(), start);
        assert_eq!(time.left_out(), Duration::from_millis(5_010));
    }
}
