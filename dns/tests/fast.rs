//! What the fast path takes, what it leaves, and what it keeps.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod given;

use given::*;
use hickory_proto::{op::Edns, rr::RecordType};
use rollcall_dns::{Answered, CookieSecret, Fast, Front, Outcome, Query, Settings, Standing};
use std::sync::Arc;

const D: &str = "rollcall.internal";

fn fast(settings: Settings) -> Fast {
    Fast::new(Arc::new(Front::new(settings).unwrap()), Fast::MEMORY, 1)
}

/// What the fast path makes of a query.
fn ask(fast: &mut Fast, given: &Given, bytes: &[u8], how: &How) -> Option<(Outcome, Vec<u8>)> {
    let How { transport, peer, random, now, unix, .. } = *how;
    let query = Query { bytes, peer, transport, now, unix, random };
    let mut reply = Vec::new();
    let outcome = fast.answer(&query, &given.catalog(), &mut reply)?;
    Some((outcome, reply))
}

fn web() -> Given {
    let mut given = Given::new();
    for i in 1..=10 {
        given.register(&format!("web/i{i}"), spec(&format!("10.0.0.{i}:80")));
    }
    given
}

fn edns(payload: u16, dnssec_ok: bool, options: &[(u16, &[u8])]) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    edns.set_dnssec_ok(dnssec_ok);
    for (code, value) in options {
        let option = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(*code, value.to_vec());
        edns.options_mut().insert(option);
    }
    edns
}

#[test]
fn what_real_clients_send_is_taken() {
    let mut given = web();
    given.cookies = Some(CookieSecret([1; 16]));
    let cookie: &[(u16, &[u8])] = &[(10, &[7; 8])];
    let cases = [
        ("nginx, glibc: no EDNS", None),
        ("HAProxy: 512 bytes", Some(edns(512, false, &[]))),
        ("unbound: DO", Some(edns(1232, true, &[]))),
        ("dig, BIND: a cookie", Some(edns(1232, true, cookie))),
        ("a padding stub", Some(edns(4096, false, &[(12, &[0; 40])]))),
    ];
    let mut fast = fast(Settings::default());
    for (client, edns) in cases {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::HTTPS] {
            for name in ["web.service", "WEB.Service", "_web._tcp", "none.service", "service"] {
                let bytes = question(&format!("{name}.{D}"), kind, edns.clone());
                assert!(
                    ask(&mut fast, &given, &bytes, &How::default()).is_some(),
                    "{client}: {name} {kind}"
                );
            }
        }
    }
}

#[test]
fn what_is_unusual_is_left_to_the_full_path() {
    let given = web();
    let mut fast = fast(Settings::default());
    let plain = question(&format!("web.service.{D}"), RecordType::A, None);
    let name_end = plain.len() - 4;
    let mut changed = |at: usize, to: u8| {
        let mut bytes = plain.clone();
        bytes[at] = to;
        ask(&mut fast, &given, &bytes, &How::default()).is_none()
    };
    assert!(changed(2, 0x81), "a reply");
    assert!(changed(2, 0x29), "another opcode");
    assert!(changed(3, 0x40), "a reserved bit");
    assert!(changed(5, 2), "two questions");
    assert!(changed(7, 1), "an answer");
    assert!(changed(11, 2), "two records behind");
    assert!(changed(name_end + 1, 252), "AXFR");
    assert!(changed(name_end + 3, 3), "class CH");
    assert!(changed(12, 0xC0), "a pointer");
    assert!(!changed(3, 0x30), "AD and CD");
    let nowhere = How::default().from("255.255.255.255");
    assert!(ask(&mut fast, &given, &plain, &nowhere).is_none(), "a broadcast address");
}

#[test]
fn a_node_without_a_state_leaves_all_to_the_full_path() {
    let given = Given { standing: Standing::Unready, ..web() };
    let bytes = question(&format!("web.service.{D}"), RecordType::A, None);
    assert!(ask(&mut fast(Settings::default()), &given, &bytes, &How::default()).is_none());
}

#[test]
fn made_up_names_are_answered_but_not_kept() {
    let given = web();
    let mut fast = fast(Settings::default());
    let mut all = |name: String| {
        let bytes = question(&format!("{name}.{D}"), RecordType::A, None);
        assert!(ask(&mut fast, &given, &bytes, &How::default()).is_some(), "{name}");
        fast.kept()
    };
    assert_eq!(all("web.service".into()), 1);
    for i in 0..500 {
        let forms = [
            format!("r{i}.service"),
            format!("r{i}.web.service"),
            format!("r{i}.port.web.service"),
            format!("web.service.r{i}.zone"),
            format!("web.service.r{i}.ns"),
            format!("_r{i}._tcp"),
            format!("_web._r{i}.service"),
            format!("r{i}.nothing"),
        ];
        for name in forms {
            assert_eq!(all(name.clone()), 1, "{name}");
        }
    }
    assert_eq!(all("wEb.SERVICE".into()), 1, "the case makes no other name");
}

