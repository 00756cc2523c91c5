//! What does not exist, and how that is said: NODATA, NXDOMAIN and refusals, each exactly where it belongs.

mod given;

use given::*;
use hickory_proto::{
    op::{Edns, ResponseCode},
    rr::{RecordType, rdata::opt::EdnsOption},
};
use rollcall_core::record::AdminState;
use rollcall_dns::{DropReason, Settings, Transport};

const D: &str = "rollcall.internal";

fn web() -> Given {
    let mut given = Given::with(Settings { browse: true, ..Settings::default() });
    let mut a = spec("10.0.0.1:80");
    a.tags = vec!["canary".into()];
    given.register("web/a", a.clone());
    given.register("prod/web/a", a);
    given.register("gone/a", spec("10.0.0.2:80"));
    given.deregister("gone/a");
    given
}

/// One name of each form, all of which exist.
const NAMES: [&str; 24] = [
    "web.service",
    "canary.web.service",
    "canary.canary.web.service",
    "http.port.web.service",
    "_http._tcp.web.service",
    "_web._tcp.service",
    "_web._udp.service",
    "_web._canary.service",
    "_web._tcp",
    "_web._udp",
    "a._web._tcp",
    "a.inst.web.service",
    "_grpc_config.web.service",
    "n1.node",
    "0a000001.addr",
    "fd000000000000000000000000000001.addr",
    "_services._dns-sd._udp",
    "web.service.dc1",
    "web.service.dc1.dc",
    "web.service.east.zone",
    "web.service.prod.ns",
    "a.inst.web.service.prod.ns.east.zone.dc1.dc",
    "_web._tcp.prod.ns.east.zone.dc1",
    "gone.service",
];

#[test]
fn every_name_above_one_that_exists_is_there_too() {
    let given = web();
    for name in NAMES {
        let mut parent = format!("{name}.{D}");
        loop {
            let reply = given.ask(&parent, RecordType::A);
            assert_eq!(reply.code(), ResponseCode::NoError, "{parent}, above {name}");
            // A type that nothing has is NODATA wherever the name is.
            given.ask(&parent, RecordType::MX).assert_no_data();
            match parent.split_once('.') {
                Some((_, rest)) if parent != D => parent = rest.to_owned(),
                Some(_) | None => break,
            }
        }
    }
}

/// Names under the domain that no catalogue can hold, or that this one does not.
const UNKNOWN: [&str; 59] = [
    "x",
    "_x",
    "service2",
    "none.service",
    "tag.none.service",
    "a.inst.none.service",
    "http.port.none.service",
    "port.none.service",
    "inst.none.service",
    "_tcp.none.service",
    "_grpc_config.none.service",
    "none.service.prod.ns",
    "web.service.other.ns",
    "b.inst.web.service",
    "A.b.inst.web.service",
    "x.http.port.web.service",
    "x._http._tcp.web.service",
    "http._tcp.web.service",
    "_bad_.port.web.service",
    "service.web.service",
    "node.web.service",
    "canary.zone.web.service",
    "_x.canary.web.service",
    "canary._x.web.service",
    "x._grpc_config.web.service",
    "-web.service",
    "web-.service",
    "we_b.service",
    "_none._tcp.service",
    "_web-._tcp.service",
    "web._tcp.service",
    "_web._.service",
    "_web.__tcp.service",
    "x._web._tcp.service",
    "_none._tcp",
    "web._tcp",
    "b._web._tcp",
    "x.a._web._tcp",
    "n4.node",
    "x.n1.node",
    "x.addr",
    "0a00001.addr",
    "0a00000g.addr",
    "+a000001.addr",
    "x.0a000001.addr",
    "x.query",
    "x._dns-sd._udp",
    "_services._dns-sd._tcp",
    "x._services._dns-sd._udp",
    "web.service.dc2",
    "dc2.dc",
    "dc1.dc1",
    "web.service.east.zone.west.zone",
    "web.service.east.zone.prod.ns",
    "x_y.zone",
    "x_y.ns",
    "\\255.service",
    "we\\000b.service",
    "we\\046b.service",
];

#[test]
fn a_name_that_cannot_exist_is_nxdomain() {
    let given = web();
    let long = "a".repeat(63);
    for name in UNKNOWN.into_iter().chain([long.as_str()]) {
        for kind in [RecordType::A, RecordType::SRV, RecordType::ANY, RecordType::from(65_280)] {
            let reply = given.ask(&format!("{name}.{D}"), kind);
            assert_eq!(reply.code(), ResponseCode::NXDomain, "{name} {kind}");
            reply.assert_unknown();
        }
    }
}

