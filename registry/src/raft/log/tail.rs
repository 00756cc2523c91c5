//! The log as memory sees it: the newest entries, whether on disk yet or not, and where the log begins and
//! ends. Readers are served from here; what was dropped to stay within the bound is on disk for sure.

use std::collections::VecDeque;
use std::ops::Range;

use crate::raft::types::{Entry, EntryPayload, LogId, Vote};

/// What an entry costs besides its proposal.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// An entry in memory, and the queue position whose commit makes it durable.
#[derive(Debug)]
struct Slot {
    entry: Entry,
    bytes: usize,
    position: u64,
}

/// The state of the log in memory.
#[derive(Debug)]
pub(super) struct Tail {
    slots: VecDeque<Slot>,
    /// Index of the first entry in `slots`; one past the last entry when there is none.
    cached_from: u64,
    /// Index of the first entry of the log, in memory or on disk.
    first: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    bytes: usize,
    bytes_max: usize,
    /// Everything queued up to this position is on disk.
    durable: u64,
    /// The durable vote.
    pub(super) vote: Option<Vote>,
    /// The newest committed log id that was handed over.
    pub(super) committed: Option<LogId>,
}

/// A refused change of the log: it would leave a hole.
#[derive(Debug, thiserror::Error)]
#[error("append entry {found} to a log that ends before {expected}")]
pub(super) struct Hole {
    expected: u64,
    found: u64,
}

