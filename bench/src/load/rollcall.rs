//! Calls to our API, through tonic alone: what a caller in any language would send.

use crate::outcome::{Doing, Outcome};
use futures_util::{StreamExt, TryStreamExt, stream};
use rollcall_proto::v1::{
    self, admin_service_client::AdminServiceClient,
    discovery_service_client::DiscoveryServiceClient,
    registration_service_client::RegistrationServiceClient,
};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// Most instances in one registration here; the limit is 1,000.
const BATCH: usize = 500;
/// Longest wait for one answer.
const CALL: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 64 << 20;

/// A connection, made at the first call. Streams on it have no deadline.
pub(crate) fn channel(api: SocketAddr) -> Outcome<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{api}"))?.tcp_nodelay(true);
    Ok(endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy())
}

/// So many connections.
pub(crate) fn channels(api: SocketAddr, count: usize) -> Outcome<Vec<Channel>> {
    (0..count).map(|_| channel(api)).collect()
}

pub(crate) fn registry(channel: &Channel) -> RegistrationServiceClient<Channel> {
    RegistrationServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES)
}

pub(crate) fn discovery(channel: &Channel) -> DiscoveryServiceClient<Channel> {
    DiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES)
}

/// The cluster as one node sees it; given up after half a second.
pub(crate) async fn status(api: SocketAddr) -> Outcome<v1::GetClusterStatusResponse> {
    let mut admin = AdminServiceClient::new(channel(api)?);
    let answer = admin.get_cluster_status(v1::GetClusterStatusRequest {});
    Ok(timeout(Duration::from_millis(500), answer).await??.into_inner())
}

/// Makes a node write a snapshot; when it has been written.
pub(crate) async fn snapshot(api: SocketAddr) -> Outcome {
    let mut admin = AdminServiceClient::new(channel(api)?);
    admin.trigger_snapshot(v1::TriggerSnapshotRequest {}).await?;
    Ok(())
}

pub(crate) fn service(name: &str) -> v1::ServiceName {
    v1::ServiceName { namespace: String::new(), service: name.to_owned() }
}

/// A look-up of what is routable.
pub(crate) fn look_up(name: &str, consistency: v1::Consistency) -> v1::ResolveRequest {
    v1::ResolveRequest {
        service: Some(service(name)),
        consistency: consistency.into(),
        ..v1::ResolveRequest::default()
    }
}

/// A usual instance: one endpoint, two tags, two metadata pairs; about 230 bytes. `change` is its weight: what watchers
/// tell its versions apart by.
pub(crate) fn registration(
    service_name: &str,
    number: usize,
    ttl: Duration,
    change: usize,
) -> v1::Registration {
    let host = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let metadata = BTreeMap::from([
        pair("commit", "3f786850e387550fdab836ed7e6dc881de23001b".to_owned()),
        pair("pod", format!("{service_name}-7f9c6bd5-{number:07}")),
    ]);
    v1::Registration {
        name: Some(v1::InstanceName {
            namespace: String::new(),
            service: service_name.to_owned(),
            instance_id: format!("{service_name}-{number:07}"),
        }),
        spec: Some(v1::InstanceSpec {
            endpoints: vec![v1::Endpoint {
                name: "grpc".to_owned(),
                host,
                port: 8080,
                ..v1::Endpoint::default()
            }],
            weight: u32::try_from(change % 60_000 + 1).ok(),
            tags: vec!["linux-x86-64".to_owned(), "canary".to_owned()],
            metadata,
            ttl: Some(prost_types::Duration {
                seconds: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(ttl.subsec_nanos()).unwrap_or(0),
            }),
            ..v1::InstanceSpec::default()
        }),
        owner_nonce: (number as u128 + 1).to_be_bytes().to_vec(),
        ..v1::Registration::default()
    }
}

/// Registers instances of which each is durable when this returns; the lease handle of the last one.
pub(crate) async fn register(channel: &Channel, items: Vec<v1::Registration>) -> Outcome<u64> {
    let request = v1::RegisterRequest { items, request_id: String::new() };
    let mut registry = registry(channel);
    let answer = timeout(CALL, registry.register(request)).await;
    let answer = answer.doing(format_args!("register: no answer within {CALL:?}"))?;
    let answer = answer.doing("register")?.into_inner();
    Ok(answer.items.last().map_or(0, |item| item.lease_handle))
}

/// Registers in batches, eight at once; the handles in order.
pub(crate) async fn fill(channel: &Channel, items: Vec<v1::Registration>) -> Outcome<Vec<u64>> {
    let batches: Vec<Vec<v1::Registration>> = items.chunks(BATCH).map(<[_]>::to_vec).collect();
    let answers = stream::iter(batches).map(|items| {
        let mut registry = registry(channel);
        async move {
            let request = v1::RegisterRequest { items, request_id: String::new() };
            registry.register(request).await.map(tonic::Response::into_inner)
        }
    });
    let answers: Vec<v1::RegisterResponse> =
        answers.buffered(8).try_collect().await.doing("register many at once")?;
    Ok(answers.iter().flat_map(|answer| &answer.items).map(|item| item.lease_handle).collect())
}

/// A stream of beats.
#[derive(Debug)]
pub(crate) struct Beats {
    sender: mpsc::Sender<v1::StreamHeartbeatsRequest>,
    answers: Streaming<v1::StreamHeartbeatsResponse>,
    sequence: u64,
    acknowledged: u64,
}

impl Beats {
    pub(crate) async fn open(channel: &Channel) -> Outcome<Self> {
        let (sender, outbound) = mpsc::channel(64);
        let answers = registry(channel).stream_heartbeats(ReceiverStream::new(outbound)).await?;
        Ok(Self { sender, answers: answers.into_inner(), sequence: 0, acknowledged: 0 })
    }

    /// Sends a message for these leases.
    pub(crate) async fn send(&mut self, handles: &[u64]) -> Outcome {
        self.sequence += 1;
        let message = v1::StreamHeartbeatsRequest {
            sequence: self.sequence,
            alive_handles: handles.to_vec(),
            ..v1::StreamHeartbeatsRequest::default()
        };
        Ok(self.sender.send(message).await?)
    }

    /// Waits until a further message is acknowledged; how many were with it.
    pub(crate) async fn acknowledged(&mut self) -> Outcome<u64> {
        loop {
            let answer = self.answers.message().await?.ok_or("the stream of beats ended")?;
            if !answer.reregister_handles.is_empty() || !answer.fenced_handles.is_empty() {
                return Err("a beating lease was lost".into());
            }
            let more = answer.ack_sequence.saturating_sub(self.acknowledged);
            if more > 0 {
                self.acknowledged = answer.ack_sequence;
                return Ok(more);
            }
        }
    }
}
