//! The life of one call: wait for the first list, pick, send, judge, and again elsewhere while that is safe, within
//! the budget and before the deadline. The same for gRPC and HTTP; what differs is a [`Protocol`].

use super::{
    answer::{Answer, Ending, Limit},
    body::Kept,
    deadline::Deadline,
    details::sanitize,
    endpoint::Endpoint,
    hedge::LEAST,
    judge::{self, Judged, Repeat},
    observe::{Outcome, Why},
    pick::{Core, Hint, Pick, PickError},
};
use crate::dice::Rolls;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use rollcall_core::name::ServiceName;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::Instant;
use tonic::body::Body;
use tower::{BoxError, Service, retry::budget::Budget as _};

/// Waits before retries: the first goes out at once where another endpoint is there, then these, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Put into the extensions of a request: it may be done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Idempotent;

/// Why a call through a balancer has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody to send it to.
    #[error(transparent)]
    Pick(#[from] PickError),
    /// The deadline passed.
    #[error(
        "{service}: no answer within the deadline of {waited:?}, in {attempts} attempts; the last was {endpoint}"
    )]
    Deadline {
        /// Which service.
        service: ServiceName,
        /// The last endpoint that was asked.
        endpoint: SocketAddr,
        /// How long it was tried.
        waited: Duration,
        /// How often.
        attempts: u32,
    },
    /// The last attempt failed.
    #[error("{service}: {endpoint} gave no answer, attempt {attempts} was the last")]
    Failed {
        /// Which service.
        service: ServiceName,
        /// The last endpoint that was asked.
        endpoint: SocketAddr,
        /// How often it was tried.
        attempts: u32,
        /// What happened.
        #[source]
        source: BoxError,
    },
}

/// No head of an answer came within [`super::Balance::attempt_timeout`].
#[derive(Debug, thiserror::Error)]
#[error("no answer within the attempt timeout of {0:?}")]
struct Hung(Duration);

/// How requests reach an endpoint, and how answers are read.
pub(super) trait Protocol: Clone + Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send;
    type Error: Into<BoxError> + Send;
    type Service: Service<Request<Body>, Response = Response<Self::Body>, Error = Self::Error, Future: Send>
        + Send;

    /// What takes requests to this endpoint.
    fn service(&self, endpoint: &Endpoint) -> Self::Service;
    /// Makes a request one to this endpoint, with what is left of its deadline.
    fn aim(&self, request: &mut Request<Body>, endpoint: &Endpoint, deadline: Option<Deadline>);
    /// Whether the request may be done twice by its nature.
    fn is_idempotent(&self, request: &Parts) -> bool;
    /// What the head of an answer says.
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Judged;
    /// What the end of an answer says.
    fn end(&self) -> Ending;
}

type Answered<P> = Response<Answer<<P as Protocol>::Body>>;

/// One call with all its attempts.
struct Call<P> {
    core: Arc<Core>,
    protocol: P,
    parts: Parts,
    body: Kept,
    hint: Hint,
    idempotent: bool,
    begun: Instant,
    deadline: Option<Deadline>,
    tried: Vec<Arc<Endpoint>>,
    attempts: u32,
    /// Of attempts that failed while another one was on its way: what the strictest of them allows.
    bound: Option<(Repeat, Option<Duration>)>,
}

/// How one attempt ended.
enum Ended<P: Protocol> {
    Answer(Answered<P>),
    Failed(Failed<P>),
}

/// What the caller gets if it is not tried again.
struct Failed<P: Protocol> {
    result: Result<Answered<P>, Lost>,
    endpoint: SocketAddr,
    repeat: Repeat,
    pushback: Option<Duration>,
}

/// Why there is not even a bad answer.
enum Lost {
    Deadline,
    Error(BoxError),
}

/// Makes the call.
pub(super) async fn call<P: Protocol>(
    core: Arc<Core>,
    protocol: P,
    request: Request<Body>,
) -> Result<Answered<P>, CallError> {
    let mut call = Call::new(core, protocol, request);
    call.wait_for_list().await?;
    call.core.retries.deposit();
    if call.core.settings.hedge.is_some() {
        call.core.hedges.deposit();
    }
    call.run().await
}

