//! An oracle of its own: what the names of a service must hold by section 6 of the grammar, told from a plain list of
//! instances, against the answers of both paths. The other tests compare the two paths with each other, and both look
//! into the catalogue in one way.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod given;

use given::*;
use hickory_proto::rr::RecordType;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rollcall_core::{instance::Spec, record::AdminState};
use rollcall_dns::{Fast, Front, Outcome, Query, Settings};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

const D: &str = "rollcall.internal";
const TAGS: [&str; 2] = ["blue", "canary"];
const ZONES: [&str; 2] = ["east", "west"];

/// One instance, as its owner and its operator know it.
struct Instance {
    ip: IpAddr,
    port: u16,
    /// A second endpoint, `admin`.
    admin: Option<u16>,
    tags: BTreeSet<&'static str>,
    zone: Option<&'static str>,
    takes_traffic: bool,
}

/// What a name selects.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    All,
    Tags(&'static [&'static str]),
    Zone(&'static str),
    TagInZone(&'static str, &'static str),
    Admin,
}

impl Wanted {
    const ALL: [Self; 8] = [
        Self::All,
        Self::Tags(&["blue"]),
        Self::Tags(&["blue", "canary"]),
        Self::Tags(&["none"]),
        Self::Zone("east"),
        Self::Zone("north"),
        Self::TagInZone("canary", "west"),
        Self::Admin,
    ];

    fn name(self) -> String {
        match self {
            Self::All => format!("web.service.{D}"),
            Self::Tags(tags) => format!("{}.web.service.{D}", tags.join(".")),
            Self::Zone(zone) => format!("web.service.{zone}.zone.{D}"),
            Self::TagInZone(tag, zone) => format!("{tag}.web.service.{zone}.zone.{D}"),
            Self::Admin => format!("admin.port.web.service.{D}"),
        }
    }

    /// The port at which it is shown, if it is.
    fn port(self, instance: &Instance) -> Option<u16> {
        let is_in = |zone| instance.zone == Some(zone);
        let shown = match self {
            Self::All | Self::Admin => true,
            Self::Tags(tags) => tags.iter().all(|tag| instance.tags.contains(tag)),
            Self::Zone(zone) => is_in(zone),
            Self::TagInZone(tag, zone) => is_in(zone) && instance.tags.contains(tag),
        };
        let port = if matches!(self, Self::Admin) { instance.admin } else { Some(instance.port) };
        port.filter(|_| shown && instance.takes_traffic)
    }
}

fn some(dice: &mut StdRng) -> Instance {
    let low = dice.random_range(1..200_u8);
    let ip = if dice.random_bool(0.3) {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low.into()])
    } else {
        IpAddr::from([10, 0, 0, low])
    };
    Instance {
        ip,
        port: dice.random_range(80..84),
        admin: dice.random_bool(0.5).then(|| dice.random_range(9_000..9_003)),
        tags: TAGS.into_iter().filter(|_| dice.random_bool(0.5)).collect(),
        zone: dice.random_bool(0.8).then(|| ZONES[dice.random_range(0..2)]),
        takes_traffic: true,
    }
}

fn spec_of(instance: &Instance) -> Spec {
    let at = |port| std::net::SocketAddr::new(instance.ip, port).to_string();
    let mut spec = spec(&at(instance.port));
    spec.endpoints.extend(instance.admin.map(|port| endpoint("admin", &at(port))));
    spec.tags = instance.tags.iter().map(|tag| (*tag).into()).collect();
    spec.locality = instance.zone.map(zone).unwrap_or_default();
    spec
}

fn expected(all: &[Instance], wanted: Wanted, kind: RecordType) -> BTreeSet<String> {
    let shown = all.iter().filter_map(|one| Some((one.ip, wanted.port(one)?)));
    let text = |(ip, port): (IpAddr, u16)| match (kind, ip) {
        (RecordType::A, IpAddr::V4(_)) | (RecordType::AAAA, IpAddr::V6(_)) => Some(ip.to_string()),
        (RecordType::SRV, IpAddr::V4(ip)) => Some(format!("{port} {:08x}.addr.{D}.", ip.to_bits())),
        (RecordType::SRV, IpAddr::V6(ip)) => {
            Some(format!("{port} {:032x}.addr.{D}.", ip.to_bits()))
        }
        _ => None,
    };
    shown.filter_map(text).collect()
}

fn answered(reply: &Reply, kind: RecordType) -> BTreeSet<String> {
    match kind {
        // Priority and weight come first.
        RecordType::SRV => {
            let place = |place: String| place.splitn(3, ' ').nth(2).unwrap().to_owned();
            reply.places().into_iter().map(place).collect()
        }
        _ => reply.ips().into_iter().collect(),
    }
}

#[test]
fn every_name_of_a_service_holds_what_its_instances_say() {
    let (mut some_answers, mut empty) = (0, 0);
    for seed in 0..150 {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut given = Given::new();
        let front = Arc::new(Front::new(Settings::default()).unwrap());
        let mut fast = Fast::new(front, Fast::MEMORY, seed);
        let mut all: Vec<Instance> = Vec::new();
        for step in 0..20 {
            let at = dice.random_range(0..12).min(all.len());
            let mut new = some(&mut dice);
            given.register(&format!("web/i{at}"), spec_of(&new));
            // Never more than a third, so that nothing fails open.
            let out = all.iter().filter(|one| !one.takes_traffic).count();
            new.takes_traffic = out * 3 >= all.len() || dice.random_bool(0.7);
            let state = if new.takes_traffic { AdminState::Enabled } else { AdminState::Draining };
            given.set(&format!("web/i{at}"), state);
            match all.get_mut(at) {
                Some(old) => *old = new,
                None => all.push(new),
            }
            for (wanted, kind) in Wanted::ALL.into_iter().flat_map(|wanted| {
                [RecordType::A, RecordType::AAAA, RecordType::SRV].map(|kind| (wanted, kind))
            }) {
                let how = How::tcp();
                let expected = expected(&all, wanted, kind);
                let name = wanted.name();
                let reply = given.ask_how(&name, kind, &how);
                let told = format!("{seed}, {step}: {name} {kind}");
                assert_eq!(answered(&reply, kind), expected, "{told}");
                assert_eq!(reply.answered.code, 0, "{told}");
                let bytes = question(&name, kind, None);
                let How { transport, peer, now, unix, random, .. } = how;
                let query = Query { bytes: &bytes, peer, transport, now, unix, random };
                let mut ready = Vec::new();
                let outcome = fast.answer(&query, &given.catalog(), &mut ready);
                assert!(matches!(outcome, Some(Outcome::Reply(_))), "{told}");
                assert_eq!(ready, reply.bytes, "{told}: the fast path");
                *(if expected.is_empty() { &mut empty } else { &mut some_answers }) += 1;
            }
        }
    }
    assert!(some_answers > 10_000 && empty > 1_000, "{some_answers}, {empty}");
}
