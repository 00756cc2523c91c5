//! The gate against mass expiry: when it closes, what it brings back, when it opens again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::{Registry, batch, node, registration, service, spec};
use rollcall_core::{
    Command,
    command::{Expired, ProtectionChange, PutServicePolicy, Registered},
    policy::Policy,
    protection::{Entry, Gate, RanOut, Thresholds, exit},
    record::{HealthStatus, Reason, Scope},
};

/// A leader in small: what it does with leases that are due.
struct Leader {
    registry: Registry,
    gate: Gate,
    now: u64,
}

impl Leader {
    /// Services and how many leases each has.
    fn of(services: &[(&str, usize)]) -> (Self, Vec<Vec<Registered>>) {
        let mut registry = Registry::new();
        let register = |(name, count): &(&str, usize)| {
            let at = |i: usize| format!("10.0.{}.{}:80", i / 200, 1 + i % 200);
            let items =
                (0..*count).map(|i| registration(&format!("{name}/{i}"), 1, spec(&at(i), 10)));
            registry.try_register(items.collect()).unwrap()
        };
        let leases = services.iter().map(register).collect();
        (Self { registry, gate: Gate::default(), now: 100_000 }, leases)
    }

    /// These leases are due now: protects what must be, then expires them.
    fn ran_out(&mut self, leases: &[Registered]) -> Vec<Expired> {
        let due: Vec<RanOut> = leases.iter().map(|lease| self.due(lease)).collect();
        for entry in self.entries(&due) {
            self.registry.protect(entry.scope, entry.restore);
        }
        let expire = |lease: &Registered| self.registry.expire(lease.generation, lease.lease_epoch);
        let done = leases.iter().map(expire).collect();
        self.gate.expired(self.now, due);
        done
    }

    fn entries(&mut self, due: &[RanOut]) -> Vec<Entry> {
        self.gate.entries(self.now, due, &self.registry.state, &Thresholds::default())
    }

    fn due(&self, lease: &Registered) -> RanOut {
        let record = self.registry.state.by_generation(lease.generation).unwrap();
        RanOut {
            name: record.name.clone(),
            generation: lease.generation,
            lease_epoch: lease.lease_epoch,
        }
    }

    fn protected(&self) -> Vec<Scope> {
        self.registry.state.protections().keys().cloned().collect()
    }

    fn leave(&mut self, scope: Scope, reason: Reason) {
        let change = ProtectionChange::Leave(reason);
        self.registry.set_protection(scope.clone(), change, node()).unwrap();
        self.gate.forget(&scope);
    }
}

fn web() -> Scope {
    Scope::Service(service("web"))
}

#[test]
fn what_was_evicted_counts_unless_it_came_back_or_was_taken_away() {
    let (mut leader, leases) = Leader::of(&[("web", 10), ("big", 90)]);
    let evict = |leader: &mut Leader, lease: &Registered| {
        leader.registry.evict(lease.generation, lease.lease_epoch)
    };
    for lease in &leases[0][..5] {
        assert_eq!(leader.ran_out(std::slice::from_ref(lease)), [Expired::Expired]);
        assert_eq!(evict(&mut leader, lease), 1);
    }
    assert_eq!(leader.protected(), []);
    // The first one comes back and counts no more.
    let again = registration("web/0", 2, spec("10.0.0.1:80", 10));
    leader.registry.try_register(vec![again]).unwrap();
    assert_eq!(leader.ran_out(&leases[0][5..6]), [Expired::Expired]);
    assert_eq!(leader.protected(), []);
    assert_eq!(leader.ran_out(&leases[0][6..7]), [Expired::Held]);
    assert_eq!(leader.protected(), [web()]);
    assert_eq!(leader.registry.get("web/5").unwrap().health, HealthStatus::Degraded);
}

