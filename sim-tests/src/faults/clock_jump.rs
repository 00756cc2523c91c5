//! The wall clock of one machine jumps, by an hour or by ten years: nothing may change but what is displayed.

use super::{Field, Undo};
use rand::{RngExt, rngs::SmallRng};

const HOUR_MS: i64 = 3_600_000;
const TEN_YEARS_MS: i64 = 10 * 365 * 24 * HOUR_MS;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let by = [-TEN_YEARS_MS, -HOUR_MS, HOUR_MS, TEN_YEARS_MS][dice.random_range(0..4)];
    field.tell(&format!("wall clock of {} jumps by {by} ms", field.name(victim)));
    let mut body = field.cluster.machines[victim].body();
    body.wrong_by_ms += by;
    if let Some(clock) = &body.clock {
        clock.jump(by);
    }
    None
}
