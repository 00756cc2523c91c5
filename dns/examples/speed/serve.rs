//! The servers under test: the fast path, the full path alone, and hickory's own server.

use crate::data::{self, DOMAIN, INSTANCES, Record};
use arc_swap::ArcSwap;
use hickory_proto::rr::{
    Name, RData, Record as Row,
    rdata::{A, NS, SOA, SRV},
};
use hickory_server::{
    Server,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog as Zones, ZoneType},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rollcall_core::{State, name::Label};
use rollcall_dns::{
    Catalog, CookieSecret, Fast, Front, Node, Outcome, Query, Settings, Standing, Transport,
};
use std::{
    error::Error,
    net::{Ipv4Addr, UdpSocket},
    str::FromStr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Serves until it is ended.
pub(crate) fn serve(how: &str, port: &str, services: &str, changes: &str) -> Result<()> {
    let (port, services, changes) = (port.parse()?, services.parse()?, changes.parse()?);
    match how {
        "fast" => ours(port, services, changes, true),
        "full" => ours(port, services, changes, false),
        "hickory" => hickory(port, services),
        _ => Err(format!("{how}: fast, full or hickory is served").into()),
    }
}

/// One blocking thread and one socket, as a node has for each core.
fn ours(port: u16, services: usize, changes: u32, fast: bool) -> Result<()> {
    let seen = Arc::new(ArcSwap::from_pointee(data::state(services)));
    if changes > 0 {
        let seen = seen.clone();
        thread::spawn(move || change(&seen, services, changes));
    }
    let front = Arc::new(Front::new(Settings::default())?);
    let mut path = Fast::new(front.clone(), Fast::MEMORY, 7);
    let nodes =
        [Node { name: Label::parse("node", "n1")?, addresses: vec![Ipv4Addr::LOCALHOST.into()] }];
    let secret = CookieSecret([7; 16]);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    let (began, mut dice) = (Instant::now(), SmallRng::seed_from_u64(7));
    let (mut bytes, mut reply) = (vec![0; 4096], Vec::with_capacity(4096));
    loop {
        let (length, peer) = socket.recv_from(&mut bytes)?;
        let now = began.elapsed();
        let query = Query {
            bytes: &bytes[..length],
            peer,
            transport: Transport::Udp,
            now,
            unix: 1_700_000_000 + now.as_secs(),
            random: dice.random(),
        };
        let state = seen.load();
        let catalog = Catalog {
            state: &state,
            nodes: &nodes,
            standing: Standing::Current,
            cookies: Some(&secret),
        };
        let outcome = fast.then(|| path.answer(&query, &catalog, &mut reply)).flatten();
        let outcome = outcome.unwrap_or_else(|| front.answer(&query, &catalog, &mut reply));
        if let Outcome::Reply(_) = outcome {
            socket.send_to(&reply, peer)?;
        }
    }
}

/// Registers instances anew, each change applied and published by itself.
fn change(seen: &ArcSwap<State>, services: usize, changes: u32) {
    let (mut state, mut dice) = (State::clone(&seen.load()), SmallRng::seed_from_u64(9));
    let (began, mut made) = (Instant::now(), 0_u32);
    loop {
        let due = began.elapsed().as_secs_f64() * f64::from(changes);
        while f64::from(made) < due {
            let (service, instance) =
                (dice.random_range(0..services), dice.random_range(0..INSTANCES));
            let item = data::registration(service, instance, dice.random());
            state.apply(&data::register(vec![item])).outcome.result.expect("registered");
            seen.store(Arc::new(state.clone()));
            made += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// hickory's own server over its own zone in memory.
fn hickory(port: u16, services: usize) -> Result<()> {
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
    data::records(services, &mut put);
    let mut zones = Zones::new();
    zones.upsert(origin.into(), vec![Arc::new(zone)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut server = Server::new(zones);
        server.register_socket(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?);
        Ok(server.block_until_done().await?)
    })
}
