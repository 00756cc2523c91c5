//! Who must look again after batches were applied.
//!
//! The thread that applies leaves the names of what changed here and goes on. One task marks the watchers, and then
//! settles the state: whoever sees a settled state and no mark has been told of everything in it. A watcher that does
//! not read costs a set of names: it skips intermediate states, never the final one, and never blocks anyone.

use crate::{raft::Published, view::Seen};
use rollcall_core::{
    name::{Label, ServiceName},
    record::{Scope, Subject},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};
use tokio::sync::{Notify, watch};

/// Changed services that wait for the task that marks; beyond, every watcher looks at everything.
const PENDING_MAX: usize = 10_000;

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

/// What changed since somebody last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// These services.
    pub services: BTreeSet<ServiceName>,
    /// Anything may have changed.
    pub all: bool,
    /// By this revision.
    pub until: u64,
}

impl Dirty {
    fn is_clean(&self) -> bool {
        !self.all && self.services.is_empty()
    }

    /// Adds what `later` tells.
    pub fn merge(&mut self, later: Self) {
        if self.is_clean() {
            *self = Self { until: self.until.max(later.until), ..later };
            return;
        }
        self.until = self.until.max(later.until);
        if later.all {
            self.all = true;
            self.services.clear();
        } else if !self.all {
            self.services.extend(later.services);
        }
    }
}

/// The mark of one watcher.
#[derive(Debug, Default)]
pub struct Mark(Mutex<Marked>);

#[derive(Debug, Default)]
struct Marked {
    dirty: Dirty,
    /// Its watcher, where that waits.
    waiting: Option<Waker>,
}

impl Mark {
    fn lock(&self) -> MutexGuard<'_, Marked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a service, or everything. Returns its watcher where that must be woken.
    fn set(&self, name: Option<&ServiceName>, until: u64) -> Option<Waker> {
        let mut marked = self.lock();
        let dirty = &mut marked.dirty;
        dirty.until = until;
        match name {
            Some(name) if !dirty.all => {
                dirty.services.insert(name.clone());
            }
            Some(_) => {}
            None => {
                dirty.services.clear();
                dirty.all = true;
            }
        }
        marked.waiting.take()
    }

    /// Takes what changed; what changes from now on is marked anew.
    pub fn take(&self) -> Dirty {
        std::mem::take(&mut self.lock().dirty)
    }

    /// Whether nothing changed.
    pub fn is_clean(&self) -> bool {
        self.lock().dirty.is_clean()
    }

    /// Ready where something has changed; else its watcher is woken as soon as something does.
    pub fn poll_changed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut marked = self.lock();
        if !marked.dirty.is_clean() {
            return Poll::Ready(());
        }
        // Asked several times for each message: mostly by the task that it knows already.
        if !marked.waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            marked.waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

type Marks = BTreeMap<u64, Arc<Mark>>;

#[derive(Debug, Default)]
struct Watchers {
    next: u64,
    count: usize,
    services: BTreeMap<ServiceName, Marks>,
    /// By namespace and beginning of the name.
    patterns: BTreeMap<Label, BTreeMap<Arc<str>, Marks>>,
}

impl Watchers {
    /// Marks those who watch what changed; returns those that must be woken.
    fn mark(&self, dirty: &Dirty) -> Vec<Waker> {
        let mut woken = Vec::new();
        let mut set = |marks: Option<&Marks>, name: Option<&ServiceName>| {
            let marks = marks.into_iter().flat_map(BTreeMap::values);
            woken.extend(marks.filter_map(|mark| mark.set(name, dirty.until)));
        };
        if dirty.all {
            let patterns = self.patterns.values().flat_map(BTreeMap::values);
            self.services.values().chain(patterns).for_each(|marks| set(Some(marks), None));
            return woken;
        }
        for name in &dirty.services {
            set(self.services.get(name), Some(name));
            let Some(patterns) = self.patterns.get(&name.namespace) else { continue };
            let text = name.service.as_str();
            for end in 0..=text.len() {
                set(patterns.get(&text[..end]), Some(name));
            }
        }
        woken
    }
}

/// What was applied and is not marked yet.
#[derive(Debug, Default)]
struct Pending {
    dirty: Dirty,
    state: Option<Arc<Seen>>,
}

#[derive(Debug)]
struct Inner {
    watchers: Mutex<Watchers>,
    pending: Mutex<Pending>,
    wake: Notify,
    settled: watch::Sender<Arc<Seen>>,
    limit: usize,
}

/// All watchers of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

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
    /// A hub for at most `limit` watchers, which see `seen` until more is applied.
    pub fn new(limit: usize, seen: Arc<Seen>) -> Self {
        let (watchers, pending) = (Mutex::default(), Mutex::default());
        let settled = watch::Sender::new(seen);
        Self(Arc::new(Inner { watchers, pending, wake: Notify::new(), settled, limit }))
    }

