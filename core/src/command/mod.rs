//! Every way in which the state can change, and every way in which it can refuse.
//!
//! A [`Stamped`] command is what the log holds. `apply` never asks for the time: the leader stamps what it needs.

mod health;

pub use health::{
    Figure, Finding, ReportHealth, ReportSelf, Reported, SelfReport, SetCheckers, Source,
};

use crate::{
    instance::{Spec, limit},
    name::{InstanceName, Invalid, ServiceName, parse_text},
    policy::Policy,
    record::{Actor, AdminState, Reason, Scope},
    secret::ClusterSecret,
};
use std::{sync::Arc, time::Duration};

/// A command with what the leader stamped on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stamped {
    /// Wall clock in ms since 1970, for display and journal only.
    pub wall_ms: u64,
    /// Cluster time that has passed since the leader's last stamp, ms. More than a day counts as a day.
    pub advance_ms: u64,
    /// What to do.
    pub command: Command,
}

/// A wish for change.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Lists instances; all or none.
    Register(Register),
    /// Removes instances at the wish of their owner or of an operator; all or none.
    Deregister(Deregister),
    /// Sets or clears the admin state of one instance.
    SetAdminState(SetAdminState),
    /// Stores the policy of a service.
    PutServicePolicy(PutServicePolicy),
    /// Deletes the policy of a service.
    DeleteServicePolicy(DeleteServicePolicy),
    /// Stores the secret that all nodes share, where there is none. Changes nothing visible.
    PutClusterSecret(ClusterSecret),
    /// Remembers leases that missed a beat, or forgets that they did. Changes nothing visible.
    CheckpointLeases(Vec<LeaseCheckpoint>),
    /// Ends leases.
    ExpireLeases(ExpireLeases),
    /// Removes instances that are dead by every signal.
    EvictInstances(EvictInstances),
    /// Begins or ends protection of a scope.
    SetProtection(SetProtection),
    /// Takes verdicts of checks.
    ReportHealth(ReportHealth),
    /// Takes what owners say of themselves.
    ReportSelf(ReportSelf),
    /// Names the nodes that probe.
    SetCheckers(SetCheckers),
    /// Lets cluster time pass while nothing else happens.
    AdvanceTime,
}

/// Id that a caller gives a write so that a retry has no second effect: 1-64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Reads a request id. Errors name the field `request_id`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        parse_text("request_id", text, 1, limit::REQUEST_ID_BYTES).map(Self)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A batch of registrations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Register {
    /// 1-1,000, no name twice.
    pub items: Vec<Registration>,
    /// Who.
    pub actor: Actor,
    /// For exactly one effect over retries.
    pub request_id: Option<RequestId>,
    /// Whether at most 256 instances may name one IP address; off in loopback mode.
    pub address_limit: bool,
}

/// One registration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Under which name.
    pub name: InstanceName,
    /// What is declared.
    pub spec: Arc<Spec>,
    /// Random per registration.
    pub nonce: u128,
    /// Generation that this process already holds; 0 = its first registration.
    pub held_generation: u64,
    /// Refuse unless the record has this revision; 0 = unless there is none.
    pub expected_revision: Option<u64>,
}

/// A batch of deregistrations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deregister {
    /// 1-1,000.
    pub items: Vec<Deregistration>,
    /// [`Actor::Operator`] makes the removal stick: the removed process is fenced.
    pub actor: Actor,
    /// For exactly one effect over retries.
    pub request_id: Option<RequestId>,
    /// Free text for the journal.
    pub evidence: Arc<str>,
}

/// One deregistration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deregistration {
    /// Which instance.
    pub name: InstanceName,
    /// Only this generation; another one is left alone. 0 = whichever is there.
    pub generation: u64,
    /// Success even where there is nothing to remove.
    pub allow_missing: bool,
    /// Refuse unless the record has this revision.
    pub expected_revision: Option<u64>,
}