#[test]
fn what_costs_much_and_is_not_kept_leaves_the_thread() {
    let mut given = web();
    let mut instance = |i: usize| {
        let mut spec = spec(&format!("10.1.{}.{}:80", i / 256, i % 256));
        spec.tags = if i == 7 { vec!["blue".into()] } else { Vec::new() };
        (format!("big/i{i}"), spec)
    };
    given.register_all((0..2_000).map(&mut instance).collect());
    let mut fast = fast(Settings::default());
    let mut taken = |name: &str, kind, ms| {
        let bytes = question(&format!("{name}.{D}"), kind, None);
        let how = How { now: std::time::Duration::from_millis(ms), ..How::default() };
        ask(&mut fast, &given, &bytes, &how).is_some()
    };
    // The largest service can be looked through once at a time: here it is ten times.
    assert!(taken("blue.big.service", RecordType::A, 0));
    let mut made_up = (0..1_000).map(|i| format!("x{i}.big.service"));
    let plain = |name: String| taken(&name, RecordType::A, 0);
    assert_eq!(made_up.by_ref().map(plain).filter(|taken| *taken).count(), 9);
    for kind in [RecordType::TXT, RecordType::HTTPS] {
        assert!(!taken("big.service", kind, 0), "{kind}");
    }
    for name in ["a.b.big.service", "big.service.x.zone", "x.port.big.service", "_big._x.service"] {
        assert!(!taken(name, RecordType::A, 0), "{name}");
    }
    // What is kept, what will be, and what costs little goes on.
    for name in ["blue.big.service", "big.service", "_big._tcp", "x.web.service", "x.service"] {
        assert!(taken(name, RecordType::A, 0), "{name}");
    }
    assert!(taken("web.service", RecordType::TXT, 0));
    assert!(taken("a.b.big.service", RecordType::A, 20), "a moment later");
    assert!(!taken("a.b.big.service", RecordType::A, 20));
}

/// A service of so many instances; every seventh is blue.
fn large(count: usize) -> Given {
    let mut given = web();
    let instance = |i: usize| {
        let mut spec = spec(&format!("10.1.{}.{}:80", i / 250, i % 250));
        spec.tags = if i.is_multiple_of(7) { vec!["blue".into()] } else { Vec::new() };
        (format!("big/i{i}"), spec)
    };
    given.register_all((0..count).map(instance).collect());
    given
}

#[test]
fn a_tag_that_is_asked_for_stays_on_the_thread_through_changes_and_for_every_type() {
    let mut given = large(4_800);
    let mut fast = fast(Settings::default());
    // All at one moment: the service can be looked through four times, and no more.
    let mut taken = |given: &Given, name: &str, kind| {
        let bytes = question(&format!("{name}.{D}"), kind, None);
        ask(&mut fast, given, &bytes, &How::default()).map(|(outcome, _)| outcome)
    };
    let blue = "blue.big.service";
    // nginx and glibc ask for both families, whatever there is.
    let kinds = [RecordType::A, RecordType::AAAA, RecordType::SRV];
    for round in 0..100 {
        given.register(&format!("big/other-{round}"), spec("10.2.0.1:80"));
        for kind in kinds {
            assert!(taken(&given, blue, kind).is_some(), "{round}: {kind}");
        }
    }
    // What looks at nothing costs nothing.
    for kind in [RecordType::MX, RecordType::NAPTR] {
        assert!((0..100).all(|_| taken(&given, blue, kind).is_some()), "{kind}");
    }
    // The fourth time; whoever lost the tag is asked for once more, and then is as unknown as any other word.
    assert!(taken(&given, "a.b.big.service", RecordType::A).is_some());
    assert!(taken(&given, "x.big.service", RecordType::A).is_none());
    for i in (0..4_800).step_by(7) {
        given.deregister(&format!("big/i{i}"));
    }
    assert!(taken(&given, blue, RecordType::A).is_some());
    assert!(taken(&given, blue, RecordType::A).is_none());
}

#[test]
fn what_the_rate_limit_stops_costs_the_others_nothing() {
    let given = large(5_000);
    let mut settings = Settings::default();
    let rate = settings.rate.as_mut().unwrap();
    (rate.answers, rate.window, rate.slip, rate.exempt) = (1, 1, 0, Vec::new());
    let mut fast = fast(settings);
    let mut taken = |name: &str, peer: &str| {
        let bytes = question(&format!("{name}.{D}"), RecordType::A, None);
        ask(&mut fast, &given, &bytes, &How::default().from(peer)).map(|(outcome, _)| outcome)
    };
    let asked = (0..100).filter_map(|i| taken(&format!("x{i}.big.service"), "192.0.2.1"));
    let sent = asked.filter(|outcome| matches!(outcome, Outcome::Reply(_))).count();
    assert_eq!(sent, 1);
    assert!(taken("blue.big.service", "198.51.100.1").is_some());
}

