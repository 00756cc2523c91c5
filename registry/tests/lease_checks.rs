//! The end of a lease where there are checks, and heartbeat streams that break. Who probes is a script here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rollcall_core::{
    Command, Outcome,
    check::{Check, Checks, Opinion, Probe, Verdict},
    command::{
        Done, Finding, PutServicePolicy, Register, Registration, ReportHealth, Reported, Source,
    },
    instance::{Endpoint, Spec, Transport, Ttl},
    name::{InstanceName, Label, ServiceName},
    policy::Policy,
    record::{
        Actor,
        HealthStatus::{self, Degraded, Expired, Healthy, Unhealthy},
        Reason, Record,
    },
};
use rollcall_proto::v1;
use rollcall_registry::{
    clock::{Clock, SystemClock},
    host::Host,
    lease::quick::{Answer, Asked, Quick},
    net::BoxFuture,
    node::Entry,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use support::{
    Running, Settings, beating::Beating, eventually, leads, single, start_on, stop, three, within,
};
use tokio::time::{Instant, sleep};

/// What quick probes come to, by instance id; and how often each was asked about.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    answers: Mutex<BTreeMap<String, Answer>>,
    asked: Mutex<BTreeMap<String, u32>>,
    /// While it is held every answer waits.
    hold: tokio::sync::Mutex<()>,
}

impl Script {
    fn say(&self, id: &str, answer: Answer) {
        self.0.answers.lock().unwrap().insert(id.into(), answer);
    }

    fn asked(&self, id: &str) -> u32 {
        self.0.asked.lock().unwrap().get(id).copied().unwrap_or(0)
    }
}

impl Quick for Script {
    fn ask(&self, asked: Asked) -> BoxFuture<'static, Answer> {
        let id = asked.name.id.as_str().to_owned();
        let answer = self.0.answers.lock().unwrap().get(&id).cloned().unwrap_or(Answer::Unknown);
        *self.0.asked.lock().unwrap().entry(id).or_default() += 1;
        let said = self.0.clone();
        Box::pin(async move {
            let _held = said.hold.lock().await;
            answer
        })
    }
}

fn dead() -> Answer {
    Answer::Dead(vec![(check_id(), "refused".into())])
}

fn check_id() -> Label {
    Label::parse("check_id", "c").unwrap()
}

fn name(id: &str) -> InstanceName {
    InstanceName::parse("", "web", id).unwrap()
}

async fn send(on: &Running, command: Command) -> Outcome {
    let deadline = Duration::from_secs(10);
    let outcome = on.node.replica().submit(command, deadline).await.expect("a leader");
    Outcome::clone(&outcome)
}

/// Registers `web/<id>` with one critical check and lets it pass. Returns the lease handle.
async fn enlist(on: &Running, id: &str, ttl: u64) -> u64 {
    let endpoint = Endpoint {
        name: Label::parse("name", "http").unwrap(),
        address: "127.0.0.1:9".parse().unwrap(),
        transport: Transport::Tcp,
        app_protocol: "".into(),
    };
    let check = Check {
        interval: Duration::from_secs(3_600),
        startup_grace: Duration::from_secs(3_600),
        ..Check::new(check_id(), Probe::Tcp { tls: false })
    };
    let spec = Spec {
        ttl: Some(Ttl::parse(Duration::from_secs(ttl)).unwrap()),
        evict_after: Some(Duration::from_millis(500)),
        checks: Checks::parse(vec![check]).unwrap(),
        ..Spec::new(vec![endpoint]).unwrap()
    };
    let item = Registration {
        name: name(id),
        spec: Arc::new(spec.checked().unwrap()),
        nonce: 1,
        held_generation: 0,
        expected_revision: None,
    };
    let actor = Actor::Owner("".into());
    let register = Register { items: vec![item], actor, request_id: None, address_limit: false };
    send(on, Command::Register(register)).await.result.unwrap();
    assert_eq!(on.health("web", id), Some(HealthStatus::Starting));
    pass(on, id).await;
    record(on, id).unwrap().generation
}

