//! The state as a sequence of parts, for the snapshot, and back.
//!
//! The order of the parts is fixed: events first, because instances and tombstones refer to theirs by revision.

use super::{Protection, Remembered, Retired, Service, State};
use crate::{
    checkers::Checkers,
    command::{Figure, RequestId},
    name::{InstanceName, Label, ServiceName},
    policy::Policy,
    record::{Admin, Event, History, LeaseState, Record, Scope, Subject, Tombstone},
    secret::ClusterSecret,
    signals::Utilization,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One piece of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Counters; always first.
    Header(Header),
    /// An event of the journal, or an older one that a history needs.
    Event(Arc<Event>),
    /// A service, before its instances.
    Service {
        /// Its name.
        name: ServiceName,
        /// Revision of its last change.
        revision: u64,
        /// Its policy.
        policy: Option<Arc<Policy>>,
        /// See [`Service::checks_since`].
        checks_since: u64,
        /// Cluster time at which it is forgotten, where it is idle.
        due_ms: Option<u64>,
    },
    /// A listed instance; its history is told by revisions.
    Instance {
        /// The record, its history empty.
        record: Arc<Record>,
        /// Revisions of its last events.
        history: Vec<u64>,
    },
    /// What is left of a removed instance.
    Tombstone {
        /// The tombstone, its history empty.
        tombstone: Arc<Tombstone>,
        /// Revisions of its last events.
        history: Vec<u64>,
        /// Cluster time at which it ends.
        due_ms: u64,
    },
    /// A lease handle that is gone.
    Retired {
        /// The handle.
        generation: u64,
        /// What a beat is answered.
        retired: Retired,
        /// Cluster time at which it is forgotten.
        due_ms: u64,
    },
    /// An operator's admin state.
    Override {
        /// For which name.
        name: Arc<InstanceName>,
        /// The state.
        admin: Arc<Admin>,
    },
    /// Lowest revision that a service of the namespace may show.
    Floor {
        /// Namespace; `None` = all.
        namespace: Option<Label>,
        /// Revision.
        revision: u64,
    },
    /// A remembered request.
    Request {
        /// Its id.
        id: RequestId,
        /// What it came to.
        remembered: Arc<Remembered>,
    },
    /// The secret of the cluster.
    Secret(ClusterSecret),
    /// A scope under protection.
    Protection {
        /// Which scope.
        scope: Scope,
        /// Since when and why.
        protection: Arc<Protection>,
    },
    /// The nodes that probe.
    Checkers(Arc<Checkers>),
    /// A lease that missed a beat, or that is released.
    Lease {
        /// The handle.
        generation: u64,
        /// Time it had left, ms.
        remaining_ms: Option<u32>,
        /// Held once, and released since.
        released: bool,
    },
    /// How busy an instance is; after the instances.
    Utilization {
        /// Its generation.
        generation: u64,
        /// By its own word.
        utilization: Utilization,
    },
}

/// The counters of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// See [`State::epoch`].
    pub epoch: u32,
    /// See [`State::revision`].
    pub revision: u64,
    /// Last generation given.
    pub generation: u64,
    /// See [`State::cluster_ms`].
    pub cluster_ms: u64,
    /// See [`State::hash`]; checked after loading.
    pub hash: u128,
    /// See [`State::journal_floor`].
    pub journal_floor: u64,
}

/// Parts that do not make a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// The first part is not the header, or another header follows.
    #[error("the header must come first, and once")]
    Header,
    /// The parts make another state than the one that was saved.
    #[error("the records hash to {found:032x}, the header says {expected:032x}")]
    Hash {
        /// By the header.
        expected: u128,
        /// Of what was loaded.
        found: u128,
    },
    /// A history names an event that is missing.
    #[error("event {revision} is missing, which the history of {name} needs")]
    Event {
        /// Whose history.
        name: Box<InstanceName>,
        /// Which event.
        revision: u64,
    },
    /// Two records where there can be one.
    #[error("{name} stands in the snapshot twice")]
    Twice {
        /// Which instance.
        name: Box<InstanceName>,
    },
}

