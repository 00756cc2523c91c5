//! Wire to core and core to wire: the only place that validates a message.
//!
//! `spec`, `write` and `read` take requests apart into core types or refuse them with the path of each wrong field;
//! `answer` puts core types into answers; `checks` does both for checks. Messages that pass hold nothing that core would have to check again, except
//! what depends on the state.

mod answer;
mod checks;
mod problems;
mod read;
mod spec;
#[cfg(test)]
mod tests;
mod write;

pub use answer::{
    actor, admin_state, deregistered, duration, event, event_reason, health_status, instance,
    instance_name, instance_spec, lease_counts, locality, policy, protection, registered,
    resolve_instance, scope, service_name, service_summary, status, timestamp,
};
pub use checks::{check_status, check_verdict, health_checks};
pub use problems::Refused;
pub use read::{
    BatchQuery, Consistency, Freshness, HistoryQuery, HistorySubject, InstanceQuery, ListQuery,
    ResolveQuery, TailQuery, TailStart, Token, WatchQuery, WatchTarget, batch_query, history_query,
    instance_query, list_query, page_token, read_admin_state, read_event_reason,
    read_health_status, resolve_query, tail_query, watch_query,
};
pub use spec::spec;
pub use write::{
    AddMember, Admission, OwnWord, add_member, check_beat, delete_policy, deregister, put_policy,
    register, release_protection, required_service, set_admin_state,
};

/// Most handles in one heartbeat message, both lists together.
pub const HANDLES: usize = 10_000;
/// Most services of one watch, most queries of a batch and most entries of a page.
pub const MANY: usize = 1_000;
/// Entries of a page where the caller does not say.
pub const PAGE: usize = 100;
