//! A closed loop of callers, and what they found.

use super::{Outcome, way::Caller};
use hdrhistogram::Histogram;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// Kinds of errors that are told apart; further ones become one.
const KINDS: usize = 20;
/// Pause of a caller after an error: a caller that gets one at once must not spin.
const AFTER_ERROR: Duration = Duration::from_millis(1);

/// What was measured.
pub(crate) struct Tally {
    /// Microseconds of each call that ended while measuring, good or bad.
    latencies: Histogram<u64>,
    pub(crate) errors: u64,
    pub(crate) kinds: BTreeMap<String, u64>,
    pub(crate) length: Duration,
}

/// Callers at work.
pub(crate) struct Load {
    measuring: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    callers: JoinSet<Outcome<Tally>>,
    since: Instant,
}

impl Load {
    pub(crate) fn begin(caller: &Caller, callers: usize) -> Self {
        let (measuring, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (caller, measuring, over) =
                (caller.clone(), Arc::clone(&measuring), Arc::clone(&over));
            tasks.spawn(async move { call(&caller, &measuring, &over).await });
        }
        Self { measuring, over, callers: tasks, since: Instant::now() }
    }

    /// Calls that end from now on count.
    pub(crate) fn measure(&mut self) {
        self.since = Instant::now();
        self.measuring.store(true, Relaxed);
    }

    pub(crate) async fn end(mut self) -> Outcome<Tally> {
        self.over.store(true, Relaxed);
        let mut all = Tally::new()?;
        all.length = self.since.elapsed();
        while let Some(tally) = self.callers.join_next().await {
            all.add(tally??)?;
        }
        Ok(all)
    }
}

async fn call(caller: &Caller, measuring: &AtomicBool, over: &AtomicBool) -> Outcome<Tally> {
    let mut tally = Tally::new()?;
    while !over.load(Relaxed) {
        let begin = Instant::now();
        let result = caller.call().await;
        if measuring.load(Relaxed) {
            tally.latencies.record(u64::try_from(begin.elapsed().as_micros())?)?;
        }
        if let Err(status) = result {
            if measuring.load(Relaxed) {
                let kind = format!("{:?}: {}", status.code(), without_numbers(status.message()));
                let kind = if tally.kinds.len() < KINDS { kind } else { "others".to_owned() };
                *tally.kinds.entry(kind).or_default() += 1;
                tally.errors += 1;
            }
            sleep(AFTER_ERROR).await;
        }
    }
    Ok(tally)
}

/// Addresses and durations make no other kind of error.
fn without_numbers(text: &str) -> String {
    let parts = text.split(|c: char| c.is_ascii_digit() || ".:".contains(c));
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

impl Tally {
    fn new() -> Outcome<Self> {
        Ok(Self {
            latencies: Histogram::new_with_bounds(1, 60_000_000, 3)?,
            errors: 0,
            kinds: BTreeMap::new(),
            length: Duration::ZERO,
        })
    }

    fn add(&mut self, other: Self) -> Outcome {
        self.latencies.add(other.latencies)?;
        self.errors += other.errors;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        Ok(())
    }

    pub(crate) fn calls(&self) -> u64 {
        self.latencies.len()
    }

    /// Errors of a hundred calls.
    pub(crate) fn percent(&self) -> f64 {
        if self.calls() == 0 { 0.0 } else { share(self.errors, self.calls()) * 100.0 }
    }

    /// Milliseconds below which this share of the calls ended.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        self::share(self.latencies.value_at_quantile(share), 1_000)
    }

    pub(crate) fn per_second(&self) -> f64 {
        let length = self.length.as_secs_f64();
        if length > 0.0 { share(self.calls(), 1) / length } else { 0.0 }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run fit into a float")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
