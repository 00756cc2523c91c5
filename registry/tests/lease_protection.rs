//! Mass expiry and its protection, removal after expiry, and the bounds of heartbeat streams.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rollcall_core::record::{
    HealthStatus::{Degraded, Expired},
    Reason,
};
use rollcall_proto::v1;
use rollcall_registry::{api::ApiSettings, lease::LeaseSettings};
use std::time::Duration;
use support::{
    Running, Settings, beating::Beating, eventually, instance_name, leads, registration, seconds,
    service_name, single, stop, three, within,
};
use tokio::time::{Instant, sleep};

fn unprotected() -> Settings {
    let lease = LeaseSettings { protection: false, ..LeaseSettings::default() };
    Settings { lease, ..Settings::default() }
}

/// Registers `count` instances of one service with leases of so many seconds.
async fn register(on: &Running, service: &str, count: usize, ttl: u64) -> Vec<u64> {
    let mut handles = Vec::new();
    let ids: Vec<usize> = (0..count).collect();
    for ids in ids.chunks(1_000) {
        let items = ids.iter().map(|id| {
            let mut item = registration(service, &format!("i{id}"), 1);
            item.spec.as_mut().unwrap().ttl = seconds(ttl);
            item
        });
        handles.extend(on.register(items.collect()).await);
    }
    handles
}

fn held(on: &Running) -> usize {
    on.node.api().view().seen().state.held().len()
}

fn listed(on: &Running) -> usize {
    on.node.api().view().seen().state.instance_count()
}

