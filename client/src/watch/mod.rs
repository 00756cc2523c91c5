//! Watching services: their current state, and every change of it, for as long as somebody looks.
//!
//! [`replica`] is the pure part: messages in, states out. [`follow`] keeps a stream open to some node. What a
//! [`Watch`] shows never goes back, and stays when the registry is gone.

mod follow;
mod replica;

use crate::{client::Client, error::Error};
use rollcall_core::name::{Invalid, Label, ServiceName, parse_namespace};
use rollcall_proto::v1;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

/// Updates that wait for a reader; one more, and they become one [`Update::Reset`].
const BACKLOG: usize = 256;
/// Most services of one watch by name.
const SERVICES: usize = 1_000;

/// What to watch. At least one service, or a pattern.
#[derive(Debug, Clone)]
#[must_use = "a selection does nothing until it is given to Client::watch"]
pub struct Selection {
    target: Target,
    filter: v1::ResolveFilter,
    bookmarks: Duration,
}

/// One service as a watch shows it. Immutable.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its revision.
    pub revision: u64,
    /// It has instances or a policy.
    pub exists: bool,
    /// Too few instances were routable: all that are not in maintenance are here, with their true statuses.
    pub fail_open: bool,
    /// Mass expiry is held back: there may be dead instances among these, as DEGRADED.
    pub protected: bool,
    /// The instances that match the filter, by id.
    pub instances: BTreeMap<String, Arc<v1::Instance>>,
}

/// Everything that a watch shows at one moment. Immutable.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// Everything up to this revision is in it; 0 before the first bookmark.
    pub revision: u64,
    /// Every service has been received at least once.
    pub complete: bool,
    /// A stream to a node is open. While it is not, this is the last good state.
    pub connected: bool,
    /// The last heard node hears a leader.
    pub leader_known: bool,
    /// How far that node may have been behind; `None` = not known.
    pub staleness: Option<Duration>,
    /// When a node was last heard.
    pub heard: Option<Instant>,
    /// Why there is no stream.
    pub problem: Option<Error>,
    /// The services, by name. Those that do not exist are here where they were asked for by name.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
}

/// One change of what a watch shows.
#[derive(Debug, Clone)]
pub enum Update {
    /// The state of one service, replacing what was known of it.
    Snapshot(Arc<Service>),
    /// A change of one service.
    Delta {
        /// The service after the change.
        service: Arc<Service>,
        /// Instances that are new or changed.
        upserted: Vec<Arc<v1::Instance>>,
        /// Instances that are gone from the list, and why.
        removed: Vec<v1::watch_response::Removal>,
    },
    /// Nothing is missing up to this revision.
    Bookmark {
        /// The revision.
        revision: u64,
    },
    /// Replaces everything: the reader was slow and skipped changes, or the registry was set up anew.
    Reset(Arc<Picture>),
}

/// Follows services for as long as it lives. Never ends by itself.
#[derive(Debug)]
pub struct Watch {
    shown: Arc<Shown>,
    picture: watch::Receiver<Arc<Picture>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone)]
enum Target {
    Services(Vec<ServiceName>),
    Pattern { namespace: Label, prefix: String },
}

/// What the following task and the readers share.
#[derive(Debug)]
struct Shown {
    picture: watch::Sender<Arc<Picture>>,
    backlog: Mutex<VecDeque<Update>>,
    more: Notify,
}

impl Selection {
    /// One service of the default namespace.
    pub fn service(name: &str) -> Result<Self, Error> {
        Ok(Self::services([ServiceName::parse("", name)?]))
    }

    /// Services by name, at most 1,000, existing or not.
    pub fn services(names: impl IntoIterator<Item = ServiceName>) -> Self {
        Self::of(Target::Services(names.into_iter().collect()))
    }

    /// All services of a namespace (empty = `default`) whose name begins like this, also those that come later.
    pub fn pattern(namespace: &str, prefix: &str) -> Result<Self, Error> {
        let namespace = parse_namespace(namespace)?;
        Ok(Self::of(Target::Pattern { namespace, prefix: prefix.to_owned() }))
    }

    fn of(target: Target) -> Self {
        let filter = v1::ResolveFilter::default();
        Self { target, filter, bookmarks: Duration::from_secs(5) }
    }

    /// Which instances; default: the routable ones.
    pub fn filter(mut self, filter: v1::ResolveFilter) -> Self {
        self.filter = filter;
        self
    }

