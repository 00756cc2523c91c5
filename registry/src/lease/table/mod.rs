//! The leader's memory of leases: deadlines on a monotonic clock, renewed by the arrival time of a beat.
//!
//! A renewal is one look-up in a sharded map and one store: no log entry, no disk, no lock shared with other work.
//! What is due when is kept apart, in [`Book`], and looked at again only when it may be due.

mod follow;

pub use follow::taken_over;

use super::{
    evictions::Evictions,
    lost::Lost,
    time::{LeaseTime, millis},
};
use crate::clock::Clock;
use dashmap::DashMap;
use rollcall_core::{
    State,
    instance::Ttl,
    lease::{Deadlines, grant, missed_a_beat},
    record::LeaseState,
    state::Retired,
};
use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Shards of the map: fixed, so that its behaviour does not depend on the machine.
const SHARDS: usize = 64;
/// A lease is looked at again after this at the latest, ms: what is left of leases that are gone stays no longer.
const LOOK_AHEAD: u64 = 60_000;

/// Spreads handles, which are consecutive numbers, over the shards. Fixed, so that runs can be repeated.
#[derive(Debug, Default, Clone, Copy)]
pub struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, handle: u64) {
        self.0 = (self.0.rotate_left(5) ^ handle).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Ends when the expiry that was proposed for a lease is decided.
pub type Decision = watch::Receiver<()>;

#[derive(Debug)]
struct Entry {
    /// Lease time at which it runs out, ms.
    deadline: u64,
    /// Lease time of the last beat, or of what granted the lease, ms.
    beat: u64,
    ttl: Ttl,
    epoch: u32,
    /// Set while an expiry is proposed and undecided: beats wait for it.
    deciding: Option<Decision>,
    /// Counts the checkpoints that may name it since the last clear; 0 = none. A beat is then acknowledged only
    /// after a committed clear, because a new leader would else grant less than the acknowledgement promised.
    marked: u32,
    /// What the last committed checkpoint says it had left, ms.
    named: Option<u32>,
}

impl Entry {
    /// Whether a checkpoint would tell the next leader anything new.
    fn is_worth_naming(&self, remaining: Duration) -> bool {
        let remaining = remaining_ms(remaining);
        self.deciding.is_none()
            && self.named.is_none_or(|named| {
                grant(self.ttl, Some(named)) != grant(self.ttl, Some(remaining))
            })
    }
}

/// What becomes of the beats of one message.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Unknown or run out: the owner must register again.
    pub reregister: Vec<u64>,
    /// A newer owner, or a removal, stands against it.
    pub fenced: Vec<(u64, Fence)>,
    /// Named in a checkpoint: acknowledge after a committed clear.
    pub clear: Vec<u64>,
    /// An expiry is undecided: ask again when it is.
    pub undecided: Vec<(u64, Decision)>,
}

/// Why a handle is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// A newer owner took the id over.
    Superseded,
    /// It was deregistered.
    Deregistered,
}

impl Fence {
    /// What stands against a handle, by the catalogue.
    pub fn of(state: &State, handle: u64) -> Option<Self> {
        match state.retired(handle)? {
            Retired::Superseded(_) => Some(Self::Superseded),
            Retired::Deregistered(_) => Some(Self::Deregistered),
        }
    }
}

/// A lease that may be over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// Handle.
    pub generation: u64,
    /// Epoch.
    pub lease_epoch: u32,
    /// Time since its last beat.
    pub silent: Duration,
}

/// A lease that has missed a beat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missed {
    /// Handle.
    pub generation: u64,
    /// Epoch.
    pub lease_epoch: u32,
    /// What it has left, ms.
    pub remaining: u32,
}

/// A mark that a clear is to take away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Handle.
    pub generation: u64,
    /// Epoch.
    pub lease_epoch: u32,
    count: u32,
}

/// What is due when. Times are lease time in ms.
#[derive(Debug, Default)]
pub struct Book {
    /// Leases to look at.
    deadlines: Deadlines,
    /// Instances to evict.
    pub evictions: Evictions,
    /// Instances that their checks keep.
    pub lost: Lost,
    /// Term for which this node leads and has loaded the leases; 0 = it does not lead.
    term: u64,
    /// The last such term.
    loaded: u64,
}

