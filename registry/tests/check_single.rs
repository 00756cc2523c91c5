//! One node probes what it lists, on real sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rollcall_core::record::HealthStatus::{Degraded, Healthy, Starting, Unhealthy};
use rollcall_proto::v1;
use std::{net::SocketAddr, time::Duration};
use support::{
    Settings, eventually, persistent, registration, seconds, single, stop,
    target::{Target, at, checked, http},
};

#[tokio::test]
async fn an_instance_follows_its_check() {
    let node = single(&Settings::default()).await;
    let target = Target::new(503).await;
    let item = at(checked(persistent("web", "a"), http()), target.address);
    node.enlist(vec![item]).await;
    // Two failures, without a grace.
    node.comes_to("a", Unhealthy).await;
    assert_eq!(node.resolve("web").await, [""; 0]);
    target.says(200);
    node.comes_to("a", Healthy).await;
    assert_eq!(node.resolve("web").await, ["a"]);
    target.says(404);
    node.comes_to("a", Unhealthy).await;
    let told = node.instance("a").await;
    let event = told.events.last().unwrap();
    assert_eq!(event.reason(), v1::EventReason::CheckFailed);
    assert!(event.evidence.contains("HTTP 404"), "{event:?}");
    stop(vec![node]).await;
}

#[tokio::test]
async fn a_new_instance_is_starting_until_its_first_success() {
    let node = single(&Settings::default()).await;
    let target = Target::new(500).await;
    let mut check = http();
    check.startup_grace = seconds(60);
    node.enlist(vec![at(checked(persistent("web", "a"), check), target.address)]).await;
    eventually("five probes", || target.connections() >= 5).await;
    assert_eq!(node.health("web", "a"), Some(Starting), "its grace lasts");
    target.says(204);
    node.comes_to("a", Healthy).await;
    stop(vec![node]).await;
}

#[tokio::test]
async fn the_last_five_outputs_are_shown_with_the_checker_and_the_next_probe() {
    let node = single(&Settings::default()).await;
    let target = Target::new(200).await;
    node.enlist(vec![at(checked(persistent("web", "a"), http()), target.address)]).await;
    eventually("seven probes", || target.connections() >= 7).await;
    let told = node.instance("a").await;
    assert_eq!((told.outputs_problem.as_str(), told.checks.len()), ("", 1));
    assert_eq!(told.checker_node_id, node.node.replica().node_id());
    let check = &told.checks[0];
    let status = check.status.as_ref().expect("a status");
    assert_eq!((status.check_id.as_str(), check.kind.as_str()), ("http", "http"));
    assert_eq!(check.target, target.address.to_string());
    assert_eq!((status.verdict(), status.hasty), (v1::CheckVerdict::Passing, false));
    assert_eq!(check.outputs.len(), 5);
    assert!(check.next_probe_in.is_some());
    for output in &check.outputs {
        assert_eq!((output.failure.as_str(), output.output.as_str()), ("", "HTTP 200 OK: said"));
    }
    stop(vec![node]).await;
}

#[tokio::test]
async fn a_removed_instance_is_probed_no_more() {
    let node = single(&Settings::default()).await;
    let target = Target::new(200).await;
    node.enlist(vec![at(checked(persistent("web", "a"), http()), target.address)]).await;
    node.comes_to("a", Healthy).await;
    node.deregister("web", "a").await;
    eventually("no check is left", || node.node.api().checks().is_empty()).await;
    let before = target.connections();
    // As long as five probes would take: none may come.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(target.connections() <= before + 1, "at most one was under way");
    stop(vec![node]).await;
}

#[tokio::test]
async fn an_advisory_check_only_degrades() {
    let node = single(&Settings::default()).await;
    let target = Target::new(500).await;
    let check = v1::HealthCheck { advisory: true, ..http() };
    node.enlist(vec![at(checked(persistent("web", "a"), check), target.address)]).await;
    node.comes_to("a", Degraded).await;
    assert_eq!(node.resolve("web").await, ["a"]);
    stop(vec![node]).await;
}

#[tokio::test]
async fn the_checks_of_a_policy_count_for_instances_without_their_own() {
    let node = single(&Settings::default()).await;
    let target = Target::new(503).await;
    node.enlist(vec![at(persistent("web", "a"), target.address)]).await;
    assert_eq!(node.health("web", "a"), Some(Healthy));
    let policy = v1::ServicePolicy { health_checks: vec![http()], ..Default::default() };
    let request = v1::PutServicePolicyRequest {
        service: Some(support::service_name("web")),
        policy: Some(policy),
        ..Default::default()
    };
    node.admin().put_service_policy(request).await.expect("policy");
    node.comes_to("a", Unhealthy).await;
    node.delete_policy("web").await;
    node.comes_to("a", Healthy).await;
    eventually("no check is left", || node.node.api().checks().is_empty()).await;
    stop(vec![node]).await;
}

#[tokio::test]
async fn no_member_is_ever_connected_to() {
    let node = single(&Settings::default()).await;
    let listen = node.node.listen;
    eventually("the members are known", || {
        node.node.api().checks().may_probe(listen.peer).is_err()
    })
    .await;
    for port in [listen.grpc, listen.http, listen.dns, listen.peer].map(|address| address.port()) {
        for ip in ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"] {
            let address = SocketAddr::new(ip.parse().unwrap(), port);
            let refused = node.node.api().checks().may_probe(address).expect_err("a member");
            assert_eq!(refused.to_string(), "a registry node listens there", "{address}");
        }
    }
    stop(vec![node]).await;
}

#[tokio::test]
async fn a_lease_goes_on_beside_a_check() {
    let node = single(&Settings::default()).await;
    let target = Target::new(200).await;
    let item = at(checked(registration("web", "a", 1), http()), target.address);
    let handles = node.register(vec![item]).await;
    let mut stream = support::beating::Beating::at(&node).await;
    while target.connections() <= 20 {
        stream.beat(&handles).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.health("web", "a"), Some(Healthy));
    stop(vec![node]).await;
}
