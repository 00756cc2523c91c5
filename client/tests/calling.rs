//! Calls: fail over, repetition with the same request id, refusals, deadlines.

mod fake;

use fake::{Answer, Dial, Registry, no_leader, reason};
use rollcall_client::{Error, Registration, reason as codes, v1};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

fn deregister() -> v1::DeregisterRequest {
    v1::DeregisterRequest { items: vec![v1::Deregistration::default()], ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_passed_over_and_not_asked_again() {
    let registry = Registry::start(2);
    registry.nodes[0].state().dial = Dial::Refused;
    let client = registry.builder().build().unwrap();
    for _ in 0..5 {
        client.resolve(v1::ResolveRequest::default()).await.unwrap();
    }
    assert_eq!(registry.nodes[0].state().dials, 1);
    assert_eq!(registry.nodes[1].state().resolves.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_write_without_a_leader_is_repeated_with_the_same_request_id() {
    let registry = Registry::start(2);
    for node in &registry.nodes {
        node.state().script.extend([no_leader(), no_leader()]);
    }
    let client = registry.builder().build().unwrap();
    let begin = Instant::now();
    client.deregister(deregister()).await.unwrap();
    let mut ids = Vec::new();
    for node in &registry.nodes {
        ids.extend(node.state().deregisters.iter().map(|d| d.request_id.clone()));
    }
    assert_eq!(ids.len(), 5);
    assert!(ids.iter().all(|id| id.len() == 32 && *id == ids[0]), "{ids:?}");
    assert!(begin.elapsed() >= Duration::from_millis(400), "RetryInfo asks for 200 ms a round");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_repeated_elsewhere_with_the_same_request_id() {
    let registry = Registry::start(2);
    registry.nodes[0].state().script.push_back(Answer::Hang);
    let client = registry.builder().build().unwrap();
    client.deregister(deregister()).await.unwrap();
    let id = |n: usize| registry.nodes[n].state().deregisters[0].request_id.clone();
    assert_eq!(id(0), id(1));
    assert_eq!(client.written_revision(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_amid_a_write_is_no_final_answer() {
    let registry = Registry::start(2);
    registry.nodes[0].state().script.push_back(Answer::Hang);
    let client = registry.builder().build().unwrap();
    let node = registry.nodes[0].clone();
    let cut = tokio::spawn(async move {
        node.until("the call", |state| (!state.deregisters.is_empty()).then_some(())).await;
        node.cut();
    });
    let begin = Instant::now();
    client.deregister(deregister()).await.unwrap();
    cut.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "took {:?}", begin.elapsed());
    assert_eq!(registry.nodes[1].state().deregisters.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_repeated_and_says_who_and_what() {
    let registry = Registry::start(2);
    let details = ErrorDetails::with_bad_request_violation("items[0].name.service", "not a label");
    let status = Status::with_error_details(Code::InvalidArgument, "1 field is wrong", details);
    registry.nodes[0].state().script.push_back(Answer::Refuse(status));
    let client = registry.builder().build().unwrap();
    let error = client.deregister(deregister()).await.unwrap_err();
    assert!(!error.is_retryable() && !error.outcome_unknown());
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    let text = error.to_string();
    for part in ["deregister", "n1:8502", "items[0].name.service", "not a label"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert!(registry.nodes[1].state().deregisters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_whatever_the_nodes_do() {
    let registry = Registry::start(3);
    registry.nodes[0].state().dial = Dial::Hangs;
    registry.nodes[1].state().dial = Dial::Refused;
    registry.nodes[2].state().script.extend(vec![Answer::Hang; 50]);
    let client = registry.builder().timeout(Duration::from_secs(4)).build().unwrap();
    let begin = Instant::now();
    let error = client.deregister(deregister()).await.unwrap_err();
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_millis(4_050), "{took:?}");
    assert!(error.is_unreachable() && error.is_retryable() && error.outcome_unknown());
    let text = error.to_string();
    for part in ["n1:8502", "n2:8502", "n3:8502", "same request_id"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_nobody_answers_leaves_no_unknown_outcome() {
    let registry = Registry::start(1);
    registry.nodes[0].state().script.extend(vec![no_leader(); 500]);
    let client = registry.builder().build().unwrap();
    let error = client.resolve(v1::ResolveRequest::default()).await.unwrap_err();
    assert_eq!(error.reason(), Some(codes::NO_LEADER));
    assert_eq!(error.retry_after(), Some(Duration::from_millis(200)));
    assert!(!error.outcome_unknown());
    let asked = registry.nodes[0].state().resolves.len();
    assert!((10..=40).contains(&asked), "{asked} attempts in 5 s");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_request_id_is_repeated_only_where_nothing_was_done() {
    let registry = Registry::start(2);
    let client = registry.builder().build().unwrap();
    registry.nodes[0].state().script.push_back(no_leader());
    client.transfer_leader(v1::TransferLeaderRequest::default()).await.unwrap();
    assert_eq!(registry.nodes[1].state().transfers, 1);

    let lost = Status::unavailable("the connection broke");
    registry.nodes[1].state().script.push_back(Answer::Refuse(lost));
    let error = client.transfer_leader(v1::TransferLeaderRequest::default()).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    let transfers = |n: usize| registry.nodes[n].state().transfers;
    assert_eq!((transfers(0), transfers(1)), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn the_leader_that_a_node_names_is_asked_next() {
    let registry = Registry::start(3);
    let mut status = reason(Code::Unavailable, "NO_LEADER");
    status.metadata_mut().insert("x-rollcall-leader", "n3:8502".parse().unwrap());
    registry.nodes[0].state().script.push_back(Answer::Refuse(status));
    let client = registry.builder().build().unwrap();
    client.deregister(deregister()).await.unwrap();
    assert!(registry.nodes[1].state().deregisters.is_empty());
    assert_eq!(registry.nodes[2].state().deregisters.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn reads_wait_for_the_clients_own_writes_where_it_wants_that() {
    for wanted in [false, true] {
        let registry = Registry::start(1);
        let client = registry.builder().read_your_writes(wanted).build().unwrap();
        let here = "127.0.0.1:80".parse().unwrap();
        let _guard =
            client.register(Registration::new("web").endpoint("http", here)).await.unwrap();
        client.resolve(v1::ResolveRequest::default()).await.unwrap();
        let floor = registry.nodes[0].state().resolves[0].min_revision;
        assert_eq!(floor, if wanted { 101 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn listings_are_read_page_after_page() {
    let registry = Registry::start(1);
    let client = registry.builder().build().unwrap();
    let services = client.list_all_services(v1::ListServicesRequest::default()).await.unwrap();
    let names: Vec<_> = services.into_iter().map(|s| s.name.unwrap().service).collect();
    assert_eq!(names, ["s0", "s1", "s2"]);
}

#[tokio::test(start_paused = true)]
async fn the_local_address_is_that_of_the_connection() {
    let registry = Registry::start(1);
    let client = registry.builder().build().unwrap();
    assert_eq!(client.local_ip().await.unwrap(), Some("10.1.2.3".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_ends_early_is_an_error() {
    let registry = Registry::start(1);
    let client = registry.builder().build().unwrap();
    let mut export = client.export_snapshot().await.unwrap();
    let mut bytes = 0;
    while let Some(part) = export.next().await.unwrap() {
        bytes += part.data.len();
    }
    assert_eq!(bytes, 6);

    registry.nodes[0].state().script.push_back(Answer::Hang);
    let mut export = client.export_snapshot().await.unwrap();
    export.next().await.unwrap();
    let error = export.next().await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_journal_tail_gives_each_event_once_over_a_break_and_says_compacted() {
    let registry = Registry::start(2);
    let client = registry.builder().build().unwrap();
    let mut tail = client.tail(v1::TailRequest::default());
    let events = |revisions: std::ops::RangeInclusive<u64>| {
        let revision = *revisions.end();
        let events =
            revisions.map(|revision| v1::Event { revision, ..Default::default() }).collect();
        v1::TailResponse { events, revision, resume_token: vec![1] }
    };
    let (first, second) = (registry.nodes[0].clone(), registry.nodes[1].clone());
    let script = tokio::spawn(async move {
        let send = first.until("a tail", |s| s.tails.first().map(|t| t.1.clone())).await;
        send.send(Ok(events(1..=3))).await.unwrap();
        send.send(Err(reason(Code::Unavailable, "DRAINING"))).await.unwrap();
        let (asked, send) = second.until("another tail", |s| s.tails.pop()).await;
        send.send(Ok(events(2..=5))).await.unwrap();
        send.send(Err(reason(Code::OutOfRange, "COMPACTED"))).await.unwrap();
        asked
    });
    for revision in 1..=5 {
        let next =
            tokio::time::timeout(Duration::from_secs(60), tail.next()).await.expect("in time");
        assert_eq!(next.unwrap().revision, revision);
    }
    assert_eq!(tail.next().await.unwrap_err().reason(), Some(codes::COMPACTED));
    let asked = script.await.unwrap();
    assert_eq!(asked.start, Some(v1::tail_request::Start::ResumeToken(vec![1])));
}

#[tokio::test]
async fn an_unreadable_address_is_refused_before_anything_is_sent() {
    let error = rollcall_client::Client::new(["https://registry"]).unwrap_err();
    assert!(error.to_string().contains("https://registry"), "{error}");
    assert!(rollcall_client::Client::new(Vec::<String>::new()).is_err());
}

#[tokio::test]
async fn the_default_connector_speaks_tcp_without_delay() {
    let (address, node) = fake::on_loopback().await;
    let client = rollcall_client::Client::new([address.to_string()]).unwrap();
    let here = "127.0.0.1:80".parse().unwrap();
    let guard = client.register(Registration::new("web").endpoint("http", here)).await.unwrap();
    assert_eq!(client.local_ip().await.unwrap(), Some(address.ip()));
    node.until("a beat", |state| (!state.heard.is_empty()).then_some(())).await;
    let calls = async {
        for _ in 0..50 {
            client.resolve(v1::ResolveRequest::default()).await.unwrap();
        }
    };
    // 40 ms for each call is what a socket with Nagle's algorithm takes.
    tokio::time::timeout(Duration::from_millis(1_000), calls).await.expect("50 calls in a second");
    guard.deregister().await.unwrap();
}
