//! Random values of every core type that is stored. Names come from a small pool, so that commands meet.

use proptest::{collection::vec, option, prelude::*};
use rollcall_core::{
    Command, Outcome, Rejection, Stamped,
    check::{Check, Checks, CodeRange, HttpProbe, Method, Opinion, Probe, Verdict},
    command::{
        DeleteServicePolicy, Deregister, Deregistration, Done, EvictInstances, Eviction,
        ExpireLeases, Expired, Expiry, Figure, Finding, LeaseCheckpoint, ProtectionChange,
        PutServicePolicy, Quota, Register, Registered, Registration, ReportHealth, ReportSelf,
        Reported, RequestId, SelfReport, SetAdminState, SetCheckers, SetProtection, Source,
    },
    instance::{Endpoint, Locality, Spec, Transport, Ttl},
    name::{InstanceId, InstanceName, Label, ServiceName},
    policy::Policy,
    record::{Actor, AdminState, Reason, Scope},
    secret::ClusterSecret,
    signals::Utilization,
};
use std::{net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

fn label() -> impl Strategy<Value = Label> {
    "[a-z0-9]{1,3}".prop_map(|text| Label::parse("label", &text).unwrap())
}

pub(crate) fn service() -> impl Strategy<Value = ServiceName> {
    ("(default|eu)", "(web|db)").prop_map(|(n, s)| ServiceName::parse(&n, &s).unwrap())
}

pub(crate) fn name() -> impl Strategy<Value = InstanceName> {
    let id = "[A-C:.]{1}".prop_map(|text| InstanceId::parse(&text).unwrap());
    (service(), id).prop_map(|(service, id)| InstanceName { service, id })
}

fn text(max: usize) -> impl Strategy<Value = Arc<str>> {
    proptest::string::string_regex(&format!("[ -~äß漢]{{0,{}}}", max / 4))
        .unwrap()
        .prop_map(Into::into)
}

pub(crate) fn actor() -> impl Strategy<Value = Actor> {
    prop_oneof![
        text(40).prop_map(Actor::Owner),
        text(40).prop_map(Actor::Operator),
        text(40).prop_map(Actor::Registry),
    ]
}

fn endpoint(index: usize) -> impl Strategy<Value = Endpoint> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    let ip = prop_oneof![
        any::<u32>().prop_map(|v4| IpAddr::V4(v4.into())),
        any::<u128>().prop_map(|v6| IpAddr::V6(v6.into()))
    ];
    (ip, 1..=u16::MAX, transport, "(|h2|http/1[.]1)").prop_map(move |(ip, port, transport, app)| {
        let fallback = SocketAddr::from(([10, 0, 0, 1], port));
        let address = Endpoint::check_address("address", SocketAddr::new(ip, port));
        Endpoint {
            name: Label::parse("name", &format!("p{index}")).unwrap(),
            address: address.unwrap_or(fallback),
            transport,
            app_protocol: app.into(),
        }
    })
}

prop_compose! {
    pub(crate) fn spec()(
        endpoints in (endpoint(0), option::of(endpoint(1))),
        locality in (option::of(label()), option::of(label()), option::of(label())),
        weight in any::<u16>(),
        priority in any::<u16>(),
        version in "[0-9.]{0,8}",
        tags in vec("[a-z=é]{1,20}", 0..4),
        metadata in proptest::collection::btree_map("[a-z]{1,20}", text(100), 0..4),
        ttl in option::of(1_000_u64..=86_400_000),
        evict_after in option::of(span(86_400)),
        checks in checks(),
    ) -> Spec {
        let spec = Spec {
            endpoints: [Some(endpoints.0), endpoints.1].into_iter().flatten().collect(),
            locality: Locality { region: locality.0, zone: locality.1, sub_zone: locality.2 },
            weight,
            priority,
            version: version.into(),
            tags: tags.into_iter().map(Into::into).collect(),
            metadata: metadata.into_iter().map(|(k, v)| (k.into(), v)).collect(),
            ttl: ttl.map(|ms| Ttl::parse(Duration::from_millis(ms)).unwrap()),
            evict_after,
            checks: Checks::default(),
        };
        let fits = |check: &&Check| check.address(&spec).is_some();
        let checks = Checks::parse(checks.iter().filter(fits).cloned().collect()).unwrap();
        Spec { checks, ..spec }.checked().unwrap()
    }
}

/// Few ids, so that verdicts meet their checks.
fn check_id() -> impl Strategy<Value = Label> {
    "[a-c]".prop_map(|text| Label::parse("check_id", &text).unwrap())
}

