//! The clocks of a simulated machine: simulated time, seen through an offset that a fault may change.

use rollcall_registry::clock::Clock;
use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Wall clock at the start of every simulation, ms since 1970.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// The clocks of one boot of one machine.
#[derive(Debug)]
pub struct SimClock {
    start: Instant,
    /// By how much the wall clock is wrong, ms.
    wrong_by: AtomicI64,
}

impl SimClock {
    /// Clocks that start now. `wrong_by_ms` shifts the wall clock, which must change nothing but what is displayed.
    pub fn new(wrong_by_ms: i64) -> Self {
        Self { start: Instant::now(), wrong_by: AtomicI64::new(wrong_by_ms) }
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        let since_start = turmoil::sim_elapsed().unwrap_or_default();
        let since_start = i64::try_from(since_start.as_millis()).unwrap_or(i64::MAX);
        let wall = EPOCH_MS + since_start + self.wrong_by.load(Ordering::Relaxed);
        u64::try_from(wall).unwrap_or(0)
    }
}
