//! Every failure of this node as a gRPC status: one constructor each. Refusals of the catalogue are turned in
//! `rollcall_proto::error`; whether a caller may try again is decided here and there, once, and sent along.

use crate::raft::{AdminError, ReadError, SubmitError};
use rollcall_core::{
    Outcome,
    name::{InstanceName, ServiceName},
};
use rollcall_proto::error::{self, Retry, reason};
use std::time::Duration;
use tonic::{Code, Status};

/// Pause before the next attempt where nothing better is known.
const PAUSE: Duration = Duration::from_millis(200);

/// Reason of a read whose deadline ran out. Nothing was done.
const DEADLINE: &str = "DEADLINE";
/// How the complaints of tonic and prost about a request begin.
const MALFORMED: [&str; 5] = [
    "failed to decode Protobuf message",
    "Unexpected EOF decoding stream",
    "protocol error: received message with",
    "Error decompressing",
    "Missing request message",
];

/// A command that has no outcome.
pub fn of_submit(failure: &SubmitError) -> Status {
    let text = failure.to_string();
    match failure {
        SubmitError::NoLeader { retry_after } => no_leader(*retry_after),
        // Only where the caller did not want it passed on.
        SubmitError::NotLeader { leader, .. } => {
            let address = leader.as_ref().map(|(_, member)| member.api.to_string());
            let leader = ("leader_address", address.unwrap_or_default());
            let code = Code::FailedPrecondition;
            error::status_with(code, reason::NOT_LEADER, text, Retry::Never, leader)
        }
        SubmitError::OutcomeUnknown { .. } => {
            error::status(Code::Unavailable, reason::OUTCOME_UNKNOWN, text, Retry::After(PAUSE))
        }
        SubmitError::DiskFull => {
            error::status(Code::ResourceExhausted, reason::DISK_FULL, text, Retry::After(PAUSE * 5))
        }
        SubmitError::Overloaded { .. } => {
            error::status(Code::ResourceExhausted, reason::OVERLOADED, text, Retry::After(PAUSE))
        }
        SubmitError::TooLarge { .. } => {
            error::status(Code::InvalidArgument, reason::TOO_LARGE, text, Retry::Never)
        }
        SubmitError::Stopped => draining(),
    }
}

/// A linearizable read that cannot be served.
pub fn of_read(failure: &ReadError) -> Status {
    let text = failure.to_string();
    match failure {
        ReadError::NoLeader { retry_after } => no_leader(*retry_after),
        ReadError::Unconfirmed(_) => {
            error::status(Code::Unavailable, reason::NO_LEADER, text, Retry::After(PAUSE))
        }
        ReadError::Behind { .. } => {
            error::status(Code::Unavailable, reason::STALE_REPLICA, text, Retry::After(PAUSE))
        }
        ReadError::Overloaded => {
            error::status(Code::ResourceExhausted, reason::OVERLOADED, text, Retry::After(PAUSE))
        }
        ReadError::Stopped => draining(),
    }
}

/// A change of the members that was not made.
pub fn of_admin(failure: &AdminError) -> Status {
    let text = failure.to_string();
    match failure {
        AdminError::Refused(_) => {
            error::status(Code::FailedPrecondition, reason::REFUSED, text, Retry::Never)
        }
        AdminError::NoLeader { retry_after } => no_leader(*retry_after),
        AdminError::Unknown(_) => {
            error::status(Code::Unavailable, reason::OUTCOME_UNKNOWN, text, Retry::Never)
        }
        AdminError::Stopped => draining(),
    }
}

/// No leader is known.
pub fn no_leader(retry_after: Duration) -> Status {
    let text = "the cluster has no leader right now; what was asked had no effect";
    error::status(Code::Unavailable, reason::NO_LEADER, text, Retry::After(retry_after))
}

/// This node is shutting down.
pub fn draining() -> Status {
    let text = "this node is shutting down; ask another one";
    error::status(Code::Unavailable, reason::DRAINING, text, Retry::After(Duration::ZERO))
}

