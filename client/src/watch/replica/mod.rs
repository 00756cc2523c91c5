//! What a watch knows: applies messages, puts parts together, refuses to go back. Pure.
//!
//! Bounded whatever a node sends: names outside the selection are refused, and so is more than the selection's limit
//! of bytes; what was shown before stays.
//!
//! Two rules make it safe to take messages from any node after any break. A message about a service at a revision
//! below the one shown is skipped: instances come with their whole state, so what follows it still fits. And a start
//! from nothing is built aside and shown only when it is complete and not older.

use super::{Origin, Picture, Service, Target, Update, figures::Told};
use prost::Message as _;
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
/// Most services of one watch, and most names of those that are gone; a registry holds at most 100,000.
const SERVICES: usize = 200_000;
/// What an instance or a service takes besides its content, about.
const OVERHEAD_BYTES: usize = 128;
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
#[derive(Debug)]
pub(super) struct Replica {
    target: Target,
    /// Most bytes of each state, as they came.
    bytes_max: usize,
    shown: State,
    /// Where the shown state comes from.
    origin: Origin,
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
    told: Told,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    /// The highest revision of a service.
    highest: u64,
    complete: bool,
    services: BTreeMap<ServiceName, Arc<Service>>,
    /// What the instances of each service take.
    sizes: BTreeMap<ServiceName, usize>,
    /// The sum of it.
    bytes: usize,
    /// Services of a pattern that are gone, and the revision at which: until no node can send their past any more.
    gone: BTreeMap<ServiceName, u64>,
    partial: Option<Partial>,
}

/// A service whose parts are not all here yet.
#[derive(Debug)]
struct Partial {
    service: Service,
    bytes: usize,
}

/// What a bookmark tells of one service.
type Figures = (ServiceName, Vec<v1::InstanceUtilization>);

/// What came since a stream was resumed, up to its first bookmark.
#[derive(Debug, Default)]
struct Resumed {
    open: bool,
    snapshots: bool,
    mentioned: BTreeSet<ServiceName>,
}

impl Replica {
    /// Knows nothing yet.
    pub(super) fn new(target: Target, bytes_max: usize) -> Self {
        Self {
            target,
            bytes_max,
            shown: State::default(),
            origin: Origin::Registry,
            aside: None,
            obsolete: false,
            token: Vec::new(),
            grown: None,
            resumed: Resumed::default(),
            leader_known: false,
            staleness: None,
            told: Told::default(),
        }
    }

    /// Starts with what was known elsewhere: services as snapshots, and the token of a registry that may go on from
    /// there. Without one, whatever a registry shows replaces it. Errors as of a stream.
    pub(super) fn stand_in(
        &mut self,
        origin: Origin,
        services: impl IntoIterator<Item = v1::WatchResponse>,
        (revision, token): (u64, Vec<u8>),
        now: Instant,
    ) -> Result<(), Fault> {
        for service in services {
            self.receive(service, now)?;
        }
        self.shown.complete = match &self.target {
            Target::Services(names) => {
                names.iter().all(|name| self.shown.services.contains_key(name))
            }
            Target::Pattern { .. } => true,
        };
        self.shown.revision = revision;
        (self.origin, self.grown) = (origin, Some(now));
        self.obsolete = token.is_empty();
        self.token = token;
        Ok(())
    }

