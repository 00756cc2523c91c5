//! One endpoint as callers of this process know it: what the registry says, and what its own calls have shown.
//!
//! [`Endpoint`] is immutable and replaced when the registry changes its record; [`State`] lives as long as the same
//! owner listens at the same address, and is shared by all its records. State is atomics only: no call waits for
//! another. Times in atomics are whole milliseconds since the balancer began, which wrap after 49 days: only differences count.

use super::latency::Latency;
use rollcall_proto::v1;
use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU8, AtomicU32,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};
use tokio::time::Instant;
use tonic::transport::Channel;
use xxhash_rust::xxh3::xxh3_64;

const UNTOLD: u8 = u8::MAX;
/// Least time between two attempts that a hedge beat and that both count: in a pause of the endpoint all that are on
/// their way are beaten together, and five of them must not look like five failures in a row.
const BEATEN_APART_MS: u32 = 200;

/// Who listens where. A new owner of the same id is somebody else: nothing is known of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Id of the instance.
    pub instance_id: Arc<str>,
    /// Its owner.
    pub generation: u64,
    /// Where it listens.
    pub address: SocketAddr,
}

/// An endpoint that calls may go to.
pub struct Endpoint {
    pub(super) key: Key,
    pub(super) instance: Arc<v1::Instance>,
    /// `ip:port`, for URIs.
    pub(super) authority: Arc<str>,
    /// Stable number of the instance id, for ring, table and subset.
    pub(super) hash: u64,
    pub(super) state: Arc<State>,
}

/// Whether calls may go to an endpoint, as far as this process has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Takes its share.
    Active,
    /// Taken out for a while after failures.
    Ejected,
    /// Its time is over: the next call tries it.
    Due,
    /// One call is trying it.
    Probed,
}

/// What this process has seen of an endpoint.
#[derive(Debug)]
pub(super) struct State {
    /// When it was first seen; `None` in the first list, which has no newcomers.
    pub(super) since: Option<Instant>,
    pub(super) latency: Latency,
    in_flight: AtomicU32,
    /// Failures in a row.
    streak: AtomicU32,
    /// Since the last sweep.
    successes: AtomicU32,
    failures: AtomicU32,
    standing: AtomicU8,
    ejected_until: AtomicU32,
    /// When a hedge beat it last, of those times that count.
    beaten_at: AtomicU32,
    /// Ejections in a row: each lasts longer.
    ejections: AtomicU32,
    /// The last reported utilisation and when, see [`super::report`].
    pub(super) report: super::report::Cell,
    /// How busy it is as the registry passes it on, in percent; [`UNTOLD`] = it does not tell.
    utilization: AtomicU8,
    channel: OnceLock<Channel>,
}

impl Endpoint {
    pub(super) fn new(key: Key, instance: Arc<v1::Instance>, state: Arc<State>) -> Self {
        let authority = key.address.to_string().into();
        let hash = xxh3_64(key.instance_id.as_bytes());
        Self { key, instance, authority, hash, state }
    }

