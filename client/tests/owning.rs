//! What an owner does with a guard: self-reports, drain, admin state; and leases of a registry that lies.

mod fake;

use fake::{Answer, Beats, Registry, reason};
use rollcall_client::{Client, Error, HealthReport, Registration, State, v1};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tonic::Code;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn web(port: u16) -> Registration {
    Registration::new("web").endpoint("http", ([10, 0, 0, 1], port).into()).ttl(ms(6_000))
}

fn start(count: usize) -> (Registry, Client) {
    let registry = Registry::start(count);
    let client = registry.builder().build().expect("a client");
    (registry, client)
}

#[tokio::test(start_paused = true)]
async fn the_health_callback_is_asked_once_for_each_beat_until_the_registration_is_over() {
    let (_registry, client) = start(1);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let registration = web(80).health(move || {
        count.fetch_add(1, Ordering::Relaxed);
        HealthReport::healthy()
    });
    let guard = client.register(registration).await.unwrap();
    sleep(ms(20_500)).await;
    let times = asked.load(Ordering::Relaxed);
    assert!((10..=12).contains(&times), "{times} times in ten beats of 2 s");
    guard.deregister().await.unwrap();
    let times = asked.load(Ordering::Relaxed);
    sleep(ms(20_000)).await;
    assert_eq!(asked.load(Ordering::Relaxed), times);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_health_does_not_wait_for_the_next_beat() {
    let (registry, client) = start(1);
    let guard = client.register(web(80)).await.unwrap();
    let node = &registry.nodes[0];
    for report in [HealthReport::degraded("the disk is slow"), HealthReport::healthy()] {
        // Just after a beat: the next one is more than a second away.
        let count = node.state().heard.len();
        let at = node.until("a beat", |s| s.heard.get(count).map(|(at, ..)| *at)).await;
        guard.report(report.clone());
        let early = node.until("another one", |s| s.heard.get(count + 1).map(|(at, ..)| *at)).await;
        assert!(early - at < ms(100), "{:?}", early - at);
        guard.report(report.utilization(0.7));
        let next = node.until("the next", |s| s.heard.get(count + 2).map(|(at, ..)| *at)).await;
        assert!(next - early > ms(1_500), "how busy it is may wait: {:?}", next - early);
        let said = node.state().heard[count + 2].2.self_reports[0].clone();
        assert_eq!(said.utilization_percent, Some(70));
    }
}

#[tokio::test(start_paused = true)]
async fn a_health_callback_that_panics_harms_no_beat() {
    let (registry, client) = start(1);
    let registration = web(80).health(|| panic!("a bug of the user"));
    let guard = client.register(registration).await.unwrap();
    sleep(ms(20_000)).await;
    assert!(registry.nodes[0].state().heard.len() >= 9);
    assert_eq!(guard.generation(), Some(101));
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_the_instance_out_of_traffic_and_ends_after_its_grace() {
    let (registry, client) = start(1);
    let guard = client.register(web(80)).await.unwrap();
    let (signal, signalled) = tokio::sync::oneshot::channel::<()>();
    let drained = tokio::spawn(guard.drain_on(signalled, ms(10_000)));
    sleep(ms(5_000)).await;
    assert!(registry.nodes[0].state().admin_states.is_empty() && !drained.is_finished());
    let begin = Instant::now();
    signal.send(()).unwrap();
    drained.await.unwrap();
    assert!(begin.elapsed() >= ms(10_000) && begin.elapsed() < ms(10_100), "{begin:?}");
    let asked = registry.nodes[0].state().admin_states.clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].state(), v1::AdminState::Draining);
    assert_eq!((asked[0].generation, asked[0].role()), (101, v1::Role::Owner));
    assert!(matches!(guard.state(), State::Registered { .. }), "the goodbye is another call");
}

