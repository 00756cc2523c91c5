//! Which instances have a lease that ran out and a check that keeps them, and when to look at each.
//!
//! Each is asked about at once; when it was found alive it is left to its checker until its time is over.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// What is due when. Lease time in ms.
#[derive(Debug, Default)]
pub struct Lost {
    waiting: BTreeMap<u64, Wait>,
    by_time: BTreeSet<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    /// When it is over, though its checks pass.
    limit: u64,
    /// When it is looked at; `None` = somebody is at it.
    at: Option<u64>,
    /// Quick probes found it alive.
    alive: bool,
}

/// One that is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Its generation.
    pub generation: u64,
    /// Its time is over, though its checks pass.
    pub overdue: bool,
    /// Quick probes found it alive before.
    pub alive: bool,
}

impl Lost {
    /// The checks of an instance decide from now on until `limit`, unless that is known already.
    pub fn note(&mut self, generation: u64, now: u64, limit: u64) {
        if let Entry::Vacant(new) = self.waiting.entry(generation) {
            new.insert(Wait { limit, at: Some(now), alive: false });
            self.by_time.insert((now, generation));
        }
    }

    /// It is lost no longer.
    pub fn forget(&mut self, generation: u64) {
        if let Some(Wait { at: Some(at), .. }) = self.waiting.remove(&generation) {
            self.by_time.remove(&(at, generation));
        }
    }

    /// Looks again at `at`, or when its time is over, where it is still lost.
    pub fn again(&mut self, generation: u64, at: u64) {
        let Some(wait) = self.waiting.get_mut(&generation) else { return };
        if let Some(before) = wait.at {
            self.by_time.remove(&(before, generation));
        }
        wait.at = Some(at);
        self.by_time.insert((at, generation));
    }

    /// Quick probes found it alive: it has until its time is over.
    pub fn alive(&mut self, generation: u64) {
        let Some(wait) = self.waiting.get_mut(&generation) else { return };
        wait.alive = true;
        let limit = wait.limit;
        self.again(generation, limit);
    }

    /// Takes those that are to be looked at, earliest first, at most `max`; each must be answered with
    /// [`Lost::again`] or [`Lost::alive`].
    pub fn take_due(&mut self, now: u64, max: usize) -> Vec<Due> {
        let due: Vec<(u64, u64)> =
            self.by_time.range(..=(now, u64::MAX)).take(max).copied().collect();
        let mut taken = Vec::with_capacity(due.len());
        for (at, generation) in due {
            self.by_time.remove(&(at, generation));
            let Some(wait) = self.waiting.get_mut(&generation) else { continue };
            wait.at = None;
            taken.push(Due { generation, overdue: wait.limit <= now, alive: wait.alive });
        }
        taken
    }

    /// How many are lost.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generations(lost: &mut Lost, now: u64) -> Vec<u64> {
        lost.take_due(now, 10).iter().map(|due| due.generation).collect()
    }

    #[test]
    fn each_is_taken_once_until_it_is_answered() {
        let mut lost = Lost::default();
        lost.note(1, 100, 9_000);
        lost.note(2, 100, 9_000);
        lost.note(1, 100, 9_000);
        assert_eq!(lost.take_due(100, 1).len(), 1);
        assert_eq!(generations(&mut lost, 100), [2]);
        assert!(lost.take_due(5_000, 10).is_empty());
        lost.again(1, 1_100);
        assert!(lost.take_due(1_099, 10).is_empty());
        assert_eq!(generations(&mut lost, 1_100), [1]);
    }

    #[test]
    fn what_is_alive_has_until_its_limit() {
        let mut lost = Lost::default();
        lost.note(1, 100, 9_000);
        lost.take_due(100, 10);
        lost.alive(1);
        assert!(lost.take_due(8_999, 10).is_empty());
        let due = Due { generation: 1, overdue: true, alive: true };
        assert_eq!(lost.take_due(9_000, 10), [due]);
    }

    #[test]
    fn what_came_back_is_forgotten_also_while_it_is_asked_about() {
        let mut lost = Lost::default();
        lost.note(1, 100, 9_000);
        lost.take_due(100, 10);
        lost.forget(1);
        lost.alive(1);
        lost.again(1, 200);
        assert!(lost.is_empty() && lost.take_due(10_000, 10).is_empty());
        lost.note(1, 300, 9_000);
        assert_eq!(generations(&mut lost, 300), [1]);
    }
}
