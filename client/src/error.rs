//! What can go wrong, in words that a person can act on and in values that a program can.

use crate::{connect::Address, registration::State};
use rollcall_core::name::{InstanceName, Invalid};
use rollcall_proto::error::Details;
pub use rollcall_proto::error::reason;
use std::{collections::BTreeMap, error::Error as _, fmt, time::Duration};
use tonic::{Code, ConnectError, Status};

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No node gave a final answer within the deadline.
    #[error(transparent)]
    Unreachable(Box<Unreachable>),
    /// The registry answered, and refused.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// An argument was refused before anything was sent.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The registry broke its protocol: a message that cannot be used.
    #[error("{call}: {address} sent what cannot be used: {problem}")]
    Protocol {
        /// Which call.
        call: &'static str,
        /// Who sent it.
        address: Address,
        /// What is wrong with it.
        problem: String,
    },
    /// The instance is not listed at present.
    #[error("{call}: {name} is not listed: {state:?}")]
    NotListed {
        /// Which call.
        call: &'static str,
        /// Which instance.
        name: InstanceName,
        /// Where its registration stands.
        state: State,
    },
    /// The client was closed.
    #[error("{call}: this client was closed")]
    Closed {
        /// Which call.
        call: &'static str,
    },
    /// The operating system gave no randomness for nonces and request ids.
    #[error("the operating system gave no randomness; pass a seed to the builder")]
    NoRandomness,
}

/// A deadline passed without a final answer.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Unreachable {
    /// Which call.
    pub call: &'static str,
    /// How long it was tried.
    pub waited: Duration,
    /// The last problem with each node, in the order of their addresses; nodes that were not asked are missing.
    pub tried: Vec<Tried>,
    /// The change may have been made: an attempt ended without an answer.
    pub outcome_unknown: bool,
}

/// What happened at one node.
#[derive(Debug, Clone)]
pub struct Tried {
    /// Which node.
    pub address: Address,
    /// What it answered, or why there was no answer.
    pub problem: String,
    /// Reason code, where it gave one.
    pub reason: Option<String>,
    /// How long it asked to wait before the next try.
    pub retry_after: Option<Duration>,
}

/// An answer that is a refusal.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Refusal {
    /// Which call.
    pub call: &'static str,
    /// Who refused.
    pub address: Address,
    /// Class of the refusal.
    pub code: Code,
    /// Stable reason code such as `FENCED`, where given.
    pub reason: Option<String>,
    /// Text for people.
    pub message: String,
    /// Values that belong to the reason.
    pub metadata: BTreeMap<String, String>,
    /// The fields or quotas that were violated.
    pub violations: Vec<Invalid>,
    /// How long to wait before the next try, where a later try may succeed.
    pub retry_after: Option<Duration>,
}

/// What a failed attempt says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was done: any call may be tried again.
    NotDone,
    /// Nobody knows whether it was done: only calls that bear repetition may be tried again.
    Unknown,
    /// An answer: trying again changes nothing.
    Final,
}

impl Error {
    /// Whether the same call may succeed later without a change by the caller. Writes: with the same request id.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(refusal) => {
                refusal.retry_after.is_some() || refusal.verdict() != Verdict::Final
            }
            // It may be on its way back.
            Self::NotListed { state, .. } => !state.is_final(),
            Self::Invalid(_) | Self::Protocol { .. } | Self::Closed { .. } | Self::NoRandomness => {
                false
            }
        }
    }

    /// How long the registry asked to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unreachable(e) => e.tried.iter().filter_map(|tried| tried.retry_after).max(),
            Self::Refused(refusal) => refusal.retry_after,
            Self::Invalid(_)
            | Self::Protocol { .. }
            | Self::NotListed { .. }
            | Self::Closed { .. }
            | Self::NoRandomness => None,
        }
    }

    /// Stable reason code of the registry, such as `NO_LEADER` (see [`reason`]).
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Unreachable(e) => e.tried.iter().find_map(|tried| tried.reason.as_deref()),
            Self::Refused(refusal) => refusal.reason.as_deref(),
            Self::Invalid(_)
            | Self::Protocol { .. }
            | Self::NotListed { .. }
            | Self::Closed { .. }
            | Self::NoRandomness => None,
        }
    }

    /// Class of the refusal, where the registry answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Unreachable(_)
            | Self::Invalid(_)
            | Self::Protocol { .. }
            | Self::NotListed { .. }
            | Self::Closed { .. }
            | Self::NoRandomness => None,
        }
    }

    /// No node gave a final answer.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Whether the registration was fenced: a newer owner has the id, or it was removed on purpose.
    pub fn is_fenced(&self) -> bool {
        matches!(self.reason(), Some(reason::FENCED | reason::DEREGISTERED))
            && matches!(self, Self::Refused(_))
    }

    /// Whether a change may have been made although the call failed.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unreachable(unreachable) => unreachable.outcome_unknown,
            Self::Refused(refusal) => refusal.verdict() == Verdict::Unknown,
            Self::Invalid(_)
            | Self::Protocol { .. }
            | Self::NotListed { .. }
            | Self::Closed { .. }
            | Self::NoRandomness => false,
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no final answer", self.call)?;
        if !self.waited.is_zero() {
            write!(f, " within {:?}", self.waited)?;
        }
        for (i, tried) in self.tried.iter().enumerate() {
            write!(f, "{} {}: {}", if i == 0 { ":" } else { ";" }, tried.address, tried.problem)?;
        }
        if self.outcome_unknown {
            f.write_str("; the change may have been made: repeat it with the same request_id")
        } else if self.tried.iter().all(|tried| tried.reason.is_none()) {
            f.write_str("; check that a registry listens there")
        } else {
            f.write_str("; try again later")
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { "no text" } else { &self.message };
        write!(f, "{}: {} refused: {message}", self.call, self.address)?;
        // The server may have put the violations into its text already.
        for violation in self.violations.iter().filter(|v| !message.contains(&v.problem)) {
            write!(f, "; {violation}")?;
        }
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => write!(f, " ({:?})", self.code),
        }
    }
}

