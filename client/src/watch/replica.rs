//! What a watch knows: applies messages, puts parts together, refuses to go back. Pure.
//!
//! Two rules make it safe to take messages from any node after any break. A message about a service at a revision
//! below the one shown is skipped: instances come with their whole state, so what follows it still fits. And a start
//! from nothing is built aside and shown only when it is complete and not older.

use super::{Picture, Service, Update};
use rollcall_core::name::ServiceName;
use rollcall_proto::v1::{
    self,
    watch_response::{Bookmark, Delta, Event, Snapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Most instances of one service; a registry holds at most 20,000.
const INSTANCES: usize = 100_000;
/// Most services of one watch; a registry holds at most 100,000.
const SERVICES: usize = 200_000;
/// A node that says it is up to date and still shows less than we saw this long ago belongs to another history.
const HISTORY_MARGIN: Duration = Duration::from_secs(2);

/// Why a stream cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// A message that makes no sense.
    Protocol(String),
    /// Services may have vanished unseen: begin from nothing.
    Gap,
    /// The registry shows less than was shown, and is not behind: it was set up anew.
    OtherHistory,
}

/// State of a watch over all its streams.
#[derive(Debug, Default)]
pub(super) struct Replica {
    shown: State,
    /// A start from nothing while something is shown.
    aside: Option<State>,
    /// The shown state belongs to a registry that is gone: whatever is complete replaces it.
    obsolete: bool,
    token: Vec<u8>,
    /// When the shown revision grew last.
    grown: Option<Instant>,
    resumed: Resumed,
    /// Of the last bookmark.
    leader_known: bool,
    staleness: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    complete: bool,
    services: BTreeMap<ServiceName, Arc<Service>>,
    partial: Option<Service>,
}

/// What came since a stream was resumed, up to its first bookmark.
#[derive(Debug, Default)]
struct Resumed {
    open: bool,
    snapshots: bool,
    mentioned: BTreeSet<ServiceName>,
}

impl Replica {
    /// A new stream begins. Returns the token to resume with; empty = from nothing.
    pub(super) fn begin(&mut self) -> Vec<u8> {
        self.shown.partial = None;
        let resumes = !self.token.is_empty();
        self.aside = (!resumes && !self.shown.services.is_empty()).then(State::default);
        self.resumed = Resumed { open: resumes, ..Resumed::default() };
        self.token.clone()
    }

    /// The stream ended with a fault, or the registry refused the token (as [`Fault::OtherHistory`]).
    pub(super) fn spoil(&mut self, fault: &Fault) {
        match fault {
            Fault::Protocol(_) => {}
            Fault::Gap => self.token.clear(),
            Fault::OtherHistory => {
                self.token.clear();
                self.obsolete = true;
            }
        }
    }

    /// Applies one message; returns what to tell the reader. A watch by pattern may miss that services vanished.
    pub(super) fn receive(
        &mut self,
        message: v1::WatchResponse,
        by_pattern: bool,
        now: Instant,
    ) -> Result<Vec<Update>, Fault> {
        let v1::WatchResponse { revision, service, resume_token, event } = message;
        let updates = match event {
            Some(Event::Snapshot(snapshot)) => {
                let name = named(service)?;
                self.resumed.snapshots = true;
                self.mention(&name);
                self.snapshot(name, revision, snapshot)?
            }
            Some(Event::Delta(delta)) => {
                let name = named(service)?;
                self.mention(&name);
                self.delta(&name, revision, delta)?
            }
            Some(Event::Bookmark(bookmark)) => {
                self.bookmark(revision, &bookmark, by_pattern, now)?
            }
            None => return Err(Fault::Protocol("a watch message without an event".to_owned())),
        };
        let state = self.aside.as_ref().unwrap_or(&self.shown);
        if !resume_token.is_empty() && self.aside.is_none() && state.partial.is_none() {
            self.token = resume_token;
        }
        Ok(updates)
    }

    /// What is shown; the caller adds what it knows of the connection.
    pub(super) fn picture(&self) -> Picture {
        Picture {
            revision: self.shown.revision,
            complete: self.shown.complete,
            leader_known: self.leader_known,
            staleness: self.staleness,
            services: self.shown.services.clone(),
            ..Picture::default()
        }
    }

    fn mention(&mut self, name: &ServiceName) {
        if self.resumed.open {
            self.resumed.mentioned.insert(name.clone());
        }
    }

    fn snapshot(
        &mut self,
        name: ServiceName,
        revision: u64,
        part: Snapshot,
    ) -> Result<Vec<Update>, Fault> {
        let hidden = self.aside.is_some();
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        let mut service = match state.partial.take() {
            Some(begun) if begun.name == name && begun.revision == revision => begun,
            Some(begun) => {
                let problem = format!("a part of {name} came among those of {}", begun.name);
                return Err(Fault::Protocol(problem));
            }
            None => Service::empty(name, revision),
        };
        service.exists = part.service_exists;
        service.fail_open = part.fail_open;
        service.protected = part.protected;
        let instances = part.instances.into_iter();
        service.instances.extend(instances.map(|i| (i.instance_id.clone(), Arc::new(i))));
        check_size(&service)?;
        if part.more {
            state.partial = Some(service);
            return Ok(Vec::new());
        }
        let known = state.services.get(&service.name);
        if known.is_some_and(|known| known.revision > revision) {
            return Ok(Vec::new());
        }
        if known.is_none() && state.services.len() >= SERVICES {
            return Err(Fault::Protocol(format!("more than {SERVICES} services")));
        }
        let service = Arc::new(service);
        state.services.insert(service.name.clone(), Arc::clone(&service));
        Ok(if hidden { Vec::new() } else { vec![Update::Snapshot(service)] })
    }

    fn delta(
        &mut self,
        name: &ServiceName,
        revision: u64,
        delta: Delta,
    ) -> Result<Vec<Update>, Fault> {
        let hidden = self.aside.is_some();
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        if state.partial.is_some() {
            return Err(Fault::Protocol(format!("a change of {name} came amid a snapshot")));
        }
        // A service that appears later begins with a change, as if it had been empty.
        let service = state
            .services
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Service::empty(name.clone(), 0)));
        if service.revision > revision {
            return Ok(Vec::new());
        }
        let changed = Arc::make_mut(service);
        changed.revision = revision;
        changed.exists = delta.service_exists;
        changed.fail_open = delta.fail_open;
        changed.protected = delta.protected;
        for removal in &delta.removed {
            changed.instances.remove(&removal.instance_id);
        }
        let upserted: Vec<_> = delta.upserted.into_iter().map(Arc::new).collect();
        for instance in &upserted {
            changed.instances.insert(instance.instance_id.clone(), Arc::clone(instance));
        }
        check_size(changed)?;
        let service = Arc::clone(service);
        Ok(if hidden {
            Vec::new()
        } else {
            vec![Update::Delta { service, upserted, removed: delta.removed }]
        })
    }

    fn bookmark(
        &mut self,
        revision: u64,
        bookmark: &Bookmark,
        by_pattern: bool,
        now: Instant,
    ) -> Result<Vec<Update>, Fault> {
        self.leader_known = bookmark.leader_known;
        self.staleness = bookmark.staleness.as_ref().and_then(crate::session::length);
        if self.is_other_history(revision, now) {
            return Err(Fault::OtherHistory);
        }
        let complete = bookmark.initial_state_complete;
        if complete && self.resumed.open {
            self.resumed.open = false;
            if by_pattern && self.resumed.snapshots && self.has_unmentioned() {
                return Err(Fault::Gap);
            }
        }
        if let Some(mut aside) = self.aside.take() {
            aside.revision = aside.revision.max(revision);
            aside.complete |= complete;
            if !aside.complete || (aside.revision < self.shown.revision && !self.obsolete) {
                self.aside = Some(aside);
                return Ok(Vec::new());
            }
            self.shown = aside;
            self.obsolete = false;
            self.grown = Some(now);
            return Ok(vec![Update::Reset(Arc::new(self.picture()))]);
        }
        self.shown.complete |= complete;
        if revision > self.shown.revision {
            self.shown.revision = revision;
            self.grown = Some(now);
        }
        Ok(vec![Update::Bookmark { revision: self.shown.revision }])
    }

    /// A node that was up to date `staleness` ago shows everything that anybody saw before that.
    fn is_other_history(&self, revision: u64, now: Instant) -> bool {
        let (Some(staleness), Some(grown), true, false) =
            (self.staleness, self.grown, self.leader_known, self.obsolete)
        else {
            return false;
        };
        revision < self.shown.revision && grown + staleness + HISTORY_MARGIN < now
    }

    fn has_unmentioned(&self) -> bool {
        let unmentioned = |s: &&Arc<Service>| s.exists && !self.resumed.mentioned.contains(&s.name);
        self.shown.services.values().any(|service| unmentioned(&service))
    }
}

impl Service {
    fn empty(name: ServiceName, revision: u64) -> Self {
        Self {
            name,
            revision,
            exists: false,
            fail_open: false,
            protected: false,
            instances: BTreeMap::new(),
        }
    }
}

fn named(service: Option<v1::ServiceName>) -> Result<ServiceName, Fault> {
    let name = service.unwrap_or_default();
    ServiceName::parse(&name.namespace, &name.service)
        .map_err(|invalid| Fault::Protocol(invalid.to_string()))
}

fn check_size(service: &Service) -> Result<(), Fault> {
    if service.instances.len() > INSTANCES {
        return Err(Fault::Protocol(format!("{}: more than {INSTANCES} instances", service.name)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {}