#[tokio::test(start_paused = true)]
async fn what_is_registered_anew_while_it_drains_is_drained_again() {
    let (registry, client) = start(1);
    let node = &registry.nodes[0];
    let guard = client.register(web(80)).await.unwrap();
    let drained = tokio::spawn(guard.drain_on(std::future::ready(()), ms(30_000)));
    node.until("a drain", |state| (!state.admin_states.is_empty()).then_some(())).await;
    node.state().beats = Beats::Forgotten;
    node.until("another registration", |s| (s.registers.len() > 1).then_some(())).await;
    node.state().beats = Beats::Acknowledged;
    node.until("another drain", |state| (state.admin_states.len() > 1).then_some(())).await;
    assert!(node.state().admin_states[1].generation > 101, "the new one");
    drained.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_also_where_the_registry_is_gone_or_refuses() {
    let (registry, client) = start(1);
    let guard = client.register(web(80)).await.unwrap();
    let refused = Answer::Refuse(reason(Code::FailedPrecondition, "HELD_BY_OPERATOR"));
    registry.nodes[0].state().script.push_back(refused);
    let begin = Instant::now();
    guard.drain_on(std::future::ready(()), ms(1_000)).await;
    assert!(begin.elapsed() < ms(1_500), "{:?}", begin.elapsed());
    registry.nodes[0].kill();
    let begin = Instant::now();
    guard.drain_on(std::future::ready(()), ms(1_000)).await;
    assert!(begin.elapsed() < ms(6_100), "a call's deadline and the grace: {:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_not_listed_takes_no_admin_state() {
    let (registry, client) = start(1);
    registry.nodes[0].kill();
    let guard = client.keep_registered(web(80)).unwrap();
    let set = guard.set_admin_state(v1::AdminState::Draining, "test");
    let error = set.await.unwrap_err();
    assert!(matches!(error, Error::NotListed { .. }) && error.is_retryable(), "{error}");
    assert!(error.to_string().contains("web/10.0.0.1-80"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_forgets_every_lease_is_not_flooded_with_registrations() {
    let (registry, client) = start(1);
    registry.nodes[0].state().beats = Beats::Forgotten;
    let guard = client.register(web(80)).await.unwrap();
    sleep(ms(60_000)).await;
    let count = registry.nodes[0].state().registers.len();
    assert!((10..70).contains(&count), "{count} registrations in a minute");
    registry.nodes[0].state().beats = Beats::Acknowledged;
    sleep(ms(10_000)).await;
    assert!(guard.generation().is_some());
}

#[tokio::test(start_paused = true)]
async fn absurd_lengths_of_a_lease_neither_spin_nor_stop_the_beats() {
    for (seconds, nanos, beats) in [(0, 1, 340), (i64::MAX, 0, 1), (-5, 0, 0)] {
        let (registry, client) = start(1);
        let node = &registry.nodes[0];
        node.state().ttl = Some(prost_types::Duration { seconds, nanos });
        let _absurd = client.register(web(80)).await.unwrap();
        sleep(ms(30_000)).await;
        let count = node.state().heard.len();
        assert!(count <= beats, "{count} beats in 30 s for a lease of {seconds} s {nanos} ns");
        node.state().ttl = None;
        let honest = client.register(web(81)).await.unwrap();
        sleep(ms(30_000)).await;
        let state = node.state();
        let of = state.heard.iter().filter(|(_, _, beat)| beat.alive_handles.contains(&102));
        assert!(of.count() >= 13 && honest.acknowledged().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn reads_of_its_own_writes_go_on_after_the_registry_was_set_up_anew() {
    let registry = Registry::start(1);
    let client = registry.builder().read_your_writes(true).build().unwrap();
    let _guard = client.register(web(80)).await.unwrap();
    assert_eq!(client.written_revision(), 101);
    // The fake's deregistrations are at revision 7: that of a younger registry.
    client.deregister(v1::DeregisterRequest::default()).await.unwrap();
    client.resolve(v1::ResolveRequest::default()).await.unwrap();
    assert_eq!(registry.nodes[0].state().resolves[0].min_revision, 7);
}
