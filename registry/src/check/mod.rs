//! Active checks: this node probes its share of the instances and reports verdicts. The design's section 7.
//!
//! * [`probe`]: one probe of one target; [`egress`]: where this node may connect to at all
//! * [`book`]: the targets of this node, when each is due, what came of it; `pace`: how often a target may be probed
//! * `run`: follows the view, starts what is due; `tell`: brings verdicts into the log
//! * `doubt`: a checker that sees most of its targets fail at once asks another
//! * `now`, `quick`: probes beside the schedule, for the leader too; [`peer`]: what the nodes ask of each other
//! * [`checkers`]: which nodes probe, decided by the leader
//!
//! A verdict is the judgement of [`rollcall_core::check::Judge`]; what it makes of an instance is decided where it is
//! applied. Everything else that a probe has seen stays here.

pub mod book;
pub mod checkers;
mod doubt;
pub mod egress;
mod now;
mod pace;
pub mod peer;
pub mod probe;
mod quick;
mod run;
mod tell;
#[cfg(test)]
mod tests;

use crate::{
    host::Host,
    lease::table::taken_over,
    raft::{Published, Replica, leadership::Leadership},
    view::{Follower, View},
};
use book::{Book, Shown};
use doubt::Doubts;
use egress::Egress;
use pace::Pace;
use probe::Prober;
use rollcall_core::{
    State,
    egress::{Forbidden, Rules},
    record::{Actor, Event, Reason, Subject},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};

/// Probes beside the schedule at a time: all that a leader asks for at once, and as many for other checkers.
const BESIDE_MAX: usize = 512;

/// Settings of checks. Every node of a cluster should have the same.
#[derive(Debug, Clone)]
pub struct CheckSettings {
    /// Whether targets on loopback are probed; default as in loopback mode.
    pub allow_loopback: bool,
    /// Whether every listener is loopback: then the probes of one IP address are not limited.
    pub loopback: bool,
    /// A node that the leader has not heard for so long probes no more; default 3 s.
    pub leave_after: Duration,
    /// A node that was heard for so long without a gap probes (again); default 10 s.
    pub return_after: Duration,
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self {
            allow_loopback: true,
            loopback: true,
            leave_after: Duration::from_secs(3),
            return_after: Duration::from_secs(10),
        }
    }
}

/// Counters of the checks of this node, read by the metrics.
#[derive(Debug, Default)]
pub struct CheckStats {
    /// Probes that ended.
    pub probes: AtomicU64,
    /// Those that failed.
    pub failures: AtomicU64,
    /// Those that were refused because of their address.
    pub forbidden: AtomicU64,
    /// Those that began later than due by more than a tenth of their interval.
    pub late: AtomicU64,
    /// By how much probes began later than due, in all, ms.
    pub late_ms: AtomicU64,
    /// Probes that run now.
    pub running: AtomicU64,
    /// Probes beside the schedule: quick ones, and those for other checkers.
    pub beside: AtomicU64,
    /// 1 while this node doubts what it sees.
    pub doubts: AtomicU64,
    /// Verdicts that are held back for that reason.
    pub held: AtomicU64,
    /// Verdicts proposed.
    pub verdicts: AtomicU64,
    /// Changes of the set of checkers proposed by this node as leader.
    pub changes: AtomicU64,
}

/// The checks of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    replica: Replica,
    leadership: watch::Receiver<Leadership>,
    view: View,
    host: Host,
    settings: CheckSettings,
    node: u64,
    egress: Egress,
    prober: Prober,
    book: Mutex<Book>,
    news: Mutex<News>,
    /// There are news, or the book has changed.
    wake: Notify,
    findings: tell::Findings,
    doubts: Mutex<Doubts>,
    /// Places for probes beside the schedule.
    beside: Semaphore,
    stats: CheckStats,
}

/// What was applied since the book was brought up to date. Bounded by the number of instances.
#[derive(Debug, Default)]
struct News {
    /// Instances that have changed.
    generations: BTreeSet<u64>,
    /// Everything may have changed.
    all: bool,
    /// Epoch of the checkers that was seen last.
    epoch: u64,
}

