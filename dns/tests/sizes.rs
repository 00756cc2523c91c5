//! Every size of service over every transport: within the limit, whole records, TC only where it belongs.

mod given;

use given::*;
use hickory_proto::rr::{RData, RecordType};
use rollcall_core::{instance::Spec, record::AdminState};
use rollcall_dns::{Settings, Transport, Truncation};
use std::collections::BTreeSet;

const WEB: &str = "web.service.rollcall.internal";
/// `web.service.rollcall.internal` in wire form, type and class.
const QUESTION: usize = 31 + 4;
/// 12 bytes and the address.
const A: usize = 16;
const AAAA: usize = 28;
/// 12 bytes, three numbers, and `<8 or 32 hex>.addr.rollcall.internal`.
const SRV: usize = 12 + 6 + 9 + 5 + 19;
const SRV6: usize = 12 + 6 + 33 + 5 + 19;

fn hows() -> [(&'static str, How, usize); 5] {
    [
        ("no EDNS", How::default(), 512),
        ("512", How::payload(512), 512 - 11),
        ("1232", How::payload(1232), 1232 - 11),
        ("4096", How::payload(4096), 1232 - 11),
        ("TCP", How::tcp(), 65_535),
    ]
}

/// All of the sizes at which something changes, and further ones up to 2,000.
fn counts() -> impl Iterator<Item = usize> {
    let growing = std::iter::successors(Some(100), |n| Some(n * 27 / 25 + 1));
    (1..100).chain(growing.take_while(|n| *n < 2_000)).chain([999, 1_000, 1_001, 2_000])
}

/// `count` instances; each with one port on both families, or with IPv4 alone.
fn service(count: usize) -> Given {
    let mut given = Given::new();
    let instance = |i: usize| {
        let mut spec = spec(&format!("10.1.{}.{}:8080", i / 256, i % 256));
        spec.endpoints.push(endpoint("http6", &format!("[fd00::{:x}]:8080", i + 1)));
        (format!("web/i{i}"), Spec { ttl: None, ..spec })
    };
    given.register_all((0..count).map(instance).collect());
    given
}

#[test]
fn a_reply_holds_all_that_fits_and_says_tc_only_where_srv_is_cut() {
    for count in counts() {
        let given = service(count);
        for (what, how, limit) in hows() {
            let room = limit - 12 - QUESTION;
            for (kind, size, most) in [
                (RecordType::A, A, 4_000),
                (RecordType::AAAA, AAAA, 4_000),
                (RecordType::SRV, SRV, 1_000),
            ] {
                let reply = given.ask_how(WEB, kind, &how);
                let expected = count.min(room / size).min(most);
                let seen = (reply.answers().len(), reply.truncated());
                let cut = kind == RecordType::SRV && expected < count;
                let truncated = cut && how.transport == Transport::Udp;
                assert_eq!(seen, (expected, truncated), "{count} x {kind} over {what}");
                let unique: BTreeSet<String> =
                    reply.answers().iter().map(|record| record.data.to_string()).collect();
                assert_eq!(unique.len(), expected);
                if kind == RecordType::SRV {
                    check_glue(&reply, room - expected * size);
                }
            }
        }
    }
}

/// The addresses of the targets fill what is left, each under the name of a target.
fn check_glue(reply: &Reply, left: usize) {
    let targets: BTreeSet<String> = reply
        .answers()
        .iter()
        .map(|record| match &record.data {
            RData::SRV(srv) => srv.target.to_ascii(),
            other => panic!("{other}"),
        })
        .collect();
    let owners: BTreeSet<String> =
        reply.message.additionals.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners.len(), reply.message.additionals.len(), "an address twice");
    assert!(owners.is_subset(&targets), "an address that nobody asks for");
    // A pointer and 14 bytes; beyond 16 KiB, where pointers do not reach, the name is written out.
    let fit = left / 16;
    if reply.bytes.len() < 0x4000 {
        assert_eq!(owners.len(), fit.min(targets.len()), "{left} bytes are left");
    } else {
        assert!(!owners.is_empty());
    }
}