impl Book {
    fn arm(&mut self, handle: u64, deadline: u64, now: u64) {
        self.deadlines.arm(handle, deadline.min(now.saturating_add(LOOK_AHEAD)));
    }
}

/// The lease table. Inactive, and empty, on every node but the leader.
#[derive(Debug)]
pub struct LeaseTable {
    time: LeaseTime,
    entries: DashMap<u64, Entry, BuildHasherDefault<HandleHasher>>,
    book: Mutex<Book>,
    /// Term for which every lease is loaded; 0 = none. Set last, so that no beat meets a table that is half full.
    active: AtomicU64,
}

impl LeaseTable {
    /// An inactive table.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            time: LeaseTime::new(clock),
            entries: DashMap::with_hasher_and_shard_amount(BuildHasherDefault::default(), SHARDS),
            book: Mutex::default(),
            active: AtomicU64::new(0),
        }
    }

    /// The clock of the leases.
    pub fn time(&self) -> &LeaseTime {
        &self.time
    }

    /// Lease time in ms.
    pub fn now(&self) -> u64 {
        self.time.now()
    }

    /// What was added to every deadline so far, because the leader could not hear its instances.
    pub fn paused(&self) -> Duration {
        self.time.left_out()
    }

    /// What is due when.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of running leases.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether this node leads in this term and the table speaks for the cluster.
    pub fn is_active(&self, term: u64) -> bool {
        term != 0 && self.active.load(Ordering::Acquire) == term
    }

    /// Forgets everything: this node does not lead.
    pub fn deactivate(&self) {
        self.active.store(0, Ordering::Release);
        let mut book = self.book();
        *book = Book { loaded: book.loaded, ..Book::default() };
        self.entries.clear();
    }

    /// Begins a reign: every running lease gets what a new leader grants, counted from now. `load` reads the state
    /// under the lock, so that nothing published meanwhile is missed.
    pub fn activate(&self, term: u64, load: impl FnOnce() -> State) {
        self.active.store(0, Ordering::Release);
        let mut book = self.book();
        self.entries.clear();
        // A checkpoint from the first half of an interrupted reign may still be on its way into the log.
        let interrupted = book.loaded == term;
        *book = Book { term, loaded: term, ..Book::default() };
        let state = load();
        let now = self.now();
        for (generation, name) in state.generations() {
            let Some(record) = state.instance(name) else { continue };
            let remaining = state.checkpoint(generation);
            self.load_record(&mut book, &state, record, now, remaining);
            if interrupted && let Some(mut entry) = self.entries.get_mut(&generation) {
                entry.marked = 1;
            }
        }
        self.active.store(term, Ordering::Release);
    }

    /// Lease time of the last beat of a running lease, ms.
    pub fn last_beat(&self, handle: u64) -> Option<u64> {
        self.entries.get(&handle).map(|entry| entry.beat)
    }

    /// Renews the leases behind `handles` by a beat that arrived at `arrived` (lease time, ms). `fence` tells of a
    /// handle that is not in the table whether something stands against it.
    pub fn renew(
        &self,
        handles: &[u64],
        arrived: u64,
        fence: impl Fn(u64) -> Option<Fence>,
    ) -> Renewal {
        let mut renewal = Renewal::default();
        for handle in handles {
            let Some(mut entry) = self.entries.get_mut(handle) else {
                match fence(*handle) {
                    Some(fence) => renewal.fenced.push((*handle, fence)),
                    None => renewal.reregister.push(*handle),
                }
                continue;
            };
            if let Some(decision) = &entry.deciding {
                renewal.undecided.push((*handle, decision.clone()));
                continue;
            }
            entry.beat = entry.beat.max(arrived);
            entry.deadline = entry.deadline.max(arrived + entry.ttl.millis() + 1);
            if entry.marked > 0 {
                renewal.clear.push(*handle);
            }
        }
        renewal
    }

    /// Takes the leases that are over, at most `max`, and makes their beats wait for `decision`.
    pub fn take_overdue(&self, max: usize, decision: &Decision) -> Vec<Overdue> {
        let mut book = self.book();
        let now = self.now();
        let mut overdue = Vec::new();
        for handle in book.deadlines.due(now, max) {
            let Some(mut entry) = self.entries.get_mut(&handle) else { continue };
            if entry.deciding.is_some() {
                continue;
            }
            if entry.deadline > now {
                book.arm(handle, entry.deadline, now);
                continue;
            }
            entry.deciding = Some(decision.clone());
            overdue.push(Overdue {
                generation: handle,
                lease_epoch: entry.epoch,
                silent: Duration::from_millis(now.saturating_sub(entry.beat)),
            });
        }
        overdue
    }

    /// An expiry came to nothing: the lease goes on and is looked at again after `after`. Only where it still waits
    /// for this decision: it may have been granted anew meanwhile.
    pub fn undecide(&self, generation: u64, decision: &Decision, after: Duration) {
        let mut book = self.book();
        if let Some(mut entry) = self.entries.get_mut(&generation)
            && entry.deciding.as_ref().is_some_and(|deciding| deciding.same_channel(decision))
        {
            entry.deciding = None;
            let now = self.now();
            let at = entry.deadline.max(now.saturating_add(millis(after)));
            book.arm(generation, at, now);
        }
    }

    /// An expiry was decided on something that is gone: what the table holds is put right by the catalogue.
    pub fn reconcile(&self, state: &State, generation: u64, decision: &Decision, after: Duration) {
        let running = state
            .by_generation(generation)
            .and_then(|record| record.lease)
            .is_some_and(|lease| lease.state == LeaseState::Current);
        if !running {
            let stale = |_: &u64, entry: &Entry| {
                entry.deciding.as_ref().is_some_and(|deciding| deciding.same_channel(decision))
            };
            self.entries.remove_if(&generation, stale);
        }
        self.undecide(generation, decision, after);
    }

    /// The leases that have missed a beat and are worth naming to the next leader, in order of handle. Marks them:
    /// from here on their beats need a committed clear.
    pub fn checkpoint(&self) -> Vec<Missed> {
        let now = self.now();
        let mut missed = Vec::new();
        for mut entry in self.entries.iter_mut() {
            let remaining = Duration::from_millis(entry.deadline.saturating_sub(now));
            if missed_a_beat(entry.ttl, remaining) && entry.is_worth_naming(remaining) {
                entry.marked += 1;
                missed.push(Missed {
                    generation: *entry.key(),
                    lease_epoch: entry.epoch,
                    remaining: remaining_ms(remaining),
                });
            }
        }
        missed.sort_unstable();
        missed
    }

    /// A checkpoint was committed. What is not told here is named again by the next one.
    pub fn named(&self, missed: &[Missed]) {
        for missed in missed {
            if let Some(mut entry) = self.entries.get_mut(&missed.generation)
                && entry.epoch == missed.lease_epoch
            {
                entry.named = Some(missed.remaining);
            }
        }
    }

    /// The marks of these leases, before a clear is proposed.
    pub fn marks(&self, handles: &[u64]) -> Vec<Mark> {
        let marks = handles.iter().filter_map(|handle| {
            let entry = self.entries.get(handle).filter(|entry| entry.marked > 0)?;
            Some(Mark { generation: *handle, lease_epoch: entry.epoch, count: entry.marked })
        });
        marks.collect()
    }

    /// A clear was committed: unmarks what was not marked again meanwhile.
    pub fn cleared(&self, marks: &[Mark]) {
        for mark in marks {
            if let Some(mut entry) = self.entries.get_mut(&mark.generation)
                && entry.epoch == mark.lease_epoch
                && entry.marked == mark.count
            {
                entry.marked = 0;
                entry.named = None;
            }
        }
    }
}

fn remaining_ms(remaining: Duration) -> u32 {
    u32::try_from(millis(remaining)).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
