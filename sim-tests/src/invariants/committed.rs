//! A committed entry never changes: every node that knows of a committed or applied position names the same entry
//! there (Raft: Leader Completeness, State Machine Safety), for ever.

use super::{Invariant, Moment, Violation};
use rollcall_registry::raft::types::LogId;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Committed {
    entries: BTreeMap<u64, (LogId, usize)>,
}

impl Invariant for Committed {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        for node in moment.nodes {
            let status = &node.status;
            for id in [status.committed, status.applied].into_iter().flatten() {
                let first = *self.entries.entry(id.index).or_insert((id, node.index));
                if first.0 != id {
                    let seen = format!(
                        "n{} has {id} committed, n{} had {}",
                        node.index + 1,
                        first.1 + 1,
                        first.0
                    );
                    out.push(Violation::new("a committed entry never changes", seen));
                }
            }
            let ends = [status.purged, status.snapshot, status.applied];
            let ends = ends.map(|id| id.map_or(0, |id| id.index));
            if ends[0] > ends[2] || ends[1] > ends[2] {
                let seen = format!("n{}: purged, snapshot, applied are {ends:?}", node.index + 1);
                out.push(Violation::new("what is purged or in a snapshot is applied", seen));
            }
        }
    }
}
