//! Register: create, update, restore, take over, or nothing at all; and who is fenced.

use super::{Change, Retired, State};
use crate::{
    command::{Done, Quota, Register, Registered, Registration, Rejection},
    instance::{Spec, limit},
    name::{InstanceName, ServiceName},
    record::{Actor, HealthStatus, Lease, LeaseState, Reason, Record, Subject, Tombstone},
    signals::Signals,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

impl State {
    pub(super) fn register(&mut self, register: &Register) -> Result<Done, Rejection> {
        check_batch(register.items.len(), register.items.iter().map(|item| &item.name))?;
        for item in &register.items {
            self.admit(item)?;
        }
        self.check_quotas(register)?;
        let done = register.items.iter().map(|item| self.register_one(item, &register.actor));
        Ok(Done::Registered(done.collect()))
    }

    /// Refuses the fenced, and those whose expectation does not hold.
    fn admit(&self, item: &Registration) -> Result<(), Rejection> {
        let live = self.instance(&item.name);
        if let Some(expected) = item.expected_revision {
            let current = live.map_or(0, |record| record.revision);
            if current != expected && !live.is_some_and(|record| repeats(item, record)) {
                let name = item.name.clone();
                return Err(Rejection::RevisionMismatch { name, expected, current });
            }
        }
        let older = |than: u64| item.held_generation != 0 && item.held_generation < than;
        if let Some(record) = live {
            let fenced = record.nonce != item.nonce && older(record.generation);
            return if fenced { Err(record.fences()) } else { Ok(()) };
        }
        let Some(tombstone) = self.tombstone(&item.name) else { return Ok(()) };
        if tombstone.nonce == item.nonce {
            return if tombstone.sticks() { Err(deregistered(tombstone)) } else { Ok(()) };
        }
        if older(tombstone.generation) {
            return Err(Rejection::Fenced {
                name: item.name.clone(),
                generation: tombstone.generation,
                holder: "an address that has left since".into(),
            });
        }
        Ok(())
    }

    /// Counts what the whole batch would add, so that it is all or nothing.
    fn check_quotas(&self, register: &Register) -> Result<(), Rejection> {
        let mut instances = 0_usize;
        let mut services: BTreeMap<&ServiceName, usize> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, i64> = BTreeMap::new();
        for item in &register.items {
            let old = self.instance(&item.name);
            if old.is_none() {
                instances += 1;
                *services.entry(&item.name.service).or_default() += 1;
            }
            if register.address_limit {
                for address in old.map(|record| record.spec.addresses()).unwrap_or_default() {
                    *addresses.entry(address).or_default() -= 1;
                }
                for address in item.spec.addresses() {
                    *addresses.entry(address).or_default() += 1;
                }
            }
        }
        let over = |quota, limit: usize, at: String| {
            Err(Rejection::QuotaExceeded { quota, limit: limit as u64, at: at.into() })
        };
        if self.instance_count() + instances > limit::INSTANCES {
            return over(Quota::Instances, limit::INSTANCES, String::new());
        }
        let idle = |name: &&&ServiceName| self.service(name).is_none_or(|s| s.is_idle());
        if self.service_count() + services.keys().filter(idle).count() > limit::SERVICES {
            return over(Quota::Services, limit::SERVICES, String::new());
        }
        for (name, more) in services {
            let there = self.service(name).map_or(0, |service| service.instances.len());
            if there + more > limit::INSTANCES_PER_SERVICE {
                let at = format!(" for service {name}");
                return over(Quota::InstancesPerService, limit::INSTANCES_PER_SERVICE, at);
            }
        }
        for (address, more) in addresses {
            let there = i64::from(self.addresses.get(&address).copied().unwrap_or(0));
            if more > 0 && there + more > i64::from(limit::INSTANCES_PER_ADDRESS) {
                let at = format!(" for address {address}");
                let limit = limit::INSTANCES_PER_ADDRESS as usize;
                return over(Quota::InstancesPerAddress, limit, at);
            }
        }
        Ok(())
    }

    fn register_one(&mut self, item: &Registration, actor: &Actor) -> Registered {
        let old = self.instance(&item.name).cloned();
        match &old {
            Some(record) if record.nonce == item.nonce => {
                // A sign of life like a beat: a new leader need not know that one was missed before.
                self.checkpoints.remove(&record.generation);
                if record.lease_is_over() {
                    self.renew(record, item, Reason::Restored, actor)
                } else if record.spec != item.spec {
                    self.renew(record, item, Reason::Updated, actor)
                } else {
                    Registered {
                        generation: record.generation,
                        lease_epoch: record.lease.map_or(0, |lease| lease.epoch),
                        revision: record.revision,
                        changed: false,
                    }
                }
            }
            Some(_) | None => self.admit_owner(old.as_ref(), item, actor),
        }
    }

    /// The same owner again: its generation stays.
    fn renew(
        &mut self,
        record: &Arc<Record>,
        item: &Registration,
        reason: Reason,
        actor: &Actor,
    ) -> Registered {
        let mut new = Record::clone(record);
        new.spec = self.shared(&item.name, &item.spec);
        new.lease = new.spec.ttl.map(|_| {
            // An expiry that was decided before this registration must not end what it grants.
            new.lease_epoch = new.lease_epoch.saturating_add(1);
            Lease { epoch: new.lease_epoch, state: LeaseState::Current }
        });
        if reason == Reason::Restored {
            new.reason = reason;
        }
        let was_dead = record.is_expired();
        new.signals = self.signals_at_registration(Some(record), &new, was_dead);
        self.judge(&mut new, reason);
        self.enlist(Some(record), new, reason, actor)
    }

    /// A new owner: a new generation, whether the id was listed before or not.
    fn admit_owner(
        &mut self,
        old: Option<&Arc<Record>>,
        item: &Registration,
        actor: &Actor,
    ) -> Registered {
        self.generation += 1;
        let tombstone = self.unbury(&item.name);
        let name = old.map_or_else(|| self.shared_name(item), |record| record.name.clone());
        let held_by_operator = self.overrides.get(&name).cloned();
        let mut new = Record {
            name: name.clone(),
            spec: self.shared(&item.name, &item.spec),
            nonce: item.nonce,
            generation: self.generation,
            lease: item.spec.ttl.map(|_| Lease { epoch: 1, state: LeaseState::Current }),
            lease_epoch: u32::from(item.spec.ttl.is_some()),
            health: HealthStatus::Healthy,
            reason: if old.is_some() { Reason::TakenOver } else { Reason::Registered },
            signals: Signals::default(),
            admin: held_by_operator,
            revision: 0,
            create_revision: old.map_or(self.revision + 1, |record| record.create_revision),
            register_ms: old.map_or(self.wall_ms, |record| record.register_ms),
            status_ms: old.map_or(self.wall_ms, |record| record.status_ms),
            history: match (old, &tombstone) {
                (Some(record), _) => record.history.clone(),
                (None, Some(tombstone)) => tombstone.history.clone(),
                (None, None) => Default::default(),
            },
        };
        new.signals = self.signals_at_registration(old.map(|old| &**old), &new, true);
        let reason = new.reason;
        self.judge(&mut new, reason);
        let Some(old) = old else {
            return self.enlist(None, new, Reason::Registered, actor);
        };
        self.checkpoints.remove(&old.generation);
        self.retire(old.generation, Retired::Superseded(name), self.kept_until());
        self.enlist(Some(old), new, Reason::TakenOver, actor)
    }

    /// The spec, sharing memory with what the instance declared before, or else with another one of its service.
    pub(super) fn shared(&self, name: &InstanceName, spec: &Arc<Spec>) -> Arc<Spec> {
        let before = self.instance(name);
        let another = || self.service(&name.service)?.instances.get_max().map(|(_, it)| it);
        match before.or_else(another) {
            Some(record) if record.spec == *spec => record.spec.clone(),
            Some(record) => Arc::new(spec.sharing_with(&record.spec)),
            None => spec.clone(),
        }
    }

    fn shared_name(&self, item: &Registration) -> Arc<InstanceName> {
        let known = self.service(&item.name.service);
        let service = known.map_or_else(|| item.name.service.clone(), |known| known.name.clone());
        Arc::new(InstanceName { service, id: item.name.id.clone() })
    }

    fn enlist(
        &mut self,
        old: Option<&Arc<Record>>,
        mut new: Record,
        reason: Reason,
        actor: &Actor,
    ) -> Registered {
        let from = old.map(|record| record.status());
        let event = self.event(Change {
            subject: Subject::Instance(new.name.clone()),
            generation: new.generation,
            from,
            to: Some(new.status()),
            reason,
            actor,
            evidence: evidence(&new, old),
        });
        new.revision = event.revision;
        if from != Some(new.status()) {
            new.status_ms = self.wall_ms;
        }
        new.history = new.history.and(event);
        let done = Registered {
            generation: new.generation,
            lease_epoch: new.lease.map_or(0, |lease| lease.epoch),
            revision: new.revision,
            changed: true,
        };
        self.put(old, Some(new));
        done
    }
}

/// Whether this has no effect, because the record is what it asks for: a retry, not a race.
fn repeats(item: &Registration, record: &Record) -> bool {
    record.nonce == item.nonce && record.spec == item.spec && !record.lease_is_over()
}

impl Record {
    fn lease_is_over(&self) -> bool {
        self.lease.is_some_and(|lease| lease.state != LeaseState::Current)
    }

    /// The refusal of a process that holds an older generation.
    pub(super) fn fences(&self) -> Rejection {
        Rejection::Fenced {
            name: (*self.name).clone(),
            generation: self.generation,
            holder: holder_of(&self.spec).into(),
        }
    }
}

fn holder_of(spec: &Spec) -> String {
    spec.endpoints.first().map(|e| e.address.to_string()).unwrap_or_default()
}

fn evidence(new: &Record, old: Option<&Arc<Record>>) -> Arc<str> {
    let now = holder_of(&new.spec);
    match old.map(|record| holder_of(&record.spec)) {
        Some(before) if before != now => format!("{before} -> {now}").into(),
        _ => now.into(),
    }
}

fn deregistered(tombstone: &Tombstone) -> Rejection {
    let by = tombstone.history.events().last().map(|event| event.actor.to_string());
    Rejection::Deregistered {
        name: (*tombstone.name).clone(),
        reason: format!(
            "{} by {}",
            tombstone.reason.as_str(),
            by.unwrap_or_else(|| "its owner".into())
        )
        .into(),
    }
}

/// 1 to 1,000 items, no name twice.
pub(super) fn check_batch<'a, N: Ord + std::fmt::Display + 'a>(
    count: usize,
    names: impl Iterator<Item = &'a N>,
) -> Result<(), Rejection> {
    if count == 0 || count > limit::BATCH {
        let problem = format!("a batch of {count}: 1 to {} are allowed", limit::BATCH);
        return Err(Rejection::InvalidBatch { problem: problem.into() });
    }
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            let problem = format!("{name} stands in the batch twice");
            return Err(Rejection::InvalidBatch { problem: problem.into() });
        }
    }
    Ok(())
}
