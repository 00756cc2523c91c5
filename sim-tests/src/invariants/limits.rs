//! Nothing grows without bound: the log is cut behind snapshots, and nodes count no more streams than there are.

use super::{Invariant, Moment, Violation};
use std::time::Duration;

/// After so much calm time on end the log must have been cut.
const CALM: Duration = Duration::from_secs(5);
/// Streams that may be open at a time on one node: every client of the workload, and what it left behind.
const STREAMS: usize = 200;

#[derive(Debug, Default)]
pub(super) struct Limits {
    calm: Duration,
    disturbed: Duration,
}

impl Invariant for Limits {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        if moment.calm == self.calm {
            self.disturbed = moment.now;
        }
        self.calm = moment.calm;
        let settled = moment.now > self.disturbed + CALM;
        let raft = &moment.plan.timing.raft;
        let longest = 2 * (raft.snapshot_entries + raft.kept_entries) + 500;
        for node in moment.nodes {
            let purged = node.status.purged.map_or(0, |id| id.index);
            let length = node.status.last_log_index.unwrap_or_default().saturating_sub(purged);
            let name = node.index + 1;
            if purged > 0 {
                moment.oracle.points.hit("the log was purged");
            }
            if settled && length > longest {
                let seen =
                    format!("the log of n{name} has {length} entries, at most {longest} may be");
                out.push(Violation::new("the log is cut behind snapshots", seen));
            }
            let Some(api) = moment.cluster.machines[node.index].api() else { continue };
            let streams = [api.hub().len(), api.tails(), api.heartbeat_streams()];
            if streams.iter().any(|count| *count > STREAMS) {
                let seen = format!("n{name} counts watches, tails and heartbeats {streams:?}");
                out.push(Violation::new("streams are counted", seen));
            }
        }
    }
}
