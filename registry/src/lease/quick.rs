//! Quick probes: what the leader asks when a heartbeat is lost and there are checks to ask.
//!
//! Two occasions: a lease ran out and its checks decide, or a heartbeat stream broke. Who probes, and how, is behind
//! [`Quick`]; here stands when to ask, what an answer means, and what is proposed then. Level-triggered: an instance
//! whose lease is lost is looked at again until it is back, expired or over its time.

use super::{
    Leases,
    breaks::Breaks,
    expire::{RECHECK, RETRY, is_maintained},
    lost::Due,
    time::millis,
};
use crate::net::BoxFuture;
use rollcall_core::{
    Command, State,
    check::{Opinion, Verdict},
    command::{Done, ExpireLeases, Expired, Expiry, Finding, ReportHealth, Source},
    instance::limit,
    name::{InstanceName, Label},
    record::{LeaseState, Record},
};
use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// How often the leader looks at what is lost.
const TICK: Duration = Duration::from_millis(20);
/// Checks that are asked about at a time; beyond, an instance is asked about later. Each may take a place of
/// [`crate::check`] to itself, which has more of them: a question that is asked can be answered in time.
const ASKS: usize = 256;
/// An answer must be there within this: 500 ms for the checker, then three probes of at most 1 s, 250 ms apart. What is
/// above that is for a host with many instances, whose probes wait for their moments, and for a checker that falls
/// silent before its last round (2.25 s), which is noticed after 2.45 s, and then this node's own probes (3.5 s).
const ANSWER: Duration = Duration::from_millis(8_900);
/// A question during which the clock of this process stood still for so long counts for nothing.
const STALL: Duration = Duration::from_millis(200);
/// Reports of broken streams that may wait; beyond, their leases decide.
pub(crate) const BROKEN_MAX: usize = 1_024;
/// Probes an instance at once, three times, 250 ms apart, each for at most `min(timeout, 1 s)`: all of its critical
/// checks, by its checker, or by this node where the checker says nothing within 500 ms.
pub trait Quick: fmt::Debug + Send + Sync + 'static {
    /// What the probes came to. Dropped when nobody waits for it any more.
    fn ask(&self, asked: Asked) -> BoxFuture<'static, Answer>;
}

/// Which instance is asked about, as the leader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its name, which tells its checker.
    pub name: Arc<InstanceName>,
    /// Its generation. Another one that is found there must not be probed in its stead.
    pub generation: u64,
    /// The declaration that its checks stand in, see [`State::basis`].
    pub basis: u64,
}

/// What quick probes came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// At least one probe of one critical check succeeded.
    Alive,
    /// Every probe of every critical check failed: its id, and what was seen.
    Dead(Vec<(Label, Arc<str>)>),
    /// Nobody could find out.
    Unknown,
}

/// Stands in until the node has something that probes.
#[derive(Debug)]
pub(super) struct Nobody;

impl Quick for Nobody {
    fn ask(&self, _: Asked) -> BoxFuture<'static, Answer> {
        Box::pin(std::future::ready(Answer::Unknown))
    }
}

/// Why it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Its lease is lost.
    Lost,
    /// Its stream broke.
    Broken,
}

/// Work that is done.
enum Ended {
    /// An answer, and how many checks were asked about.
    Answered(Asked, Occasion, Answer, usize),
    /// Verdicts or expiries were proposed; look at these again then, where they are still lost.
    Proposed(Vec<u64>),
}

/// Instances whose heartbeat stream broke, by lease handle.
pub(super) type Broken = Vec<u64>;

impl Leases {
    /// Says who probes quickly, in place of who did.
    pub fn set_quick(&self, quick: Arc<dyn Quick>) {
        *self.0.quick.write().unwrap_or_else(PoisonError::into_inner) = quick;
    }

    /// A heartbeat stream broke at this node: not by its goodbye, nor by this node's will. Its instances are probed at
    /// once where they have checks.
    pub fn stream_broken(&self, handles: Vec<u64>) {
        if handles.is_empty() {
            return;
        }
        self.0.stats.broken_streams.fetch_add(1, Ordering::Relaxed);
        if self.reign_with_table().is_some() {
            self.broken_on_leader(handles);
        } else {
            self.0.relay.tell_broken(handles);
        }
    }

    /// As [`Leases::stream_broken`], on the leader or from a follower.
    pub(super) fn broken_on_leader(&self, handles: Broken) {
        // Beyond the bound: as if nobody had noticed, the leases run out by themselves.
        let _ = self.0.broken.try_send(handles);
    }
}

