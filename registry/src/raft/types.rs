//! The type configuration of openraft: what travels through the log, who the members are, and which runtime
//! runs it. Everything else of this folder speaks in the aliases declared here.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::runtime::Runtime;
use rollcall_core::Outcome;

/// One encoded, stamped command: opaque to Raft, which orders, stores and sends it without looking inside.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal of {} bytes", self.0.len())
    }
}

/// What applying one entry answers: the outcome of its command; `None` for entries without one (membership, blank).
#[derive(Clone, Debug, Default)]
pub struct Reply(pub Option<Arc<Outcome>>);

/// One member of the cluster as it last announced itself. Membership entries carry it, so every node knows
/// where to reach every other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name that operators gave the node; unique by custom, never used to decide anything.
    pub name: String,
    /// Where the gRPC API listens.
    pub api: SocketAddr,
    /// Where HTTP (health, metrics) listens.
    pub http: SocketAddr,
    /// Where DNS listens.
    pub dns: SocketAddr,
    /// Where the other nodes reach this one.
    pub peer: SocketAddr,
}

impl Member {
    /// Everything that it listens on.
    pub fn addresses(&self) -> [SocketAddr; 4] {
        [self.api, self.http, self.dns, self.peer]
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (peer {})", self.name, self.peer)
    }
}

openraft::declare_raft_types!(
    /// The one Raft group of a cluster. Node ids are random `u64`; a leader is identified by (term, node id).
    pub TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// Identity of a log entry: (term, node id of the leader that wrote it, index).
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// The (term, node id) of the leader that wrote an entry.
pub type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
/// The (term, node id) of a candidate or leader.
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
/// The vote of a node: whom it follows, and whether a quorum granted it.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// One entry of the log.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What an entry carries: nothing, a [`Proposal`] or a [`Membership`].
pub type EntryPayload = openraft::EntryPayload<Proposal, u64, Member>;
/// Voters (joint while changing), and the announced addresses of all members, learners included.
pub type Membership = openraft::Membership<u64, Member>;
/// A membership together with the entry that brought it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
