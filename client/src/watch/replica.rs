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
    /// Services of a pattern that are gone, and the revision at which: until no node can send their past any more.
    gone: BTreeMap<ServiceName, u64>,
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
                let updates = self.snapshot(&name, revision, snapshot)?;
                self.let_go(name, by_pattern);
                updates
            }
            Some(Event::Delta(delta)) => {
                let name = named(service)?;
                self.mention(&name);
                let updates = self.delta(&name, revision, delta)?;
                self.let_go(name, by_pattern);
                updates
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

    /// A pattern covers what exists: a service that does not is not kept, or names without end would pile up.
    fn let_go(&mut self, name: ServiceName, by_pattern: bool) {
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        match state.services.get(&name) {
            Some(service) if by_pattern && !service.exists => {
                let revision = service.revision;
                state.services.remove(&name);
                state.gone.insert(name, revision);
            }
            Some(_) => {
                state.gone.remove(&name);
            }
            None => {}
        }
    }

    fn mention(&mut self, name: &ServiceName) {
        if self.resumed.open {
            self.resumed.mentioned.insert(name.clone());
        }
    }

    fn snapshot(
        &mut self,
        name: &ServiceName,
        revision: u64,
        part: Snapshot,
    ) -> Result<Vec<Update>, Fault> {
        let hidden = self.aside.is_some();
        let state = self.aside.as_mut().unwrap_or(&mut self.shown);
        let mut service = match state.partial.take() {
            Some(begun) if begun.name == *name && begun.revision == revision => begun,
            Some(begun) => {
                let problem = format!("a part of {name} came among those of {}", begun.name);
                return Err(Fault::Protocol(problem));
            }
            None => Service::empty(name.clone(), revision),
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
        if state.revision_of(name) > revision {
            return Ok(Vec::new());
        }
        state.check_room(name)?;
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
        if state.revision_of(name) > revision {
            return Ok(Vec::new());
        }
        state.check_room(name)?;
        // A service that appears later may begin with a change, as if it had been empty.
        let service = state
            .services
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Service::empty(name.clone(), 0)));
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

impl State {
    /// The revision up to which a service is known; 0 = not at all.
    fn revision_of(&self, name: &ServiceName) -> u64 {
        let known = self.services.get(name).map(|service| service.revision);
        known.or_else(|| self.gone.get(name).copied()).unwrap_or(0)
    }

    fn check_room(&self, name: &ServiceName) -> Result<(), Fault> {
        if self.services.len() >= SERVICES && !self.services.contains_key(name) {
            return Err(Fault::Protocol(format!("more than {SERVICES} services")));
        }
        Ok(())
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
mod tests {
    // Random orders of true messages, as nodes ahead and behind would send them: what is shown never goes back, and
    // ends at the newest state.
    use super::*;
    use crate::dice::Dice;
    use std::collections::BTreeMap;

    /// The true history of one service: what it holds at each revision. Revision `r` sets instance `r % 5`, or removes
    /// it where `r` is a multiple of three.
    fn truth(revision: u64) -> BTreeMap<String, u64> {
        let mut held = BTreeMap::new();
        for r in 1..=revision {
            let id = format!("i{}", r % 5);
            if r % 3 == 0 {
                held.remove(&id)
            } else {
                held.insert(id, r)
            };
        }
        held
    }

    fn instance(id: &str, revision: u64) -> v1::Instance {
        v1::Instance { instance_id: id.to_owned(), revision, ..Default::default() }
    }

    fn message(revision: u64, event: Event) -> v1::WatchResponse {
        let service = match event {
            Event::Bookmark(_) => None,
            Event::Snapshot(_) | Event::Delta(_) => {
                Some(v1::ServiceName { service: "web".to_owned(), ..Default::default() })
            }
        };
        v1::WatchResponse { revision, service, resume_token: vec![1], event: Some(event) }
    }

    fn snapshot(revision: u64) -> v1::WatchResponse {
        let instances = truth(revision).iter().map(|(id, r)| instance(id, *r)).collect();
        message(revision, Event::Snapshot(Snapshot { instances, ..Default::default() }))
    }

    /// What a node sends that was at `from` and is at `to`: instances changed since, with their whole state.
    fn delta(from: u64, to: u64) -> v1::WatchResponse {
        let (mut upserted, mut removed) = (Vec::new(), Vec::new());
        let now = truth(to);
        let changed: BTreeSet<_> = (from + 1..=to).map(|r| format!("i{}", r % 5)).collect();
        for id in changed {
            match now.get(&id) {
                Some(revision) => upserted.push(instance(&id, *revision)),
                None => removed
                    .push(v1::watch_response::Removal { instance_id: id, ..Default::default() }),
            }
        }
        message(to, Event::Delta(Delta { upserted, removed, ..Default::default() }))
    }

    fn bookmark(revision: u64) -> v1::WatchResponse {
        message(
            revision,
            Event::Bookmark(Bookmark { initial_state_complete: true, ..Default::default() }),
        )
    }

    fn shown(replica: &Replica) -> Option<(u64, BTreeMap<String, u64>)> {
        let picture = replica.picture();
        let web = picture.services.values().next()?;
        let held = web.instances.iter().map(|(id, i)| (id.clone(), i.revision)).collect();
        Some((web.revision, held))
    }

    #[test]
    fn whatever_node_is_asked_the_shown_state_is_a_true_one_and_never_goes_back() {
        for seed in 0..200_u8 {
            let dice = Dice::from_seed([seed; 32]);
            let draw =
                |below: u64| u64::from_be_bytes(dice.nonce()[..8].try_into().unwrap()) % below;
            let mut replica = Replica::default();
            let (mut newest, now) = (0, Instant::now());
            for _ in 0..20 {
                // A stream to a node that is at any revision, also an older one than was shown.
                let resumed = !replica.begin().is_empty();
                let mut at = draw(40);
                let mut messages = vec![snapshot(at), bookmark(at)];
                for _ in 0..draw(5) {
                    let next = at + 1 + draw(6);
                    messages.push(delta(at, next));
                    at = next;
                }
                messages.truncate(1 + usize::try_from(draw(7)).unwrap());
                for message in messages {
                    let before = shown(&replica).map_or(0, |(revision, _)| revision);
                    replica.receive(message, false, now).unwrap();
                    let Some((revision, held)) = shown(&replica) else { continue };
                    assert!(revision >= before, "seed {seed}: from {before} to {revision}");
                    assert_eq!(
                        held,
                        truth(revision),
                        "seed {seed} at {revision}, resumed: {resumed}"
                    );
                    newest = newest.max(revision);
                }
            }
            assert_eq!(shown(&replica).map_or(0, |(revision, _)| revision), newest);
        }
    }

    #[test]
    fn a_pattern_lets_go_of_services_that_are_gone_and_is_not_fooled_by_their_past() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        replica.begin();
        let exists = |revision, service_exists| {
            message(revision, Event::Delta(Delta { service_exists, ..Default::default() }))
        };
        let services = |replica: &Replica| replica.picture().services.len();
        replica.receive(exists(5, true), true, now).unwrap();
        assert_eq!(services(&replica), 1);
        replica.receive(exists(7, false), true, now).unwrap();
        assert_eq!(services(&replica), 0);
        replica.receive(exists(6, true), true, now).unwrap();
        assert_eq!(services(&replica), 0, "what a node behind says of it is over");
        replica.receive(bookmark(7), true, now).unwrap();
        assert!(replica.shown.gone.is_empty(), "no node that takes the token is behind it");
        replica.receive(exists(9, true), true, now).unwrap();
        assert_eq!(services(&replica), 1);
        replica.receive(exists(10, false), false, now).unwrap();
        assert_eq!(services(&replica), 1, "asked for by name it is shown as not existing");
    }

    #[test]
    fn more_instances_than_any_registry_holds_are_refused() {
        let mut replica = Replica::default();
        replica.begin();
        let part = |from: usize| {
            let instances = (from..from + 50_000).map(|i| instance(&i.to_string(), 1)).collect();
            message(1, Event::Snapshot(Snapshot { more: true, instances, ..Default::default() }))
        };
        let now = Instant::now();
        assert!(replica.receive(part(0), false, now).is_ok());
        assert!(replica.receive(part(50_000), false, now).is_ok());
        let fault = replica.receive(part(100_000), false, now).unwrap_err();
        assert!(matches!(fault, Fault::Protocol(problem) if problem.contains("web")));
    }

    #[test]
    fn a_message_without_event_or_name_is_refused() {
        let mut replica = Replica::default();
        replica.begin();
        let now = Instant::now();
        let empty = v1::WatchResponse::default();
        assert!(matches!(replica.receive(empty, false, now), Err(Fault::Protocol(_))));
        let nameless = v1::WatchResponse { service: None, ..snapshot(1) };
        assert!(matches!(replica.receive(nameless, false, now), Err(Fault::Protocol(_))));
    }
}
