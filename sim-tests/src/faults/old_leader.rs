//! The leader hears no other machine, and clients still reach it, for longer than most leases: it must acknowledge nothing
//! that the next leader does not know of.

use super::{Field, Undo, both_ways};
use rand::rngs::SmallRng;
use std::time::Duration;

/// The leases and an election are over when it ends.
pub(super) fn lasts(ttl: Duration) -> Duration {
    ttl * 2 + Duration::from_secs(2)
}

pub(super) fn begin(field: &mut Field<'_, '_>, _: &mut SmallRng) -> Option<Undo> {
    let victim = field.leader()?;
    field.points.hit("the leader was cut off");
    let (name, others) = (field.name(victim), field.others(victim));
    field.tell(&format!("cut {name} off, which leads"));
    Some(field.block(both_ways(&name, &others)))
}
