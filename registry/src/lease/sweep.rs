//! The leader's sweep: looks every 10 ms at what is due and has it proposed.
//!
//! Level-triggered: what could not be committed is looked at again, never forgotten. Nothing is awaited between two
//! looks, so that a gap between them is a pause of this process and nothing else.

use super::{
    LeaseTasks, Leases, checkpoint,
    expire::{ROUND, Round},
    quick, relay,
};
use rollcall_core::{Command, record::Scope};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// How often the sweep looks.
const TICK: Duration = Duration::from_millis(10);
/// After a gap nothing expires for so long: beats that waited in sockets are read first.
const SETTLE: Duration = Duration::from_millis(100);
/// Whether protection ends is asked this often, and not sooner after its beginning or after a failure.
const EXIT_CHECK: Duration = Duration::from_secs(1);
/// Cluster time passes at least this often while something waits for it.
const ADVANCE: Duration = Duration::from_secs(10);

impl LeaseTasks {
    /// Runs the lease module until the node stops. Everything it spawned ends with it.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        tasks.spawn(checkpoint::run(self.leases.clone(), self.clears));
        tasks.spawn(relay::run(self.leases.clone(), self.relayed));
        tasks.spawn(quick::run(self.leases.clone(), self.broken));
        tasks.spawn(follow_reign(self.leases.clone()));
        tasks.spawn(advance_time(self.leases.clone()));
        tasks.spawn(sweep(self.leases));
        while let Some(ended) = tasks.join_next().await {
            // A node without its sweep would never expire anything again: better to stop and say so.
            unwrap_ended(ended);
        }
    }
}

/// The result of a task; its panic goes on here. `None`: it was aborted.
fn unwrap_ended<T>(ended: Result<T, tokio::task::JoinError>) -> Option<T> {
    match ended {
        Ok(value) => Some(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
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

/// Lets cluster time pass while something waits for it and nobody writes, and carries on at once with what has
/// come to its end but was too much for one command.
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
        let term = leases.reign();
        if term != 0 && waits && cluster_ms == seen {
            let mut advanced = leases.propose(term, Command::AdvanceTime).await.is_ok();
            while advanced && leases.0.view.load().state.is_overdue() {
                advanced = leases.propose(term, Command::AdvanceTime).await.is_ok();
            }
        }
        seen = leases.0.view.load().state.cluster_ms();
    }
}

async fn sweep(leases: Leases) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = Sweep::new(leases);
    loop {
        tokio::select! {
            biased;
            Some(ended) = sweep.work.join_next() => {
                if let Some(ended) = unwrap_ended(ended) {
                    sweep.ended(ended);
                }
            }
            _ = tick.tick() => sweep.tick(),
        }
    }
}

/// Work that the sweep has begun; one of each kind at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Confirm,
    Expire,
    Evict,
    Release,
    EndProtection,
}

/// Work that is done: whether it went well, and what was the count of gaps when it began.
type Ended = (Kind, bool, u64);

struct Sweep {
    leases: Leases,
    work: JoinSet<Ended>,
    busy: BTreeSet<Kind>,
    /// Term of the reign that was seen last, and whether beats could be acknowledged then.
    term: u64,
    led: bool,
    /// Gaps so far: in the looks, in the contact with a quorum, in the reign.
    gaps: u64,
    /// When the last gap was noticed.
    gap_at: Duration,
    /// Gaps after which leadership was confirmed.
    confirmed: Option<u64>,
    next_release: Duration,
    next_exit: Duration,
    /// When each protected scope was first seen.
    protected: BTreeMap<Scope, Duration>,
}

impl Sweep {
    fn new(leases: Leases) -> Self {
        let now = leases.0.host.clock.monotonic();
        Self {
            leases,
            work: JoinSet::new(),
            busy: BTreeSet::new(),
            term: 0,
            led: false,
            gaps: 0,
            gap_at: now,
            confirmed: None,
            next_release: now,
            next_exit: now,
            protected: BTreeMap::new(),
        }
    }

    fn begin(&mut self, kind: Kind, work: impl Future<Output = bool> + Send + 'static) {
        let gaps = self.gaps;
        self.busy.insert(kind);
        self.work.spawn(async move { (kind, work.await, gaps) });
    }

    fn ended(&mut self, (kind, well, gaps): Ended) {
        self.busy.remove(&kind);
        match kind {
            Kind::Confirm if well => self.confirmed = Some(gaps),
            Kind::Expire if !well => {
                // What should be held is not held yet.
                self.next_exit = self.leases.0.host.clock.monotonic() + EXIT_CHECK;
            }
            Kind::Confirm | Kind::Expire | Kind::Evict | Kind::Release | Kind::EndProtection => {}
        }
    }

