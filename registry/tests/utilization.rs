//! How busy instances say they are: from a heartbeat stream at one node to readers at another.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rollcall_proto::{error::Details, v1};
use support::{
    Running, Settings,
    beating::Beating,
    eventually, instance_name, leads,
    model::{Model, services},
    registration, service_name, single, stop, three, within,
};
use tonic::Code;

fn busy(handle: u64, percent: Option<u32>) -> v1::SelfReport {
    v1::SelfReport { lease_handle: handle, utilization_percent: percent, ..Default::default() }
}

async fn resolve(node: &Running, known: Option<u64>) -> v1::ResolveResponse {
    let request = v1::ResolveRequest {
        service: Some(service_name("web")),
        known_service_revision: known,
        ..Default::default()
    };
    node.discovery().resolve(request).await.unwrap().into_inner()
}

fn figures(answer: &v1::ResolveResponse) -> Vec<(&str, u32)> {
    let figures = answer.utilization.iter();
    figures.map(|one| (one.instance_id.as_str(), one.percent())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_tells_a_follower_is_seen_by_every_reader_of_another_node() {
    let nodes = three(&Settings::default()).await;
    let leader = leads(&nodes).await;
    let (follower, other) = (&nodes[(leader + 1) % 3], &nodes[(leader + 2) % 3]);
    let mut items = vec![registration("web", "a", 1), registration("web", "b", 2)];
    for item in &mut items {
        item.spec.as_mut().unwrap().ttl = support::seconds(60);
    }
    let handles = follower.register(items).await;
    eventually("both are listed", || other.routable("web") == 2).await;
    // Kept answers have been made before anything is told.
    let before = resolve(other, None).await;
    assert_eq!(figures(&before), []);
    let mut watch = Model::complete(other, services(&["web"])).await;
    let hash = other.node.api().view().seen().state.hash();

    let mut stream = Beating::at(follower).await;
    stream.report(busy(handles[0], Some(70))).await;
    let answer = within("70 %", async {
        loop {
            let answer = resolve(other, None).await;
            if !answer.utilization.is_empty() {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(figures(&answer), [("a", 70)]);
    assert_eq!(answer.instances, before.instances);
    let revision = |answer: &v1::ResolveResponse| answer.read_metadata.unwrap().service_revision;
    assert_eq!(revision(&answer), revision(&before));
    assert_eq!(other.node.api().view().seen().state.hash(), hash);

    let known = resolve(other, Some(revision(&answer))).await;
    assert!(known.not_modified && known.instances.is_empty());
    assert_eq!(figures(&known), [("a", 70)]);
    let query = v1::batch_resolve_request::Query {
        service: Some(service_name("web")),
        ..Default::default()
    };
    let batch = v1::BatchResolveRequest { queries: vec![query], ..Default::default() };
    let batch = other.discovery().batch_resolve(batch).await.unwrap().into_inner();
    assert_eq!(figures(&batch.responses[0]), [("a", 70)]);
    assert_eq!(batch.responses[0].instances.len(), 2);
    for (id, percent) in [("a", Some(70)), ("b", None)] {
        let name = Some(instance_name("web", id));
        let request = v1::GetInstanceRequest { name, ..Default::default() };
        let one = other.discovery().get_instance(request).await.unwrap().into_inner();
        assert_eq!(one.utilization_percent, percent);
    }
    let key = ("web".to_owned(), "a".to_owned());
    watch.until("70 % in a bookmark", |w| w.busy.get(&key) == Some(&Some(70))).await;
    assert_eq!((watch.snapshots, watch.deltas), (1, 0), "no list was sent for it");

    // It is not told any more, once the five seconds of the last figure are over.
    stream.report(busy(handles[0], None)).await;
    watch.until("nothing in a bookmark", |w| w.busy.get(&key) == Some(&None)).await;
    assert_eq!(figures(&resolve(other, None).await), []);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_100_percent_is_refused_with_the_name_of_the_field() {
    let node = single(&Settings::default()).await;
    let handle = node.register(vec![registration("web", "a", 1)]).await[0];
    let request = v1::StreamHeartbeatsRequest {
        sequence: 1,
        alive_handles: vec![handle],
        self_reports: vec![busy(handle, Some(100)), busy(handle, Some(101))],
        ..Default::default()
    };
    let beats = tokio_stream::iter([request]);
    let mut answers = node.registration().stream_heartbeats(beats).await.unwrap().into_inner();
    let refused = within("the refusal", answers.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let violations = Details::of(&refused).violations.into_iter();
    let fields: Vec<String> = violations.map(|violation| violation.field).collect();
    assert_eq!(fields, ["self_reports[1].utilization_percent"]);
    node.node.shutdown().await;
}
