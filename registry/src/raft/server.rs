//! The peer service: what other nodes may ask of this one. Each call checks who asks before it looks at what is
//! asked.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use rollcall_proto::internal::v1 as pb;
use rollcall_proto::internal::v1::peer_service_server::PeerService;
use tonic::{Request, Response, Status, Streaming};

use super::errors::AdminError;
use super::join::{self, JoinOptions};
use super::membership::{Applicant, Standing};
use super::peers::{Lane, call};
use super::shared::Shared;
use super::transfer::receive_snapshot;
use super::wire::{self, TransferRequest};

/// More addresses in an invitation are not looked at.
const SEEDS_MAX: usize = 16;

/// The peer service of one node.
#[derive(Clone)]
pub(crate) struct PeerServer(Arc<Shared>);

impl PeerServer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn check<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        self.0.guard.check(request.metadata())
    }

    fn refuse_while_quiet(&self) -> Result<(), Status> {
        if self.0.is_quiet() {
            return Err(Status::unavailable("this node has just restarted and does not vote yet"));
        }
        Ok(())
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this node is shutting down: {error}"))
}

#[tonic::async_trait]
impl PeerService for PeerServer {
    type StreamAppendStream = BoxStream<'static, Result<pb::StreamAppendResponse, Status>>;

    async fn hello(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<pb::HelloResponse>, Status> {
        self.0.guard.check_newcomer(request.metadata())?;
        let cluster = self.0.guard.cluster_id();
        let leadership = self.0.leadership.borrow().clone();
        Ok(Response::new(pb::HelloResponse {
            cluster_id: cluster.map_or_else(String::new, |id| format!("{id:032x}")),
            node_id: self.0.node_id(),
            member: Some(wire::member_out(&self.0.announced)),
            leadership: Some(pb::Leadership {
                leader_id: leadership.leader.as_ref().map_or(0, |(id, _)| *id),
                leader: leadership.leader.as_ref().map(|(_, member)| wire::member_out(member)),
                term: leadership.term,
            }),
        }))
    }

    async fn stream_append(
        &self,
        request: Request<Streaming<pb::StreamAppendRequest>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let sender = self.check(&request)?;
        let input = appends(Arc::clone(&self.0), sender, request.into_inner());
        let output = self.0.raft.stream_append(input).map(|result| match result {
            Ok(result) => Ok(wire::append_result_out(result)),
            Err(fatal) => Err(stopped(fatal)),
        });
        Ok(Response::new(output.boxed()))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        self.check(&request)?;
        let vote = wire::vote_request_in(request.into_inner())?;
        // A transfer is the wish of the leader itself: no promise to it is broken.
        if !vote.leadership_transfer {
            self.refuse_while_quiet()?;
        }
        let answer = self.0.raft.vote(vote).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response_out(&answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        self.check(&request)?;
        self.refuse_while_quiet()?;
        let vote = wire::vote_request_in(request.into_inner())?;
        let answer = self.0.raft.pre_vote(vote).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response_out(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        let sender = self.check(&request)?;
        let (vote, snapshot) = receive_snapshot(&self.0, sender, request.into_inner()).await?;
        let answer = self.0.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        let vote = Some(wire::vote_out(&answer.vote));
        Ok(Response::new(pb::InstallSnapshotResponse { vote }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        self.check(&request)?;
        let message = request.into_inner();
        let transfer = TransferRequest::new(
            wire::vote_in(message.from_leader)?,
            message.to_node_id,
            message.last_log_id.as_ref().map(wire::log_id_in),
        );
        let answer = self.0.raft.handle_transfer_leader(transfer).await.map_err(stopped)?;
        let refusal = answer.map_or_else(|error| error.to_string(), |()| String::new());
        Ok(Response::new(pb::TransferLeaderResponse { refusal }))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.0.read_index_for_peer().await))
    }

    async fn submit(
        &self,
        request: Request<pb::SubmitRequest>,
    ) -> Result<Response<pb::SubmitResponse>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.0.submit_for_peer(request.into_inner()).await))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let sender = self.0.guard.check_newcomer(request.metadata())?;
        let message = request.into_inner();
        // A node passes on the wish of another; everybody else speaks for itself.
        if message.node_id == 0 || (!message.forwarded && message.node_id != sender) {
            return Err(wire::malformed("the joining node is not the sender"));
        }
        self.0.join_for_peer(message).await.map(Response::new)
    }

