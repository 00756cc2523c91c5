//! Refusals as gRPC statuses, and back: `google.rpc.Status` with ErrorInfo, BadRequest, QuotaFailure and RetryInfo.
//!
//! What the catalogue refuses becomes a status in [`of_rejection`], what a message lacks in [`of_invalid`], both here
//! and nowhere else. What a node cannot do makes its status with [`status`]. Whether a caller may try again is decided
//! there, once, and sent along as RetryInfo.

use crate::convert::Refused;
use rollcall_core::{Rejection, name::Invalid};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of the reason codes in ErrorInfo.
pub const DOMAIN: &str = "rollcall.v1";

/// The reason codes. Stable: they are part of the API.
pub mod reason {
    /// A field is missing or wrong; BadRequest names it.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
    /// A field asks for what this version does not do; BadRequest names it.
    pub const UNIMPLEMENTED: &str = "UNIMPLEMENTED";
    /// The instance is not registered.
    pub const INSTANCE_NOT_FOUND: &str = "INSTANCE_NOT_FOUND";
    /// A newer owner holds the instance id; metadata `generation` is its own.
    pub const FENCED: &str = "FENCED";
    /// The registration was removed by its owner or by an operator.
    pub const DEREGISTERED: &str = "DEREGISTERED";
    /// Compare-and-set lost; metadata `current` is the revision that is there.
    pub const REVISION_MISMATCH: &str = "REVISION_MISMATCH";
    /// The request id was used for another request.
    pub const REQUEST_ID_REUSED: &str = "REQUEST_ID_REUSED";
    /// A quota is used up; QuotaFailure names it.
    pub const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";
    /// An operator's admin state stands in the way.
    pub const HELD_BY_OPERATOR: &str = "HELD_BY_OPERATOR";
    /// There is no protection to release.
    pub const NOT_PROTECTED: &str = "NOT_PROTECTED";
    /// No leader is known: an election is going on, or there is no majority. Nothing was done.
    pub const NO_LEADER: &str = "NO_LEADER";
    /// The node is not the leader and must not pass the call on. Nothing was done.
    pub const NOT_LEADER: &str = "NOT_LEADER";
    /// The change may have been made or not: repeat it with the same request id.
    pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
    /// The node is behind the freshness that was asked for.
    pub const STALE_REPLICA: &str = "STALE_REPLICA";
    /// The node did not show `min_revision` in time.
    pub const REVISION_NOT_REACHED: &str = "REVISION_NOT_REACHED";
    /// Events after the point that was asked for are no longer kept.
    pub const COMPACTED: &str = "COMPACTED";
    /// The token is of another cluster.
    pub const OTHER_CLUSTER: &str = "OTHER_CLUSTER";
    /// The node is shutting down. Nothing was done.
    pub const DRAINING: &str = "DRAINING";
    /// The disk of the leader is nearly full. Nothing was done.
    pub const DISK_FULL: &str = "DISK_FULL";
    /// Too much is going on at once. Nothing was done.
    pub const OVERLOADED: &str = "OVERLOADED";
    /// A request or an answer does not fit into one message.
    pub const TOO_LARGE: &str = "TOO_LARGE";
    /// A change of the cluster would be unsafe or makes no sense.
    pub const REFUSED: &str = "REFUSED";
}

/// Whether the same call may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not without a change by the caller.
    Never,
    /// After this pause.
    After(Duration),
}

/// A status with its reason code. `text` says what was tried, with which value, and what to do.
pub fn status(code: Code, reason: &str, text: impl Into<String>, retry: Retry) -> Status {
    with_details(code, text.into(), details(reason, None, retry))
}

/// As [`status`], with one value for programs.
pub fn status_with(
    code: Code,
    reason: &str,
    text: impl Into<String>,
    retry: Retry,
    (key, value): (&str, String),
) -> Status {
    with_details(code, text.into(), details(reason, Some((key, value)), retry))
}

