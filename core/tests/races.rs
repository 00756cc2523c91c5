//! Late, repeated and crossing commands: what was decided on an old view has no effect on a newer one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::{KEEP, Registry, name, node, operator, owner, parts, registration, request_id, spec};
use rollcall_core::{
    Command, Rejection,
    command::{Deregister, Deregistration, Done, Expired, ProtectionChange},
    record::{AdminState, HealthStatus, Reason, Scope},
};

#[test]
fn an_expiry_decided_before_an_update_does_not_end_the_updated_lease() {
    let mut registry = Registry::new();
    let first = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    let second = registry.register(registration("web/a", 1, spec("10.0.0.1:81", 10)));
    assert_eq!(first.generation, second.generation);
    assert_eq!(registry.expire(first.generation, first.lease_epoch), Expired::Superseded);
    assert_eq!(registry.expire(second.generation, second.lease_epoch), Expired::Expired);
}

#[test]
fn a_lease_that_was_given_up_and_taken_again_has_a_new_epoch() {
    let mut registry = Registry::new();
    let leased = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    let persistent = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 0)));
    assert_eq!(persistent.lease_epoch, 0);
    assert_eq!(registry.expire(leased.generation, leased.lease_epoch), Expired::Superseded);
    let again = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    assert_eq!(again.generation, leased.generation);
    assert!(again.lease_epoch > leased.lease_epoch);
    assert_eq!(registry.expire(leased.generation, leased.lease_epoch), Expired::Superseded);
    let reloaded = registry.reloaded();
    assert_eq!(reloaded.get("web/a"), registry.get("web/a"));
}

#[test]
fn an_expired_instance_that_comes_back_as_persistent_has_no_lease_left() {
    for protected in [false, true] {
        let mut registry = Registry::new();
        let leased = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
        if protected {
            registry.protect(Scope::Cluster, vec![]);
        }
        registry.expire(leased.generation, leased.lease_epoch);
        registry.register(registration("web/a", 1, spec("10.0.0.1:80", 0)));
        let record = registry.get("web/a").unwrap();
        assert_eq!((record.lease, record.health), (None, HealthStatus::Healthy));
        assert_eq!(record.reason, Reason::Restored);
        assert_eq!(registry.state.lease_counts(), Default::default());
        assert!(registry.state.held().is_empty());
        assert_eq!(registry.evict(leased.generation, leased.lease_epoch), 0);
    }
}

#[test]
fn registering_again_unchanged_takes_back_that_a_beat_was_missed() {
    let mut registry = Registry::new();
    let lease = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    registry.checkpoint(lease.generation, lease.lease_epoch, Some(500));
    let again = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    assert!(!again.changed);
    assert_eq!(registry.state.checkpoint(lease.generation), None);
}

#[test]
fn an_expectation_that_fails_restores_nothing() {
    let mut registry = Registry::new();
    let first = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    let mut again = registration("web/a", 1, spec("10.0.0.1:80", 10));
    again.expected_revision = Some(0);
    // A repeated call has no effect, so what it expects does not matter.
    assert!(!registry.register(again.clone()).changed);
    registry.expire(first.generation, first.lease_epoch);
    let refused = registry.try_register(vec![again]);
    assert!(matches!(refused, Err(Rejection::RevisionMismatch { current: 2, .. })), "{refused:?}");
    assert_eq!(registry.get("web/a").unwrap().health, HealthStatus::Expired);
}

#[test]
fn a_superseded_process_cannot_drain_its_successor() {
    let mut registry = Registry::new();
    let old = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    let new = registry.register(registration("web/a", 2, spec("10.0.0.2:80", 10)));
    let mut late = given::set_admin("web/a", AdminState::Draining, owner(), None);
    late.generation = old.generation;
    let refused = registry.send(Command::SetAdminState(late.clone())).result;
    assert!(
        matches!(refused, Err(Rejection::Fenced { generation, .. }) if generation == new.generation)
    );
    late.generation = new.generation;
    registry.send(Command::SetAdminState(late)).result.unwrap();
    assert_eq!(registry.get("web/a").unwrap().admin_state(), AdminState::Draining);
}

