//! Response rate limiting: what one client prefix can be sent by forged queries is bounded.
//!
//! Token buckets in a table of fixed size. The clock is an argument. The caller sends over UDP only what
//! [`Limiter::check`] lets pass, and knows who is beyond doubt (a valid cookie, TCP). [`crate::class`] says what counts
//! together.

use crate::settings::RateLimit;
use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use xxhash_rust::xxh3::xxh3_64;

/// What kind of reply it is; each kind has a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// About something that exists, with records or without: one bucket for each number.
    Known(u64),
    /// No such name: one bucket for all names, because a flood makes them up.
    Unknown,
    /// A refusal or an error.
    Error,
}

/// What is to be done with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may be sent.
    Send,
    /// A short reply is sent in its place, which only a client that is really there can make use of.
    Slip,
    /// Nothing is sent.
    Drop,
}

/// Buckets that are looked through for one key; the one unused for longest makes room.
const WAYS: usize = 4;
/// Locks, so that threads seldom wait for each other.
const SHARDS: usize = 16;
/// A token in the unit of the buckets: a rate a second fills so many a millisecond.
const TOKEN: u64 = 1_000;

/// Who was sent how much of late.
#[derive(Debug)]
pub(crate) struct Limiter {
    settings: RateLimit,
    shards: Vec<Mutex<Vec<Bucket>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    key: u64,
    tokens: u64,
    /// When it was last filled, ms.
    at_ms: u64,
    /// Replies over the limit, for the slip.
    over: u32,
    used: bool,
}

