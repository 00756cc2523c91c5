//! An owner of instances reaches no node, often for about as long as its leases: they expire, or just do not.

use super::{Field, Undo, both_ways};
use crate::workload;
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let owner = workload::OWNERS[dice.random_range(0..workload::OWNERS.len())];
    let nodes: Vec<String> = field.cluster.machines.iter().map(|m| m.name.clone()).collect();
    field.tell(&format!("{owner} reaches no node"));
    Some(field.block(both_ways(owner, &nodes)))
}