fn probe() -> impl Strategy<Value = Probe> {
    let method = prop::sample::select(Method::ALL.to_vec());
    let headers = proptest::collection::btree_map("x-[a-z]{1,8}", "[ -~]{0,9}", 0..3);
    let range = (200..400_u16, 400..600_u16).prop_map(|(first, last)| CodeRange { first, last });
    let http = (method, "/[a-z/]{0,9}", headers, vec(range, 0..3), "[a-z]{0,4}", any::<bool>());
    let http = http.prop_map(|(method, path, headers, accepted, body, tls)| HttpProbe {
        method,
        path: path.into(),
        headers: headers.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        accepted,
        body_contains: if method == Method::Head { "".into() } else { body.into() },
        tls,
    });
    prop_oneof![
        any::<bool>().prop_map(|tls| Probe::Tcp { tls }),
        http.prop_map(Probe::Http),
        ("[a-z.]{0,9}", any::<bool>())
            .prop_map(|(service, tls)| Probe::Grpc { service: service.into(), tls }),
    ]
}

prop_compose! {
    fn check()(
        id in check_id(),
        interval in 1_000..3_600_000_u64,
        timeout in 10..1_000_u64,
        rise in 1..=100_u8,
        fall in 1..=100_u8,
        endpoint in option::of("p[0-2]"),
        advisory in any::<bool>(),
        grace in 0..3_600_000_u64,
        probe in probe(),
    ) -> Check {
        let (interval, timeout) = (Duration::from_millis(interval), Duration::from_millis(timeout));
        let startup_grace = Duration::from_millis(grace);
        let endpoint = endpoint.map(|name| Label::parse("endpoint", &name).unwrap());
        Check { id, interval, timeout, rise, fall, endpoint, advisory, startup_grace, probe }
    }
}

pub(crate) fn checks() -> impl Strategy<Value = Checks> {
    let parsed = vec(check(), 0..4).prop_map(|mut checks| {
        checks.sort_by(|a, b| a.id.cmp(&b.id));
        checks.dedup_by(|a, b| a.id == b.id);
        Checks::parse(checks).unwrap()
    });
    prop_oneof![1 => Just(Checks::default()), 1 => parsed]
}

fn opinion() -> impl Strategy<Value = Opinion> {
    let verdict = prop::sample::select(vec![Verdict::Starting, Verdict::Passing, Verdict::Failing]);
    (verdict, any::<bool>(), any::<bool>()).prop_map(|(verdict, flapping, hasty)| Opinion {
        verdict,
        flapping,
        hasty,
    })
}

/// Half of the nodes and epochs are such that the state takes the verdict.
fn health_commands() -> impl Strategy<Value = Command> {
    let item = (generation(), 0..20_u64, check_id(), opinion(), text(100)).prop_map(
        |(generation, basis, check, opinion, evidence)| Finding {
            generation,
            basis,
            check,
            opinion,
            evidence,
        },
    );
    let source = prop_oneof![
        3 => (1..3_u64, 0..3_u64).prop_map(|(node, epoch)| Source::Checker { node, epoch }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(node, epoch)| Source::Checker { node, epoch }),
        2 => Just(Source::Quick),
    ];
    let own = (generation(), option::of(text(100)))
        .prop_map(|(generation, degraded)| SelfReport { generation, degraded });
    let busy =
        (generation(), option::of(0..=Utilization::MAX)).prop_map(|(generation, percent)| Figure {
            generation,
            utilization: percent.and_then(Utilization::new),
        });
    let nodes = prop_oneof![vec(1..3_u64, 0..3), vec(any::<u64>(), 0..5)];
    prop_oneof![
        4 => (source, vec(item, 0..5), actor()).prop_map(|(source, items, actor)| {
            Command::ReportHealth(ReportHealth { source, items, actor })
        }),
        2 => (vec(own, 0..4), vec(busy, 0..4), actor()).prop_map(|(items, figures, actor)| {
            Command::ReportSelf(ReportSelf { items, figures, actor })
        }),
        1 => (0..4_u64, nodes, actor())
            .prop_map(|(epoch, nodes, actor)| {
                Command::SetCheckers(SetCheckers { epoch, nodes, actor })
            }),
    ]
}

fn span(max_seconds: u64) -> impl Strategy<Value = Duration> {
    (0..max_seconds, 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n))
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let span = || option::of(span(3_600));
    let share = || option::of(0.0..=1.0_f64);
    (span(), share(), span(), span(), share(), checks()).prop_map(
        |(dns, open, evict, unhealthy, share, checks)| Policy {
            dns_ttl: dns,
            fail_open_below: open,
            evict_after: evict,
            evict_unhealthy_after: unhealthy,
            protection_threshold: share,
            checks,
        },
    )
}

