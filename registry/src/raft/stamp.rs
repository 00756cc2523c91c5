//! What the leader puts on each command: the wall clock, and how much cluster time has passed. Cluster time is
//! driven by the monotonic clock of the leader alone, in whole milliseconds; the remainder is carried over, so
//! that many small steps lose nothing.

use std::time::Duration;

use rollcall_core::{Command, Stamped};

/// The stamps of one leadership. A new leadership starts at its own first stamp: the time without a leader does
/// not age anything.
#[derive(Debug, Default)]
pub(crate) struct Stamper {
    term: u64,
    stamped_until: Duration,
}

impl Stamper {
    /// Starts the clock of a leadership, where it does not run yet.
    pub(crate) fn lead(&mut self, term: u64, now: Duration) {
        if self.term != term {
            self.term = term;
            self.stamped_until = now;
        }
    }

    /// Stamps a command of the leader of `term`.
    pub(crate) fn stamp(
        &mut self,
        term: u64,
        now: Duration,
        wall_ms: u64,
        command: Command,
    ) -> Stamped {
        self.lead(term, now);
        let passed = now.saturating_sub(self.stamped_until).as_millis();
        let advance_ms = u64::try_from(passed).unwrap_or(u64::MAX);
        self.stamped_until += Duration::from_millis(advance_ms);
        Stamped { wall_ms, advance_ms, command }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(stamper: &mut Stamper, term: u64, micros: u64) -> u64 {
        let now = Duration::from_micros(micros);
        stamper.stamp(term, now, 0, Command::AdvanceTime).advance_ms
    }

    #[test]
    fn the_remainder_is_carried_over() {
        let mut stamper = Stamper::default();
        stamper.lead(1, Duration::ZERO);
        let steps: u64 = (1..=1000).map(|step| advance(&mut stamper, 1, step * 700)).sum();
        assert_eq!(steps, 700);
    }

    #[test]
    fn a_new_leadership_does_not_count_the_time_before_it() {
        let mut stamper = Stamper::default();
        assert_eq!(advance(&mut stamper, 1, 5_000_000), 0);
        assert_eq!(advance(&mut stamper, 1, 6_000_000), 1000);
        assert_eq!(advance(&mut stamper, 3, 60_000_000), 0);
        assert_eq!(advance(&mut stamper, 3, 60_500_000), 500);
    }

    #[test]
    fn a_clock_that_goes_back_advances_nothing() {
        let mut stamper = Stamper::default();
        advance(&mut stamper, 1, 5_000_000);
        assert_eq!(advance(&mut stamper, 1, 4_000_000), 0);
        assert_eq!(advance(&mut stamper, 1, 5_001_000), 1);
    }
}
