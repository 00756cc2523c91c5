//! Register: create, update, restore, take over, or nothing at all; and who is fenced.

use super::{Change, Retired, State};
use crate::{
    command::{Done, Quota, Register, Registered, Registration, Rejection},
    instance::{Spec, limit},
    name::ServiceName,
    record::{Actor, Admin, HealthStatus, Lease, LeaseState, Reason, Record, Subject, Tombstone},
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
            if current != expected && !live.is_some_and(|r| is_repeat(item, r)) {
                let name = item.name.clone();
                return Err(Rejection::RevisionMismatch { name, expected, current });
            }
        }
        let fenced = |generation, holder: String| Rejection::Fenced {
            name: item.name.clone(),
            generation,
            holder: holder.into(),
        };
        if let Some(record) = live {
            let older = item.held_generation != 0 && item.held_generation < record.generation;
            if record.nonce != item.nonce && older {
                return Err(fenced(record.generation, holder_of(&record.spec)));
            }
            return Ok(());
        }
        let Some(tombstone) = self.tombstone(&item.name) else { return Ok(()) };
        if tombstone.nonce == item.nonce {
            return if tombstone.sticks() { Err(deregistered(tombstone)) } else { Ok(()) };
        }
        if item.held_generation != 0 && item.held_generation < tombstone.generation {
            return Err(fenced(tombstone.generation, "an owner that has left since".into()));
        }
        Ok(())
    }

    /// Counts what the whole batch would add, so that it is all or nothing.
    fn check_quotas(&self, register: &Register) -> Result<(), Rejection> {
        let mut instances = 0_usize;
        let mut services: BTreeMap<&ServiceName, usize> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for item in &register.items {
            let old = self.instance(&item.name);
            if old.is_none() {
                instances += 1;
                *services.entry(&item.name.service).or_default() += 1;
            }
            if register.address_limit {
                let had = old.map(|record| record.spec.addresses()).unwrap_or_default();
                for address in item.spec.addresses().difference(&had) {
                    *addresses.entry(*address).or_default() += 1;
                }
            }
        }
        let over = |quota, limit: usize, at: String| {
            Err(Rejection::QuotaExceeded { quota, limit: limit as u64, at: at.into() })
        };
        if self.instance_count() + instances > limit::INSTANCES {
            return over(Quota::Instances, limit::INSTANCES, String::new());
        }
        let fresh = services.keys().filter(|name| self.service(name).is_none()).count();
        if self.services.len() + fresh > limit::SERVICES {
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
            let there = self.addresses.get(&address).copied().unwrap_or(0);
            if there + more > limit::INSTANCES_PER_ADDRESS {
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
                let over = record.lease.is_some_and(|lease| lease.state != LeaseState::Current);
                if over {
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
        let epoch = record.lease.map_or(0, |lease| lease.epoch);
        let epoch = if reason == Reason::Restored { epoch + 1 } else { epoch.max(1) };
        new.lease = item.spec.ttl.map(|_| Lease { epoch, state: LeaseState::Current });
        new.spec = item.spec.clone();
        new.health = HealthStatus::Healthy;
        self.checkpoints.remove(&new.generation);
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
        let tombstone = self.tombstones.remove(&item.name);
        let name = old.map_or_else(|| Arc::new(item.name.clone()), |record| record.name.clone());
        let held_by_operator = self.overrides.get(&name).cloned();
        let new = Record {
            name: name.clone(),
            spec: item.spec.clone(),
            nonce: item.nonce,
            generation: self.generation,
            lease: item.spec.ttl.map(|_| Lease { epoch: 1, state: LeaseState::Current }),
            health: HealthStatus::Healthy,
            reason: Reason::Registered,
            admin: held_by_operator,
            revision: 0,
            create_revision: old.map_or(self.revision + 1, |record| record.create_revision),
            register_ms: old.map_or(self.wall_ms, |record| record.register_ms),
            status_ms: self.wall_ms,
            history: match (old, &tombstone) {
                (Some(record), _) => record.history.clone(),
                (None, Some(tombstone)) => tombstone.history.clone(),
                (None, None) => Default::default(),
            },
        };
        let Some(old) = old else {
            return self.enlist(None, new, Reason::Registered, actor);
        };
        self.checkpoints.remove(&old.generation);
        self.retire(old.generation, Retired::Superseded(name));
        self.enlist(Some(old), new, Reason::TakenOver, actor)
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
        new.reason = reason;
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

    /// The admin state that an operator set for this name, if any.
    pub(super) fn override_of(&self, name: &crate::name::InstanceName) -> Option<&Arc<Admin>> {
        self.overrides.get(name)
    }
}

/// Whether this is the registration that made the record: a retry, not a race.
fn is_repeat(item: &Registration, record: &Record) -> bool {
    record.nonce == item.nonce && record.spec == item.spec
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
