//! Nobody expires whose beat was acknowledged less than its TTL ago, by true time, whatever clocks and leaders did. A
//! clock that runs a tenth too fast is allowed for, nothing else.

use super::{Invariant, Moment, Violation};
use crate::faults::FASTEST;
use rollcall_core::record::{Reason, Subject};
use std::time::Duration;

/// A client may have been told of a restored lease before the expiry is looked at here.
const MEANWHILE: Duration = Duration::from_millis(30);

#[derive(Debug, Default)]
pub(super) struct FalseExpiry {
    judged: u64,
}

impl Invariant for FalseExpiry {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let events = moment.chronicle.events();
        for (revision, happened) in events.range(self.judged + 1..) {
            self.judged = *revision;
            let event = &happened.event;
            let Subject::Instance(name) = &event.subject else { continue };
            if event.reason != Reason::LeaseExpired && event.reason != Reason::HeartbeatLost {
                continue;
            }
            // What came back is judged by its next expiry: the beats that are known may be of its new lease.
            let later = events.range(revision + 1..).any(|(_, h)| h.event.subject == event.subject);
            let ledger = moment.oracle.ledger();
            let Some(beat) = ledger.beats.get(&**name).filter(|_| !later) else { continue };
            let silent = happened.at.saturating_sub(beat.sent);
            if beat.generation != event.generation || silent < MEANWHILE {
                continue;
            }
            if silent < beat.ttl + Duration::from_secs(1) {
                moment.oracle.points.hit("an expiry came within a second of a beat");
            }
            if silent * FASTEST / 1_000 < beat.ttl {
                let seen = format!(
                    "{name} expired at {:?} (revision {revision}), its beat of {:?} was acknowledged, ttl {:?}",
                    happened.at, beat.sent, beat.ttl
                );
                out.push(Violation::new("who beats does not expire", seen));
            }
        }
    }
}
