//! Random orders of true messages, as nodes ahead and behind would send them: what is shown never goes back, and ends
//! at the newest state. And messages that lie, or have no end.

use super::*;
use crate::dice::Dice;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The true history of one service: what it holds at each revision. Revision `r` sets instance `r % 5`, or removes
/// it where `r` is a multiple of three.
fn truth(revision: u64) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    for r in 1..=revision {
        let id = format!("i{}", r % 5);
        if r % 3 == 0 {
            held.remove(&id)
        } else {
            held.insert(id, r)
        };
    }
    held
}

fn replica() -> Replica {
    Replica::new(Target::Services([ServiceName::parse("", "web").unwrap()].into()), 64 << 20)
}

fn by_pattern() -> Replica {
    let namespace = rollcall_core::name::Label::default_namespace();
    Replica::new(Target::Pattern { namespace, prefix: String::new() }, 64 << 20)
}

fn instance(id: &str, revision: u64) -> v1::Instance {
    v1::Instance { instance_id: id.to_owned(), revision, ..Default::default() }
}

fn message(revision: u64, event: Event) -> v1::WatchResponse {
    let service = match event {
        Event::Bookmark(_) => None,
        Event::Snapshot(_) | Event::Delta(_) => {
            Some(v1::ServiceName { service: "web".to_owned(), ..Default::default() })
        }
    };
    v1::WatchResponse { revision, service, resume_token: vec![1], event: Some(event) }
}

fn snapshot(revision: u64) -> v1::WatchResponse {
    let instances = truth(revision).iter().map(|(id, r)| instance(id, *r)).collect();
    message(revision, Event::Snapshot(Snapshot { instances, ..Default::default() }))
}

/// What a node sends that was at `from` and is at `to`: instances changed since, with their whole state.
fn delta(from: u64, to: u64) -> v1::WatchResponse {
    let (mut upserted, mut removed) = (Vec::new(), Vec::new());
    let now = truth(to);
    let changed: BTreeSet<_> = (from + 1..=to).map(|r| format!("i{}", r % 5)).collect();
    for id in changed {
        match now.get(&id) {
            Some(revision) => upserted.push(instance(&id, *revision)),
            None => {
                removed.push(v1::watch_response::Removal { instance_id: id, ..Default::default() })
            }
        }
    }
    message(to, Event::Delta(Delta { upserted, removed, ..Default::default() }))
}

fn bookmark(revision: u64) -> v1::WatchResponse {
    message(
        revision,
        Event::Bookmark(Bookmark { initial_state_complete: true, ..Default::default() }),
    )
}

fn shown(replica: &Replica) -> Option<(u64, BTreeMap<String, u64>)> {
    let picture = replica.picture();
    let web = picture.services.values().next()?;
    let held = web.instances.iter().map(|(id, i)| (id.clone(), i.revision)).collect();
    Some((web.revision, held))
}

#[test]
fn whatever_node_is_asked_the_shown_state_is_a_true_one_and_never_goes_back() {
    for seed in 0..200_u8 {
        let dice = Dice::from_seed([seed; 32]);
        let draw = |below: u64| u64::from_be_bytes(dice.nonce()[..8].try_into().unwrap()) % below;
        let mut replica = replica();
        let (mut newest, now) = (0, Instant::now());
        for _ in 0..20 {
            // A stream to a node that is at any revision, also an older one than was shown.
            let resumed = !replica.begin().is_empty();
            let mut at = draw(40);
            let mut messages = vec![snapshot(at), bookmark(at)];
            for _ in 0..draw(5) {
                let next = at + 1 + draw(6);
                messages.push(delta(at, next));
                at = next;
            }
            messages.truncate(1 + usize::try_from(draw(7)).unwrap());
            for message in messages {
                let before = shown(&replica).map_or(0, |(revision, _)| revision);
                replica.receive(message, now).unwrap();
                let Some((revision, held)) = shown(&replica) else { continue };
                assert!(revision >= before, "seed {seed}: from {before} to {revision}");
                assert_eq!(held, truth(revision), "seed {seed} at {revision}, resumed: {resumed}");
                newest = newest.max(revision);
            }
        }
        assert_eq!(shown(&replica).map_or(0, |(revision, _)| revision), newest);
    }
}

