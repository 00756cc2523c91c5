//! Core types into answers.

use super::checks::{check_statuses, health_checks};
use crate::v1;
use bytes::{Bytes, BytesMut};
use prost::encoding::message;
use rollcall_core::{
    Service,
    command::Registered,
    instance::{Endpoint, Locality, Spec, Transport},
    name::{InstanceName, ServiceName},
    policy::Policy,
    record::{Actor, AdminState, Event, HealthStatus, Reason, Record, Scope, Status, Subject},
    state::{LeaseCounts, Protection},
};
use std::{sync::Arc, time::Duration};

/// Number of the field `instances` in `ResolveResponse`.
const RESOLVE_INSTANCES: u32 = 4;

/// One instance as an encoded element of `ResolveResponse.instances`: an encoded response without instances, followed
/// by any number of these, is an encoded response with them.
pub fn resolve_instance(record: &Record) -> Bytes {
    let instance = instance(record);
    let mut bytes = BytesMut::with_capacity(message::encoded_len(RESOLVE_INSTANCES, &instance));
    message::encode(RESOLVE_INSTANCES, &instance, &mut bytes);
    bytes.freeze()
}

/// An instance as readers see it.
pub fn instance(record: &Record) -> v1::Instance {
    let detail = record.admin.as_ref().map(|admin| v1::instance::AdminDetail {
        actor: Some(actor(&admin.actor)),
        reason: admin.reason.as_ref().to_owned(),
    });
    v1::Instance {
        instance_id: record.name.id.as_str().to_owned(),
        spec: Some(instance_spec(&record.spec)),
        health_status: health_status(record.health).into(),
        admin_state: admin_state(record.admin_state()).into(),
        revision: record.revision,
        create_revision: record.create_revision,
        generation: record.generation,
        register_time: Some(timestamp(record.register_ms)),
        status_time: Some(timestamp(record.status_ms)),
        status_reason: event_reason(record.reason).into(),
        admin_detail: detail,
        checks: check_statuses(&record.signals),
        self_report: record
            .signals
            .heard()
            .and_then(|heard| heard.self_report.as_ref())
            .map(|why| why.as_ref().to_owned()),
    }
}

/// A spec; also what a client sends.
pub fn instance_spec(spec: &Spec) -> v1::InstanceSpec {
    let text = |text: &Arc<str>| text.as_ref().to_owned();
    let place = (spec.locality != Locality::default()).then(|| locality(&spec.locality));
    v1::InstanceSpec {
        endpoints: spec.endpoints.iter().map(endpoint).collect(),
        locality: place,
        weight: Some(u32::from(spec.weight)),
        priority: u32::from(spec.priority),
        version: text(&spec.version),
        tags: spec.tags.iter().map(text).collect(),
        metadata: spec.metadata.iter().map(|(key, value)| (text(key), text(value))).collect(),
        health_checks: health_checks(&spec.checks),
        ttl: spec.ttl.map(|ttl| duration(ttl.duration())),
        persistent: spec.ttl.is_none(),
        evict_after: spec.evict_after.map(duration),
    }
}

fn endpoint(endpoint: &Endpoint) -> v1::Endpoint {
    let transport = match endpoint.transport {
        Transport::Tcp => v1::Transport::Tcp,
        Transport::Udp => v1::Transport::Udp,
    };
    v1::Endpoint {
        name: endpoint.name.to_string(),
        host: endpoint.address.ip().to_string(),
        port: u32::from(endpoint.address.port()),
        transport: transport.into(),
        app_protocol: endpoint.app_protocol.as_ref().to_owned(),
    }
}

/// A place; also what a client sends.
pub fn locality(place: &Locality) -> v1::Locality {
    let part = |part: &Option<_>| part.as_ref().map(ToString::to_string).unwrap_or_default();
    v1::Locality {
        region: part(&place.region),
        zone: part(&place.zone),
        sub_zone: part(&place.sub_zone),
    }
}

/// Name of a service, its namespace written out.
pub fn service_name(name: &ServiceName) -> v1::ServiceName {
    v1::ServiceName { namespace: name.namespace.to_string(), service: name.service.to_string() }
}

/// Name of an instance, its namespace written out.
pub fn instance_name(name: &InstanceName) -> v1::InstanceName {
    v1::InstanceName {
        namespace: name.service.namespace.to_string(),
        service: name.service.service.to_string(),
        instance_id: name.id.to_string(),
    }
}

/// Outcome of one registration; `record` is what is listed now under the name.
pub fn registered(
    outcome: &Registered,
    spec: &Spec,
    record: Option<&Record>,
) -> v1::RegistrationResult {
    let persistent = spec.ttl.is_none();
    let record = record.filter(|record| record.generation == outcome.generation);
    v1::RegistrationResult {
        generation: outcome.generation,
        lease_handle: if persistent { 0 } else { outcome.generation },
        lease_epoch: outcome.lease_epoch,
        revision: outcome.revision,
        ttl: spec.ttl.map(|ttl| duration(ttl.duration())),
        heartbeat_interval: spec.ttl.map(|ttl| duration(ttl.beat_interval())),
        instance: record.map(instance),
        changed: outcome.changed,
    }
}

