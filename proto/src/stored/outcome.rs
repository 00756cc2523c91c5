//! Outcomes with every refusal, one arm each.

use super::{
    Pool, StoredError,
    values::{need, read_name, read_scope, read_text, write_name, write_scope, write_text},
    wire::{self, outcome as done, outcome::Result as Wire, rejection as refused, rejection::Kind},
};
use rollcall_core::{
    Outcome, Rejection,
    command::{Done, Expired, Quota, Registered, Reported},
    name::InstanceName,
};
use std::sync::Arc;

type Read<T> = Result<T, StoredError>;

pub(super) fn write(outcome: &Outcome) -> wire::Outcome {
    let result = match &outcome.result {
        Ok(Done::Registered(items)) => {
            let item = |item: &Registered| done::registered::Item {
                generation: item.generation,
                lease_epoch: item.lease_epoch,
                revision: item.revision,
                changed: item.changed,
            };
            Wire::Registered(done::Registered { items: items.iter().map(item).collect() })
        }
        Ok(Done::Deregistered(removed)) => {
            Wire::Deregistered(done::Deregistered { removed: removed.clone() })
        }
        Ok(Done::Expired(items)) => {
            let items = items.iter().map(|item| write_expired(*item)).collect();
            Wire::Expired(done::Expired { items })
        }
        Ok(Done::Reported(items)) => {
            let items = items.iter().map(|item| write_reported(*item)).collect();
            Wire::Reported(done::Reported { items })
        }
        Ok(Done::Evicted(count)) => Wire::Evicted(*count),
        Ok(Done::Applied) => Wire::Applied(wire::Nothing {}),
        Err(rejection) => Wire::Rejection(write_rejection(rejection)),
    };
    wire::Outcome { revision: outcome.revision, result: Some(result) }
}

pub(super) fn read(outcome: wire::Outcome) -> Read<Outcome> {
    let result = match need("result", outcome.result)? {
        Wire::Registered(registered) => {
            let item = |item: &done::registered::Item| Registered {
                generation: item.generation,
                lease_epoch: item.lease_epoch,
                revision: item.revision,
                changed: item.changed,
            };
            Ok(Done::Registered(registered.items.iter().map(item).collect()))
        }
        Wire::Deregistered(deregistered) => Ok(Done::Deregistered(deregistered.removed)),
        Wire::Expired(expired) => {
            Ok(Done::Expired(expired.items.into_iter().map(read_expired).collect::<Read<_>>()?))
        }
        Wire::Reported(reported) => {
            Ok(Done::Reported(reported.items.into_iter().map(read_reported).collect::<Read<_>>()?))
        }
        Wire::Evicted(count) => Ok(Done::Evicted(count)),
        Wire::Applied(wire::Nothing {}) => Ok(Done::Applied),
        Wire::Rejection(rejection) => Err(read_rejection(rejection)?),
    };
    Ok(Outcome { revision: outcome.revision, result })
}

fn write_expired(expired: Expired) -> i32 {
    use done::expired::Kind;
    match expired {
        Expired::Expired => Kind::Expired,
        Expired::Held => Kind::Held,
        Expired::Suspended => Kind::Suspended,
        Expired::Superseded => Kind::Superseded,
        Expired::Lost => Kind::Lost,
    }
    .into()
}

fn write_reported(reported: Reported) -> i32 {
    use done::reported::Kind;
    match reported {
        Reported::Taken => Kind::Taken,
        Reported::Unchanged => Kind::Unchanged,
        Reported::Superseded => Kind::Superseded,
    }
    .into()
}

fn read_reported(reported: i32) -> Read<Reported> {
    use done::reported::Kind;
    let unknown = StoredError::Unknown { field: "reported" };
    match Kind::try_from(reported).unwrap_or(Kind::Unspecified) {
        Kind::Unspecified => Err(unknown),
        Kind::Taken => Ok(Reported::Taken),
        Kind::Unchanged => Ok(Reported::Unchanged),
        Kind::Superseded => Ok(Reported::Superseded),
    }
}

fn read_expired(expired: i32) -> Read<Expired> {
    use done::expired::Kind;
    let unknown = StoredError::Unknown { field: "expired" };
    match Kind::try_from(expired).unwrap_or(Kind::Unspecified) {
        Kind::Unspecified => Err(unknown),
        Kind::Expired => Ok(Expired::Expired),
        Kind::Held => Ok(Expired::Held),
        Kind::Suspended => Ok(Expired::Suspended),
        Kind::Superseded => Ok(Expired::Superseded),
        Kind::Lost => Ok(Expired::Lost),
    }
}

