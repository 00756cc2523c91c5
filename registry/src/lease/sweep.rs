//! The leader's sweep: what is over is proposed to the log, which decides.
//!
//! Level-triggered: what could not be committed is armed again and proposed by a later tick, never forgotten.

use super::{
    LeaseTasks, Leases, checkpoint, relay,
    table::{Decision, Overdue},
};
use rollcall_core::{
    Command, State,
    command::{
        Done, EvictInstances, Eviction, ExpireLeases, Expired, Expiry, ProtectionChange,
        SetProtection,
    },
    protection::{RanOut, exit},
    record::LeaseState,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// How often the sweep looks.
const TICK: Duration = Duration::from_millis(10);
/// A longer gap between two looks is a pause of this process, and is added to every deadline.
const GAP: Duration = Duration::from_millis(200);
/// Leases or instances in one command.
const BATCH: usize = 1_000;
/// Commands of the sweep in flight.
const IN_FLIGHT: usize = 4;
/// What could not be committed is proposed again after this.
const RETRY: Duration = Duration::from_millis(100);
/// What may not end yet (maintenance, protection) is looked at again after this.
const RECHECK: Duration = Duration::from_secs(1);
/// Whether protection ends is asked this often, and not sooner after its beginning.
const EXIT_CHECK: Duration = Duration::from_secs(1);
/// Cluster time passes at least this often while something waits for it.
const ADVANCE: Duration = Duration::from_secs(10);
/// Released leases are expired this often.
const RELEASE: Duration = Duration::from_millis(50);

impl LeaseTasks {
    /// Runs the lease module until the node stops. Everything it spawned ends with it.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        tasks.spawn(checkpoint::run(self.leases.clone(), self.clears));
        tasks.spawn(relay::run(self.leases.clone(), self.relayed));
        tasks.spawn(follow_reign(self.leases.clone()));
        tasks.spawn(advance_time(self.leases.clone()));
        tasks.spawn(sweep(self.leases));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                // A node without its sweep would never expire anything again: better to stop and say so.
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Loads the leases when this node begins to lead, forgets them when it ends.
async fn follow_reign(leases: Leases) {
    let mut leadership = leases.0.replica.leadership();
    loop {
        let reign = leadership.borrow_and_update().reign.as_ref().map(|reign| reign.term);
        match reign {
            Some(term) if !leases.0.table.is_active(term) => {
                leases.gate().clear();
                let view = &leases.0.view;
                leases.0.table.activate(term, || view.seen().state.clone());
                tracing::info!(term, leases = leases.0.table.len(), "lead: leases are loaded");
            }
            Some(_) => {}
            None => leases.0.table.deactivate(),
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Lets cluster time pass while something waits for it and nobody writes.
async fn advance_time(leases: Leases) {
    let mut tick = interval(ADVANCE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = 0;
    loop {
        tick.tick().await;
        let (waits, cluster_ms) = {
            let view = leases.0.view.load();
            (view.state.waits_for_time(), view.state.cluster_ms())
        };
        if leases.reign() != 0 && waits && cluster_ms == seen {
            let _ = leases.propose(Command::AdvanceTime).await;
        }
        seen = leases.0.view.load().state.cluster_ms();
    }
}

async fn sweep(leases: Leases) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = Sweep::new(leases);
    loop {
        tick.tick().await;
        sweep.tick().await;
    }
}

struct Sweep {
    leases: Leases,
    /// Monotonic time of the last look.
    last: Duration,
    /// Term in which leadership was confirmed since the last pause.
    confirmed: u64,
    in_flight: Arc<Semaphore>,
    releasing: Arc<Semaphore>,
    next_release: Duration,
    next_exit: Duration,
    /// When each protected scope was first seen.
    protected: BTreeMap<rollcall_core::record::Scope, Duration>,
}

impl Sweep {
    fn new(leases: Leases) -> Self {
        let last = leases.0.host.clock.monotonic();
        Self {
            leases,
            last,
            confirmed: 0,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            releasing: Arc::new(Semaphore::new(1)),
            next_release: last,
            next_exit: last,
            protected: BTreeMap::new(),
        }
    }

    async fn tick(&mut self) {
        let now = self.leases.0.host.clock.monotonic();
        let gap = now.saturating_sub(self.last);
        self.last = now;
        if gap > GAP {
            self.leases.0.table.add_pause(gap);
            self.leases.0.stats.pauses.fetch_add(1, Ordering::Relaxed);
            self.confirmed = 0;
            tracing::warn!(?gap, "this process was paused: every lease is prolonged by the pause");
        }
        let reign = self.leases.reign();
        if reign == 0 || !self.leases.may_acknowledge() {
            return;
        }
        if self.confirmed != reign {
            // One round through a quorum: leadership is confirmed, and beats that waited in sockets were read.
            let confirmed = self.leases.0.replica.read_index(super::PROPOSE_DEADLINE).await.is_ok();
            self.last = self.leases.0.host.clock.monotonic();
            if confirmed {
                self.confirmed = reign;
            }
            return;
        }
        self.expire();
        self.evict();
        if now >= self.next_release {
            self.next_release = now + RELEASE;
            self.release();
        }
        if now >= self.next_exit {
            self.next_exit = now + EXIT_CHECK;
            self.end_protection(now);
        }
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.in_flight.clone().try_acquire_owned().ok()
    }

    fn expire(&self) {
        while let Some(permit) = self.permit() {
            let (deciding, decision): (watch::Sender<()>, Decision) = watch::channel(());
            let overdue = self.leases.0.table.take_overdue(BATCH, &decision);
            if overdue.is_empty() {
                return;
            }
            let leases = self.leases.clone();
            tokio::spawn(async move {
                leases.expire(overdue).await;
                drop((deciding, permit));
            });
        }
    }

    fn evict(&self) {
        let Some(permit) = self.permit() else { return };
        let table = &self.leases.0.table;
        let due = {
            let mut book = table.book();
            let now = table.now();
            book.evictions.due(now, BATCH)
        };
        if due.is_empty() {
            return;
        }
        let leases = self.leases.clone();
        tokio::spawn(async move {
            leases.evict(due).await;
            drop(permit);
        });
    }

    /// Expires leases whose protection has ended, at a bounded rate.
    fn release(&self) {
        let state = self.leases.0.view.seen().state.clone();
        if state.released().is_empty() {
            return;
        }
        let Ok(permit) = self.releasing.clone().try_acquire_owned() else { return };
        let share = f64::from(self.leases.0.settings.release_rate) * RELEASE.as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        let count = (share as usize).max(1);
        let items = state.released().iter().filter_map(|generation| {
            let lease = state.by_generation(*generation)?.lease?;
            let evidence = "protection has ended and it is still silent".into();
            Some(Expiry { generation: *generation, lease_epoch: lease.epoch, evidence })
        });
        let items: Vec<Expiry> = items.take(count).collect();
        let leases = self.leases.clone();
        tokio::spawn(async move {
            let expire = ExpireLeases { items, actor: leases.actor() };
            if let Err(error) = leases.propose(Command::ExpireLeases(expire)).await {
                tracing::debug!(%error, "released leases were not expired, they will be");
            }
            drop(permit);
        });
    }

    fn end_protection(&mut self, now: Duration) {
        let state = self.leases.0.view.seen().state.clone();
        self.protected.retain(|scope, _| state.protections().contains_key(scope));
        for scope in state.protections().keys() {
            let since = *self.protected.entry(scope.clone()).or_insert(now);
            if now.saturating_sub(since) < EXIT_CHECK {
                continue;
            }
            let Some(reason) = exit(&state, scope, &self.leases.0.settings.thresholds) else {
                continue;
            };
            let set = SetProtection {
                scope: scope.clone(),
                change: ProtectionChange::Leave(reason),
                actor: self.leases.actor(),
                evidence: "".into(),
                request_id: None,
            };
            let leases = self.leases.clone();
            tokio::spawn(async move { leases.set_protection(set).await });
        }
    }
}

impl Leases {
    fn gate(&self) -> std::sync::MutexGuard<'_, rollcall_core::protection::Gate> {
        self.0.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn expire(&self, overdue: Vec<Overdue>) {
        let state = self.0.view.seen().state.clone();
        let due = ran_out(&state, &overdue);
        if self.0.settings.protection {
            let now = self.0.table.now();
            let entries = self.gate().entries(now, &due, &state, &self.0.settings.thresholds);
            for entry in entries {
                let set = SetProtection {
                    scope: entry.scope,
                    change: ProtectionChange::Enter { restore: entry.restore },
                    actor: self.actor(),
                    evidence: entry.evidence.into(),
                    request_id: None,
                };
                self.set_protection(set).await;
            }
        }
        let items = overdue.iter().map(|lease| Expiry {
            generation: lease.generation,
            lease_epoch: lease.lease_epoch,
            evidence: format!("no beat for {:.3} s", lease.silent.as_secs_f64()).into(),
        });
        let expire = ExpireLeases { items: items.collect(), actor: self.actor() };
        self.0.stats.expiries.fetch_add(overdue.len() as u64, Ordering::Relaxed);
        match self.propose(Command::ExpireLeases(expire)).await {
            Ok(Done::Expired(outcomes)) => self.expired(&overdue, &due, &outcomes),
            Ok(_) | Err(_) => {
                for lease in &overdue {
                    self.0.table.undecide(lease.generation, RETRY);
                }
            }
        }
    }

    fn expired(&self, overdue: &[Overdue], due: &[RanOut], outcomes: &[Expired]) {
        let mut gone = Vec::new();
        for (lease, outcome) in overdue.iter().zip(outcomes) {
            match outcome {
                Expired::Expired => gone.push(lease.generation),
                Expired::Held => {}
                Expired::Suspended => self.0.table.undecide(lease.generation, RECHECK),
                Expired::Superseded => self.0.table.undecide(lease.generation, RETRY),
            }
        }
        gone.sort_unstable();
        let gone = due.iter().filter(|lease| gone.binary_search(&lease.generation).is_ok());
        self.gate().expired(self.0.table.now(), gone.cloned());
    }

    async fn evict(&self, due: Vec<u64>) {
        let state = self.0.view.seen().state.clone();
        let mut items = Vec::new();
        let mut later = Vec::new();
        for generation in due {
            let Some(record) = state.by_generation(generation) else { continue };
            let Some(lease) = record.lease.filter(|l| l.state == LeaseState::Expired) else {
                continue;
            };
            if !record.evictable() || state.is_protected(&record.name.service) {
                later.push(generation);
                continue;
            }
            let waited = super::table::evict_after(&state, record);
            let evidence = format!("expired for {:.1} s", waited.as_secs_f64()).into();
            items.push(Eviction { generation, lease_epoch: lease.epoch, evidence });
        }
        self.evict_again(&later, RECHECK);
        if items.is_empty() {
            return;
        }
        let generations: Vec<u64> = items.iter().map(|item| item.generation).collect();
        self.0.stats.evictions.fetch_add(items.len() as u64, Ordering::Relaxed);
        let evict = EvictInstances { items, actor: self.actor() };
        let after = match self.propose(Command::EvictInstances(evict)).await {
            Ok(_) => RECHECK,
            Err(_) => RETRY,
        };
        let state = self.0.view.seen().state.clone();
        let left: Vec<u64> =
            generations.into_iter().filter(|g| state.by_generation(*g).is_some()).collect();
        self.evict_again(&left, after);
    }

    fn evict_again(&self, generations: &[u64], after: Duration) {
        if generations.is_empty() {
            return;
        }
        let mut book = self.0.table.book();
        let at = self.0.table.now() + super::table::millis(after);
        for generation in generations {
            book.evictions.arm(*generation, at);
        }
    }
}

fn ran_out(state: &State, overdue: &[Overdue]) -> Vec<RanOut> {
    let known = overdue.iter().filter_map(|lease| {
        let record = state.by_generation(lease.generation)?;
        Some(RanOut {
            service: record.name.service.clone(),
            generation: lease.generation,
            lease_epoch: lease.lease_epoch,
        })
    });
    known.collect()
}
