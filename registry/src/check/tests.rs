//! The checks of a real node whose probes go into the void: what is asked at once, what waits, and what is let go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{
    now::{How, Wanted},
    probe::Report,
    *,
};
use crate::{
    api::ApiSettings,
    dns::DnsSettings,
    lease::{LeaseSettings, Leases},
    net::{BoxFuture, Connection, Datagrams, Listener, Net, TokioNet},
    node::{Entry, Listen, Node, NodeOptions},
    raft::RaftSettings,
};
use rollcall_core::{
    Command, Outcome,
    check::{Check, Checks as Declared, Opinion, Probe},
    command::{Done, PutServicePolicy, Register, Registration, Reported},
    instance::{Endpoint, Spec, Transport, Ttl},
    name::{InstanceName, Label, ServiceName},
    policy::Policy,
    record::{
        HealthStatus::{self, Expired, Healthy, Unhealthy},
        Record,
    },
    signals::{Heard, Signals, Standing},
};
use std::{
    io,
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicUsize},
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Longest wait for anything: a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// A network in which everything in 10/8 opens at once, or never while it is told to be silent.
#[derive(Debug, Default, Clone)]
struct Void(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    silent: AtomicBool,
    /// Connections that are being opened in silence: now, and at most.
    open: AtomicUsize,
    most: AtomicUsize,
    /// Every address that was connected to, but for those of the node itself.
    tried: Mutex<Vec<SocketAddr>>,
}

impl Void {
    fn falls_silent(&self) {
        self.0.silent.store(true, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    fn tried(&self) -> usize {
        self.0.tried.lock().unwrap().len()
    }
}

/// Counts down when a connection that never opens is given up.
struct Opening(Void);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Net for Void {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        TokioNet.listen(address)
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Connection>> {
        if !matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[0] == 10) {
            return TokioNet.connect(address);
        }
        self.0.tried.lock().unwrap().push(address);
        if !self.0.silent.load(Ordering::SeqCst) {
            let (near, _far) = tokio::io::duplex(64);
            return Box::pin(std::future::ready(Ok(Connection::new(near, None, Some(address)))));
        }
        let open = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(open, Ordering::SeqCst);
        let opening = Opening(self.clone());
        Box::pin(async move {
            let _opening = opening;
            std::future::pending().await
        })
    }

    fn bind_udp(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        TokioNet.bind_udp(address)
    }

    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        TokioNet.addresses()
    }
}

/// One node that leads itself.
struct Rig {
    node: Node,
    void: Void,
    _dir: TempDir,
}

impl Rig {
    async fn new() -> Self {
        let void = Void::default();
        let host = Host { net: Arc::new(void.clone()), ..Host::system(1) };
        let dir = TempDir::new().unwrap();
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let options = NodeOptions {
            name: "node".into(),
            data_dir: dir.path().to_owned(),
            listen: Listen { grpc: free, http: free, dns: free, peer: free },
            advertise: None,
            entry: Entry { bootstrap: true, ..Entry::default() },
            raft: RaftSettings::default(),
            // Many are lost at once here, which it would hold back.
            lease: LeaseSettings { protection: false, ..LeaseSettings::default() },
            check: CheckSettings::default(),
            api: ApiSettings::default(),
            dns: DnsSettings::default(),
            shutdown_grace: Duration::from_secs(5),
        };
        let node = Node::start(options, host).await.unwrap();
        timeout(DEADLINE, node.ready()).await.unwrap();
        let rig = Self { node, void, _dir: dir };
        rig.eventually("it probes", || !rig.state().checkers().nodes().is_empty()).await;
        rig
    }

    fn checks(&self) -> &Checks {
        self.node.api().checks()
    }

    fn leases(&self) -> &Leases {
        self.node.api().leases()
    }

    fn state(&self) -> State {
        self.node.api().view().seen().state.clone()
    }

    async fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let wait = async {
            while !holds() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(timeout(DEADLINE, wait).await.is_ok(), "{what}: not within {DEADLINE:?}");
    }

    async fn send(&self, command: Command) -> Arc<Outcome> {
        let outcome = self.node.replica().submit(command, Duration::from_secs(10)).await.unwrap();
        assert!(outcome.result.is_ok(), "{outcome:?}");
        outcome
    }