#[test]
fn targets_beyond_the_reach_of_pointers_are_written_out() {
    let given = service(700);
    let reply = given.ask_how(WEB, RecordType::SRV, &How::tcp());
    assert_eq!((reply.answers().len(), reply.message.additionals.len()), (700, 700));
    assert!(reply.bytes.len() > 0x4000);
    for record in &reply.message.additionals {
        let hex: Vec<String> = addresses(std::slice::from_ref(record))[0]
            .split('.')
            .map(|part| format!("{:02x}", part.parse::<u8>().unwrap()))
            .collect();
        assert_eq!(record.name.to_ascii(), format!("{}.addr.rollcall.internal.", hex.concat()));
    }
}

#[test]
fn ipv6_targets_count_with_their_own_size() {
    let mut given = Given::new();
    let instance = |i: usize| (format!("web/i{i}"), spec(&format!("[fd00::{:x}]:80", i + 1)));
    given.register_all((0..1_000).map(instance).collect());
    for (what, how, limit) in hows() {
        let room = limit - 12 - QUESTION;
        let reply = given.ask_how(WEB, RecordType::SRV, &how);
        assert_eq!(reply.answers().len(), (room / SRV6).min(1_000), "{what}");
        // Over TCP there is nowhere else to ask.
        assert_eq!(reply.truncated(), how.transport == Transport::Udp, "{what}");
    }
}

#[test]
fn an_operators_limit_cuts_without_tc() {
    let settings = Settings { address_limit: 3, srv_limit: 2, ..Settings::default() };
    let mut given = service(10);
    given.front = rollcall_dns::Front::new(settings).unwrap();
    for how in [How::default(), How::tcp()] {
        let reply = given.ask_how(WEB, RecordType::A, &how);
        assert_eq!((reply.answers().len(), reply.truncated()), (3, false));
        let reply = given.ask_how(WEB, RecordType::SRV, &how);
        assert_eq!((reply.answers().len(), reply.truncated()), (2, false));
        assert_eq!(reply.message.additionals.len(), 2);
    }
}

#[test]
fn strict_truncation_says_tc_on_addresses_too() {
    let mut given = service(40);
    given.front = rollcall_dns::Front::new(Settings {
        truncation: Truncation::Always,
        ..Settings::default()
    })
    .unwrap();
    let reply = given.ask(WEB, RecordType::A);
    assert_eq!((reply.answers().len(), reply.truncated()), (29, true));
    let reply = given.ask_how(WEB, RecordType::A, &How::payload(1232));
    assert_eq!((reply.answers().len(), reply.truncated()), (40, false));
}

#[test]
fn text_that_is_cut_is_whole_records_and_tc() {
    let mut given = Given::new();
    let metadata = |i: usize| vec![("key".into(), format!("{i:0200}").into())];
    let instance =
        |i: usize| (format!("web/i{i}"), Spec { metadata: metadata(i), ..spec("10.0.0.1:80") });
    given.register_all((0..10).map(instance).collect());
    let reply = given.ask(WEB, RecordType::TXT);
    assert_eq!((reply.answers().len(), reply.truncated()), (2, true));
    let reply = given.ask_how(WEB, RecordType::TXT, &How::tcp());
    assert_eq!((reply.answers().len(), reply.truncated()), (10, false));
}

#[test]
fn text_beyond_64_kib_is_cut_to_what_fits() {
    let mut given = Given::new();
    let metadata = |i: usize| vec![("key".into(), format!("{i:0200}").into())];
    let instance =
        |i: usize| (format!("web/i{i:04}"), Spec { metadata: metadata(i), ..spec("10.0.0.1:80") });
    given.register_all((0..1_000).map(instance).collect());
    let reply = given.ask_how(WEB, RecordType::TXT, &How::tcp());
    // 12 bytes, "id=i0000" and "key=...", each with its length.
    let size = 12 + 1 + 8 + 1 + 204;
    assert_eq!(reply.answers().len(), (65_535 - 12 - QUESTION) / size);
    assert!(!reply.truncated() && reply.bytes.len() > 65_535 - size);
}

