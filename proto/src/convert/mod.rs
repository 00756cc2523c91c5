//! Wire to core and core to wire: the only place that validates a message.
//!
//! `write` makes commands of requests that change something, `read` queries of those that only ask; `parts` are for
//! calls that take a request apart themselves; `answer` puts core types into answers (`_out` where the other direction
//! has the same name). What passes needs no second check, except for what depends on the state.

mod answer;
mod parts;
mod problems;
mod read;
mod spec;
#[cfg(test)]
mod tests;
mod write;

pub use answer::{
    actor, admin_state, deregistered, duration, event, event_reason, health_status, instance,
    instance_name_out, instance_spec, lease_counts, locality_out, policy_out, protection,
    registered, resolve_instance, scope_out, service_name_out, service_summary, status, timestamp,
};
pub use parts::{filter, instance_name, locality, parse_duration, policy, scope, service_name};
pub use problems::Refused;
pub use read::{
    BatchQuery, Consistency, Freshness, HistoryQuery, HistorySubject, InstanceQuery, ListQuery,
    ResolveQuery, TailQuery, TailStart, WatchQuery, WatchTarget, batch_query, history_query,
    instance_query, list_query, page_token, read_admin_state, read_event_reason,
    read_health_status, resolve_query, tail_query, watch_query,
};
pub use spec::spec;
pub use write::{
    AddMember, RegisterContext, add_member, check_beat, delete_policy, deregister, put_policy,
    register, release_protection, set_admin_state,
};

/// Most handles in one heartbeat message, both lists together.
pub const HANDLES: usize = 10_000;
/// Most services of one watch, most queries of a batch and most entries of a page.
pub const MANY: usize = 1_000;
/// Entries of a page where the caller does not say.
pub const PAGE: usize = 100;
