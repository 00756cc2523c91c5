//! Probes beside the schedule: quick ones when a heartbeat is lost, and those with which another checker is asked
//! whether it sees the same. They keep the pace of their target, and at most 512 run at a time; what would wait for more
//! than a second for either is not probed, and that is said.

use super::{CheckStats, Checks, peer::ITEMS_MAX, probe::Report};
use futures_util::{FutureExt, StreamExt, stream};
use rollcall_core::{State, check::Check, name::Label};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// At a time, for one request: all of it. Targets that never answer would else wait for each other, for longer than
/// anybody waits for the answer.
const RUNNING: usize = ITEMS_MAX;
/// Longest wait of a probe for a place, and then for its moment.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(1);

/// One check of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) generation: u64,
    pub(super) check: Label,
}

/// How to probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct How {
    /// How often, until it succeeds.
    pub(super) rounds: u32,
    /// Between two rounds.
    pub(super) gap: Duration,
    /// Of each probe; its own where that is shorter.
    pub(super) timeout: Duration,
}

/// One of the probes of a round: place in the request, and what came of it; `None` = it was not probed, because there is
/// no such check, or no place or moment for it.
pub(super) type Seen = (usize, Option<Report>);

/// Rounds of probes, one by one.
#[derive(Debug)]
pub(super) struct Rounds {
    checks: Checks,
    left: Vec<(usize, Wanted)>,
    how: How,
    round: u32,
}

impl Rounds {
    /// Whether this node doubts what it sees.
    pub(super) fn doubts(&self) -> bool {
        self.checks.doubts_itself()
    }

    /// The next round: what has not succeeded yet. `None` when all is done.
    pub(super) async fn next(&mut self) -> Option<Vec<Seen>> {
        if self.round >= self.how.rounds || self.left.is_empty() {
            return None;
        }
        if self.round > 0 {
            sleep(self.how.gap).await;
        }
        self.round += 1;
        let timeout = self.how.timeout;
        let probe = |(at, wanted): (usize, Wanted)| {
            let checks = self.checks.clone();
            async move { (at, checks.probe_once(&wanted, timeout).await) }.boxed()
        };
        let probes: Vec<_> = self.left.iter().cloned().map(probe).collect();
        // In order, so that the same seed gives the same trace.
        let seen: Vec<Seen> = stream::iter(probes).buffered(RUNNING).collect().await;
        let failed = |at: &usize| {
            let of = seen.iter().find(|(seen, _)| seen == at);
            of.is_some_and(|(_, report)| report.as_ref().is_some_and(|r| !r.passed()))
        };
        self.left.retain(|(at, _)| failed(at));
        Some(seen)
    }
}

impl Checks {
    /// Probes these now, from this node.
    pub(super) fn probe_now(&self, items: Vec<Wanted>, how: How) -> Rounds {
        let left = items.into_iter().enumerate().collect();
        Rounds { checks: self.clone(), left, how, round: 0 }
    }

    async fn probe_once(&self, wanted: &Wanted, most: Duration) -> Option<Report> {
        let (address, check) = {
            let seen = self.0.view.load();
            target(&seen.state, wanted)?
        };
        // Closed never: the semaphore lives as long as this module.
        let _place = timeout(WAIT_MAX, self.0.beside.acquire()).await.ok()?.ok()?;
        let wait = self.book().take_moment(address, self.now(), WAIT_MAX)?;
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let report = self.0.prober.probe(address, &check.probe, most.min(check.timeout)).await;
        CheckStats::add(&self.0.stats.beside, 1);
        Some(report)
    }
}

/// What is to be probed, as the catalogue says.
fn target(state: &State, wanted: &Wanted) -> Option<(SocketAddr, Arc<Check>)> {
    let record = state.by_generation(wanted.generation)?;
    let check = state.checks(record).find(|check| check.id == wanted.check)?;
    Some((check.address(&record.spec)?, Arc::new(check.clone())))
}
