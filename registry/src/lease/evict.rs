//! Eviction: what is expired, or UNHEALTHY, for its time is removed. Level-triggered: what is due stays due until it is gone.

use super::{
    Leases,
    evictions::Ground,
    expire::{RECHECK, RETRY},
    time::millis,
};
use rollcall_core::{
    Command, State,
    command::{EvictInstances, Eviction},
    instance::Spec,
    record::Record,
};
use std::{sync::atomic::Ordering, time::Duration};

/// Instances in one command.
const BATCH: usize = 1_000;

impl Leases {
    /// What is to be removed now; it is due again a little later, unless it is gone by then.
    pub(super) fn take_evictions(&self) -> Vec<u64> {
        let mut book = self.0.table.book();
        let now = self.0.table.now();
        book.evictions.due(now, BATCH, now.saturating_add(millis(RECHECK)))
    }

    pub(super) async fn evict(&self, term: u64, due: Vec<u64>) {
        let state = self.0.view.seen().state.clone();
        let items = due.iter().filter_map(|generation| eviction(&state, *generation));
        let items: Vec<Eviction> = items.collect();
        self.forget_gone(&state, &due);
        if items.is_empty() {
            return;
        }
        self.0.stats.evictions.fetch_add(items.len() as u64, Ordering::Relaxed);
        let proposed: Vec<u64> = items.iter().map(|item| item.generation).collect();
        let evict = EvictInstances { items, actor: self.actor() };
        if let Err(error) = self.propose(term, Command::EvictInstances(evict)).await {
            tracing::debug!(%error, "an eviction was not committed");
            let mut book = self.0.table.book();
            let at = self.0.table.now().saturating_add(millis(RETRY));
            for generation in proposed {
                book.evictions.again(generation, at);
            }
        }
    }
}

impl Leases {
    /// Lets go what is not listed any more: a generation is never used again.
    fn forget_gone(&self, state: &State, due: &[u64]) {
        let mut book = self.0.table.book();
        for generation in due.iter().filter(|it| state.by_generation(**it).is_none()) {
            book.evictions.forget(*generation);
        }
    }
}

/// The removal of an instance, if there is a ground for it now.
fn eviction(state: &State, generation: u64) -> Option<Eviction> {
    let record = state.by_generation(generation)?;
    let (ground, waited) = removal(state, record)?;
    let (unhealthy_since, was) = match ground {
        Ground::Expired => (None, "expired"),
        Ground::Unhealthy(since) => (Some(since), "unhealthy"),
    };
    state.may_evict(record, unhealthy_since).then(|| Eviction {
        generation,
        lease_epoch: record.lease.map_or(0, |lease| lease.epoch),
        unhealthy_since,
        evidence: format!("{was} for {:.1} s", waited.as_secs_f64()).into(),
    })
}

/// For what an instance is to be removed, and after which time: its own `evict_after`, then that of the policy, then
/// 30 s where its lease ran out; `evict_unhealthy_after` of the policy, if it has one, where its checks fail.
pub(super) fn removal(state: &State, record: &Record) -> Option<(Ground, Duration)> {
    let policy = state.service(&record.name.service).and_then(|service| service.policy.as_ref());
    if record.is_expired() {
        let by_policy = || policy.and_then(|policy| policy.evict_after);
        let after = record.spec.evict_after.or_else(by_policy);
        return Some((Ground::Expired, after.unwrap_or(Spec::DEFAULT_EVICT_AFTER)));
    }
    let since = record.signals.heard()?.unhealthy_since?;
    Some((Ground::Unhealthy(since), policy?.evict_unhealthy_after?))
}
