//! The catalogue, and `apply`: its only writer. Total and deterministic: equal logs give equal states.
//!
//! `mod.rs` holds the data, the way in and the one place where a record is replaced;
//! `register`, `remove`, `lease`, `health`, `utilization`, `admin`, `secret` hold what the commands mean, `aging` what time does, `image` the snapshot.

mod admin;
mod aging;
mod health;
mod image;
mod lease;
mod register;
mod remove;
mod secret;
#[cfg(test)]
mod tests;
mod utilization;

pub use aging::Remembered;
pub use image::{Damaged, Header, Loader, Part};

use crate::{
    checkers::Checkers,
    command::{Command, Done, Outcome, Rejection, Stamped},
    instance::limit,
    name::{InstanceId, InstanceName, Label, ServiceName},
    policy::Policy,
    record::{Actor, Admin, Event, LeaseState, Reason, Record, Scope, Status, Subject, Tombstone},
    secret::ClusterSecret,
    signals::Utilization,
};
use aging::Aging;
use imbl::{OrdMap, OrdSet, Vector};
use std::{hash::Hash, net::IpAddr, sync::Arc};
use xxhash_rust::xxh3::Xxh3Default;

/// By how much revisions and generations jump with a new epoch.
const EPOCH_STEP: u64 = 1 << 32;

/// One service: its instances, its policy and the revision of its last change.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Revision of the last change that touched it; never goes backwards.
    pub revision: u64,
    /// Its policy.
    pub policy: Option<Arc<Policy>>,
    /// Revision at which the checks in its policy changed last; 0 = never.
    pub checks_since: u64,
    /// Its instances by id.
    pub instances: OrdMap<InstanceId, Arc<Record>>,
    /// Its leases by state.
    pub leases: LeaseCounts,
}

/// How many leases there are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseCounts {
    /// Running.
    pub current: u32,
    /// Ran out, held by protection.
    pub held: u32,
    /// Ran out.
    pub expired: u32,
    /// Ran out, kept listed by a passing check.
    pub lost: u32,
}

impl LeaseCounts {
    fn add(&mut self, record: &Record, delta: i32) {
        let Some(lease) = record.lease else { return };
        let slot = match lease.state {
            LeaseState::Current => &mut self.current,
            LeaseState::Held => &mut self.held,
            LeaseState::Expired => &mut self.expired,
            LeaseState::Lost => &mut self.lost,
        };
        *slot = slot.checked_add_signed(delta).expect("a lease is counted once when it is put");
    }
}

/// Protection of one scope, while it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    /// Cluster time at which it began, ms.
    pub since_ms: u64,
    /// Revision of its beginning.
    pub revision: u64,
    /// What was seen.
    pub evidence: Arc<str>,
}

/// What a beat for a lease handle that is not listed has to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retired {
    /// A newer owner took the id over.
    Superseded(Arc<InstanceName>),
    /// It was deregistered, by its owner or an operator.
    Deregistered(Arc<InstanceName>),
}

/// Outcome of a command and the events it made, in order of revision.
#[derive(Debug, Clone)]
pub struct Applied {
    /// What the caller is told.
    pub outcome: Outcome,
    /// The visible changes.
    pub events: Vec<Arc<Event>>,
}

/// The whole replicated state. `clone` costs a few pointers: every map is persistent.
#[derive(Debug, Clone)]
pub struct State {
    epoch: u32,
    revision: u64,
    generation: u64,
    cluster_ms: u64,
    services: OrdMap<ServiceName, Arc<Service>>,
    generations: OrdMap<u64, Arc<InstanceName>>,
    leases: LeaseCounts,
    checkpoints: OrdMap<u64, u32>,
    held: OrdSet<u64>,
    released: OrdSet<u64>,
    retired: OrdMap<u64, Retired>,
    tombstones: OrdMap<Arc<InstanceName>, Arc<Tombstone>>,
    overrides: OrdMap<Arc<InstanceName>, Arc<Admin>>,
    /// Who stands at an address: the generations of the instances that name it.
    addresses: OrdSet<(IpAddr, u64)>,
    protections: OrdMap<Scope, Arc<Protection>>,
    checkers: Arc<Checkers>,
    floors: OrdMap<Label, u64>,
    floor: u64,
    requests: OrdMap<crate::command::RequestId, Arc<Remembered>>,
    secret: Option<ClusterSecret>,
    /// How busy instances are, by generation: in no record, revision or hash.
    utilization: OrdMap<ServiceName, OrdMap<u64, Utilization>>,
    aging: Aging,
    journal: Vector<Arc<Event>>,
    journal_limit: usize,
    hash: u128,
    /// Events of the command at hand.
    fresh: Vec<Arc<Event>>,
    /// Wall clock of the command at hand.
    wall_ms: u64,
}

