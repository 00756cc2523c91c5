//! Checkpoints: what the next leader must know of leases that missed a beat, and its undoing.
//!
//! One task proposes both, one after the other and under one leadership, so that their order in the log is the order
//! of what happened: a clear that overtook its checkpoint would let the next leader grant less than an acknowledgement
//! promised.

use super::Leases;
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
/// How often leases that missed a beat are looked for. Each is named once, until it beats again.
const PERIOD: Duration = Duration::from_secs(2);
/// Leases in one command.
const BATCH: usize = 10_000;

/// Beats of leases that a checkpoint names, waiting for a committed clear.
#[derive(Debug)]
pub(super) struct Clear {
    /// The leadership under which the beats were taken.
    pub(super) term: u64,
    pub(super) handles: Vec<u64>,
    pub(super) done: oneshot::Sender<bool>,
}

/// Proposes checkpoints and clears while this node leads. Ends when the node drops the lease module.
pub(super) async fn run(leases: Leases, mut clears: mpsc::Receiver<Clear>) {
    let mut period = interval_at(Instant::now() + PERIOD, PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            // First: beats that never cease must not keep the next leader from hearing of the silent ones.
            _ = period.tick() => leases.checkpoint().await,
            first = clears.recv() => {
                let Some(first) = first else { return };
                tokio::time::sleep(COLLECT).await;
                let mut batch = vec![first];
                while let Ok(more) = clears.try_recv() {
                    batch.push(more);
                }
                leases.clear(batch).await;
            }
        }
    }
}

impl Leases {
    async fn clear(&self, mut batch: Vec<Clear>) {
        let term = self.reign_with_table();
        // What was taken under another leadership is not acknowledged: dropping it says so.
        batch.retain(|clear| Some(clear.term) == term);
        let Some(term) = term else { return };
        let mut handles: Vec<u64> = batch.iter().flat_map(|clear| clear.handles.clone()).collect();
        handles.sort_unstable();
        handles.dedup();
        let marks = self.0.table.marks(&handles);
        let mut committed = true;
        for marks in marks.chunks(BATCH) {
            let items = marks.iter().map(|mark| LeaseCheckpoint {
                generation: mark.generation,
                lease_epoch: mark.lease_epoch,
                remaining_ms: None,
            });
            match self.propose(term, Command::CheckpointLeases(items.collect())).await {
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
        let Some(term) = self.reign_with_table().filter(|term| self.may_acknowledge(*term)) else {
            return;
        };
        let missed = self.0.table.checkpoint();
        for missed in missed.chunks(BATCH) {
            let items = missed.iter().map(|missed| LeaseCheckpoint {
                generation: missed.generation,
                lease_epoch: missed.lease_epoch,
                remaining_ms: Some(missed.remaining),
            });
            self.0.stats.checkpoints.fetch_add(missed.len() as u64, Ordering::Relaxed);
            match self.propose(term, Command::CheckpointLeases(items.collect())).await {
                Ok(_) => self.0.table.named(missed),
                Err(error) => {
                    // Named again by the next one. They stay marked: it may be in the log all the same.
                    tracing::debug!(%error, "a lease checkpoint was not committed");
                    return;
                }
            }
        }
    }
}
