//! What commands, outcomes and the state have in common.

use super::{
    Pool, StoredError,
    checks::{read_checks, write_checks},
    wire,
};
use bytes::Bytes;
use rollcall_core::{
    command::RequestId,
    instance::{Endpoint, Locality, Spec, Transport, Ttl},
    name::{InstanceName, Label, ServiceName},
    policy::Policy,
    record::{Actor, Admin, AdminState, Event, HealthStatus, Reason, Scope, Status, Subject},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Written as nothing, because nearly all names have it.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

type Read<T> = Result<T, StoredError>;

/// What a field must hold.
pub(super) fn need<T>(field: &'static str, value: Option<T>) -> Read<T> {
    value.ok_or(StoredError::Unknown { field })
}

pub(super) fn write_text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Text of a field, which is bytes on the wire.
pub(super) fn text<'a>(field: &'static str, bytes: &'a Bytes) -> Read<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| StoredError::value(field, error))
}

/// Text that is hardly ever equal to another.
pub(super) fn read_text(field: &'static str, bytes: &Bytes) -> Read<Arc<str>> {
    Ok(text(field, bytes)?.into())
}

pub(super) fn u16_of(field: &'static str, value: u32) -> Read<u16> {
    u16::try_from(value).map_err(|_| StoredError::value(field, value))
}

// === Numbers and times ===

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
pub(super) fn write_u128(value: u128) -> wire::Uint128 {
    wire::Uint128 { high: (value >> 64) as u64, low: value as u64 }
}

pub(super) fn read_u128(field: &'static str, value: Option<wire::Uint128>) -> Read<u128> {
    let value = need(field, value)?;
    Ok(u128::from(value.high) << 64 | u128::from(value.low))
}

pub(super) fn write_span(value: Duration) -> wire::Span {
    wire::Span { seconds: value.as_secs(), nanos: value.subsec_nanos() }
}

pub(super) fn read_span(field: &'static str, value: Option<wire::Span>) -> Read<Option<Duration>> {
    match value {
        Some(span) if span.nanos >= 1_000_000_000 => Err(StoredError::value(field, span.nanos)),
        Some(span) => Ok(Some(Duration::new(span.seconds, span.nanos))),
        None => Ok(None),
    }
}

// === Names ===

fn write_namespace(namespace: &Label) -> Bytes {
    match namespace.as_str() {
        DEFAULT_NAMESPACE => Bytes::new(),
        other => write_text(other),
    }
}

pub(super) fn write_service(name: &ServiceName) -> wire::StoredService {
    wire::StoredService {
        namespace: write_namespace(&name.namespace),
        service: write_text(name.service.as_str()),
    }
}

pub(super) fn write_name(name: &InstanceName) -> wire::StoredName {
    wire::StoredName {
        namespace: write_namespace(&name.service.namespace),
        service: write_text(name.service.service.as_str()),
        id: write_text(name.id.as_str()),
    }
}

pub(super) fn read_service(
    field: &'static str,
    name: Option<wire::StoredService>,
    pool: &mut Pool,
) -> Read<ServiceName> {
    pool.service(&need(field, name)?)
}

pub(super) fn read_name(
    field: &'static str,
    name: Option<wire::StoredName>,
    pool: &mut Pool,
) -> Read<Arc<InstanceName>> {
    pool.instance(&need(field, name)?)
}

pub(super) fn write_request_id(id: Option<&RequestId>) -> Bytes {
    id.map(|id| write_text(id.as_str())).unwrap_or_default()
}

pub(super) fn read_request_id(id: &Bytes) -> Read<Option<RequestId>> {
    if id.is_empty() { Ok(None) } else { Ok(Some(RequestId::parse(text("request_id", id)?)?)) }
}

// === Spec ===

