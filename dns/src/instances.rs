//! Which instances of a service DNS shows, and at which of their endpoints.
//!
//! Health is judged in one place for all surfaces ([`rollcall_core::query`]); what DNS adds is that draining instances
//! and those of weight 0 are absent, and that an instance is shown at one endpoint.

use crate::{
    choose::{Weighted, srv_priority, srv_weight},
    question::{Select, Target},
};
use rollcall_core::{
    Service,
    instance::{Endpoint, Locality, Spec},
    name::{InstanceId, ServiceName},
    query::{Filter, fails_open, select},
    record::{AdminState, Record},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use xxhash_rust::xxh3::xxh3_64;

/// The instances that a question selects.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Each with the endpoint that it is shown at, in order of instance id.
    pub instances: Vec<Instance>,
    /// Too few are routable: these are all, whatever their health.
    pub fail_open: bool,
}

/// One instance at one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// What is known of it.
    pub record: Arc<Record>,
    /// Where it is to be called.
    pub endpoint: Endpoint,
    /// SRV priority.
    pub priority: u16,
    /// SRV weight.
    pub weight: u16,
    /// Distance from the client, 0 to 3; 0 where nothing is known of the client.
    pub distance: u8,
}

/// One address, and the weights of all instances there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Sum of weights.
    pub weight: u32,
}

/// What one SRV record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where.
    pub address: SocketAddr,
    /// Lower ones are to be tried first.
    pub priority: u16,
    /// Share of traffic within the priority.
    pub weight: u16,
}

/// The service that a question means.
pub(crate) fn service_name(target: &Target<'_>) -> Option<ServiceName> {
    ServiceName::parse(target.namespace.unwrap_or_default(), target.service).ok()
}

/// The instances of `service` that the question selects, as seen from `client`.
pub(crate) fn shown(
    service: &Service,
    target: &Target<'_>,
    by: &Select<'_>,
    client: Option<&Locality>,
) -> Shown {
    let tags = match by {
        Select::Tags(tags) => tags.map(Arc::from).collect(),
        Select::Port(..) | Select::Transport { .. } | Select::Word(_) => Vec::new(),
    };
    let selection = select(service, &Filter { tags, ..Filter::default() });
    let largest = largest_weight(service);
    let shown = |record: &Arc<Record>| {
        let spec = &record.spec;
        let absent = record.admin_state() == AdminState::Draining
            || record.effective_weight() == 0
            || !is_in_zone(spec, target);
        if absent {
            return None;
        }
        let endpoint = endpoint(spec, by)?.clone();
        Some(instance(record, endpoint, largest, client))
    };
    let instances = selection.records.iter().filter_map(shown).collect();
    Shown { instances, fail_open: selection.fail_open }
}

/// Whether it stands in the zone that the name says, if it says one.
fn is_in_zone(spec: &Spec, target: &Target<'_>) -> bool {
    let zone = spec.locality.zone.as_ref().map(|zone| zone.as_str());
    target.zone.is_none_or(|wanted| zone == Some(wanted))
}

/// One instance by its id, shown while it serves, also while it drains. `Some(None)`: it is there, but not to be shown.
pub(crate) fn by_id(service: &Service, target: &Target<'_>, id: &str) -> Option<Option<Instance>> {
    let record = service.instances.get(&InstanceId::parse(id).ok()?)?;
    let open = record.health.serves() || fails_open(service);
    let shut = !open || record.admin_state() == AdminState::Maintenance;
    if shut || !is_in_zone(&record.spec, target) {
        return Some(None);
    }
    let endpoint = record.spec.endpoints.first()?.clone();
    let mut instance = instance(record, endpoint, largest_weight(service), None);
    if record.admin_state() == AdminState::Draining {
        // HAProxy reads it as "nothing new".
        instance.weight = 0;
    }
    Some(Some(instance))
}

fn instance(
    record: &Arc<Record>,
    endpoint: Endpoint,
    largest: u16,
    client: Option<&Locality>,
) -> Instance {
    let distance = client.map_or(0, |client| client.distance(&record.spec.locality));
    Instance {
        record: record.clone(),
        endpoint,
        priority: srv_priority(record.spec.priority, distance),
        weight: srv_weight(record.effective_weight(), largest),
        distance,
    }
}

fn largest_weight(service: &Service) -> u16 {
    service.instances.values().map(|record| record.spec.weight).max().unwrap_or(0)
}