    /// A new stream begins. Returns the token to resume with; empty = from nothing.
    pub(super) fn begin(&mut self) -> Vec<u8> {
        self.shown.partial = None;
        self.told.begin();
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

    /// Applies one message; returns what to tell the reader.
    pub(super) fn receive(
        &mut self,
        message: v1::WatchResponse,
        now: Instant,
    ) -> Result<Vec<Update>, Fault> {
        let v1::WatchResponse { revision, service, resume_token, event } = message;
        let updates = match event {
            Some(Event::Snapshot(snapshot)) => {
                let name = self.named(service)?;
                self.resumed.snapshots = true;
                self.mention(&name)?;
                let updates = self.snapshot(&name, revision, snapshot, now)?;
                self.let_go(name)?;
                updates
            }
            Some(Event::Delta(delta)) => {
                let name = self.named(service)?;
                self.mention(&name)?;
                let updates = self.delta(&name, revision, delta, now)?;
                self.let_go(name)?;
                updates
            }
            Some(Event::Bookmark(mut bookmark)) => {
                // Before anything is changed: a message that is refused leaves no trace, and nothing to tell is lost.
                let told = self.figures(std::mem::take(&mut bookmark.utilization))?;
                let updates = self.bookmark(revision, &bookmark, now)?;
                self.utilization(told);
                updates
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
            utilization: self.told.figures.clone(),
            origin: self.origin,
            resume: self.token.clone(),
            ..Picture::default()
        }
    }

    /// A registry has shown all of it, and it is shown.
    pub(super) fn is_whole(&self) -> bool {
        let whole = self.shown.complete && !self.resumed.open;
        whole && self.aside.is_none() && !self.origin.is_stand_in()
    }

    /// The services that are shown.
    pub(super) fn services(&self) -> &BTreeMap<ServiceName, Arc<Service>> {
        &self.shown.services
    }

    fn by_pattern(&self) -> bool {
        matches!(self.target, Target::Pattern { .. })
    }

    /// A pattern covers what exists: a service that does not is not kept, or names without end would pile up.
    fn let_go(&mut self, name: ServiceName) -> Result<(), Fault> {
        let by_pattern = self.by_pattern();
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        match state.services.get(&name) {
            Some(service) if by_pattern && !service.exists => {
                let revision = service.revision;
                state.remove(&name);
                if state.gone.len() >= SERVICES {
                    return Err(Fault::Protocol(format!("more than {SERVICES} services are gone")));
                }
                state.gone.insert(name, revision);
            }
            Some(_) => {
                state.gone.remove(&name);
            }
            None => {}
        }
        Ok(())
    }

    fn mention(&mut self, name: &ServiceName) -> Result<(), Fault> {
        if self.resumed.open {
            if self.resumed.mentioned.len() >= SERVICES {
                return Err(Fault::Protocol(format!("more than {SERVICES} services are named")));
            }
            self.resumed.mentioned.insert(name.clone());
        }
        Ok(())
    }

    fn named(&self, service: Option<v1::ServiceName>) -> Result<ServiceName, Fault> {
        let name = service.unwrap_or_default();
        let name = ServiceName::parse(&name.namespace, &name.service)
            .map_err(|invalid| Fault::Protocol(invalid.to_string()))?;
        if self.target.covers(&name) {
            Ok(name)
        } else {
            Err(Fault::Protocol(format!("{name} was not asked for")))
        }
    }

    fn snapshot(
        &mut self,
        name: &ServiceName,
        revision: u64,
        part: Snapshot,
        now: Instant,
    ) -> Result<Vec<Update>, Fault> {
        let (hidden, bytes_max) = (self.aside.is_some(), self.bytes_max);
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        let begun = state.partial.take();
        let Partial { mut service, bytes } = match begun {
            Some(begun) if begun.service.name == *name && begun.service.revision == revision => {
                begun
            }
            Some(begun) => {
                let begun = begun.service.name;
                let problem = format!("a part of {name} came among those of {begun}");
                return Err(Fault::Protocol(problem));
            }
            None => Partial { service: Service::empty(name.clone(), revision), bytes: 0 },
        };
        let bytes = bytes + part.instances.iter().map(weight).sum::<usize>();
        check_size(&service, part.instances.len())?;
        state.check_room(name, bytes, bytes_max)?;
        service.exists = part.service_exists;
        service.fail_open = part.fail_open;
        service.protected = part.protected;
        let instances = part.instances.into_iter();
        service.instances.extend(instances.map(|i| (i.instance_id.clone(), Arc::new(i))));
        if part.more {
            state.partial = Some(Partial { service, bytes });
            return Ok(Vec::new());
        }
        if state.revision_of(name) > revision {
            return Ok(Vec::new());
        }
        let service = Arc::new(service);
        state.insert(Arc::clone(&service), bytes);
        self.grew(hidden, revision, now);
        Ok(if hidden { Vec::new() } else { vec![Update::Snapshot(service)] })
    }

    fn delta(
        &mut self,
        name: &ServiceName,
        revision: u64,
        delta: Delta,
        now: Instant,
    ) -> Result<Vec<Update>, Fault> {
        let (hidden, bytes_max) = (self.aside.is_some(), self.bytes_max);
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        if state.partial.is_some() {
            return Err(Fault::Protocol(format!("a change of {name} came amid a snapshot")));
        }
        if state.revision_of(name) > revision {
            return Ok(Vec::new());
        }
        // A service that appears later may begin with a change, as if it had been empty.
        let mut service = match state.services.get(name) {
            Some(service) => Arc::clone(service),
            None => Arc::new(Service::empty(name.clone(), 0)),
        };
        let mut bytes = state.sizes.get(name).copied().unwrap_or_default();
        let added = delta.upserted.iter().map(weight).sum::<usize>();
        // Before anything is changed: a message that is refused leaves no trace.
        check_size(&service, delta.upserted.len())?;
        state.check_room(name, bytes + added, bytes_max)?;
        // Its place in the state is given up, so that it is changed and not copied where nobody else holds it.
        state.services.remove(name);
        let changed = Arc::make_mut(&mut service);
        changed.revision = revision;
        changed.exists = delta.service_exists;
        changed.fail_open = delta.fail_open;
        changed.protected = delta.protected;
        for removal in &delta.removed {
            let removed = changed.instances.remove(&removal.instance_id);
            bytes -= removed.map_or(0, |removed| weight(&removed));
        }
        let upserted: Vec<_> = delta.upserted.into_iter().map(Arc::new).collect();
        for instance in &upserted {
            bytes += weight(instance);
            let id = instance.instance_id.clone();
            let replaced = changed.instances.insert(id, Arc::clone(instance));
            bytes -= replaced.map_or(0, |replaced| weight(&replaced));
        }
        state.insert(Arc::clone(&service), bytes);
        self.grew(hidden, revision, now);
        Ok(if hidden {
            Vec::new()
        } else {
            vec![Update::Delta { service, upserted, removed: delta.removed }]
        })
    }

    fn grew(&mut self, hidden: bool, revision: u64, now: Instant) {
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        if revision > state.highest {
            state.highest = revision;
            if !hidden {
                self.grown = Some(now);
            }
        }
    }

    fn bookmark(
        &mut self,
        revision: u64,
        bookmark: &Bookmark,
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
            if self.by_pattern() && self.resumed.snapshots && self.has_unmentioned() {
                return Err(Fault::Gap);
            }
        }
        // What stood in was not told, or only as such: now it is the registry's word.
        let confirmed = complete && self.aside.is_none() && self.origin.is_stand_in();
        if confirmed {
            self.origin = Origin::Registry;
        }
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        state.gone.retain(|_, at| *at > revision);
        if let Some(mut aside) = self.aside.take() {
            aside.revision = aside.revision.max(revision);
            aside.complete |= complete;
            if !aside.complete || (aside.revision < self.shown.revision && !self.obsolete) {
                self.aside = Some(aside);
                return Ok(Vec::new());
            }
            self.shown = aside;
            self.origin = Origin::Registry;
            self.obsolete = false;
            self.grown = Some(now);
            return Ok(vec![Update::Reset(Arc::new(self.picture()))]);
        }
        self.shown.complete |= complete;
        if revision > self.shown.revision {
            self.shown.revision = revision;
            self.grown = Some(now);
        }
        Ok(vec![if confirmed {
            Update::Reset(Arc::new(self.picture()))
        } else {
            Update::Bookmark { revision: self.shown.revision }
        }])
    }

    /// Figures by the names of their services, all of which were asked for.
    fn figures(&self, told: Vec<v1::ServiceUtilization>) -> Result<Vec<Figures>, Fault> {
        let figures = |v1::ServiceUtilization { service, instances }| {
            self.named(service).map(|name| (name, instances))
        };
        told.into_iter().map(figures).collect()
    }

    fn utilization(&mut self, told: Vec<Figures>) {
        let services = &self.aside.as_ref().unwrap_or(&self.shown).services;
        self.told.bookmark(services);
        for (name, figures) in told {
            if let Some(service) = services.get(&name) {
                self.told.take(service, figures);
            }
        }
    }

    /// A node that was up to date `staleness` ago shows everything that anybody saw before that.
    fn is_other_history(&self, revision: u64, now: Instant) -> bool {
        let (Some(staleness), Some(grown), true, false) =
            (self.staleness, self.grown, self.leader_known, self.obsolete)
        else {
            return false;
        };
        let seen = self.shown.revision.max(self.shown.highest);
        // A staleness beyond all time is a way of saying that nothing is known.
        let known_by = grown.checked_add(staleness.saturating_add(HISTORY_MARGIN));
        revision < seen && known_by.is_some_and(|at| at < now)
    }

    fn has_unmentioned(&self) -> bool {
        let unmentioned = |s: &&Arc<Service>| s.exists && !self.resumed.mentioned.contains(&s.name);
        self.shown.services.values().any(|service| unmentioned(&service))
    }
}

impl State {
    /// The revision up to which a service is known; 0 = not at all.
    fn revision_of(&self, name: &ServiceName) -> u64 {
        let known = self.services.get(name).map(|service| service.revision);
        known.or_else(|| self.gone.get(name).copied()).unwrap_or(0)
    }