#[test]
fn a_pattern_lets_go_of_services_that_are_gone_and_is_not_fooled_by_their_past() {
    let (mut replica, now) = (by_pattern(), Instant::now());
    replica.begin();
    let exists = |revision, service_exists| {
        message(revision, Event::Delta(Delta { service_exists, ..Default::default() }))
    };
    let services = |replica: &Replica| replica.picture().services.len();
    replica.receive(exists(5, true), now).unwrap();
    assert_eq!(services(&replica), 1);
    replica.receive(exists(7, false), now).unwrap();
    assert_eq!(services(&replica), 0);
    replica.receive(exists(6, true), now).unwrap();
    assert_eq!(services(&replica), 0, "what a node behind says of it is over");
    replica.receive(bookmark(7), now).unwrap();
    assert!(replica.shown.gone.is_empty(), "no node that takes the token is behind it");
    replica.receive(exists(9, true), now).unwrap();
    assert_eq!(services(&replica), 1);
    let mut by_name = self::replica();
    by_name.receive(exists(10, false), now).unwrap();
    assert_eq!(services(&by_name), 1, "asked for by name it is shown as not existing");
}

#[test]
fn more_instances_than_any_registry_holds_are_refused() {
    let mut replica = replica();
    replica.begin();
    let part = |from: usize| {
        let instances = (from..from + 50_000).map(|i| instance(&i.to_string(), 1)).collect();
        message(1, Event::Snapshot(Snapshot { more: true, instances, ..Default::default() }))
    };
    let now = Instant::now();
    assert!(replica.receive(part(0), now).is_ok());
    assert!(replica.receive(part(50_000), now).is_ok());
    let fault = replica.receive(part(100_000), now).unwrap_err();
    assert!(matches!(fault, Fault::Protocol(problem) if problem.contains("web")));
}

#[test]
fn a_message_without_event_or_name_is_refused() {
    let mut replica = replica();
    replica.begin();
    let now = Instant::now();
    let empty = v1::WatchResponse::default();
    assert!(matches!(replica.receive(empty, now), Err(Fault::Protocol(_))));
    let nameless = v1::WatchResponse { service: None, ..snapshot(1) };
    assert!(matches!(replica.receive(nameless, now), Err(Fault::Protocol(_))));
}

#[test]
fn a_state_beyond_the_limit_of_bytes_is_refused_and_what_was_there_stays() {
    let name = ServiceName::parse("", "web").unwrap();
    let mut replica = Replica::new(Target::Services([name].into()), 64 << 10);
    let now = Instant::now();
    replica.begin();
    replica.receive(snapshot(4), now).unwrap();
    let before = shown(&replica);
    let large = |id: u64| {
        let instance = v1::Instance {
            instance_id: id.to_string(),
            admin_detail: Some(v1::instance::AdminDetail {
                reason: "x".repeat(40 << 10),
                ..Default::default()
            }),
            ..Default::default()
        };
        Delta { upserted: vec![instance], service_exists: true, ..Default::default() }
    };
    replica.receive(message(5, Event::Delta(large(1))), now).unwrap();
    let one = shown(&replica);
    assert_ne!(one, before);
    for _ in 0..3 {
        let fault = replica.receive(message(6, Event::Delta(large(2))), now).unwrap_err();
        assert!(matches!(fault, Fault::Protocol(problem) if problem.contains("bytes_max")));
        assert_eq!(shown(&replica), one);
    }
    // The same instance again takes the place of the former.
    replica.receive(message(7, Event::Delta(Delta { upserted: vec![], ..large(1) })), now).unwrap();
    let parts = Snapshot { more: true, instances: large(3).upserted, ..Default::default() };
    replica.receive(message(8, Event::Snapshot(parts.clone())), now).unwrap();
    assert!(replica.receive(message(8, Event::Snapshot(parts)), now).is_err(), "endless parts");
}

