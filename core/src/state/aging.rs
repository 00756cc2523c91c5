//! What cluster time does: tombstones, retired handles, idle services, request ids and admin states end.
//!
//! Cluster time is the only clock of the state. It advances by what the leader stamps on commands.

use super::{Retired, Service, State, digest};
use crate::{
    command::{Command, Done, Outcome, Rejection, RequestId},
    instance::limit,
    name::{InstanceName, ServiceName},
    record::{Actor, Admin, Record, Tombstone},
};
use imbl::{OrdMap, OrdSet, Vector};
use std::{hash::Hash, sync::Arc};

/// How long tombstones, retired handles, idle services and request ids are kept: ten minutes of cluster time.
pub(super) const KEEP_MS: u64 = 10 * 60 * 1000;
/// Most that one command can advance cluster time, ms. Where anything waits for time, a leader lets it pass every
/// ten seconds; more than a day is a mistake that must not end everything that is kept.
const ADVANCE_MAX: u64 = 24 * 3600 * 1000;
/// Things of one kind that end in one command at most; the rest ends with the next.
const STEP: usize = 1_000;
/// Tombstones and retired handles kept; the oldest go first.
const TOMBSTONES: usize = 1_000_000;
/// Namespaces whose floor is kept singly; beyond, the highest floor serves all.
const FLOORS: usize = 10_000;

/// The outcome of a request, kept for its retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Hash of the request's content.
    pub content: u128,
    /// Cluster time of the request, ms.
    pub at_ms: u64,
    /// What it came to.
    pub outcome: Outcome,
}

/// What ends, in order of time. A queue holds only what still stands: a stale entry would use up a step on this
/// node, but not on one that was loaded from a snapshot, which knows of none.
#[derive(Debug, Clone, Default)]
pub(super) struct Aging {
    /// When and which, by the revision of the removal.
    pub(super) tombstones: OrdMap<u64, (u64, Arc<InstanceName>)>,
    /// When and which handle, as they came.
    pub(super) retired: Vector<(u64, u64)>,
    /// When and which, by the revision at which the service became idle.
    pub(super) services: OrdMap<u64, (u64, ServiceName)>,
    /// When and which, as they came.
    pub(super) requests: Vector<(u64, RequestId)>,
    /// Results in the outcomes of these requests.
    request_results: usize,
    /// When and whose.
    pub(super) admins: OrdSet<(u64, Arc<InstanceName>)>,
}

impl State {
    /// Whether anything waits for cluster time to pass.
    pub fn waits_for_time(&self) -> bool {
        let aging = &self.aging;
        !(aging.tombstones.is_empty()
            && aging.retired.is_empty()
            && aging.services.is_empty()
            && aging.requests.is_empty()
            && aging.admins.is_empty()
            && self.protections.is_empty()
            && self.leases.lost == 0)
    }

    /// Whether more has come to its end than one command carries out. The next command carries on, whichever it is;
    /// a leader without one sends [`Command::AdvanceTime`] at once.
    pub fn is_overdue(&self) -> bool {
        self.due_tombstone().is_some()
            || self.due_retired().is_some()
            || self.due_service().is_some()
            || self.due_request().is_some()
            || self.due_admin().is_some()
    }

    /// Number of requests whose outcome is remembered, and the age of the oldest in ms of cluster time.
    pub fn request_window(&self) -> (usize, u64) {
        let oldest = self.aging.requests.front().and_then(|(_, id)| self.requests.get(id));
        let age = oldest.map_or(0, |oldest| self.cluster_ms.saturating_sub(oldest.at_ms));
        (self.requests.len(), age)
    }

