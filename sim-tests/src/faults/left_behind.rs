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
    // The one with the most watches, or any.
    let watches = |index: &usize| field.cluster.machines[*index].api().map(|api| api.hub().len());
    let any = followers[dice.random_range(0..followers.len())];
    let watched = followers.iter().copied().max_by_key(watches).unwrap_or(any);
    let victim = if dice.random_range(0..3) == 0 { any } else { watched };
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