#[test]
fn a_service_is_protected_when_three_leases_and_more_than_half_ran_out() {
    let (mut leader, leases) = Leader::of(&[("web", 5), ("big", 90)]);
    assert_eq!(leader.ran_out(&leases[0][..2]), [Expired::Expired, Expired::Expired]);
    assert_eq!(leader.protected(), []);
    assert_eq!(leader.ran_out(&leases[0][2..3]), [Expired::Held]);
    assert_eq!(leader.protected(), [web()]);
    // What expired within the window is back, and nothing of the service is expired any more.
    let service = leader.registry.state.service(&service("web")).unwrap();
    assert_eq!((service.leases.current, service.leases.held, service.leases.expired), (2, 3, 0));
    assert_eq!(leader.registry.get("web/0").unwrap().health, HealthStatus::Degraded);
}

#[test]
fn half_of_a_service_is_not_enough_and_neither_are_two_leases() {
    let (mut leader, leases) = Leader::of(&[("web", 6), ("api", 2), ("big", 90)]);
    leader.ran_out(&leases[0][..3]);
    leader.ran_out(&leases[1]);
    assert_eq!(leader.protected(), []);
}

#[test]
fn the_policy_of_a_service_sets_its_share() {
    let (mut leader, leases) = Leader::of(&[("web", 10), ("big", 90)]);
    let policy = Policy { protection_threshold: Some(0.25), ..Policy::default() };
    let service = service("web");
    let put = PutServicePolicy { service, policy, actor: node(), request_id: None };
    leader.registry.send(Command::PutServicePolicy(put)).result.unwrap();
    leader.ran_out(&leases[0][..2]);
    assert_eq!(leader.protected(), []);
    leader.ran_out(&leases[0][2..3]);
    assert_eq!(leader.protected(), [web()]);
}

#[test]
fn the_cluster_is_protected_when_ten_leases_and_more_than_15_percent_ran_out() {
    let (mut leader, leases) = Leader::of(&[("a", 50), ("b", 50)]);
    leader.ran_out(&leases[0][..8]);
    leader.ran_out(&leases[1][..7]);
    assert_eq!(leader.protected(), []);
    leader.ran_out(&leases[1][7..8]);
    assert_eq!(leader.protected(), [Scope::Cluster]);
    assert_eq!(leader.registry.state.lease_counts().held, 16);
}

#[test]
fn what_ran_out_before_the_window_or_came_back_does_not_count() {
    let (mut leader, leases) = Leader::of(&[("web", 5), ("big", 90)]);
    leader.ran_out(&leases[0][..1]);
    leader.now += Thresholds::default().window_ms + 1;
    leader.ran_out(&leases[0][1..2]);
    leader.registry.register(registration("web/1", 1, spec("10.0.0.2:80", 10)));
    leader.ran_out(&leases[0][2..4]);
    assert_eq!(leader.protected(), []);
    leader.ran_out(&leases[0][4..5]);
    assert_eq!(leader.protected(), [web()]);
}

#[test]
fn leases_that_services_hold_count_for_the_cluster() {
    let services = [("a", 5), ("b", 5), ("c", 5), ("d", 5), ("big", 40)];
    let (mut leader, leases) = Leader::of(&services);
    for group in &leases[..3] {
        leader.ran_out(&group[..3]);
    }
    assert_eq!(leader.protected().len(), 3);
    assert!(!leader.protected().contains(&Scope::Cluster));
    leader.ran_out(&leases[3][..1]);
    assert!(leader.protected().contains(&Scope::Cluster));
}

#[test]
fn released_leases_do_not_close_the_gate_again() {
    let (mut leader, leases) = Leader::of(&[("web", 5), ("big", 90)]);
    leader.ran_out(&leases[0][..3]);
    leader.leave(web(), Reason::ProtectionReleased);
    assert_eq!(leader.registry.state.released().len(), 3);
    for lease in &leases[0][..3] {
        let done = leader.registry.expire(lease.generation, lease.lease_epoch);
        assert_eq!(done, Expired::Expired);
        assert_eq!(leader.entries(&[]), []);
    }
    assert_eq!(leader.registry.get("web/0").unwrap().health, HealthStatus::Expired);
    // The two that are left count from new.
    assert_eq!(leader.ran_out(&leases[0][3..]), [Expired::Expired, Expired::Expired]);
    assert_eq!(leader.protected(), []);
}