    /// Who listens where.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.key.address
    }

    /// Everything that the registry says about the instance.
    pub fn instance(&self) -> &Arc<v1::Instance> {
        &self.instance
    }

    /// Calls of this process that are on their way to it now.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight()
    }

    /// Whether calls may go to it.
    pub fn standing(&self) -> Standing {
        self.state.standing()
    }

    /// Weight that its owner declared, halved while it is degraded.
    pub(super) fn declared_weight(&self) -> f64 {
        let weight = self.instance.spec.as_ref().and_then(|spec| spec.weight);
        let weight = f64::from(weight.unwrap_or(100));
        let degraded = self.instance.health_status() == v1::HealthStatus::Degraded;
        if degraded { weight / 2.0 } else { weight }
    }

    pub(super) fn priority(&self) -> u32 {
        self.instance.spec.as_ref().map_or(0, |spec| spec.priority)
    }

    /// Region and zone; empty where unknown.
    pub(super) fn place(&self) -> (&str, &str) {
        let locality = self.instance.spec.as_ref().and_then(|spec| spec.locality.as_ref());
        locality.map_or(("", ""), |at| (&at.region, &at.zone))
    }

    pub(super) fn is_routable(&self) -> bool {
        use v1::HealthStatus::{Degraded, Healthy};
        matches!(self.instance.health_status(), Healthy | Degraded)
    }

    pub(super) fn is_enabled(&self) -> bool {
        // An unset state is that of hand-made lists.
        use v1::AdminState::{Enabled, Unspecified};
        matches!(self.instance.admin_state(), Enabled | Unspecified)
    }

    pub(super) fn channel(&self, open: impl FnOnce(&Self) -> Channel) -> Channel {
        self.state.channel.get_or_init(|| open(self)).clone()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("instance_id", &self.key.instance_id)
            .field("address", &self.key.address)
            .field("in_flight", &self.in_flight())
            .field("standing", &self.standing())
            .finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn new(since: Option<Instant>) -> Self {
        Self {
            since,
            latency: Latency::default(),
            in_flight: AtomicU32::new(0),
            streak: AtomicU32::new(0),
            successes: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            standing: AtomicU8::new(Standing::Active as u8),
            ejected_until: AtomicU32::new(0),
            beaten_at: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            report: super::report::Cell::default(),
            utilization: AtomicU8::new(UNTOLD),
            channel: OnceLock::new(),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Percent, where it tells.
    pub(super) fn utilization(&self) -> Option<u8> {
        Some(self.utilization.load(Relaxed)).filter(|percent| *percent != UNTOLD)
    }

    pub(super) fn set_utilization(&self, percent: Option<u8>) {
        self.utilization.store(percent.unwrap_or(UNTOLD), Relaxed);
    }

    /// Takes a place; `false` = all `limit` are taken. Without a limit there is always one.
    pub(super) fn enter(&self, limit: Option<u32>) -> bool {
        let Some(limit) = limit else {
            self.in_flight.fetch_add(1, Relaxed);
            return true;
        };
        let take = |taken: u32| (taken < limit).then_some(taken + 1);
        self.in_flight.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn succeeded(&self) {
        // Read first: the streak is nearly always 0, and a store would move the cache line.
        if self.streak.load(Relaxed) != 0 {
            self.streak.store(0, Relaxed);
        }
        self.successes.fetch_add(1, Relaxed);
    }

    /// Returns the failures in a row, this one included. One that does not count for the streak leaves it alone.
    pub(super) fn failed(&self, counts: bool) -> u32 {
        self.failures.fetch_add(1, Relaxed);
        if counts { self.streak.fetch_add(1, Relaxed) + 1 } else { self.streak.load(Relaxed) }
    }

    /// Its hedge answered first. Returns the failures in a row, this one included where it counts.
    pub(super) fn beaten(&self, now_ms: u32) -> u32 {
        let last = self.beaten_at.load(Relaxed);
        // Clocks of two threads may cross: what is a little to come is now.
        let apart = BEATEN_APART_MS..=u32::MAX - BEATEN_APART_MS;
        let counts = apart.contains(&now_ms.wrapping_sub(last))
            && self.beaten_at.compare_exchange(last, now_ms, Relaxed, Relaxed).is_ok();
        if counts { self.streak.fetch_add(1, Relaxed) + 1 } else { self.streak.load(Relaxed) }
    }

    /// Successes and failures since the last call.
    pub(super) fn take_counts(&self) -> (u32, u32) {
        (self.successes.swap(0, Relaxed), self.failures.swap(0, Relaxed))
    }

    pub(super) fn standing(&self) -> Standing {
        match self.standing.load(Acquire) {
            0 => Standing::Active,
            1 => Standing::Ejected,
            2 => Standing::Due,
            _ => Standing::Probed,
        }
    }

    /// Moves from one standing to another; `false` = it was not there any more.
    pub(super) fn pass(&self, from: Standing, to: Standing) -> bool {
        // Who sees the new standing sees what was stored before, such as the time of an ejection.
        self.standing.compare_exchange(from as u8, to as u8, AcqRel, Relaxed).is_ok()
    }

    pub(super) fn ejected_until(&self) -> u32 {
        self.ejected_until.load(Relaxed)
    }

    pub(super) fn set_ejected_until(&self, at: u32) {
        self.ejected_until.store(at, Relaxed);
    }

    /// Ejections in a row.
    pub(super) fn ejections(&self) -> u32 {
        self.ejections.load(Relaxed)
    }

    pub(super) fn count_ejection(&self) {
        self.streak.store(0, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
    }

    /// A sweep without an ejection forgives one.
    pub(super) fn forgive(&self) {
        let _ = self.ejections.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    }

    /// What was seen before an ejection says nothing about the time after it.
    pub(super) fn start_afresh(&self) {
        self.streak.store(0, Relaxed);
        self.latency.forget();
    }
}
