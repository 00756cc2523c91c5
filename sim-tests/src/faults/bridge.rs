//! Two machines do not hear each other, the others hear both: a partial partition.

use super::{Field, Undo, both_ways};
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let (name, mut others) = (field.name(victim), field.others(victim));
    if others.len() < 2 {
        return None;
    }
    let other = others.swap_remove(dice.random_range(0..others.len()));
    field.tell(&format!("bridge between {name} and {other}"));
    Some(field.block(both_ways(&name, &[other])))
}
