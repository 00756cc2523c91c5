//! Watches: whole states only, resumed on any node, never backwards, the last good one kept.

mod fake;

use fake::{Answer, Dial, Node, Registry, reason};
use rollcall_client::{Balance, Client, Outcome, Picture, Policy, Selection, Update, Watch, v1};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::sleep};
use tonic::{Code, Status};
use v1::watch_response::{Bookmark, Delta, Event, Removal, Snapshot};

type Sender = mpsc::Sender<Result<v1::WatchResponse, Status>>;

const WAIT: Duration = Duration::from_secs(60);

fn name(service: &str) -> Option<v1::ServiceName> {
    Some(v1::ServiceName { namespace: "default".to_owned(), service: service.to_owned() })
}

fn instance(id: &str, revision: u64) -> v1::Instance {
    v1::Instance { instance_id: id.to_owned(), revision, ..Default::default() }
}

fn snapshot(service: &str, revision: u64, ids: &[&str], more: bool) -> v1::WatchResponse {
    let instances = ids.iter().map(|id| instance(id, revision)).collect();
    let event = Snapshot { more, service_exists: true, instances, ..Default::default() };
    let event = Some(Event::Snapshot(event));
    v1::WatchResponse { revision, service: name(service), event, ..Default::default() }
}

fn delta(service: &str, revision: u64, up: &[&str], down: &[&str]) -> v1::WatchResponse {
    let removed = |id: &&str| Removal { instance_id: (*id).to_owned(), ..Default::default() };
    let event = Delta {
        service_exists: true,
        removed: down.iter().map(removed).collect(),
        upserted: up.iter().map(|id| instance(id, revision)).collect(),
        ..Default::default()
    };
    let event = Some(Event::Delta(event));
    v1::WatchResponse { revision, service: name(service), event, ..Default::default() }
}

fn bookmark(revision: u64) -> v1::WatchResponse {
    let staleness = Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
    let event = Bookmark {
        staleness,
        leader_known: true,
        initial_state_complete: true,
        ..Default::default()
    };
    v1::WatchResponse {
        revision,
        service: None,
        resume_token: revision.to_be_bytes().to_vec(),
        event: Some(Event::Bookmark(event)),
    }
}

/// The next stream that a node was asked for: its request, and where to send messages.
async fn stream(node: &Node) -> (v1::WatchRequest, Sender) {
    node.until("a watch", |state| (!state.watches.is_empty()).then(|| state.watches.remove(0)))
        .await
}

async fn send(to: &Sender, messages: impl IntoIterator<Item = v1::WatchResponse>) {
    for message in messages {
        to.send(Ok(message)).await.expect("the stream is read");
    }
}

fn ids(picture: &Picture, service: &str) -> Vec<String> {
    let found = picture.services.values().find(|s| s.name.service.as_str() == service);
    found.map(|service| service.instances.keys().cloned().collect()).unwrap_or_default()
}

async fn until(watch: &Watch, wanted: impl Fn(&Picture) -> bool) -> Arc<Picture> {
    let mut pictures = watch.pictures();
    let found = tokio::time::timeout(WAIT, pictures.wait_for(|picture| wanted(picture))).await;
    Arc::clone(&found.expect("within a minute").expect("the watch lives"))
}

