//! The entries of one thread, and which of them still hold.
//!
//! A change of a service costs one look-up by each thread, whatever the number of readers and of names under which the
//! service was asked for: the thread marks the service in a table of fixed size, and an entry is thrown away when it is
//! next asked for. Two services that share a place in that table only cost each other an entry that is built again.
//!
//! Memory: two halves, a young and an old one. When the young half is full, the old one goes and the young one takes its
//! place; what is asked for in the old one moves to the young one. So there are never more than the given bytes.

use super::entry::Entry;
use crate::{
    catalog::{Catalog, Standing},
    rate::Class,
};
use rollcall_core::{State, name::ServiceName};
#[expect(clippy::disallowed_types, reason = "looked up by key and never iterated over")]
use std::collections::HashMap;
use std::{
    fmt,
    hash::{BuildHasherDefault, Hasher},
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// Places in the table of changes: 512 KiB of it.
const MARKS: usize = 1 << 16;
/// What a kept entry takes in the map: the map is at least 7/16 full.
const SLOT: usize = size_of::<(u64, Kept)>() * 16 / 7;

/// Entries of one thread.
pub(super) struct Cache {
    young: Map,
    old: Map,
    /// Bytes in the young half, and how many it may have.
    bytes: usize,
    half: usize,
    /// Keeps it secret which questions share a hash.
    seed: u64,
    /// Counts what was followed; never 0.
    turn: u64,
    /// The turn in which a service that has its place here changed last.
    marks: Box<[u64]>,
    followed: Followed,
}

#[expect(clippy::disallowed_types, reason = "looked up by key and never iterated over")]
type Map = HashMap<u64, Kept, BuildHasherDefault<Ready>>;

/// What the entries were built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Followed {
    epoch: u32,
    revision: u64,
    hash: u128,
    standing: Standing,
}

#[derive(Debug)]
struct Kept {
    key: Box<[u8]>,
    /// Place of its service in the table of changes, and the last turn in which it was known to hold.
    mark: usize,
    held: u64,
    class: Class,
    entry: Entry,
}

