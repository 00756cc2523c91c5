//! Watching services: their current state, and every change of it, for as long as somebody looks.
//!
//! [`replica`] and [`brake`] are the pure parts: messages in, states out; and sudden losses held back. [`follow`] keeps
//! a stream open to some node. [`stored`] is the copy on disk. What a [`Watch`] shows never goes back, and stays when
//! the registry is gone.

mod brake;
mod figures;
mod follow;
mod replica;
mod shown;
mod stored;

use crate::{client::Client, error::Error};
use futures_util::Stream;
use rollcall_core::name::{Invalid, Label, ServiceName, parse_namespace};
use rollcall_proto::v1;
use shown::Shown;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// Most services of one watch by name.
const SERVICES: usize = 1_000;

/// What to watch. At least one service, or a pattern.
#[derive(Debug, Clone)]
#[must_use = "a selection does nothing until it is given to Client::watch"]
pub struct Selection {
    target: Target,
    filter: v1::ResolveFilter,
    bookmarks: Duration,
    shrink_grace: Duration,
    bytes_max: usize,
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
    /// The ids of those instances that the registry does not list any more: too many went at once, see
    /// [`Selection::shrink_grace`].
    pub held: BTreeSet<String>,
}

/// Where a picture comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// The registry.
    #[default]
    Registry,
    /// The copy on disk, written by this or an earlier process: no registry has answered yet.
    DiskCopy {
        /// How old the copy was when it was read; `None` = not known.
        age: Option<Duration>,
    },
    /// The addresses that were given to the builder: no registry has answered yet, and there was no copy.
    Fallback,
}

/// Everything that a watch shows at one moment. Immutable.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// Everything up to this revision is in it; 0 before the first bookmark.
    pub revision: u64,
    /// Every service is known: received at least once, or taken from the copy or the fallback.
    pub complete: bool,
    /// Who said so.
    pub origin: Origin,
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
    /// How busy instances say they are, by service and instance id; see [`Picture::utilization_of`]. It comes with the
    /// bookmarks, and is no [`Update`].
    pub utilization: BTreeMap<ServiceName, Arc<BTreeMap<String, Utilization>>>,
    /// Resumes behind what is shown; empty = from nothing.
    pub(crate) resume: Vec<u8>,
}

/// How busy an instance is by its own word, up to 10 points off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utilization {
    /// 0 to 100.
    pub percent: u8,
    /// The generation that said so; another one has said nothing yet.
    pub generation: u64,
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
    /// Replaces everything: the reader has just begun, or was slow and skipped changes, or the registry was set up anew
    /// or answers for the first time.
    Reset(Arc<Picture>),
}

/// Follows services for as long as it lives. Never ends by itself.
#[derive(Debug)]
pub struct Watch {
    shown: Arc<Shown>,
    picture: watch::Receiver<Arc<Picture>>,
    /// Aborted with the watch.
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone)]
enum Target {
    Services(BTreeSet<ServiceName>),
    Pattern { namespace: Label, prefix: String },
}

impl Selection {
    /// One service of the default namespace.
    pub fn service(name: &str) -> Result<Self, Error> {
        Ok(Self::services([ServiceName::parse("", name)?]))
    }

    /// Services by name, at most 1,000, existing or not; the same twice is one.
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
        Self {
            target,
            filter,
            bookmarks: Duration::from_secs(5),
            shrink_grace: Duration::from_secs(10),
            bytes_max: 256 << 20,
        }
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

    /// How long instances are still shown of a service that loses more than half of them within this time, where
    /// nobody took them out on purpose (deregistered, drained, changed); default 10 s, zero = never. Against a registry
    /// that lost its mind: [`Service::held`] tells which they are. Of less than three instances only a loss without
    /// any reason counts.
    pub fn shrink_grace(mut self, grace: Duration) -> Self {
        self.shrink_grace = grace.min(Duration::from_secs(3600));
        self
    }

    /// Most bytes that the registry may send as one state; default 256 MiB. A node that sends more is left, and what
    /// was shown stays.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
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
    /// Follows services. Returns at once; [`Watch::ready`] waits for the first complete state. Where no registry
    /// answers soon, the copy on disk or the fallback of the [`Builder`](crate::Builder) is shown meanwhile. Errors: no
    /// service, or too many.
    pub fn watch(&self, selection: Selection) -> Result<Watch, Error> {
        if let Target::Services(names) = &selection.target
            && (names.is_empty() || names.len() > SERVICES)
        {
            let problem = format!("{} given, 1 to {SERVICES} are allowed", names.len());
            return Err(Invalid::new("services", problem).into());
        }
        let (sender, picture) = watch::channel(Arc::default());
        let shown = Arc::new(Shown::new(sender));
        let mut tasks = JoinSet::new();
        tasks.spawn(stored::keep(Arc::clone(&self.shared), selection.clone(), picture.clone()));
        tasks.spawn(follow::supervise(Arc::clone(&self.shared), selection, Arc::clone(&shown)));
        Ok(Watch { shown, picture, _tasks: tasks })
    }
}

impl Watch {
    /// The next change. Waits while there is none; never ends. May be dropped and called again without loss. The first
    /// one is the whole state where there is one already: changes are kept for the reader from the first call on.
    pub async fn next(&mut self) -> Update {
        self.shown.next().await
    }

    /// The changes as a stream that never ends.
    pub fn updates(self) -> impl Stream<Item = Update> + Send {
        futures_util::stream::unfold(self, async |mut watch| Some((watch.next().await, watch)))
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

impl Origin {
    /// No registry has answered yet.
    pub fn is_stand_in(self) -> bool {
        match self {
            Self::DiskCopy { .. } | Self::Fallback => true,
            Self::Registry => false,
        }
    }
}

impl Picture {
    /// How busy an instance is in percent, as far as it tells.
    pub fn utilization_of(&self, service: &ServiceName, instance: &v1::Instance) -> Option<u8> {
        let told = self.utilization.get(service)?.get(&instance.instance_id)?;
        (told.generation == instance.generation).then_some(told.percent)
    }
}

impl Service {
    /// The registry lists this instance at present; the others are held.
    pub fn lists(&self, instance_id: &str) -> bool {
        !self.held.contains(instance_id)
    }
}

impl Target {
    /// Whether a registry may speak of this service.
    fn covers(&self, name: &ServiceName) -> bool {
        match self {
            Self::Services(names) => names.contains(name),
            Self::Pattern { namespace, prefix } => {
                name.namespace == *namespace && name.service.as_str().starts_with(prefix.as_str())
            }
        }
    }
}
