//! Whose leases were renewed over one heartbeat stream: when it breaks, these are looked into. A handle counts when its
//! beat was acknowledged; whoever only names handles, known or not, has none of them probed.

use crate::lease::beat::BeatAnswer;
use std::collections::{BTreeMap, BTreeSet};

/// Instances that are remembered for one stream; when it breaks the leases of the others decide.
const HANDLES: usize = 20_000;

/// The lease handles of one stream.
#[derive(Debug, Default)]
pub(super) struct Renewed {
    handles: BTreeSet<u64>,
    /// Named in beats that are not decided yet, by the number of the beat. Bounded by the beats in flight.
    undecided: BTreeMap<u64, Vec<u64>>,
    beats: u64,
}

impl Renewed {
    /// A beat names these handles; returns its number. A client says the same handles again and again.
    pub(super) fn begin(&mut self, alive: &[u64]) -> u64 {
        self.beats += 1;
        let room = HANDLES.saturating_sub(self.handles.len());
        let new = alive.iter().filter(|handle| !self.handles.contains(handle)).take(room).copied();
        let new: Vec<u64> = new.collect();
        if !new.is_empty() {
            self.undecided.insert(self.beats, new);
        }
        self.beats
    }

    /// A beat was decided; `None` = it was not acknowledged.
    pub(super) fn end(&mut self, beat: u64, answer: Option<&BeatAnswer>) {
        let new = self.undecided.remove(&beat).unwrap_or_default();
        let Some(answer) = answer else { return };
        for handle in new {
            if self.handles.len() < HANDLES {
                self.handles.insert(handle);
            }
        }
        for handle in answer.reregister.iter().chain(answer.fenced.iter().map(|(it, _)| it)) {
            self.handles.remove(handle);
        }
    }

    /// The owner says goodbye for these.
    pub(super) fn release(&mut self, released: &[u64]) {
        for handle in released {
            self.handles.remove(handle);
            for new in self.undecided.values_mut() {
                new.retain(|it| it != handle);
            }
        }
    }

    /// All of them, in order.
    pub(super) fn take(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.handles).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::table::Fence;

    fn answer(reregister: &[u64], fenced: &[u64]) -> BeatAnswer {
        let fenced = fenced.iter().map(|handle| (*handle, Fence::Superseded));
        BeatAnswer { reregister: reregister.to_vec(), fenced: fenced.collect() }
    }

    #[test]
    fn a_handle_counts_when_its_beat_was_acknowledged() {
        let mut renewed = Renewed::default();
        let (first, second) = (renewed.begin(&[3, 1, 2]), renewed.begin(&[9]));
        assert!(renewed.handles.is_empty());
        renewed.end(second, None);
        renewed.end(first, Some(&answer(&[2], &[3])));
        assert_eq!(renewed.take(), [1]);
    }

    #[test]
    fn one_that_is_lost_later_is_forgotten() {
        let mut renewed = Renewed::default();
        let beat = renewed.begin(&[1, 2, 3]);
        renewed.end(beat, Some(&answer(&[], &[])));
        let beat = renewed.begin(&[1, 2, 3]);
        renewed.end(beat, Some(&answer(&[1], &[3])));
        assert_eq!(renewed.take(), [2]);
    }

    #[test]
    fn a_goodbye_is_not_undone_by_an_earlier_beat() {
        let mut renewed = Renewed::default();
        let beat = renewed.begin(&[1, 2]);
        renewed.release(&[1]);
        renewed.end(beat, Some(&answer(&[], &[])));
        assert_eq!(renewed.take(), [2]);
    }

    #[test]
    fn at_most_twenty_thousand_are_remembered() {
        let mut renewed = Renewed::default();
        let all: Vec<u64> = (1..=30_000).collect();
        let beats = [renewed.begin(&all[..15_000]), renewed.begin(&all[15_000..])];
        for beat in beats {
            renewed.end(beat, Some(&answer(&[], &[])));
        }
        assert!(renewed.undecided.is_empty());
        assert_eq!(renewed.begin(&all), 3);
        assert!(renewed.undecided.is_empty(), "there is no room for more");
        assert_eq!(renewed.take(), all[..HANDLES]);
    }
}
