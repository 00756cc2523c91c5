//! Who must look again after a batch was applied.
//!
//! Each watcher has a set of services that changed since it last looked. A watcher that does not read costs that set
//! and nothing else: it skips intermediate states, never the final one, and never blocks anyone.

use crate::raft::Published;
use rollcall_core::{
    name::{Label, ServiceName},
    record::{Scope, Subject},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// What a watcher watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// These services, existing or not.
    Services(BTreeSet<ServiceName>),
    /// Services of a namespace whose name begins so, also those that come later.
    Pattern {
        /// The namespace.
        namespace: Label,
        /// Beginning of the name; empty = all.
        prefix: Arc<str>,
    },
}

impl Target {
    /// Whether the service is watched.
    pub fn covers(&self, name: &ServiceName) -> bool {
        match self {
            Self::Services(names) => names.contains(name),
            Self::Pattern { namespace, prefix } => {
                name.namespace == *namespace && name.service.as_str().starts_with(&**prefix)
            }
        }
    }
}

/// What changed since a watcher last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// These services.
    pub services: BTreeSet<ServiceName>,
    /// Anything may have changed.
    pub all: bool,
}

/// The mark of one watcher.
#[derive(Debug, Default)]
pub struct Mark {
    dirty: Mutex<Dirty>,
    wake: Notify,
}

impl Mark {
    fn set(&self, name: Option<&ServiceName>) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        match name {
            Some(name) if !dirty.all => {
                dirty.services.insert(name.clone());
            }
            Some(_) => {}
            None => *dirty = Dirty { services: BTreeSet::new(), all: true },
        }
        drop(dirty);
        self.wake.notify_one();
    }

    /// Takes what changed; what changes from now on is marked anew.
    pub fn take(&self) -> Dirty {
        std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something changes.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

#[derive(Debug, Default)]
struct Watchers {
    next: u64,
    count: usize,
    services: BTreeMap<ServiceName, BTreeMap<u64, Arc<Mark>>>,
    patterns: BTreeMap<(Label, Arc<str>), BTreeMap<u64, Arc<Mark>>>,
}

/// All watchers of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    watchers: Arc<Mutex<Watchers>>,
    limit: usize,
}

/// A watcher's place in the hub; it leaves when dropped.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    id: u64,
    target: Target,
    /// What changed since it last looked.
    pub mark: Arc<Mark>,
}

impl Hub {
    /// A hub for at most `limit` watchers.
    pub fn new(limit: usize) -> Self {
        Self { watchers: Arc::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watchers at the moment.
    pub fn len(&self) -> usize {
        self.lock().count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most watchers there can be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Adds a watcher; `None` where there are too many.
    pub fn subscribe(&self, target: Target) -> Option<Subscription> {
        let mut watchers = self.lock();
        if watchers.count >= self.limit {
            return None;
        }
        watchers.count += 1;
        watchers.next += 1;
        let (id, mark) = (watchers.next, Arc::new(Mark::default()));
        match &target {
            Target::Services(names) => {
                for name in names {
                    watchers.services.entry(name.clone()).or_default().insert(id, mark.clone());
                }
            }
            Target::Pattern { namespace, prefix } => {
                let key = (namespace.clone(), prefix.clone());
                watchers.patterns.entry(key).or_default().insert(id, mark.clone());
            }
        }
        drop(watchers);
        Some(Subscription { hub: self.clone(), id, target, mark })
    }

    /// Marks those who watch what a batch changed. Called by the thread that applies.
    pub fn follow(&self, published: &Published) {
        let everything = published.restored
            || published
                .changes
                .iter()
                .any(|event| matches!(event.subject, Subject::Protection(Scope::Cluster)));
        let watchers = self.lock();
        if everything {
            let marks = watchers.services.values().chain(watchers.patterns.values());
            marks.flat_map(BTreeMap::values).for_each(|mark| mark.set(None));
            return;
        }
        let changed: BTreeSet<&ServiceName> =
            published.changes.iter().filter_map(|event| event.subject.service()).collect();
        for name in changed {
            for mark in watchers.services.get(name).into_iter().flat_map(BTreeMap::values) {
                mark.set(Some(name));
            }
            if watchers.patterns.is_empty() {
                continue;
            }
            let text = name.service.as_str();
            for end in 0..=text.len() {
                let key = (name.namespace.clone(), Arc::from(&text[..end]));
                for mark in watchers.patterns.get(&key).into_iter().flat_map(BTreeMap::values) {
                    mark.set(Some(name));
                }
            }
        }
    }

    fn leave(&self, id: u64, target: &Target) {
        let mut watchers = self.lock();
        watchers.count -= 1;
        match target {
            Target::Services(names) => {
                for name in names {
                    if let Some(marks) = watchers.services.get_mut(name) {
                        marks.remove(&id);
                        if marks.is_empty() {
                            watchers.services.remove(name);
                        }
                    }
                }
            }
            Target::Pattern { namespace, prefix } => {
                let key = (namespace.clone(), prefix.clone());
                if let Some(marks) = watchers.patterns.get_mut(&key) {
                    marks.remove(&id);
                    if marks.is_empty() {
                        watchers.patterns.remove(&key);
                    }
                }
            }
        }
    }
}

impl Subscription {
    /// What is watched.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(self.id, &self.target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_core::{
        State,
        record::{Actor, Event, Reason},
    };

    fn name(text: &str) -> ServiceName {
        ServiceName::parse("", text).unwrap()
    }

    fn changed(names: &[&str]) -> Published {
        let event = |text: &&str| {
            Arc::new(Event {
                revision: 1,
                wall_ms: 0,
                subject: Subject::Policy(name(text)),
                generation: 0,
                from: None,
                to: None,
                reason: Reason::PolicyPut,
                actor: Actor::Operator("".into()),
                evidence: "".into(),
            })
        };
        let changes = names.iter().map(event).collect();
        Published { state: State::new(1), applied_index: 1, changes, restored: false }
    }

    fn services(names: &[&str]) -> Target {
        Target::Services(names.iter().map(|text| name(text)).collect())
    }

    #[test]
    fn a_watcher_is_marked_for_its_services_only() {
        let hub = Hub::new(10);
        let web = hub.subscribe(services(&["web", "api"])).unwrap();
        hub.follow(&changed(&["db", "web"]));
        assert_eq!(web.mark.take().services, BTreeSet::from([name("web")]));
        assert_eq!(web.mark.take(), Dirty::default());
    }

    #[test]
    fn a_pattern_covers_names_that_begin_so_in_its_namespace() {
        let hub = Hub::new(10);
        let namespace = Label::default_namespace();
        let target = Target::Pattern { namespace, prefix: "web".into() };
        let watcher = hub.subscribe(target).unwrap();
        hub.follow(&changed(&["we", "web", "web-1", "xweb"]));
        assert_eq!(watcher.mark.take().services, BTreeSet::from([name("web"), name("web-1")]));
    }

    #[test]
    fn a_restore_marks_everything() {
        let hub = Hub::new(10);
        let watcher = hub.subscribe(services(&["web"])).unwrap();
        hub.follow(&Published { restored: true, ..changed(&[]) });
        assert!(watcher.mark.take().all);
    }

    #[test]
    fn the_limit_counts_those_that_are_there() {
        let hub = Hub::new(1);
        let first = hub.subscribe(services(&["web"])).unwrap();
        assert!(hub.subscribe(services(&["web"])).is_none());
        drop(first);
        assert!(hub.is_empty());
        assert!(hub.lock().services.is_empty());
        assert!(hub.subscribe(services(&["web"])).is_some());
    }
}
