//! What EDNS carries (cookies, our name, keep-alive), the rate limit, bindings and reverse names.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::*;
use hickory_proto::{
    op::{Edns, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{opt::EdnsOption, svcb::SvcParamValue},
    },
};
use rollcall_core::instance::Spec;
use rollcall_dns::{
    CookieSecret, DropReason, Fast, Front, Outcome, Query, RateLimit, Settings, Transport,
};
use std::{sync::Arc, time::Duration};

const D: &str = "rollcall.internal";
const WEB: &str = "web.service.rollcall.internal";

fn with_option(code: u16, data: Vec<u8>) -> How {
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.options_mut().insert(EdnsOption::Unknown(code, data));
    How { edns: Some(edns), ..How::default() }
}

/// The data of an option of a reply.
fn option(reply: &Reply, code: u16) -> Option<Vec<u8>> {
    let options = reply.message.edns.as_ref()?.options().as_ref().iter();
    let mut found = options.filter(|(found, _)| u16::from(*found) == code);
    let (_, value) = found.next()?;
    assert!(found.next().is_none(), "option {code} twice");
    Some(value.try_into().unwrap())
}

fn web(settings: Settings) -> Given {
    let mut given = Given::with(settings);
    given.register("web/a", spec("10.0.0.1:80"));
    given.cookies = Some(CookieSecret([7; 16]));
    given
}

#[test]
fn a_client_learns_a_cookie_and_keeps_it_over_nodes_that_share_the_secret() {
    let given = web(Settings::default());
    let first = given.ask_how(WEB, RecordType::A, &with_option(10, vec![1; 8]));
    let cookie = option(&first, 10).unwrap();
    assert_eq!((cookie.len(), &cookie[..8]), (24, &[1; 8][..]));
    assert_eq!(first.ips(), ["10.0.0.1"]);
    let other = web(Settings::default());
    let again = other.ask_how(WEB, RecordType::A, &with_option(10, cookie.clone()));
    assert_eq!(option(&again, 10).unwrap(), cookie);
}

#[test]
fn without_a_secret_cookies_are_passed_over() {
    let mut given = web(Settings::default());
    given.cookies = None;
    let reply = given.ask_how(WEB, RecordType::A, &with_option(10, vec![1; 8]));
    assert_eq!((option(&reply, 10), reply.ips().len()), (None, 1));
}

#[test]
fn a_client_may_ask_for_a_cookie_alone() {
    let given = web(Settings::default());
    let bytes = |data: Vec<u8>| {
        let mut bytes = question("", RecordType::A, with_option(10, data).edns);
        bytes[5] = 0;
        bytes.drain(12..17);
        bytes
    };
    let reply = given.raw(&bytes(vec![1; 8]), &How::default()).unwrap();
    assert_eq!((reply.code(), option(&reply, 10).unwrap().len()), (ResponseCode::NoError, 24));
    assert!(reply.message.queries.is_empty());
    let reply = given.raw(&bytes(vec![1; 9]), &How::default()).unwrap();
    assert_eq!(reply.code(), ResponseCode::FormErr);
}

#[test]
fn a_node_tells_its_name_where_it_has_one_and_is_asked() {
    let named = web(Settings { nsid: b"node-7".to_vec(), ..Settings::default() });
    let reply = named.ask_how(WEB, RecordType::A, &with_option(3, vec![]));
    assert_eq!(option(&reply, 3), Some(b"node-7".to_vec()));
    assert_eq!(option(&named.ask_how(WEB, RecordType::A, &How::payload(1232)), 3), None);
    let nameless = web(Settings::default());
    assert_eq!(option(&nameless.ask_how(WEB, RecordType::A, &with_option(3, vec![])), 3), None);
}