/// Sets the admin state of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetAdminState {
    /// Which instance.
    pub name: InstanceName,
    /// Only this generation; on another one the late call of an old process is refused. 0 = whichever is there.
    pub generation: u64,
    /// ENABLED clears what stands.
    pub state: AdminState,
    /// Who. The owner cannot lift what an operator set; an operator's word replaces the owner's for good.
    pub actor: Actor,
    /// Free text for the journal.
    pub reason: Arc<str>,
    /// Ends by itself after this cluster time.
    pub expire_after: Option<Duration>,
    /// For exactly one effect over retries.
    pub request_id: Option<RequestId>,
    /// Refuse unless the record has this revision.
    pub expected_revision: Option<u64>,
}

/// Stores a service policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PutServicePolicy {
    /// Which service; it need not have instances.
    pub service: ServiceName,
    /// The whole policy, replacing the former.
    pub policy: Policy,
    /// Who.
    pub actor: Actor,
    /// For exactly one effect over retries.
    pub request_id: Option<RequestId>,
}

/// Deletes a service policy; deleting none is no error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeleteServicePolicy {
    /// Which service.
    pub service: ServiceName,
    /// Who.
    pub actor: Actor,
    /// For exactly one effect over retries.
    pub request_id: Option<RequestId>,
}

/// A lease as seen by the leader at a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseCheckpoint {
    /// Which lease: its handle.
    pub generation: u64,
    /// Epoch on which this was decided.
    pub lease_epoch: u32,
    /// Time it has left, ms; `None` = it beats again.
    pub remaining_ms: Option<u32>,
}

/// Ends leases whose time is over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExpireLeases {
    /// Which ones.
    pub items: Vec<Expiry>,
    /// The node that decided.
    pub actor: Actor,
}

/// One lease that ran out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expiry {
    /// Which lease: its handle.
    pub generation: u64,
    /// Epoch on which this was decided.
    pub lease_epoch: u32,
    /// Its checks have kept it listed for as long as they can: it ends although they pass.
    pub overdue: bool,
    /// What the leader saw, for the journal.
    pub evidence: Arc<str>,
}

/// Removes instances.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EvictInstances {
    /// Which ones.
    pub items: Vec<Eviction>,
    /// The node that decided.
    pub actor: Actor,
}

/// One instance to remove.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Eviction {
    /// Generation on which this was decided.
    pub generation: u64,
    /// Lease epoch on which this was decided; 0 where persistent.
    pub lease_epoch: u32,
    /// Revision at which it became UNHEALTHY, where it goes for that; `None` = because its lease ran out.
    pub unhealthy_since: Option<u64>,
    /// What the leader saw, for the journal.
    pub evidence: Arc<str>,
}

/// Begins or ends protection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetProtection {
    /// Of what.
    pub scope: Scope,
    /// Which way.
    pub change: ProtectionChange,
    /// Who.
    pub actor: Actor,
    /// What was seen, for the journal.
    pub evidence: Arc<str>,
    /// For exactly one effect over retries (an operator's release).
    pub request_id: Option<RequestId>,
}

/// The two ways of [`SetProtection`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProtectionChange {
    /// Begin; leases named here expired within the window and come back as held.
    Enter {
        /// `(generation, lease_epoch)` of each.
        restore: Vec<(u64, u32)>,
    },
    /// End, for this reason; held leases are released.
    Leave(Reason),
}

/// What a command came to. The same on every node, and kept for retries with the same request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Revision after the command.
    pub revision: u64,
    /// What was done, or why it was refused.
    pub result: Result<Done, Rejection>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// For each item of a registration, in order.
    Registered(Vec<Registered>),
    /// For each item of a deregistration, in order: whether something was removed.
    Deregistered(Vec<bool>),
    /// For each expiry, in order.
    Expired(Vec<Expired>),
    /// The count of instances removed.
    Evicted(u32),
    /// For each verdict or self-report, in order.
    Reported(Vec<Reported>),
    /// The command took effect, or had none to take.
    Applied,
}