impl<P: Protocol> Call<P> {
    fn new(core: Arc<Core>, protocol: P, request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        let (settings, extensions) = (&core.settings, &parts.extensions);
        let given = Deadline::of_headers(&parts.headers);
        let handed_on = extensions.get::<Deadline>().copied();
        let deadline = [given, handed_on].into_iter().flatten().min();
        let deadline = deadline.or_else(|| settings.timeout.map(Deadline::after));
        let once = settings.retry.attempts <= 1;
        Self {
            hint: extensions.get::<Hint>().copied().unwrap_or_default(),
            idempotent: settings.retry.idempotent
                || extensions.get::<Idempotent>().is_some()
                || protocol.is_idempotent(&parts),
            body: Kept::new(body, if once { 0 } else { settings.retry.request_bytes }),
            begun: Instant::now(),
            tried: Vec::new(),
            attempts: 0,
            bound: None,
            core,
            protocol,
            parts,
            deadline,
        }
    }

    /// Waits until a list was received once, not beyond the deadline.
    async fn wait_for_list(&self) -> Result<(), PickError> {
        if self.core.is_listed() {
            return Ok(());
        }
        let wait = self.core.settings.first_list;
        let wait = self.deadline.map_or(wait, |deadline| deadline.left().min(wait));
        self.core.listed(wait).await
    }

    async fn run(&mut self) -> Result<Answered<P>, CallError> {
        let mut flying = FuturesUnordered::new();
        flying.push(self.launch(Why::First)?);
        let mut hedge_at = self.hedge_at();
        loop {
            let (why, ended) = tokio::select! {
                biased;
                Some(ended) = flying.next() => ended,
                () = at(hedge_at), if hedge_at.is_some() => {
                    hedge_at = None;
                    if !self.has_others() {
                        continue;
                    }
                    if !self.core.hedges.withdraw() {
                        // Calls that are only a little late use up the budget too: one that hangs asks again.
                        hedge_at = self.hedge_at();
                    } else if let Ok(hedge) = self.launch(Why::Hedge) {
                        flying.push(hedge);
                    }
                    continue;
                }
            };
            let failed = match ended {
                Ended::Answer(answer) => {
                    // A hedge is the last attempt that was made: the one before it is still on its way.
                    if why == Why::Hedge
                        && !flying.is_empty()
                        && let [.., beaten, _] = &self.tried[..]
                    {
                        self.core.beaten(beaten);
                    }
                    return Ok(answer);
                }
                Ended::Failed(failed) => self.strictest(failed),
            };
            if !flying.is_empty() {
                continue;
            }
            let Some(wait) = self.wait_before_retry(&failed) else { return self.give_up(failed) };
            (hedge_at, self.bound) = (None, None);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            match self.launch(Why::Retry) {
                Ok(attempt) => flying.push(attempt),
                Err(_) => return self.give_up(failed),
            }
        }
    }

    /// Picks an endpoint that was not tried, and sends the request there.
    fn launch(
        &mut self,
        why: Why,
    ) -> Result<impl Future<Output = (Why, Ended<P>)> + Send + use<P>, PickError> {
        // The body goes first: it is put back where nobody can be picked, but a pick that is dropped is a call.
        let Some(body) = self.body.send() else {
            let service = self.core.service.clone();
            return Err(PickError::Empty { service, listed: 0 });
        };
        let pick = match self.core.pick(self.hint, why, &self.tried) {
            Ok(pick) => pick,
            // Nobody else is there. A hedge to the same endpoint would be of no use.
            Err(_) if why == Why::Retry => self.core.pick(self.hint, why, &[])?,
            Err(error) => return Err(error),
        };
        let mut request = Request::from_parts(self.parts.clone(), body);
        self.protocol.aim(&mut request, pick.endpoint(), self.deadline);
        self.tried.push(Arc::clone(pick.endpoint()));
        self.attempts += 1;
        let limit = self.deadline.map(|at| Limit::new(at.0, self.begun, self.attempts));
        let patience = self.core.settings.attempt_timeout;
        let attempt = attempt(self.protocol.clone(), pick, request, (limit, patience));
        Ok(attempt.map(move |ended| (why, ended)))
    }

    /// Keeps the strictest of what attempts that were on their way together allow.
    fn strictest(&mut self, mut failed: Failed<P>) -> Failed<P> {
        if let Some((repeat, pushback)) = self.bound {
            failed.repeat = failed.repeat.min(repeat);
            failed.pushback = failed.pushback.max(pushback);
        }
        self.bound = Some((failed.repeat, failed.pushback));
        failed
    }

    fn has_others(&self) -> bool {
        let snapshot = self.core.snapshot.load();
        snapshot.has_others(&self.tried, self.core.settings.concurrency)
    }

