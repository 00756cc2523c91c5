//! Parts of an answer as text for people: names, addresses, states, times.

use std::time::{Duration, SystemTime};

use rollcall_core::name::{InstanceName, ServiceName};
use rollcall_proto::v1;

use crate::clock::{Clock, SystemClock};

/// A 64-bit id: 16 hex digits.
pub(super) fn id(id: u64) -> String {
    format!("{id:016x}")
}

/// Seconds with as many decimals as it needs: `10s`, `0.25s`.
pub(super) fn seconds(length: &prost_types::Duration) -> String {
    let (sign, nanos) = match length.seconds < 0 || length.nanos < 0 {
        true => ("-", length.nanos.unsigned_abs()),
        false => ("", length.nanos.unsigned_abs()),
    };
    let whole = length.seconds.unsigned_abs();
    let fraction = format!("{nanos:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}s"),
        fraction => format!("{sign}{whole}.{fraction}s"),
    }
}

/// A length of time for people, whole milliseconds: `1m 30s`.
pub(super) fn length(length: Option<&prost_types::Duration>) -> String {
    let Some(length) = length.and_then(std_duration) else { return String::new() };
    let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

/// The duration of a message; `None` where it is negative.
pub(super) fn std_duration(length: &prost_types::Duration) -> Option<Duration> {
    let (seconds, nanos) = (u64::try_from(length.seconds).ok()?, u32::try_from(length.nanos).ok()?);
    Some(Duration::new(seconds, nanos))
}

/// The duration as the API writes it.
pub(super) fn wire_duration(length: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or(0),
    }
}

fn millis(time: &prost_types::Timestamp) -> Option<u64> {
    let seconds = u64::try_from(time.seconds).ok()?.checked_mul(1_000)?;
    seconds.checked_add(u64::try_from(time.nanos).ok()? / 1_000_000)
}

/// A point in time: RFC 3339 with milliseconds, UTC.
pub(super) fn time(time: Option<&prost_types::Timestamp>) -> String {
    let since = time.and_then(millis).map(Duration::from_millis);
    let Some(at) = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)) else {
        return String::new();
    };
    humantime::format_rfc3339_millis(at).to_string()
}

/// How long ago by this machine's clock, in whole seconds; the registry's clock may differ.
pub(super) fn ago(time: Option<&prost_types::Timestamp>) -> String {
    let Some(then) = time.and_then(millis) else { return "at an unknown time".to_owned() };
    match SystemClock::new().wall_ms().saturating_sub(then) / 1_000 {
        0 => "just now".to_owned(),
        seconds => format!("{} ago", humantime::format_duration(Duration::from_secs(seconds))),
    }
}

/// `[NS/]SERVICE`.
pub(super) fn service(name: Option<&v1::ServiceName>) -> String {
    name.map_or_else(String::new, |name| qualified(&name.namespace, &name.service))
}

/// `[NS/]SERVICE/ID`.
pub(super) fn instance(name: Option<&v1::InstanceName>) -> String {
    let text = |name: &v1::InstanceName| {
        format!("{}/{}", qualified(&name.namespace, &name.service), name.instance_id)
    };
    name.map_or_else(String::new, text)
}

fn qualified(namespace: &str, service: &str) -> String {
    match namespace {
        "" | "default" => service.to_owned(),
        namespace => format!("{namespace}/{service}"),
    }
}

/// The name as the API writes it.
pub(super) fn wire_service(name: &ServiceName) -> v1::ServiceName {
    v1::ServiceName {
        namespace: name.namespace.as_str().to_owned(),
        service: name.service.as_str().to_owned(),
    }
}

/// The name as the API writes it.
pub(super) fn wire_instance(name: &InstanceName) -> v1::InstanceName {
    v1::InstanceName {
        namespace: name.service.namespace.as_str().to_owned(),
        service: name.service.service.as_str().to_owned(),
        instance_id: name.id.as_str().to_owned(),
    }
}

/// Health without its prefix: `HEALTHY`.
pub(super) fn health(value: i32) -> &'static str {
    let name = v1::HealthStatus::try_from(value).unwrap_or_default().as_str_name();
    name.trim_start_matches("HEALTH_STATUS_")
}

/// Admin state without its prefix: `DRAINING`.
pub(super) fn admin(value: i32) -> &'static str {
    let name = v1::AdminState::try_from(value).unwrap_or_default().as_str_name();
    name.trim_start_matches("ADMIN_STATE_")
}

