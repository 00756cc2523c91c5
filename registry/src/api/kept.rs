//! Encoded bytes that callers share: per service, for its newest revision only, bounded in number and in bytes.
//!
//! A service that changes drops what was kept of it. Two callers may make the same value at the same time; both are
//! right, and one of them is kept.

use dashmap::DashMap;
use rollcall_core::name::ServiceName;
use std::{
    hash::{BuildHasherDefault, DefaultHasher},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Values of one service that are kept; the oldest goes first.
const PER_SERVICE: usize = 16;
/// Bytes that are kept in all; beyond, everything is dropped and comes back as it is asked for.
const BYTES_MAX: usize = 128 << 20;
/// What an entry costs beside its bytes, about.
const OVERHEAD: usize = 256;
/// Shards of the map: fixed, so that its behaviour does not depend on the machine.
const SHARDS: usize = 64;

/// Something that holds encoded bytes.
pub(super) trait Weigh {
    /// How many.
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
struct Entry<K, V> {
    revision: u64,
    bytes: usize,
    values: Vec<(K, V)>,
}

impl<K, V> Entry<K, V> {
    fn new(revision: u64) -> Self {
        Self { revision, bytes: 0, values: Vec::new() }
    }
}

/// What a node keeps of one kind.
#[derive(Debug)]
pub(super) struct Kept<K, V> {
    services: DashMap<ServiceName, Entry<K, V>, BuildHasherDefault<DefaultHasher>>,
    bytes: AtomicUsize,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        let services = DashMap::with_hasher_and_shard_amount(BuildHasherDefault::default(), SHARDS);
        Self { services, bytes: AtomicUsize::new(0) }
    }
}

impl<K: PartialEq, V: Weigh + Clone> Kept<K, V> {
    /// The value under `key` for this revision of the service, made where it is not kept.
    pub(super) fn get(
        &self,
        name: &ServiceName,
        revision: u64,
        key: K,
        make: impl FnOnce(&K) -> V,
    ) -> V {
        if let Some(kept) = self.services.get(name)
            && kept.revision == revision
            && let Some((_, value)) = kept.values.iter().find(|(known, _)| *known == key)
        {
            return value.clone();
        }
        let value = make(&key);
        self.keep(name, revision, key, value.clone());
        value
    }

    fn keep(&self, name: &ServiceName, revision: u64, key: K, value: V) {
        let weight = value.bytes() + OVERHEAD;
        if weight > BYTES_MAX / 4 {
            return;
        }
        if self.bytes.load(Ordering::Relaxed) + weight > BYTES_MAX {
            self.services.retain(|_, entry| {
                self.bytes.fetch_sub(entry.bytes, Ordering::Relaxed);
                false
            });
        }
        let mut entry = self.services.entry(name.clone()).or_insert_with(|| Entry::new(revision));
        if entry.revision < revision {
            self.bytes.fetch_sub(entry.bytes, Ordering::Relaxed);
            *entry = Entry::new(revision);
        }
        if entry.revision > revision || entry.values.iter().any(|(known, _)| *known == key) {
            return;
        }
        if entry.values.len() >= PER_SERVICE {
            let (_, oldest) = entry.values.remove(0);
            let weight = oldest.bytes() + OVERHEAD;
            entry.bytes -= weight;
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
        }
        entry.bytes += weight;
        self.bytes.fetch_add(weight, Ordering::Relaxed);
        entry.values.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    fn name(text: &str) -> ServiceName {
        ServiceName::parse("", text).unwrap()
    }

    fn kept(kept: &Kept<u32, usize>) -> usize {
        let entries = kept.services.iter().map(|entry| entry.bytes).sum::<usize>();
        assert_eq!(entries, kept.bytes.load(Ordering::Relaxed));
        entries
    }

    #[test]
    fn a_value_is_made_once_for_each_revision_and_key() {
        let cache = Kept::default();
        assert_eq!(cache.get(&name("a"), 5, 1, |_| 10), 10);
        assert_eq!(cache.get(&name("a"), 5, 1, |_| panic!("it is kept")), 10);
        assert_eq!(cache.get(&name("a"), 5, 2, |_| 20), 20);
        assert_eq!(cache.get(&name("a"), 6, 1, |_| 30), 30);
        assert_eq!(kept(&cache), 30 + OVERHEAD);
    }

    #[test]
    fn a_reader_of_an_older_state_neither_gets_nor_leaves_a_newer_one() {
        let cache = Kept::default();
        assert_eq!(cache.get(&name("a"), 6, 1, |_| 10), 10);
        assert_eq!(cache.get(&name("a"), 5, 1, |_| 20), 20);
        assert_eq!(cache.get(&name("a"), 6, 1, |_| panic!("it is kept")), 10);
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let cache = Kept::default();
        for key in 0..100 {
            cache.get(&name("a"), 1, key, |_| 1000);
        }
        assert_eq!(kept(&cache), PER_SERVICE * (1000 + OVERHEAD));
        for service in 0..50 {
            for key in 0..4 {
                cache.get(&name(&format!("s{service}")), 1, key, |_| BYTES_MAX / 40);
                assert!(kept(&cache) <= BYTES_MAX);
            }
        }
        cache.get(&name("huge"), 1, 1, |_| BYTES_MAX);
        assert!(cache.services.get(&name("huge")).is_none());
    }
}
