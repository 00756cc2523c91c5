//! What an owner declares, checked in full.

use super::{
    checks::read_checks,
    problems::{Problems, Refused},
};
use crate::v1;
use rollcall_core::{
    instance::{Endpoint, Locality, Spec, Transport, Ttl, limit},
    name::{InstanceName, Label, ServiceName, parse_text, shown},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// The spec of an instance; one that says nothing of its lease gets `default_ttl`. Fields are named within the spec.
pub fn spec(spec: v1::InstanceSpec, default_ttl: Duration) -> Result<Spec, Refused> {
    let mut problems = Problems::default();
    let spec = read_spec(spec, default_ttl, &mut problems);
    problems.finish(spec)
}

pub(super) fn read_spec(
    spec: v1::InstanceSpec,
    default_ttl: Duration,
    problems: &mut Problems,
) -> Option<Spec> {
    let ttl = read_ttl(spec.ttl, spec.persistent, default_ttl, problems);
    let endpoints = problems
        .count("endpoints", spec.endpoints.len(), 1, limit::ENDPOINTS)
        .and_then(|()| problems.each("endpoints", spec.endpoints, read_endpoint));
    let locality = match spec.locality {
        Some(place) => problems.within(|| "locality".into(), |p| read_locality(&place, p)),
        None => Some(Locality::default()),
    };
    let weight = match spec.weight {
        Some(weight) => problems.u16("weight", weight),
        None => Some(Spec::DEFAULT_WEIGHT),
    };
    let priority = problems.u16("priority", spec.priority);
    let version = problems.take(parse_text("version", &spec.version, 0, Label::MAX));
    let tags = read_tags(spec.tags, problems);
    let metadata = read_metadata(spec.metadata, problems);
    let evict_after = problems.duration("evict_after", spec.evict_after);
    let checks = read_checks(spec.health_checks, problems);
    let spec = Spec {
        endpoints: endpoints?,
        locality: locality?,
        weight: weight?,
        priority: priority?,
        version: version?,
        tags: tags?,
        metadata: metadata?,
        ttl: ttl?,
        evict_after: evict_after?,
        checks: checks?,
    };
    problems.take(spec.checked().map_err(|mut invalid| {
        // The limit of the whole is a problem of the field in which the spec stands.
        if invalid.field == "spec" {
            invalid.field.clear();
        }
        invalid
    }))
}

#[expect(clippy::option_option, reason = "the outer one tells of a refusal")]
fn read_ttl(
    ttl: Option<prost_types::Duration>,
    persistent: bool,
    default: Duration,
    problems: &mut Problems,
) -> Option<Option<Ttl>> {
    let ttl = problems.duration("ttl", ttl)?;
    if !persistent {
        return problems.take(Ttl::parse(ttl.unwrap_or(default))).map(Some);
    }
    if ttl.is_some() {
        problems
            .add("ttl", "a persistent instance has no lease; leave ttl unset or persistent off");
        return None;
    }
    Some(None)
}

fn read_endpoint(problems: &mut Problems, endpoint: v1::Endpoint) -> Option<Endpoint> {
    let name = problems.take(Label::parse("name", &endpoint.name));
    let ip: Option<IpAddr> = endpoint.host.parse().ok();
    if ip.is_none() {
        let problem = format!(
            "{} is not an IPv4 or IPv6 literal; host names are not resolved",
            shown(&endpoint.host)
        );
        problems.add("host", problem);
    }
    let port = match u16::try_from(endpoint.port) {
        Ok(port) if port != 0 => Some(port),
        _ => {
            problems.add("port", format!("{}: 1 to 65535 are allowed", endpoint.port));
            None
        }
    };
    let transport = problems.known::<v1::Transport>("transport", endpoint.transport);
    let app_protocol =
        problems.take(parse_text("app_protocol", &endpoint.app_protocol, 0, Label::MAX));
    let address = SocketAddr::new(ip?, port?);
    Some(Endpoint {
        address: problems.take(Endpoint::check_address("host", address))?,
        name: name?,
        transport: match transport? {
            v1::Transport::Unspecified | v1::Transport::Tcp => Transport::Tcp,
            v1::Transport::Udp => Transport::Udp,
        },
        app_protocol: app_protocol?,
    })
}

pub(super) fn read_locality(place: &v1::Locality, problems: &mut Problems) -> Option<Locality> {
    let mut part = |field, text: &str| {
        if text.is_empty() {
            return Some(None);
        }
        problems.take(Label::parse(field, text)).map(Some)
    };
    let (region, zone) = (part("region", &place.region), part("zone", &place.zone));
    let sub_zone = part("sub_zone", &place.sub_zone);
    Some(Locality { region: region?, zone: zone?, sub_zone: sub_zone? })
}

pub(super) fn read_tags(tags: Vec<String>, problems: &mut Problems) -> Option<Vec<Arc<str>>> {
    problems.count("tags", tags.len(), 0, limit::TAGS)?;
    problems.each("tags", tags, |problems, tag| {
        problems.take(parse_text("", &tag, 1, limit::TAG_BYTES))
    })
}

pub(super) type Pairs = Vec<(Arc<str>, Arc<str>)>;

pub(super) fn read_metadata(
    metadata: std::collections::BTreeMap<String, String>,
    problems: &mut Problems,
) -> Option<Pairs> {
    problems.count("metadata", metadata.len(), 0, limit::METADATA)?;
    let mut pairs = Vec::with_capacity(metadata.len());
    let mut whole = true;
    for (key, value) in metadata {
        let pair = problems.within(
            || format!("metadata[{}]", shown(&key)),
            |problems| {
                let key = problems.take(parse_text("key", &key, 1, limit::METADATA_KEY_BYTES));
                let value = parse_text("value", &value, 0, limit::METADATA_VALUE_BYTES);
                let value = problems.take(value);
                Some((key?, value?))
            },
        );
        match pair {
            Some(pair) => pairs.push(pair),
            None => whole = false,
        }
    }
    whole.then_some(pairs)
}

pub(super) fn read_name(
    name: Option<v1::InstanceName>,
    problems: &mut Problems,
) -> Option<InstanceName> {
    let name = problems.need("name", name)?;
    problems.within(
        || "name".into(),
        |p| p.take(InstanceName::parse(&name.namespace, &name.service, &name.instance_id)),
    )
}

pub(super) fn read_service(
    field: &str,
    name: Option<v1::ServiceName>,
    problems: &mut Problems,
) -> Option<ServiceName> {
    let name = problems.need(field, name)?;
    problems
        .within(|| field.to_owned(), |p| p.take(ServiceName::parse(&name.namespace, &name.service)))
}
