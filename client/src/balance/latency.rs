//! Peak EWMA of one endpoint's latency: jumps up at once, comes down over [`DECAY_MS`]. One atomic word.
//!
//! The shape is Finagle's; that a failure costs more than it lasted is linkerd's. A failure counts as ten times the
//! mean, at most the penalty: an endpoint that fails fast does not look fast, and one stray failure of a quick service
//! does not banish an endpoint for a minute (reference: `docs/decisions/010-a-failure-costs-ten-times-the-mean.md`).

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Time in which the weight of a sample falls to 1/e.
const DECAY_MS: f32 = 10_000.0;
/// What a failure counts, in means.
const FAILURE_FACTOR: f32 = 10.0;
/// Least cost of a failure where nothing is known of the endpoint.
const FAILURE_FLOOR_US: f32 = 1_000.0;

/// The mean of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Mean in microseconds (upper half, `f32`) and the millisecond of the last sample (lower half); 0 = unknown.
    word: AtomicU64,
    /// There was a second success. The first one bore the opening of a connection, and says little about the rest.
    proven: AtomicBool,
}

impl Latency {
    /// The mean in microseconds as of `now_ms`, decayed since the last sample: who was not asked for long may have
    /// recovered. `None` before the first sample.
    pub(super) fn mean(&self, now_ms: u32) -> Option<f32> {
        let word = self.word.load(Relaxed);
        (word != 0).then(|| {
            let (mean, at) = unpack(word);
            mean * weight(now_ms, at)
        })
    }

    pub(super) fn success(&self, took: Duration, now_ms: u32) {
        let took = micros(took);
        let (known, proven) = (self.mean(now_ms).is_some(), self.proven.load(Relaxed));
        if known && !proven {
            self.proven.store(true, Relaxed);
        }
        self.update(now_ms, |mean| match mean {
            Some(_) if !proven => took,
            Some((mean, weight)) if took <= mean => mean * weight + took * (1.0 - weight),
            Some(_) | None => took,
        });
    }

    pub(super) fn failure(&self, took: Duration, penalty: Duration, now_ms: u32) {
        let (took, penalty) = (micros(took), micros(penalty));
        // What a failure costs must not be forgotten with the next success.
        self.proven.store(true, Relaxed);
        self.update(now_ms, |mean| {
            let mean = mean.map_or(0.0, |(mean, weight)| mean * weight);
            (mean * FAILURE_FACTOR).max(FAILURE_FLOOR_US).min(penalty).max(took).max(mean)
        });
    }

    /// A call that was given up lasted at least so long.
    pub(super) fn at_least(&self, took: Duration, now_ms: u32) {
        let took = micros(took);
        if self.mean(now_ms).is_some_and(|mean| took > mean) {
            self.update(now_ms, |_| took);
        }
    }

    pub(super) fn forget(&self) {
        self.word.store(0, Relaxed);
        self.proven.store(false, Relaxed);
    }

    fn update(&self, now_ms: u32, next: impl Fn(Option<(f32, f32)>) -> f32) {
        let step = |word: u64| {
            let known = (word != 0).then(|| {
                let (mean, at) = unpack(word);
                (mean, weight(now_ms, at))
            });
            Some(pack(next(known).max(1.0), now_ms))
        };
        let _ = self.word.fetch_update(Relaxed, Relaxed, step);
    }
}

fn pack(mean: f32, at: u32) -> u64 {
    u64::from(mean.to_bits()) << 32 | u64::from(at)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

/// Weight that is left of a value from `at`. Clocks of two threads may cross: a time to come is now.
fn weight(now_ms: u32, at: u32) -> f32 {
    let passed = now_ms.wrapping_sub(at);
    if passed == 0 || passed > u32::MAX / 2 {
        return 1.0;
    }
    let passed = passed as f32;
    (-passed / DECAY_MS).exp()
}

fn micros(took: Duration) -> f32 {
    (took.as_secs_f64() * 1e6) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_jumps_up_at_once_and_comes_down_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.mean(0), None);
        latency.success(MS * 2, 0);
        latency.success(MS * 2, 0);
        latency.success(MS * 100, 10);
        assert_eq!(latency.mean(10), Some(100_000.0));
        latency.success(MS * 2, 20);
        let mean = latency.mean(20).unwrap();
        assert!((99_000.0..100_000.0).contains(&mean), "{mean}");
        latency.success(MS * 2, 10_020);
        let mean = latency.mean(10_020).unwrap();
        // 1/e of 99.9 ms and the rest of 2 ms.
        assert!((37_500.0..38_500.0).contains(&mean), "{mean}");
    }

    #[test]
    fn the_second_call_replaces_the_first_which_opened_the_connection() {
        let latency = Latency::default();
        latency.success(MS * 50, 0);
        assert_eq!(latency.mean(0), Some(50_000.0));
        latency.success(MS, 1);
        assert_eq!(latency.mean(1), Some(1_000.0));
        latency.success(MS / 2, 2);
        assert!(latency.mean(2).unwrap() > 990.0);
        latency.forget();
        latency.success(MS * 50, 3);
        latency.success(MS, 4);
        assert_eq!(latency.mean(4), Some(1_000.0));
    }

    #[test]
    fn who_is_not_asked_recovers_with_time() {
        let latency = Latency::default();
        latency.success(MS * 100, 0);
        let mean = latency.mean(20_000).unwrap();
        assert!((13_000.0..14_000.0).contains(&mean), "{mean}");
    }

    #[test]
    fn failures_grow_dear_up_to_the_penalty_and_never_cheap() {
        let latency = Latency::default();
        latency.success(MS * 2, 0);
        let penalty = Duration::from_secs(5);
        latency.failure(MS / 10, penalty, 0);
        assert!((latency.mean(0).unwrap() - 20_000.0).abs() < 1.0);
        for _ in 0..5 {
            latency.failure(MS / 10, penalty, 0);
        }
        assert_eq!(latency.mean(0), Some(5_000_000.0));
        latency.failure(penalty * 2, penalty, 0);
        assert_eq!(latency.mean(0), Some(10_000_000.0));
        let unknown = Latency::default();
        unknown.failure(Duration::ZERO, penalty, 0);
        assert_eq!(unknown.mean(0), Some(1_000.0));
    }

    #[test]
    fn a_call_that_was_given_up_can_only_raise_the_mean() {
        let latency = Latency::default();
        latency.at_least(MS * 50, 0);
        assert_eq!(latency.mean(0), None);
        latency.success(MS * 10, 0);
        latency.at_least(MS * 5, 0);
        assert_eq!(latency.mean(0), Some(10_000.0));
        latency.at_least(MS * 50, 0);
        assert_eq!(latency.mean(0), Some(50_000.0));
    }

    #[test]
    fn a_clock_that_lags_or_wraps_harms_nothing() {
        let latency = Latency::default();
        latency.success(MS * 10, 5);
        assert_eq!(latency.mean(3), Some(10_000.0));
        latency.success(MS * 10, u32::MAX);
        let mean = latency.mean(9).unwrap();
        assert!((9_900.0..10_000.0).contains(&mean), "{mean}");
    }
}