/// Outcomes of a deregistration.
pub fn deregistered(removed: &[bool], revision: u64) -> v1::DeregisterResponse {
    let items = removed.iter().map(|removed| v1::DeregistrationResult { removed: *removed });
    v1::DeregisterResponse { items: items.collect(), revision }
}

/// One line of the journal.
pub fn event(event: &Event) -> v1::Event {
    use v1::event::Subject as Wire;
    let subject = match &event.subject {
        Subject::Instance(name) => Wire::Instance(instance_name(name)),
        Subject::Policy(name) => Wire::Policy(service_name(name)),
        Subject::Protection(of) => Wire::Protection(scope(of)),
    };
    v1::Event {
        revision: event.revision,
        time: Some(timestamp(event.wall_ms)),
        subject: Some(subject),
        generation: event.generation,
        from_status: event.from.map(status),
        to_status: event.to.map(status),
        reason: event_reason(event.reason).into(),
        actor: Some(actor(&event.actor)),
        evidence: event.evidence.as_ref().to_owned(),
    }
}

/// Health and admin state.
pub fn status(status: Status) -> v1::InstanceStatus {
    v1::InstanceStatus {
        health_status: health_status(status.health).into(),
        admin_state: admin_state(status.admin).into(),
    }
}

/// Who caused a change.
pub fn actor(actor: &Actor) -> v1::Actor {
    use v1::actor::Kind;
    let (kind, detail) = match actor {
        Actor::Owner(detail) => (Kind::Owner, detail),
        Actor::Operator(detail) => (Kind::Operator, detail),
        Actor::Registry(detail) => (Kind::Registry, detail),
    };
    v1::Actor { kind: kind.into(), detail: detail.as_ref().to_owned() }
}

/// A scope of protection.
pub fn scope(scope: &Scope) -> v1::Scope {
    use v1::scope::Scope as Wire;
    let scope = match scope {
        Scope::Cluster => Wire::Cluster(true),
        Scope::Service(name) => Wire::Service(service_name(name)),
    };
    v1::Scope { scope: Some(scope) }
}

/// A protection in force at the cluster time `now_ms`, holding so many instances.
pub fn protection(
    of: &Scope,
    protection: &Protection,
    now_ms: u64,
    held_count: u32,
) -> v1::Protection {
    v1::Protection {
        scope: Some(scope(of)),
        since_revision: protection.revision,
        age: Some(duration(Duration::from_millis(now_ms.saturating_sub(protection.since_ms)))),
        evidence: protection.evidence.as_ref().to_owned(),
        held_count,
    }
}

/// Leases by state.
pub fn lease_counts(counts: LeaseCounts) -> v1::LeaseCounts {
    let LeaseCounts { current, held, expired, lost } = counts;
    v1::LeaseCounts { current, held, expired, lost }
}

/// A policy.
pub fn policy(policy: &Policy) -> v1::ServicePolicy {
    v1::ServicePolicy {
        dns_ttl: policy.dns_ttl.map(duration),
        fail_open_below: policy.fail_open_below,
        evict_after: policy.evict_after.map(duration),
        evict_unhealthy_after: policy.evict_unhealthy_after.map(duration),
        protection_threshold: policy.protection_threshold,
        health_checks: health_checks(&policy.checks),
    }
}

/// A service at a glance. Counts its instances one by one.
pub fn service_summary(service: &Service) -> v1::ServiceSummary {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let routable = service.instances.values().filter(|record| record.routable()).count();
    v1::ServiceSummary {
        name: Some(service_name(&service.name)),
        instance_count: count(service.instances.len()),
        routable_count: count(routable),
        service_revision: service.revision,
        has_policy: service.policy.is_some(),
    }
}

/// Health.
pub fn health_status(health: HealthStatus) -> v1::HealthStatus {
    match health {
        HealthStatus::Starting => v1::HealthStatus::Starting,
        HealthStatus::Healthy => v1::HealthStatus::Healthy,
        HealthStatus::Degraded => v1::HealthStatus::Degraded,
        HealthStatus::Unhealthy => v1::HealthStatus::Unhealthy,
        HealthStatus::Expired => v1::HealthStatus::Expired,
    }
}

/// Admin state; also what a client sends.
pub fn admin_state(state: AdminState) -> v1::AdminState {
    match state {
        AdminState::Enabled => v1::AdminState::Enabled,
        AdminState::Draining => v1::AdminState::Draining,
        AdminState::Maintenance => v1::AdminState::Maintenance,
    }
}

/// Reason of an event.
pub fn event_reason(reason: Reason) -> v1::EventReason {
    use v1::EventReason as Wire;
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
}

/// A duration; one beyond the range of the message is cut to its largest.
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Wall clock in ms since 1970.
pub fn timestamp(wall_ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(wall_ms / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(wall_ms % 1_000 * 1_000_000).unwrap_or(0),
    }
}