fn record(on: &Running, id: &str) -> Option<Arc<Record>> {
    on.node.api().view().seen().state.instance(&name(id)).cloned()
}

fn standing(on: &Running, id: &str) -> Option<(HealthStatus, Reason)> {
    record(on, id).map(|record| (record.health, record.reason))
}

/// Says as its checker that the check passes.
async fn pass(on: &Running, id: &str) {
    judge(on, id, Verdict::Passing).await;
}

/// Says as its checker what the check comes to.
async fn judge(on: &Running, id: &str, verdict: Verdict) {
    within("a verdict", async {
        loop {
            let seen = on.node.api().view().seen();
            let epoch = seen.state.checkers().epoch();
            let Some(node) = seen.state.checkers().of(&name(id)) else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let actor = Actor::Registry("".into());
            let record = seen.state.instance(&name(id)).unwrap();
            let item = Finding {
                generation: record.generation,
                basis: seen.state.basis(record),
                check: check_id(),
                opinion: Opinion { verdict, ..Opinion::PASSING },
                evidence: "".into(),
            };
            let source = Source::Checker { node, epoch };
            let report = ReportHealth { source, items: vec![item], actor };
            if let Ok(Done::Reported(done)) = send(on, Command::ReportHealth(report)).await.result
                && done != [Reported::Superseded]
            {
                return;
            }
        }
    })
    .await;
}

async fn scripted() -> (Running, Script) {
    let running = single(&Settings::default()).await;
    let script = Script::default();
    running.node.api().leases().set_quick(Arc::new(script.clone()));
    (running, script)
}

