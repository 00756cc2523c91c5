//! Linearizability, by what clients were told alone: the confirmed reads of a service and the answers to its writes
//! could have happened one after the other. Not a word of the nodes is believed here; what they show is judged by
//! `reads`, `effects` and `acknowledged`.

use super::{Invariant, Moment, Violation};
use crate::{
    oracle::{Asked, Ledger, Outcome, Write},
    wgl::{self, Call, Model, Verdict},
    workload::{WRITTEN, writers::IDS, written},
};
use rollcall_core::name::ServiceName;
use std::collections::BTreeSet;

/// A history is small enough if this many steps of the search are: some tenths of a second.
const STEPS: usize = 50_000;

#[derive(Debug, Default)]
pub(super) struct Linearizable;

impl Invariant for Linearizable {
    fn look(&mut self, _: &Moment<'_>, _: &mut Vec<Violation>) {}

    fn end(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        for service in (0..WRITTEN).map(written) {
            match judge(&moment.oracle.ledger(), &service) {
                Ok(true) => moment.oracle.points.hit("a history was put in order"),
                Ok(false) => moment.oracle.points.hit("a history was too long to be put in order"),
                Err(call) => {
                    let seen = format!(
                        "{service}: no order of what clients were told has room for {call}"
                    );
                    out.push(Violation::new("what clients were told happened in some order", seen));
                }
            }
        }
    }
}

/// What a service lists under one id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    /// The write that registered it.
    by: u32,
    /// The revision that its answer named; 0 = it was not answered.
    revision: u64,
    /// It has a lease that nobody renews: it may be gone at any time.
    leased: bool,
}

/// The ids of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Listed([Option<Held>; IDS]);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    /// It was registered.
    Register { slot: usize, held: Held, expected: Option<u64> },
    /// It was removed.
    Deregister { slot: usize, expected: Option<u64> },
    /// There was nothing to remove.
    Missing { slot: usize },
    /// A write was refused that wanted nothing to be there.
    Present { slot: usize },
    /// A confirmed read: who had registered each id.
    Read([u32; IDS]),
}

impl Listed {
    /// Whether a compare-and-set may succeed. What was registered at a later revision than it names cannot be meant.
    fn allows(&self, slot: usize, expected: Option<u64>) -> bool {
        match (expected, &self.0[slot]) {
            (None, _) | (Some(0), None) => true,
            (Some(0), Some(held)) => held.leased,
            (Some(_), None) => false,
            (Some(expected), Some(held)) => held.revision <= expected,
        }
    }

    fn with(&self, slot: usize, held: Option<Held>) -> Self {
        let mut next = self.clone();
        next.0[slot] = held;
        next
    }

    fn may_be_gone(&self, slot: usize) -> bool {
        self.0[slot].as_ref().is_none_or(|held| held.leased)
    }
}

impl Model for Listed {
    type Op = Op;

    fn apply(&self, op: &Op) -> Option<Self> {
        match op {
            Op::Register { slot, held, expected } => {
                self.allows(*slot, *expected).then(|| self.with(*slot, Some(held.clone())))
            }
            Op::Deregister { slot, expected } => {
                let there = self.0[*slot].is_some() && self.allows(*slot, *expected);
                there.then(|| self.with(*slot, None))
            }
            Op::Missing { slot } => self.may_be_gone(*slot).then(|| self.with(*slot, None)),
            Op::Present { slot } => self.0[*slot].is_some().then(|| self.clone()),
            Op::Read(shown) => {
                let mut next = self.clone();
                for (slot, shown) in shown.iter().enumerate() {
                    match &self.0[slot] {
                        Some(held) if held.by == *shown => {}
                        _ if *shown == 0 && self.may_be_gone(slot) => next.0[slot] = None,
                        _ => return None,
                    }
                }
                Some(next)
            }
        }
    }
}

/// False where the history is too long; the answer that has no place where there is no order.
fn judge(ledger: &Ledger, service: &ServiceName) -> Result<bool, String> {
    let mut seen = BTreeSet::new();
    let mut calls = Vec::new();
    for read in ledger.confirmed.iter().filter(|read| read.service == *service) {
        let mut shown = [0; IDS];
        for (id, by) in &read.shown {
            if let Some(slot) = slot(id) {
                shown[slot] = *by;
            }
        }
        seen.extend(shown);
        calls.push(Call { op: Op::Read(shown), start: read.start, end: Some(read.end) });
    }
    let writes = ledger
        .writes
        .iter()
        .filter(|write| write.instance.as_ref().is_some_and(|name| name.service == *service));
    calls.extend(writes.filter_map(call));
    // An unanswered registration that nobody ever saw most likely took no effect, and each one doubles the search.
    let unseen = |call: &Call<Op>| match &call.op {
        Op::Register { held, .. } => call.end.is_none() && !seen.contains(&held.by),
        _ => false,
    };
    let mut likely: Vec<_> = calls.iter().filter(|call| !unseen(call)).cloned().collect();
    if wgl::search(&Listed::default(), &mut likely, STEPS) == Verdict::Ordered {
        return Ok(true);
    }
    match wgl::search(&Listed::default(), &mut calls, STEPS) {
        Verdict::Ordered => Ok(true),
        Verdict::TooLong => Ok(false),
        Verdict::Broken(at) => Err(format!("{:?}", calls[at])),
    }
}

