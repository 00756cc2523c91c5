//! The power fails in the middle of an operation of the disk: one of the next hundred. The process stops itself then,
//! and finds on its next start what a power cut at that operation leaves.

use super::{Field, Undo};
use crate::disk::Fault;
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let at = dice.random_range(0..100);
    field.tell(&format!("power of {} fails at operation {at}", field.name(victim)));
    let mut body = field.cluster.machines[victim].body();
    body.may_end = true;
    body.disk.arm(Fault::PowerCut(at));
    None
}