impl State {
    /// The state as parts, in an order that [`Loader`] takes. Costs memory only for the part at hand.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        let floor = self.journal_floor();
        let header = Header {
            epoch: self.epoch,
            revision: self.revision,
            generation: self.generation,
            cluster_ms: self.cluster_ms,
            hash: self.hash,
            journal_floor: floor,
        };
        let records = || self.services.values().flat_map(|service| service.instances.values());
        let older = move |history: &History| -> Vec<Part> {
            let events = history.events().iter().filter(|event| event.revision <= floor);
            events.cloned().map(Part::Event).collect()
        };
        std::iter::once(Part::Header(header))
            .chain(records().flat_map(move |record| older(&record.history)))
            .chain(self.tombstones.values().flat_map(move |tombstone| older(&tombstone.history)))
            .chain(self.journal.iter().cloned().map(Part::Event))
            .chain(self.service_parts())
            .chain(self.kept_parts())
            .chain(self.secret.map(Part::Secret))
            .chain(self.lease_parts())
            .chain(self.utilization_parts())
    }

    fn service_parts(&self) -> impl Iterator<Item = Part> + '_ {
        self.services.values().flat_map(move |service| {
            let due = self.aging.services.get(&service.revision);
            let head = Part::Service {
                name: service.name.clone(),
                revision: service.revision,
                policy: service.policy.clone(),
                checks_since: service.checks_since,
                due_ms: due.filter(|_| service.is_idle()).map(|(due, _)| *due),
            };
            std::iter::once(head).chain(service.instances.values().map(|record| Part::Instance {
                record: Arc::new(Record { history: History::default(), ..Record::clone(record) }),
                history: revisions(&record.history),
            }))
        })
    }

    fn kept_parts(&self) -> impl Iterator<Item = Part> + '_ {
        let tombstones = self.aging.tombstones.values().filter_map(|(due_ms, name)| {
            let kept = self.tombstones.get(name)?;
            let history = revisions(&kept.history);
            let bare = Tombstone { history: History::default(), ..Tombstone::clone(kept) };
            Some(Part::Tombstone { tombstone: Arc::new(bare), history, due_ms: *due_ms })
        });
        let retired = self.aging.retired.iter().filter_map(|(due_ms, generation)| {
            let retired = self.retired.get(generation)?.clone();
            Some(Part::Retired { generation: *generation, retired, due_ms: *due_ms })
        });
        let requests = self.aging.requests.iter().filter_map(|(_, id)| {
            let remembered = self.requests.get(id)?.clone();
            Some(Part::Request { id: id.clone(), remembered })
        });
        let overrides = self
            .overrides
            .iter()
            .map(|(name, admin)| Part::Override { name: name.clone(), admin: admin.clone() });
        let floors = self.floors.iter().map(|(namespace, revision)| Part::Floor {
            namespace: Some(namespace.clone()),
            revision: *revision,
        });
        let all = (self.floor > 0).then_some(Part::Floor { namespace: None, revision: self.floor });
        tombstones.chain(retired).chain(requests).chain(overrides).chain(floors).chain(all)
    }

    fn lease_parts(&self) -> impl Iterator<Item = Part> + '_ {
        let protections = self.protections.iter().map(|(scope, protection)| Part::Protection {
            scope: scope.clone(),
            protection: protection.clone(),
        });
        let missed = self.checkpoints.iter().map(|(generation, remaining)| Part::Lease {
            generation: *generation,
            remaining_ms: Some(*remaining),
            released: false,
        });
        let released = self.released.iter().map(|generation| Part::Lease {
            generation: *generation,
            remaining_ms: None,
            released: true,
        });
        let named = self.checkers.epoch() > 0;
        let checkers = named.then(|| Part::Checkers(self.checkers.clone()));
        protections.chain(missed).chain(released).chain(checkers)
    }

    fn utilization_parts(&self) -> impl Iterator<Item = Part> + '_ {
        self.utilization.values().flat_map(|figures| {
            figures.iter().map(|(generation, utilization)| Part::Utilization {
                generation: *generation,
                utilization: *utilization,
            })
        })
    }
}

