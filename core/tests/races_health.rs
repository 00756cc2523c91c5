//! Late, repeated and crossing verdicts: what was found on an old declaration has no effect on a newer one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::{Registry, checks, name, node, registration, service, spec};
use rollcall_core::{
    Command, Rejection,
    check::Verdict,
    command::{
        Expired, Finding, PutServicePolicy, Registered, Registration, ReportHealth, ReportSelf,
        Reported, SelfReport, Source,
    },
    instance::{Spec, limit},
    policy::Policy,
    record::{Actor, HealthStatus, LeaseState, Reason, Scope},
};
use std::time::Duration;

fn checked(instance: &str, nonce: u128, address: &str, ids: &[&str]) -> Registration {
    let spec = Spec { checks: checks(ids), ..spec(address, 10) };
    registration(instance, nonce, spec.checked().unwrap())
}

/// `web/a`, healthy by its critical check `c`.
fn healthy() -> (Registry, Registered) {
    let mut registry = Registry::new();
    registry.set_checkers(&[1]).unwrap();
    let done = registry.register(checked("web/a", 1, "10.0.0.1:80", &["c"]));
    registry.judge("web/a", "c", Verdict::Passing);
    assert_eq!(registry.health("web/a"), (HealthStatus::Healthy, Reason::CheckPassed));
    (registry, done)
}

fn put_policy(registry: &mut Registry, ids: &[&str]) {
    let policy = Policy {
        checks: checks(ids),
        evict_unhealthy_after: Some(Duration::from_secs(1)),
        ..Policy::default()
    };
    let actor = Actor::Operator("ann".into());
    let service = service("web");
    let put = PutServicePolicy { service, policy, actor, request_id: None };
    registry.send(Command::PutServicePolicy(put)).result.unwrap();
}

#[test]
fn a_verdict_found_before_an_update_says_nothing_of_the_updated_instance() {
    let (mut registry, _) = healthy();
    let late = registry.finding("web/a", "c", Verdict::Failing);
    registry.register(checked("web/a", 1, "10.0.0.1:81", &["c"]));
    let source = registry.checker("web/a");
    assert_eq!(registry.report(source, late), Reported::Superseded);
    assert_eq!(registry.get("web/a").unwrap().health, HealthStatus::Starting);
}

#[test]
fn a_verdict_found_before_a_take_over_says_nothing_of_the_new_owner() {
    let (mut registry, _) = healthy();
    let late = registry.finding("web/a", "c", Verdict::Failing);
    registry.register(checked("web/a", 2, "10.0.0.1:80", &["c"]));
    let source = registry.checker("web/a");
    assert_eq!(registry.report(source, late), Reported::Superseded);
    assert_eq!(registry.get("web/a").unwrap().health, HealthStatus::Healthy);
}

#[test]
fn a_verdict_on_the_default_checks_of_before_is_refused() {
    let mut registry = Registry::new();
    registry.set_checkers(&[1]).unwrap();
    put_policy(&mut registry, &["c"]);
    registry.register(checked("web/a", 1, "10.0.0.1:80", &[]));
    let late = registry.finding("web/a", "c", Verdict::Failing);
    put_policy(&mut registry, &["c", "d~"]);
    let source = registry.checker("web/a");
    assert_eq!(registry.report(source, late), Reported::Superseded);
    registry.judge("web/a", "c", Verdict::Passing);
    assert_eq!(registry.get("web/a").unwrap().health, HealthStatus::Healthy);
}

#[test]
fn a_verdict_on_checks_that_a_policy_set_later_is_refused_after_a_registration() {
    for nonce in [1, 2] {
        let mut registry = Registry::new();
        registry.set_checkers(&[1]).unwrap();
        registry.register(checked("web/a", 1, "10.0.0.1:80", &[]));
        put_policy(&mut registry, &["c"]);
        let late = registry.finding("web/a", "c", Verdict::Failing);
        let mut again = checked("web/a", nonce, "10.0.0.1:80", &[]);
        again.spec = Spec { weight: 5, ..Spec::clone(&again.spec) }.into();
        let generation = registry.register(again).generation;
        let source = registry.checker("web/a");
        let late = Finding { generation, ..late };
        assert_eq!(registry.report(source, late), Reported::Superseded);
        assert_eq!(registry.get("web/a").unwrap().health, HealthStatus::Healthy);
        registry.judge("web/a", "c", Verdict::Failing);
    }
}