#[test]
fn a_request_id_of_an_owner_does_not_answer_for_an_operator() {
    let mut registry = Registry::new();
    registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    let item = Deregistration {
        name: name("web/a"),
        generation: 0,
        allow_missing: false,
        expected_revision: None,
    };
    let by = |actor| Deregister {
        items: vec![item.clone()],
        actor,
        request_id: request_id("r1"),
        evidence: "".into(),
    };
    let done = registry.send(Command::Deregister(by(owner()))).result;
    assert_eq!(done, Ok(Done::Deregistered(vec![true])));
    let refused = registry.send(Command::Deregister(by(operator()))).result;
    assert!(matches!(refused, Err(Rejection::RequestIdReused { .. })), "{refused:?}");
}

#[test]
fn an_admin_state_that_ends_when_the_former_would_have_ended_still_ends() {
    let mut registry = Registry::new();
    registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    let until = Some(1_000);
    registry.set_admin("web/a", AdminState::Draining, owner(), until).unwrap();
    registry.set_admin("web/a", AdminState::Maintenance, operator(), until).unwrap();
    registry.set_admin("web/a", AdminState::Draining, operator(), until).unwrap();
    registry.advance(999);
    assert_eq!(registry.get("web/a").unwrap().admin_state(), AdminState::Draining);
    registry.advance(1);
    assert_eq!(registry.get("web/a").unwrap().admin_state(), AdminState::Enabled);
    assert_eq!(registry.events.last().unwrap().reason, Reason::AdminExpired);
}

#[test]
fn an_admin_state_that_was_replaced_does_not_end_its_successor() {
    let mut registry = Registry::new();
    registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    registry.set_admin("web/a", AdminState::Draining, owner(), Some(1_000)).unwrap();
    registry.set_admin("web/a", AdminState::Maintenance, operator(), Some(5_000)).unwrap();
    registry.advance(1_000);
    assert_eq!(registry.get("web/a").unwrap().admin_state(), AdminState::Maintenance);
    registry.advance(4_000);
    assert_eq!(registry.get("web/a").unwrap().admin_state(), AdminState::Enabled);
}

#[test]
fn nothing_waits_for_the_time_of_an_admin_state_that_was_replaced() {
    for actor in [owner, operator] {
        let mut registry = Registry::new();
        registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
        registry.set_admin("web/a", AdminState::Draining, actor(), Some(1_000)).unwrap();
        assert!(registry.state.waits_for_time());
        registry.set_admin("web/a", AdminState::Draining, actor(), None).unwrap();
        assert!(!registry.state.waits_for_time());
        assert_eq!(registry.state.waits_for_time(), registry.reloaded().state.waits_for_time());
    }
}

#[test]
fn a_take_over_within_the_ttl_keeps_the_time_of_the_status() {
    let mut registry = Registry::new();
    registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    let before = registry.get("web/a").unwrap().status_ms;
    registry.advance(5_000);
    registry.register(registration("web/a", 2, spec("10.0.0.1:80", 10)));
    assert_eq!(registry.get("web/a").unwrap().status_ms, before);
}

#[test]
fn instances_may_swap_addresses_that_are_full() {
    let mut registry = Registry::new();
    let at = |host: usize, i: usize| spec(&format!("10.0.0.{host}:{}", 1000 + i), 10);
    for host in [1, 2] {
        let items = (0..256).map(|i| registration(&format!("web/{host}-{i}"), 1, at(host, i)));
        registry.try_register(items.collect()).unwrap();
    }
    let more = vec![registration("web/more", 1, at(1, 300))];
    assert!(matches!(registry.try_register(more), Err(Rejection::QuotaExceeded { .. })));
    let swap = vec![registration("web/1-0", 1, at(2, 0)), registration("web/2-0", 1, at(1, 0))];
    registry.try_register(swap).unwrap();
    let unequal = vec![registration("web/1-1", 1, at(2, 1)), registration("web/3", 1, at(1, 1))];
    assert!(matches!(registry.try_register(unequal), Err(Rejection::QuotaExceeded { .. })));
}

