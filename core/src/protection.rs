//! The gate that holds back mass expiry: when it closes, and when it opens again.
//!
//! The leader feeds it what ran out; what follows is a command in the log. Time is milliseconds and an argument.

use crate::{
    name::{InstanceName, ServiceName},
    record::{LeaseState, Reason, Scope},
    state::{LeaseCounts, State},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

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
    /// Its instance.
    pub name: Arc<InstanceName>,
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

    /// Forgets what ran out in a scope whose protection has ended: released leases do not count again.
    pub fn forget(&mut self, scope: &Scope) {
        self.window.retain(|(_, lease)| !covers(scope, &lease.name.service));
    }

    /// Notes leases that ran out: expired, or held by the protection of one scope while they count for another.
    /// Not those that expired because they were released.
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
        let mut all = Tally::default();
        let mut services: BTreeMap<&ServiceName, Tally> = BTreeMap::new();
        for (_, lease) in &self.window {
            // What came back meanwhile does not count.
            let Some(out) = still_out(state, lease) else { continue };
            all.ran_out(lease, out);
            services.entry(&lease.name.service).or_default().ran_out(lease, out);
        }
        for lease in due {
            all.due += 1;
            services.entry(&lease.name.service).or_default().due += 1;
        }
        let unprotected = |scope: &Scope| !state.protections().contains_key(scope);
        let mut entries = Vec::new();
        let total = listed(state, &Scope::Cluster) + all.gone();
        let (least, share) = (thresholds.cluster_min, thresholds.cluster_share);
        if all.is_mass(total, least, share) && unprotected(&Scope::Cluster) {
            entries.push(all.entry(Scope::Cluster, total));
        }
        for (name, tally) in services {
            let scope = Scope::Service(name.clone());
            // Counting what is released takes its time: only where the number alone might be enough.
            if tally.count() < thresholds.service_min || !unprotected(&scope) {
                continue;
            }
            let policy = state.service(name).and_then(|service| service.policy.as_ref());
            let share = policy.and_then(|policy| policy.protection_threshold);
            let total = listed(state, &scope) + tally.gone();
            if tally.is_mass(
                total,
                thresholds.service_min,
                share.unwrap_or(thresholds.service_share),
            ) {
                entries.push(tally.entry(scope, total));
            }
        }
        entries
    }
}

/// What ran out in one scope within the window.
#[derive(Debug, Default)]
struct Tally {
    /// `(generation, lease_epoch)` of those that expired.
    expired: Vec<(u64, u32)>,
    /// Expired and removed already: these do not come back.
    evicted: u32,
    /// Held back, by protection or by a passing check.
    held: u32,
    due: u32,
}

impl Tally {
    fn ran_out(&mut self, lease: &RanOut, out: Out) {
        match out {
            Out::Expired => self.expired.push((lease.generation, lease.lease_epoch)),
            Out::Evicted => self.evicted += 1,
            Out::Held => self.held += 1,
        }
    }

    /// Who is not listed any more.
    fn gone(&self) -> u32 {
        count(self.expired.len()) + self.evicted
    }

    fn count(&self) -> u32 {
        self.gone() + self.held + self.due
    }

    fn is_mass(&self, total: u32, least: u32, share: f64) -> bool {
        self.count() >= least && f64::from(self.count()) > share * f64::from(total)
    }

    fn entry(self, scope: Scope, total: u32) -> Entry {
        let evidence = format!("{} of {total} leases ran out within the window", self.count());
        Entry { scope, restore: self.expired, evidence }
    }
}

/// Why a scope's protection ends now, if it does.
pub fn exit(state: &State, scope: &Scope, thresholds: &Thresholds) -> Option<Reason> {
    let protection = state.protections().get(scope)?;
    if state.cluster_ms().saturating_sub(protection.since_ms) >= thresholds.max_ms {
        return Some(Reason::ProtectionTimedOut);
    }
    let total = listed(state, scope);
    let missing = total - counts(state, scope).current;
    let few = f64::from(missing) < thresholds.exit_share * f64::from(total);
    (few || total == 0).then_some(Reason::ProtectionEnded)
}

/// Leases that run or are held back, without those that were released: these are on their way out.
fn listed(state: &State, scope: &Scope) -> u32 {
    let released = match scope {
        Scope::Cluster => state.released().len(),
        Scope::Service(service) => {
            let of_service = |generation: &&u64| {
                state.by_generation(**generation).is_some_and(|r| r.name.service == *service)
            };
            state.released().iter().filter(of_service).count()
        }
    };
    let leases = counts(state, scope);
    leases.current + leases.lost + leases.held.saturating_sub(count(released))
}

fn counts(state: &State, scope: &Scope) -> LeaseCounts {
    match scope {
        Scope::Cluster => state.lease_counts(),
        Scope::Service(name) => state.service(name).map_or_else(Default::default, |s| s.leases),
    }
}

fn covers(scope: &Scope, service: &ServiceName) -> bool {
    match scope {
        Scope::Cluster => true,
        Scope::Service(name) => name == service,
    }
}

/// What came of a lease that ran out.
#[derive(Clone, Copy)]
enum Out {
    Expired,
    Evicted,
    Held,
}

/// How a lease that ran out stands, unless it was renewed or released since, or its instance was taken away or came back.
fn still_out(state: &State, lease: &RanOut) -> Option<Out> {
    let Some(record) = state.by_generation(lease.generation) else {
        // Who was taken over or deregistered is remembered as retired.
        let came_back = state.instance(&lease.name).is_some();
        return (!came_back && state.retired(lease.generation).is_none()).then_some(Out::Evicted);
    };
    let standing = record.lease.filter(|standing| standing.epoch == lease.lease_epoch)?;
    match standing.state {
        LeaseState::Held if state.released().contains(&lease.generation) => None,
        LeaseState::Held | LeaseState::Lost => Some(Out::Held),
        LeaseState::Expired => Some(Out::Expired),
        LeaseState::Current => None,
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