    pub(super) fn advance(&mut self, by_ms: u64) {
        self.cluster_ms = self.cluster_ms.saturating_add(by_ms.min(ADVANCE_MAX));
        for _ in 0..STEP {
            let Some((revision, name)) = self.due_tombstone() else { break };
            self.aging.tombstones.remove(&revision);
            self.tombstones.remove(&name);
        }
        for _ in 0..STEP {
            let Some(generation) = self.due_retired() else { break };
            self.aging.retired.pop_front();
            self.retired.remove(&generation);
        }
        for _ in 0..STEP {
            let Some(name) = self.due_service() else { break };
            self.forget_service(&name);
        }
        for _ in 0..STEP {
            let Some(id) = self.due_request() else { break };
            self.aging.requests.pop_front();
            if let Some(forgotten) = self.requests.remove(&id) {
                self.aging.request_results -= forgotten.results();
            }
        }
        for _ in 0..STEP {
            let Some(entry) = self.due_admin() else { break };
            self.aging.admins.remove(&entry);
            self.end_admin(&entry.1);
        }
    }

    fn due_tombstone(&self) -> Option<(u64, Arc<InstanceName>)> {
        let (revision, (due, name)) = self.aging.tombstones.get_min()?;
        let over = *due <= self.cluster_ms || self.tombstones.len() > TOMBSTONES;
        over.then(|| (*revision, name.clone()))
    }

    fn due_retired(&self) -> Option<u64> {
        let (due, generation) = self.aging.retired.front()?;
        let over = *due <= self.cluster_ms || self.retired.len() > TOMBSTONES;
        over.then_some(*generation)
    }

    fn due_service(&self) -> Option<ServiceName> {
        let (_, (due, name)) = self.aging.services.get_min()?;
        let over = *due <= self.cluster_ms || self.aging.services.len() > limit::SERVICES;
        over.then(|| name.clone())
    }

    fn due_request(&self) -> Option<RequestId> {
        let (due, id) = self.aging.requests.front()?;
        let over = *due <= self.cluster_ms
            || self.requests.len() > limit::REQUEST_IDS
            || self.aging.request_results > limit::REQUEST_RESULTS;
        over.then(|| id.clone())
    }

    fn due_admin(&self) -> Option<(u64, Arc<InstanceName>)> {
        self.aging.admins.get_min().filter(|(due, _)| *due <= self.cluster_ms).cloned()
    }

    /// The service goes; that its revision never goes backwards is kept by the floor of its namespace.
    fn forget_service(&mut self, name: &ServiceName) {
        let Some(service) = self.services.remove(name) else { return };
        self.aging.services.remove(&service.revision);
        let floor = self.floors.get(&name.namespace).copied().unwrap_or(0);
        self.floors.insert(name.namespace.clone(), floor.max(service.revision));
        if self.floors.len() > FLOORS {
            let highest = self.floors.values().copied().max().unwrap_or(0);
            self.floor = self.floor.max(highest);
            self.floors.clear();
        }
    }

    pub(super) fn age_service(&mut self, service: &Service) {
        let due = self.cluster_ms.saturating_add(KEEP_MS);
        self.aging.services.insert(service.revision, (due, service.name.clone()));
    }

    /// The admin state of an owner ends with its generation, or at its time. Those of operators: [`Self::set_override`].
    pub(super) fn age_admin(&mut self, record: &Record, listed: bool) {
        let Some(admin) = &record.admin else { return };
        let Some(until) = admin.until.filter(|_| !admin.is_by_operator()) else { return };
        if listed {
            self.aging.admins.insert((until, record.name.clone()));
        } else {
            self.aging.admins.remove(&(until, record.name.clone()));
        }
    }

    /// Sets or clears what an operator wants for a name. What an owner wanted must have been cleared before.
    pub(super) fn set_override(&mut self, name: &Arc<InstanceName>, admin: Option<&Arc<Admin>>) {
        let old = match admin {
            Some(admin) => self.overrides.insert(name.clone(), admin.clone()),
            None => self.overrides.remove(name),
        };
        if let Some(until) = old.and_then(|old| old.until) {
            self.aging.admins.remove(&(until, name.clone()));
        }
        if let Some(until) = admin.and_then(|admin| admin.until) {
            self.aging.admins.insert((until, name.clone()));
        }
    }

    pub(super) fn bury(&mut self, tombstone: Arc<Tombstone>, due_ms: u64) {
        let name = tombstone.name.clone();
        self.aging.tombstones.insert(tombstone.revision, (due_ms, name.clone()));
        self.tombstones.insert(name, tombstone);
    }