#[test]
fn the_longest_question_and_every_option_still_fit() {
    let mut given = web(Settings { nsid: vec![b'n'; 128], ..Settings::default() });
    given.standing = rollcall_dns::Standing::Stale;
    let long =
        format!("{}.{}.{}.web.service.consul", "a".repeat(63), "b".repeat(63), "c".repeat(63));
    let short = "web.service.consul";
    for (name, options) in [(format!("{}.{long}", "d".repeat(39)), 1), (short.to_owned(), 3)] {
        let mut how = with_option(10, vec![1; 8]);
        let edns = how.edns.as_mut().unwrap();
        edns.set_max_payload(512).options_mut().insert(EdnsOption::Unknown(3, vec![]));
        // The size is checked in `ask_how`.
        let reply = given.ask_how(&name, RecordType::A, &how);
        assert_eq!(reply.code(), ResponseCode::NoError);
        assert!(option(&reply, 10).is_some());
        let found = reply.message.edns.as_ref().unwrap().options().as_ref().len();
        assert!(found >= options, "{found} options to {name}");
    }
}

#[test]
fn keep_alive_is_told_over_tcp_alone() {
    let given = web(Settings::default());
    let how = with_option(11, vec![]);
    assert_eq!(option(&given.ask_how(WEB, RecordType::A, &how), 11), None);
    let tcp = How { transport: Transport::Tcp, ..how };
    assert_eq!(option(&given.ask_how(WEB, RecordType::A, &tcp), 11), Some(vec![0, 20]));
}

// === The rate limit ===

fn limited(slip: u32) -> Given {
    let rate = RateLimit { answers: 10, negatives: 10, window: 1, slip, ..RateLimit::default() };
    web(Settings { rate: Some(rate), ..Settings::default() })
}

const OUTSIDE: &str = "192.0.2.1";

#[test]
fn a_flood_of_forged_queries_gets_few_short_replies() {
    let given = limited(2);
    let how = How::default().from(OUTSIDE);
    let query = question(WEB, RecordType::A, None);
    let (mut full, mut short, mut dropped) = (0, 0, 0);
    for _ in 0..100 {
        match given.raw(&query, &how) {
            Ok(reply) if reply.answered.slipped => {
                // No larger than the query: there is nothing to gain by forging one.
                assert!(reply.truncated() && reply.bytes.len() <= query.len());
                assert!(reply.answers().is_empty());
                short += 1;
            }
            Ok(_) => full += 1,
            Err(reason) => {
                assert_eq!(reason, DropReason::Limited);
                dropped += 1;
            }
        }
    }
    assert_eq!((full, short, dropped), (10, 45, 45));
    let later = How { now: Duration::from_secs(1), ..how };
    assert!(!given.raw(&query, &later).unwrap().answered.slipped);
}

#[test]
fn made_up_names_share_one_limit() {
    let given = limited(0);
    let how = How::default().from(OUTSIDE);
    let ask =
        |i: usize| given.raw(&question(&format!("x{i}.service.consul"), RecordType::A, None), &how);
    let replies = (0..100).filter(|i| ask(*i).is_ok()).count();
    assert_eq!(replies, 10);
    // Names that exist are still answered.
    assert!(given.raw(&question(WEB, RecordType::A, None), &how).is_ok());
}

#[test]
fn what_can_be_made_up_shares_the_limit_of_what_exists_on_both_paths() {
    let forms: [fn(u32) -> String; 9] = [
        |i| format!("x{i}.web.service"),
        |i| format!("x{i}.y.web.service"),
        |i| format!("x{i}.port.web.service"),
        |i| format!("_x{i}._tcp.web.service"),
        |i| format!("_web._x{i}.service"),
        |i| format!("web.service.x{i}.zone"),
        |i| format!("a.inst.web.service.x{i}.zone"),
        |i| format!("{i:08x}.addr"),
        |i| format!("x{i}.zone"),
    ];
    let how = How::default().from(OUTSIDE);
    for form in forms {
        let given = limited(0);
        let front = Front::new(given.front.settings().clone()).unwrap();
        let mut fast = Fast::new(Arc::new(front), Fast::MEMORY, 1);
        let (mut full, mut plain, mut reply) = (0, 0, Vec::new());
        for i in 0..10_000 {
            let bytes = question(&format!("{}.{D}", form(i)), RecordType::A, None);
            let How { transport, peer, now, unix, random, .. } = how;
            let query = Query { bytes: &bytes, peer, transport, now, unix, random };
            full += u32::from(given.raw(&bytes, &how).is_ok());
            let outcome = fast.answer(&query, &given.catalog(), &mut reply).unwrap();
            plain += u32::from(matches!(outcome, Outcome::Reply(_)));
        }
        assert_eq!((full, plain), (10, 10), "{}", form(0));
        // Another service, and another type of this one, have limits of their own.
        assert!(given.raw(&question(WEB, RecordType::SRV, None), &how).is_ok());
    }
}

