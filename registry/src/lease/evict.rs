//! Eviction: what is expired for its time is removed. Level-triggered: what is due stays due until it is gone.

use super::{
    Leases,
    expire::{RECHECK, RETRY},
    time::millis,
};
use rollcall_core::{
    Command,
    command::{EvictInstances, Eviction},
    record::LeaseState,
};
use std::sync::atomic::Ordering;

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
        let items = due.iter().filter_map(|generation| {
            let record = state.by_generation(*generation)?;
            let lease = record.lease.filter(|lease| lease.state == LeaseState::Expired)?;
            if !state.may_evict(record, None) {
                return None;
            }
            let waited = super::table::evict_after(&state, record);
            let evidence = format!("expired for {:.1} s", waited.as_secs_f64()).into();
            Some(Eviction {
                generation: *generation,
                lease_epoch: lease.epoch,
                unhealthy_since: None,
                evidence,
            })
        });
        let items: Vec<Eviction> = items.collect();
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
