//! What the tests start from: short ways to name, declare and send things to a state.
#![allow(dead_code, reason = "each test binary uses its own part")]

use rollcall_core::{
    Command, Outcome, Rejection, Stamped, State,
    check::{Check, Checks, Opinion, Probe, Verdict},
    command::{
        Deregister, Deregistration, Done, EvictInstances, Eviction, ExpireLeases, Expired, Expiry,
        Finding, LeaseCheckpoint, ProtectionChange, Register, Registered, Registration,
        ReportHealth, Reported, RequestId, SetAdminState, SetCheckers, SetProtection, Source,
    },
    instance::{Endpoint, Spec, Transport, Ttl},
    name::{InstanceName, Label, ServiceName},
    record::{Actor, AdminState, Event, HealthStatus, Reason, Record, Scope},
    state::{Loader, Part},
};
use std::{sync::Arc, time::Duration};

/// Ten minutes, for which things are kept, in ms.
pub(crate) const KEEP: u64 = 600_000;

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::parse("", name).unwrap()
}

/// `service/id`.
pub(crate) fn name(text: &str) -> InstanceName {
    let (service, id) = text.split_once('/').unwrap();
    InstanceName::parse("", service, id).unwrap()
}

pub(crate) fn owner() -> Actor {
    Actor::Owner("10.9.9.9".into())
}

pub(crate) fn operator() -> Actor {
    Actor::Operator("ann".into())
}

pub(crate) fn node() -> Actor {
    Actor::Registry("n1".into())
}

/// One endpoint at `address`; `ttl` in seconds, 0 = persistent.
pub(crate) fn spec(address: &str, ttl: u64) -> Spec {
    let endpoint = Endpoint {
        name: Label::parse("name", "http").unwrap(),
        address: address.parse().unwrap(),
        transport: Transport::Tcp,
        app_protocol: "".into(),
    };
    let ttl = (ttl > 0).then(|| Ttl::parse(Duration::from_secs(ttl)).unwrap());
    Spec { ttl, ..Spec::new(vec![endpoint]).unwrap() }
}

/// TCP checks of these ids: critical unless `~` follows, every 10 s, or every 20 s where `*` follows.
pub(crate) fn checks(ids: &[&str]) -> Checks {
    let check = |id: &&str| {
        let name = Label::parse("check_id", id.trim_end_matches(['~', '*'])).unwrap();
        let advisory = id.contains('~');
        let interval = Check::DEFAULT_INTERVAL * if id.contains('*') { 2 } else { 1 };
        Check { advisory, interval, ..Check::new(name, Probe::Tcp { tls: false }) }
    };
    Checks::parse(ids.iter().map(check).collect()).unwrap()
}

/// A first registration of that instance by the owner `nonce`.
pub(crate) fn registration(instance: &str, nonce: u128, spec: Spec) -> Registration {
    Registration {
        name: name(instance),
        spec: Arc::new(spec),
        nonce,
        held_generation: 0,
        expected_revision: None,
    }
}

pub(crate) fn batch(items: Vec<Registration>) -> Register {
    Register { items, actor: owner(), request_id: None, address_limit: true }
}

pub(crate) fn request_id(text: &str) -> Option<RequestId> {
    Some(RequestId::parse(text).unwrap())
}