#[test]
fn types_that_nobody_uses_share_one_limit() {
    let given = limited(0);
    let how = How::default().from(OUTSIDE);
    let asked = (1_000..2_000_u16).filter(|kind| !(249..=255).contains(kind));
    let replies =
        asked.filter(|kind| given.raw(&question(WEB, (*kind).into(), None), &how).is_ok());
    assert_eq!(replies.count(), 10);
}

#[test]
fn a_client_with_a_good_cookie_over_tcp_or_nearby_is_not_limited() {
    let given = limited(1);
    let learn = with_option(10, vec![1; 8]).from(OUTSIDE);
    let cookie = option(&given.ask_how(WEB, RecordType::A, &learn), 10).unwrap();
    let proven = with_option(10, cookie).from(OUTSIDE);
    let tcp = How::tcp().from(OUTSIDE);
    let near = How::default().from("192.168.1.1");
    for how in [proven, tcp, near] {
        for _ in 0..100 {
            assert!(!given.ask_how(WEB, RecordType::A, &how).answered.slipped);
        }
    }
    // One that shows a bad cookie is told a good one in the place of an answer.
    let mut replies = (0..20).map(|_| given.try_ask(WEB, RecordType::A, &learn));
    let refused = replies.find(|reply| reply.answered.slipped).unwrap();
    assert_eq!(refused.answered.code, 23);
    assert!(!refused.truncated() && refused.answers().is_empty());
    assert_eq!(option(&refused, 10).unwrap().len(), 24);
}

#[test]
fn without_a_limit_everybody_is_answered() {
    let given = web(Settings { rate: None, ..Settings::default() });
    let how = How::default().from(OUTSIDE);
    assert!((0..10_000).all(|_| !given.ask_how(WEB, RecordType::A, &how).answered.slipped));
}

// === HTTPS and SVCB ===

/// Port, protocols and hints of a record.
fn binding(record: &Record) -> (u16, String, Vec<String>) {
    let (RData::HTTPS(hickory_proto::rr::rdata::HTTPS(svcb)) | RData::SVCB(svcb)) = &record.data
    else {
        panic!("{record}")
    };
    assert_eq!((svcb.svc_priority, svcb.target_name.to_ascii()), (1, ".".into()));
    let (mut port, mut alpn, mut hints) = (0, String::new(), Vec::new());
    for (_, value) in &svcb.svc_params {
        match value {
            SvcParamValue::Port(found) => port = *found,
            SvcParamValue::Alpn(found) => alpn = found.0.join(" "),
            SvcParamValue::Ipv4Hint(found) => hints.extend(found.0.iter().map(|a| a.0.to_string())),
            SvcParamValue::Ipv6Hint(found) => hints.extend(found.0.iter().map(|a| a.0.to_string())),
            other => panic!("{other:?}"),
        }
    }
    hints.sort();
    (port, alpn, hints)
}

#[test]
fn https_tells_ports_protocols_and_addresses_of_those_that_say_alpn() {
    let mut given = Given::new();
    let with_alpn = |address: &str, alpn: &str| Spec {
        metadata: vec![("alpn".into(), alpn.into())],
        ..spec(address)
    };
    given.register("web/a", with_alpn("10.0.0.1:443", "h2, http/1.1"));
    given.register("web/b", with_alpn("[fd00::2]:443", "h2,http/1.1"));
    given.register("web/c", with_alpn("10.0.0.3:8443", "h3"));
    given.register("web/d", spec("10.0.0.4:80"));
    given.register("web/e", with_alpn("10.0.0.5:443", " , "));
    given.register("plain/a", spec("10.0.0.6:80"));
    for kind in [RecordType::HTTPS, RecordType::SVCB] {
        let reply = given.ask(WEB, kind);
        let mut found: Vec<_> = reply.answers().iter().map(binding).collect();
        found.sort();
        let expected = [
            (443, "h2 http/1.1".to_owned(), vec!["10.0.0.1".to_owned(), "fd00::2".to_owned()]),
            (8443, "h3".to_owned(), vec!["10.0.0.3".to_owned()]),
        ];
        assert_eq!(found, expected);
        given.ask(&format!("plain.service.{D}"), kind).assert_no_data();
    }
}