async fn start(count: usize) -> (Registry, Client, Watch) {
    let registry = Registry::start(count);
    let client = registry.builder().build().expect("a client");
    let web = Selection::service("web").expect("a name");
    let watch = client.watch(web).expect("a watch");
    (registry, client, watch)
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_shown_only_when_all_its_parts_are_here() {
    let (registry, _client, mut watch) = start(1).await;
    let (request, to) = stream(&registry.nodes[0]).await;
    assert!(request.resume_token.is_empty());
    send(&to, [snapshot("web", 5, &["a", "b"], true)]).await;
    sleep(Duration::from_secs(1)).await;
    assert!(watch.current().services.is_empty());
    send(&to, [snapshot("web", 5, &["c"], false), bookmark(9)]).await;
    let picture = watch.ready(WAIT).await.unwrap();
    assert_eq!(ids(&picture, "web"), ["a", "b", "c"]);
    assert!(picture.connected && picture.leader_known && picture.problem.is_none());
    assert_eq!(picture.revision, 9);
    // Nobody has read until now: the first update is the state.
    let Update::Reset(first) = watch.next().await else { panic!("a whole state") };
    assert_eq!(ids(&first, "web"), ["a", "b", "c"]);
    assert_eq!(first.revision, 9);

    send(&to, [delta("web", 11, &["d"], &["a"])]).await;
    let Update::Delta { service, upserted, removed } = watch.next().await else {
        panic!("a change")
    };
    assert_eq!(service.instances.keys().collect::<Vec<_>>(), ["b", "c", "d"]);
    assert_eq!((upserted.len(), removed.len()), (1, 1));
    until(&watch, |picture| ids(picture, "web") == ["b", "c", "d"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_amid_a_snapshot_resumes_elsewhere_with_the_last_safe_token() {
    let (registry, _client, watch) = start(2).await;
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [snapshot("web", 5, &["a"], false), bookmark(9)]).await;
    watch.ready(WAIT).await.unwrap();
    send(&to, [snapshot("web", 12, &["x", "y"], true)]).await;
    sleep(Duration::from_secs(1)).await;
    registry.nodes[0].kill();
    let (request, to) = stream(&registry.nodes[1]).await;
    assert_eq!(request.resume_token, 9_u64.to_be_bytes());
    let picture = watch.current();
    assert_eq!(ids(&picture, "web"), ["a"], "half of a snapshot is never shown");
    send(&to, [delta("web", 12, &["x"], &["a"]), bookmark(12)]).await;
    let picture = until(&watch, |picture| picture.revision == 12).await;
    assert_eq!(ids(&picture, "web"), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_state_stays_while_the_registry_is_gone() {
    let (registry, _client, watch) = start(2).await;
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [snapshot("web", 5, &["a"], false), bookmark(9)]).await;
    watch.ready(WAIT).await.unwrap();
    registry.nodes.iter().for_each(Node::kill);
    let picture = until(&watch, |picture| !picture.connected).await;
    assert!(picture.problem.is_some());
    sleep(Duration::from_secs(600)).await;
    let picture = watch.current();
    assert_eq!(ids(&picture, "web"), ["a"]);
    assert!(picture.complete && !picture.connected);
    let dials: usize = registry.nodes.iter().map(|node| node.state().dials).sum();
    assert!(dials < 2_500, "{dials} dials in ten minutes");
    registry.nodes[1].state().dial = Dial::Open;
    let (_, to) = stream(&registry.nodes[1]).await;
    send(&to, [bookmark(9)]).await;
    until(&watch, |picture| picture.connected).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_behind_shows_nothing_older() {
    let (registry, _client, watch) = start(2).await;
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [snapshot("web", 20, &["a", "b"], false), bookmark(20)]).await;
    watch.ready(WAIT).await.unwrap();
    let mut pictures = watch.pictures();
    let watcher = tokio::spawn(async move {
        let mut seen = Vec::new();
        while pictures.changed().await.is_ok() {
            let picture = pictures.borrow_and_update().clone();
            seen.push((picture.revision, ids(&picture, "web")));
        }
        seen
    });
    registry.nodes[0].cut();
    let (_, to) = stream(&registry.nodes[1]).await;
    let behind = [
        snapshot("web", 10, &["a", "old"], false),
        bookmark(10),
        delta("web", 15, &["older"], &["old"]),
        delta("web", 25, &["c"], &["b", "older"]),
        bookmark(25),
    ];
    for message in behind {
        send(&to, [message]).await;
        sleep(Duration::from_millis(100)).await;
    }
    let picture = until(&watch, |picture| picture.revision == 25).await;
    assert_eq!(ids(&picture, "web"), ["a", "c"]);
    drop(watch);
    let seen = watcher.await.unwrap();
    assert!(seen.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{seen:?}");
    assert!(seen.iter().all(|(_, ids)| !ids.iter().any(|id| id.starts_with("old"))), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_was_set_up_anew_replaces_what_is_shown() {
    let (registry, _client, mut watch) = start(1).await;
    let node = &registry.nodes[0];
    let (_, to) = stream(node).await;
    send(&to, [snapshot("web", 500, &["a"], false), bookmark(500)]).await;
    watch.ready(WAIT).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    node.cut();
    // It takes the token, but says that it is up to date at a revision far below.
    let (request, to) = stream(node).await;
    assert!(!request.resume_token.is_empty());
    send(&to, [snapshot("web", 3, &["z"], false), bookmark(3)]).await;
    let (request, to) = stream(node).await;
    assert!(request.resume_token.is_empty(), "it begins from nothing");
    assert_eq!(ids(&watch.current(), "web"), ["a"], "until the new state is complete");
    send(&to, [snapshot("web", 3, &["z"], false), bookmark(3)]).await;
    let picture = until(&watch, |picture| picture.revision == 3).await;
    assert_eq!(ids(&picture, "web"), ["z"]);
    loop {
        if let Update::Reset(picture) = watch.next().await {
            assert_eq!(ids(&picture, "web"), ["z"]);
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_is_not_sent_again() {
    let (registry, _client, watch) = start(1).await;
    let node = &registry.nodes[0];
    let (_, to) = stream(node).await;
    send(&to, [snapshot("web", 500, &["a"], false), bookmark(500)]).await;
    watch.ready(WAIT).await.unwrap();
    let refused = reason(Code::FailedPrecondition, "WRONG_CLUSTER");
    node.state().script.push_back(Answer::Refuse(refused));
    node.cut();
    let (request, to) = stream(node).await;
    assert!(request.resume_token.is_empty());
    send(&to, [snapshot("web", 3, &["z"], false), bookmark(3)]).await;
    until(&watch, |picture| ids(picture, "web") == ["z"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_skips_to_the_whole_state() {
    let (registry, _client, mut watch) = start(1).await;
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [snapshot("web", 1, &["a"], false), bookmark(1)]).await;
    watch.ready(WAIT).await.unwrap();
    assert!(matches!(watch.next().await, Update::Reset(_)));
    for revision in 2..1_000 {
        send(&to, [delta("web", revision, &[&format!("i{revision}")], &[])]).await;
    }
    until(&watch, |picture| ids(picture, "web").len() == 999).await;
    let (mut known, mut updates, mut resets) = (0, 0, 0);
    while known < 999 {
        known = match watch.next().await {
            Update::Reset(picture) => {
                resets += 1;
                ids(&picture, "web").len()
            }
            Update::Snapshot(service) | Update::Delta { service, .. } => service.instances.len(),
            Update::Bookmark { .. } => known,
        };
        updates += 1;
    }
    assert!(updates <= 256 && resets == 1, "{updates} updates, {resets} resets");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_left_for_another_node() {
    let (registry, _client, watch) = start(2).await;
    let (request, to) = stream(&registry.nodes[0]).await;
    assert_eq!(request.bookmark_interval, Some(prost_types::Duration { seconds: 5, nanos: 0 }));
    send(&to, [snapshot("web", 5, &["a"], false), bookmark(9)]).await;
    watch.ready(WAIT).await.unwrap();
    let since = tokio::time::Instant::now();
    let (request, _to) = stream(&registry.nodes[1]).await;
    assert_eq!(request.resume_token, 9_u64.to_be_bytes());
    assert!(since.elapsed() <= Duration::from_millis(12_100), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_refused_selection_is_said_at_once() {
    let registry = Registry::start(1);
    let client = registry.builder().build().unwrap();
    let status = Status::invalid_argument("filter.tags: 40 given, 0 to 32 are allowed");
    registry.nodes[0].state().script.push_back(Answer::Refuse(status));
    let watch = client.watch(Selection::service("web").unwrap()).unwrap();
    let error = watch.ready(WAIT).await.unwrap_err();
    assert!(error.to_string().contains("filter.tags"), "{error}");
    assert!(Selection::service("not a label").is_err());
    assert!(client.watch(Selection::services([])).is_err());
}

#[tokio::test(start_paused = true)]
async fn services_that_vanished_unseen_do_not_stay_in_a_watch_by_pattern() {
    let registry = Registry::start(1);
    let node = &registry.nodes[0];
    let client = registry.builder().build().unwrap();
    let all = Selection::pattern("", "").unwrap().shrink_grace(Duration::ZERO);
    let watch = client.watch(all).unwrap();
    let (_, to) = stream(node).await;
    let both = [snapshot("api", 3, &["x"], false), snapshot("web", 5, &["a"], false), bookmark(9)];
    send(&to, both).await;
    watch.ready(WAIT).await.unwrap();
    node.cut();
    // Too old for changes: snapshots of what there is, and nothing about what there was.
    let (_, to) = stream(node).await;
    send(&to, [snapshot("web", 50, &["b"], false), bookmark(90)]).await;
    let (request, to) = stream(node).await;
    assert!(request.resume_token.is_empty());
    send(&to, [snapshot("web", 50, &["b"], false), bookmark(91)]).await;
    let picture = until(&watch, |picture| picture.revision == 91).await;
    assert_eq!(picture.services.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_makes_no_sense_ends_the_stream_and_nothing_else() {
    let (registry, _client, watch) = start(2).await;
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [snapshot("web", 5, &["a"], false), bookmark(9)]).await;
    watch.ready(WAIT).await.unwrap();
    send(&to, [v1::WatchResponse { service: name("no label"), ..delta("web", 9, &["b"], &[]) }])
        .await;
    let (_, to) = stream(&registry.nodes[1]).await;
    let foreign = snapshot("other", 6, &["c"], false);
    send(&to, [snapshot("web", 6, &["b"], true), foreign]).await;
    let (_, to) = stream(&registry.nodes[0]).await;
    assert_eq!(ids(&watch.current(), "web"), ["a"]);
    send(&to, [bookmark(9)]).await;
    until(&watch, |picture| picture.connected && picture.problem.is_none()).await;
}

/// A bookmark that tells how busy instances of `web` are.
fn telling(revision: u64, told: &[(&str, Option<u32>)]) -> v1::WatchResponse {
    let mut message = bookmark(revision);
    let figure = |(id, percent): &(&str, Option<u32>)| v1::InstanceUtilization {
        instance_id: (*id).to_owned(),
        percent: *percent,
    };
    let told = v1::ServiceUtilization {
        service: name("web"),
        instances: told.iter().map(figure).collect(),
    };
    if let Some(Event::Bookmark(bookmark)) = &mut message.event {
        bookmark.utilization = vec![told];
    }
    message
}

/// Instances that can be called.
fn callable(revision: u64, instances: &[(&str, u64)]) -> v1::WatchResponse {
    let mut message = snapshot("web", revision, &[], false);
    let instance = |(port, (id, generation)): (u32, &(&str, u64))| {
        let host = "127.0.0.1".to_owned();
        let endpoint = v1::Endpoint { host, port, ..v1::Endpoint::default() };
        let endpoints = vec![endpoint];
        v1::Instance {
            generation: *generation,
            spec: Some(v1::InstanceSpec { endpoints, ..v1::InstanceSpec::default() }),
            health_status: v1::HealthStatus::Healthy.into(),
            admin_state: v1::AdminState::Enabled.into(),
            ..instance(id, revision)
        }
    };
    if let Some(Event::Snapshot(snapshot)) = &mut message.event {
        snapshot.instances = (80..).zip(instances).map(instance).collect();
    }
    message
}

fn told(picture: &Picture) -> Vec<(String, u8)> {
    let Some((name, web)) = picture.services.iter().next() else { return Vec::new() };
    let told = web.instances.values().filter_map(|instance| {
        Some((instance.instance_id.clone(), picture.utilization_of(name, instance)?))
    });
    told.collect()
}

#[tokio::test(start_paused = true)]
async fn what_instances_tell_of_their_load_is_shown_and_weighs_calls() {
    let registry = Registry::start(1);
    let client = registry.builder().build().unwrap();
    let watch = client.watch(Selection::service("web").unwrap()).unwrap();
    let (_, to) = stream(&registry.nodes[0]).await;
    let policy = Policy::WeightedRoundRobin;
    let balance = Balance::service("web").unwrap().policy(policy).slow_start(Duration::ZERO);
    let balancer = client.balance(balance).unwrap();
    let (_, feeding) = stream(&registry.nodes[0]).await;
    let both = async |messages: Vec<v1::WatchResponse>| {
        send(&to, messages.clone()).await;
        send(&feeding, messages).await;
        sleep(Duration::from_millis(50)).await;
    };
    let shares = || {
        let mut shares = BTreeMap::new();
        for _ in 0..1_200 {
            let pick = balancer.pick().unwrap();
            *shares.entry(pick.endpoint().key().instance_id.to_string()).or_insert(0_u32) += 1;
            pick.report(Outcome::Success);
        }
        shares.into_values().collect::<Vec<_>>()
    };
    let near = |given: Vec<u32>, expected: [u32; 2]| {
        let close = given.iter().zip(expected).all(|(a, b)| a.abs_diff(b) < 20);
        assert!(given.len() == 2 && close, "{given:?}, expected {expected:?}");
    };
    both(vec![callable(5, &[("a", 1), ("b", 1)]), bookmark(5)]).await;
    near(shares(), [600, 600]);
    // Nobody may claim more than everything, nor for an instance that is not listed.
    let figures = [("a", Some(80)), ("b", Some(40)), ("c", Some(10))];
    both(vec![telling(5, &figures), telling(5, &[("b", Some(101))])]).await;
    assert_eq!(told(&watch.current()), [("a".to_owned(), 80)]);
    both(vec![telling(5, &figures)]).await;
    assert_eq!(told(&watch.current()), [("a".to_owned(), 80), ("b".to_owned(), 40)]);
    // Half as busy: the root of two times the calls.
    near(shares(), [497, 703]);
    // Another owner has said nothing, and who tells no more counts as the others do.
    both(vec![callable(6, &[("a", 2), ("b", 1)]), bookmark(6)]).await;
    assert_eq!(told(&watch.current()), [("b".to_owned(), 40)]);
    near(shares(), [600, 600]);
    both(vec![telling(6, &[("a", Some(30)), ("b", Some(30))]), telling(6, &[("a", None)])]).await;
    assert_eq!(told(&watch.current()), [("b".to_owned(), 30)]);
    // A new stream tells everything anew.
    registry.nodes[0].cut();
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [bookmark(6)]).await;
    until(&watch, |picture| picture.connected && picture.utilization.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_that_is_gone_said_of_load_counts_for_three_minutes() {
    let registry = Registry::start(1);
    let client = registry.builder().build().unwrap();
    let balance = Balance::service("web").unwrap().policy(Policy::WeightedRoundRobin);
    let balancer = client.balance(balance).unwrap();
    let (_, to) = stream(&registry.nodes[0]).await;
    let figures = [("a", Some(90)), ("b", Some(10))];
    send(&to, [callable(5, &[("a", 1), ("b", 1)]), bookmark(5), telling(5, &figures)]).await;
    sleep(Duration::from_millis(50)).await;
    let busy = || {
        let picks = (0..1_200).map(|_| balancer.pick().unwrap());
        picks.filter(|pick| &*pick.endpoint().key().instance_id == "a").count()
    };
    assert!((280..=320).contains(&busy()), "{}", busy());
    registry.nodes[0].kill();
    sleep(Duration::from_secs(170)).await;
    assert!((280..=320).contains(&busy()), "{}", busy());
    sleep(Duration::from_secs(25)).await;
    assert!((580..=620).contains(&busy()), "{}", busy());
}

#[tokio::test(start_paused = true)]
async fn nodes_that_end_each_stream_with_its_first_bookmark_are_not_asked_without_a_pause() {
    let (registry, _client, _watch) = start(2).await;
    let mut streams = 0;
    let end = sleep(Duration::from_secs(10));
    let feed = async {
        loop {
            for node in &registry.nodes {
                let watches = std::mem::take(&mut node.state().watches);
                for (_, to) in watches {
                    streams += 1;
                    send(&to, [snapshot("web", 1, &["a"], false), bookmark(1)]).await;
                }
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = end => {}
        () = feed => {}
    }
    // Two for each wait of at most a second, and some more while the waits grow.
    assert!((2..=60).contains(&streams), "{streams} streams in 10 s");
}
