//! Checkpoints, the end of leases, and protection: what the leader decides and the log fixes.

use super::{Change, Protection, Service, State};
use crate::{
    command::{
        Done, ExpireLeases, Expired, Expiry, LeaseCheckpoint, ProtectionChange, Rejection,
        SetProtection,
    },
    record::{Actor, AdminState, Lease, LeaseState, Reason, Record, Scope, Subject},
};
use std::sync::Arc;

impl State {
    pub(super) fn checkpoint_leases(
        &mut self,
        items: &[LeaseCheckpoint],
    ) -> Result<Done, Rejection> {
        for item in items {
            let current = self.by_generation(item.generation).is_some_and(|record| {
                record.lease == Some(Lease { epoch: item.lease_epoch, state: LeaseState::Current })
            });
            match item.remaining_ms {
                Some(remaining) if current => {
                    self.checkpoints.insert(item.generation, remaining);
                }
                None if current => {
                    self.checkpoints.remove(&item.generation);
                }
                Some(_) | None => {}
            }
        }
        Ok(Done::Applied)
    }

    pub(super) fn expire_leases(&mut self, expire: &ExpireLeases) -> Result<Done, Rejection> {
        let expired = expire.items.iter().map(|item| self.expire_one(item, &expire.actor));
        Ok(Done::Expired(expired.collect()))
    }

    fn expire_one(&mut self, item: &Expiry, actor: &Actor) -> Expired {
        let Some(record) = self.by_generation(item.generation).cloned() else {
            return Expired::Superseded;
        };
        let Some(lease) = record.lease.filter(|lease| lease.epoch == item.lease_epoch) else {
            return Expired::Superseded;
        };
        if record.admin_state() == AdminState::Maintenance {
            return Expired::Suspended;
        }
        let protected = self.is_protected(&record.name.service);
        let released = self.released.contains(&item.generation);
        let dead = self.is_dead_by_checks(&record);
        let to = match lease.state {
            LeaseState::Expired => return Expired::Expired,
            LeaseState::Held if protected && !released && !dead => return Expired::Held,
            // A policy has given it checks meanwhile, and one passes.
            LeaseState::Held if self.end_of_lease(&record) == LeaseState::Lost => LeaseState::Lost,
            LeaseState::Held => LeaseState::Expired,
            LeaseState::Current => self.end_of_lease(&record),
            // The checks have had their time; but what runs out together is held back together.
            LeaseState::Lost if item.overdue && protected => return Expired::Lost,
            LeaseState::Lost if item.overdue => LeaseState::Expired,
            // No longer, where the checks that kept it have been taken away.
            LeaseState::Lost => self.end_of_lease(&record),
        };
        if to != lease.state {
            self.end_lease(&record, to, actor, item.evidence.clone());
        }
        match to {
            LeaseState::Held => Expired::Held,
            LeaseState::Lost => Expired::Lost,
            LeaseState::Expired | LeaseState::Current => Expired::Expired,
        }
    }

    fn end_lease(
        &mut self,
        record: &Arc<Record>,
        to: LeaseState,
        actor: &Actor,
        evidence: Arc<str>,
    ) {
        let reason = match to {
            LeaseState::Held | LeaseState::Lost => Reason::HeartbeatLost,
            LeaseState::Expired | LeaseState::Current => Reason::LeaseExpired,
        };
        let lease = record.lease.map(|lease| Lease { epoch: lease.epoch, state: to });
        let new = Record { lease, ..Record::clone(record) };
        self.revise(record, new, reason, actor, evidence);
    }

    pub(super) fn set_protection(&mut self, set: &SetProtection) -> Result<Done, Rejection> {
        match &set.change {
            ProtectionChange::Enter { restore } => self.enter_protection(set, restore),
            ProtectionChange::Leave(reason) => return self.leave_protection(set, *reason),
        }
        Ok(Done::Applied)
    }

    fn enter_protection(&mut self, set: &SetProtection, restore: &[(u64, u32)]) {
        if self.protections.contains_key(&set.scope) {
            return;
        }
        let revision = self.protection_event(set, Reason::ProtectionEntered);
        let protection =
            Protection { since_ms: self.cluster_ms, revision, evidence: set.evidence.clone() };
        self.protections.insert(set.scope.clone(), Arc::new(protection));
        for (generation, lease_epoch) in restore {
            let expired = Lease { epoch: *lease_epoch, state: LeaseState::Expired };
            let record = self.by_generation(*generation).filter(|record| {
                record.lease == Some(expired) && self.end_of_lease(record) == LeaseState::Held
            });
            if let Some(record) = record.cloned() {
                let evidence = "protection began within the window of its expiry";
                self.end_lease(&record, LeaseState::Held, &set.actor, evidence.into());
            }
        }
    }

    fn leave_protection(&mut self, set: &SetProtection, reason: Reason) -> Result<Done, Rejection> {
        if !self.protections.contains_key(&set.scope) {
            return match set.actor {
                Actor::Operator(_) => Err(Rejection::NotProtected { scope: set.scope.clone() }),
                Actor::Owner(_) | Actor::Registry(_) => Ok(Done::Applied),
            };
        }
        self.protections.remove(&set.scope);
        self.protection_event(set, reason);
        let held: Vec<u64> = self.held.iter().copied().collect();
        for generation in held {
            let free = self
                .generations
                .get(&generation)
                .is_some_and(|name| !self.is_protected(&name.service));
            if free {
                self.released.insert(generation);
            }
        }
        Ok(Done::Applied)
    }

    fn protection_event(&mut self, set: &SetProtection, reason: Reason) -> u64 {
        let event = self.event(Change {
            subject: Subject::Protection(set.scope.clone()),
            generation: 0,
            from: None,
            to: None,
            reason,
            actor: &set.actor,
            evidence: set.evidence.clone(),
        });
        if let Scope::Service(name) = &set.scope {
            let service = self.services.get(name).map(|service| Service::clone(service));
            self.put_service(service.unwrap_or_else(|| Service::empty(name.clone())));
        }
        event.revision
    }
}