impl Limiter {
    /// A limiter with an empty table of the size that the settings name.
    pub(crate) fn new(settings: &RateLimit) -> Self {
        let buckets = settings.table.div_ceil(SHARDS).next_multiple_of(WAYS);
        let shard = || Mutex::new(vec![Bucket::default(); buckets]);
        Self { settings: settings.clone(), shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// Counts a reply and says what is to be done with it.
    pub(crate) fn check(&self, peer: IpAddr, class: Class, now: Duration) -> Verdict {
        let peer = peer.to_canonical();
        if self.settings.exempt.iter().any(|prefix| prefix.contains(&peer)) {
            return Verdict::Send;
        }
        let key = key(peer, class);
        let rate = match class {
            Class::Known(_) => self.settings.answers,
            Class::Unknown | Class::Error => self.settings.negatives,
        };
        let full = u64::from(rate) * u64::from(self.settings.window) * TOKEN;
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        // The lower bits choose the shard, the others the place in it.
        let [shard, ..] = key.to_le_bytes();
        // A panic elsewhere leaves at worst a wrong number of tokens behind.
        let mut shard =
            self.shards[usize::from(shard) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = find(&mut shard, key, now_ms, full);
        let elapsed = now_ms.saturating_sub(bucket.at_ms);
        bucket.tokens = bucket.tokens.saturating_add(elapsed.saturating_mul(rate.into())).min(full);
        bucket.at_ms = bucket.at_ms.max(now_ms);
        if let Some(left) = bucket.tokens.checked_sub(TOKEN) {
            bucket.tokens = left;
            return Verdict::Send;
        }
        bucket.over = bucket.over.wrapping_add(1);
        // No number is a multiple of 0: then all are dropped.
        let slips = bucket.over.is_multiple_of(self.settings.slip);
        if slips { Verdict::Slip } else { Verdict::Drop }
    }
}

/// The bucket of `key`, or a full one in place of the one of its set that was unused for longest.
fn find(shard: &mut [Bucket], key: u64, now_ms: u64, full: u64) -> &mut Bucket {
    let sets = u64::try_from(shard.len() / WAYS).unwrap_or(1);
    let set = usize::try_from((key >> 8) % sets).unwrap_or(0) * WAYS;
    let ways = &mut shard[set..set + WAYS];
    let known = ways.iter().position(|bucket| bucket.used && bucket.key == key);
    let oldest = || (0..WAYS).min_by_key(|way| (ways[*way].used, ways[*way].at_ms));
    let way = known.or_else(oldest).unwrap_or(0);
    if known.is_none() {
        ways[way] = Bucket { key, tokens: full, at_ms: now_ms, over: 0, used: true };
    }
    &mut ways[way]
}

/// Bits of the client's address that stand for it: /24 and /56, because a forger can take any address of a network.
fn key(peer: IpAddr, class: Class) -> u64 {
    let mut bytes = [0; 16];
    match peer {
        IpAddr::V4(ip) => bytes[..3].copy_from_slice(&ip.octets()[..3]),
        IpAddr::V6(ip) => bytes[..7].copy_from_slice(&ip.octets()[..7]),
    }
    bytes[7] = u8::from(peer.is_ipv6());
    let (kind, number) = match class {
        Class::Known(number) => (1, number),
        Class::Unknown => (2, 0),
        Class::Error => (3, 0),
    };
    bytes[7] |= kind << 1;
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(change: impl FnOnce(&mut RateLimit)) -> Limiter {
        let mut settings = RateLimit {
            answers: 10,
            negatives: 5,
            window: 2,
            slip: 2,
            table: 1_000,
            exempt: vec!["10.0.0.0/8".parse().unwrap()],
        };
        change(&mut settings);
        Limiter::new(&settings)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const AT: fn(u64) -> Duration = Duration::from_millis;

    /// How many of `count` replies are sent, slipped and dropped.
    fn counts(limiter: &Limiter, peer: &str, class: Class, ms: u64, count: u32) -> [u32; 3] {
        let mut counts = [0; 3];
        for _ in 0..count {
            counts[limiter.check(ip(peer), class, AT(ms)) as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_burst_of_the_window_passes_and_then_only_the_rate() {
        let limiter = limiter(|_| {});
        let class = Class::Known(7);
        assert_eq!(counts(&limiter, "192.0.2.1", class, 0, 100), [20, 40, 40]);
        assert_eq!(counts(&limiter, "192.0.2.1", class, 1_000, 20), [10, 5, 5]);
        assert_eq!(counts(&limiter, "192.0.2.1", class, 99_000, 20), [20, 0, 0]);
    }

    #[test]
    fn each_network_and_kind_has_its_own_bucket_and_unknown_names_share_one() {
        let limiter = limiter(|_| {});
        let sent = |peer: &str, class| counts(&limiter, peer, class, 0, 30)[0];
        assert_eq!(sent("192.0.2.1", Class::Known(7)), 20);
        assert_eq!(sent("192.0.2.77", Class::Known(7)), 0);
        assert_eq!(sent("192.0.3.1", Class::Known(7)), 20);
        assert_eq!(sent("192.0.2.1", Class::Known(8)), 20);
        assert_eq!(sent("192.0.2.1", Class::Unknown), 10);
        assert_eq!(sent("192.0.2.1", Class::Error), 10);
        assert_eq!(sent("2001:db8::1", Class::Error), 10);
        assert_eq!(sent("2001:db8:0:ff::1", Class::Error), 0);
        assert_eq!(sent("2001:db8:0:100::1", Class::Error), 10);
    }

    #[test]
    fn who_is_exempt_is_never_limited() {
        let limiter = limiter(|_| {});
        assert_eq!(counts(&limiter, "10.1.2.3", Class::Error, 0, 1_000), [1_000, 0, 0]);
        assert_eq!(counts(&limiter, "::ffff:10.1.2.3", Class::Error, 0, 1_000), [1_000, 0, 0]);
    }

    #[test]
    fn the_slip_says_which_of_those_over_the_limit_get_a_short_reply() {
        for (slip, expected) in [(0, [10, 0, 90]), (1, [10, 90, 0]), (3, [10, 30, 60])] {
            let limiter = limiter(|settings| settings.slip = slip);
            assert_eq!(counts(&limiter, "192.0.2.1", Class::Error, 0, 100), expected, "{slip}");
        }
    }

    #[test]
    fn the_table_does_not_grow_and_gives_way_to_the_new() {
        let limiter = limiter(|_| {});
        let size = || limiter.shards.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>();
        let before = size();
        for i in 0..100_000_u32 {
            let peer = IpAddr::V4(std::net::Ipv4Addr::from_bits(0xC000_0000 + (i << 8)));
            assert_eq!(limiter.check(peer, Class::Error, AT(i.into())), Verdict::Send);
        }
        assert_eq!((size(), before), (before, 1_024));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_away_and_breaks_nothing() {
        let limiter = limiter(|_| {});
        assert_eq!(counts(&limiter, "192.0.2.1", Class::Error, 5_000, 20)[0], 10);
        assert_eq!(counts(&limiter, "192.0.2.1", Class::Error, 0, 20)[0], 0);
        assert_eq!(counts(&limiter, "192.0.2.1", Class::Error, 6_000, 20)[0], 5);
        assert_eq!(counts(&limiter, "192.0.2.1", Class::Error, u64::MAX, 20)[0], 10);
    }
}