#[test]
fn when_the_checks_of_a_service_changed_is_part_of_the_hash() {
    let mut registry = Registry::new();
    let mut other = registry.clone();
    // The same policy in the end, by as many changes, of which another one was the last of the checks.
    for (registry, steps) in [(&mut registry, [true, false]), (&mut other, [false, true])] {
        let mut policy = Policy::default();
        for of_checks in steps {
            match of_checks {
                true => policy.checks = checks(&["c"]),
                false => policy.evict_after = Some(Duration::from_secs(1)),
            }
            let (service, actor) = (service("web"), Actor::Operator("ann".into()));
            let policy = policy.clone();
            let put = PutServicePolicy { service, policy, actor, request_id: None };
            registry.send(Command::PutServicePolicy(put)).result.unwrap();
        }
    }
    let web = |registry: &Registry| registry.state.service(&service("web")).unwrap().clone();
    assert_eq!(web(&registry).policy, web(&other).policy);
    assert_eq!(web(&registry).revision, web(&other).revision);
    assert_ne!(web(&registry).checks_since, web(&other).checks_since);
    assert_ne!(registry.state.hash(), other.state.hash());
}

#[test]
fn quick_probes_that_failed_before_it_came_back_do_not_end_it() {
    let (mut registry, lease) = healthy();
    assert_eq!(registry.expire(lease.generation, lease.lease_epoch), Expired::Lost);
    let late = registry.finding("web/a", "c", Verdict::Failing);
    let back = registry.register(checked("web/a", 1, "10.0.0.1:80", &["c"]));
    assert_eq!(back.generation, lease.generation);
    assert_eq!(registry.report(Source::Quick, late), Reported::Superseded);
    assert_eq!(registry.health("web/a"), (HealthStatus::Healthy, Reason::Restored));
}

#[test]
fn an_expiry_said_twice_does_not_end_what_a_check_keeps() {
    let (mut registry, lease) = healthy();
    for _ in 0..2 {
        assert_eq!(registry.expire(lease.generation, lease.lease_epoch), Expired::Lost);
    }
    let record = registry.get("web/a").unwrap();
    assert_eq!(record.lease.unwrap().state, LeaseState::Lost);
    assert_eq!(registry.health("web/a"), (HealthStatus::Degraded, Reason::HeartbeatLost));
}

#[test]
fn quick_probes_and_the_end_of_the_lease_may_come_in_either_order() {
    let (mut first, lease) = healthy();
    let mut second = first.clone();
    assert_eq!(first.fail_quickly("web/a", "c"), Reported::Taken);
    assert_eq!(first.health("web/a"), (HealthStatus::Unhealthy, Reason::StreamBroken));
    assert_eq!(first.expire(lease.generation, lease.lease_epoch), Expired::Expired);
    assert_eq!(second.expire(lease.generation, lease.lease_epoch), Expired::Lost);
    assert_eq!(second.fail_quickly("web/a", "c"), Reported::Taken);
    for registry in [first, second] {
        assert_eq!(registry.health("web/a"), (HealthStatus::Expired, Reason::LeaseExpired));
        let heard = registry.get("web/a").unwrap().signals.heard().unwrap();
        assert_eq!((heard.lost_ms, heard.unhealthy_since), (None, None));
        assert!(!registry.state.waits_for_time());
    }
}

#[test]
fn an_eviction_decided_while_it_failed_does_not_meet_it_when_it_fails_again() {
    let (mut registry, lease) = healthy();
    put_policy(&mut registry, &[]);
    registry.judge("web/a", "c", Verdict::Failing);
    let since = |registry: &Registry| {
        registry.get("web/a").unwrap().signals.heard().unwrap().unhealthy_since
    };
    let decided = since(&registry);
    registry.judge("web/a", "c", Verdict::Passing);
    assert_eq!(since(&registry), None);
    registry.judge("web/a", "c", Verdict::Failing);
    assert_eq!(registry.evict_for(lease.generation, lease.lease_epoch, decided), 0);
    let now = since(&registry);
    assert_eq!(registry.evict_for(lease.generation, lease.lease_epoch, now), 1);
}