#[test]
fn no_reply_holds_more_than_four_thousand_addresses() {
    let mut given = Given::new();
    let instance =
        |i: usize| (format!("web/i{i}"), spec(&format!("10.1.{}.{}:80", i / 256, i % 256)));
    given.register_all((0..4_050).map(instance).collect());
    // 4,092 would fit.
    let reply = given.ask_how(WEB, RecordType::A, &How::tcp());
    assert_eq!((reply.answers().len(), reply.truncated()), (4_000, false));
    let unique: BTreeSet<String> = reply.ips().into_iter().collect();
    assert_eq!(unique.len(), 4_000);
    // The others are shown to other clients.
    let other = given.ask_how(WEB, RecordType::A, &How::tcp().from("10.9.9.10"));
    assert!(other.ips().iter().any(|ip| !unique.contains(ip)));
}

#[test]
fn a_listing_holds_a_thousand_names_and_a_reverse_name_sixteen() {
    let reverse = vec!["10.0.0.0/8".parse().unwrap()];
    let mut given = Given::with(Settings { browse: true, reverse, ..Settings::default() });
    given.register_all((0..1_050).map(|i| (format!("web/i{i}"), spec("10.0.0.1:80"))).collect());
    let services = (0..1_050).map(|i| (format!("s{i}/a"), spec("10.0.0.2:80")));
    given.register_all(services.collect());
    let count = |name: &str| {
        let name = format!("{name}.rollcall.internal");
        given.ask_how(&name, RecordType::PTR, &How::tcp()).answers().len()
    };
    assert_eq!((count("_web._tcp"), count("_services._dns-sd._udp")), (1_000, 1_000));
    let reply = given.ask_how("1.0.0.10.in-addr.arpa", RecordType::PTR, &How::tcp());
    assert_eq!(reply.answers().len(), 16);
}

#[test]
fn the_longest_question_still_gets_a_reply_within_512_bytes() {
    let mut given = Given::new();
    let label = "a".repeat(63);
    given.register(&format!("{label}/x"), spec("10.0.0.1:80"));
    given.nodes[0].name = given::label(&label);
    let name = format!("{}.{label}.{label}.service.consul", "b".repeat(46));
    for (name, kind) in [(name.as_str(), RecordType::A), (&name[47..], RecordType::SRV)] {
        let reply = given.ask(name, kind);
        assert!(!reply.answers().is_empty() || !reply.message.authorities.is_empty());
    }
}

#[test]
fn a_client_is_shown_the_same_subset_again_and_again() {
    let given = service(500);
    let shown = |given: &Given, peer: &str, kind, random| -> BTreeSet<String> {
        let how = How { random, ..How::default() }.from(peer);
        given
            .ask_how(WEB, kind, &how)
            .answers()
            .iter()
            .map(|record| record.data.to_string())
            .collect()
    };
    for kind in [RecordType::A, RecordType::SRV] {
        let first = shown(&given, "10.0.0.1", kind, 1);
        for random in 2..50 {
            assert_eq!(shown(&given, "10.0.0.1", kind, random), first);
        }
        assert_ne!(shown(&given, "10.0.0.2", kind, 1), first);
    }
    // The addresses of one IPv6 site share a subset.
    let site = |host: &str| shown(&given, &format!("[2001:db8:0:{host}]"), RecordType::A, 1);
    assert_eq!(site("1::1"), site("ff::2"));
    assert_ne!(site("1::1"), site("101::1"));
}

#[test]
fn when_an_instance_leaves_only_its_own_place_is_filled() {
    let mut given = service(200);
    let clients: Vec<String> = (1..60).map(|i| format!("10.2.0.{i}")).collect();
    let shown = |given: &Given, peer: &str| -> BTreeSet<String> {
        given.ask_how(WEB, RecordType::A, &How::default().from(peer)).ips().into_iter().collect()
    };
    let before: Vec<BTreeSet<String>> = clients.iter().map(|peer| shown(&given, peer)).collect();
    given.set("web/i7", AdminState::Draining);
    for (peer, before) in clients.iter().zip(&before) {
        let after = shown(&given, peer);
        let gone: Vec<&String> = before.difference(&after).collect();
        assert!(gone.iter().all(|ip| *ip == "10.1.0.7"), "{gone:?}");
        assert_eq!(after.difference(before).count(), gone.len());
    }
    assert!(before.iter().any(|before| before.contains("10.1.0.7")));
    // All of the service is shown to somebody.
    let all: BTreeSet<&String> = before.iter().flatten().collect();
    assert!(all.len() > 195, "{} of 200", all.len());
}
