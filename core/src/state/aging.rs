//! What cluster time does: tombstones, retired handles, idle services, request ids and admin states end.
//!
//! Cluster time is the only clock of the state. It advances by what the leader stamps on commands.

use super::{Retired, Service, State, digest};
use crate::{
    command::{Command, Outcome, Rejection, RequestId},
    instance::limit,
    name::{InstanceName, ServiceName},
    record::Tombstone,
};
use imbl::{OrdSet, Vector};
use std::{hash::Hash, sync::Arc};

/// How long tombstones, retired handles, idle services and request ids are kept: ten minutes of cluster time.
pub(super) const KEEP_MS: u64 = 10 * 60 * 1000;
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

/// What ends, in order of time. All but admin states are kept equally long, so queues are in order by themselves.
#[derive(Debug, Clone, Default)]
pub(super) struct Aging {
    pub(super) tombstones: Vector<(u64, Arc<InstanceName>, u64)>,
    pub(super) retired: Vector<(u64, u64)>,
    pub(super) services: Vector<(u64, ServiceName, u64)>,
    pub(super) requests: Vector<(u64, RequestId)>,
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
            && self.protections.is_empty())
    }

    pub(super) fn advance(&mut self, by_ms: u64) {
        self.cluster_ms = self.cluster_ms.saturating_add(by_ms);
        let now = self.cluster_ms;
        for _ in 0..STEP {
            let Some((due, _, _)) = self.aging.tombstones.front() else { break };
            if *due > now && self.tombstones.len() <= TOMBSTONES {
                break;
            }
            if let Some((_, name, generation)) = self.aging.tombstones.pop_front()
                && self.tombstones.get(&name).is_some_and(|t| t.generation == generation)
            {
                self.tombstones.remove(&name);
            }
        }
        for _ in 0..STEP {
            let Some((due, _)) = self.aging.retired.front() else { break };
            if *due > now && self.retired.len() <= TOMBSTONES {
                break;
            }
            if let Some((_, generation)) = self.aging.retired.pop_front() {
                self.retired.remove(&generation);
            }
        }
        self.end_services(now);
        for _ in 0..STEP {
            let Some((due, _)) = self.aging.requests.front() else { break };
            if *due > now && self.requests.len() <= limit::REQUEST_IDS {
                break;
            }
            if let Some((_, id)) = self.aging.requests.pop_front() {
                self.requests.remove(&id);
            }
        }
        for _ in 0..STEP {
            let Some((due, name)) = self.aging.admins.get_min().cloned() else { break };
            if due > now {
                break;
            }
            self.aging.admins.remove(&(due, name.clone()));
            self.end_admin(&name, now);
        }
    }

    fn end_services(&mut self, now: u64) {
        for _ in 0..STEP {
            let Some((due, _, _)) = self.aging.services.front() else { break };
            if *due > now {
                break;
            }
            let Some((_, name, revision)) = self.aging.services.pop_front() else { break };
            let ended = self.services.get(&name).filter(|s| s.is_idle() && s.revision == revision);
            if let Some(service) = ended.cloned() {
                self.forget_service(&service);
            }
        }
    }

    /// The service goes; that its revision never goes backwards is kept by the floor of its namespace.
    fn forget_service(&mut self, service: &Service) {
        self.services.remove(&service.name);
        let floor = self.floors.get(&service.name.namespace).copied().unwrap_or(0);
        self.floors.insert(service.name.namespace.clone(), floor.max(service.revision));
        if self.floors.len() > FLOORS {
            let highest = self.floors.values().copied().max().unwrap_or(0);
            self.floor = self.floor.max(highest);
            self.floors.clear();
        }
    }

    pub(super) fn age_service(&mut self, service: &Service) {
        let due = self.cluster_ms.saturating_add(KEEP_MS);
        self.aging.services.push_back((due, service.name.clone(), service.revision));
    }

    pub(super) fn age_admin(&mut self, until: u64, name: Arc<InstanceName>) {
        self.aging.admins.insert((until, name));
    }

    pub(super) fn bury(&mut self, tombstone: Arc<Tombstone>) {
        let due = self.cluster_ms.saturating_add(KEEP_MS);
        let name = tombstone.name.clone();
        self.aging.tombstones.push_back((due, name.clone(), tombstone.generation));
        self.tombstones.insert(name, tombstone);
    }

    pub(super) fn retire(&mut self, generation: u64, retired: Retired) {
        let due = self.cluster_ms.saturating_add(KEEP_MS);
        self.aging.retired.push_back((due, generation));
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
        self.requests.insert(id.clone(), Arc::new(known));
        self.aging.requests.push_back((at_ms.saturating_add(KEEP_MS), id.clone()));
    }
}

/// The request id of a command and the hash of its content. Who asked, and through which node, is not content.
fn identity(command: &Command) -> Option<(&RequestId, u128)> {
    match command {
        Command::Register(c) => {
            Some((c.request_id.as_ref()?, content(1, &(&c.items, c.address_limit))))
        }
        Command::Deregister(c) => Some((c.request_id.as_ref()?, content(2, &c.items))),
        Command::SetAdminState(c) => Some((
            c.request_id.as_ref()?,
            content(3, &(&c.name, c.state, &c.reason, c.expire_after, c.expected_revision)),
        )),
        Command::PutServicePolicy(c) => {
            Some((c.request_id.as_ref()?, content(4, &(&c.service, c.policy.digest()))))
        }
        Command::DeleteServicePolicy(c) => Some((c.request_id.as_ref()?, content(5, &c.service))),
        Command::SetProtection(c) => {
            Some((c.request_id.as_ref()?, content(6, &(&c.scope, &c.change))))
        }
        Command::CheckpointLeases(_)
        | Command::ExpireLeases(_)
        | Command::EvictInstances(_)
        | Command::AdvanceTime => None,
    }
}

fn content<T: Hash>(kind: u8, value: &T) -> u128 {
    digest(&(kind, value))
}
