//! What an answer or an error says about the endpoint, and about trying again. Pure.

use super::observe::Outcome;
use http::{HeaderMap, StatusCode};
use std::{error::Error, io, time::Duration};
use tonic::{Code, ConnectError, TimeoutExpired};

/// Longest wait that an endpoint can ask for; where one asks for more the call is not tried again.
const PUSHBACK_MAX: Duration = Duration::from_secs(10);

/// Whether a call that ended like this may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Repeat {
    /// Trying again changes nothing, or the endpoint asked not to.
    Never,
    /// Nobody knows what was done.
    IfIdempotent,
    /// Nothing was done.
    Always,
}

/// A judgement of the head of an answer, or of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) outcome: Outcome,
    pub(super) repeat: Repeat,
    /// How long the endpoint asked to wait.
    pub(super) pushback: Option<Duration>,
}

const GOOD: Judged = Judged { outcome: Outcome::Success, repeat: Repeat::Never, pushback: None };

/// The head of a gRPC answer. Where it carries the status already, there is no body; where it carries none, that comes
/// after the body.
pub(super) fn grpc_head(status: StatusCode, headers: &HeaderMap) -> Judged {
    let outcome = match (headers.get("grpc-status"), status) {
        (Some(code), _) => outcome_of(Code::from_bytes(code.as_bytes())),
        (None, StatusCode::OK) => return GOOD,
        // Not a gRPC server: a proxy that has nobody to ask.
        (None, _) => return http_head(status, headers),
    };
    let unavailable = headers.get("grpc-status").is_some_and(|code| code == "14");
    let asked = headers.get("grpc-retry-pushback-ms").map(|value| {
        let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        millis.map(Duration::from_millis).filter(|wait| *wait <= PUSHBACK_MAX)
    });
    let repeat = match (outcome, asked) {
        (_, Some(None)) => Repeat::Never,
        (Outcome::Failure, _) if unavailable => Repeat::IfIdempotent,
        // Too busy: only where it says when it will not be.
        (Outcome::Overloaded, Some(Some(_))) => Repeat::IfIdempotent,
        _ => Repeat::Never,
    };
    Judged { outcome, repeat, pushback: asked.flatten() }
}

/// The trailers of a gRPC answer, without which it broke off.
pub(super) fn grpc_end(trailers: Option<&HeaderMap>) -> Outcome {
    let code = trailers.and_then(|trailers| trailers.get("grpc-status"));
    code.map_or(Outcome::Failure, |code| outcome_of(Code::from_bytes(code.as_bytes())))
}

/// Codes that say that the server is to blame. CANCELLED is what tonic's servers send when their own deadline passes.
fn outcome_of(code: Code) -> Outcome {
    match code {
        Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss => Outcome::Failure,
        Code::DeadlineExceeded | Code::Cancelled => Outcome::Timeout,
        Code::ResourceExhausted => Outcome::Overloaded,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Outcome::Success,
    }
}

/// The head of an HTTP answer.
pub(super) fn http_head(status: StatusCode, headers: &HeaderMap) -> Judged {
    let outcome = match status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::Overloaded,
        StatusCode::GATEWAY_TIMEOUT => Outcome::Timeout,
        status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
            Outcome::Failure
        }
        _ => return GOOD,
    };
    let asked = headers.get(http::header::RETRY_AFTER).map(|value| {
        let seconds = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        seconds.map(Duration::from_secs).filter(|wait| *wait <= PUSHBACK_MAX)
    });
    let gateway = matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    let repeat = match asked {
        Some(None) => Repeat::Never,
        Some(Some(_)) => Repeat::IfIdempotent,
        None if gateway => Repeat::IfIdempotent,
        None => Repeat::Never,
    };
    Judged { outcome, repeat, pushback: asked.flatten() }
}

/// The end of an HTTP body: its trailers say nothing.
pub(super) fn http_end(_: Option<&HeaderMap>) -> Outcome {
    Outcome::Success
}

/// An attempt without an answer.
pub(super) fn error(error: &(dyn Error + 'static)) -> Judged {
    let judged = |outcome, repeat| Judged { outcome, repeat, pushback: None };
    if any(error, &|e| e.is::<TimeoutExpired>()) {
        return judged(Outcome::Timeout, Repeat::Never);
    }
    if any(error, &is_of_the_caller) {
        return judged(Outcome::Cancelled, Repeat::Never);
    }
    let repeat = if any(error, &was_not_sent) { Repeat::Always } else { Repeat::IfIdempotent };
    judged(Outcome::Failure, repeat)
}

/// Causes that lie on this side: the body of the request failed, and hyper gave the call up for it.
fn is_of_the_caller(error: &(dyn Error + 'static)) -> bool {
    let own = |error: &h2::Error| error.is_reset() && !error.is_remote() && !error.is_library();
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user)
        || error.downcast_ref::<h2::Error>().is_some_and(own)
}

/// Causes that say that the endpoint did not see the request.
fn was_not_sent(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        // RFC 9113 sections 8.7 and 6.8: refused before any processing; above the last stream that was looked at.
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        return error.is_remote() && (refused || left);
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.kind() == io::ErrorKind::ConnectionRefused;
    }
    let client = error.downcast_ref::<hyper_util::client::legacy::Error>();
    let dropped = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
    // Hyper calls a request cancelled when its connection went away before it was taken up.
    error.is::<ConnectError>() || dropped || client.is_some_and(|error| error.is_connect())
}