#[test]
fn services_are_forgotten_alike_on_a_node_that_was_loaded_from_a_snapshot() {
    let mut registry = Registry::new();
    for (at, service) in [(0, "z"), (100, "m"), (100, "a")] {
        registry.advance(at);
        let instance = format!("{service}/1");
        registry.register(registration(&instance, 1, spec("10.0.0.1:80", 10)));
        registry.deregister(&instance, owner()).unwrap();
    }
    let mut loaded = registry.reloaded();
    for step in [KEEP - 200, 100, 100] {
        registry.advance(step);
        loaded.advance(step);
        assert_eq!(parts(&loaded.state), parts(&registry.state));
    }
    assert_eq!(registry.state.services().len(), 0);
}

#[test]
fn tombstones_that_were_lifted_do_not_delay_the_others_on_one_node_only() {
    let mut registry = Registry::new();
    let names = |range: std::ops::Range<usize>| -> Vec<String> {
        range.map(|i| format!("s{}/i{i}", i % 7)).collect()
    };
    let items = |nonce, range| -> Vec<_> {
        let at = |i: usize| format!("10.1.{}.{}:80", i / 200, 1 + i % 200);
        let names: Vec<String> = names(range);
        let named = names.iter().enumerate();
        named.map(|(i, name)| registration(name, nonce, spec(&at(i), 10))).collect()
    };
    registry.try_register(items(1, 0..900)).unwrap();
    registry.deregister_all(names(0..900).iter().map(|n| name(n)).collect(), owner()).unwrap();
    registry.try_register(items(2, 0..900)).unwrap();
    registry.try_register(items(1, 900..1_600)).unwrap();
    registry.deregister_all(names(900..1_600).iter().map(|n| name(n)).collect(), owner()).unwrap();
    let mut loaded = registry.reloaded();
    registry.advance(KEEP);
    loaded.advance(KEEP);
    assert_eq!(parts(&loaded.state), parts(&registry.state));
    assert!(names(0..1_600).iter().all(|n| registry.state.tombstone(&name(n)).is_none()));
}

#[test]
fn what_cannot_end_in_one_command_is_said_to_be_overdue() {
    let mut registry = Registry::new();
    for round in 0..3 {
        let names: Vec<String> = (0..900).map(|i| format!("web/{round}-{i}")).collect();
        let item = |(i, name): (usize, &String)| {
            let at = format!("10.{round}.{}.{}:80", i / 200, 1 + i % 200);
            registration(name, 1, spec(&at, 10))
        };
        registry.try_register(names.iter().enumerate().map(item).collect()).unwrap();
        registry.deregister_all(names.iter().map(|n| name(n)).collect(), owner()).unwrap();
    }
    assert!(!registry.state.is_overdue());
    registry.advance(KEEP);
    let mut commands = 1;
    while registry.state.is_overdue() {
        registry.advance(0);
        commands += 1;
    }
    assert_eq!(commands, 3);
    assert!(!registry.state.waits_for_time());
}

#[test]
fn leaving_a_scope_inside_another_releases_nothing() {
    let mut registry = Registry::new();
    let lease = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    registry.protect(Scope::Cluster, vec![]);
    registry.protect(Scope::Service(given::service("web")), vec![]);
    assert_eq!(registry.expire(lease.generation, lease.lease_epoch), Expired::Held);
    let leave = || ProtectionChange::Leave(Reason::ProtectionEnded);
    registry.set_protection(Scope::Cluster, leave(), node()).unwrap();
    assert!(registry.state.released().is_empty());
    registry.set_protection(Scope::Service(given::service("web")), leave(), node()).unwrap();
    assert!(registry.state.released().contains(&lease.generation));
    assert_eq!(registry.expire(lease.generation, lease.lease_epoch), Expired::Expired);
}

