//! The client library against real nodes: registering, watching and tailing over the loss of a leader.

mod support;

use rollcall_client::{
    Balance, Builder, Client, HealthReport, Policy, Registration, Selection, State, v1,
};
use std::{collections::BTreeMap, time::Duration};
use support::{Running, Settings, eventually, leader_of, stop, three, within};

fn client(nodes: &[Running]) -> Client {
    let addresses = nodes.iter().map(|running| running.node.listen.grpc.to_string());
    Builder::new(addresses).timeout(Duration::from_secs(10)).build().expect("a client")
}

fn web(id: &str) -> Registration {
    let here = "127.0.0.1:8000".parse().expect("an address");
    Registration::new("web").id(id).endpoint("http", here).ttl(Duration::from_secs(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_watches_and_tails_live_through_the_loss_of_a_leader() {
    let mut nodes = three(&Settings::default()).await;
    let client = client(&nodes);
    let stays = client.register(web("stays")).await.unwrap();
    let watch = client.watch(Selection::service("web").unwrap()).unwrap();
    watch.ready(Duration::from_secs(5)).await.unwrap();
    let mut pictures = watch.pictures();
    let start = Some(v1::tail_request::Start::AfterRevision(0));
    let mut tail = client.tail(v1::TailRequest { start, service: None });
    assert_eq!(tail.next().await.unwrap().revision, 1);

    let leader = leader_of(&nodes).expect("a leader");
    nodes.remove(leader).node.shutdown().await;
    let comes = client.register(web("comes")).await.unwrap();
    let holds = |id: &'static str, wanted: bool| {
        move |picture: &std::sync::Arc<rollcall_client::Picture>| {
            picture.services.values().any(|s| s.instances.contains_key(id)) == wanted
        }
    };
    within("it comes", pictures.wait_for(holds("comes", true))).await.unwrap();
    comes.deregister().await.unwrap();
    within("it goes", pictures.wait_for(holds("comes", false))).await.unwrap();

    // Longer than two leases: what beats stays.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(matches!(stays.state(), State::Registered { .. }), "{:?}", stays.state());
    assert!(stays.acknowledged().expect("beats").sent.elapsed() < Duration::from_secs(2));
    assert_eq!(nodes[0].resolve("web").await, ["stays"]);
    drop(stays);
    within("the goodbye", pictures.wait_for(holds("stays", false))).await.unwrap();
    for revision in 2..=4 {
        let event = within("the journal", tail.next()).await.unwrap();
        assert_eq!(event.revision, revision, "each event once: {event:?}");
    }
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_instance_says_so_at_one_node_and_callers_at_another_pick_it_less() {
    let nodes = three(&Settings::default()).await;
    let (owner, caller) = (client(&nodes[..1]), client(&nodes[1..2]));
    let (mut guards, figures) = (Vec::new(), [("busy", 8000, 0.9), ("idle", 8001, 0.3)]);
    for (id, port, share) in figures {
        let here = ([127, 0, 0, 1], port).into();
        let registration = Registration::new("web").id(id).endpoint("http", here);
        let said = move || HealthReport::healthy().utilization(share);
        guards.push(
            owner.register(registration.ttl(Duration::from_secs(2)).health(said)).await.unwrap(),
        );
    }
    let balance = Balance::service("web").unwrap().policy(Policy::WeightedRoundRobin);
    let balancer = caller.balance(balance).unwrap();
    balancer.ready(Duration::from_secs(10)).await.unwrap();
    // 0.3 to 0.9: the idle one gets the root of three times the calls of the busy one, 254 of 400.
    let picked = || {
        let mut picks = BTreeMap::new();
        for _ in 0..400 {
            *picks.entry(balancer.pick().unwrap().address().port()).or_insert(0) += 1;
        }
        picks
    };
    eventually("the shares follow", || {
        let picks = picked();
        (134..=158).contains(&picks[&8000]) && picks[&8000] + picks[&8001] == 400
    })
    .await;
    drop(guards);
    stop(nodes).await;
}
