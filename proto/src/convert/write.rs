//! Requests that change something, into commands.

use super::{
    HANDLES,
    checks::read_checks,
    problems::{Problems, Refused},
    spec::{read_name, read_service, read_spec},
};
use crate::v1;
use rollcall_core::{
    command::{
        DeleteServicePolicy, Deregister, Deregistration, ProtectionChange, PutServicePolicy,
        Register, Registration, RequestId, SetAdminState, SetProtection,
    },
    instance::limit,
    name::{ServiceName, parse_text, shown},
    policy::Policy,
    record::{Actor, AdminState, Reason, Scope},
    signals::Utilization,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Longest time after which an admin state ends by itself.
const EXPIRE_AFTER_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Shortest one.
const EXPIRE_AFTER_MIN: Duration = Duration::from_secs(1);

/// What the settings of the node say about registrations.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Lease of an instance that does not say; 1 s to 24 h.
    pub default_ttl: Duration,
    /// Whether at most 256 instances may name one IP address.
    pub address_limit: bool,
}

/// A batch of registrations. `from` is the caller's address, for the journal.
pub fn register(
    request: v1::RegisterRequest,
    from: &str,
    admission: Admission,
) -> Result<Register, Refused> {
    let mut problems = Problems::default();
    let request_id = read_request_id(&request.request_id, &mut problems);
    let items = problems.count("items", request.items.len(), 1, limit::BATCH).and_then(|()| {
        problems.each("items", request.items, |problems, item| {
            read_registration(item, admission.default_ttl, problems)
        })
    });
    let command = (|| {
        Some(Register {
            items: items?,
            actor: Actor::Owner(from.into()),
            request_id: request_id?,
            address_limit: admission.address_limit,
        })
    })();
    problems.finish(command)
}

fn read_registration(
    item: v1::Registration,
    default_ttl: Duration,
    problems: &mut Problems,
) -> Option<Registration> {
    let name = read_name(item.name, problems);
    let spec = problems
        .need("spec", item.spec)
        .and_then(|spec| problems.within(|| "spec".into(), |p| read_spec(spec, default_ttl, p)));
    let nonce = <[u8; 16]>::try_from(&item.owner_nonce[..]).ok();
    if nonce.is_none() {
        let length = item.owner_nonce.len();
        problems.add("owner_nonce", format!("{length} bytes: 16 random bytes are required"));
    }
    Some(Registration {
        name: name?,
        spec: Arc::new(spec?),
        nonce: u128::from_be_bytes(nonce?),
        held_generation: item.held_generation,
        expected_revision: item.expected_revision,
    })
}

/// A batch of deregistrations.
pub fn deregister(request: v1::DeregisterRequest, from: &str) -> Result<Deregister, Refused> {
    let mut problems = Problems::default();
    let request_id = read_request_id(&request.request_id, &mut problems);
    let actor = read_role(request.role, from, &mut problems);
    let evidence = read_reason(&request.reason, &mut problems);
    let items = problems.count("items", request.items.len(), 1, limit::BATCH).and_then(|()| {
        problems.each("items", request.items, |problems, item| {
            Some(Deregistration {
                name: read_name(item.name, problems)?,
                generation: item.generation,
                allow_missing: item.allow_missing,
                expected_revision: item.expected_revision,
            })
        })
    });
    let command = (|| {
        Some(Deregister {
            items: items?,
            actor: actor?,
            request_id: request_id?,
            evidence: evidence?,
        })
    })();
    problems.finish(command)
}

