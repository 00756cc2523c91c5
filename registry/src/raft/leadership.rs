//! Who leads, as this node sees it: one task turns openraft's metrics and the contact with the leader into one
//! value that everybody watches.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use super::shared::Shared;
use super::types::{LogId, Member};

/// The leader as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader: this node itself, or one that was heard within the shortest election timeout. `None` while
    /// there is none, while it is silent, and on a leader that has lost its quorum for longer than its lease.
    pub leader: Option<(u64, Member)>,
    /// The newest term seen.
    pub term: u64,
    /// Whether this node was elected and knows of no later leader. A leader cut off from the others does not
    /// know: see [`Leadership::leader`] and `quorum_contact_age`.
    pub is_leader: bool,
    /// The reign of this node, once it has applied an entry of its own term: everything that earlier leaders
    /// committed is applied here then. It ends when the node begins to hand over.
    pub reign: Option<Reign>,
}

/// The time in which a node leads and is up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// Its term.
    pub term: u64,
    /// When its first entry was applied, by the monotonic clock of the host.
    pub since: Duration,
}

/// When this node last heard its leader.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contact {
    pub(crate) leader: u64,
    pub(crate) at: Duration,
}

/// Keeps [`Leadership`] and the addresses of the members current until the node stops.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut metrics = shared.raft.server_metrics();
    let mut applied = shared.output.applied();
    let mut reign = None;
    loop {
        let now = shared.host.clock.monotonic();
        let current = observe(&shared, &mut reign, *applied.borrow_and_update(), now);
        shared.leadership.send_if_modified(|known| {
            let changed = *known != current;
            if changed {
                log_change(shared.node_id(), known, &current);
                *known = current;
            }
            changed
        });
        // A leader notes how fresh it is while it knows: a moment later it may follow.
        shared.fresh_as_of();
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            changed = metrics.changed() => if changed.is_err() { break },
            // Only the first entry of a term matters, and only to a leader.
            Ok(()) = applied.changed(), if awaits_first_entry(&shared) => {}
            () = tokio::time::sleep(shared.settings.heartbeat) => {}
        }
    }
    shared.leadership.send_replace(Leadership::default());
}

fn awaits_first_entry(shared: &Shared) -> bool {
    let known = shared.leadership.borrow();
    known.is_leader && known.reign.is_none() && !shared.is_handing_over(known.term)
}

fn observe(
    shared: &Shared,
    reign: &mut Option<Reign>,
    applied: Option<LogId>,
    now: Duration,
) -> Leadership {
    // Cloned at once: holding the reference would block openraft.
    let metrics = shared.raft.server_metrics().borrow_watched().clone();
    shared.peers.set_members(metrics.membership_config.membership());
    let term = metrics.vote.leader_id.term;
    let me = shared.node_id();
    let is_leader = metrics.state == ServerState::Leader && metrics.current_leader == Some(me);
    let own_entry =
        applied.is_some_and(|last| last.leader_id.term == term && last.leader_id.node_id == me);
    *reign = match *reign {
        _ if shared.is_handing_over(term) => None,
        Some(current) if is_leader && current.term == term => Some(current),
        _ if is_leader && own_entry => Some(Reign { term, since: now }),
        _ => None,
    };
    if let Some(reign) = *reign {
        shared.stamper().lead(reign.term, reign.since);
    }
    let alive = metrics.current_leader.filter(|leader| match is_leader {
        true => shared.quorum_contact_age().is_some_and(|age| age < shared.settings.leader_lease()),
        false => {
            shared.contact_age(*leader, now) < Some(shared.settings.election_timeout_min)
                && shared.contact_age(*leader, now).is_some()
        }
    });
    let leader = alive.and_then(|id| Some((id, shared.peers.member(id)?)));
    Leadership { leader, term, is_leader, reign: *reign }
}

fn log_change(me: u64, old: &Leadership, new: &Leadership) {
    let id = |leader: &Leadership| leader.leader.as_ref().map(|(id, _)| *id);
    if id(old) == id(new) && old.term == new.term && old.reign == new.reign {
        return;
    }
    let leader = id(new).map_or_else(|| "none".to_owned(), |id| format!("{id:016x}"));
    let reigns = new.reign.is_some();
    tracing::info!(node = format!("{me:016x}"), leader, term = new.term, reigns, "leadership");
}