/// A node that lists `web/a` with a lease of a minute, which quick probes would find dead.
async fn doomed() -> (Running, Script, u64) {
    let (running, script) = scripted().await;
    script.say("a", dead());
    let handle = enlist(&running, "a", 60).await;
    (running, script, handle)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_asks_the_checks_and_death_by_both_is_removal() {
    let (running, script) = scripted().await;
    script.say("a", dead());
    script.say("b", Answer::Alive);
    let began = Instant::now();
    enlist(&running, "a", 1).await;
    enlist(&running, "b", 1).await;
    eventually("a is gone", || record(&running, "a").is_none()).await;
    let gone = began.elapsed();
    assert!(gone >= Duration::from_millis(1_500), "TTL and evict_after: {gone:?}");
    let state = running.node.api().view().seen().state.clone();
    let tombstone = state.tombstone(&name("a")).unwrap();
    let told: Vec<(Option<HealthStatus>, Reason)> = tombstone
        .history
        .events()
        .iter()
        .map(|event| (event.to.map(|status| status.health), event.reason))
        .collect();
    let expected = [
        (Some(HealthStatus::Starting), Reason::Registered),
        (Some(Healthy), Reason::CheckPassed),
        (Some(Degraded), Reason::HeartbeatLost),
        (Some(Expired), Reason::LeaseExpired),
        (None, Reason::Evicted),
    ];
    assert_eq!(told, expected);
    // The other one is kept by its check, asked about once, and comes back with its owner.
    eventually("b is lost", || running.health("web", "b") == Some(Degraded)).await;
    assert_eq!(standing(&running, "b"), Some((Degraded, Reason::HeartbeatLost)));
    assert_eq!((script.asked("a"), script.asked("b")), (1, 1));
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_keeps_a_silent_instance_for_ten_ttls_at_most() {
    let (running, script) = scripted().await;
    script.say("a", Answer::Alive);
    let began = Instant::now();
    enlist(&running, "a", 1).await;
    eventually("it is lost", || running.health("web", "a") == Some(Degraded)).await;
    eventually("it is expired", || running.health("web", "a") == Some(Expired)).await;
    let kept = began.elapsed();
    assert!(kept >= Duration::from_millis(9_900), "{kept:?}");
    assert!(kept <= Duration::from_millis(14_000), "{kept:?}");
    eventually("it is gone", || record(&running, "a").is_none()).await;
    assert_eq!(script.asked("a"), 1);
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_in_maintenance_is_over_when_that_ends() {
    let (running, script) = scripted().await;
    script.say("a", Answer::Alive);
    enlist(&running, "a", 1).await;
    eventually("it is lost", || running.health("web", "a") == Some(Degraded)).await;
    eventually("it is asked about", || script.asked("a") == 1).await;
    running.admin_state("web", "a", v1::AdminState::Maintenance).await;
    judge(&running, "a", Verdict::Failing).await;
    assert_eq!(standing(&running, "a"), Some((Unhealthy, Reason::CheckFailed)));
    // Meanwhile nothing is proposed that could not be done: that would be an entry of the log each second.
    let quiet = || running.node.api().leases().stats().expiries.load(Ordering::Relaxed);
    let (before, looked) = (quiet(), Instant::now());
    eventually("it was looked at again", || looked.elapsed() > Duration::from_millis(2_500)).await;
    assert_eq!(quiet(), before);
    let ended = Instant::now();
    running.admin_state("web", "a", v1::AdminState::Enabled).await;
    eventually("it is gone", || record(&running, "a").is_none()).await;
    let waited = ended.elapsed();
    assert!(waited < Duration::from_secs(5), "not by the ten ttls of a lost lease: {waited:?}");
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_again_while_nobody_could_find_out() {
    let (running, script) = scripted().await;
    enlist(&running, "a", 1).await;
    eventually("asked three times", || script.asked("a") >= 3).await;
    assert_eq!(standing(&running, "a"), Some((Degraded, Reason::HeartbeatLost)));
    script.say("a", dead());
    eventually("it is gone", || record(&running, "a").is_none()).await;
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_takes_the_checks_away_ends_what_they_kept() {
    let (running, script) = scripted().await;
    script.say("a", Answer::Alive);
    put_checks(&running, &["c"], None).await;
    let handle = enlist_unchecked(&running, "a").await;
    eventually("it is lost", || running.health("web", "a") == Some(Degraded)).await;
    put_checks(&running, &[], None).await;
    eventually("it is expired", || running.health("web", "a") == Some(Expired)).await;
    assert_eq!(record(&running, "a").unwrap().generation, handle);
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_beats_but_fails_is_removed_when_its_policy_says_so() {
    let (running, script) = scripted().await;
    script.say("a", dead());
    put_checks(&running, &[], Some(Duration::from_millis(700))).await;
    let handle = enlist(&running, "a", 5).await;
    running.node.api().leases().stream_broken(vec![handle]);
    eventually("it is unhealthy", || running.health("web", "a") == Some(Unhealthy)).await;
    let failed = Instant::now();
    eventually("it is gone", || record(&running, "a").is_none()).await;
    let waited = failed.elapsed();
    assert!(waited >= Duration::from_millis(600), "{waited:?}");
    assert!(waited < Duration::from_secs(5), "not by its lease: {waited:?}");
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_asks_at_once_and_the_first_success_mends() {
    let (running, script, handle) = doomed().await;
    let mut first = Beating::at(&running).await;
    first.beat(&[handle]).await;
    drop(first);
    eventually("it is unhealthy", || running.health("web", "a") == Some(Unhealthy)).await;
    assert_eq!(standing(&running, "a"), Some((Unhealthy, Reason::StreamBroken)));
    assert_eq!(script.asked("a"), 1);
    pass(&running, "a").await;
    assert_eq!(standing(&running, "a"), Some((Healthy, Reason::CheckPassed)));
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_after_the_break_shows_that_the_process_lives() {
    let (running, script, handle) = doomed().await;
    let held = script.0.hold.lock().await;
    running.node.api().leases().stream_broken(vec![handle]);
    eventually("it is asked about", || script.asked("a") == 1).await;
    // The clock of the leases has milliseconds: the beat must be in a later one than the break.
    sleep(Duration::from_millis(20)).await;
    running.beat(&[handle]).await.unwrap();
    drop(held);
    let stats = running.node.api().leases().stats();
    eventually("the answer is there", || stats.quick_ignored.load(Ordering::Relaxed) == 1).await;
    assert_eq!(standing(&running, "a"), Some((Healthy, Reason::CheckPassed)));
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_only_moves_asks_nobody() {
    let (running, script, handle) = doomed().await;
    let leases = running.node.api().leases();
    let table = leases.table();
    // As if it broke once at each of several nodes, and the owner went on elsewhere at once.
    leases.stream_broken(vec![handle]);
    leases.stream_broken(vec![handle, handle]);
    let broke = table.now();
    // It ripens for 100 ms from when the report is read.
    while table.now() < broke + 400 {
        running.beat(&[handle]).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(script.asked("a"), 0);
    // One that does not come back is asked about, once.
    leases.stream_broken(vec![handle]);
    leases.stream_broken(vec![handle, handle]);
    eventually("it is unhealthy", || running.health("web", "a") == Some(Unhealthy)).await;
    assert_eq!(script.asked("a"), 1);
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_probed_while_the_leader_stood_still_says_nothing() {
    let clock = Jumping::default();
    let host = Host { clock: Arc::new(clock.clone()), ..Host::system(1) };
    let entry = Entry { bootstrap: true, ..Entry::default() };
    let dir = tempfile::TempDir::new().unwrap();
    let running = start_on(host, dir, &Settings::default(), entry, 1).await;
    within("the node leads", running.node.ready()).await;
    let script = Script::default();
    running.node.api().leases().set_quick(Arc::new(script.clone()));
    script.say("a", dead());
    let held = script.0.hold.lock().await;
    enlist(&running, "a", 1).await;
    eventually("it is asked about", || script.asked("a") == 1).await;
    script.say("a", Answer::Alive);
    clock.jump(Duration::from_secs(5));
    drop(held);
    eventually("it is asked again", || script.asked("a") == 2).await;
    assert_eq!(standing(&running, "a"), Some((Degraded, Reason::HeartbeatLost)));
    let stats = running.node.api().leases().stats();
    eventually("the second answer counts", || stats.quick_alive.load(Ordering::Relaxed) == 1).await;
    assert_eq!(stats.quick_dead.load(Ordering::Relaxed), 0);
    running.node.shutdown().await;
}

/// The clock of the machine, which can jump ahead as after a pause of the process.
#[derive(Debug, Clone, Default)]
struct Jumping {
    clock: SystemClock,
    ahead_ms: Arc<AtomicU64>,
}

impl Jumping {
    fn jump(&self, by: Duration) {
        self.ahead_ms.fetch_add(by.as_millis().try_into().unwrap(), Ordering::Relaxed);
    }
}

impl Clock for Jumping {
    fn monotonic(&self) -> Duration {
        self.clock.monotonic() + Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_at_any_node_is_told_to_the_leader_and_a_goodbye_is_not() {
    let nodes = three(&Settings::default()).await;
    let leader = leads(&nodes).await;
    let follower = (leader + 1) % 3;
    let script = Script::default();
    for running in &nodes {
        running.node.api().leases().set_quick(Arc::new(script.clone()));
    }
    for id in ["killed", "leaver", "bystander"] {
        script.say(id, dead());
    }
    let killed = enlist(&nodes[leader], "killed", 60).await;
    let leaver = enlist(&nodes[leader], "leaver", 60).await;
    let bystander = enlist(&nodes[leader], "bystander", 60).await;
    let mut crash = Beating::at(&nodes[follower]).await;
    let mut bye = Beating::at(&nodes[follower]).await;
    let mut stays = Beating::at(&nodes[follower]).await;
    crash.beat(&[killed]).await;
    bye.beat(&[leaver]).await;
    stays.beat(&[bystander]).await;
    let broke = Instant::now();
    drop(crash);
    bye.goodbye(&[leaver]).await;
    eventually("the leaver is gone", || record(&nodes[leader], "leaver").is_none()).await;
    drop(bye);
    for running in &nodes {
        eventually("all see it", || running.health("web", "killed") == Some(Unhealthy)).await;
    }
    let seen = broke.elapsed();
    assert!(seen < Duration::from_secs(10), "long before the ttl of a minute: {seen:?}");
    // The third stream is still there, and the second one had nobody left.
    stays.beat(&[bystander]).await;
    assert_eq!(nodes[leader].health("web", "bystander"), Some(Healthy));
    assert_eq!((script.asked("leaver"), script.asked("bystander")), (0, 0));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_says_of_itself_degrades_it_and_can_be_taken_back() {
    let nodes = three(&Settings::default()).await;
    let leader = leads(&nodes).await;
    let (follower, other) = (&nodes[(leader + 1) % 3], &nodes[(leader + 2) % 3]);
    let mut item = support::registration("web", "a", 1);
    item.spec.as_mut().unwrap().ttl = support::seconds(60);
    let handle = follower.register(vec![item]).await[0];
    let mut stream = Beating::at(follower).await;
    stream.say(handle, Some("queue full")).await;
    eventually("it is degraded", || other.health("web", "a") == Some(Degraded)).await;
    assert_eq!(standing(other, "a"), Some((Degraded, Reason::SelfDegraded)));
    let request = v1::GetInstanceRequest {
        name: Some(support::instance_name("web", "a")),
        ..Default::default()
    };
    let answer = other.discovery().get_instance(request).await.unwrap().into_inner();
    assert_eq!(answer.instance.unwrap().self_report(), "queue full");
    // A mind that changes all the time is passed on once a second, as it is then.
    let revision = other.node.api().view().seen().state.revision();
    for i in 0..50 {
        stream.say(handle, Some(&format!("queue at {i}"))).await;
    }
    stream.say(handle, None).await;
    eventually("it is healthy", || other.health("web", "a") == Some(Healthy)).await;
    let changes = other.node.api().view().seen().state.revision() - revision;
    assert!(changes <= 10, "{changes} changes");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_away_breaks_nobodys_stream() {
    let nodes = three(&Settings::default()).await;
    let leader = leads(&nodes).await;
    let follower = (leader + 1) % 3;
    let script = Script::default();
    for running in &nodes {
        running.node.api().leases().set_quick(Arc::new(script.clone()));
    }
    script.say("a", dead());
    let handle = enlist(&nodes[leader], "a", 60).await;
    let mut stream = Beating::at(&nodes[follower]).await;
    stream.beat(&[handle]).await;
    let mut nodes = nodes;
    nodes.remove(follower).node.shutdown().await;
    drop(stream);
    // Long enough for a report that must not come: what is said is relayed within 10 ms.
    sleep(Duration::from_millis(500)).await;
    assert_eq!(script.asked("a"), 0);
    assert_eq!(nodes[0].health("web", "a"), Some(Healthy));
    stop(nodes).await;
}

async fn put_checks(on: &Running, ids: &[&str], evict_unhealthy_after: Option<Duration>) {
    let check =
        |id: &&str| Check::new(Label::parse("check_id", id).unwrap(), Probe::Tcp { tls: false });
    let policy = Policy {
        checks: Checks::parse(ids.iter().map(check).collect()).unwrap(),
        evict_unhealthy_after,
        ..Policy::default()
    };
    let put = PutServicePolicy {
        service: ServiceName::parse("", "web").unwrap(),
        policy,
        actor: Actor::Operator("".into()),
        request_id: None,
    };
    send(on, Command::PutServicePolicy(put)).await.result.unwrap();
}

/// Registers `web/<id>` without checks of its own, for a second.
async fn enlist_unchecked(on: &Running, id: &str) -> u64 {
    let handles = on.register(vec![support::registration("web", id, 1)]).await;
    pass(on, id).await;
    handles[0]
}
