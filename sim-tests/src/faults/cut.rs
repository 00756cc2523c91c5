//! One machine hears no other; clients still reach it. Half the time the leader.

use super::{Field, Undo, both_ways};
use rand::rngs::SmallRng;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    if field.leader() == Some(victim) {
        field.points.hit("the leader was cut off");
    }
    let (name, others) = (field.name(victim), field.others(victim));
    field.tell(&format!("cut {name} off"));
    Some(field.block(both_ways(&name, &others)))
}