#[test]
fn a_revision_out_of_all_bounds_heals_with_the_next_bookmark_of_a_true_node() {
    let mut replica = replica();
    let now = Instant::now();
    replica.begin();
    replica.receive(snapshot(4), now).unwrap();
    replica.receive(bookmark(4), now).unwrap();
    let lie = Snapshot { service_exists: true, ..Default::default() };
    replica.receive(message(u64::MAX, Event::Snapshot(lie)), now).unwrap();
    let later = now + Duration::from_secs(60);
    let staleness = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let told = Bookmark {
        staleness,
        leader_known: true,
        initial_state_complete: true,
        ..Default::default()
    };
    let fault = replica.receive(message(5, Event::Bookmark(told.clone())), later).unwrap_err();
    assert_eq!(fault, Fault::OtherHistory);
    replica.spoil(&fault);
    assert!(replica.begin().is_empty());
    replica.receive(snapshot(5), later).unwrap();
    replica.receive(message(5, Event::Bookmark(told)), later).unwrap();
    assert_eq!(shown(&replica), Some((5, truth(5))));
}

#[test]
fn a_service_that_was_not_asked_for_is_refused() {
    let mut replica = replica();
    replica.begin();
    let name = v1::ServiceName { service: "other".to_owned(), ..Default::default() };
    let foreign = v1::WatchResponse { service: Some(name), ..snapshot(3) };
    let fault = replica.receive(foreign, Instant::now()).unwrap_err();
    assert!(matches!(fault, Fault::Protocol(problem) if problem.contains("other")));
}

/// Anything that fits into the message, sensible or not.
fn hostile() -> impl Strategy<Value = v1::WatchResponse> {
    let revision = prop_oneof![4 => 0..20_u64, 1 => Just(u64::MAX)];
    let name = prop_oneof![
        6 => Just(Some(("", "web"))), 2 => Just(Some(("default", "api"))),
        1 => Just(Some(("", "foreign"))), 1 => Just(Some(("NO", "label!"))), 1 => Just(None),
    ];
    let instance = (0..8_u8, 0..20_u64, 0..3_000_usize).prop_map(|(id, revision, size)| {
        let detail = v1::instance::AdminDetail { reason: "x".repeat(size), ..Default::default() };
        v1::Instance { admin_detail: Some(detail), ..instance(&format!("i{id}"), revision) }
    });
    let instances = prop::collection::vec(instance, 0..6);
    let removal = (0..10_u8, any::<i32>()).prop_map(|(id, reason)| v1::watch_response::Removal {
        instance_id: format!("i{id}"),
        reason,
        ..Default::default()
    });
    let event = prop_oneof![
        1 => Just(None),
        6 => (any::<bool>(), any::<bool>(), instances.clone()).prop_map(
            |(more, service_exists, instances)| {
                Some(Event::Snapshot(Snapshot {
                    more, service_exists, instances, ..Default::default()
                }))
            }
        ),
        8 => (any::<bool>(), instances, prop::collection::vec(removal, 0..6)).prop_map(
            |(service_exists, upserted, removed)| {
                Some(Event::Delta(Delta {
                    service_exists, upserted, removed, ..Default::default()
                }))
            }
        ),
        4 => (any::<bool>(), any::<bool>(), any::<i64>(), any::<i32>(), any::<bool>()).prop_map(
            |(leader_known, initial_state_complete, seconds, nanos, known)| {
                let staleness = known.then_some(prost_types::Duration { seconds, nanos });
                let bookmark = Bookmark { staleness, leader_known, initial_state_complete, ..Default::default() };
                Some(Event::Bookmark(bookmark))
            }
        ),
    ];
    (revision, name, prop::collection::vec(any::<u8>(), 0..3), event).prop_map(
        |(revision, name, resume_token, event)| v1::WatchResponse {
            revision,
            service: name.map(|(namespace, service)| v1::ServiceName {
                namespace: namespace.to_owned(),
                service: service.to_owned(),
            }),
            resume_token,
            event,
        },
    )
}