#[test]
fn released_leases_are_not_part_of_the_whole() {
    let (mut leader, leases) = Leader::of(&[("web", 100), ("big", 890)]);
    leader.ran_out(&leases[0][..90]);
    leader.leave(web(), Reason::ProtectionTimedOut);
    assert_eq!(leader.registry.state.released().len(), 90);
    // Six of the ten that are left.
    leader.ran_out(&leases[0][90..96]);
    assert_eq!(leader.protected(), [web()]);
}

#[test]
fn protection_ends_when_few_are_missing_or_nobody_is_left() {
    let thresholds = Thresholds::default();
    let (mut leader, leases) = Leader::of(&[("web", 40), ("big", 300)]);
    leader.ran_out(&leases[0][..30]);
    let reason = |leader: &Leader| exit(&leader.registry.state, &web(), &thresholds);
    assert_eq!(reason(&leader), None);
    let back = |range: std::ops::Range<usize>| {
        let at = |i: usize| format!("10.0.0.{}:80", 1 + i);
        range.map(|i| registration(&format!("web/{i}"), 1, spec(&at(i), 10))).collect::<Vec<_>>()
    };
    leader.registry.try_register(back(0..28)).unwrap();
    assert_eq!(reason(&leader), None, "2 of 40 are not fewer than 5 %");
    leader.registry.try_register(back(28..29)).unwrap();
    assert_eq!(reason(&leader), Some(Reason::ProtectionEnded));
    let all = (0..40).map(|i| given::name(&format!("web/{i}"))).collect();
    leader.registry.deregister_all(all, given::operator()).unwrap();
    assert_eq!(reason(&leader), Some(Reason::ProtectionEnded));
    assert_eq!(exit(&leader.registry.state, &Scope::Cluster, &thresholds), None);
}

#[test]
fn protection_ends_after_its_longest_time() {
    let (mut leader, leases) = Leader::of(&[("web", 5), ("big", 90)]);
    leader.ran_out(&leases[0]);
    let thresholds = Thresholds::default();
    leader.registry.advance(thresholds.max_ms - 1);
    assert_eq!(exit(&leader.registry.state, &web(), &thresholds), None);
    leader.registry.advance(1);
    let reason = exit(&leader.registry.state, &web(), &thresholds);
    assert_eq!(reason, Some(Reason::ProtectionTimedOut));
}

#[test]
fn a_deregistration_by_the_owner_is_never_held_back() {
    let (mut leader, leases) = Leader::of(&[("web", 5), ("big", 90)]);
    leader.ran_out(&leases[0]);
    leader.registry.deregister("web/0", given::owner()).unwrap();
    assert!(leader.registry.get("web/0").is_none());
    assert_eq!(leader.registry.state.held().len(), 4);
}

#[test]
fn many_services_that_run_out_together_are_tallied_at_once() {
    let (mut leader, _) = Leader::of(&[("web", 1)]);
    let mut due = Vec::new();
    for i in 0..2_000 {
        let name = format!("s{i}");
        let item = |k: usize| {
            let at = format!("10.{}.{}.{k}:80", i / 200, 1 + i % 200);
            registration(&format!("{name}/{k}"), 1, spec(&at, 10))
        };
        let items = vec![item(1), item(2), item(3)];
        let command = Command::Register(batch(items));
        leader.registry.send(command).result.unwrap();
        let record = leader.registry.get(&format!("{name}/1")).unwrap();
        let generation = record.generation;
        due.extend((generation..generation + 3).map(|generation| RanOut {
            name: record.name.clone(),
            generation,
            lease_epoch: 1,
        }));
    }
    assert_eq!(leader.entries(&due).len(), 2_001);
}
