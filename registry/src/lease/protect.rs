//! Protection as the leader runs it: when the gate closes and opens, and the pace of what it lets go.

use super::{Leases, Refused, expire::is_maintained};
use rollcall_core::{
    Command, State,
    command::{ExpireLeases, Expiry, ProtectionChange, SetProtection},
    protection::{Gate, RanOut, exit},
    record::{Event, Reason, Scope, Subject},
};
use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

/// Released leases are expired at most this often.
const RELEASE: Duration = Duration::from_millis(50);

impl Leases {
    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.0.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has left protection does not count again: an operator who releases it means it.
    pub(super) fn follow_protection(&self, events: &[Arc<Event>]) {
        for event in events {
            if let Subject::Protection(scope) = &event.subject
                && event.reason != Reason::ProtectionEntered
            {
                self.gate().forget(scope);
            }
        }
    }

    /// Begins whatever protection `due` calls for. Returns when it stands in the log.
    pub(super) async fn protect(
        &self,
        term: u64,
        due: &[RanOut],
        state: &State,
    ) -> Result<(), Refused> {
        if !self.0.settings.protection {
            return Ok(());
        }
        let now = self.0.table.now();
        let entries = self.gate().entries(now, due, state, &self.0.settings.thresholds);
        for entry in entries {
            let change = ProtectionChange::Enter { restore: entry.restore };
            self.set_protection(term, entry.scope, change, entry.evidence.into()).await?;
        }
        Ok(())
    }

    /// Notes for the gate what ran out just now.
    pub(super) fn note_expired(&self, leases: Vec<RanOut>) {
        if self.0.settings.protection {
            self.gate().expired(self.0.table.now(), leases);
        }
    }

    /// Which protections end now, and why.
    pub(super) fn ending(&self, state: &State) -> Vec<(Scope, Reason)> {
        let settings = &self.0.settings;
        let scopes = state.protections().keys().filter_map(|scope| {
            let reason = match settings.protection {
                true => exit(state, scope, &settings.thresholds)?,
                // It was begun under other settings.
                false => Reason::ProtectionEnded,
            };
            Some((scope.clone(), reason))
        });
        scopes.collect()
    }

    pub(super) async fn end_protection(&self, term: u64, ending: Vec<(Scope, Reason)>) {
        for (scope, reason) in ending {
            let change = ProtectionChange::Leave(reason);
            if let Err(error) = self.set_protection(term, scope, change, "".into()).await {
                tracing::debug!(%error, "protection could not end, it will");
            }
        }
    }

    async fn set_protection(
        &self,
        term: u64,
        scope: Scope,
        change: ProtectionChange,
        evidence: Arc<str>,
    ) -> Result<(), Refused> {
        let begins = matches!(change, ProtectionChange::Enter { .. });
        let name = scope.to_string();
        let actor = self.actor();
        let set =
            SetProtection { scope, change, actor, evidence: evidence.clone(), request_id: None };
        self.propose(term, Command::SetProtection(set)).await?;
        if begins {
            tracing::warn!(scope = name, %evidence, "many leases ran out: expiry is held back");
        } else {
            tracing::warn!(scope = name, "protection has ended");
        }
        Ok(())
    }

    /// How many released leases are expired at once, and how long the next ones wait.
    pub(super) fn release_pace(&self) -> (usize, Duration) {
        let rate = u128::from(self.0.settings.release_rate.max(1));
        let count = (rate * RELEASE.as_millis() / 1_000).max(1);
        let pause = Duration::from_micros(u64::try_from(count * 1_000_000 / rate).unwrap_or(0));
        (usize::try_from(count).unwrap_or(1), pause)
    }

    /// Up to `count` leases whose protection has ended.
    pub(super) fn take_released(&self, state: &State, count: usize) -> Vec<Expiry> {
        let may_end = state.released().iter().filter(|it| !is_maintained(state, **it));
        let items = may_end.filter_map(|generation| {
            let lease = state.by_generation(*generation)?.lease?;
            let evidence = "protection has ended and it is still silent".into();
            let (generation, lease_epoch) = (*generation, lease.epoch);
            Some(Expiry { generation, lease_epoch, overdue: false, evidence })
        });
        items.take(count).collect()
    }

    pub(super) async fn release(&self, term: u64, items: Vec<Expiry>) {
        let expire = ExpireLeases { items, actor: self.actor() };
        if let Err(error) = self.propose(term, Command::ExpireLeases(expire)).await {
            tracing::debug!(%error, "released leases were not expired, they will be");
        }
    }
}
