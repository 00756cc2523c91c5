//! The disk of one machine is slow, or of a majority with the leader: whatever is to be saved there waits before it is.

use super::{Field, Undo};
use rand::{RngExt, rngs::SmallRng};
use std::time::Duration;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let lag = Duration::from_millis([5, 20, 100, 500][dice.random_range(0..4)]);
    let count = field.cluster.machines.len();
    // One slow disk of three is not waited for.
    let slow = if field.worst || dice.random() { count / 2 + 1 } else { 1 };
    let victims: Vec<usize> = (victim..victim + slow).map(|at| at % count).collect();
    for victim in &victims {
        field.tell(&format!("each write to the disk of {} takes {lag:?}", field.name(*victim)));
        field.cluster.machines[*victim].body().disk.set_lag(lag);
    }
    if field.leader() == Some(victim) && slow > count / 2 {
        field.points.hit("the disks of the leader and of a majority were slow");
    }
    Some(Box::new(move |field| {
        for victim in &victims {
            field.cluster.machines[*victim].body().disk.set_lag(Duration::ZERO);
        }
    }))
}
