//! The disk of one machine is slow: whatever is to be saved there waits before it is.

use super::{Field, Undo};
use rand::{RngExt, rngs::SmallRng};
use std::time::Duration;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let lag = Duration::from_millis([5, 20, 100, 500][dice.random_range(0..4)]);
    field.tell(&format!("each write to the disk of {} takes {lag:?}", field.name(victim)));
    if field.leader() == Some(victim) {
        field.points.hit("the disk of the leader was slow");
    }
    field.cluster.machines[victim].body().disk.set_lag(lag);
    Some(Box::new(move |field| {
        field.cluster.machines[victim].body().disk.set_lag(Duration::ZERO);
    }))
}
