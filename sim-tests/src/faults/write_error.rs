//! A write fails with ENOSPC, although the disk had reported enough space.

use super::{Field, Undo};
use crate::disk::Fault;
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let at = dice.random_range(0..60);
    field.tell(&format!("write {at} of {} fails", field.name(victim)));
    let mut body = field.cluster.machines[victim].body();
    body.may_end = true;
    body.disk.arm(Fault::Write(at));
    None
}
