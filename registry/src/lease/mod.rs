//! Leases: who still answers the roll call. The timing contract of the design's section 6.
//!
//! * [`table`]: deadlines in the leader's memory, renewed by arrival time; [`time`], [`evictions`], [`lost`]: its parts
//! * [`beat`]: what a heartbeat comes to, on the leader and through a follower
//! * [`relay`]: batches of beats between nodes
//! * [`sweep`]: when the leader looks at what is due; [`expire`], `evict`, [`protect`]: what it proposes then
//! * [`quick`]: probes at once where a heartbeat is lost and there are checks to ask; `breaks`: streams that broke
//! * [`checkpoint`]: what the next leader must know of leases that missed a beat

pub mod beat;
mod breaks;
pub mod checkpoint;
mod evict;
pub mod evictions;
pub mod expire;
pub mod lost;
pub mod protect;
pub mod quick;
pub mod relay;
pub mod sweep;
pub mod table;
pub mod time;

use crate::{
    host::Host,
    raft::{Published, Replica, SubmitError, leadership::Leadership},
    view::{Follower, View},
};
use checkpoint::Clear;
use rollcall_core::{
    Command,
    command::{Done, Outcome},
    protection::{Gate, Thresholds},
    record::Actor,
};
use std::{
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
    time::Duration,
};
use table::LeaseTable;
use tokio::sync::{mpsc, watch};

/// A proposal of this module is given up after this, and made again where it is still needed.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Settings of leases. Every node of a cluster should have the same.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Whether mass expiry is held back.
    pub protection: bool,
    /// When it is.
    pub thresholds: Thresholds,
    /// Expiries a second after protection has ended; default 2,000.
    pub release_rate: u32,
    /// A node without a usable leader ends its heartbeat streams after this; default 500 ms.
    pub leaderless_grace: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            protection: true,
            thresholds: Thresholds::default(),
            release_rate: 2_000,
            leaderless_grace: Duration::from_millis(500),
        }
    }
}

/// Counters of the lease module, read by the metrics.
#[derive(Debug, Default)]
pub struct LeaseStats {
    /// Leases renewed by a beat on this node as leader.
    pub renewed: AtomicU64,
    /// Beats that had to be answered with REREGISTER.
    pub reregister: AtomicU64,
    /// Beats that had to be answered with FENCED.
    pub fenced: AtomicU64,
    /// Pauses of this process that were added to the deadlines.
    pub pauses: AtomicU64,
    /// Expiries proposed.
    pub expiries: AtomicU64,
    /// Evictions proposed.
    pub evictions: AtomicU64,
    /// Lease checkpoints proposed, by lease.
    pub checkpoints: AtomicU64,
    /// Heartbeat streams that broke at this node.
    pub broken_streams: AtomicU64,
    /// Quick probes that found the instance alive.
    pub quick_alive: AtomicU64,
    /// Quick probes that all failed.
    pub quick_dead: AtomicU64,
    /// Quick probes that failed, though a beat came after the break.
    pub quick_ignored: AtomicU64,
    /// Quick probes that nobody could make.
    pub quick_unknown: AtomicU64,
}

/// The lease module of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leases(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: LeaseTable,
    replica: Replica,
    leadership: watch::Receiver<Leadership>,
    view: View,
    host: Host,
    settings: LeaseSettings,
    node: Arc<str>,
    gate: Mutex<Gate>,
    clears: mpsc::Sender<Clear>,
    relay: relay::Relay,
    quick: RwLock<Arc<dyn quick::Quick>>,
    broken: mpsc::Sender<quick::Broken>,
    stats: LeaseStats,
}

/// The long-lived work of the module, to be spawned by the node.
#[derive(Debug)]
pub struct LeaseTasks {
    leases: Leases,
    clears: mpsc::Receiver<Clear>,
    relayed: mpsc::Receiver<relay::Ask>,
    broken: mpsc::Receiver<quick::Broken>,
}

impl Leases {
    /// The module and its work. Nothing runs before the work is spawned.
    pub fn new(
        replica: Replica,
        view: View,
        host: Host,
        settings: LeaseSettings,
    ) -> (Self, LeaseTasks) {
        let (clears, clears_in) = mpsc::channel(checkpoint::CLEARS_MAX);
        let (relay, relayed) = relay::Relay::new();
        let (broken, broken_in) = mpsc::channel(quick::BROKEN_MAX);
        let leases = Self(Arc::new(Inner {
            table: LeaseTable::new(host.clock.clone()),
            node: format!("{:016x}", replica.node_id()).into(),
            leadership: replica.leadership(),
            replica,
            view,
            host,
            settings,
            gate: Mutex::default(),
            clears,
            relay,
            quick: RwLock::new(Arc::new(quick::Nobody)),
            broken,
            stats: LeaseStats::default(),
        }));
        let tasks =
            LeaseTasks { leases: leases.clone(), clears: clears_in, relayed, broken: broken_in };
        (leases, tasks)
    }

    /// Follows what was applied: to be called for every batch, by the thread that applies. It does not keep the module
    /// alive, which itself holds the view that calls it.
    pub fn follower(&self) -> Follower {
        let leases = Arc::downgrade(&self.0);
        Box::new(move |published| {
            if let Some(leases) = leases.upgrade() {
                Self(leases).follow(published);
            }
        })
    }

    fn follow(&self, published: &Published) {
        self.0.table.follow(&published.state, &published.changes);
        self.follow_protection(&published.changes);
    }

    /// The table, for status and metrics.
    pub fn table(&self) -> &LeaseTable {
        &self.0.table
    }

    /// The counters.
    pub fn stats(&self) -> &LeaseStats {
        &self.0.stats
    }

    /// A node without a usable leader ends its heartbeat streams after this.
    pub fn leaderless_grace(&self) -> Duration {
        self.0.settings.leaderless_grace
    }

    /// Whether this node leads in this term, has loaded the leases, and heard from a quorum within the leader lease.
    /// Asked when an acknowledgement is sent: a leader that was cut off meanwhile promises nothing, and one that was
    /// elected again since knows nothing of the beat.
    fn may_acknowledge(&self, term: u64) -> bool {
        self.0.table.is_active(term) && {
            let contact = self.0.replica.quorum_contact_age_in(term);
            contact.is_some_and(|age| age < self.0.replica.leader_lease())
        }
    }

    /// The term in which this node leads and has loaded every lease.
    fn reign_with_table(&self) -> Option<u64> {
        let term = self.reign();
        self.0.table.is_active(term).then_some(term)
    }

    /// The term in which this node leads and has applied an entry of its own; 0 = none.
    fn reign(&self) -> u64 {
        self.0.leadership.borrow().reign.as_ref().map_or(0, |reign| reign.term)
    }

    fn actor(&self) -> Actor {
        Actor::Registry(self.0.node.clone())
    }

    /// Proposes what this node has decided as the leader of `term`: in another one it must not count.
    async fn propose(&self, term: u64, command: Command) -> Result<Done, Refused> {
        let proposed = self.0.replica.propose_in_term(term, command, PROPOSE_DEADLINE);
        let outcome: Arc<Outcome> = proposed.await?;
        Ok(outcome.result.clone()?)
    }
}

/// A proposal of this module that came to nothing, as far as is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Rejected(#[from] rollcall_core::Rejection),
}

impl Refused {
    /// Whether it may take effect all the same.
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Submit(SubmitError::OutcomeUnknown { .. }))
    }
}
