//! Registering: what an instance says about itself, and the guard that keeps it listed.

use crate::{
    check::Check,
    client::{Client, Shared},
    error::Error,
    guard::Guard,
    report::HealthReport,
    session::{Cell, Key, Newcomer, length},
};
use rollcall_core::{
    instance::{Spec, limit},
    name::{InstanceName, Invalid},
};
use rollcall_proto::v1;
use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// What is called after each change of state.
type OnChange = Arc<dyn Fn(&State) + Send + Sync>;
/// What is asked how the instance is.
type Health = Arc<dyn Fn() -> HealthReport + Send + Sync>;

/// An instance to be registered. Limits and defaults are those of `rollcall.v1.InstanceSpec`.
#[derive(Clone, Default)]
#[must_use = "a registration does nothing until it is given to Client::register"]
pub struct Registration {
    namespace: String,
    service: String,
    id: String,
    spec: v1::InstanceSpec,
    on_change: Option<OnChange>,
    health: Option<Health>,
}

/// Where a registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not listed as far as this process knows; it is being registered, again and again.
    Registering {
        /// Why the last try failed.
        problem: Option<Arc<str>>,
    },
    /// Listed, and its lease is kept.
    Registered {
        /// Fencing token of this owner.
        generation: u64,
    },
    /// Somebody else has the id, or it was removed on purpose. Final: it is not registered again by itself.
    Fenced {
        /// Which of the two.
        cause: Fence,
        /// What the registry says about it.
        detail: Arc<str>,
    },
    /// Deregistered, dropped or closed. Final.
    Stopped,
}

/// Why an owner was fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// A newer owner registered the same id.
    Superseded,
    /// It was deregistered by somebody else.
    Deregistered,
}

/// The last beat that the registry acknowledged, or the registration itself. The lease is counted from its arrival
/// at the leader, which lies between the two instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// When it was handed to the connection.
    pub sent: Instant,
    /// When its acknowledgement was here.
    pub received: Instant,
}

