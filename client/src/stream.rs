//! Long answers: the journal as it is written, and a snapshot for backup.

use crate::{
    calls::ANSWER_BYTES,
    client::{Client, Kind},
    dice::Backoff,
    error::Error,
    nodes::NodeChannel,
};
use rollcall_proto::v1::{
    self, admin_service_client::AdminServiceClient as Admin,
    journal_service_client::JournalServiceClient as Journal, tail_request::Start,
};
use std::{collections::VecDeque, time::Duration};
use tonic::{Request, Status, Streaming};

/// Most events of one message.
const EVENTS: usize = 4_096;

/// Every event, in order, each once; goes on at another node after a break.
#[derive(Debug)]
pub struct Tail {
    client: Client,
    request: v1::TailRequest,
    stream: Option<Streaming<v1::TailResponse>>,
    events: VecDeque<v1::Event>,
    /// Everything up to here was received.
    revision: u64,
    backoff: Backoff,
}

/// A snapshot on its way.
#[derive(Debug)]
pub struct Export {
    stream: Streaming<v1::ExportSnapshotResponse>,
    client: Client,
    offset: u64,
    finished: bool,
}

impl Client {
    /// Follows the journal. Nothing is sent before the first [`Tail::next`]. Events from a point on that the registry
    /// no longer keeps are refused with the reason `COMPACTED`.
    pub fn tail(&self, request: v1::TailRequest) -> Tail {
        let revision = match request.start {
            Some(Start::AfterRevision(revision)) => revision,
            Some(Start::ResumeToken(_)) | None => 0,
        };
        Tail {
            client: self.clone(),
            request,
            stream: None,
            events: VecDeque::new(),
            revision,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
        }
    }

    /// The whole state of one node as a snapshot file, in parts of at most 1 MiB. It is not resumed after a break:
    /// begin again. Errors: no final answer within the deadline of a call.
    pub async fn export_snapshot(&self) -> Result<Export, Error> {
        let call = self.call("export snapshot", Kind::Read);
        let request = v1::ExportSnapshotRequest {};
        let open = |channel: NodeChannel, mut request: Request<_>| async move {
            // The deadline is that of the opening; the file takes as long as it takes.
            request.metadata_mut().remove("grpc-timeout");
            Admin::new(channel)
                .max_decoding_message_size(ANSWER_BYTES)
                .export_snapshot(request)
                .await
        };
        let stream = self.shared.unary(call, request, open).await?;
        Ok(Export { stream, client: self.clone(), offset: 0, finished: false })
    }
}

impl Tail {
    /// The next event; waits for it as long as it takes, over any number of breaks. May be dropped and called again
    /// without loss. Errors are refusals, and final: above all `COMPACTED`.
    pub async fn next(&mut self) -> Result<v1::Event, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if self.stream.is_none() {
                self.stream = Some(self.open().await?);
            }
            let Some(stream) = &mut self.stream else { continue };
            match stream.message().await {
                Ok(Some(message)) => self.take(message),
                Ok(None) => self.broke(None).await?,
                Err(status) => self.broke(Some(status)).await?,
            }
        }
    }

    /// Everything up to this revision has been received.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn take(&mut self, message: v1::TailResponse) {
        self.backoff.reset();
        for event in message.events.into_iter().take(EVENTS) {
            // After a break events that came before it may come again.
            if event.revision > self.revision {
                self.revision = event.revision;
                self.events.push_back(event);
            }
        }
        self.revision = self.revision.max(message.revision);
        if !message.resume_token.is_empty() {
            self.request.start = Some(Start::ResumeToken(message.resume_token));
        }
    }

    async fn open(&mut self) -> Result<Streaming<v1::TailResponse>, Error> {
        loop {
            let call = self.client.call("tail the journal", Kind::Read);
            let open = |channel: NodeChannel, mut request: Request<_>| async move {
                request.metadata_mut().remove("grpc-timeout");
                Journal::new(channel).max_decoding_message_size(ANSWER_BYTES).tail(request).await
            };
            match self.client.shared.unary(call, self.request.clone(), open).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "go on trying");
                    tokio::time::sleep(self.backoff.next(&self.client.shared.dice)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn broke(&mut self, status: Option<Status>) -> Result<(), Error> {
        self.stream = None;
        if let Some(status) = status {
            let error = self.client.shared.refusal("tail the journal", &status);
            if !error.is_retryable() {
                return Err(error);
            }
            tracing::debug!(%error, "the journal stream ended");
        }
        let nodes = &self.client.shared.nodes;
        nodes.failed(nodes.current());
        tokio::time::sleep(self.backoff.next(&self.client.shared.dice)).await;
        Ok(())
    }
}

impl Export {
    /// The next part; `None` after the last one. Each part's `crc32c` covers its data. Errors: the stream broke, or
    /// ended early; what was received is not a snapshot then.
    pub async fn next(&mut self) -> Result<Option<v1::ExportSnapshotResponse>, Error> {
        if self.finished {
            return Ok(None);
        }
        let shared = &self.client.shared;
        let problem = match self.stream.message().await {
            Ok(Some(part)) if part.offset == self.offset => {
                self.offset += part.data.len() as u64;
                self.finished = part.last;
                return Ok(Some(part));
            }
            Ok(Some(part)) => {
                format!("a part at byte {}, expected at {}", part.offset, self.offset)
            }
            Ok(None) => format!("it ended after {} bytes without its last part", self.offset),
            Err(status) => return Err(shared.refusal("export snapshot", &status)),
        };
        let address = shared.nodes.address(shared.nodes.current()).clone();
        Err(Error::Protocol { call: "export snapshot", address, problem })
    }
}