/// What is known of a question.
pub(super) enum Known<'a> {
    /// An entry that holds, and its class.
    Holds(&'a Entry, Class),
    /// One that was kept, and that a change has overtaken.
    Overtaken,
    /// Nothing.
    Absent,
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Cache {
    /// An empty cache of at most so many bytes.
    pub(super) fn new(bytes: usize, seed: u64) -> Self {
        let followed = Followed { epoch: 0, revision: 0, hash: 0, standing: Standing::Unready };
        Self {
            young: Map::default(),
            old: Map::default(),
            bytes: 0,
            half: bytes / 2,
            seed,
            turn: 1,
            marks: vec![0; MARKS].into(),
            followed,
        }
    }

    /// Catches up with the catalogue. Must be called before [`Self::get`] with every catalogue that is answered from.
    pub(super) fn follow(&mut self, catalog: &Catalog<'_>) {
        let state = catalog.state;
        let now = Followed {
            epoch: state.epoch(),
            revision: state.revision(),
            hash: state.hash(),
            standing: catalog.standing,
        };
        if now != self.followed {
            self.turn += 1;
            if !self.mark_changes(state, &now) {
                self.marks.fill(self.turn);
            }
            self.followed = now;
        }
    }

    /// Marks the services that have changed. False where it cannot be told which: after a restore, a change of standing
    /// (which changes every TTL), or more changes than the journal holds.
    fn mark_changes(&mut self, state: &State, now: &Followed) -> bool {
        let then = self.followed;
        if now.epoch != then.epoch || now.standing != then.standing || now.revision <= then.revision
        {
            return false;
        }
        let Some(events) = state.events_after(then.revision) else { return false };
        for service in events.filter_map(|event| event.subject.service()) {
            self.marks[mark(service)] = self.turn;
        }
        true
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// The hash under which the key is kept.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed)
    }

    /// What is known of a key.
    pub(super) fn get(&mut self, hash: u64, key: &[u8]) -> Known<'_> {
        if let Some(kept) = self.old.remove(&hash) {
            self.put(hash, kept);
        }
        let kept = match self.young.get_mut(&hash) {
            Some(kept) if *kept.key == *key => kept,
            _ => return Known::Absent,
        };
        // What has held in this turn needs no second look.
        if kept.held != self.turn {
            if self.marks[kept.mark] > kept.held {
                return Known::Overtaken;
            }
            kept.held = self.turn;
        }
        Known::Holds(&kept.entry, kept.class)
    }

    /// Forgets what was [`Known::Overtaken`].
    pub(super) fn remove(&mut self, hash: u64) {
        if let Some(kept) = self.young.remove(&hash) {
            self.bytes -= kept.size();
        }
    }

    /// Keeps an entry that was built from what was last followed. One that is larger than half of the memory is not kept.
    pub(super) fn insert(
        &mut self,
        (hash, key): (u64, &[u8]),
        service: &ServiceName,
        (entry, class): (Entry, Class),
    ) {
        let kept = Kept { key: key.into(), mark: mark(service), held: self.turn, class, entry };
        self.old.remove(&hash);
        self.put(hash, kept);
    }

    fn put(&mut self, hash: u64, kept: Kept) {
        let size = kept.size();
        if let Some(before) = self.young.remove(&hash) {
            self.bytes -= before.size();
        }
        if size > self.half {
            return;
        }
        if self.bytes + size > self.half {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += size;
        self.young.insert(hash, kept);
    }
}

impl Kept {
    fn size(&self) -> usize {
        SLOT + self.key.len() + self.entry.size()
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("entries", &(self.young.len(), self.old.len()))
            .field("followed", &self.followed)
            .finish_non_exhaustive()
    }
}

/// Place of a service in the table of changes.
fn mark(service: &ServiceName) -> usize {
    let mut hash = Xxh3::new();
    hash.update(service.namespace.as_str().as_bytes());
    hash.update(b".");
    hash.update(service.service.as_str().as_bytes());
    usize::try_from(hash.digest() % MARKS as u64).expect("below the number of places")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    const MEMORY: usize = 64 * 1024;

    fn nothing(apex: usize) -> (Entry, Class) {
        (Entry::Nothing { code: 0, domain: 0, apex }, Class::Error)
    }

    fn service() -> ServiceName {
        ServiceName::parse("", "web").expect("a name")
    }

    fn apex(known: &Known<'_>) -> Option<usize> {
        match known {
            Known::Holds(Entry::Nothing { apex, .. }, _) => Some(*apex),
            Known::Holds(..) | Known::Overtaken | Known::Absent => None,
        }
    }

    #[test]
    fn memory_stays_within_its_bound_and_what_is_asked_for_stays() {
        let mut cache = Cache::new(MEMORY, 1);
        let mut dice = StdRng::seed_from_u64(1);
        let mut flips = 0;
        cache.insert((0, b"often"), &service(), nothing(7));
        for i in 0..20_000_u64 {
            let key = vec![0; dice.random_range(1..255)];
            let before = cache.young.len();
            cache.insert((1 + i, &key), &service(), nothing(0));
            flips += usize::from(cache.young.len() < before);
            assert_eq!(apex(&cache.get(0, b"often")), Some(7), "{i}");
            let kept = cache.young.values().chain(cache.old.values()).map(Kept::size);
            assert!(kept.sum::<usize>() <= MEMORY);
            let slots = cache.young.capacity() + cache.old.capacity();
            assert!(slots * size_of::<(u64, Kept)>() <= MEMORY, "{slots} slots");
        }
        assert!(flips > 100, "the bound was reached {flips} times");
    }

    #[test]
    fn an_entry_that_is_larger_than_the_memory_is_not_kept() {
        let mut cache = Cache::new(1_000, 1);
        cache.insert((0, &[0; 400]), &service(), nothing(7));
        assert!(matches!(cache.get(0, &[0; 400]), Known::Absent));
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn two_questions_with_one_hash_are_told_apart() {
        let mut cache = Cache::new(MEMORY, 1);
        cache.insert((0, b"one"), &service(), nothing(1));
        assert!(matches!(cache.get(0, b"two"), Known::Absent));
        cache.insert((0, b"two"), &service(), nothing(2));
        assert_eq!(apex(&cache.get(0, b"two")), Some(2));
        assert!(matches!(cache.get(0, b"one"), Known::Absent));
    }
}
