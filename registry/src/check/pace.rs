//! When a probe may run: at most so many a second to one target and to one address. What comes too soon is given the
//! next free moment, in order; it is late, never failed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// Probes of one `ip:port` are at least this far apart: 10 a second.
const TARGET_GAP_US: u64 = 100_000;
/// Probes of one IP address are at least this far apart: 200 a second.
const ADDRESS_GAP_US: u64 = 5_000;
/// How often moments that have passed are forgotten.
const FORGET_US: u64 = 1_000_000;

/// The next free moment of each target, in microseconds. At most one entry for each target that waits or was probed
/// within the last second.
#[derive(Debug, Default)]
pub(super) struct Pace {
    targets: BTreeMap<SocketAddr, u64>,
    addresses: BTreeMap<IpAddr, u64>,
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
        if now_us >= self.forget {
            self.forget = now_us + FORGET_US;
            self.targets.retain(|_, free| *free > now_us);
            self.addresses.retain(|_, free| *free > now_us);
        }
        let mut at = self.targets.get(&target).copied().unwrap_or(0).max(now_us);
        if self.by_address {
            at = self.addresses.get(&target.ip()).copied().unwrap_or(0).max(at);
            self.addresses.insert(target.ip(), at + ADDRESS_GAP_US);
        }
        self.targets.insert(target, at + TARGET_GAP_US);
        at
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
    fn what_has_passed_is_forgotten() {
        let mut pace = Pace::new(true);
        for port in 1..=1_000 {
            pace.take(SocketAddr::from(([10, 0, 0, 1], port)), 0);
        }
        pace.take(at("10.0.0.2:1"), 60_000_000);
        assert_eq!((pace.targets.len(), pace.addresses.len()), (1, 1));
    }
}
