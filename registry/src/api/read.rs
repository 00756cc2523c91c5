//! Read modes: how fresh an answer must be, and what is said about how fresh it is.

use super::{Api, status};
use crate::view::Seen;
use rollcall_proto::{
    convert::{self, Consistency},
    v1,
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::Status;

/// Longest wait for `min_revision`.
const REVISION_WAIT: Duration = Duration::from_secs(5);

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
    /// STALE_REPLICA or NO_LEADER where it cannot be had, REVISION_NOT_REACHED after 5 s.
    pub async fn read(&self, asked: convert::Freshness) -> Result<Read, Status> {
        let deadline = self.settings().request_deadline;
        let mut freshness = self.freshness();
        match asked.consistency {
            Consistency::Stale => {}
            Consistency::Bounded(bound) => {
                if freshness.staleness.is_none_or(|staleness| staleness > bound) {
                    // One attempt to become fresh; a node that is cut off says so instead of waiting.
                    let _ = self.replica().read_index(deadline).await;
                    freshness = self.freshness();
                }
                if freshness.staleness.is_none_or(|staleness| staleness > bound) {
                    return Err(status::stale_replica(freshness.staleness, bound));
                }
            }
            Consistency::Linearizable => {
                self.replica()
                    .read_index(deadline)
                    .await
                    .map_err(|error| status::of_read(&error))?;
                freshness = Freshness { staleness: Some(Duration::ZERO), leader_known: true };
            }
        }
        let (view, min_revision) = (self.view(), asked.min_revision);
        if view.load().state.revision() < min_revision
            && timeout(REVISION_WAIT, view.reached(min_revision)).await.is_err()
        {
            let reached = view.load().state.revision();
            return Err(status::revision_not_reached(min_revision, reached, REVISION_WAIT));
        }
        Ok(Read { seen: view.seen(), freshness })
    }

    /// What an answer says about itself.
    pub fn metadata(
        &self,
        read: &Read,
        service: Option<&rollcall_core::name::ServiceName>,
    ) -> v1::ReadMetadata {
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
