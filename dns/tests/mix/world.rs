//! The catalogue of a round, and the ways in which it changes.

use crate::given::{Given, endpoint, label, operator, owner};
use ipnet::IpNet;
use rand::{RngExt, rngs::StdRng};
use rollcall_core::{
    Command, Stamped,
    command::{
        Deregister, Deregistration, ExpireLeases, Expiry, PutServicePolicy, Register, Registration,
        SetAdminState,
    },
    instance::{Locality, Spec, Transport},
    name::{InstanceName, ServiceName},
    policy::Policy,
    record::{Actor, AdminState, Record},
};
use rollcall_dns::{CookieSecret, Standing};
use std::{sync::Arc, time::Duration};

/// Names of the services; the last ones are large, and some are never registered.
pub(super) const SERVICES: [&str; 10] =
    ["web", "db", "a", "api-2", "cache", "q", "none", "gone", "large", "huge"];
pub(super) const NAMESPACES: [&str; 3] = ["", "team", "default"];
pub(super) const TAGS: [&str; 4] = ["canary", "blue", "v1", "http"];
pub(super) const ZONES: [&str; 3] = ["east", "west", "north"];
const REGIONS: [&str; 2] = ["eu", "us"];
pub(super) const ENDPOINTS: [&str; 4] = ["http", "grpc", "admin", "udp"];

/// Where clients stand.
pub(super) fn localities() -> Vec<(IpNet, Locality)> {
    let at = |prefix: &str, region: &str, zone: &str| {
        let locality =
            Locality { region: Some(label(region)), zone: Some(label(zone)), sub_zone: None };
        (prefix.parse().expect("a prefix"), locality)
    };
    vec![
        at("10.0.0.0/8", "eu", "east"),
        at("10.1.0.0/16", "eu", "west"),
        at("10.2.0.0/16", "us", "north"),
        at("fd00::/16", "us", "west"),
    ]
}

/// Fills an empty catalogue.
pub(super) fn begin(given: &mut Given, dice: &mut StdRng) {
    for service in ["large", "huge"] {
        let count = if service == "large" { dice.random_range(20..60) } else { 300 };
        let plain = dice.random_bool(0.5);
        let items = (0..count).map(|i| registration("", service, &format!("i{i}"), dice, plain));
        let items = items.collect();
        register(given, items);
    }
    for _ in 0..60 {
        change(given, dice);
    }
}

/// Makes one change; it may come to nothing.
pub(super) fn change(given: &mut Given, dice: &mut StdRng) {
    let namespace = NAMESPACES[dice.random_range(0..2)];
    let service = SERVICES[dice.random_range(0..SERVICES.len())];
    let id = format!("i{}", dice.random_range(0..12));
    match dice.random_range(0..100) {
        0..45 if service != "none" => {
            let plain = dice.random_bool(0.4);
            let item = registration(namespace, service, &id, dice, plain);
            register(given, vec![item]);
        }
        45..60 => deregister(given, named(namespace, service, &id)),
        60..70 => set_admin(given, dice, named(namespace, service, &id)),
        70..80 => expire(given, &named(namespace, service, &id)),
        80..86 => put_policy(given, dice, service),
        86..88 => {
            let ids = given.state.services().values().find(|s| s.name.service.as_str() == service);
            let all: Vec<InstanceName> = ids
                .map(|s| s.instances.values().map(|r| (*r.name).clone()).collect())
                .unwrap_or_default();
            for name in all.into_iter().take(20) {
                deregister(given, name);
            }
        }
        88..91 => send(given, dice.random_range(1..400_000), Command::AdvanceTime),
        91..96 => {
            given.standing = match dice.random_range(0..8) {
                0 => Standing::Unready,
                1..4 => Standing::Stale,
                _ => Standing::Current,
            };
        }
        96..98 => {
            let secret = CookieSecret(dice.random());
            given.cookies = dice.random_bool(0.8).then_some(secret);
        }
        98 => given.nodes.rotate_left(1),
        _ => given.state.begin_epoch(),
    }
}

fn send(given: &mut Given, advance_ms: u64, command: Command) {
    given.state.apply(&Stamped { wall_ms: 0, advance_ms, command });
}

pub(super) fn named(namespace: &str, service: &str, id: &str) -> InstanceName {
    InstanceName::parse(namespace, service, id).expect("a name")
}

