//! What operators do: to instances, to services, to the cluster.

mod cluster;
mod instance;
mod policy;
mod protection;
mod snapshot;

pub(super) use cluster::{leader, member, status};
pub(super) use instance::{deregister, drain, enable, maintenance};
pub(super) use policy::policy;
pub(super) use protection::protection;
pub(super) use snapshot::snapshot;
