//! Linearizable reads on any node, and how stale this node is. Readers share rounds: a round asks the leader
//! (which confirms itself with a quorum) what must be applied; a reader that comes while a round is in the air
//! waits for the next one, because the answer to the current one may be older than its question.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use rollcall_proto::internal::v1 as pb;
use tokio::sync::{mpsc, oneshot};

use super::errors::ReadError;
use super::peers::{Lane, call};
use super::shared::Shared;
use super::types::LogId;
use super::wire;

/// Confirmed read indexes that are not applied yet: more than could be of use.
const PENDING_MAX: usize = 64;

/// A reader that waits for the index that must be applied.
pub(crate) type Waiter = oneshot::Sender<Result<u64, ReadError>>;

/// Where readers queue, and what their rounds have shown.
#[derive(Debug)]
pub(crate) struct Reads {
    queue: mpsc::Sender<Waiter>,
    freshness: Mutex<Freshness>,
}

#[derive(Debug, Default)]
struct Freshness {
    /// Rounds whose index is not applied yet: (index, asked at); the oldest first.
    pending: VecDeque<(u64, Duration)>,
    /// When the newest round was asked whose index is applied.
    fresh: Option<Duration>,
}

impl Freshness {
    fn confirmed(&mut self, index: u64, asked: Duration) {
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_back();
        }
        self.pending.push_back((index, asked));
    }

    fn fresh_as_of(&mut self, applied: u64) -> Option<Duration> {
        while let Some((index, asked)) = self.pending.front().copied() {
            if index > applied {
                break;
            }
            self.pending.pop_front();
            self.fresh = self.fresh.max(Some(asked));
        }
        self.fresh
    }
}

impl Reads {
    pub(crate) fn new(waiting_max: usize) -> (Self, mpsc::Receiver<Waiter>) {
        let (queue, waiters) = mpsc::channel(waiting_max);
        (Self { queue, freshness: Mutex::default() }, waiters)
    }

    fn freshness(&self) -> std::sync::MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Returns when everything is applied here that was acknowledged anywhere before the call.
    pub(crate) async fn read_index(&self, timeout: Duration) -> Result<(), ReadError> {
        let (waiter, answer) = oneshot::channel();
        self.reads.queue.try_send(waiter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        let mut needed = None;
        let wait = tokio::time::timeout(timeout, async {
            let index = answer.await.map_err(|_| ReadError::Stopped)??;
            needed = Some(index);
            let mut applied = self.output.applied();
            let reached = |last: &Option<LogId>| last.is_some_and(|last| last.index >= index);
            applied.wait_for(reached).await.map_err(|_| ReadError::Stopped)?;
            Ok(())
        })
        .await;
        match (wait, needed) {
            (Ok(result), _) => result,
            (Err(_), None) => Err(ReadError::Unconfirmed(format!("no answer in {timeout:?}"))),
            (Err(_), Some(needed)) => {
                let applied = self.output.applied_index();
                Err(ReadError::Behind { needed, applied, waited: timeout })
            }
        }
    }

    /// The newest moment of this node's monotonic clock up to which it certainly has applied everything that
    /// was acknowledged; `None` until it has heard a leader.
    pub(crate) fn fresh_as_of(&self) -> Option<Duration> {
        if self.leadership.borrow().reign.is_some()
            && let Some(age) = self.quorum_contact_age()
        {
            // What the leader acknowledged before its last contact with a quorum it had applied itself.
            let led = self.host.clock.monotonic().saturating_sub(age);
            let mut freshness = self.reads.freshness();
            freshness.fresh = freshness.fresh.max(Some(led));
        }
        self.reads.freshness().fresh_as_of(self.output.applied_index())
    }

    /// One round, as the leader or with it.
    async fn round(&self) -> Result<u64, ReadError> {
        if self.raft.is_leader() {
            return self.confirm_as_leader().await;
        }
        let no_leader = || ReadError::NoLeader { retry_after: self.retry_after() };
        let (id, member) = self.last_known_leader().ok_or_else(no_leader)?;
        let mut client = self.peers.client(Some(id), member.peer, Lane::Control);
        // A leader that cannot reach a quorum says so when its lease is over.
        let deadline = 2 * self.settings.leader_lease();
        let request = pb::ReadIndexRequest {};
        let answer = call("read index", deadline, request, |r| client.read_index(r)).await;
        use pb::read_index_response::Result as Answer;
        match answer.map(|response| response.result) {
            Ok(Some(Answer::ReadLogId(id))) => Ok(id.index),
            Ok(Some(Answer::Unconfirmed(reason))) => Err(ReadError::Unconfirmed(reason)),
            Ok(Some(Answer::NotLeader(_)) | None) => Err(no_leader()),
            Err(status) => {
                tracing::debug!(leader = format!("{id:016x}"), %status, "read index");
                Err(no_leader())
            }
        }
    }

    /// What must be applied before a read, confirmed by a quorum after this call began.
    pub(crate) async fn confirm_as_leader(&self) -> Result<u64, ReadError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err(ReadError::NoLeader { retry_after: self.retry_after() })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error))) => {
                Err(ReadError::Unconfirmed(error.to_string()))
            }
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }

    /// The answer to a follower that asks for a read index.
    pub(crate) async fn read_index_for_peer(&self) -> pb::ReadIndexResponse {
        use pb::read_index_response::Result as Answer;
        let answer = match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => {
                let read = linearizer.read_log_id();
                Answer::ReadLogId(pb::LogId { term: 0, node_id: 0, index: read.index() })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error))) => {
                Answer::Unconfirmed(error.to_string())
            }
            Err(_) => {
                let leader = self.last_known_leader();
                Answer::NotLeader(pb::Leadership {
                    leader_id: leader.as_ref().map_or(0, |(id, _)| *id),
                    leader: leader.as_ref().map(|(_, member)| wire::member_out(member)),
                    term: self.metrics().current_term,
                })
            }
        };
        pb::ReadIndexResponse { result: Some(answer) }
    }
}

/// Runs the rounds, one after the other, until the node stops.
pub(crate) async fn run(shared: Arc<Shared>, mut waiters: mpsc::Receiver<Waiter>) {
    let mut batch = Vec::new();
    let limit = shared.settings.waiting_reads_max;
    loop {
        let interval = shared.settings.freshness_interval;
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            count = waiters.recv_many(&mut batch, limit) => if count == 0 { break },
            () = tokio::time::sleep(interval), if !shared.raft.is_leader() => {}
        }
        let asked = shared.host.clock.monotonic();
        let result = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            result = shared.round() => result,
        };
        if let Ok(index) = result {
            let mut freshness = shared.reads.freshness();
            freshness.confirmed(index, asked);
            freshness.fresh_as_of(shared.output.applied_index());
        }
        for waiter in batch.drain(..) {
            // A reader that gave up does not listen any more.
            let _ = waiter.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_round_counts_only_when_its_index_is_applied() {
        let mut freshness = Freshness::default();
        freshness.confirmed(5, secs(1));
        freshness.confirmed(9, secs(2));
        assert_eq!(freshness.fresh_as_of(4), None);
        assert_eq!(freshness.fresh_as_of(6), Some(secs(1)));
        assert_eq!(freshness.fresh_as_of(9), Some(secs(2)));
    }

    #[test]
    fn rounds_that_wait_for_ever_do_not_pile_up() {
        let mut freshness = Freshness::default();
        for round in 0..1000 {
            freshness.confirmed(7, secs(round));
        }
        assert_eq!(freshness.pending.len(), PENDING_MAX);
        assert_eq!(freshness.fresh_as_of(7), Some(secs(999)));
    }
}
