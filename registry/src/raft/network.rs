//! openraft's network: one [`PeerNetwork`] per peer and purpose, over the connections of [`Peers`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{SnapshotResponse, TransferLeaderResponse};
use openraft::{RPCTypes, RaftNetworkFactory};
use rollcall_proto::internal::v1 as pb;
use tokio::time::Instant;
use tonic::{Code, Request, Status, Streaming};

use super::peers::{Lane, PeerClient, Peers, call};
use super::settings::RaftSettings;
use super::transfer::{Snapshot, SnapshotData, snapshot_messages};
use super::types::{Member, TypeConfig, Vote};
use super::wire::{self, AppendRequest, AppendResult, TransferRequest, VoteRequest, VoteResponse};

type BoxFuture<'a, T> = futures_util::future::BoxFuture<'a, T>;
type BoxStream<'a, T> = stream::BoxStream<'a, T>;
type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

/// Makes the networks; openraft asks for one per peer and purpose.
#[derive(Clone, Debug)]
pub(crate) struct PeerNetworks {
    peers: Arc<Peers>,
    settings: Arc<RaftSettings>,
}

impl PeerNetworks {
    pub(crate) fn new(peers: Arc<Peers>, settings: Arc<RaftSettings>) -> Self {
        Self { peers, settings }
    }

    fn network(&self, target: u64, member: &Member, lane: Lane) -> PeerNetwork {
        PeerNetwork {
            peers: Arc::clone(&self.peers),
            settings: Arc::clone(&self.settings),
            target,
            address: member.peer,
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetworks {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.network(target, node, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.network(target, node, Lane::Control)
    }
}

/// What openraft says to one peer.
#[derive(Debug)]
pub(crate) struct PeerNetwork {
    peers: Arc<Peers>,
    settings: Arc<RaftSettings>,
    target: u64,
    address: SocketAddr,
    lane: Lane,
}

impl PeerNetwork {
    fn client(&self, lane: Lane) -> PeerClient {
        // A peer that moved has announced its new address since this network was made.
        let address = self.peers.member(self.target).map_or(self.address, |member| member.peer);
        self.peers.client(Some(self.target), address, lane)
    }

    fn error(&self, action: RPCTypes, status: &Status) -> RPCError<TypeConfig> {
        if status.code() == Code::DeadlineExceeded {
            return RPCError::Timeout(Timeout {
                action,
                id: self.peers.guard().node_id(),
                target: self.target,
                timeout: self.settings.rpc_timeout,
            });
        }
        RPCError::Unreachable(Unreachable::from_string(describe(self.target, status)))
    }
}

fn describe(target: u64, status: &Status) -> String {
    format!("node {target:016x}: {}: {}", status.code(), status.message())
}

/// When the requests that are still unanswered were sent; the oldest first.
#[derive(Debug, Default)]
struct Unanswered(Mutex<VecDeque<Instant>>);

impl Unanswered {
    fn sent(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
    }

    fn answered(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }

    fn oldest(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).front().copied()
    }
}

impl NetStreamAppend<TypeConfig> for PeerNetwork {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<AppendResult>>>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft sleeps out its back-off inside this stream. Dialling before the first request is
            // pulled would skip the back-off and dial a dead peer thousands of times a second.
            let Some(first) = input.next().await else {
                return Ok(stream::empty().boxed());
            };
            let unanswered = Arc::new(Unanswered::default());
            let sent = Arc::clone(&unanswered);
            let outbound = stream::once(async { first }).chain(input).map(move |request| {
                sent.sent();
                wire::append_out(request)
            });
            let mut client = self.client(self.lane);
            let response = match tokio::time::timeout(
                self.settings.rpc_timeout,
                client.stream_append(Request::new(outbound)),
            )
            .await
            {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => return Err(self.error(RPCTypes::AppendEntries, &status)),
                Err(_) => {
                    let status = Status::deadline_exceeded("open append stream");
                    return Err(self.error(RPCTypes::AppendEntries, &status));
                }
            };
            let answers = Answers { inbound: response, unanswered, network: self };
            Ok(stream::unfold(Some(answers), next_answer).boxed())
        })
    }
}

