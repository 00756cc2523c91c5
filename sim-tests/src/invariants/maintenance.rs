//! Who is in maintenance neither expires nor is evicted.

use super::{Invariant, Moment, Violation};
use rollcall_core::record::{AdminState, HealthStatus, Reason};

#[derive(Debug, Default)]
pub(super) struct Maintenance {
    judged: u64,
}

impl Invariant for Maintenance {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        for (revision, happened) in moment.chronicle.events().range(self.judged + 1..) {
            self.judged = *revision;
            let event = &happened.event;
            let Some(from) = event.from else { continue };
            let ends = match event.reason {
                Reason::LeaseExpired | Reason::Evicted => true,
                // Protection may bring back who had expired before, as one whose beats are missing.
                Reason::HeartbeatLost => from.health != HealthStatus::Expired,
                _ => false,
            };
            if ends && from.admin == AdminState::Maintenance {
                let seen = format!("{event:?}");
                out.push(Violation::new("who is in maintenance does not expire", seen));
            }
        }
    }
}
