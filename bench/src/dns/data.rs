//! The data that all servers answer from: services `svc00000` and so on, each of some instances of one address each.

use crate::work::LONG;
use rollcall_proto::v1;
use std::{fmt::Write as _, net::Ipv4Addr};

pub(crate) const DOMAIN: &str = "rollcall.internal";
const PORT: u16 = 8080;
const TTL: u32 = 5;
/// What a weight of 100 is as an SRV weight.
const SRV_WEIGHT: u32 = 25_600;

/// How much there is of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Data {
    pub(crate) services: usize,
    /// Of each service.
    pub(crate) instances: usize,
}

pub(crate) fn service(service: usize) -> String {
    format!("svc{service:05}")
}

fn target(ip: Ipv4Addr) -> String {
    format!("{:08x}.addr", ip.to_bits())
}

impl Data {
    /// Every service and instance.
    fn all(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.services).flat_map(move |service| (0..self.instances).map(move |i| (service, i)))
    }

    /// Address of an instance: 10.x.x.x, each once.
    fn address(self, service: usize, instance: usize) -> Ipv4Addr {
        let number = u32::try_from(service * self.instances + instance + 1);
        Ipv4Addr::from_bits((10 << 24) | number.expect("fewer than 2^24"))
    }

    /// The registration of one instance; `nonce` makes it a new one.
    pub(crate) fn registration(
        self,
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
            host: self.address(service_number, instance).to_string(),
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
    pub(crate) fn registrations(self) -> Vec<v1::Registration> {
        self.all().map(|(service, instance)| self.registration(service, instance, 1)).collect()
    }

    /// The same as a zone file.
    pub(crate) fn zone(self) -> String {
        let mut zone = format!(
            "$ORIGIN {DOMAIN}.\n$TTL {TTL}\n@ IN SOA n1.node hostmaster 1 3600 600 86400 3\n\
         @ IN NS n1.node\nn1.node IN A 127.0.0.1\n"
        );
        for (number, instance) in self.all() {
            let (name, ip) = (service(number), self.address(number, instance));
            let target = target(ip);
            let line = format!(
                "{name}.service IN A {ip}\n{name}.service IN SRV 1 {SRV_WEIGHT} {PORT} {target}\n\
             {target} 86400 IN A {ip}\n"
            );
            zone.write_str(&line).expect("a string grows");
        }
        zone
    }

    /// The addresses as a hosts file.
    pub(crate) fn hosts(self) -> String {
        let mut hosts = String::new();
        for (number, instance) in self.all() {
            let ip = self.address(number, instance);
            writeln!(hosts, "{ip} {}.service.{DOMAIN}", service(number)).expect("a string grows");
        }
        hosts
    }

    /// The same as records for hickory: owner, TTL and data in text.
    pub(crate) fn records(self, mut each: impl FnMut(&str, u32, Record)) {
        for (number, instance) in self.all() {
            let name = format!("{}.service.{DOMAIN}.", service(number));
            let ip = self.address(number, instance);
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
