//! What was acknowledged is in the one history, at the revision that was told, and the history is still there at the
//! end.

use super::{Invariant, Moment, Violation};
use crate::oracle::{Asked, Outcome, Write};
use rollcall_core::record::{Event, Reason, Subject};

const NAME: &str = "what was acknowledged stays";

#[derive(Debug, Default)]
pub(super) struct Acknowledged;

impl Invariant for Acknowledged {
    fn look(&mut self, _: &Moment<'_>, _: &mut Vec<Violation>) {}

    fn end(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let newest = moment.chronicle.revision();
        for node in moment.nodes {
            let state = &node.seen.state;
            let journal = state.journal().len() as u64;
            if state.revision() < newest || journal < newest {
                let seen = format!(
                    "revision {newest} was shown; at the end n{} is at {} with {journal} events",
                    node.index + 1,
                    state.revision()
                );
                out.push(Violation::new(NAME, seen));
            }
        }
        for write in &moment.oracle.ledger().writes {
            let Outcome::Acknowledged { revision, changed: true } = write.outcome else { continue };
            let events = moment.chronicle.events();
            let found = match write.asked {
                Asked::Register => {
                    events.get(&revision).is_some_and(|h| registers(write, &h.event))
                }
                Asked::Deregister => {
                    events.range(..=revision).rev().any(|(_, h)| removes(write, &h.event))
                }
                Asked::Admin | Asked::Policy => true,
            };
            if !found {
                let there = events.get(&revision).map(|happened| &happened.event);
                let seen = format!("{write:?} is not in the history, there is {there:?}");
                out.push(Violation::new(NAME, seen));
            }
        }
    }
}

fn is_about(write: &Write, event: &Event) -> bool {
    matches!(&event.subject, Subject::Instance(name) if write.instance.as_ref() == Some(&**name))
}

fn registers(write: &Write, event: &Event) -> bool {
    is_about(write, event) && event.evidence.ends_with(&write.marker())
}

fn removes(write: &Write, event: &Event) -> bool {
    let removal = matches!(event.reason, Reason::Deregistered | Reason::Removed);
    removal && is_about(write, event) && *event.evidence == *write.marker()
}