impl Refusal {
    /// Reads the status of an attempt.
    pub(crate) fn read(call: &'static str, address: &Address, status: &Status) -> Self {
        let Details { reason, metadata, violations, retry_after } = Details::of(status);
        let (code, message) = (status.code(), status.message().to_owned());
        let address = address.clone();
        Self { call, address, code, reason, message, metadata, violations, retry_after }
    }

    /// As far as code and reason go; [`verdict_of`] also knows what happened on the way.
    pub(crate) fn verdict(&self) -> Verdict {
        match (self.reason.as_deref(), self.code) {
            (
                Some(
                    reason::NO_LEADER
                    | reason::NOT_LEADER
                    | reason::DRAINING
                    | reason::STALE_REPLICA
                    | reason::DISK_FULL
                    | reason::OVERLOADED,
                ),
                _,
            ) => Verdict::NotDone,
            // No registry of ours speaks like this: a proxy, a half answer, a node of another version. Another node may
            // do better.
            (None, Code::Unimplemented) => Verdict::NotDone,
            (None, Code::Unknown | Code::Internal | Code::DataLoss) => Verdict::Unknown,
            (Some(reason::OUTCOME_UNKNOWN), _)
            | (_, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) => Verdict::Unknown,
            _ => Verdict::Final,
        }
    }
}

/// What a failed attempt says about the next one.
pub(crate) fn verdict_of(status: &Status, refusal: &Refusal) -> Verdict {
    if was_never_sent(status) {
        Verdict::NotDone
    } else if status.source().is_some() {
        // Made on this side: the connection broke before the answer was complete.
        Verdict::Unknown
    } else {
        refusal.verdict()
    }
}

/// One line about a failed attempt: the innermost cause, because the outer ones say "transport error".
pub(crate) fn problem_of(status: &Status) -> String {
    let mut cause = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if text.is_empty() { format!("{:?}", status.code()) } else { text }
}

fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, StatusExt as _};

    fn address() -> Address {
        Address::parse("127.0.0.1:8502").unwrap()
    }

    #[test]
    fn a_wait_is_told_where_there_was_one() {
        let told = |waited| {
            let (call, tried) = ("watch", Vec::new());
            Unreachable { call, waited, tried, outcome_unknown: false }.to_string()
        };
        assert!(told(Duration::ZERO).starts_with("watch: no final answer; check"));
        assert!(
            told(Duration::from_secs(2)).starts_with("watch: no final answer within 2s; check")
        );
    }

    #[test]
    fn the_details_of_a_status_become_reason_violations_and_wait() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("NO_LEADER", "rollcall.v1", [("term".to_owned(), "7".to_owned())])
            .set_retry_info(Some(Duration::from_millis(200)))
            .add_bad_request_violation("spec.ttl", "1s to 24h are allowed");
        let status = Status::with_error_details(Code::Unavailable, "no leader", details);
        let refusal = Refusal::read("register", &address(), &status);
        assert_eq!(refusal.verdict(), Verdict::NotDone);
        assert_eq!(refusal.metadata["term"], "7");
        let error = Error::Refused(Box::new(refusal));
        assert_eq!(error.reason(), Some(reason::NO_LEADER));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(200)));
        assert!(error.is_retryable());
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:8502") && text.contains("spec.ttl"), "{text}");
    }

    #[test]
    fn a_refusal_is_final_and_a_lost_answer_is_unknown() {
        let verdict = |status: Status| {
            let refusal = Refusal::read("register", &address(), &status);
            verdict_of(&status, &refusal)
        };
        assert_eq!(verdict(Status::invalid_argument("ttl")), Verdict::Final);
        assert_eq!(verdict(Status::unavailable("gone")), Verdict::Unknown);
        assert_eq!(verdict(Status::cancelled("Timeout expired")), Verdict::Unknown);
        assert_eq!(verdict(Status::unknown("missing grpc-status trailer")), Verdict::Unknown);
        assert_eq!(verdict(Status::unimplemented("compressed")), Verdict::NotDone);
        let mut broken = Status::internal("h2");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        assert_eq!(verdict(broken), Verdict::Unknown);
        let mut refused = Status::unavailable("tcp connect error");
        refused.set_source(std::sync::Arc::new(ConnectError("refused".into())));
        assert_eq!(verdict(refused), Verdict::NotDone);
    }
}