impl News {
    fn add(&mut self, state: &State, event: &Event) {
        match &event.subject {
            Subject::Instance(_) => {
                self.generations.insert(event.generation);
                if event.reason == Reason::TakenOver {
                    match taken_over(state, event) {
                        Some(before) => _ = self.generations.insert(before),
                        None => self.all = true,
                    }
                }
            }
            // A policy may bring checks to instances of its service, or take them away.
            Subject::Policy(name) => {
                let service = state.service(name).into_iter();
                let records = service.flat_map(|service| service.instances.values());
                self.generations.extend(records.map(|record| record.generation));
            }
            Subject::Protection(_) => {}
        }
    }
}

/// The long-lived work of the module, to be spawned by the node.
#[derive(Debug)]
pub struct CheckTasks(Checks);

impl Checks {
    /// The module and its work. Nothing runs before the work is spawned. `bound` is what this node listens on.
    pub fn new(
        replica: Replica,
        view: View,
        host: Host,
        settings: CheckSettings,
        bound: Vec<SocketAddr>,
    ) -> (Self, CheckTasks) {
        let egress = Egress::new(settings.allow_loopback, bound);
        let prober = Prober::new(&host, egress.clone());
        let book = Book::new(Pace::new(!settings.loopback), host.random.clone());
        let checks = Self(Arc::new(Inner {
            node: replica.node_id(),
            leadership: replica.leadership(),
            replica,
            view,
            host,
            settings,
            egress,
            prober,
            book: Mutex::new(book),
            news: Mutex::default(),
            wake: Notify::new(),
            findings: tell::Findings::default(),
            doubts: Mutex::default(),
            beside: Semaphore::new(BESIDE_MAX),
            stats: CheckStats::default(),
        }));
        (checks.clone(), CheckTasks(checks))
    }

    /// Follows what was applied: to be called for every batch, by the thread that applies. It does not keep the module
    /// alive, which itself holds the view that calls it.
    pub fn follower(&self) -> Follower {
        let checks = Arc::downgrade(&self.0);
        Box::new(move |published| {
            if let Some(checks) = checks.upgrade() {
                Self(checks).follow(published);
            }
        })
    }

    fn follow(&self, published: &Published) {
        let epoch = published.state.checkers().epoch();
        let mut news = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
        if published.restored || news.epoch != epoch {
            (news.all, news.epoch) = (true, epoch);
            news.generations.clear();
        }
        if !news.all {
            for event in &published.changes {
                news.add(&published.state, event);
            }
        }
        let quiet = !news.all && news.generations.is_empty();
        drop(news);
        if !quiet {
            self.0.wake.notify_one();
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // A panic while it was held ended the task that keeps it, and so the node.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds of the monotonic clock.
    fn now(&self) -> u64 {
        u64::try_from(self.0.host.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    fn actor(&self) -> Actor {
        Actor::Registry(format!("{:016x}", self.0.node).into())
    }

    /// The counters.
    pub fn stats(&self) -> &CheckStats {
        &self.0.stats
    }

    /// Where instances may not be, as known now.
    pub fn rules(&self) -> Arc<Rules> {
        self.0.egress.know(&self.0.replica.members());
        self.0.egress.rules()
    }

    /// Whether this node would connect to an address in order to probe it.
    ///
    /// # Errors
    /// Why not.
    pub fn may_probe(&self, address: SocketAddr) -> Result<(), Forbidden> {
        self.0.egress.check(address)
    }

    /// How many checks this node runs.
    pub fn len(&self) -> usize {
        self.book().len()
    }

    /// Whether this node runs no check.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How the checks of an instance stand here; nothing where another node is its checker.
    pub fn show(&self, generation: u64) -> Vec<Shown> {
        let now = self.now();
        self.book().show(generation, now)
    }
}

impl CheckStats {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl CheckTasks {
    /// Runs the checks until the node stops. Everything it spawned ends with it.
    pub async fn run(self) {
        let Self(checks) = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(run::run(checks.clone()));
        tasks.spawn(tell::run(checks.clone()));
        tasks.spawn(doubt::run(checks.clone()));
        tasks.spawn(checkers::run(checks));
        while let Some(ended) = tasks.join_next().await {
            // A node that probes no more would keep dead instances listed: better to stop and say so.
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}