async fn lookup(on: &Running, service: &str) -> v1::ResolveResponse {
    let service = Some(service_name(service));
    let request = v1::ResolveRequest { service, ..Default::default() };
    on.discovery().resolve(request).await.expect("resolve").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn mass_expiry_is_held_back_until_an_operator_releases_it() {
    let lease = LeaseSettings { release_rate: 20, ..LeaseSettings::default() };
    let running = single(&Settings { lease, ..Settings::default() }).await;
    let handles = register(&running, "web", 40, 1).await;
    let (alive, dead) = handles.split_at(20);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until || held(&running) < 20 {
        let answer = running.beat(alive).await.expect("acknowledged");
        assert_eq!(answer.reregister, [] as [u64; 0]);
        sleep(Duration::from_millis(50)).await;
        assert!(Instant::now() < until + support::DEADLINE);
    }
    assert_eq!(held(&running), 20);
    assert_eq!(running.health("web", "i39"), Some(Degraded));
    let answer = lookup(&running, "web").await;
    assert_eq!(answer.instances.len(), 40);
    assert!(answer.read_metadata.unwrap().protected);
    // One that beats after all heals itself; its owner may also take it away at any time.
    assert_eq!(running.beat(&dead[..1]).await.unwrap().reregister, &dead[..1]);
    let mut again = registration("web", "i20", 1);
    again.spec.as_mut().unwrap().ttl = seconds(60);
    running.register(vec![again]).await;
    let request = v1::DeregisterRequest {
        items: vec![v1::Deregistration {
            name: Some(instance_name("web", "i21")),
            ..Default::default()
        }],
        ..Default::default()
    };
    running.registration().deregister(request).await.expect("deregister");
    assert_eq!(running.health("web", "i21"), None);
    assert_eq!(held(&running), 18);
    let scope = v1::Scope { scope: Some(v1::scope::Scope::Cluster(true)) };
    let release = v1::ReleaseProtectionRequest {
        scope: Some(scope),
        ..v1::ReleaseProtectionRequest::default()
    };
    running.admin().release_protection(release).await.expect("release");
    let mut services = running.node.api().view().seen().state.protections().len();
    if services > 0 {
        let service = v1::scope::Scope::Service(service_name("web"));
        let scope = Some(v1::Scope { scope: Some(service) });
        let release = v1::ReleaseProtectionRequest { scope, ..Default::default() };
        running.admin().release_protection(release).await.expect("release");
        services = running.node.api().view().seen().state.protections().len();
    }
    assert_eq!(services, 0);
    let released = Instant::now();
    within("the silent ones are expired", async {
        while held(&running) > 0 {
            running.beat(alive).await.expect("acknowledged");
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // 18 at 20 a second.
    assert!(released.elapsed() > Duration::from_millis(700), "{:?}", released.elapsed());
    assert_eq!(running.health("web", "i39"), Some(Expired));
    assert_eq!(running.routable("web"), 21);
    // One more, within the window of the others: these do not count again.
    within("the next silent one is expired", async {
        while running.health("web", "i0") != Some(Expired) {
            assert_eq!(held(&running), 0, "what was released counted again");
            running.beat(&alive[1..]).await.expect("acknowledged");
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let seen = running.node.api().view().seen();
    let entered = seen.state.journal().iter().filter(|e| e.reason == Reason::ProtectionEntered);
    assert!(entered.count() <= 2, "what was released counted again");
    assert!(seen.state.protections().is_empty());
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_survives_a_leader_change_and_is_released_by_the_next_leader() {
    let nodes = three(&Settings::default()).await;
    let handles = register(&nodes[0], "web", 12, 1).await;
    eventually("all are held", || nodes.iter().all(|node| held(node) == 12)).await;
    let old = leads(&nodes).await;
    let next = (old + 1) % 3;
    let id = nodes[next].node.replica().node_id();
    nodes[old].node.replica().transfer_leader(Some(id)).await.expect("transfer");
    eventually("the next one leads", || {
        nodes[next].node.replica().leadership().borrow().reign.is_some()
    })
    .await;
    eventually("its leases are loaded", || {
        let leases = nodes[next].node.api().leases();
        leases.table().is_active(nodes[next].node.replica().leadership().borrow().term)
    })
    .await;
    // Most of them come back: fewer than one in twenty is missing, and protection ends by itself.
    let answer = nodes[next].beat(&handles).await.expect("acknowledged");
    assert_eq!(answer.reregister, handles);
    let mut items: Vec<_> = (0..12).map(|id| registration("web", &format!("i{id}"), 1)).collect();
    for item in &mut items {
        item.spec.as_mut().unwrap().ttl = seconds(60);
    }
    nodes[next].register(items).await;
    assert_eq!(held(&nodes[next]), 0);
    eventually("protection ends", || {
        nodes[next].node.api().view().seen().state.protections().is_empty()
    })
    .await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_maintenance_neither_expires_nor_counts_as_missing() {
    let running = single(&Settings::default()).await;
    register(&running, "web", 12, 1).await;
    for id in 0..12 {
        let request = v1::SetAdminStateRequest {
            name: Some(instance_name("web", &format!("i{id}"))),
            state: v1::AdminState::Maintenance.into(),
            ..Default::default()
        };
        running.registration().set_admin_state(request).await.expect("maintenance");
    }
    let alone = register(&running, "db", 1, 1).await;
    eventually("the one outside expires", || running.health("db", "i0") == Some(Expired)).await;
    let seen = running.node.api().view().seen();
    assert!(seen.state.protections().is_empty(), "{:?}", seen.state.protections());
    assert_eq!(seen.state.lease_counts().current, 12);
    assert_eq!(running.beat(&alone).await.unwrap().reregister, alone);
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_protection_a_thousand_leases_end_together_in_time() {
    let running = single(&unprotected()).await;
    let handles = register(&running, "web", 1_000, 2).await;
    running.beat(&handles).await.expect("acknowledged");
    let acked = Instant::now();
    eventually("all are hidden", || running.routable("web") == 0).await;
    let took = acked.elapsed();
    println!("1,000 leases ran out at once: last one invisible after {took:?} with a TTL of 2 s");
    assert!(took >= Duration::from_millis(1_900), "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(running.node.api().view().seen().state.protections().is_empty());
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_instance_is_removed_after_its_own_wait() {
    let running = single(&unprotected()).await;
    let mut items: Vec<_> =
        (1..=3).map(|nonce| registration("web", &format!("after-{nonce}"), nonce)).collect();
    items[0].spec.as_mut().unwrap().evict_after = seconds(0);
    items[1].spec.as_mut().unwrap().evict_after = seconds(2);
    running.register(items).await;
    let start = Instant::now();
    eventually("the first is removed at once", || running.health("web", "after-1").is_none()).await;
    assert!(start.elapsed() >= Duration::from_millis(950), "{:?}", start.elapsed());
    eventually("the second is expired", || running.health("web", "after-2") == Some(Expired)).await;
    eventually("the second is removed", || running.health("web", "after-2").is_none()).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(2_950), "{took:?}");
    // Half a minute by default.
    assert_eq!(running.health("web", "after-3"), Some(Expired));
    assert_eq!(listed(&running), 1);
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_tells_owners_what_became_of_them() {
    let nodes = three(&unprotected()).await;
    let follower = &nodes[(leads(&nodes).await + 1) % 3];
    let mut beating = Beating::at(follower).await;
    let mut item = registration("web", "a", 1);
    item.spec.as_mut().unwrap().ttl = seconds(30);
    let old = follower.register(vec![item.clone()]).await[0];
    assert!(beating.beat(&[old]).await.fenced_handles.is_empty());
    // A new owner: the old one learns it with its next beat.
    item.owner_nonce = vec![2; 16];
    let new = follower.register(vec![item]).await[0];
    let answer = beating.beat(&[old, new]).await;
    assert_eq!(answer.fenced_handles.len(), 1);
    assert_eq!(answer.fenced_handles[0].lease_handle, old);
    assert_eq!(answer.fenced_handles[0].reason(), v1::fenced_handle::Reason::Superseded);
    assert!(answer.reregister_handles.is_empty());
    // Goodbye removes at once.
    beating.goodbye(&[new]).await;
    eventually("it is gone", || follower.health("web", "a").is_none()).await;
    let answer = beating.beat(&[new]).await;
    assert_eq!(answer.fenced_handles[0].reason(), v1::fenced_handle::Reason::Deregistered);
    // Expired: register again.
    let short = follower.register(vec![registration("web", "b", 3)]).await[0];
    eventually("it is expired", || follower.health("web", "b") == Some(Expired)).await;
    assert_eq!(beating.beat(&[short, 1 << 40]).await.reregister_handles, [short, 1 << 40]);
    drop(beating);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_renews_the_lease() {
    let running = single(&unprotected()).await;
    let register = || running.register(vec![registration("web", "a", 1)]);
    let handle = register().await;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        sleep(Duration::from_millis(300)).await;
        assert_eq!(register().await, handle);
        assert_eq!(running.routable("web"), 1);
    }
    let seen = running.node.api().view().seen();
    assert_eq!(seen.state.revision(), 1, "it expired and was restored");
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_with_its_name() {
    let api = ApiSettings { heartbeat_streams: 2, ..ApiSettings::default() };
    let running = single(&Settings { api, ..Settings::default() }).await;
    let mut first = Beating::at(&running).await;
    let second = Beating::at(&running).await;
    first.beat(&[]).await;
    let third = Beating::open(&running).await.err().expect("a third stream is refused");
    assert_eq!(third.code(), tonic::Code::ResourceExhausted);
    assert!(third.message().contains("heartbeat_streams"), "{third:?}");
    drop(second);
    within("its place is free again", async {
        while Beating::open(&running).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    drop(first);
    running.node.shutdown().await;
}