fn write_rejection(rejection: &Rejection) -> wire::Rejection {
    let text = |text: &Arc<str>| write_text(text);
    let kind = match rejection {
        Rejection::Fenced { name, generation, holder } => Kind::Fenced(refused::Fenced {
            name: Some(write_name(name)),
            generation: *generation,
            holder: text(holder),
        }),
        Rejection::Deregistered { name, reason } => Kind::Deregistered(refused::Deregistered {
            name: Some(write_name(name)),
            reason: text(reason),
        }),
        Rejection::RevisionMismatch { name, expected, current } => {
            Kind::RevisionMismatch(refused::RevisionMismatch {
                name: Some(write_name(name)),
                expected: *expected,
                current: *current,
            })
        }
        Rejection::RequestIdReused { id, age_ms } => {
            Kind::RequestIdReused(refused::RequestIdReused { id: text(id), age_ms: *age_ms })
        }
        Rejection::InstanceNotFound { name } => Kind::InstanceNotFound(write_name(name)),
        Rejection::QuotaExceeded { quota, limit, at } => {
            Kind::QuotaExceeded(refused::QuotaExceeded {
                quota: write_quota(*quota),
                limit: *limit,
                at: text(at),
            })
        }
        Rejection::InvalidBatch { problem } => Kind::InvalidBatch(text(problem)),
        Rejection::HeldByOperator { name, state, actor } => {
            Kind::HeldByOperator(refused::HeldByOperator {
                name: Some(write_name(name)),
                state: text(state),
                actor: text(actor),
            })
        }
        Rejection::CheckersChanged { epoch, current } => {
            Kind::CheckersChanged(refused::CheckersChanged { epoch: *epoch, current: *current })
        }
        Rejection::NotProtected { scope } => Kind::NotProtected(write_scope(scope)),
    };
    wire::Rejection { kind: Some(kind) }
}

fn read_rejection(rejection: wire::Rejection) -> Read<Rejection> {
    let pool = &mut Pool::for_bytes(0);
    let mut name =
        |name| -> Read<InstanceName> { Ok(Arc::unwrap_or_clone(read_name("name", name, pool)?)) };
    Ok(match need("rejection", rejection.kind)? {
        Kind::Fenced(r) => Rejection::Fenced {
            name: name(r.name)?,
            generation: r.generation,
            holder: read_text("holder", &r.holder)?,
        },
        Kind::Deregistered(r) => {
            Rejection::Deregistered { name: name(r.name)?, reason: read_text("reason", &r.reason)? }
        }
        Kind::RevisionMismatch(r) => Rejection::RevisionMismatch {
            name: name(r.name)?,
            expected: r.expected,
            current: r.current,
        },
        Kind::RequestIdReused(r) => {
            Rejection::RequestIdReused { id: read_text("id", &r.id)?, age_ms: r.age_ms }
        }
        Kind::InstanceNotFound(r) => Rejection::InstanceNotFound { name: name(Some(r))? },
        Kind::QuotaExceeded(r) => Rejection::QuotaExceeded {
            quota: read_quota(r.quota())?,
            limit: r.limit,
            at: read_text("at", &r.at)?,
        },
        Kind::InvalidBatch(problem) => {
            Rejection::InvalidBatch { problem: read_text("problem", &problem)? }
        }
        Kind::HeldByOperator(r) => Rejection::HeldByOperator {
            name: name(r.name)?,
            state: read_text("state", &r.state)?,
            actor: read_text("actor", &r.actor)?,
        },
        Kind::CheckersChanged(r) => {
            Rejection::CheckersChanged { epoch: r.epoch, current: r.current }
        }
        Kind::NotProtected(scope) => {
            Rejection::NotProtected { scope: read_scope(Some(scope), pool)? }
        }
    })
}

fn write_quota(quota: Quota) -> i32 {
    use refused::quota_exceeded::Quota as Wire;
    match quota {
        Quota::Instances => Wire::Instances,
        Quota::Services => Wire::Services,
        Quota::InstancesPerService => Wire::InstancesPerService,
        Quota::InstancesPerAddress => Wire::InstancesPerAddress,
        Quota::Overrides => Wire::Overrides,
    }
    .into()
}

fn read_quota(quota: refused::quota_exceeded::Quota) -> Read<Quota> {
    use refused::quota_exceeded::Quota as Wire;
    match quota {
        Wire::Unspecified => Err(StoredError::Unknown { field: "quota" }),
        Wire::Instances => Ok(Quota::Instances),
        Wire::Services => Ok(Quota::Services),
        Wire::InstancesPerService => Ok(Quota::InstancesPerService),
        Wire::InstancesPerAddress => Ok(Quota::InstancesPerAddress),
        Wire::Overrides => Ok(Quota::Overrides),
    }
}
