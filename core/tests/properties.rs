//! What holds after any sequence of commands, sensible or hostile.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;
mod random;

use given::{Registry, parts};
use proptest::{prelude::*, strategy::ValueTree};
use random::{Step, steps};
use rollcall_core::{
    Command, State,
    check::{Check, Verdict},
    command::{Done, Expired},
    name::ServiceName,
    record::{LeaseState, Record, Scope, Subject},
    state::{LeaseCounts, Loader, Part},
};
use std::collections::{BTreeMap, BTreeSet};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    /// Equal logs give equal states, wherever a node took its state from a snapshot.
    #[test]
    fn a_node_that_is_loaded_from_snapshots_never_differs(steps in steps(120)) {
        let mut whole = Registry::new();
        let mut loaded = Registry::new();
        for step in &steps {
            if step.reload {
                loaded = loaded.reloaded();
            }
            let command = step.command(&whole.state);
            let expected = whole.send_after(step.advance_ms, command.clone());
            prop_assert_eq!(loaded.send_after(step.advance_ms, command), expected);
            prop_assert_eq!(&loaded.events, &whole.events);
            prop_assert_eq!(loaded.state.hash(), whole.state.hash());
            same_besides_parts(&loaded.state, &whole.state)?;
        }
        prop_assert_eq!(parts(&loaded.state), parts(&whole.state));
        prop_assert_eq!(parts(&whole.reloaded().state), parts(&whole.state));
    }

    /// Each event has the next revision, each changed record and service carries it, and nothing goes back.
    #[test]
    fn revisions_grow_by_one_for_each_event_and_never_go_back(steps in steps(120)) {
        let mut registry = Registry::new();
        let mut seen: BTreeMap<ServiceName, u64> = BTreeMap::new();
        let mut newest_generation = 0;
        for step in &steps {
            let before = registry.state.clone();
            registry.run(step);
            let state = &registry.state;
            let revisions: Vec<u64> = registry.events.iter().map(|event| event.revision).collect();
            let expected: Vec<u64> = (before.revision() + 1..=state.revision()).collect();
            prop_assert_eq!(revisions, expected);
            prop_assert!(state.cluster_ms() >= before.cluster_ms());
            for service in random::services() {
                let revision = state.service_revision(&service);
                let last = seen.insert(service.clone(), revision).unwrap_or(0);
                prop_assert!(revision >= last, "{} went from {} to {}", service, last, revision);
                let touching = registry.events.iter().rev();
                let touched = touching.clone().find(|e| e.subject.service() == Some(&service));
                if let Some(event) = touched {
                    prop_assert_eq!(revision, event.revision);
                }
            }
            for (generation, name) in state.generations() {
                let known = before.by_generation(generation);
                prop_assert!(known.is_some() || generation > newest_generation, "{} twice", generation);
                let record = state.instance(name).unwrap();
                if let Some(known) = known {
                    prop_assert!(record.lease_epoch >= known.lease_epoch);
                    prop_assert_eq!(record == known, record.revision == known.revision);
                }
            }
            let newest = state.generations().map(|(generation, _)| generation).last();
            newest_generation = newest_generation.max(newest.unwrap_or(0));
        }
    }

    /// A refusal leaves everything as it was: the same as if only time had passed.
    #[test]
    fn what_is_refused_changes_nothing(steps in steps(120)) {
        let mut registry = Registry::new();
        for step in &steps {
            let mut alone = registry.clone();
            let outcome = registry.run(step);
            let refused = outcome.result.is_err();
            if refused {
                alone.advance(step.advance_ms);
                prop_assert_eq!(&registry.events, &alone.events);
                let without_requests = |state: &State| -> Vec<Part> {
                    let kept = |part: &Part| !matches!(part, Part::Request { .. });
                    state.parts().filter(kept).collect()
                };
                prop_assert_eq!(without_requests(&registry.state), without_requests(&alone.state));
            }
        }
    }

    /// Whatever is counted or indexed on the way equals what a look at all records gives.
    #[test]
    fn indexes_counts_and_hash_equal_what_the_records_say(steps in steps(120)) {
        let mut registry = Registry::new();
        for (n, step) in steps.iter().enumerate() {
            registry.run(step);
            if n % 4 == 0 || n + 1 == steps.len() {
                consistent(&registry.state)?;
            }
        }
    }

    /// The same request changes something once; later it is answered with the same outcome.
    #[test]
    fn a_request_id_has_at_most_one_effect(steps in steps(120)) {
        let mut registry = Registry::new();
        for step in &steps {
            let before = registry.state.clone();
            let command = step.command(&registry.state);
            let outcome = registry.send_after(step.advance_ms, command.clone());
            if !random::has_request_id(&command) {
                continue;
            }
            let after = parts(&registry.state);
            prop_assert_eq!(registry.send(command.clone()), outcome.clone());
            prop_assert!(registry.events.is_empty());
            // Something else may have come to its end with the second command.
            if !before.is_overdue() && !registry.state.is_overdue() {
                prop_assert_eq!(parts(&registry.state), after);
            }
        }
    }

    /// No lease ends, and nothing is evicted, but by the generation and epoch that stand, out of maintenance.
    #[test]
    fn nothing_ends_by_a_decision_on_what_is_gone(steps in steps(120)) {
        let mut registry = Registry::new();
        for step in &steps {
            let command = step.command(&registry.state);
            // What ends by time ends first.
            registry.advance(step.advance_ms);
            let before = registry.state.clone();
            let outcome = registry.send(command.clone());
            match (&command, &outcome.result) {
                (Command::ExpireLeases(expire), Ok(Done::Expired(done))) => {
                    prop_assert_eq!(expire.items.len(), done.len());
                    for (item, done) in expire.items.iter().zip(done) {
                        let record = before.by_generation(item.generation);
                        let lease = record.and_then(|record| record.lease);
                        let matches = lease.is_some_and(|lease| lease.epoch == item.lease_epoch);
                        prop_assert_eq!(matches, *done != Expired::Superseded);
                    }
                }
                (Command::EvictInstances(evict), Ok(Done::Evicted(count))) => {
                    prop_assert!(*count as usize <= evict.items.len());
                }
                _ => {}
            }
            for event in &registry.events {
                let Subject::Instance(name) = &event.subject else { continue };
                let Some(old) = before.instance(name) else { continue };
                allowed(&command, old, event, &before)?;
            }
        }
    }
}