#[test]
fn an_update_that_changes_no_check_does_not_prolong_the_time_it_has_been_unhealthy() {
    let (mut registry, _) = healthy();
    registry.judge("web/a", "c", Verdict::Failing);
    let since = registry.get("web/a").unwrap().signals.heard().unwrap().unhealthy_since;
    let mut update = checked("web/a", 1, "10.0.0.1:80", &["c"]);
    update.spec = Spec { weight: 5, ..Spec::clone(&update.spec) }.into();
    registry.register(update);
    let after = registry.get("web/a").unwrap().signals.heard().unwrap().unhealthy_since;
    assert_eq!(after, since);
}

#[test]
fn protection_brings_nothing_back_that_its_checks_call_dead() {
    let (mut registry, lease) = healthy();
    registry.expire(lease.generation, lease.lease_epoch);
    registry.fail_quickly("web/a", "c");
    registry.protect(Scope::Cluster, vec![(lease.generation, lease.lease_epoch)]);
    assert_eq!(registry.get("web/a").unwrap().health, HealthStatus::Expired);
    assert_eq!(registry.evict(lease.generation, lease.lease_epoch), 1);
}

#[test]
fn a_check_that_is_lost_with_the_policy_does_not_keep_a_lost_lease_under_protection() {
    let mut registry = Registry::new();
    put_policy(&mut registry, &["c"]);
    registry.set_checkers(&[1]).unwrap();
    let lease = registry.register(checked("web/a", 1, "10.0.0.1:80", &[]));
    registry.judge("web/a", "c", Verdict::Passing);
    assert_eq!(registry.expire(lease.generation, lease.lease_epoch), Expired::Lost);
    put_policy(&mut registry, &[]);
    registry.protect(Scope::Cluster, vec![]);
    assert_eq!(registry.expire(lease.generation, lease.lease_epoch), Expired::Held);
    assert_eq!(registry.state.held().len(), 1);
    assert_eq!(registry.reloaded().get("web/a"), registry.get("web/a"));
}

#[test]
fn cluster_time_passes_while_a_check_keeps_a_lost_lease() {
    let (mut registry, lease) = healthy();
    assert!(!registry.state.waits_for_time());
    registry.expire(lease.generation, lease.lease_epoch);
    assert!(registry.state.waits_for_time() && registry.reloaded().state.waits_for_time());
    registry.advance(90_000);
    assert_eq!(registry.end_lease(lease.generation, lease.lease_epoch, true), Expired::Expired);
    assert!(!registry.state.waits_for_time());
}

#[test]
fn batches_have_their_bounds_and_self_reports_theirs() {
    let (mut registry, lease) = healthy();
    let item = registry.finding("web/a", "c", Verdict::Failing);
    for count in [0, limit::FINDINGS + 1] {
        let items = vec![item.clone(); count];
        let report = ReportHealth { source: Source::Quick, items, actor: node() };
        let refused = registry.send(Command::ReportHealth(report)).result;
        assert!(matches!(refused, Err(Rejection::InvalidBatch { .. })));
    }
    let nodes: Vec<u64> = (0..=limit::CHECKERS as u64).collect();
    let refused = registry.set_checkers(&nodes);
    assert!(matches!(refused, Err(Rejection::InvalidBatch { .. })));
    let degraded = Some("x".repeat(limit::TEXT_BYTES + 1).into());
    let items = vec![SelfReport { generation: lease.generation, degraded }];
    let report = ReportSelf { items, figures: vec![], actor: node() };
    registry.send(Command::ReportSelf(report)).result.unwrap();
    let heard = registry.get("web/a").unwrap().signals.heard().unwrap();
    assert_eq!(heard.self_report.as_ref().unwrap().len(), limit::TEXT_BYTES);
}

#[test]
fn checkers_of_the_time_that_a_restore_lost_count_for_nothing() {
    let (mut registry, _) = healthy();
    let mut lost = registry.clone();
    lost.set_checkers(&[1, 2]).unwrap();
    let late = lost.checker("web/a");
    registry.state.begin_epoch();
    registry.set_checkers(&[1]).unwrap();
    let item = registry.finding("web/a", "c", Verdict::Failing);
    let report = ReportHealth { source: late, items: vec![item], actor: node() };
    let refused = registry.send(Command::ReportHealth(report)).result;
    assert!(matches!(refused, Err(Rejection::CheckersChanged { .. })));
    assert_eq!(registry.state.checkers().of(&name("web/a")), Some(1));
}
