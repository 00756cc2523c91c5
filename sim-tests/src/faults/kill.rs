//! The process of one machine dies; what it wrote stays, synced or not.

use super::{Crash, Field, Undo};
use rand::rngs::SmallRng;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    field.tell(&format!("kill {}", field.name(victim)));
    field.crash(victim, dice, Crash::Kill)
}