/// The id as a label, where it can stand in a name: one label that folding does not change.
pub(crate) fn label_of(id: &InstanceId) -> Option<&str> {
    let id = id.as_str();
    let visible = id.len() <= 63 && !id.bytes().any(|b| b == b'.' || b.is_ascii_uppercase());
    visible.then_some(id)
}

/// The endpoint that an instance is shown at; `None` where it is not selected.
fn endpoint<'a>(spec: &'a Spec, by: &Select<'_>) -> Option<&'a Endpoint> {
    let default = || spec.endpoints.first();
    match by {
        Select::Tags(_) => default(),
        Select::Port(name, None) => spec.endpoint(name),
        Select::Port(name, Some(transport)) => {
            spec.endpoint(name).filter(|endpoint| endpoint.transport == *transport)
        }
        Select::Transport { transport, .. } => {
            spec.endpoints.iter().find(|e| e.transport == *transport).or_else(default)
        }
        Select::Word(word) => {
            spec.endpoint(word).or_else(|| spec.has_tag(word).then(default).flatten())
        }
    }
}

impl Instance {
    /// Its address of that family: the endpoint's own, else that of another endpoint with the same port, which is how
    /// an instance says that it listens on both families.
    pub(crate) fn address(&self, v4: bool) -> Option<IpAddr> {
        let shown = self.endpoint.address;
        if shown.is_ipv4() == v4 {
            return Some(shown.ip());
        }
        let same = |e: &&Endpoint| e.address.port() == shown.port() && e.address.is_ipv4() == v4;
        self.record.spec.endpoints.iter().find(same).map(|endpoint| endpoint.address.ip())
    }

    /// Its lease in seconds; a resolver must not remember it for longer.
    fn lease(&self) -> Option<u32> {
        let seconds = self.record.spec.ttl?.millis() / 1000;
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

impl Shown {
    /// TTL of a reply with these: never above the shortest lease among them.
    pub(crate) fn ttl(&self, ttl: u32) -> u32 {
        self.instances.iter().filter_map(Instance::lease).fold(ttl, u32::min)
    }

    /// The addresses of a family: of the best of the owners' tiers that has any, and of its nearest instances alone
    /// where there are at least `local_min`.
    pub(crate) fn addresses(&self, v4: bool, local_min: usize) -> Vec<Address> {
        let reachable: Vec<(&Instance, IpAddr)> =
            self.instances.iter().filter_map(|i| Some((i, i.address(v4)?))).collect();
        let tier = |i: &Instance| i.record.spec.priority;
        let Some(best) = reachable.iter().map(|(i, _)| tier(i)).min() else { return Vec::new() };
        let mut chosen: Vec<(&Instance, IpAddr)> =
            reachable.into_iter().filter(|(i, _)| tier(i) == best).collect();
        let nearest = chosen.iter().map(|(i, _)| i.distance).min().unwrap_or(0);
        if chosen.iter().filter(|(i, _)| i.distance == nearest).count() >= local_min {
            chosen.retain(|(i, _)| i.distance == nearest);
        }
        let mut weights = BTreeMap::<IpAddr, u32>::new();
        for (instance, ip) in chosen {
            *weights.entry(ip).or_default() += u32::from(instance.record.effective_weight());
        }
        weights.into_iter().map(|(ip, weight)| Address { ip, weight }).collect()
    }

    /// The places of all, each once.
    pub(crate) fn places(&self) -> Vec<Place> {
        let mut places = BTreeMap::<(u16, SocketAddr), u16>::new();
        for instance in &self.instances {
            let key = (instance.priority, instance.endpoint.address);
            let weight = places.entry(key).or_default();
            *weight = instance.weight.max(*weight);
        }
        let place = |((priority, address), weight)| Place { address, priority, weight };
        places.into_iter().map(place).collect()
    }
}

impl Weighted for Address {
    fn weight(&self) -> u32 {
        self.weight
    }

    fn identity(&self) -> u64 {
        identity(self.ip, 0)
    }

    fn tier(&self) -> u16 {
        0
    }
}

impl Weighted for Place {
    fn weight(&self) -> u32 {
        self.weight.into()
    }

    fn identity(&self) -> u64 {
        identity(self.address.ip(), self.address.port())
    }

    fn tier(&self) -> u16 {
        self.priority
    }
}

fn identity(ip: IpAddr, port: u16) -> u64 {
    let mut bytes = [0; 18];
    match ip {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes[..16].copy_from_slice(&ip.octets()),
    }
    bytes[16..].copy_from_slice(&port.to_be_bytes());
    xxh3_64(&bytes)
}
