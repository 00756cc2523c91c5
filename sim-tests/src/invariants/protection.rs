//! Where protection is on, no more leases of the cluster or of a service expire within a window than the thresholds
//! allow, unless the scope is protected.

use super::{Invariant, Moment, Violation};
use rollcall_core::{
    State,
    protection::Thresholds,
    record::{LeaseState, Reason, Scope, Subject},
    state::LeaseCounts,
};
use rollcall_registry::raft::Role;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The window on a clock that may run too fast, less the way from decision to sight.
const WINDOW: Duration = Duration::from_secs(8);
/// What was released does not count again, and has expired until then.
const SETTLED: Duration = Duration::from_secs(25);
/// What an earlier leader decided is shown by then.
const REIGNS: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Protection {
    judged: u64,
    ended: Option<Duration>,
    /// The term of the leader, and since when: its memory of the window begins with its reign.
    term: u64,
    since: Duration,
}

impl Invariant for Protection {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let leads = moment.nodes.iter().filter(|node| node.status.role == Role::Leader);
        let term = leads.map(|node| node.status.term).max().unwrap_or_default();
        if term != self.term {
            (self.term, self.since) = (term, moment.now);
        }
        let expired = self.note(moment);
        let recent = self.ended.is_some_and(|ended| moment.now < ended + SETTLED);
        if !expired || term == 0 || recent || !moment.plan.timing.lease.protection {
            return;
        }
        let newest = moment.nodes.iter().max_by_key(|node| node.seen.applied_index);
        if let Some(newest) = newest {
            let since = (self.since + REIGNS).max(moment.now.saturating_sub(WINDOW));
            judge(moment, since, &newest.seen.state, out);
        }
    }
}

impl Protection {
    /// Whether a lease has expired since it was looked last.
    fn note(&mut self, moment: &Moment<'_>) -> bool {
        let mut expired = false;
        for (revision, happened) in moment.chronicle.events().range(self.judged + 1..) {
            self.judged = *revision;
            expired |= happened.event.reason == Reason::LeaseExpired;
            match happened.event.reason {
                Reason::ProtectionEntered => moment.oracle.points.hit("protection began"),
                Reason::ProtectionEnded
                | Reason::ProtectionReleased
                | Reason::ProtectionTimedOut => {
                    moment.oracle.points.hit("protection ended");
                    self.ended = Some(moment.now);
                }
                _ => {}
            }
        }
        expired
    }
}

fn judge(moment: &Moment<'_>, since: Duration, state: &State, out: &mut Vec<Violation>) {
    let thresholds = Thresholds::default();
    let mut gone: BTreeMap<Scope, u32> = BTreeMap::new();
    // One that came back and ran out again is out once.
    let mut counted = BTreeSet::new();
    let mut evicted = BTreeSet::new();
    let recent = moment.chronicle.events().values().rev();
    for happened in recent.take_while(|h| h.at > since) {
        let event = &happened.event;
        let Subject::Instance(name) = &event.subject else { continue };
        if event.reason == Reason::Evicted {
            evicted.insert(event.generation);
        }
        let is_out = match state.instance(name) {
            None => evicted.contains(&event.generation),
            Some(record) => {
                record.generation == event.generation
                    && record.lease.is_some_and(|lease| lease.state == LeaseState::Expired)
            }
        };
        if event.reason == Reason::LeaseExpired && is_out && counted.insert(event.generation) {
            *gone.entry(Scope::Cluster).or_default() += 1;
            *gone.entry(Scope::Service(name.service.clone())).or_default() += 1;
        }
    }
    for (scope, count) in gone {
        let (live, least, share) = match &scope {
            Scope::Cluster => {
                let counts = state.lease_counts();
                (listed(counts), thresholds.cluster_min, thresholds.cluster_share)
            }
            Scope::Service(name) => {
                let Some(service) = state.service(name) else { continue };
                let policy = service.policy.as_ref().and_then(|p| p.protection_threshold);
                let share = policy.unwrap_or(thresholds.service_share);
                (listed(service.leases), thresholds.service_min, share)
            }
        };
        let mass = count >= least && f64::from(count) > share * f64::from(live + count);
        // Writers change policies all the time: what was decided under the former one stands.
        let settled =
            !matches!(&scope, Scope::Service(name) if name.service.as_str().starts_with("job"));
        if mass && settled && !state.protections().contains_key(&scope) {
            let seen =
                format!("{count} leases of {scope} expired within {WINDOW:?}, {live} are left");
            out.push(Violation::new("mass expiry is held back", seen));
        }
    }
}

/// Whoever has not expired. A lease that is lost beside a passing check is no mass of its own: it may have run out long
/// ago.
fn listed(leases: LeaseCounts) -> u32 {
    leases.current + leases.held + leases.lost
}
