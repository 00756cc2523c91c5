//! Whether concurrent operations could have happened one after the other: the search of Wing and Gong (1993), with
//! Lowe's memory of where it has been (2017).

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// What the operations work on, at one time.
pub trait Model: Clone + Ord {
    /// One operation, with its answer.
    type Op;

    /// The state after it; `None` where it could not have had this answer.
    fn apply(&self, op: &Self::Op) -> Option<Self>;
}

/// One operation of one client.
#[derive(Debug, Clone)]
pub struct Call<O> {
    /// What was done, and what was answered.
    pub op: O,
    /// When it was sent.
    pub start: Duration,
    /// When the answer was here; `None`: it may take effect at any time from then on, or never.
    pub end: Option<Duration>,
}

/// What the search comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Ordered,
    /// There is none. The first answer that does not fit where the search got furthest, by its place in time.
    Broken(usize),
    /// It would take more steps than allowed.
    TooLong,
}

/// Looks for an order of all answered calls, and some of the others, that keeps what ended before something else began
/// before it, in at most so many steps. Sorts the calls by their start.
pub fn search<M: Model>(first: &M, calls: &mut [Call<M::Op>], steps: usize) -> Verdict {
    calls.sort_by_key(|call| call.start);
    let mut search = Search {
        answered: calls.iter().filter(|call| call.end.is_some()).count(),
        calls,
        done: vec![false; calls.len()],
        ordered: 0,
        been: BTreeSet::new(),
    };
    search.run(first, steps)
}

struct Search<'a, M: Model> {
    calls: &'a [Call<M::Op>],
    done: Vec<bool>,
    /// Answered calls, and those of them that are in order.
    answered: usize,
    ordered: usize,
    /// What was done and what it led to, wherever the search has been.
    been: BTreeSet<(Vec<u64>, M)>,
}

/// A place in the search: the state, the call that led away from it, and what else could come next.
struct Place<M> {
    state: M,
    left_by: usize,
    others: VecDeque<usize>,
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self, first: &M, steps: usize) -> Verdict {
        let (mut way, mut state): (Vec<Place<M>>, M) = (Vec::new(), first.clone());
        let mut next = self.next();
        let (mut furthest, mut broken) = (0, self.soonest(&next));
        while self.ordered < self.answered {
            let Some(at) = next.pop_front() else {
                let Some(place) = way.pop() else { return Verdict::Broken(broken) };
                self.set(place.left_by, false);
                (state, next) = (place.state, place.others);
                continue;
            };
            let Some(after) = state.apply(&self.calls[at].op) else { continue };
            self.set(at, true);
            if !self.been.insert((self.packed(), after.clone())) {
                self.set(at, false);
                continue;
            }
            if self.been.len() > steps {
                return Verdict::TooLong;
            }
            let before = std::mem::replace(&mut state, after);
            let others = std::mem::replace(&mut next, self.next());
            way.push(Place { state: before, left_by: at, others });
            if self.ordered > furthest {
                (furthest, broken) = (self.ordered, self.soonest(&next));
            }
        }
        Verdict::Ordered
    }

    fn set(&mut self, at: usize, done: bool) {
        self.done[at] = done;
        if self.calls[at].end.is_some() {
            self.ordered = if done { self.ordered + 1 } else { self.ordered - 1 };
        }
    }

    /// What may come next: calls that began before any other one that is left ended. Answered ones first.
    fn next(&self) -> VecDeque<usize> {
        let (mut soonest, mut next, mut open) = (Duration::MAX, VecDeque::new(), Vec::new());
        for (at, call) in self.calls.iter().enumerate() {
            if call.start > soonest {
                break;
            }
            match (self.done[at], call.end) {
                (true, _) => {}
                (false, None) => open.push(at),
                (false, Some(end)) => {
                    soonest = soonest.min(end);
                    next.push_back(at);
                }
            }
        }
        next.extend(open);
        next.retain(|at| self.calls[*at].start <= soonest);
        next
    }

    /// The answer that is due first.
    fn soonest(&self, next: &VecDeque<usize>) -> usize {
        let answered = next.iter().filter(|at| self.calls[**at].end.is_some());
        answered.min_by_key(|at| self.calls[**at].end).copied().unwrap_or_default()
    }

    fn packed(&self) -> Vec<u64> {
        let pack =
            |bits: &[bool]| bits.iter().rev().fold(0, |word, bit| word << 1 | u64::from(*bit));
        self.done.chunks(64).map(pack).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register: `Write(v)`, or a read of `v`.
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Register(u32);

    #[derive(Debug, Clone, Copy)]
    enum Op {
        Write(u32),
        Read(u32),
    }

    impl Model for Register {
        type Op = Op;

        fn apply(&self, op: &Op) -> Option<Self> {
            match *op {
                Op::Write(value) => Some(Self(value)),
                Op::Read(value) => (value == self.0).then_some(self.clone()),
            }
        }
    }

    fn call(op: Op, start: u64, end: u64) -> Call<Op> {
        let end = (end > 0).then(|| Duration::from_millis(end));
        Call { op, start: Duration::from_millis(start), end }
    }

    fn verdict(calls: &[Call<Op>]) -> Verdict {
        search(&Register(0), &mut calls.to_vec(), 1_000)
    }

    #[test]
    fn what_overlaps_may_come_in_any_order() {
        use Op::{Read, Write};
        let calls = [
            call(Write(1), 0, 100),
            call(Read(1), 10, 20),
            call(Read(1), 30, 200),
            call(Write(2), 40, 60),
            call(Read(2), 70, 80),
        ];
        assert_eq!(verdict(&calls), Verdict::Ordered);
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_it_began_has_no_place() {
        use Op::{Read, Write};
        let calls = [call(Write(1), 0, 10), call(Write(2), 20, 30), call(Read(1), 40, 50)];
        assert_eq!(verdict(&calls), Verdict::Broken(2));
        let back = [call(Write(1), 0, 90), call(Read(1), 10, 20), call(Read(0), 30, 40)];
        assert_eq!(verdict(&back), Verdict::Broken(2));
    }

    #[test]
    fn what_was_not_answered_takes_effect_late_or_never_but_once() {
        use Op::{Read, Write};
        let open = call(Write(7), 0, 0);
        let never = [open.clone(), call(Read(0), 10, 20)];
        let late = [open.clone(), call(Read(0), 10, 20), call(Read(7), 30, 40)];
        let twice = [
            open,
            call(Read(7), 10, 20),
            call(Write(1), 30, 40),
            call(Read(1), 50, 60),
            call(Read(7), 70, 80),
        ];
        assert_eq!(verdict(&never), Verdict::Ordered);
        assert_eq!(verdict(&late), Verdict::Ordered);
        assert_eq!(verdict(&twice), Verdict::Broken(4));
    }

    #[test]
    fn a_search_that_takes_too_many_steps_says_so() {
        let writes = (0..40).map(|value| call(Op::Write(value), 0, 100));
        let calls: Vec<_> = writes.chain([call(Op::Read(99), 200, 300)]).collect();
        assert_eq!(verdict(&calls), Verdict::TooLong);
    }

    #[test]
    fn a_long_history_of_few_clients_is_searched_in_few_steps() {
        let writes =
            (0..1_000).map(|at| call(Op::Write(at), u64::from(at) * 10, u64::from(at) * 10 + 15));
        let mut calls: Vec<_> = writes.collect();
        assert_eq!(search(&Register(0), &mut calls, 5_000), Verdict::Ordered);
    }
}