/// The call took too long.
pub fn deadline(limit: Duration, is_read: bool) -> Status {
    let (reason, text) = match is_read {
        true => (DEADLINE, format!("not answered within {limit:?}")),
        false => {
            let text = format!("not answered within {limit:?}; the change may still be made");
            (reason::OUTCOME_UNKNOWN, text)
        }
    };
    error::status(Code::DeadlineExceeded, reason, text, Retry::After(PAUSE))
}

/// This node has nothing to tell: it has never had any state.
pub fn no_state() -> Status {
    let text = "this node has no state yet: it belongs to no cluster, or is about to join one; \
                ask another one";
    error::status(Code::Unavailable, reason::STALE_REPLICA, text, Retry::After(PAUSE * 5))
}

/// What tonic refused by itself, with the code and the reason of this table; `None` where it has them already.
pub fn dressed(bare: Status) -> Option<Status> {
    let text = bare.message();
    if !bare.details().is_empty() {
        return None;
    }
    let invalid = |text: String| {
        let code = Code::InvalidArgument;
        Some(error::status(code, reason::INVALID_REQUEST, text, Retry::Never))
    };
    match bare.code() {
        Code::OutOfRange if text.contains("message length too large") => {
            let text = format!("the request is too large: {text}");
            let code = Code::ResourceExhausted;
            Some(error::status(code, reason::TOO_LARGE, text, Retry::Never))
        }
        // Bytes that are no message, a frame that ends too early, an unknown compression.
        Code::Internal if MALFORMED.iter().any(|begin| text.contains(begin)) => {
            invalid(format!("the request is malformed: {text}"))
        }
        Code::InvalidArgument => invalid(text.to_owned()),
        Code::Unimplemented => {
            let text = if text.is_empty() { "there is no such method" } else { text };
            let code = Code::Unimplemented;
            Some(error::status(code, reason::UNIMPLEMENTED, text, Retry::Never))
        }
        _ => None,
    }
}

/// Behind the bound that the caller gave.
pub fn stale_replica(staleness: Option<Duration>, bound: Duration) -> Status {
    let text = match staleness {
        Some(staleness) => {
            format!("this node may be {staleness:?} behind, more than the {bound:?} asked for")
        }
        None => "this node has not been in step with a leader since its start".into(),
    };
    error::status(Code::Unavailable, reason::STALE_REPLICA, text, Retry::After(PAUSE))
}

/// `min_revision` was not reached in time.
pub fn revision_not_reached(wanted: u64, reached: u64, waited: Duration) -> Status {
    let text = format!("revision {wanted} was not reached within {waited:?}, only {reached}");
    error::status(Code::DeadlineExceeded, reason::REVISION_NOT_REACHED, text, Retry::After(PAUSE))
}

/// A resume token is ahead of this node.
pub fn behind(wanted: u64, reached: u64) -> Status {
    let text = format!("this node is at revision {reached}, the token at {wanted}; ask another");
    error::status(Code::Unavailable, reason::STALE_REPLICA, text, Retry::After(PAUSE))
}

/// A token of another cluster.
pub fn other_cluster(token: &str, ours: &str) -> Status {
    let text = format!(
        "resume_token is of cluster {token}, this is {ours}: check the address, or start without a token"
    );
    error::status(Code::FailedPrecondition, reason::OTHER_CLUSTER, text, Retry::Never)
}

/// Events after this revision are no longer kept.
pub fn compacted(asked: u64, floor: u64) -> Status {
    let text = format!(
        "events after revision {asked} are not all kept, only those after {floor}: read the state, \
         then tail from there"
    );
    error::status(Code::OutOfRange, reason::COMPACTED, text, Retry::Never)
}

/// A bound of this node is reached.
pub fn too_many(setting: &str, limit: usize) -> Status {
    let text = format!("{setting}: {limit} are open on this node; ask another node, or raise it");
    error::status(Code::ResourceExhausted, reason::OVERLOADED, text, Retry::After(PAUSE * 5))
}

/// An answer that does not fit into one message.
pub fn answer_too_large(service: &ServiceName, bytes: usize, limit: usize) -> Status {
    let text = format!(
        "the answer for {service} has {bytes} bytes, more than {limit}: use Watch, which sends parts"
    );
    error::status(Code::ResourceExhausted, reason::TOO_LARGE, text, Retry::Never)
}