fn request_id() -> impl Strategy<Value = Option<RequestId>> {
    option::weighted(0.3, "[a-e]{1}".prop_map(|id| RequestId::parse(&id).unwrap()))
}

fn generation() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..12_u64, 1 => any::<u64>()]
}

fn epoch() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..3_u32, 1 => any::<u32>()]
}

pub(crate) fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::Cluster), service().prop_map(Scope::Service)]
}

pub(crate) fn reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(vec![
        Reason::Registered,
        Reason::Updated,
        Reason::TakenOver,
        Reason::Restored,
        Reason::LeaseExpired,
        Reason::HeartbeatLost,
        Reason::Deregistered,
        Reason::Removed,
        Reason::Evicted,
        Reason::AdminSet,
        Reason::AdminExpired,
        Reason::PolicyPut,
        Reason::PolicyDeleted,
        Reason::ProtectionEntered,
        Reason::ProtectionEnded,
        Reason::ProtectionReleased,
        Reason::ProtectionTimedOut,
        Reason::CheckPassed,
        Reason::CheckFailed,
        Reason::CheckFlaps,
        Reason::CheckSteady,
        Reason::ChecksChanged,
        Reason::StreamBroken,
        Reason::SelfDegraded,
        Reason::SelfRecovered,
    ])
}

fn admin_state() -> impl Strategy<Value = AdminState> {
    prop::sample::select(vec![AdminState::Enabled, AdminState::Draining, AdminState::Maintenance])
}

prop_compose! {
    fn registration()(
        name in name(),
        spec in spec(),
        nonce in prop_oneof![4 => 0..3_u128, 1 => any::<u128>()],
        held_generation in prop_oneof![4 => Just(0), 1 => generation()],
        expected_revision in option::weighted(0.1, 0..9_u64),
    ) -> Registration {
        Registration { name, spec: Arc::new(spec), nonce, held_generation, expected_revision }
    }
}

fn register() -> impl Strategy<Value = Command> {
    (vec(registration(), 1..4), actor(), request_id(), any::<bool>()).prop_map(
        |(items, actor, request_id, address_limit)| {
            Command::Register(Register { items, actor, request_id, address_limit })
        },
    )
}

fn deregister() -> impl Strategy<Value = Command> {
    let item = (name(), generation(), any::<bool>(), option::weighted(0.1, 0..9_u64)).prop_map(
        |(name, generation, allow_missing, expected_revision)| Deregistration {
            name,
            generation,
            allow_missing,
            expected_revision,
        },
    );
    (vec(item, 1..3), actor(), request_id(), text(100)).prop_map(
        |(items, actor, request_id, evidence)| {
            Command::Deregister(Deregister { items, actor, request_id, evidence })
        },
    )
}

prop_compose! {
    fn set_admin_state()(
        name in name(),
        generation in 0..3_u64,
        state in admin_state(),
        actor in actor(),
        reason in text(100),
        expire_after in option::of(span(1_000)),
        request_id in request_id(),
        expected_revision in option::weighted(0.1, 0..9_u64),
    ) -> Command {
        Command::SetAdminState(SetAdminState {
            name, generation, state, actor, reason, expire_after, request_id, expected_revision,
        })
    }
}

fn lease_commands() -> impl Strategy<Value = Command> {
    let checkpoint = (generation(), epoch(), option::of(any::<u32>())).prop_map(
        |(generation, lease_epoch, remaining_ms)| LeaseCheckpoint {
            generation,
            lease_epoch,
            remaining_ms,
        },
    );
    let expiry = (generation(), epoch(), any::<bool>(), text(100)).prop_map(
        |(generation, lease_epoch, overdue, evidence)| Expiry {
            generation,
            lease_epoch,
            overdue,
            evidence,
        },
    );
    let eviction = (generation(), epoch(), option::of(0..20_u64), text(100)).prop_map(
        |(generation, lease_epoch, unhealthy_since, evidence)| Eviction {
            generation,
            lease_epoch,
            unhealthy_since,
            evidence,
        },
    );
    let change = prop_oneof![
        vec((generation(), epoch()), 0..4).prop_map(|restore| ProtectionChange::Enter { restore }),
        reason().prop_map(ProtectionChange::Leave),
    ];
    prop_oneof![
        vec(checkpoint, 0..5).prop_map(Command::CheckpointLeases),
        (vec(expiry, 0..5), actor())
            .prop_map(|(items, actor)| Command::ExpireLeases(ExpireLeases { items, actor })),
        (vec(eviction, 0..5), actor())
            .prop_map(|(items, actor)| Command::EvictInstances(EvictInstances { items, actor })),
        (scope(), change, actor(), text(100), request_id()).prop_map(
            |(scope, change, actor, evidence, request_id)| {
                Command::SetProtection(SetProtection { scope, change, actor, evidence, request_id })
            }
        ),
    ]
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    let put = (service(), policy(), actor(), request_id()).prop_map(
        |(service, policy, actor, request_id)| {
            Command::PutServicePolicy(PutServicePolicy { service, policy, actor, request_id })
        },
    );
    let delete = (service(), actor(), request_id()).prop_map(|(service, actor, request_id)| {
        Command::DeleteServicePolicy(DeleteServicePolicy { service, actor, request_id })
    });
    prop_oneof![
        6 => register(),
        2 => deregister(),
        2 => set_admin_state(),
        4 => lease_commands(),
        4 => health_commands(),
        1 => put,
        1 => delete,
        1 => Just(Command::AdvanceTime),
        1 => any::<u128>().prop_map(|bits| Command::PutClusterSecret(ClusterSecret::new(bits))),
    ]
}

