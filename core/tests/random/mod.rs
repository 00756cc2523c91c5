//! Random commands over few names, so that they meet: most make sense on the state they find, some are hostile.

use proptest::{collection::vec, option, prelude::*, sample::select};
use rollcall_core::{
    Command, Outcome, Rejection, State,
    check::{Opinion, Verdict},
    command::{
        DeleteServicePolicy, Deregister, Deregistration, Done, EvictInstances, Eviction,
        ExpireLeases, Expired, Expiry, Figure, Finding, LeaseCheckpoint, ProtectionChange,
        PutServicePolicy, Register, Registration, ReportHealth, ReportSelf, Reported, RequestId,
        SelfReport, SetAdminState, SetCheckers, SetProtection, Source,
    },
    instance::Spec,
    name::{InstanceName, Label, ServiceName},
    policy::Policy,
    record::{Actor, AdminState, Reason, Scope},
    signals::Utilization,
};
use std::{sync::Arc, time::Duration};

/// One command, when it comes, and whether one of two nodes is loaded from a snapshot before.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) reload: bool,
    pub(crate) advance_ms: u64,
    pub(crate) input: Input,
    request: Option<u8>,
    by: u8,
}

/// What a command is made of; what refers to a lease is settled when the state is known.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    Register(Vec<Item>),
    Deregister(Vec<Gone>),
    SetAdmin(u8, AdminState, Option<u64>, Which, Option<Expect>),
    Policy(u8, Option<u64>, u8),
    Report(Vec<Found>),
    Say(u8, Which, bool),
    Checkers(u8, bool),
    Checkpoint(Vec<(u8, Which, Option<u32>)>),
    Expire(Vec<(u8, Which)>, bool),
    Evict(Vec<(u8, Which)>, bool),
    Protect(u8, Vec<(u8, Which)>),
    Unprotect(u8, Reason),
    Idle,
}

/// What somebody found about which check of which instance, and whether it rests on what stands.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    name: u8,
    which: Which,
    check: u8,
    opinion: Opinion,
    current: bool,
}

/// Which instance, by which generation, whether it may be missing, what is expected.
type Gone = (u8, Which, bool, Option<Expect>);

#[derive(Debug, Clone)]
pub(crate) struct Item {
    name: u8,
    nonce: u128,
    host: u8,
    ttl: u64,
    checks: u8,
    held: Which,
    expect: Option<Expect>,
}

/// A generation and epoch, relative to what stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    Zero,
    Standing,
    OldEpoch,
    Old,
    Unknown,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    Absent,
    Standing,
    Wrong,
}

/// Checks that instances and policies have.
const CHECKS: [&[&str]; 7] =
    [&[], &["c"], &["c", "d~"], &["c", "e"], &["d~"], &["c~", "e"], &["c*", "d"]];
const CHECK_IDS: [&str; 3] = ["c", "d", "e"];

/// Names that commands are about.
const NAMES: [&str; 6] = ["web/a", "web/b", "web/c", "api/a", "ops:web/a", "ops:job/a"];

pub(crate) fn services() -> Vec<ServiceName> {
    NAMES.iter().map(|text| name(text).service).collect()
}

pub(crate) fn names() -> Vec<InstanceName> {
    NAMES.iter().map(|text| name(text)).collect()
}

fn name(text: &str) -> InstanceName {
    let (service, id) = text.split_once('/').unwrap();
    let (namespace, service) = service.split_once(':').unwrap_or(("", service));
    InstanceName::parse(namespace, service, id).unwrap()
}

fn named(index: u8) -> InstanceName {
    name(NAMES[usize::from(index) % NAMES.len()])
}

pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..most)
}