#[test]
fn what_exists_but_holds_nothing_of_that_type_is_no_data() {
    let mut given = web();
    given.register("db/a", spec("10.0.0.3:5432"));
    given.set("db/a", AdminState::Maintenance);
    let cases = [
        ("web.service", RecordType::AAAA),
        ("web.service", RecordType::MX),
        ("web.service", RecordType::NS),
        ("web.service", RecordType::SOA),
        ("web.service", RecordType::CNAME),
        ("web.service", RecordType::DS),
        ("web.service", RecordType::DNSKEY),
        ("web.service", RecordType::from(65_280)),
        ("web.service", RecordType::PTR),
        ("green.web.service", RecordType::A),
        ("https.port.web.service", RecordType::SRV),
        ("web.service.north.zone", RecordType::A),
        ("_grpc_config.web.service", RecordType::TXT),
        ("db.service", RecordType::A),
        ("db.service", RecordType::SRV),
        ("a.inst.db.service", RecordType::A),
        ("0a000001.addr", RecordType::AAAA),
        ("fd000000000000000000000000000001.addr", RecordType::A),
        ("", RecordType::A),
        ("", RecordType::DS),
        ("service", RecordType::NS),
        ("query", RecordType::A),
    ];
    for (name, kind) in cases {
        let name = if name.is_empty() { D.to_owned() } else { format!("{name}.{D}") };
        let reply = given.ask(&name, kind);
        assert_eq!(reply.code(), ResponseCode::NoError, "{name} {kind}");
        reply.assert_no_data();
        assert_eq!(reply.message.authorities[0].ttl, 3);
    }
}

#[test]
fn a_service_that_went_is_no_data_for_ten_minutes_and_then_unknown() {
    let mut given = web();
    let gone = format!("gone.service.{D}");
    given.ask(&gone, RecordType::A).assert_no_data();
    given.advance(599_999);
    given.ask(&gone, RecordType::A).assert_no_data();
    given.advance(2);
    given.ask(&gone, RecordType::A).assert_unknown();
}

#[test]
fn what_is_not_ours_is_refused_without_a_claim_to_it() {
    let given = web();
    for name in
        ["", "org", "example.org", "internal", "xrollcall.internal", "1.0.0.10.in-addr.arpa"]
    {
        let reply = given.ask_how(name, RecordType::A, &How::payload(1232));
        assert_eq!(reply.code(), ResponseCode::Refused, "{name}");
        assert!(!reply.message.metadata.authoritative);
        assert!(reply.message.authorities.is_empty() && reply.answers().is_empty());
        assert_eq!(reply.extended_errors(), [20]);
    }
}

#[test]
fn transfers_are_refused() {
    let given = web();
    let code = |kind, how: &How| given.ask_how(D, kind, how).code();
    assert_eq!(code(RecordType::AXFR, &How::tcp()), ResponseCode::Refused);
    assert_eq!(code(RecordType::IXFR, &How::tcp()), ResponseCode::Refused);
    assert_eq!(code(RecordType::AXFR, &How::default()), ResponseCode::FormErr);
    assert_eq!(code(RecordType::IXFR, &How::default()), ResponseCode::Refused);
    // An IXFR brings the SOA that it has.
    let mut ixfr = question(D, RecordType::IXFR, None);
    ixfr[9] = 1;
    ixfr.extend(b"\0\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(given.raw(&ixfr, &How::tcp()).unwrap().code(), ResponseCode::Refused);
}

/// A query for the web service with its header changed.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = question(&format!("web.service.{D}"), RecordType::A, None);
    change(&mut bytes);
    bytes
}

