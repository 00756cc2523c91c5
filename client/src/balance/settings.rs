//! How calls to one service are balanced: [`Balance`], filled in by the user, checked once.

use super::{observe::Observer, outlier::Ejection};
use crate::{connect::Connector, error::Error, watch::Selection};
use rollcall_core::name::{Invalid, Label, ServiceName};
use rollcall_proto::v1;
use std::{fmt, sync::Arc, time::Duration};

/// Most attempts of one call, hedges included.
const ATTEMPTS_MAX: u32 = 10;

/// Who gets the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The better of two drawn by weight: lower mean latency times calls in flight. Failures count as slow.
    #[default]
    PeakEwma,
    /// The one with fewer calls in flight of two drawn by weight.
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// In turn, by the load that endpoints report (gRPC: ORCA trailers; else [`super::Pick::report_load`]), or by the
    /// utilisation that they tell the registry ([`HealthReport::utilization`](crate::HealthReport::utilization)).
    WeightedRoundRobin,
    /// By chance, by weight.
    Random,
    /// The same endpoint for the same key, see [`super::Hint`]; a change moves few keys.
    RingHash,
    /// As ring hash; faster and more even, a change moves a few more keys.
    Maglev,
}

/// When a failed call is tried again, on another endpoint. What was never sent is always safe to send again; the rest
/// is repeated only where the call is idempotent.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Most attempts of a call, the first one and hedges included: 1 to 10. Default 3; 1 = no retries.
    pub attempts: u32,
    /// Share of calls that may be retried, measured over 10 s, rounded up to 1/n (0.3 is a third). Default 0.2.
    pub budget: f32,
    /// Retries a second that are allowed besides. Default 3.
    pub budget_floor: u32,
    /// Whether every call is idempotent. Default: no; see also [`super::Idempotent`]. HTTP methods that are idempotent
    /// by definition (RFC 9110 section 9.2.2) are so without it.
    pub idempotent: bool,
    /// Most bytes of a request that are kept for another attempt; a larger one is sent once. Default 64 KiB.
    pub request_bytes: usize,
}

/// A second attempt before the first has failed, for idempotent calls that take unusually long; the first good answer
/// wins.
#[derive(Debug, Clone, PartialEq)]
pub struct Hedge {
    /// Wait before the second attempt; at least 1 ms; default: the 95th percentile of recent calls. That is known from
    /// the end of the first interval of [`super::Ejection`] (10 s) on, after 50 calls: until then nothing is hedged.
    pub after: Option<Duration>,
    /// Share of calls that may be hedged, measured over 10 s, rounded up to 1/n (0.3 is a third); where it is used up, a
    /// call that still waits asks again after each further `after`. Default 0.05.
    pub budget: f32,
}

/// Where this process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: String,
    pub(super) zone: String,
}

/// How calls to a service are balanced. Everything but the service has a default.
#[derive(Clone)]
#[must_use = "this does nothing until it is given to Client::balance"]
pub struct Balance {
    pub(super) service: ServiceName,
    pub(super) selection: v1::ResolveFilter,
    pub(super) settings: Settings,
    pub(super) connector: Connector,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

/// The plain part.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) policy: Policy,
    pub(super) endpoint: String,
    pub(super) place: Place,
    pub(super) callers_here: Option<f64>,
    pub(super) subset: Option<usize>,
    pub(super) slow_start: Duration,
    pub(super) slow_start_least: f64,
    pub(super) ejection: Ejection,
    pub(super) panic_below: f64,
    pub(super) failure_penalty: Duration,
    pub(super) concurrency: Option<u32>,
    pub(super) retry: Retry,
    pub(super) hedge: Option<Hedge>,
    pub(super) timeout: Option<Duration>,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) first_list: Duration,
    pub(super) connect_timeout: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        let request_bytes = 64 * 1024;
        Self { attempts: 3, budget: 0.2, budget_floor: 3, idempotent: false, request_bytes }
    }
}

impl Retry {
    /// Every call is tried once.
    pub fn off() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// Every call is idempotent, and tried at most so often.
    pub fn idempotent(attempts: u32) -> Self {
        Self { attempts, idempotent: true, ..Self::default() }
    }
}

impl Default for Hedge {
    fn default() -> Self {
        Self { after: None, budget: 0.05 }
    }
}

