//! The gate that holds back mass expiry: when it closes, and when it opens again.
//!
//! The leader feeds it what ran out; what follows is a command in the log. Time is milliseconds and an argument.

use crate::{name::ServiceName, record::Scope, state::State};
use std::collections::{BTreeMap, VecDeque};

/// Thresholds of protection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Length of the sliding window, ms; default 10 s.
    pub window_ms: u64,
    /// Least leases that must run out for the cluster; default 10.
    pub cluster_min: u32,
    /// Share of the cluster's leases above which it is protected; default 0.15.
    pub cluster_share: f64,
    /// Least leases that must run out for a service; default 3.
    pub service_min: u32,
    /// Share of a service's leases above which it is protected, unless its policy says; default 0.5.
    pub service_share: f64,
    /// Below this share of missing leases protection ends; default 0.05.
    pub exit_share: f64,
    /// Longest protection, cluster time in ms; default 10 min.
    pub max_ms: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            window_ms: 10_000,
            cluster_min: 10,
            cluster_share: 0.15,
            service_min: 3,
            service_share: 0.5,
            exit_share: 0.05,
            max_ms: 600_000,
        }
    }
}

/// A lease that ran out, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RanOut {
    /// Its service.
    pub service: ServiceName,
    /// Its handle.
    pub generation: u64,
    /// Its epoch.
    pub lease_epoch: u32,
}

/// A scope whose gate closes, with the leases that expired within the window and come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which scope.
    pub scope: Scope,
    /// `(generation, lease_epoch)` of what comes back.
    pub restore: Vec<(u64, u32)>,
    /// What was seen.
    pub evidence: String,
}

/// The leader's memory of the last window.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    window: VecDeque<(u64, RanOut)>,
}

impl Gate {
    /// Forgets everything, as a node does that no longer leads.
    pub fn clear(&mut self) {
        self.window.clear();
    }

    /// Notes leases that have expired.
    pub fn expired(&mut self, now_ms: u64, leases: impl IntoIterator<Item = RanOut>) {
        self.window.extend(leases.into_iter().map(|lease| (now_ms, lease)));
    }

    /// Which scopes must be protected before `due` expires. `due` must not hold released leases: they were counted.
    pub fn entries(
        &mut self,
        now_ms: u64,
        due: &[RanOut],
        state: &State,
        thresholds: &Thresholds,
    ) -> Vec<Entry> {
        let start = now_ms.saturating_sub(thresholds.window_ms);
        while self.window.front().is_some_and(|(at, _)| *at < start) {
            self.window.pop_front();
        }
        // What came back meanwhile neither counts nor needs to be restored.
        let expired: Vec<&RanOut> =
            self.window.iter().map(|(_, lease)| lease).filter(|l| still_out(state, l)).collect();
        let mut entries = Vec::new();
        let all = counted(expired.iter().copied().chain(due), |_| true);
        let live = state.lease_counts();
        let total = live.current + live.held + count(expired.len());
        if is_mass(all, total, thresholds.cluster_min, thresholds.cluster_share)
            && !state.protections().contains_key(&Scope::Cluster)
        {
            entries.push(entry(Scope::Cluster, all, total, &expired, |_| true));
        }
        let mut services: BTreeMap<&ServiceName, u32> = BTreeMap::new();
        for lease in expired.iter().copied().chain(due) {
            *services.entry(&lease.service).or_default() += 1;
        }
        for (name, ran_out) in services {
            let Some(service) = state.service(name) else { continue };
            let of_service = |lease: &RanOut| lease.service == *name;
            let gone = counted(expired.iter().copied(), of_service);
            let total = service.leases.current + service.leases.held + gone;
            let policy = service.policy.as_ref().and_then(|policy| policy.protection_threshold);
            let share = policy.unwrap_or(thresholds.service_share);
            let scope = Scope::Service(name.clone());
            if is_mass(ran_out, total, thresholds.service_min, share)
                && !state.protections().contains_key(&scope)
            {
                entries.push(entry(scope, ran_out, total, &expired, of_service));
            }
        }
        entries
    }
}

/// Why a scope's protection ends now, if it does.
pub fn exit(
    state: &State,
    scope: &Scope,
    thresholds: &Thresholds,
) -> Option<crate::record::Reason> {
    use crate::record::Reason;
    let protection = state.protections().get(scope)?;
    if state.cluster_ms().saturating_sub(protection.since_ms) >= thresholds.max_ms {
        return Some(Reason::ProtectionTimedOut);
    }
    let of_scope = |name: &ServiceName| match scope {
        Scope::Cluster => true,
        Scope::Service(service) => service == name,
    };
    // Released leases do not count again.
    let held = state.held().iter().filter(|generation| !state.released().contains(*generation));
    let held = held.filter(|generation| {
        state.by_generation(**generation).is_some_and(|record| of_scope(&record.name.service))
    });
    let missing = count(held.count());
    let live = match scope {
        Scope::Cluster => state.lease_counts().current,
        Scope::Service(name) => state.service(name).map_or(0, |service| service.leases.current),
    };
    let few = f64::from(missing) < thresholds.exit_share * f64::from(live + missing);
    (few || live + missing == 0).then_some(Reason::ProtectionEnded)
}

fn still_out(state: &State, lease: &RanOut) -> bool {
    use crate::record::{Lease, LeaseState};
    let expired = Lease { epoch: lease.lease_epoch, state: LeaseState::Expired };
    state.by_generation(lease.generation).is_some_and(|record| record.lease == Some(expired))
}

fn is_mass(ran_out: u32, total: u32, least: u32, share: f64) -> bool {
    ran_out >= least && f64::from(ran_out) > share * f64::from(total)
}

fn counted<'a>(
    leases: impl Iterator<Item = &'a RanOut>,
    of_scope: impl Fn(&RanOut) -> bool,
) -> u32 {
    count(leases.filter(|lease| of_scope(lease)).count())
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn entry(
    scope: Scope,
    ran_out: u32,
    total: u32,
    expired: &[&RanOut],
    of_scope: impl Fn(&RanOut) -> bool,
) -> Entry {
    let evidence = format!("{ran_out} of {total} leases ran out within the window");
    let restore = expired.iter().filter(|lease| of_scope(lease));
    let restore = restore.map(|lease| (lease.generation, lease.lease_epoch)).collect();
    Entry { scope, restore, evidence }
}
