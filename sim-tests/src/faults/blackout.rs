//! Power cut of all machines at once. What was acknowledged must be there when they come back.

use super::{Crash, Field, Undo};
use rand::rngs::SmallRng;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    field.tell("blackout");
    field.points.hit("all nodes lost power at once");
    let all = 0..field.cluster.machines.len();
    let undos: Vec<Undo> = all.filter_map(|index| field.crash(index, dice, Crash::Power)).collect();
    Some(Box::new(move |field| undos.into_iter().for_each(|undo| undo(field))))
}
