//! An fsync fails with EIO: the node must stop before it acknowledges anything that was to be saved by it.

use super::{Field, Undo};
use crate::disk::Fault;
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let at = dice.random_range(0..20);
    field.tell(&format!("fsync {at} of {} fails", field.name(victim)));
    let mut body = field.cluster.machines[victim].body();
    body.may_end = true;
    body.disk.arm(Fault::Sync(at));
    None
}
