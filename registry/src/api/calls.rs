//! What every call of the public API passes: a deadline, a count, a hint where the leader is.
//!
//! A deadline that runs out, the caller's own or that of the node, is DEADLINE_EXCEEDED here; tonic would say
//! CANCELLED. What tonic itself refuses (a message that is too large or cannot be decoded) gets the code and the
//! reason of our table.

use super::{Api, status};
use http::{HeaderMap, HeaderValue, Request, Response};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{Code, Status, body::Body};
use tower::Service;

/// Answers of RegistrationService and AdminService name the leader's address for the gRPC API in this header, where
/// one is known: a client may send its writes there directly.
pub const LEADER: &str = "x-rollcall-leader";
/// A write with this header is refused with NOT_LEADER where it would have to be passed on.
pub const NO_FORWARD: &str = "x-rollcall-no-forward";

/// Longest duration of what an operator asks for that moves data or members.
const OPERATION: Duration = Duration::from_secs(60);
/// A caller's deadline is shortened by a tenth, at most by this: so its answer comes from here, and before it gives up.
const MARGIN: Duration = Duration::from_millis(50);
/// Bounds of the histogram in seconds.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

/// What kind of call a method is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Changes nothing.
    Read,
    /// Goes through the log.
    Write,
    /// Moves data or members, and may take long.
    Operation,
    /// Answers with a stream: the time until it begins counts.
    Stream,
}

/// Every method of the public API; a test holds it against the descriptors.
const METHODS: &[(&str, Kind)] = &[
    ("/rollcall.v1.AdminService/AddMember", Kind::Operation),
    ("/rollcall.v1.AdminService/DeleteServicePolicy", Kind::Write),
    ("/rollcall.v1.AdminService/ExportSnapshot", Kind::Stream),
    ("/rollcall.v1.AdminService/GetClusterStatus", Kind::Read),
    ("/rollcall.v1.AdminService/GetProtection", Kind::Read),
    ("/rollcall.v1.AdminService/GetServicePolicy", Kind::Read),
    ("/rollcall.v1.AdminService/PromoteMember", Kind::Operation),
    ("/rollcall.v1.AdminService/PutServicePolicy", Kind::Write),
    ("/rollcall.v1.AdminService/ReleaseProtection", Kind::Write),
    ("/rollcall.v1.AdminService/RemoveMember", Kind::Operation),
    ("/rollcall.v1.AdminService/TransferLeader", Kind::Operation),
    ("/rollcall.v1.AdminService/TriggerSnapshot", Kind::Operation),
    ("/rollcall.v1.DiscoveryService/BatchResolve", Kind::Read),
    ("/rollcall.v1.DiscoveryService/GetInstance", Kind::Read),
    ("/rollcall.v1.DiscoveryService/ListServices", Kind::Read),
    ("/rollcall.v1.DiscoveryService/Resolve", Kind::Read),
    ("/rollcall.v1.DiscoveryService/Watch", Kind::Stream),
    ("/rollcall.v1.JournalService/History", Kind::Read),
    ("/rollcall.v1.JournalService/Tail", Kind::Stream),
    ("/rollcall.v1.RegistrationService/Deregister", Kind::Write),
    ("/rollcall.v1.RegistrationService/Register", Kind::Write),
    ("/rollcall.v1.RegistrationService/SetAdminState", Kind::Write),
    ("/rollcall.v1.RegistrationService/StreamHeartbeats", Kind::Stream),
];

/// What is counted under: a method of the table or `other`, and one of the 17 codes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
}

/// Counts of calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    answered: Family<Answered, Counter>,
    seconds: Family<Asked, Histogram, fn() -> Histogram>,
}

impl Default for CallMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        Self { answered: Family::default(), seconds: Family::new_with_constructor(histogram) }
    }
}

impl CallMetrics {
    /// Names of the metrics and what they mean.
    pub const NAMES: [(&'static str, &'static str); 2] = [
        ("calls", "Calls of the gRPC API by method and code; a stream counts when it begins"),
        ("call_seconds", "Time until a call of the gRPC API was answered, or its stream began"),
    ];

    /// Adds them to the metrics of a node.
    pub fn register(&self, registry: &mut Registry) {
        let [(calls, calls_help), (seconds, seconds_help)] = Self::NAMES;
        registry.register(calls, calls_help, self.answered.clone());
        registry.register(seconds, seconds_help, self.seconds.clone());
    }

