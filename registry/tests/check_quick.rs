//! What the end of a heartbeat means where there are checks: they are asked at once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rollcall_core::record::HealthStatus::{Degraded, Expired, Healthy, Unhealthy};
use rollcall_proto::v1::{self, EventReason};
use std::time::Duration;
use support::{
    Running, Settings,
    beating::Beating,
    leads, registration, seconds, single, stop,
    target::{Target, at, checked, http},
    three,
};
use tokio::time::Instant;

/// A check whose own probes come too seldom to tell anything within this test.
fn rare() -> v1::HealthCheck {
    v1::HealthCheck { interval: seconds(600), timeout: seconds(1), ..http() }
}

/// Registers `web/a` with a lease of 1 s and a check, beats until it is HEALTHY; returns its stream.
async fn listed(node: &Running, target: &Target) -> (Beating, Vec<u64>) {
    let item = at(checked(registration("web", "a", 1), rare()), target.address);
    let handles = node.register(vec![item]).await;
    let mut stream = Beating::at(node).await;
    while node.health("web", "a") != Some(Healthy) {
        stream.beat(&handles).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.beat(&handles).await;
    (stream, handles)
}

async fn last_reason(node: &Running) -> EventReason {
    node.instance("a").await.events.last().unwrap().reason()
}

#[tokio::test]
async fn a_silent_instance_that_answers_its_check_is_kept_as_degraded() {
    let node = single(&Settings::default()).await;
    let target = Target::new(200).await;
    let (_stream, _) = listed(&node, &target).await;
    let before = target.connections();
    node.comes_to("a", Degraded).await;
    assert_eq!(last_reason(&node).await, EventReason::HeartbeatLost);
    support::eventually("it is probed", || target.connections() > before).await;
    // The quick probes and their answer have come and gone by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.health("web", "a"), Some(Degraded));
    assert_eq!(node.resolve("web").await, ["a"]);
    stop(vec![node]).await;
}

#[tokio::test]
async fn a_silent_instance_that_fails_its_check_expires_by_its_bound() {
    let node = single(&Settings::default()).await;
    let target = Target::new(200).await;
    let (_stream, _) = listed(&node, &target).await;
    let last = Instant::now();
    target.says(500);
    node.comes_to("a", Expired).await;
    let took = last.elapsed();
    // TTL + 4.5 s is the promise; the rest is room for a busy machine.
    assert!(took < Duration::from_millis(5_500) + Duration::from_secs(3), "{took:?}");
    assert!(took > Duration::from_millis(900), "{took:?}");
    stop(vec![node]).await;
}

#[tokio::test]
async fn a_broken_stream_is_looked_into_through_the_checker() {
    let nodes = three(&Settings::default()).await;
    let leader = leads(&nodes).await;
    let target = Target::new(200).await;
    // The stream is at a follower: the leader hears of it, and asks the checker.
    let follower = &nodes[(leader + 1) % 3];
    let mut item = at(checked(registration("web", "a", 1), rare()), target.address);
    item.spec.as_mut().unwrap().ttl = seconds(600);
    let handles = follower.register(vec![item]).await;
    let mut stream = Beating::at(follower).await;
    while follower.health("web", "a") != Some(Healthy) {
        stream.beat(&handles).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.beat(&handles).await;
    target.says(503);
    let before = target.connections();
    drop(stream);
    for node in &nodes {
        node.comes_to("a", Unhealthy).await;
    }
    assert_eq!(last_reason(follower).await, EventReason::StreamBroken);
    assert!(target.connections() >= before + 3);
    // The checker looks again by itself, and one success is enough.
    target.says(200);
    follower.comes_to("a", Healthy).await;
    stop(nodes).await;
}