#[test]
fn a_binding_of_many_instances_hints_at_some_of_them() {
    let mut given = Given::new();
    for i in 1..100 {
        let metadata = vec![("alpn".into(), "h2".into())];
        given.register(&format!("web/{i}"), Spec { metadata, ..spec(&format!("10.0.0.{i}:443")) });
    }
    let hints = |random| {
        let reply = given.ask_how(WEB, RecordType::HTTPS, &How { random, ..How::default() });
        binding(&reply.answers()[0]).2
    };
    assert_eq!(hints(1).len(), 8);
    assert_eq!(hints(1), hints(2));
}

// === Reverse names ===

#[test]
fn an_address_of_a_configured_range_is_told_by_name() {
    let reverse = vec!["10.0.0.0/15".parse().unwrap(), "fd00::/61".parse().unwrap()];
    let mut given = web(Settings { reverse, ..Settings::default() });
    given.register("prod/db/x", spec("10.0.0.1:5432"));
    given.register("db/Big.Id", spec("10.0.0.7:5432"));
    given.register("db/Other.Id", spec("10.0.0.7:5433"));
    given.register("db/v6", spec("[fd00::7]:5432"));
    given.register("far/a", spec("10.2.0.1:80"));
    let names = |name: &str| {
        let reply = given.ask(name, RecordType::PTR);
        reply.answers().iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        names("1.0.0.10.in-addr.arpa"),
        format!("a.inst.web.service.{D}. x.inst.db.service.prod.ns.{D}.")
    );
    assert_eq!(names("1.9.0.10.in-addr.arpa"), format!("n1.node.{D}."));
    assert_eq!(names("7.0.0.10.in-addr.arpa"), format!("db.service.{D}."));
    let zeros = "0.".repeat(26);
    assert_eq!(names(&format!("7.0.0.0.{zeros}d.f.ip6.arpa")), format!("v6.inst.db.service.{D}."));
    let apex = |name: &str, code, apex| given.ask(name, RecordType::A).assert_negative(code, apex);
    // 10.0.0.0/15 is two zones, because a label holds eight bits.
    apex("9.9.1.10.in-addr.arpa", ResponseCode::NXDomain, "1.10.in-addr.arpa");
    apex("9.1.10.in-addr.arpa", ResponseCode::NoError, "1.10.in-addr.arpa");
    apex("0.10.in-addr.arpa", ResponseCode::NoError, "0.10.in-addr.arpa");
    apex("1.0.0.10.in-addr.arpa", ResponseCode::NoError, "0.10.in-addr.arpa");
    for bad in ["256.0.0.10", "01.0.0.10", "x.0.0.10", "1.1.0.0.10"] {
        let name = format!("{bad}.in-addr.arpa");
        apex(&name, ResponseCode::NXDomain, "0.10.in-addr.arpa");
    }
    assert_eq!(given.ask("1.10.in-addr.arpa", RecordType::SOA).answers().len(), 1);
    assert_eq!(given.ask("1.10.in-addr.arpa", RecordType::NS).answers().len(), 3);
    for outside in ["1.0.2.10", "10", "2.10", ""] {
        let name = format!("{outside}.in-addr.arpa");
        assert_eq!(given.ask(&name, RecordType::PTR).code(), ResponseCode::Refused, "{outside}");
    }
    assert_eq!(given.ask("8.ip6.arpa", RecordType::PTR).code(), ResponseCode::Refused);
}

#[test]
fn settings_that_are_out_of_bounds_make_no_front() {
    let error = Front::new(Settings { ttl: 3601, ..Settings::default() }).err().unwrap();
    assert_eq!(error.to_string(), "ttl: 3601: 0 to 3600 is allowed");
}