impl State {
    /// An empty state whose journal keeps `journal_limit` events (at least 1).
    pub fn new(journal_limit: usize) -> Self {
        Self {
            epoch: 1,
            revision: 0,
            generation: 0,
            cluster_ms: 0,
            services: OrdMap::new(),
            generations: OrdMap::new(),
            leases: LeaseCounts::default(),
            checkpoints: OrdMap::new(),
            held: OrdSet::new(),
            released: OrdSet::new(),
            retired: OrdMap::new(),
            tombstones: OrdMap::new(),
            overrides: OrdMap::new(),
            addresses: OrdSet::new(),
            protections: OrdMap::new(),
            checkers: Arc::default(),
            floors: OrdMap::new(),
            floor: 0,
            requests: OrdMap::new(),
            secret: None,
            utilization: OrdMap::new(),
            aging: Aging::default(),
            journal: Vector::new(),
            journal_limit: journal_limit.max(1),
            hash: 0,
            fresh: Vec::new(),
            wall_ms: 0,
        }
    }

    /// Carries out one command. Never panics and never fails differently on two nodes.
    pub fn apply(&mut self, stamped: &Stamped) -> Applied {
        self.wall_ms = stamped.wall_ms;
        self.advance(stamped.advance_ms);
        let outcome = self.recall(&stamped.command).unwrap_or_else(|| {
            let result = self.once(&stamped.command);
            let outcome = Outcome { revision: self.revision, result };
            self.remember(&stamped.command, &outcome);
            outcome
        });
        Applied { outcome, events: std::mem::take(&mut self.fresh) }
    }

    fn once(&mut self, command: &Command) -> Result<Done, Rejection> {
        match command {
            Command::Register(register) => self.register(register),
            Command::Deregister(deregister) => self.deregister(deregister),
            Command::SetAdminState(set) => self.set_admin_state(set),
            Command::PutServicePolicy(put) => self.put_policy(put),
            Command::DeleteServicePolicy(delete) => self.delete_policy(delete),
            Command::PutClusterSecret(secret) => self.put_secret(*secret),
            Command::CheckpointLeases(items) => self.checkpoint_leases(items),
            Command::ExpireLeases(expire) => self.expire_leases(expire),
            Command::EvictInstances(evict) => self.evict_instances(evict),
            Command::SetProtection(set) => self.set_protection(set),
            Command::ReportHealth(report) => self.report_health(report),
            Command::ReportSelf(report) => self.report_self(report),
            Command::SetCheckers(set) => self.set_checkers(set),
            Command::AdvanceTime => Ok(Done::Applied),
        }
    }

    // === What readers ask ===

    /// Count of visible changes so far.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Grows on restore and forced recovery.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Cluster time in ms: how long the cluster has had a leader.
    pub fn cluster_ms(&self) -> u64 {
        self.cluster_ms
    }

    /// Rolling hash over all records; equal on all nodes at equal revision.
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// The services in order of name.
    pub fn services(&self) -> &OrdMap<ServiceName, Arc<Service>> {
        &self.services
    }

    /// One service.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// Revision of the last change of a service, also after it is gone; never goes backwards.
    pub fn service_revision(&self, name: &ServiceName) -> u64 {
        match self.services.get(name) {
            Some(service) => service.revision,
            None => self.floors.get(&name.namespace).copied().unwrap_or(0).max(self.floor),
        }
    }

    /// One instance.
    pub fn instance(&self, name: &InstanceName) -> Option<&Arc<Record>> {
        self.services.get(&name.service)?.instances.get(&name.id)
    }

    /// The instance of that generation, which is also its lease handle.
    pub fn by_generation(&self, generation: u64) -> Option<&Arc<Record>> {
        self.instance(self.generations.get(&generation)?)
    }

