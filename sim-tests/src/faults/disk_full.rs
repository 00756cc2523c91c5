//! A disk reports that it is nearly full: the node refuses writes and hands leadership over, and goes on when there
//! is space again.

use super::{Field, Undo};
use rand::rngs::SmallRng;

const NEARLY_FULL: u64 = 1 << 20;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    field.tell(&format!("disk of {} is nearly full", field.name(victim)));
    if field.leader() == Some(victim) {
        field.points.hit("the disk of the leader was nearly full");
    }
    field.cluster.machines[victim].body().disk.set_free_bytes(NEARLY_FULL);
    Some(Box::new(move |field| {
        field.cluster.machines[victim].body().disk.set_free_bytes(u64::MAX);
    }))
}
