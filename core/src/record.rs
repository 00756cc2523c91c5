//! What the registry knows of an instance: its record, its status and the events that led there.

use crate::{
    instance::{Spec, Transport},
    name::{InstanceName, ServiceName},
    signals::Signals,
};
use std::{fmt, sync::Arc};

/// Health as the registry decides it, never the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthStatus {
    /// Registered, first verdict not known yet.
    Starting,
    /// Serves.
    Healthy,
    /// Serves, but counts half its weight.
    Degraded,
    /// Fails its critical checks.
    Unhealthy,
    /// Its lease ran out.
    Expired,
}

impl HealthStatus {
    /// Whether traffic may go there as far as health is concerned.
    pub fn serves(self) -> bool {
        match self {
            Self::Healthy | Self::Degraded => true,
            Self::Starting | Self::Unhealthy | Self::Expired => false,
        }
    }

    /// The word of the API and of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Healthy => "HEALTHY",
            Self::Degraded => "DEGRADED",
            Self::Unhealthy => "UNHEALTHY",
            Self::Expired => "EXPIRED",
        }
    }
}

/// What the owner or an operator asked for, independent of health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum AdminState {
    /// Takes traffic.
    #[default]
    Enabled,
    /// Finishes what it has, takes nothing new.
    Draining,
    /// Taken out on purpose; neither expires nor is evicted.
    Maintenance,
}

impl AdminState {
    /// The word of the API and of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Draining => "DRAINING",
            Self::Maintenance => "MAINTENANCE",
        }
    }
}

/// Who caused a change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The instance's own process; the text says from where.
    Owner(Arc<str>),
    /// A person or a tool; the text says from where.
    Operator(Arc<str>),
    /// The registry itself; the text names the node.
    Registry(Arc<str>),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, who) = match self {
            Self::Owner(who) => ("owner", who),
            Self::Operator(who) => ("operator", who),
            Self::Registry(who) => ("registry", who),
        };
        if who.is_empty() { f.write_str(kind) } else { write!(f, "{kind} {who}") }
    }
}

/// Why a change happened. Stable codes: they are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// First registration of this id, or the first after its removal.
    Registered,
    /// The same owner changed its spec.
    Updated,
    /// A new owner registered the same id.
    TakenOver,
    /// Registered again after its lease had run out.
    Restored,
    /// Its lease ran out.
    LeaseExpired,
    /// Its lease ran out, and something (protection, a passing check) holds it.
    HeartbeatLost,
    /// Removed by its owner.
    Deregistered,
    /// Removed by an operator.
    Removed,
    /// Removed by the registry: dead by every signal for `evict_after`.
    Evicted,
    /// Its admin state was set.
    AdminSet,
    /// Its admin state ended by itself.
    AdminExpired,
    /// A service policy was stored.
    PolicyPut,
    /// A service policy was deleted.
    PolicyDeleted,
    /// Mass expiry: protection began.
    ProtectionEntered,
    /// Protection ended, because few are missing.
    ProtectionEnded,
    /// An operator ended protection.
    ProtectionReleased,
    /// Protection lasted its longest and ended.
    ProtectionTimedOut,
    /// A check began to pass.
    CheckPassed,
    /// A check began to fail.
    CheckFailed,
    /// The verdict of a check changes again and again.
    CheckFlaps,
    /// The verdict of a check has stopped changing.
    CheckSteady,
    /// The policy of the service names other checks.
    ChecksChanged,
    /// Its heartbeat stream broke, and its checks failed at once.
    StreamBroken,
    /// It says itself that it serves badly.
    SelfDegraded,
    /// It says itself that it serves well again.
    SelfRecovered,
}