fn revisions(history: &History) -> Vec<u64> {
    history.events().iter().map(|event| event.revision).collect()
}

/// Builds a state from its parts.
#[derive(Debug)]
pub struct Loader {
    state: State,
    header: Option<Header>,
    /// Events in order of revision; those that came out of order stand in `older`.
    recent: Vec<Arc<Event>>,
    older: BTreeMap<u64, Arc<Event>>,
    /// The service whose instances are being added; it is not in the state meanwhile.
    open: Option<Service>,
    /// A name is decoded once for each event that is about it, and kept once.
    names: BTreeSet<Arc<InstanceName>>,
    services: BTreeSet<ServiceName>,
}

impl Loader {
    /// A loader for a state whose journal keeps `journal_limit` events.
    pub fn new(journal_limit: usize) -> Self {
        Self {
            state: State::new(journal_limit),
            header: None,
            recent: Vec::new(),
            older: BTreeMap::new(),
            open: None,
            names: BTreeSet::new(),
            services: BTreeSet::new(),
        }
    }

    /// Takes the next part.
    pub fn add(&mut self, part: Part) -> Result<(), Damaged> {
        if !matches!(part, Part::Instance { .. }) {
            self.close();
        }
        let state = &mut self.state;
        match part {
            Part::Header(header) => {
                if self.header.replace(header).is_some() {
                    return Err(Damaged::Header);
                }
                state.epoch = header.epoch;
                state.revision = header.revision;
                state.generation = header.generation;
                state.cluster_ms = header.cluster_ms;
            }
            _ if self.header.is_none() => return Err(Damaged::Header),
            Part::Event(event) => {
                let event = self.shared_event(event);
                if self.header.is_some_and(|header| event.revision > header.journal_floor) {
                    self.state.journal.push_back(event.clone());
                }
                match self.recent.last() {
                    Some(last) if last.revision >= event.revision => {
                        self.older.insert(event.revision, event);
                    }
                    Some(_) | None => self.recent.push(event),
                }
            }
            Part::Service { name, revision, policy, checks_since, due_ms } => {
                let mut service = Service::empty(name);
                service.revision = revision;
                service.policy = policy;
                service.checks_since = checks_since;
                if let Some(due_ms) = due_ms {
                    let idle = (due_ms, service.name.clone());
                    state.aging.services.insert(revision, idle);
                }
                self.open = Some(service);
            }
            Part::Instance { record, history } => self.instance(record, &history)?,
            Part::Tombstone { tombstone, history, due_ms } => {
                let history = self.history(&tombstone.name, &history)?;
                let name = self.shared_name(&tombstone.name);
                let tombstone = Tombstone { history, name, ..Tombstone::clone(&tombstone) };
                self.state.bury(Arc::new(tombstone), due_ms);
            }
            kept @ (Part::Retired { .. }
            | Part::Override { .. }
            | Part::Floor { .. }
            | Part::Request { .. }
            | Part::Secret(_)
            | Part::Protection { .. }
            | Part::Checkers(_)
            | Part::Lease { .. }
            | Part::Utilization { .. }) => self.kept(kept),
        }
        Ok(())
    }

    fn kept(&mut self, part: Part) {
        let state = &mut self.state;
        match part {
            Part::Retired { generation, retired, due_ms } => {
                state.retire(generation, retired, due_ms);
            }
            Part::Override { name, admin } => state.set_override(&name, Some(&admin)),
            Part::Floor { namespace: Some(namespace), revision } => {
                state.floors.insert(namespace, revision);
            }
            Part::Floor { namespace: None, revision } => state.floor = revision,
            Part::Request { id, remembered } => state.keep_request(id, remembered),
            Part::Secret(secret) => state.secret = Some(secret),
            Part::Protection { scope, protection } => {
                state.protections.insert(scope, protection);
            }
            Part::Checkers(checkers) => state.checkers = checkers,
            Part::Lease { generation, remaining_ms, released } => {
                if let Some(remaining) = remaining_ms {
                    state.checkpoints.insert(generation, remaining);
                }
                if released {
                    state.released.insert(generation);
                }
            }
            Part::Utilization { generation, utilization } => {
                // One whose instance is not here belongs to nothing, and would never go.
                state.take_figure(Figure { generation, utilization: Some(utilization) });
            }
            Part::Header(_)
            | Part::Event(_)
            | Part::Service { .. }
            | Part::Instance { .. }
            | Part::Tombstone { .. } => {}
        }
    }

