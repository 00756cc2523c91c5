//! Queries: names of the whole grammar in any case, with and without EDNS, and what becomes of them when bytes change.

use super::world::{ENDPOINTS, NAMESPACES, SERVICES, TAGS, ZONES};
use crate::given::Given;
use rand::{RngExt, rngs::StdRng};
use rollcall_dns::{Catalog, Outcome, Query, Transport};
use std::{net::SocketAddr, time::Duration};

/// A query and how it came.
pub(super) struct Asked {
    pub(super) bytes: Vec<u8>,
    pub(super) peer: SocketAddr,
    pub(super) transport: Transport,
    pub(super) unix: u64,
}

const PEERS: [&str; 8] = [
    "10.0.0.9:4242",
    "10.1.7.9:4242",
    "10.2.0.1:53",
    "10.1.0.0:1",
    "192.0.2.1:4242",
    "[fd00::1]:4242",
    "[2001:db8::1]:4242",
    "[::ffff:10.1.1.1]:4242",
];
const BAD_PEERS: [&str; 4] = ["10.0.0.9:0", "255.255.255.255:9", "224.0.0.1:9", "[ff02::1]:9"];
/// The types that clients ask for most, then rarer and odd ones.
const KINDS: [u16; 24] =
    [1, 1, 1, 28, 28, 33, 33, 33, 65, 64, 16, 12, 6, 2, 255, 41, 252, 251, 250, 43, 5, 127, 128, 0];

/// Makes a query.
pub(super) fn query(given: &Given, dice: &mut StdRng) -> Asked {
    let text = name(dice);
    let kind = if dice.random_bool(0.8) {
        dice.random_range(0..8)
    } else {
        dice.random_range(0..KINDS.len())
    };
    let peers: &[&str] = if dice.random_ratio(1, 200) { &BAD_PEERS } else { &PEERS };
    let peer: SocketAddr = peers[dice.random_range(0..peers.len())].parse().expect("an address");
    let unix = 1_700_000_000 + dice.random_range(0..4_000);
    let transport = if dice.random_ratio(1, 6) { Transport::Tcp } else { Transport::Udp };
    let mut bytes = vec![dice.random(), dice.random()];
    let flags = [[1, 0], [1, 0x20], [0, 0], [1, 0x10], [0, 0x30]][dice.random_range(0..5)];
    bytes.extend(flags);
    let edns = dice.random_bool(0.7);
    bytes.extend([0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    bytes.extend(wire(&text, dice));
    bytes.extend(KINDS[kind].to_be_bytes());
    bytes.extend([0, 1]);
    if edns {
        let cookie = cookie(given, dice, &bytes, peer, unix);
        opt(&mut bytes, dice, cookie);
    }
    if dice.random_ratio(1, 6) {
        mutate(&mut bytes, dice);
    }
    Asked { bytes, peer, transport, unix }
}

fn one<'a>(of: &[&'a str], dice: &mut StdRng) -> &'a str {
    of[dice.random_range(0..of.len())]
}

/// A name: mostly one that somebody might ask for.
fn name(dice: &mut StdRng) -> String {
    let service = one(&SERVICES, dice);
    let (tag, zone, port) = (one(&TAGS, dice), one(&ZONES, dice), one(&ENDPOINTS, dice));
    let id = format!("i{}", dice.random_range(0..14));
    let namespace = NAMESPACES[dice.random_range(1..3)];
    let head = match dice.random_range(0..28) {
        0..8 => format!("{service}.service"),
        8 => format!("{tag}.{service}.service"),
        9 => format!("{tag}.{}.{service}.service", one(&TAGS, dice)),
        10 => format!("x{}.{service}.service", dice.random_range(0..100)),
        11 => format!("{port}.port.{service}.service"),
        12 => format!("_{port}._tcp.{service}.service"),
        13 => format!("_{service}._{}.service", one(&["tcp", "udp", "http", "blue", "x"], dice)),
        14 => format!("_{service}._{}", one(&["tcp", "udp"], dice)),
        15 => format!("{id}.inst.{service}.service"),
        16 => format!("{:08x}.addr", dice.random::<u32>()),
        17 => format!("{:032x}.addr", dice.random::<u128>()),
        18 => one(&["n1.node", "n2.node", "n9.node", "node", "addr", "service", "", "query"], dice)
            .into(),
        19 => format!("_grpc_config.{service}.service"),
        20 => one(&["inst.web.service", "port.web.service", "_tcp.web.service", "x.query"], dice)
            .into(),
        21 => format!("{id}._{service}._tcp"),
        22 => "_services._dns-sd._udp".into(),
        23 => format!("{}.service", "s".repeat(dice.random_range(1..64))),
        24 => format!("r{}.service", dice.random::<u32>()),
        25 => {
            return one(
                &[
                    "example.com",
                    "",
                    "consul.example",
                    "internal",
                    "9.0.0.10.in-addr.arpa",
                    "1.0.10.in-addr.arpa",
                    "10.in-addr.arpa",
                    "8.8.8.8.in-addr.arpa",
                ],
                dice,
            )
            .into();
        }
        26 => vec!["a"; dice.random_range(1..120)].join("."),
        _ => format!("{tag}.{tag}.{tag}.{service}.service"),
    };
    let scope = match dice.random_range(0..12) {
        0 => format!(".{namespace}.ns"),
        1 => format!(".{zone}.zone"),
        2 => ".dc1".into(),
        3 => format!(".{namespace}.ns.{zone}.zone.dc1.dc"),
        4 => ".ns".into(),
        _ => String::new(),
    };
    let domain = one(&["rollcall.internal", "rollcall.internal", "consul"], dice);
    format!("{head}{scope}.{domain}")
}

