//! What must hold after every step. Pure: looks at states, changes nothing.

use rollcall_core::record::{LeaseState, Reason, Subject};
use rollcall_registry::view::View;
use std::{collections::BTreeMap, time::Duration};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub invariant: &'static str,
    /// What was seen.
    pub seen: String,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct Watchman {
    /// State hash by revision, as first seen on any node.
    hashes: BTreeMap<(u32, u64), (u128, usize)>,
    /// Last revision of each boot of each node.
    revisions: BTreeMap<(usize, u64), u64>,
    /// Last event of the journal that was judged.
    judged: u64,
}

impl Watchman {
    /// Looks at the nodes that are up: `(index, boot, view)`.
    pub fn look(
        &mut self,
        nodes: &[(usize, u64, View)],
        beating: &dyn Fn(&str) -> Option<Duration>,
    ) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (node, boot, view) in nodes {
            let seen = view.seen();
            let state = &seen.state;
            let (revision, hash) = (state.revision(), state.hash());
            let first = *self.hashes.entry((state.epoch(), revision)).or_insert((hash, *node));
            if first.0 != hash {
                violations.push(Violation {
                    invariant: "equal revision, equal state",
                    seen: format!(
                        "revision {revision}: n{} has {hash:032x}, n{} had {:032x}",
                        node + 1,
                        first.1 + 1,
                        first.0
                    ),
                });
            }
            let last = self.revisions.entry((*node, *boot)).or_insert(0);
            if revision < *last {
                violations.push(Violation {
                    invariant: "a node's revision never goes back",
                    seen: format!("n{} went from {last} to {revision}", node + 1),
                });
            }
            *last = revision;
            self.judge_expiries(view, beating, &mut violations);
        }
        violations
    }

    /// No instance expires while it beats and is acknowledged.
    fn judge_expiries(
        &mut self,
        view: &View,
        beating: &dyn Fn(&str) -> Option<Duration>,
        violations: &mut Vec<Violation>,
    ) {
        let seen = view.seen();
        let Some(events) = seen.state.events_after(self.judged) else { return };
        for event in events {
            self.judged = event.revision;
            let Subject::Instance(name) = &event.subject else { continue };
            if event.reason != Reason::LeaseExpired {
                continue;
            }
            let ttl = seen.state.instance(name).and_then(|record| record.spec.ttl);
            let silent = beating(name.id.as_str());
            if let (Some(ttl), Some(silent)) = (ttl, silent)
                && silent < ttl.duration()
            {
                violations.push(Violation {
                    invariant: "no false expiry",
                    seen: format!("{name} expired, acknowledged {silent:?} ago, ttl {ttl:?}"),
                });
            }
        }
    }
}

/// Whether the instance stands in the state with a running lease.
pub fn is_listed(view: &View, id: &str) -> bool {
    let seen = view.seen();
    seen.state.services().values().any(|service| {
        service.instances.values().any(|record| {
            record.name.id.as_str() == id
                && record.lease.is_none_or(|lease| lease.state == LeaseState::Current)
        })
    })
}
