//! Leases end to end: what is silent expires within the published bound, what beats does not.

mod support;

use std::time::Duration;
use support::{
    Settings, batch, beating::Beating, eventually, leader_of, registration, single, three,
};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_instance_is_hidden_after_its_ttl_and_not_before() {
    let running = single(&Settings::default()).await;
    let request = batch(vec![registration("web", "a", 1)]);
    let handle =
        running.registration().register(request).await.unwrap().into_inner().items[0].lease_handle;
    let mut beating = Beating::at(&running).await;
    let mut sent = Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sent = Instant::now();
        let answer = beating.beat(&[handle]).await;
        assert!(answer.reregister_handles.is_empty(), "{answer:?}");
    }
    let acked = Instant::now();
    assert_eq!(running.resolve("web").await, ["a"]);
    while !running.resolve("web").await.is_empty() {
        assert!(acked.elapsed() < support::DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(sent.elapsed() >= Duration::from_secs(1), "{:?}", sent.elapsed());
    let answer = beating.beat(&[handle]).await;
    assert_eq!(answer.reregister_handles, [handle]);
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_passes_beats_on_and_a_leader_change_expires_nobody() {
    let nodes = three(&Settings::default()).await;
    let leader = leader_of(&nodes).expect("a leader");
    let follower = (leader + 1) % 3;
    let mut items = vec![registration("web", "a", 1), registration("web", "silent", 2)];
    items[1].spec.as_mut().unwrap().ttl = support::seconds(2);
    let request = batch(items);
    let answer = nodes[follower].registration().register(request).await.unwrap().into_inner();
    let handle = answer.items[0].lease_handle;
    let mut beating = Beating::at(&nodes[follower]).await;
    let until = Instant::now() + Duration::from_secs(3);
    let mut transferred = false;
    while Instant::now() < until {
        if !transferred && Instant::now() + Duration::from_secs(2) > until {
            transferred = true;
            let target = (leader + 2) % 3;
            let id = nodes[target].node.replica().node_id();
            nodes[leader].node.replica().transfer_leader(Some(id)).await.expect("transfer");
        }
        let answer = beating.beat(&[handle]).await;
        assert!(answer.reregister_handles.is_empty(), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_ne!(leader_of(&nodes), Some(leader));
    let view = nodes[follower].node.api().view();
    eventually("the silent one is hidden", || {
        let seen = view.seen();
        let name = rollcall_core::name::ServiceName::parse("", "web").unwrap();
        let service = seen.state.service(&name).unwrap();
        service.instances.values().filter(|record| record.routable()).count() == 1
    })
    .await;
    assert_eq!(nodes[follower].resolve("web").await, ["a"]);
    for running in nodes {
        running.node.shutdown().await;
    }
}