/// The name in wire form, in any case.
fn wire(text: &str, dice: &mut StdRng) -> Vec<u8> {
    let (odd, mut out) = (dice.random_bool(0.3), Vec::new());
    for label in text.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).expect("a label"));
        for byte in label.bytes() {
            let upper = odd && dice.random_bool(0.5);
            out.push(if upper { byte.to_ascii_uppercase() } else { byte });
        }
    }
    out.push(0);
    out
}

/// A client cookie, at times with the server's part of an earlier reply, at times with a wrong one.
fn cookie(
    given: &Given,
    dice: &mut StdRng,
    question: &[u8],
    peer: SocketAddr,
    unix: u64,
) -> Option<Vec<u8>> {
    let client: [u8; 8] = dice.random();
    match dice.random_range(0..10) {
        0..6 => None,
        6 => Some(client.to_vec()),
        7 => Some((0..dice.random_range(0..45)).map(|_| dice.random()).collect()),
        8 => Some((0..24).map(|_| dice.random()).collect()),
        _ => {
            let mut bytes = question.to_vec();
            bytes[11] = 1;
            bytes.extend([0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
            bytes.extend(client);
            let earlier = unix - dice.random_range(0..4_000);
            let (now, transport) = (Duration::ZERO, Transport::Tcp);
            let query = Query { bytes: &bytes, peer, transport, now, unix: earlier, random: 0 };
            let catalog: Catalog<'_> = given.catalog();
            let mut reply = Vec::new();
            let Outcome::Reply(_) = given.front.answer(&query, &catalog, &mut reply) else {
                return None;
            };
            let at = reply.windows(4).position(|bytes| bytes == [0, 10, 0, 24])?;
            Some(reply[at + 4..at + 28].to_vec())
        }
    }
}

fn opt(bytes: &mut Vec<u8>, dice: &mut StdRng, cookie: Option<Vec<u8>>) {
    let payload: u16 = [512, 512, 1232, 1232, 1232, 4096, 0, 65_535][dice.random_range(0..8)];
    bytes.extend([0, 0, 41]);
    bytes.extend(payload.to_be_bytes());
    let version = u8::from(dice.random_ratio(1, 50));
    bytes.extend([0, version, if dice.random_bool(0.4) { 0x80 } else { 0 }, 0]);
    let mut options: Vec<(u16, Vec<u8>)> = Vec::new();
    options.extend(cookie.map(|value| (10, value)));
    if dice.random_ratio(1, 4) {
        let code = [3, 8, 9, 10, 11, 12, 15, 26_946][dice.random_range(0..8)];
        let length = [0, 0, 2, 8, 24][dice.random_range(0..5)];
        options.push((code, (0..length).map(|_| dice.random()).collect()));
    }
    if dice.random_bool(0.5) {
        options.reverse();
    }
    let length: usize = options.iter().map(|(_, value)| 4 + value.len()).sum();
    bytes.extend(u16::try_from(length).expect("short").to_be_bytes());
    for (code, value) in options {
        bytes.extend(code.to_be_bytes());
        bytes.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
        bytes.extend(value);
    }
}

/// Changes, cuts, adds or repeats bytes.
fn mutate(bytes: &mut Vec<u8>, dice: &mut StdRng) {
    for _ in 0..dice.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.random_range(0..bytes.len());
        match dice.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.push(dice.random()),
            2 => bytes.extend((0..dice.random_range(0..40)).map(|_| 0_u8)),
            3 => bytes.insert(at, dice.random()),
            4 => bytes[at] ^= 1 << dice.random_range(0..8),
            5 if bytes.len() >= 12 => bytes[dice.random_range(2..12)] = dice.random_range(0..4),
            6 => {
                let again = bytes[at..].to_vec();
                bytes.extend(again);
            }
            _ => bytes[at] = dice.random(),
        }
    }
}
