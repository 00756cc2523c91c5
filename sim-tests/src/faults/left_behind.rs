//! One follower hears no other machine, clients still reach it, until the leader no longer has what it lacks: it comes
//! back to a snapshot, with watches and readers on it.

use super::{Field, Undo, When, both_ways};
use rand::{RngExt, rngs::SmallRng};
use std::time::Duration;

/// A log that is not cut in this time is too long for this.
pub(super) const LASTS: Duration = Duration::from_secs(9);

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let leader = field.leader()?;
    let mut followers: Vec<usize> = (0..field.cluster.machines.len()).collect();
    followers.retain(|index| *index != leader);
    if followers.is_empty() {
        return None;
    }
    let victim = followers[dice.random_range(0..followers.len())];
    let (name, others) = (field.name(victim), field.others(victim));
    field.tell(&format!("cut {name} off until it needs a snapshot"));
    field.until = Some(needs_a_snapshot(victim));
    Some(field.block(both_ways(&name, &others)))
}

fn needs_a_snapshot(victim: usize) -> When {
    Box::new(move |cluster, _| {
        let nodes = cluster.nodes();
        let own = nodes.iter().find(|node| node.index == victim);
        let Some(last) = own.map(|node| node.status.last_log_index.unwrap_or_default()) else {
            return false;
        };
        let mut others = nodes.iter().filter(|node| node.index != victim);
        others.all(|node| node.status.purged.is_some_and(|purged| purged.index > last))
    })
}