pub(super) fn write_spec(spec: &Spec) -> wire::StoredSpec {
    let place = |part: &Option<Label>| {
        part.as_ref().map(|part| write_text(part.as_str())).unwrap_or_default()
    };
    let pair = |(key, value): &(Arc<str>, Arc<str>)| wire::StoredPair {
        key: write_text(key),
        value: write_text(value),
    };
    wire::StoredSpec {
        endpoints: spec.endpoints.iter().map(write_endpoint).collect(),
        region: place(&spec.locality.region),
        zone: place(&spec.locality.zone),
        sub_zone: place(&spec.locality.sub_zone),
        weight: u32::from(spec.weight),
        priority: u32::from(spec.priority),
        version: write_text(&spec.version),
        tags: spec.tags.iter().map(|tag| write_text(tag)).collect(),
        metadata: spec.metadata.iter().map(pair).collect(),
        ttl_ms: spec.ttl.map_or(0, |ttl| u32::try_from(ttl.millis()).unwrap_or(u32::MAX)),
        evict_after: spec.evict_after.map(write_span),
        checks: write_checks(&spec.checks),
    }
}

pub(super) fn read_spec(spec: Option<wire::StoredSpec>, pool: &mut Pool) -> Read<Spec> {
    let spec = need("spec", spec)?;
    let mut place = |field, part: &Bytes| -> Read<Option<Label>> {
        if part.is_empty() { Ok(None) } else { Ok(Some(pool.label(field, part)?)) }
    };
    let locality = Locality {
        region: place("region", &spec.region)?,
        zone: place("zone", &spec.zone)?,
        sub_zone: place("sub_zone", &spec.sub_zone)?,
    };
    let ttl = match spec.ttl_ms {
        0 => None,
        ms => Some(Ttl::parse(Duration::from_millis(u64::from(ms)))?),
    };
    // Lists of their exact length: they stay in memory as long as the instance does.
    let mut endpoints = Vec::with_capacity(spec.endpoints.len());
    for endpoint in spec.endpoints {
        endpoints.push(read_endpoint(endpoint, pool)?);
    }
    let mut tags = Vec::with_capacity(spec.tags.len());
    for tag in &spec.tags {
        tags.push(pool.word("tag", tag)?);
    }
    let mut metadata = Vec::with_capacity(spec.metadata.len());
    for pair in &spec.metadata {
        metadata.push((pool.word("key", &pair.key)?, pool.word("value", &pair.value)?));
    }
    Ok(Spec {
        endpoints,
        locality,
        weight: u16_of("weight", spec.weight)?,
        priority: u16_of("priority", spec.priority)?,
        version: pool.word("version", &spec.version)?,
        tags,
        metadata,
        ttl,
        evict_after: read_span("evict_after", spec.evict_after)?,
        checks: read_checks(spec.checks, pool)?,
    })
}

fn write_endpoint(endpoint: &Endpoint) -> wire::StoredEndpoint {
    use wire::stored_endpoint::{Ip, Transport as Wire};
    let ip = match endpoint.address.ip() {
        IpAddr::V4(ip) => Ip::V4(ip.to_bits()),
        IpAddr::V6(ip) => Ip::V6(write_u128(ip.to_bits())),
    };
    let transport = match endpoint.transport {
        Transport::Tcp => Wire::Tcp,
        Transport::Udp => Wire::Udp,
    };
    wire::StoredEndpoint {
        name: write_text(endpoint.name.as_str()),
        ip: Some(ip),
        port: u32::from(endpoint.address.port()),
        transport: transport.into(),
        app_protocol: write_text(&endpoint.app_protocol),
    }
}