    /// Registers `web/i<number>`, each at an address of its own, with a check that is probed once and then hardly
    /// ever. Returns the generations.
    async fn register(&self, count: u16, ttl: Option<u64>, nonce: u128) -> Vec<u64> {
        let items = (0..count).map(|number| Registration {
            name: name(number),
            spec: Arc::new(spec(number, ttl)),
            nonce,
            held_generation: 0,
            expected_revision: None,
        });
        let actor = Actor::Owner("".into());
        let register =
            Register { items: items.collect(), actor, request_id: None, address_limit: false };
        let outcome = self.send(Command::Register(register)).await;
        match &outcome.result {
            Ok(Done::Registered(done)) => done.iter().map(|done| done.generation).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn enlist(&self, count: u16, ttl: Option<u64>) -> Vec<u64> {
        let generations = self.register(count, ttl, 1).await;
        self.eventually("all pass", || self.count(Healthy) == usize::from(count)).await;
        generations
    }

    /// How many probes of the schedule have begun in all. The grid may bring one at any time.
    fn scheduled(&self) -> usize {
        let stats = self.checks().stats();
        let begun = stats.probes.load(Ordering::Relaxed) + stats.running.load(Ordering::Relaxed);
        usize::try_from(begun).unwrap()
    }

    /// Connections that were being opened at a time, as far as they were not of the schedule since there were `before`.
    fn is_most(&self, expected: usize, before: usize) {
        let (most, extra) = (self.void.most(), self.scheduled().saturating_sub(before));
        assert!((expected..=expected + extra).contains(&most), "{most}, {extra} by schedule");
    }

    fn count(&self, health: HealthStatus) -> usize {
        let state = self.state();
        let service = state.service(&ServiceName::parse("", "web").unwrap()).cloned();
        let records = service.iter().flat_map(|service| service.instances.values());
        records.filter(|record| record.health == health).count()
    }
}

fn name(number: u16) -> InstanceName {
    InstanceName::parse("", "web", &format!("i{number}")).unwrap()
}

fn check() -> Check {
    let hour = Duration::from_secs(3_600);
    Check {
        interval: hour,
        startup_grace: hour,
        ..Check::new(check_id(), Probe::Tcp { tls: false })
    }
}

fn check_id() -> Label {
    Label::parse("check_id", "c").unwrap()
}

fn spec(number: u16, ttl: Option<u64>) -> Spec {
    let [high, low] = number.to_be_bytes();
    let endpoint = Endpoint {
        name: Label::parse("name", "http").unwrap(),
        address: SocketAddr::from(([10, 0, high, low], 80)),
        transport: Transport::Tcp,
        app_protocol: "".into(),
    };
    let spec = Spec {
        ttl: ttl.map(|ttl| Ttl::parse(Duration::from_secs(ttl)).unwrap()),
        evict_after: Some(Duration::from_secs(3_600)),
        checks: Declared::parse(vec![check()]).unwrap(),
        ..Spec::new(vec![endpoint]).unwrap()
    };
    spec.checked().unwrap()
}

fn wanted(generations: &[u64]) -> Vec<Wanted> {
    let wanted = |generation: &u64| Wanted { generation: *generation, check: check_id() };
    generations.iter().map(wanted).collect()
}

const ONCE: How = How { rounds: 1, gap: Duration::ZERO, timeout: Duration::from_secs(2) };

// === Bounds ===

#[tokio::test]
async fn all_of_one_request_is_probed_at_once() {
    let rig = Rig::new().await;
    let generations = rig.enlist(64, None).await;
    rig.void.falls_silent();
    let before = rig.scheduled();
    let mut rounds = rig.checks().probe_now(wanted(&generations), ONCE);
    let seen = timeout(DEADLINE, rounds.next()).await.unwrap().unwrap();
    // 16 at a time would take four timeouts, for which nobody waits.
    rig.is_most(64, before);
    let failed =
        |(_, report): &(usize, Option<Report>)| report.as_ref().is_some_and(|it| !it.passed());
    assert!(seen.len() == 64 && seen.iter().all(failed), "{seen:?}");
    rig.node.shutdown().await;
}

#[tokio::test]
async fn at_most_512_probes_run_beside_the_schedule_and_the_others_say_so() {
    let rig = Rig::new().await;
    let generations = rig.enlist(640, None).await;
    rig.void.falls_silent();
    let (before, tried) = (rig.scheduled(), rig.void.tried());
    let requests = generations.chunks(64).map(|some| {
        let mut rounds = rig.checks().probe_now(wanted(some), ONCE);
        async move { rounds.next().await.unwrap() }
    });
    let all = futures_util::future::join_all(requests);
    let seen: Vec<_> = timeout(DEADLINE, all).await.unwrap().into_iter().flatten().collect();
    rig.is_most(BESIDE_MAX, before);
    assert!(rig.void.tried() - tried <= BESIDE_MAX + rig.scheduled().saturating_sub(before));
    assert_eq!(seen.iter().filter(|(_, report)| report.is_none()).count(), 640 - BESIDE_MAX);
    rig.node.shutdown().await;
}

#[tokio::test]
async fn at_most_512_probes_of_the_schedule_run_at_a_time_and_all_have_their_turn() {
    let rig = Rig::new().await;
    rig.void.falls_silent();
    rig.register(700, None, 1).await;
    rig.eventually("all were probed", || {
        let tried: BTreeSet<SocketAddr> =
            rig.void.0.tried.lock().unwrap().iter().copied().collect();
        tried.len() == 700
    })
    .await;
    assert_eq!(rig.void.most(), 512);
    rig.node.shutdown().await;
}

#[tokio::test]
async fn hundreds_that_fall_silent_at_once_are_asked_about_in_waves_and_expire() {
    let rig = Rig::new().await;
    // Long enough for all to pass once; nobody beats.
    rig.enlist(400, Some(6)).await;
    let before = rig.scheduled();
    rig.void.falls_silent();
    rig.eventually("all are expired", || rig.count(Expired) == 400).await;
    rig.is_most(256, before);
    let stats = rig.leases().stats();
    assert_eq!(stats.quick_dead.load(Ordering::Relaxed), 400);
    rig.node.shutdown().await;
}

#[tokio::test]
async fn reports_of_broken_streams_beyond_the_bound_are_dropped() {
    let rig = Rig::new().await;
    let handles = rig.enlist(2, Some(600)).await;
    rig.void.falls_silent();
    // Nothing else runs on this thread until the next await.
    for _ in 0..crate::lease::quick::BROKEN_MAX {
        rig.leases().stream_broken(vec![u64::MAX]);
    }
    rig.leases().stream_broken(vec![handles[0]]);
    assert_eq!(rig.leases().stats().broken_streams.load(Ordering::Relaxed), 1_025);
    // Once there is room again: the second is asked about, the first never was. It may be told until there is.
    rig.eventually("the second is found dead", || {
        rig.leases().stream_broken(vec![handles[1]]);
        rig.count(Unhealthy) == 1
    })
    .await;
    let first = SocketAddr::from(([10, 0, 0, 0], 80));
    let probes = rig.void.0.tried.lock().unwrap().iter().filter(|it| **it == first).count();
    assert!(probes <= 2, "when it was registered, and by its schedule: {probes}");
    assert_eq!(rig.state().by_generation(handles[0]).unwrap().health, Healthy);
    rig.node.shutdown().await;
}

// === What is let go ===

#[tokio::test]
async fn a_generation_that_was_taken_over_is_probed_no_more() {
    let rig = Rig::new().await;
    let old = rig.enlist(1, Some(600)).await;
    let new = rig.register(1, Some(600), 2).await;
    assert_ne!(old, new);
    rig.eventually("only the new one is probed", || rig.checks().book().generations() == new).await;
    rig.node.shutdown().await;
}

#[tokio::test]
async fn a_generation_of_which_no_news_came_is_dropped_when_it_is_due() {
    let rig = Rig::new().await;
    let old = rig.register(1, Some(600), 1).await[0];
    let before = rig.state();
    let new = rig.register(1, Some(600), 2).await;
    rig.eventually("only the new one is probed", || rig.checks().book().generations() == new).await;
    let mut record = Record::clone(before.by_generation(old).unwrap());
    let check = check_id();
    let standings = vec![Standing { check, opinion: Opinion::STARTING }];
    record.signals = Signals::of(Heard { standings, ..Heard::default() });
    rig.checks().book().take_up(&before, &record, rig.checks().now());
    rig.checks().0.wake.notify_one();
    rig.eventually("it is gone", || rig.checks().book().generations() == new).await;
    rig.node.shutdown().await;
}

#[tokio::test]
async fn a_lost_lease_and_a_removal_of_what_is_gone_are_let_go() {
    let rig = Rig::new().await;
    let gone = 999_999;
    let table = rig.leases().table();
    {
        let (mut book, now) = (table.book(), table.now());
        book.lost.note(gone, now, now + 3_600_000);
        book.evictions.wait(gone, crate::lease::evictions::Ground::Expired, now, Duration::ZERO);
    }
    rig.eventually("both are let go", || {
        let book = table.book();
        book.lost.is_empty() && book.evictions.is_empty()
    })
    .await;
    rig.node.shutdown().await;
}

// === What is looked at ===

#[tokio::test]
async fn a_policy_concerns_the_instances_of_its_service_alone() {
    let rig = Rig::new().await;
    let generations = rig.enlist(3, None).await;
    for service in ["other", "web"] {
        let put = PutServicePolicy {
            service: ServiceName::parse("", service).unwrap(),
            policy: Policy { evict_after: Some(Duration::from_secs(7)), ..Policy::default() },
            actor: Actor::Operator("".into()),
            request_id: None,
        };
        rig.send(Command::PutServicePolicy(put)).await;
        let state = rig.state();
        let event = state.journal().iter().last().unwrap().clone();
        assert!(matches!(event.subject, Subject::Policy(_)), "{event:?}");
        let mut news = News::default();
        news.add(&state, &event);
        let named: Vec<u64> = news.generations.into_iter().collect();
        let expected = if service == "web" { generations.clone() } else { Vec::new() };
        assert_eq!((named, news.all), (expected, false), "{service}");
    }
    rig.node.shutdown().await;
}

#[tokio::test]
async fn what_was_refused_is_told_again_when_this_node_knows_why() {
    let rig = Rig::new().await;
    let generations = rig.enlist(1, None).await;
    let checks = rig.checks().clone();
    let next = rig.state().revision() + 1;
    let superseded = [Reported::Superseded];
    let mut settled = std::pin::pin!(checks.settle(&generations, &superseded, next));
    // The leader has applied something that is not known here yet.
    assert!(timeout(Duration::from_millis(200), &mut settled).await.is_err());
    rig.register(2, None, 1).await;
    assert!(rig.state().revision() >= next);
    timeout(Duration::from_secs(1), settled).await.unwrap();
    rig.node.shutdown().await;
}