/// Reason without its prefix: `LEASE_EXPIRED`.
pub(super) fn reason(value: i32) -> &'static str {
    let name = v1::EventReason::try_from(value).unwrap_or_default().as_str_name();
    name.trim_start_matches("EVENT_REASON_")
}

/// Role without its prefix: `LEADER`.
pub(super) fn role(value: i32) -> &'static str {
    let name = v1::MemberRole::try_from(value).unwrap_or_default().as_str_name();
    name.trim_start_matches("MEMBER_ROLE_")
}

/// Health, and the admin state where it matters: `HEALTHY`, `HEALTHY,DRAINING`.
pub(super) fn status(health_status: i32, admin_state: i32) -> String {
    let enabled = [v1::AdminState::Enabled, v1::AdminState::Unspecified];
    match v1::AdminState::try_from(admin_state) {
        Ok(state) if enabled.contains(&state) => health(health_status).to_owned(),
        _ => format!("{},{}", health(health_status), admin(admin_state)),
    }
}

/// Status at one end of an event; none: not registered.
pub(super) fn end(status_of: Option<&v1::InstanceStatus>) -> String {
    let text = |end: &v1::InstanceStatus| status(end.health_status, end.admin_state);
    status_of.map_or_else(|| "absent".to_owned(), text)
}

/// `name=address:port` of each endpoint.
pub(super) fn endpoints(spec: Option<&v1::InstanceSpec>) -> String {
    let text = |endpoint: &v1::Endpoint| {
        let host = match endpoint.host.contains(':') {
            true => format!("[{}]", endpoint.host),
            false => endpoint.host.clone(),
        };
        format!("{}={host}:{}", endpoint.name, endpoint.port)
    };
    let all: Vec<_> = spec.iter().flat_map(|spec| &spec.endpoints).map(text).collect();
    all.join(" ")
}

/// Who did it: `owner 127.0.0.1:4711`.
pub(super) fn actor(actor: Option<&v1::Actor>) -> String {
    let Some(actor) = actor else { return String::new() };
    let who = match v1::actor::Kind::try_from(actor.kind).unwrap_or_default() {
        v1::actor::Kind::Owner => "owner",
        v1::actor::Kind::Operator => "operator",
        v1::actor::Kind::Registry => "registry",
        v1::actor::Kind::Unspecified => "unknown",
    };
    format!("{who} {}", actor.detail).trim_end().to_owned()
}

/// `cluster`, or the service.
pub(super) fn scope(scope: Option<&v1::Scope>) -> String {
    match scope.and_then(|scope| scope.scope.as_ref()) {
        Some(v1::scope::Scope::Service(name)) => service(Some(name)),
        Some(v1::scope::Scope::Cluster(_)) | None => "cluster".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_no_more_decimals_than_they_need() {
        for (whole, nanos, text) in [
            (10, 0, "10s"),
            (0, 250_000_000, "0.25s"),
            (90, 1, "90.000000001s"),
            (0, 0, "0s"),
            (0, -500_000_000, "-0.5s"),
        ] {
            assert_eq!(seconds(&prost_types::Duration { seconds: whole, nanos }), text);
        }
    }

    #[test]
    fn states_lose_their_prefix_and_an_enabled_instance_says_nothing_of_it() {
        let healthy = v1::HealthStatus::Healthy.into();
        assert_eq!(status(healthy, v1::AdminState::Enabled.into()), "HEALTHY");
        assert_eq!(status(healthy, v1::AdminState::Draining.into()), "HEALTHY,DRAINING");
        assert_eq!(end(None), "absent");
        assert_eq!(reason(v1::EventReason::LeaseExpired.into()), "LEASE_EXPIRED");
    }

    #[test]
    fn an_ipv6_endpoint_stands_in_brackets() {
        let endpoint = |host: &str| v1::Endpoint {
            name: "http".into(),
            host: host.into(),
            port: 80,
            ..v1::Endpoint::default()
        };
        let spec = v1::InstanceSpec {
            endpoints: vec![endpoint("::1"), endpoint("10.0.0.1")],
            ..v1::InstanceSpec::default()
        };
        assert_eq!(endpoints(Some(&spec)), "http=[::1]:80 http=10.0.0.1:80");
    }
}
