//! Load and what it sees.
//!
//! A closed loop keeps so many calls under way and finds the throughput. For percentiles calls begin at fixed moments,
//! and their latency counts from the moment they should have begun: a server that stalls cannot hide the calls that
//! nobody made meanwhile.
//!
//! Everything runs on the thread that calls, which the caller has pinned to a core where the servers have another.

pub(crate) mod bytes;
pub(crate) mod etcd;
pub(crate) mod rollcall;

use crate::{outcome::Outcome, process};
use futures_util::{StreamExt, future::try_join_all, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use rustix::{
    thread::clock_nanosleep_absolute,
    time::{ClockId, Timespec, clock_gettime},
};
use std::{
    cell::RefCell,
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

/// Longest latency that is told apart.
const SLOWEST: Duration = Duration::from_secs(120);
/// Most calls under way at a fixed rate; from there on they begin late, which their latency shows.
const UNDER_WAY: usize = 4_096;

/// A histogram of latencies, in nanoseconds, to three digits.
pub(crate) fn histogram() -> Outcome<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1_000, u64::try_from(SLOWEST.as_nanos())?, 3)?)
}

/// What one load saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Done each second.
    pub(crate) rate: f64,
    /// Of each call, in nanoseconds.
    pub(crate) waits: Histogram<u64>,
    /// Cores that the servers kept busy.
    pub(crate) servers: f64,
    /// Cores that this program kept busy.
    pub(crate) load: f64,
}

impl Seen {
    /// Microseconds at a quantile.
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        self.waits.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// What was counted by somebody else while it was loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    /// Done each second.
    pub(crate) rate: f64,
    /// Cores that the servers kept busy.
    pub(crate) servers: f64,
    /// Cores that this program kept busy.
    pub(crate) load: f64,
}

/// How long to load before counting, and how long to count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// Counts what is done in its window.
#[derive(Debug)]
pub(crate) struct Meter {
    window: Window,
    from: Instant,
    until: Instant,
    tally: RefCell<(u64, Histogram<u64>)>,
}

impl Meter {
    fn new(window: Window) -> Outcome<Self> {
        let from = Instant::now() + window.warm_up;
        let tally = RefCell::new((0, histogram()?));
        Ok(Self { window, from, until: from + window.length, tally })
    }

    pub(crate) fn is_open(&self) -> bool {
        Instant::now() < self.until
    }

    /// Something that should have begun at `began` is done now, and was `count` things in one.
    pub(crate) fn done(&self, began: Instant, count: u64) {
        let now = Instant::now();
        if (self.from..self.until).contains(&now) {
            self.count(now - began, count);
        }
    }

    /// A call that was due in the window is done, whenever that is.
    fn answered(&self, due: Instant) {
        if (self.from..self.until).contains(&due) {
            self.count(due.elapsed(), 1);
        }
    }

