//! What the end of a heartbeat means where there are checks: they are asked at once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rollcall_core::{
    name::InstanceName,
    record::HealthStatus::{Degraded, Expired, Healthy, Unhealthy},
};
use rollcall_proto::v1::{self, EventReason};
use std::{sync::atomic::Ordering, time::Duration};
use support::{
    Running, Settings,
    beating::Beating,
    eventually, leads, registration, seconds, single, stop,
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
    eventually("it is probed", || target.connections() > before).await;
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

/// An instance id whose checker is not that node.
fn checked_elsewhere(node: &Running, not: u64) -> String {
    let seen = node.node.api().view().seen();
    let checker =
        |id: &String| seen.state.checkers().of(&InstanceName::parse("", "web", id).unwrap());
    let mut ids = (0..1_000).map(|number| format!("i{number}"));
    ids.find(|id| checker(id).is_some_and(|checker| checker != not)).unwrap()
}

#[tokio::test]
async fn a_broken_stream_is_looked_into_through_the_checker() {
    let nodes = three(&Settings::default()).await;
    eventually("three checkers", || {
        let known = |node: &Running| node.node.api().view().load().state.checkers().nodes().len();
        nodes.iter().all(|node| known(node) == 3)
    })
    .await;
    let leader = leads(&nodes).await;
    let target = Target::new(200).await;
    // The stream is at a follower: the leader hears of it, and asks the checker.
    let follower = &nodes[(leader + 1) % 3];
    let id = checked_elsewhere(follower, nodes[leader].node.replica().node_id());
    let mut item = at(checked(registration("web", &id, 1), rare()), target.address);
    item.spec.as_mut().unwrap().ttl = seconds(600);
    let handles = follower.register(vec![item]).await;
    let mut stream = Beating::at(follower).await;
    while follower.health("web", &id) != Some(Healthy) {
        stream.beat(&handles).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.beat(&handles).await;
    target.says(503);
    let before = target.connections();
    drop(stream);
    for node in &nodes {
        node.comes_to(&id, Unhealthy).await;
    }
    let last = follower.instance(&id).await;
    assert_eq!(last.events.last().unwrap().reason(), EventReason::StreamBroken);
    assert!(target.connections() >= before + 3);
    let beside = |node: &Running| node.node.api().checks().stats().beside.load(Ordering::Relaxed);
    for (at, node) in nodes.iter().enumerate() {
        let is_checker = node.node.replica().node_id() == last.checker_node_id;
        assert!(!is_checker || at != leader);
        let probed = beside(node);
        assert!(if is_checker { probed >= 3 } else { probed == 0 }, "node {at}: {probed}");
    }
    // The checker looks again by itself, and one success is enough.
    target.says(200);
    follower.comes_to(&id, Healthy).await;
    stop(nodes).await;
}