fn bytes(state: &State) -> usize {
    let instances = state.services.values().flat_map(|service| service.instances.values());
    instances.map(|instance| weight(instance)).sum()
}

proptest! {
    #[test]
    fn nothing_that_a_node_sends_panics_exceeds_the_limit_or_spoils_what_is_shown(
        streams in prop::collection::vec(prop::collection::vec(hostile(), 0..30), 1..6),
        by_pattern in any::<bool>(),
    ) {
        let names = ["web", "api"].map(|name| ServiceName::parse("", name).unwrap());
        let target = if by_pattern {
            let namespace = rollcall_core::name::Label::default_namespace();
            Target::Pattern { namespace, prefix: String::new() }
        } else {
            Target::Services(names.into())
        };
        let mut replica = Replica::new(target, 20_000);
        let mut now = Instant::now();
        for messages in streams {
            now += Duration::from_secs(5);
            replica.begin();
            for message in messages {
                let before = replica.shown.services.clone();
                let is_bookmark = matches!(message.event, Some(Event::Bookmark(_)));
                let result = replica.receive(message, now);
                for state in [Some(&replica.shown), replica.aside.as_ref()].into_iter().flatten() {
                    prop_assert!(bytes(state) <= 20_000);
                    let sizes: usize = state.sizes.values().sum();
                    prop_assert_eq!(sizes, state.bytes);
                    prop_assert!(sizes >= bytes(state), "{} of {}", sizes, bytes(state));
                    prop_assert_eq!(state.sizes.len(), state.services.len());
                }
                for (name, service) in &replica.shown.services {
                    prop_assert!(replica.target.covers(name));
                    if let Some(before) = before.get(name).filter(|_| !is_bookmark) {
                        prop_assert!(service.revision >= before.revision);
                    }
                }
                if let Err(fault) = result {
                    prop_assert_eq!(&replica.shown.services, &before, "after {:?}", fault);
                    replica.spoil(&fault);
                    break;
                }
            }
        }
    }
}

#[test]
fn a_bookmark_that_is_refused_for_its_figures_leaves_no_trace() {
    let foreign = v1::ServiceName { service: "other".to_owned(), ..Default::default() };
    let told = v1::ServiceUtilization { service: Some(foreign), instances: Vec::new() };
    let mut lie = bookmark(9);
    if let Some(Event::Bookmark(bookmark)) = &mut lie.event {
        bookmark.utilization = vec![told];
        bookmark.leader_known = true;
    }
    let now = Instant::now();
    let told_of = |replica: &mut Replica, message| {
        replica.receive(message, now).map(|updates| matches!(updates[..], [Update::Reset(_)]))
    };
    // A copy stands in: the reader is to be told once that it is the word of the registry.
    let mut copied = replica();
    copied.stand_in(Origin::Fallback, [snapshot(4)], (4, vec![1]), now).unwrap();
    copied.begin();
    assert!(matches!(told_of(&mut copied, lie.clone()), Err(Fault::Protocol(_))));
    let picture = copied.picture();
    assert_eq!((picture.origin, picture.revision), (Origin::Fallback, 4));
    assert!(!picture.leader_known && !copied.is_whole());
    copied.begin();
    assert_eq!(told_of(&mut copied, bookmark(4)), Ok(true));
    // The same where a state was built aside.
    let mut replica = replica();
    replica.begin();
    replica.receive(snapshot(4), now).unwrap();
    replica.receive(bookmark(4), now).unwrap();
    replica.spoil(&Fault::Gap);
    replica.begin();
    replica.receive(snapshot(5), now).unwrap();
    assert!(matches!(told_of(&mut replica, lie), Err(Fault::Protocol(_))));
    assert_eq!(shown(&replica).unwrap().0, 4);
    replica.begin();
    replica.receive(snapshot(5), now).unwrap();
    assert_eq!(told_of(&mut replica, bookmark(5)), Ok(true));
}