/// A message that was refused: one `Invalid`, or [`Refused`].
pub fn of_invalid(refused: impl Into<Refused>) -> Status {
    let Refused(found) = refused.into();
    let mut details = details(reason::INVALID_REQUEST, None, Retry::Never);
    for invalid in &found {
        details.add_bad_request_violation(&invalid.field, &invalid.problem);
    }
    with_details(Code::InvalidArgument, summary(&found), details)
}

/// The first problems in one line; the details have all of them.
fn summary(found: &[Invalid]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<String> = found.iter().take(SHOWN).map(ToString::to_string).collect();
    if found.len() > SHOWN {
        text.push(format!("and {} more", found.len() - SHOWN));
    }
    text.join("; ")
}

/// What the catalogue refused: the one table.
pub fn of_rejection(rejection: &Rejection) -> Status {
    let text = rejection.to_string();
    let plain = |code, reason| status(code, reason, text.clone(), Retry::Never);
    let with = |code, reason, key, value: u64| {
        status_with(code, reason, text.clone(), Retry::Never, (key, value.to_string()))
    };
    match rejection {
        Rejection::Fenced { generation, .. } => {
            with(Code::FailedPrecondition, reason::FENCED, "generation", *generation)
        }
        Rejection::Deregistered { .. } => plain(Code::FailedPrecondition, reason::DEREGISTERED),
        Rejection::RevisionMismatch { current, .. } => {
            with(Code::Aborted, reason::REVISION_MISMATCH, "current", *current)
        }
        Rejection::RequestIdReused { .. } => plain(Code::AlreadyExists, reason::REQUEST_ID_REUSED),
        Rejection::InstanceNotFound { .. } => plain(Code::NotFound, reason::INSTANCE_NOT_FOUND),
        Rejection::QuotaExceeded { quota, .. } => {
            let mut details = details(reason::QUOTA_EXCEEDED, None, Retry::Never);
            details.add_quota_failure_violation(quota.as_str(), &text);
            with_details(Code::ResourceExhausted, text, details)
        }
        Rejection::InvalidBatch { problem } => of_invalid(Invalid::new("items", &**problem)),
        Rejection::HeldByOperator { .. } => {
            plain(Code::FailedPrecondition, reason::HELD_BY_OPERATOR)
        }
        // Between nodes only: no caller proposes on the word of checkers.
        Rejection::CheckersChanged { .. } => plain(Code::Aborted, reason::REFUSED),
        Rejection::NotProtected { .. } => plain(Code::FailedPrecondition, reason::NOT_PROTECTED),
    }
}

// At most one entry of metadata: tonic-types keeps them in a map of random order, and equal refusals are to have equal
// bytes.
fn details(reason: &str, value: Option<(&str, String)>, retry: Retry) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        value.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if let Retry::After(pause) = retry {
        details.set_retry_info(Some(pause));
    }
    details
}

fn with_details(code: Code, text: String, details: ErrorDetails) -> Status {
    Status::with_error_details(code, text, details)
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        of_invalid(refused)
    }
}

/// What a status says beyond its code and text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// Reason code, see [`reason`]; `None` where the status was not made by a registry.
    pub reason: Option<String>,
    /// Values that belong to the reason.
    pub metadata: BTreeMap<String, String>,
    /// The fields and quotas that were violated.
    pub violations: Vec<Invalid>,
    /// Pause before the next try, where a later try may succeed.
    pub retry_after: Option<Duration>,
}