    fn lock(&self) -> MutexGuard<'_, Watchers> {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.0.limit
    }

    /// A place for one more watcher, unless all are taken, and the state that it begins with: what comes later than
    /// that will mark it.
    pub fn subscribe(&self, target: Target) -> Option<(Subscription, Arc<Seen>)> {
        let mut watchers = self.lock();
        if watchers.count >= self.0.limit {
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
                let patterns = watchers.patterns.entry(namespace.clone()).or_default();
                patterns.entry(prefix.clone()).or_default().insert(id, mark.clone());
            }
        }
        let seen = self.settled();
        drop(watchers);
        Some((Subscription { hub: self.clone(), id, target, mark }, seen))
    }

    /// Takes what a batch changed. Called by the thread that applies: it only leaves the names here.
    pub fn follow(&self, published: &Published) {
        if published.changes.is_empty() && !published.restored {
            return;
        }
        let mut pending = self.pending();
        let (state, applied_index) = (published.state.clone(), published.applied_index);
        let cluster = |subject: &Subject| matches!(subject, Subject::Protection(Scope::Cluster));
        let dirty = &mut pending.dirty;
        dirty.until = state.revision();
        dirty.all |= published.restored
            || published.changes.iter().any(|event| cluster(&event.subject))
            || dirty.services.len() > PENDING_MAX;
        if dirty.all {
            dirty.services.clear();
        } else {
            let names = published.changes.iter().filter_map(|event| event.subject.service());
            for name in names {
                if !dirty.services.contains(name) {
                    dirty.services.insert(name.clone());
                }
            }
        }
        pending.state = Some(Arc::new(Seen { state, applied_index }));
        drop(pending);
        self.0.wake.notify_one();
    }

    /// Marks the watchers, batch after batch. To be spawned by the node.
    pub async fn run(self) {
        loop {
            self.0.wake.notified().await;
            self.settle();
        }
    }

    fn settle(&self) {
        let Pending { dirty, state } = std::mem::take(&mut *self.pending());
        let Some(state) = state else { return };
        let watchers = self.lock();
        let woken = watchers.mark(&dirty);
        // Under the lock: who subscribes is either marked, or begins with this state.
        self.0.settled.send_replace(state);
        drop(watchers);
        woken.into_iter().for_each(Waker::wake);
    }

    /// The newest state up to which everybody is marked.
    pub fn settled(&self) -> Arc<Seen> {
        self.0.settled.borrow().clone()
    }

    /// Waits until the settled state shows `revision`. The caller brings the deadline.
    pub async fn reached(&self, revision: u64) {
        let mut settled = self.0.settled.subscribe();
        // The sender lives as long as this hub: waiting cannot fail.
        let _ = settled.wait_for(|seen| seen.state.revision() >= revision).await;
    }

    fn leave(&self, id: u64, target: &Target) {
        let mut watchers = self.lock();
        watchers.count -= 1;
        match target {
            Target::Services(names) => {
                for name in names {
                    leave(&mut watchers.services, name, id);
                }
            }
            Target::Pattern { namespace, prefix } => {
                if let Some(patterns) = watchers.patterns.get_mut(namespace) {
                    leave(patterns, prefix, id);
                    if patterns.is_empty() {
                        watchers.patterns.remove(namespace);
                    }
                }
            }
        }
    }
}

