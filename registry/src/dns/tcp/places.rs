//! Who has a place among the TCP connections. Pure: no socket and no clock. A place counts as used when a query was
//! finished on it; when all are taken the one that was not used for longest makes room.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};
use tokio_util::sync::CancellationToken;

/// A place that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

#[derive(Debug)]
struct Taken {
    /// When it was last used: its key in the order.
    turn: u64,
    address: IpAddr,
    /// Ends the connection.
    cut: CancellationToken,
}

/// All places.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    per_address: usize,
    turn: u64,
    taken: BTreeMap<Place, Taken>,
    /// The longest unused first.
    order: BTreeMap<u64, Place>,
    addresses: BTreeMap<IpAddr, usize>,
}

impl Places {
    /// `limit` places, at least one, of which one address gets at most `per_address`.
    pub fn new(limit: usize, per_address: usize) -> Self {
        Self {
            limit: limit.max(1),
            per_address: per_address.max(1),
            turn: 0,
            taken: BTreeMap::new(),
            order: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// A place, and what ends the connection that had to make room for it. `None`: the address has too many already.
    pub fn take(
        &mut self,
        address: IpAddr,
        cut: CancellationToken,
    ) -> Option<(Place, Option<CancellationToken>)> {
        if self.addresses.get(&address).is_some_and(|count| *count >= self.per_address) {
            return None;
        }
        let evicted = if self.taken.len() >= self.limit { self.evict() } else { None };
        self.turn += 1;
        let place = Place(self.turn);
        *self.addresses.entry(address).or_default() += 1;
        self.order.insert(self.turn, place);
        self.taken.insert(place, Taken { turn: self.turn, address, cut });
        Some((place, evicted))
    }

    /// Takes the place that was not used for longest away; what ends its connection.
    pub fn evict(&mut self) -> Option<CancellationToken> {
        let place = *self.order.values().next()?;
        self.remove(place).map(|taken| taken.cut)
    }

    /// A query was finished on this place. A place that was taken away meanwhile stays so.
    pub fn used(&mut self, place: Place) {
        let Some(taken) = self.taken.get_mut(&place) else { return };
        self.order.remove(&taken.turn);
        self.turn += 1;
        taken.turn = self.turn;
        self.order.insert(self.turn, place);
    }

    /// The connection has ended.
    pub fn leave(&mut self, place: Place) {
        self.remove(place);
    }

    /// Whether more than half of the places are taken.
    pub fn is_crowded(&self) -> bool {
        self.taken.len() > self.limit / 2
    }

    /// How many are taken.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether none is taken.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    fn remove(&mut self, place: Place) -> Option<Taken> {
        let taken = self.taken.remove(&place)?;
        self.order.remove(&taken.turn);
        if let Entry::Occupied(mut count) = self.addresses.entry(taken.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn take(places: &mut Places, last: u8) -> Option<(Place, CancellationToken, bool)> {
        let cut = CancellationToken::new();
        let (place, evicted) = places.take(from(last), cut.clone())?;
        if let Some(evicted) = &evicted {
            evicted.cancel();
        }
        Some((place, cut, evicted.is_some()))
    }

    #[test]
    fn one_address_gets_no_more_than_its_share() {
        let mut places = Places::new(10, 2);
        let first = take(&mut places, 1).unwrap();
        take(&mut places, 1).unwrap();
        assert!(take(&mut places, 1).is_none());
        take(&mut places, 2).unwrap();
        places.leave(first.0);
        places.leave(first.0);
        take(&mut places, 1).unwrap();
        assert!(take(&mut places, 1).is_none());
        assert_eq!(places.len(), 3);
    }

    #[test]
    fn the_longest_unused_makes_room() {
        let mut places = Places::new(3, 3);
        let [a, b, c] = [1, 2, 3].map(|last| take(&mut places, last).unwrap());
        assert!(!(a.2 || b.2 || c.2));
        places.used(a.0);
        let d = take(&mut places, 4).unwrap();
        assert!(d.2 && b.1.is_cancelled() && !a.1.is_cancelled() && !c.1.is_cancelled());
        // What was taken away can neither be used nor given back once more.
        places.used(b.0);
        places.leave(b.0);
        assert_eq!(places.len(), 3);
        take(&mut places, 5).unwrap();
        assert!(c.1.is_cancelled() && !a.1.is_cancelled());
    }

    #[test]
    fn it_is_crowded_when_more_than_half_are_taken() {
        let mut places = Places::new(4, 4);
        let mut crowded = Vec::new();
        for last in 1..=4 {
            take(&mut places, last).unwrap();
            crowded.push(places.is_crowded());
        }
        assert_eq!(crowded, [false, false, true, true]);
    }
}