    /// How often the registry gives a sign of life while nothing changes, 1 s to 30 s; default 5 s. After twice that
    /// and 2 s of silence the watch moves to another node.
    pub fn bookmarks(mut self, interval: Duration) -> Self {
        self.bookmarks = interval.clamp(Duration::from_secs(1), Duration::from_secs(30));
        self
    }

    fn request(&self, resume_token: Vec<u8>) -> v1::WatchRequest {
        use v1::watch_request::{ServiceList, ServicePattern, Target as Wire};
        let target = match &self.target {
            Target::Services(names) => Wire::Services(ServiceList {
                names: names
                    .iter()
                    .map(|name| v1::ServiceName {
                        namespace: name.namespace.as_str().to_owned(),
                        service: name.service.as_str().to_owned(),
                    })
                    .collect(),
            }),
            Target::Pattern { namespace, prefix } => Wire::Pattern(ServicePattern {
                namespace: namespace.as_str().to_owned(),
                name_prefix: prefix.clone(),
            }),
        };
        v1::WatchRequest {
            target: Some(target),
            filter: Some(self.filter.clone()),
            resume_token,
            bookmark_interval: prost_types::Duration::try_from(self.bookmarks).ok(),
        }
    }
}

impl Client {
    /// Follows services. Returns at once; [`Watch::ready`] waits for the first complete state. Errors: no service, or
    /// too many.
    pub fn watch(&self, selection: Selection) -> Result<Watch, Error> {
        if let Target::Services(names) = &selection.target
            && (names.is_empty() || names.len() > SERVICES)
        {
            let problem = format!("{} given, 1 to {SERVICES} are allowed", names.len());
            return Err(Invalid::new("services", problem).into());
        }
        let (sender, picture) = watch::channel(Arc::default());
        let shown =
            Arc::new(Shown { picture: sender, backlog: Mutex::default(), more: Notify::new() });
        let following = follow::supervise(Arc::clone(&self.shared), selection, Arc::clone(&shown));
        Ok(Watch { shown, picture, task: tokio::spawn(following) })
    }
}

impl Watch {
    /// The next change. Waits while there is none; never ends. May be dropped and called again without loss.
    pub async fn next(&mut self) -> Update {
        loop {
            let more = self.shown.more.notified();
            if let Some(update) = self.shown.backlog().pop_front() {
                return update;
            }
            more.await;
        }
    }

    /// What is shown now. Before anything was received it is empty and not complete.
    pub fn current(&self) -> Arc<Picture> {
        Arc::clone(&self.picture.borrow())
    }

    /// What is shown, and a wake-up for each change of it; intermediate states may be skipped.
    pub fn pictures(&self) -> watch::Receiver<Arc<Picture>> {
        self.picture.clone()
    }

    /// Waits until every service has been received once. Errors: the registry refuses the selection, or `timeout`
    /// has passed; the watch goes on trying all the same.
    pub async fn ready(&self, timeout: Duration) -> Result<Arc<Picture>, Error> {
        let mut pictures = self.picture.clone();
        let decided = |p: &Arc<Picture>| {
            p.complete || p.problem.as_ref().is_some_and(|problem| !problem.is_retryable())
        };
        let waited = tokio::time::timeout(timeout, pictures.wait_for(decided)).await;
        let picture = match waited {
            Ok(Ok(picture)) => Arc::clone(&picture),
            // The sender lives as long as this watch does.
            Ok(Err(_)) | Err(_) => self.current(),
        };
        match &picture.problem {
            _ if picture.complete => Ok(picture),
            Some(problem) => Err(problem.clone()),
            None => Err(Error::Unreachable(Box::new(crate::error::Unreachable {
                call: "watch",
                waited: timeout,
                tried: Vec::new(),
                outcome_unknown: false,
            }))),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shown {
    /// Keeps an update for the reader. Where too many wait, they are replaced by the whole state: `now`.
    fn push(&self, update: Update, now: impl FnOnce() -> Arc<Picture>) {
        let mut backlog = self.backlog();
        if backlog.len() >= BACKLOG {
            backlog.clear();
            backlog.push_back(Update::Reset(now()));
        } else {
            backlog.push_back(update);
        }
        drop(backlog);
        self.more.notify_one();
    }

    fn backlog(&self) -> MutexGuard<'_, VecDeque<Update>> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
