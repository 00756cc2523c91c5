//! How long calls usually take: a histogram of recent calls, from which the wait before a hedge follows. And what a
//! hedge that was faster says of the endpoint that was asked first.

use super::{endpoint::Endpoint, observe::Cause, pick::Core};
use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// Four buckets for each power of two of microseconds, up to 2^32.
const BUCKETS: usize = 128;
/// Calls below which there is no telling.
const CALLS_MIN: u64 = 50;
/// Shortest wait before a hedge.
pub(super) const LEAST: Duration = Duration::from_millis(1);

/// Counts by latency, halved in each interval, so that old ones fade.
#[derive(Debug)]
pub(super) struct Delays {
    counts: [AtomicU32; BUCKETS],
    /// The 95th percentile in microseconds as of the last interval; 0 = not known.
    usual_us: AtomicU32,
}

impl Default for Delays {
    fn default() -> Self {
        Self { counts: [const { AtomicU32::new(0) }; BUCKETS], usual_us: AtomicU32::new(0) }
    }
}

impl Delays {
    pub(super) fn add(&self, took: Duration) {
        self.counts[bucket(took)].fetch_add(1, Relaxed);
    }

    /// Ends an interval.
    pub(super) fn sweep(&self) {
        let counts = self.counts.each_ref().map(|count| {
            let held = count.load(Relaxed);
            count.fetch_sub(held / 2, Relaxed);
            u64::from(held)
        });
        let total: u64 = counts.iter().sum();
        if total < CALLS_MIN {
            self.usual_us.store(0, Relaxed);
            return;
        }
        let mut below = 0;
        let usual = counts.iter().position(|count| {
            below += count;
            below * 100 >= total * 95
        });
        let top = upper_us(usual.unwrap_or(BUCKETS - 1));
        self.usual_us.store(u32::try_from(top).unwrap_or(u32::MAX), Relaxed);
    }

    /// The 95th percentile of recent calls; `None` = too few to tell.
    pub(super) fn usual(&self) -> Option<Duration> {
        let usual = self.usual_us.load(Relaxed);
        (usual > 0).then(|| Duration::from_micros(usual.into()).max(LEAST))
    }
}

impl Core {
    /// A hedge answered before an attempt that was made earlier and has no head of an answer. One that is only slow now
    /// and then has successes between; one that hangs has none, and its calls must not need hedges for ever.
    pub(super) fn beaten(&self, endpoint: &Endpoint) {
        let streak = endpoint.state.beaten(self.millis(Instant::now()));
        let most = self.ejection().consecutive;
        if most > 0 && streak >= most {
            self.eject(endpoint, Cause::Consecutive);
        }
    }
}

fn bucket(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(4);
    let power = us.ilog2();
    // The two bits below the highest one.
    let quarter = (us >> (power - 2)) & 3;
    (power as usize * 4 + usize::try_from(quarter).unwrap_or(3)).min(BUCKETS - 1)
}

/// Where a bucket ends.
fn upper_us(bucket: usize) -> u64 {
    let (power, quarter) = (bucket / 4, bucket % 4);
    ((quarter as u64 + 5) << power) >> 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_at_most_a_quarter_above_what_is_in_it() {
        for us in [4_u64, 5, 7, 8, 100, 999, 1_000, 123_456, 1 << 31] {
            let top = upper_us(bucket(Duration::from_micros(us)));
            assert!(top > us && top <= us + us / 4 + 1, "{us}: {top}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), bucket(Duration::from_micros(4)));
    }

    #[test]
    fn the_usual_wait_is_the_95th_percentile_and_fades() {
        let delays = Delays::default();
        assert_eq!(delays.usual(), None);
        for i in 0..1_000 {
            delays.add(Duration::from_millis(if i % 100 < 94 { 10 } else { 200 }));
        }
        delays.sweep();
        let usual = delays.usual().unwrap();
        assert!((200..=250).contains(&usual.as_millis()), "{usual:?}");
        for _ in 0..6 {
            delays.sweep();
        }
        assert_eq!(delays.usual(), None);
    }

    #[test]
    fn the_shortest_wait_is_a_millisecond() {
        let delays = Delays::default();
        (0..100).for_each(|_| delays.add(Duration::from_micros(50)));
        delays.sweep();
        assert_eq!(delays.usual(), Some(LEAST));
    }
}
