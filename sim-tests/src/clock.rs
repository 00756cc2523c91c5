//! The clocks of a simulated machine: simulated time, seen at a rate and through jumps that faults may change.

use rollcall_registry::clock::Clock;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Wall clock at the start of every simulation, ms since 1970.
const EPOCH_MS: i64 = 1_800_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Monotonic time at `since`.
    shown: Duration,
    /// Simulated time from which `rate` counts.
    since: Duration,
    /// Thousandths: 1,000 runs true, 0 stands still.
    rate: u32,
    /// By how much the wall clock is wrong, ms.
    wrong_by: i64,
}

/// The clocks of one boot of one machine.
#[derive(Debug)]
pub struct SimClock(Mutex<Setting>);

impl SimClock {
    /// Clocks that start at simulated time `now`, at `rate` thousandths. `wrong_by_ms` shifts the wall clock, which
    /// must change nothing but what is displayed.
    pub fn new(now: Duration, rate: u32, wrong_by_ms: i64) -> Self {
        let shown = Duration::ZERO;
        Self(Mutex::new(Setting { shown, since: now, rate, wrong_by: wrong_by_ms }))
    }

    fn setting(&self) -> MutexGuard<'_, Setting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The monotonic clock stands still, as for a process that is stopped.
    pub fn freeze(&self, now: Duration) {
        self.change(now, 0, Duration::ZERO);
    }

    /// The monotonic clock runs again, and shows at once what passed while it stood still.
    pub fn thaw(&self, now: Duration, rate: u32, stood: Duration) {
        self.change(now, rate, stood);
    }

    /// From now on the monotonic clock runs at this rate, in thousandths.
    pub fn set_rate(&self, now: Duration, rate: u32) {
        self.change(now, rate, Duration::ZERO);
    }

    /// The monotonic clock at this simulated time, for who looks from outside.
    pub fn at(&self, now: Duration) -> Duration {
        self.setting().monotonic(now)
    }

    /// The wall clock jumps.
    pub fn jump(&self, by_ms: i64) {
        self.setting().wrong_by += by_ms;
    }

    fn change(&self, now: Duration, rate: u32, more: Duration) {
        let mut setting = self.setting();
        let shown = setting.monotonic(now) + more;
        *setting = Setting { shown, since: now, rate, ..*setting };
    }
}

impl Setting {
    fn monotonic(&self, now: Duration) -> Duration {
        self.shown + now.saturating_sub(self.since) * self.rate / 1_000
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        let setting = *self.setting();
        setting.monotonic(turmoil::sim_elapsed().unwrap_or(setting.since))
    }

    fn wall_ms(&self) -> u64 {
        let since_start = turmoil::sim_elapsed().unwrap_or_default();
        let since_start = i64::try_from(since_start.as_millis()).unwrap_or(i64::MAX);
        let wall = EPOCH_MS.saturating_add(since_start).saturating_add(self.setting().wrong_by);
        u64::try_from(wall).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_frozen_shows_what_passed_when_it_thaws() {
        let second = Duration::from_secs(1);
        let clock = SimClock::new(second, 1_100, 0);
        let at = |seconds: u32| clock.setting().monotonic(second * seconds);
        assert_eq!(at(11), second * 11);
        clock.freeze(second * 11);
        assert_eq!(at(14), second * 11);
        clock.thaw(second * 14, 1_000, second * 3);
        assert_eq!(at(14), second * 14);
        assert_eq!(at(15), second * 15);
    }
}
