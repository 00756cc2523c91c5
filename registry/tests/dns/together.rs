//! Three nodes: one secret for all, a change on one is in the answers of all.

use crate::{
    asking::{Client, code},
    support::{Running, Settings, eventually, persistent, stop, three},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use rollcall_core::secret::ClusterSecret;
use std::time::Duration;
use tokio::time::Instant;

fn secret(running: &Running) -> Option<ClusterSecret> {
    running.node.api().view().load().state.secret()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_come_to_have_the_same_secret_and_keep_it() {
    let nodes = three(&Settings::default()).await;
    eventually("all have it", || nodes.iter().all(|node| secret(node).is_some())).await;
    let first = secret(&nodes[0]).map(ClusterSecret::bits);
    assert!(nodes.iter().all(|node| secret(node).map(ClusterSecret::bits) == first));
    nodes[0].node.replica().transfer_leader(None).await.unwrap();
    eventually("another one leads", || {
        nodes[1..].iter().any(|node| node.node.replica().leadership().borrow().reign.is_some())
    })
    .await;
    nodes[1].enlist(vec![persistent("web", "one")]).await;
    assert_eq!(secret(&nodes[1]).map(ClusterSecret::bits), first);
    stop(nodes).await;
}

/// How long until a change that one node has acknowledged is in its own answers, and in those of the others. Printed,
/// not judged: a busy machine says nothing about the code. That it comes at all, and in order, is judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_the_answers_of_every_node() {
    let nodes = three(&Settings::default()).await;
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(Client::new(node.node.listen.dns).await);
    }
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for round in 0..100 {
        let service = format!("s{round}");
        let name = format!("{service}.service.rollcall.internal.");
        let writer = round % 3;
        nodes[writer].enlist(vec![persistent(&service, "one")]).await;
        let acknowledged = Instant::now();
        // What is acknowledged is visible where it was: no second question is needed.
        let reply = clients[writer].udp(&name, RecordType::A).await;
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NoError, 1), "{name}");
        own.push(acknowledged.elapsed());
        for other in [(writer + 1) % 3, (writer + 2) % 3] {
            while clients[other].udp(&name, RecordType::A).await.answers.is_empty() {
                assert!(acknowledged.elapsed() < Duration::from_secs(20), "{name} on {other}");
            }
            others.push(acknowledged.elapsed());
        }
    }
    for (what, mut times) in [("own node", own), ("other nodes", others)] {
        times.sort_unstable();
        let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("acknowledged to first answer, {what}: p50 {half:?}, p99 {most:?}");
    }
    stop(nodes).await;
}
