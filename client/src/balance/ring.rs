//! Ring hash: a key belongs to the next point on a ring. When one of n endpoints comes or goes, about 1/n of the keys
//! move (consistent hashing after Karger; sizes as in gRPC proposal A42).

use crate::dice::mix;

/// Points of an endpoint of the usual weight.
const POINTS_EACH: f64 = 256.0;
/// About the most points; each endpoint has one at least.
const POINTS_MAX: f64 = 262_144.0;

/// Points in order of their place, each with the index of its endpoint.
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// The ring of endpoints given as (hash of the identity, weight above 0).
    pub(super) fn new(members: &[(u64, f64)]) -> Self {
        let unit = points_of_weight(members);
        let mut points = Vec::new();
        for (at, (hash, weight)) in members.iter().enumerate() {
            // Points depend on the endpoint alone, so that others keep theirs when it goes.
            let count = ((weight * unit).round() as u64).max(1);
            points.extend((0..count).map(|i| (mix(hash ^ mix(i + 1)), at as u32)));
        }
        points.sort_unstable();
        Self(points.into())
    }

    /// Endpoints in the order in which a key wants them; an endpoint may come several times.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let first = self.0.partition_point(|(place, _)| *place < key);
        let (before, after) = self.0.split_at(first);
        after.iter().chain(before).map(|(_, at)| *at as usize)
    }
}

/// Points for a weight of 1: a power of two, so that it seldom changes when an endpoint comes or goes. Whenever it
/// does, keys move between endpoints that stay.
fn points_of_weight(members: &[(u64, f64)]) -> f64 {
    let total: f64 = members.iter().map(|(_, weight)| weight).sum();
    let mean = total / members.len() as f64;
    let usual = mean.log2().round().exp2();
    let crowd = (total / usual * POINTS_EACH / POINTS_MAX).max(1.0).log2().ceil().exp2();
    POINTS_EACH / crowd / usual
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(ring: &Ring, key: u64) -> usize {
        ring.walk(mix(key)).next().unwrap()
    }

    fn members(count: u64) -> Vec<(u64, f64)> {
        (0..count).map(|id| (mix(id + 1_000), 100.0)).collect()
    }

    /// Share of 100,000 keys that change their owner.
    fn moved(before: &[(u64, f64)], after: &[(u64, f64)]) -> f64 {
        let (old, new) = (Ring::new(before), Ring::new(after));
        let moved = |key: &u64| before[owner(&old, *key)].0 != after[owner(&new, *key)].0;
        (0..100_000_u64).filter(moved).count() as f64 / 100_000.0
    }

    #[test]
    fn one_endpoint_more_or_less_moves_its_share_of_keys() {
        for count in [3, 10, 50, 200] {
            let all = members(count);
            let bound = 1.0 / count as f64 + 0.1;
            for gone in [0, all.len() / 2, all.len() - 1] {
                let mut fewer = all.clone();
                fewer.remove(gone);
                let (leaves, comes) = (moved(&all, &fewer), moved(&fewer, &all));
                assert!(leaves <= bound, "{count}: {leaves}");
                assert!(comes <= bound, "{count}: {comes}");
            }
        }
    }

    #[test]
    fn shares_follow_weights() {
        let mut members = members(10);
        members[0].1 = 300.0;
        let ring = Ring::new(&members);
        let mut owned = [0.0; 10];
        for key in 0..120_000 {
            owned[owner(&ring, key)] += 1.0;
        }
        assert!((27_000.0..33_000.0).contains(&owned[0]), "{owned:?}");
        // A share of 1/12 stands on about 200 points: its deviation is about 7 %, three of them 21 %.
        assert!(owned[1..].iter().all(|keys| (7_900.0..12_100.0).contains(keys)), "{owned:?}");
    }

    #[test]
    fn a_walk_reaches_every_endpoint_and_the_ring_has_a_bound() {
        let ring = Ring::new(&members(5));
        let reached: std::collections::BTreeSet<_> = ring.walk(7).collect();
        assert_eq!(reached.len(), 5);
        let large = Ring::new(&members(20_000));
        assert!(large.0.len() <= 282_144, "{}", large.0.len());
    }
}