/// An admin state.
pub fn set_admin_state(
    request: v1::SetAdminStateRequest,
    from: &str,
) -> Result<SetAdminState, Refused> {
    let mut problems = Problems::default();
    let name = read_name(request.name, &mut problems);
    let state = match problems.known::<v1::AdminState>("state", request.state) {
        Some(v1::AdminState::Unspecified) => problems.need("state", None),
        Some(v1::AdminState::Enabled) => Some(AdminState::Enabled),
        Some(v1::AdminState::Draining) => Some(AdminState::Draining),
        Some(v1::AdminState::Maintenance) => Some(AdminState::Maintenance),
        None => None,
    };
    let actor = read_role(request.role, from, &mut problems);
    let reason = read_reason(&request.reason, &mut problems);
    let expire_after = problems.duration("expire_after", request.expire_after);
    if let Some(Some(wait)) = expire_after {
        if !(EXPIRE_AFTER_MIN..=EXPIRE_AFTER_MAX).contains(&wait) {
            problems.add("expire_after", format!("{wait:?}: 1s to 366 days are allowed"));
        } else if state == Some(AdminState::Enabled) {
            problems.add("expire_after", "ENABLED does not end; leave expire_after unset");
        }
    }
    let request_id = read_request_id(&request.request_id, &mut problems);
    let command = (|| {
        Some(SetAdminState {
            name: name?,
            generation: request.generation,
            state: state?,
            actor: actor?,
            reason: reason?,
            expire_after: expire_after?,
            request_id: request_id?,
            expected_revision: request.expected_revision,
        })
    })();
    problems.finish(command)
}

/// The policy of a service.
pub fn put_policy(
    request: v1::PutServicePolicyRequest,
    from: &str,
) -> Result<PutServicePolicy, Refused> {
    let mut problems = Problems::default();
    let service = read_service("service", request.service, &mut problems);
    let policy = problems
        .need("policy", request.policy)
        .and_then(|policy| problems.within(|| "policy".into(), |p| read_policy(policy, p)));
    let request_id = read_request_id(&request.request_id, &mut problems);
    let command = (|| {
        Some(PutServicePolicy {
            service: service?,
            policy: policy?,
            actor: Actor::Operator(from.into()),
            request_id: request_id?,
        })
    })();
    problems.finish(command)
}

fn read_policy(policy: v1::ServicePolicy, problems: &mut Problems) -> Option<Policy> {
    let dns_ttl = problems.duration("dns_ttl", policy.dns_ttl);
    let evict_after = problems.duration("evict_after", policy.evict_after);
    let unhealthy = problems.duration("evict_unhealthy_after", policy.evict_unhealthy_after);
    let checks = read_checks(policy.health_checks, problems);
    let policy = Policy {
        dns_ttl: dns_ttl?,
        fail_open_below: policy.fail_open_below,
        evict_after: evict_after?,
        evict_unhealthy_after: unhealthy?,
        protection_threshold: policy.protection_threshold,
        checks: checks?,
    };
    problems.take(policy.checked())
}

/// The end of a service's policy.
pub fn delete_policy(
    request: v1::DeleteServicePolicyRequest,
    from: &str,
) -> Result<DeleteServicePolicy, Refused> {
    let mut problems = Problems::default();
    let service = read_service("service", request.service, &mut problems);
    let request_id = read_request_id(&request.request_id, &mut problems);
    let actor = Actor::Operator(from.into());
    let command =
        (|| Some(DeleteServicePolicy { service: service?, actor, request_id: request_id? }))();
    problems.finish(command)
}

/// An operator's release of a protection.
pub fn release_protection(
    request: v1::ReleaseProtectionRequest,
    from: &str,
) -> Result<SetProtection, Refused> {
    let mut problems = Problems::default();
    let scope = problems.need("scope", request.scope.and_then(|scope| scope.scope));
    let scope = scope.and_then(|scope| match scope {
        v1::scope::Scope::Cluster(true) => Some(Scope::Cluster),
        v1::scope::Scope::Cluster(false) => {
            problems.add("scope.cluster", "false names nothing; set it to true or name a service");
            None
        }
        v1::scope::Scope::Service(name) => problems
            .within(|| "scope".into(), |p| read_service("service", Some(name), p))
            .map(Scope::Service),
    });
    let evidence = read_reason(&request.reason, &mut problems);
    let request_id = read_request_id(&request.request_id, &mut problems);
    let command = (|| {
        Some(SetProtection {
            scope: scope?,
            change: ProtectionChange::Leave(Reason::ProtectionReleased),
            actor: Actor::Operator(from.into()),
            evidence: evidence?,
            request_id: request_id?,
        })
    })();
    problems.finish(command)
}