/// A state, and the commands that tests send to it.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) state: State,
    /// Events of the last command.
    pub(crate) events: Vec<Arc<Event>>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self { state: State::new(1_000), events: Vec::new() }
    }

    pub(crate) fn send(&mut self, command: Command) -> Outcome {
        self.send_after(0, command)
    }

    pub(crate) fn send_after(&mut self, advance_ms: u64, command: Command) -> Outcome {
        let wall_ms = self.state.cluster_ms().saturating_add(advance_ms);
        let applied = self.state.apply(&Stamped { wall_ms, advance_ms, command });
        self.events = applied.events;
        applied.outcome
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.send_after(ms, Command::AdvanceTime);
    }

    pub(crate) fn try_register(
        &mut self,
        items: Vec<Registration>,
    ) -> Result<Vec<Registered>, Rejection> {
        match self.send(Command::Register(batch(items))).result? {
            Done::Registered(done) => Ok(done),
            other => panic!("a registration came to {other:?}"),
        }
    }

    pub(crate) fn register(&mut self, item: Registration) -> Registered {
        self.try_register(vec![item]).unwrap()[0]
    }

    pub(crate) fn expire(&mut self, generation: u64, lease_epoch: u32) -> Expired {
        self.end_lease(generation, lease_epoch, false)
    }

    /// As an expiry after which the checks have had their time, if `overdue`.
    pub(crate) fn end_lease(
        &mut self,
        generation: u64,
        lease_epoch: u32,
        overdue: bool,
    ) -> Expired {
        let items = vec![Expiry { generation, lease_epoch, overdue, evidence: "silent".into() }];
        match self.send(Command::ExpireLeases(ExpireLeases { items, actor: node() })).result {
            Ok(Done::Expired(done)) => done[0],
            other => panic!("an expiry came to {other:?}"),
        }
    }

    pub(crate) fn evict(&mut self, generation: u64, lease_epoch: u32) -> u32 {
        self.evict_for(generation, lease_epoch, None)
    }

    pub(crate) fn evict_for(
        &mut self,
        generation: u64,
        lease_epoch: u32,
        unhealthy_since: Option<u64>,
    ) -> u32 {
        let evidence = "gone".into();
        let items = vec![Eviction { generation, lease_epoch, unhealthy_since, evidence }];
        match self.send(Command::EvictInstances(EvictInstances { items, actor: node() })).result {
            Ok(Done::Evicted(count)) => count,
            other => panic!("an eviction came to {other:?}"),
        }
    }

    pub(crate) fn checkpoint(
        &mut self,
        generation: u64,
        lease_epoch: u32,
        remaining_ms: Option<u32>,
    ) {
        let item = LeaseCheckpoint { generation, lease_epoch, remaining_ms };
        self.send(Command::CheckpointLeases(vec![item])).result.unwrap();
    }

    pub(crate) fn deregister(&mut self, instance: &str, actor: Actor) -> Result<Done, Rejection> {
        self.deregister_all(vec![name(instance)], actor)
    }

    pub(crate) fn deregister_all(
        &mut self,
        names: Vec<InstanceName>,
        actor: Actor,
    ) -> Result<Done, Rejection> {
        let item = |name| Deregistration {
            name,
            generation: 0,
            allow_missing: false,
            expected_revision: None,
        };
        let items = names.into_iter().map(item).collect();
        let evidence = "".into();
        let command = Deregister { items, actor, request_id: None, evidence };
        self.send(Command::Deregister(command)).result
    }

    pub(crate) fn set_admin(
        &mut self,
        instance: &str,
        state: AdminState,
        actor: Actor,
        expire_after_ms: Option<u64>,
    ) -> Result<Done, Rejection> {
        let command = set_admin(instance, state, actor, expire_after_ms);
        self.send(Command::SetAdminState(command)).result
    }

    pub(crate) fn protect(&mut self, scope: Scope, restore: Vec<(u64, u32)>) {
        self.set_protection(scope, ProtectionChange::Enter { restore }, node()).unwrap();
    }

    pub(crate) fn set_protection(
        &mut self,
        scope: Scope,
        change: ProtectionChange,
        actor: Actor,
    ) -> Result<Done, Rejection> {
        let command =
            SetProtection { scope, change, actor, evidence: "seen".into(), request_id: None };
        self.send(Command::SetProtection(command)).result
    }

    /// Names the nodes that probe.
    pub(crate) fn set_checkers(&mut self, nodes: &[u64]) -> Result<Done, Rejection> {
        let epoch = self.state.checkers().epoch() + 1;
        let set = SetCheckers { epoch, nodes: nodes.to_vec(), actor: node() };
        self.send(Command::SetCheckers(set)).result
    }

    /// What the checker of an instance found, as it should report it.
    pub(crate) fn finding(&self, instance: &str, check: &str, verdict: Verdict) -> Finding {
        let record = self.get(instance).unwrap();
        Finding {
            generation: record.generation,
            basis: self.state.basis(record),
            check: Label::parse("check_id", check).unwrap(),
            opinion: Opinion { verdict, ..Opinion::PASSING },
            evidence: "probed".into(),
        }
    }

    /// Whether the verdict was taken.
    pub(crate) fn report(&mut self, source: Source, item: Finding) -> Reported {
        let report = ReportHealth { source, items: vec![item], actor: node() };
        match self.send(Command::ReportHealth(report)).result {
            Ok(Done::Reported(done)) => done[0],
            other => panic!("a report came to {other:?}"),
        }
    }

    /// The verdict of the checker, which must count.
    pub(crate) fn judge(&mut self, instance: &str, check: &str, verdict: Verdict) {
        let item = self.finding(instance, check, verdict);
        let source = self.checker(instance);
        assert_eq!(self.report(source, item), Reported::Taken);
    }

    /// As whom the checker of an instance reports.
    pub(crate) fn checker(&self, instance: &str) -> Source {
        let checkers = self.state.checkers();
        let node = checkers.of(&name(instance)).expect("there are checkers");
        Source::Checker { node, epoch: checkers.epoch() }
    }

    /// Quick probes of this check have failed.
    pub(crate) fn fail_quickly(&mut self, instance: &str, check: &str) -> Reported {
        let item = self.finding(instance, check, Verdict::Failing);
        self.report(Source::Quick, item)
    }

    pub(crate) fn health(&self, instance: &str) -> (HealthStatus, Reason) {
        let record = self.get(instance).unwrap();
        (record.health, record.reason)
    }

    pub(crate) fn get(&self, instance: &str) -> Option<&Record> {
        self.state.instance(&name(instance)).map(|record| &**record)
    }

    /// This state after a snapshot and its installation.
    pub(crate) fn reloaded(&self) -> Self {
        Self { state: reload(&self.state), events: Vec::new() }
    }
}

pub(crate) fn set_admin(
    instance: &str,
    state: AdminState,
    actor: Actor,
    expire_after_ms: Option<u64>,
) -> SetAdminState {
    SetAdminState {
        name: name(instance),
        generation: 0,
        state,
        actor,
        reason: "".into(),
        expire_after: expire_after_ms.map(Duration::from_millis),
        request_id: None,
        expected_revision: None,
    }
}

pub(crate) fn parts(state: &State) -> Vec<Part> {
    state.parts().collect()
}

/// The state that the parts of `state` make.
pub(crate) fn reload(state: &State) -> State {
    let mut loader = Loader::new(1_000);
    for part in state.parts() {
        loader.add(part).unwrap();
    }
    loader.finish().unwrap()
}
