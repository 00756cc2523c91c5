//! Maglev hashing: a table in which each endpoint owns its share of slots; a key is one look (Eisenbud et al., NSDI
//! 2016, section 3.4). Shares are evener than on a ring, a change moves a few more keys.

use crate::dice::mix;

/// Slots: a prime, well above the number of endpoints.
const SLOTS: usize = 65_537;
/// For more endpoints than a hundredth of the slots, so that shares stay even.
const SLOTS_LARGE: usize = 655_373;
/// Slots that are tried for one key before the caller looks elsewhere.
const TRIES: u64 = 64;
const FREE: u32 = u32::MAX;

/// Slots, each with the index of its endpoint.
#[derive(Debug)]
pub(super) struct Maglev(Box<[u32]>);

/// The order in which one endpoint wants the slots: a walk in equal steps.
struct Wishes {
    next: usize,
    step: usize,
    /// Turns that it may take now: grows by its relative weight in each round.
    turns: f64,
    weight: f64,
}

impl Maglev {
    /// The table of endpoints given as (hash of the identity, weight above 0), in order of their identity: the order
    /// of the list must not matter. At least one.
    pub(super) fn new(members: &[(u64, f64)]) -> Self {
        let size = if members.len() * 100 > SLOTS { SLOTS_LARGE } else { SLOTS };
        let mean = members.iter().map(|(_, weight)| weight).sum::<f64>() / members.len() as f64;
        let mut wishes: Vec<_> = members
            .iter()
            .map(|(hash, weight)| Wishes {
                next: (mix(hash ^ 1) % size as u64) as usize,
                step: (mix(hash ^ 2) % (size as u64 - 1) + 1) as usize,
                turns: 0.0,
                weight: weight / mean,
            })
            .collect();
        let mut table = vec![FREE; size];
        let mut left = size;
        while left > 0 {
            for (at, wish) in wishes.iter_mut().enumerate() {
                wish.turns += wish.weight;
                while wish.turns >= 1.0 && left > 0 {
                    wish.turns -= 1.0;
                    while table[wish.next] != FREE {
                        wish.next = (wish.next + wish.step) % size;
                    }
                    table[wish.next] = at as u32;
                    left -= 1;
                }
            }
        }
        Self(table.into())
    }

    /// Endpoints in the order in which a key wants them, at most [`TRIES`]; an endpoint may come several times.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let size = self.0.len() as u64;
        let slot = move |i: u64| if i == 0 { key % size } else { mix(key ^ i) % size };
        (0..TRIES).map(move |i| self.0[slot(i) as usize] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u64) -> Vec<(u64, f64)> {
        (0..count).map(|id| (mix(id + 1_000), 100.0)).collect()
    }

    fn slots(members: &[(u64, f64)]) -> Vec<u64> {
        Maglev::new(members).0.iter().map(|at| members[*at as usize].0).collect()
    }

    #[test]
    fn one_endpoint_more_or_less_moves_its_share_of_slots() {
        for count in [3, 10, 50, 200] {
            let all = members(count);
            let before = slots(&all);
            for gone in [0, all.len() / 2, all.len() - 1] {
                let mut fewer = all.clone();
                fewer.remove(gone);
                let after = slots(&fewer);
                let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
                let share = moved as f64 / before.len() as f64;
                assert!(share <= 1.0 / count as f64 + 0.1, "{count}: {share}");
            }
        }
    }

    #[test]
    fn shares_follow_weights_within_a_hundredth() {
        let mut members = members(10);
        members[3].1 = 300.0;
        let mut owned = [0.0; 10];
        for at in Maglev::new(&members).0.iter() {
            owned[*at as usize] += 12.0 / SLOTS as f64;
        }
        for (at, share) in owned.iter().enumerate() {
            let expected = if at == 3 { 3.0 } else { 1.0 };
            assert!((share / expected - 1.0_f64).abs() < 0.01, "{owned:?}");
        }
    }

    #[test]
    fn many_endpoints_get_a_larger_table_and_all_have_slots() {
        let table = Maglev::new(&members(2_000));
        let owners: std::collections::BTreeSet<_> = table.0.iter().collect();
        assert_eq!((table.0.len(), owners.len()), (SLOTS_LARGE, 2_000));
    }

    #[test]
    fn a_walk_tries_others_and_ends() {
        let table = Maglev::new(&members(5));
        let walk: Vec<_> = table.walk(12_345).collect();
        let others: std::collections::BTreeSet<_> = walk.iter().collect();
        assert_eq!((walk.len(), others.len()), (64, 5));
    }
}
