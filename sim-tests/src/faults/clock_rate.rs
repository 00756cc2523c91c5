//! The monotonic clock of one machine runs up to a tenth too fast or too slow.

use super::{Field, Undo};
use rand::{RngExt, rngs::SmallRng};

/// Fastest rate, in thousandths: what the invariants about leases allow for.
pub const FASTEST: u32 = 1_100;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let rate = [900, 950, 990, 1_010, 1_050, FASTEST][dice.random_range(0..6)];
    field.tell(&format!("clock of {} runs at {rate}", field.name(victim)));
    let before = set(field, victim, rate);
    Some(Box::new(move |field| {
        set(field, victim, before);
    }))
}

fn set(field: &mut Field<'_, '_>, victim: usize, rate: u32) -> u32 {
    let now = field.now();
    let mut body = field.cluster.machines[victim].body();
    if let Some(clock) = &body.clock {
        clock.set_rate(now, rate);
    }
    std::mem::replace(&mut body.rate, rate)
}