    fn count(&self, wait: Duration, count: u64) {
        let mut tally = self.tally.borrow_mut();
        tally.0 += count;
        tally.1.saturating_record(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
    }

    fn seen(self, servers: Duration, load: Duration) -> Seen {
        let (count, waits) = self.tally.into_inner();
        let seconds = self.window.length.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
        let rate = count as f64 / seconds;
        let share = |used: Duration| used.as_secs_f64() / seconds;
        Seen { rate, waits, servers: share(servers), load: share(load) }
    }
}

/// Runs all loops until the window is over. A loop ends when [`Meter::is_open`] says no.
pub(crate) async fn closed<F>(
    window: Window,
    servers: &[u32],
    loops: impl AsyncFnOnce(&Meter) -> Outcome<F>,
) -> Outcome<Seen>
where
    F: Sized,
{
    let meter = Meter::new(window)?;
    let watch = watch_cpu(&meter, servers);
    let (_, (used, own)) = tokio::try_join!(loops(&meter), watch)?;
    Ok(meter.seen(used, own))
}

/// Reads a count that others keep, at both ends of the window.
pub(crate) async fn counted(
    window: Window,
    servers: &[u32],
    count: &AtomicU64,
) -> Outcome<Counted> {
    let look = || {
        let (used, own) = (process::used(servers)?, process::used(&[std::process::id()])?);
        Outcome::Ok((Instant::now(), count.load(Ordering::Relaxed), used.cpu, own.cpu))
    };
    sleep(window.warm_up).await;
    let (begin, first, used, own) = look()?;
    sleep(window.length).await;
    let (end, last, used_since, own_since) = look()?;
    // The load may have kept this one from running in time.
    let seconds = (end - begin).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let rate = (last - first) as f64 / seconds;
    let share = |used: Duration| used.as_secs_f64() / seconds;
    Ok(Counted {
        rate,
        servers: share(used_since.saturating_sub(used)),
        load: share(own_since.saturating_sub(own)),
    })
}

/// So many callers, each calling again as soon as it has its answer.
pub(crate) async fn callers<F: Future<Output = Outcome>>(
    count: usize,
    window: Window,
    servers: &[u32],
    call: impl Fn(usize, u64) -> F,
) -> Outcome<Seen> {
    closed(window, servers, async |meter| {
        let loops = (0..count).map(|caller| {
            let call = &call;
            async move {
                let mut turn = 0;
                while meter.is_open() {
                    let began = Instant::now();
                    call(caller, turn).await?;
                    meter.done(began, 1);
                    turn += 1;
                }
                Outcome::Ok(())
            }
        });
        try_join_all(loops).await
    })
    .await
}

/// Calls that begin at a fixed rate, whatever the answers do.
pub(crate) async fn paced<F: Future<Output = Outcome>>(
    rate: f64,
    window: Window,
    servers: &[u32],
    call: impl Fn(u64) -> F,
) -> Outcome<Seen> {
    closed(window, servers, async |meter| {
        let mut pace = pace(rate, window.warm_up + window.length);
        let mut running = FuturesUnordered::new();
        let mut number = 0;
        loop {
            tokio::select! {
                biased;
                Some(done) = running.next(), if !running.is_empty() => {
                    let done: Outcome<Instant> = done;
                    meter.answered(done?);
                }
                due = pace.recv(), if running.len() < UNDER_WAY => {
                    let Some(due) = due else { break };
                    let call = call(number);
                    running.push(async move { call.await.map(|()| due) });
                    number += 1;
                }
            }
        }
        // What is under way belongs to the window: its latency counts, how late it may be.
        while let Some(done) = running.next().await {
            meter.answered(done?);
        }
        Ok(())
    })
    .await
}

/// Tells the moments at which something is to begin, from a thread that sleeps to the microsecond: timers of tokio are
/// a millisecond wide.
pub(crate) fn pace(rate: f64, length: Duration) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // Both here: the thread may begin late.
    let (begin, clock) = (Instant::now(), clock_gettime(ClockId::Monotonic));
    std::thread::spawn(move || {
        for number in 1_u32.. {
            let after = Duration::from_secs_f64(f64::from(number) / rate);
            if after > length {
                return;
            }
            let offset = Timespec {
                tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(after.subsec_nanos()),
            };
            // An interrupted sleep makes one call early by little; none is left out.
            let _ = clock_nanosleep_absolute(ClockId::Monotonic, &(clock + offset));
            if sender.send(begin + after).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn watch_cpu(meter: &Meter, servers: &[u32]) -> Outcome<(Duration, Duration)> {
    let own = [std::process::id()];
    sleep(meter.window.warm_up).await;
    let before = (process::used(servers)?.cpu, process::used(&own)?.cpu);
    sleep(meter.window.length).await;
    let after = (process::used(servers)?.cpu, process::used(&own)?.cpu);
    Ok((after.0.saturating_sub(before.0), after.1.saturating_sub(before.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(warm_up: u64, length: u64) -> Window {
        Window { warm_up: Duration::from_millis(warm_up), length: Duration::from_millis(length) }
    }

    #[tokio::test]
    async fn a_stall_shows_in_the_latency_of_the_calls_that_should_have_begun_meanwhile() {
        let gate = tokio::sync::Mutex::new(());
        let held = gate.lock().await;
        let calls = paced(1_000.0, window(0, 400), &[], async |_| {
            drop(gate.lock().await);
            Ok(())
        });
        let (seen, ()) = tokio::join!(calls, async {
            sleep(Duration::from_millis(200)).await;
            drop(held);
        });
        let seen = seen.unwrap();
        // Half of the calls were due during the stall and waited for its end: evenly spread up to 200 ms.
        assert!(seen.waits.len() > 300, "{} calls", seen.waits.len());
        assert!(seen.micros(0.75) > 50_000.0, "{} us", seen.micros(0.75));
    }

    #[tokio::test]
    async fn a_closed_loop_counts_only_its_window() {
        let seen = callers(2, window(100, 100), &[], async |_, _| {
            sleep(Duration::from_millis(10)).await;
            Ok(())
        });
        let seen = seen.await.unwrap();
        assert!(seen.waits.len() <= 22, "{} calls of 10 ms in 100 ms by two", seen.waits.len());
        assert!(seen.rate > 0.0);
    }
}
