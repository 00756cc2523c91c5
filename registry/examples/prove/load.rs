//! Callers: registrations, beats and look-ups over plain gRPC.

use crate::report::Outcome;
use bytes::Buf;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::uri::PathAndQuery;
use prost::Message;
use rollcall_proto::v1::{
    self, admin_service_client::AdminServiceClient,
    discovery_service_client::DiscoveryServiceClient,
    registration_service_client::RegistrationServiceClient,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

/// Most handles in one message.
pub(crate) const HANDLES: usize = 10_000;
/// Longest wait for one answer.
const CALL: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 64 << 20;

pub(crate) fn channel(api: &SocketAddr) -> Outcome<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{api}"))?;
    Ok(endpoint.connect_timeout(Duration::from_millis(500)).timeout(CALL).connect_lazy())
}

pub(crate) fn registry(channel: &Channel) -> RegistrationServiceClient<Channel> {
    RegistrationServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES)
}

pub(crate) fn discovery(channel: &Channel) -> DiscoveryServiceClient<Channel> {
    DiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES)
}

pub(crate) fn admin(channel: &Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel.clone())
}

/// Answers as bytes: a measuring caller that took them apart would measure itself.
#[derive(Debug, Clone, Copy, Default)]
struct Unread;

impl Codec for Unread {
    type Encode = v1::ResolveRequest;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Unread {
    type Item = v1::ResolveRequest;
    type Error = Status;
    fn encode(&mut self, item: Self::Item, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buf).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Unread {
    type Item = usize;
    type Error = Status;
    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = buf.remaining();
        buf.advance(length);
        Ok(Some(length))
    }
}

/// A look-up whose answer is received and not taken apart: its size in bytes.
pub(crate) async fn resolve_unread(
    grpc: &mut Grpc<Channel>,
    request: v1::ResolveRequest,
) -> Outcome<usize> {
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/rollcall.v1.DiscoveryService/Resolve");
    Ok(grpc.unary(Request::new(request), path, Unread).await?.into_inner())
}

/// The cluster as one node sees it; given up after half a second.
pub(crate) async fn status(api: &SocketAddr) -> Outcome<v1::GetClusterStatusResponse> {
    let channel = channel(api)?;
    let mut admin = admin(&channel);
    let answer = admin.get_cluster_status(v1::GetClusterStatusRequest {});
    Ok(timeout(Duration::from_millis(500), answer).await??.into_inner())
}

pub(crate) fn service(name: &str) -> v1::ServiceName {
    v1::ServiceName { namespace: String::new(), service: name.to_owned() }
}

/// A look-up of everything that is registered.
pub(crate) fn everything(name: &str, consistency: v1::Consistency) -> v1::ResolveRequest {
    v1::ResolveRequest {
        service: Some(service(name)),
        filter: Some(v1::ResolveFilter {
            health: v1::HealthFilter::Any.into(),
            ..v1::ResolveFilter::default()
        }),
        consistency: consistency.into(),
        ..v1::ResolveRequest::default()
    }
}

/// A usual instance: one endpoint, two tags, three metadata pairs; about 230 bytes.
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
        pair("pod", format!("{service_name}-7f9c6bd5-{number:06}")),
        pair("started", format!("2025-06-01T12:00:00.{change:06}Z")),
    ]);
    v1::Registration {
        name: Some(v1::InstanceName {
            namespace: String::new(),
            service: service_name.to_owned(),
            instance_id: format!("{service_name}-{number:06}"),
        }),
        spec: Some(v1::InstanceSpec {
            endpoints: vec![v1::Endpoint {
                name: "grpc".to_owned(),
                host,
                port: 8080,
                ..v1::Endpoint::default()
            }],
            tags: vec!["linux-x86-64".to_owned(), "canary".to_owned()],
            metadata: metadata.into_iter().collect(),
            ttl: Some(prost_types::Duration {
                seconds: ttl.as_secs().cast_signed(),
                nanos: ttl.subsec_nanos().cast_signed(),
            }),
            ..v1::InstanceSpec::default()
        }),
        owner_nonce: (number as u128 + 1).to_be_bytes().to_vec(),
        ..v1::Registration::default()
    }
}

