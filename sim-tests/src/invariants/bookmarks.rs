//! A bookmark tells the truth: nothing up to its revision is missing in what the watch shows.

use super::{Invariant, Moment, Violation};
use crate::oracle::Mark;

#[derive(Debug, Default)]
pub(super) struct Bookmarks;

impl Invariant for Bookmarks {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let newest = moment.chronicle.revision();
        let ready: Vec<Mark> = {
            let mut ledger = moment.oracle.ledger();
            let all = std::mem::take(&mut ledger.marks);
            let (ready, later) = all.into_iter().partition(|mark| mark.revision <= newest);
            ledger.marks = later;
            ready
        };
        for mark in ready {
            for (service, changes) in moment.chronicle.changes() {
                let last = changes.iter().rev().find(|change| change.revision <= mark.revision);
                let Some(last) = last else { continue };
                // What came and went between two looks of the watch is no difference to it.
                let held = |revision| moment.chronicle.held(service, revision);
                let missing = match mark.services.get(service) {
                    Some(shown) => *shown < last.revision && held(*shown) != held(last.revision),
                    None => mark.all && !held(last.revision).is_empty(),
                };
                if missing {
                    let shown = mark.services.get(service);
                    let event = moment.chronicle.events().get(&last.revision).map(|h| &h.event);
                    let seen = format!(
                        "watch {}: bookmark {}, shown of {service} is {shown:?}, but then {event:?}",
                        mark.watch, mark.revision
                    );
                    out.push(Violation::new("nothing is missing up to a bookmark", seen));
                }
            }
        }
    }

    fn end(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        if let Some(mark) = moment.oracle.ledger().marks.first() {
            let seen =
                format!("watch {}: bookmark {}, which is nowhere", mark.watch, mark.revision);
            out.push(Violation::new("nothing is missing up to a bookmark", seen));
        }
    }
}
