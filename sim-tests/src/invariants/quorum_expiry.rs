//! Nothing expires and nothing is evicted while a majority of the voters is down.

use super::{Invariant, Moment, Violation};
use rollcall_core::record::Reason;
use std::{collections::BTreeMap, time::Duration};

/// What was committed before may be shown so much later.
const AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct QuorumExpiry {
    judged: u64,
    lost: Option<Duration>,
    boots: BTreeMap<usize, (u64, Duration)>,
}

impl Invariant for QuorumExpiry {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let voters = moment.plan.voters;
        let up = moment.nodes.iter().filter(|node| node.index < voters).count();
        self.lost = (2 * up <= voters).then(|| self.lost.unwrap_or(moment.now));
        for node in moment.nodes {
            let boot = self.boots.entry(node.index).or_insert((node.boot, moment.now));
            if boot.0 != node.boot {
                *boot = (node.boot, moment.now);
            }
        }
        // A node that starts shows what it had.
        let started = self.boots.values().map(|(_, at)| *at).max().unwrap_or_default();
        let quiet = self.lost.is_some_and(|lost| moment.now > lost.max(started) + AFTER);
        for (revision, happened) in moment.chronicle.events().range(self.judged + 1..) {
            self.judged = *revision;
            let removal = matches!(happened.event.reason, Reason::LeaseExpired | Reason::Evicted);
            if quiet && removal {
                let seen = format!("{:?} without a majority since {:?}", happened.event, self.lost);
                out.push(Violation::new("nothing expires without a quorum", seen));
            }
        }
    }
}
