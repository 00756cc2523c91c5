//! Writes are in one order that respects real time: what begins after an acknowledgement has a later revision. And a
//! compare-and-set that succeeded did compare. With `reads` and `acknowledged` this is linearizability, checked by
//! revision: sorted, not searched.

use super::{Invariant, Moment, Violation};
use crate::oracle::{Asked, Outcome};
use rollcall_core::record::Subject;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Order;

impl Invariant for Order {
    fn look(&mut self, _: &Moment<'_>, _: &mut Vec<Violation>) {}

    fn end(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let ledger = moment.oracle.ledger();
        for write in &ledger.writes {
            let Outcome::Acknowledged { revision, changed: true } = write.outcome else { continue };
            if write.asked != Asked::Register {
                continue;
            }
            let told = ledger.told_at(write.start);
            if revision <= told {
                let seen = format!("{write:?} began when revision {told} had been told");
                out.push(Violation::new("revisions respect real time", seen));
            }
            let (Some(expected), Some(name)) = (write.expected, &write.instance) else { continue };
            let subject = Subject::Instance(Arc::new(name.clone()));
            let before = moment.chronicle.last_of(&subject, revision - 1);
            let current = before.filter(|h| h.event.to.is_some()).map_or(0, |h| h.event.revision);
            if current != expected {
                let seen = format!("{write:?} succeeded, there was {current}");
                out.push(Violation::new("a compare-and-set compares", seen));
            }
        }
    }
}
