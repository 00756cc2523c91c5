//! Expiry: what ran out is proposed to the log, which decides. One round at a time, so that the gate of protection
//! sees everything that runs out together.

use super::{
    Leases,
    table::{Decision, Overdue},
};
use futures_util::{FutureExt, StreamExt, stream};
use rollcall_core::{
    Command, State,
    command::{Done, ExpireLeases, Expired, Expiry},
    protection::RanOut,
    record::AdminState,
};
use std::{sync::atomic::Ordering, time::Duration};

/// Leases in one round.
pub(super) const ROUND: usize = 20_000;
/// Leases in one command.
const BATCH: usize = 1_000;
/// Commands of a round in flight.
const IN_FLIGHT: usize = 4;
/// What could not be committed is proposed again after this.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// What may not end yet (maintenance, protection) is looked at again after this.
pub(super) const RECHECK: Duration = Duration::from_secs(1);

/// What was taken from the table in one round, and who decided it.
pub(super) struct Round {
    pub(super) term: u64,
    pub(super) overdue: Vec<Overdue>,
    /// Beats of these leases wait for the end of it.
    pub(super) decision: Decision,
}

impl Leases {
    /// Carries out one round. False: something was not committed and comes again.
    pub(super) async fn expire(&self, mut round: Round) -> bool {
        let state = self.0.view.seen().state.clone();
        round.overdue.retain(|lease| {
            let suspended = is_maintained(&state, lease.generation);
            if suspended {
                self.0.table.undecide(lease.generation, &round.decision, RECHECK);
            }
            !suspended
        });
        let due = ran_out(&state, &round.overdue);
        if let Err(error) = self.protect(round.term, &due, &state).await {
            // Nothing may expire that should be held.
            tracing::debug!(%error, "protection could not begin, expiry waits");
            self.give_up(&round, &round.overdue);
            return false;
        }
        let batches = round.overdue.chunks(BATCH);
        let batches: Vec<_> =
            batches.map(|batch| self.expire_batch(&round, batch).boxed()).collect();
        let done: Vec<bool> = stream::iter(batches).buffered(IN_FLIGHT).collect().await;
        done.iter().all(|done| *done)
    }

    async fn expire_batch(&self, round: &Round, batch: &[Overdue]) -> bool {
        self.0.stats.expiries.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut may_be_in_the_log = false;
        loop {
            let items = batch.iter().map(|lease| Expiry {
                generation: lease.generation,
                lease_epoch: lease.lease_epoch,
                overdue: false,
                evidence: format!("no beat for {:.3} s", lease.silent.as_secs_f64()).into(),
            });
            let expire = ExpireLeases { items: items.collect(), actor: self.actor() };
            match self.propose(round.term, Command::ExpireLeases(expire)).await {
                Ok(Done::Expired(outcomes)) => {
                    self.settle_expiry(round, batch, &outcomes);
                    return true;
                }
                Ok(_) => return false,
                Err(error) => {
                    tracing::debug!(%error, "an expiry was not committed");
                    may_be_in_the_log |= error.is_unknown();
                }
            }
            if !self.0.table.is_active(round.term) {
                return false;
            }
            if !may_be_in_the_log {
                self.give_up(round, batch);
                return false;
            }
            // It may still be committed, so no beat may be acknowledged. Once the same is decided behind it in the
            // log, both are.
            tokio::time::sleep(RETRY).await;
        }
    }

    fn give_up(&self, round: &Round, leases: &[Overdue]) {
        for lease in leases {
            self.0.table.undecide(lease.generation, &round.decision, RETRY);
        }
    }

    fn settle_expiry(&self, round: &Round, batch: &[Overdue], outcomes: &[Expired]) {
        let state = self.0.view.seen().state.clone();
        let (table, decision) = (&self.0.table, &round.decision);
        let mut gone = Vec::new();
        for (lease, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                Expired::Expired | Expired::Held | Expired::Lost => gone.push(lease.clone()),
                Expired::Suspended => table.undecide(lease.generation, decision, RECHECK),
                Expired::Superseded => table.reconcile(&state, lease.generation, decision, RETRY),
            }
        }
        self.note_expired(ran_out(&state, &gone));
    }
}

pub(super) fn is_maintained(state: &State, generation: u64) -> bool {
    let record = state.by_generation(generation);
    record.is_some_and(|record| record.admin_state() == AdminState::Maintenance)
}

fn ran_out(state: &State, overdue: &[Overdue]) -> Vec<RanOut> {
    let known = overdue.iter().filter_map(|lease| {
        let record = state.by_generation(lease.generation)?;
        Some(RanOut {
            name: record.name.clone(),
            generation: lease.generation,
            lease_epoch: lease.lease_epoch,
        })
    });
    known.collect()
}