    async fn invite(
        &self,
        request: Request<pb::InviteRequest>,
    ) -> Result<Response<pb::InviteResponse>, Status> {
        let sender = self.0.guard.check_newcomer(request.metadata())?;
        let message = request.into_inner();
        let seeds = message.seeds.iter().take(SEEDS_MAX).map(|seed| seed.parse());
        let options = JoinOptions {
            seeds: seeds.collect::<Result<_, _>>().map_err(|_| wire::malformed("seeds"))?,
            learner: message.learner,
            replace: Some(message.replace_node_id).filter(|id| *id != 0),
        };
        tracing::info!(by = format!("{sender:016x}"), ?options, "invited to join a cluster");
        join::accept(&self.0, options);
        Ok(Response::new(pb::InviteResponse { node_id: self.0.node_id() }))
    }

    async fn administer(
        &self,
        request: Request<pb::AdministerRequest>,
    ) -> Result<Response<pb::AdministerResponse>, Status> {
        self.check(&request)?;
        self.0.administer_for_peer(request.into_inner()).await.map(Response::new)
    }
}

/// The requests of an append stream; ends at the first one that cannot be understood.
fn appends(
    shared: Arc<Shared>,
    sender: u64,
    messages: Streaming<pb::StreamAppendRequest>,
) -> impl Stream<Item = wire::AppendRequest> + Send + 'static {
    let state = (shared, messages);
    futures_util::stream::unfold(state, move |(shared, mut messages)| async move {
        let next = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            next = messages.message() => next,
        };
        let request = match next.and_then(|message| message.map(wire::append_in).transpose()) {
            Ok(request) => request?,
            Err(status) => {
                tracing::debug!(sender = format!("{sender:016x}"), %status, "append stream");
                return None;
            }
        };
        let leader = request.vote.leader_id.node_id;
        if request.vote.committed && leader == sender {
            shared.heard(leader);
        }
        Some((request, (shared, messages)))
    })
}

impl Shared {
    async fn join_for_peer(
        self: &Arc<Self>,
        message: pb::JoinRequest,
    ) -> Result<pb::JoinResponse, Status> {
        let refuse = |refusal: String| pb::JoinResponse { refusal, ..Default::default() };
        let Some(cluster_id) = self.guard.cluster_id() else {
            return Ok(refuse("this node belongs to no cluster yet".to_owned()));
        };
        if !self.raft.is_leader() {
            if message.forwarded {
                return Ok(refuse("the cluster is changing its leader".to_owned()));
            }
            let Some((id, member)) = self.last_known_leader() else {
                return Ok(refuse("the cluster has no leader right now".to_owned()));
            };
            let mut client = self.peers.client(Some(id), member.peer, Lane::Control);
            let forward = pb::JoinRequest { forwarded: true, ..message };
            let deadline = 2 * self.settings.rpc_timeout;
            return call("join", deadline, forward, |r| client.join(r)).await;
        }
        let applicant = Applicant {
            id: message.node_id,
            member: wire::member_in(message.member.as_ref())?,
            learner: message.learner,
            replace: Some(message.replace_node_id).filter(|id| *id != 0),
        };
        use pb::join_response::Standing as Wire;
        let standing = match self.admit(applicant).await {
            Ok(Standing::Learner) => Wire::Learner,
            Ok(Standing::Voter) => Wire::Voter,
            Err(error) => return Ok(refuse(error.to_string())),
        };
        let cluster_id = format!("{cluster_id:032x}");
        Ok(pb::JoinResponse { cluster_id, standing: standing.into(), refusal: String::new() })
    }

    pub(crate) async fn administer_for_peer(
        self: &Arc<Self>,
        request: pb::AdministerRequest,
    ) -> Result<pb::AdministerResponse, Status> {
        use pb::administer_request::Action;
        let result = match request.action.ok_or_else(|| wire::malformed("no action"))? {
            Action::AddLearner(add) => {
                let member = wire::member_in(add.member.as_ref())?;
                self.add_learner(add.node_id, member).await
            }
            Action::Promote(promote) => self.promote(promote.node_id).await,
            Action::Remove(remove) => self.remove(remove.node_id).await,
            Action::HandOver(hand_over) => {
                let to = Some(hand_over.to_node_id).filter(|id| *id != 0);
                self.hand_over(to).await.map(|_| ())
            }
        };
        Ok(match result {
            Ok(()) => pb::AdministerResponse::default(),
            Err(AdminError::NoLeader { .. }) => {
                let term = self.metrics().current_term;
                let not_leader = Some(pb::Leadership { term, ..Default::default() });
                pb::AdministerResponse { not_leader, ..Default::default() }
            }
            Err(AdminError::Unknown(text)) => {
                pb::AdministerResponse { unknown: text, ..Default::default() }
            }
            Err(error) => {
                pb::AdministerResponse { refusal: error.to_string(), ..Default::default() }
            }
        })
    }
}
