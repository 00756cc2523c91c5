//! Commands about health: what checkers found, who they are, and what owners say of themselves.

use crate::{check::Opinion, name::Label, record::Actor, signals::Utilization};
use std::sync::Arc;

/// Verdicts of checks. Each item stands for itself; none makes the batch fail.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReportHealth {
    /// Who found it.
    pub source: Source,
    /// 1-1,000.
    pub items: Vec<Finding>,
    /// The node that reports.
    pub actor: Actor,
}

/// On whose word verdicts rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The checker of the instance. Refused unless the set of checkers still has this epoch, and item by item where
    /// another node is the checker.
    Checker {
        /// Node id.
        node: u64,
        /// Epoch of the set of checkers in which it probed.
        epoch: u64,
    },
    /// Three quick probes that failed after a heartbeat was lost, asked for by the leader. Only failures count.
    Quick,
}

/// The verdict of one check.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Finding {
    /// Generation of the instance that was probed.
    pub generation: u64,
    /// Which registration and which checks it was found for: `State::basis` when the probing began. A verdict on
    /// what was declared before is refused.
    pub basis: u64,
    /// Id of the check.
    pub check: Label,
    /// What was found.
    pub opinion: Opinion,
    /// What was seen, for the journal; at most 256 bytes.
    pub evidence: Arc<str>,
}

/// Names the nodes that probe. Takes effect only as the successor of the set that stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetCheckers {
    /// Epoch of the new set: one more than that of the set that stands.
    pub epoch: u64,
    /// Node ids, at most 100; sorted and unique when applied.
    pub nodes: Vec<u64>,
    /// The node that decided.
    pub actor: Actor,
}

/// What owners say of themselves. Each item stands for itself. Items and figures together are 1-1,000.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReportSelf {
    /// Who serves badly, or does no longer.
    pub items: Vec<SelfReport>,
    /// How busy they are: makes neither an event nor a revision.
    pub figures: Vec<Figure>,
    /// The owner whose heartbeat stream said it.
    pub actor: Actor,
}

/// What one owner says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SelfReport {
    /// Its generation.
    pub generation: u64,
    /// Why it serves badly, at most 256 bytes; `None` = it does not.
    pub degraded: Option<Arc<str>>,
}

/// How busy one instance is, by its own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Figure {
    /// Its generation.
    pub generation: u64,
    /// `None` = not told any more.
    pub utilization: Option<Utilization>,
}

/// What became of one verdict, self-report or figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// It stands in the record.
    Taken,
    /// It stood there before.
    Unchanged,
    /// The instance, its registration, its checks or its checker are others now: no effect.
    Superseded,
}