#[test]
fn the_answers_about_ten_thousand_services_stay_in_the_memory_of_a_thread() {
    // A tenth of both.
    let mut given = Given::new();
    let instance = |i: usize| {
        let address = format!("10.{}.{}.{}:80", i / 10_000, i / 100 % 100, i % 100);
        (format!("service-{:04}/i{}", i / 10, i % 10), spec(&address))
    };
    given.register_all((0..10_000).map(instance).collect());
    let front = Arc::new(Front::new(Settings::default()).unwrap());
    let mut fast = Fast::new(front, Fast::MEMORY / 10, 1);
    for round in 0..3 {
        for i in 0..1_000 {
            // In another order each time.
            let name = format!("service-{:04}.service.{D}", (i * (2 * round + 1)) % 1_000);
            for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
                let bytes = question(&name, kind, None);
                assert!(ask(&mut fast, &given, &bytes, &How::default()).is_some());
            }
        }
    }
    assert_eq!(fast.kept(), 3_000);
}

#[test]
fn a_reply_says_whether_it_was_ready() {
    let given = web();
    let mut fast = fast(Settings::default());
    let mut ready = |name: &str, kind| {
        let bytes = question(&format!("{name}.{D}"), kind, None);
        match ask(&mut fast, &given, &bytes, &How::default()) {
            Some((Outcome::Reply(answered), _)) => answered.ready,
            other => panic!("{name}: {other:?}"),
        }
    };
    for name in ["web.service", "web.service", "none.service", "x.web.service", "service"] {
        assert!(ready(name, RecordType::A), "{name}");
    }
    for (name, kind) in [
        ("web.service", RecordType::TXT),
        ("i1.inst.web.service", RecordType::A),
        ("0a000001.addr", RecordType::A),
        ("", RecordType::SOA),
    ] {
        assert!(!ready(name, kind), "{name} {kind}");
    }
}

#[test]
fn a_change_is_in_the_next_answer() {
    let mut given = web();
    let mut fast = fast(Settings::default());
    let bytes = question(&format!("web.service.{D}"), RecordType::A, Some(Edns::new()));
    let mut count = |given: &Given| {
        let (_, reply) = ask(&mut fast, given, &bytes, &How::default()).unwrap();
        reply[7]
    };
    assert_eq!(count(&given), 10);
    given.deregister("web/i3");
    assert_eq!(count(&given), 9);
    given.register("other/a", spec("10.0.1.1:80"));
    assert_eq!(count(&given), 9);
    // More changes than the journal holds.
    for i in 0..300 {
        given.register(&format!("other{i}/a"), spec("10.0.1.1:80"));
    }
    given.deregister("web/i4");
    for i in 300..600 {
        given.register(&format!("other{i}/a"), spec("10.0.1.1:80"));
    }
    assert_eq!(count(&given), 8);
    given.deregister("web/i5");
    given.state.begin_epoch();
    assert_eq!(count(&given), 7);
}

#[test]
fn the_largest_service_over_tcp_is_complete_and_its_pointers_reach() {
    let mut given = Given::new();
    let all = (0..1_000).map(|i| {
        let address = format!("10.1.{}.{}:80", i / 250, 1 + i % 250);
        (format!("huge/i{i}"), spec(&address))
    });
    given.register_all(all.collect());
    let bytes = question(&format!("huge.service.{D}"), RecordType::SRV, None);
    let (outcome, reply) =
        ask(&mut fast(Settings::default()), &given, &bytes, &How::tcp()).unwrap();
    let expected = given.raw(&bytes, &How::tcp()).unwrap();
    assert_eq!(reply, expected.bytes);
    assert!(matches!(outcome, Outcome::Reply(Answered { truncated: false, .. })));
    assert_eq!(expected.answers().len(), 1_000);
}

#[test]
fn a_service_that_is_forgotten_without_an_event_is_unknown_at_once() {
    let mut given = web();
    given.register("short/a", spec("10.0.1.1:80"));
    given.deregister("short/a");
    let mut fast = fast(Settings::default());
    let bytes = question(&format!("short.service.{D}"), RecordType::A, None);
    let mut code = |given: &Given| {
        let (_, reply) = ask(&mut fast, given, &bytes, &How::default()).unwrap();
        reply[3] & 0x0F
    };
    assert_eq!(code(&given), 0);
    given.advance(11 * 60 * 1000);
    assert_eq!(code(&given), 3);
}
