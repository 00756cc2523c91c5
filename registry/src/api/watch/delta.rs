//! The difference between two states of a service as a watcher sees it, encoded once and shared by all that need it.

use crate::api::{
    answer::{WATCH_INSTANCES, encode_instance},
    kept::{Kept, Weigh},
};
use bytes::{Bytes, BytesMut};
use imbl::ordmap::DiffItem;
use prost::{Message, encoding};
use rollcall_core::{
    Service, State,
    name::{InstanceId, InstanceName, ServiceName},
    query::{Filter, HealthFilter, fails_open, select},
    record::{Reason, Record},
};
use rollcall_proto::{convert, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

/// Largest part of a snapshot, by its instances.
const PART_BYTES: usize = 1 << 20;
/// Field numbers of `WatchResponse.snapshot` and `.delta`.
const SNAPSHOT: u32 = 4;
const DELTA: u32 = 5;

/// How one watcher last saw a service.
#[derive(Debug, Clone)]
pub struct SeenService {
    /// The service; `None` = it did not exist.
    pub service: Option<Arc<Service>>,
    /// Its revision, also where it is gone.
    pub revision: u64,
    /// Whether it stood under protection.
    pub protected: bool,
}

impl SeenService {
    /// How the service looks now.
    pub fn now(state: &State, name: &ServiceName) -> Self {
        Self {
            service: state.service(name).cloned(),
            revision: state.service_revision(name),
            protected: state.is_protected(name),
        }
    }

    /// Whether it has instances or a policy.
    pub fn exists(&self) -> bool {
        self.service.as_ref().is_some_and(|service| !service.is_idle())
    }

    fn fails_open(&self, filter: &Filter) -> bool {
        filter.health != HealthFilter::Any
            && self.service.as_ref().is_some_and(|service| fails_open(service))
    }

    /// Whether it may fail open by its policy.
    pub fn may_fail_open(&self) -> bool {
        let policy = self.service.as_ref().and_then(|service| service.policy.as_ref());
        policy.is_some_and(|policy| policy.fail_open_below.is_some())
    }

    /// Whether nothing at all has changed.
    pub fn is_same(&self, other: &Self) -> bool {
        self.protected == other.protected
            && self.revision == other.revision
            && self.exists() == other.exists()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    filter: Filter,
    /// `None` = a snapshot.
    from: Option<(u64, bool)>,
    /// Whether it stood under protection; the revision is that of all that is kept.
    protected: bool,
}

type Messages = Arc<[Bytes]>;

impl Weigh for Messages {
    fn bytes(&self) -> usize {
        self.iter().map(Bytes::len).sum()
    }
}

/// The place in the history of a cluster at which a watch may resume: cluster, epoch, revision.
pub type Place = (Option<u128>, u32, u64);

/// Messages of a node that watchers share.
#[derive(Debug, Default)]
pub struct Messenger {
    kept: Kept<Key, Messages>,
    /// The last resume token, as the end of a message: nearly all watchers are at the same place.
    token: Mutex<(Place, Bytes)>,
}

impl Messenger {
    /// The end of a message after which a watch may resume at `place`; `token` makes its token.
    pub fn resumable(&self, place: Place, token: impl FnOnce() -> Vec<u8>) -> Bytes {
        let mut last = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != place || last.1.is_empty() {
            let end = v1::WatchResponse { resume_token: token(), ..Default::default() };
            *last = (place, end.encode_to_vec().into());
        }
        last.1.clone()
    }

    /// The state of a service in parts of at most 1 MiB.
    pub fn snapshot(&self, name: &ServiceName, now: &SeenService, filter: &Filter) -> Messages {
        let key = Key { filter: filter.clone(), from: None, protected: now.protected };
        self.kept.get(name, now.revision, key, |key| snapshot(name, now, &key.filter).into())
    }

    /// What changed between two looks; empty where the watcher sees no difference. `state` tells why something went;
    /// it may be newer than `now`.
    pub fn delta(
        &self,
        name: &ServiceName,
        before: &SeenService,
        now: &SeenService,
        state: &State,
        filter: &Filter,
    ) -> Messages {
        let from = Some((before.revision, before.protected));
        let key = Key { filter: filter.clone(), from, protected: now.protected };
        self.kept.get(name, now.revision, key, |key| {
            let filter = &key.filter;
            let change = change(before, now, filter);
            let flags = before.protected != now.protected
                || before.exists() != now.exists()
                || before.fails_open(filter) != now.fails_open(filter);
            if change.is_empty() && !flags {
                return Vec::new().into();
            }
            vec![encode_delta(name, now, state, filter, &change)].into()
        })
    }
}

#[derive(Debug, Default)]
struct ServiceChange {
    upserted: Vec<Arc<Record>>,
    removed: Vec<InstanceId>,
}

impl ServiceChange {
    fn is_empty(&self) -> bool {
        self.upserted.is_empty() && self.removed.is_empty()
    }
}

fn change(before: &SeenService, now: &SeenService, filter: &Filter) -> ServiceChange {
    let mut change = ServiceChange::default();
    if before.fails_open(filter) || now.fails_open(filter) {
        let visible = |seen: &SeenService| -> BTreeMap<InstanceId, Arc<Record>> {
            let records = seen.service.as_ref().map(|service| select(service, filter).records);
            let records = records.unwrap_or_default().into_iter();
            records.map(|record| (record.name.id.clone(), record)).collect()
        };
        let (before, now) = (visible(before), visible(now));
        change.removed = before.keys().filter(|id| !now.contains_key(*id)).cloned().collect();
        let new = now.into_iter().filter(|(id, record)| {
            before.get(id).is_none_or(|old| old.revision != record.revision)
        });
        change.upserted = new.map(|(_, record)| record).collect();
        return change;
    }
    let empty = imbl::OrdMap::new();
    let instances = |seen: &SeenService| {
        seen.service.as_ref().map_or_else(|| empty.clone(), |service| service.instances.clone())
    };
    let (before, now) = (instances(before), instances(now));
    for item in before.diff(&now) {
        match item {
            DiffItem::Add(_, record) => {
                if filter.matches(record) {
                    change.upserted.push(record.clone());
                }
            }
            DiffItem::Remove(id, record) => {
                if filter.matches(record) {
                    change.removed.push(id.clone());
                }
            }
            DiffItem::Update { old: (id, old), new: (_, new) } => {
                if old.revision == new.revision {
                    continue;
                }
                if filter.matches(new) {
                    change.upserted.push(new.clone());
                } else if filter.matches(old) {
                    change.removed.push(id.clone());
                }
            }
        }
    }
    change
}

/// What a watcher that resumes has missed of a service that did not fail open meanwhile, told by the instances that
/// were touched. It may be told of the removal of an instance that it never saw; that is harmless, and better than to
/// keep what every watcher saw.
pub fn missed(
    name: &ServiceName,
    now: &SeenService,
    state: &State,
    filter: &Filter,
    touched: &BTreeSet<InstanceId>,
) -> Bytes {
    let mut change = ServiceChange::default();
    for id in touched {
        let record = now.service.as_ref().and_then(|service| service.instances.get(id));
        match record.filter(|record| filter.matches(record)) {
            Some(record) => change.upserted.push(record.clone()),
            None => change.removed.push(id.clone()),
        }
    }
    encode_delta(name, now, state, filter, &change)
}

fn wire_name(name: &ServiceName) -> v1::ServiceName {
    v1::ServiceName {
        namespace: name.namespace.as_str().into(),
        service: name.service.as_str().into(),
    }
}

/// A `WatchResponse` around an event that is encoded already.
fn wrap(name: &ServiceName, now: &SeenService, number: u32, event: &[u8]) -> Bytes {
    let (revision, service) = (now.revision, Some(wire_name(name)));
    let head = v1::WatchResponse { revision, service, ..Default::default() };
    let mut bytes = BytesMut::with_capacity(event.len() + 160);
    head.encode(&mut bytes).expect("a growing buffer takes any message");
    encoding::encode_key(number, encoding::WireType::LengthDelimited, &mut bytes);
    encoding::encode_varint(event.len() as u64, &mut bytes);
    bytes.extend_from_slice(event);
    bytes.freeze()
}

fn snapshot(name: &ServiceName, now: &SeenService, filter: &Filter) -> Vec<Bytes> {
    let selection = now.service.as_ref().map(|service| select(service, filter));
    let fail_open = selection.as_ref().is_some_and(|selection| selection.fail_open);
    let records = selection.map(|selection| selection.records).unwrap_or_default();
    let head = |more: bool| {
        let snapshot = v1::watch_response::Snapshot {
            more,
            service_exists: now.exists(),
            fail_open,
            protected: now.protected,
            instances: Vec::new(),
        };
        BytesMut::from(&snapshot.encode_to_vec()[..])
    };
    let mut parts = Vec::new();
    let mut instances = BytesMut::new();
    for record in &records {
        let mut one = BytesMut::new();
        encode_instance(WATCH_INSTANCES, record, &mut one);
        if !instances.is_empty() && instances.len() + one.len() > PART_BYTES {
            let mut part = head(true);
            part.extend_from_slice(&instances);
            parts.push(wrap(name, now, SNAPSHOT, &part));
            instances.clear();
        }
        instances.extend_from_slice(&one);
    }
    let mut part = head(false);
    part.extend_from_slice(&instances);
    parts.push(wrap(name, now, SNAPSHOT, &part));
    parts
}

/// Why an instance is no longer in the list.
fn removal(
    name: &ServiceName,
    now: &SeenService,
    state: &State,
    id: &InstanceId,
) -> v1::watch_response::Removal {
    let listed = now.service.as_ref().and_then(|service| service.instances.get(id));
    let reason: Option<Reason> = match listed {
        Some(record) => record.history.events().last().map(|event| event.reason),
        None => {
            let instance = InstanceName { service: name.clone(), id: id.clone() };
            let buried = state.tombstone(&instance).map(|tombstone| tombstone.reason);
            // The state may be newer, and the instance back.
            buried.or_else(|| {
                let events = state.instance(&instance)?.history.events();
                events.iter().rev().find(|event| event.to.is_none()).map(|event| event.reason)
            })
        }
    };
    v1::watch_response::Removal {
        instance_id: id.to_string(),
        reason: reason.map_or(v1::EventReason::Unspecified, convert::event_reason).into(),
        still_registered: listed.is_some(),
    }
}

fn encode_delta(
    name: &ServiceName,
    now: &SeenService,
    state: &State,
    filter: &Filter,
    change: &ServiceChange,
) -> Bytes {
    let head = v1::watch_response::Delta {
        service_exists: now.exists(),
        fail_open: now.fails_open(filter),
        protected: now.protected,
        removed: change.removed.iter().map(|id| removal(name, now, state, id)).collect(),
        upserted: Vec::new(),
    };
    let mut delta = BytesMut::from(&head.encode_to_vec()[..]);
    for record in &change.upserted {
        encode_instance(WATCH_INSTANCES, record, &mut delta);
    }
    wrap(name, now, DELTA, &delta)
}