#[test]
fn headers_that_are_odd_get_the_code_that_they_deserve() {
    let given = web();
    let opcode = |opcode: u8| changed(|bytes| bytes[2] = opcode << 3);
    let count = |at: usize, count: u8| changed(|bytes| bytes[at] = count);
    let class = |high: u8, low: u8| {
        changed(|bytes| {
            let at = bytes.len() - 2;
            bytes[at..].copy_from_slice(&[high, low]);
        })
    };
    let cases = [
        ("IQUERY", opcode(1), ResponseCode::NotImp),
        ("STATUS", opcode(2), ResponseCode::NotImp),
        ("opcode 3", opcode(3), ResponseCode::NotImp),
        ("NOTIFY", opcode(4), ResponseCode::Refused),
        ("UPDATE", opcode(5), ResponseCode::NotImp),
        ("DSO", opcode(6), ResponseCode::NotImp),
        ("opcode 15", opcode(15), ResponseCode::NotImp),
        ("no question", count(5, 0), ResponseCode::FormErr),
        ("two questions", count(5, 2), ResponseCode::FormErr),
        ("65280 questions", count(4, 255), ResponseCode::FormErr),
        ("an answer", count(7, 1), ResponseCode::FormErr),
        ("65280 answers", count(6, 255), ResponseCode::FormErr),
        ("65280 authorities", count(8, 255), ResponseCode::FormErr),
        ("65280 additionals", count(10, 255), ResponseCode::FormErr),
        ("an OPT that is not there", count(11, 1), ResponseCode::FormErr),
        ("class CH", class(0, 3), ResponseCode::Refused),
        ("class NONE", class(0, 254), ResponseCode::Refused),
        ("class ANY", class(0, 255), ResponseCode::Refused),
        ("class 256", class(1, 0), ResponseCode::Refused),
        ("a byte too many", changed(|bytes| bytes.push(0)), ResponseCode::FormErr),
        (
            "a byte too few",
            changed(|bytes| {
                bytes.pop();
            }),
            ResponseCode::FormErr,
        ),
        ("a pointer", changed(|b| b[12..14].copy_from_slice(&[0xC0, 12])), ResponseCode::FormErr),
        ("a label of 64 bytes", changed(|bytes| bytes[12] = 64), ResponseCode::FormErr),
        ("a header alone", changed(|bytes| bytes.truncate(12)), ResponseCode::FormErr),
    ];
    for (what, bytes, code) in cases {
        let reply = given.raw(&bytes, &How::default()).unwrap();
        assert_eq!(reply.code(), code, "{what}");
        assert!(!reply.message.metadata.authoritative, "{what}");
        assert!(reply.answers().is_empty() && reply.message.authorities.is_empty(), "{what}");
    }
}

#[test]
fn more_records_than_a_query_has_are_a_form_error() {
    let given = web();
    let record = b"\0\0\x10\0\x01\0\0\0\0\0\x02\x01a";
    let code = |at: usize, count: u8| {
        let query = changed(|bytes| {
            bytes[at] = count;
            bytes.extend(record.repeat(count.into()));
        });
        given.raw(&query, &How::default()).unwrap().code()
    };
    assert_eq!([code(9, 1), code(11, 3)], [ResponseCode::NoError; 2]);
    assert_eq!([code(7, 1), code(9, 2), code(11, 4)], [ResponseCode::FormErr; 3]);
}

#[test]
fn types_that_are_never_stored_are_refused_by_kind() {
    let given = web();
    let code = |kind: u16| given.ask(D, RecordType::from(kind)).code();
    assert_eq!(code(41), ResponseCode::FormErr);
    for kind in [249, 250, 253, 254] {
        assert_eq!(code(kind), ResponseCode::NotImp, "{kind}");
    }
}

#[test]
fn replies_and_what_nobody_sent_get_no_reply() {
    let given = web();
    let drop = |bytes: &[u8], how: &How| given.raw(bytes, how).err();
    let reply = changed(|bytes| bytes[2] |= 0x80);
    assert_eq!(drop(&reply, &How::default()), Some(DropReason::IsReply));
    assert_eq!(drop(&[0; 11], &How::default()), Some(DropReason::Short));
    assert_eq!(drop(&[], &How::tcp()), Some(DropReason::Short));
    let query = changed(|_| {});
    for peer in ["10.0.0.1:0", "255.255.255.255:53", "224.0.0.1:53", "0.0.0.0:53", "[::]:53"] {
        let how = How { peer: peer.parse().unwrap(), ..How::default() };
        assert_eq!(drop(&query, &how), Some(DropReason::BadSource), "{peer}");
    }
}

fn edns(change: impl FnOnce(&mut Edns)) -> How {
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    change(&mut edns);
    How { edns: Some(edns), ..How::default() }
}