    fn count(&self, method: &'static str, code: Code, took: Duration) {
        let method = method.strip_prefix("/rollcall.v1.").unwrap_or(method);
        let code = code_name(code);
        self.answered.get_or_create(&Answered { method, code }).inc();
        self.seconds.get_or_create(&Asked { method }).observe(took.as_secs_f64());
    }
}

/// The layer around all services.
#[derive(Debug, Clone)]
pub(super) struct Calls<S> {
    inner: S,
    api: Api,
}

impl<S> Calls<S> {
    pub(super) fn new(inner: S, api: Api) -> Self {
        Self { inner, api }
    }
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !is_grpc(request.headers()) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Box::pin(async move { Ok(response) });
        }
        // The one that was polled ready is used, its clone waits for the next call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let api = self.api.clone();
        let path = request.uri().path();
        let found = METHODS.binary_search_by(|(known, _)| (*known).cmp(path)).ok();
        let (method, kind) = found.map_or(("other", Kind::Stream), |index| METHODS[index]);
        let hinted = path.starts_with("/rollcall.v1.RegistrationService/")
            || path.starts_with("/rollcall.v1.AdminService/");
        let own = match kind {
            Kind::Read | Kind::Write => Some(api.settings().request_deadline),
            Kind::Operation => Some(OPERATION),
            Kind::Stream => None,
        };
        let asked = asked_deadline(request.headers()).map(|asked| asked - (asked / 10).min(MARGIN));
        let limit = own.into_iter().chain(asked).min();
        Box::pin(async move {
            let clock = &api.host().clock;
            let began = clock.monotonic();
            let call = inner.call(request);
            let mut response = match limit {
                None => call.await?,
                Some(limit) => match tokio::time::timeout(limit, call).await {
                    Ok(response) => response?,
                    Err(_) => status::deadline(limit, matches!(kind, Kind::Read | Kind::Stream))
                        .into_http(),
                },
            };
            let refusal = Status::from_header_map(response.headers());
            let mut code = refusal.as_ref().map_or(Code::Ok, Status::code);
            if let Some(dressed) = refusal.and_then(status::dressed) {
                code = dressed.code();
                // A status that cannot be written as a header leaves what was there.
                let _ = dressed.add_header(response.headers_mut());
            }
            if hinted && let Some(leader) = leader(&api) {
                response.headers_mut().insert(LEADER, leader);
            }
            api.calls().count(method, code, clock.monotonic().saturating_sub(began));
            Ok(response)
        })
    }
}

fn leader(api: &Api) -> Option<HeaderValue> {
    let leadership = api.replica().leadership();
    let address = leadership.borrow().leader.as_ref().map(|(_, member)| member.api)?;
    HeaderValue::from_str(&address.to_string()).ok()
}

/// What tonic does not look at; the specification of gRPC asks for 415.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content.is_some_and(|content| content.starts_with(b"application/grpc"))
}

/// What the caller's `grpc-timeout` says, where it can be read.
fn asked_deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = text.len().checked_sub(1).filter(|digits| (1..=8).contains(digits))?;
    let (digits, unit) = text.split_at_checked(unit)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use rollcall_proto::FILE_DESCRIPTOR_SET;

    #[test]
    fn the_table_has_every_method_of_the_public_services_in_order() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let files = set.file.iter().filter(|file| file.package() == "rollcall.v1");
        let mut expected: Vec<(String, bool)> = files
            .flat_map(|file| &file.service)
            .flat_map(|service| {
                let name = |m: &str| format!("/rollcall.v1.{}/{m}", service.name());
                service.method.iter().map(move |m| (name(m.name()), m.server_streaming()))
            })
            .collect();
        expected.sort();
        let table = METHODS.iter().map(|(path, kind)| ((*path).to_owned(), *kind == Kind::Stream));
        assert_eq!(table.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_deadline_of_a_caller_is_read_as_grpc_writes_it() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            asked_deadline(&headers)
        };
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "S", "5", "5x", "123456789S", "-5S", "+5S", "5 S", "é"] {
            assert_eq!(
                wrong.parse::<HeaderValue>().ok().and_then(|_| read(wrong)),
                None,
                "{wrong}"
            );
        }
    }
}
