//! Watch and journal on one node, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rollcall_proto::{
    convert::Token,
    error::{Details, reason},
    v1::{self, AdminState, EventReason, HealthFilter},
};
use std::time::Duration;
use support::{
    Running, Settings, eventually,
    model::{Model, filter, pattern, services},
    padded, persistent, registration, single, within,
};
use tonic::{Code, Status, Streaming};

async fn unprotected() -> Running {
    let mut settings = Settings::default();
    settings.lease.protection = false;
    single(&settings).await
}

async fn one() -> Running {
    single(&Settings::default()).await
}

fn reason_of(status: &Status) -> String {
    Details::of(status).reason.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_is_there_and_then_each_change_with_its_reason() {
    let node = one().await;
    node.enlist(vec![persistent("web", "a"), persistent("web", "b")]).await;
    let mut watch = Model::complete(&node, services(&["web", "none"])).await;
    assert_eq!(watch.of("web").ids(), ["a", "b"]);
    assert_eq!((watch.of("none").exists, watch.snapshots, watch.bookmarks), (false, 2, 1));

    node.enlist(vec![persistent("web", "c")]).await;
    watch.until("c", |w| w.of("web").ids() == ["a", "b", "c"]).await;
    node.admin_state("web", "a", AdminState::Draining).await;
    watch.until("a drains", |w| w.of("web").ids() == ["b", "c"]).await;
    node.deregister("web", "b").await;
    watch.until("b is gone", |w| w.of("web").ids() == ["c"]).await;
    assert_eq!(
        watch.removals,
        [
            ("a".to_owned(), EventReason::AdminSet, true),
            ("b".to_owned(), EventReason::Removed, false)
        ]
    );
    assert_eq!((watch.snapshots, watch.deltas), (2, 3));
    assert_eq!((watch.snapshots, watch.outdated), (2, 0));
    // A change carries a token already, and a bookmark follows soon, not only after the asked pace.
    let token = Token::decode(&watch.token).unwrap();
    assert_eq!(token.revision, watch.of("web").revision);
    let revision = node.enlist(vec![persistent("none", "x")]).await;
    watch.until("the bookmark", |w| w.revision >= revision).await;
    watch.check(&node, "web").await;
    watch.check(&node, "none").await;
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_leaves_the_routable_list_and_stays_in_the_whole_one() {
    let node = one().await;
    node.enlist(vec![registration("web", "a", 1), persistent("web", "b")]).await;
    let mut routable = Model::complete(&node, services(&["web"])).await;
    let mut any = services(&["web"]);
    any.filter = filter(HealthFilter::Any, &[]);
    let mut any = Model::complete(&node, any).await;
    routable.until("a is hidden", |w| w.of("web").ids() == ["b"]).await;
    let expired = ("a".to_owned(), EventReason::LeaseExpired, true);
    assert_eq!(routable.removals, [expired]);
    let health = |w: &Model| w.of("web").instances["a"].health_status();
    any.until("a is expired", |w| health(w) == v1::HealthStatus::Expired).await;
    assert_eq!(any.of("web").ids(), ["a", "b"]);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_filter_does_not_see_sends_nothing() {
    let node = one().await;
    let tagged = |id: &str, tag: &str| {
        let mut item = persistent("web", id);
        item.spec.as_mut().unwrap().tags = vec![tag.into()];
        item
    };
    node.enlist(vec![tagged("a", "blue")]).await;
    let mut request = services(&["web"]);
    request.filter = filter(HealthFilter::Routable, &["blue"]);
    request.bookmark_interval = support::seconds(30);
    let mut watch = Model::complete(&node, request).await;
    for n in 0..20 {
        node.enlist(vec![tagged(&format!("g{n}"), "green")]).await;
    }
    node.enlist(vec![tagged("b", "blue")]).await;
    watch.until("b", |w| w.of("web").ids() == ["a", "b"]).await;
    assert_eq!((watch.snapshots, watch.deltas, watch.bookmarks), (1, 1, 1));
    // Losing the tag leaves the list, although the instance stays registered.
    let mut item = tagged("a", "green");
    item.held_generation = 0;
    node.enlist(vec![item]).await;
    watch.until("a left", |w| w.of("web").ids() == ["b"]).await;
    assert_eq!(watch.removals, [("a".to_owned(), EventReason::Updated, true)]);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_open_and_recovers_is_shown_as_resolve_shows_it() {
    let node = unprotected().await;
    node.enlist((0..4).map(|n| persistent("web", &format!("i{n}"))).collect()).await;
    let mut routable = Model::complete(&node, services(&["web"])).await;
    let mut any = services(&["web"]);
    any.filter = filter(HealthFilter::Any, &[]);
    let mut any = Model::complete(&node, any).await;
    node.fail_open_below("web", 0.9).await;
    // Short leases run out: three of seven are not routable.
    node.enlist((0..3).map(|n| registration("web", &format!("l{n}"), 1)).collect()).await;
    routable.until("it fails open", |w| w.of("web").fail_open).await;
    eventually("all leases ran out", || {
        node.node.api().view().load().state.lease_counts().expired == 3
    })
    .await;
    let revision = node.admin_state("web", "i0", AdminState::Draining).await;
    routable.until("everything", |w| w.revision >= revision).await;
    routable.check(&node, "web").await;
    assert_eq!(routable.of("web").instances.len(), 7);
    let mut resumed = Model::complete(&node, services(&["web"])).await;

    // While nobody looks it ends to fail open: what expired must vanish, though nothing happened to it.
    let revision = node.delete_policy("web").await;
    resumed.resume(&node).await;
    resumed.until("the new list", |w| w.complete && w.revision >= revision).await;
    assert_eq!(resumed.of("web").ids(), ["i1", "i2", "i3"]);
    resumed.check(&node, "web").await;
    routable.until("the new list", |w| w.revision >= revision).await;
    routable.check(&node, "web").await;
    any.until("the same revision", |w| w.revision >= revision).await;
    any.check(&node, "web").await;
    assert!(!any.of("web").fail_open);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_watch_gets_what_it_missed_and_no_snapshot() {
    let node = one().await;
    node.enlist(["a", "b", "c"].map(|id| persistent("web", id)).into()).await;
    node.enlist(vec![persistent("calm", "x")]).await;
    let mut watch = Model::complete(&node, services(&["web", "calm"])).await;
    node.deregister("web", "b").await;
    node.enlist(vec![persistent("web", "d")]).await;
    node.admin_state("web", "c", AdminState::Maintenance).await;
    let snapshots = watch.snapshots;
    watch.resume(&node).await;
    watch.until("it is complete", |w| w.complete).await;
    assert_eq!(watch.of("web").ids(), ["a", "d"]);
    assert_eq!(watch.snapshots, snapshots, "deltas suffice");
    assert!(watch.removals.contains(&("b".into(), EventReason::Removed, false)));
    assert!(watch.removals.contains(&("c".into(), EventReason::AdminSet, true)));
    watch.check(&node, "web").await;
    // And goes on from there.
    node.enlist(vec![persistent("calm", "y")]).await;
    watch.until("y", |w| w.of("calm").ids() == ["x", "y"]).await;
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_journal_no_longer_covers_brings_snapshots_and_other_tokens_are_refused() {
    let mut settings = Settings::default();
    settings.raft.journal_events = 10;
    let node = single(&settings).await;
    node.enlist(vec![persistent("web", "a"), persistent("web", "b")]).await;
    let mut watch = Model::complete(&node, services(&["web"])).await;
    node.deregister("web", "a").await;
    for n in 0..20 {
        node.enlist(vec![persistent("other", &format!("i{n}"))]).await;
    }
    watch.resume(&node).await;
    watch.until("it is complete", |w| w.complete).await;
    assert_eq!((watch.of("web").ids(), watch.snapshots), (vec!["b"], 2));

    let cluster_id = node.node.api().cluster_id();
    let refused = async |token: Token| {
        let mut request = services(&["web"]);
        request.resume_token = token.encode();
        let status = Model::try_start(&node, request).await.err().expect("a refusal");
        (status.code(), reason_of(&status))
    };
    let other = Token { cluster_id: "feed".into(), epoch: 1, revision: 1 };
    let expected = (Code::FailedPrecondition, reason::OTHER_CLUSTER.to_owned());
    assert_eq!(refused(other).await, expected);
    let ahead = Token { cluster_id: cluster_id.clone(), epoch: 2, revision: 1 };
    let stale = (Code::Unavailable, reason::STALE_REPLICA.to_owned());
    assert_eq!(refused(ahead).await, stale);
    let future = Token { cluster_id, epoch: 1, revision: 10_000 };
    assert_eq!(refused(future).await, stale);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_shows_services_that_come_and_those_that_go_and_come_again() {
    let node = one().await;
    node.enlist(["web-1", "we", "api"].map(|name| persistent(name, "a")).into()).await;
    let mut web = Model::complete(&node, pattern("web-")).await;
    let mut all = Model::complete(&node, pattern("")).await;
    assert_eq!(web.services.keys().collect::<Vec<_>>(), ["web-1"]);
    assert_eq!(all.services.len(), 3);
    node.enlist(vec![persistent("web-2", "b")]).await;
    web.until("web-2", |w| w.of("web-2").ids() == ["b"]).await;
    let gone = node.deregister("web-1", "a").await;
    web.until("web-1 is gone", |w| !w.of("web-1").exists && w.revision >= gone).await;
    all.until("web-1 is gone", |w| !w.of("web-1").exists && w.revision >= gone).await;

    // One that begins now is told nothing of what is gone; one that resumes sees the rebirth.
    let fresh = Model::complete(&node, pattern("web-")).await;
    assert_eq!(fresh.services.keys().collect::<Vec<_>>(), ["web-2"]);
    node.enlist(vec![persistent("web-1", "again")]).await;
    web.until("web-1 is back", |w| w.of("web-1").ids() == ["again"]).await;
    let revision = node.deregister("web-2", "b").await;
    all.resume(&node).await;
    all.until("the rest", |w| w.complete && w.revision >= revision).await;
    assert_eq!((all.of("web-1").ids(), all.of("web-2").exists), (vec!["again"], false));
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_service_comes_in_parts() {
    let node = one().await;
    let big = |n: usize| padded(persistent("web", &format!("i{n:04}")), 7_000);
    for batch in 0..5 {
        node.enlist((batch * 100..batch * 100 + 100).map(big).collect()).await;
    }
    let mut watch = Model::complete(&node, services(&["web"])).await;
    assert_eq!((watch.of("web").instances.len(), watch.snapshots), (500, 1));
    let request = v1::ResolveRequest {
        service: Some(support::service_name("web")),
        ..v1::ResolveRequest::default()
    };
    let status = node.discovery().resolve(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("Watch"), "{}", status.message());
    node.deregister("web", "i0250").await;
    watch.until("one less", |w| w.of("web").instances.len() == 499).await;
    node.node.shutdown().await;
}

/// A watcher that does not read skips states, blocks nobody, and sees the last state when it reads again.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_holds_up_nobody_and_ends_with_the_last_state() {
    let node = one().await;
    let big = |n: usize, round: usize| {
        let mut item = padded(persistent("web", &format!("i{n:03}")), 7_000);
        item.spec.as_mut().unwrap().version = format!("{round}");
        item
    };
    let all = |round: usize| (0..100).map(|n| big(n, round)).collect::<Vec<_>>();
    node.enlist(all(0)).await;
    let mut slow = Model::complete(&node, services(&["web"])).await;
    let mut quick = Model::complete(&node, services(&["web"])).await;
    let mut revision = 0;
    for round in 1..=30 {
        revision = node.enlist(all(round)).await;
        quick.until("its round", |w| w.of("web").revision >= revision).await;
    }
    let before = slow.deltas;
    slow.until("the last state", |w| w.revision >= revision).await;
    assert!(slow.deltas - before < 30, "{} deltas of 700 KiB were queued", slow.deltas - before);
    slow.check(&node, "web").await;
    assert_eq!(slow.of("web").instances["i000"].spec.as_ref().unwrap().version, "30");
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_are_counted_refused_beyond_the_limit_and_given_back() {
    let mut settings = Settings::default();
    settings.api.watches = 2;
    let node = single(&settings).await;
    let first = Model::complete(&node, services(&["web"])).await;
    let _second = Model::complete(&node, services(&["web"])).await;
    let status = Model::try_start(&node, services(&["web"])).await.err().expect("a refusal");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("limits.watches"), "{}", status.message());
    assert!(Details::of(&status).retry_after.is_some());
    drop(first);
    eventually("the place is free", || node.node.api().hub().len() == 1).await;
    Model::complete(&node, services(&["web"])).await;
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_every_stream_and_is_not_held_up_by_one_that_does_not_read() {
    let node = one().await;
    let big = |n: usize| padded(persistent("web", &format!("i{n:03}")), 7_000);
    node.enlist((0..400).map(big).collect()).await;
    let mut watch = Model::complete(&node, services(&["none"])).await;
    let mut tail = node.journal().tail(v1::TailRequest::default()).await.unwrap().into_inner();
    // More than its window: it will never be sent whole.
    let _stuck = Model::start(&node, services(&["web"])).await;
    let ended = async { (watch.end().await, tail.message().await.unwrap_err()) };
    let shutdown = tokio::time::timeout(Duration::from_secs(9), node.node.shutdown());
    let (ended, shutdown) = tokio::join!(ended, shutdown);
    shutdown.expect("the node stops within its grace and a moment");
    for status in [ended.0, ended.1] {
        assert_eq!((status.code(), &*reason_of(&status)), (Code::Unavailable, reason::DRAINING));
        assert_eq!(Details::of(&status).retry_after, Some(Duration::ZERO));
    }
}

async fn tail(node: &Running, start: v1::tail_request::Start) -> Streaming<v1::TailResponse> {
    let request = v1::TailRequest { start: Some(start), service: None };
    node.journal().tail(request).await.expect("tail").into_inner()
}

async fn read(tail: &mut Streaming<v1::TailResponse>, until: u64) -> (Vec<u64>, Vec<u8>) {
    let (mut revisions, mut token) = (Vec::new(), Vec::new());
    within("the events", async {
        while revisions.last().is_none_or(|last| *last < until) {
            let page = tail.message().await.expect("the tail goes on").expect("a page");
            assert!(page.events.len() <= 256, "{} events in one message", page.events.len());
            revisions.extend(page.events.iter().map(|event| event.revision));
            token = page.resume_token;
        }
    })
    .await;
    (revisions, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_has_every_event_once_and_goes_on_from_its_token() {
    use v1::tail_request::Start;
    let node = one().await;
    let batch = |from: usize| (from..from + 700).map(|n| persistent("web", &format!("i{n}")));
    let first = node.enlist(batch(0).collect()).await;
    let mut events = tail(&node, Start::AfterRevision(0)).await;
    let (revisions, token) = read(&mut events, first).await;
    assert_eq!(revisions, (1..=first).collect::<Vec<_>>());
    let second = node.enlist(batch(700).collect()).await;
    let (revisions, _) = read(&mut events, second).await;
    assert_eq!(revisions, (first + 1..=second).collect::<Vec<_>>());
    let mut resumed = tail(&node, Start::ResumeToken(token)).await;
    let (revisions, _) = read(&mut resumed, second).await;
    assert_eq!(revisions, (first + 1..=second).collect::<Vec<_>>());
    // What is not yet known here is not taken for seen.
    let start = Some(Start::AfterRevision(second + 1_000));
    let mut journal = node.journal();
    let status = journal.tail(v1::TailRequest { start, service: None });
    let status = within("the refusal", status).await.unwrap_err();
    assert_eq!(reason_of(&status), reason::STALE_REPLICA);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_says_when_events_are_gone_and_history_has_pages() {
    use v1::tail_request::Start;
    let mut settings = Settings::default();
    settings.raft.journal_events = 50;
    let node = single(&settings).await;
    for n in 0..10 {
        let ids = (0..10).map(|i| persistent("web", &format!("i{n}-{i}")));
        node.enlist(ids.collect()).await;
    }
    let mut events = tail(&node, Start::AfterRevision(10)).await;
    let status = events.message().await.unwrap_err();
    assert_eq!((status.code(), &*reason_of(&status)), (Code::OutOfRange, reason::COMPACTED));

    let (mut before_revision, mut seen) = (0, Vec::new());
    loop {
        let request = v1::HistoryRequest { limit: 20, before_revision, ..Default::default() };
        let page = node.journal().history(request).await.unwrap().into_inner();
        assert_eq!(page.floor_revision, 50);
        seen.extend(page.events.iter().map(|event| event.revision));
        before_revision = page.next_before_revision;
        if before_revision == 0 {
            break;
        }
    }
    assert_eq!(seen, (51..=100).rev().collect::<Vec<_>>(), "newest first, each once");
    // An instance keeps its own events longer than the journal does.
    node.deregister("web", "i0-0").await;
    let subject = v1::history_request::Subject::Instance(support::instance_name("web", "i0-0"));
    let request = v1::HistoryRequest { subject: Some(subject), ..Default::default() };
    let page = node.journal().history(request).await.unwrap().into_inner();
    let revisions: Vec<u64> = page.events.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, [101, 1]);
    node.node.shutdown().await;
}
