//! The data that all servers answer from: services `svc00000` and so on, three instances each, one address each.

use crate::work::LONG;
use rollcall_proto::v1;
use std::{fmt::Write as _, net::Ipv4Addr};

pub(crate) const DOMAIN: &str = "rollcall.internal";
pub(crate) const INSTANCES: usize = 3;
const PORT: u16 = 8080;
const TTL: u32 = 5;
/// What a weight of 100 is as an SRV weight.
const SRV_WEIGHT: u32 = 25_600;

pub(crate) fn service(service: usize) -> String {
    format!("svc{service:05}")
}

/// Address of an instance: 10.x.x.x, each once.
pub(crate) fn address(service: usize, instance: usize) -> Ipv4Addr {
    let number = u32::try_from(service * INSTANCES + instance + 1).expect("fewer than 2^24");
    Ipv4Addr::from_bits((10 << 24) | number)
}

fn target(ip: Ipv4Addr) -> String {
    format!("{:08x}.addr", ip.to_bits())
}

/// The registration of one instance; `nonce` makes it a new one.
pub(crate) fn registration(
    service_number: usize,
    instance: usize,
    nonce: u128,
) -> v1::Registration {
    let name = v1::InstanceName {
        namespace: String::new(),
        service: service(service_number),
        instance_id: format!("i{instance}"),
    };
    let endpoint = v1::Endpoint {
        name: "http".to_owned(),
        host: address(service_number, instance).to_string(),
        port: PORT.into(),
        ..v1::Endpoint::default()
    };
    let ttl = prost_types::Duration::try_from(LONG).unwrap_or_default();
    let spec = v1::InstanceSpec {
        endpoints: vec![endpoint],
        ttl: Some(ttl),
        ..v1::InstanceSpec::default()
    };
    v1::Registration {
        name: Some(name),
        spec: Some(spec),
        owner_nonce: nonce.to_be_bytes().to_vec(),
        ..v1::Registration::default()
    }
}

/// All instances.
pub(crate) fn registrations(services: usize) -> Vec<v1::Registration> {
    let all = (0..services).flat_map(|s| (0..INSTANCES).map(move |i| registration(s, i, 1)));
    all.collect()
}

/// The same as a zone file.
pub(crate) fn zone(services: usize) -> String {
    let mut zone = format!(
        "$ORIGIN {DOMAIN}.\n$TTL {TTL}\n@ IN SOA n1.node hostmaster 1 3600 600 86400 3\n\
         @ IN NS n1.node\nn1.node IN A 127.0.0.1\n"
    );
    for number in 0..services {
        let name = service(number);
        for instance in 0..INSTANCES {
            let ip = address(number, instance);
            let target = target(ip);
            let line = format!(
                "{name}.service IN A {ip}\n{name}.service IN SRV 1 {SRV_WEIGHT} {PORT} {target}\n\
                 {target} 86400 IN A {ip}\n"
            );
            zone.write_str(&line).expect("a string grows");
        }
    }
    zone
}

/// The addresses as a hosts file.
pub(crate) fn hosts(services: usize) -> String {
    let mut hosts = String::new();
    for number in 0..services {
        for instance in 0..INSTANCES {
            let ip = address(number, instance);
            writeln!(hosts, "{ip} {}.service.{DOMAIN}", service(number)).expect("a string grows");
        }
    }
    hosts
}

/// The same as records for hickory: owner, TTL and data in text.
pub(crate) fn records(services: usize, mut each: impl FnMut(&str, u32, Record)) {
    for number in 0..services {
        let name = format!("{}.service.{DOMAIN}.", service(number));
        for instance in 0..INSTANCES {
            let ip = address(number, instance);
            let target = format!("{}.{DOMAIN}.", target(ip));
            each(&name, TTL, Record::Address(ip));
            each(&target, 86_400, Record::Address(ip));
            each(&name, TTL, Record::Place(PORT, target));
        }
    }
}

/// Data of one record.
pub(crate) enum Record {
    Address(Ipv4Addr),
    /// Port and target.
    Place(u16, String),
}

/// The SRV weight of every instance.
pub(crate) fn srv_weight() -> u16 {
    u16::try_from(SRV_WEIGHT).expect("fits")
}