impl Registration {
    /// An instance of `service` in the default namespace. It needs at least one endpoint.
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into(), ..Self::default() }
    }

    /// The namespace; default: `default`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The instance id, 1-128 of `[A-Za-z0-9._:-]`; default: address and port of the first endpoint as `ip-port`.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Adds a TCP endpoint. The name is a DNS label (`grpc`, `http`); the first endpoint is the default one.
    pub fn endpoint(mut self, name: impl Into<String>, address: SocketAddr) -> Self {
        self.spec.endpoints.push(v1::Endpoint {
            name: name.into(),
            host: address.ip().to_string(),
            port: address.port().into(),
            ..v1::Endpoint::default()
        });
        self
    }

    /// Adds a tag that readers can filter by.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.spec.tags.push(tag.into());
        self
    }

    /// Sets a metadata pair; the same key again replaces its value.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the zone, a DNS label; readers that tell theirs get near instances first.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.spec.locality.get_or_insert_default().zone = zone.into();
        self
    }

    /// Sets the region, a DNS label.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.spec.locality.get_or_insert_default().region = region.into();
        self
    }

    /// Relative share of traffic; default 100, 0 = none.
    pub fn weight(mut self, weight: u16) -> Self {
        self.spec.weight = Some(weight.into());
        self
    }

    /// Tier; 0, the default, is tried first.
    pub fn priority(mut self, priority: u16) -> Self {
        self.spec.priority = priority.into();
        self
    }

    /// Free text such as `1.4.2`.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.spec.version = version.into();
        self
    }

    /// Length of the lease, 1 s to 24 h; default 10 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.spec.persistent = false;
        self.spec.ttl = Some(to_proto(ttl));
        self
    }

    /// No lease: never removed for silence.
    pub fn persistent(mut self) -> Self {
        self.spec.ttl = None;
        self.spec.persistent = true;
        self
    }

    /// Time from the end of the lease to the removal; default: the policy of the service, then 30 s.
    pub fn evict_after(mut self, wait: Duration) -> Self {
        self.spec.evict_after = Some(to_proto(wait));
        self
    }

    /// Adds a check that the registry runs against an endpoint; at most 8. With one that is not advisory the instance
    /// is STARTING until it has passed for the first time.
    pub fn check(mut self, check: Check) -> Self {
        let message = check.message(&self.spec.health_checks);
        self.spec.health_checks.push(message);
        self
    }

    /// Replaces everything but names and callback: for what has no method here.
    pub fn spec(mut self, spec: v1::InstanceSpec) -> Self {
        self.spec = spec;
        self
    }

    /// Calls `notify` after each change of state, from a task of its own. Changes in quick succession may come as
    /// one, the last is never missed. It must not block; a panic in it is logged and harms nothing else.
    pub fn on_change(mut self, notify: impl Fn(&State) + Send + Sync + 'static) -> Self {
        self.on_change = Some(Arc::new(notify));
        self
    }

    /// Asks the instance how it is, from a task of its own, once in a third of the lease that was asked for; the answer goes out with the next one,
    /// and at once where it changes between healthy and degraded. It must not block: look at what was found out
    /// elsewhere. One that panics counts as degraded. See also [`Guard::report`].
    pub fn health(mut self, ask: impl Fn() -> HealthReport + Send + Sync + 'static) -> Self {
        self.health = Some(Arc::new(ask));
        self
    }

    /// The name that it registers under. Errors name the field.
    pub fn name(&self) -> Result<InstanceName, Error> {
        let id = match self.spec.endpoints.first() {
            Some(first) if self.id.is_empty() => format!("{}-{}", first.host, first.port),
            None if self.id.is_empty() => {
                return Err(Invalid::new("endpoints", "0 given, 1 to 16 are allowed").into());
            }
            _ => self.id.clone(),
        };
        Ok(InstanceName::parse(&self.namespace, &self.service, &id)?)
    }

    /// How often it beats: a third of the lease that it asks for.
    fn pace(&self) -> Duration {
        let asked = self.spec.ttl.as_ref().and_then(length).unwrap_or(Spec::DEFAULT_TTL);
        asked.clamp(limit::TTL_MIN, limit::TTL_MAX) / 3
    }
}

impl State {
    /// Fencing token of the owner; `None` unless it is registered.
    pub fn generation(&self) -> Option<u64> {
        match self {
            Self::Registered { generation } => Some(*generation),
            Self::Registering { .. } | Self::Fenced { .. } | Self::Stopped => None,
        }
    }

    /// Nothing follows it but the end of the guard.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::Stopped)
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("namespace", &self.namespace)
            .field("service", &self.service)
            .field("id", &self.id)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Registers an instance and keeps it listed until the guard goes. Errors: refused by the registry, or no final
    /// answer within the deadline; nothing is kept then.
    pub async fn register(&self, registration: Registration) -> Result<Guard, Error> {
        let mut guards = self.register_all(vec![registration]).await?;
        Ok(guards.pop().expect("one registration gives one guard"))
    }

