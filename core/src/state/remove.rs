//! Deregister and evict: the two ways out, and what is left behind.

use super::{Change, Retired, State, register::check_batch};
use crate::{
    command::{Deregister, Deregistration, Done, EvictInstances, Rejection},
    record::{Actor, AdminState, Reason, Record, Subject, Tombstone},
};
use std::sync::Arc;

impl State {
    pub(super) fn deregister(&mut self, deregister: &Deregister) -> Result<Done, Rejection> {
        check_batch(deregister.items.len(), deregister.items.iter().map(|item| &item.name))?;
        for item in &deregister.items {
            self.check_removable(item)?;
        }
        let reason = match deregister.actor {
            Actor::Operator(_) => Reason::Removed,
            Actor::Owner(_) | Actor::Registry(_) => Reason::Deregistered,
        };
        let mut removed = Vec::with_capacity(deregister.items.len());
        for item in &deregister.items {
            let record = self.instance(&item.name).filter(|record| is_meant(item, record)).cloned();
            removed.push(record.is_some());
            if let Some(record) = record {
                self.remove(&record, reason, &deregister.actor, deregister.evidence.clone());
            }
        }
        Ok(Done::Deregistered(removed))
    }

    fn check_removable(&self, item: &Deregistration) -> Result<(), Rejection> {
        let live = self.instance(&item.name);
        if let Some(expected) = item.expected_revision {
            let current = live.map_or(0, |record| record.revision);
            if current != expected {
                let name = item.name.clone();
                return Err(Rejection::RevisionMismatch { name, expected, current });
            }
        }
        if live.is_none() && !item.allow_missing {
            return Err(Rejection::InstanceNotFound { name: item.name.clone() });
        }
        Ok(())
    }

    pub(super) fn evict_instances(&mut self, evict: &EvictInstances) -> Result<Done, Rejection> {
        let mut evicted = 0;
        for item in &evict.items {
            let Some(record) = self.by_generation(item.generation).cloned() else { continue };
            let epoch = record.lease.map_or(0, |lease| lease.epoch);
            if epoch == item.lease_epoch && self.may_evict(&record, item.unhealthy_since) {
                self.remove(&record, Reason::Evicted, &evict.actor, item.evidence.clone());
                evicted += 1;
            }
        }
        Ok(Done::Evicted(evicted))
    }

    /// Whether an instance may be removed: because its lease ran out, or because it is UNHEALTHY since that revision
    /// and its service wants such instances removed. Protection does not keep what its checks call dead.
    pub fn may_evict(&self, record: &Record, unhealthy_since: Option<u64>) -> bool {
        if record.admin_state() == AdminState::Maintenance {
            return false;
        }
        let Some(since) = unhealthy_since else {
            return record.is_expired()
                && (self.is_dead_by_checks(record) || !self.is_protected(&record.name.service));
        };
        let policy = self.service(&record.name.service).and_then(|service| service.policy.as_ref());
        let heard = record.signals.heard();
        policy.is_some_and(|policy| policy.evict_unhealthy_after.is_some())
            && heard.is_some_and(|heard| heard.unhealthy_since == Some(since))
    }

    fn remove(&mut self, record: &Arc<Record>, reason: Reason, actor: &Actor, evidence: Arc<str>) {
        let event = self.event(Change {
            subject: Subject::Instance(record.name.clone()),
            generation: record.generation,
            from: Some(record.status()),
            to: None,
            reason,
            actor,
            evidence,
        });
        let tombstone = Arc::new(Tombstone {
            name: record.name.clone(),
            generation: record.generation,
            nonce: record.nonce,
            reason,
            revision: event.revision,
            history: record.history.and(event),
        });
        if tombstone.sticks() {
            let retired = Retired::Deregistered(record.name.clone());
            self.retire(record.generation, retired, self.kept_until());
        }
        self.checkpoints.remove(&record.generation);
        self.put(Some(record), None);
        self.bury(tombstone, self.kept_until());
    }
}

/// A generation that is not the one in the catalogue is a late call of an old process: it is ignored.
fn is_meant(item: &Deregistration, record: &Record) -> bool {
    item.generation == 0 || item.generation == record.generation
}