fn read_endpoint(endpoint: wire::StoredEndpoint, pool: &mut Pool) -> Read<Endpoint> {
    use wire::stored_endpoint::{Ip, Transport as Wire};
    let transport = match endpoint.transport() {
        Wire::Unspecified => return Err(StoredError::Unknown { field: "transport" }),
        Wire::Tcp => Transport::Tcp,
        Wire::Udp => Transport::Udp,
    };
    let ip = match need("ip", endpoint.ip)? {
        Ip::V4(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        Ip::V6(bits) => IpAddr::V6(Ipv6Addr::from_bits(read_u128("v6", Some(bits))?)),
    };
    Ok(Endpoint {
        name: pool.label("endpoint", &endpoint.name)?,
        address: SocketAddr::new(ip, u16_of("port", endpoint.port)?),
        transport,
        app_protocol: pool.word("app_protocol", &endpoint.app_protocol)?,
    })
}

// === Policy ===

pub(super) fn write_policy(policy: &Policy) -> wire::StoredPolicy {
    wire::StoredPolicy {
        dns_ttl: policy.dns_ttl.map(write_span),
        fail_open_below: policy.fail_open_below,
        evict_after: policy.evict_after.map(write_span),
        evict_unhealthy_after: policy.evict_unhealthy_after.map(write_span),
        protection_threshold: policy.protection_threshold,
        checks: write_checks(&policy.checks),
    }
}

pub(super) fn read_policy(policy: wire::StoredPolicy, pool: &mut Pool) -> Read<Policy> {
    Ok(Policy {
        dns_ttl: read_span("dns_ttl", policy.dns_ttl)?,
        fail_open_below: policy.fail_open_below,
        evict_after: read_span("evict_after", policy.evict_after)?,
        evict_unhealthy_after: read_span("evict_unhealthy_after", policy.evict_unhealthy_after)?,
        protection_threshold: policy.protection_threshold,
        checks: read_checks(policy.checks, pool)?,
    })
}

// === Actor, scope, status, reason ===

pub(super) fn write_actor(actor: &Actor) -> wire::StoredActor {
    use wire::stored_actor::Kind;
    let (kind, who) = match actor {
        Actor::Owner(who) => (Kind::Owner, who),
        Actor::Operator(who) => (Kind::Operator, who),
        Actor::Registry(who) => (Kind::Registry, who),
    };
    wire::StoredActor { kind: kind.into(), who: write_text(who) }
}

pub(super) fn read_actor(actor: Option<wire::StoredActor>, pool: &mut Pool) -> Read<Actor> {
    use wire::stored_actor::Kind;
    let actor = need("actor", actor)?;
    let who = pool.word("who", &actor.who)?;
    match actor.kind() {
        Kind::Unspecified => Err(StoredError::Unknown { field: "actor.kind" }),
        Kind::Owner => Ok(Actor::Owner(who)),
        Kind::Operator => Ok(Actor::Operator(who)),
        Kind::Registry => Ok(Actor::Registry(who)),
    }
}

pub(super) fn write_scope(scope: &Scope) -> wire::StoredScope {
    use wire::stored_scope::Scope as Wire;
    let scope = match scope {
        Scope::Cluster => Wire::Cluster(wire::Nothing {}),
        Scope::Service(name) => Wire::Service(write_service(name)),
    };
    wire::StoredScope { scope: Some(scope) }
}

pub(super) fn read_scope(scope: Option<wire::StoredScope>, pool: &mut Pool) -> Read<Scope> {
    use wire::stored_scope::Scope as Wire;
    match need("scope", need("scope", scope)?.scope)? {
        Wire::Cluster(wire::Nothing {}) => Ok(Scope::Cluster),
        Wire::Service(name) => Ok(Scope::Service(pool.service(&name)?)),
    }
}

pub(super) fn write_health(health: HealthStatus) -> i32 {
    use wire::StoredHealth as Wire;
    match health {
        HealthStatus::Starting => Wire::Starting,
        HealthStatus::Healthy => Wire::Healthy,
        HealthStatus::Degraded => Wire::Degraded,
        HealthStatus::Unhealthy => Wire::Unhealthy,
        HealthStatus::Expired => Wire::Expired,
    }
    .into()
}

pub(super) fn read_health(health: i32) -> Read<HealthStatus> {
    use wire::StoredHealth as Wire;
    match Wire::try_from(health) {
        Ok(Wire::Starting) => Ok(HealthStatus::Starting),
        Ok(Wire::Healthy) => Ok(HealthStatus::Healthy),
        Ok(Wire::Degraded) => Ok(HealthStatus::Degraded),
        Ok(Wire::Unhealthy) => Ok(HealthStatus::Unhealthy),
        Ok(Wire::Expired) => Ok(HealthStatus::Expired),
        Ok(Wire::Unspecified) | Err(_) => Err(StoredError::Unknown { field: "health" }),
    }
}

pub(super) fn write_admin_state(state: AdminState) -> i32 {
    use wire::StoredAdminState as Wire;
    match state {
        AdminState::Enabled => Wire::Enabled,
        AdminState::Draining => Wire::Draining,
        AdminState::Maintenance => Wire::Maintenance,
    }
    .into()
}

pub(super) fn read_admin_state(state: i32) -> Read<AdminState> {
    use wire::StoredAdminState as Wire;
    match Wire::try_from(state) {
        Ok(Wire::Enabled) => Ok(AdminState::Enabled),
        Ok(Wire::Draining) => Ok(AdminState::Draining),
        Ok(Wire::Maintenance) => Ok(AdminState::Maintenance),
        Ok(Wire::Unspecified) | Err(_) => Err(StoredError::Unknown { field: "admin_state" }),
    }
}

pub(super) fn write_reason(reason: Reason) -> i32 {
    use wire::StoredReason as Wire;
    match reason {
        Reason::Registered => Wire::Registered,
        Reason::Updated => Wire::Updated,
        Reason::TakenOver => Wire::TakenOver,
        Reason::Restored => Wire::Restored,
        Reason::LeaseExpired => Wire::LeaseExpired,
        Reason::HeartbeatLost => Wire::HeartbeatLost,
        Reason::Deregistered => Wire::Deregistered,
        Reason::Removed => Wire::Removed,
        Reason::Evicted => Wire::Evicted,
        Reason::AdminSet => Wire::AdminSet,
        Reason::AdminExpired => Wire::AdminExpired,
        Reason::PolicyPut => Wire::PolicyPut,
        Reason::PolicyDeleted => Wire::PolicyDeleted,
        Reason::ProtectionEntered => Wire::ProtectionEntered,
        Reason::ProtectionEnded => Wire::ProtectionEnded,
        Reason::ProtectionReleased => Wire::ProtectionReleased,
        Reason::ProtectionTimedOut => Wire::ProtectionTimedOut,
        Reason::CheckPassed => Wire::CheckPassed,
        Reason::CheckFailed => Wire::CheckFailed,
        Reason::CheckFlaps => Wire::CheckFlaps,
        Reason::CheckSteady => Wire::CheckSteady,
        Reason::ChecksChanged => Wire::ChecksChanged,
        Reason::StreamBroken => Wire::StreamBroken,
        Reason::SelfDegraded => Wire::SelfDegraded,
        Reason::SelfRecovered => Wire::SelfRecovered,
    }
    .into()
}

pub(super) fn read_reason(reason: i32) -> Read<Reason> {
    use wire::StoredReason as Wire;
    Ok(match Wire::try_from(reason) {
        Ok(Wire::Registered) => Reason::Registered,
        Ok(Wire::Updated) => Reason::Updated,
        Ok(Wire::TakenOver) => Reason::TakenOver,
        Ok(Wire::Restored) => Reason::Restored,
        Ok(Wire::LeaseExpired) => Reason::LeaseExpired,
        Ok(Wire::HeartbeatLost) => Reason::HeartbeatLost,
        Ok(Wire::Deregistered) => Reason::Deregistered,
        Ok(Wire::Removed) => Reason::Removed,
        Ok(Wire::Evicted) => Reason::Evicted,
        Ok(Wire::AdminSet) => Reason::AdminSet,
        Ok(Wire::AdminExpired) => Reason::AdminExpired,
        Ok(Wire::PolicyPut) => Reason::PolicyPut,
        Ok(Wire::PolicyDeleted) => Reason::PolicyDeleted,
        Ok(Wire::ProtectionEntered) => Reason::ProtectionEntered,
        Ok(Wire::ProtectionEnded) => Reason::ProtectionEnded,
        Ok(Wire::ProtectionReleased) => Reason::ProtectionReleased,
        Ok(Wire::ProtectionTimedOut) => Reason::ProtectionTimedOut,
        Ok(Wire::CheckPassed) => Reason::CheckPassed,
        Ok(Wire::CheckFailed) => Reason::CheckFailed,
        Ok(Wire::CheckFlaps) => Reason::CheckFlaps,
        Ok(Wire::CheckSteady) => Reason::CheckSteady,
        Ok(Wire::ChecksChanged) => Reason::ChecksChanged,
        Ok(Wire::StreamBroken) => Reason::StreamBroken,
        Ok(Wire::SelfDegraded) => Reason::SelfDegraded,
        Ok(Wire::SelfRecovered) => Reason::SelfRecovered,
        Ok(Wire::Unspecified) | Err(_) => return Err(StoredError::Unknown { field: "reason" }),
    })
}

pub(super) fn write_admin(admin: &Admin) -> wire::StoredAdmin {
    wire::StoredAdmin {
        state: write_admin_state(admin.state),
        actor: Some(write_actor(&admin.actor)),
        reason: write_text(&admin.reason),
        until_ms: admin.until,
    }
}

pub(super) fn read_admin(admin: wire::StoredAdmin, pool: &mut Pool) -> Read<Admin> {
    Ok(Admin {
        state: read_admin_state(admin.state)?,
        actor: read_actor(admin.actor, pool)?,
        reason: pool.word("reason", &admin.reason)?,
        until: admin.until_ms,
    })
}

// === Events ===

pub(super) fn write_event(event: &Event) -> wire::StoredEvent {
    use wire::stored_event::Subject as Wire;
    let status = |status: Status| wire::StoredStatus {
        health: write_health(status.health),
        admin: write_admin_state(status.admin),
    };
    let subject = match &event.subject {
        Subject::Instance(name) => Wire::Instance(write_name(name)),
        Subject::Policy(name) => Wire::Policy(write_service(name)),
        Subject::Protection(scope) => Wire::Protection(write_scope(scope)),
    };
    wire::StoredEvent {
        revision: event.revision,
        wall_ms: event.wall_ms,
        subject: Some(subject),
        generation: event.generation,
        from: event.from.map(status),
        to: event.to.map(status),
        reason: write_reason(event.reason),
        actor: Some(write_actor(&event.actor)),
        evidence: write_text(&event.evidence),
    }
}

pub(super) fn read_event(event: wire::StoredEvent, pool: &mut Pool) -> Read<Event> {
    use wire::stored_event::Subject as Wire;
    let status = |status: Option<wire::StoredStatus>| -> Read<Option<Status>> {
        let Some(status) = status else { return Ok(None) };
        let health = read_health(status.health)?;
        Ok(Some(Status { health, admin: read_admin_state(status.admin)? }))
    };
    let subject = match need("subject", event.subject)? {
        Wire::Instance(name) => Subject::Instance(pool.instance(&name)?),
        Wire::Policy(name) => Subject::Policy(pool.service(&name)?),
        Wire::Protection(scope) => Subject::Protection(read_scope(Some(scope), pool)?),
    };
    Ok(Event {
        revision: event.revision,
        wall_ms: event.wall_ms,
        subject,
        generation: event.generation,
        from: status(event.from)?,
        to: status(event.to)?,
        reason: read_reason(event.reason)?,
        actor: read_actor(event.actor, pool)?,
        evidence: read_text("evidence", &event.evidence)?,
    })
}
