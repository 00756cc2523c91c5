//! Whatever bytes come: no panic, and every reply can be read, ends where it ends, and keeps within its limit.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::*;
use hickory_proto::{
    op::Edns,
    rr::{RecordType, rdata::opt::EdnsOption},
};
use proptest::prelude::*;
use rollcall_core::instance::Spec;
use rollcall_dns::{CookieSecret, RateLimit, Settings, Standing, Transport};
use std::sync::LazyLock;

/// A catalogue with a little of everything.
static GIVEN: LazyLock<Given> = LazyLock::new(|| {
    let settings = Settings {
        browse: true,
        nsid: b"n1".to_vec(),
        reverse: vec!["10.0.0.0/9".parse().unwrap(), "fd00::/62".parse().unwrap()],
        rate: Some(RateLimit { exempt: vec![], answers: 5, negatives: 5, ..RateLimit::default() }),
        ..Settings::default()
    };
    let mut given = Given::with(settings);
    let instance = |i: usize| {
        let mut spec = spec(&format!("10.1.{}.{}:8080", i / 256, i % 256));
        spec.endpoints.push(endpoint("http6", &format!("[fd00::{:x}]:8080", i + 1)));
        spec.metadata = vec![("alpn".into(), "h2,http/1.1".into()), ("k".into(), "v".into())];
        spec.tags = vec!["canary".into()];
        spec
    };
    given.register_all((0..300).map(|i| (format!("big/i{i}"), instance(i))).collect());
    given.register("web/a", instance(1_000));
    given.register("prod/web/a", Spec { locality: zone("east"), ..instance(1_001) });
    given.cookies = Some(CookieSecret([7; 16]));
    given
});

const WORDS: [&str; 30] = [
    "web",
    "big",
    "service",
    "node",
    "addr",
    "inst",
    "port",
    "ns",
    "zone",
    "dc",
    "dc1",
    "query",
    "_tcp",
    "_udp",
    "_web",
    "_big",
    "_http",
    "http",
    "canary",
    "a",
    "n1",
    "prod",
    "east",
    "0a000001",
    "_grpc_config",
    "_dns-sd",
    "_services",
    "Web",
    "\\000",
    "-",
];
const ENDS: [&str; 6] = [
    "rollcall.internal",
    "consul",
    "RollCall.Internal",
    "",
    "1.10.in-addr.arpa",
    "0.0.d.f.ip6.arpa",
];
const KINDS: [u16; 20] =
    [1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 35, 41, 43, 64, 65, 250, 251, 252, 255, 65_280];

fn edns() -> impl Strategy<Value = Edns> {
    let option = (0_u16..20, prop::collection::vec(any::<u8>(), 0..50));
    (any::<u16>(), any::<bool>(), 0_u8..2, prop::collection::vec(option, 0..4)).prop_map(
        |(payload, dnssec_ok, version, options)| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok).set_version(version);
            for (code, data) in options {
                edns.options_mut().insert(EdnsOption::Unknown(code, data));
            }
            edns
        },
    )
}

/// A query of the grammar's words, well-formed or nearly so.
fn query() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let words = prop::collection::vec(prop::sample::select(&WORDS[..]), 0..7);
    let name = (words, prop::sample::select(&ENDS[..]));
    (name, prop::sample::select(&KINDS[..]), prop::option::of(edns())).prop_map(
        |((words, end), kind, edns)| {
            let name = format!("{}.{end}", words.join("."));
            let with = edns.is_some();
            (question(&name, RecordType::from(kind), edns), with)
        },
    )
}

/// Mostly from networks of their own; some from one that has used up its rate.
fn how() -> impl Strategy<Value = How> {
    let peer = prop_oneof![
        9 => any::<[u8; 2]>().prop_map(|[a, b]| format!("20.{a}.{b}.1:53")),
        1 => Just("192.0.2.1:53".to_owned()),
    ];
    (any::<bool>(), any::<u64>(), peer).prop_map(|(tcp, random, peer)| How {
        transport: if tcp { Transport::Tcp } else { Transport::Udp },
        random,
        peer: peer.parse().unwrap(),
        ..How::default()
    })
}

/// Asks and checks the size; the rest is checked in [`Given::raw`].
fn ask(bytes: &[u8], how: &How, with_edns: bool) {
    let Ok(reply) = GIVEN.raw(bytes, how) else { return };
    let limit = match how.transport {
        Transport::Tcp => 65_535,
        Transport::Udp if with_edns => 1_232,
        Transport::Udp => PLAIN,
    };
    assert!(reply.bytes.len() <= limit, "{} of {limit}", reply.bytes.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_bytes_are_answered_or_dropped(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        how in how(),
    ) {
        ask(&bytes, &how, true);
    }

    #[test]
    fn any_question_of_our_words_is_answered((bytes, edns) in query(), how in how()) {
        ask(&bytes, &how, edns);
    }

    #[test]
    fn a_query_with_some_bytes_changed_is_answered_or_dropped(
        (mut bytes, _) in query(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        how in how(),
    ) {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        ask(&bytes, &how, true);
    }
}

#[test]
fn the_words_reach_every_kind_of_answer() {
    // The strategies above are worth something only if they hit more than NXDOMAIN.
    assert_eq!(GIVEN.standing, Standing::Current);
    let how = How::tcp();
    for name in ["web.service", "_web._tcp", "canary.big.service", "n1.node", "0a000001.addr"] {
        let name = format!("{name}.rollcall.internal");
        let kinds = [RecordType::A, RecordType::SRV, RecordType::PTR];
        let hit = kinds.iter().any(|kind| !GIVEN.ask_how(&name, *kind, &how).answers().is_empty());
        assert!(hit, "{name}");
    }
}
