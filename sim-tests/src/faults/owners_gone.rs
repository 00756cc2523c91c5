//! No owner reaches any node until the leases of all are over: whole services fall silent at once, with everything else
//! in order.

use super::{Field, Undo, both_ways};
use crate::workload;
use rand::rngs::SmallRng;
use std::time::Duration;

/// The longest leases are three times as long as the shortest.
pub(super) fn lasts(ttl: Duration) -> Duration {
    (ttl * 3 + Duration::from_secs(2)).min(Duration::from_secs(12))
}

pub(super) fn begin(field: &mut Field<'_, '_>, _: &mut SmallRng) -> Option<Undo> {
    let nodes: Vec<String> = field.cluster.machines.iter().map(|m| m.name.clone()).collect();
    field.tell("no owner reaches any node");
    Some(field.block(workload::OWNERS.iter().flat_map(|owner| both_ways(owner, &nodes)).collect()))
}
