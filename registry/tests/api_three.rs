//! The API on three nodes: reads on followers, forwarding, watches and tails that outlive their node.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod support;

use cluster::TightDisk;
use rollcall_proto::{
    error::{Details, reason},
    v1::{self, Consistency},
};
use rollcall_registry::{
    host::Host,
    node::{Entry, Node},
};
use std::{sync::Arc, time::Duration};
use support::{
    Killable, Running, Settings, batch, eventually, leader_among,
    model::{Model, services},
    options_in, persistent, registration, three_killable, within,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

fn reason_of(status: &Status) -> String {
    Details::of(status).reason.unwrap_or_default()
}

fn resolve(service: &str, consistency: Consistency) -> v1::ResolveRequest {
    let max_staleness =
        (consistency == Consistency::Bounded).then(|| support::seconds(1)).flatten();
    v1::ResolveRequest {
        service: Some(support::service_name(service)),
        consistency: consistency.into(),
        max_staleness,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_writes_and_reads_them_at_once() {
    let nodes = three_killable(&Settings::default()).await;
    let leader = leader_among(&nodes).await;
    for round in 0..30 {
        let (writer, reader) = (round % 3, (round + 1) % 3);
        let id = format!("i{round}");
        let revision = nodes[writer].enlist(vec![persistent("web", &id)]).await;
        let has =
            |answer: v1::ResolveResponse| answer.instances.iter().any(|i| i.instance_id == id);
        // On the node that took it, without asking for anything.
        let own = nodes[writer].discovery().resolve(resolve("web", Consistency::Stale)).await;
        assert!(has(own.unwrap().into_inner()), "{id}: its own write");
        let exact = resolve("web", Consistency::Linearizable);
        let exact = nodes[reader].discovery().resolve(exact).await.unwrap().into_inner();
        assert_eq!(exact.read_metadata.as_ref().unwrap().staleness, support::seconds(0));
        assert!(has(exact), "{id}: a linearizable read elsewhere");
        let third = (round + 2) % 3;
        let mut wait = resolve("web", Consistency::Stale);
        wait.min_revision = revision;
        let waited = nodes[third].discovery().resolve(wait).await.unwrap().into_inner();
        assert!(waited.read_metadata.as_ref().unwrap().revision >= revision);
        assert!(has(waited), "{id}: a read that waits for its revision");
    }
    let follower = &nodes[(leader + 1) % 3];
    let write = batch(vec![persistent("web", "direct")]);
    let answer = follower.registration().register(write.clone()).await.unwrap();
    let address = nodes[leader].node.listen.grpc.to_string();
    assert_eq!(answer.metadata().get("x-rollcall-leader").unwrap(), &*address);
    let mut direct = Request::new(batch(vec![persistent("web", "stays")]));
    direct.metadata_mut().insert("x-rollcall-no-forward", "1".parse().unwrap());
    let status = follower.registration().register(direct).await.unwrap_err();
    let expected = (Code::FailedPrecondition, reason::NOT_LEADER.to_owned());
    assert_eq!((status.code(), reason_of(&status)), expected);
    assert_eq!(Details::of(&status).metadata["leader_address"], address);
    let mut direct = Request::new(batch(vec![persistent("web", "goes")]));
    direct.metadata_mut().insert("x-rollcall-no-forward", "1".parse().unwrap());
    nodes[leader].registration().register(direct).await.expect("the leader takes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_and_a_tail_outlive_the_leader_without_a_gap() {
    let mut nodes = three_killable(&Settings::default()).await;
    let leader = leader_among(&nodes).await;
    nodes[leader].enlist(vec![persistent("web", "a"), persistent("calm", "x")]).await;
    let mut watch = Model::complete(&nodes[leader], services(&["web", "calm"])).await;
    let start = v1::tail_request::Start::AfterRevision(0);
    let request = v1::TailRequest { start: Some(start), service: None };
    let mut tail = nodes[leader].journal().tail(request).await.unwrap().into_inner();
    let first = within("a page", tail.message()).await.unwrap().unwrap();
    let mut revisions: Vec<u64> = first.events.iter().map(|event| event.revision).collect();
    for n in 0..20 {
        nodes[(leader + 1) % 3].enlist(vec![persistent("web", &format!("b{n}"))]).await;
    }
    nodes[leader].kill();
    let died = Instant::now();
    watch.end().await;
    let snapshots = watch.snapshots;
    let left: Vec<&Killable> =
        nodes.iter().enumerate().filter(|(n, _)| *n != leader).map(|(_, n)| n).collect();
    // What was known goes on to be answered while there is no leader.
    let stale = left[0].discovery().resolve(resolve("web", Consistency::Stale)).await;
    assert!(stale.unwrap().into_inner().instances.len() >= 21);
    watch.resume(left[0]).await;
    within("a new leader takes writes", async {
        loop {
            let write = batch(vec![persistent("web", "after")]);
            match left[1].registration().register(write).await {
                Ok(_) => break,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(died.elapsed() < Duration::from_secs(10), "{:?}", died.elapsed());
    watch.until("the write", |w| w.complete && w.of("web").instances.contains_key("after")).await;
    assert_eq!(watch.of("web").instances.len(), 22);
    assert_eq!((watch.snapshots, watch.of("calm").ids()), (snapshots, vec!["x"]));
    watch.check(left[0], "web").await;

    // The tail goes on elsewhere: each event once.
    let last = left[1].node.api().view().load().state.revision();
    let start = v1::tail_request::Start::ResumeToken(first.resume_token);
    let request = v1::TailRequest { start: Some(start), service: None };
    let mut tail = left[1].journal().tail(request).await.unwrap().into_inner();
    while revisions.last() != Some(&last) {
        let page = within("a page", tail.message()).await.unwrap().unwrap();
        revisions.extend(page.events.iter().map(|event| event.revision));
    }
    assert_eq!(revisions, (1..=last).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_says_so_and_goes_on_answering() {
    let mut settings = Settings::default();
    settings.api.request_deadline = Duration::from_secs(4);
    let mut nodes = three_killable(&settings).await;
    let leader = leader_among(&nodes).await;
    nodes[leader].enlist(vec![persistent("web", "a")]).await;
    // The leader is left over: it must notice by itself that it leads nobody.
    for other in [(leader + 1) % 3, (leader + 2) % 3] {
        nodes[other].kill();
    }
    let alone = &nodes[leader];
    let api = alone.node.api();
    eventually("no leader is known", || !api.freshness().leader_known).await;
    let stale = |staleness: Option<Duration>| staleness.is_some_and(|s| s > Duration::from_secs(1));
    eventually("its staleness grows", || stale(api.freshness().staleness)).await;
    let answer = alone.discovery().resolve(resolve("web", Consistency::Stale)).await.unwrap();
    let answer = answer.into_inner();
    let metadata = answer.read_metadata.unwrap();
    assert_eq!((answer.instances.len(), metadata.leader_known), (1, false));
    assert!(metadata.staleness.unwrap().seconds >= 1);
    for (consistency, reason) in [
        (Consistency::Bounded, reason::STALE_REPLICA),
        (Consistency::Linearizable, reason::NO_LEADER),
    ] {
        let began = Instant::now();
        let status = alone.discovery().resolve(resolve("web", consistency)).await.unwrap_err();
        assert_eq!((status.code(), &*reason_of(&status)), (Code::Unavailable, reason));
        assert!(Details::of(&status).retry_after.is_some());
        assert!(began.elapsed() < Duration::from_secs(4), "{consistency:?} {:?}", began.elapsed());
    }
    let mut watch = Model::complete(alone, services(&["web"])).await;
    assert_eq!((watch.of("web").ids(), watch.leader_known), (vec!["a"], false));
    watch.until("bookmarks go on", |w| w.bookmarks >= 2).await;
    let write = batch(vec![persistent("web", "b")]);
    let status = alone.registration().register(write).await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_told_to_go_and_lose_no_beat() {
    let mut nodes = three_killable(&Settings::default()).await;
    let leader = leader_among(&nodes).await;
    let leaving = nodes.remove((leader + 1) % 3);
    let write = batch(vec![registration("web", "a", 1)]);
    let handle =
        leaving.registration().register(write).await.unwrap().into_inner().items[0].lease_handle;
    let (beats, outbound) = mpsc::channel(16);
    let request = ReceiverStream::new(outbound);
    let answers = leaving.registration().stream_heartbeats(request).await.unwrap();
    let mut answers = answers.into_inner();
    let beat = |sequence| v1::StreamHeartbeatsRequest {
        sequence,
        alive_handles: vec![handle],
        release_handles: vec![],
        ..Default::default()
    };
    beats.send(beat(1)).await.unwrap();
    let acked = within("an answer", answers.message()).await.unwrap().unwrap();
    assert_eq!((acked.ack_sequence, acked.go_away_after), (1, None));
    let told = async {
        let away = within("it is told", answers.message()).await.unwrap().unwrap();
        assert!(away.go_away_after.is_some(), "{away:?}");
        // A beat that was on its way is still taken.
        beats.send(beat(2)).await.unwrap();
        let acked = within("an answer", answers.message()).await.unwrap().unwrap();
        assert_eq!((acked.ack_sequence, acked.reregister_handles), (2, vec![]));
        within("the end", answers.message()).await.unwrap_err()
    };
    let shutdown = within("the shutdown", leaving.shutdown());
    let (status, ()) = tokio::join!(told, shutdown);
    assert_eq!((status.code(), &*reason_of(&status)), (Code::Unavailable, reason::DRAINING));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_nearly_full_refuses_writes_and_answers_reads() {
    let disk = Arc::new(TightDisk::default());
    let dir = tempfile::tempdir().unwrap();
    let entry = Entry { bootstrap: true, ..Entry::default() };
    let options = options_in(&dir, &Settings::default(), entry, 1);
    let host = Host { disk: disk.clone(), ..Host::system(1) };
    let node = Node::start(options, host).await.unwrap();
    within("the node leads", node.ready()).await;
    let running = Running { node, dir };
    running.enlist(vec![persistent("web", "a")]).await;
    disk.set_full(true);
    let refused = within("a refusal", async {
        for n in 0.. {
            let write = batch(vec![persistent("web", &format!("b{n}"))]);
            if let Err(status) = running.registration().register(write).await {
                return status;
            }
        }
        unreachable!()
    })
    .await;
    let expected = (Code::ResourceExhausted, reason::DISK_FULL.to_owned());
    assert_eq!((refused.code(), reason_of(&refused)), expected);
    assert!(Details::of(&refused).retry_after.is_some());
    assert!(running.resolve("web").await.contains(&"a".to_owned()));
    disk.set_full(false);
    within("there is space", async {
        while running.registration().register(batch(vec![persistent("web", "z")])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    running.node.shutdown().await;
}
