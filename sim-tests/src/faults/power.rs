//! Power cut of one machine: of what was not synced, each block is lost or there, and the last names of files too.

use super::{Crash, Field, Undo};
use rand::rngs::SmallRng;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    field.tell(&format!("power cut of {}", field.name(victim)));
    field.crash(victim, dice, Crash::Power)
}