impl Reason {
    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Updated => "updated",
            Self::TakenOver => "taken_over",
            Self::Restored => "restored",
            Self::LeaseExpired => "lease_expired",
            Self::HeartbeatLost => "heartbeat_lost",
            Self::Deregistered => "deregistered",
            Self::Removed => "removed",
            Self::Evicted => "evicted",
            Self::AdminSet => "admin_set",
            Self::AdminExpired => "admin_expired",
            Self::PolicyPut => "policy_put",
            Self::PolicyDeleted => "policy_deleted",
            Self::ProtectionEntered => "protection_entered",
            Self::ProtectionEnded => "protection_ended",
            Self::ProtectionReleased => "protection_released",
            Self::ProtectionTimedOut => "protection_timed_out",
            Self::CheckPassed => "check_passed",
            Self::CheckFailed => "check_failed",
            Self::CheckFlaps => "check_flaps",
            Self::CheckSteady => "check_steady",
            Self::ChecksChanged => "checks_changed",
            Self::StreamBroken => "stream_broken",
            Self::SelfDegraded => "self_degraded",
            Self::SelfRecovered => "self_recovered",
        }
    }
}

/// What is protected against mass expiry together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All leases.
    Cluster,
    /// The leases of one service.
    Service(ServiceName),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Service(name) => write!(f, "service {name}"),
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One instance.
    Instance(Arc<InstanceName>),
    /// The policy of a service.
    Policy(ServiceName),
    /// A protection scope.
    Protection(Scope),
}

impl Subject {
    /// The service that is touched; `None` for the protection of the whole cluster.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Instance(name) => Some(&name.service),
            Self::Policy(name) | Self::Protection(Scope::Service(name)) => Some(name),
            Self::Protection(Scope::Cluster) => None,
        }
    }
}

/// Status of an instance at one end of an event; `None` in an event means "not in the catalogue".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status {
    /// Health.
    pub health: HealthStatus,
    /// Admin state.
    pub admin: AdminState,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.admin {
            AdminState::Enabled => f.write_str(self.health.as_str()),
            AdminState::Draining | AdminState::Maintenance => {
                write!(f, "{} {}", self.health.as_str(), self.admin.as_str())
            }
        }
    }
}

/// One line of the journal. Each revision has exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// The revision that this change made.
    pub revision: u64,
    /// Wall clock of the leader in ms since 1970; for display only, it may jump.
    pub wall_ms: u64,
    /// What it is about.
    pub subject: Subject,
    /// Generation of the instance; 0 for policies and protection.
    pub generation: u64,
    /// Status before.
    pub from: Option<Status>,
    /// Status after.
    pub to: Option<Status>,
    /// Why.
    pub reason: Reason,
    /// Who.
    pub actor: Actor,
    /// What was seen, at most 256 bytes; may be empty.
    pub evidence: Arc<str>,
}

/// State of a lease as far as it is replicated. Deadlines live in the leader's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// Renewed as far as the log knows.
    Current,
    /// Ran out, held back by protection.
    Held,
    /// Ran out.
    Expired,
    /// Ran out, while a critical check passes: the checks decide.
    Lost,
}

/// A lease: the right to stay listed. Its handle is the generation of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Grows with every registration that changes something; fences late expiries.
    pub epoch: u32,
    /// Whether it ran out.
    pub state: LeaseState,
}

/// Admin state with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Admin {
    /// What was asked for.
    pub state: AdminState,
    /// Who asked. An operator's word survives generations, the owner's ends with its own.
    pub actor: Actor,
    /// Free text for the journal.
    pub reason: Arc<str>,
    /// Cluster time in ms at which it ends by itself.
    pub until: Option<u64>,
}

impl Admin {
    /// Whether an operator asked: then it survives new generations and eviction, and the owner cannot lift it.
    pub fn is_by_operator(&self) -> bool {
        matches!(self.actor, Actor::Operator(_))
    }
}

/// Everything that is known of a listed instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Full name.
    pub name: Arc<InstanceName>,
    /// What the owner declared.
    pub spec: Arc<Spec>,
    /// Random per registration; tells a repeated call from a new owner.
    pub nonce: u128,
    /// Fencing token, unique in the cluster for ever; also the handle of the lease.
    pub generation: u64,
    /// `None` = persistent.
    pub lease: Option<Lease>,
    /// Epoch of the last lease of this generation, kept while an update makes it persistent; 0 = it had none.
    pub lease_epoch: u32,
    /// Health as decided.
    pub health: HealthStatus,
    /// Why it has this health.
    pub reason: Reason,
    /// What its checks and its own word say.
    pub signals: Signals,
    /// Admin state, unless plainly enabled.
    pub admin: Option<Arc<Admin>>,
    /// Revision of the last change.
    pub revision: u64,
    /// Revision of the registration that created it.
    pub create_revision: u64,
    /// Wall clock of that registration, ms.
    pub register_ms: u64,
    /// Wall clock of the last change of health or admin state, ms.
    pub status_ms: u64,
    /// Its last events, oldest first.
    pub history: History,
}