fn registration(
    namespace: &str,
    service: &str,
    id: &str,
    dice: &mut StdRng,
    plain: bool,
) -> Registration {
    let spec = spec(dice, plain).checked().expect("a spec");
    Registration {
        name: named(namespace, service, id),
        spec: Arc::new(spec),
        nonce: dice.random(),
        held_generation: 0,
        expected_revision: None,
    }
}

fn register(given: &mut Given, items: Vec<Registration>) {
    let register = Register { items, actor: owner(), request_id: None, address_limit: false };
    send(given, 1, Command::Register(register));
}

fn spec(dice: &mut StdRng, plain: bool) -> Spec {
    let (low, port) = (dice.random_range(1..200), dice.random_range(1..4));
    if plain {
        let wide: u8 = dice.random();
        return Spec::new(vec![endpoint("http", &format!("10.0.{wide}.{low}:80"))])
            .expect("a spec");
    }
    let mut endpoints = Vec::new();
    for name in ENDPOINTS {
        if dice.random_bool(0.6) {
            let address = match dice.random_range(0..3) {
                0 => format!("[fd00::{low:x}]:{port}"),
                _ => format!("10.0.0.{low}:{port}"),
            };
            let mut endpoint = endpoint(name, &address);
            if name == "udp" {
                endpoint.transport = Transport::Udp;
            }
            endpoints.push(endpoint);
        }
    }
    if endpoints.is_empty() {
        endpoints.push(endpoint("http", &format!("10.0.0.{low}:80")));
    }
    let mut spec = Spec::new(endpoints).expect("a spec");
    spec.weight = [100, 100, 100, 0, 1, 7, 300, 65_535][dice.random_range(0..8)];
    spec.priority = [0, 0, 0, 1, 20_000][dice.random_range(0..5)];
    spec.tags = TAGS.iter().filter(|_| dice.random_bool(0.4)).map(|tag| (*tag).into()).collect();
    if dice.random_bool(0.7) {
        spec.locality.zone = Some(label(ZONES[dice.random_range(0..2)]));
        spec.locality.region = Some(label(REGIONS[dice.random_range(0..2)]));
    }
    if dice.random_bool(0.2) {
        spec.ttl = None;
    } else if dice.random_bool(0.3) {
        let ttl = Duration::from_millis(dice.random_range(1_000..9_000));
        spec.ttl = Some(rollcall_core::instance::Ttl::parse(ttl).expect("a TTL"));
    }
    if dice.random_bool(0.3) {
        spec.metadata = vec![("alpn".into(), "h2".into())];
    }
    spec
}

fn deregister(given: &mut Given, name: InstanceName) {
    let item = Deregistration { name, generation: 0, allow_missing: true, expected_revision: None };
    send(
        given,
        1,
        Command::Deregister(Deregister {
            items: vec![item],
            actor: owner(),
            evidence: "".into(),
            request_id: None,
        }),
    );
}

fn set_admin(given: &mut Given, dice: &mut StdRng, name: InstanceName) {
    let states =
        [AdminState::Enabled, AdminState::Enabled, AdminState::Draining, AdminState::Maintenance];
    let set = SetAdminState {
        name,
        generation: 0,
        state: states[dice.random_range(0..4)],
        actor: operator(),
        reason: "".into(),
        expire_after: dice.random_bool(0.3).then(|| Duration::from_secs(60)),
        request_id: None,
        expected_revision: None,
    };
    send(given, 1, Command::SetAdminState(set));
}

fn expire(given: &mut Given, name: &InstanceName) {
    let Some(record) = given.state.instance(name) else { return };
    let Record { generation, lease: Some(lease), .. } = **record else { return };
    let items =
        vec![Expiry { generation, lease_epoch: lease.epoch, overdue: false, evidence: "".into() }];
    let actor = Actor::Registry("n1".into());
    send(given, 1, Command::ExpireLeases(ExpireLeases { items, actor }));
}

fn put_policy(given: &mut Given, dice: &mut StdRng, service: &str) {
    let policy = Policy {
        dns_ttl: dice.random_bool(0.5).then(|| Duration::from_secs(dice.random_range(0..60))),
        fail_open_below: dice.random_bool(0.5).then_some(0.7),
        ..Policy::default()
    };
    let service = ServiceName::parse("", service).expect("a name");
    let put = PutServicePolicy { service, policy, actor: operator(), request_id: None };
    send(given, 1, Command::PutServicePolicy(put));
}
