//! When a probe may run: at most so many a second to one target and to one address. What comes too soon is given the
//! next moment that is free for both, and leaves those before it to others; it is late, never failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// Probes of one `ip:port` are at least this far apart: 10 a second.
const TARGET_GAP_US: u64 = 100_000;
/// Each probe of an IP address has one of these to itself: 200 a second.
const ADDRESS_SLOT_US: u64 = 5_000;
/// How often moments that have passed are forgotten.
const FORGET_US: u64 = 1_000_000;

/// The moments that are taken, in microseconds. At most one for each probe that waits or ran within the last second.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The next free moment of each target.
    targets: BTreeMap<SocketAddr, u64>,
    /// The slots of each address that are taken, by number. Not the next free one: a target that is asked too often
    /// takes late slots, and must not make the others of its address wait for them.
    addresses: BTreeMap<IpAddr, BTreeSet<u64>>,
    /// Off where everything is on loopback, which has few addresses and nobody to protect.
    by_address: bool,
    forget: u64,
}

impl Pace {
    pub(super) fn new(by_address: bool) -> Self {
        Self { by_address, ..Self::default() }
    }

    /// Takes the next free moment from `now_us` on.
    pub(super) fn take(&mut self, target: SocketAddr, now_us: u64) -> u64 {
        self.forget(now_us);
        let at = self.next(target, now_us);
        self.reserve(target, at);
        at
    }

    /// As [`Pace::take`], up to `until_us`. `None`: nothing is free so soon, and nothing was taken.
    pub(super) fn take_until(
        &mut self,
        target: SocketAddr,
        now_us: u64,
        until_us: u64,
    ) -> Option<u64> {
        self.forget(now_us);
        let at = self.next(target, now_us);
        if at > until_us {
            return None;
        }
        self.reserve(target, at);
        Some(at)
    }

    fn next(&self, target: SocketAddr, now_us: u64) -> u64 {
        let at = self.targets.get(&target).copied().unwrap_or(0).max(now_us);
        if !self.by_address {
            return at;
        }
        let mut slot = at.div_ceil(ADDRESS_SLOT_US);
        if let Some(taken) = self.addresses.get(&target.ip()) {
            for taken in taken.range(slot..) {
                if *taken > slot {
                    break;
                }
                slot += 1;
            }
        }
        slot * ADDRESS_SLOT_US
    }

    fn reserve(&mut self, target: SocketAddr, at: u64) {
        self.targets.insert(target, at + TARGET_GAP_US);
        if self.by_address {
            self.addresses.entry(target.ip()).or_default().insert(at / ADDRESS_SLOT_US);
        }
    }

    fn forget(&mut self, now_us: u64) {
        if now_us < self.forget {
            return;
        }
        self.forget = now_us + FORGET_US;
        self.targets.retain(|_, free| *free > now_us);
        self.addresses.retain(|_, taken| {
            *taken = taken.split_off(&now_us.div_ceil(ADDRESS_SLOT_US));
            !taken.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_target_is_probed_at_most_ten_times_a_second() {
        let mut pace = Pace::new(false);
        let taken: Vec<u64> = (0..25).map(|_| pace.take(at("10.0.0.1:80"), 7)).collect();
        for window in taken.windows(11) {
            assert!(window[10] - window[0] >= 1_000_000, "{taken:?}");
        }
        assert_eq!(taken[24], 7 + 24 * TARGET_GAP_US);
        assert_eq!(pace.take(at("10.0.0.1:81"), 7), 7);
    }

    #[test]
    fn an_address_is_probed_at_most_two_hundred_times_a_second() {
        let all = |by_address| {
            let mut pace = Pace::new(by_address);
            let target = |port| SocketAddr::from(([10, 0, 0, 1], port));
            (1..=401).map(|port| pace.take(target(port), 0)).collect::<Vec<u64>>()
        };
        let limited = all(true);
        for window in limited.windows(201) {
            assert!(window[200] - window[0] >= 1_000_000);
        }
        assert!(all(false).iter().all(|at| *at == 0));
    }

    #[test]
    fn a_busy_port_does_not_slow_the_others_of_its_address() {
        let mut pace = Pace::new(true);
        let busy: Vec<u64> = (0..50).map(|_| pace.take(at("10.0.0.1:80"), 0)).collect();
        assert_eq!(busy[49], 49 * TARGET_GAP_US);
        let target = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let others: Vec<u64> = (1_000..1_100).map(|port| pace.take(target(port), 0)).collect();
        // 100 of 5 ms, and the few of those that the busy one has.
        assert!(others.iter().all(|at| *at <= 110 * ADDRESS_SLOT_US), "{others:?}");
    }

    #[test]
    fn both_limits_hold_together() {
        // 256 instances of one host with two checks each, all of them probed once a second for ten seconds.
        let mut pace = Pace::new(true);
        let mut taken: BTreeMap<SocketAddr, Vec<u64>> = BTreeMap::new();
        for second in 0..10 {
            for port in (1..=256).flat_map(|port| [port, port]) {
                let target = SocketAddr::from(([10, 0, 0, 1], port));
                let at = pace.take(target, second * 1_000_000);
                taken.entry(target).or_default().push(at);
            }
        }
        for of_target in taken.values_mut() {
            of_target.sort_unstable();
            assert!(of_target.windows(2).all(|pair| pair[1] - pair[0] >= TARGET_GAP_US));
        }
        let mut all: Vec<u64> = taken.into_values().flatten().collect();
        all.sort_unstable();
        assert!(all.windows(201).all(|window| window[200] - window[0] >= 1_000_000));
        // 5,120 probes take what 200 a second take: no moment is left out.
        assert_eq!(all.last(), Some(&(5_119 * ADDRESS_SLOT_US)));
    }

    #[test]
    fn what_would_wait_too_long_takes_nothing() {
        let mut pace = Pace::new(true);
        let target = at("10.0.0.1:80");
        let taken: Vec<Option<u64>> =
            (0..1_000).map(|_| pace.take_until(target, 0, 1_000_000)).collect();
        assert_eq!(taken.iter().flatten().count(), 11, "at 0 ms to 1,000 ms");
        assert_eq!(pace.addresses[&target.ip()].len(), 11);
        assert_eq!(pace.take_until(target, 100_000, 1_100_000), Some(1_100_000));
        assert_eq!(pace.take_until(at("10.0.0.1:81"), 100_000, 200_000), Some(105_000));
    }

    #[test]
    fn what_has_passed_is_forgotten() {
        let mut pace = Pace::new(true);
        for port in 1..=1_000 {
            pace.take(SocketAddr::from(([10, 0, 0, 1], port)), 0);
        }
        pace.take(at("10.0.0.2:1"), 60_000_000);
        assert_eq!((pace.targets.len(), pace.addresses.len()), (1, 1));
    }
}