/// Whether an event that ends something was asked for on the record that stood.
fn allowed(
    command: &Command,
    old: &Record,
    event: &rollcall_core::record::Event,
    before: &State,
) -> Result<(), TestCaseError> {
    use rollcall_core::record::{AdminState, HealthStatus, Reason};
    let lease = old.lease.map(|lease| (old.generation, lease.epoch));
    let maintenance = old.admin_state() == AdminState::Maintenance;
    match event.reason {
        // The last critical check of an instance whose lease was over has failed, or is none of its checks any more; or
        // something is said of it that failed in maintenance.
        Reason::LeaseExpired
            if matches!(
                command,
                Command::ReportHealth(_) | Command::ReportSelf(_) | Command::PutServicePolicy(_)
            ) =>
        {
            let over = old.lease.map(|lease| lease.state);
            prop_assert!(matches!(over, Some(LeaseState::Lost | LeaseState::Held)));
            prop_assert!(!maintenance);
        }
        Reason::LeaseExpired => {
            let Command::ExpireLeases(expire) = command else {
                return Err(TestCaseError::fail("expired by something else"));
            };
            let mut named =
                expire.items.iter().map(|item| Some((item.generation, item.lease_epoch)));
            prop_assert!(named.any(|item| item == lease));
            prop_assert!(!maintenance);
            let released = before.released().contains(&old.generation);
            let critical = before.checks(old).any(|check| !check.advisory);
            prop_assert!(released || critical || !before.is_protected(&old.name.service));
        }
        Reason::Evicted => {
            let Command::EvictInstances(evict) = command else {
                return Err(TestCaseError::fail("evicted by something else"));
            };
            let epoch = old.lease.map_or(0, |lease| lease.epoch);
            let mut named = evict
                .items
                .iter()
                .filter(|item| (item.generation, item.lease_epoch) == (old.generation, epoch));
            let expired = old.lease.is_some_and(|lease| lease.state == LeaseState::Expired);
            let held = before.is_protected(&old.name.service) && !before.is_dead_by_checks(old);
            let unhealthy = old.signals.heard().and_then(|heard| heard.unhealthy_since);
            prop_assert!(!maintenance);
            let asked = named.any(|item| match item.unhealthy_since {
                None => expired && !held,
                since => since == unhealthy && old.health == HealthStatus::Unhealthy,
            });
            prop_assert!(asked);
        }
        _ => {}
    }
    Ok(())
}

