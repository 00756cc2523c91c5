//! The links of one machine are slow and uneven, up to the order of an election.

use super::{Field, Undo};
use crate::run::LATENCY_MAX;
use rand::{RngExt, rngs::SmallRng};
use std::time::Duration;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let (name, mut others) = (field.name(victim), field.others(victim));
    if dice.random() {
        others.extend(field.clients());
    }
    let longest = Duration::from_millis([20, 60, 150, 400][dice.random_range(0..4)]);
    field.tell(&format!("messages of {name} take up to {longest:?}"));
    for other in &others {
        field.links.slow(field.sim, &name, other, longest);
    }
    Some(Box::new(move |field| {
        for other in &others {
            field.links.slow(field.sim, &name, other, LATENCY_MAX);
        }
    }))
}
