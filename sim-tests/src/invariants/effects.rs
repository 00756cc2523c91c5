//! A refused write has no effect, now or later; any write has one effect at most, however often it was sent, and none on
//! another generation than the one that it names.

use super::{Invariant, Moment, Violation};
use crate::oracle::{Asked, Outcome, Write};
use rollcall_core::record::{Event, Reason};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Effects;

impl Invariant for Effects {
    fn look(&mut self, _: &Moment<'_>, _: &mut Vec<Violation>) {}

    fn end(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let mut effects: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (revision, happened) in moment.chronicle.events() {
            if let Some(marker) = marker(&happened.event) {
                effects.entry(marker).or_default().push(*revision);
            }
        }
        for write in &moment.oracle.ledger().writes {
            let marker = write.marker();
            let none = Vec::new();
            let made = effects.get(marker.as_str()).unwrap_or(&none);
            if made.len() > 1 {
                let seen = format!("{write:?} had effects at {made:?}");
                out.push(Violation::new("a request has one effect at most", seen));
            }
            judge_goodbye(moment, write, made, out);
            let refused = matches!(write.outcome, Outcome::Refused { .. });
            if refused && !made.is_empty() {
                let seen = format!("{write:?} had an effect at {made:?}");
                out.push(Violation::new("a refused write has no effect", seen));
            }
            if write.outcome == Outcome::Unknown && write.asked == Asked::Register {
                moment.oracle.points.hit(match made.is_empty() {
                    true => "a write of unknown outcome took no effect",
                    false => "a write of unknown outcome took effect",
                });
            }
        }
    }
}

/// Who says goodbye for a generation ends no other one: its successor lives.
fn judge_goodbye(moment: &Moment<'_>, write: &Write, made: &[u64], out: &mut Vec<Violation>) {
    if write.generation == 0 {
        return;
    }
    let events = made.iter().filter_map(|revision| moment.chronicle.events().get(revision));
    for happened in events.filter(|happened| happened.event.generation != write.generation) {
        let seen = format!("{write:?} made {:?}", happened.event);
        out.push(Violation::new("a goodbye ends the generation that it names", seen));
    }
    if made.is_empty() && matches!(write.outcome, Outcome::Acknowledged { .. }) {
        moment.oracle.points.hit("a goodbye came too late");
    }
}

/// The mark of the write that made this event, if a writer did.
fn marker(event: &Event) -> Option<&str> {
    match event.reason {
        Reason::Registered | Reason::Updated | Reason::TakenOver | Reason::Restored => {
            event.evidence.split(' ').next_back()
        }
        Reason::Deregistered | Reason::Removed | Reason::AdminSet => Some(&*event.evidence),
        Reason::LeaseExpired
        | Reason::HeartbeatLost
        | Reason::Evicted
        | Reason::AdminExpired
        | Reason::PolicyPut
        | Reason::PolicyDeleted
        | Reason::ProtectionEntered
        | Reason::ProtectionEnded
        | Reason::ProtectionReleased
        | Reason::ProtectionTimedOut
        | Reason::CheckPassed
        | Reason::CheckFailed
        | Reason::CheckFlaps
        | Reason::CheckSteady
        | Reason::ChecksChanged
        | Reason::StreamBroken
        | Reason::SelfDegraded
        | Reason::SelfRecovered => None,
    }
}
