//! A running node never goes back: not in revision, applied or committed position, nor in term.

use super::{Invariant, Moment, Violation};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Forward {
    last: BTreeMap<(usize, u64), [u64; 4]>,
}

const WHAT: [&str; 4] = ["revision", "applied index", "committed index", "term"];

impl Invariant for Forward {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        for node in moment.nodes {
            let now = [
                node.seen.state.revision(),
                node.seen.applied_index,
                node.status.committed.map_or(0, |id| id.index),
                node.status.term,
            ];
            let last = self.last.entry((node.index, node.boot)).or_insert(now);
            for (at, what) in WHAT.iter().enumerate() {
                if now[at] < last[at] {
                    let seen = format!(
                        "n{}: {what} went from {} to {}",
                        node.index + 1,
                        last[at],
                        now[at]
                    );
                    out.push(Violation::new("a running node never goes back", seen));
                }
            }
            *last = now;
        }
    }
}