fn slot(id: &str) -> Option<usize> {
    id.strip_prefix('w')?.parse().ok().filter(|slot| *slot < IDS)
}

/// What a write says about what was there, if it says anything.
fn call(write: &Write) -> Option<Call<Op>> {
    let slot = slot(write.instance.as_ref()?.id.as_str())?;
    let Write { expected, leased, .. } = *write;
    let register = |revision| {
        let held = Held { by: write.id, revision, leased };
        Op::Register { slot, held, expected }
    };
    let removes = write.asked == Asked::Deregister;
    let (op, end) = match (&write.outcome, write.asked) {
        (Outcome::Acknowledged { revision, changed: true }, Asked::Register) => {
            (register(*revision), write.end)
        }
        (Outcome::Open | Outcome::Unknown, Asked::Register) => (register(0), None),
        (Outcome::Acknowledged { changed: true, .. }, Asked::Deregister) => {
            (Op::Deregister { slot, expected }, write.end)
        }
        (Outcome::Open | Outcome::Unknown, Asked::Deregister) => {
            (Op::Deregister { slot, expected }, None)
        }
        // A generation that is no longer there may have a successor.
        (Outcome::Acknowledged { .. }, Asked::Deregister) if write.generation == 0 => {
            (Op::Missing { slot }, write.end)
        }
        (Outcome::Refused { reason }, _) if removes && reason == "INSTANCE_NOT_FOUND" => {
            (Op::Missing { slot }, write.end)
        }
        (Outcome::Refused { reason }, _)
            if reason == "REVISION_MISMATCH" && expected == Some(0) =>
        {
            (Op::Present { slot }, write.end)
        }
        _ => return None,
    };
    Some(Call { op, start: write.start, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Confirmed;
    use rollcall_core::name::InstanceName;
    use std::time::Duration;

    fn held(by: u32, leased: bool) -> Held {
        Held { by, revision: u64::from(by) * 10, leased }
    }

    fn after(ops: &[Op]) -> Option<Listed> {
        ops.iter().try_fold(Listed::default(), |state, op| state.apply(op))
    }

    #[test]
    fn what_nobody_renews_may_be_gone_and_nothing_else() {
        for leased in [true, false] {
            let register = Op::Register { slot: 1, held: held(5, leased), expected: None };
            for gone in [Op::Read([0; IDS]), Op::Missing { slot: 1 }] {
                assert_eq!(after(&[register.clone(), gone]).is_some(), leased);
            }
            assert!(after(&[register.clone(), Op::Read([0, 5, 0, 0])]).is_some());
            assert!(after(&[register, Op::Read([0, 4, 0, 0])]).is_none());
        }
    }

    #[test]
    fn a_compare_and_set_succeeds_only_on_what_it_names() {
        let register = |by, expected| Op::Register { slot: 0, held: held(by, false), expected };
        assert!(after(&[register(1, Some(0)), register(2, Some(10))]).is_some());
        assert!(after(&[register(1, Some(0)), register(2, Some(0))]).is_none());
        assert!(after(&[register(1, None), register(2, None), register(3, Some(10))]).is_none());
        assert!(after(&[Op::Deregister { slot: 0, expected: None }]).is_none());
        assert!(after(&[Op::Present { slot: 0 }]).is_none());
        assert!(after(&[register(1, None), Op::Present { slot: 0 }]).is_some());
    }

    fn write(id: u32, asked: Asked, outcome: Outcome, at_ms: u64) -> Write {
        Write {
            id,
            asked,
            instance: InstanceName::parse("", written(0).service.as_str(), "w2").ok(),
            expected: None,
            generation: 0,
            leased: false,
            start: Duration::from_millis(at_ms),
            end: Some(Duration::from_millis(at_ms + 5)),
            outcome,
        }
    }

    #[test]
    fn a_confirmed_read_without_what_was_acknowledged_has_no_place() {
        let done = |revision| Outcome::Acknowledged { revision, changed: true };
        let read = |shown: &[u32], at_ms| Confirmed {
            service: written(0),
            start: Duration::from_millis(at_ms),
            end: Duration::from_millis(at_ms + 5),
            shown: shown.iter().map(|by| ("w2".to_owned(), *by)).collect(),
        };
        let mut ledger = Ledger::default();
        ledger.writes = vec![
            write(1, Asked::Register, done(4), 10),
            write(2, Asked::Register, Outcome::Unknown, 20),
            write(3, Asked::Deregister, done(9), 60),
        ];
        ledger.confirmed = vec![read(&[], 0), read(&[1], 30), read(&[2], 40), read(&[], 70)];
        assert_eq!(judge(&ledger, &written(0)), Ok(true));
        ledger.confirmed.push(read(&[1], 50));
        let broken = judge(&ledger, &written(0)).unwrap_err();
        assert!(broken.contains("Read([0, 0, 1, 0])"), "{broken}");
        assert_eq!(judge(&ledger, &written(1)), Ok(true));
    }
}
