//! What the parts of one replica share: the handles to openraft, to the peers, to the disk and to each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, Raft};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guard::PeerGuard;
use super::identity::Identity;
use super::leadership::{Contact, Leadership};
use super::log::{Fatal, LogStore};
use super::machine::{Machine, Output};
use super::peers::Peers;
use super::reads::Reads;
use super::settings::RaftSettings;
use super::snapshot::SnapshotStore;
use super::stamp::Stamper;
use super::types::{Member, TypeConfig};
use crate::host::Host;

pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;

pub(crate) struct Shared {
    pub(crate) raft: Raft<TypeConfig, Machine>,
    pub(crate) host: Host,
    pub(crate) settings: Arc<RaftSettings>,
    /// What this node tells the others of itself.
    pub(crate) announced: Member,
    pub(crate) guard: PeerGuard,
    pub(crate) peers: Arc<Peers>,
    pub(crate) output: Arc<Output>,
    pub(crate) log: LogStore,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) identity: Mutex<Identity>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) reads: Reads,
    /// Commands that wait for their outcome.
    pub(crate) in_flight: Semaphore,
    /// Held while the membership is changed: one change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// The join that an invitation has begun.
    pub(crate) invited: Mutex<Option<AbortHandle>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) fatal: Fatal,
    pub(crate) stamper: Mutex<Stamper>,
    pub(crate) contact: Mutex<Contact>,
    /// Until when this node votes for nobody: before its restart it may have promised a leader not to, which
    /// only its memory knew. `None` on a node that is new.
    pub(crate) quiet_until: Option<tokio::time::Instant>,
    /// The term in which this node, as its leader, has begun to hand over: from then on another may lead.
    pub(crate) handing_over: AtomicU64,
}

impl Shared {
    pub(crate) fn node_id(&self) -> u64 {
        self.guard.node_id()
    }

    /// openraft's metrics, cloned at once: holding the reference would block openraft.
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    pub(crate) fn stamper(&self) -> MutexGuard<'_, Stamper> {
        self.stamper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the leader was heard.
    pub(crate) fn heard(&self, leader: u64) {
        let at = self.host.clock.monotonic();
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Contact { leader, at };
    }

    /// How long ago this node heard `leader`; `None` where another one was heard since, or nobody.
    pub(crate) fn contact_age(&self, leader: u64, now: Duration) -> Option<Duration> {
        let contact = *self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        (contact.leader == leader).then(|| now.saturating_sub(contact.at))
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet_until.is_some_and(|until| tokio::time::Instant::now() < until)
    }

    pub(crate) fn is_handing_over(&self, term: u64) -> bool {
        self.handing_over.load(Ordering::SeqCst) == term
    }

    /// How long ago a quorum answered this node as its leader; `None` on others, and on a leader that hands
    /// over. Zero where it is the quorum. Asked for every beat: a look at the metrics, without a copy.
    pub(crate) fn quorum_contact_age(&self) -> Option<Duration> {
        self.quorum_contact(None)
    }

    /// As [`Shared::quorum_contact_age`], and `None` where the leader is not that of `term`.
    pub(crate) fn quorum_contact(&self, term: Option<u64>) -> Option<Duration> {
        let me = self.node_id();
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        let leads = metrics.vote.leader_id.term;
        if metrics.current_leader != Some(me)
            || !metrics.state.is_leader()
            || term.is_some_and(|term| term != leads)
            || self.is_handing_over(leads)
        {
            return None;
        }
        let configs = metrics.membership_config.get_joint_config();
        if !configs.is_empty() && configs.iter().all(|voters| voters.iter().eq([&me])) {
            return Some(Duration::ZERO);
        }
        metrics.last_quorum_acked.map(|at| at.elapsed())
    }

    /// When a caller without a leader should try again: about two heartbeats, so that callers spread.
    pub(crate) fn retry_after(&self) -> Duration {
        let beat = u64::try_from(self.settings.heartbeat.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(self.host.random.between(beat, beat.saturating_mul(3)))
    }

    /// The leader to pass something on to: the last one that is known, even if it is silent right now.
    pub(crate) fn last_known_leader(&self) -> Option<(u64, Member)> {
        let id = self.metrics().current_leader.filter(|id| *id != self.node_id())?;
        Some((id, self.peers.member(id)?))
    }
}