fn leave<K: Ord>(all: &mut BTreeMap<K, Marks>, key: &K, id: u64) {
    if let Some(marks) = all.get_mut(key) {
        marks.remove(&id);
        if marks.is_empty() {
            all.remove(key);
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

    fn seen() -> Arc<Seen> {
        Arc::new(Seen { state: State::new(1), applied_index: 0 })
    }

    fn hub(limit: usize) -> Hub {
        Hub::new(limit, seen())
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
        let hub = hub(10);
        let web = hub.subscribe(services(&["web", "api"])).unwrap().0;
        hub.follow(&changed(&["db", "web"]));
        hub.settle();
        assert_eq!(web.mark.take().services, BTreeSet::from([name("web")]));
        assert_eq!(web.mark.take(), Dirty::default());
    }

    #[test]
    fn batches_that_nobody_has_marked_yet_come_together_and_settle_as_one() {
        let hub = hub(10);
        let (web, began) = hub.subscribe(services(&["web", "api"])).unwrap();
        for (index, service) in (1..).zip(["db", "web", "api"]) {
            hub.follow(&Published { applied_index: index, ..changed(&[service]) });
        }
        assert!(web.mark.is_clean());
        assert_eq!(hub.settled().applied_index, began.applied_index);
        hub.settle();
        assert_eq!(hub.settled().applied_index, 3);
        assert_eq!(web.mark.take().services, BTreeSet::from([name("web"), name("api")]));
    }

    #[test]
    fn too_many_names_at_once_become_everything() {
        let hub = hub(10);
        let (web, _) = hub.subscribe(services(&["web"])).unwrap();
        for batch in 0..=PENDING_MAX / 100 + 1 {
            let names: Vec<String> = (0..100).map(|n| format!("s{}", batch * 100 + n)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            hub.follow(&changed(&names));
        }
        assert!(hub.pending().dirty.services.len() <= PENDING_MAX);
        hub.settle();
        assert!(web.mark.take().all);
    }

    #[test]
    fn a_restore_after_single_changes_leaves_no_single_names() {
        let mut dirty = Dirty { services: BTreeSet::from([name("web")]), all: false, until: 3 };
        dirty.merge(Dirty { all: true, until: 5, ..Dirty::default() });
        dirty.merge(Dirty { services: BTreeSet::from([name("api")]), all: false, until: 7 });
        assert_eq!(dirty, Dirty { services: BTreeSet::new(), all: true, until: 7 });
    }

    #[test]
    fn a_pattern_covers_names_that_begin_so_in_its_namespace() {
        let hub = hub(10);
        let namespace = Label::default_namespace();
        let target = Target::Pattern { namespace, prefix: "web".into() };
        let watcher = hub.subscribe(target).unwrap().0;
        hub.follow(&changed(&["we", "web", "web-1", "xweb"]));
        hub.settle();
        assert_eq!(watcher.mark.take().services, BTreeSet::from([name("web"), name("web-1")]));
    }

    #[test]
    fn a_restore_marks_everything() {
        let hub = hub(10);
        let watcher = hub.subscribe(services(&["web"])).unwrap().0;
        hub.follow(&Published { restored: true, ..changed(&[]) });
        hub.settle();
        assert!(watcher.mark.take().all);
    }

    #[test]
    fn who_waits_is_woken_once_and_who_comes_later_does_not_wait() {
        let hub = hub(10);
        let web = hub.subscribe(services(&["web"])).unwrap().0;
        let mut cx = Context::from_waker(Waker::noop());
        assert!(web.mark.poll_changed(&mut cx).is_pending());
        let dirty = Dirty { services: BTreeSet::from([name("web")]), all: false, until: 1 };
        assert_eq!(hub.lock().mark(&dirty).len(), 1);
        assert_eq!(hub.lock().mark(&dirty).len(), 0);
        assert!(web.mark.poll_changed(&mut cx).is_ready());
        web.mark.take();
        assert!(web.mark.poll_changed(&mut cx).is_pending());
    }

    #[test]
    fn the_limit_counts_those_that_are_there() {
        let hub = hub(1);
        let first = hub.subscribe(services(&["web"])).unwrap();
        assert!(hub.subscribe(services(&["web"])).is_none());
        drop(first);
        assert!(hub.is_empty());
        assert!(hub.lock().services.is_empty());
        let namespace = Label::default_namespace();
        drop(hub.subscribe(Target::Pattern { namespace, prefix: "".into() }));
        assert!(hub.lock().patterns.is_empty());
        assert!(hub.subscribe(services(&["web"])).is_some());
    }
}
