//! The one task that keeps the book and starts what is due: no task for a target, at most 512 probes at a time.

use super::{CheckStats, Checks, News, book::Job, probe::Report};
use rollcall_core::{check::Failure, record::LeaseState, record::Record};
use std::{
    mem,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::task::JoinSet;

/// Probes at a time.
const RUNNING_MAX: usize = 512;
/// Instances that are looked at before others may run.
const STEP: usize = 500;
/// Probes that are started before others may run.
const STARTS: usize = 64;
/// A probe that begins later than by this part of its interval counts as late.
const LATE_PART: u32 = 10;

type Ended = (Job, Report);

/// Probes until it is dropped, and with it every probe.
pub(super) async fn run(checks: Checks) {
    let mut running: JoinSet<Ended> = JoinSet::new();
    loop {
        checks.catch_up().await;
        while let Some(ended) = running.try_join_next() {
            checks.take(ended);
        }
        let more = checks.start(&mut running);
        checks.0.stats.running.store(running.len() as u64, Ordering::Relaxed);
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let has_room = running.len() < RUNNING_MAX;
        let next = if has_room { checks.until_due() } else { None };
        tokio::select! {
            biased;
            Some(ended) = running.join_next() => checks.take(ended),
            () = checks.0.wake.notified() => {}
            () = at(next) => {}
        }
    }
}

async fn at(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

impl Checks {
    fn until_due(&self) -> Option<Duration> {
        let due = self.book().next_due()?;
        Some(Duration::from_millis(due.saturating_sub(self.now())))
    }

    /// Starts what is due. `true`: there may be more.
    fn start(&self, running: &mut JoinSet<Ended>) -> bool {
        let now = self.now();
        for _ in 0..STARTS {
            if running.len() >= RUNNING_MAX {
                return false;
            }
            let Some(job) = self.book().next_job(now) else { return false };
            let generation = job.generation();
            // A generation is never used again: what is not listed now never will be. The news of its end may have
            // been lost in those of its successor.
            if self.0.view.load().state.by_generation(generation).is_none() {
                self.book().drop_instance(generation);
                continue;
            }
            let stats = &self.0.stats;
            if job.late > job.check.interval / LATE_PART {
                CheckStats::add(&stats.late, 1);
            }
            let late = u64::try_from(job.late.as_millis()).unwrap_or(u64::MAX);
            CheckStats::add(&stats.late_ms, late);
            let prober = self.0.prober.clone();
            running.spawn(async move {
                let report = prober.probe(job.address, &job.check.probe, job.check.timeout).await;
                (job, report)
            });
        }
        true
    }

    fn take(&self, ended: Result<Ended, tokio::task::JoinError>) {
        let (job, report) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        let stats = &self.0.stats;
        CheckStats::add(&stats.probes, 1);
        match report.probed.failure {
            None => {}
            Some(Failure::Forbidden) => {
                CheckStats::add(&stats.forbidden, 1);
                CheckStats::add(&stats.failures, 1);
            }
            Some(_) => CheckStats::add(&stats.failures, 1),
        }
        let (wall_ms, now) = (self.0.host.clock.wall_ms(), self.now());
        if self.book().finish(&job, report, wall_ms, now) {
            self.0.findings.add([job.key]);
        }
    }

    /// Brings the book up to date with the view.
    async fn catch_up(&self) {
        let (all, generations) = {
            let mut news = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
            let News { generations, all, .. } = &mut *news;
            (mem::take(all), mem::take(generations))
        };
        if !all && generations.is_empty() {
            return;
        }
        // Not the guard: it would be held over the pauses.
        let seen = self.0.view.seen();
        let changed: Vec<u64> = match all {
            false => generations.into_iter().collect(),
            true => {
                let listed = seen.state.generations().map(|(generation, _)| generation);
                let mut every: Vec<u64> = listed.chain(self.book().generations()).collect();
                every.sort_unstable();
                every.dedup();
                every
            }
        };
        for step in changed.chunks(STEP) {
            for generation in step {
                self.look_at(&seen.state, *generation);
            }
            tokio::task::yield_now().await;
        }
    }

    fn look_at(&self, state: &rollcall_core::State, generation: u64) {
        let now = self.now();
        let record = state.by_generation(generation);
        match record.filter(|record| self.has_to_probe(state, record)) {
            Some(record) => {
                let to_tell = self.book().take_up(state, record, now);
                self.0.findings.add(to_tell);
            }
            None => self.book().drop_instance(generation),
        }
    }

    /// Whether this node is the checker of a listed instance. One whose lease is over comes back only by registering.
    fn has_to_probe(&self, state: &rollcall_core::State, record: &Arc<Record>) -> bool {
        record.lease.is_none_or(|lease| lease.state != LeaseState::Expired)
            && state.checks(record).next().is_some()
            && state.checkers().of(&record.name) == Some(self.0.node)
    }
}
