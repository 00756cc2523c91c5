//! DNS: a pair that is always changed together is shown together, a life of a node goes neither back nor silent, and an
//! answer that is behind says so.

use super::{Invariant, Moment, Violation};
use crate::{oracle::Lookup, workload::lookups::PATIENCE};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// An answer that does not say that it is stale shows all that was acknowledged so long before it was asked for: the
/// 2 s after which a node calls itself stale and the pace of 0.1 s at which it looks, by a clock that runs a tenth too
/// slow, and some steps of the simulation.
const FRESH: Duration = Duration::from_millis(2_400);
/// A node that stood still looks at its clock within this after it goes on, also in the longest step.
const AWAKE: Duration = Duration::from_millis(120);
const NOERROR: u16 = 0;
const SERVFAIL: u16 = 2;

#[derive(Debug, Default)]
pub(super) struct Lookups {
    /// The highest round that each life of a node has shown.
    shown: BTreeMap<(usize, u64), u16>,
    /// Lives that have answered with something else than SERVFAIL.
    awake: BTreeSet<(usize, u64)>,
}

impl Invariant for Lookups {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let mut ledger = moment.oracle.ledger();
        for lookup in std::mem::take(&mut ledger.lookups) {
            self.judge(&lookup, out);
            let resumed = ledger.resumed.get(&lookup.node);
            // What a node answers before it has looked at its clock again, it cannot know to be old.
            if resumed.is_none_or(|at| lookup.got > *at + AWAKE + PATIENCE) {
                judge_age(&lookup, &ledger.rounds, out);
            }
        }
    }
}

impl Lookups {
    fn judge(&mut self, lookup: &Lookup, out: &mut Vec<Violation>) {
        let life = (lookup.node, lookup.boot);
        let mut broken = |invariant, known: Option<u16>| {
            out.push(Violation::new(invariant, format!("{lookup:?}, shown before: {known:?}")));
        };
        if lookup.code == SERVFAIL {
            if self.awake.contains(&life) {
                broken("a node that once had a state never answers SERVFAIL", None);
            }
            return;
        }
        self.awake.insert(life);
        let known = self.shown.get(&life).copied();
        match (lookup.rounds.as_slice(), known) {
            // It has not heard of the pair yet.
            ([], None) => {}
            ([one, other], _) if one == other && lookup.code == NOERROR => {
                if known.is_some_and(|known| *one < known) {
                    broken("DNS answers of one node never go back", known);
                }
                self.shown.insert(life, *one);
            }
            ([], Some(_)) => {
                broken("a DNS answer is never empty while instances live", known);
            }
            _ => broken("a DNS answer belongs to one revision", known),
        }
    }
}

/// Compares an answer with the rounds that were acknowledged, and when.
fn judge_age(lookup: &Lookup, rounds: &[(Duration, u16)], out: &mut Vec<Violation>) {
    let due = rounds.iter().rev().find(|(at, _)| *at + FRESH < lookup.sent);
    if let Some((at, round)) = due
        && !lookup.stale
        && lookup.code != SERVFAIL
        && lookup.rounds.first().is_none_or(|shown| shown < round)
    {
        let seen = format!("round {round} was acknowledged at {at:?}; {lookup:?}");
        out.push(Violation::new("a DNS answer that is behind says so", seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sent_ms: u64, code: u16, rounds: &[u16], stale: bool) -> Lookup {
        let sent = Duration::from_millis(sent_ms);
        Lookup { node: 0, boot: 1, sent, got: sent, code, rounds: rounds.to_vec(), stale }
    }

    fn judged(lookups: &[Lookup]) -> Vec<&'static str> {
        let (mut lookups_of_nodes, mut out) = (Lookups::default(), Vec::new());
        for lookup in lookups {
            lookups_of_nodes.judge(lookup, &mut out);
            judge_age(lookup, &[(Duration::from_secs(1), 5)], &mut out);
        }
        out.iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn what_is_promised_is_no_violation() {
        let fine = [
            answer(0, SERVFAIL, &[], false),
            answer(1, 3, &[], false),
            answer(2, NOERROR, &[4, 4], false),
            answer(3_300, NOERROR, &[4, 4], false),
            answer(9_000, NOERROR, &[4, 4], true),
            answer(9_001, NOERROR, &[5, 5], false),
        ];
        assert_eq!(judged(&fine), Vec::<&str>::new());
    }

    #[test]
    fn each_broken_promise_is_seen() {
        let first = answer(1, NOERROR, &[5, 5], false);
        let cases = [
            (
                answer(2, SERVFAIL, &[], false),
                "a node that once had a state never answers SERVFAIL",
            ),
            (answer(2, NOERROR, &[], true), "a DNS answer is never empty while instances live"),
            (answer(2, 3, &[], true), "a DNS answer is never empty while instances live"),
            (answer(2, NOERROR, &[5], true), "a DNS answer belongs to one revision"),
            (answer(2, NOERROR, &[5, 6], true), "a DNS answer belongs to one revision"),
            (answer(2, NOERROR, &[4, 4], true), "DNS answers of one node never go back"),
        ];
        for (wrong, invariant) in cases {
            assert_eq!(judged(&[first.clone(), wrong.clone()]), [invariant], "{wrong:?}");
        }
        let behind = answer(3_500, NOERROR, &[4, 4], false);
        assert_eq!(judged(&[behind]), ["a DNS answer that is behind says so"]);
        let behind = answer(3_500, 3, &[], false);
        assert_eq!(judged(&[behind]), ["a DNS answer that is behind says so"]);
    }
}