fn step() -> impl Strategy<Value = Step> {
    let advance = prop_oneof![
        300 => Just(0_u64),
        150 => 0..5_000_u64,
        45 => 60_000..700_000_u64,
        1 => Just(u64::MAX),
    ];
    (prop::bool::weighted(0.1), advance, input(), option::weighted(0.3, 0..12_u8), 0..4_u8)
        .prop_map(|(reload, advance_ms, input, request, by)| Step {
            reload,
            advance_ms,
            input,
            request,
            by,
        })
}

fn input() -> impl Strategy<Value = Input> {
    let index = || 0..6_u8;
    let leases = || vec((index(), which()), 0..4);
    let until = prop_oneof![Just(1_000_u64), Just(90_000), Just(u64::MAX)];
    let states = select(vec![AdminState::Enabled, AdminState::Draining, AdminState::Maintenance]);
    let ends = select(vec![
        Reason::ProtectionEnded,
        Reason::ProtectionReleased,
        Reason::ProtectionTimedOut,
    ]);
    let missed = vec((index(), which(), option::of(0..9_000_u32)), 0..4);
    let gone = vec((index(), which(), any::<bool>(), expect()), 0..3);
    prop_oneof![
        12 => vec(item(), 0..4).prop_map(Input::Register),
        4 => gone.prop_map(Input::Deregister),
        5 => (index(), states, option::of(until), which(), expect())
            .prop_map(|(name, state, until, which, expect)| {
                Input::SetAdmin(name, state, until, which, expect)
            }),
        2 => (index(), option::of(0..3_u64), 0..7_u8)
            .prop_map(|(name, wait, checks)| Input::Policy(name, wait, checks)),
        14 => vec(found(), 0..4).prop_map(Input::Report),
        2 => (index(), which(), any::<bool>()).prop_map(|(name, which, bad)| Input::Say(name, which, bad)),
        3 => (1..4_u8, prop::bool::weighted(0.8)).prop_map(|(nodes, next)| Input::Checkers(nodes, next)),
        3 => missed.prop_map(Input::Checkpoint),
        8 => (leases(), prop::bool::weighted(0.3)).prop_map(|(leases, overdue)| Input::Expire(leases, overdue)),
        5 => (leases(), prop::bool::weighted(0.3)).prop_map(|(leases, unhealthy)| Input::Evict(leases, unhealthy)),
        2 => (index(), leases()).prop_map(|(scope, restore)| Input::Protect(scope, restore)),
        2 => (index(), ends).prop_map(|(scope, reason)| Input::Unprotect(scope, reason)),
        1 => Just(Input::Idle),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let ttl = prop_oneof![6 => Just(10_u64), 1 => Just(20), 1 => Just(0)];
    let checks =
        prop_oneof![4 => Just(0_u8), 3 => Just(1), 2 => Just(2), 2 => Just(3), 1 => Just(4)];
    (0..6_u8, 1..4_u128, 1..4_u8, ttl, checks, which(), expect()).prop_map(
        |(name, nonce, host, ttl, checks, held, expect)| Item {
            name,
            nonce,
            host,
            ttl,
            checks,
            held,
            expect,
        },
    )
}

fn found() -> impl Strategy<Value = Found> {
    let verdict = prop_oneof![
        1 => Just(Verdict::Starting),
        6 => Just(Verdict::Passing),
        6 => Just(Verdict::Failing),
    ];
    let opinion = (verdict, prop::bool::weighted(0.4), prop::bool::weighted(0.3))
        .prop_map(|(verdict, flapping, hasty)| Opinion { verdict, flapping, hasty });
    (0..6_u8, which(), 0..3_u8, opinion, prop::bool::weighted(0.9)).prop_map(
        |(name, which, check, opinion, current)| Found { name, which, check, opinion, current },
    )
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![
        4 => Just(Which::Zero),
        12 => Just(Which::Standing),
        3 => Just(Which::OldEpoch),
        2 => Just(Which::Old),
        1 => Just(Which::Unknown),
    ]
}

fn expect() -> impl Strategy<Value = Option<Expect>> {
    let some = prop_oneof![
        Just(Some(Expect::Absent)),
        Just(Some(Expect::Standing)),
        Just(Some(Expect::Wrong))
    ];
    prop_oneof![8 => Just(None), 2 => some]
}

impl Which {
    fn of(self, name: u8, state: &State) -> (u64, u32) {
        let record = state.instance(&named(name));
        let (generation, epoch) = record.map_or((1, 1), |r| (r.generation, r.lease_epoch));
        match self {
            Self::Zero => (0, 0),
            Self::Standing => (generation, epoch),
            Self::OldEpoch => (generation, epoch.saturating_sub(1)),
            Self::Old => (generation.saturating_sub(1), epoch),
            Self::Unknown => (u64::MAX, u32::MAX),
        }
    }
}

impl Expect {
    fn of(self, name: u8, state: &State) -> u64 {
        let standing = state.instance(&named(name)).map_or(0, |record| record.revision);
        match self {
            Self::Absent => 0,
            Self::Standing => standing,
            Self::Wrong => standing.wrapping_add(1),
        }
    }
}

impl Step {
    /// The command that this step means on `state`.
    pub(crate) fn command(&self, state: &State) -> Command {
        let (actor, request_id) = (self.actor(), self.request_id());
        match &self.input {
            Input::Register(items) => Command::Register(Register {
                items: items.iter().map(|item| item.registration(state)).collect(),
                actor,
                request_id,
                address_limit: true,
            }),
            Input::Deregister(items) => {
                let items = items.iter().map(|item| deregistration(item, state)).collect();
                Command::Deregister(Deregister { items, actor, request_id, evidence: "".into() })
            }
            Input::SetAdmin(name, to, until, which, expect) => {
                Command::SetAdminState(SetAdminState {
                    name: named(*name),
                    generation: which.of(*name, state).0,
                    state: *to,
                    actor,
                    reason: "".into(),
                    expire_after: until.map(Duration::from_millis),
                    request_id,
                    expected_revision: expect.map(|expect| expect.of(*name, state)),
                })
            }
            Input::Report(found) => self.report(found, state),
            Input::Say(name, which, bad) => {
                let degraded = bad.then(|| "busy".into());
                let generation = which.of(*name, state).0;
                let items = vec![SelfReport { generation, degraded }];
                let utilization = Utilization::new(50 * u32::from(*bad));
                let figures = vec![Figure { generation, utilization }];
                Command::ReportSelf(ReportSelf { items, figures, actor })
            }
            Input::Checkers(nodes, next) => {
                let epoch = state.checkers().epoch() + u64::from(*next);
                let nodes = [1, 2].into_iter().filter(|node| nodes & node > 0).map(u64::from);
                Command::SetCheckers(SetCheckers { epoch, nodes: nodes.collect(), actor })
            }
            Input::Policy(name, None, _) => {
                let service = named(*name).service;
                Command::DeleteServicePolicy(DeleteServicePolicy { service, actor, request_id })
            }
            Input::Policy(name, Some(wait), checks) => {
                let evict_after = Some(Duration::from_secs(*wait));
                let policy = Policy {
                    evict_after,
                    evict_unhealthy_after: evict_after.filter(|_| *wait > 0),
                    checks: super::given::checks(CHECKS[usize::from(*checks)]),
                    ..Policy::default()
                };
                let service = named(*name).service;
                Command::PutServicePolicy(PutServicePolicy { service, policy, actor, request_id })
            }
            Input::Checkpoint(_) | Input::Expire(..) | Input::Evict(..) => self.on_leases(state),
            Input::Protect(index, restore) => {
                let restore = leases(restore, state);
                self.protection(*index, ProtectionChange::Enter { restore })
            }
            Input::Unprotect(index, reason) => {
                self.protection(*index, ProtectionChange::Leave(*reason))
            }
            Input::Idle => Command::AdvanceTime,
        }
    }

    /// What the leader decides on leases.
    fn on_leases(&self, state: &State) -> Command {
        let actor = self.actor();
        match &self.input {
            Input::Checkpoint(items) => {
                let item = |(name, which, remaining_ms): &(u8, Which, Option<u32>)| {
                    let (generation, lease_epoch) = which.of(*name, state);
                    LeaseCheckpoint { generation, lease_epoch, remaining_ms: *remaining_ms }
                };
                Command::CheckpointLeases(items.iter().map(item).collect())
            }
            Input::Expire(names, overdue) => {
                let evidence: Arc<str> = "".into();
                let item = |(generation, lease_epoch)| Expiry {
                    generation,
                    lease_epoch,
                    overdue: *overdue,
                    evidence: evidence.clone(),
                };
                let items = leases(names, state).into_iter().map(item).collect();
                Command::ExpireLeases(ExpireLeases { items, actor })
            }
            Input::Evict(names, unhealthy) => {
                let evidence: Arc<str> = "".into();
                let item = |(generation, lease_epoch)| Eviction {
                    generation,
                    lease_epoch,
                    unhealthy_since: unhealthy.then(|| unhealthy_since(state, generation)),
                    evidence: evidence.clone(),
                };
                let items = leases(names, state).into_iter().map(item).collect();
                Command::EvictInstances(EvictInstances { items, actor })
            }
            _ => Command::AdvanceTime,
        }
    }

    /// Of whom it comes is decided by the first item; that it rests on something old, by each.
    fn report(&self, found: &[Found], state: &State) -> Command {
        let checkers = state.checkers();
        let source = match found.first() {
            Some(first) if first.opinion.hasty => Source::Quick,
            Some(first) => {
                let node = checkers.of(&named(first.name)).unwrap_or(1);
                let epoch = checkers.epoch() + u64::from(self.by == 0 && !first.current);
                Source::Checker { node, epoch }
            }
            None => Source::Quick,
        };
        let item = |found: &Found| {
            let record = state.instance(&named(found.name));
            let basis = record.map_or(0, |record| state.basis(record));
            let check = CHECK_IDS[usize::from(found.check)];
            Finding {
                generation: found.which.of(found.name, state).0,
                basis: if found.current { basis } else { basis.saturating_sub(1) },
                check: Label::parse("check_id", check).unwrap(),
                opinion: found.opinion,
                evidence: "".into(),
            }
        };
        let items = found.iter().map(item).collect();
        Command::ReportHealth(ReportHealth { source, items, actor: self.actor() })
    }

    fn protection(&self, index: u8, change: ProtectionChange) -> Command {
        let scope = match index {
            0 => Scope::Cluster,
            _ => Scope::Service(named(index).service),
        };
        let (actor, request_id) = (self.actor(), self.request_id());
        let evidence = "".into();
        Command::SetProtection(SetProtection { scope, change, actor, evidence, request_id })
    }

    fn request_id(&self) -> Option<RequestId> {
        self.request.map(|request| RequestId::parse(&format!("r{request}")).unwrap())
    }

    fn actor(&self) -> Actor {
        match self.by {
            0 => Actor::Operator("ann".into()),
            1 => Actor::Registry("n1".into()),
            _ => Actor::Owner("10.0.0.9".into()),
        }
    }
}

fn unhealthy_since(state: &State, generation: u64) -> u64 {
    let record = state.by_generation(generation);
    let heard = record.and_then(|record| record.signals.heard());
    heard.and_then(|heard| heard.unhealthy_since).unwrap_or(1)
}

fn leases(names: &[(u8, Which)], state: &State) -> Vec<(u64, u32)> {
    names.iter().map(|(name, which)| which.of(*name, state)).collect()
}

fn deregistration(item: &Gone, state: &State) -> Deregistration {
    let (name, which, allow_missing, expect) = item;
    Deregistration {
        name: named(*name),
        generation: which.of(*name, state).0,
        allow_missing: *allow_missing,
        expected_revision: expect.map(|expect| expect.of(*name, state)),
    }
}

impl Item {
    fn registration(&self, state: &State) -> Registration {
        let spec = super::given::spec(&format!("10.0.0.{}:80", self.host), self.ttl);
        let checks = super::given::checks(CHECKS[usize::from(self.checks)]);
        Registration {
            name: named(self.name),
            spec: Arc::new(Spec { checks, ..spec }.checked().unwrap()),
            nonce: self.nonce,
            held_generation: self.held.of(self.name, state).0,
            expected_revision: self.expect.map(|expect| expect.of(self.name, state)),
        }
    }
}

pub(crate) fn has_request_id(command: &Command) -> bool {
    match command {
        Command::Register(c) => c.request_id.is_some(),
        Command::Deregister(c) => c.request_id.is_some(),
        Command::SetAdminState(c) => c.request_id.is_some(),
        Command::PutServicePolicy(c) => c.request_id.is_some(),
        Command::DeleteServicePolicy(c) => c.request_id.is_some(),
        Command::SetProtection(c) => c.request_id.is_some(),
        Command::PutClusterSecret(_)
        | Command::CheckpointLeases(_)
        | Command::ExpireLeases(_)
        | Command::EvictInstances(_)
        | Command::ReportHealth(_)
        | Command::ReportSelf(_)
        | Command::SetCheckers(_)
        | Command::AdvanceTime => false,
    }
}

/// What random commands must reach for the properties to mean something.
pub(crate) const KINDS: &[&str] = &[
    "registered",
    "updated",
    "taken_over",
    "restored",
    "lease_expired",
    "heartbeat_lost",
    "deregistered",
    "removed",
    "evicted",
    "admin_set",
    "admin_expired",
    "policy_put",
    "policy_deleted",
    "protection_entered",
    "protection_ended",
    "protection_released",
    "Fenced",
    "Deregistered",
    "RevisionMismatch",
    "RequestIdReused",
    "InstanceNotFound",
    "InvalidBatch",
    "HeldByOperator",
    "NotProtected",
    "check_passed",
    "check_failed",
    "check_flaps",
    "check_steady",
    "checks_changed",
    "stream_broken",
    "self_degraded",
    "self_recovered",
    "CheckersChanged",
    "Held",
    "Lost",
    "Taken",
    "Unchanged",
    "Suspended",
    "Superseded",
];

pub(crate) fn kind(outcome: &Outcome) -> String {
    let kind = match &outcome.result {
        Err(Rejection::Fenced { .. }) => "Fenced",
        Err(Rejection::Deregistered { .. }) => "Deregistered",
        Err(Rejection::RevisionMismatch { .. }) => "RevisionMismatch",
        Err(Rejection::RequestIdReused { .. }) => "RequestIdReused",
        Err(Rejection::InstanceNotFound { .. }) => "InstanceNotFound",
        Err(Rejection::QuotaExceeded { .. }) => "QuotaExceeded",
        Err(Rejection::InvalidBatch { .. }) => "InvalidBatch",
        Err(Rejection::HeldByOperator { .. }) => "HeldByOperator",
        Err(Rejection::NotProtected { .. }) => "NotProtected",
        Err(Rejection::CheckersChanged { .. }) => "CheckersChanged",
        Ok(Done::Reported(done)) if done.contains(&Reported::Taken) => "Taken",
        Ok(Done::Reported(done)) if done.contains(&Reported::Unchanged) => "Unchanged",
        Ok(Done::Expired(done)) if done.contains(&Expired::Lost) => "Lost",
        Ok(Done::Expired(done)) if done.contains(&Expired::Held) => "Held",
        Ok(Done::Expired(done)) if done.contains(&Expired::Suspended) => "Suspended",
        Ok(Done::Expired(done)) if done.contains(&Expired::Superseded) => "Superseded",
        Ok(_) => "done",
    };
    kind.to_owned()
}
