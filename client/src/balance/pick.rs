//! One call to one endpoint: [`Pick`] counts it from the choice to its end, and [`Core`] chooses and judges.

use super::{
    endpoint::{Endpoint, Standing},
    hedge::Delays,
    observe::{Attempt, Cause, Change, Observer, Outcome, Why},
    outlier::Ejection,
    picker::Draw,
    report::Load,
    settings::Settings,
    snapshot::Snapshot,
};
use crate::dice::Rolls;
use arc_swap::ArcSwap;
use rollcall_core::name::ServiceName;
use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tower::retry::budget::TpsBudget;
use xxhash_rust::xxh3::xxh3_64;

/// Window over which budgets are measured.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// Keeps the choice of a tier apart from the choice within it; any constant will do.
const TIERS: u64 = 0x7f4a_7c15;

/// What a caller knows about a call: a key, where equal keys shall go to the same endpoint. For requests it is put
/// into their extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hint {
    pub(super) key: Option<u64>,
}

/// Why no endpoint can be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// The first list has not come yet.
    #[error("{service}: no endpoint is known yet: {problem}")]
    Unknown {
        /// Which service.
        service: ServiceName,
        /// What the registry answered, or that it did not.
        problem: Arc<str>,
    },
    /// There is none.
    #[error(
        "{service}: no endpoint: {listed} instances are listed and none takes calls; \
         check that the service is registered, enabled and has a weight"
    )]
    Empty {
        /// Which service.
        service: ServiceName,
        /// Instances that the registry shows.
        listed: usize,
    },
    /// All are at their limit of calls in flight.
    #[error(
        "{service}: every endpoint that was tried has {limit} calls in flight; \
         try again later, or raise the concurrency limit"
    )]
    Full {
        /// Which service.
        service: ServiceName,
        /// The limit of each.
        limit: u32,
    },
}

/// A place at an endpoint. Report how the call ended; dropping it without a report says that the caller gave up.
#[must_use = "a pick that is dropped counts as a call that was given up"]
pub struct Pick {
    core: Arc<Core>,
    endpoint: Arc<Endpoint>,
    begun: Instant,
    why: Why,
    /// The trial of an ejected endpoint, and not decided yet.
    on_trial: bool,
    /// Time to the head of the answer.
    head: Option<Duration>,
    open: bool,
}

/// What is listed now.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    /// `None` = nothing was received yet.
    pub(super) endpoints: Option<Arc<[Arc<Endpoint>]>>,
    /// Why nothing was received.
    pub(super) problem: Option<Arc<str>>,
}

/// What all clones of a balancer, their picks and the task that follows the list share.
pub(super) struct Core {
    pub(super) service: ServiceName,
    pub(super) settings: Settings,
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) listing: watch::Sender<Listing>,
    /// Something changed by which picks should go.
    pub(super) changed: Notify,
    pub(super) rolls: Rolls,
    /// Which subset this process keeps.
    pub(super) caller: u64,
    pub(super) retries: TpsBudget,
    pub(super) hedges: TpsBudget,
    pub(super) delays: Delays,
    turn: AtomicU64,
    epoch: Instant,
    observer: Option<Arc<dyn Observer>>,
    /// Endpoints that are out, and the most that may be.
    pub(super) ejected: AtomicU32,
    pub(super) ejected_most: AtomicU32,
}

impl Hint {
    /// Equal keys go to the same endpoint, with the policies ring hash and maglev.
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        Self { key: Some(xxh3_64(key.as_ref())) }
    }
}

impl Core {
    pub(super) fn new(
        service: ServiceName,
        settings: Settings,
        observer: Option<Arc<dyn Observer>>,
        rolls: Rolls,
    ) -> Self {
        let retry = &settings.retry;
        let hedges = settings.hedge.as_ref().map_or(0.0, |hedge| hedge.budget);
        Self {
            retries: TpsBudget::new(BUDGET_WINDOW, retry.budget_floor, retry.budget),
            hedges: TpsBudget::new(BUDGET_WINDOW, 0, hedges),
            delays: Delays::default(),
            snapshot: ArcSwap::default(),
            listing: watch::Sender::new(Listing::default()),
            changed: Notify::new(),
            caller: rolls.next(),
            // Callers that begin together must not go round in step.
            turn: AtomicU64::new(rolls.next() >> 1),
            rolls,
            epoch: Instant::now(),
            observer,
            ejected: AtomicU32::new(0),
            ejected_most: AtomicU32::new(1),
            service,
            settings,
        }
    }