/// The same without a lease.
pub(crate) fn persistent(service_name: &str, number: usize, change: usize) -> v1::Registration {
    let mut item = registration(service_name, number, Duration::ZERO, change);
    if let Some(spec) = &mut item.spec {
        spec.ttl = None;
        spec.persistent = true;
    }
    item
}

/// Size of a registration on the wire, without nonce.
pub(crate) fn size(item: &v1::Registration) -> usize {
    item.encoded_len() - 18
}

/// Registers in batches, so many at once; the handles in order.
pub(crate) async fn register_all(
    channel: &Channel,
    items: Vec<v1::Registration>,
    batch: usize,
    in_flight: usize,
) -> Outcome<Vec<u64>> {
    let batches: Vec<Vec<v1::Registration>> = items.chunks(batch).map(<[_]>::to_vec).collect();
    let answers = stream::iter(batches).map(|items| {
        let mut registry = registry(channel);
        async move {
            let request = v1::RegisterRequest { items, request_id: String::new() };
            registry.register(request).await.map(tonic::Response::into_inner)
        }
    });
    let answers: Vec<v1::RegisterResponse> = answers.buffered(in_flight).try_collect().await?;
    Ok(answers.iter().flat_map(|answer| &answer.items).map(|item| item.lease_handle).collect())
}

/// What a stream of beats has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Handles in acknowledged messages.
    pub(crate) acknowledged: AtomicU64,
    /// Leases that were lost.
    pub(crate) lost: AtomicU64,
}

/// Beats for some leases at one node until dropped.
pub(crate) struct Beater {
    pub(crate) seen: Arc<Seen>,
    task: JoinHandle<Outcome>,
}

impl Beater {
    /// Beats for every handle once in `pace`; as fast as it is acknowledged where that is zero.
    pub(crate) fn start(channel: &Channel, handles: Vec<u64>, pace: Duration) -> Self {
        let seen = Arc::new(Seen::default());
        let task = tokio::spawn(beat(registry(channel), handles, pace, Arc::clone(&seen)));
        Self { seen, task }
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Beater {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn beat(
    mut registry: RegistrationServiceClient<Channel>,
    handles: Vec<u64>,
    pace: Duration,
    seen: Arc<Seen>,
) -> Outcome {
    let (sender, outbound) = mpsc::channel(4);
    let mut answers = registry.stream_heartbeats(ReceiverStream::new(outbound)).await?.into_inner();
    let chunks: Vec<&[u64]> = handles.chunks(HANDLES).collect();
    let pause = pace / u32::try_from(chunks.len().max(1))?;
    let mut tick = interval(pause.max(Duration::from_nanos(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sequence = 0;
    loop {
        for chunk in &chunks {
            if !pause.is_zero() {
                tick.tick().await;
            }
            sequence += 1;
            let message = v1::StreamHeartbeatsRequest {
                sequence,
                alive_handles: chunk.to_vec(),
                release_handles: vec![],
                ..Default::default()
            };
            sender.send(message).await?;
            loop {
                let answer = answers.message().await?.ok_or("the stream ended")?;
                let lost = answer.reregister_handles.len() + answer.fenced_handles.len();
                seen.lost.fetch_add(lost as u64, Ordering::Relaxed);
                if answer.ack_sequence >= sequence {
                    break;
                }
            }
            seen.acknowledged.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    }
}

/// Sends one beat for at most 10,000 leases; when it was sent and when it was acknowledged.
pub(crate) async fn beat_once(channel: &Channel, handles: &[u64]) -> Outcome<(Instant, Instant)> {
    let (sender, outbound) = mpsc::channel(1);
    let mut registry = registry(channel);
    let mut answers = registry.stream_heartbeats(ReceiverStream::new(outbound)).await?.into_inner();
    let message = v1::StreamHeartbeatsRequest {
        sequence: 1,
        alive_handles: handles.to_vec(),
        release_handles: vec![],
        ..Default::default()
    };
    let sent = Instant::now();
    sender.send(message).await?;
    loop {
        let answer = answers.message().await?.ok_or("the stream ended")?;
        if !answer.reregister_handles.is_empty() || !answer.fenced_handles.is_empty() {
            return Err("a lease was lost before it was silent".into());
        }
        if answer.ack_sequence == 1 {
            return Ok((sent, Instant::now()));
        }
    }
}
