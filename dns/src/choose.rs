//! Which records an answer holds where not all fit, and in which order they stand.
//!
//! Pure arithmetic over weights. Two rules: what a client is shown of a large service stays the same from query to query
//! (HAProxy drops a server that is missing from one answer), and the order is new in each answer.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::net::IpAddr;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bits of the client's address that stand for the client: all of IPv4, the site of IPv6.
const V6_SITE: usize = 7;

/// Something that can be chosen.
pub(crate) trait Weighted {
    /// Relative share of traffic; 0 counts as 1 where it is chosen at all.
    fn weight(&self) -> u32;
    /// What makes it the same from answer to answer.
    fn identity(&self) -> u64;
    /// Lower tiers go first, whatever the weights.
    fn tier(&self) -> u16;
}

/// A number that stands for the client: equal for all that share a subset.
pub(crate) fn client(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(ip) => xxh3_64(&ip.octets()),
        IpAddr::V6(ip) => xxh3_64(&ip.octets()[..V6_SITE]),
    }
}

/// Chooses what is shown: as many as `most` and `room` bytes allow, the same ones for the same client; then puts them into
/// a new order.
pub(crate) fn choose<T: Weighted>(
    items: &mut Vec<T>,
    (most, mut room): (usize, usize),
    size: impl Fn(&T) -> usize,
    peer: IpAddr,
    random: u64,
) {
    if items.len() > most || items.iter().map(&size).sum::<usize>() > room {
        rank(items, client(peer));
        items.truncate(most);
        let fits = |item: &&T| room.checked_sub(size(item)).map(|left| room = left).is_some();
        let fit = items.iter().take_while(fits).count();
        items.truncate(fit);
    }
    shuffle(items, random);
}

/// Orders by tier, then by rendezvous of client and item: any beginning of the row is the client's stable subset. When
/// an item comes or goes, it alone comes or goes in the rows of the others.
pub(crate) fn rank<T: Weighted>(items: &mut Vec<T>, client: u64) {
    let mut keyed: Vec<(u16, f64, T)> = items
        .drain(..)
        .map(|item| {
            let bits = xxh3_64_with_seed(&item.identity().to_be_bytes(), client);
            (item.tier(), wait(bits, item.weight()), item)
        })
        .collect();
    keyed.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    items.extend(keyed.into_iter().map(|(_, _, item)| item));
}

/// Puts the items of each tier into a new order: turned from a random start where their weights are equal, else a random
/// permutation in which an item stands first with a probability of its share of the weights.
pub(crate) fn shuffle<T: Weighted>(items: &mut [T], random: u64) {
    items.sort_by_key(|item| (item.tier(), item.identity()));
    let mut dice = dice(random);
    for tier in items.chunk_by_mut(|a, b| a.tier() == b.tier()) {
        if tier.iter().all(|item| item.weight() == tier[0].weight()) {
            tier.rotate_left(start(&mut dice, tier.len()));
        } else {
            tier.sort_by_cached_key(|item| Wait(wait(dice.random(), item.weight())));
        }
    }
}

/// The dice of one answer.
pub(crate) fn dice(random: u64) -> SmallRng {
    SmallRng::seed_from_u64(random)
}

/// Which of `count` equal items (at least one) goes first.
pub(crate) fn start(dice: &mut SmallRng, count: usize) -> usize {
    dice.random_range(0..count)
}

/// When an item's turn comes: exponentially distributed with its weight as rate, so that the first of a row is item i
/// with probability weight(i) / sum (Efraimidis and Spirakis 2006).
fn wait(bits: u64, weight: u32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let uniform = ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(weight.max(1))
}

struct Wait(f64);

impl PartialEq for Wait {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Wait {}

impl PartialOrd for Wait {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Wait {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The SRV weight of an instance. HAProxy divides by 256 and rounds up, so that smaller numbers would all be 1. Where
/// the largest weight of the service does not fit, all are scaled down, but none to nothing.
pub(crate) fn srv_weight(weight: u16, largest: u16) -> u16 {
    const TOP: u32 = 255;
    let (weight, largest) = (u32::from(weight), u32::from(largest).max(1));
    let scaled = if largest <= TOP {
        weight.min(TOP)
    } else {
        // Rounded to the nearest, halves up.
        ((2 * TOP * weight + largest) / (2 * largest)).clamp(1, TOP)
    };
    u16::try_from(scaled * 256).unwrap_or(u16::MAX)
}

/// The SRV priority: the owner's tiers first, within them the nearest (distance 0 to 3) first.
pub(crate) fn srv_priority(tier: u16, distance: u8) -> u16 {
    u16::try_from(1 + 4 * u32::from(tier) + u32::from(distance)).unwrap_or(u16::MAX)
}
