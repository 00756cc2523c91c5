//! Calls to etcd, through the same tonic as those to us.
//!
//! An instance is what etcd's own naming library makes of it: a key below the name of its service, a value in JSON, and
//! a lease of its own.

use crate::outcome::{Doing, Outcome};
use api::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, RangeRequest,
    StatusRequest, StatusResponse, WatchCreateRequest, WatchRequest, WatchResponse,
    kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::{net::SocketAddr, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::too_many_lines,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    reason = "generated"
)]
pub(crate) mod api {
    tonic::include_proto!("etcdserverpb");
}

/// Longest wait for one answer.
const CALL: Duration = Duration::from_secs(10);
/// Calls under way while it is filled.
const FILLING: usize = 256;

/// What a member says about itself; given up after half a second.
pub(crate) async fn status(api: SocketAddr) -> Outcome<StatusResponse> {
    let channel = super::rollcall::channel(api)?;
    let mut maintenance = MaintenanceClient::new(channel);
    Ok(timeout(Duration::from_millis(500), maintenance.status(StatusRequest {}))
        .await??
        .into_inner())
}

pub(crate) fn key(service: &str, number: usize) -> String {
    format!("/{service}/{number:07}")
}

/// The same facts as those of [`super::rollcall::registration`], in about as many bytes.
pub(crate) fn value(service: &str, number: usize) -> Vec<u8> {
    json!({
        "id": format!("{service}-{number:07}"),
        "endpoints": [{
            "name": "grpc",
            "address": format!("10.{}.{}.{}:8080", number >> 16 & 255, number >> 8 & 255, number & 255),
        }],
        "tags": ["linux-x86-64", "canary"],
        "metadata": {
            "commit": "3f786850e387550fdab836ed7e6dc881de23001b",
            "pod": format!("{service}-7f9c6bd5-{number:07}"),
        },
    })
    .to_string()
    .into_bytes()
}

/// A new lease; its id and the length that was granted, which may be longer than asked for.
pub(crate) async fn grant(channel: &Channel, ttl: Duration) -> Outcome<(i64, Duration)> {
    let request = LeaseGrantRequest { ttl: i64::try_from(ttl.as_secs())?, id: 0 };
    let call = LeaseClient::new(channel.clone()).lease_grant(request).await;
    let answer = call.doing("grant a lease")?.into_inner();
    Ok((answer.id, Duration::from_secs(u64::try_from(answer.ttl)?)))
}

/// Writes an instance under a lease.
pub(crate) async fn put(channel: &Channel, service: &str, number: usize, lease: i64) -> Outcome {
    let (key, value) = (key(service, number).into_bytes(), value(service, number));
    let mut kv = KvClient::new(channel.clone());
    let call = timeout(CALL, kv.put(PutRequest { key, value, lease })).await;
    call.doing(format_args!("put: no answer within {CALL:?}"))?.doing("put")?;
    Ok(())
}

/// Grant and put: what registering takes.
pub(crate) async fn register(
    channel: &Channel,
    service: &str,
    number: usize,
    ttl: Duration,
) -> Outcome<i64> {
    let (lease, _) = grant(channel, ttl).await?;
    put(channel, service, number, lease).await?;
    Ok(lease)
}

/// Registers many; their leases in order.
pub(crate) async fn fill(
    channels: &[Channel],
    items: impl Iterator<Item = (String, usize)>,
    ttl: Duration,
) -> Outcome<Vec<i64>> {
    let calls = items.enumerate().map(|(at, (service, number))| {
        let channel = channels[at % channels.len()].clone();
        async move { register(&channel, &service, number, ttl).await }
    });
    stream::iter(calls).buffered(FILLING).try_collect().await
}

/// All instances of a service.
pub(crate) fn look_up(service: &str, serializable: bool) -> RangeRequest {
    RangeRequest {
        key: format!("/{service}/").into_bytes(),
        range_end: format!("/{service}0").into_bytes(),
        serializable,
        ..RangeRequest::default()
    }
}

/// A stream that keeps leases alive.
#[derive(Debug)]
pub(crate) struct Beats {
    sender: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl Beats {
    /// Opens it with a first beat: a Go server sends its headers with its first answer.
    pub(crate) async fn open(channel: &Channel, first: i64) -> Outcome<Self> {
        let (sender, outbound) = mpsc::channel(1_024);
        sender.send(LeaseKeepAliveRequest { id: first }).await?;
        let mut lease = LeaseClient::new(channel.clone());
        let answers = lease.lease_keep_alive(ReceiverStream::new(outbound)).await?.into_inner();
        let mut beats = Self { sender, answers };
        beats.acknowledged().await?;
        Ok(beats)
    }

    pub(crate) async fn send(&mut self, id: i64) -> Outcome {
        Ok(self.sender.send(LeaseKeepAliveRequest { id }).await?)
    }

    pub(crate) async fn acknowledged(&mut self) -> Outcome {
        let answer = self.answers.message().await?.ok_or("the stream of keep-alives ended")?;
        if answer.ttl == 0 { Err("etcd lost a beating lease".into()) } else { Ok(()) }
    }
}

/// A watch over all instances whose service begins so. The sender keeps it open.
pub(crate) async fn watch(
    channel: &Channel,
    prefix: &str,
) -> Outcome<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)> {
    let (sender, outbound) = mpsc::channel(1);
    sender.send(create_watch(prefix)).await?;
    let mut client = WatchClient::new(channel.clone());
    let answers = client.watch(ReceiverStream::new(outbound)).await?.into_inner();
    Ok((sender, answers))
}

/// What opens it.
pub(crate) fn create_watch(prefix: &str) -> WatchRequest {
    let key = format!("/{prefix}").into_bytes();
    let mut range_end = key.clone();
    if let Some(last) = range_end.last_mut() {
        *last += 1;
    }
    let create = WatchCreateRequest { key, range_end };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}
