//! What must hold at every moment, one promise to a file. Each looks at what nodes show and clients were told; none
//! changes anything.
//!
//! | file | promise | source |
//! |---|---|---|
//! | `agreement` | equal log position or revision, equal state | Raft 5.4.3, State Machine Safety; `docs/operate.md`: at equal revision the same state hash |
//! | `forward` | a running node never goes back | Raft 5.1, terms; 5.3, the commit index; `StatusResponse.revision` |
//! | `committed` | a committed entry never changes | Raft 5.4, Leader Completeness and State Machine Safety |
//! | `durable` | what is committed is on the synced disks of a majority | Raft 5.2 and 5.3: what is answered is on stable storage before |
//! | `acknowledged` | what was acknowledged is in the history, and stays | `docs/failure.md`: everything that was acknowledged is there again |
//! | `effects` | a refusal has no effect, a request id at most one, a goodbye none on a successor | Raft 8, client interaction; `RegisterRequest.request_id` |
//! | `order` | revisions respect real time; a compare-and-set compared | linearizability, by revision |
//! | `false_expiry` | who beats does not expire | `docs/operate.md`, timing: never before its TTL |
//! | `expiry_bound` | who is silent expires in time | `docs/operate.md`, timing; decision 006 |
//! | `quorum_expiry` | nothing expires without a quorum | `docs/operate.md`: without a leader nothing expires |
//! | `maintenance` | who is in maintenance does not expire | `AdminState` in `types.proto` |
//! | `protection` | mass expiry is held back | self-preservation of Eureka, bounded; `docs/operate.md`: protection |
//! | `reads` | an answer is one revision, as fresh as it was asked for | `Consistency` in `discovery_service.proto`; Raft 8, read-only operations |
//! | `linearizable` | what clients were told of a service happened in some order | linearizability, by the search of Wing and Gong, where the history is small enough |
//! | `bookmarks` | nothing is missing up to a bookmark | a watch of etcd is reliable and bookmarkable; decision 004 |
//! | `tails` | a tail tells the history | `journal_service.proto`: every event, in order, once; decision 004 |
//! | `lookups` | DNS answers are whole, do not go back, and say when they are behind | `docs/dns.md`: what is answered where there is nothing; RFC 8914, stale answers |
//! | `probes` | what lives stays, what is dead goes, also when a checker is cut off | `docs/operate.md`, checks; decision 009 |
//! | `limits` | the log is cut behind snapshots, streams are counted | decision 005, bounds |
//! | `exits` | a node ends only over its disk, no task panics | `docs/operate.md`: code 70, and a damaged file |
//! | [`well`] | after healing all is well again | liveness |
//!
//! What clients judge on the spot (a watch going back, a gap in a tail) comes in as complaints. A new invariant is one
//! file and one line in [`all`].

mod acknowledged;
mod agreement;
mod bookmarks;
mod committed;
mod durable;
mod effects;
pub mod exits;
mod expiry_bound;
mod false_expiry;
mod forward;
mod limits;
mod linearizable;
mod lookups;
mod maintenance;
mod order;
mod probes;
mod protection;
mod quorum_expiry;
mod reads;
mod tails;
pub mod well;

use crate::{
    chronicle::Chronicle,
    cluster::{Cluster, NodeNow},
    oracle::Oracle,
    plan::Plan,
};
use std::time::Duration;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub invariant: &'static str,
    /// What was seen.
    pub seen: String,
}

impl Violation {
    /// A promise that was broken, and how.
    pub fn new(invariant: &'static str, seen: String) -> Self {
        Self { invariant, seen }
    }
}

/// Everything there is to look at.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Simulated time.
    pub now: Duration,
    /// How long all has been calm so far, all calm times together: no fault at work, all nodes up, one leader whom all
    /// follow.
    pub calm: Duration,
    /// How often the leader has changed.
    pub leader_changes: u32,
    /// When it last did.
    pub leader_changed: Duration,
    /// What the seed decided.
    pub plan: &'a Plan,
    /// The machines.
    pub cluster: &'a Cluster,
    /// The nodes that are up.
    pub nodes: &'a [NodeNow],
    /// What happened.
    pub chronicle: &'a Chronicle,
    /// What the clients were told.
    pub oracle: &'a Oracle,
}

/// One promise.
pub trait Invariant {
    /// Looks at a moment.
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>);

    /// Looks at the end, when all is well again and the history is complete.
    fn end(&mut self, _moment: &Moment<'_>, _out: &mut Vec<Violation>) {}
}

/// All of them.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<agreement::Agreement>::default(),
        Box::<forward::Forward>::default(),
        Box::<committed::Committed>::default(),
        Box::<durable::Durable>::default(),
        Box::<acknowledged::Acknowledged>::default(),
        Box::<effects::Effects>::default(),
        Box::<order::Order>::default(),
        Box::<false_expiry::FalseExpiry>::default(),
        Box::<expiry_bound::ExpiryBound>::default(),
        Box::<quorum_expiry::QuorumExpiry>::default(),
        Box::<maintenance::Maintenance>::default(),
        Box::<protection::Protection>::default(),
        Box::<reads::Reads>::default(),
        Box::<linearizable::Linearizable>::default(),
        Box::<bookmarks::Bookmarks>::default(),
        Box::<tails::Tails>::default(),
        Box::<lookups::Lookups>::default(),
        Box::<probes::Probes>::default(),
        Box::<limits::Limits>::default(),
        Box::<exits::Exits>::default(),
    ]
}