    fn history(&self, name: &InstanceName, revisions: &[u64]) -> Result<History, Damaged> {
        let events = revisions.iter().map(|revision| {
            let missing = || Damaged::Event { name: Box::new(name.clone()), revision: *revision };
            let recent = self.recent.binary_search_by_key(revision, |event| event.revision);
            let recent = recent.ok().and_then(|at| self.recent.get(at));
            recent.or_else(|| self.older.get(revision)).cloned().ok_or_else(missing)
        });
        Ok(History::of(events.collect::<Result<_, _>>()?))
    }

    fn shared_event(&mut self, event: Arc<Event>) -> Arc<Event> {
        let Subject::Instance(name) = &event.subject else { return event };
        let shared = self.shared_name(name);
        if Arc::ptr_eq(&shared, name) {
            return event;
        }
        let subject = Subject::Instance(shared);
        Arc::new(Event { subject, ..Event::clone(&event) })
    }

    fn shared_name(&mut self, name: &Arc<InstanceName>) -> Arc<InstanceName> {
        // A decoder that holds on to its names has made each once: no need to look for another one.
        if Arc::strong_count(name) > 1 {
            return name.clone();
        }
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let service = match self.services.get(&name.service) {
            Some(known) => known.clone(),
            None => {
                self.services.insert(name.service.clone());
                name.service.clone()
            }
        };
        let name = Arc::new(InstanceName { service, id: name.id.clone() });
        self.names.insert(name.clone());
        name
    }

    fn instance(&mut self, record: Arc<Record>, history: &[u64]) -> Result<(), Damaged> {
        let history = self.history(&record.name, history)?;
        let name = self.shared_name(&record.name);
        if self.open.as_ref().is_some_and(|open| open.name != name.service) {
            self.close();
        }
        let state = &mut self.state;
        let mut service = match self.open.take() {
            Some(open) => open,
            None => match state.services.remove(&name.service) {
                Some(service) => {
                    // An instance makes the service count in the hash, where it did not before.
                    state.hash = state.hash.wrapping_sub(service.digest());
                    Arc::unwrap_or_clone(service)
                }
                None => Service::empty(name.service.clone()),
            },
        };
        if service.instances.contains_key(&name.id)
            || state.generations.contains_key(&record.generation)
        {
            return Err(Damaged::Twice { name: Box::new((*name).clone()) });
        }
        let mut record = Arc::unwrap_or_clone(record);
        if let Some((_, sibling)) = service.instances.get_max()
            && !record.spec.shares_with(&sibling.spec)
        {
            record.spec = Arc::new(record.spec.sharing_with(&sibling.spec));
        }
        let record = Record { name, history, ..record };
        state.list(record, &mut service);
        self.open = Some(service);
        Ok(())
    }

    /// The service at hand has all its instances.
    fn close(&mut self) {
        let Some(service) = self.open.take() else { return };
        let state = &mut self.state;
        state.hash = state.hash.wrapping_add(service.digest());
        state.services.insert(service.name.clone(), Arc::new(service));
    }

    /// The state, if its records are those that were saved.
    pub fn finish(mut self) -> Result<State, Damaged> {
        self.close();
        let header = self.header.ok_or(Damaged::Header)?;
        let mut state = self.state;
        if state.hash != header.hash {
            return Err(Damaged::Hash { expected: header.hash, found: state.hash });
        }
        while state.journal.len() > state.journal_limit {
            state.journal.pop_front();
        }
        debug_assert!(state.held.iter().all(|generation| {
            state.by_generation(*generation).is_some_and(|record| {
                record.lease.is_some_and(|lease| lease.state == LeaseState::Held)
            })
        }));
        Ok(state)
    }
}
