//! Where a node stands, for operators and metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::{Instant, ServerState};

use super::membership::Standing;
use super::shared::Shared;
use super::types::{LogId, Member};

/// What a node does in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives everything, has no vote; also a node that belongs to no cluster yet.
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Has stopped.
    Stopped,
}

/// One member, as seen from the answering node. The progress is known on the leader alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// What it announced.
    pub member: Member,
    /// Whether it votes.
    pub standing: Standing,
    /// The last index that certainly equals the leader's.
    pub matched_index: Option<u64>,
    /// How many entries it lacks.
    pub lag: Option<u64>,
    /// How long ago it answered the leader.
    pub last_contact: Option<Duration>,
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// Its cluster.
    pub cluster_id: Option<u128>,
    /// What it does there.
    pub role: Role,
    /// The newest term it has seen.
    pub term: u64,
    /// The leader of that term, if it has one; it may be silent.
    pub leader: Option<u64>,
    /// The last entry of its log.
    pub last_log_index: Option<u64>,
    /// The last entry it knows to be committed.
    pub committed: Option<LogId>,
    /// The last entry it has applied and published.
    pub applied: Option<LogId>,
    /// What its snapshot covers.
    pub snapshot: Option<LogId>,
    /// The last entry that is no longer in its log.
    pub purged: Option<LogId>,
    /// All members.
    pub members: BTreeMap<u64, MemberStatus>,
    /// Whether a change of the membership is half done.
    pub changing: bool,
    /// Peer requests that were refused since the start.
    pub refused_requests: u64,
}

impl Status {
    pub(crate) fn of(shared: &Shared) -> Self {
        let metrics = shared.metrics();
        let last = metrics.last_log_index.unwrap_or_default();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let member = |(id, member): (&u64, &Member)| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(id).copied());
            let matched_index = matched.flatten().map(|id| id.index);
            let contact = metrics.heartbeat.as_ref().and_then(|all| all.get(id).copied());
            let is_voter = voters.contains(id);
            let status = MemberStatus {
                member: member.clone(),
                standing: if is_voter { Standing::Voter } else { Standing::Learner },
                matched_index,
                lag: matched.map(|_| last.saturating_sub(matched_index.unwrap_or_default())),
                last_contact: contact.flatten().map(|at| at.elapsed()),
            };
            (*id, status)
        };
        Self {
            node_id: shared.node_id(),
            cluster_id: shared.guard.cluster_id(),
            role: match metrics.state {
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => Role::Stopped,
            },
            term: metrics.vote.leader_id.term.max(metrics.current_term),
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index,
            committed: metrics.local_committed,
            applied: *shared.output.applied().borrow(),
            snapshot: metrics.snapshot,
            purged: metrics.purged,
            members: membership.nodes().map(member).collect(),
            changing: membership.get_joint_config().len() > 1,
            refused_requests: shared.guard.refused(),
        }
    }
}