impl Details {
    /// Reads a status. What cannot be read is missing.
    pub fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let fields = details.bad_request().map(|bad| &bad.field_violations[..]).unwrap_or_default();
        let quotas = details.quota_failure().map(|quota| &quota.violations[..]).unwrap_or_default();
        let fields = fields.iter().map(|v| Invalid::new(&v.field, &v.description));
        let quotas = quotas.iter().map(|v| Invalid::new(&v.subject, &v.description));
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        Self {
            reason: info.map(|info| info.reason.clone()),
            metadata: info
                .map(|info| info.metadata.clone().into_iter().collect())
                .unwrap_or_default(),
            violations: fields.chain(quotas).collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::arbitrary;

    /// Code, reason, metadata and violated fields of each refusal, in the order of `arbitrary::rejections`.
    const TABLE: [(Code, &str, &str, &str); 14] = [
        (Code::FailedPrecondition, reason::FENCED, "generation=7", ""),
        (Code::FailedPrecondition, reason::DEREGISTERED, "", ""),
        (Code::Aborted, reason::REVISION_MISMATCH, "current=4", ""),
        (Code::AlreadyExists, reason::REQUEST_ID_REUSED, "", ""),
        (Code::NotFound, reason::INSTANCE_NOT_FOUND, "", ""),
        (Code::ResourceExhausted, reason::QUOTA_EXCEEDED, "", "limits.instances"),
        (Code::ResourceExhausted, reason::QUOTA_EXCEEDED, "", "limits.services"),
        (Code::ResourceExhausted, reason::QUOTA_EXCEEDED, "", "limits.instances_per_service"),
        (Code::ResourceExhausted, reason::QUOTA_EXCEEDED, "", "limits.instances_per_address"),
        (Code::ResourceExhausted, reason::QUOTA_EXCEEDED, "", "limits.overrides"),
        (Code::InvalidArgument, reason::INVALID_REQUEST, "", "items"),
        (Code::FailedPrecondition, reason::HELD_BY_OPERATOR, "", ""),
        (Code::Aborted, reason::REFUSED, "", ""),
        (Code::FailedPrecondition, reason::NOT_PROTECTED, "", ""),
    ];

    #[test]
    fn every_refusal_of_the_catalogue_has_its_code_and_reason() {
        let rejections = arbitrary::rejections();
        assert_eq!(rejections.len(), TABLE.len());
        for (rejection, (code, reason, metadata, fields)) in rejections.iter().zip(TABLE) {
            let status = of_rejection(rejection);
            assert_eq!(status.code(), code, "{rejection}");
            assert!(status.message().contains(&rejection.to_string()), "{}", status.message());
            let details = Details::of(&status);
            assert_eq!(details.reason.as_deref(), Some(reason), "{rejection}");
            let pairs = details.metadata.iter().map(|(key, value)| format!("{key}={value}"));
            assert_eq!(pairs.collect::<Vec<_>>().join(" "), metadata, "{rejection}");
            let found = details.violations.iter().map(|violation| violation.field.clone());
            assert_eq!(found.collect::<Vec<_>>().join(" "), fields, "{rejection}");
            assert_eq!(details.retry_after, None, "{rejection}");
        }
    }

    #[test]
    fn equal_refusals_have_equal_bytes() {
        for rejection in arbitrary::rejections() {
            let (one, other) = (of_rejection(&rejection), of_rejection(&rejection));
            assert_eq!(one.details(), other.details(), "{rejection}");
        }
    }

    #[test]
    fn every_wrong_field_is_in_the_details_and_the_first_ones_in_the_text() {
        let found: Vec<Invalid> =
            (0..5).map(|i| Invalid::new(format!("items[{i}].name"), "is required")).collect();
        let status = of_invalid(Refused(found.clone()));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(Details::of(&status).violations, found);
        assert_eq!(
            status.message(),
            "items[0].name: is required; items[1].name: is required; items[2].name: is required; and 2 more"
        );
    }

    #[test]
    fn a_pause_and_a_value_come_through() {
        let pause = Duration::from_millis(250);
        let value = ("floor", "7".to_owned());
        let status =
            status_with(Code::OutOfRange, reason::COMPACTED, "gone", Retry::After(pause), value);
        let details = Details::of(&status);
        assert_eq!(details.retry_after, Some(pause));
        assert_eq!(details.metadata["floor"], "7");
        assert_eq!(Details::of(&Status::internal("x")), Details::default());
    }

    #[test]
    fn a_reason_of_another_domain_is_not_taken_for_ours() {
        let details = ErrorDetails::with_error_info("FENCED", "example.org", HashMap::new());
        let status = Status::with_error_details(Code::Aborted, "x", details);
        assert_eq!(Details::of(&status).reason, None);
    }
}
