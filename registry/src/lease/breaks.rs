//! Which instances are to be asked about because their heartbeat stream broke. No I/O: time is an argument, lease time
//! in ms.
//!
//! A break ripens before anybody is asked: the listener of a process that dies is the last to go, and would answer a
//! first probe; and a client that only moves its stream has beaten elsewhere by then.

use std::collections::{BTreeMap, VecDeque};

/// A break is asked about so long after it was heard of.
pub(super) const RIPE_MS: u64 = 100;
/// Instances that may wait or be asked about; beyond, their leases decide.
pub(super) const WAITING_MAX: usize = 20_000;

/// The instances whose stream broke, each of them once.
#[derive(Debug, Default)]
pub(super) struct Breaks {
    /// Those that wait, in order, and when they are ripe.
    waiting: VecDeque<(u64, u64)>,
    /// When the stream of each broke last, while it waits or is asked about.
    since: BTreeMap<u64, u64>,
}

impl Breaks {
    /// The streams of these instances broke at `now`.
    pub(super) fn note(&mut self, handles: Vec<u64>, now: u64) {
        for handle in handles {
            if let Some(since) = self.since.get_mut(&handle) {
                *since = now;
            } else if self.since.len() < WAITING_MAX {
                self.since.insert(handle, now);
                self.waiting.push_back((handle, now.saturating_add(RIPE_MS)));
            }
        }
    }

    /// The next one that is ripe; it is being asked about until [`Breaks::end`].
    pub(super) fn next_ripe(&mut self, now: u64) -> Option<u64> {
        let (handle, ripe) = *self.waiting.front()?;
        (ripe <= now).then(|| {
            self.waiting.pop_front();
            handle
        })
    }

    /// When the stream of an instance broke last; `None` = it neither waits nor is asked about.
    pub(super) fn since(&self, handle: u64) -> Option<u64> {
        self.since.get(&handle).copied()
    }

    /// Nobody needs to ask about it, or an answer is there.
    pub(super) fn end(&mut self, handle: u64) {
        self.since.remove(&handle);
    }

    /// Looks at an instance again with the next tick: there was no room to ask about it.
    pub(super) fn put_back(&mut self, handle: u64, now: u64) {
        self.waiting.push_front((handle, now));
    }

    /// Forgets those that wait.
    pub(super) fn clear(&mut self) {
        for (handle, _) in self.waiting.drain(..) {
            self.since.remove(&handle);
        }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_is_asked_about_when_it_is_ripe_and_in_order() {
        let mut breaks = Breaks::default();
        breaks.note(vec![5, 3], 1_000);
        breaks.note(vec![4], 1_050);
        assert_eq!(breaks.next_ripe(999 + RIPE_MS), None);
        assert_eq!(breaks.next_ripe(1_000 + RIPE_MS), Some(5));
        assert_eq!(breaks.next_ripe(1_000 + RIPE_MS), Some(3));
        assert_eq!(breaks.next_ripe(1_000 + RIPE_MS), None);
        breaks.put_back(3, 1_100);
        assert_eq!(breaks.next_ripe(1_100), Some(3));
        assert_eq!(breaks.next_ripe(1_050 + RIPE_MS), Some(4));
        assert!(breaks.is_empty());
    }

    #[test]
    fn one_that_breaks_again_is_asked_about_once_and_its_last_break_counts() {
        let mut breaks = Breaks::default();
        breaks.note(vec![7, 7], 1_000);
        breaks.note(vec![7], 1_050);
        assert_eq!(breaks.next_ripe(1_000 + RIPE_MS), Some(7));
        breaks.note(vec![7], 1_200);
        assert_eq!((breaks.next_ripe(9_000), breaks.since(7)), (None, Some(1_200)));
        breaks.end(7);
        assert_eq!(breaks.since(7), None);
        breaks.note(vec![7], 2_000);
        assert_eq!(breaks.next_ripe(9_000), Some(7));
    }

    #[test]
    fn beyond_the_bound_leases_decide() {
        let mut breaks = Breaks::default();
        let bound = u64::try_from(WAITING_MAX).unwrap();
        breaks.note((1..=bound + 10).collect(), 0);
        assert_eq!((breaks.waiting.len(), breaks.since.len()), (WAITING_MAX, WAITING_MAX));
        assert_eq!((breaks.since(bound), breaks.since(bound + 1)), (Some(0), None));
        // What is being asked about takes room, too: the memory is bounded.
        assert_eq!(breaks.next_ripe(RIPE_MS), Some(1));
        breaks.note(vec![bound + 1], 1);
        assert_eq!(breaks.since(bound + 1), None);
        breaks.end(1);
        breaks.note(vec![bound + 1], 1);
        assert_eq!(breaks.since(bound + 1), Some(1));
        breaks.clear();
        assert!(breaks.is_empty() && breaks.since.is_empty());
    }
}
