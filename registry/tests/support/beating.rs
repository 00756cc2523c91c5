//! A client that beats over the wire.

use super::{Running, within};
use hyper_util::rt::TokioIo;
use rollcall_proto::v1::{self, registration_service_client::RegistrationServiceClient};
use std::{net::SocketAddr, time::Duration};
use tokio::{io::copy_bidirectional, net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// A heartbeat stream to one node, over a connection of its own. Dropped, it breaks as that of a killed process does:
/// the connection is gone, and nothing is said before.
pub struct Beating {
    cut: tokio::task::AbortHandle,
    beats: mpsc::Sender<v1::StreamHeartbeatsRequest>,
    answers: tonic::Streaming<v1::StreamHeartbeatsResponse>,
    sequence: u64,
}

impl Beating {
    pub async fn at(node: &Running) -> Self {
        Self::open(node).await.expect("stream")
    }

    pub async fn open(node: &Running) -> Result<Self, tonic::Status> {
        let (beats, outbound) = mpsc::channel(16);
        let request = ReceiverStream::new(outbound);
        let (channel, cut) = connect(node.node.listen.grpc).await;
        let mut client = RegistrationServiceClient::new(channel);
        let answers = client.stream_heartbeats(request).await?;
        Ok(Self { cut, beats, answers: answers.into_inner(), sequence: 0 })
    }

    /// Beats until a beat is acknowledged: one that falls into a change of the leader is not.
    pub async fn beat(&mut self, handles: &[u64]) -> v1::StreamHeartbeatsResponse {
        within("an acknowledgement", async {
            loop {
                self.sequence += 1;
                let message = v1::StreamHeartbeatsRequest {
                    sequence: self.sequence,
                    alive_handles: handles.to_vec(),
                    release_handles: vec![],
                    ..Default::default()
                };
                self.beats.send(message).await.expect("the stream is open");
                let patience = Duration::from_millis(150);
                if let Ok(answer) = tokio::time::timeout(patience, self.answer()).await {
                    return answer;
                }
            }
        })
        .await
    }

    /// Says of one instance that it serves badly, or with `None` that it does not any more.
    pub async fn say(&mut self, handle: u64, degraded: Option<&str>) {
        let report = v1::SelfReport {
            lease_handle: handle,
            degraded: degraded.is_some(),
            reason: degraded.unwrap_or_default().into(),
            ..Default::default()
        };
        self.report(report).await;
    }

    /// Says what an owner can say of one instance.
    pub async fn report(&mut self, report: v1::SelfReport) {
        self.sequence += 1;
        let message = v1::StreamHeartbeatsRequest {
            sequence: self.sequence,
            alive_handles: vec![report.lease_handle],
            self_reports: vec![report],
            ..Default::default()
        };
        self.beats.send(message).await.expect("the stream is open");
    }

    /// Says goodbye for these leases.
    pub async fn goodbye(&mut self, handles: &[u64]) {
        self.sequence += 1;
        let message = v1::StreamHeartbeatsRequest {
            sequence: self.sequence,
            alive_handles: vec![],
            release_handles: handles.to_vec(),
            ..Default::default()
        };
        self.beats.send(message).await.expect("the stream is open");
    }

    async fn answer(&mut self) -> v1::StreamHeartbeatsResponse {
        loop {
            let answer = self.answers.message().await.expect("answer");
            let answer = answer.expect("the stream goes on");
            if answer.ack_sequence == self.sequence {
                return answer;
            }
        }
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        // Before the streams above it can end in order.
        self.cut.abort();
    }
}

/// A channel over one connection, and what cuts it.
async fn connect(address: SocketAddr) -> (Channel, tokio::task::AbortHandle) {
    let mut socket = TcpStream::connect(address).await.expect("connect");
    socket.set_nodelay(true).expect("no delay");
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let bridge = tokio::spawn(async move {
        let _ = copy_bidirectional(&mut far, &mut socket).await;
    });
    let mut near = Some(near);
    let connector = tower::service_fn(move |_| {
        let near = near.take().ok_or_else(|| std::io::Error::other("it was cut"));
        async move { near.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    (endpoint.connect_with_connector_lazy(connector), bridge.abort_handle())
}