    fn hedge_at(&self) -> Option<Instant> {
        let hedge = self.core.settings.hedge.as_ref()?;
        let more = self.attempts < self.core.settings.retry.attempts;
        if !more || !self.idempotent || !self.body.is_whole() {
            return None;
        }
        let wait = hedge.after.or_else(|| self.core.delays.usual())?;
        // Also what was asked for: a call whose budget is used up comes back here.
        Some(Instant::now() + wait.max(LEAST))
    }

    /// How long to wait before the next attempt; `None` = there is none.
    fn wait_before_retry(&self, failed: &Failed<P>) -> Option<Duration> {
        let safe = match failed.repeat {
            Repeat::Never => false,
            Repeat::IfIdempotent => self.idempotent,
            Repeat::Always => true,
        };
        let more = self.attempts < self.core.settings.retry.attempts;
        // A retry that cannot be sent must not be paid for.
        if !safe || !more || !self.body.can_send() {
            return None;
        }
        let others = self.has_others();
        let wait = match failed.pushback {
            Some(asked) => asked,
            None if self.attempts == 1 && others => Duration::ZERO,
            None => wait(self.attempts, &self.core.rolls),
        };
        if self.deadline.is_some_and(|deadline| deadline.left() <= wait) {
            return None;
        }
        self.core.retries.withdraw().then_some(wait)
    }

    fn give_up(&self, failed: Failed<P>) -> Result<Answered<P>, CallError> {
        let (service, endpoint, attempts) =
            (self.core.service.clone(), failed.endpoint, self.attempts);
        failed.result.map_err(|lost| match lost {
            Lost::Error(source) => CallError::Failed { service, endpoint, attempts, source },
            Lost::Deadline => {
                let waited = self.begun.elapsed();
                CallError::Deadline { service, endpoint, waited, attempts }
            }
        })
    }
}

/// Half to whole of a wait that doubles with each attempt.
fn wait(attempts: u32, rolls: &Rolls) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << attempts.min(20)).min(LONGEST_WAIT);
    whole.mul_f64(0.5 + rolls.fraction() / 2.0)
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn attempt<P: Protocol>(
    protocol: P,
    pick: Pick,
    request: Request<Body>,
    (limit, patience): (Option<Limit>, Option<Duration>),
) -> Ended<P> {
    let counts = limit.as_ref().is_none_or(|limit| limit.counts);
    let endpoint = pick.address();
    let mut service = protocol.service(pick.endpoint());
    let answer = async {
        std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
        service.call(request).await
    };
    // The deadline of the call, or that of the attempt where it comes first.
    let patience = patience.map(|patience| (Deadline::after(patience).0, patience));
    let end = limit.as_ref().map(|limit| limit.at);
    let first = patience.filter(|(at, _)| end.is_none_or(|end| *at < end));
    let answer = match first.map(|(at, _)| at).or(end) {
        None => answer.await,
        Some(at) => match tokio::time::timeout_at(at, answer).await {
            Ok(answer) => answer,
            Err(_) => match first {
                Some((_, patience)) => return hung(pick, patience),
                None => return late(pick, counts),
            },
        },
    };
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let error: BoxError = error.into();
            let judged = judge::error(&*error);
            if judged.outcome == Outcome::Timeout {
                return late(pick, counts);
            }
            pick.report(judged.outcome);
            let Judged { repeat, pushback, .. } = judged;
            let result = Err(Lost::Error(error));
            return Ended::Failed(Failed { result, endpoint, repeat, pushback });
        }
    };
    sanitize(answer.headers_mut());
    let Judged { outcome, repeat, pushback } = protocol.head(answer.status(), answer.headers());
    if outcome == Outcome::Success {
        let (head, body) = answer.into_parts();
        let body = Answer::open(body, &head.headers, pick, protocol.end(), limit);
        return Ended::Answer(Response::from_parts(head, body));
    }
    pick.report(outcome);
    let result = Ok(answer.map(|body| Answer::closed(body, protocol.end())));
    Ended::Failed(Failed { result, endpoint, repeat, pushback })
}

fn hung<P: Protocol>(pick: Pick, patience: Duration) -> Ended<P> {
    let endpoint = pick.address();
    pick.report(Outcome::Timeout);
    let result = Err(Lost::Error(Box::new(Hung(patience))));
    Ended::Failed(Failed { result, endpoint, repeat: Repeat::IfIdempotent, pushback: None })
}

fn late<P: Protocol>(pick: Pick, counts: bool) -> Ended<P> {
    let endpoint = pick.address();
    pick.report(if counts { Outcome::Timeout } else { Outcome::Cancelled });
    let (result, repeat) = (Err(Lost::Deadline), Repeat::Never);
    Ended::Failed(Failed { result, endpoint, repeat, pushback: None })
}
