//! Who is in maintenance neither expires nor is evicted.

use super::{Invariant, Moment, Violation};
use rollcall_core::record::{AdminState, Reason};

#[derive(Debug, Default)]
pub(super) struct Maintenance {
    judged: u64,
}

impl Invariant for Maintenance {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        for (revision, happened) in moment.chronicle.events().range(self.judged + 1..) {
            self.judged = *revision;
            let event = &happened.event;
            let ends = matches!(
                event.reason,
                Reason::LeaseExpired | Reason::HeartbeatLost | Reason::Evicted
            );
            if ends && event.from.is_some_and(|from| from.admin == AdminState::Maintenance) {
                let seen = format!("{event:?}");
                out.push(Violation::new("who is in maintenance does not expire", seen));
            }
        }
    }
}