struct Answers<'s> {
    inbound: Streaming<pb::StreamAppendResponse>,
    unanswered: Arc<Unanswered>,
    network: &'s PeerNetwork,
}

/// The next answer of an append stream. A stream may be idle for ever, but an answer that is due must come
/// within the deadline: a stream that lost its peer would otherwise stall replication without an error.
async fn next_answer(
    state: Option<Answers<'_>>,
) -> Option<(RpcResult<AppendResult>, Option<Answers<'_>>)> {
    let mut state = state?;
    let timeout = state.network.settings.rpc_timeout;
    let result = loop {
        match tokio::time::timeout(timeout, state.inbound.message()).await {
            Ok(result) => break result,
            Err(_) => {
                let overdue = state.unanswered.oldest().is_some_and(|at| at.elapsed() >= timeout);
                if overdue {
                    break Err(Status::deadline_exceeded("append answer"));
                }
            }
        }
    };
    let answer = match result {
        Ok(None) => return None,
        Ok(Some(message)) => wire::append_result_in(message),
        Err(status) => Err(status),
    };
    state.unanswered.answered();
    match answer {
        Ok(answer) => Some((Ok(answer), Some(state))),
        Err(status) => Some((Err(state.network.error(RPCTypes::AppendEntries, &status)), None)),
    }
}

impl NetVote<TypeConfig> for PeerNetwork {
    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> RpcResult<VoteResponse> {
        let mut client = self.client(Lane::Control);
        let request = wire::vote_request_out(&rpc);
        let deadline = option.hard_ttl().min(self.settings.rpc_timeout);
        let answer = call("vote", deadline, request, |r| client.vote(r)).await;
        answer
            .and_then(wire::vote_response_in)
            .map_err(|status| self.error(RPCTypes::Vote, &status))
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> RpcResult<VoteResponse> {
        let mut client = self.client(Lane::Control);
        let request = wire::vote_request_out(&rpc);
        let deadline = option.hard_ttl().min(self.settings.rpc_timeout);
        let answer = call("pre-vote", deadline, request, |r| client.pre_vote(r)).await;
        answer
            .and_then(wire::vote_response_in)
            .map_err(|status| self.error(RPCTypes::Vote, &status))
    }
}

impl NetSnapshot<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.client(Lane::Bulk);
        let deadline = self.settings.snapshot_timeout;
        let messages =
            snapshot_messages(self.peers.host(), &vote, &snapshot.meta, &snapshot.snapshot);
        let transfer = call("snapshot", deadline, messages, |r| client.install_snapshot(r));
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = transfer => answer,
        };
        let vote = answer.and_then(|response| wire::vote_in(response.vote));
        vote.map(SnapshotResponse::new)
            .map_err(|status| self.error(RPCTypes::InstallSnapshot, &status).into())
    }
}

impl NetTransferLeader<TypeConfig> for PeerNetwork {
    async fn transfer_leader(
        &mut self,
        request: TransferRequest,
        _option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let mut client = self.client(Lane::Control);
        let message = pb::TransferLeaderRequest {
            from_leader: Some(wire::vote_out(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(wire::log_id_out),
        };
        let deadline = self.settings.rpc_timeout;
        let answer = call("transfer leader", deadline, message, |r| client.transfer_leader(r))
            .await
            .map_err(|status| self.error(RPCTypes::TransferLeader, &status))?;
        if !answer.refusal.is_empty() {
            tracing::warn!(target = format!("{:016x}", self.target), answer.refusal, "transfer");
        }
        Ok(Ok(()))
    }
}

impl NetBackoff<TypeConfig> for PeerNetwork {
    fn backoff(&self) -> Option<Backoff> {
        let pause = 2 * self.settings.heartbeat;
        Some(Backoff::new(std::iter::repeat(pause.max(Duration::from_millis(50)))))
    }
}