/// What parts cannot tell where it is missing in both.
fn same_besides_parts(a: &State, b: &State) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.released(), b.released());
    prop_assert_eq!(a.held(), b.held());
    prop_assert_eq!(a.protections(), b.protections());
    prop_assert_eq!(a.journal(), b.journal());
    prop_assert_eq!(a.lease_counts(), b.lease_counts());
    prop_assert_eq!(a.service_count(), b.service_count());
    prop_assert_eq!(a.request_window(), b.request_window());
    prop_assert_eq!(a.waits_for_time(), b.waits_for_time());
    prop_assert_eq!(a.is_overdue(), b.is_overdue());
    prop_assert_eq!(a.checkers(), b.checkers());
    for service in random::services() {
        prop_assert_eq!(a.service_revision(&service), b.service_revision(&service));
    }
    for name in random::names() {
        prop_assert_eq!(a.tombstone(&name), b.tombstone(&name));
        prop_assert_eq!(a.instance(&name), b.instance(&name));
    }
    for generation in 0..60 {
        prop_assert_eq!(a.retired(generation), b.retired(generation));
        prop_assert_eq!(a.checkpoint(generation), b.checkpoint(generation));
    }
    Ok(())
}

/// Recomputes what the state keeps along the way.
fn consistent(state: &State) -> Result<(), TestCaseError> {
    let mut all = LeaseCounts::default();
    let mut generations = BTreeMap::new();
    let (mut held, mut idle) = (BTreeSet::new(), 0);
    for (name, service) in state.services() {
        prop_assert_eq!(name, &service.name);
        prop_assert!(service.revision <= state.revision());
        idle += usize::from(service.is_idle());
        let mut leases = LeaseCounts::default();
        for (id, record) in &service.instances {
            prop_assert_eq!((name, id), (&record.name.service, &record.name.id));
            prop_assert!(record.revision <= service.revision);
            prop_assert_eq!(record.lease.is_some(), record.spec.ttl.is_some());
            generations.insert(record.generation, record.name.clone());
            healthy(state, record)?;
            let Some(lease) = record.lease else { continue };
            prop_assert_eq!(lease.epoch, record.lease_epoch);
            match lease.state {
                LeaseState::Current => leases.current += 1,
                LeaseState::Held => {
                    leases.held += 1;
                    held.insert(record.generation);
                    let released = state.released().contains(&record.generation);
                    prop_assert!(released || state.is_protected(name), "held by nothing");
                }
                LeaseState::Expired => leases.expired += 1,
                LeaseState::Lost => leases.lost += 1,
            }
            let missed = state.checkpoint(record.generation).is_some();
            prop_assert!(!missed || lease.state == LeaseState::Current);
        }
        prop_assert_eq!(service.leases, leases);
        all.current += leases.current;
        all.held += leases.held;
        all.expired += leases.expired;
        all.lost += leases.lost;
    }
    prop_assert_eq!(state.lease_counts(), all);
    prop_assert_eq!(state.service_count(), state.services().len() - idle);
    prop_assert_eq!(state.instance_count(), generations.len());
    let indexed: BTreeMap<_, _> = state.generations().map(|(g, name)| (g, name.clone())).collect();
    for part in state.parts() {
        let Part::Utilization { generation, .. } = part else { continue };
        prop_assert!(generations.contains_key(&generation), "the figure of nobody");
    }
    prop_assert_eq!(indexed, generations);
    prop_assert_eq!(state.held().iter().copied().collect::<BTreeSet<_>>(), held);
    prop_assert!(state.released().iter().all(|generation| state.held().contains(generation)));
    for scope in state.protections().keys() {
        let Scope::Service(service) = scope else { continue };
        prop_assert!(state.is_protected(service));
    }
    for part in state.parts() {
        let Part::Lease { generation, remaining_ms: Some(_), .. } = part else { continue };
        let record = state.by_generation(generation);
        let lease = record.and_then(|record| record.lease);
        let current = lease.is_some_and(|lease| lease.state == LeaseState::Current);
        prop_assert!(current, "a missed beat of {} is remembered for nothing", generation);
    }
    journal(state)?;
    from_scratch(state)
}