impl Place {
    /// Same zone; a region that this side does not know does not separate.
    pub(super) fn is_here(&self, (region, zone): (&str, &str)) -> bool {
        !self.zone.is_empty() && zone == self.zone && !self.is_far((region, zone))
    }

    /// Another region than the own one.
    pub(super) fn is_far(&self, (region, _): (&str, &str)) -> bool {
        !self.region.is_empty() && region != self.region
    }
}

impl Balance {
    /// Calls to a service of the default namespace. Errors: the name.
    pub fn service(name: &str) -> Result<Self, Error> {
        Ok(Self::named(ServiceName::parse("", name)?))
    }

    /// Calls to a service.
    pub fn named(service: ServiceName) -> Self {
        let selection = v1::ResolveFilter {
            // Those that are not routable are shown too: they tell how much of a tier is left.
            health: v1::HealthFilter::Any.into(),
            ..v1::ResolveFilter::default()
        };
        let settings = Settings {
            policy: Policy::default(),
            endpoint: String::new(),
            place: Place::default(),
            callers_here: None,
            subset: None,
            slow_start: Duration::from_secs(30),
            slow_start_least: 0.1,
            ejection: Ejection::default(),
            panic_below: 0.5,
            failure_penalty: Duration::from_secs(5),
            concurrency: None,
            retry: Retry::default(),
            hedge: None,
            timeout: None,
            attempt_timeout: None,
            first_list: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
        };
        Self { service, selection, settings, connector: Connector::tcp(), observer: None }
    }

    /// Who gets the next call; default [`Policy::PeakEwma`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Which endpoint of an instance is called (`grpc`, `http`); default: its first one. Instances without it are
    /// left out.
    pub fn endpoint(mut self, name: impl Into<String>) -> Self {
        self.settings.endpoint = name.into();
        self.selection.endpoint_name.clone_from(&self.settings.endpoint);
        self
    }