fn any(error: &(dyn Error + 'static), fits: &dyn Fn(&(dyn Error + 'static)) -> bool) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if fits(error) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn grpc(pairs: &[(&'static str, &str)]) -> (Outcome, Repeat, Option<u64>) {
        let judged = grpc_head(StatusCode::OK, &headers(pairs));
        (judged.outcome, judged.repeat, judged.pushback.map(|wait| wait.as_millis() as u64))
    }

    #[test]
    fn a_refusal_is_no_failure_and_unavailable_may_be_tried_again() {
        use {Outcome::*, Repeat::*};
        assert_eq!(grpc(&[]), (Success, Never, None));
        assert_eq!(grpc(&[("grpc-status", "0")]), (Success, Never, None));
        assert_eq!(grpc(&[("grpc-status", "3")]), (Success, Never, None));
        assert_eq!(grpc(&[("grpc-status", "14")]), (Failure, IfIdempotent, None));
        assert_eq!(grpc(&[("grpc-status", "13")]), (Failure, Never, None));
        assert_eq!(grpc(&[("grpc-status", "4")]), (Timeout, Never, None));
        assert_eq!(grpc(&[("grpc-status", "8")]), (Overloaded, Never, None));
        assert_eq!(grpc(&[("grpc-status", "nonsense")]), (Failure, Never, None));
    }

    #[test]
    fn pushback_is_honoured_and_nonsense_in_it_means_no() {
        use {Outcome::*, Repeat::*};
        let asked = |code, wait| grpc(&[("grpc-status", code), ("grpc-retry-pushback-ms", wait)]);
        assert_eq!(asked("14", "250"), (Failure, IfIdempotent, Some(250)));
        assert_eq!(asked("8", "250"), (Overloaded, IfIdempotent, Some(250)));
        assert_eq!(asked("14", "-1"), (Failure, Never, None));
        assert_eq!(asked("14", "soon"), (Failure, Never, None));
        assert_eq!(asked("14", "60000"), (Failure, Never, None));
    }

    #[test]
    fn http_codes_are_judged_by_who_is_to_blame() {
        use {Outcome::*, Repeat::*};
        let judge = |code: u16, pairs: &[(&'static str, &str)]| {
            let judged = http_head(StatusCode::from_u16(code).unwrap(), &headers(pairs));
            (judged.outcome, judged.repeat)
        };
        assert_eq!(judge(200, &[]), (Success, Never));
        assert_eq!(judge(404, &[]), (Success, Never));
        assert_eq!(judge(500, &[]), (Failure, Never));
        assert_eq!(judge(501, &[]), (Success, Never));
        assert_eq!(judge(503, &[]), (Failure, IfIdempotent));
        assert_eq!(judge(503, &[("retry-after", "1")]), (Failure, IfIdempotent));
        assert_eq!(judge(503, &[("retry-after", "3600")]), (Failure, Never));
        assert_eq!(judge(429, &[]), (Overloaded, Never));
        assert_eq!(judge(504, &[]), (Timeout, IfIdempotent));
        let proxy = grpc_head(StatusCode::BAD_GATEWAY, &HeaderMap::new());
        assert_eq!((proxy.outcome, proxy.repeat), (Failure, IfIdempotent));
    }

    #[test]
    fn only_what_was_never_sent_is_always_safe() {
        let refused = ConnectError(Box::new(io::Error::from(io::ErrorKind::TimedOut)));
        assert_eq!(error(&refused).repeat, Repeat::Always);
        assert_eq!(
            error(&io::Error::from(io::ErrorKind::ConnectionRefused)).repeat,
            Repeat::Always
        );
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(error(&reset).repeat, Repeat::IfIdempotent);
        // A reason that this side made up is not what the endpoint said.
        let own = h2::Error::from(h2::Reason::REFUSED_STREAM);
        assert_eq!(error(&own).repeat, Repeat::IfIdempotent);
        let late = error(&TimeoutExpired(()));
        assert_eq!((late.outcome, late.repeat), (Outcome::Timeout, Repeat::Never));
    }

    #[test]
    fn an_answer_without_trailers_broke_off() {
        assert_eq!(grpc_end(None), Outcome::Failure);
        assert_eq!(grpc_end(Some(&headers(&[("grpc-status", "0")]))), Outcome::Success);
        assert_eq!(grpc_end(Some(&headers(&[]))), Outcome::Failure);
    }
}