/// A node that is to be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddMember {
    /// Its peer service.
    pub peer: SocketAddr,
    /// The member whose place it takes.
    pub replace: Option<u64>,
    /// It stays a learner.
    pub learner: bool,
}

/// Which node to take in.
pub fn add_member(request: &v1::AddMemberRequest) -> Result<AddMember, Refused> {
    let mut problems = Problems::default();
    let peer: Option<SocketAddr> = request.peer_address.parse().ok();
    let peer = peer.filter(|peer| peer.port() != 0 && !peer.ip().is_unspecified());
    if peer.is_none() {
        let problem = format!("{} is not ip:port of a peer", shown(&request.peer_address));
        problems.add("peer_address", problem);
    }
    let replace = Some(request.replace_node_id).filter(|id| *id != 0);
    problems.finish(peer.map(|peer| AddMember { peer, replace, learner: request.learner }))
}

/// What an owner says of one of its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnWord {
    /// Its lease handle, which is its generation.
    pub handle: u64,
    /// Why it serves badly; `None` = it does not.
    pub degraded: Option<Arc<str>>,
    /// How busy it is; `None` = not told.
    pub utilization: Option<Utilization>,
}

/// Checks the bounds of one heartbeat message, and takes out what owners say of themselves.
pub fn check_beat(beat: &mut v1::StreamHeartbeatsRequest) -> Result<Vec<OwnWord>, Refused> {
    let mut problems = Problems::default();
    let handles = beat.alive_handles.len() + beat.release_handles.len();
    let bounded = problems.count("alive_handles", handles, 0, HANDLES);
    let reports = std::mem::take(&mut beat.self_reports);
    let reports = problems
        .count("self_reports", reports.len(), 0, limit::FINDINGS)
        .and_then(|()| problems.each("self_reports", reports, read_self_report));
    problems.finish(bounded.and(reports))
}

fn read_self_report(problems: &mut Problems, report: v1::SelfReport) -> Option<OwnWord> {
    let reason = read_reason(&report.reason, problems);
    let utilization = match report.utilization_percent {
        None => Some(None),
        Some(percent) => {
            let utilization = Utilization::new(percent);
            if utilization.is_none() {
                let problem = format!("{percent}: 0 to {} are allowed", Utilization::MAX);
                problems.add("utilization_percent", problem);
            }
            utilization.map(Some)
        }
    };
    let degraded = report.degraded.then_some(reason?);
    Some(OwnWord { handle: report.lease_handle, degraded, utilization: utilization? })
}

/// The service that a request must name, in the field `service`.
pub fn required_service(name: Option<v1::ServiceName>) -> Result<ServiceName, Refused> {
    let mut problems = Problems::default();
    let name = read_service("service", name, &mut problems);
    problems.finish(name)
}

#[expect(clippy::option_option, reason = "the outer one tells of a refusal")]
fn read_request_id(id: &str, problems: &mut Problems) -> Option<Option<RequestId>> {
    if id.is_empty() {
        return Some(None);
    }
    problems.take(RequestId::parse(id)).map(Some)
}

fn read_reason(reason: &str, problems: &mut Problems) -> Option<Arc<str>> {
    problems.take(parse_text("reason", reason, 0, limit::TEXT_BYTES))
}

fn read_role(role: i32, from: &str, problems: &mut Problems) -> Option<Actor> {
    match problems.known::<v1::Role>("role", role)? {
        v1::Role::Unspecified | v1::Role::Owner => Some(Actor::Owner(from.into())),
        v1::Role::Operator => Some(Actor::Operator(from.into())),
    }
}