    /// The name is listed again.
    pub(super) fn unbury(&mut self, name: &InstanceName) -> Option<Arc<Tombstone>> {
        let tombstone = self.tombstones.remove(name)?;
        self.aging.tombstones.remove(&tombstone.revision);
        Some(tombstone)
    }

    /// Cluster time at which something ends that begins to age now, ms.
    pub(super) fn kept_until(&self) -> u64 {
        self.cluster_ms.saturating_add(KEEP_MS)
    }

    pub(super) fn retire(&mut self, generation: u64, retired: Retired, due_ms: u64) {
        self.aging.retired.push_back((due_ms, generation));
        self.retired.insert(generation, retired);
    }

    // === Request ids ===

    /// The outcome of an earlier call with this request id, or the refusal of its reuse.
    pub(super) fn recall(&self, command: &Command) -> Option<Outcome> {
        let (id, content) = identity(command)?;
        let known = self.requests.get(id)?;
        if known.content == content {
            return Some(known.outcome.clone());
        }
        let age_ms = self.cluster_ms.saturating_sub(known.at_ms);
        let reused = Rejection::RequestIdReused { id: id.as_str().into(), age_ms };
        Some(Outcome { revision: self.revision, result: Err(reused) })
    }

    pub(super) fn remember(&mut self, command: &Command, outcome: &Outcome) {
        let Some((id, content)) = identity(command) else { return };
        let at_ms = self.cluster_ms;
        let known = Remembered { content, at_ms, outcome: outcome.clone() };
        self.keep_request(id.clone(), Arc::new(known));
    }

    pub(super) fn keep_request(&mut self, id: RequestId, known: Arc<Remembered>) {
        self.aging.requests.push_back((known.at_ms.saturating_add(KEEP_MS), id.clone()));
        self.aging.request_results += known.results();
        self.requests.insert(id, known);
    }
}

impl Remembered {
    /// How many results it holds: one for each item of a batch.
    fn results(&self) -> usize {
        match &self.outcome.result {
            Ok(Done::Registered(items)) => items.len(),
            Ok(Done::Deregistered(items)) => items.len(),
            Ok(Done::Expired(items)) => items.len(),
            Ok(Done::Reported(items)) => items.len(),
            Ok(Done::Evicted(_) | Done::Applied) | Err(_) => 1,
        }
    }
}

/// The request id of a command and the hash of its content. In which role somebody asked is content, because it
/// decides what may be done; from where, and through which node, is not.
fn identity(command: &Command) -> Option<(&RequestId, u128)> {
    let by_operator = |actor: &Actor| matches!(actor, Actor::Operator(_));
    match command {
        Command::Register(c) => Some((c.request_id.as_ref()?, content(1, &c.items))),
        Command::Deregister(c) => {
            Some((c.request_id.as_ref()?, content(2, &(&c.items, by_operator(&c.actor)))))
        }
        Command::SetAdminState(c) => {
            let who = (&c.name, c.generation, by_operator(&c.actor));
            let what = (c.state, &c.reason, c.expire_after, c.expected_revision);
            Some((c.request_id.as_ref()?, content(3, &(who, what))))
        }
        Command::PutServicePolicy(c) => {
            Some((c.request_id.as_ref()?, content(4, &(&c.service, c.policy.digest()))))
        }
        Command::DeleteServicePolicy(c) => Some((c.request_id.as_ref()?, content(5, &c.service))),
        Command::SetProtection(c) => {
            let content = content(6, &(&c.scope, &c.change, by_operator(&c.actor)));
            Some((c.request_id.as_ref()?, content))
        }
        Command::CheckpointLeases(_)
        | Command::ExpireLeases(_)
        | Command::EvictInstances(_)
        | Command::ReportHealth(_)
        | Command::ReportSelf(_)
        | Command::SetCheckers(_)
        | Command::AdvanceTime => None,
    }
}

fn content<T: Hash>(kind: u8, value: &T) -> u128 {
    digest(&(kind, value))
}
