//! A machine comes back with an empty disk, under a new id, to replace what it was: never a majority.

use super::{Crash, Field, Undo};
use rand::rngs::SmallRng;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    if !field.cluster.may_damage(victim) || field.cluster.machines[victim].body().node_id == 0 {
        return None;
    }
    field.tell(&format!("wipe {}", field.name(victim)));
    field.points.hit("a node came back with an empty disk");
    field.crash(victim, dice, Crash::Wipe)
}