    /// The instances that name an address, in order of generation.
    pub fn at_address(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Record>> {
        self.generations_at(address).filter_map(|generation| self.by_generation(generation))
    }

    fn generations_at(&self, address: IpAddr) -> impl Iterator<Item = u64> {
        let all = (address, 0)..=(address, u64::MAX);
        self.addresses.range(all).map(|(_, generation)| *generation)
    }

    /// What stands in place of a generation that is gone.
    pub fn retired(&self, generation: u64) -> Option<&Retired> {
        self.retired.get(&generation)
    }

    /// What stays of a removed instance.
    pub fn tombstone(&self, name: &InstanceName) -> Option<&Arc<Tombstone>> {
        self.tombstones.get(name)
    }

    /// Number of services that have instances or a policy.
    pub fn service_count(&self) -> usize {
        self.services.len() - self.aging.services.len()
    }

    /// Number of instances.
    pub fn instance_count(&self) -> usize {
        self.generations.len()
    }

    /// Number of request ids that are remembered.
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    /// The generations of all instances in order.
    pub fn generations(&self) -> impl Iterator<Item = (u64, &Arc<InstanceName>)> {
        self.generations.iter().map(|(generation, name)| (*generation, name))
    }

    /// Leases of the cluster by state.
    pub fn lease_counts(&self) -> LeaseCounts {
        self.leases
    }

    /// Time that a lease had left at the last checkpoint, where it had missed a beat; ms.
    pub fn checkpoint(&self, generation: u64) -> Option<u32> {
        self.checkpoints.get(&generation).copied()
    }

    /// Held leases whose protection has ended: they expire at the leader's pace.
    pub fn released(&self) -> &OrdSet<u64> {
        &self.released
    }

    /// Leases that protection holds.
    pub fn held(&self) -> &OrdSet<u64> {
        &self.held
    }

    /// The scopes under protection.
    pub fn protections(&self) -> &OrdMap<Scope, Arc<Protection>> {
        &self.protections
    }

    /// Whether the service stands under protection, of its own or of the cluster.
    pub fn is_protected(&self, service: &ServiceName) -> bool {
        !self.protections.is_empty()
            && (self.protections.contains_key(&Scope::Cluster)
                || self.protections.contains_key(&Scope::Service(service.clone())))
    }

    /// The journal, oldest first; each event has the revision after the one before, but for a new epoch between.
    pub fn journal(&self) -> &Vector<Arc<Event>> {
        &self.journal
    }

    /// Events after `revision` are all in the journal if `revision` is at least this.
    pub fn journal_floor(&self) -> u64 {
        self.journal.front().map_or(self.revision, |event| event.revision.saturating_sub(1))
    }

    /// The events after `revision`, or `None` where some of them are no longer kept.
    pub fn events_after(&self, revision: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if revision < self.journal_floor() {
            return None;
        }
        let found = self.journal.binary_search_by(|event| event.revision.cmp(&revision));
        let skip = found.map_or_else(|next| next, |at| at + 1);
        Some(self.journal.focus().narrow(skip..).into_iter())
    }

    // === What a restore does ===

    /// Begins a new epoch, as a restore from a backup and a forced recovery must: revisions and generations jump by
    /// 2^32 and no service shows an older revision, so that nothing is given again that was given in the lost time.
    pub fn begin_epoch(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        self.revision = self.revision.saturating_add(EPOCH_STEP);
        self.generation = self.generation.saturating_add(EPOCH_STEP);
        self.floor = self.revision;
        self.floors.clear();
        // A node of the lost time may have named checkers that are not known here.
        let epoch = self.checkers.epoch().saturating_add(EPOCH_STEP);
        self.checkers = Arc::new(Checkers::new(epoch, self.checkers.nodes().to_vec()));
        // How long a lease had left when the backup was made says nothing now.
        self.checkpoints.clear();
        // Nor does how busy an instance was then.
        self.utilization.clear();
        let services: Vec<Arc<Service>> = self.services.values().cloned().collect();
        for service in services {
            if service.is_idle() {
                self.aging.services.remove(&service.revision);
                self.services.remove(&service.name);
            } else {
                self.put_service(Service::clone(&service));
            }
        }
    }

    // === How a change is made ===

    /// Makes the event of one visible change; the revision grows by one.
    fn event(&mut self, event: Change<'_>) -> Arc<Event> {
        self.revision += 1;
        let event = Arc::new(Event {
            revision: self.revision,
            wall_ms: self.wall_ms,
            subject: event.subject,
            generation: event.generation,
            from: event.from,
            to: event.to,
            reason: event.reason,
            actor: event.actor.clone(),
            evidence: bounded(event.evidence),
        });
        if self.journal.len() >= self.journal_limit {
            self.journal.pop_front();
        }
        self.journal.push_back(event.clone());
        self.fresh.push(event.clone());
        event
    }

    /// Lists `record` in place of `old`, or removes `old`: the one place that keeps indexes, counts and hash in step.
    fn put(&mut self, old: Option<&Arc<Record>>, new: Option<Record>) {
        let Some(name) =
            new.as_ref().map(|r| r.name.clone()).or_else(|| old.map(|r| r.name.clone()))
        else {
            return;
        };
        let mut service = match self.services.get(&name.service) {
            Some(service) => Service::clone(service),
            None => Service::empty(name.service.clone()),
        };
        if let Some(old) = old {
            self.unlist(old, &mut service);
            if new.as_ref().is_none_or(|new| !new.is_held_as(old.generation)) {
                self.released.remove(&old.generation);
            }
            if new.as_ref().is_none_or(|new| new.generation != old.generation) {
                self.set_utilization(&old.name.service, old.generation, None);
            }
        }
        if let Some(new) = new {
            self.list(new, &mut service);
        }
        self.put_service(service);
    }

    fn unlist(&mut self, old: &Arc<Record>, service: &mut Service) {
        self.hash = self.hash.wrapping_sub(digest(&**old));
        self.age_admin(old, false);
        self.leases.add(old, -1);
        service.leases.add(old, -1);
        service.instances.remove(&old.name.id);
        self.generations.remove(&old.generation);
        self.held.remove(&old.generation);
        for address in old.spec.addresses() {
            self.addresses.remove(&(address, old.generation));
        }
    }

    fn list(&mut self, new: Record, service: &mut Service) {
        self.hash = self.hash.wrapping_add(digest(&new));
        self.age_admin(&new, true);
        self.leases.add(&new, 1);
        service.leases.add(&new, 1);
        self.generations.insert(new.generation, new.name.clone());
        match new.lease.map(|lease| lease.state) {
            Some(LeaseState::Held) => {
                self.checkpoints.remove(&new.generation);
                self.held.insert(new.generation);
            }
            Some(LeaseState::Expired | LeaseState::Lost) => {
                self.checkpoints.remove(&new.generation);
            }
            Some(LeaseState::Current) | None => {}
        }
        for address in new.spec.addresses() {
            self.addresses.insert((address, new.generation));
        }
        service.instances.insert(new.name.id.clone(), Arc::new(new));
    }

    /// Stores a service with the current revision; one that has neither instances nor policy begins to age.
    fn put_service(&mut self, mut service: Service) {
        if let Some(old) = self.services.get(&service.name) {
            self.hash = self.hash.wrapping_sub(old.digest());
            if old.is_idle() {
                self.aging.services.remove(&old.revision);
            }
        }
        service.revision = self.revision;
        self.hash = self.hash.wrapping_add(service.digest());
        if service.is_idle() {
            self.age_service(&service);
        }
        self.services.insert(service.name.clone(), Arc::new(service));
    }
}

/// What [`State::event`] makes an event of.
struct Change<'a> {
    subject: Subject,
    generation: u64,
    from: Option<Status>,
    to: Option<Status>,
    reason: Reason,
    actor: &'a Actor,
    evidence: Arc<str>,
}

