//! The clock as a value, so that a simulation can own it: stop it, skew it, let it jump. This is the only reader
//! of the wall clock; sleeping is tokio's, which a simulation controls by itself.

use std::fmt;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The two clocks of a node. Only the monotonic one decides anything.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since an arbitrary start, never going back. Not comparable between nodes.
    fn monotonic(&self) -> Duration;
    /// Milliseconds since 1970, for display and journal. It may jump in either direction.
    fn wall_ms(&self) -> u64;
}

/// The clocks of the machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
        let now = SystemTime::now();
        // A clock before 1970 is shown as 1970: it is display alone.
        now.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
