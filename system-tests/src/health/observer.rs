//! Who looks on: a watch over the service with the moments of its changes, and the whole journal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rollcall_client::{Client, Picture, Selection, v1};
use tokio::runtime::Runtime;

use crate::case::Checked;
use crate::program::until;

/// Everything seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// Since when each instance takes traffic.
    routable: BTreeMap<String, Instant>,
    /// When each one stopped to, the last time.
    gone: BTreeMap<String, Instant>,
    protected: bool,
    events: Vec<v1::Event>,
}

/// An onlooker; it sees until it is dropped.
#[derive(Debug)]
pub(crate) struct Observer {
    runtime: Runtime,
    client: Client,
    seen: Arc<Mutex<Seen>>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer {
    /// Looks at the service through these nodes, from this thread's machine.
    pub(crate) fn start(registry: &[SocketAddr]) -> Checked<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let _inside = runtime.enter();
        let client = Client::new(registry.iter().map(ToString::to_string))?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let filter =
            v1::ResolveFilter { health: v1::HealthFilter::Any.into(), ..Default::default() };
        let mut watch = client.watch(Selection::service(super::SERVICE)?.filter(filter))?;
        let shared = seen.clone();
        runtime.spawn(async move {
            loop {
                watch.next().await;
                lock(&shared).look(&watch.current());
            }
        });
        let start = v1::tail_request::Start::AfterRevision(0);
        let mut tail = client.tail(v1::TailRequest { start: Some(start), service: None });
        let shared = seen.clone();
        runtime.spawn(async move {
            while let Ok(event) = tail.next().await {
                lock(&shared).events.push(event);
            }
        });
        Ok(Self { runtime, client, seen })
    }

    /// Waits until so many instances take traffic.
    pub(crate) fn until_routable(&self, count: usize, within: Duration) -> Checked {
        until(&format!("{count} instances take traffic"), within, || {
            let here = lock(&self.seen).routable.len();
            if here == count { Ok(()) } else { Err(format!("{here} do").into()) }
        })
    }

    /// How many take traffic.
    pub(crate) fn routable(&self) -> usize {
        lock(&self.seen).routable.len()
    }

    /// Waits until an instance has stopped to take traffic: how long that was after `since`.
    pub(crate) fn until_gone(
        &self,
        id: &str,
        since: Instant,
        within: Duration,
    ) -> Checked<Duration> {
        until(&format!("{id} is gone"), within, || {
            let seen = lock(&self.seen);
            match seen.gone.get(id) {
                Some(at) if !seen.routable.contains_key(id) => {
                    Ok(at.saturating_duration_since(since))
                }
                _ => Err("it takes traffic still".into()),
            }
        })
    }

    /// Whether answers say that mass expiry is held back.
    pub(crate) fn protected(&self) -> bool {
        lock(&self.seen).protected
    }

    /// Instances that expired or were evicted, `except` left out, each with the reason.
    pub(crate) fn struck_off(&self, except: &BTreeSet<String>) -> Vec<String> {
        self.told(except, |event| {
            matches!(event.reason(), v1::EventReason::LeaseExpired | v1::EventReason::Evicted)
        })
    }

    /// Instances whose checks failed, for a while or for good.
    pub(crate) fn unhealthy(&self, except: &BTreeSet<String>) -> Vec<String> {
        self.told(except, |event| {
            let to = event.to_status.as_ref().map(v1::InstanceStatus::health_status);
            to == Some(v1::HealthStatus::Unhealthy)
        })
    }

    fn told(&self, except: &BTreeSet<String>, harm: impl Fn(&v1::Event) -> bool) -> Vec<String> {
        let seen = lock(&self.seen);
        let all = seen.events.iter().filter(|event| harm(event)).filter_map(|event| {
            let v1::event::Subject::Instance(name) = event.subject.as_ref()? else { return None };
            let id = &name.instance_id;
            (!except.contains(id))
                .then(|| format!("{id} {}: {}", event.reason().as_str_name(), event.evidence))
        });
        all.collect()
    }

    /// What the journal says last about an instance: reason and evidence.
    pub(crate) fn last_word(&self, id: &str) -> (String, String) {
        let seen = lock(&self.seen);
        let last = seen.events.iter().rfind(|event| {
            matches!(&event.subject, Some(v1::event::Subject::Instance(name)) if name.instance_id == id)
        });
        let told =
            last.map(|event| (event.reason().as_str_name().to_owned(), event.evidence.clone()));
        told.unwrap_or_default()
    }

    /// The cluster as one node sees it.
    pub(crate) fn status(&self, node: SocketAddr) -> Checked<v1::GetClusterStatusResponse> {
        let _inside = self.runtime.enter();
        let client = Client::new([node.to_string()])?.with_timeout(Duration::from_millis(500));
        Ok(self.runtime.block_on(client.get_cluster_status())?)
    }

    /// One look-up, as a caller makes it.
    pub(crate) fn resolve(&self) -> Checked<v1::ResolveResponse> {
        let service = v1::ServiceName { service: super::SERVICE.to_owned(), ..Default::default() };
        let request = v1::ResolveRequest { service: Some(service), ..Default::default() };
        Ok(self.runtime.block_on(self.client.resolve(request))?)
    }
}

impl Seen {
    fn look(&mut self, picture: &Picture) {
        let now = Instant::now();
        let mut here = BTreeSet::new();
        for service in picture.services.values() {
            self.protected = service.protected;
            let serves = |one: &v1::Instance| {
                matches!(
                    one.health_status(),
                    v1::HealthStatus::Healthy | v1::HealthStatus::Degraded
                )
            };
            let ids = service.instances.iter().filter(|(_, one)| serves(one)).map(|(id, _)| id);
            here.extend(ids.cloned());
        }
        let left: Vec<String> =
            self.routable.keys().filter(|id| !here.contains(*id)).cloned().collect();
        for id in left {
            self.routable.remove(&id);
            self.gone.insert(id, now);
        }
        for id in here {
            self.routable.entry(id).or_insert(now);
        }
    }
}
