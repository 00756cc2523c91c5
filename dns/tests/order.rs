//! Weights, tiers, distance and the order of records.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::*;
use hickory_proto::rr::RecordType;
use rollcall_core::instance::{Locality, Spec};
use rollcall_dns::{Front, Settings};
use std::collections::BTreeMap;

const WEB: &str = "web.service.rollcall.internal";

/// An instance for each weight, at 10.0.0.1 and on.
fn weighted(weights: &[u16]) -> Given {
    let mut given = Given::new();
    for (i, weight) in weights.iter().enumerate() {
        let spec = spec(&format!("10.0.0.{}:80", i + 1));
        given.register(&format!("web/i{i:03}"), Spec { weight: *weight, ..spec });
    }
    given
}

/// The weights of the SRV records in order of address.
fn srv_weights(given: &Given) -> Vec<u16> {
    let mut places = given.ask_how(WEB, RecordType::SRV, &How::tcp()).places();
    places.sort_by_key(|place| place.split(' ').nth(3).map(str::to_owned));
    places.iter().map(|place| place.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

#[test]
fn an_srv_weight_is_256_times_the_weight_as_haproxy_needs_it() {
    let cases: [(&[u16], &[u16]); 7] = [
        (&[1, 2, 3], &[256, 512, 768]),
        (&[100], &[25_600]),
        (&[255, 1], &[65_280, 256]),
        // Above 255 all are scaled to the largest, and none to nothing.
        (&[256, 1], &[65_280, 256]),
        (&[510, 255, 2], &[65_280, 32_768, 256]),
        (&[65_535, 32_768, 1], &[65_280, 32_768, 256]),
        (&[1_000, 500, 3], &[65_280, 32_768, 256]),
    ];
    for (weights, expected) in cases {
        assert_eq!(srv_weights(&weighted(weights)), expected, "{weights:?}");
        // What HAProxy makes of them.
        assert!(
            expected.iter().all(|weight| (1..=256).contains(&(u32::from(*weight).div_ceil(256))))
        );
    }
}

#[test]
fn the_scale_is_that_of_the_whole_service_whoever_is_down() {
    let mut given = weighted(&[1_000, 100]);
    assert_eq!(srv_weights(&given), [65_280, 26 * 256]);
    given.expire("web/i000");
    assert_eq!(srv_weights(&given), [26 * 256]);
}

#[test]
fn an_owners_tier_and_the_distance_make_the_srv_priority() {
    let place = |region: &str, zone: &str| Locality {
        region: Some(label(region)),
        zone: Some(label(zone)),
        sub_zone: None,
    };
    let settings = Settings {
        localities: vec![("10.1.0.0/16".parse().unwrap(), place("eu", "a"))],
        ..Settings::default()
    };
    let mut given = Given::with(settings);
    let all = [("eu", "a", 0), ("eu", "b", 0), ("us", "a", 0), ("eu", "a", 1), ("us", "a", 1)];
    for (i, (region, zone, priority)) in all.into_iter().enumerate() {
        let locality = place(region, zone);
        let spec = Spec { locality, priority, ..spec(&format!("10.0.0.{i}:80")) };
        given.register(&format!("web/i{i}"), spec);
    }
    let priorities = |peer: &str| {
        let reply = given.ask_how(WEB, RecordType::SRV, &How::default().from(peer));
        let of = |place: &String| {
            let mut words = place.split(' ');
            let priority = words.next().unwrap().to_owned();
            format!("{} {priority}", &words.nth(2).unwrap()[7..8])
        };
        let mut found: Vec<String> = reply.places().iter().map(of).collect();
        // Lower priorities stand first.
        assert!(found.windows(2).all(|two| two[0][2..] <= two[1][2..]), "{found:?}");
        found.sort();
        found
    };
    assert_eq!(priorities("10.1.0.9"), ["0 1", "1 3", "2 4", "3 5", "4 8"]);
    // Nothing is known of this client: distance counts for nothing.
    assert_eq!(priorities("10.2.0.9"), ["0 1", "1 1", "2 1", "3 5", "4 5"]);
}

#[test]
fn addresses_are_of_the_best_tier_and_of_the_nearest_where_they_are_enough() {
    let settings = Settings {
        localities: vec![("10.1.0.0/16".parse().unwrap(), zone("a"))],
        ..Settings::default()
    };
    let mut given = Given::with(settings);
    let register = |given: &mut Given, i: u8, zone: &str, priority| {
        let locality = given::zone(zone);
        let spec = Spec { locality, priority, ..spec(&format!("10.0.0.{i}:80")) };
        given.register(&format!("web/i{i}"), spec);
    };
    let seen = |given: &Given, peer: &str| {
        given.ask_how(WEB, RecordType::A, &How::default().from(peer)).sorted_ips().join(" ")
    };
    register(&mut given, 1, "a", 0);
    register(&mut given, 2, "b", 0);
    register(&mut given, 3, "a", 1);
    register(&mut given, 4, "a", 1);
    // One in the client's zone is fewer than `local_min`.
    assert_eq!(seen(&given, "10.1.0.9"), "10.0.0.1 10.0.0.2");
    register(&mut given, 5, "a", 0);
    assert_eq!(seen(&given, "10.1.0.9"), "10.0.0.1 10.0.0.5");
    assert_eq!(seen(&given, "10.2.0.9"), "10.0.0.1 10.0.0.2 10.0.0.5");
    for id in ["web/i1", "web/i2", "web/i5"] {
        given.expire(id);
    }
    // The first tier is gone: the second one takes over.
    assert_eq!(seen(&given, "10.1.0.9"), "10.0.0.3 10.0.0.4");
}

/// How often each address stands first.
fn first(given: &Given, rounds: u64) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for random in 0..rounds {
        // Bits as a good source gives them.
        let random = (random + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let reply = given.ask_how(WEB, RecordType::A, &How { random, ..How::default() });
        *counts.entry(reply.ips()[0].clone()).or_default() += 1;
    }
    counts
}

/// Pearson's statistic of counts against shares.
fn chi_square(counts: &BTreeMap<String, u64>, shares: &[f64]) -> f64 {
    let total = counts.values().sum::<u64>() as f64;
    let weights: f64 = shares.iter().sum();
    shares
        .iter()
        .enumerate()
        .map(|(i, share)| {
            let seen = counts.get(&format!("10.0.0.{}", i + 1)).copied().unwrap_or(0) as f64;
            let expected = total * share / weights;
            (seen - expected).powi(2) / expected
        })
        .sum()
}

#[test]
fn equal_instances_stand_first_equally_often() {
    let given = weighted(&[100; 10]);
    let counts = first(&given, 10_000);
    // 9 degrees of freedom: 33.7 is passed once in 10,000 such sources; this one is fixed.
    let statistic = chi_square(&counts, &[1.0; 10]);
    assert!(statistic < 33.7, "{statistic}: {counts:?}");
}

#[test]
fn an_instance_stands_first_as_often_as_its_weight_says() {
    let given = weighted(&[1, 2, 3, 4, 10]);
    let counts = first(&given, 10_000);
    // 4 degrees of freedom: 23.5 is passed once in 10,000 such sources.
    let statistic = chi_square(&counts, &[1.0, 2.0, 3.0, 4.0, 10.0]);
    assert!(statistic < 23.5, "{statistic}: {counts:?}");
}

#[test]
fn a_degraded_instance_counts_half() {
    // Protection gives expired leases back as DEGRADED, so that they stay in answers.
    let given = degraded();
    let mut weights = srv_weights(&given);
    weights.sort_unstable();
    assert_eq!(weights, [50 * 256, 50 * 256, 50 * 256, 100 * 256]);
}

/// Four instances; the leases of three ran out, and protection holds them.
fn degraded() -> Given {
    use rollcall_core::{
        Command,
        command::{ProtectionChange, SetProtection},
        name::ServiceName,
        record::{Actor, Scope},
    };
    let mut given = weighted(&[100; 4]);
    for id in ["web/i000", "web/i001", "web/i002"] {
        given.expire(id);
    }
    let generations = given.state.generations();
    let expired = generations.take(3).map(|(generation, _)| (generation, 1)).collect();
    let service = ServiceName::parse("", "web").unwrap();
    given.send(Command::SetProtection(SetProtection {
        scope: Scope::Service(service),
        change: ProtectionChange::Enter { restore: expired },
        actor: Actor::Registry("n1".into()),
        evidence: "".into(),
        request_id: None,
    }));
    given
}

#[test]
fn instances_at_one_address_are_one_address_with_the_sum_of_their_weights() {
    let mut given = Given::new();
    for port in 1..=3 {
        given.register(&format!("web/a{port}"), spec(&format!("10.0.0.1:{port}")));
    }
    given.register("web/b", spec("10.0.0.2:80"));
    let reply = given.ask(WEB, RecordType::A);
    assert_eq!(reply.sorted_ips(), ["10.0.0.1", "10.0.0.2"]);
    let statistic = chi_square(&first(&given, 4_000), &[3.0, 1.0]);
    assert!(statistic < 15.1, "{statistic}");
    let reply = given.ask(WEB, RecordType::SRV);
    assert_eq!((reply.answers().len(), reply.message.additionals.len()), (4, 2));
}

#[test]
fn equal_bits_give_equal_replies() {
    let given = weighted(&[1, 2, 3, 4, 10]);
    let at = |random| given.ask_how(WEB, RecordType::SRV, &How { random, ..How::default() }).bytes;
    assert_eq!(at(7), at(7));
    assert!((0..20).any(|random| at(random) != at(7)));
    let again = Front::new(Settings::default()).unwrap();
    assert_eq!(again.settings(), given.front.settings());
}
