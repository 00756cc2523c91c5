//! What a tail sends is what happened: revision, generation and reason are those of the one history.

use super::{Invariant, Moment, Violation};

#[derive(Debug, Default)]
pub(super) struct Tails;

impl Invariant for Tails {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let newest = moment.chronicle.revision();
        let mut ledger = moment.oracle.ledger();
        let all = std::mem::take(&mut ledger.tailed);
        for (tail, sent) in all {
            if sent.revision > newest {
                ledger.tailed.push((tail, sent));
                continue;
            }
            let happened = moment.chronicle.events().get(&sent.revision);
            let reason = sent.reason().as_str_name().trim_start_matches("EVENT_REASON_");
            let same = happened.is_some_and(|h| {
                h.event.generation == sent.generation
                    && h.event.reason.as_str() == reason.to_ascii_lowercase()
            });
            if !same {
                let event = happened.map(|h| &h.event);
                let seen = format!("tail {tail} was sent {sent:?}, there was {event:?}");
                out.push(Violation::new("a tail tells what happened", seen));
            }
        }
    }
}