/// Asks while this node leads, until the node stops.
pub(super) async fn run(leases: Leases, mut broken: mpsc::Receiver<Broken>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut desk = Desk { leases, work: JoinSet::new(), asks: 0, breaks: Breaks::default() };
    loop {
        tokio::select! {
            biased;
            Some(ended) = desk.work.join_next() => match ended {
                Ok(ended) => desk.ended(ended),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
            handles = broken.recv() => match handles {
                Some(handles) => desk.note_broken(handles),
                None => return,
            },
            _ = tick.tick() => desk.tick(),
        }
    }
}

/// What is being asked.
struct Desk {
    leases: Leases,
    work: JoinSet<Ended>,
    /// Checks that are asked about.
    asks: usize,
    breaks: Breaks,
}

impl Desk {
    fn tick(&mut self) {
        let Some(term) = self.leases.reign_with_table() else {
            self.breaks.clear();
            return;
        };
        let now = self.leases.0.table.now();
        let due = {
            let mut book = self.leases.0.table.book();
            book.lost.take_due(now, ASKS.saturating_sub(self.asks))
        };
        if !due.is_empty() {
            self.look_at(term, &due);
        }
        self.ask_about_broken();
    }

    /// What is to be done about instances whose lease is lost.
    fn look_at(&mut self, term: u64, due: &[Due]) {
        let seen = self.leases.0.view.seen();
        let mut over = Vec::new();
        for due in due {
            let Some(record) = seen.state.by_generation(due.generation) else {
                // A generation is never used again: it was taken over, or removed.
                self.leases.0.table.book().lost.forget(due.generation);
                continue;
            };
            if !is_lost(record) {
                // The catalogue is ahead of the table: it is told in a moment, or was.
                self.again(due.generation, RETRY);
                continue;
            }
            if is_maintained(&seen.state, due.generation) {
                // It could not end, and a proposal that changes nothing is an entry of the log all the same.
                self.again(due.generation, RECHECK);
                continue;
            }
            if due.overdue || !has_passing_check(&seen.state, record) {
                over.push(expiry(record, due.overdue));
            } else if due.alive {
                self.leases.0.table.book().lost.alive(due.generation);
            } else if !self.ask(&seen.state, record, Occasion::Lost) {
                self.again(due.generation, Duration::ZERO);
            }
        }
        if !over.is_empty() {
            let leases = self.leases.clone();
            self.work.spawn(async move { leases.expire_lost(term, over).await });
        }
    }

    fn note_broken(&mut self, handles: Broken) {
        self.breaks.note(handles, self.leases.0.table.now());
    }

    fn ask_about_broken(&mut self) {
        if self.breaks.is_empty() {
            return;
        }
        let seen = self.leases.0.view.seen();
        let now = self.leases.0.table.now();
        while let Some(handle) = self.breaks.next_ripe(now) {
            let running = |record: &&Arc<Record>| {
                record.lease.is_some_and(|lease| lease.state == LeaseState::Current)
            };
            let record = seen.state.by_generation(handle).filter(running);
            // What none of its checks calls alive is not routable anyway.
            let wanted = record.filter(|record| has_passing_check(&seen.state, record));
            let Some(record) = wanted.filter(|_| !self.beat_since_break(handle)) else {
                self.breaks.end(handle);
                continue;
            };
            if !self.ask(&seen.state, record, Occasion::Broken) {
                return self.breaks.put_back(handle, now);
            }
        }
    }

    /// Whether it was heard of after its stream broke: then its process lives, and has another stream.
    fn beat_since_break(&self, handle: u64) -> bool {
        let beat = self.leases.0.table.last_beat(handle);
        match (beat, self.breaks.since(handle)) {
            (Some(beat), Some(since)) => beat > since,
            (None, _) | (_, None) => true,
        }
    }

    /// Asks about an instance. `false`: so much is asked that it has to wait.
    fn ask(&mut self, state: &State, record: &Record, occasion: Occasion) -> bool {
        let checks = state.checks(record).filter(|check| !check.advisory).count();
        if self.asks + checks > ASKS {
            return false;
        }
        let basis = state.basis(record);
        let (name, generation) = (record.name.clone(), record.generation);
        let asked = Asked { name, generation, basis };
        let leases = self.leases.clone();
        self.asks += checks;
        self.work.spawn(async move {
            let answer = leases.quick_answer(asked.clone()).await;
            Ended::Answered(asked, occasion, answer, checks)
        });
        true
    }

    fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Proposed(generations) => {
                for generation in generations {
                    self.again(generation, RECHECK);
                }
            }
            Ended::Answered(asked, occasion, answer, checks) => {
                self.asks -= checks;
                let generation = asked.generation;
                self.answered(asked, occasion, answer);
                if occasion == Occasion::Broken {
                    self.breaks.end(generation);
                }
            }
        }
    }

    fn answered(&mut self, asked: Asked, occasion: Occasion, answer: Answer) {
        let stats = &self.leases.0.stats;
        let generation = asked.generation;
        match (answer, occasion) {
            (Answer::Alive, Occasion::Lost) => {
                stats.quick_alive.fetch_add(1, Ordering::Relaxed);
                self.leases.0.table.book().lost.alive(generation);
            }
            (Answer::Alive, Occasion::Broken) => {
                stats.quick_alive.fetch_add(1, Ordering::Relaxed);
            }
            (Answer::Dead(_), Occasion::Broken) if self.beat_since_break(generation) => {
                stats.quick_ignored.fetch_add(1, Ordering::Relaxed);
            }
            (Answer::Dead(found), _) => {
                stats.quick_dead.fetch_add(1, Ordering::Relaxed);
                let Some(term) = self.leases.reign_with_table() else { return };
                let leases = self.leases.clone();
                self.work.spawn(async move {
                    leases.report_quick(term, &asked, found).await;
                    Ended::Proposed(vec![generation])
                });
            }
            (Answer::Unknown, occasion) => {
                stats.quick_unknown.fetch_add(1, Ordering::Relaxed);
                if occasion == Occasion::Lost {
                    self.again(generation, RECHECK);
                }
            }
        }
    }

    fn again(&self, generation: u64, after: Duration) {
        let table = &self.leases.0.table;
        let at = table.now().saturating_add(millis(after));
        table.book().lost.again(generation, at);
    }
}

