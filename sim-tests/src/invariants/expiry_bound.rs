//! Who is silent expires in time: TTL + k x C + 0.3 s for k changes of the leader, counted in calm time, which leaves
//! out what the bound calls outage. Judged for instances that nobody renews: those of the writers, those that their
//! owner let go of, those of dead owners.

use super::{Invariant, Moment, Violation};
use crate::{
    faults::FASTEST,
    oracle::{Asked, Outcome, Write},
};
use rollcall_core::{
    lease::expiry_bound,
    name::InstanceName,
    record::{AdminState, LeaseState, Reason, Record, Subject},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The way of the last beat, the look of this invariant and the steps of the simulation.
const SLACK: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy)]
struct Silent {
    generation: u64,
    lease_epoch: u32,
    calm: Duration,
    leader_changes: u32,
}

#[derive(Debug, Default)]
pub(super) struct ExpiryBound {
    judged: u64,
    since: BTreeMap<InstanceName, Silent>,
    /// Writes that have been looked at, and those of them that are registrations without an outcome.
    noted: usize,
    open: BTreeMap<usize, InstanceName>,
}

impl Invariant for ExpiryBound {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        self.note(moment);
        self.note_writes(&moment.oracle.ledger().writes);
        let newest = moment.nodes.iter().max_by_key(|node| node.seen.applied_index);
        let Some(newest) = newest else { return };
        for service in newest.seen.state.services().values() {
            for record in service.instances.values() {
                self.judge(moment, record, out);
            }
        }
    }
}

impl ExpiryBound {
    /// An admin state of MAINTENANCE or its end, and every registration, begins the lease anew.
    fn note(&mut self, moment: &Moment<'_>) {
        for (revision, happened) in moment.chronicle.events().range(self.judged + 1..) {
            self.judged = *revision;
            let begins = matches!(
                happened.event.reason,
                Reason::Registered
                    | Reason::Updated
                    | Reason::TakenOver
                    | Reason::Restored
                    | Reason::AdminSet
                    | Reason::AdminExpired
            );
            if let (true, Subject::Instance(name)) = (begins, &happened.event.subject) {
                self.since.remove(&**name);
            }
        }
    }

    /// A registration that comes twice is a sign of life the second time, unless it was refused.
    fn note_writes(&mut self, writes: &[Write]) {
        let before = std::mem::take(&mut self.open).into_keys();
        for at in before.chain(self.noted..writes.len()) {
            let write = &writes[at];
            let (Asked::Register, Some(name)) = (write.asked, &write.instance) else { continue };
            match write.outcome {
                Outcome::Open => {
                    self.open.insert(at, name.clone());
                }
                Outcome::Refused { .. } => {}
                Outcome::Acknowledged { .. } | Outcome::Unknown => {
                    self.since.remove(name);
                }
            }
        }
        self.noted = writes.len();
    }

    fn judge(&mut self, moment: &Moment<'_>, record: &Arc<Record>, out: &mut Vec<Violation>) {
        let (Some(lease), Some(ttl)) = (record.lease, record.spec.ttl) else { return };
        let name = &*record.name;
        let is_silent = name.id.as_str().starts_with('w')
            || moment.oracle.ledger().left.get(name).is_some_and(|at| *at < moment.now);
        let counts = is_silent
            && lease.state == LeaseState::Current
            && record.admin_state() != AdminState::Maintenance;
        if !counts {
            self.since.remove(name);
            return;
        }
        // A registration that is on its way, or its twin, may be a sign of life: that shows when it is answered.
        if self.open.values().any(|open| open == name) {
            return;
        }
        let begin = Silent {
            generation: record.generation,
            lease_epoch: lease.epoch,
            calm: moment.calm,
            leader_changes: moment.leader_changes,
        };
        let since = self.since.entry(name.clone()).or_insert(begin);
        if (since.generation, since.lease_epoch) != (record.generation, lease.epoch) {
            *since = begin;
        }
        let changes = moment.leader_changes - since.leader_changes;
        let bound = expiry_bound(ttl, changes, Duration::ZERO) * FASTEST / 1_000 + SLACK;
        let silent = moment.calm.saturating_sub(since.calm);
        if silent > bound {
            let seen = format!(
                "{name} is listed after {silent:?} of silence in calm time, {changes} changes of the leader, bound {bound:?}"
            );
            out.push(Violation::new("who is silent expires in time", seen));
            self.since.remove(name);
        }
    }
}
