//! A client that beats over the wire.

use super::{Running, within};
use rollcall_proto::v1;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// A heartbeat stream to one node.
pub struct Beating {
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
        let answers = node.registration().stream_heartbeats(request).await?;
        Ok(Self { beats, answers: answers.into_inner(), sequence: 0 })
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