    /// Only instances with this tag; several: with all of them.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.selection.tags.push(tag.into());
        self
    }

    /// Only instances with this metadata pair; several: with all of them.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.selection.metadata.insert(key.into(), value.into());
        self
    }

    /// The zone of this process: its endpoints are preferred while they can take the load. Ring hash and maglev go by
    /// the key alone.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.settings.place.zone = zone.into();
        self
    }

    /// The region of this process: other regions are called only for what the own one cannot take.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.settings.place.region = region.into();
        self
    }

    /// Share of all callers that are in the own zone (0 to 1); default: one of so many zones as the service has.
    pub fn callers_in_zone(mut self, share: f64) -> Self {
        self.settings.callers_here = Some(share);
        self
    }

    /// Keep to so many endpoints in each tier, chosen at random for this process, at least 1; default: all. For
    /// services with hundreds of instances and callers; 20 or more spread the load evenly enough.
    pub fn subset(mut self, size: usize) -> Self {
        self.settings.subset = Some(size);
        self
    }

    /// Time in which a newcomer's weight grows from a tenth to the whole; default 30 s, zero = at once. Ring hash and
    /// maglev have no slow start: keys would wander.
    pub fn slow_start(mut self, window: Duration) -> Self {
        self.settings.slow_start = window;
        self
    }

    /// When endpoints are ejected.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.settings.ejection = ejection;
        self
    }

    /// Ejections are ignored while less than this share of the endpoints is left (0 to 1); default 0.5.
    pub fn panic_below(mut self, share: f64) -> Self {
        self.settings.panic_below = share;
        self
    }

    /// Most that a failure counts as latency; default 5 s.
    pub fn failure_penalty(mut self, penalty: Duration) -> Self {
        self.settings.failure_penalty = penalty;
        self
    }

    /// Most calls of this process that are in flight to one endpoint, at least 1; default: no limit. Calls beyond go
    /// elsewhere, and are refused where all are full.
    pub fn concurrency(mut self, calls: u32) -> Self {
        self.settings.concurrency = Some(calls);
        self
    }

    /// When calls are tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// Try a second endpoint when the first takes long; default: no. Idempotent calls only.
    pub fn hedge(mut self, hedge: Hedge) -> Self {
        self.settings.hedge = Some(hedge);
        self
    }

    /// Deadline of a call that brings none, all attempts together and the body of the answer too; default: none.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Longest wait of one attempt for the head of its answer; default: none. It counts against the endpoint, and an
    /// idempotent call is tried elsewhere: what gets calls away from an endpoint that hangs and has not broken its
    /// connections. It must be longer than good answers ever take: an attempt that is cut short is work done in vain.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.settings.attempt_timeout = Some(timeout);
        self
    }

    /// Longest wait of a call for the first list of endpoints; default 5 s.
    pub fn first_list(mut self, wait: Duration) -> Self {
        self.settings.first_list = wait;
        self
    }

    /// Longest wait for a connection to an endpoint to open; default 1 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How the gRPC channel opens connections to endpoints; default: [`Connector::tcp`].
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    /// Who is told of attempts and ejections.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// What to watch.
    pub(super) fn selection(&self) -> Selection {
        Selection::services([self.service.clone()]).filter(self.selection.clone())
    }

    /// Checks everything. Errors name the field.
    pub(super) fn checked(self) -> Result<Self, Invalid> {
        let settings = &self.settings;
        if !settings.endpoint.is_empty() {
            Label::parse("endpoint", &settings.endpoint)?;
        }
        let share = |field: &str, value: f64| match value {
            value if (0.0..=1.0).contains(&value) => Ok(()),
            value => Err(Invalid::new(field, format!("{value}: 0 to 1 is allowed"))),
        };
        share("callers_in_zone", settings.callers_here.unwrap_or(0.0))?;
        share("panic_below", settings.panic_below)?;
        share("ejection.share", settings.ejection.share)?;
        share("retry.budget", settings.retry.budget.into())?;
        share("hedge.budget", settings.hedge.as_ref().map_or(0.0, |hedge| hedge.budget.into()))?;
        if settings.ejection.interval < Duration::from_millis(100) {
            let problem = format!("{:?}: at least 100 ms", settings.ejection.interval);
            return Err(Invalid::new("ejection.interval", problem));
        }
        if !(1..=ATTEMPTS_MAX).contains(&settings.retry.attempts) {
            let problem = format!("{}: 1 to {ATTEMPTS_MAX} are allowed", settings.retry.attempts);
            return Err(Invalid::new("retry.attempts", problem));
        }
        if settings.retry.budget_floor > 10_000 {
            let problem = format!("{}: at most 10000 a second", settings.retry.budget_floor);
            return Err(Invalid::new("retry.budget_floor", problem));
        }
        if settings.subset == Some(0) {
            return Err(Invalid::new("subset", "0: at least 1 endpoint is needed"));
        }
        if settings.attempt_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Invalid::new("attempt_timeout", "0: no attempt could succeed"));
        }
        if settings.concurrency == Some(0) {
            return Err(Invalid::new("concurrency", "0: at least 1 call must be allowed"));
        }
        Ok(self)
    }
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("service", &self.service)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        let plain = || Balance::service("web").unwrap();
        let cases = [
            ("endpoint", plain().endpoint("HTTP port")),
            ("callers_in_zone", plain().callers_in_zone(1.5)),
            ("panic_below", plain().panic_below(f64::NAN)),
            ("ejection.share", plain().ejection(Ejection { share: -1.0, ..Ejection::default() })),
            (
                "ejection.interval",
                plain().ejection(Ejection { interval: Duration::ZERO, ..Ejection::default() }),
            ),
            ("retry.attempts", plain().retry(Retry { attempts: 0, ..Retry::default() })),
            ("retry.attempts", plain().retry(Retry { attempts: 11, ..Retry::default() })),
            ("retry.budget", plain().retry(Retry { budget: 1.1, ..Retry::default() })),
            (
                "retry.budget_floor",
                plain().retry(Retry { budget_floor: 10_001, ..Retry::default() }),
            ),
            ("hedge.budget", plain().hedge(Hedge { budget: -0.1, ..Hedge::default() })),
            ("subset", plain().subset(0)),
            ("concurrency", plain().concurrency(0)),
            ("attempt_timeout", plain().attempt_timeout(Duration::ZERO)),
        ];
        for (field, balance) in cases {
            assert_eq!(balance.checked().expect_err(field).field, field);
        }
        assert!(plain().checked().is_ok());
    }

    #[test]
    fn an_unknown_part_of_the_own_place_does_not_separate() {
        let place = |region: &str, zone: &str| Place { region: region.into(), zone: zone.into() };
        assert!(place("", "a").is_here(("eu", "a")));
        assert!(!place("us", "a").is_here(("eu", "a")));
        assert!(!place("", "").is_here(("", "")));
        assert!(place("eu", "").is_far(("", "")) && !place("", "a").is_far(("eu", "b")));
    }
}