#[test]
fn a_released_lease_stays_released_when_its_admin_state_changes() {
    let mut registry = Registry::new();
    let lease = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    registry.protect(Scope::Cluster, vec![]);
    registry.expire(lease.generation, lease.lease_epoch);
    let leave = ProtectionChange::Leave(Reason::ProtectionReleased);
    registry.set_protection(Scope::Cluster, leave, operator()).unwrap();
    registry.set_admin("web/a", AdminState::Draining, operator(), None).unwrap();
    assert!(registry.state.released().contains(&lease.generation));
    registry.protect(Scope::Cluster, vec![]);
    assert_eq!(registry.expire(lease.generation, lease.lease_epoch), Expired::Expired);
    assert!(registry.state.released().is_empty());
}

#[test]
fn protection_of_one_service_brings_nothing_back_in_another() {
    let mut registry = Registry::new();
    let lease = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    registry.expire(lease.generation, lease.lease_epoch);
    let api = Scope::Service(given::service("api"));
    registry.protect(api, vec![(lease.generation, lease.lease_epoch)]);
    assert_eq!(registry.get("web/a").unwrap().health, HealthStatus::Expired);
    // The service that nobody registered yet has the revision of what happened to it.
    let revision = registry.state.service_revision(&given::service("api"));
    assert_eq!(revision, registry.state.revision());
}

#[test]
fn time_that_a_mistaken_leader_stamps_counts_for_a_day_at_most() {
    let mut registry = Registry::new();
    for _ in 0..3 {
        registry.advance(u64::MAX);
    }
    assert_eq!(registry.state.cluster_ms(), 3 * 24 * 3_600_000);
}

#[test]
fn a_new_epoch_never_gives_again_what_the_lost_time_may_have_given() {
    let mut registry = Registry::new();
    let first = registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    registry.register(registration("gone/a", 1, spec("10.0.0.1:80", 10)));
    registry.deregister("gone/a", owner()).unwrap();
    registry.checkpoint(first.generation, first.lease_epoch, Some(100));
    let before = registry.state.clone();
    registry.state.begin_epoch();
    let after = &registry.state;
    assert_eq!(after.epoch(), before.epoch() + 1);
    assert_eq!(after.revision(), before.revision() + (1 << 32));
    for service in ["web", "gone", "never"] {
        assert_eq!(after.service_revision(&given::service(service)), after.revision());
    }
    assert_eq!(after.checkpoint(first.generation), None);
    assert_ne!(after.hash(), before.hash());
    let second = registry.register(registration("web/b", 1, spec("10.0.0.1:80", 10)));
    assert!(second.generation > first.generation + (1 << 32));
    let after = |revision| {
        let events = registry.state.events_after(revision)?;
        Some(events.map(|event| event.revision).collect::<Vec<_>>())
    };
    assert_eq!(after(before.revision()), Some(vec![second.revision]));
    assert_eq!(after(before.revision() - 1), Some(vec![before.revision(), second.revision]));
    assert_eq!(parts(&registry.reloaded().state), parts(&registry.state));
}

#[test]
fn evidence_is_cut_at_its_bound_between_two_characters() {
    let mut registry = Registry::new();
    registry.register(registration("web/a", 1, spec("10.0.0.1:80", 10)));
    let long = format!("{}{}", "x".repeat(255), "é".repeat(400));
    let mut set = given::set_admin("web/a", AdminState::Draining, operator(), None);
    set.reason = long.as_str().into();
    registry.send(Command::SetAdminState(set)).result.unwrap();
    assert_eq!(&*registry.events[0].evidence, "x".repeat(255));
}
