//! What is answered: instances in all the ways they can be asked for.

mod given;

use given::*;
use hickory_proto::{op::ResponseCode, rr::RecordType};
use rollcall_core::{instance::Spec, policy::Policy, record::AdminState};
use rollcall_dns::{Settings, Standing};
use std::time::Duration;

const D: &str = "rollcall.internal";

/// `web` with three instances in two zones, one of them with a tag and a second endpoint.
fn web() -> Given {
    let mut given = Given::new();
    let mut a = spec("10.0.0.1:80");
    a.locality = zone("east");
    a.tags = vec!["canary".into(), "blue".into()];
    a.endpoints.push(endpoint("admin", "10.0.1.1:9000"));
    given.register("web/a", a);
    given.register("web/b", Spec { locality: zone("west"), ..spec("10.0.0.2:80") });
    given.register("web/c", Spec { locality: zone("west"), ..spec("[fd00::2]:80") });
    given
}

#[test]
fn a_service_is_answered_by_address_and_by_place() {
    let given = web();
    let reply = given.ask(&format!("web.service.{D}"), RecordType::A);
    assert_eq!(reply.code(), ResponseCode::NoError);
    assert!(reply.message.metadata.authoritative);
    assert_eq!(reply.sorted_ips(), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(reply.answers()[0].ttl, 5);
    let reply = given.ask(&format!("web.service.{D}"), RecordType::AAAA);
    assert_eq!(reply.ips(), ["fd00::2"]);
    let reply = given.ask(&format!("web.service.{D}"), RecordType::SRV);
    let mut places = reply.places();
    places.sort();
    let expected = [
        "1 25600 80 0a000001.addr.rollcall.internal.",
        "1 25600 80 0a000002.addr.rollcall.internal.",
        "1 25600 80 fd000000000000000000000000000002.addr.rollcall.internal.",
    ];
    assert_eq!(places, expected);
    let mut glue = addresses(&reply.message.additionals);
    glue.sort();
    assert_eq!(glue, ["10.0.0.1", "10.0.0.2", "fd00::2"]);
    // Each target's address is under the target's own name, and the name resolves by itself.
    for record in &reply.message.additionals {
        assert_eq!(record.ttl, 86_400);
        let alone = given.ask(&record.name.to_ascii(), record.record_type());
        assert_eq!(alone.ips(), addresses(std::slice::from_ref(record)));
        assert_eq!(alone.answers()[0].ttl, 86_400);
    }
}

#[test]
fn every_form_of_a_name_selects_what_it_says() {
    let given = web();
    let cases = [
        ("web.service", "10.0.0.1:80 10.0.0.2:80 fd00::2:80"),
        ("canary.web.service", "10.0.0.1:80"),
        ("canary.blue.web.service", "10.0.0.1:80"),
        ("canary.green.web.service", ""),
        ("admin.port.web.service", "10.0.1.1:9000"),
        ("none.port.web.service", ""),
        ("_admin._tcp.web.service", "10.0.1.1:9000"),
        ("_admin._udp.web.service", ""),
        ("_web._tcp.service", "10.0.0.1:80 10.0.0.2:80 fd00::2:80"),
        ("_web._udp.service", "10.0.0.1:80 10.0.0.2:80 fd00::2:80"),
        ("_web._canary.service", "10.0.0.1:80"),
        ("_web._admin.service", "10.0.1.1:9000"),
        ("_web._tcp", "10.0.0.1:80 10.0.0.2:80 fd00::2:80"),
        ("a.inst.web.service", "10.0.0.1:80"),
        ("web.service.east.zone", "10.0.0.1:80"),
        ("web.service.west.zone", "10.0.0.2:80 fd00::2:80"),
        ("web.service.north.zone", ""),
        ("web.service.default.ns", "10.0.0.1:80 10.0.0.2:80 fd00::2:80"),
        ("web.service.default.ns.east.zone.dc1", "10.0.0.1:80"),
        ("web.service.dc1", "10.0.0.1:80 10.0.0.2:80 fd00::2:80"),
        ("web.service.dc1.dc", "10.0.0.1:80 10.0.0.2:80 fd00::2:80"),
    ];
    for domain in [D, "consul"] {
        for (form, expected) in cases {
            let name = format!("{form}.{domain}");
            let reply = given.ask(&name, RecordType::SRV);
            if expected.is_empty() {
                reply.assert_negative(ResponseCode::NoError, domain);
                continue;
            }
            let glue = &reply.message.additionals;
            let mut found: Vec<String> = Vec::new();
            for record in reply.answers() {
                let hickory_proto::rr::RData::SRV(srv) = &record.data else { panic!("{record}") };
                let ip = glue.iter().find(|glue| glue.name == srv.target).unwrap();
                found.push(format!("{}:{}", addresses(std::slice::from_ref(ip))[0], srv.port));
            }
            found.sort();
            assert_eq!(found.join(" "), expected, "{name}");
        }
    }
}

#[test]
fn the_case_of_the_question_comes_back_and_our_own_names_are_lower() {
    let given = web();
    let asked = "wEb.SeRvIcE.RoLlCaLl.InTeRnAl";
    let reply = given.ask(asked, RecordType::SRV);
    assert!(reply.bytes[12..].starts_with(b"\x03wEb\x07SeRvIcE\x08RoLlCaLl\x08InTeRnAl\0"));
    for record in reply.answers() {
        assert_eq!(record.name.to_ascii(), format!("{asked}."));
        assert!(record.data.to_string().ends_with(".addr.rollcall.internal."), "{record}");
    }
}

#[test]
fn an_instance_with_one_port_on_both_families_has_both_addresses() {
    let mut given = Given::new();
    let mut both = spec("10.0.0.1:80");
    both.endpoints.push(endpoint("http6", "[fd00::1]:80"));
    both.endpoints.push(endpoint("other", "[fd00::9]:99"));
    given.register("web/a", both);
    assert_eq!(given.ask(&format!("web.service.{D}"), RecordType::A).ips(), ["10.0.0.1"]);
    assert_eq!(given.ask(&format!("web.service.{D}"), RecordType::AAAA).ips(), ["fd00::1"]);
}

#[test]
fn what_is_drained_in_maintenance_expired_or_of_weight_0_is_absent() {
    let mut given = Given::new();
    for id in 1..=5 {
        given.register(&format!("web/i{id}"), spec(&format!("10.0.0.{id}:80")));
    }
    given.set("web/i2", AdminState::Draining);
    given.set("web/i3", AdminState::Maintenance);
    given.expire("web/i4");
    given.register("web/i6", Spec { weight: 0, ..spec("10.0.0.6:80") });
    let service = format!("web.service.{D}");
    assert_eq!(given.ask(&service, RecordType::A).sorted_ips(), ["10.0.0.1", "10.0.0.5"]);
    assert_eq!(given.ask(&service, RecordType::SRV).answers().len(), 2);
    // By its own name an instance stays while it drains, and takes nothing new.
    let one = |id: &str| format!("{id}.inst.web.service.{D}");
    assert_eq!(given.ask(&one("i2"), RecordType::A).ips(), ["10.0.0.2"]);
    let drained = "1 0 80 0a000002.addr.rollcall.internal.";
    assert_eq!(given.ask(&one("i2"), RecordType::SRV).places(), [drained]);
    given.ask(&one("i3"), RecordType::A).assert_no_data();
    given.ask(&one("i4"), RecordType::A).assert_no_data();
    given.ask(&one("i7"), RecordType::A).assert_unknown();
}

#[test]
fn a_name_with_a_zone_never_shows_an_instance_of_another_one() {
    let mut given = Given::new();
    given.register("web/a", Spec { locality: zone("east"), ..spec("10.0.0.1:80") });
    given.register("web/b", spec("10.0.0.2:80"));
    for (form, kind) in [("inst.web.service", RecordType::A), ("_web._tcp", RecordType::TXT)] {
        let name = |id: &str, zone: &str| format!("{id}.{form}.{zone}.zone.{D}");
        assert_eq!(given.ask(&name("a", "east"), kind).answers().len(), 1);
        given.ask(&name("a", "west"), kind).assert_no_data();
        given.ask(&name("b", "east"), kind).assert_no_data();
        given.ask(&name("c", "east"), kind).assert_unknown();
        given.ask(&name("a", "east"), RecordType::HTTPS).assert_no_data();
        assert_eq!(given.ask(&format!("b.{form}.{D}"), kind).answers().len(), 1);
    }
}

#[test]
fn a_service_that_fails_open_shows_all_and_says_so_by_edns() {
    let mut given = Given::new();
    given.register("web/a", spec("10.0.0.1:80"));
    given.register("web/b", spec("10.0.0.2:80"));
    let service = format!("web.service.{D}");
    given.expire("web/a");
    given.expire("web/b");
    given.ask(&service, RecordType::A).assert_no_data();
    given.policy("web", Policy { fail_open_below: Some(0.5), ..Policy::default() });
    let reply = given.ask_how(&service, RecordType::A, &How::payload(1232));
    assert_eq!(reply.sorted_ips(), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(reply.extended_errors(), [0]);
    assert_eq!(given.ask(&service, RecordType::A).answers().len(), 2);
    // Whom an operator takes out stays out.
    given.set("web/a", AdminState::Draining);
    assert_eq!(given.ask(&service, RecordType::A).ips(), ["10.0.0.2"]);
    given.set("web/b", AdminState::Maintenance);
    given.ask(&service, RecordType::A).assert_no_data();
}

#[test]
fn the_ttl_is_the_policys_but_never_above_the_lease() {
    let mut given = Given::new();
    given.register("web/a", spec("10.0.0.1:80"));
    let service = format!("web.service.{D}");
    let ttl = |given: &Given| given.ask(&service, RecordType::A).answers()[0].ttl;
    assert_eq!(ttl(&given), 5);
    let policy = |secs| Policy { dns_ttl: Some(Duration::from_secs(secs)), ..Policy::default() };
    given.policy("web", policy(0));
    assert_eq!(ttl(&given), 0);
    given.policy("web", policy(3600));
    assert_eq!(ttl(&given), 10);
    given.deregister("web/a");
    given.register("web/b", Spec { ttl: None, ..spec("10.0.0.1:80") });
    assert_eq!(ttl(&given), 3600);
}

#[test]
fn without_a_leader_answers_go_on_with_a_short_ttl_and_a_mark() {
    let mut given = web();
    given.standing = Standing::Stale;
    let service = format!("web.service.{D}");
    for kind in [RecordType::A, RecordType::SRV, RecordType::TXT] {
        let reply = given.ask_how(&service, kind, &How::payload(1232));
        assert_eq!(reply.code(), ResponseCode::NoError);
        assert_eq!(reply.answers()[0].ttl, 2, "{kind}");
        assert_eq!(reply.extended_errors(), [3]);
    }
    let reply = given.ask_how("none.service.consul", RecordType::A, &How::payload(1232));
    assert_eq!((reply.code(), reply.extended_errors()), (ResponseCode::NXDomain, vec![3]));
    assert_eq!(reply.message.authorities[0].ttl, 2);
    let fixed = given.ask(&format!("0a000001.addr.{D}"), RecordType::A);
    assert_eq!(fixed.answers()[0].ttl, 86_400);
}

#[test]
fn a_node_that_never_had_a_state_says_servfail_and_why() {
    let mut given = Given::new();
    given.standing = Standing::Unready;
    for name in [D, "web.service.consul", "0a000001.addr.consul"] {
        let reply = given.ask_how(name, RecordType::A, &How::payload(1232));
        assert_eq!((reply.code(), reply.extended_errors()), (ResponseCode::ServFail, vec![14]));
        assert!(!reply.message.metadata.authoritative);
    }
    assert_eq!(given.ask("example.org", RecordType::A).code(), ResponseCode::Refused);
}

#[test]
fn the_zone_has_an_soa_whose_serial_grows_and_its_nodes_as_name_servers() {
    let mut given = Given::new();
    let serial = |given: &Given| match &given.ask(D, RecordType::SOA).answers()[0].data {
        hickory_proto::rr::RData::SOA(soa) => {
            assert_eq!(soa.mname, name(&format!("n1.node.{D}")));
            soa.serial
        }
        other => panic!("{other}"),
    };
    let before = serial(&given);
    given.register("web/a", spec("10.0.0.1:80"));
    assert!(serial(&given) > before);
    let reply = given.ask(D, RecordType::NS);
    assert_eq!(reply.answers().len(), 3);
    assert_eq!(addresses(&reply.message.additionals), ["10.0.9.1", "10.0.9.2", "fd00::3"]);
    assert_eq!(given.ask(&format!("n2.node.{D}"), RecordType::A).ips(), ["10.0.9.2"]);
    assert_eq!(given.ask(&format!("n3.node.{D}"), RecordType::AAAA).ips(), ["fd00::3"]);
    given.ask(&format!("n3.node.{D}"), RecordType::A).assert_no_data();
    given.ask(&format!("n4.node.{D}"), RecordType::A).assert_unknown();
    let text = given.ask(&format!("n1.node.{D}"), RecordType::TXT);
    assert_eq!(text.answers()[0].data.to_string(), "id=n1");
}

#[test]
fn namespaces_are_apart() {
    let mut given = Given::new();
    given.register("prod/web/a", spec("10.0.0.1:80"));
    assert_eq!(given.ask(&format!("web.service.prod.ns.{D}"), RecordType::A).ips(), ["10.0.0.1"]);
    given.ask(&format!("web.service.{D}"), RecordType::A).assert_unknown();
}

#[test]
fn any_is_answered_by_one_small_record() {
    let given = web();
    for name in [D.to_owned(), format!("web.service.{D}"), format!("n1.node.{D}")] {
        let reply = given.ask(&name, RecordType::ANY);
        let [only] = reply.answers() else { panic!("{}", reply.message) };
        assert_eq!(only.record_type(), RecordType::HINFO);
        assert!(only.data.to_string().contains("RFC8482"), "{only}");
    }
}

#[test]
fn an_instance_tells_its_metadata_as_text() {
    let mut given = Given::new();
    let metadata = vec![("team".into(), "x".into()), ("long".into(), "y".repeat(300).into())];
    let tags = vec!["canary".into()];
    given.register("web/a", Spec { metadata, tags, version: "1.2".into(), ..spec("10.0.0.1:80") });
    for name in [format!("web.service.{D}"), format!("a.inst.web.service.{D}")] {
        let reply = given.ask(&name, RecordType::TXT);
        let hickory_proto::rr::RData::TXT(text) = &reply.answers()[0].data else { panic!() };
        let strings: Vec<String> = text
            .txt_data
            .iter()
            .map(|string| String::from_utf8_lossy(string).into_owned())
            .collect();
        assert_eq!(strings, ["id=a", "version=1.2", "tag=canary", "team=x"]);
    }
}

#[test]
fn services_are_browsed_only_where_that_is_allowed() {
    let mut given = web();
    given.ask(&format!("_services._dns-sd._udp.{D}"), RecordType::PTR).assert_unknown();
    given.ask(&format!("_web._tcp.{D}"), RecordType::PTR).assert_no_data();
    given.front =
        rollcall_dns::Front::new(Settings { browse: true, ..Settings::default() }).unwrap();
    given.register("db/One", spec("10.0.0.7:80"));
    given.register("prod/only/a", spec("10.0.0.8:80"));
    let listed = |name: &str| {
        let reply = given.ask(&format!("{name}.{D}"), RecordType::PTR);
        reply.answers().iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        listed("_services._dns-sd._udp"),
        [format!("_db._tcp.{D}."), format!("_web._tcp.{D}.")]
    );
    assert_eq!(listed("_services._dns-sd._udp.prod.ns"), [format!("_only._tcp.prod.ns.{D}.")]);
    let names = listed("_web._tcp");
    assert_eq!(names, ["a", "b", "c"].map(|id| format!("{id}._web._tcp.{D}.")));
    for name in names {
        assert_eq!(given.ask(&name, RecordType::SRV).answers().len(), 1);
        assert_eq!(given.ask(&name, RecordType::TXT).answers().len(), 1);
    }
    // An id with upper case cannot be asked for, so it is not listed.
    given.ask(&format!("_db._tcp.{D}"), RecordType::PTR).assert_no_data();
}

#[test]
fn of_two_domains_of_which_one_holds_the_other_the_longer_one_answers() {
    let domain = |text| rollcall_dns::Domain::parse("domains", text).unwrap();
    let domains = vec![domain("consul"), domain("eu.consul"), domain("service.consul")];
    let mut given = Given::with(Settings { domains, ..Settings::default() });
    given.register("web/a", spec("10.0.0.1:80"));
    for name in ["web.service.consul", "web.service.eu.consul", "web.service.service.consul"] {
        let found = given.ask(name, RecordType::SRV);
        match name.strip_prefix("web.service.") {
            // Under `service.consul` the name is `web`, which nothing is.
            Some("consul") => found.assert_negative(ResponseCode::NXDomain, "service.consul"),
            Some(domain) => {
                assert_eq!(found.places(), [format!("1 25600 80 0a000001.addr.{domain}.")]);
            }
            None => panic!("{name}"),
        }
    }
}
