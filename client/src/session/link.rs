//! One heartbeat stream to one node: numbers the messages and knows which of them are not acknowledged yet.

use super::book::Beat;
use crate::{
    calls::ANSWER_BYTES, client::Shared, error::problem_of, nodes::Lane, report::HealthReport,
};
use rollcall_core::name::InstanceName;
use rollcall_proto::v1::{
    SelfReport, StreamHeartbeatsRequest, StreamHeartbeatsResponse,
    registration_service_client::RegistrationServiceClient,
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Messages on their way or unacknowledged; more means that the node does not read.
const WINDOW: usize = 1_024;

/// An open stream.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) node: usize,
    pub(super) opened: Instant,
    /// The node goes away or fell silent: another link is wanted.
    pub(super) leaving: bool,
    outgoing: mpsc::Sender<StreamHeartbeatsRequest>,
    incoming: Streaming<StreamHeartbeatsResponse>,
    sequence: u64,
    pending: VecDeque<Sent>,
}

/// A message that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Sent {
    sequence: u64,
    /// The leases it renews.
    pub(super) handles: Arc<[u64]>,
    /// When it was handed to the connection.
    pub(super) at: Instant,
    /// When its acknowledgement is overdue.
    due: Instant,
    /// The instances that it says goodbye for.
    goodbyes: Vec<Goodbye>,
}

/// A goodbye: the lease that ends, and which generation of which instance it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Goodbye {
    pub(super) handle: u64,
    pub(super) name: InstanceName,
    pub(super) generation: u64,
}

/// Time that a node has for an acknowledgement: a sixth of the lease, at least 150 ms.
pub(super) fn patience(ttl: Duration) -> Duration {
    (ttl / 6).max(Duration::from_millis(150))
}

impl Link {
    /// Opens a stream and sends these beats at once. The answer must begin within `patience`. Errors say why not.
    pub(super) async fn open(
        shared: Arc<Shared>,
        node: usize,
        beats: Vec<Beat>,
        patience: Duration,
    ) -> Result<Self, String> {
        let begin = Instant::now();
        let (outgoing, messages) = mpsc::channel(WINDOW);
        let mut pending = VecDeque::new();
        let mut sequence = 0;
        for beat in beats {
            sequence += 1;
            let message = message(sequence, &beat, &[]);
            let handles = beat.handles;
            outgoing.try_send(message).map_err(|_| "more leases than a stream takes".to_owned())?;
            pending.push_back(Sent {
                sequence,
                handles,
                at: begin,
                due: begin + patience,
                goodbyes: Vec::new(),
            });
        }
        let mut service = RegistrationServiceClient::new(shared.nodes.channel(node, Lane::Beats))
            .max_decoding_message_size(ANSWER_BYTES);
        let open = service.stream_heartbeats(ReceiverStream::new(messages));
        match tokio::time::timeout(patience, open).await {
            Ok(Ok(answer)) => Ok(Self {
                node,
                opened: begin,
                leaving: false,
                outgoing,
                incoming: answer.into_inner(),
                sequence,
                pending,
            }),
            Ok(Err(status)) => Err(problem_of(&status)),
            Err(_) => {
                shared.nodes.forget(node, Lane::Beats);
                Err(format!("no answer within {patience:?}"))
            }
        }
    }

    /// Sends beats, or goodbyes. False: the node does not read, nothing was sent.
    pub(super) fn send(
        &mut self,
        beat: Beat,
        goodbyes: Vec<Goodbye>,
        now: Instant,
        patience: Duration,
    ) -> bool {
        let message = message(self.sequence + 1, &beat, &goodbyes);
        let handles = beat.handles;
        if self.pending.len() >= WINDOW || self.outgoing.try_send(message).is_err() {
            return false;
        }
        self.sequence += 1;
        let due = now + patience;
        self.pending.push_back(Sent { sequence: self.sequence, handles, at: now, due, goodbyes });
        true
    }

    /// The next message of the node; an error says how the stream ended. Nothing is lost where it is dropped.
    pub(super) async fn receive(&mut self) -> Result<StreamHeartbeatsResponse, String> {
        match self.incoming.message().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err("the node ended the stream".to_owned()),
            Err(status) => Err(problem_of(&status)),
        }
    }

    /// This message is acknowledged: takes it from the list. It alone: answers may come out of order, and a beat
    /// that is not acknowledged itself counts for nothing.
    pub(super) fn acknowledged(&mut self, sequence: u64) -> Option<Sent> {
        let found = self.pending.binary_search_by_key(&sequence, |sent| sent.sequence).ok()?;
        self.pending.remove(found)
    }

    /// The goodbyes that are not acknowledged.
    pub(super) fn unheard(self) -> Vec<Goodbye> {
        self.pending.into_iter().flat_map(|sent| sent.goodbyes).collect()
    }

    /// When the next acknowledgement is overdue.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.pending.iter().map(|sent| sent.due).min()
    }
}

fn message(sequence: u64, beat: &Beat, goodbyes: &[Goodbye]) -> StreamHeartbeatsRequest {
    StreamHeartbeatsRequest {
        sequence,
        alive_handles: beat.handles.to_vec(),
        release_handles: goodbyes.iter().map(|goodbye| goodbye.handle).collect(),
        self_reports: beat.reports.iter().map(report).collect(),
    }
}

fn report((handle, report): &(u64, HealthReport)) -> SelfReport {
    SelfReport {
        lease_handle: *handle,
        degraded: report.reason().is_some(),
        reason: report.reason().unwrap_or_default().to_owned(),
        utilization_percent: report.percent(),
    }
}