    /// Milliseconds since the balancer began; wraps after 49 days.
    pub(super) fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }

    /// Chooses an endpoint, and takes a place there. An endpoint whose ejection is over goes first, except where the
    /// call has failed once already.
    pub(super) fn pick(
        self: &Arc<Self>,
        hint: Hint,
        why: Why,
        avoid: &[Arc<Endpoint>],
    ) -> Result<Pick, PickError> {
        let begun = Instant::now();
        let snapshot = self.snapshot.load();
        if !snapshot.due.is_empty()
            && why == Why::First
            && let Some(endpoint) = self.claim(&snapshot.due)
        {
            return Ok(self.begin(endpoint, begun, Why::Probe));
        }
        let draw = Draw {
            policy: self.settings.policy,
            rolls: &self.rolls,
            turn: &self.turn,
            limit: self.settings.concurrency,
            now_ms: self.millis(begun),
            key: hint.key,
            avoid,
        };
        let (sharing, spare) = snapshot.groups.split_at(snapshot.sharing);
        let fraction = || {
            hint.key.map_or_else(
                || self.rolls.fraction(),
                |key| {
                    // The same key belongs to the same tier.
                    crate::dice::fraction(crate::dice::mix(key ^ TIERS))
                },
            )
        };
        let first = snapshot.steps.as_ref().map_or(0, |steps| steps.at(fraction()));
        let (before, after) = sharing.split_at(first.min(sharing.len()));
        let mut in_order = after.iter().chain(before).chain(spare);
        let found = in_order.find_map(|group| draw.from(group));
        match found {
            Some(endpoint) => Ok(self.begin(Arc::clone(endpoint), begun, why)),
            None => Err(self.nothing(&snapshot)),
        }
    }

    /// One endpoint on trial, which nobody else tries.
    fn claim(&self, due: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        let claimed = due.iter().find(|e| e.state.pass(Standing::Due, Standing::Probed))?;
        claimed.state.enter(None);
        Some(Arc::clone(claimed))
    }

    fn begin(self: &Arc<Self>, endpoint: Arc<Endpoint>, begun: Instant, why: Why) -> Pick {
        let on_trial = why == Why::Probe;
        tracing::trace!(service = %self.service, endpoint = %endpoint.authority, ?why, "picked");
        Pick { core: Arc::clone(self), endpoint, begun, why, on_trial, head: None, open: true }
    }

    fn nothing(&self, snapshot: &Snapshot) -> PickError {
        let service = self.service.clone();
        let listing = self.listing.borrow();
        if listing.endpoints.is_none() {
            let waiting = || "the registry has not answered yet".into();
            let problem = listing.problem.clone().unwrap_or_else(waiting);
            return PickError::Unknown { service, problem };
        }
        match self.settings.concurrency {
            Some(limit) if snapshot.groups.iter().any(|group| !group.members.is_empty()) => {
                PickError::Full { service, limit }
            }
            Some(_) | None => PickError::Empty { service, listed: snapshot.listed },
        }
    }

    /// Takes an endpoint out, unless too many are out already.
    pub(super) fn eject(&self, endpoint: &Endpoint, cause: Cause) {
        let (state, ejection) = (&endpoint.state, &self.settings.ejection);
        let from = if cause == Cause::Probe { Standing::Probed } else { Standing::Active };
        if from == Standing::Active {
            let most = self.ejected_most.load(Relaxed);
            let room = |out: u32| (out < most).then_some(out + 1);
            if state.standing() != from
                || self.ejected.fetch_update(Relaxed, Relaxed, room).is_err()
            {
                return;
            }
        }
        // The time goes first: who sees it ejected must not see the time of an ejection before.
        let length = ejection.length_ms(state.ejections() + 1, self.rolls.fraction());
        state.set_ejected_until(self.millis(Instant::now()).wrapping_add(length));
        if !state.pass(from, Standing::Ejected) {
            // Somebody else did it, and counted it.
            if from == Standing::Active {
                self.one_less_out();
            }
            return;
        }
        state.count_ejection();
        self.changed.notify_one();
        let length = Duration::from_millis(length.into());
        self.tell(&Change::Ejected { endpoint: endpoint.key.clone(), cause, length });
    }

    fn readmit(&self, endpoint: &Endpoint) {
        if endpoint.state.pass(Standing::Probed, Standing::Active) {
            endpoint.state.start_afresh();
            self.one_less_out();
            self.changed.notify_one();
            self.tell(&Change::Readmitted { endpoint: endpoint.key.clone() });
        }
    }

    fn one_less_out(&self) {
        // The following task counts anew now and then, so this may meet a 0.
        let _ = self.ejected.fetch_update(Relaxed, Relaxed, |out| out.checked_sub(1));
    }

    pub(super) fn tell(&self, change: &Change) {
        tracing::info!(service = %self.service, ?change, "endpoints");
        self.observe(|observer| observer.change(&self.service, change));
    }

    /// Tells the observer. One that panics is no reason to stop following, nor to end a call.
    fn observe(&self, tell: impl FnOnce(&dyn Observer)) {
        let Some(observer) = &self.observer else { return };
        if catch_unwind(AssertUnwindSafe(|| tell(&**observer))).is_err() {
            tracing::error!(service = %self.service, "the observer panicked, go on without its word");
        }
    }

    pub(super) fn ejection(&self) -> &Ejection {
        &self.settings.ejection
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Pick {
    /// Who was picked.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address()
    }

    pub(super) fn service(&self) -> &ServiceName {
        &self.core.service
    }

    /// Why this attempt is made.
    pub fn why(&self) -> Why {
        self.why
    }

    /// The head of the answer is here, its body is still to come: the latency is taken now, and an endpoint on trial
    /// is back.
    pub fn answered(&mut self) {
        if self.head.is_some() {
            return;
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(self.begun);
        self.head = Some(took);
        self.endpoint.state.latency.success(took, self.core.millis(now));
        self.core.delays.add(took);
        if self.on_trial {
            self.on_trial = false;
            self.core.readmit(&self.endpoint);
        }
    }

    /// What the endpoint says of its load, for weighted round robin.
    pub fn report_load(&self, load: Load) {
        self.endpoint.state.report.set(load, self.core.millis(Instant::now()));
    }

    /// The call ended.
    pub fn report(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        if outcome == Outcome::Success {
            self.answered();
        }
        let (core, state) = (&self.core, &self.endpoint.state);
        state.leave();
        let now = Instant::now();
        let now_ms = core.millis(now);
        let took = self.head.unwrap_or_else(|| now.saturating_duration_since(self.begun));
        let penalty = core.settings.failure_penalty;
        match outcome {
            Outcome::Success => state.succeeded(),
            Outcome::Failure | Outcome::Timeout => {
                state.latency.failure(took, penalty, now_ms);
                let (streak, most) = (state.failed(true), core.ejection().consecutive);
                if most > 0 && streak >= most && !self.on_trial {
                    core.eject(&self.endpoint, Cause::Consecutive);
                }
            }
            Outcome::Overloaded => {
                state.latency.failure(took, penalty, now_ms);
                state.failed(false);
            }
            Outcome::Cancelled if self.head.is_none() => state.latency.at_least(took, now_ms),
            Outcome::Cancelled => {}
        }
        if self.on_trial {
            // A trial without an answer proves nothing good, whoever gave up.
            core.eject(&self.endpoint, Cause::Probe);
        }
        self.tell(outcome, took);
    }

    fn tell(&self, outcome: Outcome, latency: Duration) {
        let (service, endpoint, why) = (&self.core.service, &*self.endpoint, self.why);
        tracing::trace!(%service, endpoint = %endpoint.authority, ?why, ?outcome, ?latency, "attempt");
        let attempt = Attempt { service, endpoint, why, outcome, latency };
        self.core.observe(|observer| observer.attempt(&attempt));
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.finish(Outcome::Cancelled);
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick")
            .field("endpoint", &self.endpoint)
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}