/// Health told the other way round: what is excluded by what is known.
fn healthy(state: &State, record: &Record) -> Result<(), TestCaseError> {
    use rollcall_core::record::HealthStatus as Health;
    let lease = record.lease.map(|lease| lease.state);
    prop_assert_eq!(record.health == Health::Expired, lease == Some(LeaseState::Expired));
    let critical: Vec<Verdict> = state
        .checks(record)
        .filter(|check| !check.advisory)
        .map(|check| record.signals.opinion(&check.id).verdict)
        .collect();
    let any = |verdict| critical.contains(&verdict);
    match record.health {
        Health::Expired => {}
        Health::Unhealthy => prop_assert!(any(Verdict::Failing)),
        Health::Starting => prop_assert!(any(Verdict::Starting) && !any(Verdict::Failing)),
        Health::Healthy => {
            prop_assert!(matches!(lease, None | Some(LeaseState::Current)));
            prop_assert!(critical.iter().all(|verdict| *verdict == Verdict::Passing));
            let fails =
                |check: &Check| record.signals.opinion(&check.id).verdict == Verdict::Failing;
            prop_assert!(!state.checks(record).any(fails));
        }
        Health::Degraded => prop_assert!(!any(Verdict::Failing)),
    }
    let over = matches!(lease, Some(LeaseState::Lost | LeaseState::Held));
    if over && !critical.is_empty() && !was_maintained(record) {
        prop_assert!(any(Verdict::Passing), "nothing speaks for {}", record.name);
    }
    let heard = record.signals.heard();
    let unhealthy = heard.is_some_and(|heard| heard.unhealthy_since.is_some());
    prop_assert_eq!(unhealthy, record.health == Health::Unhealthy);
    let lost = heard.is_some_and(|heard| heard.lost_ms.is_some());
    prop_assert_eq!(lost, lease == Some(LeaseState::Lost));
    let ids: BTreeSet<_> = state.checks(record).map(|check| check.id.clone()).collect();
    for standing in heard.into_iter().flat_map(|heard| &heard.standings) {
        prop_assert!(ids.contains(&standing.check), "{} is no check", standing.check);
    }
    let last = record.history.events().last().unwrap();
    prop_assert_eq!((last.revision, last.to), (record.revision, Some(record.status())));
    Ok(())
}

/// Whether it stands in maintenance, or left it and nothing has happened to it since.
fn was_maintained(record: &Record) -> bool {
    use rollcall_core::record::{AdminState, Reason};
    let last = record.history.events().last().map(|event| event.reason);
    record.admin_state() == AdminState::Maintenance
        || matches!(last, Some(Reason::AdminSet | Reason::AdminExpired))
}

fn journal(state: &State) -> Result<(), TestCaseError> {
    let revisions: Vec<u64> = state.journal().iter().map(|event| event.revision).collect();
    let expected: Vec<u64> = (state.journal_floor() + 1..=state.revision()).collect();
    prop_assert_eq!(revisions, expected);
    for after in [0, state.journal_floor(), state.revision() / 2, state.revision(), u64::MAX] {
        let events = state.events_after(after);
        prop_assert_eq!(events.is_some(), after >= state.journal_floor());
        let revisions: Vec<u64> = events.into_iter().flatten().map(|e| e.revision).collect();
        let expected: Vec<u64> = (after.saturating_add(1)..=state.revision()).collect();
        prop_assert!(after < state.journal_floor() || revisions == expected);
    }
    Ok(())
}

/// The loader adds up the hash of every record and service anew, and refuses where it is another one.
fn from_scratch(state: &State) -> Result<(), TestCaseError> {
    let mut loader = Loader::new(1_000);
    for part in state.parts() {
        loader.add(part).unwrap();
    }
    let loaded = loader.finish();
    prop_assert_eq!(loaded.map(|state| state.hash()), Ok(state.hash()));
    Ok(())
}

#[test]
fn the_hash_does_not_depend_on_the_way_that_led_to_the_records() {
    // The same visible changes, with other time and other invisible commands between them.
    let run = |advance_ms: u64, idle: bool| {
        let mut registry = Registry::new();
        for i in 0..20_u32 {
            let item = given::registration(
                &format!("web/{}", i % 7),
                u128::from(i),
                given::spec(&format!("10.0.0.{}:80", i + 1), 10),
            );
            let done = registry.state.apply(&rollcall_core::Stamped {
                wall_ms: u64::from(i),
                advance_ms,
                command: Command::Register(given::batch(vec![item])),
            });
            assert!(done.outcome.result.is_ok());
            if idle {
                registry.checkpoint(u64::from(i) + 1, 1, Some(5));
                registry.advance(given::KEEP);
            }
        }
        registry.state
    };
    let (quiet, busy) = (run(0, false), run(3_333, true));
    assert_eq!(quiet.revision(), busy.revision());
    assert_eq!(quiet.hash(), busy.hash());
    assert_ne!(quiet.cluster_ms(), busy.cluster_ms());
}

#[test]
fn the_steps_reach_every_kind_of_outcome() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let steps = steps(120).new_tree(&mut runner).unwrap().current();
        let mut registry = Registry::new();
        for step in &steps {
            let outcome = registry.run(step);
            seen.insert(random::kind(&outcome));
            seen.extend(registry.events.iter().map(|event| event.reason.as_str().to_owned()));
        }
    }
    for kind in random::KINDS {
        assert!(seen.contains(*kind), "{kind} was never seen, only {seen:?}");
    }
}

impl Registry {
    fn run(&mut self, step: &Step) -> rollcall_core::Outcome {
        let command = step.command(&self.state);
        self.send_after(step.advance_ms, command)
    }
}