impl Service {
    fn empty(name: ServiceName) -> Self {
        Self {
            name,
            revision: 0,
            policy: None,
            checks_since: 0,
            instances: OrdMap::new(),
            leases: LeaseCounts::default(),
        }
    }

    /// Neither instances nor a policy.
    pub fn is_idle(&self) -> bool {
        self.instances.is_empty() && self.policy.is_none()
    }

    /// Its share of the state hash: the service itself, its instances are hashed one by one. An idle service has
    /// none, because when it is forgotten depends on cluster time and not on the revision.
    fn digest(&self) -> u128 {
        if self.is_idle() {
            return 0;
        }
        let policy = self.policy.as_ref().map(|policy| policy.digest());
        let share = digest(&(&self.name, self.revision, policy));
        // A service whose checks never changed has the share that it had before there were any.
        match self.checks_since {
            0 => share,
            since => digest(&(share, since)),
        }
    }
}

/// At most what an event may carry, cut between two characters.
fn bounded(evidence: Arc<str>) -> Arc<str> {
    if evidence.len() <= limit::TEXT_BYTES {
        return evidence;
    }
    evidence[..evidence.floor_char_boundary(limit::TEXT_BYTES)].into()
}

/// 128-bit xxh3 of a value.
fn digest<T: Hash>(value: &T) -> u128 {
    let mut hasher = Xxh3Default::new();
    value.hash(&mut hasher);
    hasher.digest128()
}
