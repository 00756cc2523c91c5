//! The way of a command into the log: stamped and proposed on the leader, passed on once from anywhere else.
//! Nothing here tries twice: whether a command whose answer was lost took effect, only its caller can find out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use rollcall_core::{Command, Outcome};
use rollcall_proto::internal::v1 as pb;
use rollcall_proto::stored;

use super::errors::SubmitError;
use super::peers::{Lane, call, never_arrived};
use super::shared::Shared;
use super::types::{Proposal, Reply};
use super::wire;

impl Shared {
    /// Proposes on the leader, passes on once elsewhere.
    pub(crate) async fn submit(
        &self,
        command: Command,
        timeout: Duration,
    ) -> Result<Arc<Outcome>, SubmitError> {
        if self.raft.is_leader() {
            return match self.propose(command, timeout).await {
                Err(SubmitError::NotLeader { .. }) => {
                    Err(SubmitError::NoLeader { retry_after: self.retry_after() })
                }
                result => result,
            };
        }
        self.pass_on(stored::encode_unstamped(&command), timeout).await
    }

    /// Proposes a command on this node, which must be the leader.
    pub(crate) async fn propose(
        &self,
        command: Command,
        timeout: Duration,
    ) -> Result<Arc<Outcome>, SubmitError> {
        if self.stop.is_cancelled() {
            return Err(SubmitError::Stopped);
        }
        let limit = self.settings.in_flight_max;
        let _permit =
            self.in_flight.try_acquire().map_err(|_| SubmitError::Overloaded { limit })?;
        self.propose_as(None, command, timeout).await
    }

    /// Proposes a command on this node, which must be the leader, of `expected` where a term is given.
    pub(crate) async fn propose_as(
        &self,
        expected: Option<u64>,
        command: Command,
        timeout: Duration,
    ) -> Result<Arc<Outcome>, SubmitError> {
        if self.stop.is_cancelled() {
            return Err(SubmitError::Stopped);
        }
        if self.log.is_nearly_full() {
            return Err(SubmitError::DiskFull);
        }
        let Ok(leader) = self.raft.as_leader() else { return Err(self.not_leader()) };
        let (term, leader_id) = (leader.leader_id().term, leader.to_committed_leader_id());
        if expected.is_some_and(|expected| expected != term) {
            return Err(self.not_leader());
        }
        let clock = &self.host.clock;
        let stamped = self.stamper().stamp(term, clock.monotonic(), clock.wall_ms(), command);
        let bytes = stored::encode_command(&stamped);
        let limit = self.settings.command_bytes_max;
        if bytes.len() > limit {
            return Err(SubmitError::TooLarge { bytes: bytes.len(), limit });
        }
        let (responder, answer) = ProgressResponder::complete_only();
        // Under another leadership of this node the stamp would be wrong.
        let proposal = self.raft.write(Proposal(bytes)).with_leader(leader_id).responder(responder);
        let result = tokio::time::timeout(timeout, async {
            proposal.await.map_err(|_| SubmitError::Stopped)?;
            answer.await.map_err(|_| unknown("this node stopped"))
        })
        .await
        .map_err(|_| unknown("not committed and applied in time"))??;
        match result {
            Ok(response) => {
                let Reply(outcome) = response.data;
                outcome.ok_or_else(|| unknown("the entry has no outcome"))
            }
            Err(ClientWriteError::ForwardToLeader(_)) => Err(self.not_leader()),
            Err(error) => Err(unknown(&error.to_string())),
        }
    }

    fn not_leader(&self) -> SubmitError {
        let term = self.metrics().current_term;
        SubmitError::NotLeader { leader: self.last_known_leader(), term }
    }

