//! Servers of this program's own: hickory's server over its zone in memory, and a socket that sends back what it gets.

use super::data::{self, DOMAIN, Data, Record};
use crate::outcome::Outcome;
use hickory_proto::rr::{
    Name, RData, Record as Row,
    rdata::{A, NS, SOA, SRV},
};
use hickory_server::{
    Server,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog as Zones, ZoneType},
};
use std::{
    net::{Ipv4Addr, UdpSocket},
    str::FromStr,
    sync::Arc,
};

/// Sends every datagram back, from one thread: what the kernel's own work allows.
pub(crate) fn echo(port: u16) -> Outcome {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut bytes = [0; 2_048];
    loop {
        let (length, peer) = socket.recv_from(&mut bytes)?;
        socket.send_to(&bytes[..length], peer)?;
    }
}

/// hickory's own server over its own zone in memory.
pub(crate) async fn hickory(port: u16, data: Data) -> Outcome {
    let origin = Name::from_str(&format!("{DOMAIN}."))?;
    let mut zone: InMemoryZoneHandler =
        InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
    let node = Name::from_str(&format!("n1.node.{DOMAIN}."))?;
    let soa = SOA::new(node.clone(), origin.clone(), 1, 3600, 600, 86_400, 3);
    zone.upsert_mut(Row::from_rdata(origin.clone(), 300, RData::SOA(soa)), 1);
    zone.upsert_mut(Row::from_rdata(origin.clone(), 300, RData::NS(NS(node.clone()))), 1);
    zone.upsert_mut(Row::from_rdata(node, 30, RData::A(A(Ipv4Addr::LOCALHOST))), 1);
    let mut put = |name: &str, ttl, record| {
        let data = match record {
            Record::Address(ip) => RData::A(A(ip)),
            Record::Place(port, target) => {
                let target = Name::from_str(&target).expect("a name");
                RData::SRV(SRV::new(1, data::srv_weight(), port, target))
            }
        };
        let name = Name::from_str(name).expect("a name");
        zone.upsert_mut(Row::from_rdata(name, ttl, data), 1);
    };
    data.records(&mut put);
    let mut zones = Zones::new();
    zones.upsert(origin.into(), vec![Arc::new(zone)]);
    let mut server = Server::new(zones);
    server.register_socket(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?);
    Ok(server.block_until_done().await?)
}