impl Leases {
    /// Asks, within a bound. What came of it while this process stood still says nothing of the instance.
    async fn quick_answer(&self, asked: Asked) -> Answer {
        let (clock, table) = (&self.0.host.clock, &self.0.table);
        let (began, lease_began) = (clock.monotonic(), table.now());
        let quick = self.0.quick.read().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = timeout(ANSWER, quick.ask(asked)).await.unwrap_or(Answer::Unknown);
        let passed = clock.monotonic().saturating_sub(began);
        let counted = Duration::from_millis(table.now().saturating_sub(lease_began));
        let stalled = passed.saturating_sub(counted) > STALL;
        if stalled && answer != Answer::Alive { Answer::Unknown } else { answer }
    }

    /// Proposes what quick probes found, until it is decided or this node leads no more.
    async fn report_quick(&self, term: u64, asked: &Asked, found: Vec<(Label, Arc<str>)>) {
        let finding = |(check, evidence): (Label, Arc<str>)| Finding {
            generation: asked.generation,
            basis: asked.basis,
            check,
            opinion: Opinion { verdict: Verdict::Failing, flapping: false, hasty: true },
            evidence,
        };
        let items: Vec<Finding> = found.into_iter().take(limit::CHECKS).map(finding).collect();
        if items.is_empty() {
            return;
        }
        let report = ReportHealth { source: Source::Quick, items, actor: self.actor() };
        while self.0.table.is_active(term) {
            match self.propose(term, Command::ReportHealth(report.clone())).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "a quick verdict was not committed"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Ends lost leases whose checks have had their time, or are gone.
    async fn expire_lost(&self, term: u64, items: Vec<Expiry>) -> Ended {
        let generations: Vec<u64> = items.iter().map(|item| item.generation).collect();
        self.0.stats.expiries.fetch_add(items.len() as u64, Ordering::Relaxed);
        let expire = ExpireLeases { items, actor: self.actor() };
        match self.propose(term, Command::ExpireLeases(expire)).await {
            Ok(Done::Expired(outcomes)) => {
                let kept = |outcome: &&Expired| !matches!(outcome, Expired::Expired);
                let kept = outcomes.iter().filter(kept).count();
                if kept > 0 {
                    tracing::debug!(
                        kept,
                        "lost leases are held by protection, or in maintenance since"
                    );
                }
            }
            Ok(other) => tracing::warn!(?other, "an expiry came to something else"),
            Err(error) => tracing::debug!(%error, "lost leases were not expired, they will be"),
        }
        Ended::Proposed(generations)
    }
}

fn is_lost(record: &Record) -> bool {
    record.lease.is_some_and(|lease| lease.state == LeaseState::Lost)
}

fn has_passing_check(state: &State, record: &Record) -> bool {
    let mut critical = state.checks(record).filter(|check| !check.advisory);
    critical.any(|check| record.signals.passes(&check.id))
}

fn expiry(record: &Record, overdue: bool) -> Expiry {
    let evidence = if overdue {
        "no beat for ten times its ttl, though a check passes"
    } else {
        "no beat, and no check keeps it any more"
    };
    Expiry {
        generation: record.generation,
        lease_epoch: record.lease_epoch,
        overdue,
        evidence: evidence.into(),
    }
}
