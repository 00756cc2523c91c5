//! How consensus can fail, in the words of its callers.

use std::time::Duration;

use super::types::Member;

/// Why a command has no outcome to tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No leader is known, or it could not be reached. The command has had no effect.
    #[error("the cluster has no leader right now; retry in {} ms", retry_after.as_millis())]
    NoLeader {
        /// When to try again.
        retry_after: Duration,
    },
    /// This node is not the leader and must not pass the command on. The command has had no effect.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader as far as it is known here.
        leader: Option<(u64, Member)>,
        /// The newest term seen here.
        term: u64,
    },
    /// The command was sent off, but no answer came: it may or may not take effect.
    #[error("the outcome is unknown ({reason}): retry with the same request id")]
    OutcomeUnknown {
        /// What happened.
        reason: String,
    },
    /// Fewer than 64 MiB are left on the disk of the leader. The command has had no effect.
    #[error("the disk of the leader is nearly full: less than 64 MiB are free; make space there")]
    DiskFull,
    /// Too many commands wait for their outcome. The command has had no effect.
    #[error("{limit} commands are in flight already; retry later")]
    Overloaded {
        /// The bound that was reached.
        limit: usize,
    },
    /// The command is larger than the log takes. It has had no effect.
    #[error("the command has {bytes} bytes encoded, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// This node is shutting down or has failed. The command has had no effect.
    #[error("this node is shutting down")]
    Stopped,
}

/// Why a linearizable read cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader is known, or it could not be reached.
    #[error("the cluster has no leader right now; retry in {} ms", retry_after.as_millis())]
    NoLeader {
        /// When to try again.
        retry_after: Duration,
    },
    /// The leader could not confirm itself with a quorum.
    #[error("the leader could not reach a quorum: {0}")]
    Unconfirmed(String),
    /// This node lags too far behind the leader.
    #[error("entry {needed} is not applied here within {} ms, only {applied}", waited.as_millis())]
    Behind {
        /// What the leader has committed.
        needed: u64,
        /// What is applied here.
        applied: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// Too many readers wait already.
    #[error("too many reads wait for the leader already; retry later")]
    Overloaded,
    /// This node is shutting down or has failed.
    #[error("this node is shutting down")]
    Stopped,
}

/// Why a change of the membership, or of the leader, was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// It would be unsafe or makes no sense; the text says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// No leader is known, or it could not be reached.
    #[error("the cluster has no leader right now; retry in {} ms", retry_after.as_millis())]
    NoLeader {
        /// When to try again.
        retry_after: Duration,
    },
    /// It was begun, but not finished in time; look at the status before trying again.
    #[error("{0}; it may still happen: look at the status before trying again")]
    Unknown(String),
    /// This node is shutting down or has failed.
    #[error("this node is shutting down")]
    Stopped,
}

/// Why a node cannot start, or cannot begin a cluster.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What is stored cannot be used.
    #[error(transparent)]
    Store(#[from] crate::disk::StoreError),
    /// The settings cannot work.
    #[error(transparent)]
    Settings(#[from] super::settings::InvalidSettings),
    /// openraft refused what it found.
    #[error("start raft: {0}")]
    Raft(String),
    /// Blocking work could not be run.
    #[error("start raft: {0} was cancelled")]
    Cancelled(&'static str),
    /// A cluster cannot begin here.
    #[error(
        "bootstrap: this node was joining cluster {cluster_id:032x}; use --join, or clear the data \
         directory to begin a new cluster with it"
    )]
    WasJoining {
        /// The cluster in question.
        cluster_id: u128,
    },
}