    fn tick(&mut self) {
        let now = self.leases.0.host.clock.monotonic();
        let Some(term) = self.look(now) else { return };
        if self.confirmed != Some(self.gaps) {
            if !self.busy.contains(&Kind::Confirm) {
                let replica = self.leases.0.replica.clone();
                let round =
                    async move { replica.read_index(super::PROPOSE_DEADLINE).await.is_ok() };
                self.begin(Kind::Confirm, round);
            }
            return;
        }
        if now.saturating_sub(self.gap_at) < SETTLE {
            return;
        }
        self.expire(term);
        self.evict(term);
        self.release(term, now);
        self.end_protection(term, now);
    }

    /// Keeps lease time, and returns the term in which this node may let leases end.
    fn look(&mut self, now: Duration) -> Option<u64> {
        let table = &self.leases.0.table;
        let active = self.leases.reign_with_table();
        let leads = active.is_some_and(|term| self.leases.may_acknowledge(term));
        let lost = active.is_some_and(|term| term == self.term) && self.led && !leads;
        if lost {
            // Nothing since the last contact with a quorum was acknowledged for certain.
            let contact = active.and_then(|term| self.leases.0.replica.quorum_contact_age_in(term));
            table.time().leave_out(contact.unwrap_or_default().saturating_sub(TICK));
            if contact.is_some() {
                tracing::warn!(
                    ?contact,
                    "no contact with a quorum: no lease ends until it is back"
                );
            }
        }
        let gap = table.time().look(leads || active.is_none());
        if let Some(gap) = gap {
            self.leases.0.stats.pauses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(?gap, "this process was paused: every lease is prolonged by the pause");
        }
        if gap.is_some() || leads != self.led || active.unwrap_or(0) != self.term {
            self.gaps += 1;
            self.gap_at = now;
        }
        self.led = leads;
        self.term = active.unwrap_or(0);
        active.filter(|_| leads)
    }

    fn expire(&mut self, term: u64) {
        if self.busy.contains(&Kind::Expire) {
            return;
        }
        let (deciding, decision) = watch::channel(());
        let overdue = self.leases.0.table.take_overdue(ROUND, &decision);
        if overdue.is_empty() {
            return;
        }
        let leases = self.leases.clone();
        self.begin(Kind::Expire, async move {
            let done = leases.expire(Round { term, overdue, decision }).await;
            // Wakes the beats that wait for it.
            drop(deciding);
            done
        });
    }

    fn evict(&mut self, term: u64) {
        if self.busy.contains(&Kind::Evict) {
            return;
        }
        let due = self.leases.take_evictions();
        if due.is_empty() {
            return;
        }
        let leases = self.leases.clone();
        self.begin(Kind::Evict, async move {
            leases.evict(term, due).await;
            true
        });
    }

    /// Expires leases whose protection has ended, at a bounded rate.
    fn release(&mut self, term: u64, now: Duration) {
        if now < self.next_release || self.busy.contains(&Kind::Release) {
            return;
        }
        let seen = self.leases.0.view.seen();
        let (count, pause) = self.leases.release_pace();
        let items = self.leases.take_released(&seen.state, count);
        if items.is_empty() {
            return;
        }
        self.next_release = now + pause;
        let leases = self.leases.clone();
        self.begin(Kind::Release, async move {
            leases.release(term, items).await;
            true
        });
    }

    fn end_protection(&mut self, term: u64, now: Duration) {
        // What an expiry is about to hold counts as missing, but not yet for the catalogue.
        let deciding = self.busy.contains(&Kind::Expire);
        if now < self.next_exit || deciding || self.busy.contains(&Kind::EndProtection) {
            return;
        }
        self.next_exit = now + EXIT_CHECK;
        let seen = self.leases.0.view.seen();
        let protections = seen.state.protections();
        self.protected.retain(|scope, _| protections.contains_key(scope));
        for scope in protections.keys() {
            self.protected.entry(scope.clone()).or_insert(now);
        }
        let mut ending = self.leases.ending(&seen.state);
        ending.retain(|(scope, _)| {
            self.protected.get(scope).is_some_and(|since| now.saturating_sub(*since) >= EXIT_CHECK)
        });
        if ending.is_empty() {
            return;
        }
        let leases = self.leases.clone();
        self.begin(Kind::EndProtection, async move {
            leases.end_protection(term, ending).await;
            true
        });
    }
}