/// Neither listed nor remembered.
pub fn instance_not_found(name: &InstanceName) -> Status {
    error::of_rejection(&rollcall_core::Rejection::InstanceNotFound { name: name.clone() })
}

/// What is stored could not be read.
pub fn storage(what: &str, failure: &dyn std::fmt::Display) -> Status {
    Status::internal(format!("{what}: {failure}"))
}

/// An outcome that does not belong to the command: a fault of this program.
pub fn unexpected(what: &str, outcome: &Outcome) -> Status {
    tracing::error!(what, ?outcome, "the outcome does not belong to the command");
    Status::internal(format!("{what}: the outcome does not belong to the command"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_proto::error::Details;

    fn told(status: &Status) -> (Code, String, Option<Duration>) {
        let details = Details::of(status);
        (status.code(), details.reason.unwrap_or_default(), details.retry_after)
    }

    #[test]
    fn every_command_without_an_outcome_has_its_code_reason_and_pause() {
        let retry_after = Duration::from_millis(7);
        let text = || "why".to_owned();
        let table = [
            (SubmitError::NoLeader { retry_after }, Code::Unavailable, "NO_LEADER", Some(7)),
            (
                SubmitError::NotLeader { leader: None, term: 1 },
                Code::FailedPrecondition,
                "NOT_LEADER",
                None,
            ),
            (
                SubmitError::OutcomeUnknown { reason: text() },
                Code::Unavailable,
                "OUTCOME_UNKNOWN",
                Some(200),
            ),
            (SubmitError::DiskFull, Code::ResourceExhausted, "DISK_FULL", Some(1000)),
            (
                SubmitError::Overloaded { limit: 1 },
                Code::ResourceExhausted,
                "OVERLOADED",
                Some(200),
            ),
            (
                SubmitError::TooLarge { bytes: 2, limit: 1 },
                Code::InvalidArgument,
                "TOO_LARGE",
                None,
            ),
            (SubmitError::Stopped, Code::Unavailable, "DRAINING", Some(0)),
        ];
        for (failure, code, reason, pause) in table {
            let expected = (code, reason.to_owned(), pause.map(Duration::from_millis));
            assert_eq!(told(&of_submit(&failure)), expected, "{failure:?}");
        }
    }

    #[test]
    fn every_read_and_operation_that_fails_has_its_code_reason_and_pause() {
        let retry_after = Duration::from_millis(7);
        let behind = ReadError::Behind { needed: 2, applied: 1, waited: retry_after };
        let pause = Some(PAUSE);
        let reads = [
            (ReadError::NoLeader { retry_after }, "NO_LEADER", Some(retry_after)),
            (ReadError::Unconfirmed("why".into()), "NO_LEADER", pause),
            (behind, "STALE_REPLICA", pause),
            (ReadError::Stopped, "DRAINING", Some(Duration::ZERO)),
        ];
        for (failure, reason, pause) in reads {
            let expected = (Code::Unavailable, reason.to_owned(), pause);
            assert_eq!(told(&of_read(&failure)), expected, "{failure:?}");
        }
        let expected = (Code::ResourceExhausted, "OVERLOADED".to_owned(), pause);
        assert_eq!(told(&of_read(&ReadError::Overloaded)), expected);
        let refused = AdminError::Refused("why".into());
        let expected = (Code::FailedPrecondition, "REFUSED".to_owned(), None);
        assert_eq!(told(&of_admin(&refused)), expected);
        // Looked at before it is tried again.
        let unknown = AdminError::Unknown("why".into());
        let expected = (Code::Unavailable, "OUTCOME_UNKNOWN".to_owned(), None);
        assert_eq!(told(&of_admin(&unknown)), expected);
    }

    #[test]
    fn what_has_its_reason_already_is_left_alone() {
        assert!(dressed(draining()).is_none());
        assert!(dressed(Status::internal("a fault of ours")).is_none());
        assert!(dressed(Status::not_found("service not registered")).is_none());
        let bare = Status::internal("failed to decode Protobuf message: invalid varint");
        let (code, reason, _) = told(&dressed(bare).unwrap());
        assert_eq!((code, &*reason), (Code::InvalidArgument, "INVALID_REQUEST"));
    }
}