/// The last events of one instance, oldest first. Not part of the state hash: the events' effects are.
#[derive(Debug, Clone, Default)]
pub struct History(Events);

/// Most instances have been registered and nothing else: one event needs no list.
#[derive(Debug, Clone, Default)]
enum Events {
    #[default]
    None,
    One(Arc<Event>),
    Many(Box<[Arc<Event>]>),
}

impl History {
    /// How many are kept.
    pub const MAX: usize = 8;

    /// A history of the last [`History::MAX`] of these, oldest first.
    pub fn of(mut events: Vec<Arc<Event>>) -> Self {
        let surplus = events.len().saturating_sub(Self::MAX);
        events.drain(..surplus);
        match (events.pop(), events.is_empty()) {
            (None, _) => Self(Events::None),
            (Some(only), true) => Self(Events::One(only)),
            (Some(last), false) => {
                events.push(last);
                Self(Events::Many(events.into()))
            }
        }
    }

    /// The events, oldest first.
    pub fn events(&self) -> &[Arc<Event>] {
        match &self.0 {
            Events::None => &[],
            Events::One(event) => std::slice::from_ref(event),
            Events::Many(events) => events,
        }
    }

    /// This history and one more event.
    #[must_use]
    pub fn and(&self, event: Arc<Event>) -> Self {
        Self::of(self.events().iter().cloned().chain([event]).collect())
    }
}

impl PartialEq for History {
    fn eq(&self, other: &Self) -> bool {
        self.events() == other.events()
    }
}

impl Eq for History {}

impl std::hash::Hash for History {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// What stays of an instance for ten minutes of cluster time after its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// Full name.
    pub name: Arc<InstanceName>,
    /// Generation of the last owner.
    pub generation: u64,
    /// Nonce of the last owner.
    pub nonce: u128,
    /// Deregistered, Removed or Evicted.
    pub reason: Reason,
    /// Revision of the removal.
    pub revision: u64,
    /// Its last events, the removal last.
    pub history: History,
}

impl Tombstone {
    /// Whether the removed registration may not come back under its own nonce.
    pub fn sticks(&self) -> bool {
        matches!(self.reason, Reason::Deregistered | Reason::Removed)
    }
}

impl Record {
    /// Admin state in force.
    pub fn admin_state(&self) -> AdminState {
        self.admin.as_ref().map_or(AdminState::Enabled, |admin| admin.state)
    }

    /// Health and admin state.
    pub fn status(&self) -> Status {
        Status { health: self.health, admin: self.admin_state() }
    }

    /// ENABLED and (HEALTHY or DEGRADED).
    pub fn routable(&self) -> bool {
        self.admin_state() == AdminState::Enabled && self.health.serves()
    }

    /// Weight that counts: half where DEGRADED, but not less than 1 where it was not 0.
    pub fn effective_weight(&self) -> u16 {
        match self.health {
            HealthStatus::Degraded if self.spec.weight > 0 => (self.spec.weight / 2).max(1),
            HealthStatus::Starting
            | HealthStatus::Healthy
            | HealthStatus::Degraded
            | HealthStatus::Unhealthy
            | HealthStatus::Expired => self.spec.weight,
        }
    }

    /// Whether its lease has run out for good.
    pub fn is_expired(&self) -> bool {
        self.lease.is_some_and(|lease| lease.state == LeaseState::Expired)
    }

    /// Whether protection holds this generation.
    pub(crate) fn is_held_as(&self, generation: u64) -> bool {
        self.generation == generation
            && self.lease.is_some_and(|lease| lease.state == LeaseState::Held)
    }
}

impl Transport {
    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}