pub(crate) fn stamped() -> impl Strategy<Value = Stamped> {
    let advance_ms = prop_oneof![4 => 0..20_000_u64, 1 => 0..700_000_u64];
    (0..1_u64 << 42, advance_ms, command()).prop_map(|(wall_ms, advance_ms, command)| Stamped {
        wall_ms,
        advance_ms,
        command,
    })
}

/// One of each refusal.
pub(crate) fn rejections() -> Vec<Rejection> {
    let name = || InstanceName::parse("eu", "web", "a").unwrap();
    let quota = |quota| Rejection::QuotaExceeded { quota, limit: 7, at: " for 10.0.0.1".into() };
    let all = vec![
        Rejection::Fenced { name: name(), generation: 7, holder: "10.0.0.1:80".into() },
        Rejection::Deregistered { name: name(), reason: "removed by operator".into() },
        Rejection::RevisionMismatch { name: name(), expected: 3, current: 4 },
        Rejection::RequestIdReused { id: "r".into(), age_ms: 9 },
        Rejection::InstanceNotFound { name: name() },
        quota(Quota::Instances),
        quota(Quota::Services),
        quota(Quota::InstancesPerService),
        quota(Quota::InstancesPerAddress),
        quota(Quota::Overrides),
        Rejection::InvalidBatch { problem: "a batch of 0: 1 to 1000 are allowed".into() },
        Rejection::HeldByOperator {
            name: name(),
            state: "DRAINING".into(),
            actor: "operator".into(),
        },
        Rejection::CheckersChanged { epoch: 3, current: 4 },
        Rejection::NotProtected { scope: Scope::Service(name().service) },
    ];
    for rejection in &all {
        // Does not compile until a new refusal is in the list.
        match rejection {
            Rejection::Fenced { .. }
            | Rejection::Deregistered { .. }
            | Rejection::RevisionMismatch { .. }
            | Rejection::RequestIdReused { .. }
            | Rejection::InstanceNotFound { .. }
            | Rejection::QuotaExceeded { .. }
            | Rejection::InvalidBatch { .. }
            | Rejection::HeldByOperator { .. }
            | Rejection::CheckersChanged { .. }
            | Rejection::NotProtected { .. } => {}
        }
    }
    all
}

pub(crate) fn outcome() -> impl Strategy<Value = Outcome> {
    let registered = (any::<u64>(), any::<u32>(), any::<u64>(), any::<bool>()).prop_map(
        |(generation, lease_epoch, revision, changed)| Registered {
            generation,
            lease_epoch,
            revision,
            changed,
        },
    );
    let expired = prop::sample::select(vec![
        Expired::Expired,
        Expired::Held,
        Expired::Suspended,
        Expired::Superseded,
        Expired::Lost,
    ]);
    let reported =
        prop::sample::select(vec![Reported::Taken, Reported::Unchanged, Reported::Superseded]);
    let result = prop_oneof![
        vec(registered, 0..5).prop_map(|items| Ok(Done::Registered(items))),
        vec(any::<bool>(), 0..5).prop_map(|items| Ok(Done::Deregistered(items))),
        vec(expired, 0..5).prop_map(|items| Ok(Done::Expired(items))),
        vec(reported, 0..5).prop_map(|items| Ok(Done::Reported(items))),
        any::<u32>().prop_map(|count| Ok(Done::Evicted(count))),
        Just(Ok(Done::Applied)),
        prop::sample::select(rejections()).prop_map(Err),
    ];
    (any::<u64>(), result).prop_map(|(revision, result)| Outcome { revision, result })
}
