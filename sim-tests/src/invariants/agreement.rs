//! Equal log position, equal state; equal revision, equal records. On any two nodes, at any two times.

use super::{Invariant, Moment, Violation};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// Revision and hash by applied index, and the node that showed it first.
    applied: BTreeMap<u64, (u64, u128, usize)>,
    /// Hash by epoch and revision, and the node that showed it first.
    revisions: BTreeMap<(u32, u64), (u128, usize)>,
}

impl Invariant for Agreement {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        for node in moment.nodes {
            let (state, applied) = (&node.seen.state, node.seen.applied_index);
            let (revision, hash) = (state.revision(), state.hash());
            let name = node.index + 1;
            let first = *self.applied.entry(applied).or_insert((revision, hash, node.index));
            if (first.0, first.1) != (revision, hash) {
                let seen = format!(
                    "index {applied}: n{name} is at {revision} {hash:032x}, n{} was at {} {:032x}",
                    first.2 + 1,
                    first.0,
                    first.1
                );
                out.push(Violation::new("equal log position, equal state", seen));
            }
            let key = (state.epoch(), revision);
            let first = *self.revisions.entry(key).or_insert((hash, node.index));
            if first.0 != hash {
                let seen = format!(
                    "revision {revision}: n{name} has {hash:032x}, n{} had {:032x}",
                    first.1 + 1,
                    first.0
                );
                out.push(Violation::new("equal revision, equal state", seen));
            }
        }
    }
}