    fn check_room(&self, name: &ServiceName, bytes: usize, bytes_max: usize) -> Result<(), Fault> {
        let known = self.services.contains_key(name);
        if self.services.len() >= SERVICES && !known {
            return Err(Fault::Protocol(format!("more than {SERVICES} services")));
        }
        let others = self.bytes - self.sizes.get(name).copied().unwrap_or_default();
        let names = (self.services.len() + 1) * OVERHEAD_BYTES;
        if others + bytes + names > bytes_max {
            let problem = format!(
                "more than the limit of {bytes_max} bytes: watch fewer services, or raise it with \
                 Selection::bytes_max"
            );
            return Err(Fault::Protocol(problem));
        }
        Ok(())
    }

    fn insert(&mut self, service: Arc<Service>, bytes: usize) {
        let before = self.sizes.insert(service.name.clone(), bytes);
        self.bytes = self.bytes + bytes - before.unwrap_or_default();
        self.services.insert(service.name.clone(), service);
    }

    fn remove(&mut self, name: &ServiceName) {
        self.services.remove(name);
        self.bytes -= self.sizes.remove(name).unwrap_or_default();
    }
}

impl Service {
    pub(super) fn empty(name: ServiceName, revision: u64) -> Self {
        Self {
            name,
            revision,
            exists: false,
            fail_open: false,
            protected: false,
            instances: BTreeMap::new(),
            held: BTreeSet::new(),
        }
    }
}

fn check_size(service: &Service, more: usize) -> Result<(), Fault> {
    if service.instances.len() + more > INSTANCES {
        return Err(Fault::Protocol(format!("{}: more than {INSTANCES} instances", service.name)));
    }
    Ok(())
}

/// What an instance takes, about.
fn weight(instance: &v1::Instance) -> usize {
    instance.encoded_len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