/// Outcome of one registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Fencing token and lease handle.
    pub generation: u64,
    /// Epoch of the lease; 0 where persistent. It grows with every registration that changes something.
    pub lease_epoch: u32,
    /// Revision of the record.
    pub revision: u64,
    /// Whether anything visible changed.
    pub changed: bool,
}

/// Outcome of one expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The lease is over.
    Expired,
    /// The lease ran out, but protection holds the instance.
    Held,
    /// The lease ran out, but a critical check passes: the checks decide.
    Lost,
    /// The instance is in maintenance: its lease does not end.
    Suspended,
    /// Decided on a generation or epoch that is gone: no effect.
    Superseded,
}

/// A refusal: a result like any other, equal on every node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A newer owner holds the id.
    #[error(
        "{name} belongs to generation {generation} at {holder}; this process holds an older one and was fenced"
    )]
    Fenced {
        /// Which instance.
        name: InstanceName,
        /// Generation of the holder.
        generation: u64,
        /// Address of the holder.
        holder: Arc<str>,
    },
    /// An operator removed this registration.
    #[error("{name} was deregistered ({reason}); a new registration needs a new owner_nonce")]
    Deregistered {
        /// Which instance.
        name: InstanceName,
        /// By whom and why.
        reason: Arc<str>,
    },
    /// Compare-and-set lost.
    #[error("{name} has revision {current}, not the expected {expected}")]
    RevisionMismatch {
        /// Which instance.
        name: InstanceName,
        /// What the caller expected; 0 = absent.
        expected: u64,
        /// What is there; 0 = absent.
        current: u64,
    },
    /// The same request id came with other content.
    #[error(
        "request_id {id} was used {age_ms} ms ago for a different request; make a new one for each request"
    )]
    RequestIdReused {
        /// The id.
        id: Arc<str>,
        /// Cluster time since then, ms.
        age_ms: u64,
    },
    /// No such instance.
    #[error("{name} is not registered")]
    InstanceNotFound {
        /// Which instance.
        name: InstanceName,
    },
    /// A quota is used up.
    #[error("{quota}: {limit} are in use, none is left{at}")]
    QuotaExceeded {
        /// Name of the quota.
        quota: Quota,
        /// Its size.
        limit: u64,
        /// Where, as ` for 10.0.0.1`; may be empty.
        at: Arc<str>,
    },
    /// One batch names an instance twice, or has no or too many items.
    #[error("{problem}")]
    InvalidBatch {
        /// What is wrong with it.
        problem: Arc<str>,
    },
    /// The owner may not lift what an operator set.
    #[error("{name} was set to {state} by {actor}; only an operator can change it")]
    HeldByOperator {
        /// Which instance.
        name: InstanceName,
        /// The state in force.
        state: Arc<str>,
        /// Who set it.
        actor: Arc<str>,
    },
    /// The set of checkers is another one now.
    #[error("the checkers of epoch {epoch} are not those of epoch {current}, which stand")]
    CheckersChanged {
        /// On which the command rests.
        epoch: u64,
        /// That stands.
        current: u64,
    },
    /// The scope is not protected.
    #[error("{scope} is not protected, there is nothing to release")]
    NotProtected {
        /// Which scope.
        scope: Scope,
    },
}

/// The quotas of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// Instances in the cluster.
    Instances,
    /// Services in the cluster.
    Services,
    /// Instances of one service.
    InstancesPerService,
    /// Instances that name one IP address.
    InstancesPerAddress,
    /// Admin states kept for operators.
    Overrides,
}

impl Quota {
    /// Name as in the documentation and in `QuotaFailure`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instances => "limits.instances",
            Self::Services => "limits.services",
            Self::InstancesPerService => "limits.instances_per_service",
            Self::InstancesPerAddress => "limits.instances_per_address",
            Self::Overrides => "limits.overrides",
        }
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
