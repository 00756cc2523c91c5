//! A gRPC channel by service name: what a generated tonic client is made with.

use super::{
    Balancer,
    answer::{Answer, Ending},
    call::{CallError, Idempotent, Protocol, call},
    deadline::Deadline,
    endpoint::Endpoint,
    judge::{self, Judged, Repeat},
    observe::Outcome,
};
use crate::connect::{Address, BoxFuture, Connector, Dialer};
use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{Code, Status, body::Body, transport};
use tower::Service;

/// Silence on a connection after which it is asked for a sign of life, and time for that.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A gRPC channel to a service. Each call goes to an endpoint of its own. No queue is shared by endpoints; before each
/// of them stands tonic's, of 1,024 requests: more wait, until there is room or their deadline passes. Cheap to clone.
/// It is always ready: whether there is room shows in the call.
///
/// Per call, in the extensions of the request: [`Hint`](super::Hint), [`Idempotent`], [`Deadline`].
#[derive(Debug, Clone)]
pub struct Channel {
    balancer: Balancer,
    grpc: Grpc,
    idempotent: bool,
}

/// gRPC over one HTTP/2 connection to each endpoint, opened by the first call to it.
#[derive(Debug, Clone)]
struct Grpc {
    connector: Connector,
    connect_timeout: Duration,
}

impl Channel {
    pub(super) fn new(balancer: Balancer, connector: Connector) -> Self {
        let connect_timeout = balancer.core.settings.connect_timeout;
        Self { balancer, grpc: Grpc { connector, connect_timeout }, idempotent: false }
    }

    /// The same channel for calls that may be done twice: they are retried and hedged.
    #[must_use]
    pub fn idempotent(&self) -> Self {
        Self { idempotent: true, ..self.clone() }
    }

    /// The balancer behind it.
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Answer<Body>>;
    type Error = Status;
    type Future = BoxFuture<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if self.idempotent {
            request.extensions_mut().insert(Idempotent);
        }
        // The task that follows the list must live until the call is made.
        let (balancer, grpc) = (self.balancer.clone(), self.grpc.clone());
        Box::pin(async move {
            let answer = call(Arc::clone(&balancer.core), grpc, request).await;
            answer.map_err(status_of)
        })
    }
}

impl Protocol for Grpc {
    type Body = Body;
    type Error = transport::Error;
    type Service = transport::Channel;

    fn service(&self, endpoint: &Endpoint) -> transport::Channel {
        endpoint.channel(|endpoint| self.open(endpoint))
    }

    fn aim(&self, request: &mut Request<Body>, _: &Endpoint, deadline: Option<Deadline>) {
        if let Some(deadline) = deadline {
            deadline.write(request.headers_mut());
        }
    }

    fn is_idempotent(&self, _: &Parts) -> bool {
        false
    }

    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Judged {
        judge::grpc_head(status, headers)
    }

    fn end(&self) -> Ending {
        Ending { verdict: judge::grpc_end, dropped: Outcome::Cancelled, late }
    }
}

impl Grpc {
    fn open(&self, endpoint: &Endpoint) -> transport::Channel {
        let dialer = Dialer {
            connector: self.connector.clone(),
            address: Address::from(endpoint.address()),
            deadline: self.connect_timeout,
            local: Arc::default(),
        };
        transport::Endpoint::from_shared(format!("http://{}", endpoint.authority))
            .and_then(|e| e.user_agent(concat!("rollcall-client/", env!("CARGO_PKG_VERSION"))))
            .expect("ip:port is a valid authority")
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .connect_with_connector_lazy(dialer)
    }
}

/// The trailers of an answer that had not ended by its deadline.
fn late(error: &CallError) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    Status::deadline_exceeded(error.to_string()).add_header(&mut trailers).ok()?;
    Some(trailers)
}

/// The status of a call without an answer. Its source is the whole chain of causes.
fn status_of(error: CallError) -> Status {
    let text = match &error {
        CallError::Failed { source, .. } => format!("{error}: {}", innermost(&**source)),
        CallError::Pick(_) | CallError::Deadline { .. } => error.to_string(),
    };
    let code = match &error {
        CallError::Pick(_) => Code::Unavailable,
        CallError::Deadline { .. } => Code::DeadlineExceeded,
        CallError::Failed { source, .. } if judge::error(&**source).repeat == Repeat::Always => {
            Code::Unavailable
        }
        CallError::Failed { .. } => Code::Unknown,
    };
    let mut found = Status::from_error(Box::new(error));
    let code = match (code, found.code()) {
        // tonic calls a connection that broke UNKNOWN; every other gRPC client says UNAVAILABLE.
        (Code::Unknown, Code::Unknown | Code::Cancelled) => Code::Unavailable,
        (Code::Unknown, found) => found,
        (code, _) => code,
    };
    let mut status = Status::with_metadata(code, text, std::mem::take(found.metadata_mut()));
    status.set_source(Arc::new(found));
    status
}

/// The last cause: those before it say "transport error" only.
fn innermost<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e dyn std::error::Error {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause
}