    /// Registers 1-1000 instances, all or none, and keeps each listed until its guard goes. Guards come in the order
    /// of the registrations. Errors as [`Client::register`].
    pub async fn register_all(
        &self,
        registrations: Vec<Registration>,
    ) -> Result<Vec<Guard>, Error> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let guards = self.enlist(registrations, Some(answer))?;
        answered.await.unwrap_or(Err(Error::Closed { call: "register" }))?;
        Ok(guards)
    }

    /// Registers an instance as soon as the registry answers, however long that takes, and keeps it listed until
    /// the guard goes. For processes that start before the registry does; refusals show in [`Guard::state`].
    /// Errors: a name that cannot be registered.
    pub fn keep_registered(&self, registration: Registration) -> Result<Guard, Error> {
        let mut guards = self.enlist(vec![registration], None)?;
        Ok(guards.pop().expect("one registration gives one guard"))
    }

    /// Deregisters everything that this client and its clones keep listed, persistent instances excepted, and
    /// refuses further registrations. Errors: the registry did not answer; leases run out by themselves then.
    pub async fn close(&self) -> Result<(), Error> {
        let held = self.shared.session.close(&self.shared).await;
        for batch in held.chunks(limit::BATCH) {
            let items = batch.iter().map(|(name, generation)| goodbye(name, *generation)).collect();
            self.deregister(v1::DeregisterRequest {
                items,
                reason: "client closed".to_owned(),
                role: v1::Role::Owner.into(),
                ..v1::DeregisterRequest::default()
            })
            .await?;
        }
        Ok(())
    }

    fn enlist(
        &self,
        registrations: Vec<Registration>,
        answer: Option<tokio::sync::oneshot::Sender<Result<(), Error>>>,
    ) -> Result<Vec<Guard>, Error> {
        if registrations.is_empty() || registrations.len() > limit::BATCH {
            let problem =
                format!("{} given, 1 to {} are allowed", registrations.len(), limit::BATCH);
            return Err(Invalid::new("items", problem).into());
        }
        let names: Result<Vec<_>, _> = registrations.iter().map(Registration::name).collect();
        let mut newcomers = Vec::with_capacity(registrations.len());
        let mut listed = Vec::with_capacity(registrations.len());
        for (registration, name) in registrations.into_iter().zip(names?) {
            let (cell, pace) = (Arc::new(Cell::new()), registration.pace());
            if let Some(notify) = registration.on_change {
                tokio::spawn(tell(cell.states(), notify));
            }
            newcomers.push(Newcomer {
                request: v1::Registration {
                    name: Some(to_name(&name)),
                    spec: Some(registration.spec),
                    owner_nonce: self.shared.dice.nonce().to_vec(),
                    ..v1::Registration::default()
                },
                cell: Arc::clone(&cell),
                name: name.clone(),
            });
            listed.push((name, cell, registration.health, pace));
        }
        let first = self.shared.session.add(&self.shared, newcomers, self.timeout(), answer)?;
        let mut guards = Vec::with_capacity(listed.len());
        for (key, (name, cell, health, pace)) in (first..).zip(listed) {
            if let Some(health) = health {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(ask(shared, key, Arc::clone(&cell), health, pace));
            }
            guards.push(Guard::new(name, self.clone(), key, cell));
        }
        Ok(guards)
    }
}

/// Removes this generation and no other; nothing there is as good.
pub(crate) fn goodbye(name: &InstanceName, generation: u64) -> v1::Deregistration {
    v1::Deregistration {
        name: Some(to_name(name)),
        generation,
        allow_missing: true,
        ..v1::Deregistration::default()
    }
}

pub(crate) fn to_name(name: &InstanceName) -> v1::InstanceName {
    v1::InstanceName {
        namespace: name.service.namespace.as_str().to_owned(),
        service: name.service.service.as_str().to_owned(),
        instance_id: name.id.as_str().to_owned(),
    }
}

pub(crate) fn to_proto(length: Duration) -> prost_types::Duration {
    // Lengths that do not fit are far beyond every limit: the registry refuses them by name.
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or(0),
    }
}

async fn tell(mut states: watch::Receiver<State>, notify: OnChange) {
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        if catch_unwind(AssertUnwindSafe(|| notify(&state))).is_err() {
            tracing::error!(?state, "the on_change callback of a registration panicked");
        }
        if matches!(state, State::Stopped) {
            return;
        }
    }
}

/// Asks an instance how it is, until its registration is over.
async fn ask(shared: Arc<Shared>, key: Key, cell: Arc<Cell>, health: Health, pace: Duration) {
    let mut states = cell.states();
    loop {
        let report = catch_unwind(AssertUnwindSafe(|| health())).unwrap_or_else(|_| {
            tracing::error!("the health callback of a registration panicked");
            HealthReport::degraded("the health callback panicked")
        });
        shared.session.report(key, &cell, report);
        if tokio::time::timeout(pace, states.wait_for(State::is_final)).await.is_ok() {
            return;
        }
    }
}
