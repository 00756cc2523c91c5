//! Checkpoints: what the next leader must know of leases that missed a beat, and its undoing.
//!
//! One task proposes both, one after the other, so that their order in the log is the order of what happened: a clear
//! that overtook its checkpoint would let the next leader grant less than an acknowledgement promised.

use super::{Leases, table::millis};
use rollcall_core::{Command, command::LeaseCheckpoint};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at},
};

/// Clears that may wait; beyond, beats are not acknowledged and come again.
pub(super) const CLEARS_MAX: usize = 4_096;
/// Clears are collected so long.
const COLLECT: Duration = Duration::from_millis(20);
/// How often leases that missed a beat are looked for. Each lease is named at most every max(2 s, TTL/4).
const PERIOD: Duration = Duration::from_secs(2);
/// Leases in one command.
const BATCH: usize = 10_000;

/// Beats of leases that a checkpoint names, waiting for a committed clear.
#[derive(Debug)]
pub(super) struct Clear {
    pub(super) handles: Vec<u64>,
    pub(super) done: oneshot::Sender<bool>,
}

/// Proposes checkpoints and clears while this node leads. Ends when the node drops the lease module.
pub(super) async fn run(leases: Leases, mut clears: mpsc::Receiver<Clear>) {
    let mut period = interval_at(Instant::now() + PERIOD, PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            first = clears.recv() => {
                let Some(first) = first else { return };
                tokio::time::sleep(COLLECT).await;
                let mut batch = vec![first];
                while let Ok(more) = clears.try_recv() {
                    batch.push(more);
                }
                leases.clear(batch).await;
            }
            _ = period.tick() => leases.checkpoint().await,
        }
    }
}

impl Leases {
    async fn clear(&self, batch: Vec<Clear>) {
        let mut handles: Vec<u64> = batch.iter().flat_map(|clear| clear.handles.clone()).collect();
        handles.sort_unstable();
        handles.dedup();
        let marks = self.0.table.marks(&handles);
        let mut committed = true;
        for marks in marks.chunks(BATCH) {
            let items = marks.iter().map(|(generation, lease_epoch, _)| LeaseCheckpoint {
                generation: *generation,
                lease_epoch: *lease_epoch,
                remaining_ms: None,
            });
            match self.propose(Command::CheckpointLeases(items.collect())).await {
                Ok(_) => self.0.table.cleared(marks),
                Err(error) => {
                    tracing::debug!(%error, "a lease clear was not committed");
                    committed = false;
                }
            }
        }
        for clear in batch {
            // The beat may have been given up meanwhile.
            let _ = clear.done.send(committed);
        }
    }

    async fn checkpoint(&self) {
        if !self.may_acknowledge() {
            return;
        }
        let missed = self.0.table.checkpoint();
        for missed in missed.chunks(BATCH) {
            let items = missed.iter().map(|(generation, lease_epoch, remaining)| LeaseCheckpoint {
                generation: *generation,
                lease_epoch: *lease_epoch,
                remaining_ms: Some(u32::try_from(millis(*remaining)).unwrap_or(u32::MAX)),
            });
            self.0.stats.checkpoints.fetch_add(missed.len() as u64, Ordering::Relaxed);
            if let Err(error) = self.propose(Command::CheckpointLeases(items.collect())).await {
                tracing::debug!(%error, "a lease checkpoint was not committed");
            }
        }
    }
}