/// The tests of RFC 8906 section 8, in its order.
#[test]
fn nothing_that_rfc_8906_lists_is_left_without_the_reply_it_asks_for() {
    let given = web();
    let soa = |how: &How| given.ask_how(D, RecordType::SOA, how);
    let fine = |reply: &Reply| {
        reply.code() == ResponseCode::NoError
            && reply.message.metadata.authoritative
            && reply.answers().len() == 1
    };
    // 8.1: known and unknown types, bits, opcodes, TCP.
    assert!(fine(&soa(&How::default())));
    given.ask(D, RecordType::from(1000)).assert_no_data();
    for (byte, bit) in [(2, 1), (3, 0x10), (3, 0x20), (3, 0x40)] {
        let mut query = question(D, RecordType::SOA, None);
        query[2] &= !1;
        query[byte] |= bit;
        let reply = given.raw(&query, &How::default()).unwrap();
        assert!(fine(&reply), "bit {bit:x} of byte {byte}");
        // RD and CD come back, AD and Z do not.
        let back = [reply.bytes[2] & 1, reply.bytes[3] & 0x70];
        assert_eq!(back, [query[2] & 1, query[3] & 0x10]);
    }
    assert!(fine(&soa(&How::tcp())));
    // 8.2: EDNS, its versions, options, flags, and all at once.
    let plain = soa(&edns(|_| {}));
    assert!(fine(&plain));
    let version_1 = soa(&edns(|edns| {
        edns.set_version(1);
    }));
    let bad_version = |reply: &Reply| {
        let edns = reply.message.edns.as_ref().unwrap();
        reply.answered.code == 16 && edns.version() == 0 && reply.answers().is_empty()
    };
    assert!(bad_version(&version_1));
    let unknown = |edns: &mut Edns| edns.options_mut().insert(EdnsOption::Unknown(100, vec![1]));
    let reply = soa(&edns(unknown));
    assert!(fine(&reply) && reply.message.edns.as_ref().unwrap().options().as_ref().is_empty());
    let reply = soa(&edns(|edns| edns.flags_mut().z = 0x40));
    assert!(fine(&reply) && reply.message.edns.as_ref().unwrap().flags().z == 0);
    let reply = soa(&edns(|edns| {
        edns.set_version(1);
        edns.flags_mut().z = 0x40;
        unknown(edns);
    }));
    assert!(bad_version(&reply));
    let reply = soa(&edns(|edns| {
        edns.set_dnssec_ok(true);
    }));
    assert!(fine(&reply) && reply.message.edns.as_ref().unwrap().flags().dnssec_ok);
    assert!(!plain.message.edns.as_ref().unwrap().flags().dnssec_ok);
    let reply = soa(&edns(|edns| {
        for code in [3, 8, 9, 10, 11, 12] {
            let data = match code {
                8 => vec![0, 1, 0, 0],
                10 => vec![1; 8],
                _ => vec![],
            };
            edns.options_mut().insert(EdnsOption::Unknown(code, data));
        }
    }));
    assert!(fine(&reply));
    // An EDNS of 512 bytes is an EDNS like any other.
    assert!(fine(&soa(&How::payload(512))));
}

#[test]
fn two_opt_records_and_broken_options_are_form_errors() {
    let given = web();
    let mut twice = question(D, RecordType::SOA, Some(Edns::new()));
    let opt = twice[twice.len() - 11..].to_vec();
    twice.extend(opt);
    twice[11] = 2;
    assert_eq!(given.raw(&twice, &How::default()).unwrap().code(), ResponseCode::FormErr);
    for length in [0, 7, 9, 15, 41] {
        let how = edns(|e| e.options_mut().insert(EdnsOption::Unknown(10, vec![1; length])));
        assert_eq!(
            given.ask_how(D, RecordType::SOA, &how).code(),
            ResponseCode::FormErr,
            "{length}"
        );
    }
    let mut longer = question(D, RecordType::SOA, Some(Edns::new()));
    let length = longer.len();
    longer[length - 1] = 4;
    longer.extend([0, 10, 0, 200]);
    assert_eq!(given.raw(&longer, &How::default()).unwrap().code(), ResponseCode::FormErr);
}

#[test]
fn a_signature_of_a_key_that_nobody_has_is_not_honoured() {
    let given = web();
    let mut signed = question(D, RecordType::SOA, None);
    signed[11] = 1;
    signed.extend(b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x1d\x0bhmac-sha256\0\0\0\0\0\0\0\x01\x2c\0\0\x12\x34\0\0\0\0");
    assert_eq!(given.raw(&signed, &How::default()).unwrap().code(), ResponseCode::NotAuth);
}

#[test]
fn an_unknown_transport_matters_to_nobody_but_the_size() {
    let given = web();
    let how = How { transport: Transport::Tcp, ..How::payload(512) };
    assert_eq!(given.ask_how(D, RecordType::SOA, &how).answers().len(), 1);
}
