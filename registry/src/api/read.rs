//! Read modes: how fresh an answer must be, and what is said about how fresh it is.

use super::{Api, status};
use crate::view::Seen;
use rollcall_core::{
    Service, State,
    name::{Label, ServiceName},
};
use rollcall_proto::{
    convert::{self, Consistency},
    v1,
};
use std::{ops::Bound, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::Status;

/// Longest wait for `min_revision`.
const REVISION_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the leader; less than the deadline of the call, so that the answer tells what was missing.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the leader where a bound is asked for: a node that is cut off soon says so.
const BOUND_WAIT: Duration = Duration::from_secs(2);

/// How fresh this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// How far behind it may be; `None` = it was never in step.
    pub staleness: Option<Duration>,
    /// Whether it knows a leader.
    pub leader_known: bool,
}

/// A state that is fresh enough, and how fresh it is.
#[derive(Debug, Clone)]
pub struct Read {
    /// The state.
    pub seen: Arc<Seen>,
    /// How fresh.
    pub freshness: Freshness,
}

impl Api {
    /// How fresh this node is, now.
    pub fn freshness(&self) -> Freshness {
        let replica = self.replica();
        let now = self.host().clock.monotonic();
        Freshness {
            staleness: replica.fresh_as_of().map(|at| now.saturating_sub(at)),
            leader_known: replica.leadership().borrow().leader.is_some(),
        }
    }

    /// A state that is as fresh as asked.
    ///
    /// # Errors
    /// STALE_REPLICA or NO_LEADER where it cannot be had, REVISION_NOT_REACHED after 5 s. STALE_REPLICA also where
    /// this node has never had any state: what it does not list may well exist.
    pub async fn read(&self, asked: convert::Freshness) -> Result<Read, Status> {
        let half = self.settings().request_deadline / 2;
        if asked.consistency == Consistency::Linearizable {
            let confirmed = self.replica().read_index(LEADER_WAIT.min(half)).await;
            confirmed.map_err(|error| status::of_read(&error))?;
        }
        self.revision_shown(asked.min_revision, REVISION_WAIT.min(half)).await?;
        if let Consistency::Bounded(bound) = asked.consistency {
            let within = |read: &Read| read.freshness.staleness.is_some_and(|old| old <= bound);
            let mut read = self.look()?;
            if !within(&read) {
                // One attempt to become fresh.
                let _ = self.replica().read_index(BOUND_WAIT.min(half)).await;
                read = self.look()?;
            }
            if !within(&read) {
                return Err(status::stale_replica(read.freshness.staleness, bound));
            }
            return Ok(read);
        }
        let mut read = self.look()?;
        if asked.consistency == Consistency::Linearizable {
            read.freshness = Freshness { staleness: Some(Duration::ZERO), leader_known: true };
        }
        Ok(read)
    }

    /// What this node has, and how fresh that is. First asked is how fresh: the state is at least that.
    fn look(&self) -> Result<Read, Status> {
        let (fresh, seen) = (self.replica().fresh_as_of(), self.view().seen());
        if seen.applied_index == 0 && seen.state.revision() == 0 {
            return Err(status::no_state());
        }
        let now = self.host().clock.monotonic();
        let freshness = Freshness {
            staleness: fresh.map(|at| now.saturating_sub(at)),
            leader_known: self.replica().leadership().borrow().leader.is_some(),
        };
        Ok(Read { seen, freshness })
    }

    async fn revision_shown(&self, wanted: u64, wait: Duration) -> Result<(), Status> {
        let view = self.view();
        if view.load().state.revision() < wanted
            && timeout(wait, view.reached(wanted)).await.is_err()
        {
            let reached = view.load().state.revision();
            return Err(status::revision_not_reached(wanted, reached, wait));
        }
        Ok(())
    }

    /// What an answer says about itself.
    pub fn metadata(&self, read: &Read, service: Option<&ServiceName>) -> v1::ReadMetadata {
        let state = &read.seen.state;
        v1::ReadMetadata {
            revision: state.revision(),
            service_revision: service.map_or(0, |name| state.service_revision(name)),
            staleness: read.freshness.staleness.map(convert::duration),
            node_id: self.replica().node_id(),
            leader_known: read.freshness.leader_known,
            protected: match service {
                Some(name) => state.is_protected(name),
                None => !state.protections().is_empty(),
            },
        }
    }
}

/// Whatever this node has.
pub(super) const STALE: convert::Freshness =
    convert::Freshness { consistency: Consistency::Stale, min_revision: 0 };

/// The services of a namespace, in order of name, whose names begin with `prefix` and come after `after`.
pub(super) fn by_prefix<'a>(
    state: &'a State,
    namespace: &'a Label,
    prefix: &'a str,
    after: Option<Label>,
) -> impl Iterator<Item = (&'a ServiceName, &'a Arc<Service>)> {
    let full = |service| ServiceName { namespace: namespace.clone(), service };
    // The least name that can begin so: a beginning may end with a dash, a name cannot; and none is less than "0".
    let least = Label::parse("", prefix.trim_end_matches('-')).or_else(|_| Label::parse("", "0"));
    let least = least.map_or(Bound::Unbounded, |least| Bound::Included(full(least)));
    let start = after.map_or(least, |after| Bound::Excluded(full(after)));
    let found = state.services().range((start, Bound::Unbounded));
    found
        .take_while(move |(name, _)| {
            let text = name.service.as_str();
            name.namespace == *namespace && (text.starts_with(prefix) || text < prefix)
        })
        .filter(move |(name, _)| name.service.as_str().starts_with(prefix))
}
