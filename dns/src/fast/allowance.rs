//! How much one thread may search for answers that it will not keep. Pure: the clock is an argument.
//!
//! Above it they go to another thread, over a queue with a bound. So whoever asks large services for tags that nobody has
//! costs the other clients of the thread a small share of its time. An answer that was kept once needs no allowance when a
//! change has overtaken it.

use std::time::Duration;

/// Look-ups of at most so many records are always allowed: they cost no more than a large reply.
const SMALL: usize = 256;
/// Records a second, and how many at once: the largest service once (20,000 instances). A record costs some
/// 100 ns.
const RATE: u64 = 100_000;
const AT_ONCE: u64 = 20_000;
/// The unit of what is left: a rate a second fills so many a millisecond.
const RECORD: u64 = 1_000;

/// What is left.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
    at_ms: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: AT_ONCE * RECORD, at_ms: 0 }
    }
}

impl Allowance {
    /// Whether so many records may be looked at; then they count.
    pub(super) fn spend(&mut self, records: usize, now: Duration) -> bool {
        if records <= SMALL {
            return true;
        }
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let filled = now_ms.saturating_sub(self.at_ms).saturating_mul(RATE);
        self.left = self.left.saturating_add(filled).min(AT_ONCE * RECORD);
        self.at_ms = self.at_ms.max(now_ms);
        let cost = u64::try_from(records).unwrap_or(u64::MAX).saturating_mul(RECORD);
        let left = self.left.checked_sub(cost);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// They were not looked at after all.
    pub(super) fn give_back(&mut self, records: usize) {
        if records > SMALL {
            let records = u64::try_from(records).unwrap_or(u64::MAX).saturating_mul(RECORD);
            self.left = self.left.saturating_add(records).min(AT_ONCE * RECORD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn small_ones_are_free_and_large_ones_bounded_in_time() {
        let mut allowance = Allowance::default();
        assert!((0..100_000).all(|_| allowance.spend(SMALL, AT(0))));
        assert!(allowance.spend(20_000, AT(0)), "the largest service, once");
        assert!(!allowance.spend(257, AT(0)));
        allowance.give_back(300);
        allowance.give_back(SMALL);
        assert!(allowance.spend(300, AT(0)) && !allowance.spend(257, AT(0)));
        assert!(!allowance.spend(20_000, AT(199)));
        assert!(allowance.spend(20_000, AT(200)), "five a second");
        let large = (0..1_000).filter(|ms| allowance.spend(2_000, AT(200 + ms))).count();
        assert_eq!(large, 49);
        // A clock that steps back gives nothing away.
        assert!(!allowance.spend(2_000, AT(0)));
        assert!(!allowance.spend(100_000, AT(u64::MAX)), "never all services at once");
    }
}