impl Tail {
    /// An empty log that holds at most `bytes_max` of what is on disk.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            cached_from: 0,
            first: 0,
            last: None,
            purged: None,
            bytes: 0,
            bytes_max,
            durable: 0,
            vote: None,
            committed: None,
        }
    }

    /// The last log id, or the purged one where nothing follows it.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last.or(self.purged)
    }

    /// Everything up to here is gone.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Memory that an entry takes.
    pub(super) fn entry_bytes(entry: &Entry) -> usize {
        let proposal = match &entry.payload {
            EntryPayload::Normal(proposal) => proposal.0.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        ENTRY_OVERHEAD_BYTES + proposal
    }

    /// Adds an entry that `position` in the queue will make durable (0: it is).
    pub(super) fn push(&mut self, entry: Entry, position: u64) -> Result<(), Hole> {
        let found = entry.log_id.index;
        match self.last() {
            // Only the very first entry of a log may start anywhere.
            None => {
                self.first = found;
                self.cached_from = found;
            }
            Some(last) if found != last.index + 1 => {
                return Err(Hole { expected: last.index + 1, found });
            }
            Some(_) => {}
        }
        let bytes = Self::entry_bytes(&entry);
        self.bytes += bytes;
        self.last = Some(entry.log_id);
        self.slots.push_back(Slot { entry, bytes, position });
        self.evict();
        Ok(())
    }

    /// Removes everything after `after`.
    pub(super) fn truncate(&mut self, after: Option<LogId>) {
        let end = after.map_or(0, |id| id.index + 1);
        if self.last().is_none_or(|last| last.index < end) {
            return;
        }
        while self.slots.back().is_some_and(|slot| slot.entry.log_id.index >= end) {
            self.bytes -= self.slots.pop_back().map_or(0, |slot| slot.bytes);
        }
        self.cached_from = self.cached_from.min(end).max(self.first);
        self.last = if end > self.first { after } else { None };
        if self.last().is_none() {
            (self.first, self.cached_from) = (0, 0);
        }
    }

    /// Forgets everything up to `upto`, which may lie past the end of the log.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(upto);
        let first = upto.index + 1;
        while self.slots.front().is_some_and(|slot| slot.entry.log_id.index < first) {
            self.bytes -= self.slots.pop_front().map_or(0, |slot| slot.bytes);
        }
        self.first = self.first.max(first);
        self.cached_from = self.cached_from.max(first);
        if self.last.is_some_and(|last| last.index < first) {
            self.last = None;
        }
    }

    /// Everything queued up to `position` is on disk now.
    pub(super) fn durable(&mut self, position: u64) {
        self.durable = self.durable.max(position);
        self.evict();
    }

    /// Drops the oldest durable entries beyond the bound.
    fn evict(&mut self) {
        while self.bytes > self.bytes_max
            && self.slots.front().is_some_and(|slot| slot.position <= self.durable)
        {
            self.bytes -= self.slots.pop_front().map_or(0, |slot| slot.bytes);
            self.cached_from += 1;
        }
    }

    /// Limits a range to what the log contains, and splits it into what is only on disk and what is here.
    pub(super) fn split(&self, range: Range<u64>) -> (Range<u64>, Range<u64>) {
        let end = range.end.min(self.last().map_or(0, |last| last.index + 1));
        let start = range.start.max(self.first);
        let middle = self.cached_from.clamp(start.min(end), end);
        (start..middle, middle.max(start)..end)
    }

    /// The entries of a range that [`Tail::split`] said is here, stopping once `bytes_max` is passed.
    pub(super) fn cached(&self, range: Range<u64>, bytes_max: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        for index in range {
            let slot = usize::try_from(index - self.cached_from).ok();
            let Some(slot) = slot.and_then(|at| self.slots.get(at)) else { break };
            bytes = bytes.saturating_add(slot.bytes);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(slot.entry.clone());
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::vote::RaftLeaderIdExt;

    use super::*;
    use crate::raft::types::{CommittedLeaderId, Proposal};

    fn log_id(index: u64) -> LogId {
        LogId { leader_id: CommittedLeaderId::new_committed(1, 1), index }
    }

    fn entry(index: u64) -> Entry {
        let proposal = Proposal(Bytes::from(vec![0; 100 - ENTRY_OVERHEAD_BYTES]));
        Entry { log_id: log_id(index), payload: EntryPayload::Normal(proposal) }
    }

    fn filled(bytes_max: usize, range: Range<u64>) -> Tail {
        let mut tail = Tail::new(bytes_max);
        for index in range {
            tail.push(entry(index), index).unwrap();
        }
        tail
    }

    #[test]
    fn only_durable_entries_leave_memory() {
        let mut tail = filled(300, 1..11);
        assert_eq!(tail.split(0..100), (1..1, 1..11));
        tail.durable(4);
        assert_eq!(tail.split(0..100), (1..5, 5..11));
        tail.durable(10);
        assert_eq!(tail.split(0..100), (1..8, 8..11));
        assert_eq!(tail.cached(8..11, usize::MAX), vec![entry(8), entry(9), entry(10)]);
        assert_eq!(tail.cached(8..11, 200).len(), 2);
        assert_eq!(tail.cached(8..11, 1).len(), 1, "a read never comes back empty");
    }

    #[test]
    fn a_hole_is_refused() {
        let mut tail = filled(300, 1..4);
        assert!(tail.push(entry(5), 9).is_err());
        assert!(tail.push(entry(3), 9).is_err());
        tail.push(entry(4), 9).unwrap();
    }

    #[test]
    fn truncation_reaches_behind_what_is_in_memory() {
        let mut tail = filled(300, 1..11);
        tail.durable(10);
        tail.truncate(Some(log_id(5)));
        assert_eq!(tail.last(), Some(log_id(5)));
        assert_eq!(tail.split(0..100), (1..6, 6..6));
        tail.push(entry(6), 11).unwrap();
        assert_eq!(tail.split(0..100), (1..6, 6..7));
        tail.truncate(None);
        assert_eq!((tail.last(), tail.split(0..100)), (None, (0..0, 0..0)));
    }

    #[test]
    fn purging_past_the_end_moves_the_end() {
        let mut tail = filled(300, 1..5);
        tail.purge(log_id(20));
        assert_eq!((tail.last(), tail.purged()), (Some(log_id(20)), Some(log_id(20))));
        assert_eq!(tail.split(0..100), (21..21, 21..21));
        tail.push(entry(21), 9).unwrap();
        tail.purge(log_id(7));
        assert_eq!(tail.split(0..100), (21..21, 21..22));
        tail.truncate(Some(log_id(20)));
        assert_eq!(tail.last(), Some(log_id(20)));
        tail.push(entry(21), 9).unwrap();
    }
}