    async fn pass_on(
        &self,
        command: Bytes,
        timeout: Duration,
    ) -> Result<Arc<Outcome>, SubmitError> {
        let no_leader = || SubmitError::NoLeader { retry_after: self.retry_after() };
        if self.stop.is_cancelled() {
            return Err(SubmitError::Stopped);
        }
        let limit = self.settings.in_flight_max;
        let _permit =
            self.in_flight.try_acquire().map_err(|_| SubmitError::Overloaded { limit })?;
        let limit = self.settings.command_bytes_max;
        if command.len() > limit {
            return Err(SubmitError::TooLarge { bytes: command.len(), limit });
        }
        let Some((id, member)) = self.last_known_leader() else { return Err(no_leader()) };
        let mut client = self.peers.client(Some(id), member.peer, Lane::Control);
        let deadline_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let request = pb::SubmitRequest { command, deadline_ms };
        let response = match call("submit", timeout, request, |r| client.submit(r)).await {
            Ok(response) => response,
            Err(status) if never_arrived(&status) => return Err(no_leader()),
            Err(status) => {
                let code = status.code();
                return Err(unknown(&format!("leader {id:016x}: {code}: {}", status.message())));
            }
        };
        use pb::submit_response::Result as Answer;
        match response.result {
            Some(Answer::Outcome(bytes)) => {
                let outcome = stored::decode_outcome(&bytes);
                outcome.map(Arc::new).map_err(|error| unknown(&format!("its answer: {error}")))
            }
            Some(Answer::Unknown(reason)) => Err(unknown(&reason)),
            Some(Answer::Refusal(refusal)) => Err(self.refusal_in(&refusal, no_leader())),
            None => Err(unknown("the leader answered nothing")),
        }
    }

    fn refusal_in(&self, refusal: &pb::SubmitRefusal, no_leader: SubmitError) -> SubmitError {
        use pb::submit_refusal::Reason;
        match refusal.reason() {
            Reason::DiskFull => SubmitError::DiskFull,
            Reason::Overloaded => SubmitError::Overloaded { limit: self.settings.in_flight_max },
            Reason::TooLarge => {
                let limit = self.settings.command_bytes_max;
                SubmitError::TooLarge { bytes: limit.saturating_add(1), limit }
            }
            // The leader changed meanwhile, or stops: the caller finds the next one.
            Reason::NotLeader | Reason::Stopped | Reason::Unspecified => no_leader,
        }
    }

    /// The answer to a command that another node passed on.
    pub(crate) async fn submit_for_peer(&self, request: pb::SubmitRequest) -> pb::SubmitResponse {
        use pb::submit_refusal::Reason;
        use pb::submit_response::Result as Answer;
        let timeout = Duration::from_millis(u64::from(request.deadline_ms));
        let result = match stored::decode_unstamped(&request.command) {
            Ok(command) => self.propose(command, timeout).await,
            Err(error) => {
                let detail = format!("undecodable command: {error}");
                let reason = Reason::Unspecified.into();
                let refusal = pb::SubmitRefusal { reason, leader: None, detail };
                return pb::SubmitResponse { result: Some(Answer::Refusal(refusal)) };
            }
        };
        let refuse = |reason: Reason, leader, error: &SubmitError| {
            let detail = error.to_string();
            Answer::Refusal(pb::SubmitRefusal { reason: reason.into(), leader, detail })
        };
        let answer = match &result {
            Ok(outcome) => Answer::Outcome(stored::encode_outcome(outcome)),
            Err(SubmitError::OutcomeUnknown { reason }) => Answer::Unknown(reason.clone()),
            Err(error @ SubmitError::NotLeader { leader, term }) => {
                let leader = pb::Leadership {
                    leader_id: leader.as_ref().map_or(0, |(id, _)| *id),
                    leader: leader.as_ref().map(|(_, member)| wire::member_out(member)),
                    term: *term,
                };
                refuse(Reason::NotLeader, Some(leader), error)
            }
            Err(error @ SubmitError::NoLeader { .. }) => refuse(Reason::NotLeader, None, error),
            Err(error @ SubmitError::DiskFull) => refuse(Reason::DiskFull, None, error),
            Err(error @ SubmitError::Overloaded { .. }) => refuse(Reason::Overloaded, None, error),
            Err(error @ SubmitError::TooLarge { .. }) => refuse(Reason::TooLarge, None, error),
            Err(error @ SubmitError::Stopped) => refuse(Reason::Stopped, None, error),
        };
        pb::SubmitResponse { result: Some(answer) }
    }
}

fn unknown(reason: &str) -> SubmitError {
    SubmitError::OutcomeUnknown { reason: reason.to_owned() }
}
